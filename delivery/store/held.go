package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// HoldReason says why a delivery is held back: due, but without a job, a claim or a connection, until a node pulls it. It
// stands in deliveries.held_reason.
type HoldReason string

// The reasons. NotHeld is no reason.
const (
	NotHeld      HoldReason = ""
	HeldPaused   HoldReason = "paused"    // by a person
	HeldNoAnswer HoldReason = "no_answer" // its receiver has as many attempts in flight as one gets that does not answer
	HeldFailing  HoldReason = "failing"   // its receiver has failed every attempt for a while
	HeldCrowded  HoldReason = "crowded"   // its receiver answers, but all places that are not kept free for others are taken
)

// Receiver is one organization's deliveries to one origin.
type Receiver struct{ Origin, Organization string }

// Pull asks for up to N of a receiver's held deliveries.
type Pull struct {
	Receiver
	N int
}

// heldReceiversSQL jumps from receiver to receiver in the index: it costs as much as there are receivers, whatever is held.
const heldReceiversSQL = `
WITH RECURSIVE receivers AS (
    (SELECT d.endpoint_origin, d.organization_id
       FROM {schema}.deliveries d
      WHERE d.status = 'pending' AND d.held_since IS NOT NULL AND (d.endpoint_origin, d.organization_id) > ($1::text, $2::text)
      ORDER BY d.endpoint_origin, d.organization_id
      LIMIT 1)
    UNION ALL
    SELECT n.endpoint_origin, n.organization_id
      FROM receivers r
     CROSS JOIN LATERAL (
           SELECT d.endpoint_origin, d.organization_id
             FROM {schema}.deliveries d
            WHERE d.status = 'pending' AND d.held_since IS NOT NULL AND (d.endpoint_origin, d.organization_id) > (r.endpoint_origin, r.organization_id)
            ORDER BY d.endpoint_origin, d.organization_id
            LIMIT 1) n
)
SELECT r.endpoint_origin, r.organization_id FROM receivers r LIMIT $3`

// HeldReceivers are up to limit receivers after one, in order, that deliveries are held back for.
func (s *Store) HeldReceivers(ctx context.Context, after Receiver, limit int) ([]Receiver, error) {
	var receivers []Receiver
	err := s.inBatchTx(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, s.sql(heldReceiversSQL), after.Origin, after.Organization, limit)
		if err != nil {
			return err
		}
		receivers, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Receiver])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("store: held receivers: %w", err)
	}
	return receivers, nil
}

const pullSQL = `
WITH page AS MATERIALIZED (
    SELECT d.id, d.scheduled_for, p.n AS pull
      FROM unnest($1::text[], $2::text[], $3::int[]) WITH ORDINALITY AS p (origin, organization, wanted, n)
     CROSS JOIN LATERAL (
           SELECT d.id, d.scheduled_for
             FROM {schema}.deliveries d
            WHERE d.status = 'pending' AND d.held_since IS NOT NULL AND d.endpoint_origin = p.origin AND d.organization_id = p.organization
              AND d.claimed_by IS NULL
            ORDER BY d.scheduled_for, d.id
            LIMIT p.wanted
              FOR NO KEY UPDATE SKIP LOCKED) d
), pulled AS (
    UPDATE {schema}.deliveries d
       SET claim = d.claim + 1, held_since = NULL, held_reason = NULL, updated_at = now()
      FROM page p
     WHERE d.id = p.id
    RETURNING d.id, d.claim, d.scheduled_for, p.pull
), job AS (
    INSERT INTO {schema}.river_job (kind, args, queue, max_attempts, state, scheduled_at, unique_key, unique_states)
    SELECT j.kind, j.args, j.queue, j.max_attempts, j.state::{schema}.river_job_state, j.scheduled_at, j.unique_key, j.unique_states
      FROM pulled p, {schema}.delivery_job(p.id, p.claim, p.scheduled_for) j
     ORDER BY p.scheduled_for, p.id
        ON CONFLICT (unique_key)
     WHERE unique_key IS NOT NULL AND unique_states IS NOT NULL AND {schema}.river_job_state_in_bitmask(unique_states, state)
        DO NOTHING
)
SELECT p.pull, count(*) FROM pulled p GROUP BY p.pull`

// Pull gives held deliveries a job, of each receiver the longest due first. It says how many of each.
func (s *Store) Pull(ctx context.Context, pulls []Pull) ([]int, error) {
	origins, organizations, wanted := make([]string, len(pulls)), make([]string, len(pulls)), make([]int, len(pulls))
	for i, p := range pulls {
		origins[i], organizations[i], wanted[i] = p.Origin, p.Organization, p.N
	}
	pulled := make([]int, len(pulls))
	err := s.inBatchTx(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, s.sql(pullSQL), origins, organizations, wanted)
		if err != nil {
			return err
		}
		var i, n int
		_, err = pgx.ForEachRow(rows, []any{&i, &n}, func() error {
			pulled[i-1] = n
			return nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("store: pull: %w", err)
	}
	return pulled, nil
}

// holdQueuedSQL: rows of other origins are read, not locked: their claims must not find them busy.
const holdQueuedSQL = `
WITH page AS MATERIALIZED (
    SELECT j.id AS job, j.scheduled_at, ` + deliveryOfJob + ` AS id, CASE WHEN j.args->>'claim' ~ '^[0-9]{1,18}$' THEN (j.args->>'claim')::bigint END AS claim
      FROM {schema}.river_job j
     WHERE j.state = 'available' AND j.queue = 'webhooks' AND j.priority = 1 AND (j.scheduled_at, j.id) > ($3, $4::bigint) AND j.scheduled_at <= now()
     ORDER BY j.scheduled_at, j.id
     LIMIT $6
), meant AS MATERIALIZED (
    SELECT f.job, f.id, f.claim, CASE WHEN h.reason IS NOT NULL THEN h.reason ELSE 'paused' END AS reason
      FROM page f
     CROSS JOIN LATERAL (SELECT d.endpoint_origin, d.organization_id FROM {schema}.deliveries d WHERE d.id = f.id OFFSET 0) d
      LEFT JOIN unnest($1::text[], $2::text[]) AS h (origin, reason) ON h.origin = d.endpoint_origin
     WHERE h.origin IS NOT NULL OR ` + pausedReceiver + `
    OFFSET $5
), locked AS (
    SELECT d.id, m.job, m.reason
      FROM meant m
     CROSS JOIN LATERAL (SELECT d.id, d.claim, d.status, d.claimed_by
                           FROM {schema}.deliveries d WHERE d.id = m.id OFFSET 0 FOR NO KEY UPDATE SKIP LOCKED) d
     WHERE d.claim = m.claim AND d.status = 'pending' AND d.claimed_by IS NULL
), held AS (
    UPDATE {schema}.deliveries d
       SET claim = d.claim + 1, held_since = now(), held_reason = l.reason, updated_at = now()
      FROM locked l
     WHERE d.id = l.id
    RETURNING l.job
), gone AS (
    -- One that was fetched meanwhile finds nothing to claim.
    DELETE FROM {schema}.river_job j
     USING (SELECT k.id
              FROM held h
             CROSS JOIN LATERAL (SELECT k.id, k.state FROM {schema}.river_job k WHERE k.id = h.job OFFSET 0 FOR UPDATE SKIP LOCKED) k
             WHERE k.state = 'available') k
     WHERE j.id = k.id
)
SELECT (SELECT count(*) FROM held), count(*), coalesce(max(p.scheduled_at), '-infinity'),
       coalesce((SELECT l.job FROM page l ORDER BY l.scheduled_at DESC, l.job DESC LIMIT 1), 0)
  FROM page p`

// QueueCleared is what a call of HoldQueued did.
type QueueCleared struct {
	Held, Seen int           // of the jobs seen
	Last       QueuePosition // of those; where there were none, it means nothing
}

// HoldQueued holds back, of the first limit jobs of the queue after a place in it, those for the given origins and those that
// are paused, but for the first few, so many.
func (s *Store) HoldQueued(ctx context.Context, origins map[string]HoldReason, after QueuePosition, but, limit int) (c QueueCleared, err error) {
	names, reasons := make([]string, 0, len(origins)), make([]string, 0, len(origins))
	for origin, reason := range origins {
		names, reasons = append(names, origin), append(reasons, string(reason))
	}
	err = s.inBatchTx(ctx, func(tx pgx.Tx) error {
		var last pgtype.Timestamptz
		err := tx.QueryRow(ctx, s.sql(holdQueuedSQL), names, reasons, after.ScheduledAt, after.ID, but, limit).Scan(&c.Held, &c.Seen, &last, &c.Last.ID)
		c.Last.ScheduledAt = last.Time
		return err
	})
	if err != nil {
		return QueueCleared{}, fmt.Errorf("store: hold what is queued: %w", err)
	}
	return c, nil
}

// letPassSQL jumps from origin to origin in the index that has the due times of each: the first of an origin's tells whether
// anything of it is due.
const letPassSQL = `
WITH RECURSIVE origins AS (
    (SELECT d.endpoint_origin, d.scheduled_for
       FROM {schema}.deliveries d
      WHERE d.status = 'pending' AND d.endpoint_origin > $5
      ORDER BY d.endpoint_origin, d.scheduled_for
      LIMIT 1)
    UNION ALL
    SELECT n.endpoint_origin, n.scheduled_for
      FROM origins o
     CROSS JOIN LATERAL (
           SELECT d.endpoint_origin, d.scheduled_for
             FROM {schema}.deliveries d
            WHERE d.status = 'pending' AND d.endpoint_origin > o.endpoint_origin
            ORDER BY d.endpoint_origin, d.scheduled_for
            LIMIT 1) n
), seen AS MATERIALIZED (
    SELECT o.endpoint_origin, o.scheduled_for FROM origins o LIMIT $3
), waiting AS MATERIALIZED (
    SELECT o.endpoint_origin, d.id, d.claim
      FROM seen o
     CROSS JOIN LATERAL (
           SELECT d.id, d.claim
             FROM {schema}.deliveries d
            WHERE d.status = 'pending' AND d.endpoint_origin = o.endpoint_origin AND d.scheduled_for <= now()
              AND d.claimed_by IS NULL AND d.held_since IS NULL AND NOT ($6::float8 > 0 AND ` + pausedReceiver + `)
            ORDER BY d.scheduled_for
            LIMIT $2) d
     WHERE o.scheduled_for <= now() AND o.endpoint_origin <> ALL (coalesce($1::text[], '{}'))
     LIMIT $4
), front AS (
    SELECT min(f.scheduled_at) AS at
      FROM (SELECT j.scheduled_at
              FROM {schema}.river_job j
             WHERE j.state = 'available' AND j.queue = 'webhooks' AND j.scheduled_at <= now()
             ORDER BY j.priority, j.scheduled_at, j.id
             LIMIT 1) f
), passing AS (
    SELECT k.id
      FROM waiting w
     CROSS JOIN LATERAL (
           SELECT j.id
             FROM {schema}.river_job j
            WHERE j.unique_key = {schema}.delivery_job_key(w.id, w.claim)
              AND j.unique_key IS NOT NULL AND j.unique_states IS NOT NULL AND {schema}.river_job_state_in_bitmask(j.unique_states, j.state)
            LIMIT 1) j
     CROSS JOIN LATERAL (SELECT k.id, k.state, k.scheduled_at FROM {schema}.river_job k WHERE k.id = j.id OFFSET 0 FOR UPDATE SKIP LOCKED) k
     WHERE k.state = 'available'
       AND CASE WHEN $6 > 0 THEN k.scheduled_at < now() - make_interval(secs => $6) OR $7 AND k.scheduled_at > now() - make_interval(secs => $6 - 0.002)
                ELSE k.scheduled_at > (SELECT f.at FROM front f) END
), moved AS (
    UPDATE {schema}.river_job j
       SET scheduled_at = CASE WHEN $6 > 0 THEN now() - make_interval(secs => $6 - 0.001) ELSE (SELECT f.at FROM front f) - interval '1 millisecond' END
      FROM passing p
     WHERE j.id = p.id
    RETURNING j.id
)
SELECT (SELECT count(*) FROM moved),
       CASE WHEN (SELECT count(*) FROM waiting) = $4 THEN (SELECT max(w.endpoint_origin) FROM waiting w)
            WHEN count(*) = $3 THEN max(s.endpoint_origin)
            ELSE '' END
  FROM seen s`

// Passing says who passes whom.
type Passing struct {
	Busy    []string // whose backlog is passed
	Each    int      // at most, of each other origin
	All     int      // and altogether
	After   string   // origins after this one are looked at
	Origins int      // so many of them at most

	// Since is when the queue began to be cleared; zero: it is not cleared. Deliveries are fetched from there on then, so that
	// they pass to that place instead of the queue's front, if they are not paused: those before it, and, with Crowded, those
	// behind it, too.
	Since   time.Time
	Crowded bool
}

// LetPass moves jobs to the front of the queue that wait behind the busy origins' backlog. What is at the very front stays
// there. It says how many passed, and after which origin to go on: "" is the first.
func (s *Store) LetPass(ctx context.Context, p Passing) (passed int, next string, err error) {
	var age float64
	if !p.Since.IsZero() {
		age = seconds(time.Since(p.Since))
	}
	err = s.inBatchTx(ctx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, s.sql(letPassSQL), p.Busy, p.Each, p.Origins, p.All, p.After, age, p.Crowded).Scan(&passed, &next)
	})
	if err != nil {
		return 0, p.After, fmt.Errorf("store: let others pass: %w", err)
	}
	return passed, next, nil
}

const pausedSQL = `SELECT coalesce(p.endpoint_origin, ''), coalesce(p.organization_id, '') FROM {schema}.pauses p ORDER BY p.pause_id`

// PausedReceivers are what people hold back: deliveries that match all of what is not empty.
func (s *Store) PausedReceivers(ctx context.Context) ([]Receiver, error) {
	rows, err := s.db.Query(ctx, s.sql(pausedSQL))
	if err != nil {
		return nil, fmt.Errorf("store: pauses: %w", err)
	}
	receivers, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Receiver])
	if err != nil {
		return nil, fmt.Errorf("store: pauses: %w", err)
	}
	return receivers, nil
}
