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
