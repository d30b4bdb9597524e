package sweeper_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations/pgtest"
	"github.com/riverhook/riverhook/sweeper"
)

// Where nobody else sweeps, such as while River has no leader, the watch does.
func TestWatchSweeps(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('http://example.com/')`)
	db.Exec(t, `TRUNCATE riverhook.river_job`)
	s := store.New(db.Pool, db.Schema)
	require.NoError(t, s.Register(t.Context(), "me", "v1"))
	log := slog.New(slog.DiscardHandler)
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	watch := sweeper.NewWatch(sweeper.WatchConfig{
		Store: s, Sweeper: sweeper.New(sweeper.Config{Store: s, Log: log, Node: "me"}), Log: log, Node: "me", Interval: 100 * time.Millisecond,
	})
	running.Go(func() { watch.Run(ctx) })
	defer running.Wait()
	defer stop()
	require.Eventually(t, func() bool {
		return pgtest.Scalar[bool](t, db, `SELECT (SELECT count(*) FROM riverhook.river_job WHERE state = 'available') = 1
			AND swept_at IS NOT NULL FROM riverhook.nodes`)
	}, time.Minute, 20*time.Millisecond)
}

// A node that dies while the pages of another one are gone through is not done with: the pages before did not ask for it.
func TestReclaimOfWhoDiesMeanwhile(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ctx := t.Context()
	const pageAndMore = 10_001
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) SELECT 'http://example.com/' FROM generate_series(1, $1::int)`, pageAndMore)
	db.Exec(t, `UPDATE riverhook.deliveries SET claim = claim + 1, leased_until = now() + interval '1 hour',
		claimed_by = CASE id WHEN (SELECT min(id) FROM riverhook.deliveries) THEN 'first' ELSE 'second' END
		WHERE id < (SELECT min(id) + 2 FROM riverhook.deliveries)`)
	db.Exec(t, `INSERT INTO riverhook.nodes (node, version, dead_at) VALUES ('first', 'v1', now()), ('second', 'v1', NULL)`)
	s := sweeper.New(sweeper.Config{
		Store: store.New(db.Pool, db.Schema), Log: slog.New(slog.DiscardHandler), Node: "me",
		Hooks: sweeper.Hooks{Reclaimed: func(a store.Attempt) {
			if a.Fence.Node == "first" {
				db.Exec(t, `UPDATE riverhook.nodes SET dead_at = now() WHERE node = 'second'`)
			}
		}},
	})
	counts, err := s.Reclaim(ctx)
	require.NoError(t, err)
	require.Equal(t, 1, counts.Reclaimed)
	counts, err = s.Reclaim(ctx)
	require.NoError(t, err)
	require.Equal(t, 1, counts.Reclaimed, "of the second node")
	require.Equal(t, 2, pgtest.Scalar[int](t, db, `SELECT count(reclaimed_at)::int FROM riverhook.nodes`))
}
