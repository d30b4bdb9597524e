package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/riverhook/riverhook/delivery"
)

// Stats are counts of deliveries at one time.
type Stats struct {
	Statuses  map[delivery.Status]int64 // every status is in it
	Due       int64                     // pending, nobody sends it, and its time has come
	Sending   int64                     // claimed
	OldestDue *time.Time                // since when the oldest of the due ones is; nil when there is none
	At        time.Time                 // the database's clock

	OldestWaiting *time.Time // as OldestDue, of those that are not held back on purpose
	HeldOrigins   int        // receivers that deliveries are held back for, MaxHeldPairs at most; of all organizations only
}

// statsSQL reads an index once: callers keep what it returns.
const statsSQL = `
SELECT d.status, count(*)
  FROM {schema}.deliveries d
 WHERE $1::text IS NULL OR d.organization_id = $1
 GROUP BY d.status`

const backlogSQL = `
SELECT count(*) FILTER (WHERE d.claimed_by IS NULL AND d.scheduled_for <= now()),
       count(*) FILTER (WHERE d.claimed_by IS NOT NULL),
       min(d.scheduled_for) FILTER (WHERE d.claimed_by IS NULL AND d.scheduled_for <= now()),
       min(d.scheduled_for) FILTER (WHERE d.claimed_by IS NULL AND d.scheduled_for <= now() AND d.held_since IS NULL),
       now()
  FROM {schema}.deliveries d
 WHERE d.status = 'pending' AND ($1::text IS NULL OR d.organization_id = $1)`

// heldOriginsSQL jumps from origin to origin in the index of what is held.
const heldOriginsSQL = `
WITH RECURSIVE origins AS (
    (SELECT d.endpoint_origin FROM {schema}.deliveries d
      WHERE ` + heldRows + ` AND d.endpoint_origin IS NOT NULL
      ORDER BY d.endpoint_origin LIMIT 1)
     UNION ALL
    SELECT n.endpoint_origin
      FROM origins o
     CROSS JOIN LATERAL (SELECT d.endpoint_origin FROM {schema}.deliveries d
                          WHERE ` + heldRows + ` AND d.endpoint_origin > o.endpoint_origin
                          ORDER BY d.endpoint_origin LIMIT 1) n
)
SELECT count(*)::int FROM (SELECT FROM origins LIMIT $1) o`

// Stats counts the deliveries of an organization, or all when it is empty. It goes through all of them, in an index: it
// is to be called once in a while, and not for each who asks. It takes 30 s at most.
func (s *Store) Stats(ctx context.Context, organization string) (Stats, error) {
	stats := Stats{Statuses: make(map[delivery.Status]int64)}
	for _, status := range delivery.Statuses {
		stats.Statuses[status] = 0
	}
	err := s.inQueryTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, s.sql(statsSQL), null(organization))
		if err != nil {
			return err
		}
		var status delivery.Status
		var n int64
		if _, err := pgx.ForEachRow(rows, []any{&status, &n}, func() error { stats.Statuses[status] = n; return nil }); err != nil {
			return err
		}
		err = tx.QueryRow(ctx, s.sql(backlogSQL), null(organization)).Scan(&stats.Due, &stats.Sending, &stats.OldestDue, &stats.OldestWaiting, &stats.At)
		if err != nil || organization != "" {
			return err
		}
		if _, err := tx.Exec(ctx, alongIndexes); err != nil {
			return err
		}
		return tx.QueryRow(ctx, s.sql(heldOriginsSQL), MaxHeldPairs).Scan(&stats.HeldOrigins)
	})
	if err != nil {
		return Stats{}, fmt.Errorf("store: stats: %w", err)
	}
	utc(stats.OldestDue, stats.OldestWaiting, &stats.At)
	return stats, nil
}
