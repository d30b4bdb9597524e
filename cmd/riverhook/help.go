package main

import (
	"embed"
	"fmt"
	"text/tabwriter"

	"github.com/alecthomas/kong"
)

// helpCmd is the manual. The texts are in manual/, one a topic; tests run what they show.
type helpCmd struct {
	Topics     helpTopicsCmd  `cmd:"" hidden:"" help:"List the topics."`
	Retries    helpRetriesCmd `cmd:"" help:"When a failed delivery is tried again, under the current settings."`
	Signatures manualCmd      `cmd:"" help:"For who receives webhooks: how to verify them, in Python, Node and Go."`
	Recipes    manualCmd      `cmd:"" help:"SQL for questions that support asks."`
	Events     helpEventsCmd  `cmd:"" help:"What riverhook tells of receivers that fail and recover, and how."`
	Recovery   manualCmd      `cmd:"" help:"What happens when a node, Postgres or a receiver dies."`
	Nodes      manualCmd      `cmd:"" help:"Several nodes on one database."`
	Sizing     manualCmd      `cmd:"" help:"What it takes of CPU, memory, disk and connections."`
	Upgrading  manualCmd      `cmd:"" help:"To a new version, and back; backups."`
	Moving     manualCmd      `cmd:"" help:"From a POST in the request, or from another queue, with ids kept."`
	Pgbouncer  manualCmd      `cmd:"" help:"PgBouncer and other poolers."`
	Limits     manualCmd      `cmd:"" help:"How large, how long, how many; and what it does not do."`
}

//go:embed manual/*.md
var manual embed.FS

// manualCmd prints the text of the topic that it is named after.
type manualCmd struct{}

// Run prints it.
func (manualCmd) Run(c console, parsed *kong.Context) error {
	text, err := manual.ReadFile("manual/" + parsed.Selected().Name + ".md")
	if err != nil {
		return err
	}
	_, err = c.out.Write(text)
	return err
}

type helpTopicsCmd struct{}

// Run lists the topics.
func (helpTopicsCmd) Run(c console, parsed *kong.Context) error {
	_, _ = fmt.Fprint(c.out, "riverhook help TOPIC explains:\n\n")
	table := tabwriter.NewWriter(c.out, 0, 0, 3, ' ', 0)
	for _, topic := range parsed.Selected().Parent.Children {
		if !topic.Hidden {
			_, _ = fmt.Fprintf(table, "  %s\t%s\n", topic.Name, topic.Help)
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprint(c.out, "\nriverhook --help lists the commands, riverhook COMMAND --help explains one.\n")
	return err
}
