package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/riverhook/riverhook/delivery"
)

// FetchedJob is a job of River's that was available and is running now.
type FetchedJob struct {
	ID          int64
	ScheduledAt time.Time
	Attempt     int
	AttemptedAt time.Time // by the database's clock: now
	AttemptedBy []string
	CreatedAt   time.Time
	Args        []byte
	Kind        string
	MaxAttempts int
	Metadata    []byte
	Priority    int
	Tags        []string
}

// QueuePosition is a place in the deliveries' queue, whose jobs are in the order of these two. Zero is before all of them.
type QueuePosition struct {
	ScheduledAt time.Time
	ID          int64
}

// fetchSQL is River's own statement with a time to begin at, for jobs of the priority that all of ours have.
const fetchSQL = `
WITH locked AS (
    SELECT j.id
      FROM {schema}.river_job j
     WHERE j.state = 'available' AND j.queue = $1 AND j.priority = 1 AND j.scheduled_at >= $5 AND j.scheduled_at <= now()
     ORDER BY j.scheduled_at, j.id
     LIMIT $2
       FOR UPDATE SKIP LOCKED
)` + takeLocked

// fetchBetweenSQL is the same from one place to another.
const fetchBetweenSQL = `
WITH locked AS (
    SELECT j.id
      FROM {schema}.river_job j
     WHERE j.state = 'available' AND j.queue = $1 AND j.priority = 1 AND (j.scheduled_at, j.id) > ($5, $6::bigint) AND (j.scheduled_at, j.id) <= ($7, $8::bigint)
       AND j.scheduled_at <= now()
     ORDER BY j.scheduled_at, j.id
     LIMIT $2
       FOR UPDATE SKIP LOCKED
)` + takeLocked

// fetchExceptSQL leaves out what is held back. A job whose row is gone is fetched, to come to its end.
const fetchExceptSQL = `
WITH locked AS (
    SELECT j.id
      FROM {schema}.river_job j
      LEFT JOIN LATERAL (SELECT d.endpoint_origin, d.organization_id FROM {schema}.deliveries d WHERE d.id = ` + deliveryOfJob + ` OFFSET 0) d ON true
     WHERE j.state = 'available' AND j.queue = $1 AND j.priority = 1 AND j.scheduled_at >= $5 AND j.scheduled_at <= now()
       AND (d.endpoint_origin IS NULL OR d.endpoint_origin <> ALL (coalesce($6::text[], '{}')) AND NOT ` + pausedReceiver + `)
     ORDER BY j.scheduled_at, j.id
     LIMIT $2
       FOR UPDATE OF j SKIP LOCKED
)` + takeLocked

const (
	takeLocked = `
UPDATE {schema}.river_job j
   SET state = 'running', attempt = j.attempt + 1, attempted_at = now(),
       attempted_by = array_append(CASE WHEN array_length(j.attempted_by, 1) >= $4 THEN j.attempted_by[array_length(j.attempted_by, 1) + 2 - $4:]
                                        ELSE j.attempted_by END, $3::text)
  FROM locked l
 WHERE j.id = l.id
RETURNING j.id, j.scheduled_at, j.attempt, j.attempted_at, j.attempted_by, j.created_at, j.args, j.kind, j.max_attempts, j.metadata,
          j.priority, j.tags`

	// deliveryOfJob is the delivery that a job is for; null where somebody wrote something else there.
	deliveryOfJob = `CASE WHEN j.args->>'delivery_id' ~ '^[0-9]{1,18}$' THEN (j.args->>'delivery_id')::bigint END`

	// pausedReceiver says whether a person holds back what d is.
	pausedReceiver = `EXISTS (SELECT FROM {schema}.pauses p
                    WHERE (p.endpoint_origin IS NULL OR p.endpoint_origin = d.endpoint_origin)
                      AND (p.organization_id IS NULL OR p.organization_id = d.organization_id) AND d.endpoint_origin IS NOT NULL)`
)

// Fetcher is who fetches.
type Fetcher struct {
	Node  string
	Nodes int // how many of the nodes that have had a job are remembered with it, the last ones
}

// Fetch takes up to limit jobs of the deliveries' queue, in their order, that were scheduled at from or later: what is before
// is neither found nor looked for.
func (s *Store) Fetch(ctx context.Context, by Fetcher, from time.Time, limit int) ([]FetchedJob, error) {
	return s.fetch(ctx, fetchSQL, by, limit, from)
}

// FetchBetween takes up to limit jobs of the deliveries' queue, in their order, that are behind after and not behind until.
func (s *Store) FetchBetween(ctx context.Context, by Fetcher, after, until QueuePosition, limit int) ([]FetchedJob, error) {
	return s.fetch(ctx, fetchBetweenSQL, by, limit, after.ScheduledAt, after.ID, until.ScheduledAt, until.ID)
}

// FetchExcept is Fetch without the jobs for some origins, and those that are paused.
func (s *Store) FetchExcept(ctx context.Context, by Fetcher, from time.Time, origins []string, limit int) ([]FetchedJob, error) {
	return s.fetch(ctx, fetchExceptSQL, by, limit, from, origins)
}

func (s *Store) fetch(ctx context.Context, sql string, by Fetcher, limit int, args ...any) (jobs []FetchedJob, err error) {
	args = append([]any{delivery.JobQueue, limit, by.Node, by.Nodes}, args...)
	err = s.inBatch(ctx, func(db Querier) error {
		rows, err := db.Query(ctx, s.sql(sql), args...)
		if err != nil {
			return err
		}
		jobs, err = pgx.AppendRows(make([]FetchedJob, 0, min(limit, 512)), rows, func(row pgx.CollectableRow) (j FetchedJob, err error) {
			err = row.Scan(&j.ID, &j.ScheduledAt, &j.Attempt, &j.AttemptedAt, &j.AttemptedBy, &j.CreatedAt, &j.Args, &j.Kind, &j.MaxAttempts, &j.Metadata,
				&j.Priority, &j.Tags)
			return j, err
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("store: fetch: %w", err)
	}
	return jobs, nil
}

const availableBeforeSQL = `
SELECT EXISTS (SELECT FROM {schema}.river_job j WHERE j.state = 'available' AND j.queue = $1 AND j.priority = 1 AND j.scheduled_at < $2)
    OR EXISTS (SELECT FROM {schema}.river_job j WHERE j.state = 'available' AND j.queue = $1 AND j.priority > 1 AND j.scheduled_at <= now())`

// AvailableBefore says whether there are jobs of the deliveries' queue that Fetch from then on would not find.
func (s *Store) AvailableBefore(ctx context.Context, from time.Time) (there bool, err error) {
	err = s.inBatch(ctx, func(db Querier) error {
		return db.QueryRow(ctx, s.sql(availableBeforeSQL), delivery.JobQueue, from).Scan(&there)
	})
	if err != nil {
		return false, fmt.Errorf("store: available jobs: %w", err)
	}
	return there, nil
}
