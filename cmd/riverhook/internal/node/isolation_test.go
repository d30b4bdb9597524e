package node_test

import (
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

// bulk inserts n deliveries to a URL.
func bulk(t testing.TB, db *pgtest.DB, url string, n int) {
	t.Helper()
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) SELECT $1 FROM generate_series(1, $2::int)`, url, n)
}

const succeededSQL = `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded' AND endpoint_url LIKE $1 || '%'`

// A receiver that hangs, and was there first, has its share of the places, and what is beyond it waits without a job; the
// deliveries of the others do not wait at all.
func TestReceiverThatHangsDelaysNobody(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	var inFlight, most atomic.Int64
	release := make(chan struct{})
	hangs := newReceiver(t, func(_ http.ResponseWriter, r *http.Request) {
		most.Store(max(most.Load(), inFlight.Add(1))) // good enough: nobody leaves before all are in
		defer inFlight.Add(-1)
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	bulk(t, db, hangs.URL, 500)
	others := newReceiver(t, nil)
	c := config(t, db)
	c.Concurrency, c.EndpointConcurrency, c.Timeout, c.Lease = 50, 5, time.Minute, 3*time.Minute
	start(t, c)
	eventually(t, db, 495, `SELECT count(*)::int FROM riverhook.deliveries WHERE held_since IS NOT NULL AND held_reason = 'no_answer' AND claimed_by IS NULL`)
	bulk(t, db, others.URL, 500)
	eventually(t, db, 500, succeededSQL, others.URL)
	assert.LessOrEqual(t, most.Load(), int64(5))
	assert.Equal(t, 5, hangs.count())
	assert.Equal(t, "0 495", pgtest.Scalar[string](t, db, `SELECT concat_ws(' ', sum(attempt_count), count(*) FILTER (WHERE held_since IS NOT NULL))
		FROM riverhook.deliveries WHERE status = 'pending'`), "holding back is no attempt")

	// As soon as it answers, all of it is pulled, once each.
	close(release)
	eventually(t, db, 500, succeededSQL, hangs.URL)
	assert.Equal(t, 500, hangs.count())
	assert.Equal(t, 1000, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.attempts`))
}

// One that fails every attempt is asked a few times a second, and all of its backlog comes when it has recovered.
func TestReceiverThatFailsIsPaced(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	var well atomic.Bool
	fails := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
		if !well.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	bulk(t, db, fails.URL, 2000)
	c := config(t, db)
	c.Concurrency, c.EndpointConcurrency, c.Policy.MaxAttempts = 50, 5, 1000
	start(t, c)
	eventually(t, db, true, `SELECT count(*) > 1500 FROM riverhook.deliveries WHERE held_since IS NOT NULL AND held_reason = 'failing'`)
	others := newReceiver(t, nil)
	bulk(t, db, others.URL, 100)
	eventually(t, db, 100, succeededSQL, others.URL)
	well.Store(true)
	eventually(t, db, 2000, succeededSQL, fails.URL)
	assert.Zero(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.deliveries WHERE held_since IS NOT NULL`))
}

// While a large backlog of one that fails, or is paused, is still in the queue, what comes for others does not wait until it is
// held back. It recovers meanwhile, or is resumed, and gets all of it.
func TestBacklogThatIsHeldIsInNobodysWay(t *testing.T) {
	t.Parallel()
	for _, reason := range []store.HoldReason{store.HeldFailing, store.HeldPaused} {
		t.Run(string(reason), func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			var well atomic.Bool
			well.Store(reason == store.HeldPaused)
			busy := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
				if !well.Load() {
					w.WriteHeader(http.StatusServiceUnavailable)
				}
			})
			if reason == store.HeldPaused {
				db.Exec(t, `INSERT INTO riverhook.pauses (endpoint_origin) VALUES ($1)`, busy.URL)
			}
			others := newReceiver(t, nil)
			const backlog = 8000
			bulk(t, db, others.URL, 20) // from before
			bulk(t, db, busy.URL, backlog/2)
			bulk(t, db, others.URL, 20) // in the middle
			bulk(t, db, busy.URL, backlog/2)
			c := config(t, db)
			c.Concurrency, c.EndpointConcurrency, c.Policy.MaxAttempts = 50, 5, 1000
			start(t, c)
			eventually(t, db, true, `SELECT count(*) > 0 FROM riverhook.deliveries WHERE held_reason = $1`, reason)
			bulk(t, db, others.URL, 60)
			eventually(t, db, 100, succeededSQL, others.URL)
			assert.Positive(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.river_job j JOIN riverhook.deliveries d ON d.id = (j.args->>'delivery_id')::bigint
				WHERE j.state = 'available' AND j.queue = 'webhooks' AND d.endpoint_url LIKE $1 || '%'`, busy.URL), "they did not wait for the whole backlog")
			if reason == store.HeldPaused {
				assert.Zero(t, busy.count())
				db.Exec(t, `DELETE FROM riverhook.pauses`)
			}
			well.Store(true)
			eventually(t, db, backlog, succeededSQL, busy.URL)
			assert.Equal(t, 100, others.count())
			assert.Zero(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.deliveries WHERE held_since IS NOT NULL`))
		})
	}
}

// However many receivers fail, each is asked now and then, so that whichever recovers gets what is held back for it.
func TestEachOfManyThatFailIsAsked(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	var well atomic.Pointer[string]
	var last string
	const receivers, each = 12, 100
	for range receivers {
		var url string
		r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
			if w := well.Load(); w != nil && *w == url {
				return
			}
			w.WriteHeader(http.StatusServiceUnavailable)
		})
		url = r.URL
		bulk(t, db, url, each)
		last = max(last, url)
	}
	c := config(t, db)
	c.Concurrency, c.EndpointConcurrency, c.Policy.MaxAttempts, c.Policy.BaseDelay = 50, 1, 1000, time.Minute
	start(t, c)
	eventually(t, db, true, `SELECT count(*) > $1::int FROM riverhook.deliveries WHERE held_reason = 'failing' AND NOT EXISTS (
		SELECT FROM riverhook.river_job WHERE state = 'available' AND queue = 'webhooks' AND scheduled_at <= now())`, receivers*each/2)
	well.Store(&last)
	eventually(t, db, 0, `SELECT count(*)::int FROM riverhook.deliveries WHERE held_since IS NOT NULL AND endpoint_origin = $1`, last)
}

// A receiver that answers, slowly, and has a backlog, leaves room for what comes later for others.
func TestOthersPassABacklog(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	slow := newReceiver(t, func(_ http.ResponseWriter, r *http.Request) {
		select { // an answer that takes its time
		case <-time.After(100 * time.Millisecond):
		case <-r.Context().Done():
		}
	})
	bulk(t, db, slow.URL, 2000) // 4 s worth and more
	c := config(t, db)
	c.Concurrency, c.EndpointConcurrency = 50, 5
	start(t, c)
	eventually(t, db, true, `SELECT count(*) > 50 FROM riverhook.deliveries WHERE status = 'succeeded'`)
	others := newReceiver(t, nil)
	bulk(t, db, others.URL, 50)
	eventually(t, db, 50, succeededSQL, others.URL)
	assert.Positive(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'pending'`), "they did not have to wait for the whole backlog")
	eventually(t, db, 2000, succeededSQL, slow.URL)
	assert.Equal(t, 2000, slow.count())
}

// A pause holds back within a moment, also what comes later and after a restart, and lets go of all of it.
func TestPause(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r, other := newReceiver(t, nil), newReceiver(t, nil)
	db.Exec(t, `INSERT INTO riverhook.pauses (endpoint_origin, organization_id) VALUES ($1, 'acme')`, r.URL)
	paused := insert(t, db, r.URL, "organization_id", "acme")
	_, stop := start(t, config(t, db))
	same := insert(t, db, r.URL)
	elsewhere := insert(t, db, other.URL, "organization_id", "acme")
	eventually(t, db, "succeeded round 0 attempts 1 abandoned 0 200 -", rowSQL, same)
	eventually(t, db, "succeeded round 0 attempts 1 abandoned 0 200 -", rowSQL, elsewhere)
	eventually(t, db, "paused", `SELECT coalesce(held_reason, '') FROM riverhook.deliveries WHERE id = $1`, paused)
	stop()
	start(t, config(t, db))
	late := insert(t, db, r.URL, "organization_id", "acme")
	eventually(t, db, "paused", `SELECT coalesce(held_reason, '') FROM riverhook.deliveries WHERE id = $1`, late)
	assert.Equal(t, 1, r.count())
	db.Exec(t, `DELETE FROM riverhook.pauses`)
	eventually(t, db, "succeeded round 0 attempts 1 abandoned 0 200 -", rowSQL, paused)
	eventually(t, db, "succeeded round 0 attempts 1 abandoned 0 200 -", rowSQL, late)
	assert.Equal(t, 3, r.count())

	status, err := store.New(db.Pool, db.Schema).Status(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []int{4, 2}, []int{status.Recent.Succeeded, status.Recent.Detoured}, "of those that were paused, the time says nothing about this program")
}

// More receivers than places hang. A receiver that answers is still served.
func TestManyReceiversThatHang(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	hangs := newReceiver(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	_, port, err := net.SplitHostPort(hangs.Listener.Addr().String())
	require.NoError(t, err)
	c := config(t, db)
	c.Concurrency, c.EndpointConcurrency, c.Timeout, c.Lease = 60, 5, 3*time.Second, 10*time.Second
	// localhost and its spellings are origins of their own.
	for _, host := range []string{"127.0.0.1", "localhost", "LOCALHOST.", "127.1", "127.0.1", "0x7f.1"} {
		db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) SELECT 'http://' || $1 || ':' || $2 || '/' FROM generate_series(1, 40)`, host, port)
	}
	others := newReceiver(t, nil)
	warm := insert(t, db, others.URL)
	start(t, c)
	eventually(t, db, "succeeded round 0 attempts 1 abandoned 0 200 -", rowSQL, warm)
	eventually(t, db, true, `SELECT count(*) > 150 FROM riverhook.deliveries WHERE held_since IS NOT NULL`)
	bulk(t, db, others.URL, 200)
	eventually(t, db, 201, succeededSQL, others.URL)
	assert.Positive(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'pending'`))
}
