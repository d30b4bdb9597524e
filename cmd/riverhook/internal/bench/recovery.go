package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// recovery measures how long what a killed node held takes to be sent again, with the program's own settings: one of two
// nodes, River's leader or not, and a single one that is started again at once. Then how soon the full rate is back after a
// crash of Postgres, and what rolling restarts under load lose or send twice, which is nothing.
func (b *bench) recovery(ctx context.Context) error {
	for _, victim := range []string{"follower", "leader", "single"} {
		b.progress.step("kill -9: " + victim)
		if err := b.killNode(ctx, victim); err != nil {
			return err
		}
	}
	if b.database.server != nil {
		b.progress.step("Postgres: immediate stop")
		if err := b.crashPostgres(ctx); err != nil {
			return err
		}
	}
	b.progress.step("rolling restarts")
	return b.rollingRestarts(ctx)
}

// slowLedger is a ledger that also knows the latest request of each delivery, and whose receiver takes a while to answer, so
// that there is something in flight.
type slowLedger struct {
	*ledger
	latest []atomic.Int64 // in ns since base
}

// answerTime is how long the receiver takes.
const answerTime = 200 * time.Millisecond

func newSlowLedger(n int) *slowLedger { return &slowLedger{newLedger(n), make([]atomic.Int64, n)} }

func (l *slowLedger) answer(_ http.ResponseWriter, r *http.Request) {
	if i, ok := l.index[r.Header.Get(deliveryIDHeader)]; ok {
		l.latest[i].Store(int64(l.now()))
	}
	l.enter(r)
	_, _ = io.Copy(io.Discard, r.Body)
	select {
	case <-time.After(answerTime):
	case <-r.Context().Done():
	}
}

// node is the id of a child that is "riverhook serve": it is in its log.
func (c *child) node(ctx context.Context) (string, error) {
	for {
		scanner := bufio.NewScanner(io.NewSectionReader(c.log, 0, 1<<20))
		for scanner.Scan() {
			if _, rest, ok := strings.Cut(scanner.Text(), `"msg":"delivering","node":"`); ok {
				id, _, _ := strings.Cut(rest, `"`)
				return id, nil
			}
		}
		if err := c.pause(ctx, 20*time.Millisecond); err != nil {
			return "", err
		}
	}
}

// kill ends the child as kill -9 does.
func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	<-c.done
	_ = c.log.Close()
}

const (
	leaderSQL = `SELECT leader_id FROM {schema}.river_leader`
	// heldBySQL are the deliveries that a node had claimed, and those that it had only fetched.
	heldBySQL = `
SELECT d.delivery_uuid::text, d.claimed_by IS NOT NULL
  FROM {schema}.deliveries d
 WHERE d.status = 'pending' AND d.claimed_by = $1
 UNION ALL
SELECT d.delivery_uuid::text, false
  FROM {schema}.river_job j, {schema}.deliveries d
 WHERE j.state = 'running' AND j.attempted_by[array_upper(j.attempted_by, 1)] = $1 AND j.kind = 'deliver_webhook'
   AND d.id = (j.args->>'delivery_id')::bigint AND d.status = 'pending' AND d.claimed_by IS NULL AND d.claim = (j.args->>'claim')::bigint`
)

// killNode kills a node under a steady rate, and measures when all that it held had arrived.
func (b *bench) killNode(ctx context.Context, victim string) (err error) {
	schema, err := b.database.newSchema(ctx)
	if err != nil {
		return err
	}
	children := map[string]*child{} // by node
	defer func() {
		for _, c := range children {
			_, stopErr := c.stop()
			err = errors.Join(err, stopErr)
		}
	}()
	start := func() (string, error) {
		c, err := b.start(ctx, schema, []string{"RIVERHOOK_LOG_FORMAT=json"}, "serve")
		if err != nil {
			return "", err
		}
		id, err := c.node(ctx)
		children[id] = c
		return id, err
	}
	first, err := start()
	if err != nil {
		return err
	}
	leader := ""
	for leader == "" {
		err := b.database.pool.QueryRow(ctx, in(schema, leaderSQL)).Scan(&leader)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		if err := children[first].pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	dying := first
	if victim != "single" {
		second, err := start()
		if err != nil {
			return err
		}
		if victim == "follower" {
			dying = second
		}
	}

	before, after := b.sizes.recoveryBefore, b.sizes.recoveryAfter
	l := newSlowLedger(int(float64(b.sizes.steadyRate) * (before + after).Seconds()))
	r, err := receive(ctx, l.answer)
	if err != nil {
		return err
	}
	defer r.close()
	inserted := make(chan error, 1)
	var committed []time.Duration
	go func() {
		var err error
		committed, _, err = b.insertSteadily(ctx, schema, l.ledger, r.url, b.sizes.steadyRate)
		inserted <- err
	}()
	if err := sleep(ctx, before); err != nil {
		return err
	}
	if err := b.delayClaims(ctx, schema, dying); err != nil {
		return err
	}
	if err := sleep(ctx, answerTime/2); err != nil { // what was sent before is still in flight then
		return err
	}
	killed := l.now()
	children[dying].kill()
	delete(children, dying)
	held, err := b.heldBy(ctx, schema, dying)
	if err != nil {
		return err
	}
	if victim == "single" {
		if _, err := start(); err != nil {
			return err
		}
	}
	if err := <-inserted; err != nil {
		return err
	}
	for _, c := range children {
		if _, err := b.recorded(ctx, schema, c, l.ledger); err != nil {
			return err
		}
		if err := b.untilAllSucceeded(ctx, schema, c); err != nil {
			return err
		}
	}
	b.judgeKill(l, committed, held, killed, victim)
	return b.verifyKill(l, held)
}

// delayClaimsSQL lets a node's claims take longer than the rest of its life, and then come to nothing: what it fetches from
// then on is only fetched when it dies.
const delayClaimsSQL = `
CREATE FUNCTION {schema}.bench_delay() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN PERFORM pg_sleep(1); RAISE EXCEPTION 'the bench lets this claim fail'; END$$;
CREATE TRIGGER bench_delay BEFORE UPDATE ON {schema}.deliveries FOR EACH ROW WHEN (NEW.claimed_by = '{node}') EXECUTE FUNCTION {schema}.bench_delay()`

func (b *bench) delayClaims(ctx context.Context, schema, node string) error {
	_, err := b.database.pool.Exec(ctx, strings.ReplaceAll(in(schema, delayClaimsSQL), "{node}", node))
	return err
}

// heldBy says of what a node held whether it had claimed it.
func (b *bench) heldBy(ctx context.Context, schema, node string) (map[string]bool, error) {
	rows, err := b.database.pool.Query(ctx, in(schema, heldBySQL), node)
	if err != nil {
		return nil, err
	}
	held := make(map[string]bool)
	var uuid string
	var claimed bool
	_, err = pgx.ForEachRow(rows, []any{&uuid, &claimed}, func() error {
		held[uuid] = claimed
		return nil
	})
	return held, err
}

const unfinishedSQL = `SELECT EXISTS (SELECT FROM {schema}.deliveries WHERE status = 'pending')`

func (b *bench) untilAllSucceeded(ctx context.Context, schema string, c *child) error {
	for unfinished := true; unfinished; {
		if err := b.database.pool.QueryRow(ctx, in(schema, unfinishedSQL)).Scan(&unfinished); err != nil {
			return err
		}
		if err := c.pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// judgeKill notes when the last of what the killed node held arrived, and how long the others waited before and after.
func (b *bench) judgeKill(l *slowLedger, committed []time.Duration, held map[string]bool, killed time.Duration, victim string) {
	name := "recovery." + victim
	var lastClaimed, lastFetched time.Duration
	claimed := 0
	for uuid, was := range held {
		at := time.Duration(l.latest[l.index[uuid]].Load()) - killed
		if was {
			claimed++
			lastClaimed = max(lastClaimed, at)
		} else {
			lastFetched = max(lastFetched, at)
		}
	}
	b.note(name+"_claims", float64(claimed))
	b.note(name+"_claimed", lastClaimed.Seconds())
	b.note(name+"_jobs", float64(len(held)-claimed))
	if len(held) > claimed {
		b.note(name+"_fetched", lastFetched.Seconds())
	}
	var earlier, later []time.Duration
	for i, at := range committed {
		if _, was := held[l.ids[i]]; was {
			continue
		}
		waited := max(0, time.Duration(l.arrived[i].Load())-at)
		switch {
		case at < killed-answerTime && at > b.sizes.warmUp:
			earlier = append(earlier, waited)
		case at > killed:
			later = append(later, waited)
		}
	}
	if victim != "single" && len(earlier) > 0 && len(later) > 0 {
		b.note(name+"_before", milliseconds(percentile(earlier, 0.99)))
		b.note(name+"_after", milliseconds(percentile(later, 0.99)))
	}
}

// verifyKill: nothing is lost, and only what was claimed came twice.
func (b *bench) verifyKill(l *slowLedger, held map[string]bool) error {
	for i := range l.requests {
		n := l.requests[i].Load()
		if n == 0 || n > 1 && (n > 2 || !held[l.ids[i]]) {
			return b.wrong("delivery %s was received %d times; claimed by the killed node: %v", l.ids[i], n, held[l.ids[i]])
		}
	}
	return nil
}

// crashPostgres stops Postgres as a crash does while a backlog is worked, starts it again, and measures when the rate of
// before is back, counted from when the new server was started.
func (b *bench) crashPostgres(ctx context.Context) error {
	schema, err := b.database.newSchema(ctx)
	if err != nil {
		return err
	}
	n := b.sizes.crashRows
	l := newLedger(n)
	r, err := receive(ctx, healthy(l))
	if err != nil {
		return err
	}
	defer r.close()
	if err := b.insert(ctx, schema, rowsTo(l, r)); err != nil {
		return err
	}
	c, err := b.start(ctx, schema, nil, "serve")
	if err != nil {
		return err
	}
	defer c.stop() //nolint:errcheck // its end is of no interest: what it did is looked at
	for l.distinct.Load() < int64(n/4) {
		if err := c.pause(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
	usual := float64(l.distinct.Load()) / (l.now() - time.Duration(l.first.Load())).Seconds()
	if err := b.database.server.StopImmediate(); err != nil {
		return err
	}
	if err := b.database.server.Restart(ctx); err != nil {
		return err
	}
	b.database.postmaster = b.database.server.Pid()
	up := l.now()
	if err := c.wait(ctx, l.all); err != nil {
		return fmt.Errorf("%d of %d deliveries received after the crash: %w", l.distinct.Load(), n, err)
	}
	if err := b.untilAllSucceeded(ctx, schema, c); err != nil {
		return err
	}
	// The first half second that brought four fifths of the usual rate.
	const window = 500 * time.Millisecond
	counts := map[int]int{}
	for i := range l.arrived {
		if at := time.Duration(l.arrived[i].Load()); at > up {
			counts[int((at-up)/window)]++
		}
	}
	for w := range int((l.now() - up) / window) {
		if float64(counts[w]) >= 0.8*usual*window.Seconds() {
			b.note("recovery.postgres", (time.Duration(w) * window).Seconds())
			break
		}
	}
	for i := range l.requests {
		if l.requests[i].Load() == 0 {
			return b.wrong("delivery %s was not received", l.ids[i])
		}
	}
	return nil
}

// rollingRestarts stops one of two nodes after the other in order, and starts it again, under a steady rate.
func (b *bench) rollingRestarts(ctx context.Context) (err error) {
	schema, err := b.database.newSchema(ctx)
	if err != nil {
		return err
	}
	var children [2]*child
	defer func() {
		for _, c := range children {
			if c != nil {
				_, stopErr := c.stop()
				err = errors.Join(err, stopErr)
			}
		}
	}()
	start := func(i int) (err error) {
		if children[i], err = b.start(ctx, schema, []string{"RIVERHOOK_LOG_FORMAT=json"}, "serve"); err == nil {
			_, err = children[i].node(ctx)
		}
		return err
	}
	for i := range children {
		if err := start(i); err != nil {
			return err
		}
	}
	stopped := make(chan struct{})
	total := newSlowLedger(b.sizes.rollingRows)
	r, err := receive(ctx, total.answer)
	if err != nil {
		return err
	}
	defer r.close()
	inserted := make(chan error, 1)
	inserting, enough := context.WithCancel(ctx)
	defer enough()
	rows := 0
	go func() {
		defer close(stopped)
		var committed []time.Duration
		committed, _, err := b.insertSteadily(inserting, schema, total.ledger, r.url, b.sizes.steadyRate)
		for _, at := range committed {
			if at > 0 {
				rows++
			}
		}
		inserted <- err
	}()
	restarts := 0
	for ; restarts < b.sizes.restarts; restarts++ {
		c := children[restarts%2]
		children[restarts%2] = nil
		if _, err := c.stop(); err != nil {
			return err
		}
		if err := start(restarts % 2); err != nil {
			return err
		}
	}
	enough()
	<-stopped
	if err := <-inserted; err != nil && inserting.Err() == nil {
		return err
	}
	if err := b.untilAllSucceeded(ctx, schema, children[0]); err != nil {
		return err
	}
	var there, once int
	err = b.database.pool.QueryRow(ctx, in(schema, `SELECT count(*), count(*) FILTER (WHERE status = 'succeeded' AND attempt_count = 1) FROM {schema}.deliveries`)).Scan(&there, &once)
	if err != nil {
		return err
	}
	lost, twice := 0, 0
	ids, err := b.database.pool.Query(ctx, in(schema, `SELECT delivery_uuid::text FROM {schema}.deliveries`))
	if err != nil {
		return err
	}
	var uuid string
	_, err = pgx.ForEachRow(ids, []any{&uuid}, func() error {
		switch total.requests[total.index[uuid]].Load() {
		case 0:
			lost++
		case 1:
		default:
			twice++
		}
		return nil
	})
	if err != nil {
		return err
	}
	b.note("recovery.restarts", float64(restarts))
	b.note("recovery.restarts_deliveries", float64(there))
	b.note("recovery.restarts_lost", float64(lost))
	b.note("recovery.restarts_twice", float64(twice))
	if there < rows || lost > 0 || once != there {
		return b.wrong("of %d committed deliveries, %d are there, %d were not received, %d were received more than once, %d succeeded by their first attempt",
			rows, there, lost, twice, once)
	}
	return nil
}
