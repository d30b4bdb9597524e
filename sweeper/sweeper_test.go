package sweeper_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations/pgtest"
	"github.com/riverhook/riverhook/sweeper"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const (
	jobsSQL    = `SELECT count(*)::int FROM riverhook.river_job WHERE kind = 'deliver_webhook'`
	loseJobs   = `DELETE FROM riverhook.river_job`
	zombieJobs = `UPDATE riverhook.river_job SET state = 'running', attempt = 1, attempted_at = now() - interval '1 minute'`
	claimOfSQL = `SELECT claim FROM riverhook.deliveries WHERE id = $1`
	rowSQL     = `SELECT concat_ws(' ', status, 'round', round, 'attempts', attempt_count, 'abandoned', abandoned_count,
		coalesce(claimed_by, '-')) FROM riverhook.deliveries WHERE id = $1`
	ledgerSQL = `SELECT concat_ws(' ', round || '.' || attempt, outcome) FROM riverhook.attempts WHERE delivery_id = $1 ORDER BY round, attempt`
	insertSQL = `INSERT INTO riverhook.deliveries (endpoint_url, max_attempts) VALUES ('http://127.0.0.1:1/', 2) RETURNING id`
)

func newSweeper(db *pgtest.DB) *sweeper.Sweeper {
	policy := delivery.Policy{MaxAttempts: 3, BaseDelay: time.Minute, MaxDelay: time.Hour}
	return sweeper.New(sweeper.Config{Store: store.New(db.Pool, db.Schema), Policy: policy, Log: slog.New(slog.DiscardHandler)})
}

func sweep(t testing.TB, s *sweeper.Sweeper) sweeper.Counts {
	t.Helper()
	counts, err := s.Sweep(context.Background())
	require.NoError(t, err)
	return counts
}

// die claims a delivery as a node that is dead by now.
func die(t testing.TB, db *pgtest.DB, node string, id int64) delivery.Delivery {
	t.Helper()
	job := delivery.JobArgs{DeliveryID: id, Claim: pgtest.Scalar[int64](t, db, claimOfSQL, id)}
	claimed, err := store.New(db.Pool, db.Schema).Claim(context.Background(), node, []delivery.JobArgs{job},
		store.ClaimLimits{Lease: -time.Second, MaxPayload: 1 << 20, MaxBatch: 1 << 20, Suspects: true})
	require.NoError(t, err)
	require.Equal(t, store.ClaimTaken, claimed[0].Verdict)
	return claimed[0].Delivery
}

func TestSweepLeavesAlone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		prep string
		want sweeper.Counts
	}{
		"available job": {``, sweeper.Counts{Overdue: 1, Live: 1}},
		"just fetched":  {`UPDATE riverhook.river_job SET state = 'running', attempt = 1, attempted_at = now() - interval '20 seconds'`, sweeper.Counts{Overdue: 1, Live: 1}},
		"about to be promoted": {`UPDATE riverhook.river_job j SET state = 'scheduled', scheduled_at = d.scheduled_for FROM riverhook.deliveries d`,
			sweeper.Counts{Overdue: 1, Live: 1}},
		"not due":    {`UPDATE riverhook.deliveries SET scheduled_for = now() + interval '1 minute'; DELETE FROM riverhook.river_job`, sweeper.Counts{}},
		"being sent": {`UPDATE riverhook.deliveries SET claim = 1, claimed_by = 'other', leased_until = now() + interval '1 minute'; DELETE FROM riverhook.river_job`, sweeper.Counts{Overdue: 1, Leased: 1}},
		"held":       {`UPDATE riverhook.deliveries SET held_since = now() - interval '23 hours 59 minutes', held_reason = 'failing'; DELETE FROM riverhook.river_job`, sweeper.Counts{Overdue: 1, Held: 1}},
		"terminal":   {`UPDATE riverhook.deliveries SET status = 'canceled'; DELETE FROM riverhook.river_job`, sweeper.Counts{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			id := pgtest.Scalar[int64](t, db, insertSQL)
			if c.prep != "" {
				db.Exec(t, c.prep)
			}
			before := pgtest.Scalar[string](t, db, `SELECT d::text || coalesce(j::text, '') FROM riverhook.deliveries d LEFT JOIN riverhook.river_job j ON true WHERE d.id = $1`, id)
			assert.Equal(t, c.want, sweep(t, newSweeper(db)))
			assert.Equal(t, before, pgtest.Scalar[string](t, db, `SELECT d::text || coalesce(j::text, '') FROM riverhook.deliveries d LEFT JOIN riverhook.river_job j ON true WHERE d.id = $1`, id))
		})
	}
}

func TestSweepOfAStaleHold(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := pgtest.Scalar[int64](t, db, insertSQL)
	db.Exec(t, `UPDATE riverhook.deliveries SET held_since = now() - interval '24 hours 1 minute', held_reason = 'paused'; `+loseJobs)
	assert.Equal(t, sweeper.Counts{Overdue: 1, Requeued: 1}, sweep(t, newSweeper(db)))
	assert.True(t, pgtest.Scalar[bool](t, db, `SELECT held_since IS NULL AND held_reason IS NULL FROM riverhook.deliveries WHERE id = $1`, id))
}

func TestSweepSkipsALockedRow(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	locked, free := pgtest.Scalar[int64](t, db, insertSQL), pgtest.Scalar[int64](t, db, insertSQL)
	db.Exec(t, zombieJobs)
	db.MayHaveProblems(t, "jobs of a node that never was stay running")
	ctx := context.Background()
	tx, err := db.Pool.Begin(ctx)
	require.NoError(t, err)
	defer tx.Rollback(ctx) //nolint:errcheck // ends the lock
	_, err = tx.Exec(ctx, `SELECT FROM riverhook.deliveries WHERE id = $1 FOR UPDATE`, locked)
	require.NoError(t, err)
	assert.Equal(t, sweeper.Counts{Overdue: 2, Requeued: 1, Skipped: 1}, sweep(t, newSweeper(db)))
	assert.Equal(t, int64(1), pgtest.Scalar[int64](t, db, claimOfSQL, free))
}

// A row whose job is gone is not touched: it gets a job of the same generation. One whose job a killed node left running, which
// would stand in its way, gets one of the next.
func TestSweepChangesNoMoreThanItMust(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.MayHaveProblems(t, "the job of a node that never was stays running")
	gone, zombie := pgtest.Scalar[int64](t, db, insertSQL), pgtest.Scalar[int64](t, db, insertSQL)
	db.Exec(t, zombieJobs)
	db.Exec(t, `DELETE FROM riverhook.river_job WHERE args->>'delivery_id' = $1::bigint::text`, gone)
	const version = `SELECT xmin::text FROM riverhook.deliveries WHERE id = $1`
	before := pgtest.Scalar[string](t, db, version, gone)
	assert.Equal(t, sweeper.Counts{Overdue: 2, Requeued: 2}, sweep(t, newSweeper(db)))
	assert.Equal(t, before, pgtest.Scalar[string](t, db, version, gone))
	assert.Equal(t, []int64{0, 1}, []int64{pgtest.Scalar[int64](t, db, claimOfSQL, gone), pgtest.Scalar[int64](t, db, claimOfSQL, zombie)})
	assert.Equal(t, []string{"0 0 available", "1 0 running", "1 1 available"}, pgtest.Column[string](t, db, `
		SELECT concat_ws(' ', (args->>'delivery_id')::bigint - $1, args->>'claim', state) FROM riverhook.river_job ORDER BY 1`, gone))
	assert.Equal(t, sweeper.Counts{Overdue: 2, Live: 2}, sweep(t, newSweeper(db)))
}

func TestBacklogIsNotMultiplied(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) SELECT 'http://127.0.0.1:1/' FROM generate_series(1, 2500)`)
	s := newSweeper(db)
	for range 3 {
		assert.Equal(t, sweeper.Counts{Overdue: 2500, Live: 2500}, sweep(t, s))
	}
	assert.Equal(t, 2500, pgtest.Scalar[int](t, db, jobsSQL))
}

// Its pages grow, and none of the rows falls between two of them.
func TestOneSweepDrains(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) SELECT 'http://127.0.0.1:1/' FROM generate_series(1, 20000)`)
	db.Exec(t, loseJobs)
	assert.Equal(t, sweeper.Counts{Overdue: 20000, Requeued: 20000}, sweep(t, newSweeper(db)))
	assert.Equal(t, 20000, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.river_job j JOIN riverhook.deliveries d
		ON d.id = (j.args->>'delivery_id')::bigint AND d.claim = (j.args->>'claim')::bigint WHERE j.state = 'available' AND j.scheduled_at <= now()`))
}

// A page that is too large for what it comes upon is tried again with a smaller one: else every sweep would end there.
func TestSweepGetsPastWhatIsSlow(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	const insert = `INSERT INTO riverhook.deliveries (endpoint_url) SELECT 'http://127.0.0.1:1/' FROM generate_series(1, 10000)`
	db.Exec(t, insert)
	db.Exec(t, `ALTER TABLE riverhook.deliveries DISABLE TRIGGER deliveries_enqueue; `+insert+`; ALTER TABLE riverhook.deliveries ENABLE TRIGGER deliveries_enqueue`)
	db.Exec(t, `
		CREATE FUNCTION too_many_at_once() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF (SELECT count(*) FROM inserted) > 1000 THEN RAISE query_canceled; END IF;
			RETURN NULL;
		END $$;
		CREATE TRIGGER slow AFTER INSERT ON riverhook.river_job REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION too_many_at_once()`)
	assert.Equal(t, sweeper.Counts{Overdue: 20000, Live: 10000, Requeued: 10000}, sweep(t, newSweeper(db)))
}

func TestOneSweepAtATime(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	lock, _, ok, err := store.New(db.Pool, db.Schema).LockSweep(context.Background())
	require.NoError(t, err)
	require.True(t, ok)
	_, err = newSweeper(db).Sweep(context.Background())
	require.ErrorIs(t, err, sweeper.ErrRunning)
	lock.Unlock()
	sweep(t, newSweeper(db))
}

// Abandoned attempts are in the ledger with their number; the first is tried again at once, the next ones back off, and
// the fifth in a row parks the delivery.
func TestAbandonedUntilParked(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	s := newSweeper(db)
	id := pgtest.Scalar[int64](t, db, insertSQL)
	for attempt := 1; attempt <= 5; attempt++ {
		d := die(t, db, fmt.Sprint("node-", attempt), id)
		require.Equal(t, attempt, d.Attempt())

		counts := sweep(t, s)
		assert.Equal(t, 1, counts.Reclaimed)
		want := fmt.Sprintf("pending round 0 attempts %d abandoned %d -", attempt, attempt)
		if attempt == 5 {
			want = "dead_letter round 0 attempts 5 abandoned 5 -"
			assert.Equal(t, 1, counts.Parked)
		}
		assert.Equal(t, want, pgtest.Scalar[string](t, db, rowSQL, id))
		due := pgtest.Scalar[bool](t, db, `SELECT coalesce(scheduled_for <= now(), false) FROM riverhook.deliveries WHERE id = $1`, id)
		assert.Equal(t, attempt == 1, due, "only the first is due at once")
		db.Exec(t, `UPDATE riverhook.deliveries SET scheduled_for = now() WHERE id = $1 AND status = 'pending' AND scheduled_for > now()`, id)
	}
	assert.Equal(t, []string{"0.1 abandoned", "0.2 abandoned", "0.3 abandoned", "0.4 abandoned", "0.5 abandoned"}, pgtest.Column[string](t, db, ledgerSQL, id))
	assert.Contains(t, pgtest.Scalar[string](t, db, `SELECT last_error FROM riverhook.deliveries WHERE id = $1`, id), "5 attempts in a row")
}

// Canceled in flight, and then the node died: the attempt comes into the ledger, and the row is finished.
func TestSweepOfACanceledClaim(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := pgtest.Scalar[int64](t, db, insertSQL)
	die(t, db, "dead", id)
	db.Exec(t, `UPDATE riverhook.deliveries SET status = 'canceled' WHERE id = $1`, id)
	assert.Equal(t, 1, sweep(t, newSweeper(db)).Reclaimed)
	assert.Equal(t, "canceled round 0 attempts 1 abandoned 1 -", pgtest.Scalar[string](t, db, rowSQL, id))
	assert.Equal(t, []string{"0.1 abandoned"}, pgtest.Column[string](t, db, ledgerSQL, id))
	assert.True(t, pgtest.Scalar[bool](t, db, `SELECT finished_at IS NOT NULL FROM riverhook.deliveries WHERE id = $1`, id))
	assert.Zero(t, sweep(t, newSweeper(db)))
}
