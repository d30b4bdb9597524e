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
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::float8[], $5::text[], $6::bigint[]) WITH ORDINALITY AS r (id, claim, node, delay, hold, job, n)
), fenced AS (
    -- As the claim's.
    SELECT r.id, r.delay, r.hold, r.job, r.n
      FROM r
     CROSS JOIN LATERAL (SELECT d.claim, d.claimed_by FROM {schema}.deliveries d WHERE d.id = r.id OFFSET 0 FOR NO KEY UPDATE SKIP LOCKED) d
     WHERE d.claim = r.claim AND d.claimed_by = r.node
), released AS (
    UPDATE {schema}.deliveries d
       SET claim = d.claim + 1, claimed_by = NULL, leased_until = NULL, updated_at = now(),
           held_since    = CASE WHEN f.hold IS NOT NULL AND d.status = 'pending' THEN now() END,
           held_reason   = CASE WHEN d.status = 'pending' THEN f.hold END,
           scheduled_for = CASE WHEN f.delay > 0 AND d.status = 'pending' THEN now() + make_interval(secs => f.delay) ELSE d.scheduled_for END,
           finished_at   = CASE WHEN d.status <> 'pending' THEN now() END
      FROM fenced f
     WHERE d.id = f.id
    RETURNING d.id, d.claim, d.status, d.scheduled_for, f.hold, f.job AS ended, f.n
), gone AS (
    -- As the record's.
    DELETE FROM {schema}.river_job j
     USING (SELECT j.id
              FROM released r
             CROSS JOIN LATERAL (SELECT j.id, j.state FROM {schema}.river_job j WHERE j.id = r.ended OFFSET 0) j
             WHERE j.state = 'running') f
     WHERE j.id = f.id
), job AS (
    INSERT INTO {schema}.river_job (kind, args, queue, max_attempts, state, scheduled_at, unique_key, unique_states)
    SELECT j.kind, j.args, j.queue, j.max_attempts, j.state::{schema}.river_job_state, j.scheduled_at, j.unique_key, j.unique_states
      FROM released r, {schema}.delivery_job(r.id, r.claim, r.scheduled_for) j
     WHERE r.status = 'pending' AND r.hold IS NULL
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

// Release says how a claim is given back, without an attempt: the row stays pending and is due again after Delay, at once
// when that is 0, with a job for then; or, with a reason to Hold it, without one until somebody pulls it.
type Release struct {
	Fence delivery.Fence
	Job   int64 // River's, which ends with the release; 0 when there is none, or it is not known
	Delay time.Duration
	Hold  HoldReason
}

// ReleaseVerdict says what became of one claim of a release.
type ReleaseVerdict int

const (
	// ReleaseLost says that the claim was not theirs any more. Nothing was changed.
	ReleaseLost ReleaseVerdict = iota
	// ReleaseBusy says that the row is still this claim's, but somebody holds its lock. Try again.
	ReleaseBusy
	// Released says that the claim was given back, and that its Job, if it was running, is gone.
	Released
)

// Release gives claims back, and says for each, in their order, what became of it.
func (s *Store) Release(ctx context.Context, releases []Release) (verdicts []ReleaseVerdict, err error) {
	n := len(releases)
	ids, generations, nodes, delays, holds, jobs := make([]int64, n), make([]int64, n), make([]string, n), make([]float64, n), make([]*string, n), make([]int64, n)
	for i, r := range releases {
		ids[i], generations[i], nodes[i] = r.Fence.ID, r.Fence.Claim, r.Fence.Node
		delays[i], holds[i], jobs[i] = seconds(r.Delay), null(string(r.Hold)), r.Job
	}
	err = s.inBatch(ctx, func(db Querier) error {
		verdicts = make([]ReleaseVerdict, n)
		rows, err := db.Query(ctx, s.sql(releaseSQL), ids, generations, nodes, delays, holds, jobs)
		if err != nil {
			return err
		}
		missing, err := judge(rows, verdicts, Released)
		if err != nil || missing == 0 {
			return err
		}
		if rows, err = db.Query(ctx, s.sql(heldSQL), ids, generations, nodes); err != nil {
			return err
		}
		_, err = judge(rows, verdicts, ReleaseBusy)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("store: release: %w", err)
	}
	return verdicts, nil
}

// judge gives the members that the rows name a verdict, and says how many others there are.
func judge(rows pgx.Rows, verdicts []ReleaseVerdict, verdict ReleaseVerdict) (others int, err error) {
	var n int
	others = len(verdicts)
	_, err = pgx.ForEachRow(rows, []any{&n}, func() error {
		verdicts[n-1] = verdict
		others--
		return nil
	})
	return others, err
}
