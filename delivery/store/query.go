package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/riverhook/riverhook/delivery"
)

// Bounds of what people ask for.
const (
	// SubstringRows is how many deliveries a filter looks at that no index serves: the newest that the other filters
	// leave. See Filter.Windowed.
	SubstringRows = 100_000
	// MaxIDs is how many deliveries one call may name.
	MaxIDs = 10_000
	// MaxAttemptRows is how many attempts Get returns: the newest.
	MaxAttemptRows = 1000
	// MaxShownPayload is the largest payload, and the largest custom_headers, that Get returns, in bytes.
	MaxShownPayload = 4 << 20

	maxListed        = 10_000
	actionPage       = 1000
	statementTimeout = 30 * time.Second
	rowLockTimeout   = 10 * time.Second
	// queryTimeout is for a server that does not answer any more. It is not before statementTimeout.
	queryTimeout = statementTimeout + 15*time.Second
)

// Filter selects deliveries. What is set must hold for a delivery, all of it; the zero value matches every delivery.
type Filter struct {
	Statuses     []delivery.Status // any of them
	Organization string
	Run          string
	Origin       string    // scheme://host:port, without a default port; windowed in a list, unless only pending or dead letters are asked for
	Endpoint     string    // part of the URL, in any case; windowed
	Credential   string    // UUID of the credential; windowed
	Error        string    // part of the last error, in any case; windowed
	Since, Until time.Time // created then or later; created before

	// IDs and UUIDs: any of these deliveries; MaxIDs at most.
	IDs   []int64
	UUIDs []string
}

// Row is a delivery as people see it. Its JSON names are the column names.
type Row struct {
	ID             int64           `json:"id"`
	UUID           string          `json:"delivery_uuid"`
	OrganizationID string          `json:"organization_id"`
	WorkflowRunID  *string         `json:"workflow_run_id"`
	WebhookNodeID  *string         `json:"webhook_node_id"`
	WebhookName    *string         `json:"webhook_name"`
	EndpointURL    string          `json:"endpoint_url"`
	EndpointOrigin *string         `json:"endpoint_origin"`
	HTTPMethod     string          `json:"http_method"`
	Payload        json.RawMessage `json:"payload,omitempty"`        // of Get only; nil when larger than MaxShownPayload
	CustomHeaders  json.RawMessage `json:"custom_headers,omitempty"` // as Payload; null when there are none
	CredentialUUID *string         `json:"credential_uuid"`
	MaxAttempts    *int            `json:"max_attempts"`
	Traceparent    *string         `json:"traceparent"`
	ScheduledFor   *time.Time      `json:"scheduled_for"`
	Status         delivery.Status `json:"status"`
	Claim          int64           `json:"claim"`
	ClaimedBy      *string         `json:"claimed_by"`
	LeasedUntil    *time.Time      `json:"leased_until"`
	Round          int             `json:"round"`
	AttemptCount   int             `json:"attempt_count"`
	AbandonedCount int             `json:"abandoned_count"`
	HeldSince      *time.Time      `json:"held_since"`
	HeldReason     *string         `json:"held_reason"` // nil where HeldSince is
	LastStatusCode *int            `json:"last_status_code"`
	LastError      *string         `json:"last_error"`
	CreatedAt      time.Time       `json:"created_at"`
	UpdatedAt      time.Time       `json:"updated_at"`
	FinishedAt     *time.Time      `json:"finished_at"`

	PayloadBytes int       `json:"-"` // of Get only: the payload's size, also when it is not here
	Now          time.Time `json:"-"` // the database's clock when the row was read
}

// rowColumns: triggers that let go of a row clear held_since only, and leave a held_reason that says nothing any more.
const rowColumns = `d.id, d.delivery_uuid::text, d.organization_id, d.workflow_run_id, d.webhook_node_id, d.webhook_name,
       d.endpoint_url, d.endpoint_origin, d.http_method, d.credential_uuid::text, d.max_attempts, d.scheduled_for, d.status,
       d.claim, d.claimed_by, d.leased_until, d.round, d.attempt_count, d.abandoned_count, d.held_since,
       CASE WHEN d.held_since IS NOT NULL THEN d.held_reason END, d.last_status_code, d.last_error, d.created_at, d.updated_at, d.finished_at, now(),
       left(d.traceparent, 200)`

// targets are where rowColumns go.
func (r *Row) targets() []any {
	return []any{
		&r.ID, &r.UUID, &r.OrganizationID, &r.WorkflowRunID, &r.WebhookNodeID, &r.WebhookName,
		&r.EndpointURL, &r.EndpointOrigin, &r.HTTPMethod, &r.CredentialUUID, &r.MaxAttempts, &r.ScheduledFor, &r.Status,
		&r.Claim, &r.ClaimedBy, &r.LeasedUntil, &r.Round, &r.AttemptCount, &r.AbandonedCount, &r.HeldSince,
		&r.HeldReason, &r.LastStatusCode, &r.LastError, &r.CreatedAt, &r.UpdatedAt, &r.FinishedAt, &r.Now, &r.Traceparent,
	}
}

// utc turns times that were just read, in the location of this process, into UTC.
func utc(times ...*time.Time) {
	for _, t := range times {
		if t != nil {
			*t = t.UTC()
		}
	}
}

func (r *Row) utc() {
	utc(r.ScheduledFor, r.LeasedUntil, r.HeldSince, &r.CreatedAt, &r.UpdatedAt, r.FinishedAt, &r.Now)
}

// AttemptRow is one attempt as people see it. Its JSON names are the column names.
type AttemptRow struct {
	DeliveryID   int64                 `json:"delivery_id"`
	Round        int                   `json:"round"`
	Attempt      int                   `json:"attempt"`
	StartedAt    time.Time             `json:"started_at"`
	DurationMS   *int                  `json:"duration_ms"`
	Outcome      delivery.Outcome      `json:"outcome"`
	FailureKind  *delivery.FailureKind `json:"failure_kind"`
	StatusCode   *int                  `json:"status_code"`
	Error        *string               `json:"error"`
	ResponseBody []byte                `json:"response_body"`
	Node         string                `json:"node"`
}

// ErrNotFound is the answer of Get where there is no such delivery.
var ErrNotFound = errors.New("store: there is no such delivery")

// parameters collects the values of a statement that is put together from pieces: the pieces are texts of this file,
// every value is a parameter.
type parameters struct{ values []any }

func (p *parameters) add(value any) string {
	p.values = append(p.values, value)
	return "$" + strconv.Itoa(len(p.values))
}

// fill puts pieces, given as name and text by turns, into a statement.
func fill(statement string, pieces ...string) string {
	return strings.NewReplacer(pieces...).Replace(statement)
}

// check refuses what is too large to be meant.
func (f Filter) check() error {
	if len(f.IDs)+len(f.UUIDs) > MaxIDs {
		return fmt.Errorf("at most %d deliveries by id: use a filter, or several calls", MaxIDs)
	}
	if f.Credential != "" && !uuidSyntax.MatchString(f.Credential) {
		return errors.New("the credential is not a UUID")
	}
	return nil
}

var uuidSyntax = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

func (f Filter) byID() bool { return len(f.IDs)+len(f.UUIDs) > 0 }

// Windowed says whether List looks only at the newest SubstringRows deliveries of what the other filters leave: no index
// serves a part of the endpoint or of the error, nor a credential, and one serves an origin for pending deliveries and dead
// letters only. What changes deliveries is windowed by all but the origin.
func (f Filter) Windowed() bool { return f.searches() || f.searchesOrigin() }

// searches says whether there is a filter that no index serves at all.
func (f Filter) searches() bool { return f.Endpoint != "" || f.Credential != "" || f.Error != "" }

// searchesOrigin says whether no index serves the origin.
func (f Filter) searchesOrigin() bool {
	indexed := len(f.Statuses) > 0 && !slices.ContainsFunc(f.Statuses, func(s delivery.Status) bool {
		return s != delivery.StatusPending && s != delivery.StatusDeadLetter
	})
	return f.Origin != "" && !indexed
}

// idRange are the ids that a filter by time leaves; 0 is no bound.
type idRange struct{ from, below int64 }

// where is what indexes serve, but for the statuses, as conditions on d. The origin is among it for what changes deliveries.
func (f Filter) where(p *parameters, ids idRange) []string {
	conditions := []string{"true"}
	if ids.from > 0 {
		conditions = append(conditions, "d.id >= "+p.add(ids.from))
	}
	if ids.below > 0 {
		conditions = append(conditions, "d.id < "+p.add(ids.below))
	}
	if f.Organization != "" {
		conditions = append(conditions, "d.organization_id = "+p.add(f.Organization))
	}
	if f.Run != "" {
		conditions = append(conditions, "d.workflow_run_id = "+p.add(f.Run))
	}
	if !f.Since.IsZero() {
		conditions = append(conditions, "d.created_at >= "+p.add(f.Since))
	}
	if !f.Until.IsZero() {
		conditions = append(conditions, "d.created_at < "+p.add(f.Until))
	}
	if f.byID() {
		conditions = append(conditions, fill(`d.id = ANY (ARRAY(SELECT unnest({ids}::bigint[]) UNION ALL
                     SELECT u.id FROM {schema}.deliveries u WHERE u.delivery_uuid = ANY ({uuids}::text[]::uuid[])))`,
			"{ids}", p.add(f.IDs), "{uuids}", p.add(f.UUIDs)))
	}
	return conditions
}

// originIs is the condition on the origin.
func (f Filter) originIs(p *parameters) string {
	if f.Origin == "" {
		return "true"
	}
	return "d.endpoint_origin = lower(" + p.add(f.Origin) + ")"
}

// search is what no index serves, as a condition on d.
func (f Filter) search(p *parameters) string {
	conditions := []string{"true"}
	if f.Endpoint != "" {
		conditions = append(conditions, "strpos(lower(d.endpoint_url), lower("+p.add(f.Endpoint)+")) > 0")
	}
	if f.Credential != "" {
		conditions = append(conditions, "d.credential_uuid IS NOT DISTINCT FROM "+p.add(f.Credential)+"::text::uuid")
	}
	if f.Error != "" {
		conditions = append(conditions, "d.last_error IS NOT NULL AND strpos(lower(d.last_error), lower("+p.add(f.Error)+")) > 0")
	}
	return strings.Join(conditions, " AND ")
}

// candidatesSQL: whether a search finds a delivery is told of each one that it looks at; only those are counted to a window.
const candidatesSQL = `
        (SELECT d.id, d.status, {search} AS found FROM {schema}.deliveries d
          WHERE {where} {tail})`

// candidates selects deliveries in one branch per status: each walks (status, id) in order, which no plan does for a list
// of statuses. Without statuses there is one branch.
func candidates(p *parameters, statuses []delivery.Status, conditions []string, search, tail string) string {
	where := strings.Join(conditions, " AND ")
	statuses = slices.Compact(slices.Sorted(slices.Values(statuses)))
	if len(statuses) == 0 || len(statuses) == len(delivery.Statuses) {
		return fill(candidatesSQL, "{where}", where, "{search}", search, "{tail}", tail)
	}
	branches := make([]string, len(statuses))
	for i, status := range statuses {
		branches[i] = fill(candidatesSQL, "{where}", "d.status = "+p.add(string(status))+" AND "+where, "{search}", search, "{tail}", tail)
	}
	return strings.Join(branches, " UNION ALL ")
}

// listSQL: the page first, by ids alone, then its rows.
const listSQL = `
WITH page AS MATERIALIZED (
    SELECT c.id FROM ({candidates}) c
     WHERE {also}
     ORDER BY c.id DESC
     LIMIT {limit}
)
SELECT ` + rowColumns + `
  FROM page p JOIN {schema}.deliveries d ON d.id = p.id
 ORDER BY d.id DESC`

// List returns up to limit deliveries, the newest first, without payload and custom headers: those with an id below
// before, or the newest of all when before is 0. It takes 30 s at most.
//
// A filter by time may miss a delivery whose transaction began more than an hour, or more than 20,000 other deliveries,
// before it inserted it; an action, an hour.
func (s *Store) List(ctx context.Context, f Filter, before int64, limit int) ([]Row, error) {
	if err := f.check(); err != nil {
		return nil, fmt.Errorf("store: list: %w", err)
	}
	var listed []Row
	err := s.inQueryTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadOnly}, func(ctx context.Context, tx pgx.Tx) error {
		ids, err := s.createdWithin(ctx, tx, f, listSlack)
		if err != nil {
			return err
		}
		statement, values := f.list(ids, before, limit)
		rows, err := tx.Query(ctx, s.sql(statement), values...)
		if err != nil {
			return err
		}
		listed, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (r Row, err error) {
			err = row.Scan(r.targets()...)
			r.utc()
			return r, err
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("store: list: %w", err)
	}
	return listed, nil
}

// list is List's statement.
func (f Filter) list(ids idRange, before int64, limit int) (statement string, values []any) {
	p := &parameters{}
	conditions, search, also := f.where(p, ids), f.search(p), "c.found"
	if origin := f.originIs(p); f.searchesOrigin() {
		search += " AND " + origin
	} else {
		conditions = append(conditions, origin)
	}
	limitParameter := p.add(min(max(limit, 1), maxListed))
	tail := "ORDER BY d.id DESC LIMIT " + limitParameter
	if f.Windowed() {
		// The window is the newest rows, whatever page of the result is asked for.
		tail = "ORDER BY d.id DESC LIMIT " + p.add(SubstringRows)
		if before > 0 {
			also += " AND c.id < " + p.add(before)
		}
	} else if before > 0 {
		conditions = append(conditions, "d.id < "+p.add(before))
	}
	from := candidates(p, f.Statuses, conditions, search, tail)
	if f.Windowed() {
		from = newest(from, p)
	}
	return fill(listSQL, "{candidates}", from, "{also}", also, "{limit}", limitParameter), p.values
}

// newest is the window of a search.
func newest(from string, p *parameters) string {
	return fill(`SELECT w.id, w.status, w.found FROM ({from}) w ORDER BY w.id DESC LIMIT {rows}`, "{from}", from, "{rows}", p.add(SubstringRows))
}

const getColumns = `
SELECT ` + rowColumns + `,
       CASE WHEN octet_length(d.payload::text) <= $2 THEN d.payload::text END,
       octet_length(d.payload::text),
       CASE WHEN d.custom_headers IS NULL THEN 'null' WHEN octet_length(d.custom_headers::text) <= $2 THEN d.custom_headers::text END
  FROM {schema}.deliveries d`

const (
	getByIDSQL   = getColumns + ` WHERE d.id = $1`
	getByUUIDSQL = getColumns + ` WHERE d.delivery_uuid = $1::text::uuid`
)

const attemptsSQL = `
SELECT a.delivery_id, a.round, a.attempt, a.started_at, a.duration_ms, a.outcome, a.failure_kind, a.status_code, a.error,
       a.response_body, a.node
  FROM {schema}.attempts a
 WHERE a.delivery_id = $1
 ORDER BY a.round DESC, a.attempt DESC
 LIMIT $2`

// Get returns a delivery, by uuid or, when that is empty, by id, and its attempts in the order in which they were made
// (the newest MaxAttemptRows). It fails with ErrNotFound when there is none.
func (s *Store) Get(ctx context.Context, id int64, uuid string) (r Row, attempts []AttemptRow, err error) {
	statement, key := getByIDSQL, any(id)
	if uuid != "" {
		statement, key = getByUUIDSQL, uuid
	}
	// One snapshot: the attempts are those that the row counts.
	err = s.inQueryTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(ctx context.Context, tx pgx.Tx) error {
		var payload, headers []byte
		if err := tx.QueryRow(ctx, s.sql(statement), key, MaxShownPayload).Scan(append(r.targets(), &payload, &r.PayloadBytes, &headers)...); err != nil {
			return err
		}
		r.Payload, r.CustomHeaders = payload, headers
		r.utc()
		rows, err := tx.Query(ctx, s.sql(attemptsSQL), r.ID, MaxAttemptRows)
		if err != nil {
			return err
		}
		attempts, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (a AttemptRow, err error) {
			err = row.Scan(&a.DeliveryID, &a.Round, &a.Attempt, &a.StartedAt, &a.DurationMS, &a.Outcome, &a.FailureKind, &a.StatusCode,
				&a.Error, &a.ResponseBody, &a.Node)
			utc(&a.StartedAt)
			return a, err
		})
		slices.Reverse(attempts)
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return Row{}, nil, ErrNotFound
	}
	if err != nil {
		return Row{}, nil, fmt.Errorf("store: get: %w", err)
	}
	return r, attempts, nil
}

// Action is what a person does to deliveries.
type Action int

const (
	// ActionUnknown changes nothing.
	ActionUnknown Action = iota
	// ActionRetry brings the next attempt of pending deliveries, which nobody is sending and which are not due yet, forward to now.
	ActionRetry
	// ActionReplay starts deliveries that ended over: dead letters and canceled ones, unless the filter names statuses.
	ActionReplay
	// ActionCancel cancels pending deliveries. An attempt that is being made is still recorded.
	ActionCancel
)

func (a Action) String() string {
	switch a {
	case ActionRetry:
		return "retry"
	case ActionReplay:
		return "replay"
	case ActionCancel:
		return "cancel"
	default:
		return "unknown action"
	}
}

// statuses are those of the filter that the action can change.
func (a Action) statuses(f Filter) []delivery.Status {
	var possible []delivery.Status
	switch a {
	case ActionRetry, ActionCancel:
		possible = []delivery.Status{delivery.StatusPending}
	case ActionReplay:
		if len(f.Statuses) == 0 {
			return []delivery.Status{delivery.StatusDeadLetter, delivery.StatusCanceled}
		}
		possible = []delivery.Status{delivery.StatusSucceeded, delivery.StatusDeadLetter, delivery.StatusCanceled}
	}
	if len(f.Statuses) == 0 {
		return possible
	}
	return slices.DeleteFunc(possible, func(s delivery.Status) bool { return !slices.Contains(f.Statuses, s) })
}

// eligible is what else the action asks of a delivery.
func (a Action) eligible() []string {
	if a == ActionRetry {
		return []string{"d.claimed_by IS NULL", "d.scheduled_for > now()"}
	}
	return nil
}

// The UPDATEs are what a person would write by hand: the triggers do the rest.
const (
	retrySet  = `scheduled_for = now()`
	replaySet = `status = 'pending'`
	cancelSet = `status = 'canceled'`
)

// actionSQL changes one page.
const actionSQL = `
WITH page AS MATERIALIZED (
    SELECT c.id FROM ({candidates}) c
     ORDER BY c.id
     LIMIT {limit}
), locked AS (
    -- Ordered, so that two of these cannot wait for each other. NO KEY: an application's foreign keys to this table do not
    -- collide with it. All conditions once more: they are tested again on a row that changed while its lock was awaited.
    SELECT d.id
      FROM {schema}.deliveries d
     WHERE d.id = ANY (ARRAY(SELECT p.id FROM page p)) AND d.status = ANY ({statuses}::text[]) AND {where}
     ORDER BY d.id
       FOR NO KEY UPDATE OF d
), changed AS (
    UPDATE {schema}.deliveries d
       SET {set}
      FROM locked l
     WHERE d.id = l.id
    RETURNING d.id
)
SELECT (SELECT count(*) FROM page),
       (SELECT coalesce(max(p.id), 0) FROM page p),
       (SELECT array_agg(x.id) FROM changed x)`

const newestIDSQL = `SELECT coalesce(max(d.id), 0) FROM {schema}.deliveries d`

const windowSQL = `SELECT coalesce(min(c.id), 0) FROM ({candidates}) c`

const countSQL = `SELECT c.status, count(*) FROM ({candidates}) c WHERE c.found GROUP BY c.status`

// Result is what an action did.
type Result struct {
	Changed   int
	Unchanged []Unchanged // of the deliveries that the filter names: those that were not changed, ids first, each in its order
}

// Unchanged is a delivery that an action was asked for and did not change.
type Unchanged struct {
	ID      int64           // 0 when it was asked for by UUID and is not there
	UUID    string          // as it was asked for; empty when it was asked for by id
	Status  delivery.Status // StatusUnknown: there is no such delivery
	Sending bool            // an attempt is in flight
	Held    HoldReason      // why it is held back; NotHeld when it is not
}

// Retry brings the next attempt of deliveries forward to now: of pending ones that nobody is sending and that are not due
// yet. Like every action it works in pages of 1,000 in the order of their ids, each in a transaction of its own, up to the
// newest delivery at its start; progress, if any, is called after each page with how many were changed so far. After an
// error the result says what was changed; the same call goes on from there.
func (s *Store) Retry(ctx context.Context, f Filter, progress func(done int)) (Result, error) {
	return s.act(ctx, ActionRetry, f, "", progress)
}

// Replay starts deliveries that ended over: those whose status is in the filter's, or else dead letters and canceled ones;
// never pending ones. An endpointURL that is not empty replaces theirs.
func (s *Store) Replay(ctx context.Context, f Filter, endpointURL string, progress func(done int)) (Result, error) {
	return s.act(ctx, ActionReplay, f, endpointURL, progress)
}

// Cancel cancels pending deliveries. One whose attempt is in flight may still be delivered by it; its status stays.
func (s *Store) Cancel(ctx context.Context, f Filter, progress func(done int)) (Result, error) {
	return s.act(ctx, ActionCancel, f, "", progress)
}

// Count says how many deliveries an action would change, for each status that it can change. It takes 30 s at most.
func (s *Store) Count(ctx context.Context, action Action, f Filter) (map[delivery.Status]int, error) {
	if err := f.check(); err != nil {
		return nil, fmt.Errorf("store: count: %w", err)
	}
	statuses := action.statuses(f)
	numbers := make(map[delivery.Status]int)
	for _, status := range statuses {
		numbers[status] = 0
	}
	if len(statuses) == 0 {
		return numbers, nil
	}
	err := s.inQueryTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadOnly}, func(ctx context.Context, tx pgx.Tx) error {
		ids, err := s.createdWithin(ctx, tx, f, 0)
		if err != nil {
			return err
		}
		p := &parameters{}
		conditions, search, tail := f.actionWhere(p, ids, action), f.search(p), ""
		if f.searches() {
			tail = "ORDER BY d.id DESC LIMIT " + p.add(SubstringRows)
		}
		from := candidates(p, statuses, conditions, search, tail)
		if f.searches() {
			from = newest(from, p)
		}
		statement := fill(countSQL, "{candidates}", from)
		rows, err := tx.Query(ctx, s.sql(statement), p.values...)
		if err != nil {
			return err
		}
		var status delivery.Status
		var n int
		_, err = pgx.ForEachRow(rows, []any{&status, &n}, func() error {
			numbers[status] = n
			return nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("store: count: %w", err)
	}
	return numbers, nil
}

// actionWhere is what is asked of a delivery besides its status and what is searched for.
func (f Filter) actionWhere(p *parameters, ids idRange, action Action) []string {
	return append(append(f.where(p, ids), f.originIs(p)), action.eligible()...)
}

func (s *Store) act(ctx context.Context, action Action, f Filter, endpointURL string, progress func(done int)) (result Result, err error) {
	if err := f.check(); err != nil {
		return result, fmt.Errorf("store: %s: %w", action, err)
	}
	changed := make(map[int64]bool) // of the deliveries that the filter names
	if statuses := action.statuses(f); len(statuses) > 0 {
		after, upTo, ids, err := s.actionRange(ctx, action, f, statuses)
		if err != nil {
			return result, fmt.Errorf("store: %s: %w", action, err)
		}
		for more := true; more; {
			var done []int64
			done, after, more, err = s.actOnPage(ctx, action, f, ids, statuses, endpointURL, after, upTo)
			if err != nil {
				return result, fmt.Errorf("store: %s: %w", action, err)
			}
			result.Changed += len(done)
			if f.byID() {
				for _, id := range done {
					changed[id] = true
				}
			}
			if progress != nil {
				progress(result.Changed)
			}
		}
	}
	if f.byID() {
		if result.Unchanged, err = s.unchanged(ctx, f, changed); err != nil {
			return result, fmt.Errorf("store: %s: %w", action, err)
		}
	}
	return result, nil
}

// actionRange says which ids an action is about: those above after, up to upTo. A replayed delivery that fails at once, or
// what is inserted meanwhile, does not keep it busy for ever.
func (s *Store) actionRange(ctx context.Context, action Action, f Filter, statuses []delivery.Status) (after, upTo int64, ids idRange, err error) {
	err = s.inQueryTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadOnly}, func(ctx context.Context, tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, s.sql(newestIDSQL)).Scan(&upTo); err != nil {
			return err
		}
		if ids, err = s.createdWithin(ctx, tx, f, 0); err != nil || !f.searches() {
			return err
		}
		p := &parameters{}
		window := newest(candidates(p, statuses, f.actionWhere(p, ids, action), "true", "ORDER BY d.id DESC LIMIT "+p.add(SubstringRows)), p)
		if err := tx.QueryRow(ctx, s.sql(fill(windowSQL, "{candidates}", window)), p.values...).Scan(&after); err != nil {
			return err
		}
		after = max(after-1, 0)
		return nil
	})
	return after, upTo, ids, err
}

// actOnPage changes the next page, and returns what it changed, the last id that it looked at, and whether there is more.
func (s *Store) actOnPage(ctx context.Context, action Action, f Filter, ids idRange, statuses []delivery.Status, endpointURL string,
	after, upTo int64,
) (changed []int64, last int64, more bool, err error) {
	err = s.inQueryTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}, func(ctx context.Context, tx pgx.Tx) error {
		changed, last, more, err = s.actInTx(ctx, tx, action, f, ids, statuses, endpointURL, after, upTo, actionPage)
		return err
	})
	return changed, last, more, err
}

// actInTx is actOnPage, of a page of that size, in somebody's transaction.
func (s *Store) actInTx(ctx context.Context, tx pgx.Tx, action Action, f Filter, ids idRange, statuses []delivery.Status, endpointURL string,
	after, upTo int64, size int,
) (changed []int64, last int64, more bool, err error) {
	p := &parameters{}
	conditions := append(f.actionWhere(p, ids, action), f.search(p), "d.id > "+p.add(after), "d.id <= "+p.add(upTo))
	set := map[Action]string{ActionRetry: retrySet, ActionReplay: replaySet, ActionCancel: cancelSet}[action]
	if endpointURL != "" {
		set += ", endpoint_url = " + p.add(endpointURL)
	}
	limit := p.add(size)
	statement := fill(actionSQL,
		"{candidates}", candidates(p, statuses, conditions, "true", "ORDER BY d.id LIMIT "+limit),
		"{limit}", limit, "{statuses}", p.add(statuses), "{where}", strings.Join(conditions, " AND "), "{set}", set)

	var seen int
	err = tx.QueryRow(ctx, s.sql(statement), p.values...).Scan(&seen, &last, &changed)
	return changed, last, seen == size, err
}

const unchangedSQL = `
SELECT w.n, coalesce(d.id, 0), coalesce(d.status, ''), d.claimed_by IS NOT NULL, coalesce(CASE WHEN d.held_since IS NOT NULL THEN d.held_reason END, '')
  FROM unnest($1::bigint[]) WITH ORDINALITY AS w (id, n)
  LEFT JOIN {schema}.deliveries d ON d.id = w.id
 UNION ALL
SELECT cardinality($1::bigint[]) + w.n, coalesce(d.id, 0), coalesce(d.status, ''), d.claimed_by IS NOT NULL, coalesce(CASE WHEN d.held_since IS NOT NULL THEN d.held_reason END, '')
  FROM unnest($2::text[]) WITH ORDINALITY AS w (uuid, n)
  LEFT JOIN {schema}.deliveries d ON d.delivery_uuid = w.uuid::uuid
 ORDER BY 1`

// unchanged are the deliveries that the filter names, without those that were changed.
func (s *Store) unchanged(ctx context.Context, f Filter, changed map[int64]bool) (left []Unchanged, err error) {
	ids, uuids := append([]int64{}, f.IDs...), append([]string{}, f.UUIDs...) // never null
	err = s.inQueryTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadOnly}, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, s.sql(unchangedSQL), ids, uuids)
		if err != nil {
			return err
		}
		var n int
		var u Unchanged
		_, err = pgx.ForEachRow(rows, []any{&n, &u.ID, &u.Status, &u.Sending, &u.Held}, func() error {
			if changed[u.ID] {
				return nil
			}
			if u.UUID = ""; n <= len(ids) {
				u.ID = ids[n-1]
			} else {
				u.UUID = uuids[n-1-len(ids)]
			}
			left = append(left, u)
			return nil
		})
		return err
	})
	return left, err
}

// inQueryTx is a transaction for something that a person asked for: it gives up rather than wait for long, and its
// statements are planned as inBatchTx's are, so that statistics of yesterday do not make them scan the table.
func (s *Store) inQueryTx(ctx context.Context, o pgx.TxOptions, do func(context.Context, pgx.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	within := statementTimeout
	if s.within > 0 {
		within = s.within
	}
	err := pgx.BeginTxFunc(ctx, s.db, o, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, fmt.Sprintf(`SET LOCAL statement_timeout = %d; SET LOCAL lock_timeout = %d; `+
			`SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL jit = off; `+
			// A status is a value: only a plan that is made for it can use the indexes on one status.
			`SET LOCAL plan_cache_mode = force_custom_plan`,
			within.Milliseconds(), min(within, rowLockTimeout).Milliseconds()))
		if err != nil {
			return err
		}
		return do(ctx, tx)
	})
	var pg *pgconn.PgError
	switch {
	case !errors.As(err, &pg):
		return err
	case pg.Code == "55P03":
		return fmt.Errorf("another transaction has held the lock of a delivery for more than %s: end it, or try again later: %w", min(within, rowLockTimeout), err)
	case pg.Code == "57014":
		return fmt.Errorf("it takes longer than %s: narrow the filter (by status, organization, run or id): %w", within, err)
	}
	return err
}
