package check

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const deliveriesSQL = `
SELECT id, claim, delivery_uuid::text, status, round, attempt_count, abandoned_count, coalesce(max_attempts, 0),
       claimed_by, leased_until, scheduled_for, held_since, finished_at, left(last_error, 200), created_at
  FROM {schema}.deliveries`

const attemptsSQL = `
SELECT delivery_id, round, attempt, started_at, outcome, coalesce(failure_kind, ''), coalesce(status_code, 0), node
  FROM {schema}.attempts`

const jobsSQL = `
SELECT id, coalesce((args->>'delivery_id')::bigint, 0), coalesce((args->>'claim')::bigint, 0), state::text, scheduled_at
  FROM {schema}.river_job
 WHERE kind = 'deliver_webhook' AND state IN ('available', 'pending', 'retryable', 'running', 'scheduled')`

// restSQL is 0 when there is nothing left to do, as far as rows tell.
const restSQL = `
SELECT count(*) FILTER (WHERE status = 'pending'), count(*) FILTER (WHERE status <> 'pending' AND finished_at IS NULL)
  FROM {schema}.deliveries WHERE status = 'pending' OR finished_at IS NULL`

// retriesWithoutJobSQL: the outcome of an attempt and the job of the next one are one transaction, so no snapshot has a retry
// that waits for its time and has no job. $1 is when jobs were last taken away on purpose.
const retriesWithoutJobSQL = `
SELECT d.id
  FROM {schema}.deliveries d
 WHERE d.status = 'pending' AND d.attempt_count > 0 AND d.claimed_by IS NULL AND d.held_since IS NULL
   AND d.scheduled_for > now() AND d.updated_at > $1
   AND NOT EXISTS (SELECT FROM {schema}.river_job j
                    WHERE j.kind = 'deliver_webhook' AND j.state IN ('available', 'pending', 'retryable', 'running', 'scheduled')
                      AND j.args = jsonb_build_object('delivery_id', d.id, 'claim', d.claim))
 LIMIT 20`

func in(schema, sql string) string {
	return strings.ReplaceAll(sql, "{schema}", pgx.Identifier{schema}.Sanitize())
}

// Read reads the tables into r, all of one moment.
func Read(ctx context.Context, conn *pgx.Conn, schema string, r *Records) error {
	options := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	return pgx.BeginTxFunc(ctx, conn, options, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, `SELECT now()`).Scan(&r.ReadAt); err != nil {
			return fmt.Errorf("check: read the clock: %w", err)
		}
		rows, _ := tx.Query(ctx, in(schema, deliveriesSQL))
		var d Delivery
		_, err := pgx.ForEachRow(rows, []any{
			&d.ID, &d.Claim, &d.UUID, &d.Status, &d.Round, &d.Attempts, &d.AbandonedInARow, &d.MaxAttempts,
			&d.ClaimedBy, &d.LeasedUntil, &d.ScheduledFor, &d.HeldSince, &d.FinishedAt, &d.LastError, &d.CreatedAt,
		}, func() error {
			r.Deliveries = append(r.Deliveries, d)
			return nil
		})
		if err != nil {
			return fmt.Errorf("check: read deliveries: %w", err)
		}
		rows, _ = tx.Query(ctx, in(schema, attemptsSQL))
		var a Attempt
		_, err = pgx.ForEachRow(rows, []any{&a.DeliveryID, &a.Round, &a.Number, &a.StartedAt, &a.Outcome, &a.Failure, &a.Status, &a.Node}, func() error {
			r.Attempts = append(r.Attempts, a)
			return nil
		})
		if err != nil {
			return fmt.Errorf("check: read attempts: %w", err)
		}
		rows, _ = tx.Query(ctx, in(schema, jobsSQL))
		var j Job
		_, err = pgx.ForEachRow(rows, []any{&j.ID, &j.DeliveryID, &j.Claim, &j.State, &j.ScheduledAt}, func() error {
			r.Jobs = append(r.Jobs, j)
			return nil
		})
		if err != nil {
			return fmt.Errorf("check: read jobs: %w", err)
		}
		return nil
	})
}

// Rest says how many deliveries are pending, and how many were ended by a person while an attempt is not accounted for.
func Rest(ctx context.Context, conn *pgx.Conn, schema string) (pending, open int, err error) {
	err = conn.QueryRow(ctx, in(schema, restSQL)).Scan(&pending, &open)
	return pending, open, err
}

// Look looks for states that must never be seen, not even for a moment. jobsGone is when jobs were last taken away on
// purpose, by the database's clock.
func Look(ctx context.Context, conn *pgx.Conn, schema string, jobsGone time.Time) ([]Sighting, error) {
	rows, err := conn.Query(ctx, in(schema, retriesWithoutJobSQL), jobsGone)
	if err != nil {
		return nil, err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	return []Sighting{{At: time.Now(), Rule: RuleRetryWithoutJob, Detail: fmt.Sprintf("deliveries %v", ids)}}, nil
}
