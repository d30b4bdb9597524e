package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Bounds of what an overview looks at, whatever there is.
const (
	// OverviewMinutes are the minutes that an overview goes back.
	OverviewMinutes = 60
	// minuteRows is how many deliveries of a minute are counted, of each of its two indexes. Of a busier one, the share of
	// the minute that they took says how many there were.
	minuteRows = 2000
	// RecentRows is how many deliveries, the newest, an overview's latencies and failure rates are made of.
	RecentRows = 10_000
	// maxRecentOrigins bounds the receivers of an overview.
	maxRecentOrigins = 20
	// DeadLetterRows is how many dead letters, the newest, are grouped.
	DeadLetterRows = 20_000
	// maxDeadLetterGroups bounds their groups.
	maxDeadLetterGroups = 200
	// deadLetterError is how much of last_error makes a group, in characters.
	deadLetterError = 80
)

// Minute is what ended within a minute.
type Minute struct {
	At                              time.Time // when it began
	Succeeded, DeadLetter, Canceled int64
	About                           bool // there were too many to count all
}

// Quantiles of a time. They mean nothing where N is 0.
type Quantiles struct {
	N             int64 // how many they are of
	P50, P95, P99 time.Duration
}

// RecentOrigin is how deliveries to a receiver have fared.
type RecentOrigin struct {
	EndpointOrigin   *string
	Deliveries       int64
	Attempts, Failed int64 // of those deliveries
	DeadLetters      int64
	Mean             time.Duration // of an attempt
	LastError        *string       // of the newest that has one
}

// Overview is what has been going on.
type Overview struct {
	Minutes []Minute // OverviewMinutes of them, the last is the current one
	// Of the newest RecentRows deliveries:
	Recent  int64 // how many there are
	Since   time.Time
	Whole   Quantiles      // from insert to success, of what was never replayed
	Attempt Quantiles      // of one successful attempt
	Origins []RecentOrigin // with failures first
	At      time.Time
}

// minutesSQL: one probe of an index for each minute, and minuteRows of it.
const minutesSQL = `
SELECT m.at, done.succeeded, done.canceled, done.looked, done.upto, dead.letters, dead.looked, dead.upto, now()
  FROM generate_series(date_trunc('minute', now()) - make_interval(mins => {minutes}::int - 1), date_trunc('minute', now()), interval '1 minute') m (at)
 CROSS JOIN LATERAL (
       SELECT count(*) FILTER (WHERE s.status = 'succeeded' AND s.mine) AS succeeded,
              count(*) FILTER (WHERE s.status = 'canceled' AND s.mine) AS canceled, count(*) AS looked, max(s.finished_at) AS upto
         FROM (SELECT d.status, d.finished_at, {mine} AS mine FROM {schema}.deliveries d
                WHERE d.status IN ('succeeded', 'canceled') AND d.finished_at >= m.at AND d.finished_at < m.at + interval '1 minute'
                ORDER BY d.finished_at LIMIT {rows}) s) done
 CROSS JOIN LATERAL (
       SELECT count(*) FILTER (WHERE s.mine) AS letters, count(*) AS looked, max(s.finished_at) AS upto
         FROM (SELECT d.finished_at, {mine} AS mine FROM {schema}.deliveries d
                WHERE d.status = 'dead_letter' AND d.finished_at >= m.at AND d.finished_at < m.at + interval '1 minute'
                ORDER BY d.finished_at LIMIT {rows}) s) dead
 ORDER BY m.at`

// recentRows is the beginning of a statement: the newest deliveries, with what came of their attempts: one probe of a primary key each.
const recentRows = `
WITH recent AS MATERIALIZED (
    SELECT d.id, d.endpoint_origin, d.status, d.round, d.created_at, d.finished_at, d.last_error
      FROM {schema}.deliveries d
     WHERE {mine}
     ORDER BY d.id DESC
     LIMIT {rows}
)`

const latencySQL = recentRows + `, attempts AS (
    SELECT a.duration_ms
      FROM recent r CROSS JOIN LATERAL (SELECT a.duration_ms FROM {schema}.attempts a
                                         WHERE a.delivery_id = r.id AND a.outcome = 'succeeded' OFFSET 0) a
)
SELECT count(*), coalesce(min(r.created_at), now()), count(*) FILTER (WHERE r.status = 'succeeded' AND r.round = 0),
       coalesce(percentile_disc(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY extract(epoch FROM r.finished_at - r.created_at)::float8)
                FILTER (WHERE r.status = 'succeeded' AND r.round = 0), '{0,0,0}'),
       (SELECT count(*) FROM attempts),
       (SELECT coalesce(percentile_disc(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY a.duration_ms / 1000.0::float8), '{0,0,0}') FROM attempts a)
  FROM recent r`

const failingOriginsSQL = recentRows + `
SELECT r.endpoint_origin, count(*), coalesce(sum(a.made), 0)::bigint, coalesce(sum(a.failed), 0)::bigint,
       count(*) FILTER (WHERE r.status = 'dead_letter'), coalesce(sum(a.took) / nullif(sum(a.made), 0), 0)::float8,
       (array_agg(r.last_error ORDER BY r.id DESC) FILTER (WHERE r.last_error IS NOT NULL))[1]
  FROM recent r
 CROSS JOIN LATERAL (SELECT count(*) AS made, count(*) FILTER (WHERE a.outcome <> 'succeeded') AS failed, sum(a.duration_ms) AS took
                       FROM {schema}.attempts a WHERE a.delivery_id = r.id OFFSET 0) a
 GROUP BY r.endpoint_origin
 ORDER BY coalesce(sum(a.failed), 0) / greatest(sum(a.made), 1) DESC, sum(a.made) DESC, r.endpoint_origin
 LIMIT {origins}`

// Overview looks at what has been going on, of an organization, or of all when it is empty. What it costs is bounded,
// whatever there is; it is to be called once in a while, and not for each who asks. It takes 30 s at most.
func (s *Store) Overview(ctx context.Context, organization string) (o Overview, err error) {
	err = s.inQueryTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(ctx context.Context, tx pgx.Tx) error {
		if err := s.minutes(ctx, tx, organization, &o); err != nil {
			return err
		}
		return s.recent(ctx, tx, organization, &o)
	})
	if err != nil {
		return Overview{}, fmt.Errorf("store: overview: %w", err)
	}
	utc(&o.At, &o.Since)
	return o, nil
}

// mine is the condition on the organization, if one is given: a statement that has it or not is planned for what it does.
func mine(p *parameters, organization string) string {
	if organization == "" {
		return "true"
	}
	return "d.organization_id = " + p.add(organization)
}

func (s *Store) minutes(ctx context.Context, tx pgx.Tx, organization string, o *Overview) error {
	// Only the indexes on finished_at have the order that is asked for.
	if _, err := tx.Exec(ctx, `SET LOCAL enable_sort = off; SET LOCAL enable_bitmapscan = off`); err != nil {
		return err
	}
	p := &parameters{}
	statement := fill(minutesSQL, "{mine}", mine(p, organization), "{rows}", p.add(minuteRows), "{minutes}", p.add(OverviewMinutes))
	rows, err := tx.Query(ctx, s.sql(statement), p.values...)
	if err != nil {
		return err
	}
	var m Minute
	var doneLooked, deadLooked int64
	var doneUpTo, deadUpTo *time.Time
	_, err = pgx.ForEachRow(rows, []any{&m.At, &m.Succeeded, &m.Canceled, &doneLooked, &doneUpTo, &m.DeadLetter, &deadLooked, &deadUpTo, &o.At}, func() error {
		m.About = false
		length := min(o.At.Sub(m.At), time.Minute)
		for _, part := range []struct {
			looked int64
			upTo   *time.Time
			counts []*int64
		}{{doneLooked, doneUpTo, []*int64{&m.Succeeded, &m.Canceled}}, {deadLooked, deadUpTo, []*int64{&m.DeadLetter}}} {
			if part.looked >= minuteRows {
				m.About = true
				for _, n := range part.counts {
					*n = extrapolate(*n, part.upTo.Sub(m.At), length)
				}
			}
		}
		minute := m
		utc(&minute.At)
		o.Minutes = append(o.Minutes, minute)
		return nil
	})
	return err
}

// leastShare is the shortest time that says something about a minute: batches end at one moment.
const leastShare = 50 * time.Millisecond

// extrapolate is how many there are in the whole when n are in a part of it.
func extrapolate(n int64, part, whole time.Duration) int64 {
	part = max(part, leastShare)
	if part >= whole {
		return n
	}
	return int64(float64(n) * float64(whole) / float64(part))
}

func (s *Store) recent(ctx context.Context, tx pgx.Tx, organization string, o *Overview) error {
	if _, err := tx.Exec(ctx, `SET LOCAL enable_sort = on; SET LOCAL enable_bitmapscan = on`); err != nil {
		return err
	}
	p := &parameters{}
	statement := fill(latencySQL, "{mine}", mine(p, organization), "{rows}", p.add(RecentRows))
	var whole, attempt []float64
	err := tx.QueryRow(ctx, s.sql(statement), p.values...).Scan(&o.Recent, &o.Since, &o.Whole.N, &whole, &o.Attempt.N, &attempt)
	if err != nil {
		return err
	}
	o.Whole.set(whole)
	o.Attempt.set(attempt)
	p = &parameters{}
	statement = fill(failingOriginsSQL, "{mine}", mine(p, organization), "{rows}", p.add(RecentRows), "{origins}", p.add(maxRecentOrigins))
	rows, err := tx.Query(ctx, s.sql(statement), p.values...)
	if err != nil {
		return err
	}
	o.Origins, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (r RecentOrigin, err error) {
		var mean float64
		err = row.Scan(&r.EndpointOrigin, &r.Deliveries, &r.Attempts, &r.Failed, &r.DeadLetters, &mean, &r.LastError)
		r.Mean = time.Duration(mean * float64(time.Millisecond))
		return r, err
	})
	return err
}

// set takes seconds.
func (q *Quantiles) set(values []float64) {
	for i, to := range []*time.Duration{&q.P50, &q.P95, &q.P99} {
		if i < len(values) {
			*to = time.Duration(values[i] * float64(time.Second))
		}
	}
}

// DeadLetterGroup is dead letters of one receiver that begin to say the same.
type DeadLetterGroup struct {
	EndpointOrigin *string
	Error          string // the beginning of their last_error; empty when they have none
	Count          int64
	First, Last    time.Time // when the oldest and the newest of them ended
	NewestID       int64
}

// DeadLetters are the groups of the newest DeadLetterRows dead letters.
type DeadLetters struct {
	Groups []DeadLetterGroup // the largest first
	Looked int64             // how many dead letters they are made of
	More   bool              // there are older dead letters, or smaller groups
	At     time.Time
}

const deadLettersSQL = `
WITH newest AS MATERIALIZED (
    SELECT d.id, d.endpoint_origin, left(coalesce(d.last_error, ''), {error}::int) AS error, coalesce(d.finished_at, d.updated_at) AS ended
      FROM {schema}.deliveries d
     WHERE d.status = 'dead_letter' AND {mine}
     ORDER BY d.id DESC
     LIMIT {rows}
)
SELECT n.endpoint_origin, n.error, count(*), min(n.ended), max(n.ended), max(n.id), (SELECT count(*) FROM newest), now()
  FROM newest n
 GROUP BY n.endpoint_origin, n.error
 ORDER BY count(*) DESC, max(n.id) DESC
 LIMIT {groups}`

// DeadLetters groups the newest dead letters of an organization, or of all when it is empty, by receiver and by how their
// last error begins. It takes 30 s at most.
func (s *Store) DeadLetters(ctx context.Context, organization string) (d DeadLetters, err error) {
	err = s.inQueryTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadOnly}, func(ctx context.Context, tx pgx.Tx) error {
		p := &parameters{}
		statement := fill(deadLettersSQL, "{mine}", mine(p, organization), "{error}", p.add(deadLetterError), "{rows}", p.add(DeadLetterRows),
			"{groups}", p.add(maxDeadLetterGroups+1))
		rows, err := tx.Query(ctx, s.sql(statement), p.values...)
		if err != nil {
			return err
		}
		d.Groups, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (g DeadLetterGroup, err error) {
			err = row.Scan(&g.EndpointOrigin, &g.Error, &g.Count, &g.First, &g.Last, &g.NewestID, &d.Looked, &d.At)
			utc(&g.First, &g.Last)
			return g, err
		})
		return err
	})
	if err != nil {
		return DeadLetters{}, fmt.Errorf("store: dead letters: %w", err)
	}
	if len(d.Groups) > maxDeadLetterGroups {
		d.Groups, d.More = d.Groups[:maxDeadLetterGroups], true
	}
	d.More = d.More || d.Looked == DeadLetterRows
	utc(&d.At)
	return d, nil
}
