package migrations

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/tern/v2/migrate"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// DefaultSchema is where everything lives unless it is told otherwise.
const DefaultSchema = "riverhook"

// Latest is the newest migration that this program knows.
const Latest = 15

// lockTimeout is how long a migration waits for a table lock before it gives up and tries again: whoever queues behind
// a waiting ACCESS EXCLUSIVE lock waits as long. The files under sql/ name the same value, but for those that build an
// index CONCURRENTLY: nobody waits behind them, and they may wait longer.
const lockTimeout = 2 * time.Second

// lockTries bounds the repetitions after a lock timeout: about a minute in all, where nothing is built CONCURRENTLY.
const lockTries = 20

// advisoryLock keeps two migrating processes apart, whatever their schema.
const advisoryLock = 0x7269766572686f6f // "riverhoo"

//go:embed sql
var files embed.FS

// Options say where to migrate.
type Options struct {
	Schema string       // default "riverhook"; see CheckSchemaName
	Log    *slog.Logger // progress; nil is silent
}

// Report is what Up and Down did, and what Inspect found.
type Report struct {
	From, To           int // riverhook's schema version before and after
	RiverFrom, RiverTo int // River's
}

// Changed says whether anything was done.
func (r Report) Changed() bool { return r.From != r.To || r.RiverFrom != r.RiverTo }

// Status is where a database stands.
type Status struct {
	Version       int       // riverhook's schema version, 0 when there is none
	OldestProgram int       // the oldest program (by its newest migration) that can live with it
	River         int       // River's schema version, 0 when there is none
	RiverLatest   int       // River's newest, that this program needs
	AppliedAt     time.Time // when Version was reached; zero when there is none
}

// NotMigratedError is the answer of Status.Check for a database that has to be migrated first.
type NotMigratedError struct {
	Schema string
	Status Status
}

func (e *NotMigratedError) Error() string {
	command := "riverhook migrate up"
	if e.Schema != DefaultSchema {
		command += " --schema " + e.Schema
	}
	if e.Status.Version == 0 {
		return fmt.Sprintf("the database has no riverhook schema %q yet: run %q (or serve --migrate)", e.Schema, command)
	}
	return fmt.Sprintf("the database is at schema version %d (River %d), this riverhook needs %d (River %d): run %q (or serve --migrate)",
		e.Status.Version, e.Status.River, Latest, e.Status.RiverLatest, command)
}

// TooOldError is the answer of Status.Check for a program that is too old for its database.
type TooOldError struct{ Status Status }

func (e *TooOldError) Error() string {
	return fmt.Sprintf("the database is at schema version %d, which needs a riverhook that knows version %d or newer, and this one knows %d: install a newer riverhook",
		e.Status.Version, e.Status.OldestProgram, Latest)
}

// Check says whether this program can serve on a database with that status: nil, *NotMigratedError or *TooOldError.
// A database that is newer than the program is fine as long as its migrations say so.
func (s Status) Check(schema string) error {
	switch {
	case s.Version < Latest || s.River < s.RiverLatest:
		return &NotMigratedError{Schema: schema, Status: s}
	case s.OldestProgram > Latest:
		return &TooOldError{Status: s}
	}
	return nil
}

var schemaName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

// CheckSchemaName says what is wrong with the name of a schema: letters, digits and underscores, 46 characters at most
// (River's notification channels carry it and must fit into 63), and not one of Postgres's own.
func CheckSchemaName(name string) error {
	switch {
	case len(name) > 46 || !schemaName.MatchString(name):
		return fmt.Errorf("schema %q: a schema's name has letters, digits and underscores, does not begin with a digit, and is at most 46 characters long", name)
	case name == "pg_catalog" || name == "information_schema" || name == "public" || len(name) > 2 && name[:3] == "pg_":
		return fmt.Errorf("schema %q: riverhook needs a schema of its own", name)
	}
	return nil
}

// Up brings the database to this program's schema and River's. It may run twice, from several processes at once (they
// wait for each other), and under load (it gives way to whoever holds a lock, and tries again for about a minute; an index
// on a table that is in use is built without a lock, after the transactions that are open at that moment). A database that
// is already newer is left alone. On an error everything up to the failed migration stays.
func Up(ctx context.Context, pool *pgxpool.Pool, o Options) (Report, error) {
	// Where there is nothing to do, it takes neither a lock nor a right: a service may always ask for it.
	if status, err := Inspect(ctx, pool, cmp.Or(o.Schema, DefaultSchema)); err == nil && status.Version == Latest && status.River == status.RiverLatest {
		return Report{From: Latest, To: Latest, RiverFrom: status.River, RiverTo: status.River}, nil
	}
	return run(ctx, pool, o, func(ctx context.Context, m *migrator) error {
		if err := m.createSchema(ctx); err != nil {
			return err
		}
		// River first: our triggers write into its tables.
		if _, err := m.river.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
			return fmt.Errorf("schema of River: %w", err)
		}
		return m.to(ctx, Latest)
	})
}

// Down goes back to version, 0 for nothing at all (River's tables go too, the schema itself stays). Rows are dropped
// with their tables.
func Down(ctx context.Context, pool *pgxpool.Pool, o Options, version int) (Report, error) {
	return run(ctx, pool, o, func(ctx context.Context, m *migrator) error {
		status, err := Inspect(ctx, pool, m.schema)
		if err != nil {
			return err
		}
		if version < 0 || version > status.Version {
			return fmt.Errorf("cannot go back to version %d: the database is at version %d", version, status.Version)
		}
		if status.Version > Latest {
			return fmt.Errorf("the database is at version %d, this riverhook knows %d: go back with the newer riverhook", status.Version, Latest)
		}
		if status.Version > 0 {
			if err := m.to(ctx, version); err != nil {
				return err
			}
		}
		if version > 0 {
			return nil
		}
		if status.River > 0 {
			if _, err := m.river.Migrate(ctx, rivermigrate.DirectionDown, &rivermigrate.MigrateOpts{TargetVersion: -1}); err != nil {
				return fmt.Errorf("schema of River: %w", err)
			}
		}
		_, err = m.conn.Exec(ctx, "DROP TABLE IF EXISTS "+m.versionTable())
		return err
	})
}

// Inspect reads where the database stands. It changes nothing.
func Inspect(ctx context.Context, pool *pgxpool.Pool, schema string) (Status, error) {
	var s Status
	if err := CheckSchemaName(schema); err != nil {
		return s, err
	}
	river, err := newRiver(pool, schema)
	if err != nil {
		return s, err
	}
	for _, v := range river.AllVersions() {
		s.RiverLatest = max(s.RiverLatest, v.Version)
	}

	quoted := pgx.Identifier{schema}.Sanitize()
	var ours, rivers bool
	err = pool.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL, to_regclass($2) IS NOT NULL`,
		quoted+".schema_migrations", quoted+".river_migration").Scan(&ours, &rivers)
	if err != nil {
		return s, fmt.Errorf("migrations: inspect: %w", err)
	}
	if ours {
		err = pool.QueryRow(ctx, `SELECT coalesce(max(version), 0), coalesce(max(oldest_program), 0), coalesce(max(applied_at), 'epoch')
			FROM `+quoted+`.schema_migrations`).Scan(&s.Version, &s.OldestProgram, &s.AppliedAt)
		if err != nil {
			return s, fmt.Errorf("migrations: inspect: %w", err)
		}
	}
	if rivers {
		existing, err := river.ExistingVersions(ctx)
		if err != nil {
			return s, fmt.Errorf("migrations: inspect: schema of River: %w", err)
		}
		for _, v := range existing {
			s.River = max(s.River, v.Version)
		}
	}
	return s, nil
}

// migrator is one connection that holds the advisory lock, with what is needed to migrate.
type migrator struct {
	conn   *pgx.Conn
	river  *rivermigrate.Migrator[pgx.Tx]
	schema string
}

// run calls do under the advisory lock, again after a lock timeout, and reports the difference.
func run(ctx context.Context, caller *pgxpool.Pool, o Options, do func(context.Context, *migrator) error) (report Report, err error) {
	if o.Schema == "" {
		o.Schema = DefaultSchema
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := CheckSchemaName(o.Schema); err != nil {
		return report, err
	}

	if err := checkDirect(ctx, caller); err != nil {
		return report, err
	}

	// A pool of our own: two connections (tern's, which holds the advisory lock, and River's) that do not wait long for
	// a table lock.
	config := caller.Config()
	config.MaxConns, config.MinConns, config.MinIdleConns = 2, 0, 0
	config.ConnConfig.RuntimeParams["lock_timeout"] = fmt.Sprint(lockTimeout.Milliseconds())
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return report, fmt.Errorf("migrations: connect: %w", err)
	}
	defer pool.Close()
	acquired, err := pool.Acquire(ctx)
	if err != nil {
		return report, fmt.Errorf("migrations: connect: %w", err)
	}
	conn := acquired.Hijack()
	// Closing the connection ends the lock, whatever happened to it.
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if err := lock(ctx, conn, o.Log); err != nil {
		return report, fmt.Errorf("migrations: wait for another migration: %w", err)
	}

	before, err := Inspect(ctx, pool, o.Schema)
	if err != nil {
		return report, err
	}
	report = Report{From: before.Version, To: before.Version, RiverFrom: before.River, RiverTo: before.River}
	river, err := newRiver(pool, o.Schema)
	if err != nil {
		return report, err
	}
	m := &migrator{conn: conn, river: river, schema: o.Schema}

	for try := 1; ; try++ {
		err = do(ctx, m)
		if !isLockTimeout(err) || try == lockTries {
			break
		}
		o.Log.Info("a table is in use: trying again", "try", try, "of", lockTries)
		if err := sleep(ctx, time.Second); err != nil {
			return report, err
		}
	}
	if err != nil {
		return report, fmt.Errorf("migrations: %w", err)
	}
	after, err := Inspect(ctx, pool, o.Schema)
	report.To, report.RiverTo = after.Version, after.River
	return report, err
}

// ErrPooler says that there is a pooler between this program and Postgres, behind which no session, and so no lock, is
// anybody's own.
var ErrPooler = errors.New("the connection goes through a pooler: migrating takes a direct connection to Postgres (--database-url)")

// checkDirect returns ErrPooler when the pool's connections go through one.
func checkDirect(ctx context.Context, pool *pgxpool.Pool) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("migrations: connect: %w", err)
	}
	defer conn.Release()
	var pid uint32
	if err := conn.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&pid); err != nil {
		return fmt.Errorf("migrations: connect: %w", err)
	}
	if pid != conn.Conn().PgConn().PID() { // poolers have numbers of their own
		return fmt.Errorf("migrations: %w", ErrPooler)
	}
	return nil
}

// lock waits for the advisory lock by asking: a statement that waits in the server would be ended by lock_timeout.
func lock(ctx context.Context, conn *pgx.Conn, log *slog.Logger) error {
	for waited := false; ; waited = true {
		var ok bool
		if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, int64(advisoryLock)).Scan(&ok); err != nil || ok {
			return err
		}
		if !waited {
			log.Info("another migration is running: waiting for it")
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func isLockTimeout(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "55P03"
}

func newRiver(pool *pgxpool.Pool, schema string) (*rivermigrate.Migrator[pgx.Tx], error) {
	river, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: schema, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, fmt.Errorf("migrations: River's migrator: %w", err)
	}
	return river, nil
}

// createSchema creates the schema unless it is there: a role that may use it, but not create one, can migrate in a
// schema that a DBA made. It also refuses a database whose encoding could not hold every payload.
func (m *migrator) createSchema(ctx context.Context) error {
	var exists bool
	var encoding string
	err := m.conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1), current_setting('server_encoding')`,
		m.schema).Scan(&exists, &encoding)
	if err != nil {
		return err
	}
	if encoding != "UTF8" {
		return fmt.Errorf("the database's encoding is %s: riverhook needs a UTF8 database", encoding)
	}
	if exists {
		return nil
	}
	_, err = m.conn.Exec(ctx, "CREATE SCHEMA "+pgx.Identifier{m.schema}.Sanitize())
	return err
}

func (m *migrator) versionTable() string {
	return pgx.Identifier{m.schema}.Sanitize() + ".schema_version"
}

// to brings our own migrations to version. A database that is newer than this program stays as it is on the way up.
func (m *migrator) to(ctx context.Context, version int) error {
	tern, err := migrate.NewMigrator(ctx, m.conn, m.versionTable())
	if err != nil {
		return err
	}
	current, err := tern.GetCurrentVersion(ctx)
	if err != nil {
		return err
	}
	if version == Latest && int(current) >= Latest {
		return nil
	}
	tern.Data = map[string]any{"schema": pgx.Identifier{m.schema}.Sanitize(), "schema_name": m.schema}
	sql, err := fs.Sub(files, "sql")
	if err != nil {
		return err
	}
	if err := tern.LoadMigrations(sql); err != nil {
		return err
	}
	return tern.MigrateTo(ctx, int32(version)) //nolint:gosec // bounded by Latest
}
