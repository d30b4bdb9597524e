package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// Retained is what retention is asked to remove.
type Retained int

const (
	// RetainedUnknown removes nothing.
	RetainedUnknown Retained = iota
	// RetainedDone are deliveries that succeeded or were canceled.
	RetainedDone
	// RetainedDeadLetters are dead letters.
	RetainedDeadLetters
)

// RetentionCursor is a place in the order in which retention removes. The zero value is its beginning.
type RetentionCursor struct {
	Finished time.Time
	Kept     []int64 // were to go and could not: another table refers to them
}

// RetentionPage is what retention did with one page.
type RetentionPage struct {
	Busy       bool // another retention is at it: nothing was done
	Deliveries int  // removed
	Attempts   int  // removed with them
	Next       RetentionCursor
	Last       bool // no page follows
}

const retentionLockSQL = `SELECT pg_try_advisory_xact_lock('{schema}.deliveries'::regclass::oid::int, 101)`

// The oldest first, from where the last page ended: what that one removed is still in the index until vacuum comes. What
// is replayed meanwhile is tested again when its lock is there. Only an index on finished_at has this order, and inOrderedTx
// lets nothing sort.
const (
	retentionTail = ` AND d.finished_at < now() - make_interval(secs => $1) AND d.finished_at >= $2::timestamptz
   AND d.claimed_by IS NULL AND d.id <> ALL ($3::bigint[])
 ORDER BY d.finished_at
 LIMIT $4
   FOR UPDATE SKIP LOCKED`

	retentionDoneSQL = `
SELECT d.id, d.finished_at FROM {schema}.deliveries d
 WHERE d.status IN ('succeeded', 'canceled')` + retentionTail

	retentionDeadLetterSQL = `
SELECT d.id, d.finished_at FROM {schema}.deliveries d
 WHERE d.status = 'dead_letter'` + retentionTail
)

// RetentionPage removes up to limit deliveries that ended longer than age ago, the oldest first, with their attempts, in
// one transaction. It never removes a delivery that is pending, being sent or not finished. What is locked is passed over,
// and so is what another table refers to by a foreign key: those are in the cursor.
func (s *Store) RetentionPage(ctx context.Context, what Retained, age time.Duration, after RetentionCursor, limit int) (page RetentionPage, err error) {
	statement, known := map[Retained]string{RetainedDone: retentionDoneSQL, RetainedDeadLetters: retentionDeadLetterSQL}[what]
	if !known {
		return RetentionPage{Last: true}, nil
	}
	from := pgtype.Timestamptz{Time: after.Finished, Valid: true}
	if after.Finished.IsZero() {
		from = pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}
	}
	err = s.inOrderedTx(ctx, func(tx pgx.Tx) error {
		page = RetentionPage{Next: after}
		var locked bool
		if err := tx.QueryRow(ctx, s.sql(retentionLockSQL)).Scan(&locked); err != nil {
			return err
		}
		if !locked {
			page.Busy = true
			return nil
		}
		rows, err := tx.Query(ctx, s.sql(statement), seconds(age), from, append([]int64{}, after.Kept...), limit)
		if err != nil {
			return err
		}
		var ids []int64
		var id int64
		_, err = pgx.ForEachRow(rows, []any{&id, &page.Next.Finished}, func() error {
			ids = append(ids, id)
			return nil
		})
		page.Last = len(ids) < limit
		if err != nil || len(ids) == 0 {
			return err
		}
		gone, err := s.remove(ctx, tx, removeEndedSQL, ids)
		if err != nil {
			return err
		}
		page.Deliveries, page.Attempts = gone.deliveries, gone.attempts
		page.Next.Kept = append(append([]int64{}, after.Kept...), gone.referred...)
		return nil
	})
	if err != nil {
		return RetentionPage{}, fmt.Errorf("store: retention: %w", err)
	}
	return page, nil
}

// inOrderedTx is inBatchTx in which nothing sorts: a page must not read all that is due to find the oldest.
func (s *Store) inOrderedTx(ctx context.Context, do func(pgx.Tx) error) error {
	return s.inBatchTx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET LOCAL enable_sort = off`); err != nil {
			return err
		}
		return do(tx)
	})
}

// Deliveries that the caller has locked go with their attempts: a ledger row is only ever written under its delivery's
// lock, so what a later snapshot than that lock's shows is all there is.
const (
	removeEndedSQL = `
WITH gone AS (
    DELETE FROM {schema}.deliveries d WHERE d.id = ANY ($1::bigint[])
    RETURNING d.id
), ledger AS (
    DELETE FROM {schema}.attempts a WHERE a.delivery_id = ANY ($1::bigint[])
    RETURNING 1
)
SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM ledger)`

	// With the job that would wake a worker up for each. One that is running finds no row, and does nothing.
	removeAnySQL = `
WITH gone AS (
    DELETE FROM {schema}.deliveries d WHERE d.id = ANY ($1::bigint[])
    RETURNING d.id, d.claim
), ledger AS (
    DELETE FROM {schema}.attempts a WHERE a.delivery_id = ANY ($1::bigint[])
    RETURNING 1
), jobs AS (
    DELETE FROM {schema}.river_job j
     WHERE j.id = ANY (ARRAY(
           SELECT k.id
             FROM gone g
            CROSS JOIN LATERAL (
                  SELECT k.id, k.state
                    FROM {schema}.river_job k
                   WHERE k.unique_key = {schema}.delivery_job_key(g.id, g.claim)
                     AND k.unique_key IS NOT NULL AND k.unique_states IS NOT NULL AND {schema}.river_job_state_in_bitmask(k.unique_states, k.state)
                  OFFSET 0 FOR UPDATE SKIP LOCKED) k
            WHERE k.state IN ('available', 'scheduled', 'retryable', 'pending')))
)
SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM ledger)`
)

// removed is what remove did.
type removed struct {
	deliveries, attempts int
	referred             []int64 // another table refers to them: they stayed
}

// remove deletes locked deliveries, all but those that a foreign key of the application's protects: it finds these by halves.
func (s *Store) remove(ctx context.Context, tx pgx.Tx, statement string, ids []int64) (r removed, err error) {
	err = pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, s.sql(statement), ids).Scan(&r.deliveries, &r.attempts)
	})
	switch {
	case !isReferred(err):
		return r, err
	case len(ids) == 1:
		return removed{referred: ids}, nil
	}
	for _, half := range [][]int64{ids[:len(ids)/2], ids[len(ids)/2:]} {
		h, err := s.remove(ctx, tx, statement, half)
		if err != nil {
			return removed{}, err
		}
		r.deliveries += h.deliveries
		r.attempts += h.attempts
		r.referred = append(r.referred, h.referred...)
	}
	return r, nil
}

// isReferred says that a row could not go since another one refers to it.
func isReferred(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "23503" || pg.Code == "23001")
}
