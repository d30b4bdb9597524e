package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// DeadAfter is how long a node's lock must have been found free, and Postgres have been up, before the node is taken for
// dead. A node that cannot prove for shorter than this that it holds its lock has stopped sending by then.
const DeadAfter = 10 * time.Second

// ErrPooler says that there is a pooler between this program and Postgres, so that a session is nobody's own.
var ErrPooler = errors.New("the connection goes through a pooler, which may give its lock to others")

const registerSQL = `
INSERT INTO {schema}.nodes (node, version) VALUES ($1, $2)
    ON CONFLICT (node) DO UPDATE SET seen_at = now()`

// Register writes a node into the table of nodes. It has no lock yet.
func (s *Store) Register(ctx context.Context, node, version string) error {
	if _, err := s.db.Exec(ctx, s.sql(registerSQL), node, version); err != nil {
		return fmt.Errorf("store: register the node: %w", err)
	}
	return nil
}

// lockHolders are the sessions that hold the lock of the node n.
const lockHolders = `
SELECT l.pid
  FROM pg_locks l
 WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid = '{schema}.nodes'::regclass::oid AND l.objid = n.lock_number::oid
   AND l.database = (SELECT b.oid FROM pg_database b WHERE b.datname = current_database())`

// A session of ours that the network has lost may still hold the lock: it is nobody's any more.
const endLostSessionsSQL = `
SELECT pg_terminate_backend(p.pid)
  FROM {schema}.nodes n, LATERAL (` + lockHolders + `) p
 WHERE n.node = $1 AND p.pid <> pg_backend_pid()`

// The machine may go without a word: Postgres notices within some 11 s. (Without effect on a Unix socket.)
const presenceSettings = `SET lock_timeout = '2s'; SET statement_timeout = '5s'; SET idle_session_timeout = 0;
SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3; SET tcp_user_timeout = 10000`

const takeLockSQL = `SELECT pg_advisory_lock('{schema}.nodes'::regclass::oid::int, n.lock_number) FROM {schema}.nodes n WHERE n.node = $1`

// The row is what says whether a node is dead. This waits for a sweep's page that believes so, and that holds the row: what
// the page takes from the node was claimed before.
const takenSQL = `UPDATE {schema}.nodes SET taken_at = clock_timestamp(), seen_at = now(), dead_at = NULL, reclaimed_at = NULL WHERE node = $1`

// TakePresence takes the lock of a registered node in the connection's session, for as long as that lasts, and says that it
// lives. ErrPooler means that it cannot: then only leases say whether the node lives.
func (s *Store) TakePresence(ctx context.Context, conn *pgx.Conn, node string) error {
	var pid uint32
	if err := conn.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&pid); err != nil {
		return fmt.Errorf("store: take the node's lock: %w", err)
	}
	if pid != conn.PgConn().PID() { // poolers have numbers of their own
		return ErrPooler
	}
	if _, err := conn.Exec(ctx, presenceSettings); err != nil {
		return fmt.Errorf("store: take the node's lock: %w", err)
	}
	for _, statement := range []string{endLostSessionsSQL, takeLockSQL, takenSQL} {
		tag, err := conn.Exec(ctx, s.sql(statement), node)
		if err != nil {
			return fmt.Errorf("store: take the node's lock: %w", err)
		}
		if statement != endLostSessionsSQL && tag.RowsAffected() == 0 {
			return fmt.Errorf("store: take the node's lock: %w", errNotRegistered)
		}
	}
	return nil
}

var errNotRegistered = errors.New("the node's row is gone")

const holdsLockSQL = `
SELECT EXISTS (SELECT FROM {schema}.nodes n, LATERAL (` + lockHolders + `) p WHERE n.node = $1 AND n.dead_at IS NULL AND p.pid = pg_backend_pid())`

// HoldsPresence says whether the connection's session holds the node's lock, and nobody has taken it for dead.
func (s *Store) HoldsPresence(ctx context.Context, conn *pgx.Conn, node string) (holds bool, err error) {
	if err := conn.QueryRow(ctx, s.sql(holdsLockSQL), node).Scan(&holds); err != nil {
		return false, fmt.Errorf("store: look at the node's lock: %w", err)
	}
	return holds, nil
}

const (
	leftSQL   = `DELETE FROM {schema}.nodes WHERE node = $1`
	brokenSQL = `UPDATE {schema}.nodes SET dead_at = now() WHERE node = $1`
)

// Leave says that a node has stopped. If it has left claims behind, its peers take them back at once.
func (s *Store) Leave(ctx context.Context, node string, claims bool) error {
	statement := leftSQL
	if claims {
		statement = brokenSQL
	}
	if _, err := s.db.Exec(ctx, s.sql(statement), node); err != nil {
		return fmt.Errorf("store: leave: %w", err)
	}
	return nil
}

// seeSQL forgets who is long gone: dead and reclaimed for an hour, or without a lock and not seen for a day.
const seeSQL = `
WITH me AS (
    UPDATE {schema}.nodes SET seen_at = now() WHERE node = $1
), forgotten AS (
    DELETE FROM {schema}.nodes
     WHERE node <> $1
       AND (reclaimed_at < now() - interval '1 hour' OR taken_at IS NULL AND seen_at < now() - interval '1 day')
)
SELECT coalesce(EXTRACT(epoch FROM now() - max(n.swept_at)), -1), coalesce(bool_or(n.dead_at IS NOT NULL AND n.reclaimed_at IS NULL), false)
  FROM {schema}.nodes n`

// Look is what a node sees when it looks after the others.
type Look struct {
	Silent  []Silence     // nodes that do not hold their lock, and are not known to be dead
	Swept   time.Duration // since the last finished sweep; negative when none is known
	Unswept bool          // a dead node's claims have not all been taken back
}

// Silence is a node that does not hold its lock, since it took it at some time.
type Silence struct {
	Node  string
	Taken time.Time
}

const silentSQL = `
SELECT n.node, n.taken_at
  FROM {schema}.nodes n
 WHERE n.node <> $1 AND n.taken_at IS NOT NULL AND n.dead_at IS NULL AND NOT EXISTS (` + lockHolders + `)`

// Look says what node, which must be registered, sees of its peers, and that it has looked.
func (s *Store) Look(ctx context.Context, node string) (look Look, err error) {
	var swept float64
	if err := s.db.QueryRow(ctx, s.sql(seeSQL), node).Scan(&swept, &look.Unswept); err != nil {
		return look, fmt.Errorf("store: look after the nodes: %w", err)
	}
	look.Swept = time.Duration(swept * float64(time.Second))
	rows, err := s.db.Query(ctx, s.sql(silentSQL), node)
	if err != nil {
		return look, fmt.Errorf("store: look after the nodes: %w", err)
	}
	if look.Silent, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Silence]); err != nil {
		return look, fmt.Errorf("store: look after the nodes: %w", err)
	}
	return look, nil
}

const declareDeadSQL = `
UPDATE {schema}.nodes n
   SET dead_at = now()
 WHERE n.node = $1 AND n.taken_at = $2 AND n.dead_at IS NULL
   AND pg_postmaster_start_time() < now() - make_interval(secs => $3) AND NOT EXISTS (` + lockHolders + `)`

// DeclareDead takes a node for dead that still is as it was seen. Its lock has been free for DeadAfter: the caller has
// looked. It is not dead when Postgres was started less than DeadAfter ago: a restart frees all locks.
func (s *Store) DeclareDead(ctx context.Context, silent Silence) (dead bool, err error) {
	tag, err := s.db.Exec(ctx, s.sql(declareDeadSQL), silent.Node, silent.Taken, seconds(DeadAfter))
	if err != nil {
		return false, fmt.Errorf("store: declare a node dead: %w", err)
	}
	return tag.RowsAffected() > 0, nil
}

const sweptSQL = `UPDATE {schema}.nodes SET swept_at = now() WHERE node = $1`

// Swept says that node has finished a sweep.
func (s *Store) Swept(ctx context.Context, node string) error {
	if _, err := s.db.Exec(ctx, s.sql(sweptSQL), node); err != nil {
		return fmt.Errorf("store: swept: %w", err)
	}
	return nil
}

// The share lock keeps a node that is not dead after all from claiming anything while this takes claims from it: see takenSQL.
const deadNodesSQL = `SELECT n.node FROM {schema}.nodes n WHERE n.dead_at IS NOT NULL AND n.reclaimed_at IS NULL ORDER BY n.node FOR SHARE`

// deadPageSQL goes through what is due as a sweep does, without looking at jobs. Claims have no index of their own: every
// claim and every record would have to write into it.
const deadPageSQL = `
WITH page AS MATERIALIZED (
    SELECT d.id, d.scheduled_for, d.claimed_by
      FROM {schema}.deliveries d
     WHERE d.status = 'pending' AND d.scheduled_for <= now() AND (d.scheduled_for, d.id) > ($1::timestamptz, $2::bigint)
     ORDER BY d.scheduled_for, d.id
     LIMIT $3
)
SELECT count(*), array_agg(p.id) FILTER (WHERE p.claimed_by = ANY ($4::text[])),
       (SELECT p.scheduled_for FROM page p ORDER BY p.scheduled_for DESC, p.id DESC LIMIT 1),
       (SELECT p.id FROM page p ORDER BY p.scheduled_for DESC, p.id DESC LIMIT 1)
  FROM page p`

const lockDeadSQL = expiredColumns + `
 WHERE d.id = ANY ($1::bigint[]) AND d.status = 'pending' AND d.claimed_by = ANY ($2::text[])
 ORDER BY d.id
   FOR NO KEY UPDATE SKIP LOCKED`

const lockDeadEndedSQL = expiredColumns + `
 WHERE d.status <> 'pending' AND d.finished_at IS NULL AND d.claimed_by = ANY ($2::text[])
 ORDER BY d.id
 LIMIT $1
   FOR NO KEY UPDATE SKIP LOCKED`

// deadJobsSQL: what a dead node had fetched, and not claimed, is there to be fetched again. What it had claimed, or was a
// no-op, is over.
const deadJobsSQL = `
WITH fetched AS (
    SELECT j.id, (j.args->>'delivery_id')::bigint AS delivery_id, (j.args->>'claim')::bigint AS claim
      FROM {schema}.river_job j
     WHERE j.state = 'running' AND j.queue = 'webhooks' AND j.kind = 'deliver_webhook'
       AND j.attempted_by[array_upper(j.attempted_by, 1)] = ANY ($1::text[])
       FOR UPDATE SKIP LOCKED
), judged AS (
    SELECT f.id, d.id IS NOT NULL AS wanted
      FROM fetched f
      LEFT JOIN LATERAL (SELECT d.id, d.claim, d.status, d.claimed_by FROM {schema}.deliveries d WHERE d.id = f.delivery_id OFFSET 0) d
        ON d.claim = f.claim AND d.status = 'pending' AND d.claimed_by IS NULL
), again AS (
    UPDATE {schema}.river_job j SET state = 'available' FROM judged g WHERE j.id = g.id AND g.wanted RETURNING j.id
), over AS (
    DELETE FROM {schema}.river_job j USING judged g WHERE j.id = g.id AND NOT g.wanted
)
SELECT count(*) FROM again`

const reclaimedNodesSQL = `UPDATE {schema}.nodes SET reclaimed_at = now() WHERE node = ANY ($1::text[]) AND dead_at IS NOT NULL`

// DeadPage is what was taken back from dead nodes on one page of what is due.
type DeadPage struct {
	Nodes     []string  // the dead; when there is none, there is nothing to do
	Reclaimed []Attempt // were being sent
	Requeued  int       // were fetched, and not yet claimed
	Skipped   int       // somebody holds the row's lock
	Next      SweepCursor
	Last      bool // no page follows
}

// ReclaimDead takes back what dead nodes had claimed or fetched, among up to limit due rows after the cursor, in one
// transaction. The first page also sees to what a person has ended meanwhile.
func (s *Store) ReclaimDead(ctx context.Context, after SweepCursor, limit int, abandoned AbandonedFunc) (page DeadPage, err error) {
	err = s.inBatchTx(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, s.sql(deadNodesSQL))
		if err != nil {
			return err
		}
		page.Nodes, err = pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || len(page.Nodes) == 0 {
			page.Last = true
			return err
		}
		due := pgtype.Timestamptz{Time: after.Due, Valid: true}
		if after.Due.IsZero() {
			due = pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}
			if page.Reclaimed, err = s.reclaim(ctx, tx, abandoned, lockDeadEndedSQL, limit, page.Nodes); err != nil {
				return err
			}
		}
		var seen int
		var claimed []int64
		var lastDue *time.Time
		var lastID *int64
		if err := tx.QueryRow(ctx, s.sql(deadPageSQL), due, after.ID, limit, page.Nodes).Scan(&seen, &claimed, &lastDue, &lastID); err != nil {
			return err
		}
		if page.Last = seen < limit; !page.Last {
			page.Next = SweepCursor{Due: *lastDue, ID: *lastID}
		}
		if len(claimed) > 0 {
			reclaimed, err := s.reclaim(ctx, tx, abandoned, lockDeadSQL, claimed, page.Nodes)
			if err != nil {
				return err
			}
			page.Reclaimed = append(page.Reclaimed, reclaimed...)
			page.Skipped = len(claimed) - len(reclaimed)
		}
		if !page.Last {
			return nil
		}
		return tx.QueryRow(ctx, s.sql(deadJobsSQL), page.Nodes).Scan(&page.Requeued)
	})
	if err != nil {
		return page, fmt.Errorf("store: reclaim from dead nodes: %w", err)
	}
	return page, nil
}

// ReclaimedAll says that these dead nodes have no claims left.
func (s *Store) ReclaimedAll(ctx context.Context, nodes []string) error {
	if _, err := s.db.Exec(ctx, s.sql(reclaimedNodesSQL), nodes); err != nil {
		return fmt.Errorf("store: reclaim from dead nodes: %w", err)
	}
	return nil
}

// NodeRow is a node as people see it.
type NodeRow struct {
	Node      string
	Version   string
	StartedAt time.Time
	SeenAt    time.Time  // when it last looked after its peers
	DeadAt    *time.Time // since when it is known not to be there
	Now       time.Time  // the database's clock
}

const nodesSQL = `
SELECT n.node, n.version, n.started_at, n.seen_at, n.dead_at, now()
  FROM {schema}.nodes n
 ORDER BY n.dead_at IS NOT NULL, n.seen_at DESC, n.node
 LIMIT 1000`

// Nodes are the running nodes, and those of the last hour that did not stop in order, the living first: 1,000 at most.
func (s *Store) Nodes(ctx context.Context) ([]NodeRow, error) {
	rows, err := s.db.Query(ctx, s.sql(nodesSQL))
	if err != nil {
		return nil, fmt.Errorf("store: nodes: %w", err)
	}
	nodes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[NodeRow])
	if err != nil {
		return nil, fmt.Errorf("store: nodes: %w", err)
	}
	for i := range nodes {
		utc(&nodes[i].StartedAt, &nodes[i].SeenAt, nodes[i].DeadAt, &nodes[i].Now)
	}
	return nodes, nil
}
