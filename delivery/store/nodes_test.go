package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

func connect(t testing.TB, db *pgtest.DB) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), db.URL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func TestPresence(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	db := pgtest.New(t)
	s := store.New(db.Pool, db.Schema)
	silent := func() []store.Silence {
		look, err := s.Look(ctx, "watcher")
		require.NoError(t, err)
		return look.Silent
	}
	dead := func(who store.Silence) bool {
		dead, err := s.DeclareDead(ctx, who)
		require.NoError(t, err)
		return dead
	}
	require.NoError(t, s.Register(ctx, "watcher", "v1"))
	require.NoError(t, s.Register(ctx, "a", "v1"))
	require.NoError(t, s.Register(ctx, "a", "v1"), "twice")
	require.ErrorContains(t, s.TakePresence(ctx, connect(t, db), "stranger"), "row is gone")
	assert.Empty(t, silent(), "who never had a lock is not missed")

	conn := connect(t, db)
	require.NoError(t, s.TakePresence(ctx, conn, "a"))
	holds, err := s.HoldsPresence(ctx, conn, "a")
	require.NoError(t, err)
	assert.True(t, holds)
	assert.Empty(t, silent())
	holds, err = s.HoldsPresence(ctx, connect(t, db), "a")
	require.NoError(t, err)
	assert.False(t, holds, "another session")

	// A session that was lost gives way to the new one.
	second := connect(t, db)
	require.NoError(t, s.TakePresence(ctx, second, "a"))
	_, err = s.HoldsPresence(ctx, conn, "a")
	require.Error(t, err)
	assert.Empty(t, silent())

	_ = second.Close(ctx)
	var found []store.Silence
	require.Eventually(t, func() bool { found = silent(); return len(found) == 1 }, 10*time.Second, 10*time.Millisecond)
	assert.Equal(t, "a", found[0].Node)
	// It comes back before it is declared dead: what was seen is no longer true.
	third := connect(t, db)
	require.NoError(t, s.TakePresence(ctx, third, "a"))
	assert.False(t, dead(found[0]))
	_ = third.Close(ctx)
	require.Eventually(t, func() bool { return len(silent()) == 1 }, 10*time.Second, 10*time.Millisecond)
	assert.False(t, dead(found[0]), "it has been back in between")
	found = silent()
	require.Eventually(t, func() bool { return dead(found[0]) }, 30*time.Second, 10*time.Millisecond, "once Postgres has been up for long enough")
	assert.False(t, dead(found[0]), "only one says so")
	assert.Empty(t, silent())

	// Not dead after all.
	fourth := connect(t, db)
	require.NoError(t, s.TakePresence(ctx, fourth, "a"))
	assert.True(t, pgtest.Scalar[bool](t, db, `SELECT dead_at IS NULL FROM riverhook.nodes WHERE node = 'a'`))
	require.NoError(t, s.Leave(ctx, "a", false))
	assert.Zero(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.nodes WHERE node = 'a'`))
}

// What dead nodes held, and only that, is taken back.
func TestReclaimDead(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	db := pgtest.New(t)
	s := store.New(db.Pool, db.Schema)
	db.Exec(t, `INSERT INTO riverhook.nodes (node, version, taken_at, dead_at) VALUES ('dead', 'v1', now(), now()), ('alive', 'v1', now(), NULL)`)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, webhook_name) SELECT 'http://example.com/', n FROM unnest(ARRAY[
		'claimed by the dead', 'claimed by the living', 'canceled in flight', 'fetched by the dead', 'fetched by the living', 'waiting']) n`)
	const claim = `UPDATE riverhook.deliveries SET claim = claim + 1, claimed_by = $2, leased_until = now() + interval '1 hour' WHERE webhook_name = $1`
	db.Exec(t, claim, "claimed by the dead", "dead")
	db.Exec(t, claim, "claimed by the living", "alive")
	db.Exec(t, claim, "canceled in flight", "dead")
	db.Exec(t, `UPDATE riverhook.deliveries SET status = 'canceled' WHERE webhook_name = 'canceled in flight'`)
	const fetch = `UPDATE riverhook.river_job j SET state = 'running', attempt = 1, attempted_at = now(), attempted_by = ARRAY['earlier', $2]
		FROM riverhook.deliveries d WHERE (j.args->>'delivery_id')::bigint = d.id AND d.webhook_name = $1`
	for _, name := range []string{"claimed by the dead", "canceled in flight", "fetched by the dead"} {
		db.Exec(t, fetch, name, "dead")
	}
	for _, name := range []string{"claimed by the living", "fetched by the living"} {
		db.Exec(t, fetch, name, "alive")
	}
	abandoned := func(d *delivery.Delivery) store.Attempt {
		return store.Attempt{Fence: d.Fence(), Round: d.Round, Number: d.Attempt(), Error: "gone",
			Decision: delivery.Decision{Outcome: delivery.OutcomeAbandoned, Status: delivery.StatusPending, Error: "gone"}}
	}
	var pages, requeued int
	var reclaimed []int64
	for page := (store.DeadPage{}); !page.Last; {
		var err error
		page, err = s.ReclaimDead(ctx, page.Next, 2, abandoned)
		require.NoError(t, err)
		assert.Equal(t, []string{"dead"}, page.Nodes)
		for _, a := range page.Reclaimed {
			reclaimed = append(reclaimed, a.Fence.ID)
		}
		requeued += page.Requeued
		pages++
	}
	assert.GreaterOrEqual(t, pages, 3)
	assert.Equal(t, 1, requeued)
	assert.ElementsMatch(t, pgtest.Column[int64](t, db, `SELECT id FROM riverhook.deliveries WHERE webhook_name IN ('claimed by the dead', 'canceled in flight')`), reclaimed)
	assert.Equal(t, []string{
		"canceled in flight: canceled, no claim, 1 abandoned, jobs: none",
		"claimed by the dead: pending, no claim, 1 abandoned, jobs: available",
		"claimed by the living: pending, alive, 0 abandoned, jobs: running",
		"fetched by the dead: pending, no claim, 0 abandoned, jobs: available",
		"fetched by the living: pending, no claim, 0 abandoned, jobs: running",
		"waiting: pending, no claim, 0 abandoned, jobs: available",
	}, pgtest.Column[string](t, db, `
		SELECT format('%s: %s, %s, %s abandoned, jobs: %s', d.webhook_name, d.status, coalesce(d.claimed_by, 'no claim'),
		       (SELECT count(*) FROM riverhook.attempts a WHERE a.delivery_id = d.id AND a.outcome = 'abandoned'),
		       coalesce((SELECT string_agg(j.state::text, ', ') FROM riverhook.river_job j WHERE (j.args->>'delivery_id')::bigint = d.id), 'none'))
		  FROM riverhook.deliveries d ORDER BY 1`))
	require.NoError(t, s.ReclaimedAll(ctx, []string{"dead", "alive"}))
	look, err := s.Look(ctx, "alive")
	require.NoError(t, err)
	assert.False(t, look.Unswept)
	assert.True(t, pgtest.Scalar[bool](t, db, `SELECT reclaimed_at IS NULL FROM riverhook.nodes WHERE node = 'alive'`))
	page, err := s.ReclaimDead(ctx, store.SweepCursor{}, 2, abandoned)
	require.NoError(t, err)
	assert.True(t, page.Last)
	assert.Empty(t, page.Nodes)
}
