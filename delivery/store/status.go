package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// What `riverhook status` shows. No statement goes through more rows than its limit, along an index: it costs the same
// beside a large backlog, and may be asked for every few seconds.

const (
	// MaxStatusRows is how many of the due and of the later deliveries Status looks at.
	MaxStatusRows = 20_000
	// MaxStatusRecent is how many of what ended last.
	MaxStatusRecent = 10_000
	// MaxStatusNodes is how many nodes.
	MaxStatusNodes = 100
	// StatusWindow is what is recent.
	StatusWindow = 5 * time.Minute
	// NodeSilentAfter is how long after it was last seen a node still counts as running: it looks after its peers every few
	// seconds. Later it is called silent.
	NodeSilentAfter = 15 * time.Second
)

// Status is how a whole installation is doing. Its JSON names are those of the columns where there are such.
type Status struct {
	At      time.Time     `json:"at"`    // the database's clock
	Nodes   []NodeStatus  `json:"nodes"` // the newest first
	Backlog BacklogStatus `json:"backlog"`
	Later   LaterStatus   `json:"later"`
	Recent  RecentStatus  `json:"recent"`
}

// NodeStatus is a process that runs, or that ended without saying so in the last hour.
type NodeStatus struct {
	Node      string     `json:"node"`
	Version   string     `json:"version"`
	StartedAt time.Time  `json:"started_at"`
	SeenAt    time.Time  `json:"seen_at"`
	SweptAt   *time.Time `json:"swept_at"`
	DeadAt    *time.Time `json:"dead_at"` // nil: alive, or not yet known to be dead
	// ReclaimedAt is when the last of what a dead node was sending had been taken back; nil: not yet.
	ReclaimedAt *time.Time `json:"reclaimed_at"`
	Leader      bool       `json:"leader"`  // as River's election has it
	Sending     int        `json:"sending"` // of the deliveries that Backlog counts
}

// BacklogStatus is what is due, of the Seen that were due first.
type BacklogStatus struct {
	Seen      int        `json:"seen"`
	AtLeast   bool       `json:"at_least"` // there are more, which nobody looked at
	Waiting   int        `json:"waiting"`  // neither held nor claimed
	Sending   int        `json:"sending"`
	Held      int        `json:"held"`
	Stale     int        `json:"stale"`      // claimed, under a lease that has ended
	OldestDue *time.Time `json:"oldest_due"` // since when the oldest of the waiting ones is due
}

// LaterStatus is what is not due yet, of the Seen that come first.
type LaterStatus struct {
	Seen      int        `json:"seen"`
	AtLeast   bool       `json:"at_least"`
	Retries   int        `json:"retries"` // were tried in vain, and are tried again
	Delayed   int        `json:"delayed"` // were never tried: it is not their time yet
	NextRetry *time.Time `json:"next_retry"`
	Failed    int        `json:"failed"` // of the retries, those whose last attempt was in StatusWindow
}

// RecentStatus is what ended in the last Seconds: StatusWindow, or less where MaxStatusRecent ended within it.
type RecentStatus struct {
	Seconds   float64 `json:"seconds"`
	Succeeded int     `json:"succeeded"`
	Canceled  int     `json:"canceled"`
	// DeadLetters of StatusWindow, MaxStatusRecent at most.
	DeadLetters int `json:"dead_letters"`
	// Of the last attempts of those that succeeded, in milliseconds; nil: there are none.
	AttemptMS *QuantilesMS `json:"attempt_ms"`
	// From the INSERT to the end, of those that succeeded at their first attempt with nothing in between, a later time that the
	// application asked for included.
	DeliveredMS *QuantilesMS `json:"delivered_ms"`
	// Detoured succeeded at their first attempt as well, and are in DetouredMS instead: they were held back (by a pause, or for
	// their receiver), claimed before and given back, given another job by a sweep, or their time was changed.
	Detoured   int          `json:"detoured"`
	DetouredMS *QuantilesMS `json:"detoured_ms"`
}

// QuantilesMS are quantiles of times, in milliseconds.
type QuantilesMS struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
}

// statusBacklogSQL: claimed rows keep their scheduled_for, so that they are among those that are due first. The last two
// columns are who sends how many.
const statusBacklogSQL = `
WITH due AS MATERIALIZED (
    SELECT d.scheduled_for, d.claimed_by, d.leased_until, d.held_since FROM {schema}.deliveries d
     WHERE d.status = 'pending' AND d.scheduled_for <= now()
     ORDER BY d.scheduled_for, d.id LIMIT $1
)
SELECT count(*)::int,
       count(*) FILTER (WHERE n.claimed_by IS NULL AND n.held_since IS NULL)::int,
       count(*) FILTER (WHERE n.claimed_by IS NOT NULL)::int,
       count(*) FILTER (WHERE n.claimed_by IS NULL AND n.held_since IS NOT NULL)::int,
       count(*) FILTER (WHERE n.leased_until < now())::int,
       min(n.scheduled_for) FILTER (WHERE n.claimed_by IS NULL AND n.held_since IS NULL),
       now(),
       (SELECT array_agg(c.claimed_by ORDER BY c.claimed_by) FROM (SELECT s.claimed_by FROM due s WHERE s.claimed_by IS NOT NULL GROUP BY s.claimed_by) c),
       (SELECT array_agg(c.sending ORDER BY c.claimed_by) FROM (SELECT s.claimed_by, count(*)::int AS sending FROM due s WHERE s.claimed_by IS NOT NULL GROUP BY s.claimed_by) c)
  FROM due n`

const statusLaterSQL = `
SELECT count(*)::int,
       count(*) FILTER (WHERE n.attempt_count > 0)::int,
       count(*) FILTER (WHERE n.attempt_count = 0)::int,
       min(n.scheduled_for) FILTER (WHERE n.attempt_count > 0),
       count(*) FILTER (WHERE n.attempt_count > 0 AND n.updated_at > now() - make_interval(secs => $2))::int
  FROM (SELECT d.scheduled_for, d.attempt_count, d.updated_at FROM {schema}.deliveries d
         WHERE d.status = 'pending' AND d.scheduled_for > now()
         ORDER BY d.scheduled_for, d.id LIMIT $1) n`

// statusRecentSQL: the first claim of a row is its generation 1. A later one that succeeds at the first attempt was not the
// first: what lies between is a hold, a release, a reclaim or somebody's UPDATE.
const statusRecentSQL = `
SELECT count(*)::int, count(*) FILTER (WHERE n.status = 'succeeded')::int,
       coalesce(extract(epoch FROM now() - min(n.finished_at)), 0)::float8,
       percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY a.duration_ms) FILTER (WHERE n.status = 'succeeded'),
       percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY extract(epoch FROM n.finished_at - n.created_at) * 1000)
           FILTER (WHERE n.status = 'succeeded' AND n.round = 0 AND n.attempt_count = 1 AND n.claim <= 1),
       percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY extract(epoch FROM n.finished_at - n.created_at) * 1000)
           FILTER (WHERE n.status = 'succeeded' AND n.round = 0 AND n.attempt_count = 1 AND n.claim > 1),
       count(*) FILTER (WHERE n.status = 'succeeded' AND n.round = 0 AND n.attempt_count = 1 AND n.claim > 1)::int
  FROM (SELECT d.id, d.status, d.round, d.attempt_count, d.claim, d.created_at, d.finished_at FROM {schema}.deliveries d
         WHERE d.status IN ('succeeded', 'canceled') AND d.finished_at > now() - make_interval(secs => $2)
         ORDER BY d.finished_at DESC LIMIT $1) n
  LEFT JOIN LATERAL (SELECT a.duration_ms FROM {schema}.attempts a
                      WHERE a.delivery_id = n.id AND a.round = n.round AND a.attempt = n.attempt_count OFFSET 0) a ON true`

const statusDeadSQL = `
SELECT count(*)::int
  FROM (SELECT FROM {schema}.deliveries d
         WHERE d.status = 'dead_letter' AND d.finished_at > now() - make_interval(secs => $2)
         ORDER BY d.finished_at DESC LIMIT $1) n`

const statusNodesSQL = `
SELECT n.node, n.version, n.started_at, n.seen_at, n.swept_at, n.dead_at, n.reclaimed_at,
       EXISTS (SELECT FROM {schema}.river_leader l WHERE l.leader_id = n.node AND l.expires_at > now())
  FROM {schema}.nodes n
 ORDER BY n.dead_at IS NOT NULL, n.started_at DESC, n.node
 LIMIT $1`

// Status says how the installation is doing, at one moment. It takes 30 s at most (see Within).
func (s *Store) Status(ctx context.Context) (status Status, err error) {
	err = s.inQueryTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, alongIndexes); err != nil {
			return err
		}
		sending, err := s.statusBacklog(ctx, tx, &status)
		if err == nil {
			l := &status.Later
			err = tx.QueryRow(ctx, s.sql(statusLaterSQL), MaxStatusRows, seconds(StatusWindow)).Scan(&l.Seen, &l.Retries, &l.Delayed, &l.NextRetry, &l.Failed)
			l.AtLeast = l.Seen == MaxStatusRows
		}
		if err == nil {
			err = s.statusRecent(ctx, tx, &status.Recent)
		}
		if err == nil {
			err = s.statusNodes(ctx, tx, &status, sending)
		}
		return err
	})
	if err != nil {
		return Status{}, fmt.Errorf("store: status: %w", err)
	}
	utc(&status.At, status.Backlog.OldestDue, status.Later.NextRetry)
	return status, nil
}

// statusBacklog returns who sends how many.
func (s *Store) statusBacklog(ctx context.Context, tx pgx.Tx, status *Status) (map[string]int, error) {
	b := &status.Backlog
	var nodes []string
	var sending []int
	err := tx.QueryRow(ctx, s.sql(statusBacklogSQL), MaxStatusRows).Scan(&b.Seen, &b.Waiting, &b.Sending, &b.Held, &b.Stale, &b.OldestDue, &status.At, &nodes, &sending)
	b.AtLeast = b.Seen == MaxStatusRows
	by := make(map[string]int, len(nodes))
	for i, node := range nodes {
		by[node] = sending[i]
	}
	return by, err
}

func (s *Store) statusRecent(ctx context.Context, tx pgx.Tx, r *RecentStatus) error {
	var seen int
	var span float64
	var attempt, delivered, detoured []*float64
	err := tx.QueryRow(ctx, s.sql(statusRecentSQL), MaxStatusRecent, seconds(StatusWindow)).Scan(&seen, &r.Succeeded, &span, &attempt, &delivered, &detoured, &r.Detoured)
	r.Canceled = seen - r.Succeeded
	if r.Seconds = seconds(StatusWindow); seen == MaxStatusRecent {
		r.Seconds = max(span, 0.001)
	}
	r.AttemptMS, r.DeliveredMS, r.DetouredMS = quantiles(attempt), quantiles(delivered), quantiles(detoured)
	if err != nil {
		return err
	}
	return tx.QueryRow(ctx, s.sql(statusDeadSQL), MaxStatusRecent, seconds(StatusWindow)).Scan(&r.DeadLetters)
}

// quantiles are nil where there is nothing that they are of.
func quantiles(q []*float64) *QuantilesMS {
	if len(q) != 3 || q[0] == nil || q[1] == nil || q[2] == nil {
		return nil
	}
	return &QuantilesMS{*q[0], *q[1], *q[2]}
}

func (s *Store) statusNodes(ctx context.Context, tx pgx.Tx, status *Status, sending map[string]int) error {
	rows, err := tx.Query(ctx, s.sql(statusNodesSQL), MaxStatusNodes)
	if err != nil {
		return err
	}
	status.Nodes, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (n NodeStatus, err error) {
		err = row.Scan(&n.Node, &n.Version, &n.StartedAt, &n.SeenAt, &n.SweptAt, &n.DeadAt, &n.ReclaimedAt, &n.Leader)
		n.Sending = sending[n.Node]
		utc(&n.StartedAt, &n.SeenAt, n.SweptAt, n.DeadAt, n.ReclaimedAt)
		return n, err
	})
	return err
}
