package node

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations/pgtest"
	"github.com/riverhook/riverhook/worker"
)

// fetching fetches as River does, and says of which deliveries the jobs are.
func fetching(t *testing.T, db *pgtest.DB) (f *front, fetch func(limit int) []int64) {
	t.Helper()
	f = &front{store: store.New(db.Pool, db.Schema), life: context.Background()}
	executor := (&driver{Driver: riverpgxv5.New(db.Pool), front: f}).GetExecutor()
	return f, func(limit int) (ids []int64) {
		result, err := executor.JobGetAvailable(context.Background(), &riverdriver.JobGetAvailableParams{
			ClientID: "a-node", MaxAttemptedBy: 100, MaxToLock: limit, Queue: delivery.JobQueue, Schema: db.Schema,
		})
		require.NoError(t, err)
		for _, j := range result.Jobs {
			ids = append(ids, pgtest.Scalar[int64](t, db, `SELECT (args->>'delivery_id')::bigint FROM riverhook.river_job WHERE id = $1`, j.ID))
		}
		slices.Sort(ids)
		return ids
	}
}

// A fetch goes on where the last one ended, and at what is new when nothing was left. What comes in behind that is found by
// a look back.
func TestFetchFromTheFront(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.MayHaveProblems(t, "jobs are fetched and never worked")
	f, fetch := fetching(t, db)
	const (
		insert = `INSERT INTO riverhook.deliveries (endpoint_url) SELECT 'http://127.0.0.1:1/' FROM generate_series(1, $1)`
		move   = `UPDATE riverhook.river_job SET state = 'available', scheduled_at = now() - $2::text::interval WHERE args->>'delivery_id' = $1::bigint::text`
	)
	db.Exec(t, insert, 10)
	assert.Equal(t, []int64{1, 2, 3}, fetch(3), "as River does: nothing is known yet")
	f.looking = true // nobody else looks
	assert.Equal(t, []int64{4, 5, 6}, fetch(3))
	db.Exec(t, move, 1, "1 hour")
	assert.Equal(t, []int64{7, 8, 9, 10}, fetch(5), "not the first one again, which is behind the front")
	assert.Empty(t, fetch(5))

	// Of a transaction that began two seconds ago, and of one that began four seconds ago.
	db.Exec(t, insert, 3)
	db.Exec(t, move, 12, "2 seconds")
	db.Exec(t, move, 13, "4 seconds")
	assert.Equal(t, []int64{11, 12}, fetch(5))
	assert.Empty(t, fetch(5))
	f.looking = false
	var found []int64
	require.Eventually(t, func() bool {
		found = append(found, fetch(5)...)
		return len(found) >= 2
	}, 10*time.Second, 10*time.Millisecond)
	slices.Sort(found)
	assert.Equal(t, []int64{1, 13}, found)

	// Somebody gave a job another priority.
	db.Exec(t, insert, 1)
	db.Exec(t, `UPDATE riverhook.river_job SET priority = 4 WHERE args->>'delivery_id' = '14'`)
	require.Eventually(t, func() bool { return slices.Equal([]int64{14}, fetch(5)) }, 10*time.Second, 10*time.Millisecond)

	// The node stops.
	f.end()
	db.Exec(t, insert, 1)
	assert.Empty(t, fetch(5))
}

// A node that did not fetch for a while, whose database was away or whose places were taken, goes on where it was, whatever
// came meanwhile; and a look that had to wait for the database is not the last one for long.
func TestFetchAfterAWhile(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.MayHaveProblems(t, "jobs are fetched and never worked")
	f, fetch := fetching(t, db)
	const insert = `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('http://127.0.0.1:1/')`
	db.Exec(t, insert)
	assert.Equal(t, []int64{1}, fetch(5))
	f.looking = true // nobody else looks
	assert.Empty(t, fetch(5))
	db.Exec(t, insert)
	require.Eventually(t, func() bool {
		return pgtest.Scalar[bool](t, db, `SELECT scheduled_at < now() - $1::interval FROM riverhook.river_job WHERE state = 'available'`, slack+100*time.Millisecond)
	}, time.Minute, 50*time.Millisecond)
	assert.Equal(t, []int64{2}, fetch(5))

	db.Exec(t, insert)
	db.Exec(t, `UPDATE riverhook.river_job SET scheduled_at = now() - interval '1 hour' WHERE state = 'available'`)
	f.looking, f.looked, f.took = false, time.Now().Add(-maxLookInterval), time.Minute
	require.Eventually(t, func() bool { return slices.Equal([]int64{3}, fetch(5)) }, 10*time.Second, 10*time.Millisecond)
}

// While the queue is cleared, deliveries are fetched where it has been, and beyond what was there when that began, but for
// those that it is cleared of. When it is over, nothing has been forgotten.
func TestFetchWhileTheQueueIsCleared(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.MayHaveProblems(t, "jobs are fetched and never worked")
	f, fetch := fetching(t, db)
	f.looking = true // nobody else looks
	var c *worker.Clearing
	f.clearing = func() *worker.Clearing { return c }
	insert := func(urls ...string) {
		for _, url := range urls {
			db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ($1)`, url)
		}
	}
	const fails, other = "http://fails/", "http://other/"
	place := func(id int64) (p store.QueuePosition) {
		p.ScheduledAt = pgtest.Scalar[time.Time](t, db, `SELECT scheduled_at FROM riverhook.river_job WHERE args->>'delivery_id' = $1::bigint::text`, id)
		p.ID = pgtest.Scalar[int64](t, db, `SELECT id FROM riverhook.river_job WHERE args->>'delivery_id' = $1::bigint::text`, id)
		return p
	}
	insert(other, fails, fails, other, fails, other)
	assert.Equal(t, []int64{1}, fetch(1))

	c = &worker.Clearing{Origins: []string{"http://fails"}, Since: time.Now()}
	assert.Empty(t, fetch(10), "nothing is cleared yet, and nothing has come")
	insert(fails, other)
	assert.Equal(t, []int64{8}, fetch(10))
	c = &worker.Clearing{Origins: c.Origins, Since: c.Since, Behind: place(4)}
	assert.Equal(t, []int64{2, 3}, fetch(2), "what was left is there, up to the place and the limit")
	insert(other)
	assert.Equal(t, []int64{4, 9}, fetch(10))
	assert.Empty(t, fetch(10))

	c = nil
	assert.Equal(t, []int64{5, 6, 7}, fetch(10))
}

// What is behind the front again and again does not keep what is in front of it from being fetched.
func TestFetchBesideALockedJob(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.MayHaveProblems(t, "jobs are fetched and never worked")
	_, fetch := fetching(t, db)
	ctx := context.Background()
	const insert = `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('http://127.0.0.1:1/')`
	db.Exec(t, insert)
	db.Exec(t, `UPDATE riverhook.river_job SET scheduled_at = now() - interval '1 hour'`)
	tx, err := db.Pool.Begin(ctx)
	require.NoError(t, err)
	defer tx.Rollback(ctx) //nolint:errcheck // ends the lock
	_, err = tx.Exec(ctx, `SELECT FROM riverhook.river_job FOR UPDATE`)
	require.NoError(t, err)
	for id := int64(2); id < 20; id++ {
		db.Exec(t, insert)
		assert.Equal(t, []int64{id}, fetch(5))
	}
	require.NoError(t, tx.Rollback(ctx))
	require.Eventually(t, func() bool { return slices.Equal([]int64{1}, fetch(5)) }, 10*time.Second, 10*time.Millisecond)
}

// What a fetch from the front says about a job is what River's own says.
func TestFetchedJobsAreRivers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.MayHaveProblems(t, "jobs are fetched and never worked")
	executor := riverpgxv5.New(db.Pool).GetExecutor()
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('http://127.0.0.1:1/')`)
	db.Exec(t, `UPDATE riverhook.river_job SET attempt = 2, attempted_by = ARRAY['a', 'b', 'c'], metadata = '{"snoozes": 2}', tags = '{x}'`)
	params := &riverdriver.JobGetAvailableParams{ClientID: "a-node", MaxAttemptedBy: 3, MaxToLock: 10, Queue: delivery.JobQueue, Schema: db.Schema}
	theirs, err := executor.JobGetAvailable(context.Background(), params)
	require.NoError(t, err)
	require.Len(t, theirs.Jobs, 1)
	db.Exec(t, `UPDATE riverhook.river_job SET state = 'available', attempt = 2, attempted_by = ARRAY['a', 'b', 'c']`)
	f := &front{store: store.New(db.Pool, db.Schema), life: context.Background(), looking: true}
	f.saw(theirs.Jobs, 10, time.Time{})
	ours, err := f.get(context.Background(), executor, params)
	require.NoError(t, err)
	require.Len(t, ours.Jobs, 1)
	want, got := theirs.Jobs[0], ours.Jobs[0]
	assert.True(t, got.AttemptedAt.After(*want.AttemptedAt))
	got.AttemptedAt = want.AttemptedAt
	got.CreatedAt, got.ScheduledAt = got.CreatedAt.UTC(), got.ScheduledAt.UTC()
	// Nothing reads these.
	want.UniqueKey, want.UniqueStates, want.Errors, got.Errors = nil, nil, nil, nil
	assert.Equal(t, want, got)
}
