package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations"
)

type statusCmd struct {
	databaseFlags
	JSON  bool     `name:"json" help:"Print one JSON object: everything, under the names of the columns. With --watch one line each time."`
	Watch bool     `help:"Again and again, until it is interrupted."`
	Every duration `default:"2s" help:"How often, with --watch (default ${default})."`
}

// Help is what --help says besides the flags.
func (*statusCmd) Help() string {
	return fmt.Sprintf("One screen: nodes, backlog, retries, rates and latency of the last minutes, dead letters by receiver and error, what is held "+
		"back or paused, and the schema's versions. It looks at a bounded number of deliveries and costs the same beside a large backlog: "+
		"\"%d+\" is at least that many. What is wrong, and what to do about it, says riverhook doctor.", store.MaxStatusRows)
}

// Validate checks the flags.
func (cmd *statusCmd) Validate() error {
	if cmd.Every < duration(100*time.Millisecond) {
		return errors.New("--every: at least 100ms")
	}
	return nil
}

const (
	// statusTimeout is for each of its statements.
	statusTimeout = 10 * time.Second
	// statusPairs of receiver and organization are looked at that something is held back for, statusLines of each list shown.
	statusPairs, statusLines = 20, 6
)

// statusReport is what --json prints.
type statusReport struct {
	store.Status
	Held        []store.HeldGroup     `json:"held"`
	HeldMore    bool                  `json:"held_more"` // there are other receivers and organizations
	Pauses      []store.Pause         `json:"pauses"`
	Failing     []store.FailingOrigin `json:"failing"` // receivers whose last attempts failed, those that began to fail last
	DeadLetters deadLettersReport     `json:"dead_letters"`
	Schema      schemaReport          `json:"schema"`
}

// deadLettersReport is the newest dead letters, by receiver and by how their error begins.
type deadLettersReport struct {
	Seen   int64             `json:"seen"`
	More   bool              `json:"more"`   // there are older ones, or smaller groups
	Groups []deadLetterGroup `json:"groups"` // the largest first
}

type deadLetterGroup struct {
	EndpointOrigin *string   `json:"endpoint_origin"`
	Error          string    `json:"error"`
	Count          int64     `json:"count"`
	Newest         time.Time `json:"newest"`
}

func newDeadLettersReport(d store.DeadLetters) deadLettersReport {
	r := deadLettersReport{Seen: d.Looked, More: d.More, Groups: make([]deadLetterGroup, len(d.Groups))}
	for i, g := range d.Groups {
		r.Groups[i] = deadLetterGroup{g.EndpointOrigin, g.Error, g.Count, g.Last}
	}
	return r
}

type schemaReport struct {
	Name        string `json:"name"`
	Version     int    `json:"version"`
	Latest      int    `json:"latest"` // that this program knows
	River       int    `json:"river"`
	RiverLatest int    `json:"river_latest"`
}

// Run shows it once, or again and again.
func (cmd *statusCmd) Run(ctx context.Context, c console) error {
	pool, st, err := cmd.open(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	st = st.Within(statusTimeout)
	for {
		report, err := cmd.look(ctx, pool, st)
		switch {
		case ctx.Err() != nil:
			return nil // told to stop
		case err != nil && !cmd.Watch:
			return explainDatabaseError(err, "reader")
		case err != nil:
			_, _ = fmt.Fprintln(c.err, "riverhook:", internalPrefix.ReplaceAllString(err.Error(), ""))
		default:
			if err := cmd.show(c, &report); err != nil {
				return err
			}
		}
		if !cmd.Watch {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Duration(cmd.Every)):
		}
	}
}

func (cmd *statusCmd) look(ctx context.Context, pool *pgxpool.Pool, st *store.Store) (r statusReport, err error) {
	if r.Status, err = st.Status(ctx); err != nil {
		return r, err
	}
	if r.Held, r.HeldMore, err = st.Held(ctx, statusPairs); err != nil {
		return r, err
	}
	if r.Pauses, err = st.Pauses(ctx); err != nil {
		return r, err
	}
	if r.Failing, err = st.FailingOrigins(ctx, statusPairs+1); err != nil {
		return r, err
	}
	dead, err := st.DeadLetters(ctx, "")
	if err != nil {
		return r, err
	}
	r.DeadLetters = newDeadLettersReport(dead)
	schema, err := migrations.Inspect(ctx, pool, string(cmd.Schema))
	r.Schema = schemaReport{string(cmd.Schema), schema.Version, migrations.Latest, schema.River, schema.RiverLatest}
	return r, err
}

// clearScreen moves to the upper left, and clears what is below.
const clearScreen = "\x1b[H\x1b[2J"

func (cmd *statusCmd) show(c console, r *statusReport) error {
	if cmd.JSON {
		return printJSON(c.out, r)
	}
	width := terminalWidth(c.out)
	var b strings.Builder
	switch {
	case cmd.Watch && width > 0:
		b.WriteString(clearScreen)
	case cmd.Watch:
		defer fmt.Fprintln(c.out)
	}
	for line := range strings.Lines(r.text()) {
		if line = strings.TrimRight(line, " \n"); width > 0 {
			line = cut(line, width)
		}
		b.WriteString(line + "\n")
	}
	_, err := fmt.Fprint(c.out, b.String())
	return err
}

// text is one screen.
func (r *statusReport) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s   schema %s: version %d of %d, River %d of %d\n\n", moment(r.At), r.Schema.Name, r.Schema.Version, r.Schema.Latest, r.Schema.River, r.Schema.RiverLatest)
	r.nodes(&b)
	r.numbers(&b)
	r.failing(&b)
	r.held(&b)
	r.deadLetters(&b)
	return b.String()
}

// section writes a list of at most statusLines lines under a head, as a table.
func section[T any](b *strings.Builder, head string, list []T, more bool, line func(T) string) {
	shown := list[:min(len(list), statusLines)]
	table := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, head)
	for _, one := range shown {
		_, _ = fmt.Fprintln(table, line(one))
	}
	_ = table.Flush()
	if rest := len(list) - len(shown); more {
		fmt.Fprintf(b, "and more than %d others\n", rest)
	} else if rest > 0 {
		fmt.Fprintf(b, "and %d more\n", rest)
	}
	b.WriteString("\n")
}

func (r *statusReport) nodes(b *strings.Builder) {
	if len(r.Nodes) == 0 {
		b.WriteString("NODES  none: nothing is sent. Start riverhook serve.\n\n")
		return
	}
	section(b, "NODE\tSTANDING\tSENDING\tUP\tSEEN\tVERSION", r.Nodes, false, func(n store.NodeStatus) string {
		standing, up := "alive", brief(r.At.Sub(n.StartedAt))
		switch {
		case n.DeadAt != nil && n.ReclaimedAt != nil:
			standing, up = "dead, taken back", "-"
		case n.DeadAt != nil:
			standing, up = "dead", "-"
		case r.At.Sub(n.SeenAt) > store.NodeSilentAfter:
			standing = "silent"
		case n.Leader:
			standing = "leader"
		}
		return fmt.Sprintf("%s\t%s\t%d\t%s\t%s\t%s", printable(n.Node), standing, n.Sending, up, age(r.At.Sub(n.SeenAt)), printable(n.Version))
	})
}

// bounded is a number of rows of which there may be more.
func bounded(n int, atLeast bool) string {
	if atLeast {
		return fmt.Sprintf("%d+", n)
	}
	return fmt.Sprint(n)
}

func (r *statusReport) numbers(b *strings.Builder) {
	l, recent := &r.Later, &r.Recent
	table := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { _, _ = fmt.Fprintf(table, name+"\t"+format+"\n", args...) }
	due := bounded(r.Backlog.Waiting, r.Backlog.AtLeast) + " due"
	if r.Backlog.OldestDue != nil {
		due += ", the oldest for " + brief(r.At.Sub(*r.Backlog.OldestDue))
	}
	due += fmt.Sprintf("; %d being sent, %s held back", r.Backlog.Sending, bounded(r.Backlog.Held, r.Backlog.AtLeast))
	if r.Backlog.Stale > 0 {
		due += fmt.Sprintf("; %d under a lease that has ended", r.Backlog.Stale)
	}
	line("BACKLOG", "%s", due)
	retries := bounded(l.Retries, l.AtLeast) + " wait for their next attempt"
	if l.NextRetry != nil {
		retries += ", the first in " + brief(l.NextRetry.Sub(r.At))
	}
	line("RETRIES", "%s; %s wait for a later time", retries, bounded(l.Delayed, l.AtLeast))
	window := brief(time.Duration(recent.Seconds * float64(time.Second)))
	line("LAST "+strings.ToUpper(strings.Replace(window, "m0s", "m", 1)), "%d delivered (%.1f/s), %s failed and wait for a retry, %s dead-lettered, %d canceled", recent.Succeeded,
		float64(recent.Succeeded)/recent.Seconds, bounded(l.Failed, l.AtLeast), bounded(recent.DeadLetters, recent.DeadLetters == store.MaxStatusRecent), recent.Canceled)
	line("ATTEMPTS", "%s", quantileText(recent.AttemptMS, "of those that delivered"))
	line("DELIVERED", "%s", quantileText(recent.DeliveredMS, "after the INSERT, at the first attempt"))
	if recent.Detoured > 0 {
		line("", "%s", quantileText(recent.DetouredMS, fmt.Sprintf("of %d more, which were held back, released or moved first", recent.Detoured)))
	}
	swept := "never, or long ago"
	var last *time.Time
	for _, n := range r.Nodes {
		if n.SweptAt != nil && (last == nil || n.SweptAt.After(*last)) {
			last = n.SweptAt
		}
	}
	if last != nil {
		swept = age(r.At.Sub(*last))
	}
	line("SWEPT", "%s", swept)
	_ = table.Flush()
	b.WriteString("\n")
}

func quantileText(q *store.QuantilesMS, of string) string {
	if q == nil {
		return "-"
	}
	ms := func(v float64) string {
		if v < 1 { // attempts are stored in whole milliseconds
			return "<1ms"
		}
		return time.Duration(v * float64(time.Millisecond)).Round(time.Millisecond).String()
	}
	return fmt.Sprintf("p50 %s, p95 %s, p99 %s %s", ms(q.P50), ms(q.P95), ms(q.P99), of)
}

func (r *statusReport) failing(b *strings.Builder) {
	if len(r.Failing) == 0 {
		return
	}
	section(b, "FAILING ORIGIN\tATTEMPTS IN A ROW\tSINCE\tLAST", r.Failing, len(r.Failing) > statusPairs, func(o store.FailingOrigin) string {
		since, last := "-", printable(dash(o.FailureKind))
		if o.FailingSince != nil {
			since = age(r.At.Sub(*o.FailingSince))
		}
		if o.StatusCode != nil {
			last = fmt.Sprintf("HTTP %d", *o.StatusCode)
		}
		return fmt.Sprintf("%s\t%d\t%s\t%s", printable(cut(o.EndpointOrigin, originWidth)), o.Failures, since, last)
	})
}

func (r *statusReport) held(b *strings.Builder) {
	if len(r.Pauses) > 0 {
		section(b, "PAUSED ORIGIN\tORGANIZATION\tSINCE\tREASON", r.Pauses, false, func(p store.Pause) string {
			all := func(s *string) string {
				if s == nil {
					return "(all)"
				}
				return printable(cut(*s, originWidth))
			}
			return fmt.Sprintf("%s\t%s\t%s\t%s", all(p.EndpointOrigin), all(p.OrganizationID), age(r.At.Sub(p.CreatedAt)), printable(dash(p.Reason)))
		})
	}
	if len(r.Held) == 0 {
		b.WriteString("HELD BACK  nothing\n\n")
		return
	}
	byCount := slices.Clone(r.Held)
	slices.SortStableFunc(byCount, func(a, b store.HeldGroup) int { return b.Count - a.Count })
	section(b, "HELD ORIGIN\tORGANIZATION\tDELIVERIES\tSINCE\tWHY", byCount, r.HeldMore, func(g store.HeldGroup) string {
		why := heldBecause[text(g.HeldReason)]
		if why == "" {
			why = printable(dash(g.HeldReason))
		}
		return fmt.Sprintf("%s\t%s\t%s\t%s\t%s", printable(cut(dash(g.EndpointOrigin), originWidth)), printable(cut(g.OrganizationID, runWidth)),
			bounded(g.Count, g.AtLeast), age(r.At.Sub(g.OldestHeldSince)), why)
	})
}

func (r *statusReport) deadLetters(b *strings.Builder) {
	d := &r.DeadLetters
	if len(d.Groups) == 0 {
		b.WriteString("DEAD LETTERS  none\n")
		return
	}
	fmt.Fprintf(b, "DEAD LETTERS  %s\n", bounded(int(d.Seen), d.Seen == store.DeadLetterRows))
	section(b, "ORIGIN\tDELIVERIES\tNEWEST\tERROR", d.Groups, d.More && d.Seen < store.DeadLetterRows, func(g deadLetterGroup) string {
		return fmt.Sprintf("%s\t%d\t%s\t%s", printable(cut(dash(g.EndpointOrigin), originWidth)), g.Count, age(r.At.Sub(g.Newest)), printable(dash(&g.Error)))
	})
}
