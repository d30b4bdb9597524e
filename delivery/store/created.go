package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// createdSlack is how long before its insert a delivery's transaction may have begun: created_at is that beginning, ids
	// are in the order of the inserts.
	createdSlack = time.Hour
	// listSlack is how many deliveries a list looks at for that reason beyond those whose time fits.
	listSlack = 20_000
	// createdExact is up to which id nothing is left out at all: a table that small is looked through.
	createdExact = 20_000
)

// createdSQL finds, for each time, between which ids deliveries begin to be created then or later, by bisection: a dozen or
// two probes of the primary key. lo is a delivery that was created before (or 0), hi is above it, and the first delivery
// from hi on was not (or there is none).
const createdSQL = `
WITH RECURSIVE search AS (
    SELECT t.n, t.at, 0::bigint AS lo, (SELECT coalesce(max(d.id), 0) + 1 FROM {schema}.deliveries d) AS hi
      FROM unnest($1::timestamptz[]) WITH ORDINALITY AS t (at, n)
     UNION ALL
    SELECT s.n, s.at,
           CASE WHEN probe.created_at <  s.at THEN probe.id ELSE s.lo END,
           CASE WHEN probe.created_at <  s.at THEN s.hi ELSE s.lo + (s.hi - s.lo) / 2 END
      FROM search s
      LEFT JOIN LATERAL (
           SELECT d.id, d.created_at
             FROM {schema}.deliveries d
            WHERE d.id >= s.lo + (s.hi - s.lo) / 2 AND d.id < s.hi
            ORDER BY d.id LIMIT 1) probe ON true
     WHERE s.hi - s.lo > $2
)
SELECT DISTINCT ON (s.n) s.lo, s.hi FROM search s ORDER BY s.n, s.hi - s.lo`

// createdPrecision is how many ids a bisection leaves between its bounds.
const createdPrecision = 100

// createdWithin narrows a filter by time down to ids, so that a list does not walk to it from the newest delivery. No delivery
// is left out whose transaction began less than createdSlack before its insert; and, when slack is above 0, less than so
// many deliveries before it. (Nor one whose created_at was written by hand, while ids are below createdExact.)
func (s *Store) createdWithin(ctx context.Context, tx pgx.Tx, f Filter, slack int64) (ids idRange, err error) {
	if f.Since.IsZero() && f.Until.IsZero() || f.byID() {
		return ids, nil
	}
	var newest int64
	if err := tx.QueryRow(ctx, s.sql(newestIDSQL)).Scan(&newest); err != nil || newest <= createdExact {
		return ids, err
	}
	rows, err := tx.Query(ctx, s.sql(createdSQL), []time.Time{f.Since.Add(-createdSlack), f.Since, f.Until, f.Until.Add(createdSlack)}, createdPrecision)
	if err != nil {
		return ids, err
	}
	bounds, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (b struct{ lo, hi int64 }, err error) {
		err = row.Scan(&b.lo, &b.hi)
		return b, err
	})
	if err != nil {
		return ids, err
	}
	if !f.Since.IsZero() {
		ids.from = bounds[0].lo + 1
		if slack > 0 {
			ids.from = max(ids.from, bounds[1].lo+1-slack)
		}
	}
	if !f.Until.IsZero() {
		ids.below = bounds[3].hi
		if slack > 0 {
			ids.below = min(ids.below, bounds[2].hi+slack)
		}
	}
	return ids, nil
}
