package node_test

import (
	"context"
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

// Retention is wired into a running node, and with nothing to remove for ever it is not.
func TestServeRemoves(t *testing.T) {
	t.Parallel()
	for _, retention := range []time.Duration{0, time.Hour} {
		db := pgtest.New(t)
		db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, status, finished_at) VALUES ('http://a/', 'succeeded', now() - interval '2 hours')`)
		c := config(t, db)
		c.Retention = retention
		start(t, c)
		if retention > 0 {
			eventually(t, db, 0, `SELECT count(*)::int FROM riverhook.deliveries`)
			continue
		}
		// One of them is the leader's: it enqueues its periodic jobs together.
		eventually(t, db, true, `SELECT count(*) > 1 FROM riverhook.river_job WHERE kind = 'riverhook_sweep' AND state = 'completed'`)
		assert.Zero(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.river_job WHERE kind = 'riverhook_retention'`))
	}
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
			// A job that is there, and only was not promoted, is promoted; one that is gone is replaced; one that would stand in the
			// way of its like is replaced for a new generation.
			want := int64(0)
			if name == "zombie running" {
				want = 1
			}
			assert.Equal(t, want, pgtest.Scalar[int64](t, db, claimOfSQL, id))
			assert.Equal(t, 1, pgtest.Scalar[int](t, db, jobsSQL+` AND state = 'available' AND scheduled_at <= now()`))
			assert.Equal(t, sweeper.Counts{Overdue: 1, Live: 1}, sweep(t, newSweeper(t, db)))
			start(t, config(t, db))
			eventually(t, db, "succeeded round 0 attempts 1 abandoned 0 200 -", rowSQL, id)
			assert.Equal(t, 1, r.count())
		})
	}
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
	// The first delivery may be there before the node has said that it is ready.
	require.Eventually(t, func() bool { return n.Ready(context.Background()) == nil }, 20*time.Second, 10*time.Millisecond)
}
