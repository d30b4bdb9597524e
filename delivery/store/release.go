package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/riverhook/riverhook/delivery"
)

const releaseSQL = `
WITH r AS (
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[]) WITH ORDINALITY AS r (id, claim, node, n)
), fenced AS (
    -- As the claim's.
    SELECT r.id, r.n
      FROM r
     CROSS JOIN LATERAL (SELECT d.claim, d.claimed_by FROM {schema}.deliveries d WHERE d.id = r.id OFFSET 0 FOR NO KEY UPDATE SKIP LOCKED) d
     WHERE d.claim = r.claim AND d.claimed_by = r.node
), released AS (
    UPDATE {schema}.deliveries d
       SET claim = d.claim + 1, claimed_by = NULL, leased_until = NULL, updated_at = now(),
           held_since  = CASE WHEN $4 AND d.status = 'pending' THEN now() END,
           scheduled_for = CASE WHEN $5::float8 > 0 AND d.status = 'pending' THEN now() + make_interval(secs => $5) ELSE d.scheduled_for END,
           finished_at = CASE WHEN d.status <> 'pending' THEN now() END
      FROM fenced f
     WHERE d.id = f.id
    RETURNING d.id, d.claim, d.status, d.scheduled_for, f.n
), job AS (
    INSERT INTO {schema}.river_job (kind, args, queue, max_attempts, state, scheduled_at, unique_key, unique_states)
    SELECT j.kind, j.args, j.queue, j.max_attempts, j.state::{schema}.river_job_state, j.scheduled_at, j.unique_key, j.unique_states
      FROM released r, {schema}.delivery_job(r.id, r.claim, r.scheduled_for) j
     WHERE r.status = 'pending' AND NOT $4
        ON CONFLICT (unique_key)
     WHERE unique_key IS NOT NULL AND unique_states IS NOT NULL AND {schema}.river_job_state_in_bitmask(unique_states, state)
        DO NOTHING
)
SELECT x.n FROM released x`

// heldSQL says which claims are still theirs after a release: somebody holds their row's lock.
const heldSQL = `
SELECT r.n
  FROM unnest($1::bigint[], $2::bigint[], $3::text[]) WITH ORDINALITY AS r (id, claim, node, n)
 CROSS JOIN LATERAL (SELECT d.claim, d.claimed_by FROM {schema}.deliveries d WHERE d.id = r.id OFFSET 0) d
 WHERE d.claim = r.claim AND d.claimed_by = r.node`

// Release gives claims back without an attempt. The rows stay pending; each is due again after a delay, at once when that
// is 0, and has a new job for then, or, when hold is true, none: held_since then says that this is on purpose. It returns
// those whose row somebody holds the lock of: try them again. Claims that are no longer theirs are left alone.
func (s *Store) Release(ctx context.Context, claims []delivery.Fence, delay time.Duration, hold bool) (busy []delivery.Fence, err error) {
	ids, generations, nodes := make([]int64, len(claims)), make([]int64, len(claims)), make([]string, len(claims))
	for i, c := range claims {
		ids[i], generations[i], nodes[i] = c.ID, c.Claim, c.Node
	}
	tag, err := s.db.Exec(ctx, s.sql(releaseSQL), ids, generations, nodes, hold, seconds(delay))
	if err != nil {
		return nil, fmt.Errorf("store: release: %w", err)
	}
	if int(tag.RowsAffected()) == len(claims) {
		return nil, nil
	}
	rows, err := s.db.Query(ctx, s.sql(heldSQL), ids, generations, nodes)
	if err != nil {
		return nil, fmt.Errorf("store: release: %w", err)
	}
	var n int
	_, err = pgx.ForEachRow(rows, []any{&n}, func() error {
		busy = append(busy, claims[n-1])
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("store: release: %w", err)
	}
	return busy, nil
}
