package node_test

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

// Whatever is under way, nothing that may not be is ever seen: two nodes deliver, retry and sweep while people replay,
// reschedule, cancel, edit and pause.
func TestNoProblemsWhileBusy(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := newReceiver(t, func(w http.ResponseWriter, q *http.Request) {
		if n, _ := strconv.Atoi(q.Header.Get("X-Riverhook-Delivery-Attempt")); n < 2 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	for range 2 {
		c := config(t, db)
		c.SweepInterval = 100 * time.Millisecond
		start(t, c)
	}
	const total = 1500
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, organization_id, scheduled_for)
		SELECT $1, 'o' || n % 5, now() + (n % 100) * interval '20 milliseconds' FROM generate_series(1, $2::int) n`, r.URL, total)

	st := store.New(db.Pool, db.Schema)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ctx.Err() == nil && n < 150; n++ {
			for _, sql := range []string{
				`UPDATE riverhook.deliveries SET status = 'canceled' WHERE id % 50 = $1 % 50 AND status = 'pending'`,
				`UPDATE riverhook.deliveries SET status = 'pending' WHERE id % 50 = $1 % 50 AND status <> 'pending' AND round < 3`,
				`UPDATE riverhook.deliveries SET scheduled_for = now() WHERE id % 40 = $1 % 40 AND status = 'pending'`,
				`UPDATE riverhook.deliveries SET scheduled_for = now() + interval '300 milliseconds' WHERE id % 70 = $1 % 70 AND status = 'pending'`,
				`INSERT INTO riverhook.pauses (organization_id) SELECT 'o' || $1 % 5 WHERE $1 % 10 = 0 ON CONFLICT DO NOTHING`,
				`DELETE FROM riverhook.pauses WHERE $1 % 10 = 5`,
				`DELETE FROM riverhook.river_job WHERE id % 97 = $1 % 97`,
			} {
				_, err := db.Pool.Exec(ctx, sql, n)
				if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) && pg.Code != "40P01" { // deadlock: nodes and people lock in different orders
					assert.NoError(t, err, sql)
				}
			}
		}
		_, _ = db.Pool.Exec(ctx, `DELETE FROM riverhook.pauses`)
	}()
	looks := 0
	for over := false; !over; looks++ {
		over = pgtest.Scalar[bool](t, db, `SELECT NOT EXISTS (SELECT FROM riverhook.deliveries WHERE status = 'pending')`)
		select {
		case <-done:
		default:
			over = false
		}
		kinds, err := st.Problems(ctx, store.ProblemSearch{Grace: time.Minute, LookAt: 100_000, PerKind: 5, Within: time.Minute})
		require.NoError(t, err)
		if !assert.Empty(t, kinds) {
			break
		}
	}
	cancel()
	<-done
	assert.Greater(t, looks, 3)
	assert.Positive(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.deliveries WHERE round > 0`), "some were replayed")
}
