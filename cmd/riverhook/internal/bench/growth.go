package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
)

// grown is a schema with many finished deliveries, made once for all rounds.
type grown struct {
	schema string
	rows   int
}

const (
	growChunk, growers = 100_000, 2
	organizations      = 1000
	perRun             = 5 // deliveries of one run
	lists              = 20
	listed             = 50 // rows of a list, as the command line asks for
)

// growth measures what the size of the table changes: throughput, what people look at, and the sweep.
func (b *bench) growth(ctx context.Context) error {
	if b.grown == nil {
		if err := b.grow(ctx); err != nil {
			return err
		}
	}
	steps := []func(context.Context) error{b.grownThroughput, b.grownLists}
	if len(b.values["growth.grown"]) == b.Rounds-1 { // it leaves a backlog behind
		steps = append(steps, b.grownRetention, b.grownSweep)
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// growSQL inserts finished deliveries with numbers from $1 to $2 out of $3: one in 33 is a dead letter, one in 1,000 canceled,
// the oldest 20 days old, younger than what retention removes by default.
const growSQL = `
WITH made AS (
    INSERT INTO {schema}.deliveries (organization_id, workflow_run_id, webhook_node_id, webhook_name, endpoint_url, payload, status, scheduled_for,
                                     claim, attempt_count, last_status_code, last_error, created_at, updated_at, finished_at)
    SELECT 'organization ' || n % {organizations}, 'run ' || n / {per_run}, 'node ' || n % {per_run}, 'orders',
           'https://host-' || n % 5000 || '.example.com/hook', '{"n":1}', g.status, NULL,
           1, 1, CASE WHEN g.status = 'dead_letter' THEN 410 ELSE 200 END, CASE WHEN g.status = 'dead_letter' THEN 'HTTP 410: gone' END,
           g.at, g.at, g.at
      FROM (SELECT n, now() - interval '20 days' * (1 - n::float8 / $3) AS at,
                   CASE WHEN n % 1000 = 0 THEN 'canceled' WHEN n % 33 = 0 THEN 'dead_letter' ELSE 'succeeded' END AS status
              FROM generate_series($1::bigint, $2::bigint) n) g
    RETURNING id, status, finished_at
)
INSERT INTO {schema}.attempts (delivery_id, round, attempt, started_at, duration_ms, outcome, failure_kind, status_code, error, response_body, node)
SELECT id, 0, 1, finished_at, 12, CASE WHEN status = 'dead_letter' THEN 'permanent' ELSE 'succeeded' END,
       CASE WHEN status = 'dead_letter' THEN 'status' END, CASE WHEN status = 'dead_letter' THEN 410 ELSE 200 END,
       CASE WHEN status = 'dead_letter' THEN 'HTTP 410: gone' END, 'ok', 'host-00000000'
  FROM made`

func growthSQL(schema, statement string) string {
	return in(schema, strings.NewReplacer("{organizations}", strconv.Itoa(organizations), "{per_run}", strconv.Itoa(perRun)).Replace(statement))
}

// grow makes the table.
func (b *bench) grow(ctx context.Context) error {
	schema, err := b.database.newSchema(ctx)
	if err != nil {
		return err
	}
	g := &grown{schema: schema, rows: b.sizes.finished}
	if err := b.triggers(ctx, schema, "DISABLE"); err != nil {
		return err
	}
	query := growthSQL(schema, growSQL)
	var next, made atomic.Int64
	group, run := errgroup.WithContext(ctx)
	for range growers {
		group.Go(func() error {
			for {
				from := next.Add(growChunk) - growChunk + 1
				to := min(from+growChunk-1, int64(g.rows))
				if from > to {
					return nil
				}
				if _, err := b.database.pool.Exec(run, query, from, to, g.rows); err != nil {
					return fmt.Errorf("grow: %w", err)
				}
				b.progress.step("growing: " + number(float64(made.Add(to-from+1)), 0) + " rows")
			}
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	b.progress.step("vacuuming the grown table")
	if err := b.database.settle(ctx, schema, "deliveries", "attempts"); err != nil {
		return err
	}
	if err := b.triggers(ctx, schema, "ENABLE"); err != nil {
		return err
	}
	b.grown = g
	return nil
}

func (b *bench) triggers(ctx context.Context, schema, does string) error {
	_, err := b.database.pool.Exec(ctx, in(schema, "ALTER TABLE {schema}.deliveries "+does+" TRIGGER USER"))
	return err
}

// grownThroughput is the rate of the same backlog in an empty table and in the grown one. They take turns in going first.
func (b *bench) grownThroughput(ctx context.Context) error {
	empty, err := b.database.newSchema(ctx)
	if err != nil {
		return err
	}
	ways := []struct{ name, schema string }{{"growth.empty", empty}, {"growth.grown", b.grown.schema}}
	if len(b.values["growth.grown"])%2 == 1 {
		ways[0], ways[1] = ways[1], ways[0]
	}
	for _, way := range ways {
		d, err := b.drain(ctx, way.schema, b.sizes.deliver, nil, nil, []string{"serve"})
		if err != nil {
			return fmt.Errorf("%s: %w", way.name, err)
		}
		b.note(way.name, d.rate)
	}
	return b.database.dropSchemas(ctx, b.keptSchema())
}

// grownLists is what the lists and show of the command line take, each several times with other values.
func (b *bench) grownLists(ctx context.Context) error {
	st := store.New(b.database.pool, b.grown.schema)
	some := func(i int) int { return (i + 1) * b.grown.rows / (lists + 1) }
	uuids, err := b.someUUIDs(ctx)
	if err != nil {
		return err
	}
	list := func(filter func(i int) store.Filter) func(int) (int, error) {
		return func(i int) (int, error) {
			rows, err := st.List(ctx, filter(i), 0, listed)
			return len(rows), err
		}
	}
	for _, one := range []struct {
		name string
		read func(i int) (rows int, err error)
	}{
		{"list_newest", list(func(int) store.Filter { return store.Filter{} })},
		{"list_organization", list(func(i int) store.Filter {
			return store.Filter{Organization: "organization " + strconv.Itoa(some(i)%organizations)}
		})},
		{"list_status", list(func(int) store.Filter { return store.Filter{Statuses: []delivery.Status{delivery.StatusDeadLetter}} })},
		{"list_run", list(func(i int) store.Filter { return store.Filter{Run: "run " + strconv.Itoa(some(i)/perRun)} })},
		{"list_endpoint", list(func(i int) store.Filter { return store.Filter{Endpoint: "HOST-" + strconv.Itoa(some(i)%5000)} })},
		{"show", func(i int) (int, error) {
			_, attempts, err := st.Get(ctx, 0, uuids[i%len(uuids)])
			return len(attempts), err
		}},
	} {
		b.progress.step(one.name)
		took := make([]time.Duration, lists)
		for i := range took {
			started := time.Now()
			rows, err := one.read(i)
			if err != nil {
				return fmt.Errorf("%s: %w", one.name, err)
			}
			if took[i] = time.Since(started); rows == 0 && one.name != "list_endpoint" {
				return b.wrong("%s found nothing", one.name)
			}
		}
		b.note("growth."+one.name+"_p50", milliseconds(percentile(took, 0.5)))
		b.note("growth."+one.name+"_max", milliseconds(percentile(took, 1)))
	}
	return nil
}

// someUUIDs are those of deliveries from all over the table.
func (b *bench) someUUIDs(ctx context.Context) (uuids []string, err error) {
	query := in(b.grown.schema, `
		SELECT array_agg((SELECT delivery_uuid::text FROM {schema}.deliveries d WHERE d.id >= n ORDER BY d.id LIMIT 1))
		  FROM generate_series(1, $1::bigint, greatest(1, $1::bigint / $2)) n`)
	err = b.database.pool.QueryRow(ctx, query, b.grown.rows, lists).Scan(&uuids)
	return uuids, err
}

// overdueSQL inserts $1 due deliveries to $2.
const overdueSQL = `
INSERT INTO {schema}.deliveries (endpoint_url, payload, scheduled_for)
SELECT $2, '{"n":1}', now() - interval '1 minute' FROM generate_series(1, $1::bigint)`

// retentionSQL is when the first $1 deliveries had ended, and how many seconds ago that was.
const retentionSQL = `
SELECT finished_at, extract(epoch FROM now() - finished_at)::bigint
  FROM {schema}.deliveries
 WHERE status IN ('succeeded', 'canceled') ORDER BY finished_at OFFSET $1 LIMIT 1`

const agedSQL = `
SELECT count(*) FROM {schema}.deliveries WHERE status IN ('succeeded', 'canceled') AND finished_at < $1`

// retentionBacklog is how many deliveries there are to work on meanwhile; retentionPatience is how long it may take.
const retentionBacklog, retentionPatience = 300_000, 12 * time.Minute

// grownRetention measures how long retention takes for the oldest tenth of the table, a million at most, and the rate of
// deliveries in the same process before it has begun, and while it goes on.
func (b *bench) grownRetention(ctx context.Context) error {
	schema := b.grown.schema
	wanted := min(b.grown.rows/10, 1_000_000)
	var until time.Time // others come of age meanwhile
	var keep int64
	if err := b.database.pool.QueryRow(ctx, in(schema, retentionSQL), wanted).Scan(&until, &keep); err != nil {
		return fmt.Errorf("retention: %w", err)
	}
	aged := func() (n int, err error) {
		err = b.database.pool.QueryRow(ctx, in(schema, agedSQL), until).Scan(&n)
		return n, err
	}
	all, err := aged()
	if err != nil {
		return err
	}
	var requests atomic.Int64
	answer := healthy(newLedger(0))
	r, err := receive(ctx, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		answer(w, r)
	})
	if err != nil {
		return err
	}
	defer r.close()
	backlog := retentionBacklog
	if b.Quick {
		backlog /= 100
	}
	b.progress.step("inserting a backlog")
	if _, err := b.database.pool.Exec(ctx, in(schema, overdueSQL), backlog, r.url); err != nil {
		return fmt.Errorf("insert: %w", err)
	}
	if err := b.database.settle(ctx, schema, "deliveries", "river_job"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, retentionPatience)
	defer cancel()
	_, err = b.work(ctx, schema, []string{fmt.Sprintf("RIVERHOOK_RETENTION=%ds", keep)}, []string{"serve"}, func(*child) error {
		b.progress.step("waiting for retention to begin")
		var first, begun, done time.Time // the first request; some were removed; all were
		var atBegun int64
		for left := all; left > 0; {
			if first.IsZero() && requests.Load() > 0 {
				first = time.Now()
			}
			if left, err = aged(); err != nil {
				return err
			}
			if now := time.Now(); begun.IsZero() && left < all {
				begun, atBegun = now, requests.Load()
				b.progress.step("removing " + number(float64(all), 0) + " deliveries")
			} else if sent := requests.Load(); !begun.IsZero() && done.IsZero() && (sent >= int64(backlog)*9/10 || left == 0) {
				done = now
				b.note("growth.retention_before", float64(atBegun)/begun.Sub(first).Seconds())
				b.note("growth.retention_during", float64(sent-atBegun)/done.Sub(begun).Seconds())
			}
			if err := sleep(ctx, 100*time.Millisecond); err != nil {
				return fmt.Errorf("retention did not come to its end: %w", err)
			}
		}
		b.note("growth.retention_rows", float64(all))
		b.note("growth.retention", time.Since(begun).Seconds())
		return nil
	})
	return err
}

const (
	sweepLead = 5 * time.Second // of deliveries before the sweep
	// sweepBacklog is how many deliveries with jobs there are for that, and for the sweep's beginning.
	sweepBacklog = 200_000
)

// grownSweep measures one sweep over many due rows that have no job, while deliveries go on: first those of a backlog, then
// what the sweep has found.
func (b *bench) grownSweep(ctx context.Context) error {
	schema, overdue := b.grown.schema, b.sizes.overdue
	var requests atomic.Int64
	l := newLedger(0)
	answer := healthy(l)
	r, err := receive(ctx, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		answer(w, r)
	})
	if err != nil {
		return err
	}
	defer r.close()
	b.progress.step("inserting overdue rows")
	if err := b.insertOverdue(ctx, r.url); err != nil {
		return err
	}
	// Serve sweeps at its start: it finds that somebody else does.
	lock, _, ok, err := store.New(b.database.pool, schema).LockSweep(ctx)
	if err != nil || !ok {
		return fmt.Errorf("the sweep's lock: %w", err)
	}
	defer lock.Unlock()
	lead := sweepLead
	if b.Quick {
		lead /= 10
	}
	_, err = b.work(ctx, schema, []string{"RIVERHOOK_SWEEP_INTERVAL=1h"}, []string{"serve"}, func(c *child) error {
		b.progress.step("delivering")
		for requests.Load() == 0 {
			if err := sleep(ctx, 10*time.Millisecond); err != nil {
				return err
			}
		}
		if err := sleep(ctx, lead/5); err != nil { // until it is in its stride
			return err
		}
		before, from := requests.Load(), time.Now()
		if err := sleep(ctx, lead); err != nil {
			return err
		}
		b.note("growth.sweep_before", float64(requests.Load()-before)/time.Since(from).Seconds())
		lock.Unlock()
		b.progress.step("sweeping")
		before, from = requests.Load(), time.Now()
		counts, err := b.sweep(ctx, schema)
		if err != nil {
			return err
		}
		took := time.Since(from)
		b.note("growth.sweep", took.Seconds())
		b.note("growth.sweep_rows", float64(counts.Requeued))
		b.note("growth.sweep_seen", float64(counts.Overdue))
		b.note("growth.sweep_during", float64(requests.Load()-before)/took.Seconds())
		if counts.Requeued < overdue {
			return b.wrong("the sweep enqueued %d of %d overdue rows", counts.Requeued, overdue)
		}
		return nil
	})
	return err
}

// insertOverdue inserts the deliveries without jobs, and those with jobs that are delivered before.
func (b *bench) insertOverdue(ctx context.Context, url string) error {
	schema := b.grown.schema
	backlog := sweepBacklog
	if b.Quick {
		backlog /= 100
	}
	if _, err := b.database.pool.Exec(ctx, in(schema, overdueSQL), backlog, url); err != nil {
		return fmt.Errorf("insert: %w", err)
	}
	if err := b.triggers(ctx, schema, "DISABLE"); err != nil {
		return err
	}
	if _, err := b.database.pool.Exec(ctx, in(schema, overdueSQL), b.sizes.overdue, url); err != nil {
		return fmt.Errorf("insert: %w", err)
	}
	if err := b.triggers(ctx, schema, "ENABLE"); err != nil {
		return err
	}
	return b.database.settle(ctx, schema, "deliveries", "river_job")
}

// sweepCounts is what riverhook sweep says: how many due rows it looked at, and how many of them it enqueued.
type sweepCounts struct{ Overdue, Requeued int }

// sweep runs one sweep in a process of its own.
func (b *bench) sweep(ctx context.Context, schema string) (counts sweepCounts, err error) {
	c, err := b.start(ctx, schema, nil, "sweep", "--json")
	if err != nil {
		return counts, err
	}
	select {
	case line := <-c.lines:
		err = json.Unmarshal([]byte(line), &counts)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if _, stopErr := c.stop(); err == nil && stopErr != nil {
		err = stopErr
	}
	return counts, err
}
