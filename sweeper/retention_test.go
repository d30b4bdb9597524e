package sweeper_test

import (
	"context"
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

const leftSQL = `SELECT coalesce(webhook_name, '') FROM riverhook.deliveries ORDER BY id`

func newRetention(db *pgtest.DB, done, deadLetter time.Duration) *sweeper.Retention {
	return sweeper.NewRetention(sweeper.RetentionConfig{
		Store: store.New(db.Pool, db.Schema), Done: done, DeadLetter: deadLetter, Log: slog.New(slog.DiscardHandler),
	})
}

// ended makes deliveries by name, past the triggers, each with two attempts in the ledger.
func ended(t testing.TB, db *pgtest.DB, sets map[string]string) {
	t.Helper()
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context()) //nolint:errcheck // after a commit
	_, err = tx.Exec(t.Context(), `SET LOCAL session_replication_role = replica`)
	require.NoError(t, err)
	for name, set := range sets {
		_, err := tx.Exec(t.Context(), `INSERT INTO riverhook.deliveries (endpoint_url, webhook_name) VALUES ('http://127.0.0.1:1/', $1)`, name)
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), `UPDATE riverhook.deliveries SET `+set+` WHERE webhook_name = '`+name+`'`)
		require.NoError(t, err)
	}
	_, err = tx.Exec(t.Context(), `INSERT INTO riverhook.attempts (delivery_id, round, attempt, started_at, outcome, node)
		SELECT id, 0, n, now(), 'succeeded', 'n' FROM riverhook.deliveries, generate_series(1, 2) n`)
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
}

// orphans are attempts whose delivery is gone.
const orphansSQL = `SELECT count(*)::int FROM riverhook.attempts a WHERE NOT EXISTS (SELECT FROM riverhook.deliveries d WHERE d.id = a.delivery_id)`

func TestRetention(t *testing.T) {
	t.Parallel()
	const old, young = `scheduled_for = NULL, finished_at = now() - interval '61 minutes'`, `scheduled_for = NULL, finished_at = now() - interval '59 minutes'`
	rows := map[string]string{
		"old succeeded":        `status = 'succeeded', ` + old,
		"old canceled":         `status = 'canceled', ` + old,
		"old dead letter":      `status = 'dead_letter', ` + old,
		"succeeded":            `status = 'succeeded', ` + young,
		"canceled":             `status = 'canceled', ` + young,
		"dead letter":          `status = 'dead_letter', ` + young,
		"pending":              `created_at = now() - interval '1 year', scheduled_for = now() - interval '1 year'`,
		"pending, odd":         `finished_at = now() - interval '1 year'`,
		"canceled in flight":   `status = 'canceled', scheduled_for = NULL, claimed_by = 'n', leased_until = now()`,
		"claimed, odd":         `status = 'succeeded', claimed_by = 'n', leased_until = now(), ` + old,
		"ended at its insert":  `status = 'succeeded', scheduled_for = NULL`,
		"dead letter, no time": `status = 'dead_letter', scheduled_for = NULL`,
	}
	for name, test := range map[string]struct {
		done, deadLetter time.Duration
		gone             []string
		want             sweeper.RetentionCounts
	}{
		"for ever":     {0, 0, nil, sweeper.RetentionCounts{}},
		"done":         {time.Hour, 0, []string{"old succeeded", "old canceled"}, sweeper.RetentionCounts{Done: 2, Attempts: 4}},
		"dead letters": {0, time.Hour, []string{"old dead letter"}, sweeper.RetentionCounts{DeadLetters: 1, Attempts: 2}},
		"both": {time.Hour, time.Hour, []string{"old succeeded", "old canceled", "old dead letter"},
			sweeper.RetentionCounts{Done: 2, DeadLetters: 1, Attempts: 6}},
		"longer": {2 * time.Hour, 2 * time.Hour, nil, sweeper.RetentionCounts{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			db.MayHaveProblems(t, "some of its rows are odd on purpose")
			ended(t, db, rows)
			before := pgtest.Column[string](t, db, `SELECT d::text FROM riverhook.deliveries d WHERE webhook_name <> ALL ($1) ORDER BY id`, append([]string{}, test.gone...))
			counts, err := newRetention(db, test.done, test.deadLetter).Run(t.Context())
			require.NoError(t, err)
			assert.Equal(t, test.want, counts)
			assert.Equal(t, len(test.gone) > 0, counts.Changed())
			assert.Equal(t, before, pgtest.Column[string](t, db, `SELECT d::text FROM riverhook.deliveries d ORDER BY id`))
			assert.Zero(t, pgtest.Scalar[int](t, db, orphansSQL))
			assert.Equal(t, 2*len(before), pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.attempts`))

			counts, err = newRetention(db, test.done, test.deadLetter).Run(t.Context())
			require.NoError(t, err)
			assert.Equal(t, sweeper.RetentionCounts{}, counts, "once more: nothing is left")
		})
	}
}

// Several pages, many of one time, and one of them held by somebody: the rest goes, that one goes next time.
func TestRetentionDrains(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, status) SELECT 'http://a/', 'succeeded' FROM generate_series(1, 2600) i`)
	db.Exec(t, `UPDATE riverhook.deliveries SET finished_at = now() - interval '2 hours' - (id / 1300) * interval '1 hour'`)
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // ends the lock
	_, err = tx.Exec(t.Context(), `SELECT FROM riverhook.deliveries WHERE id IN (5, 2000) FOR KEY SHARE`)
	require.NoError(t, err)
	counts, err := newRetention(db, time.Hour, 0).Run(t.Context())
	require.NoError(t, err)
	assert.Equal(t, sweeper.RetentionCounts{Done: 2598}, counts)
	require.NoError(t, tx.Rollback(t.Context()))
	counts, err = newRetention(db, time.Hour, 0).Run(t.Context())
	require.NoError(t, err)
	assert.Equal(t, sweeper.RetentionCounts{Done: 2}, counts)
}

// What is replayed between the look and the lock stays; here, in the same moment.
func TestRetentionLeavesAReplayedRow(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ended(t, db, map[string]string{"replayed": `status = 'dead_letter', scheduled_for = NULL, finished_at = now() - interval '1 day'`})
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // after a commit
	_, err = tx.Exec(t.Context(), `UPDATE riverhook.deliveries SET status = 'pending'`)
	require.NoError(t, err)
	counts, err := newRetention(db, time.Hour, time.Hour).Run(t.Context())
	require.NoError(t, err)
	assert.Equal(t, sweeper.RetentionCounts{}, counts)
	require.NoError(t, tx.Commit(t.Context()))
	counts, err = newRetention(db, time.Hour, time.Hour).Run(t.Context())
	require.NoError(t, err)
	assert.Equal(t, sweeper.RetentionCounts{}, counts)
	assert.Equal(t, []string{"replayed"}, pgtest.Column[string](t, db, leftSQL))
	assert.Equal(t, 2, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.attempts`))
}

// An application's table may refer to deliveries: those stay, the others go.
func TestRetentionOfReferredRows(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, status) SELECT 'http://a/', 'succeeded' FROM generate_series(1, 1200) i`)
	db.Exec(t, `UPDATE riverhook.deliveries SET finished_at = now() - interval '2 hours'`)
	db.Exec(t, `CREATE TABLE orders (delivery bigint REFERENCES riverhook.deliveries); INSERT INTO orders VALUES (3), (4), (777)`)
	counts, err := newRetention(db, time.Hour, 0).Run(t.Context())
	require.NoError(t, err)
	assert.Equal(t, sweeper.RetentionCounts{Done: 1197, Referred: 3}, counts)
	assert.Equal(t, []int64{3, 4, 777}, pgtest.Column[int64](t, db, `SELECT id FROM riverhook.deliveries ORDER BY id`))
}

func TestOneRetentionAtATime(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ended(t, db, map[string]string{"a": `status = 'succeeded', finished_at = now() - interval '1 day'`})
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // ends the lock
	_, err = tx.Exec(t.Context(), `SELECT pg_advisory_xact_lock('riverhook.deliveries'::regclass::oid::int, 101)`)
	require.NoError(t, err)
	_, err = newRetention(db, time.Hour, 0).Run(t.Context())
	require.ErrorIs(t, err, sweeper.ErrRetentionRunning)
	require.NoError(t, sweeper.NewRetentionWorker(newRetention(db, time.Hour, 0)).Work(t.Context(), nil))
	require.NoError(t, tx.Rollback(t.Context()))
	counts, err := newRetention(db, time.Hour, 0).Run(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 1, counts.Done)
}

func TestRetentionIsInterrupted(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := newRetention(db, time.Hour, 0).Run(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, sweeper.NewRetentionWorker(newRetention(db, time.Hour, 0)).Work(ctx, nil))
}

// The outcome of an attempt whose delivery is gone leaves nothing behind.
func TestLateOutcomeOfARemovedDelivery(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := pgtest.Scalar[int64](t, db, insertSQL)
	d := die(t, db, "late", id)
	db.Exec(t, `DELETE FROM riverhook.deliveries`)
	verdicts, err := store.New(db.Pool, db.Schema).Record(t.Context(), []store.Attempt{{
		Fence: d.Fence(), Number: 1, Started: time.Now(),
		Decision: delivery.Decision{Outcome: delivery.OutcomeSucceeded, Status: delivery.StatusSucceeded},
	}})
	require.NoError(t, err)
	assert.Equal(t, []store.RecordVerdict{store.RecordLost}, verdicts)
	assert.Zero(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.attempts`))
}
