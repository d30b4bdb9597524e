package node_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

// parked inserts dead letters to a receiver.
func parked(t testing.TB, db *pgtest.DB, url, organization string, n int) {
	t.Helper()
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, organization_id, status, scheduled_for, finished_at)
		SELECT $1, $2, 'dead_letter', NULL, now() FROM generate_series(1, $3)`, url, organization, n)
}

func addReplay(t testing.TB, db *pgtest.DB, filter store.ReplayFilter, pace int) store.BulkReplay {
	t.Helper()
	r, err := store.New(db.Pool, db.Schema).AddReplay(context.Background(), filter.OrganizationID, filter, pace, "somebody")
	require.NoError(t, err)
	return r
}

const replayIs = `SELECT status || ' ' || done FROM riverhook.replays WHERE id = $1`

func TestReplayInTheBackground(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := newReceiver(t, nil)
	parked(t, db, r.URL, "acme", 2500)
	parked(t, db, r.URL, "other", 3)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, organization_id, status, finished_at) VALUES ($1, 'acme', 'succeeded', now())`, r.URL)
	replay := addReplay(t, db, store.ReplayFilter{OrganizationID: "acme"}, 100_000)
	assert.Equal(t, int64(2500), replay.Matched)
	parked(t, db, r.URL, "acme", 1) // later: not meant
	start(t, config(t, db))
	eventually(t, db, "succeeded 2500", replayIs, replay.ID)
	eventually(t, db, 2501, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded' AND organization_id = 'acme'`)
	assert.Equal(t, 2500, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.deliveries WHERE round = 1`))
	assert.Equal(t, 4, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'dead_letter'`))
	assert.Equal(t, "somebody", pgtest.Scalar[string](t, db, `SELECT created_by FROM riverhook.replays WHERE finished_at IS NOT NULL AND claimed_by IS NULL`))
}

// A node dies in the middle: another one goes on where the row says, and no delivery is replayed twice.
func TestReplayAfterACrash(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := newReceiver(t, nil)
	parked(t, db, r.URL, "default", 30)
	replay := addReplay(t, db, store.ReplayFilter{}, 100_000)
	st := store.New(db.Pool, db.Schema)
	ctx := context.Background()
	claimed, ok, err := st.ClaimReplay(ctx, replay.ID, "dead", time.Hour)
	require.NoError(t, err)
	require.True(t, ok)
	done, more, held, err := st.ReplayPage(ctx, claimed, "dead", 10, time.Hour)
	require.NoError(t, err)
	assert.Equal(t, []any{10, true, true}, []any{done, more, held})
	_, ok, err = st.ClaimReplay(ctx, replay.ID, "other", time.Hour)
	require.NoError(t, err)
	assert.False(t, ok, "one node at a time")
	_, _, held, err = st.ReplayPage(ctx, claimed, "other", 10, time.Hour)
	require.NoError(t, err)
	assert.False(t, held, "and only it")
	orphans, err := st.OrphanedReplays(ctx)
	require.NoError(t, err)
	assert.Empty(t, orphans)

	db.Exec(t, `DELETE FROM riverhook.river_job WHERE kind = 'riverhook_replay'; UPDATE riverhook.replays SET leased_until = now()`) // an hour later
	start(t, config(t, db))
	eventually(t, db, "succeeded 30", replayIs, replay.ID)
	eventually(t, db, 30, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded' AND round = 1`)
	_, _, held, err = st.ReplayPage(ctx, claimed, "dead", 10, time.Hour)
	require.NoError(t, err)
	assert.False(t, held, "the dead come back too late")
}

// At its pace, and until it is canceled; a node that stops gives it back.
func TestReplayAtAPace(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := newReceiver(t, nil)
	parked(t, db, r.URL, "default", 1000)
	replay := addReplay(t, db, store.ReplayFilter{}, 10)
	_, stop := start(t, config(t, db))
	require.Eventually(t, func() bool {
		return pgtest.Scalar[int64](t, db, `SELECT done FROM riverhook.replays`) >= 20
	}, time.Minute, 10*time.Millisecond)
	// Of 10 a second, 20 take nearly two seconds: the first ones come at once.
	assert.GreaterOrEqual(t, pgtest.Scalar[float64](t, db, `SELECT coalesce(extract(epoch FROM max(updated_at) - min(updated_at)), 0)::float8 FROM riverhook.deliveries WHERE round = 1`), 1.0)
	stop()
	assert.Equal(t, "pending", pgtest.Scalar[string](t, db, `SELECT status FROM riverhook.replays WHERE claimed_by IS NULL AND last_error IS NULL`))
	assert.Equal(t, 1, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.river_job WHERE kind = 'riverhook_replay' AND state = 'available' AND args->>'replay_id' = $1::text`, "1"))

	st := store.New(db.Pool, db.Schema)
	before := pgtest.Scalar[int64](t, db, `SELECT done FROM riverhook.replays`)
	start(t, config(t, db))
	require.Eventually(t, func() bool { return pgtest.Scalar[int64](t, db, `SELECT done FROM riverhook.replays`) > before }, time.Minute, 10*time.Millisecond)
	r2, canceled, err := st.CancelReplay(context.Background(), replay.ID, "")
	require.NoError(t, err)
	assert.True(t, canceled)
	assert.Equal(t, store.ReplayCanceled, r2.Status)
	_, canceled, err = st.CancelReplay(context.Background(), replay.ID, "")
	require.NoError(t, err)
	assert.False(t, canceled)
	assert.Equal(t, r2.Done, int64(pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.deliveries WHERE round = 1`)), "what it says is what was done")
	// Its worker notices, and does no more: the next replay, of the same deliveries, begins while this one is over.
	next := addReplay(t, db, store.ReplayFilter{Status: []delivery.Status{delivery.StatusDeadLetter}}, 100_000)
	eventually(t, db, "succeeded", `SELECT status FROM riverhook.replays WHERE id = $1`, next.ID)
	assert.Equal(t, "canceled", pgtest.Scalar[string](t, db, `SELECT status FROM riverhook.replays WHERE id = $1`, replay.ID))
	assert.Equal(t, r2.Done, pgtest.Scalar[int64](t, db, `SELECT done FROM riverhook.replays WHERE id = $1`, replay.ID))
	assert.Equal(t, 1000, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.deliveries WHERE round = 1`))
}
