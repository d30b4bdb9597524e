package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Querier is what a statement runs on: a pool, a connection or a transaction.
type Querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Store runs riverhook's statements in one schema.
type Store struct {
	db     *pgxpool.Pool
	names  *strings.Replacer
	within time.Duration // of List, Get, Count, Stats and the actions' pages; 0: 30 s
	pooler bool          // no session is this program's own
}

// New is a store on the pool's database. It does not connect.
func New(pool *pgxpool.Pool, schema string) *Store {
	return &Store{db: pool, names: schemaNames(schema)}
}

// Within is the store with another time, up to 30 s, for each statement of List, Get, Count, Stats and the pages of actions:
// a caller that has to answer sooner says so.
func (s *Store) Within(d time.Duration) *Store {
	other := *s
	other.within = min(d, statementTimeout)
	return &other
}

// BehindPooler is the store on a pool whose connections go through a pooler in transaction mode, which TuneForBatches must
// not have prepared: what it would set for a session, others would have. Claims, records and releases set it for a
// transaction each.
func (s *Store) BehindPooler() *Store {
	other := *s
	other.pooler = true
	return &other
}

// inBatch does something as TuneForBatches says.
func (s *Store) inBatch(ctx context.Context, do func(Querier) error) error {
	if !s.pooler {
		return do(s.db)
	}
	return pgx.BeginTxFunc(ctx, s.db, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, settings(true, BatchTimeout.String())); err != nil {
			return err
		}
		return do(tx)
	})
}

// sql puts the schema's name into a statement.
func (s *Store) sql(statement string) string { return s.names.Replace(statement) }

func schemaNames(schema string) *strings.Replacer {
	return strings.NewReplacer("{schema}", pgx.Identifier{schema}.Sanitize())
}

// batchSettings are how statements over many rows by primary key are planned. Their lists and the table's statistics say
// little about each other (a table that was empty a moment ago has a million due rows now), so no plan may go through the
// table. statement_timeout is below the callers' own: what the server ends, it has not done.
const batchSettings = `SET {local}enable_seqscan = off; SET {local}enable_hashjoin = off; SET {local}enable_mergejoin = off;
SET {local}jit = off; SET {local}plan_cache_mode = {plans}; SET {local}statement_timeout = '{timeout}';
SET {local}idle_in_transaction_session_timeout = '8s'`

// settings are batchSettings for a session or, with local, for a transaction. A session's statements are planned once:
// there is one way to reach the rows of a list, and planning took as long as a small batch itself. Those of a transaction
// go along an index, up to a limit, and are planned each time.
func settings(local bool, timeout string) string {
	scope, plans := "", "force_generic_plan"
	if local {
		scope, plans = "LOCAL ", "force_custom_plan"
	}
	return strings.NewReplacer("{local}", scope, "{plans}", plans, "{timeout}", timeout).Replace(batchSettings)
}

// BatchTimeout is how long the server works on one statement of a pool that TuneForBatches prepared.
const BatchTimeout = 8 * time.Second

// TuneForBatches prepares a pool whose connections run claims, records and releases only.
//
// These statements reach the rows of a list by LATERAL (SELECT ... WHERE id = ... OFFSET 0): one probe of the primary key
// each, whatever the planner believes. OFFSET 0 keeps every other condition out of it, for which another index might look
// better: with statistics from before a bulk insert, claims went through all pending rows for each of theirs.
func TuneForBatches(config *pgxpool.Config) {
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, settings(false, BatchTimeout.String()))
		return err
	}
}

const clockSQL = `SELECT clock_timestamp()`

// Clock is the database's clock.
func (s *Store) Clock(ctx context.Context) (at time.Time, err error) {
	if err := s.db.QueryRow(ctx, clockSQL).Scan(&at); err != nil {
		return at, fmt.Errorf("store: clock: %w", err)
	}
	return at, nil
}

const ownsJobsSQL = `SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = '{schema}.river_job'::regclass`

// OwnsJobs says whether the pool's role owns River's tables: it takes the owner to reindex them.
func (s *Store) OwnsJobs(ctx context.Context) (owns bool, err error) {
	if err := s.db.QueryRow(ctx, s.sql(ownsJobsSQL)).Scan(&owns); err != nil {
		return false, fmt.Errorf("store: owner of River's tables: %w", err)
	}
	return owns, nil
}

const readOnlySQL = `SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool`

// ReadOnly says whether nothing can be written: the server is a standby, or was made read-only.
func (s *Store) ReadOnly(ctx context.Context) (readOnly bool, err error) {
	if err := s.db.QueryRow(ctx, readOnlySQL).Scan(&readOnly); err != nil {
		return false, fmt.Errorf("store: read-only: %w", err)
	}
	return readOnly, nil
}

// Skew is how far the database's clock is ahead of this machine's, give or take within.
func (s *Store) Skew(ctx context.Context) (skew, within time.Duration, err error) {
	conn, err := s.db.Acquire(ctx) // else the time for a connection would make it less exact
	if err != nil {
		return 0, 0, fmt.Errorf("store: clock: %w", err)
	}
	defer conn.Release()
	var clock time.Time
	before := time.Now()
	if err := conn.QueryRow(ctx, clockSQL).Scan(&clock); err != nil {
		return 0, 0, fmt.Errorf("store: clock: %w", err)
	}
	within = time.Since(before) / 2
	return clock.Sub(before.Add(within)), within, nil
}

// IsRowError says that a statement failed because of what one row holds (a value out of range or not representable, a
// violated constraint, a limit): the other rows of the batch pass without it. Every other failure is the connection's or
// the server's and may pass by itself; what the statement did is unknown then.
func IsRowError(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || len(pg.Code) != 5 {
		return false
	}
	switch pg.Code[:2] {
	case "22", "23", "54":
		return true
	}
	return false
}

// IsRefusal says that the server answered a statement with an error, and so has done nothing of it. After any other error,
// and when the server says that it shuts down, nobody knows.
func IsRefusal(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && !strings.HasPrefix(pg.Code, "57P")
}

// IsTooSlow says that a statement was ended because it took too long, or because somebody else held a lock for too long.
func IsTooSlow(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "57014" || pg.Code == "55P03")
}

// maxErrorLength bounds last_error and attempts.error, in characters.
const maxErrorLength = 2000

// Text makes s fit for a text column: valid UTF-8, without NUL, at most limit characters.
func Text(s string, limit int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	if len(s) <= limit || utf8.RuneCountInString(s) <= limit {
		return s
	}
	return string([]rune(s)[:limit])
}

// null is nil for a zero value: a null in the database.
func null[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

func seconds(d time.Duration) float64 { return d.Seconds() }
