package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// What `riverhook doctor` asks. Nothing here changes anything: what is tried is rolled back.

// Server is what a connection leads to.
type Server struct {
	Role, Database  string
	Version         string // as text
	VersionNumber   int    // 150004 is 15.4
	Encoding        string
	ReadOnly        bool // a standby, or a role that only reads
	Clock           time.Time
	ReplicationRole string // session_replication_role: under "replica" no ordinary trigger fires
}

const serverSQL = `
SELECT current_user::text, current_database()::text, current_setting('server_version'), current_setting('server_version_num')::int,
       current_setting('server_encoding'), pg_is_in_recovery() OR current_setting('transaction_read_only')::bool,
       clock_timestamp(), current_setting('session_replication_role')`

// Server asks what the connection leads to.
func (s *Store) Server(ctx context.Context) (v Server, err error) {
	err = s.db.QueryRow(ctx, serverSQL).Scan(&v.Role, &v.Database, &v.Version, &v.VersionNumber, &v.Encoding, &v.ReadOnly, &v.Clock, &v.ReplicationRole)
	if err != nil {
		return v, fmt.Errorf("store: server: %w", err)
	}
	return v, nil
}

// missingRightsSQL reads the catalog only, so that a role without any right gets an answer too. A trigger fires without
// EXECUTE on its function.
const missingRightsSQL = `
WITH place AS (SELECT oid FROM pg_namespace WHERE nspname = $1)
SELECT 'USAGE on the schema' FROM place WHERE NOT has_schema_privilege(oid, 'USAGE')
 UNION ALL
SELECT p || ' on ' || c.relname
  FROM place JOIN pg_class c ON c.relnamespace = place.oid AND c.relkind IN ('r', 'p', 'v')
 CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p
 WHERE NOT has_table_privilege(c.oid, p)
 UNION ALL
-- AND does not keep its order: has_sequence_privilege fails at what is no sequence.
SELECT 'USAGE on ' || c.relname
  FROM place JOIN pg_class c ON c.relnamespace = place.oid
 WHERE CASE c.relkind WHEN 'S' THEN NOT has_sequence_privilege(c.oid, 'USAGE') ELSE false END
 UNION ALL
SELECT 'EXECUTE on ' || f.proname
  FROM place JOIN pg_proc f ON f.pronamespace = place.oid AND f.prorettype <> 'trigger'::regtype
 WHERE NOT has_function_privilege(f.oid, 'EXECUTE')
 LIMIT 1000`

// MissingRights are the rights of `migrate grant --as service` that the connection's role does not have.
func (s *Store) MissingRights(ctx context.Context, schema string) ([]string, error) {
	rows, err := s.db.Query(ctx, missingRightsSQL, schema)
	if err != nil {
		return nil, fmt.Errorf("store: rights: %w", err)
	}
	missing, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("store: rights: %w", err)
	}
	return missing, nil
}

const triggersSQL = `
SELECT tgname::text, tgenabled::text FROM pg_trigger WHERE tgrelid = '{schema}.deliveries'::regclass AND NOT tgisinternal LIMIT 100`

// Triggers are the triggers of deliveries, and whether each fires for ordinary sessions.
func (s *Store) Triggers(ctx context.Context) (map[string]bool, error) {
	rows, err := s.db.Query(ctx, s.sql(triggersSQL))
	if err != nil {
		return nil, fmt.Errorf("store: triggers: %w", err)
	}
	fires := map[string]bool{}
	var name, enabled string
	_, err = pgx.ForEachRow(rows, []any{&name, &enabled}, func() error {
		fires[name] = enabled == "O" || enabled == "A"
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("store: triggers: %w", err)
	}
	return fires, nil
}

// tryInsertSQL: tomorrow, so that no notification goes out.
const tryInsertSQL = `
INSERT INTO {schema}.deliveries (endpoint_url, organization_id, scheduled_for)
VALUES ('https://doctor.invalid/', 'riverhook doctor', now() + interval '1 day')
RETURNING id, claim`

const tryJobSQL = `
SELECT count(*) FROM {schema}.river_job
 WHERE unique_key = {schema}.delivery_job_key($1, $2) AND unique_states IS NOT NULL
   AND {schema}.river_job_state_in_bitmask(unique_states, state)`

var errRollBack = errors.New("store: roll back")

// TryInsert inserts a delivery, looks for its job, and rolls back: fired says whether there was one. Of the identity's
// numbers, two are used up.
func (s *Store) TryInsert(ctx context.Context) (fired bool, err error) {
	err = s.inQueryTx(ctx, pgx.TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
		var id, claim, jobs int64
		if err := tx.QueryRow(ctx, s.sql(tryInsertSQL)).Scan(&id, &claim); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, s.sql(tryJobSQL), id, claim).Scan(&jobs); err != nil {
			return err
		}
		fired = jobs == 1
		return errRollBack
	})
	if errors.Is(err, errRollBack) {
		return fired, nil
	}
	return false, fmt.Errorf("store: try an insert: %w", err)
}

// A channel of the doctor's own: several at once are told apart by what they say.
const (
	listenSQL   = `LISTEN riverhook_doctor`
	unlistenSQL = `UNLISTEN riverhook_doctor`
	notifySQL   = `SELECT pg_notify('riverhook_doctor', $1)`
)

// TryNotify listens on one connection and notifies on another: arrived is false when nothing came within wait.
func (s *Store) TryNotify(ctx context.Context, word string, wait time.Duration) (arrived bool, err error) {
	conn, err := s.db.Acquire(ctx)
	if err != nil {
		return false, fmt.Errorf("store: try a notification: %w", err)
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, listenSQL); err != nil {
		return false, fmt.Errorf("store: try a notification: %w", err)
	}
	defer func() { // a pooler may keep the session
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wait)
		defer cancel()
		_, _ = conn.Exec(ctx, unlistenSQL)
	}()
	if _, err := s.db.Exec(ctx, notifySQL, word); err != nil {
		return false, fmt.Errorf("store: try a notification: %w", err)
	}
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		n, err := conn.Conn().WaitForNotification(waiting)
		switch {
		case waiting.Err() != nil:
			return false, nil
		case err != nil:
			return false, fmt.Errorf("store: try a notification: %w", err)
		case n.Channel == "riverhook_doctor" && n.Payload == word:
			return true, nil
		}
	}
}

// Connections are those of the whole server.
type Connections struct {
	Max, Reserved int
	Used          int // by clients, this one's included
	Ours          int // of them, by this program (application_name), in this database
}

const connectionsSQL = `
SELECT current_setting('max_connections')::int,
       current_setting('superuser_reserved_connections')::int + coalesce(current_setting('reserved_connections', true)::int, 0), -- the second: since 16
       count(*) FILTER (WHERE usesysid IS NOT NULL AND datid IS NOT NULL)::int,
       count(*) FILTER (WHERE datname = current_database() AND application_name LIKE 'riverhook%')::int
  FROM pg_stat_activity`

// Connections counts connections.
func (s *Store) Connections(ctx context.Context) (c Connections, err error) {
	if err := s.db.QueryRow(ctx, connectionsSQL).Scan(&c.Max, &c.Reserved, &c.Used, &c.Ours); err != nil {
		return c, fmt.Errorf("store: connections: %w", err)
	}
	return c, nil
}

// UsedCell is a sealed cell that an attempt may need, and for a signing secret whom it is for.
type UsedCell struct {
	Sealed
	EndpointOrigin *string
}

// usedCellsSQL leaves out secrets that have expired: nothing is signed with them. One row more than is asked for says
// that there are more.
const usedCellsSQL = `
(SELECT 'credential' AS kind, credential_uuid::text AS uuid, organization_id, sealed, NULL::text FROM {schema}.credentials WHERE sealed IS NOT NULL
  ORDER BY credential_uuid LIMIT $1)
 UNION ALL
(SELECT 'secret', secret_uuid::text, organization_id, sealed, endpoint_origin FROM {schema}.signing_secrets WHERE expires_at IS NULL OR expires_at > now()
  ORDER BY secret_uuid LIMIT $1)`

// UsedCells reads limit credentials and limit signing secrets at most.
func (s *Store) UsedCells(ctx context.Context, limit int) ([]UsedCell, error) {
	rows, err := s.db.Query(ctx, s.sql(usedCellsSQL), limit)
	if err != nil {
		return nil, fmt.Errorf("store: sealed cells: %w", err)
	}
	cells, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c UsedCell, err error) {
		return c, row.Scan(&c.Kind, &c.UUID, &c.OrganizationID, &c.Cell, &c.EndpointOrigin)
	})
	if err != nil {
		return nil, fmt.Errorf("store: sealed cells: %w", err)
	}
	return cells, nil
}

// originsOfSQL: how many receivers use the organization's own secret, among its newest deliveries. Both keys in ORDER BY:
// the index of both is the one to read.
const originsOfSQL = `
SELECT w.organization, o.origins
  FROM unnest($1::text[]) w (organization)
 CROSS JOIN LATERAL (
      SELECT count(DISTINCT n.endpoint_origin)::int AS origins
        FROM (SELECT d.endpoint_origin FROM {schema}.deliveries d
               WHERE d.organization_id = w.organization
               ORDER BY d.organization_id DESC, d.id DESC LIMIT $2) n
       WHERE NOT EXISTS (SELECT FROM {schema}.signing_secrets x
                          WHERE x.organization_id = w.organization AND x.endpoint_origin = n.endpoint_origin
                            AND (x.expires_at IS NULL OR x.expires_at > now()))) o
 WHERE o.origins > 1
 ORDER BY w.organization`

// SharedBy says for which of the organizations several receivers have no signing secret of their own, and how many, among
// the newest deliveries of each.
func (s *Store) SharedBy(ctx context.Context, organizations []string, newest int) (map[string]int, error) {
	shared := map[string]int{}
	err := s.inQueryTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, s.sql(originsOfSQL), organizations, newest)
		if err != nil {
			return err
		}
		var organization string
		var origins int
		_, err = pgx.ForEachRow(rows, []any{&organization, &origins}, func() error { shared[organization] = origins; return nil })
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("store: receivers of a signing secret: %w", err)
	}
	return shared, nil
}

// Horizon is what keeps vacuum from removing dead rows.
type Horizon struct {
	What string // "transaction", "prepared transaction" or "replication slot"
	Name string // the process, its role and its application; the transaction; the slot
	Age  time.Duration
}

// horizonSQL: of other roles' sessions only pg_read_all_stats sees since when; they are counted apart.
const horizonSQL = `
(SELECT 'transaction', format('pid %s, role %s, application "%s", %s', pid, usename, application_name, state), extract(epoch FROM now() - xact_start)::float8
   FROM pg_stat_activity
  WHERE (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL) AND backend_type = 'client backend' AND pid <> pg_backend_pid()
    AND xact_start < now() - make_interval(secs => $1)
  ORDER BY xact_start LIMIT 20)
 UNION ALL
(SELECT 'prepared transaction', gid, extract(epoch FROM now() - prepared)::float8
   FROM pg_prepared_xacts WHERE prepared < now() - make_interval(secs => $1)
  ORDER BY prepared LIMIT 20)
 UNION ALL
(SELECT 'replication slot', slot_name::text, 0
   FROM pg_replication_slots WHERE xmin IS NOT NULL AND (NOT active OR age(xmin) > 1000000)
  LIMIT 20)`

const hiddenSessionsSQL = `
SELECT count(*)::int FROM pg_stat_activity WHERE usesysid IS NOT NULL AND backend_type IS NULL AND backend_xmin IS NOT NULL`

// Horizons are what is older than olderThan and keeps dead rows; hidden is how many transactions this role may not look at.
func (s *Store) Horizons(ctx context.Context, olderThan time.Duration) (found []Horizon, hidden int, err error) {
	rows, err := s.db.Query(ctx, horizonSQL, seconds(olderThan))
	if err == nil {
		found, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (h Horizon, err error) {
			var age float64
			err = row.Scan(&h.What, &h.Name, &age)
			h.Age = time.Duration(age * float64(time.Second))
			return h, err
		})
	}
	if err == nil {
		err = s.db.QueryRow(ctx, hiddenSessionsSQL).Scan(&hidden)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("store: long transactions: %w", err)
	}
	return found, hidden, nil
}

// Bloat is how many rows of a table are dead, as the statistics have it.
type Bloat struct {
	Table      string
	Live, Dead int64
	Vacuumed   *time.Duration // ago; nil: never
}

const bloatSQL = `
SELECT relname::text, n_live_tup, n_dead_tup, extract(epoch FROM now() - greatest(last_vacuum, last_autovacuum))::float8
  FROM pg_stat_all_tables
 WHERE relid IN ('{schema}.deliveries'::regclass, '{schema}.river_job'::regclass)
 ORDER BY relname`

// Bloats are the dead rows of the tables that live by updates.
func (s *Store) Bloats(ctx context.Context) ([]Bloat, error) {
	rows, err := s.db.Query(ctx, s.sql(bloatSQL))
	if err != nil {
		return nil, fmt.Errorf("store: dead rows: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (b Bloat, err error) {
		var ago *float64
		if err = row.Scan(&b.Table, &b.Live, &b.Dead, &ago); err == nil && ago != nil {
			b.Vacuumed = new(time.Duration(*ago * float64(time.Second)))
		}
		return b, err
	})
	if err != nil {
		return nil, fmt.Errorf("store: dead rows: %w", err)
	}
	return list, nil
}

// Backlog is what waits among the rows that are due first.
type Backlog struct {
	Seen      int            // rows that were looked at, limit at most
	Waiting   int            // due, and neither held nor claimed
	Oldest    *time.Duration // how long the oldest of the waiting has been due
	Stale     int            // claimed by a node whose lease ended more than the given time ago
	Discarded int            // River's jobs that failed for good: 1,000 at most
	Leader    bool           // a node is up, as River's election has it
}

// dueFirstSQL: claimed rows keep their scheduled_for, so that they are among those that are due first.
const dueFirstSQL = `
SELECT count(*)::int,
       count(*) FILTER (WHERE n.claimed_by IS NULL AND n.held_since IS NULL)::int,
       extract(epoch FROM now() - min(n.scheduled_for) FILTER (WHERE n.claimed_by IS NULL AND n.held_since IS NULL))::float8,
       count(*) FILTER (WHERE n.claimed_by IS NOT NULL AND n.leased_until < now() - make_interval(secs => $2))::int
  FROM (SELECT d.scheduled_for, d.claimed_by, d.leased_until, d.held_since FROM {schema}.deliveries d
         WHERE d.status = 'pending' AND d.scheduled_for <= now()
         ORDER BY d.scheduled_for, d.id LIMIT $1) n`

const jobHealthSQL = `
SELECT (SELECT count(*) FROM (SELECT FROM {schema}.river_job WHERE state = 'discarded' AND finalized_at IS NOT NULL LIMIT 1000) j)::int,
       EXISTS (SELECT FROM {schema}.river_leader WHERE expires_at > now())`

// Backlog looks at the limit deliveries that are due first, and at River's tables.
func (s *Store) Backlog(ctx context.Context, limit int, staleAfter time.Duration) (b Backlog, err error) {
	err = s.inQueryTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(ctx context.Context, tx pgx.Tx) error {
		var oldest *float64
		if err := tx.QueryRow(ctx, s.sql(dueFirstSQL), limit, seconds(staleAfter)).Scan(&b.Seen, &b.Waiting, &oldest, &b.Stale); err != nil {
			return err
		}
		if oldest != nil {
			b.Oldest = new(time.Duration(*oldest * float64(time.Second)))
		}
		return tx.QueryRow(ctx, s.sql(jobHealthSQL)).Scan(&b.Discarded, &b.Leader)
	})
	if err != nil {
		return Backlog{}, fmt.Errorf("store: backlog: %w", err)
	}
	return b, nil
}

const recentOriginsSQL = `
SELECT n.endpoint_origin
  FROM (SELECT d.id, d.endpoint_origin, d.created_at FROM {schema}.deliveries d ORDER BY d.id DESC LIMIT $1) n
 WHERE n.created_at > now() - interval '1 day' AND n.endpoint_origin IS NOT NULL
 GROUP BY n.endpoint_origin
 ORDER BY max(n.id) DESC
 LIMIT $2`

// RecentOrigins are receivers of the last day, among the newest deliveries: limit at most.
func (s *Store) RecentOrigins(ctx context.Context, newest, limit int) (origins []string, err error) {
	err = s.inQueryTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, s.sql(recentOriginsSQL), newest, limit)
		if err != nil {
			return err
		}
		origins, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("store: receivers of the last day: %w", err)
	}
	return origins, nil
}
