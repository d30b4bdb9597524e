package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/failpoint"
)

// SweepCursor is a place in the order of a sweep. The zero value is its beginning.
type SweepCursor struct {
	Due time.Time
	ID  int64
}

// SweepPage is what a sweep did with one page of overdue rows.
type SweepPage struct {
	Seen     int // overdue rows on the page
	Live     int // have a live job: only backlogged
	Leased   int // are being sent
	Held     int // have no job on purpose
	Requeued int // had no job that would wake a worker up, and have one now
	Skipped  int // had no live job, but somebody holds the row's lock
	// Reclaimed were being sent by a node whose lease ended: their attempt is in the ledger as abandoned.
	Reclaimed []Attempt
	Next      SweepCursor
	Last      bool // no page follows
}

// heldFor is how long a hold keeps the sweep away. What is held is pulled by nodes, however long that takes; this is the net
// below them, for rows that none of them comes to: the sweep gives those a job, and its claim finds out whether they are
// still to be held.
const heldFor = 24 * time.Hour

// sweepPageSQL: page first, then probe the job of each row. Rows that are left alone are not locked: a large backlog is
// swept every few seconds, and must not be rewritten for it.
const sweepPageSQL = `
WITH page AS MATERIALIZED (
    SELECT d.id, d.scheduled_for, d.claim, d.claimed_by, d.leased_until, d.held_since,
           -- One without an origin, whose URL was edited, is nobody's to pull.
           d.held_since > now() - make_interval(secs => $4) AND d.endpoint_origin IS NOT NULL AS held
      FROM {schema}.deliveries d
     WHERE d.status = 'pending' AND d.scheduled_for <= now() AND (d.scheduled_for, d.id) > ($1::timestamptz, $2::bigint)
     ORDER BY d.scheduled_for, d.id
     LIMIT $3
), judged AS MATERIALIZED (
    SELECT p.id, p.claim, p.scheduled_for, k.key, j.id AS job,
           CASE WHEN p.claimed_by IS NOT NULL AND p.leased_until < now() THEN 'expired'
                WHEN p.claimed_by IS NOT NULL THEN 'leased'
                WHEN p.held THEN 'held'
                WHEN j.live THEN 'live'
                WHEN j.state <> 'running' THEN 'unpromoted'
                -- Nothing is left of its job, and nothing on the row is to be changed for the next.
                WHEN j.id IS NULL AND p.held_since IS NULL THEN 'jobless'
                -- What a killed node left behind, which would stand in the way of a job of the same generation.
                ELSE 'lost' END AS verdict
      FROM page p
      -- Computed once a row, and only where there is a job to look for: 100,000 rows may be held.
     CROSS JOIN LATERAL (SELECT CASE WHEN p.claimed_by IS NULL AND p.held IS NOT TRUE
                                     THEN {schema}.delivery_job_key(p.id, p.claim) END AS key OFFSET 0) k
      -- LIMIT makes this a probe of River's unique index per row: an EXISTS was planned as a hash of the job table on
      -- every page.
      LEFT JOIN LATERAL (
           SELECT j.id, j.state,
                  -- River writes when a job that was put off is due by the clock of its node, which may be wrong
                  j.state = 'available' AND j.scheduled_at < now() + interval '30 seconds'
                   -- about to be promoted by River's leader
                OR j.state IN ('scheduled', 'retryable') AND j.scheduled_at > now() - interval '10 seconds' AND j.scheduled_at <= p.scheduled_for
                   -- fetched, and about to be claimed
                OR j.state = 'running' AND j.attempted_at > now() - interval '30 seconds' AS live
             FROM {schema}.river_job j
            WHERE j.unique_key = k.key
              AND j.unique_key IS NOT NULL AND j.unique_states IS NOT NULL AND {schema}.river_job_state_in_bitmask(j.unique_states, j.state)
            LIMIT 1) j ON true
), promoted AS (
    -- A job that is there and only was not promoted in time (many came due at once, or the leader is gone) is promoted
    -- here: a second one beside it would multiply the backlog.
    -- SKIP LOCKED: the leader may be at it right now.
    UPDATE {schema}.river_job j
       SET state = 'available', scheduled_at = least(j.scheduled_at, l.due)
      FROM (SELECT k.id, g.scheduled_for AS due
              FROM judged g
             CROSS JOIN LATERAL (SELECT k.id, k.state FROM {schema}.river_job k WHERE k.id = g.job OFFSET 0 FOR UPDATE SKIP LOCKED) k
             WHERE g.verdict = 'unpromoted' AND k.state IN ('available', 'scheduled', 'retryable')) l
     WHERE j.id = l.id
    RETURNING j.id
), locked AS (
    SELECT d.id
      FROM judged g
     CROSS JOIN LATERAL (SELECT d.id, d.claim, d.status, d.claimed_by
                           FROM {schema}.deliveries d WHERE d.id = g.id OFFSET 0 FOR NO KEY UPDATE SKIP LOCKED) d
     WHERE g.verdict = 'lost' AND d.claim = g.claim AND d.status = 'pending' AND d.claimed_by IS NULL
), requeued AS (
    UPDATE {schema}.deliveries d
       SET claim = d.claim + 1, held_since = NULL, held_reason = NULL, updated_at = now()
      FROM locked l
     WHERE d.id = l.id
    RETURNING d.id, d.claim, d.scheduled_for
), jobs AS (
    INSERT INTO {schema}.river_job (kind, args, queue, max_attempts, state, scheduled_at, unique_key, unique_states)
    SELECT j.kind, j.args, j.queue, j.max_attempts, j.state::{schema}.river_job_state, j.scheduled_at, coalesce(r.key, j.unique_key), j.unique_states
      FROM (SELECT r.id, r.claim, r.scheduled_for, NULL AS key FROM requeued r
             UNION ALL
            -- Not locked: whoever changes such a row meanwhile leaves a job of this generation with nothing to claim.
            SELECT g.id, g.claim, g.scheduled_for, g.key FROM judged g WHERE g.verdict = 'jobless') r,
           {schema}.delivery_job(r.id, r.claim, r.scheduled_for) j
        ON CONFLICT (unique_key)
     WHERE unique_key IS NOT NULL AND unique_states IS NOT NULL AND {schema}.river_job_state_in_bitmask(unique_states, state)
        DO NOTHING
)
SELECT count(*),
       count(*) FILTER (WHERE g.verdict = 'live'),
       count(*) FILTER (WHERE g.verdict = 'leased'),
       count(*) FILTER (WHERE g.verdict = 'held'),
       count(*) FILTER (WHERE g.verdict IN ('lost', 'jobless')),
       (SELECT count(*) FROM requeued) + count(*) FILTER (WHERE g.verdict = 'jobless'),
       (SELECT count(*) FROM promoted),
       array_agg(g.id) FILTER (WHERE g.verdict = 'expired'),
       (SELECT p.scheduled_for FROM page p ORDER BY p.scheduled_for DESC, p.id DESC LIMIT 1),
       (SELECT p.id FROM page p ORDER BY p.scheduled_for DESC, p.id DESC LIMIT 1)
  FROM judged g`

// leaseEnded is who may be taken a claim from. Only a sweep asks.
const leaseEnded = `d.claimed_by IS NOT NULL AND d.leased_until < now()`

const expiredColumns = `
SELECT d.id, d.claim, d.claimed_by, d.round, d.attempt_count, d.abandoned_count, coalesce(d.max_attempts, 0),
       coalesce(d.webhook_name, ''), d.organization_id, coalesce(d.workflow_run_id, ''), coalesce(d.endpoint_origin, '')
  FROM {schema}.deliveries d`

const lockExpiredSQL = expiredColumns + `
 WHERE d.id = ANY ($1::bigint[]) AND d.status = 'pending' AND ` + leaseEnded + `
 ORDER BY d.id
   FOR NO KEY UPDATE SKIP LOCKED`

const lockEndedInFlightSQL = expiredColumns + `
 WHERE d.status <> 'pending' AND d.finished_at IS NULL AND ` + leaseEnded + `
 ORDER BY d.id
 LIMIT $1
   FOR NO KEY UPDATE SKIP LOCKED`

// finishSQL: rows that came into the table already ended.
const finishSQL = `
UPDATE {schema}.deliveries d
   SET finished_at = now()
 WHERE d.id IN (SELECT d.id FROM {schema}.deliveries d
                 WHERE d.status <> 'pending' AND d.finished_at IS NULL AND d.claimed_by IS NULL
                 ORDER BY d.id LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED)`

// dueNowSQL: a null means now. The trigger gives these rows a job.
const dueNowSQL = `
UPDATE {schema}.deliveries d
   SET scheduled_for = now()
 WHERE d.id IN (SELECT d.id FROM {schema}.deliveries d
                 WHERE d.status = 'pending' AND d.scheduled_for IS NULL AND d.claimed_by IS NULL
                 ORDER BY d.id LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED)`

const sweepLockSQL = `SELECT pg_try_advisory_xact_lock('{schema}.deliveries'::regclass::oid::int, 100)`

// AbandonedFunc decides about an attempt whose node died.
type AbandonedFunc func(*delivery.Delivery) Attempt

// SweepLock keeps two sweeps apart. It is a transaction that does nothing else, so that it holds back no vacuum and works
// through a pooler too.
type SweepLock struct {
	tx     pgx.Tx
	cancel context.CancelFunc
	kept   chan struct{} // closed when nobody keeps it any more
}

// sweepIdleSQL is how long a lock holds that nobody keeps: a process that was stopped in the middle of its sweep must not
// keep the others from sweeping.
const sweepIdleSQL = `SET LOCAL idle_in_transaction_session_timeout = '8s'`

// keepInterval is between two times that a lock is kept, keepTimeout for one.
const keepInterval, keepTimeout = 2 * time.Second, 5 * time.Second

// LockSweep takes the lock. ok is false when another sweep runs. The context ends when the lock is lost.
func (s *Store) LockSweep(ctx context.Context) (lock *SweepLock, held context.Context, ok bool, err error) {
	tx, err := s.db.Begin(ctx)
	if err != nil {
		return nil, nil, false, fmt.Errorf("store: lock the sweep: %w", err)
	}
	lock = &SweepLock{tx: tx, cancel: func() {}, kept: make(chan struct{})}
	// The simple protocol: the extended one leaves a portal behind, whose snapshot would hold back vacuum until Unlock.
	if _, err = tx.Exec(ctx, sweepIdleSQL, pgx.QueryExecModeSimpleProtocol); err == nil {
		err = tx.QueryRow(ctx, s.sql(sweepLockSQL), pgx.QueryExecModeSimpleProtocol).Scan(&ok)
	}
	if err != nil || !ok {
		close(lock.kept)
		lock.Unlock()
		if err != nil {
			err = fmt.Errorf("store: lock the sweep: %w", err)
		}
		return nil, nil, false, err
	}
	held, lock.cancel = context.WithCancel(ctx)
	go lock.keep(held)
	return lock, held, true, nil
}

func (l *SweepLock) keep(ctx context.Context) {
	defer close(l.kept)
	defer l.cancel()
	tick := time.NewTicker(keepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		try, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepTimeout)
		_, err := l.tx.Exec(try, sweepIdleSQL, pgx.QueryExecModeSimpleProtocol)
		cancel()
		if err != nil {
			return
		}
	}
}

// Unlock gives it back.
func (l *SweepLock) Unlock() {
	l.cancel()
	<-l.kept
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = l.tx.Rollback(ctx) // a connection that is broken holds no lock
}

// SweepPage looks at up to limit overdue rows after the cursor, in one transaction: what has no live job gets one, what
// was being sent by a node whose lease ended is decided about and recorded.
func (s *Store) SweepPage(ctx context.Context, after SweepCursor, limit int, abandoned AbandonedFunc) (page SweepPage, err error) {
	err = s.inOrderedTx(ctx, func(tx pgx.Tx) error {
		due := pgtype.Timestamptz{Time: after.Due, Valid: true}
		if after.Due.IsZero() {
			due = pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}
		}
		var lost, promoted int
		var expired []int64
		var lastDue *time.Time
		var lastID *int64
		err := tx.QueryRow(ctx, s.sql(sweepPageSQL), due, after.ID, limit, seconds(heldFor)).Scan(
			&page.Seen, &page.Live, &page.Leased, &page.Held, &lost, &page.Requeued, &promoted, &expired, &lastDue, &lastID)
		if err != nil {
			return err
		}
		failpoint.Hit(failpoint.InSweepPage)
		page.Skipped = lost - page.Requeued
		page.Requeued += promoted
		page.Last = page.Seen < limit
		if lastID != nil {
			page.Next = SweepCursor{Due: *lastDue, ID: *lastID}
		}
		if len(expired) == 0 {
			return nil
		}
		page.Reclaimed, err = s.reclaim(ctx, tx, abandoned, lockExpiredSQL, expired)
		return err
	})
	if err != nil {
		return page, fmt.Errorf("store: sweep: %w", err)
	}
	return page, nil
}

// SweepEnded looks after up to limit rows that were ended by a person while their attempt was in flight and whose node
// died then: the attempt comes into the ledger, and the row is finished. It also gives pending rows without a time one,
// and with it a job. more is true when there is more to do.
func (s *Store) SweepEnded(ctx context.Context, limit int, abandoned AbandonedFunc) (reclaimed []Attempt, requeued int, more bool, err error) {
	err = s.inBatchTx(ctx, func(tx pgx.Tx) error {
		reclaimed, err = s.reclaim(ctx, tx, abandoned, lockEndedInFlightSQL, limit)
		if err != nil {
			return err
		}
		finished, err := tx.Exec(ctx, s.sql(finishSQL), limit)
		if err != nil {
			return err
		}
		due, err := tx.Exec(ctx, s.sql(dueNowSQL), limit)
		if err != nil {
			return err
		}
		requeued = int(due.RowsAffected())
		more = len(reclaimed) == limit || int(finished.RowsAffected()) == limit || requeued == limit
		return nil
	})
	if err != nil {
		return nil, 0, false, fmt.Errorf("store: sweep: %w", err)
	}
	return reclaimed, requeued, more, nil
}

// reclaim locks claims by query, decides about them and records it, all in tx.
func (s *Store) reclaim(ctx context.Context, tx pgx.Tx, abandoned AbandonedFunc, query string, args ...any) ([]Attempt, error) {
	rows, err := tx.Query(ctx, s.sql(query), args...)
	if err != nil {
		return nil, err
	}
	var attempts []Attempt
	var d delivery.Delivery
	_, err = pgx.ForEachRow(rows, []any{
		&d.ID, &d.Claim, &d.ClaimedBy, &d.Round, &d.AttemptCount, &d.AbandonedCount, &d.MaxAttempts,
		&d.WebhookName, &d.OrganizationID, &d.WorkflowRunID, &d.Origin,
	}, func() error {
		attempts = append(attempts, abandoned(&d))
		return nil
	})
	if err != nil || len(attempts) == 0 {
		return nil, err
	}
	verdicts, err := s.record(ctx, tx, attempts)
	if err != nil {
		return nil, err
	}
	for i, v := range verdicts {
		switch v {
		case Recorded:
		case RecordedEnded:
			attempts[i].Ended = true
		default:
			return nil, errors.New("a locked claim could not be recorded") // cannot be: it is locked here
		}
	}
	return attempts, nil
}

// sweepTimeout bounds a statement of a sweep.
const sweepTimeout = "25s"

// inBatchTx is a transaction whose statements are planned as those of TuneForBatches.
func (s *Store) inBatchTx(ctx context.Context, do func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, settings(true, sweepTimeout)); err != nil {
			return err
		}
		return do(tx)
	})
}
