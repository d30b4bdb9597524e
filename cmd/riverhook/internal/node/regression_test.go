package node_test

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

// A bulk insert into a table whose statistics say that it is small is delivered. (That no statement goes through all pending
// rows for each of its own, which once stopped everything, is held by the test of the plans.)
func TestBulkInsertOnStaleStatistics(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `ALTER TABLE riverhook.deliveries SET (autovacuum_enabled = off)`)
	db.Exec(t, `ALTER TABLE riverhook.river_job SET (autovacuum_enabled = off)`)
	r := newReceiver(t, nil)
	start(t, config(t, db))
	for range 30 { // so that statements are prepared, and planned for a small table
		insert(t, db, r.URL)
	}
	eventually(t, db, 30, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded'`)
	db.Exec(t, `ANALYZE riverhook.deliveries`)
	const n = 5_000
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) SELECT $1 FROM generate_series(1, $2)`, r.URL, n)
	eventually(t, db, n+30, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded'`)
	assert.Equal(t, n+30, r.count())
}

// A new time for a row that is being sent does not hide it from the sweep, should its node die.
func TestTimeOfAClaimedRowStays(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	st := store.New(db.Pool, db.Schema)
	for _, value := range []string{"NULL", "now() + interval '1 hour'"} {
		id := insert(t, db, "http://127.0.0.1:1/")
		_, err := st.Claim(context.Background(), "dead", []delivery.JobArgs{{DeliveryID: id}}, store.ClaimLimits{Lease: -time.Second, MaxPayload: 1 << 20, MaxBatch: 1 << 20})
		require.NoError(t, err)
		db.Exec(t, `UPDATE riverhook.deliveries SET scheduled_for = `+value+` WHERE id = $1`, id)
		counts, err := newSweeper(t, db).Sweep(context.Background())
		require.NoError(t, err)
		assert.Equal(t, 1, counts.Reclaimed, value)
		db.Exec(t, `UPDATE riverhook.deliveries SET status = 'canceled' WHERE id = $1`, id)
		db.Exec(t, `UPDATE riverhook.deliveries SET scheduled_for = now() WHERE id = $1`, id)
		assert.True(t, pgtest.Scalar[bool](t, db, `SELECT scheduled_for IS NULL FROM riverhook.deliveries WHERE id = $1`, id), "null once terminal")
	}
}

// A claim that waits for a locked table until it is given up is not released from under the attempt that follows it.
func TestClaimGivenUpWhileTheTableIsLocked(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	var open atomic.Int64 // attempts in flight, by delivery: more than one at a time is what must not be
	var most atomic.Int64
	r := newReceiver(t, func(http.ResponseWriter, *http.Request) {
		most.Store(max(most.Load(), open.Add(1)))
		time.AfterFunc(500*time.Millisecond, func() { open.Add(-1) })
		<-time.After(500 * time.Millisecond)
	})
	c := config(t, db)
	c.Timeout, c.Lease = 30*time.Second, 90*time.Second
	start(t, c)
	ctx := context.Background()
	tx, err := db.Pool.Begin(ctx)
	require.NoError(t, err)
	id := pgtest.Scalar[int64](t, db, `INSERT INTO riverhook.deliveries (endpoint_url, scheduled_for) VALUES ($1, now() + interval '1 second') RETURNING id`, r.URL)
	_, err = tx.Exec(ctx, `LOCK TABLE riverhook.deliveries IN ACCESS EXCLUSIVE MODE`)
	require.NoError(t, err)
	// Until a claim has waited, and was given up.
	require.Eventually(t, func() bool {
		return pgtest.Scalar[bool](t, db, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%payload_bytes%')`)
	}, 20*time.Second, 10*time.Millisecond)
	require.Eventually(t, func() bool {
		return !pgtest.Scalar[bool](t, db, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%payload_bytes%')`)
	}, 20*time.Second, 10*time.Millisecond)
	require.NoError(t, tx.Rollback(ctx))
	eventually(t, db, "succeeded round 0 attempts 1 abandoned 0 200 -", rowSQL, id)
	assert.Equal(t, 1, r.count())
	assert.LessOrEqual(t, most.Load(), int64(1))
}

// After a crash everything that was in flight has one abandoned attempt: that holds nothing back.
func TestCrashDoesNotSqueezeTheInnocent(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	const n = 100
	arrived := make(chan struct{}, n)
	hold := make(chan struct{})
	r := newReceiver(t, func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-hold
	})
	for range n {
		insert(t, db, r.URL)
	}
	db.Exec(t, `UPDATE riverhook.deliveries SET claim = 1, claimed_by = 'dead', leased_until = now() - interval '1 second'`)
	c := config(t, db)
	start(t, c)
	for range n { // all at once
		select {
		case <-arrived:
		case <-time.After(20 * time.Second):
			t.Fatal("they wait for each other")
		}
	}
	close(hold)
	eventually(t, db, n, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded' AND attempt_count = 2`)
}

// One that takes its node down again and again does not take the innocent with it: they go one at a time by then.
func TestSuspectsGoAFewAtATime(t *testing.T) {
	t.Parallel()
	for abandoned, limit := range map[int]int64{2: 4, 3: 1, 4: 1} {
		t.Run(strconv.Itoa(abandoned), func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			db.MayHaveProblems(t, "their earlier attempts are made up")
			var flying, most atomic.Int64
			r := newReceiver(t, func(http.ResponseWriter, *http.Request) {
				most.Store(max(most.Load(), flying.Add(1)))
				<-time.After(20 * time.Millisecond)
				flying.Add(-1)
			})
			db.Exec(t, fmt.Sprintf(`INSERT INTO riverhook.deliveries (endpoint_url, abandoned_count, attempt_count) SELECT $1, %d, %d FROM generate_series(1, 30)`, abandoned, abandoned), r.URL)
			start(t, config(t, db))
			eventually(t, db, 30, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded' AND abandoned_count = 0`)
			assert.LessOrEqual(t, most.Load(), limit)
		})
	}
}

// Whatever isolation the role's default is.
func TestSerializableDefault(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = serializable', current_database()); END $$`)
	r := answers(t, 503, 200)
	start(t, config(t, db))
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) SELECT $1 FROM generate_series(1, 500)`, r.URL)
	eventually(t, db, 500, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded' AND attempt_count = 2`)
	assert.Equal(t, 1000, r.count())
}

// A row that fails the claim of its batch fails it alone.
func TestClaimFails(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := newReceiver(t, nil)
	db.Exec(t, `CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.webhook_name = 'bad' THEN RAISE EXCEPTION 'bad row' USING ERRCODE = '22000'; END IF; RETURN NEW; END $$`)
	db.Exec(t, `CREATE TRIGGER fail BEFORE UPDATE OF claim ON riverhook.deliveries FOR EACH ROW EXECUTE FUNCTION public.fail()`)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, webhook_name) SELECT $1, CASE WHEN i = 50 THEN 'bad' END FROM generate_series(1, 100) i`, r.URL)
	start(t, config(t, db))
	eventually(t, db, 99, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded'`)
	db.Exec(t, `DROP TRIGGER fail ON riverhook.deliveries`)
	eventually(t, db, 100, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded'`)
	assert.Equal(t, 100, r.count())
}
