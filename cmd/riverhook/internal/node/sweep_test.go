package node_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/node"
	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations/pgtest"
	"github.com/riverhook/riverhook/sweeper"
)

const (
	jobsSQL    = `SELECT count(*)::int FROM riverhook.river_job WHERE kind = 'deliver_webhook'`
	loseJobs   = `DELETE FROM riverhook.river_job`
	claimOfSQL = `SELECT claim FROM riverhook.deliveries WHERE id = $1`
)

// newSweeper is a sweeper without a node.
func newSweeper(t testing.TB, db *pgtest.DB) *sweeper.Sweeper {
	c := config(t, db)
	return sweeper.New(sweeper.Config{Store: store.New(db.Pool, db.Schema), Policy: c.Policy, Log: c.Log})
}

func sweep(t testing.TB, s *sweeper.Sweeper) sweeper.Counts {
	t.Helper()
	counts, err := s.Sweep(context.Background())
	require.NoError(t, err)
	return counts
}

// The periodic sweep is wired into a running node: nothing else would find this row, which no trigger saw.
func TestServeSweeps(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := newReceiver(t, nil)
	start(t, config(t, db))
	eventually(t, db, true, `SELECT EXISTS (SELECT FROM riverhook.river_job WHERE kind = 'riverhook_sweep' AND state = 'completed')`)
	db.Exec(t, `ALTER TABLE riverhook.deliveries DISABLE TRIGGER deliveries_enqueue`)
	id := insert(t, db, r.URL)
	require.Zero(t, pgtest.Scalar[int](t, db, jobsSQL))
	eventually(t, db, "succeeded round 0 attempts 1 abandoned 0 200 -", rowSQL, id)
}

func TestSweepFindsLostJobs(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]string{
		"deleted":            loseJobs,
		"canceled":           `UPDATE riverhook.river_job SET state = 'cancelled', finalized_at = now()`,
		"completed":          `UPDATE riverhook.river_job SET state = 'completed', finalized_at = now()`,
		"zombie running":     `UPDATE riverhook.river_job SET state = 'running', attempt = 1, attempted_at = now() - interval '31 seconds'`,
		"never promoted":     `UPDATE riverhook.river_job SET state = 'scheduled', scheduled_at = now() - interval '11 seconds'`,
		"scheduled too late": `UPDATE riverhook.river_job SET state = 'scheduled', scheduled_at = now() + interval '1 hour'`,
		"truncated":          `TRUNCATE riverhook.river_job`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			r := newReceiver(t, nil)
			id := insert(t, db, r.URL)
			db.Exec(t, lose)
			assert.Equal(t, sweeper.Counts{Overdue: 1, Requeued: 1}, sweep(t, newSweeper(t, db)))
			assert.Equal(t, int64(1), pgtest.Scalar[int64](t, db, claimOfSQL, id))
			assert.Equal(t, sweeper.Counts{Overdue: 1, Live: 1}, sweep(t, newSweeper(t, db)))
			start(t, config(t, db))
			eventually(t, db, "succeeded round 0 attempts 1 abandoned 0 200 -", rowSQL, id)
			assert.Equal(t, 1, r.count())
		})
	}
}

func TestSweepLeavesAlone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		prep string
		want sweeper.Counts
	}{
		"available job": {``, sweeper.Counts{Overdue: 1, Live: 1}},
		"just fetched":  {`UPDATE riverhook.river_job SET state = 'running', attempt = 1, attempted_at = now() - interval '20 seconds'`, sweeper.Counts{Overdue: 1, Live: 1}},
		"about to be promoted": {`UPDATE riverhook.river_job j SET state = 'scheduled', scheduled_at = d.scheduled_for FROM riverhook.deliveries d`,
			sweeper.Counts{Overdue: 1, Live: 1}},
		"not due":    {`UPDATE riverhook.deliveries SET scheduled_for = now() + interval '1 minute'; DELETE FROM riverhook.river_job`, sweeper.Counts{}},
		"being sent": {`UPDATE riverhook.deliveries SET claim = 1, claimed_by = 'other', leased_until = now() + interval '1 minute'; DELETE FROM riverhook.river_job`, sweeper.Counts{Overdue: 1, Leased: 1}},
		"held":       {`UPDATE riverhook.deliveries SET held_since = now() - interval '50 minutes'; DELETE FROM riverhook.river_job`, sweeper.Counts{Overdue: 1, Held: 1}},
		"terminal":   {`UPDATE riverhook.deliveries SET status = 'canceled'; DELETE FROM riverhook.river_job`, sweeper.Counts{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			id := insert(t, db, "http://127.0.0.1:1/")
			if c.prep != "" {
				db.Exec(t, c.prep)
			}
			before := pgtest.Scalar[string](t, db, `SELECT d::text || coalesce(j::text, '') FROM riverhook.deliveries d LEFT JOIN riverhook.river_job j ON true WHERE d.id = $1`, id)
			assert.Equal(t, c.want, sweep(t, newSweeper(t, db)))
			assert.Equal(t, before, pgtest.Scalar[string](t, db, `SELECT d::text || coalesce(j::text, '') FROM riverhook.deliveries d LEFT JOIN riverhook.river_job j ON true WHERE d.id = $1`, id))
		})
	}
}

func TestSweepOfAStaleHold(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := insert(t, db, "http://127.0.0.1:1/")
	db.Exec(t, `UPDATE riverhook.deliveries SET held_since = now() - interval '61 minutes'; `+loseJobs)
	assert.Equal(t, sweeper.Counts{Overdue: 1, Requeued: 1}, sweep(t, newSweeper(t, db)))
	assert.True(t, pgtest.Scalar[bool](t, db, `SELECT held_since IS NULL FROM riverhook.deliveries WHERE id = $1`, id))
}

func TestSweepSkipsALockedRow(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	locked, free := insert(t, db, "http://127.0.0.1:1/"), insert(t, db, "http://127.0.0.1:1/")
	db.Exec(t, loseJobs)
	ctx := context.Background()
	tx, err := db.Pool.Begin(ctx)
	require.NoError(t, err)
	defer tx.Rollback(ctx) //nolint:errcheck // ends the lock
	_, err = tx.Exec(ctx, `SELECT FROM riverhook.deliveries WHERE id = $1 FOR UPDATE`, locked)
	require.NoError(t, err)
	assert.Equal(t, sweeper.Counts{Overdue: 2, Requeued: 1, Skipped: 1}, sweep(t, newSweeper(t, db)))
	assert.Equal(t, int64(1), pgtest.Scalar[int64](t, db, claimOfSQL, free))
}

// A null is due now, however it got there.
func TestSweepOfANullTime(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := newReceiver(t, nil)
	db.Exec(t, `ALTER TABLE riverhook.deliveries DISABLE TRIGGER USER`)
	id := insert(t, db, r.URL, "scheduled_for", nil)
	db.Exec(t, `ALTER TABLE riverhook.deliveries ENABLE TRIGGER USER`)
	assert.Equal(t, 1, sweep(t, newSweeper(t, db)).Requeued)
	start(t, config(t, db))
	eventually(t, db, "succeeded round 0 attempts 1 abandoned 0 200 -", rowSQL, id)
}

func TestBacklogIsNotMultiplied(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) SELECT 'http://127.0.0.1:1/' FROM generate_series(1, 2500)`)
	s := newSweeper(t, db)
	for range 3 {
		assert.Equal(t, sweeper.Counts{Overdue: 2500, Live: 2500}, sweep(t, s))
	}
	assert.Equal(t, 2500, pgtest.Scalar[int](t, db, jobsSQL))
}

func TestOneSweepDrains(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) SELECT 'http://127.0.0.1:1/' FROM generate_series(1, 5000)`)
	db.Exec(t, loseJobs)
	assert.Equal(t, sweeper.Counts{Overdue: 5000, Requeued: 5000}, sweep(t, newSweeper(t, db)))
	assert.Equal(t, 5000, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.river_job j JOIN riverhook.deliveries d
		ON d.id = (j.args->>'delivery_id')::bigint AND d.claim = (j.args->>'claim')::bigint WHERE j.state = 'available' AND j.scheduled_at <= now()`))
}

func TestOneSweepAtATime(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	unlock, ok, err := store.New(db.Pool, db.Schema).LockSweep(context.Background())
	require.NoError(t, err)
	require.True(t, ok)
	_, err = newSweeper(t, db).Sweep(context.Background())
	require.ErrorIs(t, err, sweeper.ErrRunning)
	unlock()
	sweep(t, newSweeper(t, db))
}

// Abandoned attempts are in the ledger with their number; the first is tried again at once, the next ones back off, and
// the fifth in a row parks the delivery.
func TestAbandonedUntilParked(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	st, s := store.New(db.Pool, db.Schema), newSweeper(t, db)
	id := insert(t, db, "http://127.0.0.1:1/", "max_attempts", 2)
	for attempt := 1; attempt <= 5; attempt++ {
		claim := pgtest.Scalar[int64](t, db, claimOfSQL, id)
		claimed, err := st.Claim(context.Background(), fmt.Sprint("node-", attempt), []delivery.JobArgs{{DeliveryID: id, Claim: claim}},
			store.ClaimLimits{Lease: -time.Second, MaxPayload: 1 << 20, MaxBatch: 1 << 20})
		require.NoError(t, err)
		require.Equal(t, store.ClaimTaken, claimed[0].Verdict)
		require.Equal(t, attempt, claimed[0].Delivery.Attempt())

		counts := sweep(t, s)
		assert.Equal(t, 1, counts.Reclaimed)
		want := fmt.Sprintf("pending round 0 attempts %d abandoned %d - -", attempt, attempt)
		if attempt == 5 {
			want = "dead_letter round 0 attempts 5 abandoned 5 - -"
			assert.Equal(t, 1, counts.Parked)
		}
		assert.Equal(t, want, pgtest.Scalar[string](t, db, rowSQL, id))
		due := pgtest.Scalar[bool](t, db, `SELECT coalesce(scheduled_for <= now(), false) FROM riverhook.deliveries WHERE id = $1`, id)
		assert.Equal(t, attempt == 1, due, "only the first is due at once")
		db.Exec(t, `UPDATE riverhook.deliveries SET scheduled_for = now() WHERE id = $1 AND status = 'pending' AND scheduled_for > now()`, id)
	}
	assert.Equal(t, []string{"0.1 abandoned", "0.2 abandoned", "0.3 abandoned", "0.4 abandoned", "0.5 abandoned"}, ledger(t, db, id))
	assert.Contains(t, pgtest.Scalar[string](t, db, `SELECT last_error FROM riverhook.deliveries WHERE id = $1`, id), "5 attempts in a row")
}

// Abandoned attempts do not use up max_attempts.
func TestAbandonedDoesNotCount(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := answers(t, 500)
	id := insert(t, db, r.URL, "max_attempts", 2)
	_, err := store.New(db.Pool, db.Schema).Claim(context.Background(), "dead", []delivery.JobArgs{{DeliveryID: id}},
		store.ClaimLimits{Lease: -time.Second, MaxPayload: 1 << 20, MaxBatch: 1 << 20})
	require.NoError(t, err)
	start(t, config(t, db))
	eventually(t, db, "dead_letter round 0 attempts 3 abandoned 0 500 -", rowSQL, id)
	assert.Equal(t, []string{"0.1 abandoned", "0.2 transient status 500", "0.3 transient status 500"}, ledger(t, db, id))
}

// Canceled in flight, and then the node died: the attempt comes into the ledger, and the row is finished.
func TestSweepOfACanceledClaim(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := insert(t, db, "http://127.0.0.1:1/")
	_, err := store.New(db.Pool, db.Schema).Claim(context.Background(), "dead", []delivery.JobArgs{{DeliveryID: id}},
		store.ClaimLimits{Lease: -time.Second, MaxPayload: 1 << 20, MaxBatch: 1 << 20})
	require.NoError(t, err)
	db.Exec(t, `UPDATE riverhook.deliveries SET status = 'canceled' WHERE id = $1`, id)
	assert.Equal(t, 1, sweep(t, newSweeper(t, db)).Reclaimed)
	assert.Equal(t, "canceled round 0 attempts 1 abandoned 1 - -", pgtest.Scalar[string](t, db, rowSQL, id))
	assert.Equal(t, []string{"0.1 abandoned"}, ledger(t, db, id))
	assert.True(t, pgtest.Scalar[bool](t, db, `SELECT finished_at IS NOT NULL FROM riverhook.deliveries WHERE id = $1`, id))
	assert.Zero(t, sweep(t, newSweeper(t, db)))
}

// A node that is told to stop finishes what is in flight, and leaves nothing claimed.
func TestStopFinishesAttempts(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	g := newGate(t)
	_, stop := start(t, config(t, db))
	for range 30 {
		insert(t, db, g.URL)
	}
	for range 30 {
		g.wait(t)
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		stop()
	}()
	for range 30 {
		g.open <- 200
	}
	<-stopped
	assert.Equal(t, 30, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded'`))
	assert.Equal(t, 30, g.count())
}

func TestPostgresRestarts(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, map[string]string{"synchronous_commit": "on"})
	db := pgtest.NewOn(t, server.URL("postgres"))
	r := newReceiver(t, nil)
	start(t, config(t, db))
	first := insert(t, db, r.URL)
	eventually(t, db, "succeeded", `SELECT status FROM riverhook.deliveries WHERE id = $1`, first)
	for range 2 {
		require.NoError(t, server.StopImmediate())
		require.NoError(t, server.Restart(context.Background()))
		db.Pool.Reset()
		id := insert(t, db, r.URL)
		eventually(t, db, "succeeded round 0 attempts 1 abandoned 0 200 -", rowSQL, id)
	}
}

func TestWaitsForPostgres(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, map[string]string{"synchronous_commit": "on"})
	db := pgtest.NewOn(t, server.URL("postgres"))
	r := newReceiver(t, nil)
	id := insert(t, db, r.URL)
	require.NoError(t, server.StopImmediate())
	n, _ := start(t, config(t, db))
	require.Error(t, n.Ready(context.Background()))
	stopped, err := node.New(config(t, db))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.NoError(t, stopped.Run(ctx), "it can be stopped while it waits")
	require.NoError(t, server.Restart(context.Background()))
	db.Pool.Reset()
	eventually(t, db, "succeeded", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
	require.NoError(t, n.Ready(context.Background()))
}
