package store_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

// Status goes along indexes, up to its limits, whatever the statistics say.
func TestStatusPlans(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ctx := context.Background()
	db.Exec(t, `ALTER TABLE riverhook.deliveries SET (autovacuum_enabled = off)`)
	all := statements(t)
	for _, phase := range []string{"empty", "stale", "full"} {
		switch phase {
		case "stale":
			db.Exec(t, `ANALYZE; INSERT INTO riverhook.deliveries (endpoint_url, status, finished_at)
				SELECT 'http://a/', (ARRAY['pending', 'succeeded', 'dead_letter'])[1 + i % 3], now() FROM generate_series(1, 20000) i`)
		case "full":
			db.Exec(t, `ANALYZE`)
		}
		for name, c := range map[string]struct {
			args  []any
			index string
		}{
			"statusBacklogSQL": {[]any{20000}, "deliveries_due_idx"},
			"statusLaterSQL":   {[]any{20000, 300.0}, "deliveries_due_idx"},
			"statusRecentSQL":  {[]any{10000, 300.0}, "deliveries_done_idx"},
			"statusDeadSQL":    {[]any{10000, 300.0}, "deliveries_dead_letter_idx"},
			"heldOriginsSQL":   {[]any{1000}, "deliveries_held_idx"},
		} {
			err := pgx.BeginFunc(ctx, db.Pool, func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, `SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off;
					SET LOCAL enable_sort = off; SET LOCAL enable_bitmapscan = off`) // as Status does
				require.NoError(t, err)
				rows, err := tx.Query(ctx, `EXPLAIN `+all[name], c.args...)
				require.NoError(t, err, name)
				lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
				plan := strings.Join(lines, "\n")
				assert.NotContains(t, plan, "Seq Scan on deliveries", "%s on a %s table:\n%s", name, phase, plan)
				assert.NotContains(t, plan, "Seq Scan on attempts", "%s on a %s table:\n%s", name, phase, plan)
				assert.Regexp(t, `Index (Only )?Scan (Backward )?using `+c.index, plan, "%s on a %s table", name, phase)
				return err
			})
			require.NoError(t, err)
		}
	}
}

// What it counts is bounded, and says so.
func TestStatusIsBounded(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `ALTER TABLE riverhook.deliveries DISABLE TRIGGER deliveries_enqueue`)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, status, finished_at, scheduled_for, last_error)
		SELECT 'http://h' || i % 50 || '/', CASE i % 4 WHEN 0 THEN 'succeeded' WHEN 1 THEN 'dead_letter' ELSE 'pending' END,
		       CASE WHEN i % 4 < 2 THEN now() - i * interval '1 millisecond' END, now() + (i % 4 - 2.5) * interval '1 hour', 'no such host'
		  FROM generate_series(1, 84000) i`)
	s, err := store.New(db.Pool, db.Schema).Status(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []any{store.MaxStatusRows, true}, []any{s.Backlog.Waiting, s.Backlog.AtLeast})
	assert.Equal(t, []any{store.MaxStatusRows, true}, []any{s.Later.Delayed, s.Later.AtLeast})
	assert.Equal(t, []int{store.MaxStatusRecent, store.MaxStatusRecent}, []int{s.Recent.Succeeded, s.Recent.DeadLetters})
	assert.Less(t, s.Recent.Seconds, 300.0, "the time in which these ended")
}
