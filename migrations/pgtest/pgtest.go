// Package pgtest gives every test a database of its own on a real PostgreSQL.
//
// The server is the one of TEST_DATABASE_URL, the URL of a role that may create
// databases. Without it, each test binary starts a throwaway server of its own
// when its first test asks for a database (see package pgtemp). DATABASE_URL is
// never read: it may be about a database that somebody needs.
//
// A package that uses pgtest calls [Main] from its TestMain:
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
//
// When a test ends, what may not be in its database fails it: see the view
// riverhook.problems, and [DB.MayHaveProblems].
//
// All databases are named riverhook_test_<UTC time>_<random>. What a killed
// test process leaves on the server of TEST_DATABASE_URL is dropped by a test
// process that starts there 6 hours or more later, and may be dropped by hand.
package pgtest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/riverhook/riverhook/migrations"
	"github.com/riverhook/riverhook/migrations/pgtemp"
)

const (
	// schema is where the migrations put everything.
	schema = "riverhook"
	prefix = "riverhook_test_"
	// timeFormat is the part of a database's name that tells when it was made.
	timeFormat = "20060102t150405"
	// staleAfter is longer than any test process lives.
	staleAfter = 6 * time.Hour

	poolConns    = 20
	adminTimeout = time.Minute
	closeTimeout = 10 * time.Second
	queryTimeout = 30 * time.Second
)

// DB is a database of one test. It is gone when the test and its subtests are
// over.
type DB struct {
	URL    string        // of a role that owns the database
	Pool   *pgxpool.Pool // of 20 connections at most
	Schema string        // riverhook's: "riverhook"

	unchecked bool
}

// Main runs a package's tests, drops and stops what pgtest made for them, and
// ends the process with the tests' exit code, or 1 if cleaning up failed. It is
// to be the last call of a TestMain.
func Main(m *testing.M) {
	os.Exit(Run(m))
}

// Run is [Main] without the end of the process: it returns the exit code, for a
// TestMain with things of its own to do after the tests. When it returns, none
// of pgtest's goroutines is left.
func Run(m interface{ Run() int }) (code int) {
	code = m.Run()
	if err := cleanUp(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	return code
}

// New returns a database with riverhook's schema, dropped when the test ends.
// It fails the test if there can be none.
func New(t testing.TB) *DB {
	t.Helper()
	server, err := sharedServer()
	if err != nil {
		t.Fatal(err)
	}
	template, err := sharedTemplate()
	if err != nil {
		t.Fatal(err)
	}
	return newDB(t, server, template)
}

// NewEmpty returns a database without any migration, dropped when the test
// ends. It fails the test if there can be none.
func NewEmpty(t testing.TB) *DB {
	t.Helper()
	server, err := sharedServer()
	if err != nil {
		t.Fatal(err)
	}
	return newDB(t, server, "")
}

// NewOn is [New] on the server of serverURL, for example one that [Server]
// started. It migrates each database anew, which takes longer.
func NewOn(t testing.TB, serverURL string) *DB {
	t.Helper()
	db := NewOnEmpty(t, serverURL)
	ctx, cancel := context.WithTimeout(t.Context(), adminTimeout)
	defer cancel()
	if err := migrate(ctx, db.Pool); err != nil {
		t.Fatal(err)
	}
	return db
}

// NewOnEmpty is [NewEmpty] on the server of serverURL.
func NewOnEmpty(t testing.TB, serverURL string) *DB {
	t.Helper()
	return newDB(t, serverURL, "")
}

// Server starts a server for this test alone, with settings before pgtemp's
// defaults, and stops it when the test ends. Where TEST_DATABASE_URL is set and
// no server binaries are installed, it skips the test.
func Server(t testing.TB, settings map[string]string) *pgtemp.Server {
	t.Helper()
	if os.Getenv("TEST_DATABASE_URL") != "" {
		if _, err := pgtemp.Find(); err != nil {
			t.Skipf("this test needs a server of its own, beside the one of TEST_DATABASE_URL: %v", err)
		}
	}
	s, err := pgtemp.Start(t.Context(), pgtemp.Options{Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// unchecked says that this process's tests may leave problems behind.
var unchecked bool

// MayHaveProblems is [DB.MayHaveProblems] for all tests of the process: it is to
// be called before [Main], with the reason.
func MayHaveProblems(why string) {
	if why == "" {
		panic("pgtest: say why")
	}
	unchecked = true
}

// MayHaveProblems says that the test leaves behind what riverhook.problems would
// name, and why: it writes by hand what the program never does.
func (db *DB) MayHaveProblems(t testing.TB, why string) {
	t.Helper()
	if why == "" {
		t.Fatal("pgtest: say why")
	}
	db.unchecked = true
}

// check fails the test if anything is in its database that may not be. A server
// that the test stopped, and a schema without the view, have nothing to say.
func (db *DB) check(ctx context.Context, t testing.TB) {
	t.Helper()
	if unchecked || db.unchecked || t.Skipped() {
		return
	}
	var there bool
	view := quote(db.Schema) + ".problems"
	if err := db.Pool.QueryRow(ctx, "select to_regclass($1) is not null", view).Scan(&there); err != nil || !there {
		return
	}
	rows, _ := db.Pool.Query(ctx, `select format('%s: delivery %s, job %s, since %s: %s', problem, delivery_id, job_id, since, detail) from `+view+` limit 20`)
	found, err := pgx.CollectRows(rows, pgx.RowTo[string]) // the error of Query comes again
	if err != nil {
		t.Errorf("pgtest: look for problems: %v", err)
	}
	for _, problem := range found {
		t.Errorf("the test leaves a problem behind: %s", problem)
	}
}

// Exec runs a statement, and fails the test if that takes more than 30 seconds
// or goes wrong.
func (db *DB) Exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	ctx, cancel := queryContext(t)
	defer cancel()
	if _, err := db.Pool.Exec(ctx, sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// Scalar returns the one value of a query that has one row of one column, and
// fails the test if the query has not, takes more than 30 seconds or goes wrong.
func Scalar[T any](t testing.TB, db *DB, sql string, args ...any) T {
	t.Helper()
	ctx, cancel := queryContext(t)
	defer cancel()
	rows, _ := db.Pool.Query(ctx, sql, args...) // the error comes again below
	value, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

// Column returns the values of a query of one column, empty and not nil if it
// has no rows, and fails the test if the query takes more than 30 seconds or
// goes wrong.
func Column[T any](t testing.TB, db *DB, sql string, args ...any) []T {
	t.Helper()
	ctx, cancel := queryContext(t)
	defer cancel()
	rows, _ := db.Pool.Query(ctx, sql, args...) // the error comes again below
	values, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return values
}

// ExampleURL is the URL of a migrated database for the process's Example
// functions, which have no testing.TB. All of them share it.
var ExampleURL = sync.OnceValue(func() string {
	server, err := sharedServer()
	if err != nil {
		panic(err)
	}
	template, err := sharedTemplate()
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), adminTimeout)
	defer cancel()
	own.example = newName()
	if err := create(ctx, server, own.example, template); err != nil {
		panic(err)
	}
	exampleURL, err := withDatabase(server, own.example)
	if err != nil {
		panic(err)
	}
	return exampleURL
})

// queryContext does not end with t.Context, so that the helpers work in a
// test's cleanup too.
func queryContext(t testing.TB) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(t.Context()), queryTimeout)
}

// own is what this process made and cleanUp is to remove.
var own struct {
	server            *pgtemp.Server
	template, example string
}

// sharedServer returns the URL of the server of this process's tests.
var sharedServer = sync.OnceValues(func() (string, error) {
	// Installing PostgreSQL may be part of it.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if server := os.Getenv("TEST_DATABASE_URL"); server != "" {
		if _, err := withDatabase(server, "x"); err != nil {
			return "", err
		}
		return server, dropStale(ctx, server, time.Now())
	}
	s, err := pgtemp.Start(ctx, pgtemp.Options{})
	if err != nil {
		return "", err
	}
	own.server = s
	return s.URL("postgres"), nil
})

// sharedTemplate returns the name of the migrated database to copy.
var sharedTemplate = sync.OnceValues(func() (string, error) {
	server, err := sharedServer()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), adminTimeout)
	defer cancel()
	name := newName() + "_template"
	own.template = name
	if err := create(ctx, server, name, ""); err != nil {
		return "", err
	}
	templateURL, err := withDatabase(server, name)
	if err != nil {
		return "", err
	}
	pool, err := newPool(ctx, templateURL)
	if err != nil {
		return "", err
	}
	err = migrate(ctx, pool)
	pool.Close()
	if err != nil {
		return "", err
	}
	// A database cannot be copied while somebody is connected to it.
	return name, admin(ctx, server, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "alter database "+quote(name)+" allow_connections false")
		return err
	})
})

func cleanUp() error {
	if own.server != nil {
		return own.server.Stop()
	}
	if own.template == "" {
		return nil
	}
	server, err := sharedServer()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), adminTimeout)
	defer cancel()
	if own.example != "" {
		if err := drop(ctx, server, own.example); err != nil {
			return err
		}
	}
	return drop(ctx, server, own.template)
}

// newDB creates a database, empty or a copy of template, and has it dropped
// when the test ends.
func newDB(t testing.TB, server, template string) *DB {
	t.Helper()
	name := newName()
	dbURL, err := withDatabase(server, name)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), adminTimeout)
	defer cancel()
	if err := create(ctx, server, name, template); err != nil {
		t.Fatal(err)
	}
	db := &DB{URL: dbURL, Schema: schema}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), adminTimeout)
		defer cancel()
		if db.Pool != nil {
			db.check(ctx, t)
		}
		closePool(t, db.Pool)
		if err := drop(ctx, server, name); err != nil {
			if connectErr := (*pgconn.ConnectError)(nil); errors.As(err, &connectErr) {
				t.Log(err) // the test stopped its server, the database goes with it
			} else {
				t.Error(err)
			}
		}
	})
	if db.Pool, err = newPool(ctx, dbURL); err != nil {
		t.Fatal(err)
	}
	return db
}

// closePool closes the pool, and fails the test instead of hanging if it kept a
// connection: Close waits for all of them.
func closePool(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	if pool == nil {
		return
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		pool.Close()
	}()
	select {
	case <-closed:
	case <-time.After(closeTimeout):
		t.Errorf("pgtest: the test did not give back %d connection(s) of its pool: close its rows, transactions and connections",
			pool.Stat().AcquiredConns())
	}
}

func newPool(ctx context.Context, dbURL string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(dbURL)
	if err != nil {
		return nil, fmt.Errorf("pgtest: parse the database's URL: %w", err)
	}
	config.MaxConns = poolConns
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("pgtest: connect: %w", err)
	}
	return pool, nil
}

func migrate(ctx context.Context, pool *pgxpool.Pool) error {
	if _, err := migrations.Up(ctx, pool, migrations.Options{Schema: schema}); err != nil {
		return fmt.Errorf("pgtest: migrate: %w", err)
	}
	return nil
}

// create makes a database: a copy of template, or empty for "".
func create(ctx context.Context, server, name, template string) error {
	from := quote(template)
	if template == "" {
		// template1 may hold anything, and have somebody connected to it.
		from = "template0 encoding 'UTF8' lc_collate 'C' lc_ctype 'C'"
	}
	err := admin(ctx, server, func(conn *pgx.Conn) error {
		// One at a time on a server: copies at once only get into each other's way.
		if _, err := conn.Exec(ctx, "select pg_advisory_lock(hashtext('riverhook pgtest'))"); err != nil {
			return err
		}
		for {
			_, err := conn.Exec(ctx, "create database "+quote(name)+" template "+from)
			// 55006: somebody is still connected to the template, if only the
			// server's own autovacuum.
			if pgErr := (*pgconn.PgError)(nil); !errors.As(err, &pgErr) || pgErr.Code != "55006" {
				return err
			}
			select {
			case <-ctx.Done():
				return err
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	if err != nil {
		return fmt.Errorf("pgtest: create database %s (may the role create databases?): %w", name, err)
	}
	return nil
}

func drop(ctx context.Context, server, name string) error {
	err := admin(ctx, server, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "drop database if exists "+quote(name)+" with (force)")
		return err
	})
	if err != nil {
		return fmt.Errorf("pgtest: drop database %s (drop it by hand): %w", name, err)
	}
	return nil
}

// dropStale drops the databases of test processes that were killed.
func dropStale(ctx context.Context, server string, now time.Time) error {
	err := admin(ctx, server, func(conn *pgx.Conn) error {
		rows, _ := conn.Query(ctx, "select datname from pg_database where starts_with(datname, $1)", prefix)
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		for _, name := range names {
			if stale(name, now) {
				// Another process may be at it too, or another role own it.
				_, _ = conn.Exec(ctx, "drop database if exists "+quote(name)+" with (force)")
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("pgtest: connect to the server of TEST_DATABASE_URL: %w", err)
	}
	return nil
}

func newName() string {
	random := make([]byte, 5)
	_, _ = rand.Read(random) // never fails
	return prefix + time.Now().UTC().Format(timeFormat) + "_" + hex.EncodeToString(random)
}

// stale tells whether a database is newName's, and from long ago.
func stale(name string, now time.Time) bool {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return false
	}
	stamp, _, ok := strings.Cut(rest, "_")
	made, err := time.Parse(timeFormat, stamp)
	return ok && err == nil && now.Sub(made) > staleAfter
}

// admin runs do on a connection to the server's own database. The connection
// is not kept: a pool's goroutines would look like leaks of the test.
func admin(ctx context.Context, server string, do func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return do(conn)
}

// withDatabase returns the URL of another database on the same server.
func withDatabase(server, name string) (string, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		// The error of url.Parse would show the password.
		return "", errors.New("pgtest: read the server's URL: it is malformed: write TEST_DATABASE_URL as postgres://user:password@host:port/database")
	}
	u.Path, u.RawPath = "/"+name, ""
	return u.String(), nil
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }
