package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// How receivers do, as all nodes together see it.

// OriginSeen is what one node saw of an origin since it last said so.
type OriginSeen struct {
	Origin      string // empty: of endpoints that have none
	Succeeded   bool   // an attempt did
	Failures    int    // attempts that failed, since the last that succeeded
	DeadLetters int
	LastFailure
}

// LastFailure is the last attempt that failed.
type LastFailure struct {
	DeliveryID  *int64
	FailureKind *string
	StatusCode  *int
}

// Notice is what is known of one kind of event of an origin.
type Notice struct {
	SentAt *time.Time // of the last event of that kind
	Count  int        // how often it happened since
}

// OriginState is an origin in the table.
type OriginState struct {
	Origin       string
	Failures     int // attempts in a row that failed
	Failing      bool
	FailingSince *time.Time // since when it is failing, or was the last time
	LastFailure
	FailingNotice, RecoveredNotice, DeadLetterNotice Notice
}

const (
	// MaxOrigins is how many origins one call of ObserveOrigins takes.
	MaxOrigins = 1000
	// MaxFailedOrigins is how many FailedOrigins returns.
	MaxFailedOrigins = 10_000
)

// newOriginsSQL: in one order, so that two nodes do not wait for each other.
const newOriginsSQL = `
INSERT INTO {schema}.origin_states (endpoint_origin)
SELECT o.origin FROM unnest($1::text[]) o (origin) ORDER BY o.origin
    ON CONFLICT (endpoint_origin) DO NOTHING`

const originColumns = `s.endpoint_origin, s.failures, s.failing, s.failing_since, s.last_delivery_id, s.last_failure_kind, s.last_status_code,
       s.failing_sent_at, s.failing_count, s.recovered_sent_at, s.recovered_count, s.dead_letter_sent_at, s.dead_letter_count, now()`

const seenOriginsSQL = `
SELECT ` + originColumns + `
  FROM {schema}.origin_states s
 WHERE s.endpoint_origin = ANY ($1::text[])
 ORDER BY s.endpoint_origin
   FOR UPDATE`

// unsentOriginsSQL are those of which something is to be told that was too soon to tell. Another node may be at it.
const unsentOriginsSQL = `
SELECT ` + originColumns + `
  FROM {schema}.origin_states s
 WHERE (s.failing_count > 0 OR s.recovered_count > 0 OR s.dead_letter_count > 0)
   AND (s.failing_count > 0 AND coalesce(s.failing_sent_at, '-infinity') <= now() - make_interval(secs => $2)
     OR s.recovered_count > 0 AND coalesce(s.recovered_sent_at, '-infinity') <= now() - make_interval(secs => $2)
     OR s.dead_letter_count > 0 AND coalesce(s.dead_letter_sent_at, '-infinity') <= now() - make_interval(secs => $2))
   AND NOT s.endpoint_origin = ANY ($1::text[])
 ORDER BY s.endpoint_origin
 LIMIT $3
   FOR UPDATE SKIP LOCKED`

const saveOriginsSQL = `
UPDATE {schema}.origin_states s
   SET failures = o.failures, failing = o.failing, failing_since = o.failing_since,
       last_delivery_id = o.last_delivery_id, last_failure_kind = o.last_failure_kind, last_status_code = o.last_status_code,
       failing_sent_at = o.failing_sent_at, failing_count = o.failing_count,
       recovered_sent_at = o.recovered_sent_at, recovered_count = o.recovered_count,
       dead_letter_sent_at = o.dead_letter_sent_at, dead_letter_count = o.dead_letter_count, updated_at = now()
  FROM unnest($1::text[], $2::int[], $3::boolean[], $4::timestamptz[], $5::bigint[], $6::text[], $7::int[],
              $8::timestamptz[], $9::int[], $10::timestamptz[], $11::int[], $12::timestamptz[], $13::int[])
       AS o (origin, failures, failing, failing_since, last_delivery_id, last_failure_kind, last_status_code,
             failing_sent_at, failing_count, recovered_sent_at, recovered_count, dead_letter_sent_at, dead_letter_count)
 WHERE s.endpoint_origin = o.origin`

// sendEventsSQL: an event is a delivery like any other.
const sendEventsSQL = `
INSERT INTO {schema}.deliveries (organization_id, webhook_name, endpoint_url, payload)
SELECT $1, e.type, $2, e.payload::json
  FROM unnest($3::text[], $4::text[]) e (type, payload)`

// EventDelivery is an event to be sent.
type EventDelivery struct {
	Type    string
	Payload json.RawMessage
}

// ObserveOrigins tells what was seen of origins, each of which is in seen once, MaxOrigins at most, and decides for each of
// them, and for those of which something is still to be told after at least interval, what becomes of it and which events
// are sent: to url, as deliveries of organization, in the same transaction. Without a url none are sent. No two nodes decide
// about the same origin at a time. now is the database's clock. decide may be called for nothing: after an error, nothing
// was stored, or (the connection broke) nobody knows.
func (s *Store) ObserveOrigins(ctx context.Context, seen []OriginSeen, interval time.Duration, organization, url string,
	decide func(state OriginState, seen OriginSeen, now time.Time) (OriginState, []EventDelivery)) error {
	err := s.inQueryTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(ctx context.Context, tx pgx.Tx) error {
		states, now, err := s.lockOrigins(ctx, tx, seen, interval)
		if err != nil || len(states) == 0 {
			return err
		}
		about := make(map[string]OriginSeen, len(seen))
		for _, one := range seen {
			about[one.Origin] = one
		}
		var types, payloads []string
		for i, state := range states {
			var events []EventDelivery
			states[i], events = decide(state, about[state.Origin], now)
			for _, e := range events {
				types, payloads = append(types, e.Type), append(payloads, string(e.Payload))
			}
		}
		if err := s.saveOrigins(ctx, tx, states); err != nil || url == "" || len(types) == 0 {
			return err
		}
		_, err = tx.Exec(ctx, s.sql(sendEventsSQL), organization, url, types, payloads)
		return err
	})
	if err != nil {
		return fmt.Errorf("store: receivers: %w", err)
	}
	return nil
}

// lockOrigins are the origins to be decided about.
func (s *Store) lockOrigins(ctx context.Context, tx pgx.Tx, seen []OriginSeen, interval time.Duration) (states []OriginState, now time.Time, err error) {
	all, failed := make([]string, 0, len(seen)), make([]string, 0, len(seen))
	for _, one := range seen {
		all = append(all, one.Origin)
		if one.Failures+one.DeadLetters > 0 {
			failed = append(failed, one.Origin)
		}
	}
	if len(failed) > 0 {
		if _, err := tx.Exec(ctx, s.sql(newOriginsSQL), failed); err != nil {
			return nil, now, err
		}
	}
	read := func(rows pgx.Rows, err error) error {
		if err != nil {
			return err
		}
		var o OriginState
		_, err = pgx.ForEachRow(rows, []any{
			&o.Origin, &o.Failures, &o.Failing, &o.FailingSince, &o.DeliveryID, &o.FailureKind, &o.StatusCode,
			&o.FailingNotice.SentAt, &o.FailingNotice.Count, &o.RecoveredNotice.SentAt, &o.RecoveredNotice.Count,
			&o.DeadLetterNotice.SentAt, &o.DeadLetterNotice.Count, &now,
		}, func() error {
			states = append(states, o)
			return nil
		})
		return err
	}
	if len(all) > 0 {
		if err := read(tx.Query(ctx, s.sql(seenOriginsSQL), all)); err != nil {
			return nil, now, err
		}
	}
	err = read(tx.Query(ctx, s.sql(unsentOriginsSQL), all, seconds(interval), MaxOrigins))
	return states, now, err
}

func (s *Store) saveOrigins(ctx context.Context, tx pgx.Tx, states []OriginState) error {
	n := len(states)
	origins, failing := make([]string, n), make([]bool, n)
	ints := make([][]int, 4)
	for i := range ints {
		ints[i] = make([]int, n)
	}
	since, failingAt, recoveredAt, deadAt := make([]*time.Time, n), make([]*time.Time, n), make([]*time.Time, n), make([]*time.Time, n)
	ids, kinds, codes := make([]*int64, n), make([]*string, n), make([]*int, n)
	for i := range states {
		o := &states[i]
		origins[i], failing[i], since[i] = o.Origin, o.Failing, o.FailingSince
		ints[0][i], ints[1][i], ints[2][i], ints[3][i] = o.Failures, o.FailingNotice.Count, o.RecoveredNotice.Count, o.DeadLetterNotice.Count
		failingAt[i], recoveredAt[i], deadAt[i] = o.FailingNotice.SentAt, o.RecoveredNotice.SentAt, o.DeadLetterNotice.SentAt
		ids[i], kinds[i], codes[i] = o.DeliveryID, o.FailureKind, o.StatusCode
	}
	_, err := tx.Exec(ctx, s.sql(saveOriginsSQL), origins, ints[0], failing, since, ids, kinds, codes,
		failingAt, ints[1], recoveredAt, ints[2], deadAt, ints[3])
	return err
}

const signsSQL = `
SELECT EXISTS (SELECT FROM {schema}.signing_secrets x
                WHERE x.organization_id = $1 AND (x.endpoint_origin = $2 OR x.endpoint_origin IS NULL) AND (x.expires_at IS NULL OR x.expires_at > now()))`

// Signs says whether the deliveries of an organization to an origin are signed.
func (s *Store) Signs(ctx context.Context, organization, origin string) (signs bool, err error) {
	if err := s.db.QueryRow(ctx, s.sql(signsSQL), organization, origin).Scan(&signs); err != nil {
		return false, fmt.Errorf("store: signing secrets: %w", err)
	}
	return signs, nil
}

const failedOriginsSQL = `SELECT s.endpoint_origin FROM {schema}.origin_states s WHERE s.failures > 0 ORDER BY s.endpoint_origin LIMIT $1`

// FailedOrigins are the origins whose last attempt failed, MaxFailedOrigins at most: a success of these is worth telling.
func (s *Store) FailedOrigins(ctx context.Context) (origins map[string]struct{}, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	rows, err := s.db.Query(ctx, s.sql(failedOriginsSQL), MaxFailedOrigins)
	if err != nil {
		return nil, fmt.Errorf("store: receivers that failed: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("store: receivers that failed: %w", err)
	}
	origins = make(map[string]struct{}, len(names))
	for _, name := range names {
		origins[name] = struct{}{}
	}
	return origins, nil
}

// forgetOriginsSQL: what failed last and is not sent to any more is forgotten, too, later.
const forgetOriginsSQL = `
DELETE FROM {schema}.origin_states s
 WHERE s.endpoint_origin IN (
       SELECT x.endpoint_origin FROM {schema}.origin_states x
        WHERE x.updated_at < now() - interval '1 day' AND (NOT x.failing OR x.updated_at < now() - interval '7 days')
        ORDER BY x.updated_at LIMIT $1 FOR UPDATE SKIP LOCKED)`

// ForgetOrigins removes up to limit origins that have not failed for a day, or that nothing was sent to for a week.
func (s *Store) ForgetOrigins(ctx context.Context, limit int) error {
	return s.inQueryTx(ctx, pgx.TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, s.sql(forgetOriginsSQL), limit); err != nil {
			return fmt.Errorf("store: forget receivers: %w", err)
		}
		return nil
	})
}

// FailingOrigin is a receiver whose attempts fail. Its JSON names are the column names.
type FailingOrigin struct {
	EndpointOrigin string     `json:"endpoint_origin"`
	Failures       int        `json:"failures"` // in a row
	FailingSince   *time.Time `json:"failing_since"`
	FailureKind    *string    `json:"last_failure_kind"`
	StatusCode     *int       `json:"last_status_code"`
}

const failingStatesSQL = `
SELECT s.endpoint_origin, s.failures, s.failing_since, s.last_failure_kind, s.last_status_code
  FROM {schema}.origin_states s
 WHERE s.failing
 ORDER BY s.failing_since DESC
 LIMIT $1`

// FailingOrigins are receivers whose attempts fail, those that began to fail last: limit at most.
func (s *Store) FailingOrigins(ctx context.Context, limit int) ([]FailingOrigin, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	rows, err := s.db.Query(ctx, s.sql(failingStatesSQL), limit)
	if err != nil {
		return nil, fmt.Errorf("store: receivers that fail: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[FailingOrigin])
	if err != nil {
		return nil, fmt.Errorf("store: receivers that fail: %w", err)
	}
	for i := range list {
		utc(list[i].FailingSince)
	}
	return list, nil
}
