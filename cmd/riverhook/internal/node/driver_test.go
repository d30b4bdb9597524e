package node_test

import (
	"context"
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

// River does not ask about the jobs that went with the record of their attempt; it does about all others. And it fetches from
// the front.
func TestWhatHasEndedIsNotCompleted(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := newReceiver(t, nil)
	for range 50 {
		insert(t, db, r.URL)
	}
	insert(t, db, r.URL)
	db.Exec(t, `UPDATE riverhook.deliveries SET status = 'canceled' WHERE id = 51`)
	jobs := pgtest.Column[int64](t, db, `SELECT id FROM riverhook.river_job ORDER BY (args->>'delivery_id')::bigint`)
	asked := &completions{ids: map[int64]bool{}}
	c := config(t, db)
	c.Database.ConnConfig.Tracer = asked
	_, stop := start(t, c)
	eventually(t, db, 50, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded'`)
	eventually(t, db, "completed", `SELECT state::text FROM riverhook.river_job WHERE id = $1`, jobs[50])
	require.Eventually(t, asked.fromFront.Load, time.Minute, 10*time.Millisecond)
	stop()
	asked.mu.Lock()
	defer asked.mu.Unlock()
	assert.True(t, asked.ids[jobs[50]], "nothing to claim: River completes the job")
	for _, id := range jobs[:50] {
		assert.False(t, asked.ids[id])
	}
}
