package node_test

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/node"
	"github.com/riverhook/riverhook/migrations/pgtemp"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

// logged makes a node's log readable.
func logged(c *node.Config) *lockedBuffer {
	log := new(lockedBuffer)
	c.Log = slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	return log
}

// logSays waits until the log has the text.
func logSays(t testing.TB, log *lockedBuffer, text string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(log.String(), text) }, time.Minute, 10*time.Millisecond, "the log does not say %q", text)
}

// endSessions ends what this database's nodes have open.
func endSessions(t testing.TB, db *pgtest.DB) {
	t.Helper()
	db.Exec(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'riverhook %'`)
}

// setOnDatabase sets something for all sessions that begin from now on; an empty value resets it.
func setOnDatabase(t testing.TB, db *pgtest.DB, setting, value string) {
	t.Helper()
	change := "RESET " + setting
	if value != "" {
		change = "SET " + setting + " = " + value
	}
	db.Exec(t, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I `+change+`', current_database()); END $$`)
}

// diskFull makes inserts into a table fail as they do when the disk is full, until the returned function is called.
func diskFull(t testing.TB, db *pgtest.DB, table, when string) (end func()) {
	t.Helper()
	db.Exec(t, `CREATE FUNCTION public.disk_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$`)
	db.Exec(t, `CREATE TRIGGER disk_full BEFORE INSERT ON riverhook.`+table+` FOR EACH ROW WHEN (`+when+`) EXECUTE FUNCTION public.disk_full()`)
	return func() { db.Exec(t, `DROP TRIGGER disk_full ON riverhook.`+table+`; DROP FUNCTION public.disk_full`) }
}

// The disk is full when the outcomes of attempts are there, for longer than their leases hold: they are recorded when there
// is room again, and nothing is sent twice.
func TestDiskFullForTheLedger(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := newReceiver(t, nil)
	c := config(t, db)
	c.Timeout, c.Lease, c.SweepInterval = time.Second, 3*time.Second, time.Hour
	log := logged(&c)
	start(t, c)
	// The node's sweep at its start and the leader's: one that came later would take the claims back.
	eventually(t, db, 2, `SELECT count(*)::int FROM riverhook.river_job WHERE kind = 'riverhook_sweep' AND state = 'completed'`)
	end := diskFull(t, db, "attempts", "true")
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) SELECT $1 FROM generate_series(1, 50)`, r.URL)
	logSays(t, log, "attempts made, but not recorded yet: trying again")
	assert.Contains(t, log.String(), "53100")
	eventually(t, db, 50, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'pending' AND leased_until < now()`)
	end()
	eventually(t, db, 50, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded' AND attempt_count = 1`)
	assert.Equal(t, 50, r.count())
}

// The disk is full when a retry's job is to be enqueued: neither the outcome nor the retry is lost. And when an application's
// is: its insert passes all the same.
func TestDiskFullForJobs(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	g := newGate(t)
	c := config(t, db)
	log := logged(&c)
	start(t, c)
	first := insert(t, db, g.URL)
	g.wait(t)
	end := diskFull(t, db, "river_job", "NEW.kind = 'deliver_webhook'")
	g.open <- 503
	logSays(t, log, "attempts made, but not recorded yet: trying again")
	second := insert(t, db, g.URL)
	assert.Empty(t, ledger(t, db, first))
	end()
	for range 2 {
		g.open <- 200
	}
	for id, want := range map[int64][]string{first: {"0.1 transient status 503", "0.2 succeeded 200"}, second: {"0.1 succeeded 200"}} {
		eventually(t, db, "succeeded", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
		assert.Equal(t, want, ledger(t, db, id))
	}
	assert.Equal(t, 3, g.count())
}

// Others take all connections, before a node starts and while it works.
func TestTooManyConnections(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, map[string]string{"max_connections": "25"})
	db := pgtest.NewOn(t, server.URL("postgres"))
	r := newReceiver(t, nil)
	hog := func() (free func()) {
		var hogs []*pgx.Conn
		for {
			conn, err := pgx.Connect(t.Context(), db.URL)
			if err != nil {
				require.ErrorContains(t, err, "53300")
				break
			}
			hogs = append(hogs, conn)
		}
		return func() {
			for _, conn := range hogs {
				_ = conn.Close(context.Background())
			}
		}
	}
	const some = `INSERT INTO riverhook.deliveries (endpoint_url) SELECT $1 FROM generate_series(1, 50)`
	db.Exec(t, some, r.URL)
	free := hog()
	c := config(t, db)
	log := logged(&c)
	start(t, c)
	logSays(t, log, "waiting for Postgres")
	assert.Contains(t, log.String(), "53300")
	free()
	eventually(t, db, 50, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded'`)
	free = hog()
	endSessions(t, db) // and what it had is somebody else's now
	freeToo := hog()
	db.Exec(t, some, r.URL)
	free()
	freeToo()
	eventually(t, db, 100, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded' AND attempt_count = 1`)
	assert.Equal(t, 100, r.count())
}

// The database cannot be written to, as after a failover: nothing can be claimed, so nothing is sent. Then it can again.
func TestReadOnlyDatabase(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := newReceiver(t, nil)
	c := config(t, db)
	log := logged(&c)
	n, _ := start(t, c)
	require.Eventually(t, func() bool { return n.Ready(t.Context()) == nil }, 20*time.Second, 10*time.Millisecond)
	app, err := pgx.Connect(t.Context(), db.URL) // one that can write: the rows come from the old primary
	require.NoError(t, err)
	defer func() { _ = app.Close(context.Background()) }()
	setOnDatabase(t, db, "default_transaction_read_only", "on")
	endSessions(t, db)
	require.Eventually(t, func() bool {
		err := n.Ready(t.Context())
		return err != nil && strings.Contains(err.Error(), "read-only")
	}, 20*time.Second, 10*time.Millisecond)
	_, err = app.Exec(t.Context(), `INSERT INTO riverhook.deliveries (endpoint_url) SELECT $1 FROM generate_series(1, 50)`, r.URL)
	require.NoError(t, err)
	said := len(log.String())
	require.Eventually(t, func() bool { return strings.Contains(log.String()[said:], "25006") }, 30*time.Second, 10*time.Millisecond, "it says why")
	assert.Zero(t, r.count())
	_, err = app.Exec(t.Context(), `SET default_transaction_read_only = off`)
	require.NoError(t, err)
	db.Pool.Reset()
	_, err = app.Exec(t.Context(), `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET default_transaction_read_only', current_database()); END $$`)
	require.NoError(t, err)
	endSessions(t, db)
	db.Pool.Reset()
	eventually(t, db, 50, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded' AND attempt_count = 1`)
	assert.Equal(t, 50, r.count())
	require.Eventually(t, func() bool { return n.Ready(t.Context()) == nil }, 20*time.Second, 10*time.Millisecond)
}

// The role has a statement_timeout that what River does cannot keep to.
func TestStatementTimeout(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := newReceiver(t, func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("X-Riverhook-Delivery-Attempt") == "1" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	c := config(t, db)
	log := logged(&c)
	db.Exec(t, `CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.05); RETURN NULL; END $$`)
	db.Exec(t, `CREATE TRIGGER slow AFTER UPDATE ON riverhook.river_job FOR EACH STATEMENT EXECUTE FUNCTION public.slow()`)
	setOnDatabase(t, db, "statement_timeout", "20")
	start(t, c)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) SELECT $1 FROM generate_series(1, 300)`, r.URL)
	logSays(t, log, "57014")
	db.Exec(t, `DROP TRIGGER slow ON riverhook.river_job`)
	setOnDatabase(t, db, "statement_timeout", "")
	endSessions(t, db)
	eventually(t, db, 300, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded' AND attempt_count = 2`)
	assert.Equal(t, 600, r.count())
}

// A transaction that was opened before them, and looks at the table all the time, holds back what vacuum would remove of
// thousands of deliveries.
func TestLongTransaction(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := newReceiver(t, func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("X-Riverhook-Delivery-Attempt") == "1" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	tx, err := db.Pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	seen := func() (n int) {
		require.NoError(t, tx.QueryRow(t.Context(), `SELECT count(*)::int FROM riverhook.deliveries`).Scan(&n))
		return n
	}
	assert.Zero(t, seen())
	start(t, config(t, db))
	start(t, config(t, db))
	const n = 4000
	for range 4 {
		db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) SELECT $1 FROM generate_series(1, $2::int)`, r.URL, n/4)
		db.Exec(t, `VACUUM riverhook.deliveries, riverhook.river_job`)
	}
	eventually(t, db, n, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded' AND attempt_count = 2`)
	assert.Equal(t, 2*n, r.count())
	assert.Zero(t, seen(), "it is still open")
}

// The application has a River of its own in the database, with jobs that are stuck, of kinds that riverhook does not know,
// and of its own. They are none of riverhook's business.
func TestForeignRiver(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.MayHaveProblems(t, "it plants a job that River's leader discards")
	migrator, err := rivermigrate.New(riverpgxv5.New(db.Pool), &rivermigrate.Config{Schema: "public", Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	_, err = migrator.Migrate(t.Context(), rivermigrate.DirectionUp, nil)
	require.NoError(t, err)
	const stuck = `.river_job (kind, args, queue, max_attempts, attempt, state, attempted_at, attempted_by)
		SELECT kind, '{"delivery_id": 1, "claim": 0}', queue, 1, 1, 'running', now() - interval '1 day', '{somebody}'
		  FROM unnest('{report,deliver_webhook}'::text[]) kind, unnest('{default,webhooks}'::text[]) queue`
	db.Exec(t, `INSERT INTO public`+stuck)
	db.Exec(t, `INSERT INTO public.river_job (kind, args, queue, max_attempts) SELECT kind, '{}', 'webhooks', 1 FROM unnest('{report,deliver_webhook}'::text[]) kind`)
	const all = `SELECT md5(string_agg(j::text, ',' ORDER BY id)) FROM public.river_job j`
	before := pgtest.Scalar[string](t, db, all)
	r := newReceiver(t, nil)
	start(t, config(t, db))
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) SELECT $1 FROM generate_series(1, 100)`, r.URL)
	// The same in riverhook's schema shows that River's leader has looked: this is what would happen to theirs.
	db.Exec(t, `INSERT INTO riverhook.river_job (kind, args, max_attempts, attempt, state, attempted_at, attempted_by)
		VALUES ('report', '{}', 1, 1, 'running', now() - interval '1 day', '{somebody}')`)
	eventually(t, db, "discarded", `SELECT state::text FROM riverhook.river_job WHERE kind = 'report'`)
	eventually(t, db, 100, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded'`)
	assert.Equal(t, before, pgtest.Scalar[string](t, db, all))
	assert.Zero(t, pgtest.Scalar[int](t, db, `SELECT (SELECT count(*) FROM public.river_leader) + (SELECT count(*) FROM public.river_queue)`))
}

// faketime is the library that gives a program another clock.
func faketime(t testing.TB) string {
	t.Helper()
	for _, path := range []string{
		"/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
		"/usr/lib/faketime/libfaketime.so.1", "/usr/lib64/faketime/libfaketime.so.1",
	} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Skip("libfaketime is not installed (Debian: apt-get install faketime)")
	return ""
}

// The database's clock is five minutes off this machine's. Leases hold as they should, nothing is late or twice, and the log
// warns of it.
func TestClockSkew(t *testing.T) {
	t.Parallel()
	for name, offset := range map[string]string{"database ahead": "+300", "database behind": "-300"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			library := faketime(t)
			if _, err := pgtemp.Find(); err != nil {
				t.Skipf("this test needs a server of its own: %v", err)
			}
			server, err := pgtemp.Start(t.Context(), pgtemp.Options{Env: []string{"LD_PRELOAD=" + library, "FAKETIME=" + offset, "FAKETIME_DONT_FAKE_MONOTONIC=1", "DONT_FAKE_MONOTONIC=1"}})
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, server.Stop()) })
			db := pgtest.NewOn(t, server.URL("postgres"))
			db.MayHaveProblems(t, "it plants a job that River's leader discards")
			require.InDelta(t, 300, pgtest.Scalar[float64](t, db, `SELECT abs(EXTRACT(epoch FROM clock_timestamp()) - $1::float8)`, float64(time.Now().UnixMilli())/1000), 30)

			g := newGate(t)
			c := config(t, db)
			c.Timeout, c.Lease = 100*time.Second, 110*time.Second
			log := logged(&c)
			start(t, c)
			start(t, c)
			logSays(t, log, "disagree")
			slow := insert(t, db, g.URL)
			g.wait(t)

			failing, ok := answers(t, 503, 200), answers(t, 200)
			retried := insert(t, db, failing.URL)
			eventually(t, db, "succeeded round 0 attempts 2 abandoned 0 200 -", rowSQL, retried)
			const soon = `INSERT INTO riverhook.deliveries (endpoint_url, scheduled_for) VALUES ($1, now() + interval '1 second') RETURNING id`
			later := pgtest.Scalar[int64](t, db, soon, ok.URL)
			eventually(t, db, "succeeded round 0 attempts 1 abandoned 0 200 -", rowSQL, later)
			assert.InDelta(t, 30, pgtest.Scalar[float64](t, db, `SELECT EXTRACT(epoch FROM a.started_at - d.created_at)::float8
				FROM riverhook.attempts a JOIN riverhook.deliveries d ON d.id = a.delivery_id WHERE d.id = $1`, later), 29.5)

			// River puts the job of a row that somebody holds off: by this machine's clock.
			locked := pgtest.Scalar[int64](t, db, soon, ok.URL)
			tx, err := db.Pool.Begin(t.Context())
			require.NoError(t, err)
			_, err = tx.Exec(t.Context(), `SELECT FROM riverhook.deliveries WHERE id = $1 FOR UPDATE`, locked)
			require.NoError(t, err)
			eventually(t, db, true, `SELECT EXISTS (SELECT FROM riverhook.river_job WHERE (args->>'delivery_id')::bigint = $1 AND metadata ? 'snoozes')`, locked)
			require.NoError(t, tx.Rollback(t.Context()))
			eventually(t, db, "succeeded round 0 attempts 1 abandoned 0 200 -", rowSQL, locked)

			// Meanwhile one is in flight, until River's leader, who goes by its own clock, has looked for stuck jobs.
			db.Exec(t, `INSERT INTO riverhook.river_job (kind, args, max_attempts, attempt, state, attempted_at, attempted_by)
				VALUES ('report', '{}', 1, 1, 'running', now() - interval '1 day', '{somebody}')`)
			eventually(t, db, "discarded", `SELECT state::text FROM riverhook.river_job WHERE kind = 'report'`)
			assert.Equal(t, []string{"running"}, pgtest.Column[string](t, db, `SELECT state::text FROM riverhook.river_job WHERE (args->>'delivery_id')::bigint = $1`, slow))
			g.open <- 200
			eventually(t, db, "succeeded round 0 attempts 1 abandoned 0 200 -", rowSQL, slow)
			assert.Equal(t, 1, g.count())
			assert.Equal(t, []int{2, 2}, []int{failing.count(), ok.count()})
		})
	}
}
