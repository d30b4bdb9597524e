package store_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

// Whatever the gaps in the ids and the transactions that took up to an hour, filters by time find what a scan finds.
func TestTimesAndIDs(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.insertMany(t, 60_000, "status, finished_at, created_at",
		`'dead_letter', now(), now() - (60000 - i) * interval '10 seconds' - CASE WHEN i % 7 = 0 THEN (i % 13) * interval '299 seconds' ELSE interval '0' END`)
	b.Exec(t, `DELETE FROM riverhook.deliveries WHERE id BETWEEN 1 AND 300 OR id BETWEEN 20000 AND 32000 OR id % 5 = 1`)
	now := pgtest.Scalar[time.Time](t, b.DB, `SELECT max(created_at) FROM riverhook.deliveries`)
	for _, ago := range []time.Duration{-time.Hour, 0, time.Second, 5 * time.Minute, 3 * time.Hour, 77 * time.Hour, 78*time.Hour + 7*time.Second, 100 * time.Hour, 111 * time.Hour, 165 * time.Hour, 167 * time.Hour, 1000 * time.Hour} {
		at := now.Add(-ago)
		for name, f := range map[string]store.Filter{
			">= $1": {Since: at},
			"< $1":  {Until: at},
			"BETWEEN $1::timestamptz - interval '30 minutes' AND $1::timestamptz - interval '1 microsecond'": {Since: at.Add(-30 * time.Minute), Until: at},
		} {
			want := pgtest.Column[int64](t, b.DB, `SELECT id FROM riverhook.deliveries WHERE created_at `+name+` ORDER BY id DESC LIMIT 1000`, at)
			rows, err := b.store.List(t.Context(), f, 0, 1000)
			require.NoError(t, err)
			assert.Equal(t, append([]int64{}, want...), ids(rows), "%s %s", name, ago)
			f.Statuses = []delivery.Status{delivery.StatusDeadLetter}
			rows, err = b.store.List(t.Context(), f, 0, 1000)
			require.NoError(t, err)
			assert.Equal(t, append([]int64{}, want...), ids(rows), "%s %s", name, ago)
			n, err := b.store.Count(t.Context(), store.ActionReplay, f)
			require.NoError(t, err)
			assert.Equal(t, pgtest.Scalar[int](t, b.DB, `SELECT count(*)::int FROM riverhook.deliveries WHERE created_at `+name, at), total(n), "%s %s", name, ago)
		}
	}
	// An action, too, and only on those.
	result, err := b.store.Replay(t.Context(), store.Filter{Since: now.Add(-2 * time.Hour), Until: now.Add(-time.Hour)}, "", nil)
	require.NoError(t, err)
	assert.Equal(t, pgtest.Scalar[int](t, b.DB, `SELECT count(*)::int FROM riverhook.deliveries WHERE created_at >= $1::timestamptz - interval '2 hours' AND created_at < $1::timestamptz - interval '1 hour'`, now), result.Changed)
	assert.Equal(t, result.Changed, pgtest.Scalar[int](t, b.DB, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'pending' AND created_at >= $1::timestamptz - interval '2 hours' AND created_at < $1::timestamptz - interval '1 hour'`, now))
}
