package bench

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// payload is 1 KB of JSON.
var payload = `{"event":"call.done","data":"` + strings.Repeat("0123456789abcdef", 62) + `"}`

// row is a delivery to insert. Without an id the database makes one.
type row struct{ id, url string }

// insert inserts deliveries with one COPY, as an application would. The trigger enqueues them.
func (b *bench) insert(ctx context.Context, schema string, rows []row) error {
	_, err := b.database.pool.CopyFrom(ctx, pgx.Identifier{schema, "deliveries"}, []string{"delivery_uuid", "endpoint_url", "payload"},
		pgx.CopyFromSlice(len(rows), func(i int) ([]any, error) {
			if rows[i].id == "" {
				return []any{nil, rows[i].url, payload}, nil
			}
			return []any{rows[i].id, rows[i].url, payload}, nil
		}))
	if err != nil {
		return fmt.Errorf("insert: %w", err)
	}
	return nil
}

// rowsTo are a ledger's deliveries, to one receiver.
func rowsTo(l *ledger, r *receiver) []row {
	rows := make([]row, len(l.ids))
	for i, id := range l.ids {
		rows[i] = row{id, r.url}
	}
	return rows
}

// cost is what a measurement used. What is zero is not known.
type cost struct {
	process, postgres time.Duration // CPU time
	memory            int64         // peak of the process, in bytes
	wal               float64       // bytes
}

// meter reads what Postgres has used. A nil database time means unknown.
type meter struct {
	cpu   time.Duration
	known bool
	wal   float64
}

func (b *bench) meter(ctx context.Context) meter {
	m := meter{wal: b.database.written(ctx)}
	m.cpu, m.known = b.database.cpu()
	return m
}

// since is the difference of two readings.
func (m meter) since(before meter) (c cost) {
	if m.known && before.known {
		c.postgres = m.cpu - before.cpu
	}
	if before.wal > 0 {
		c.wal = m.wal - before.wal
	}
	return c
}

// work runs the program on a schema while measured goes on, and says what that cost.
func (b *bench) work(ctx context.Context, schema string, env, args []string, measured func(*child) error) (c cost, err error) {
	if err := b.resetStatements(ctx); err != nil {
		return c, err
	}
	before := b.meter(ctx)
	process, err := b.start(ctx, schema, env, args...)
	if err != nil {
		return c, err
	}
	err = measured(process)
	used, stopErr := process.stop()
	if err != nil {
		return c, err
	}
	if stopErr != nil {
		return c, stopErr
	}
	if err := b.database.disconnected(ctx, application(schema)); err != nil {
		return c, err
	}
	c = b.meter(ctx).since(before)
	c.process, c.memory = used.cpu, used.memory
	return c, b.readStatements(ctx)
}

// drained is one backlog that was delivered.
type drained struct {
	rate   float64 // healthy deliveries per second
	insert cost    // of the backlog
	cost
}

// drain inserts n deliveries to a healthy receiver, and one to one of the hanging origins after every nine of them if there
// are any; then it starts the program and waits until the healthy ones are recorded. It verifies them.
func (b *bench) drain(ctx context.Context, schema string, n int, hanging []string, env, args []string) (d drained, err error) {
	l := newLedger(n)
	r, err := receive(ctx, healthy(l))
	if err != nil {
		return d, err
	}
	defer r.close()
	rows := rowsTo(l, r)
	if len(hanging) > 0 {
		rows = mix(rows, hanging)
	}

	b.progress.step("inserting " + number(float64(len(rows)), 0) + " rows")
	b.database.checkpoint(ctx)
	before := b.meter(ctx)
	if err := b.insert(ctx, schema, rows); err != nil {
		return d, err
	}
	d.insert = b.meter(ctx).since(before)
	if err := b.database.settle(ctx, schema, "deliveries", "river_job"); err != nil {
		return d, err
	}
	b.progress.step("working")
	var took time.Duration
	d.cost, err = b.work(ctx, schema, env, args, func(c *child) error {
		if err := b.recorded(ctx, schema, c, l, r); err != nil {
			return err
		}
		took = l.now() - time.Duration(l.first.Load())
		return nil
	})
	if err != nil {
		return d, err
	}
	d.rate = float64(n) / took.Seconds()
	return d, b.verify(ctx, schema, l, r)
}

// mix puts one delivery to a hanging origin, in turns, after every nine.
func mix(rows []row, hanging []string) (mixed []row) {
	for i, one := range rows {
		mixed = append(mixed, one)
		if i%9 == 8 {
			mixed = append(mixed, row{url: hanging[i/9%len(hanging)]})
		}
	}
	return mixed
}

// pollInterval is how often the database is asked whether all is recorded, once all requests have come.
const pollInterval = 2 * time.Millisecond

// recorded waits until every delivery of the ledger has been received and none to that receiver is pending. The database is
// not asked before the last request has come, and then by index.
func (b *bench) recorded(ctx context.Context, schema string, c *child, l *ledger, r *receiver) error {
	if err := c.wait(ctx, l.all); err != nil {
		return fmt.Errorf("%d of %d deliveries received: %w", l.distinct.Load(), len(l.ids), err)
	}
	query := in(schema, "SELECT EXISTS (SELECT FROM {schema}.deliveries WHERE status = 'pending' AND endpoint_origin = $1)")
	return b.poll(ctx, c, query, r.origin())
}

// poll waits until a query says false.
func (b *bench) poll(ctx context.Context, c *child, query string, args ...any) error {
	for {
		var more bool
		if err := b.database.pool.QueryRow(ctx, query, args...).Scan(&more); err != nil {
			return err
		}
		if !more {
			return nil
		}
		select {
		case <-c.done:
			return c.died()
		default:
		}
		if err := sleep(ctx, pollInterval); err != nil {
			return err
		}
	}
}

// verifySQL counts the deliveries to an origin, those of them that succeeded by one attempt, and their attempts.
const verifySQL = `
SELECT count(*), count(*) FILTER (WHERE d.status = 'succeeded' AND d.attempt_count = 1 AND d.round = 0 AND a.n = 1 AND a.good = 1),
       coalesce(sum(a.n), 0)::bigint
  FROM {schema}.deliveries d
  LEFT JOIN (SELECT delivery_id, count(*) AS n, count(*) FILTER (WHERE outcome = 'succeeded' AND attempt = 1) AS good
               FROM {schema}.attempts GROUP BY delivery_id) a ON a.delivery_id = d.id
 WHERE d.endpoint_origin = $1`

// verify holds requests, rows and attempts against each other: every delivery received once and succeeded by one attempt.
func (b *bench) verify(ctx context.Context, schema string, l *ledger, r *receiver) error {
	if problem := l.problem(); problem != "" {
		return b.wrong("%s", problem)
	}
	var rows, good, attempts int
	if err := b.database.pool.QueryRow(ctx, in(schema, verifySQL), r.origin()).Scan(&rows, &good, &attempts); err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if n := len(l.ids); rows != n || good != n || attempts != n {
		return b.wrong("of %d rows, %d are there, and %d succeeded by their first attempt; %d attempts are in the ledger", n, rows, good, attempts)
	}
	return nil
}

// noteCost keeps the cost of n pieces of work under a mode's names.
func (b *bench) noteCost(mode string, n int, c cost) {
	thousands := float64(n) / 1000
	b.note(mode+".cpu_process", c.process.Seconds()/thousands)
	if c.postgres > 0 {
		b.note(mode+".cpu_postgres", c.postgres.Seconds()/thousands)
		b.note(mode+".cpu", (c.process+c.postgres).Seconds()/thousands)
	}
	if c.wal > 0 {
		b.note(mode+".wal", c.wal/float64(n))
	}
	if c.memory > 0 {
		b.note(mode+".memory", megabytes(c.memory))
	}
}

func megabytes(bytes int64) float64 { return float64(bytes) / 1e6 }
