package store_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

// heldRowsSQL: endpoint, generation, why it is held, and its jobs.
const heldRowsSQL = `
SELECT concat_ws(' ', d.webhook_name, d.claim, CASE WHEN d.held_since IS NULL THEN '-' ELSE d.held_reason END,
       (SELECT count(*) FROM riverhook.river_job j WHERE j.unique_key = riverhook.delivery_job_key(d.id, d.claim) AND j.state = 'available'))
  FROM riverhook.deliveries d ORDER BY d.id`

func TestHoldQueuedAndPull(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	st := store.New(db.Pool, db.Schema)
	ctx := context.Background()
	db.Exec(t, `
		INSERT INTO riverhook.deliveries (webhook_name, endpoint_url, organization_id, scheduled_for) VALUES
			('hangs, due last', 'http://hangs/', 'default', now() - interval '1 minute'),
			('hangs', 'http://hangs/x', 'default', now() - interval '2 minutes'),
			('other', 'http://other/', 'default', now()),
			('later', 'http://hangs/', 'default', now() + interval '1 hour'),
			('claimed', 'http://hangs/', 'default', now()),
			('canceled', 'http://hangs/', 'default', now()),
			('paused', 'http://other/', 'acme', now()),
			('no URL', 'nonsense', 'acme', now());
		UPDATE riverhook.deliveries SET claim = 1, claimed_by = 'n', leased_until = now() + interval '1 hour' WHERE webhook_name = 'claimed';
		UPDATE riverhook.deliveries SET status = 'canceled' WHERE webhook_name = 'canceled';
		INSERT INTO riverhook.pauses (organization_id) VALUES ('acme')`)

	held, err := st.HoldQueued(ctx, map[string]store.HoldReason{"http://hangs": store.HeldNoAnswer}, 100)
	require.NoError(t, err)
	assert.Equal(t, 3, held)
	assert.Equal(t, []string{
		"hangs, due last 1 no_answer 0", "hangs 1 no_answer 0", "other 0 - 1", "later 0 - 0", "claimed 1 - 0", "canceled 0 - 1", "paused 1 paused 0", "no URL 0 - 1",
	}, pgtest.Column[string](t, db, heldRowsSQL))
	held, err = st.HoldQueued(ctx, map[string]store.HoldReason{"http://hangs": store.HeldNoAnswer}, 100)
	require.NoError(t, err)
	assert.Zero(t, held)

	// A sweep knows that they have no job on purpose.
	page, err := st.SweepPage(ctx, store.SweepCursor{}, 100, nil)
	require.NoError(t, err)
	assert.Equal(t, 3, page.Held)
	assert.Zero(t, page.Requeued)

	receivers, err := st.HeldReceivers(ctx, store.Receiver{}, 10)
	require.NoError(t, err)
	assert.Equal(t, []store.Receiver{{Origin: "http://hangs", Organization: "default"}, {Origin: "http://other", Organization: "acme"}}, receivers)
	receivers, err = st.HeldReceivers(ctx, store.Receiver{}, 1)
	require.NoError(t, err)
	assert.Len(t, receivers, 1)
	receivers, err = st.HeldReceivers(ctx, receivers[0], 10)
	require.NoError(t, err)
	assert.Equal(t, []store.Receiver{{Origin: "http://other", Organization: "acme"}}, receivers)

	// The longest due first, and no more than was asked for.
	pulled, err := st.Pull(ctx, []store.Pull{
		{Receiver: store.Receiver{Origin: "http://nobody", Organization: "default"}, N: 5},
		{Receiver: store.Receiver{Origin: "http://hangs", Organization: "default"}, N: 1},
	})
	require.NoError(t, err)
	assert.Equal(t, []int{0, 1}, pulled)
	assert.Equal(t, []string{"hangs, due last 1 no_answer 0", "hangs 2 - 1"}, pgtest.Column[string](t, db, heldRowsSQL)[:2])
	pulled, err = st.Pull(ctx, []store.Pull{{Receiver: store.Receiver{Origin: "http://hangs", Organization: "default"}, N: 5}})
	require.NoError(t, err)
	assert.Equal(t, []int{1}, pulled)

	// Whoever acts on a held row has the last word.
	db.Exec(t, `UPDATE riverhook.deliveries SET scheduled_for = now() WHERE webhook_name = 'paused'`)
	assert.Equal(t, "paused 2 - 1", pgtest.Column[string](t, db, heldRowsSQL)[6])
}

func TestLetPass(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	st := store.New(db.Pool, db.Schema)
	ctx := context.Background()
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, scheduled_for) SELECT 'http://busy/', now() - interval '1 minute' FROM generate_series(1, 100)`)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) SELECT o FROM generate_series(1, 5), unnest(ARRAY['http://a/', 'http://b/']) o`)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, scheduled_for) VALUES ('http://c/', now() + interval '1 hour')`)
	db.Exec(t, `UPDATE riverhook.deliveries SET held_since = now() WHERE id = (SELECT min(id) FROM riverhook.deliveries WHERE endpoint_url = 'http://a/')`)
	for _, limits := range []struct{ each, origins, altogether, passed int }{{3, 100, 1, 1}, {3, 1, 1000, 2}, {3, 100, 1000, 4}} {
		// What passed before passes again, but for what is at the very front.
		passed, next, err := st.LetPass(ctx, []string{"http://busy"}, "", limits.each, limits.origins, limits.altogether)
		require.NoError(t, err)
		assert.Equal(t, limits.passed, passed)
		assert.Equal(t, limits.origins == 1, next == "http://a")
	}
	front := `SELECT (SELECT string_agg(endpoint_url, ' ' ORDER BY endpoint_url) FROM (
		SELECT d.endpoint_url FROM riverhook.river_job j JOIN riverhook.deliveries d ON d.id = (j.args->>'delivery_id')::bigint
		 WHERE j.state = 'available' ORDER BY j.priority, j.scheduled_at, j.id LIMIT 7) f)`
	assert.Equal(t, "http://a/ http://a/ http://a/ http://b/ http://b/ http://b/ http://busy/", pgtest.Scalar[string](t, db, front))
}

// A sweep of a large backlog takes long. While it holds its lock, what was deleted meanwhile can be forgotten: otherwise
// each fetch of a job would go through all of them.
func TestSweepLockHoldsBackNoVacuum(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	lock, _, ok, err := store.New(db.Pool, db.Schema).LockSweep(context.Background())
	require.NoError(t, err)
	require.True(t, ok)
	defer lock.Unlock()
	assert.Equal(t, "idle in transaction", pgtest.Scalar[string](t, db, `
		SELECT a.state || CASE WHEN a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL THEN ', with a snapshot' ELSE '' END
		  FROM pg_stat_activity a JOIN pg_locks l USING (pid) WHERE l.locktype = 'advisory' AND a.datname = current_database()`))
}

// However many origins come before it in the alphabet, each one's turn comes: those with nothing due cost a look, and the
// next call goes on where this one ended.
func TestLetPassComesToAll(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	st := store.New(db.Pool, db.Schema)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, scheduled_for) SELECT 'http://busy/', now() - interval '1 minute' FROM generate_series(1, 10)`)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, scheduled_for) SELECT 'http://a' || g || '/', now() + interval '1 day' FROM generate_series(1, 50) g`)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('http://z/')`)
	passed, calls := 0, 0
	for after := ""; calls == 0 || after != ""; calls++ {
		n, next, err := st.LetPass(context.Background(), []string{"http://busy"}, after, 10, 20, 1000)
		require.NoError(t, err)
		require.Greater(t, next+"~", after)
		passed, after = passed+n, next
	}
	assert.Equal(t, 1, passed)
	assert.Equal(t, 3, calls)
}

// Nobody pulls what has no origin: a held row whose URL is edited into none is the sweep's.
func TestSweepFreesWhatNobodyPulls(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	st := store.New(db.Pool, db.Schema)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('http://a/'), ('http://a/')`)
	held, err := st.HoldQueued(context.Background(), map[string]store.HoldReason{"http://a": store.HeldNoAnswer}, 10)
	require.NoError(t, err)
	require.Equal(t, 2, held)
	db.Exec(t, `UPDATE riverhook.deliveries SET endpoint_url = 'not a url' WHERE id = (SELECT min(id) FROM riverhook.deliveries)`)
	page, err := st.SweepPage(context.Background(), store.SweepCursor{}, 100, nil)
	require.NoError(t, err)
	assert.Equal(t, 1, page.Requeued)
	assert.Equal(t, 1, page.Held)
}
