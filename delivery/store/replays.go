package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/riverhook/riverhook/delivery"
)

// Names that the store and the worker of replays share.
const (
	ReplayJobKind = "riverhook_replay"  // River's kind of the job that works on a replay
	ReplayQueue   = "riverhook_replays" // River's queue of those jobs: its own, so that nothing waits for a slow pace
)

// ReplayJobArgs are the arguments of River's job: which replay.
type ReplayJobArgs struct {
	ReplayID int64 `json:"replay_id"` // 0: those whose node is gone
}

// Kind is River's name of the job.
func (ReplayJobArgs) Kind() string { return ReplayJobKind }

// ReplayStatus is where a replay of many deliveries stands.
type ReplayStatus string

// The statuses. A pending replay has not begun, or its node stopped; succeeded and canceled ones are over.
const (
	ReplayUnknown   ReplayStatus = ""
	ReplayPending   ReplayStatus = "pending"
	ReplayRunning   ReplayStatus = "running"
	ReplaySucceeded ReplayStatus = "succeeded"
	ReplayCanceled  ReplayStatus = "canceled"
)

// ReplayFilter is what a replay is about, as it is stored. Its JSON names are those of the API.
type ReplayFilter struct {
	Status         []delivery.Status `json:"status,omitempty"`
	OrganizationID string            `json:"organization_id,omitempty"`
	WorkflowRunID  string            `json:"workflow_run_id,omitempty"`
	Origin         string            `json:"origin,omitempty"`
	Endpoint       string            `json:"endpoint,omitempty"`
	Since          *time.Time        `json:"since,omitempty"`
	Until          *time.Time        `json:"until,omitempty"`
	CredentialUUID string            `json:"credential_uuid,omitempty"`
	Error          string            `json:"error,omitempty"`
}

// Filter is f for the other methods.
func (f ReplayFilter) Filter() Filter {
	filter := Filter{
		Statuses: f.Status, Organization: f.OrganizationID, Run: f.WorkflowRunID, Origin: f.Origin, Endpoint: f.Endpoint,
		Credential: f.CredentialUUID, Error: f.Error,
	}
	if f.Since != nil {
		filter.Since = *f.Since
	}
	if f.Until != nil {
		filter.Until = *f.Until
	}
	return filter
}

// BulkReplay is a replay of many deliveries. Its JSON names are the column names.
type BulkReplay struct {
	ID             int64        `json:"id"`
	OrganizationID *string      `json:"organization_id"` // nil: all
	Filter         ReplayFilter `json:"filter"`
	Pace           int          `json:"pace"`       // deliveries a second
	CreatedBy      string       `json:"created_by"` // the token's name
	Status         ReplayStatus `json:"status"`
	Matched        int64        `json:"matched"` // when it was asked for
	Done           int64        `json:"done"`
	LastError      *string      `json:"last_error"`
	CreatedAt      time.Time    `json:"created_at"`
	UpdatedAt      time.Time    `json:"updated_at"`
	FinishedAt     *time.Time   `json:"finished_at"`
}

// ErrNoReplay is the answer where there is no such replay.
var ErrNoReplay = errors.New("store: there is no such replay")

const replayColumns = `r.id, r.organization_id, r.filter::text, r.pace, r.created_by, r.status, r.matched, r.done, r.last_error,
       r.created_at, r.updated_at, r.finished_at`

func scanReplay(row pgx.Row) (r BulkReplay, err error) {
	var filter []byte
	err = row.Scan(&r.ID, &r.OrganizationID, &filter, &r.Pace, &r.CreatedBy, &r.Status, &r.Matched, &r.Done, &r.LastError,
		&r.CreatedAt, &r.UpdatedAt, &r.FinishedAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return r, ErrNoReplay
	}
	if err != nil {
		return r, err
	}
	utc(&r.CreatedAt, &r.UpdatedAt, r.FinishedAt)
	return r, json.Unmarshal(filter, &r.Filter)
}

// addReplaySQL also enqueues the job: if the row is there, it is worked on.
const addReplaySQL = `
WITH added AS (
    INSERT INTO {schema}.replays AS r (organization_id, filter, pace, created_by, matched, after_id, up_to_id)
    VALUES ($1, $2::text::jsonb, $3, $4, $5, $6, $7)
    RETURNING ` + replayColumns + `
), job AS (
    INSERT INTO {schema}.river_job (kind, args, queue, max_attempts, state)
    SELECT $8, jsonb_build_object('replay_id', a.id), $9, 1, 'available' FROM added a
)
SELECT * FROM added`

// AddReplay notes a replay of what the filter matches now, and has it begun. It counts first, and fails when that takes
// longer than the store allows.
func (s *Store) AddReplay(ctx context.Context, organization string, filter ReplayFilter, pace int, by string) (BulkReplay, error) {
	f := filter.Filter()
	counts, err := s.Count(ctx, ActionReplay, f)
	if err != nil {
		return BulkReplay{}, fmt.Errorf("store: add replay: %w", err)
	}
	matched := 0
	for _, n := range counts {
		matched += n
	}
	after, upTo, ids, err := s.actionRange(ctx, ActionReplay, f, ActionReplay.statuses(f))
	if err != nil {
		return BulkReplay{}, fmt.Errorf("store: add replay: %w", err)
	}
	after = max(after, ids.from-1)
	if ids.below > 0 {
		upTo = min(upTo, ids.below-1)
	}
	text, err := json.Marshal(filter)
	if err != nil {
		return BulkReplay{}, fmt.Errorf("store: add replay: %w", err)
	}
	r, err := scanReplay(s.db.QueryRow(ctx, s.sql(addReplaySQL), null(organization), string(text), pace, by, matched, after, upTo,
		ReplayJobKind, ReplayQueue))
	if err != nil {
		return BulkReplay{}, fmt.Errorf("store: add replay: %w", err)
	}
	return r, nil
}

const replaySQL = `SELECT ` + replayColumns + ` FROM {schema}.replays r WHERE r.id = $1 AND ($2::text IS NULL OR r.organization_id = $2)`

// BulkReplay is a replay, of that organization if one is given. It fails with ErrNoReplay when there is none.
func (s *Store) BulkReplay(ctx context.Context, id int64, organization string) (BulkReplay, error) {
	r, err := scanReplay(s.db.QueryRow(ctx, s.sql(replaySQL), id, null(organization)))
	if err != nil {
		return r, fmt.Errorf("store: replay: %w", err)
	}
	return r, nil
}

const replaysSQL = `
SELECT ` + replayColumns + `
  FROM {schema}.replays r
 WHERE ($1::text IS NULL OR r.organization_id = $1) AND ($2::bigint IS NULL OR r.id < $2)
 ORDER BY r.id DESC
 LIMIT $3`

// BulkReplays lists up to limit replays, the newest first, of that organization if one is given: those with an id below
// before, or the newest of all when before is 0.
func (s *Store) BulkReplays(ctx context.Context, organization string, before int64, limit int) ([]BulkReplay, error) {
	rows, err := s.db.Query(ctx, s.sql(replaysSQL), null(organization), null(before), min(max(limit, 1), maxListed))
	if err != nil {
		return nil, fmt.Errorf("store: replays: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (BulkReplay, error) { return scanReplay(row) })
	if err != nil {
		return nil, fmt.Errorf("store: replays: %w", err)
	}
	return list, nil
}

const cancelReplaySQL = `
UPDATE {schema}.replays r
   SET status = 'canceled', finished_at = now(), updated_at = now(), claimed_by = NULL, leased_until = NULL
 WHERE r.id = $1 AND ($2::text IS NULL OR r.organization_id = $2) AND r.finished_at IS NULL
RETURNING ` + replayColumns

// CancelReplay ends a replay: what it has done stays done. Canceled is false when it was over already; ErrNoReplay, when
// there is none.
func (s *Store) CancelReplay(ctx context.Context, id int64, organization string) (r BulkReplay, canceled bool, err error) {
	r, err = scanReplay(s.db.QueryRow(ctx, s.sql(cancelReplaySQL), id, null(organization)))
	if errors.Is(err, ErrNoReplay) {
		r, err = s.BulkReplay(ctx, id, organization)
		return r, false, err
	}
	if err != nil {
		return r, false, fmt.Errorf("store: cancel replay: %w", err)
	}
	return r, true, nil
}

// claimReplaySQL: one node at a time. Its lease is renewed with every page.
const claimReplaySQL = `
UPDATE {schema}.replays r
   SET status = 'running', claimed_by = $2, leased_until = now() + make_interval(secs => $3), updated_at = now()
 WHERE r.id = $1 AND r.finished_at IS NULL AND (r.leased_until IS NULL OR r.leased_until <= now())
RETURNING ` + replayColumns

// ClaimReplay takes a replay for a node; ok is false when it is over, or another node has it.
func (s *Store) ClaimReplay(ctx context.Context, id int64, node string, lease time.Duration) (r BulkReplay, ok bool, err error) {
	r, err = scanReplay(s.db.QueryRow(ctx, s.sql(claimReplaySQL), id, node, seconds(lease)))
	if errors.Is(err, ErrNoReplay) {
		return r, false, nil
	}
	if err != nil {
		return r, false, fmt.Errorf("store: claim replay: %w", err)
	}
	return r, true, nil
}

// lockReplaySQL is the fence: a node that lost its claim, or whose replay was canceled, does nothing more.
const lockReplaySQL = `
SELECT r.after_id, r.up_to_id FROM {schema}.replays r
 WHERE r.id = $1 AND r.claimed_by = $2 AND r.status = 'running' FOR UPDATE`

const advanceReplaySQL = `
UPDATE {schema}.replays r
   SET done = r.done + $2, after_id = greatest(r.after_id, $3), updated_at = now(), last_error = NULL,
       leased_until = CASE WHEN $4 THEN now() + make_interval(secs => $5) END,
       claimed_by   = CASE WHEN $4 THEN r.claimed_by END,
       status       = CASE WHEN $4 THEN r.status ELSE 'succeeded' END,
       finished_at  = CASE WHEN $4 THEN NULL ELSE now() END
 WHERE r.id = $1`

// ReplayPage replays the next deliveries of a replay that the node has claimed, size at most, and notes that in the same
// transaction. More says whether there is anything left; held is false when the node does not have it any more, or it was
// canceled.
func (s *Store) ReplayPage(ctx context.Context, r BulkReplay, node string, size int, lease time.Duration) (done int, more, held bool, err error) {
	f := r.Filter.Filter()
	err = s.inQueryTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}, func(ctx context.Context, tx pgx.Tx) error {
		var after, upTo int64
		err := tx.QueryRow(ctx, s.sql(lockReplaySQL), r.ID, node).Scan(&after, &upTo)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		held = true
		var changed []int64
		var last int64
		if statuses := ActionReplay.statuses(f); len(statuses) > 0 {
			changed, last, more, err = s.actInTx(ctx, tx, ActionReplay, f, idRange{}, statuses, "", after, upTo, size)
			if err != nil {
				return err
			}
		}
		done = len(changed)
		_, err = tx.Exec(ctx, s.sql(advanceReplaySQL), r.ID, done, last, more, seconds(lease))
		return err
	})
	if err != nil {
		return 0, false, false, fmt.Errorf("store: replay page: %w", err)
	}
	return done, more, held, nil
}

const yieldReplaySQL = `
WITH yielded AS (
    UPDATE {schema}.replays r
       SET status = 'pending', claimed_by = NULL, leased_until = NULL, updated_at = now(), last_error = $3
     WHERE r.id = $1 AND r.claimed_by = $2 AND r.finished_at IS NULL
    RETURNING r.id
)
INSERT INTO {schema}.river_job (kind, args, queue, max_attempts, state, scheduled_at)
SELECT $4, jsonb_build_object('replay_id', y.id), $5, 1, 'available', now() + make_interval(secs => $6) FROM yielded y`

// YieldReplay gives a claimed replay back after a delay of up to 10 s, with a job for whoever goes on. A failure that made
// it stop is noted.
func (s *Store) YieldReplay(ctx context.Context, id int64, node, failure string, after time.Duration) error {
	_, err := s.db.Exec(ctx, s.sql(yieldReplaySQL), id, node, null(Text(failure, maxErrorLength)), ReplayJobKind, ReplayQueue,
		seconds(min(after, 10*time.Second)))
	if err != nil {
		return fmt.Errorf("store: yield replay: %w", err)
	}
	return nil
}

// orphanedReplaysSQL: without a lease, or with one that ended a while ago. One that was asked for just now has its job.
const orphanedReplaysSQL = `
SELECT r.id FROM {schema}.replays r
 WHERE r.finished_at IS NULL
   AND coalesce(r.leased_until, r.updated_at + interval '30 seconds') <= now()
 ORDER BY r.id
 LIMIT 1000`

// OrphanedReplays are replays that nobody works on, though they are not over.
func (s *Store) OrphanedReplays(ctx context.Context) ([]int64, error) {
	rows, err := s.db.Query(ctx, s.sql(orphanedReplaysSQL))
	if err != nil {
		return nil, fmt.Errorf("store: orphaned replays: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("store: orphaned replays: %w", err)
	}
	return ids, nil
}
