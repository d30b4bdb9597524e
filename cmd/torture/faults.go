package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/riverhook/riverhook/cmd/torture/internal/check"
)

// doing is a fault under way: what it is, and how it goes on.
type doing struct {
	detail string
	excuse check.Excuse
	origin string
	node   *node  // whom it strikes, whatever process is there; nil and name empty: all
	name   string // whom it strikes: this very process
	none   bool   // there was nobody to strike
	err    error  // what kept it from happening
	// aftermath is how far into the future its traces reach.
	aftermath time.Duration
	// problem is what should not have happened.
	problem error
}

const (
	ms  = time.Millisecond
	sec = time.Second
)

// killed, frozen and so on are all there is. Each ends by itself, and leaves things as they were.
func kinds() []*kind {
	return []*kind{
		{"kill -9", laneProcesses, 0, 3 * sec, 0, 0, (*torture).kill},
		{"freeze beyond the lease", laneProcesses, lease + sec, lease + 5*sec, 0, 0, (*torture).freeze},
		{"freeze", laneProcesses, 200 * ms, lease - 2*sec, 0, 0, (*torture).freeze},
		{"SIGTERM and restart", laneProcesses, 0, 2 * sec, 0, 0, (*torture).terminate},
		{"kill -9 of all", laneProcesses, 0, 2 * sec, 0, 0, (*torture).killAll},

		{"Postgres stops at once", laneDatabase, 100 * ms, 4 * sec, 0, 0, (*torture).crashPostgres},
		{"all backends terminated", laneDatabase, 0, 0, 0, 0, (*torture).terminateBackends},
		{"LISTEN connections terminated", laneDatabase, 0, 0, 0, 0, (*torture).terminateListeners},
		{"connections cut", laneDatabase, 0, 4 * sec, 0, 0, (*torture).cut},
		{"connections reset", laneDatabase, 500 * ms, 3 * sec, 0, 300, (*torture).reset},
		{"answers break off", laneDatabase, sec, 4 * sec, 200, 20_000, (*torture).breakAnswers},
		{"answers stall and are lost", laneDatabase, 500 * ms, 7 * sec, 0, 0, (*torture).stall},
		{"answers in slices", laneDatabase, sec, 4 * sec, 1, 50, (*torture).slice},
		{"TRUNCATE river_job", laneDatabase, 0, 0, 0, 0, (*torture).truncateJobs},
		{"trigger disabled", laneDatabase, 500 * ms, 4 * sec, 0, 0, (*torture).disableTrigger},
		{"Postgres's clock jumps", laneDatabase, sec, 5 * sec, 3, 20, (*torture).jumpClock},
		{"queue paused", laneDatabase, sec, 5 * sec, 0, 0, (*torture).pauseQueue},

		{"receiver hangs", laneWorld, sec, 6 * sec, 0, 0, (*torture).hang},
		{"receiver resets", laneWorld, sec, 5 * sec, 0, 0, (*torture).resetting},
		{"receiver answers garbage", laneWorld, sec, 5 * sec, 0, 0, (*torture).garbage},
		{"receiver answers 503", laneWorld, sec, 6 * sec, 0, 0, (*torture).busy},
		{"long transaction", laneWorld, 3 * sec, 10 * sec, 0, 1, (*torture).longTransaction},
		{"canceled by hand", laneWorld, 0, 0, 1, 20, (*torture).cancel},
		{"replayed by hand", laneWorld, 0, 0, 1, 20, (*torture).replay},
		{"retried by hand", laneWorld, 0, 0, 1, 20, (*torture).retryNow},
		{"COMMITs of the application cut", laneWorld, 500 * ms, 2 * sec, 0, 0, (*torture).cutCommits},
		{"answers to the application cut", laneWorld, 500 * ms, 3 * sec, 500, 2500, (*torture).cutApplication},
	}
}

func (t *torture) kill(s step) doing {
	n := t.nodes[s.Node]
	name := n.kill()
	wait(t.ctx, s.For)
	return doing{detail: name, name: name, none: name == "", excuse: check.Death, err: n.start(t.ctx)}
}

// killAll kills all within an instant. Each is a fault of its own; this one stands for those that nobody knows by name.
func (t *torture) killAll(s step) doing {
	for _, n := range t.nodes {
		n.signal(syscall.SIGKILL, true)
	}
	for _, n := range t.nodes {
		n.kill()
	}
	wait(t.ctx, s.For)
	var err error
	for _, n := range t.nodes {
		err = errors.Join(err, n.start(t.ctx))
	}
	return doing{excuse: check.Death, err: err}
}

func (t *torture) freeze(s step) doing {
	n := t.nodes[s.Node]
	_, name := n.signal(syscall.SIGSTOP, false)
	wait(t.ctx, s.For)
	n.signal(syscall.SIGCONT, false)
	return doing{detail: name, name: name, none: name == "", excuse: check.Freeze}
}

// terminate: there is no excuse for anything.
func (t *torture) terminate(s step) doing {
	n := t.nodes[s.Node]
	problem := n.stop(stopTimeout)
	wait(t.ctx, s.For)
	return doing{node: n, problem: problem, err: n.start(t.ctx)}
}

func (t *torture) crashPostgres(s step) doing {
	err := t.database.server.StopImmediate()
	wait(t.ctx, s.For)
	return doing{excuse: check.Database, err: errors.Join(err, t.database.server.Restart(context.WithoutCancel(t.ctx)))}
}

func (t *torture) terminateBackends(step) doing {
	return doing{excuse: check.Database, err: t.database.exec(t.ctx,
		`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()`)}
}

func (t *torture) terminateListeners(step) doing {
	return doing{err: t.database.exec(t.ctx,
		`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ILIKE 'listen%' AND pid <> pg_backend_pid()`)}
}

func (t *torture) cut(s step) doing {
	n := t.nodes[s.Node]
	n.link.cut()
	wait(t.ctx, s.For)
	return doing{node: n, excuse: check.Database, err: n.link.mend()}
}

// poison puts a toxic on what the database says to one node.
func (t *torture) poison(s step, excuse check.Excuse, toxic string, attributes map[string]int) doing {
	n := t.nodes[s.Node]
	err := n.link.poison(toxic, "downstream", attributes)
	wait(t.ctx, s.For)
	n.link.heal(context.WithoutCancel(t.ctx))
	return doing{node: n, excuse: excuse, err: err}
}

func (t *torture) reset(s step) doing {
	return t.poison(s, check.Database, "reset_peer", map[string]int{"timeout": s.Size})
}

func (t *torture) breakAnswers(s step) doing {
	return t.poison(s, check.Database, "limit_data", map[string]int{"bytes": s.Size})
}

func (t *torture) stall(s step) doing {
	return t.poison(s, check.Database, "timeout", map[string]int{"timeout": 0})
}

func (t *torture) slice(s step) doing {
	return t.poison(s, check.None, "slicer", map[string]int{"average_size": 100, "size_variation": 50, "delay": s.Size})
}

func (t *torture) truncateJobs(step) doing {
	t.jobsGone.begin()
	err := t.database.exec(t.ctx, `TRUNCATE `+schema+`.river_job`)
	t.jobsGone.end(time.Now().Add(sec))
	return doing{err: err}
}

// alter changes a table that is in use: it does not make others wait for long, but tries again.
func (t *torture) alter(ctx context.Context, statement string) error {
	return insist(ctx, func() error { return t.database.exec(ctx, `SET lock_timeout = '300ms'`, statement) })
}

func (t *torture) disableTrigger(s step) doing {
	try, cancel := context.WithTimeout(t.ctx, 5*sec)
	defer cancel()
	err := t.alter(try, `ALTER TABLE `+schema+`.deliveries DISABLE TRIGGER deliveries_enqueue`)
	wait(t.ctx, s.For)
	return doing{err: errors.Join(err, t.enableTrigger())}
}

func (t *torture) enableTrigger() error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), 30*sec)
	defer cancel()
	return t.alter(ctx, `ALTER TABLE `+schema+`.deliveries ENABLE TRIGGER deliveries_enqueue`)
}

func (t *torture) pauseQueue(s step) doing {
	err := t.database.exec(t.ctx, `UPDATE `+schema+`.river_queue SET paused_at = now(), updated_at = now() WHERE name = 'webhooks'`,
		`SELECT pg_notify('`+schema+`.river_control', '{"action":"pause","queue":"webhooks"}')`)
	wait(t.ctx, s.For)
	return doing{err: errors.Join(err, t.resumeQueue())}
}

func (t *torture) resumeQueue() error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), 30*sec)
	defer cancel()
	return insist(ctx, func() error {
		return t.database.exec(ctx, `UPDATE `+schema+`.river_queue SET paused_at = NULL, updated_at = now() WHERE name = 'webhooks'`,
			`SELECT pg_notify('`+schema+`.river_control', '{"action":"resume","queue":"webhooks"}')`)
	})
}

// jumpClock puts the database's clock ahead for a while. What gets a time then has to wait for it afterwards. Where there is
// no libfaketime, it stays right: the schedule is the same.
func (t *torture) jumpClock(s step) doing {
	if !t.clock.installed() {
		return doing{none: true}
	}
	ahead := time.Duration(s.Size) * sec
	t.jobsGone.begin()
	err := t.clock.set(ahead)
	wait(t.ctx, s.For)
	err = errors.Join(err, t.clock.set(0))
	wait(t.ctx, 2*sec)                    // until it is read again
	t.jobsGone.end(time.Now().Add(ahead)) // rows have times of then
	return doing{detail: ahead.String(), excuse: check.Clock, aftermath: ahead, err: err}
}

// mood puts a receiver into one for a while.
func (t *torture) mood(s step, mood int32) doing {
	r := t.receivers.all[s.Receiver]
	r.mood.Store(mood)
	wait(t.ctx, s.For)
	r.mood.Store(moodGood)
	return doing{detail: r.origin, origin: r.origin}
}

func (t *torture) hang(s step) doing      { return t.mood(s, moodHang) }
func (t *torture) resetting(s step) doing { return t.mood(s, moodReset) }
func (t *torture) garbage(s step) doing   { return t.mood(s, moodGarbage) }
func (t *torture) busy(s step) doing      { return t.mood(s, moodBusy) }

// longTransaction holds back vacuum, and a delivery that is committed in the end, or not.
func (t *torture) longTransaction(s step) doing {
	ctx := context.WithoutCancel(t.ctx)
	conn, err := pgx.Connect(ctx, t.database.server.URL("postgres"))
	if err != nil {
		return doing{none: true}
	}
	defer closeConn(conn)
	rows := t.app.rows(1, "long transaction")
	err = t.app.try(ctx, conn, rows, func(ctx context.Context, tx pgx.Tx, rows []row) error {
		if _, err := tx.Exec(ctx, `SET TRANSACTION ISOLATION LEVEL REPEATABLE READ`); err != nil {
			return err
		}
		if err := t.app.insert(ctx, tx, rows); err != nil {
			return err
		}
		return nil
	}, s.Size == 1, min(s.For, statementTimeout-sec))
	t.app.finish(rows, err)
	return doing{}
}

const (
	cancelSQL = `UPDATE riverhook.deliveries SET status = 'canceled' WHERE id IN (
		SELECT id FROM riverhook.deliveries WHERE status = 'pending' ORDER BY random() LIMIT $1 FOR UPDATE SKIP LOCKED)
		RETURNING delivery_uuid::text, claimed_by IS NOT NULL`
	// Of those that have ended some time ago, and of those that were only just canceled and may still be on their way.
	replaySQL = `UPDATE riverhook.deliveries SET status = 'pending' WHERE id IN (
		SELECT id FROM riverhook.deliveries WHERE status <> 'pending' AND round < 3
		ORDER BY (status = 'canceled') DESC, (status = 'dead_letter') DESC, random() LIMIT $1 FOR UPDATE SKIP LOCKED)
		RETURNING delivery_uuid::text, false`
	retrySQL = `UPDATE riverhook.deliveries SET scheduled_for = now() WHERE id IN (
		SELECT id FROM riverhook.deliveries WHERE status = 'pending' AND attempt_count > 0 AND scheduled_for > now()
		ORDER BY random() LIMIT $1 FOR UPDATE SKIP LOCKED)`
)

func (t *torture) cancel(s step) doing { return t.act(check.Cancel, cancelSQL, s.Size) }
func (t *torture) replay(s step) doing { return t.act(check.Replay, replaySQL, s.Size) }

// act does what a person does by UPDATE, and writes down to which rows. Nothing is between it and the database that could
// lose an answer but a Postgres that stops: so it looks at the rows first, in the same transaction.
func (t *torture) act(what, statement string, n int) doing {
	var acts []check.Act
	result := check.RolledBack
	sent := time.Now()
	err := t.database.do(t.ctx, func(ctx context.Context, conn *pgx.Conn) error {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		rows, _ := tx.Query(ctx, statement, n)
		var a check.Act
		_, err = pgx.ForEachRow(rows, []any{&a.UUID, &a.InFlight}, func() error {
			acts = append(acts, a)
			return nil
		})
		if err != nil {
			return err
		}
		result = check.Unknown
		if err = tx.Commit(ctx); err == nil {
			result = check.Committed
		}
		return err
	})
	for _, a := range acts {
		a.Kind, a.Sent, a.Done, a.Result = what, sent, time.Now(), result
		t.acts.add(a)
	}
	if refused := refusal(err); refused != "" {
		return doing{problem: errors.New(refused)}
	}
	return doing{detail: fmt.Sprintf("%d rows", len(acts)), none: len(acts) == 0}
}

func (t *torture) retryNow(s step) doing {
	var n int64
	err := t.database.do(t.ctx, func(ctx context.Context, conn *pgx.Conn) error {
		tag, err := conn.Exec(ctx, retrySQL, s.Size)
		n = tag.RowsAffected()
		return err
	})
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) && refusal(err) != "" {
		return doing{problem: err}
	}
	return doing{detail: fmt.Sprintf("%d rows", n), none: n == 0}
}

// cutCommits breaks the application's connections in the middle of a COMMIT: what comes of it, the application does not know.
func (t *torture) cutCommits(s step) doing {
	t.app.cutting.Store(true)
	wait(t.ctx, s.For)
	t.app.cutting.Store(false)
	return doing{}
}

func (t *torture) cutApplication(s step) doing {
	err := t.app.link.poison("limit_data", "downstream", map[string]int{"bytes": s.Size})
	wait(t.ctx, s.For)
	t.app.link.heal(context.WithoutCancel(t.ctx))
	return doing{err: err}
}
