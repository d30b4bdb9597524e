package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/riverhook/riverhook/delivery/store"
)

type checkCmd struct {
	databaseFlags
	Grace  duration `default:"1m" help:"How long a sweep may take to repair what it repairs: more than two sweep intervals (default ${default})."`
	LookAt int      `default:"100000" help:"Rows of each kind to look at: pending deliveries that are due first, the newest that have ended, the newest attempts, the oldest jobs (default ${default})."`
	All    bool     `help:"Look at all rows: among millions, for minutes."`
	Limit  int      `default:"20" help:"Problems of each kind to print (default ${default})."`
	JSON   bool     `name:"json" help:"Print one JSON object per line: problem, delivery_id, job_id, since, detail, hint."`
}

const (
	// checkLimit bounds what is printed of each kind.
	checkLimit = 10_000
	// checkWithin bounds a check, checkAllWithin one of all rows.
	checkWithin, checkAllWithin = time.Minute, time.Hour
)

// Help is what --help says besides the flags.
func (*checkCmd) Help() string {
	return "Looks for what may not be, whatever was killed, cut or changed by hand, and changes nothing. Exit code 1 when there is something: made for cron. " +
		"What a sweep repairs (overdue, no_time, lease_expired, owner_dead, held_too_long, finished_inconsistent) is a problem after --grace only; useless jobs after an hour; " +
		"all else at once. So it is right while deliveries run, are retried, replayed, canceled or paused.\n\n" +
		"The same is the view riverhook.problems, with the defaults, and the function riverhook.find_problems(grace, look_at). " +
		"Any role of \"riverhook migrate grant --as reader\", support or service may run it."
}

// Validate checks the flags.
func (cmd *checkCmd) Validate() error {
	if cmd.LookAt < 1 {
		return errors.New("--look-at: at least 1; --all looks at all")
	}
	if cmd.Limit < 1 || cmd.Limit > checkLimit {
		return fmt.Errorf("--limit: 1 to %d", checkLimit)
	}
	return nil
}

// problemKinds says of each kind of problem what it means, and what to do.
var problemKinds = map[string]struct{ means, hint string }{
	"overdue": {"due, and nothing will send them: no job, no claim, no hold",
		"riverhook sweep gives them a job now. If others follow, no sweep runs: is a node up (riverhook doctor), does its log have \"sweep failed\"?"},
	"no_time": {"pending without a time",
		"riverhook sweep makes them due now. If others follow, no sweep runs, or triggers of deliveries are disabled (riverhook doctor)"},
	"lease_expired": {"claimed by a node whose lease is over, and not taken back",
		"riverhook sweep takes them back. If they stay, another transaction holds their row's lock (pg_locks), or no sweep runs (riverhook doctor)"},
	"owner_dead": {"claimed by a node that is dead, and not taken back",
		"the other nodes do that within seconds. If they stay, another transaction holds their row's lock (pg_locks), or no node is up: they are taken back once one is"},
	"claim_inconsistent": {"half claimed",
		"somebody wrote to claimed_by, leased_until, held_since or scheduled_for by hand, past the triggers: UPDATE ... SET claimed_by = NULL, leased_until = NULL, " +
			"claim = claim + 1, scheduled_for = now() of the row gives it back; it may be sent once more. Otherwise it is a fault of riverhook: please report it"},
	"held_too_long": {"held back for more than a day, and no node has looked at them since",
		"riverhook sweep gives them a job, whose claim finds out whether they are still to be held. If others follow, no sweep runs (riverhook doctor)"},
	"held_without_reason": {"held back, and nobody knows why",
		"riverhook deliveries retry ID gives one a job. Somebody wrote to held_since or held_reason by hand; otherwise it is a fault of riverhook: please report it"},
	"finished_inconsistent": {"pending with an end, or ended without one",
		"riverhook sweep gives an end to what has none. A pending one with an end was written by hand: UPDATE ... SET finished_at = NULL; otherwise please report it"},
	"leftovers": {"ended, with something left that only pending ones have",
		"UPDATE ... SET scheduled_for = NULL, held_since = NULL, claimed_by = NULL, leased_until = NULL of those rows, with session_replication_role = replica: " +
			"they ended while triggers of deliveries were disabled (riverhook doctor). Otherwise please report it"},
	"ledger": {"the ledger does not agree with the delivery, or has a gap",
		"attempts were removed or written by hand, or restored apart from deliveries. Otherwise it is a fault of riverhook: please report it, with riverhook deliveries show ID"},
	"attempts_orphaned": {"attempts of deliveries that are gone",
		"deliveries were deleted without their attempts: riverhook erase removes both. DELETE FROM riverhook.attempts of those delivery_ids"},
	"job_ahead": {"jobs for a claim that their delivery has not reached",
		"deliveries were restored from an older copy than River's tables, or claim was written by hand: DELETE FROM riverhook.river_job of those ids, and riverhook sweep"},
	"job_orphaned": {"jobs of deliveries that are gone, in the queue for an hour past their time",
		"they do no harm. If a node is up and they stay, its queue is paused (river_queue), or River's leader is stuck: restart the nodes"},
	"job_stale": {"jobs that no claim can come of, in the queue for an hour past their time",
		"they do no harm. If a node is up and they stay, its queue is paused (river_queue), or River's leader is stuck: restart the nodes"},
	"job_discarded": {"jobs that failed for good within the last day",
		"the sweep replaces a delivery's. The detail says why: a kind that this version does not know (an older node in the same schema?), or a fault of riverhook: please report it"},
}

// Run looks.
func (cmd *checkCmd) Run(ctx context.Context, c console) error {
	pool, st, err := cmd.open(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	search := store.ProblemSearch{Grace: time.Duration(cmd.Grace), LookAt: cmd.LookAt, PerKind: cmd.Limit, Within: checkWithin}
	if cmd.All {
		search.LookAt, search.Within = 0, checkAllWithin
	}
	found, err := st.Problems(ctx, search)
	if store.IsTooSlow(err) {
		return hintError{err, "look at less (--look-at), or run it when the database has less to do"}
	}
	if err != nil {
		return explainDatabaseError(err, "reader")
	}
	for _, kind := range found {
		if err := cmd.print(c, kind); err != nil {
			return err
		}
	}
	if len(found) > 0 {
		return exitError(exitFailed)
	}
	if cmd.JSON {
		return nil
	}
	looked := "all rows"
	if !cmd.All {
		looked = fmt.Sprintf("up to %d rows of each kind; --all looks at all", cmd.LookAt)
	}
	_, err = fmt.Fprintf(c.out, "no problems (looked at %s)\n", looked)
	return err
}

// print prints the problems of one kind.
func (cmd *checkCmd) print(c console, kind store.ProblemKind) error {
	about, known := problemKinds[kind.Problem]
	if !known {
		about.means, about.hint = "a newer riverhook knows what that means", "run the check of that riverhook"
	}
	more := kind.Total - len(kind.First)
	if cmd.JSON {
		for _, p := range kind.First {
			line := struct {
				store.Problem
				Hint string `json:"hint"`
			}{p, about.hint}
			if err := printJSON(c.out, line); err != nil {
				return err
			}
		}
		if more > 0 {
			_, _ = fmt.Fprintf(c.err, "riverhook: %s: and %d more\n", kind.Problem, more)
		}
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d: %s\n  -> %s\n", kind.Problem, kind.Total, about.means, about.hint)
	for _, p := range kind.First {
		b.WriteString("     ")
		if p.DeliveryID != nil {
			fmt.Fprintf(&b, "delivery %d  ", *p.DeliveryID)
		}
		if p.JobID != nil {
			fmt.Fprintf(&b, "job %d  ", *p.JobID)
		}
		if p.Since != nil {
			fmt.Fprintf(&b, "since %s  ", p.Since.Format(time.RFC3339))
		}
		b.WriteString(printable(p.Detail) + "\n")
	}
	if more > 0 {
		fmt.Fprintf(&b, "     and %d more\n", more)
	}
	_, err := fmt.Fprint(c.out, b.String())
	return err
}
