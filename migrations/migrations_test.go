package migrations_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/migrations"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

func TestMain(m *testing.M) {
	pgtest.MayHaveProblems("they go back and forth, with triggers off")
	pgtest.Main(m)
}

func up(t testing.TB, db *pgtest.DB, schema string) (migrations.Report, error) {
	t.Helper()
	return migrations.Up(context.Background(), db.Pool, migrations.Options{Schema: schema})
}

func TestUpTwice(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmpty(t)
	ctx := context.Background()
	status, err := migrations.Inspect(ctx, db.Pool, "riverhook")
	require.NoError(t, err)
	var notMigrated *migrations.NotMigratedError
	require.ErrorAs(t, status.Check("riverhook"), &notMigrated)
	assert.Contains(t, notMigrated.Error(), "riverhook migrate up")

	report, err := up(t, db, "riverhook")
	require.NoError(t, err)
	assert.Equal(t, [2]int{0, migrations.Latest}, [2]int{report.From, report.To})
	assert.True(t, report.Changed())
	report, err = up(t, db, "riverhook")
	require.NoError(t, err)
	assert.False(t, report.Changed())

	status, err = migrations.Inspect(ctx, db.Pool, "riverhook")
	require.NoError(t, err)
	require.NoError(t, status.Check("riverhook"))
	assert.Equal(t, migrations.Latest, status.Version)
	assert.Equal(t, status.RiverLatest, status.River)
}

func TestUpFromManyAtOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmpty(t)
	var wg sync.WaitGroup
	errs := make([]error, 5)
	for i := range errs {
		wg.Go(func() { _, errs[i] = up(t, db, "riverhook") })
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	assert.Equal(t, migrations.Latest, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.schema_migrations`))
}

// Two schemas in one database, one of which needs quoting and was made by somebody else, do not touch each other.
func TestSchemas(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmpty(t)
	db.Exec(t, `CREATE SCHEMA "Hooks_2"`)
	for _, schema := range []string{"Hooks_2", "riverhook", strings.Repeat("x", 46)} {
		_, err := up(t, db, schema)
		require.NoError(t, err, schema)
		q := pgx.Identifier{schema}.Sanitize()
		db.Exec(t, `INSERT INTO `+q+`.deliveries (endpoint_url) VALUES ('http://a/')`)
		assert.Equal(t, 1, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM `+q+`.river_job`), schema)
		db.Exec(t, `UPDATE `+q+`.deliveries SET status = 'canceled'`)
		db.Exec(t, `UPDATE `+q+`.deliveries SET status = 'pending'`)
		assert.Equal(t, 2, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM `+q+`.river_job`), schema)
	}
	assert.Equal(t, 3, pgtest.Scalar[int](t, db, `SELECT count(DISTINCT schemaname)::int FROM pg_tables WHERE tablename = 'deliveries'`))
	assert.Zero(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM pg_tables WHERE schemaname = 'public'`))
}

func TestSchemaNames(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "1x", "a-b", `a"b`, "a b", "public", "pg_x", "information_schema", strings.Repeat("x", 47), "ünder"} {
		require.Error(t, migrations.CheckSchemaName(bad), bad)
	}
	for _, good := range []string{"riverhook", "_x", "A1", strings.Repeat("x", 46)} {
		assert.NoError(t, migrations.CheckSchemaName(good), good)
	}
}

func TestDown(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ctx := context.Background()
	_, err := migrations.Down(ctx, db.Pool, migrations.Options{}, migrations.Latest+1)
	require.ErrorContains(t, err, "at version")
	report, err := migrations.Down(ctx, db.Pool, migrations.Options{}, 0)
	require.NoError(t, err)
	assert.Equal(t, 0, report.To)
	assert.Equal(t, 0, report.RiverTo)
	left := pgtest.Column[string](t, db, `SELECT relname::text FROM pg_class WHERE relnamespace = 'riverhook'::regnamespace
		UNION ALL SELECT proname::text FROM pg_proc WHERE pronamespace = 'riverhook'::regnamespace`)
	assert.Empty(t, left)
	_, err = up(t, db, "riverhook")
	require.NoError(t, err, "and up again")
}

// One step back and forth: rows of the first version stay, and who was service is service again.
func TestDownOneStep(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('http://a/')`)
	service, _ := login(t, db, "service")
	report, err := migrations.Down(context.Background(), db.Pool, migrations.Options{}, 1)
	require.NoError(t, err)
	assert.Equal(t, 1, report.To)
	assert.False(t, pgtest.Scalar[bool](t, db, `SELECT to_regclass('riverhook.signing_secrets') IS NOT NULL`))
	report, err = up(t, db, "riverhook")
	require.NoError(t, err)
	assert.Equal(t, [2]int{1, migrations.Latest}, [2]int{report.From, report.To})
	assert.Equal(t, 1, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.deliveries`))
	_, err = service.Exec(context.Background(), `DELETE FROM riverhook.signing_secrets`)
	require.NoError(t, err)
}

// Rows of before keep their origin when it is not generated any more, and going back leaves them as they are.
func TestOriginIsKept(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmpty(t)
	ctx := context.Background()
	const (
		generated = `SELECT attgenerated <> '' FROM pg_attribute WHERE attrelid = 'riverhook.deliveries'::regclass AND attname = 'endpoint_origin'`
		origins   = `SELECT coalesce(endpoint_origin, '') FROM riverhook.deliveries ORDER BY id`
		insert    = `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('http://a/'), ('not a url'), ('https://B:8443?x')`
	)
	_, err := up(t, db, "riverhook")
	require.NoError(t, err)
	_, err = migrations.Down(ctx, db.Pool, migrations.Options{}, 13)
	require.NoError(t, err)
	// As it was in version 13.
	db.Exec(t, `DROP FUNCTION riverhook.deliveries_origin CASCADE`)
	db.Exec(t, `ALTER TABLE riverhook.deliveries DROP COLUMN endpoint_origin`)
	db.Exec(t, `ALTER TABLE riverhook.deliveries ADD endpoint_origin text GENERATED ALWAYS AS (substring(lower(endpoint_url) FROM '^https?://[^/?]+')) STORED`)
	db.Exec(t, insert)
	_, err = up(t, db, "riverhook")
	require.NoError(t, err)
	assert.False(t, pgtest.Scalar[bool](t, db, generated))
	db.Exec(t, insert)
	want := []string{"http://a", "", "https://b:8443", "http://a", "", "https://b:8443"}
	assert.Equal(t, want, pgtest.Column[string](t, db, origins))
	_, err = migrations.Down(ctx, db.Pool, migrations.Options{}, 1)
	require.NoError(t, err)
	assert.Equal(t, want, pgtest.Column[string](t, db, origins))
	db.Exec(t, insert)
	assert.Equal(t, append(want, want[:3]...), pgtest.Column[string](t, db, origins), "with the triggers of later")
}

// A newer program has migrated: an older one serves as long as the migrations say that it can.
func TestOlderProgram(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ctx := context.Background()
	db.Exec(t, `INSERT INTO riverhook.schema_migrations VALUES ($1, 'later', 1)`, migrations.Latest+1)
	status, err := migrations.Inspect(ctx, db.Pool, "riverhook")
	require.NoError(t, err)
	require.NoError(t, status.Check("riverhook"))

	db.Exec(t, `INSERT INTO riverhook.schema_migrations VALUES ($1, 'much later', $1)`, migrations.Latest+2)
	status, err = migrations.Inspect(ctx, db.Pool, "riverhook")
	require.NoError(t, err)
	var tooOld *migrations.TooOldError
	require.ErrorAs(t, status.Check("riverhook"), &tooOld)
	assert.Contains(t, tooOld.Error(), "install a newer riverhook")

	db.Exec(t, `UPDATE riverhook.schema_version SET version = $1`, migrations.Latest+2)
	report, err := up(t, db, "riverhook")
	require.NoError(t, err, "what is newer is left alone")
	assert.False(t, report.Changed())
	_, err = migrations.Down(ctx, db.Pool, migrations.Options{}, 0)
	require.ErrorContains(t, err, "newer riverhook")
}

// A migration gives way to whoever holds a lock, and tries again.
func TestUpUnderALock(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmpty(t)
	ctx := context.Background()
	_, err := up(t, db, "riverhook")
	require.NoError(t, err)
	// As if version 1 had still to come, on a database whose River tables are in use.
	db.Exec(t, `DROP VIEW riverhook.problems; DROP FUNCTION riverhook.find_problems; DROP TABLE riverhook.deliveries, riverhook.attempts, riverhook.credentials, riverhook.signing_secrets, riverhook.pauses, riverhook.tokens, riverhook.idempotency_keys, riverhook.replays, riverhook.nodes, riverhook.origin_states, riverhook.sessions, riverhook.schema_migrations; DROP FUNCTION riverhook.pauses_bound; UPDATE riverhook.schema_version SET version = 0`)
	db.Exec(t, `DO $$ DECLARE f regprocedure; BEGIN FOR f IN SELECT oid FROM pg_proc WHERE pronamespace = 'riverhook'::regnamespace AND proname LIKE 'deliver%' LOOP
		EXECUTE 'DROP FUNCTION ' || f; END LOOP; END $$`)
	tx, err := db.Pool.Begin(ctx)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, `LOCK TABLE riverhook.river_job IN ACCESS SHARE MODE`)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, `LOCK TABLE riverhook.river_job IN SHARE UPDATE EXCLUSIVE MODE`)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { _, err := up(t, db, "riverhook"); done <- err }()
	// It waits, and others pass meanwhile: an insert into the table is not queued behind it for longer than its timeout.
	require.Eventually(t, func() bool {
		return pgtest.Scalar[bool](t, db, `SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'riverhook.river_job'::regclass)`)
	}, 10*time.Second, 10*time.Millisecond)
	require.Eventually(t, func() bool {
		return !pgtest.Scalar[bool](t, db, `SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'riverhook.river_job'::regclass)`)
	}, 10*time.Second, 10*time.Millisecond, "it gives way")
	require.NoError(t, tx.Rollback(ctx))
	require.NoError(t, <-done)
}

// What every migration must have, so that it can run under load and older programs know whether they fit.
func TestFiles(t *testing.T) {
	t.Parallel()
	files, err := fs.Glob(os.DirFS("sql"), "*.sql")
	require.NoError(t, err)
	require.Len(t, files, migrations.Latest)
	for i, name := range files {
		assert.True(t, strings.HasPrefix(name, fmt.Sprintf("%03d_", i+1)), name)
		text, err := os.ReadFile("sql/" + name)
		require.NoError(t, err)
		upSQL, downSQL, ok := strings.Cut(string(text), "---- create above / drop below ----")
		assert.True(t, ok, "%s can be undone", name)
		for _, half := range []string{upSQL, downSQL} {
			if !strings.Contains(half, "---- tern: disable-tx ----") {
				assert.Contains(t, half, "SET LOCAL lock_timeout = '2s';", name)
				continue
			}
			// Without a transaction: only what nobody waits for, and what can be repeated after an interruption.
			assert.Contains(t, half, "\nSET lock_timeout = '", name)
			for line := range strings.Lines(half) {
				if strings.Contains(line, " INDEX ") && !strings.HasPrefix(line, "--") {
					assert.Regexp(t, `^(DROP INDEX CONCURRENTLY IF EXISTS|CREATE INDEX CONCURRENTLY) `, line, name)
				}
			}
		}
		if i > 0 {
			assert.Contains(t, downSQL, fmt.Sprintf("DELETE FROM {{.schema}}.schema_migrations WHERE version = %d;", i+1), name)
		}
		assert.Contains(t, upSQL, fmt.Sprintf("schema_migrations (version, name, oldest_program) VALUES (%d, ", i+1), name)
	}
}

// A build of an index that was interrupted is done again, and nobody waits for one.
func TestIndexesAreBuiltConcurrently(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ctx := context.Background()
	_, err := migrations.Down(ctx, db.Pool, migrations.Options{}, 2)
	require.NoError(t, err)
	assert.True(t, pgtest.Scalar[bool](t, db, `SELECT to_regclass('riverhook.deliveries_finished_idx') IS NOT NULL`))
	assert.Zero(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM pg_indexes WHERE indexname ~ 'dead_letter|done'`))
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, status) VALUES ('http://a/', 'dead_letter')`)
	db.Exec(t, `CREATE INDEX deliveries_done_idx ON riverhook.deliveries (claim); UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'riverhook.deliveries_done_idx'::regclass`)

	// A transaction that is open makes the build wait; inserts do not.
	tx, err := db.Pool.Begin(ctx)
	require.NoError(t, err)
	defer tx.Rollback(ctx) //nolint:errcheck // where the test fails
	_, err = tx.Exec(ctx, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('http://a/')`)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { _, err := up(t, db, "riverhook"); done <- err }()
	require.Eventually(t, func() bool {
		return pgtest.Scalar[bool](t, db, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND query ~ 'INDEX CONCURRENTLY' AND wait_event_type = 'Lock')`)
	}, 20*time.Second, 10*time.Millisecond)
	db.Exec(t, `SET lock_timeout = '1s'; INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('http://a/')`)
	require.NoError(t, tx.Commit(ctx))
	require.NoError(t, <-done)
	assert.Equal(t, []string{"deliveries_dead_letter_idx", "deliveries_dead_letter_org_idx", "deliveries_dead_letter_origin_idx", "deliveries_done_idx"},
		pgtest.Column[string](t, db, `SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
			WHERE i.indisvalid AND i.indpred IS NOT NULL AND c.relname ~ 'deliveries.*(dead_letter|done|finished)' ORDER BY 1`))
}

// login is a role of its own with a connection.
func login(t testing.TB, db *pgtest.DB, as string) (*pgx.Conn, string) {
	t.Helper()
	random := make([]byte, 6)
	_, _ = rand.Read(random)
	role := "rh_test_" + hex.EncodeToString(random)
	db.Exec(t, `CREATE ROLE `+role+` LOGIN PASSWORD 'secret'`)
	ctx := context.Background()
	t.Cleanup(func() {
		db.Exec(t, `DROP OWNED BY `+role)
		db.Exec(t, `DROP ROLE `+role)
	})
	require.NoError(t, migrations.Grant(ctx, db.Pool, db.Schema, role, as))
	require.NoError(t, migrations.Grant(ctx, db.Pool, db.Schema, role, as), "twice is the same")
	config, err := pgx.ParseConfig(db.URL)
	require.NoError(t, err)
	config.User, config.Password = role, "secret"
	conn, err := pgx.ConnectConfig(ctx, config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(ctx) })
	return conn, role
}

func TestGrant(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('http://a/')`)
	may := map[string][]string{
		`INSERT INTO riverhook.deliveries (endpoint_url, payload) VALUES ('http://a/', '{}') RETURNING id, delivery_uuid`: {"application", "service"},
		`INSERT INTO riverhook.deliveries (endpoint_url, workflow_run_id, webhook_node_id) VALUES ('http://a/', 'r', 'n')
			ON CONFLICT (organization_id, workflow_run_id, webhook_node_id) DO NOTHING`: {"application", "service"},
		`INSERT INTO riverhook.deliveries (endpoint_url, status) VALUES ('http://a/', 'succeeded')`:                {"service"},
		`INSERT INTO riverhook.deliveries (endpoint_url, claimed_by) VALUES ('http://a/', 'x')`:                    {"service"},
		`SELECT id, status FROM riverhook.deliveries`:                                                              {"application", "reader", "support", "service"},
		`SELECT payload FROM riverhook.deliveries`:                                                                 {"reader", "support", "service"},
		`SELECT * FROM riverhook.attempts`:                                                                         {"reader", "support", "service"},
		`SELECT * FROM riverhook.problems`:                                                                         {"reader", "support", "service"},
		`SELECT * FROM riverhook.find_problems('1 hour', NULL)`:                                                    {"reader", "support", "service"},
		`SELECT * FROM riverhook.nodes`:                                                                            {"reader", "support", "service"},
		`UPDATE riverhook.nodes SET dead_at = now()`:                                                               {"service"},
		`SELECT * FROM riverhook.river_leader`:                                                                     {"reader", "support", "service"},
		`SELECT * FROM riverhook.pauses`:                                                                           {"reader", "support", "service"},
		`INSERT INTO riverhook.pauses (organization_id, reason) VALUES ('a', 'b')`:                                 {"support", "service"},
		`SELECT * FROM riverhook.sessions`:                                                                         {"service"},
		`DELETE FROM riverhook.pauses`:                                                                             {"support", "service"},
		`SELECT * FROM riverhook.credentials`:                                                                      {"service"},
		`SELECT * FROM riverhook.signing_secrets`:                                                                  {"service"},
		`DELETE FROM riverhook.signing_secrets WHERE false`:                                                        {"service"},
		`SELECT * FROM riverhook.river_job`:                                                                        {"service"},
		`UPDATE riverhook.deliveries SET status = 'canceled' WHERE status = 'pending'`:                             {"support", "service"},
		`UPDATE riverhook.deliveries SET status = 'pending', endpoint_url = 'http://b/' WHERE status = 'canceled'`: {"support", "service"},
		`UPDATE riverhook.deliveries SET scheduled_for = now() + interval '1 hour' WHERE status = 'pending'`:       {"support", "service"},
		`UPDATE riverhook.deliveries SET claimed_by = 'x' WHERE false`:                                             {"service"},
		`UPDATE riverhook.deliveries SET payload = '{}' WHERE false`:                                               {"service"},
		`DELETE FROM riverhook.deliveries WHERE false`:                                                             {"service"},
		`DELETE FROM riverhook.river_job WHERE false`:                                                              {"service"},
		`ALTER TABLE riverhook.deliveries DISABLE TRIGGER ALL`:                                                     nil,
		`CREATE TABLE riverhook.x ()`:                                                                              nil,
	}
	for _, as := range migrations.Roles() {
		conn, _ := login(t, db, as)
		for sql, roles := range may {
			err := pgx.BeginFunc(context.Background(), conn, func(tx pgx.Tx) error {
				if _, err := tx.Exec(context.Background(), sql); err != nil {
					return err
				}
				return errRollback
			})
			if assert.Error(t, err); contains(roles, as) {
				assert.ErrorIs(t, err, errRollback, "%s may: %s", as, sql)
			} else {
				var pg *pgconn.PgError
				assert.ErrorAs(t, err, &pg, "%s may not: %s", as, sql)
				if pg != nil {
					assert.Equal(t, "42501", pg.Code, "%s may not: %s", as, sql)
				}
			}
		}
	}
	err := migrations.Grant(context.Background(), db.Pool, db.Schema, "nobody of that name", "reader")
	require.ErrorContains(t, err, "create it first")
	err = migrations.Grant(context.Background(), db.Pool, db.Schema, "postgres", "king")
	require.ErrorContains(t, err, "choose one of application, reader, service, support")
}

var errRollback = fmt.Errorf("rolled back on purpose")

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// The schema of River may come under its own pool settings: a pool of one connection is enough for the caller.
func TestUpWithASmallPool(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmpty(t)
	config, err := pgxpool.ParseConfig(db.URL)
	require.NoError(t, err)
	config.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	require.NoError(t, err)
	defer pool.Close()
	_, err = migrations.Up(context.Background(), pool, migrations.Options{})
	require.NoError(t, err)
}

// Who was an application before there was a traceparent may insert it after the upgrade; nobody else gets anything.
func TestTraceparentIsGranted(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ctx := context.Background()
	application, _ := login(t, db, "application")
	reader, _ := login(t, db, "reader")
	_, err := migrations.Down(ctx, db.Pool, migrations.Options{}, 10)
	require.NoError(t, err)
	const insert = `INSERT INTO riverhook.deliveries (endpoint_url, traceparent) VALUES ('http://a/', 'whatever it is' || chr(10))`
	_, err = application.Exec(ctx, insert)
	require.ErrorContains(t, err, "traceparent")
	_, err = up(t, db, "riverhook")
	require.NoError(t, err)
	_, err = application.Exec(ctx, insert)
	require.NoError(t, err)
	_, err = application.Exec(ctx, `UPDATE riverhook.deliveries SET traceparent = NULL`)
	require.ErrorContains(t, err, "permission denied")
	_, err = reader.Exec(ctx, insert)
	require.ErrorContains(t, err, "permission denied")
}
