package store_test

import (
	"context"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

// statements are the package's constants whose name ends in SQL, with the schema's name in them.
func statements(t *testing.T) map[string]string {
	t.Helper()
	set := token.NewFileSet()
	packages, err := parser.ParseDir(set, ".", nil, 0) //nolint:staticcheck // one directory, no build tags
	require.NoError(t, err)
	var files []*ast.File
	for name, file := range packages["store"].Files {
		if !strings.HasSuffix(name, "_test.go") {
			files = append(files, file)
		}
	}
	info := &types.Info{Defs: map[*ast.Ident]types.Object{}}
	checker := types.Config{Importer: nil, Error: func(error) {}} // imports do not matter for constants
	_, _ = checker.Check("store", set, files, info)
	found := map[string]string{}
	for ident, object := range info.Defs {
		if c, ok := object.(*types.Const); ok && strings.HasSuffix(ident.Name, "SQL") && c.Val().Kind() == constant.String {
			found[ident.Name] = strings.ReplaceAll(constant.StringVal(c.Val()), "{schema}", `"riverhook"`)
		}
	}
	return found
}

func TestEveryStatementPrepares(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, db.URL)
	require.NoError(t, err)
	defer conn.Close(ctx) //nolint:errcheck // a test's
	all := statements(t)
	require.Greater(t, len(all), 10)
	for name, sql := range all {
		if strings.Contains(strings.ReplaceAll(sql, "'{", ""), "{") {
			continue // put together from filters: TestPlans prepares what comes of it
		}
		_, err := conn.Prepare(ctx, name, sql)
		assert.NoError(t, err, name)
	}
}

// The hot statements find their rows by index, also under a plan that was made when the table was small.
func TestHotPlans(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ctx := context.Background()
	config, err := pgxpool.ParseConfig(db.URL)
	require.NoError(t, err)
	store.TuneForBatches(config)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	require.NoError(t, err)
	t.Cleanup(func() { go pool.Close() }) // it waits for the connection of a check that failed
	all := statements(t)
	db.Exec(t, `ALTER TABLE riverhook.deliveries SET (autovacuum_enabled = off)`)
	for _, phase := range []string{"empty", "stale", "full"} {
		switch phase {
		case "stale": // statistics of few rows, none of them pending; then many that are
			db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, status) SELECT 'http://a/', 'succeeded' FROM generate_series(1, 50)`)
			db.Exec(t, `ANALYZE`)
			db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) SELECT 'http://a/' FROM generate_series(1, 20000)`)
		case "full":
			db.Exec(t, `ANALYZE`)
		}
		for name, args := range map[string]string{
			"claimSQL":             `('{1,2}', '{0,0}', 'n', 60, 1000, 1000, 2, false)`,
			"claimableSQL":         `('{1,2}', '{0,0}')`,
			"fetchSQL":             `('webhooks', 100, 'n', 100, '2020-01-01')`,
			"fetchBetweenSQL":      `('webhooks', 100, 'n', 100, '2020-01-01', 7, '2020-01-01', 8)`,
			"fetchExceptSQL":       `('webhooks', 100, 'n', 100, '2020-01-01', '{http://a}')`,
			"availableBeforeSQL":   `('webhooks', '2020-01-01')`,
			"recordSQL":            `('{1}', '{1}', '{n}', '{0}', '{1}', '{0}', '{1}', '{succeeded}', '{NULL}', '{succeeded}', '{0}', '{NULL}', '{200}', '{NULL}', '{NULL}', '{1}')`,
			"unrecordedSQL":        `('{1}', '{1}', '{n}', '{0}', '{1}')`,
			"releaseSQL":           `('{1}', '{1}', '{n}', '{0}', '{NULL}', '{1}')`,
			"heldReceiversSQL":     `('', '', 1000)`,
			"pullSQL":              `('{http://a}', '{default}', '{10}')`,
			"holdQueuedSQL":        `('{http://a}', '{failing}', '2020-01-01', 7, 5, 1000)`,
			"letPassSQL":           `('{http://b}', 10, 100, 1000, '', 0, false)`,
			"heldSQL":              `('{1}', '{1}', '{n}')`,
			"sweepPageSQL":         `('-infinity', 0, 1000, 60)`,
			"lockExpiredSQL":       `('{1,2}')`,
			"lockEndedInFlightSQL": `(1000)`,
			"dueNowSQL":            `(1000)`,
			"finishSQL":            `(1000)`,

			"retentionDoneSQL":       `(3600, '-infinity', '{}', 500)`,
			"retentionDeadLetterSQL": `(3600, '-infinity', '{7,8}', 500)`,
			"removeEndedSQL":         `('{1,2}')`,
			"removeAnySQL":           `('{1,2}')`,
			"inTheWaySQL":            `('{a}', '{r}', '{n}', '{00000000-0000-4000-8000-000000000001}')`,
			"storedKeysSQL":          `('{a}', '{k}')`,
		} {
			conn, err := pool.Acquire(ctx)
			require.NoError(t, err)
			_, err = conn.Exec(ctx, `DEALLOCATE ALL`)
			require.NoError(t, err)
			_, err = conn.Conn().PgConn().Prepare(ctx, "hot", all[name], nil)
			require.NoError(t, err, name)
			if strings.HasPrefix(name, "retention") || name == "sweepPageSQL" {
				_, err = conn.Exec(ctx, `SET enable_sort = off`) // as inOrderedTx does
				require.NoError(t, err)
			}
			rows, err := conn.Query(ctx, `EXPLAIN EXECUTE hot`+args, pgx.QueryExecModeSimpleProtocol)
			require.NoError(t, err, name)
			lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
			require.NoError(t, err, name)
			plan := strings.Join(lines, "\n")
			assert.NotContains(t, plan, "Seq Scan on deliveries", "%s on an %s table:\n%s", name, phase, plan)
			assert.NotContains(t, plan, "Seq Scan on attempts", "%s on an %s table:\n%s", name, phase, plan)
			assert.NotContains(t, plan, "Seq Scan on river_job", "%s on an %s table:\n%s", name, phase, plan)
			if slices.Contains([]string{"claimSQL", "claimableSQL", "recordSQL", "unrecordedSQL", "releaseSQL", "heldSQL"}, name) {
				// By primary key, each row of the list one probe: through another index it would be all pending rows for each.
				assert.NotRegexp(t, `(Index|Bitmap).* (on|using) deliveries_(status|due|org|origin|done|dead|ended)`, plan, "%s on a %s table", name, phase)
				assert.Contains(t, plan, "Index Cond: (id = ", "%s on a %s table:\n%s", name, phase, plan)
			}
			switch name {
			case "heldReceiversSQL", "pullSQL":
				assert.Contains(t, plan, "deliveries_held_idx", "%s on an %s table:\n%s", name, phase, plan)
			case "fetchSQL", "fetchExceptSQL", "fetchBetweenSQL": // in order: it ends with the last job that it takes
				assert.Regexp(t, `Index Cond: \(\(state = 'available'.* AND \(queue = .*\) AND \(priority = 1\) AND \((scheduled_at >= |ROW\(scheduled_at, id\) > .*ROW\(scheduled_at, id\) <= )`, plan, "%s on an %s table", name, phase)
				assert.NotContains(t, plan, "Sort", "on an %s table:\n%s", phase, plan)
			case "availableBeforeSQL": // looked up, and not read
				assert.Regexp(t, `Index Cond: .*\(priority = 1\) AND \(scheduled_at < `, plan, "on an %s table", phase)
				assert.Regexp(t, `Index Cond: .*\(priority > 1\) AND \(scheduled_at <= `, plan, "on an %s table", phase)
			case "holdQueuedSQL":
				assert.Regexp(t, `Index Cond: .*ROW\(scheduled_at, id\) > `, plan, "on an %s table", phase)
				assert.Contains(t, plan, "river_job_prioritized_fetching_index", "%s on an %s table:\n%s", name, phase, plan)
				assert.Equal(t, 3, strings.Count(plan, "deliveries_pkey"), "%s on an %s table:\n%s", name, phase, plan)
			case "letPassSQL":
				assert.Contains(t, plan, "deliveries_origin_due_idx", "%s on an %s table:\n%s", name, phase, plan)
				assert.Contains(t, plan, "river_job_unique_idx", "%s on an %s table:\n%s", name, phase, plan)
				assert.NotContains(t, plan, "deliveries_due_idx", "%s on an %s table:\n%s", name, phase, plan)
			}
			if name == "sweepPageSQL" {
				assert.Contains(t, plan, "deliveries_due_idx", plan)
				assert.Contains(t, plan, "river_job_unique_idx", plan)
				assert.Regexp(t, `Index Cond: \(unique_key = .*held IS NOT TRUE`, plan, "what is held has no job to look for")
				assert.Equal(t, 1, strings.Count(plan, "river_job_unique_idx on "), plan)
			}
			switch name {
			case "retentionDoneSQL":
				assert.Regexp(t, `(?s)^Limit.*LockRows.*Index Scan using deliveries_done_idx.*Index Cond: \(\(finished_at <.*finished_at >=`, plan, "on an %s table", phase)
			case "retentionDeadLetterSQL":
				assert.Regexp(t, `(?s)^Limit.*LockRows.*Index Scan using deliveries_dead_letter_idx.*Index Cond: \(\(finished_at <.*finished_at >=`, plan, "on an %s table", phase)
			case "removeEndedSQL", "removeAnySQL":
				assert.Regexp(t, `deliveries_pkey.*\n.*Index Cond: \(id = ANY`, plan, "%s on an %s table", name, phase)
				assert.Regexp(t, `attempts_pkey.*\n.*Index Cond: \(delivery_id = ANY`, plan, "%s on an %s table", name, phase)
			}
			conn.Conn().Close(ctx) //nolint:errcheck // it has a plan mode of its own
			conn.Release()
		}
	}
}

// A large backlog is swept in a time that grows with it, not with its square: a hundred pages take about a hundred times
// as long as one. (Half a minute for what takes a second is no measurement, but a broken plan takes minutes.)
func TestSweepOfALargeBacklog(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) SELECT 'http://a/' FROM generate_series(1, 100000)`)
	st := store.New(db.Pool, db.Schema)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var page store.SweepPage
	var err error
	live := 0
	for !page.Last {
		page, err = st.SweepPage(ctx, page.Next, 1000, nil)
		require.NoError(t, err)
		live += page.Live
	}
	assert.Equal(t, 100_000, live)
}
