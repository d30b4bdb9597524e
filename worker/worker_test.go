package worker

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// onDatabase is a worker with a store, which sends through transport.
func onDatabase(t *testing.T, db *pgtest.DB, transport http.RoundTripper) *Worker {
	t.Helper()
	w := New(Config{
		Store: store.New(db.Pool, db.Schema), Transport: transport, Log: slog.New(slog.DiscardHandler), Node: "me",
		Policy: delivery.DefaultPolicy(), Headers: testHeaders(), Timeout: ample, Lease: 2 * time.Minute, MaxPayload: 1 << 20,
		Concurrency: 100, EndpointConcurrency: 10,
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		w.Close(ctx)
	})
	return w
}

func jobOf(id, claim int64) *river.Job[delivery.JobArgs] {
	return &river.Job[delivery.JobArgs]{JobRow: &rivertype.JobRow{}, Args: delivery.JobArgs{DeliveryID: id, Claim: claim}}
}

const (
	insertSQL = `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('http://receiver.example/') RETURNING id`
	// standingSQL: status, generation, who has claimed it, and the jobs of this generation.
	standingSQL = `SELECT concat_ws(' ', d.status, d.claim, coalesce(d.claimed_by, '-'),
		(SELECT count(*) FROM riverhook.river_job j WHERE j.unique_key = riverhook.delivery_job_key(d.id, d.claim))) FROM riverhook.deliveries d WHERE id = $1`
)

// never is a receiver that must not be reached.
func never(t *testing.T) http.RoundTripper {
	return roundTrip(func(*http.Request) (*http.Response, error) {
		t.Error("it was sent")
		return nil, errors.New("not here")
	})
}

// A claim of unknown outcome was committed. Until it is released, its job does not claim again: the second claim would have
// the fence that the release names.
func TestUnknownClaimIsNotRepeatedBeforeItsRelease(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	w := onDatabase(t, db, never(t))
	id := pgtest.Scalar[int64](t, db, insertSQL)
	db.Exec(t, `UPDATE riverhook.deliveries SET claim = 1, claimed_by = 'me', leased_until = now() + interval '1 minute' WHERE id = $1`, id)
	ctx := context.Background()
	tx, err := db.Pool.Begin(ctx)
	require.NoError(t, err)
	defer tx.Rollback(ctx)                                                                 //nolint:errcheck // where the test fails
	_, err = tx.Exec(ctx, `SELECT FROM riverhook.deliveries WHERE id = $1 FOR UPDATE`, id) // holds the release up
	require.NoError(t, err)
	w.releaseUnknown([]delivery.JobArgs{{DeliveryID: id}})
	var snoozed *river.JobSnoozeError
	require.ErrorAs(t, w.Work(ctx, jobOf(id, 0)), &snoozed)
	require.ErrorAs(t, w.Work(ctx, jobOf(id, 1)), &snoozed, "nor does any other of its jobs")
	require.NoError(t, tx.Commit(ctx))
	require.Eventually(t, func() bool { return !w.isUnresolved(id) }, time.Minute, time.Millisecond)
	require.NoError(t, w.Work(ctx, jobOf(id, 0)))
}

// The release of a committed claim gives the row a new generation and a job, and takes the mark away.
func TestReleaseOfAnUnknownClaim(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	w := onDatabase(t, db, never(t))
	id := pgtest.Scalar[int64](t, db, insertSQL)
	db.Exec(t, `UPDATE riverhook.deliveries SET claim = 1, claimed_by = 'me', leased_until = now() + interval '1 minute' WHERE id = $1`, id)
	w.releaseUnknown([]delivery.JobArgs{{DeliveryID: id}, {DeliveryID: id + 1}})
	require.Eventually(t, func() bool { return !w.isUnresolved(id) && !w.isUnresolved(id+1) }, time.Minute, time.Millisecond)
	assert.Equal(t, "pending 2 - 1", pgtest.Scalar[string](t, db, standingSQL, id))
	require.NoError(t, w.Work(context.Background(), jobOf(id, 0)), "the old job has nothing to do")
}

// An attempt begins within half of (lease - timeout) after its claim went out, or not at all: it must end before its lease.
func TestAttemptDoesNotBeginLate(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	w := onDatabase(t, db, never(t))
	margin := (w.lease - w.timeout) / 2
	require.Equal(t, 30*time.Second, margin)
	for age, want := range map[time.Duration]bool{0: false, margin - 10*time.Second: false, margin + time.Millisecond: true, time.Hour: true} {
		assert.Equal(t, want, w.tooLate(&claim{sent: time.Now().Add(-age)}), age)
	}
}

// Told to stop at once: what was not sent is released, for another node; what may have been is left to its lease.
func TestInterruptedAttempts(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	reached := make(chan struct{}, 1)
	server := receiver(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then does the server notice that the client is gone
		reached <- struct{}{}
		<-r.Context().Done()
	})
	id := pgtest.Scalar[int64](t, db, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ($1) RETURNING id`, server.URL)
	ctx, stop := context.WithCancelCause(context.Background())
	errStop := errors.New("stop")
	done := make(chan error, 1)
	sending := onDatabase(t, db, openTransport(t))
	go func() { done <- sending.Work(ctx, jobOf(id, 0)) }()
	<-reached
	stop(errStop)
	require.ErrorIs(t, <-done, errStop)
	sending.background.Wait() // a release, if there were one
	assert.Equal(t, "pending 1 me 0", pgtest.Scalar[string](t, db, standingSQL, id), "it may have arrived: the lease runs out")

	var dialled atomic.Bool
	ctx, stop = context.WithCancelCause(context.Background())
	w := onDatabase(t, db, roundTrip(func(r *http.Request) (*http.Response, error) {
		dialled.Store(true)
		stop(errStop)
		<-r.Context().Done()
		return nil, r.Context().Err() // without a connection
	}))
	id = pgtest.Scalar[int64](t, db, insertSQL)
	require.ErrorIs(t, w.Work(ctx, jobOf(id, 0)), errStop)
	assert.True(t, dialled.Load())
	require.Eventually(t, func() bool {
		return pgtest.Scalar[string](t, db, standingSQL, id) == "pending 2 - 1"
	}, time.Minute, time.Millisecond, "nothing went out: it is due again at once")
	assert.Zero(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.attempts`))
}

// River neither times a job that is worked, nor takes one for endless that a killed node left behind.
func TestTimeout(t *testing.T) {
	t.Parallel()
	w := &Worker{timeout: 30 * time.Second}
	for name, test := range map[string]struct {
		attempted *time.Time
		want      time.Duration
	}{
		"just fetched":                     {new(time.Now()), -1},
		"by a clock that is ahead":         {new(time.Now().Add(time.Hour)), -1},
		"being worked":                     {new(time.Now().Add(-time.Minute)), -1},
		"left behind, as the rescuer asks": {new(time.Now().Add(-RescueAfter(30 * time.Second))), JobTimeout(30 * time.Second)},
		"never":                            {nil, JobTimeout(30 * time.Second)},
	} {
		job := &river.Job[delivery.JobArgs]{JobRow: &rivertype.JobRow{AttemptedAt: test.attempted}}
		assert.Equal(t, test.want, w.Timeout(job), name)
	}
}

// However an attempt ends, or does not begin, its place is free again: otherwise its origin would come to a standstill.
func TestEveryPlaceIsGivenBack(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ctx, stop := context.WithCancelCause(context.Background())
	w := onDatabase(t, db, roundTrip(func(r *http.Request) (*http.Response, error) {
		switch r.URL.Path {
		case "/panics":
			panic("at the receiver's")
		case "/breaks":
			return nil, io.ErrUnexpectedEOF
		case "/stops":
			stop(errors.New("stop"))
			return nil, context.Canceled
		case "/canceled":
			db.Exec(t, `UPDATE riverhook.deliveries SET status = 'canceled' WHERE endpoint_url LIKE '%/canceled'`)
		case "/lost":
			db.Exec(t, `UPDATE riverhook.deliveries SET claim = claim + 1, claimed_by = 'other' WHERE endpoint_url LIKE '%/lost'`)
		}
		return &http.Response{StatusCode: 503, Body: http.NoBody, Header: http.Header{}}, nil
	}))
	began := 0
	for _, row := range []string{
		`('http://a/fails', '{}', NULL, NULL, 0)`,
		`('http://a/panics', '{}', NULL, NULL, 0)`,
		`('http://a/breaks', '{}', NULL, NULL, 0)`,
		`('http://a/canceled', '{}', NULL, NULL, 0)`,
		`('http://a/lost', '{}', NULL, NULL, 0)`,
		`('http://a/header', '{}', '[{"key": 1}]', NULL, 0)`,
		`('http://a/credential', '{}', NULL, '00000000-0000-4000-8000-000000000001', 0)`,
		`('http://a/large', to_json(repeat('x', 2000000)), NULL, NULL, 0)`,
		`('http://a/suspect', '{}', NULL, NULL, 3)`,
		`('nonsense', '{}', NULL, NULL, 0)`,
		`('http://a/stops', '{}', NULL, NULL, 0)`,
		`('http://a/late', '{}', NULL, NULL, 0)`, // told to stop before it begins
	} {
		id := pgtest.Scalar[int64](t, db, `INSERT INTO riverhook.deliveries (endpoint_url, payload, custom_headers, credential_uuid, abandoned_count) VALUES `+row+` RETURNING id`)
		_ = w.Work(ctx, jobOf(id, 0))
		if pgtest.Scalar[bool](t, db, `SELECT claim > 0 FROM riverhook.deliveries WHERE id = $1`, id) {
			began++
		}
		assert.Zero(t, w.limiter.sending, row)
		if o := w.limiter.origins["http://a"]; assert.NotNil(t, o) {
			assert.Zero(t, o.inFlight, row)
		}
	}
	assert.Equal(t, 12, began, "each was claimed")
}
