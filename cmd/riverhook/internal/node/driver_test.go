package node_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/migrations/pgtest"
)

// completions are the jobs whose state River asks to set.
type completions struct {
	mu  sync.Mutex
	ids map[int64]bool

	fromFront atomic.Bool // jobs were fetched from the front of the queue on
}

func (c *completions) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if strings.Contains(data.SQL, "SET state = 'running'") && strings.Contains(data.SQL, "j.scheduled_at >= $5") {
		c.fromFront.Store(true)
	}
	if strings.Contains(data.SQL, "JobSetStateIfRunningMany") {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, arg := range data.Args {
			if ids, ok := arg.([]int64); ok {
				for _, id := range ids {
					c.ids[id] = true
				}
			}
		}
	}
	return ctx
}

func (c *completions) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// River does not ask about the jobs that went with the record of their attempt, or when their delivery was held back; it does
// about all others. And it fetches from the front.
func TestWhatHasEndedIsNotCompleted(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := newReceiver(t, nil)
	for range 50 {
		insert(t, db, r.URL)
	}
	insert(t, db, r.URL)
	db.Exec(t, `UPDATE riverhook.deliveries SET status = 'canceled' WHERE id = 51`)
	db.Exec(t, `INSERT INTO riverhook.pauses (organization_id) VALUES ('paused')`)
	db.Exec(t, `INSERT INTO riverhook.deliveries (organization_id, endpoint_url) SELECT 'paused', $1 FROM generate_series(1, 10)`, r.URL)
	jobs := pgtest.Column[int64](t, db, `SELECT id FROM riverhook.river_job ORDER BY (args->>'delivery_id')::bigint`)
	asked := &completions{ids: map[int64]bool{}}
	c := config(t, db)
	c.Database.ConnConfig.Tracer = asked
	_, stop := start(t, c)
	eventually(t, db, 50, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded'`)
	eventually(t, db, 10, `SELECT count(*)::int FROM riverhook.deliveries WHERE held_reason = 'paused'`)
	eventually(t, db, "completed", `SELECT state::text FROM riverhook.river_job WHERE id = $1`, jobs[50])
	require.Eventually(t, asked.fromFront.Load, time.Minute, 10*time.Millisecond)
	stop()
	asked.mu.Lock()
	defer asked.mu.Unlock()
	assert.True(t, asked.ids[jobs[50]], "nothing to claim: River completes the job")
	for _, id := range slices.Concat(jobs[:50], jobs[51:]) {
		assert.False(t, asked.ids[id])
	}
	assert.Equal(t, 1, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.river_job WHERE queue = 'webhooks'`))
}
