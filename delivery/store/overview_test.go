package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/store"
)

func TestOverview(t *testing.T) {
	t.Parallel()
	b := setup(t)
	empty, err := b.store.Overview(t.Context(), "")
	require.NoError(t, err)
	assert.Len(t, empty.Minutes, store.OverviewMinutes)
	assert.Empty(t, empty.Origins)
	assert.Zero(t, empty.Whole.N)

	insert := func(n int, organization, origin, status, ended string) {
		b.Exec(t, `WITH d AS (INSERT INTO riverhook.deliveries (endpoint_url, organization_id, status, scheduled_for, created_at, finished_at, last_error)
			SELECT $2 || '/x', $3, $4, NULL, now() - $5::interval - interval '2 seconds', now() - $5::interval, CASE WHEN $4 = 'dead_letter' THEN 'HTTP 500: no' END
			  FROM generate_series(1, $1) RETURNING id, status)
			INSERT INTO riverhook.attempts (delivery_id, round, attempt, started_at, duration_ms, outcome, failure_kind, status_code, node)
			SELECT id, 0, 1, now(), 250, CASE WHEN status = 'dead_letter' THEN 'permanent' ELSE 'succeeded' END, CASE WHEN status = 'dead_letter' THEN 'status' END, 200, 'node-a' FROM d`,
			n, origin, organization, status, ended)
	}
	insert(30, "acme", "https://a.example", "succeeded", "10 minutes")
	insert(10, "acme", "https://b.example", "dead_letter", "10 minutes")
	insert(5, "other", "https://a.example", "succeeded", "20 minutes")
	insert(2, "acme", "https://a.example", "canceled", "30 minutes")
	insert(7, "acme", "https://a.example", "succeeded", "2 hours")

	sum := func(o store.Overview) (m store.Minute) {
		for _, one := range o.Minutes {
			m.Succeeded += one.Succeeded
			m.DeadLetter += one.DeadLetter
			m.Canceled += one.Canceled
			m.About = m.About || one.About
		}
		return m
	}
	all, err := b.store.Overview(t.Context(), "")
	require.NoError(t, err)
	assert.Equal(t, store.Minute{Succeeded: 35, DeadLetter: 10, Canceled: 2}, sum(all))
	assert.EqualValues(t, 54, all.Recent)
	assert.EqualValues(t, 42, all.Whole.N)
	assert.Equal(t, 2*time.Second, all.Whole.P99)
	assert.Equal(t, 250*time.Millisecond, all.Attempt.P50)
	require.Len(t, all.Origins, 2)
	assert.Equal(t, "https://b.example", *all.Origins[0].EndpointOrigin, "failures first")
	assert.EqualValues(t, 10, all.Origins[0].Failed)
	assert.EqualValues(t, 10, all.Origins[0].DeadLetters)
	assert.Equal(t, "HTTP 500: no", *all.Origins[0].LastError)
	assert.Equal(t, 250*time.Millisecond, all.Origins[1].Mean)
	mine, err := b.store.Overview(t.Context(), "other")
	require.NoError(t, err)
	assert.Equal(t, store.Minute{Succeeded: 5}, sum(mine))
	assert.EqualValues(t, 5, mine.Recent)
	assert.Len(t, mine.Origins, 1)

	groups, err := b.store.DeadLetters(t.Context(), "")
	require.NoError(t, err)
	require.Len(t, groups.Groups, 1)
	assert.EqualValues(t, 10, groups.Groups[0].Count)
	assert.Equal(t, "HTTP 500: no", groups.Groups[0].Error)
	assert.False(t, groups.More)
	groups, err = b.store.DeadLetters(t.Context(), "other")
	require.NoError(t, err)
	assert.Empty(t, groups.Groups)

	b.Exec(t, `INSERT INTO riverhook.nodes (node, version, seen_at, dead_at) VALUES ('gone', 'v1', now(), now()), ('here', 'v2', now() - interval '1 second', NULL)`)
	nodes, err := b.store.Nodes(t.Context())
	require.NoError(t, err)
	require.Len(t, nodes, 2)
	assert.Equal(t, []string{"here", "gone"}, []string{nodes[0].Node, nodes[1].Node}, "the living first")
	assert.NotNil(t, nodes[1].DeadAt)
	assert.GreaterOrEqual(t, nodes[0].Now.Sub(nodes[0].SeenAt), time.Second)
}

// A busy minute is not counted to its end: what was counted says about how many there are.
func TestOverviewOfABusyMinute(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, status, scheduled_for, finished_at)
		SELECT 'http://a/', CASE WHEN i % 4 = 0 THEN 'canceled' ELSE 'succeeded' END, NULL, date_trunc('minute', now()) - interval '5 minutes' + i * interval '3 milliseconds'
		  FROM generate_series(0, 19999) i`)
	o, err := b.store.Overview(context.Background(), "")
	require.NoError(t, err)
	var busy store.Minute
	for _, m := range o.Minutes {
		if m.Succeeded > 0 {
			assert.Zero(t, busy.Succeeded, "one minute")
			busy = m
		}
	}
	assert.True(t, busy.About)
	assert.InEpsilon(t, 15_000, busy.Succeeded, 0.01)
	assert.InEpsilon(t, 5_000, busy.Canceled, 0.01)
}

// However much has been going on, a bounded part of it is looked at.
func TestOverviewOfMany(t *testing.T) {
	t.Parallel()
	b := setup(t)
	statements := &recorder{}
	config, err := pgxpool.ParseConfig(b.URL)
	require.NoError(t, err)
	store.TuneForRequests(config)
	config.ConnConfig.Tracer = statements
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	defer pool.Close()
	st := store.New(pool, b.Schema)
	const many, minutes = 60_000, 3
	b.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, organization_id, status, scheduled_for, finished_at, last_error)
		SELECT 'http://a/', CASE WHEN i % 1000 = 0 THEN 'rare' ELSE 'often' END, CASE WHEN i % 2 = 0 THEN 'dead_letter' ELSE 'succeeded' END, NULL,
		       date_trunc('minute', now()) - interval '6 minutes' + i * interval '3 milliseconds', 'HTTP 500: ' || i % 1000
		  FROM generate_series(0, $1 - 1) i`, many)
	b.Exec(t, `VACUUM ANALYZE riverhook.deliveries`)
	for organization, most := range map[string]int{"": 2 * store.RecentRows, "often": 2 * store.RecentRows, "rare": 300} {
		o, err := st.Overview(t.Context(), organization)
		require.NoError(t, err)
		assert.LessOrEqual(t, o.Recent, int64(store.RecentRows))
		plan := statements.explain(t, b, "EXPLAIN (ANALYZE, TIMING OFF) ")
		// Of each minute 2,000 of both indexes.
		assert.LessOrEqual(t, rowsScanned(t, plan), (minutes+1)*2*2000+most, "%q:\n%s", organization, plan)
		assert.Contains(t, plan, "deliveries_done_idx")
		assert.Contains(t, plan, "deliveries_dead_letter_idx")

		d, err := st.DeadLetters(t.Context(), organization)
		require.NoError(t, err)
		assert.Equal(t, organization != "rare", d.More)
		assert.LessOrEqual(t, len(d.Groups), 200)
		plan = statements.explain(t, b, "EXPLAIN (ANALYZE, TIMING OFF) ")
		assert.LessOrEqual(t, rowsScanned(t, plan), store.DeadLetterRows, "%q:\n%s", organization, plan)
	}
}
