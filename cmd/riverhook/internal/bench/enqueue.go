package bench

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"
)

// enqueueURL is where the deliveries of enqueue would go: nobody works them.
const enqueueURL = "https://example.com/hook"

// multiRows is how many rows a multi-row INSERT has.
const multiRows = 1000

// enqueue measures what the trigger costs an application. Each way starts on empty tables; with and without the trigger take
// turns in going first, so that neither has it better.
func (b *bench) enqueue(ctx context.Context) error {
	schema, err := b.database.newSchema(ctx)
	if err != nil {
		return err
	}
	for _, way := range []struct {
		name    string
		measure func(context.Context, string) (float64, int, error)
	}{
		{"single_1", func(ctx context.Context, schema string) (float64, int, error) { return b.singles(ctx, schema, 1) }},
		{"single_32", func(ctx context.Context, schema string) (float64, int, error) { return b.singles(ctx, schema, clients) }},
		{"multi", b.multi},
		{"copy", b.copied},
	} {
		bareFirst := len(b.values["enqueue.single_1"])%2 == 1
		for _, bare := range []bool{bareFirst, !bareFirst} {
			name := way.name
			if bare {
				name += "_bare"
			}
			b.progress.step(name)
			if err := b.prepareEnqueue(ctx, schema, bare); err != nil {
				return err
			}
			figure, rows, err := way.measure(ctx, schema)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if err := b.verifyEnqueued(ctx, schema, name, rows, bare); err != nil {
				return err
			}
			b.note("enqueue."+name, figure)
		}
	}
	return b.database.dropSchemas(ctx, b.keptSchema())
}

func (b *bench) prepareEnqueue(ctx context.Context, schema string, bare bool) error {
	if _, err := b.database.pool.Exec(ctx, in(schema, "TRUNCATE {schema}.deliveries, {schema}.river_job")); err != nil {
		return err
	}
	does := "ENABLE"
	if bare {
		does = "DISABLE"
	}
	if _, err := b.database.pool.Exec(ctx, in(schema, "ALTER TABLE {schema}.deliveries "+does+" TRIGGER deliveries_enqueue")); err != nil {
		return err
	}
	b.database.checkpoint(ctx)
	return nil
}

func (b *bench) verifyEnqueued(ctx context.Context, schema, name string, rows int, bare bool) error {
	var deliveries, jobs int
	query := in(schema, "SELECT (SELECT count(*) FROM {schema}.deliveries), (SELECT count(*) FROM {schema}.river_job)")
	if err := b.database.pool.QueryRow(ctx, query).Scan(&deliveries, &jobs); err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	want := rows
	if bare {
		want = 0
	}
	if deliveries != rows || jobs != want {
		return b.wrong("%s: %d rows inserted: %d are there with %d jobs, not %d with %d", name, rows, deliveries, jobs, rows, want)
	}
	return nil
}

// singles is the rate of transactions of one row each, by that many clients. Each has made one before the clock starts: what
// a new session costs is not the trigger's.
func (b *bench) singles(ctx context.Context, schema string, clients int) (perSecond float64, rows int, err error) {
	query := in(schema, "INSERT INTO {schema}.deliveries (endpoint_url, payload) VALUES ($1, $2)")
	sessions := make([]*pgxpool.Conn, clients)
	for i := range sessions {
		if sessions[i], err = b.database.pool.Acquire(ctx); err != nil {
			return 0, 0, err
		}
		defer sessions[i].Release()
		if _, err := sessions[i].Exec(ctx, query, enqueueURL, payload); err != nil {
			return 0, 0, err
		}
	}
	counts := make([]int, clients)
	started := time.Now()
	group, run := errgroup.WithContext(ctx)
	for i, conn := range sessions {
		group.Go(func() error {
			for time.Since(started) < b.sizes.single {
				if _, err := conn.Exec(run, query, enqueueURL, payload); err != nil {
					return err
				}
				counts[i]++
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return 0, 0, err
	}
	took := time.Since(started)
	for _, n := range counts {
		rows += n
	}
	return float64(rows) / took.Seconds(), rows + clients, nil
}

// multi is the rate of rows that come 1,000 to a statement, each statement a transaction. The first one is not timed.
func (b *bench) multi(ctx context.Context, schema string) (perSecond float64, rows int, err error) {
	var query strings.Builder
	query.WriteString(in(schema, "INSERT INTO {schema}.deliveries (endpoint_url, payload) VALUES "))
	args := make([]any, 0, 2*multiRows)
	for i := range multiRows {
		if i > 0 {
			query.WriteString(", ")
		}
		fmt.Fprintf(&query, "($%d, $%d)", 2*i+1, 2*i+2)
		args = append(args, enqueueURL, payload)
	}
	conn, err := b.database.pool.Acquire(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Release()
	var started time.Time
	for i := range b.sizes.statements + 1 {
		if i == 1 {
			started = time.Now()
		}
		if _, err := conn.Exec(ctx, query.String(), args...); err != nil {
			return 0, 0, err
		}
	}
	rows = b.sizes.statements * multiRows
	return float64(rows) / time.Since(started).Seconds(), rows + multiRows, nil
}

// copied is the time of one COPY, in seconds per 100,000 rows.
func (b *bench) copied(ctx context.Context, schema string) (seconds float64, rows int, err error) {
	list := make([]row, b.sizes.copied)
	l := newLedger(len(list))
	for i := range list {
		list[i] = row{l.ids[i], enqueueURL}
	}
	started := time.Now()
	if err := b.insert(ctx, schema, list); err != nil {
		return 0, 0, err
	}
	return time.Since(started).Seconds() / float64(len(list)) * 100_000, len(list), nil
}
