package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// HeldGroup is what is held back for one receiver, of one organization, for one reason.
type HeldGroup struct {
	EndpointOrigin *string `json:"endpoint_origin"` // nil: of deliveries whose endpoint_url has none
	OrganizationID string  `json:"organization_id"`
	HeldReason     *string `json:"held_reason"`
	// Count is how many, or, with AtLeast, how many of the MaxHeldCount of this receiver and organization that were due
	// first: the others are not looked at.
	Count   int  `json:"count"`
	AtLeast bool `json:"at_least"`
	// The oldest of those that Count counts.
	OldestScheduledFor *time.Time `json:"oldest_scheduled_for"`
	OldestHeldSince    time.Time  `json:"oldest_held_since"`
}

const (
	// MaxHeldCount is where Held stops counting what it finds for one receiver and organization.
	MaxHeldCount = 10_000
	// MaxHeldPairs is how many pairs of receiver and organization one call of Held returns.
	MaxHeldPairs = 1000
)

// alongIndexes: only one index has the order that is asked for. Nothing sorts what it could read in order, whatever the
// statistics say of how few rows there are.
const alongIndexes = `SET LOCAL enable_sort = off; SET LOCAL enable_bitmapscan = off`

const heldRows = `d.status = 'pending' AND d.held_since IS NOT NULL`

// heldPairsSQL: pair after pair, each by one probe of deliveries_held_idx beyond the one before, and so none through all
// that is held. Deliveries without an origin come last in that index, beyond what a comparison of rows reaches: they are a
// loop of their own. CTEs give as many rows as are asked of them, so that LIMIT ends the loops.
const heldPairsSQL = `
WITH RECURSIVE named AS (
    (SELECT d.endpoint_origin, d.organization_id FROM {schema}.deliveries d
      WHERE ` + heldRows + ` AND d.endpoint_origin IS NOT NULL
      ORDER BY d.endpoint_origin, d.organization_id LIMIT 1)
     UNION ALL
    SELECT n.endpoint_origin, n.organization_id
      FROM named p
     CROSS JOIN LATERAL (SELECT d.endpoint_origin, d.organization_id FROM {schema}.deliveries d
                          WHERE ` + heldRows + ` AND (d.endpoint_origin, d.organization_id) > (p.endpoint_origin, p.organization_id)
                          ORDER BY d.endpoint_origin, d.organization_id LIMIT 1) n
), nameless AS (
    (SELECT d.organization_id FROM {schema}.deliveries d
      WHERE ` + heldRows + ` AND d.endpoint_origin IS NULL
      ORDER BY d.endpoint_origin, d.organization_id LIMIT 1)
     UNION ALL
    SELECT n.organization_id
      FROM nameless p
     CROSS JOIN LATERAL (SELECT d.organization_id FROM {schema}.deliveries d
                          WHERE ` + heldRows + ` AND d.endpoint_origin IS NULL AND d.organization_id > p.organization_id
                          ORDER BY d.endpoint_origin, d.organization_id LIMIT 1) n
)
SELECT endpoint_origin, organization_id FROM named
 UNION ALL
SELECT NULL, organization_id FROM nameless
 LIMIT $1`

// heldPairsOfSQL is heldPairsSQL for one organization: receiver after receiver, and one probe for the organization at each.
const heldPairsOfSQL = `
WITH RECURSIVE named AS (
    (SELECT d.endpoint_origin FROM {schema}.deliveries d
      WHERE ` + heldRows + ` AND d.endpoint_origin IS NOT NULL
      ORDER BY d.endpoint_origin, d.organization_id LIMIT 1)
     UNION ALL
    SELECT n.endpoint_origin
      FROM named p
     CROSS JOIN LATERAL (SELECT d.endpoint_origin FROM {schema}.deliveries d
                          WHERE ` + heldRows + ` AND d.endpoint_origin > p.endpoint_origin
                          ORDER BY d.endpoint_origin, d.organization_id LIMIT 1) n
)
SELECT n.endpoint_origin, $2::text
  FROM named n
 CROSS JOIN LATERAL (SELECT FROM {schema}.deliveries d
                      WHERE ` + heldRows + ` AND d.endpoint_origin = n.endpoint_origin AND d.organization_id = $2
                      ORDER BY d.endpoint_origin, d.organization_id LIMIT 1) o
 UNION ALL
(SELECT NULL, $2 FROM {schema}.deliveries d
  WHERE ` + heldRows + ` AND d.endpoint_origin IS NULL AND d.organization_id = $2
  ORDER BY d.endpoint_origin, d.organization_id LIMIT 1)
 LIMIT $1`

// heldCountsSQL counts what is held for pairs: of each, those that are due first.
const heldCountsSQL = `
SELECT w.n, c.held_reason, c.held, sum(c.held) OVER (PARTITION BY w.n) >= $3::bigint, c.due, c.since
  FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS w (origin, organization, n)
 CROSS JOIN LATERAL (
      SELECT o.held_reason, count(*) AS held, min(o.scheduled_for) AS due, min(o.held_since) AS since
        FROM ((SELECT d.held_reason, d.scheduled_for, d.held_since FROM {schema}.deliveries d
                WHERE ` + heldRows + ` AND d.endpoint_origin = w.origin AND d.organization_id = w.organization
                ORDER BY d.endpoint_origin, d.organization_id, d.scheduled_for, d.id LIMIT $3::bigint)
               UNION ALL
              (SELECT d.held_reason, d.scheduled_for, d.held_since FROM {schema}.deliveries d
                WHERE ` + heldRows + ` AND w.origin IS NULL AND d.endpoint_origin IS NULL AND d.organization_id = w.organization
                ORDER BY d.endpoint_origin, d.organization_id, d.scheduled_for, d.id LIMIT $3::bigint)) o
       GROUP BY o.held_reason) c
 ORDER BY w.n, c.held DESC, c.held_reason`

// Held says what is held back right now, in the order of receivers and organizations (those without a receiver last), the
// most frequent reason first: of up to limit pairs of them, MaxHeldPairs at most. more is true when there are others. What
// it costs grows with the pairs, and with MaxHeldCount for each, not with what is held. It takes 30 s at most.
func (s *Store) Held(ctx context.Context, limit int) (groups []HeldGroup, more bool, err error) {
	return s.HeldOf(ctx, "", limit)
}

// HeldOf is Held of one organization, or of all when it is empty.
func (s *Store) HeldOf(ctx context.Context, organization string, limit int) (groups []HeldGroup, more bool, err error) {
	limit = min(max(limit, 1), MaxHeldPairs)
	// One snapshot: the counts are of the pairs that were found.
	err = s.inQueryTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, alongIndexes); err != nil {
			return err
		}
		origins, organizations, err := s.heldPairs(ctx, tx, organization, limit+1)
		if err != nil {
			return err
		}
		if more = len(origins) > limit; more {
			origins, organizations = origins[:limit], organizations[:limit]
		}
		groups, err = s.heldCounts(ctx, tx, origins, organizations)
		return err
	})
	if err != nil {
		return nil, false, fmt.Errorf("store: held: %w", err)
	}
	return groups, more, nil
}

func (s *Store) heldPairs(ctx context.Context, tx pgx.Tx, organization string, limit int) (origins []*string, organizations []string, err error) {
	statement, values := heldPairsSQL, []any{limit}
	if organization != "" {
		statement, values = heldPairsOfSQL, []any{limit, organization}
	}
	rows, err := tx.Query(ctx, s.sql(statement), values...)
	if err != nil {
		return nil, nil, err
	}
	var origin *string
	var owner string
	_, err = pgx.ForEachRow(rows, []any{&origin, &owner}, func() error {
		origins, organizations = append(origins, origin), append(organizations, owner)
		return nil
	})
	return origins, organizations, err
}

func (s *Store) heldCounts(ctx context.Context, tx pgx.Tx, origins []*string, organizations []string) ([]HeldGroup, error) {
	if len(origins) == 0 {
		return nil, nil
	}
	rows, err := tx.Query(ctx, s.sql(heldCountsSQL), origins, organizations, MaxHeldCount)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (g HeldGroup, err error) {
		var n int
		err = row.Scan(&n, &g.HeldReason, &g.Count, &g.AtLeast, &g.OldestScheduledFor, &g.OldestHeldSince)
		if err != nil {
			return g, err
		}
		g.EndpointOrigin, g.OrganizationID = origins[n-1], organizations[n-1]
		utc(g.OldestScheduledFor, &g.OldestHeldSince)
		return g, nil
	})
}
