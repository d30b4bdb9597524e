package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
)

type eraseCmd struct {
	databaseFlags
	Organization string   `placeholder:"ID" help:"All deliveries of this tenant."`
	CausedBy     string   `name:"run" placeholder:"ID" help:"All deliveries of this run; with --organization, of this run of that tenant."`
	DryRun       bool     `help:"Only count what would go."`
	Yes          bool     `help:"Do not ask."`
	Wait         duration `default:"2m" help:"How long to wait for deliveries that are being sent (default ${default})."`
	JSON         bool     `name:"json" help:"Print one JSON object."`
}

// Help is what --help says besides the flags.
func (*eraseCmd) Help() string {
	return "Removes deliveries whatever their status, with payload, attempts and stored answers, and the jobs of pending ones, which are then never sent. " +
		"Only what is there when it begins. A delivery that is being sent goes once its outcome is recorded, or its lease is over.\n\n" +
		"Credentials and signing secrets stay: see \"riverhook credentials rm\" and \"riverhook secrets expire\". " +
		"So do copies that Postgres keeps: in its files until it has vacuumed, in the write-ahead log, and in backups."
}

// Validate checks the flags.
func (cmd *eraseCmd) Validate() error {
	if cmd.Organization == "" && cmd.CausedBy == "" {
		return errors.New("give --organization, --run or both")
	}
	return nil
}

// Run erases.
func (cmd *eraseCmd) Run(ctx context.Context, c console) error {
	if !cmd.Yes && !cmd.DryRun && !isTerminal(c.in) {
		return usageError{errors.New("say --yes to erase, or --dry-run to count what would go")}
	}
	pool, st, err := cmd.open(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	scope := store.EraseScope{Organization: cmd.Organization, Run: cmd.CausedBy}
	if cmd.DryRun || !cmd.Yes {
		count, err := cmd.count(ctx, c, st, scope)
		if err != nil {
			return explainDatabaseError(err, "reader")
		}
		if cmd.DryRun {
			return cmd.reportDryRun(c, count)
		}
		if count.Total() > 0 {
			yes, err := confirm(ctx, c, fmt.Sprintf("Erase %s, for ever? [y/N] ", whatGoes(count)))
			if err != nil {
				return err
			}
			if !yes {
				_, _ = fmt.Fprintln(c.err, "nothing was erased")
				return exitError(exitFailed)
			}
		}
	}
	return cmd.erase(ctx, c, st, scope)
}

func (cmd *eraseCmd) count(ctx context.Context, c console, st *store.Store, scope store.EraseScope) (store.EraseCount, error) {
	show, clearShown := statusLine(c)
	defer clearShown()
	return st.CountErase(ctx, scope, func(n int) { show("counted %s", counted(n)) })
}

func (cmd *eraseCmd) erase(ctx context.Context, c console, st *store.Store, scope store.EraseScope) error {
	show, clearShown := statusLine(c)
	erased, err := st.Erase(ctx, scope, time.Duration(cmd.Wait), func(e store.Erased) {
		if e.Left > 0 {
			show("erased %s; %d are being sent or locked", counted(e.Deliveries), e.Left)
		} else {
			show("erased %s", counted(e.Deliveries))
		}
	})
	clearShown()
	if err != nil {
		err = explainDatabaseError(err, "service")
		if erased.Deliveries > 0 {
			err = hintError{err, fmt.Sprintf("erased %d before that; the same command goes on from there", erased.Deliveries)}
		}
		return err
	}
	if cmd.JSON {
		err = printJSON(c.out, struct {
			Deliveries int `json:"deliveries"`
			Attempts   int `json:"attempts"`
			Left       int `json:"left"`
			Referred   int `json:"referred"`
		}{erased.Deliveries, erased.Attempts, erased.Left, erased.Referred})
	} else {
		_, err = fmt.Fprintf(c.out, "erased %s and %s\n", counted(erased.Deliveries), countedAttempts(erased.Attempts))
	}
	if err != nil {
		return err
	}
	if erased.Left > 0 {
		_, _ = fmt.Fprintf(c.err, "not erased: %d that are still being sent, or locked by another transaction: run the same command again\n", erased.Left)
	}
	if erased.Referred > 0 {
		_, _ = fmt.Fprintf(c.err, "not erased: %d that another table refers to by a foreign key: delete there first, or declare it ON DELETE CASCADE or SET NULL\n", erased.Referred)
	}
	if erased.Left+erased.Referred > 0 {
		return exitError(exitFailed)
	}
	return nil
}

// reportDryRun says what would be erased.
func (cmd *eraseCmd) reportDryRun(c console, count store.EraseCount) error {
	if !cmd.JSON {
		_, err := fmt.Fprintln(c.out, "would erase", whatGoes(count))
		return err
	}
	object := map[string]int{"would_erase": count.Total(), "sending": count.Sending, "attempts": count.Attempts}
	for _, status := range delivery.Statuses {
		object[string(status)] = count.Deliveries[status]
	}
	return printJSON(c.out, object)
}

// whatGoes is 3 deliveries (2 pending, 1 of them being sent; 1 succeeded) and 2 attempts.
func whatGoes(count store.EraseCount) string {
	var parts []string
	for _, status := range delivery.Statuses {
		if n := count.Deliveries[status]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, status))
		}
	}
	if count.Sending > 0 {
		parts = append(parts, fmt.Sprintf("%d of them being sent", count.Sending))
	}
	words := counted(count.Total())
	if parts != nil {
		words += " (" + strings.Join(parts, ", ") + ")"
	}
	return words + " and " + countedAttempts(count.Attempts)
}

func countedAttempts(n int) string {
	if n == 1 {
		return "1 attempt"
	}
	return fmt.Sprintf("%d attempts", n)
}

// statusLine shows, in a terminal, how far something is. clear takes that away again.
func statusLine(c console) (show func(format string, args ...any), clearShown func()) {
	if !isTerminal(c.err) {
		return func(string, ...any) {}, func() {}
	}
	shown := false
	return func(format string, args ...any) {
			shown = true
			_, _ = fmt.Fprint(c.err, "\r\x1b[K"+fmt.Sprintf(format, args...))
		}, func() {
			if shown {
				_, _ = fmt.Fprint(c.err, "\r\x1b[K")
			}
		}
}
