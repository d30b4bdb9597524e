package store_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

const orphansSQL = `SELECT count(*)::int FROM riverhook.attempts a WHERE NOT EXISTS (SELECT FROM riverhook.deliveries d WHERE d.id = a.delivery_id)`

func (b *bundle) attempts(t *testing.T, n int, ids ...int64) {
	t.Helper()
	b.Exec(t, `INSERT INTO riverhook.attempts (delivery_id, round, attempt, started_at, outcome, node, response_body)
		SELECT id, 0, n, now(), 'abandoned', 'n', 'x' FROM unnest($1::bigint[]) id, generate_series(1, $2) n`, ids, n)
}

func TestErase(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		scope store.EraseScope
		where string // of what goes
	}{
		"organization":          {store.EraseScope{Organization: "acme"}, `organization_id = 'acme'`},
		"run":                   {store.EraseScope{Run: "run-1"}, `workflow_run_id = 'run-1'`},
		"run of a tenant":       {store.EraseScope{Organization: "acme", Run: "run-1"}, `organization_id = 'acme' AND workflow_run_id = 'run-1'`},
		"nobody":                {store.EraseScope{Organization: "nobody"}, `false`},
		"a value like SQL":      {store.EraseScope{Organization: `' OR true --{scope}`}, `false`},
		"another tenant's runs": {store.EraseScope{Organization: "nobody", Run: "run-1"}, `false`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			for i, set := range []string{"", later, deadLetter, canceled, succeeded, `claim = 3, claimed_by = 'dead', leased_until = now() - interval '1 second'`} {
				for _, org := range []string{"acme", "other"} {
					for _, run := range []string{"run-1", "run-2"} {
						id := b.insert(t, fmt.Sprintf(`organization_id = '%s', workflow_run_id = '%s', webhook_node_id = 'n%d'`, org, run, i))
						if set != "" {
							b.Exec(t, `ALTER TABLE riverhook.deliveries DISABLE TRIGGER USER`)
							b.Exec(t, `UPDATE riverhook.deliveries SET `+set+` WHERE id = $1`, id)
							b.Exec(t, `ALTER TABLE riverhook.deliveries ENABLE TRIGGER USER`)
						}
						b.attempts(t, i, id)
					}
				}
			}
			// Their jobs: live ones, one that is running, one of an older generation.
			b.Exec(t, `INSERT INTO riverhook.river_job (kind, args, queue, max_attempts, state, scheduled_at, unique_key, unique_states)
				SELECT j.kind, j.args, j.queue, j.max_attempts, j.state::riverhook.river_job_state, j.scheduled_at, j.unique_key, j.unique_states
				  FROM riverhook.deliveries d, riverhook.delivery_job(d.id, d.claim, d.scheduled_for) j WHERE d.status = 'pending'`)
			b.Exec(t, `UPDATE riverhook.river_job SET state = 'running', attempt = 1, attempted_at = now() WHERE (args->>'delivery_id')::bigint <= 4`)
			b.Exec(t, `UPDATE riverhook.deliveries SET claim = claim + 1 WHERE id <= 2`)

			goes := pgtest.Column[int64](t, b.DB, `SELECT id FROM riverhook.deliveries WHERE `+test.where)
			attempts := pgtest.Scalar[int](t, b.DB, `SELECT count(*)::int FROM riverhook.attempts WHERE delivery_id = ANY ($1)`, goes)
			rows := pgtest.Column[string](t, b.DB, `SELECT d::text FROM riverhook.deliveries d WHERE NOT (`+test.where+`) ORDER BY id`)
			jobs := pgtest.Column[int64](t, b.DB, `SELECT id FROM riverhook.river_job WHERE state = 'running' OR NOT (args->>'delivery_id')::bigint = ANY ($1) ORDER BY id`, goes)

			count, err := b.store.CountErase(t.Context(), test.scope, nil)
			require.NoError(t, err)
			assert.Equal(t, len(goes), count.Total())
			assert.Equal(t, len(goes)/6, count.Deliveries[delivery.StatusDeadLetter])
			assert.Equal(t, attempts, count.Attempts)
			assert.Zero(t, count.Sending)

			erased, err := b.store.Erase(t.Context(), test.scope, 0, nil)
			require.NoError(t, err)
			assert.Equal(t, store.Erased{Deliveries: len(goes), Attempts: attempts}, erased)
			assert.Equal(t, rows, pgtest.Column[string](t, b.DB, `SELECT d::text FROM riverhook.deliveries d ORDER BY id`))
			assert.Zero(t, pgtest.Scalar[int](t, b.DB, orphansSQL))
			assert.Equal(t, jobs, pgtest.Column[int64](t, b.DB, `SELECT id FROM riverhook.river_job ORDER BY id`))
		})
	}
}

func TestEraseIsNeverEverything(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.insert(t, "")
	_, err := b.store.Erase(t.Context(), store.EraseScope{}, 0, nil)
	require.ErrorContains(t, err, "it would be everything")
	_, err = b.store.CountErase(t.Context(), store.EraseScope{}, nil)
	require.ErrorContains(t, err, "it would be everything")
	assert.Len(t, b.rows(t), 1)
}

func (b *bundle) rows(t *testing.T) []int64 {
	t.Helper()
	return pgtest.Column[int64](t, b.DB, `SELECT id FROM riverhook.deliveries ORDER BY id`)
}

// Several pages, with what is inserted meanwhile left alone.
func TestErasePages(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.insertMany(t, 45_000, "organization_id", "CASE WHEN i % 2 = 0 THEN 'acme' ELSE 'other' END")
	count, err := b.store.CountErase(t.Context(), store.EraseScope{Organization: "acme"}, nil)
	require.NoError(t, err)
	assert.Equal(t, 22_500, count.Total())
	pages := 0
	erased, err := b.store.Erase(t.Context(), store.EraseScope{Organization: "acme"}, 0, func(e store.Erased) {
		if pages++; pages == 1 {
			assert.Equal(t, 1000, e.Deliveries)
			b.insert(t, `organization_id = 'acme'`)
		}
	})
	require.NoError(t, err)
	assert.Equal(t, store.Erased{Deliveries: 22_500}, erased)
	assert.Equal(t, 23, pages)
	assert.Equal(t, []int64{45_001}, pgtest.Column[int64](t, b.DB, `SELECT id FROM riverhook.deliveries WHERE organization_id = 'acme'`))
}

// What is being sent stays until its outcome is recorded, and goes then, with that outcome.
func TestEraseOfWhatIsBeingSent(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.insert(t, `organization_id = 'acme'`)
	b.insert(t, `organization_id = 'acme'`)
	scope := store.EraseScope{Organization: "acme"}
	claimed, err := b.store.Claim(t.Context(), "node", []delivery.JobArgs{{DeliveryID: id}}, store.ClaimLimits{Lease: time.Minute, MaxPayload: 1000, MaxBatch: 1000})
	require.NoError(t, err)
	require.Equal(t, store.ClaimTaken, claimed[0].Verdict)

	count, err := b.store.CountErase(t.Context(), scope, nil)
	require.NoError(t, err)
	assert.Equal(t, store.EraseCount{Deliveries: map[delivery.Status]int{"pending": 2}, Sending: 1}, count)
	erased, err := b.store.Erase(t.Context(), scope, 0, nil)
	require.NoError(t, err)
	assert.Equal(t, store.Erased{Deliveries: 1, Left: 1}, erased)
	assert.Equal(t, []int64{id}, b.rows(t))

	waits := false
	erased, err = b.store.Erase(t.Context(), scope, time.Minute, func(e store.Erased) {
		if e.Left == 0 || waits {
			return
		}
		waits = true
		verdicts, err := b.store.Record(t.Context(), []store.Attempt{{
			Fence: claimed[0].Delivery.Fence(), Number: 1, Started: time.Now(),
			Decision: delivery.Decision{Outcome: delivery.OutcomeTransient, Failure: delivery.FailureStatus, Status: delivery.StatusPending, Delay: time.Hour},
		}})
		require.NoError(t, err)
		require.Equal(t, []store.RecordVerdict{store.Recorded}, verdicts)
	})
	require.NoError(t, err)
	assert.True(t, waits)
	assert.Equal(t, store.Erased{Deliveries: 1, Attempts: 1}, erased)
	assert.Empty(t, b.rows(t))
	assert.Zero(t, pgtest.Scalar[int](t, b.DB, `SELECT count(*)::int FROM riverhook.attempts`))
	assert.Empty(t, b.jobs(t), "the job of its next attempt went too")
}

// A row that another transaction is about to change is not waited for in its page; the wait is bounded and can be ended.
func TestEraseOfALockedRow(t *testing.T) {
	t.Parallel()
	b := setup(t)
	locked := b.insert(t, `organization_id = 'acme'`)
	b.insert(t, `organization_id = 'acme'`)
	tx, err := b.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // ends the lock
	_, err = tx.Exec(t.Context(), `SELECT FROM riverhook.deliveries WHERE id = $1 FOR NO KEY UPDATE`, locked)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	erased, err := b.store.Erase(ctx, store.EraseScope{Organization: "acme"}, time.Hour, func(e store.Erased) {
		if e.Left > 0 {
			cancel()
		}
	})
	require.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, store.Erased{Deliveries: 1, Left: 1}, erased)
	assert.Equal(t, []int64{locked}, b.rows(t))
}

func TestEraseOfReferredRows(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.insertMany(t, 100, "organization_id", "'acme'")
	b.Exec(t, `CREATE TABLE orders (delivery bigint REFERENCES riverhook.deliveries); INSERT INTO orders VALUES (7), (50)`)
	erased, err := b.store.Erase(t.Context(), store.EraseScope{Organization: "acme"}, time.Minute, nil)
	require.NoError(t, err)
	assert.Equal(t, store.Erased{Deliveries: 98, Referred: 2}, erased)
	assert.Equal(t, []int64{7, 50}, b.rows(t))
}

func TestErasePlans(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.insertMany(t, 100_000, "status, organization_id, workflow_run_id, webhook_node_id",
		`'succeeded', CASE WHEN i % 100 = 0 THEN 'small' ELSE 'large' END, 'run-' || i / 1000, i::text`)
	b.Exec(t, `VACUUM ANALYZE riverhook.deliveries`)
	statements := &recorder{}
	config, err := pgxpool.ParseConfig(b.URL)
	require.NoError(t, err)
	config.ConnConfig.Tracer = statements
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	defer pool.Close()
	st := store.New(pool, b.Schema)
	for _, test := range []struct {
		scope store.EraseScope
		index string
		n     int
	}{
		{store.EraseScope{Organization: "small"}, "deliveries_org_idx", 1000},
		{store.EraseScope{Run: "run-5"}, "deliveries_get_or_create_key", 990},
		{store.EraseScope{Run: "run-6", Organization: "large"}, "deliveries_get_or_create_key", 990},
	} {
		count, err := st.CountErase(t.Context(), test.scope, nil)
		require.NoError(t, err)
		assert.Equal(t, test.n, count.Total())
		plan := statements.plans(t, b)
		assert.NotContains(t, plan, "Seq Scan")
		assert.Contains(t, plan, test.index)
		erased, err := st.Erase(t.Context(), test.scope, 0, nil)
		require.NoError(t, err)
		assert.Equal(t, test.n, erased.Deliveries)
		plan = statements.plans(t, b)
		assert.NotContains(t, plan, "Seq Scan")
		assert.Contains(t, plan, test.index)
		assert.Regexp(t, `LockRows(.*\n){1,6}.*deliveries_pkey.*\n.*Index Cond: \(id = ANY`, plan)
	}
}
