package store_test

import (
	"context"
	"encoding/json"
	"slices"
	"testing"
	"time"

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

	// What somebody wrote into the queue by hand is in nobody's way.
	db.Exec(t, `INSERT INTO riverhook.river_job (kind, args, queue, max_attempts, scheduled_at, state) VALUES ('deliver_webhook', '{"delivery_id": "x"}', 'webhooks', 1, now(), 'available')`)
	hangs := map[string]store.HoldReason{"http://hangs": store.HeldNoAnswer}
	cleared, err := st.HoldQueued(ctx, hangs, store.QueuePosition{}, 0, 100)
	require.NoError(t, err)
	assert.Equal(t, []int{3, 8}, []int{cleared.Held, cleared.Seen})
	last := store.QueuePosition{
		ScheduledAt: pgtest.Scalar[time.Time](t, db, `SELECT max(scheduled_at) FROM riverhook.river_job WHERE state = 'available'`),
		ID:          pgtest.Scalar[int64](t, db, `SELECT id FROM riverhook.river_job WHERE state = 'available' ORDER BY scheduled_at DESC, id DESC LIMIT 1`),
	}
	assert.True(t, last.ScheduledAt.Equal(cleared.Last.ScheduledAt))
	assert.Equal(t, last.ID, cleared.Last.ID)
	assert.Equal(t, []string{
		"hangs, due last 1 no_answer 0", "hangs 1 no_answer 0", "other 0 - 1", "later 0 - 0", "claimed 1 - 0", "canceled 0 - 1", "paused 1 paused 0", "no URL 0 - 1",
	}, pgtest.Column[string](t, db, heldRowsSQL))
	cleared, err = st.HoldQueued(ctx, hangs, store.QueuePosition{}, 0, 100)
	require.NoError(t, err)
	assert.Equal(t, []int{0, 5}, []int{cleared.Held, cleared.Seen})
	cleared, err = st.HoldQueued(ctx, hangs, last, 0, 100)
	require.NoError(t, err)
	assert.Zero(t, cleared.Seen, "there is none after the last")

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

// What is cleared of the queue goes on after a place, and leaves the first few. What is not held back is fetched meanwhile:
// what is before that place, and beyond it what is not held back.
func TestFetchWhileTheQueueIsCleared(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.MayHaveProblems(t, "jobs are fetched and never worked")
	st := store.New(db.Pool, db.Schema)
	ctx := context.Background()
	for range 3 {
		db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('http://fails/'), ('http://fails/'), ('http://other/'), ('http://fails/'), ('nonsense')`)
	}
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, organization_id) VALUES ('http://other/', 'acme'), ('http://other/', 'acme')`)
	db.Exec(t, `INSERT INTO riverhook.pauses (organization_id) VALUES ('acme')`)
	db.Exec(t, `INSERT INTO riverhook.river_job (kind, args, queue, max_attempts, scheduled_at, state) VALUES ('deliver_webhook', '{"delivery_id": "x"}', 'webhooks', 1, now(), 'available')`)
	fails := map[string]store.HoldReason{"http://fails": store.HeldFailing}
	ids := func(jobs []store.FetchedJob, err error) (ids []int64) {
		require.NoError(t, err)
		for _, j := range jobs {
			var args struct {
				ID any `json:"delivery_id"`
			}
			require.NoError(t, json.Unmarshal(j.Args, &args))
			id, _ := args.ID.(float64) // 0: what somebody wrote
			ids = append(ids, int64(id))
		}
		slices.Sort(ids)
		return ids
	}
	held := func() []int64 {
		return pgtest.Column[int64](t, db, `SELECT id FROM riverhook.deliveries WHERE held_since IS NOT NULL ORDER BY id`)
	}
	by := store.Fetcher{Node: "a-node", Nodes: 100}
	cleared, err := st.HoldQueued(ctx, fails, store.QueuePosition{}, 1, 7)
	require.NoError(t, err)
	assert.Equal(t, []int{4, 7}, []int{cleared.Held, cleared.Seen})
	assert.Equal(t, []int64{2, 4, 6, 7}, held())
	assert.Equal(t, []int64{1, 3, 5}, ids(st.FetchBetween(ctx, by, store.QueuePosition{}, cleared.Last, 100)))
	assert.Empty(t, ids(st.FetchBetween(ctx, by, store.QueuePosition{}, cleared.Last, 100)))
	assert.Equal(t, []int64{8}, ids(st.FetchExcept(ctx, by, time.Time{}, []string{"http://fails"}, 1)))
	assert.Equal(t, []int64{9}, ids(st.FetchExcept(ctx, by, time.Time{}, nil, 1)), "no origin, but what is paused")
	assert.Equal(t, []int64{10}, ids(st.FetchExcept(ctx, by, time.Time{}, []string{"http://fails"}, 1)))
	assert.Equal(t, []int64{0, 13, 15}, ids(st.FetchExcept(ctx, by, time.Time{}, []string{"http://fails"}, 100)))
	before := cleared.Last
	cleared, err = st.HoldQueued(ctx, fails, before, 0, 100)
	require.NoError(t, err)
	assert.Equal(t, []int{5, 5}, []int{cleared.Held, cleared.Seen})
	assert.Equal(t, []int64{2, 4, 6, 7, 11, 12, 14, 16, 17}, held())
	assert.Equal(t, []string{"paused"}, pgtest.Column[string](t, db, `SELECT DISTINCT held_reason FROM riverhook.deliveries WHERE id > 15`))
	assert.Empty(t, ids(st.Fetch(ctx, by, time.Time{}, 100)))
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
	for _, limits := range []struct {
		each, origins, altogether, passed int
		next                              string
	}{{3, 100, 1, 1, "http://a"}, {3, 1, 1000, 2, "http://a"}, {3, 100, 1000, 4, ""}} {
		// What passed before passes again, but for what is at the very front.
		passed, next, err := st.LetPass(ctx, store.Passing{Busy: []string{"http://busy"}, Each: limits.each, Origins: limits.origins, All: limits.altogether})
		require.NoError(t, err)
		assert.Equal(t, limits.passed, passed)
		assert.Equal(t, limits.next, next)
	}
	front := `SELECT (SELECT string_agg(endpoint_url, ' ' ORDER BY endpoint_url) FROM (
		SELECT d.endpoint_url FROM riverhook.river_job j JOIN riverhook.deliveries d ON d.id = (j.args->>'delivery_id')::bigint
		 WHERE j.state = 'available' ORDER BY j.priority, j.scheduled_at, j.id LIMIT 7) f)`
	assert.Equal(t, "http://a/ http://a/ http://a/ http://b/ http://b/ http://b/ http://busy/", pgtest.Scalar[string](t, db, front))

	// While the queue is cleared they pass to where it is fetched from then: those before that place; with Crowded, all.
	at := func(url string) time.Time {
		return pgtest.Scalar[time.Time](t, db, `SELECT max(j.scheduled_at) FROM riverhook.river_job j JOIN riverhook.deliveries d ON d.id = (j.args->>'delivery_id')::bigint
			WHERE j.state = 'available' AND d.endpoint_url = $1`, url)
	}
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('http://d/'), ('http://e/'), ('http://f/')`)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, scheduled_for) VALUES ('http://d/', now() + interval '1 minute')`)
	db.Exec(t, `INSERT INTO riverhook.pauses (endpoint_origin) VALUES ('http://f')`)
	db.Exec(t, `UPDATE riverhook.river_job j SET scheduled_at = now() - interval '1 minute' FROM riverhook.deliveries d
		WHERE d.id = (j.args->>'delivery_id')::bigint AND d.endpoint_url IN ('http://d/', 'http://f/') AND j.state = 'available'`)
	late := at("http://e/")
	since := time.Now().Add(-30 * time.Second)
	p := store.Passing{Busy: []string{"http://busy", "http://a", "http://b"}, Each: 1000, Origins: 1000, All: 1000, Since: since}
	passed, _, err := st.LetPass(ctx, p)
	require.NoError(t, err)
	assert.Equal(t, 1, passed)
	assert.WithinDuration(t, since, at("http://d/"), 20*time.Second)
	assert.Equal(t, late, at("http://e/"))
	p.Crowded = true
	passed, _, err = st.LetPass(ctx, p)
	require.NoError(t, err)
	assert.Positive(t, passed)
	assert.WithinDuration(t, since, at("http://e/"), 20*time.Second)
	assert.True(t, at("http://f/").Before(since), "paused")
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
		n, next, err := st.LetPass(context.Background(), store.Passing{Busy: []string{"http://busy"}, After: after, Each: 10, Origins: 20, All: 1000})
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
	cleared, err := st.HoldQueued(context.Background(), map[string]store.HoldReason{"http://a": store.HeldNoAnswer}, store.QueuePosition{}, 0, 10)
	require.NoError(t, err)
	require.Equal(t, 2, cleared.Held)
	db.Exec(t, `UPDATE riverhook.deliveries SET endpoint_url = 'not a url' WHERE id = (SELECT min(id) FROM riverhook.deliveries)`)
	page, err := st.SweepPage(context.Background(), store.SweepCursor{}, 100, nil)
	require.NoError(t, err)
	assert.Equal(t, 1, page.Requeued)
	assert.Equal(t, 1, page.Held)
}
