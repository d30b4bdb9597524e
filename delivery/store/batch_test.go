package store_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

var limits = store.ClaimLimits{Lease: time.Minute, MaxPayload: 1000, MaxBatch: 1 << 20}

// seed inserts n rows and returns their jobs.
func seed(t testing.TB, db *pgtest.DB, n int) []delivery.JobArgs {
	t.Helper()
	ids := pgtest.Column[int64](t, db, `INSERT INTO riverhook.deliveries (endpoint_url, payload) SELECT 'http://a/', json_build_object('i', i) FROM generate_series(1, $1) i RETURNING id`, n)
	jobs := make([]delivery.JobArgs, n)
	for i, id := range ids {
		jobs[i] = delivery.JobArgs{DeliveryID: id}
	}
	return jobs
}

func claim(t testing.TB, st *store.Store, node string, limits store.ClaimLimits, jobs ...delivery.JobArgs) []store.Claimed {
	t.Helper()
	claimed, err := st.Claim(context.Background(), node, jobs, limits)
	require.NoError(t, err)
	require.Len(t, claimed, len(jobs))
	return claimed
}

func verdicts(claimed []store.Claimed) []store.ClaimVerdict {
	v := make([]store.ClaimVerdict, len(claimed))
	for i := range claimed {
		v[i] = claimed[i].Verdict
	}
	return v
}

// attempt is a finished attempt of a claim.
func attempt(c store.Claimed, d delivery.Decision) store.Attempt {
	return store.Attempt{
		Fence: c.Delivery.Fence(), Round: c.Delivery.Round, Number: c.Delivery.Attempt(), Started: time.Now(), Duration: time.Second, Decision: d,
		StatusCode: 200, Error: d.Error, Body: []byte("body"),
	}
}

var (
	success = delivery.Decision{Outcome: delivery.OutcomeSucceeded, Status: delivery.StatusSucceeded}
	retry   = delivery.Decision{Outcome: delivery.OutcomeTransient, Failure: delivery.FailureStatus, Status: delivery.StatusPending, Delay: time.Minute, Error: "HTTP 503: x"}
)

func TestClaimVerdicts(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	st := store.New(db.Pool, db.Schema)
	jobs := seed(t, db, 8)
	db.Exec(t, `UPDATE riverhook.deliveries SET status = 'canceled' WHERE id = $1`, jobs[1].DeliveryID)
	db.Exec(t, `UPDATE riverhook.deliveries SET scheduled_for = now() + interval '1 hour' WHERE id = $1`, jobs[2].DeliveryID)
	jobs[2].Claim = 1 // the generation fits, the time does not
	jobs[3].Claim = 5
	jobs[4].DeliveryID = 999_999
	claim(t, st, "other", limits, jobs[5])
	ctx := context.Background()
	tx, err := db.Pool.Begin(ctx)
	require.NoError(t, err)
	defer tx.Rollback(ctx) //nolint:errcheck // ends the lock
	_, err = tx.Exec(ctx, `SELECT FROM riverhook.deliveries WHERE id = $1 FOR UPDATE`, jobs[6].DeliveryID)
	require.NoError(t, err)

	asked := append(slices.Clone(jobs), jobs[0], jobs[7]) // two of them twice
	got := claim(t, st, "me", limits, asked...)
	assert.Equal(t, []store.ClaimVerdict{
		store.ClaimTaken, store.ClaimGone, store.ClaimGone, store.ClaimGone, store.ClaimGone, store.ClaimGone, store.ClaimBusy, store.ClaimTaken,
		store.ClaimGone, store.ClaimGone,
	}, verdicts(got))
	d := got[0].Delivery
	assert.Equal(t, delivery.Fence{ID: jobs[0].DeliveryID, Claim: 1, Node: "me"}, d.Fence())
	assert.Equal(t, `{"i" : 1}`, string(d.Payload))
	assert.Equal(t, "POST", d.Method)
	assert.Equal(t, 2, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.deliveries WHERE claimed_by = 'me' AND claim = 1
		AND leased_until > now() + interval '50 seconds' AND scheduled_for <= now()`))
}

func TestClaimKeepsForeignKeysFree(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	jobs := seed(t, db, 1)
	db.Exec(t, `CREATE TABLE public.refers (delivery_id bigint REFERENCES riverhook.deliveries)`)
	ctx := context.Background()
	tx, err := db.Pool.Begin(ctx)
	require.NoError(t, err)
	defer tx.Rollback(ctx)                                                             //nolint:errcheck // ends the lock
	_, err = tx.Exec(ctx, `INSERT INTO public.refers VALUES ($1)`, jobs[0].DeliveryID) // holds FOR KEY SHARE
	require.NoError(t, err)
	assert.Equal(t, store.ClaimTaken, claim(t, store.New(db.Pool, db.Schema), "me", limits, jobs[0])[0].Verdict)
}

func TestClaimBounds(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	st := store.New(db.Pool, db.Schema)
	var jobs []delivery.JobArgs
	for _, size := range []int{600, 600, 600, 5000} {
		id := pgtest.Scalar[int64](t, db, `INSERT INTO riverhook.deliveries (endpoint_url, payload) VALUES ('http://a/', ('"' || repeat('x', $1 - 2) || '"')::json) RETURNING id`, size)
		jobs = append(jobs, delivery.JobArgs{DeliveryID: id})
	}
	small := limits
	small.MaxBatch = 1000
	got := claim(t, st, "me", small, jobs...)
	assert.Equal(t, []store.ClaimVerdict{store.ClaimTaken, store.ClaimTaken, store.ClaimDeferred, store.ClaimDeferred}, verdicts(got))
	got = claim(t, st, "me", small, jobs[3], jobs[2])
	assert.Equal(t, []store.ClaimVerdict{store.ClaimTaken, store.ClaimTaken}, verdicts(got))
	assert.Nil(t, got[0].Delivery.Payload, "larger than MaxPayload: not fetched")
	assert.Equal(t, 5000, got[0].Delivery.PayloadBytes)
	assert.Len(t, got[1].Delivery.Payload, 600)

	payload, err := st.Payload(t.Context(), got[0].Delivery.Fence())
	require.NoError(t, err)
	assert.Len(t, payload, 5000)
	payload, err = st.Payload(t.Context(), delivery.Fence{ID: got[0].Delivery.ID, Claim: got[0].Delivery.Claim, Node: "other"})
	require.NoError(t, err)
	assert.Nil(t, payload, "another's claim")
}

// What may take its node down is claimed for whoever asks for it, and not among others: it might do so by being claimed.
func TestClaimSuspects(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.MayHaveProblems(t, "their earlier attempts are made up")
	st := store.New(db.Pool, db.Schema)
	var jobs []delivery.JobArgs
	for _, abandoned := range []int{0, store.SuspectFrom - 1, store.SuspectFrom, 4} {
		id := pgtest.Scalar[int64](t, db, `INSERT INTO riverhook.deliveries (endpoint_url, abandoned_count, attempt_count) VALUES ('http://a/', $1, $1) RETURNING id`, abandoned)
		jobs = append(jobs, delivery.JobArgs{DeliveryID: id})
	}
	got := claim(t, st, "me", limits, jobs...)
	assert.Equal(t, []store.ClaimVerdict{store.ClaimTaken, store.ClaimTaken, store.ClaimSuspect, store.ClaimSuspect}, verdicts(got))
	assert.Equal(t, 2, got[2].Delivery.AbandonedCount)
	assert.Equal(t, 4, got[3].Delivery.AbandonedCount)
	assert.Equal(t, 2, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.deliveries WHERE claimed_by IS NULL AND claim = 0`))
	alone := limits
	alone.Suspects = true
	assert.Equal(t, []store.ClaimVerdict{store.ClaimTaken, store.ClaimGone}, verdicts(claim(t, st, "me", alone, jobs[3], jobs[0])))
}

func TestPayloadIsByteForByte(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	st := store.New(db.Pool, db.Schema)
	for _, payload := range []string{
		`{"b":1,"a":2,"b":3}`, "  { \"x\" : 1.0 }\n", `"\u0000 \ud83d\ude00 ü"`, `null`, `1e400`, strings.Repeat("[", 400) + strings.Repeat("]", 400),
	} {
		id := pgtest.Scalar[int64](t, db, `INSERT INTO riverhook.deliveries (endpoint_url, payload) VALUES ('http://a/', $1::text::json) RETURNING id`, payload)
		got := claim(t, st, "me", limits, delivery.JobArgs{DeliveryID: id})
		assert.Equal(t, payload, string(got[0].Delivery.Payload))
	}
}

func TestRecordVerdicts(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	st := store.New(db.Pool, db.Schema)
	claimed := claim(t, st, "me", limits, seed(t, db, 6)...)
	ctx := context.Background()
	// 0 succeeds, 1 is tried again, 2 is locked, 3 was reclaimed by a sweep, 4 is somebody else's by now, 5 was recorded before.
	tx, err := db.Pool.Begin(ctx)
	require.NoError(t, err)
	defer tx.Rollback(ctx) //nolint:errcheck // ends the lock
	_, err = tx.Exec(ctx, `SELECT FROM riverhook.deliveries WHERE id = $1 FOR UPDATE`, claimed[2].Delivery.ID)
	require.NoError(t, err)
	abandoned := attempt(claimed[3], delivery.Decision{Outcome: delivery.OutcomeAbandoned, Status: delivery.StatusPending, Error: "gone"})
	abandoned.Started, abandoned.StatusCode, abandoned.Body = time.Time{}, 0, nil
	_, err = st.Record(ctx, []store.Attempt{abandoned})
	require.NoError(t, err)
	db.Exec(t, `UPDATE riverhook.deliveries SET claimed_by = 'other' WHERE id = $1`, claimed[4].Delivery.ID)
	_, err = st.Record(ctx, []store.Attempt{attempt(claimed[5], success)})
	require.NoError(t, err)
	jobsBefore := pgtest.Scalar[int](t, db, jobsSQL)

	batch := make([]store.Attempt, 6)
	for i := range batch {
		batch[i] = attempt(claimed[i], success)
	}
	batch[1].Decision = retry
	got, err := st.Record(ctx, batch)
	require.NoError(t, err)
	assert.Equal(t, []store.RecordVerdict{store.Recorded, store.Recorded, store.RecordBusy, store.RecordLost, store.RecordLost, store.Recorded}, got)

	assert.Equal(t, []string{
		"succeeded 1 1 - t", "pending 1 1 - f", "pending 1 0 me f", "pending 2 1 - f", "pending 1 0 other f", "succeeded 1 1 - t",
	}, pgtest.Column[string](t, db, `SELECT concat_ws(' ', status, claim, attempt_count, coalesce(claimed_by, '-'), finished_at IS NOT NULL) FROM riverhook.deliveries ORDER BY id`))
	assert.Equal(t, []string{"1 succeeded", "2 transient", "4 succeeded", "6 succeeded"},
		pgtest.Column[string](t, db, `SELECT concat_ws(' ', row_number, outcome) FROM (SELECT row_number() OVER (ORDER BY d.id), d.id FROM riverhook.deliveries d) x
			JOIN riverhook.attempts a ON a.delivery_id = x.id ORDER BY 1`), "the late outcome corrected its abandoned row")
	assert.Equal(t, jobsBefore+1, pgtest.Scalar[int](t, db, jobsSQL), "one retry")
	assert.True(t, pgtest.Scalar[bool](t, db, `SELECT j.state = 'scheduled' AND j.scheduled_at = d.scheduled_for AND j.unique_key = riverhook.delivery_job_key(d.id, 1)
		FROM riverhook.deliveries d JOIN riverhook.river_job j ON (j.args->>'delivery_id')::bigint = d.id AND (j.args->>'claim')::bigint = 1 WHERE d.id = $1`, claimed[1].Delivery.ID))
	again, err := st.Record(ctx, batch)
	require.NoError(t, err)
	assert.Equal(t, got[0], again[0], "again is the same")
	assert.Equal(t, got[1], again[1])
}

// Whatever a receiver answers can be stored.
func TestRecordStoresAnything(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	st := store.New(db.Pool, db.Schema)
	claimed := claim(t, st, "me", limits, seed(t, db, 1)...)
	a := attempt(claimed[0], retry)
	a.Decision.Error = "a\x00b\xff" + strings.Repeat("ü", 3000)
	a.Error, a.Body = a.Decision.Error, []byte{0, 0xff, 0xfe}
	_, err := st.Record(context.Background(), []store.Attempt{a})
	require.NoError(t, err)
	got := pgtest.Scalar[string](t, db, `SELECT last_error FROM riverhook.deliveries`)
	assert.Equal(t, "a\uFFFDb\uFFFD"+strings.Repeat("ü", 1996), got)
	assert.Equal(t, got, pgtest.Scalar[string](t, db, `SELECT error FROM riverhook.attempts`))
	assert.Equal(t, []byte{0, 0xff, 0xfe}, pgtest.Scalar[[]byte](t, db, `SELECT response_body FROM riverhook.attempts`))
}

func TestRelease(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	st := store.New(db.Pool, db.Schema)
	claimed := claim(t, st, "me", limits, seed(t, db, 4)...)
	ctx := context.Background()
	fences := make([]delivery.Fence, 4)
	for i := range claimed {
		fences[i] = claimed[i].Delivery.Fence()
	}
	fences[1].Node = "other"
	db.Exec(t, `UPDATE riverhook.deliveries SET status = 'canceled' WHERE id = $1`, fences[2].ID)
	tx, err := db.Pool.Begin(ctx)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, `SELECT FROM riverhook.deliveries WHERE id = $1 FOR UPDATE`, fences[3].ID)
	require.NoError(t, err)
	releases := make([]store.Release, 4)
	for i, fence := range fences {
		releases[i] = store.Release{Fence: fence}
	}
	releases[3].Hold = store.HeldNoAnswer
	verdicts, err := st.Release(ctx, releases)
	require.NoError(t, err)
	assert.Equal(t, []store.ReleaseVerdict{store.Released, store.ReleaseLost, store.Released, store.ReleaseBusy}, verdicts)
	require.NoError(t, tx.Rollback(ctx))
	verdicts, err = st.Release(ctx, releases)
	require.NoError(t, err)
	assert.Equal(t, []store.ReleaseVerdict{store.ReleaseLost, store.ReleaseLost, store.ReleaseLost, store.Released}, verdicts)

	assert.Equal(t, []string{"pending 2 - - job", "pending 1 me - -", "canceled 2 - - -", "pending 2 - no_answer -"}, pgtest.Column[string](t, db, `
		SELECT concat_ws(' ', status, d.claim, coalesce(claimed_by, '-'), CASE WHEN held_since IS NULL THEN '-' ELSE held_reason END, CASE WHEN j.id IS NULL THEN '-' ELSE 'job' END)
		  FROM riverhook.deliveries d LEFT JOIN riverhook.river_job j ON j.unique_key = riverhook.delivery_job_key(d.id, d.claim) ORDER BY d.id`))
	assert.True(t, pgtest.Scalar[bool](t, db, `SELECT finished_at IS NOT NULL FROM riverhook.deliveries WHERE status = 'canceled'`))
}

func TestIsRowError(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]bool{
		"22001": true, "22P05": true, "23505": true, "54000": true, "08006": false, "57P01": false, "53100": false, "40001": false, "25006": false,
		"42501": false, "55P03": false, "": false,
	} {
		assert.Equal(t, want, store.IsRowError(fmt.Errorf("wrapped: %w", &pgconn.PgError{Code: code})), code)
	}
	assert.False(t, store.IsRowError(context.DeadlineExceeded))
	assert.False(t, store.IsRowError(nil))
	assert.False(t, store.IsRowError(pgx.ErrNoRows))
}
