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
		at, err := b.recorded(ctx, schema, c, l)
		took = at - time.Duration(l.first.Load())
		return err
	})
	if err != nil {
		return d, err
	}
	late, err := b.lateness(ctx, schema, l)
	if err != nil {
		return d, err
	}
	d.rate = float64(n) / (took + late).Seconds()
	return d, b.verify(ctx, schema, l)
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

// pollInterval is the pause between two questions to the database whether all is recorded. It is not asked before the last
// request has come.
const pollInterval = 2 * time.Millisecond

// maxUnrecorded is how many of the newest requests are looked up: more than there can be attempts in flight.
const maxUnrecorded = 2 * nodeConcurrency

// unrecordedSQL are those of the named deliveries that are pending. It reads no index that the deliveries before them have
// left full of dead entries: such a question took a tenth of a second.
const unrecordedSQL = `
SELECT d.delivery_uuid::text
  FROM unnest($1::text[]::uuid[]) AS u (uuid)
 CROSS JOIN LATERAL (SELECT d.delivery_uuid, d.status FROM {schema}.deliveries d WHERE d.delivery_uuid = u.uuid OFFSET 0) d
 WHERE d.status = 'pending'`

// recorded waits until every delivery of the ledger has been received, and the newest are recorded: all of them, unless one
// before was held up, which lateness finds. It returns the time of that on the ledger's clock.
func (b *bench) recorded(ctx context.Context, schema string, c *child, l *ledger) (at time.Duration, err error) {
	if err := c.wait(ctx, l.all); err != nil {
		return 0, fmt.Errorf("%d of %d deliveries received: %w", l.distinct.Load(), len(l.ids), err)
	}
	return b.untilRecorded(ctx, schema, c, l, l.newest(maxUnrecorded))
}

// untilRecorded waits until none of these deliveries is pending.
func (b *bench) untilRecorded(ctx context.Context, schema string, c *child, l *ledger, pending []string) (at time.Duration, err error) {
	for {
		if pending, err = b.unrecorded(ctx, schema, pending); err != nil || len(pending) == 0 {
			return l.now(), err
		}
		if err := c.pause(ctx, pollInterval); err != nil {
			return 0, err
		}
	}
}

func (b *bench) unrecorded(ctx context.Context, schema string, ids []string) ([]string, error) {
	rows, err := b.database.pool.Query(ctx, in(schema, unrecordedSQL), ids)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// latenessSQL is how much later than the named deliveries in $2 others of those in $1 were recorded, in seconds.
const latenessSQL = `
SELECT coalesce(extract(epoch FROM max(d.finished_at) - max(d.finished_at) FILTER (WHERE u.uuid = ANY ($2::text[]::uuid[])))::float8, 0)
  FROM unnest($1::text[]::uuid[]) AS u (uuid)
 CROSS JOIN LATERAL (SELECT d.finished_at FROM {schema}.deliveries d WHERE d.delivery_uuid = u.uuid OFFSET 0) d`

// lateness is what recorded has missed, asked when nothing is measured any more: such a question costs something.
func (b *bench) lateness(ctx context.Context, schema string, l *ledger) (time.Duration, error) {
	var seconds float64
	if err := b.database.pool.QueryRow(ctx, in(schema, latenessSQL), l.ids, l.newest(maxUnrecorded)).Scan(&seconds); err != nil {
		return 0, fmt.Errorf("lateness: %w", err)
	}
	return time.Duration(seconds * float64(time.Second)), nil
}

// verifySQL counts which of the named deliveries are there, which of them succeeded by one attempt, and their attempts.
const verifySQL = `
SELECT count(*), count(*) FILTER (WHERE d.status = 'succeeded' AND d.attempt_count = 1 AND d.round = 0 AND a.n = 1 AND a.good = 1),
       coalesce(sum(a.n), 0)::bigint
  FROM unnest($1::text[]::uuid[]) AS u (uuid)
 CROSS JOIN LATERAL (SELECT * FROM {schema}.deliveries d WHERE d.delivery_uuid = u.uuid OFFSET 0) d
 CROSS JOIN LATERAL (SELECT count(*) AS n, count(*) FILTER (WHERE outcome = 'succeeded' AND attempt = 1) AS good
                       FROM {schema}.attempts a WHERE a.delivery_id = d.id) a`

// verify holds requests, rows and attempts against each other: every delivery received once and succeeded by one attempt.
func (b *bench) verify(ctx context.Context, schema string, l *ledger) error {
	if problem := l.problem(); problem != "" {
		return b.wrong("%s", problem)
	}
	var rows, good, attempts int
	if err := b.database.pool.QueryRow(ctx, in(schema, verifySQL), l.ids).Scan(&rows, &good, &attempts); err != nil {
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
