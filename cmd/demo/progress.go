package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// tally is where the deliveries to one endpoint stand.
type tally struct {
	EndpointURL                                   string
	Pending, Succeeded, DeadLetter, All, Attempts int
	requests                                      int
}

func (t *tally) add(o tally) {
	t.Pending += o.Pending
	t.Succeeded += o.Succeeded
	t.DeadLetter += o.DeadLetter
	t.All += o.All
	t.Attempts += o.Attempts
	t.requests += o.requests
}

// stillPendingError is that time is up.
type stillPendingError struct{ what string }

func (e stillPendingError) Error() string {
	return fmt.Sprintf("not done after %s: still pending: %s", deadline, e.what)
}

// watch shows the deliveries on their way until none is pending.
func (d *demo) watch(ctx context.Context, endpoints []endpoint, started time.Time) error {
	var shown time.Time
	var tallies []tally
	for {
		now, err := d.tally(ctx, endpoints)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if err == nil {
			tallies = now
		}
		var total tally
		for _, t := range tallies {
			total.add(t)
		}
		done := err == nil && total.Pending == 0
		switch elapsed := time.Since(started); {
		case tallies == nil:
		case d.live:
			d.redraw(d.progressBlock(endpoints, tallies, total, elapsed))
		case done || time.Since(shown) >= time.Second:
			shown = time.Now()
			d.printf("  %5.1f s  %3d pending  %3d delivered  %3d dead letters  %3d requests  %3d attempts\n", elapsed.Seconds(),
				total.Pending, total.Succeeded, total.DeadLetter, total.requests, total.Attempts)
		}
		if done {
			return nil
		}
		select {
		case <-d.serve.done:
			return d.serve.died()
		case <-ctx.Done():
			return stillPendingError{pendingText(endpoints, tallies)}
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (d *demo) tally(ctx context.Context, endpoints []endpoint) ([]tally, error) {
	rows, err := d.database.reader.Query(ctx, fmt.Sprintf(`
		SELECT endpoint_url,
		       count(*) FILTER (WHERE status = 'pending') AS pending,
		       count(*) FILTER (WHERE status = 'succeeded') AS succeeded,
		       count(*) FILTER (WHERE status = 'dead_letter') AS dead_letter,
		       count(*) AS all,
		       sum((SELECT count(*) FROM %[1]s.attempts a WHERE a.delivery_id = d.id))::bigint AS attempts
		  FROM %[1]s.deliveries d GROUP BY endpoint_url`, d.name))
	if err != nil {
		return nil, fmt.Errorf("look at the deliveries: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByNameLax[tally])
	if err != nil {
		return nil, fmt.Errorf("look at the deliveries: %w", err)
	}
	tallies := make([]tally, len(endpoints))
	for i, e := range endpoints {
		for _, t := range found {
			if t.EndpointURL == e.url {
				tallies[i] = t
			}
		}
		tallies[i].requests = d.receiver.count(e.name)
	}
	return tallies, nil
}

// progressBlock is the state of things as a table.
func (d *demo) progressBlock(endpoints []endpoint, tallies []tally, total tally, elapsed time.Duration) []string {
	// Color is put around text that is as wide as it should be.
	number := func(n, width int, paint func(string) string) string {
		text := fmt.Sprintf("%*d", width, n)
		if n == 0 {
			paint = d.dim
		}
		return paint(text)
	}
	plain := func(text string) string { return text }
	line := func(name string, t tally, does string) string {
		return fmt.Sprintf("  %-8s %s %s %s %s %s   %s", name, number(t.Pending, 8, plain), number(t.Succeeded, 10, d.green),
			number(t.DeadLetter, 12, d.red), number(t.requests, 9, plain), number(t.Attempts, 9, plain), d.dim(does))
	}
	lines := []string{d.dim(fmt.Sprintf("  %-8s %8s %10s %12s %9s %9s", "", "pending", "delivered", "dead letter", "requests", "attempts"))}
	for i, e := range endpoints {
		lines = append(lines, line(e.name, tallies[i], e.does))
	}
	return append(lines, line("all", total, fmt.Sprintf("%.1f s", elapsed.Seconds())))
}

func pendingText(endpoints []endpoint, tallies []tally) string {
	var parts []string
	for i, t := range tallies {
		if t.Pending > 0 {
			parts = append(parts, fmt.Sprintf("%d of %d to %s (%d attempts so far)", t.Pending, t.All, endpoints[i].name, t.Attempts))
		}
	}
	if parts == nil {
		return "it is not known how many"
	}
	return strings.Join(parts, ", ")
}
