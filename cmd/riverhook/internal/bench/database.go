package bench

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/riverhook/riverhook/migrations"
	"github.com/riverhook/riverhook/migrations/pgtemp"
)

const (
	// clients is the most that enqueue at a time, and steadyClients how many insert at a steady rate.
	clients, steadyClients = 32, 16

	statementTimeout = 30 * time.Second
	cleanUpTimeout   = 2 * time.Minute
)

// settingNames are Postgres's settings that the figures depend on most.
var settingNames = []string{"fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "max_wal_size"}

// database is where the bench measures: schemas of its own, and nothing else.
type database struct {
	url        string
	pool       *pgxpool.Pool
	server     *pgtemp.Server // nil: somebody's
	postmaster int            // its process id; 0: not on this machine, or not known
	statements bool           // pg_stat_statements is there

	prefix  string // of the schemas' names
	schemas []string
	made    int
}

func openDatabase(ctx context.Context, c Config) (*database, error) {
	random := make([]byte, 4)
	_, _ = rand.Read(random) // never fails
	d := &database{url: c.DatabaseURL, prefix: "riverhook_bench_" + hex.EncodeToString(random)}
	if d.url == "" {
		if err := d.startServer(ctx, c.Statements); err != nil {
			return nil, err
		}
	}
	if err := d.connect(ctx, c.Statements); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// startServer starts a Postgres with its own defaults: nothing that was committed is lost.
func (d *database) startServer(ctx context.Context, statements bool) (err error) {
	options := pgtemp.Options{Durable: true, Log: io.Discard}
	if statements {
		options.Settings = map[string]string{"shared_preload_libraries": "pg_stat_statements"}
		if d.server, err = pgtemp.Start(ctx, options); err == nil {
			d.url = d.server.URL("postgres")
			return nil
		}
		options.Settings = nil // without the library, it does not start
	}
	if d.server, err = pgtemp.Start(ctx, options); err != nil {
		return fmt.Errorf("bench: a throwaway Postgres: %w", err)
	}
	d.url = d.server.URL("postgres")
	return nil
}

func (d *database) connect(ctx context.Context, statements bool) error {
	config, err := pgxpool.ParseConfig(d.url)
	if err != nil {
		return errors.New("bench: --database-url is not a Postgres URL") // which may have a password anywhere
	}
	config.MaxConns, config.MinConns, config.MinIdleConns = clients+4, 0, 0
	config.ConnConfig.ConnectTimeout = 10 * time.Second
	config.ConnConfig.RuntimeParams["application_name"] = d.prefix + " bench"
	if d.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return fmt.Errorf("bench: connect: %w", err)
	}
	if err := d.pool.Ping(ctx); err != nil {
		return fmt.Errorf("bench: connect: %w", err)
	}
	if d.server != nil {
		d.postmaster = d.server.Pid()
	} else if d.postmaster, err = d.findPostmaster(ctx); err != nil {
		return fmt.Errorf("bench: connect: %w", err)
	}
	if statements && d.server != nil {
		_, err := d.pool.Exec(ctx, "CREATE EXTENSION pg_stat_statements")
		d.statements = err == nil
	}
	return nil
}

// findPostmaster is the parent of a backend of ours, if both are processes that can be seen from here.
func (d *database) findPostmaster(ctx context.Context) (int, error) {
	conn, err := d.pool.Acquire(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Release()
	var pid int
	var user, name string
	if err := conn.QueryRow(ctx, "SELECT pg_backend_pid(), current_user::text, current_database()::text").Scan(&pid, &user, &name); err != nil {
		return 0, err
	}
	title, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil || !strings.HasPrefix(string(title), "postgres: ") || !strings.Contains(string(title), user+" "+name+" ") {
		return 0, nil //nolint:nilerr // it runs elsewhere
	}
	backend, ok := readProcess(pid)
	if !ok {
		return 0, nil
	}
	return backend.parent, nil
}

// describe is Postgres's version and the settings that matter.
func (d *database) describe(ctx context.Context) (version string, settings map[string]string, err error) {
	if err := d.pool.QueryRow(ctx, "SHOW server_version").Scan(&version); err != nil {
		return "", nil, err
	}
	settings = map[string]string{}
	for _, name := range settingNames {
		var value string
		if err := d.pool.QueryRow(ctx, "SELECT current_setting($1)", name).Scan(&value); err != nil {
			return "", nil, err
		}
		settings[name] = value
	}
	return version, settings, nil
}

// newSchema makes a schema with riverhook's tables and River's, for one measurement: an empty one has no history.
func (d *database) newSchema(ctx context.Context) (string, error) {
	d.made++
	name := d.prefix + "_" + strconv.Itoa(d.made)
	d.schemas = append(d.schemas, name)
	if _, err := migrations.Up(ctx, d.pool, migrations.Options{Schema: name}); err != nil {
		return "", fmt.Errorf("schema: %w", err)
	}
	return name, nil
}

// dropSchemas drops every schema that was made but those.
func (d *database) dropSchemas(ctx context.Context, but ...string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
	defer cancel()
	var kept []string
	var errs []error
	for _, name := range d.schemas {
		if len(but) > 0 && but[0] == name {
			kept = append(kept, name)
			continue
		}
		if _, err := d.pool.Exec(ctx, "DROP SCHEMA IF EXISTS "+quoted(name)+" CASCADE"); err != nil {
			errs = append(errs, fmt.Errorf("drop schema %s (drop it by hand): %w", name, err))
		}
	}
	d.schemas = kept
	return errors.Join(errs...)
}

// close removes what the bench made: the server, or its schemas.
func (d *database) close() error {
	var errs []error
	if d.pool != nil {
		if d.server == nil {
			errs = append(errs, d.dropSchemas(context.Background()))
		}
		d.pool.Close()
	}
	if d.server != nil {
		errs = append(errs, d.server.Stop())
	}
	return errors.Join(errs...)
}

// settle brings what was inserted into the state that an autovacuum would leave it in, so that none starts in the middle.
func (d *database) settle(ctx context.Context, schema string, tables ...string) error {
	for _, table := range tables {
		if _, err := d.pool.Exec(ctx, "VACUUM (ANALYZE) "+quoted(schema, table)); err != nil {
			return fmt.Errorf("vacuum: %w", err)
		}
	}
	return nil
}

// checkpoint writes out what came before, where the role may. A measurement with its backlog is mostly within one.
func (d *database) checkpoint(ctx context.Context) { _, _ = d.pool.Exec(ctx, "CHECKPOINT") }

// written is how many bytes of WAL there have been; 0 where that is not to be had.
func (d *database) written(ctx context.Context) (bytes float64) {
	if d.pool.QueryRow(ctx, "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8").Scan(&bytes) != nil {
		return 0
	}
	return bytes
}

// cpu is the CPU time that all of Postgres's processes have used so far, the ended ones included.
func (d *database) cpu() (time.Duration, bool) {
	if d.postmaster == 0 {
		return 0, false
	}
	return familyCPU(d.postmaster)
}

// disconnected waits until a child's sessions are over: what they used is counted exactly then.
func (d *database) disconnected(ctx context.Context, application string) error {
	for range 500 {
		var n int
		err := d.pool.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", application).Scan(&n)
		if err != nil || n == 0 {
			return err
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return errors.New("the sessions of a process that has ended are not over")
}

func (b *bench) resetStatements(ctx context.Context) error {
	if !b.database.statements {
		return nil
	}
	_, err := b.database.pool.Exec(ctx, "SELECT pg_stat_statements_reset()")
	return err
}

// readStatements keeps the statements on which Postgres spent most time since resetStatements.
func (b *bench) readStatements(ctx context.Context) error {
	if !b.database.statements {
		return nil
	}
	rows, err := b.database.pool.Query(ctx, `
		SELECT total_exec_time, calls, rows, left(regexp_replace(query, '\s+', ' ', 'g'), 160)
		  FROM pg_stat_statements WHERE query !~ 'pg_stat_statements' ORDER BY total_exec_time DESC LIMIT 10`)
	if err != nil {
		return err
	}
	b.top[b.mode], err = pgx.CollectRows(rows, pgx.RowToStructByPos[Statement])
	return err
}

func quoted(name ...string) string { return pgx.Identifier(name).Sanitize() }

// in puts a schema's name into a statement.
func in(schema, statement string) string {
	return strings.ReplaceAll(statement, "{schema}", quoted(schema))
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
