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

// fetchSQL is River's own statement with a time to begin at, for jobs of the priority that all of ours have.
const fetchSQL = `
WITH locked AS (
    SELECT j.id
      FROM {schema}.river_job j
     WHERE j.state = 'available' AND j.queue = $1 AND j.priority = 1 AND j.scheduled_at >= $2 AND j.scheduled_at <= now()
     ORDER BY j.scheduled_at, j.id
     LIMIT $3
       FOR UPDATE SKIP LOCKED
)
UPDATE {schema}.river_job j
   SET state = 'running', attempt = j.attempt + 1, attempted_at = now(),
       attempted_by = array_append(CASE WHEN array_length(j.attempted_by, 1) >= $5 THEN j.attempted_by[array_length(j.attempted_by, 1) + 2 - $5:]
                                        ELSE j.attempted_by END, $4::text)
  FROM locked l
 WHERE j.id = l.id
RETURNING j.id, j.scheduled_at, j.attempt, j.attempted_at, j.attempted_by, j.created_at, j.args, j.kind, j.max_attempts, j.metadata,
          j.priority, j.tags`

// Fetch takes up to limit jobs of the deliveries' queue for node, in their order, that were scheduled at from or later: what
// is before is neither found nor looked for. Of the nodes that have had a job, the last are remembered, so many.
func (s *Store) Fetch(ctx context.Context, node string, from time.Time, limit, nodes int) (jobs []FetchedJob, err error) {
	err = s.inBatch(ctx, func(db Querier) error {
		rows, err := db.Query(ctx, s.sql(fetchSQL), delivery.JobQueue, from, limit, node, nodes)
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
