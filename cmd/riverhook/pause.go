package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/node"
	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
)

// receiver is an origin as deliveries.endpoint_origin has it, read from an origin or from an endpoint's whole URL.
type receiver string

func (r *receiver) UnmarshalText(text []byte) error {
	u, err := delivery.ParseEndpoint(string(text))
	if err != nil {
		return fmt.Errorf("the URL of an endpoint, or its origin such as https://example.com: %w", err)
	}
	*r = receiver(delivery.Origin(u))
	return nil
}

// maxOrganization is how many bytes the schema takes.
const maxOrganization = 800

// pauseFlags are what a pause is for. What is not given is all; what is empty is a mistake (a variable that is not set),
// and must not be taken for all.
type pauseFlags struct {
	databaseFlags
	Origin       *receiver `placeholder:"ORIGIN" help:"Of this receiver: an origin such as https://example.com, or the URL of an endpoint there (default: of all)."`
	Organization *string   `placeholder:"ID" help:"Of this tenant (default: of all)."`
}

// check is not named Validate: of embedded flags, only the method that their command has as its own is called.
func (f *pauseFlags) check() error {
	if f.Organization != nil && *f.Organization == "" {
		return errors.New("--organization: it is empty; leave it out to mean all of them")
	}
	if f.Organization != nil && len(*f.Organization) > maxOrganization {
		return fmt.Errorf("--organization: longer than a delivery's can be (%d bytes)", maxOrganization)
	}
	return nil
}

// scope is what they name; empty is all.
func (f *pauseFlags) scope() (origin, organization string) {
	if f.Origin != nil {
		origin = string(*f.Origin)
	}
	return origin, text(f.Organization)
}

// scopeOf is what a pause holds back, in words.
func scopeOf(origin, organization string) string {
	switch {
	case origin == "" && organization == "":
		return "everything: all deliveries, of every organization, to every receiver"
	case origin == "":
		return "the deliveries of organization " + printable(organization)
	case organization == "":
		return "the deliveries to " + printable(origin)
	default:
		return "the deliveries of organization " + printable(organization) + " to " + printable(origin)
	}
}

// resumeCommand is what ends a pause.
func resumeCommand(origin, organization string) string {
	command := "riverhook resume"
	if origin != "" {
		command += " --origin " + argument(origin)
	}
	if organization != "" {
		command += " --organization " + argument(organization)
	}
	return command
}

// argument is s as a shell takes it for one word.
func argument(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(printable(s), "'", `'\''`) + "'"
}

type pauseCmd struct {
	pauseFlags
	Reason string `placeholder:"TEXT" help:"Why, for people: riverhook held shows it."`
	Yes    bool   `help:"Do not ask before holding everything back."`
}

// Help is what --help says besides the flags.
func (*pauseCmd) Help() string {
	return "Within about a second the nodes begin no more attempts of what matches, now and later; attempts in flight end. " +
		"Nothing is lost: deliveries are accepted as ever, wait, and use up no attempt. A pause survives restarts and has no end but " +
		"\"riverhook resume\". With neither --origin nor --organization it holds back everything.\n\n" +
		"The same pause again changes its reason. See \"riverhook held\" for what waits, and for the pauses there are."
}

// Validate checks the flags.
func (cmd *pauseCmd) Validate() error { return cmd.check() }

// Run holds back.
func (cmd *pauseCmd) Run(ctx context.Context, c console) error {
	origin, organization := cmd.scope()
	if origin == "" && organization == "" && !cmd.Yes {
		if !isTerminal(c.in) {
			return usageError{errors.New("this holds back everything: say --yes if that is meant, or give --origin, --organization or both")}
		}
		yes, err := confirm(ctx, c, "Hold back "+scopeOf("", "")+"? [y/N] ")
		if err != nil {
			return err
		}
		if !yes {
			_, _ = fmt.Fprintln(c.err, "nothing was paused")
			return exitError(exitFailed)
		}
	}
	return cmd.withStore(ctx, "support", func(st *store.Store) error {
		created, err := st.Pause(ctx, origin, organization, cmd.Reason)
		if err != nil {
			return err
		}
		if !created {
			_, err = fmt.Fprintf(c.out, "paused already: %s\n", scopeOf(origin, organization))
			return err
		}
		_, err = fmt.Fprintf(c.out, "paused %s\n"+
			"no more attempts of them begin after about a second; those in flight end; nothing is lost. To let go: %s\n",
			scopeOf(origin, organization), resumeCommand(origin, organization))
		return err
	})
}

type resumeCmd struct {
	pauseFlags
}

// Help is what --help says besides the flags.
func (*resumeCmd) Help() string {
	return "Ends the pause that was made with the same --origin and --organization (with neither: the one of everything). " +
		"Within about a second the nodes begin with what has waited, in the order in which it was due. " +
		"What another pause holds back as well stays held."
}

// Validate checks the flags.
func (cmd *resumeCmd) Validate() error { return cmd.check() }

// Run lets go.
func (cmd *resumeCmd) Run(ctx context.Context, c console) error {
	origin, organization := cmd.scope()
	return cmd.withStore(ctx, "support", func(st *store.Store) error {
		found, err := st.Resume(ctx, origin, organization)
		if err != nil {
			return err
		}
		pauses, err := st.Pauses(ctx)
		if err != nil {
			return err
		}
		if !found {
			return notPaused(origin, organization, pauses)
		}
		if _, err = fmt.Fprintf(c.out, "resumed %s\n", scopeOf(origin, organization)); err != nil {
			return err
		}
		if left := overlapping(pauses, origin, organization); len(left) > 0 {
			_, _ = fmt.Fprintf(c.err, "still held back, at least in part, by the pause of %s\n", namePauses(left))
		}
		return nil
	})
}

// notPaused says which pauses there are instead.
func notPaused(origin, organization string, pauses []store.Pause) error {
	what := "there is no pause of " + scopeOf(origin, organization)
	if len(pauses) == 0 {
		return errors.New(what + "; nothing is paused")
	}
	return errors.New(what + "; paused: " + namePauses(pauses))
}

// namedPauses is how many pauses a sentence names.
const namedPauses = 5

// namePauses names them as the flags do.
func namePauses(pauses []store.Pause) string {
	var names []string
	for _, p := range pauses[:min(len(pauses), namedPauses)] {
		name := strings.TrimPrefix(resumeCommand(text(p.EndpointOrigin), text(p.OrganizationID)), "riverhook resume")
		if name == "" {
			name = "everything (neither --origin nor --organization)"
		}
		names = append(names, strings.TrimSpace(name))
	}
	words := strings.Join(names, "; ")
	if rest := len(pauses) - len(names); rest > 0 {
		words += fmt.Sprintf("; and %d more: see riverhook held", rest)
	}
	return words
}

// overlapping are the pauses that hold back some of what that one would.
func overlapping(pauses []store.Pause, origin, organization string) (found []store.Pause) {
	meet := func(one *string, other string) bool { return one == nil || other == "" || *one == other }
	for _, p := range pauses {
		if meet(p.EndpointOrigin, origin) && meet(p.OrganizationID, organization) {
			found = append(found, p)
		}
	}
	return found
}

type heldCmd struct {
	databaseFlags
	Limit int  `default:"100" help:"At most so many pairs of receiver and organization, up to 1000 (default ${default})."`
	JSON  bool `name:"json" help:"Print one JSON object per line, with \"type\": \"pause\" or \"held\"."`
}

// Help is what --help says besides the flags.
func (*heldCmd) Help() string {
	return "What is held back waits without a job, and uses up no attempt. Why:\n\n" +
		"  paused     by hand: riverhook pause; riverhook resume lets go\n" +
		"  no_answer  " + heldBecause["no_answer"] + "\n" +
		"  failing    " + heldBecause["failing"] + "\n" +
		"  crowded    " + heldBecause["crowded"] + "\n\n" +
		"Counting stops at 10,000 for each receiver and organization; \"10000+\" is at least that many."
}

// Validate checks the flags.
func (cmd *heldCmd) Validate() error {
	if cmd.Limit < 1 || cmd.Limit > store.MaxHeldPairs {
		return fmt.Errorf("--limit: from 1 to %d", store.MaxHeldPairs)
	}
	return nil
}

// Run lists the pauses, then what is held back.
func (cmd *heldCmd) Run(ctx context.Context, c console) error {
	pool, st, err := cmd.open(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	held, more, err := st.Held(ctx, cmd.Limit)
	if err != nil {
		return explainDatabaseError(err, "reader")
	}
	pauses, err := st.Pauses(ctx)
	unseen := node.LacksRights(err) // a reader sees deliveries, and not this
	switch {
	case unseen:
		_, _ = fmt.Fprintln(c.err, "this role may not see the pauses: riverhook migrate grant ROLE --as reader")
	case err != nil:
		return explainDatabaseError(err, "reader")
	}
	if cmd.JSON {
		err = printHeldJSON(c, pauses, held)
	} else {
		err = printHeld(c, pauses, held, unseen)
	}
	if err != nil {
		return err
	}
	if more {
		_, _ = fmt.Fprintf(c.err, "there are more than %d pairs of receiver and organization: add --limit, up to %d\n", cmd.Limit, store.MaxHeldPairs)
	}
	return nil
}

func printHeldJSON(c console, pauses []store.Pause, held []store.HeldGroup) error {
	for _, p := range pauses {
		if err := printJSON(c.out, struct {
			Type string `json:"type"`
			store.Pause
		}{"pause", p}); err != nil {
			return err
		}
	}
	for _, g := range held {
		if err := printJSON(c.out, struct {
			Type string `json:"type"`
			store.HeldGroup
		}{"held", g}); err != nil {
			return err
		}
	}
	return nil
}

func printHeld(c console, pauses []store.Pause, held []store.HeldGroup, unseen bool) error {
	all := func(s *string) string {
		if s == nil {
			return "(all)"
		}
		return printable(*s)
	}
	switch {
	case unseen:
	case len(pauses) == 0:
		_, _ = fmt.Fprintln(c.out, "nothing is paused")
	default:
		err := printList(c, false, pauses, "PAUSED ORIGIN\tORGANIZATION\tSINCE\tREASON", func(p store.Pause) string {
			return fmt.Sprintf("%s\t%s\t%s\t%s", all(p.EndpointOrigin), all(p.OrganizationID), moment(p.CreatedAt), printable(dash(p.Reason)))
		})
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintln(c.out)
	}
	if len(held) == 0 {
		_, err := fmt.Fprintln(c.out, "nothing is held back")
		return err
	}
	return printList(c, false, held, "HELD ORIGIN\tORGANIZATION\tWHY\tDELIVERIES\tDUE SINCE\tHELD SINCE", func(g store.HeldGroup) string {
		count, due := fmt.Sprint(g.Count), "-"
		if g.AtLeast {
			count += "+"
		}
		if g.OldestScheduledFor != nil {
			due = moment(*g.OldestScheduledFor)
		}
		return fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s", printable(dash(g.EndpointOrigin)), printable(g.OrganizationID), printable(dash(g.HeldReason)),
			count, due, moment(g.OldestHeldSince))
	})
}

// heldBecause says in words what a held_reason means.
var heldBecause = map[string]string{
	"paused":    "paused by hand: riverhook held lists the pauses, riverhook resume ends one",
	"no_answer": "the receiver does not answer: few at a time until it does",
	"failing":   "every attempt at the receiver fails: a few a second until one succeeds",
	"crowded":   "the receiver has its share of the attempts in flight: others begin as those end",
}
