package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/riverhook/riverhook/delivery"
)

// EraseScope says whose deliveries are erased: those of an organization, of a run, or of a run within an organization.
type EraseScope struct{ Organization, Run string }

// EraseCount is what an Erase would remove.
type EraseCount struct {
	Deliveries map[delivery.Status]int // by status, each
	Sending    int                     // of them, are being sent
	Attempts   int
}

// Total is the number of deliveries.
func (c EraseCount) Total() (n int) {
	for _, of := range c.Deliveries {
		n += of
	}
	return n
}

// Erased is what an Erase did.
type Erased struct {
	Deliveries int // removed
	Attempts   int // removed with them
	Left       int // were not removed: they are being sent, or another transaction holds their lock
	Referred   int // were not removed: a foreign key of another table refers to them
}

const (
	// eraseWindow deliveries are looked up at a time, eraseCountPage counted, erasePage removed.
	eraseWindow    = 100_000
	eraseCountPage = 20_000
	erasePage      = 1000
	// erasePoll is the time between two looks at what is being sent.
	erasePoll = 500 * time.Millisecond
)

// eraseCountSQL: through the index that the scope has. For a run, the ids are sorted: one window of them at a time.
const eraseCountSQL = `
WITH page AS MATERIALIZED (
    SELECT d.id, d.status, d.claimed_by IS NOT NULL AND d.leased_until >= now() AS sending
      FROM {schema}.deliveries d
     WHERE {scope} AND d.id > {after} AND d.id <= {upto}
     ORDER BY d.id
     LIMIT {limit}
), ledger AS (
    SELECT count(*) AS attempts
      FROM page p CROSS JOIN LATERAL (SELECT FROM {schema}.attempts a WHERE a.delivery_id = p.id OFFSET 0) a
)
SELECT p.status, count(*), count(*) FILTER (WHERE p.sending), max(p.id), (SELECT l.attempts FROM ledger l)
  FROM page p
 GROUP BY p.status`

const eraseWindowSQL = `
SELECT d.id
  FROM {schema}.deliveries d
 WHERE {scope} AND d.id > {after} AND d.id <= {upto}
 ORDER BY d.id
 LIMIT {limit}`

// eraseLockSQL: a claim that holds is left alone. When its lease is over nothing is being sent any more.
const eraseLockSQL = `
SELECT d.id
  FROM {schema}.deliveries d
 WHERE d.id = ANY ($1::bigint[]) AND (d.claimed_by IS NULL OR d.leased_until < now())
 ORDER BY d.id
   FOR UPDATE SKIP LOCKED`

// in puts the scope into a statement.
func (e EraseScope) in(statement string, after, upTo int64, limit int) (string, []any, error) {
	p := &parameters{}
	var conditions []string
	if e.Organization != "" {
		conditions = append(conditions, "d.organization_id = "+p.add(e.Organization))
	}
	if e.Run != "" {
		conditions = append(conditions, "d.workflow_run_id = "+p.add(e.Run))
	}
	if len(conditions) == 0 {
		return "", nil, errors.New("neither organization nor run: it would be everything")
	}
	return fill(statement, "{scope}", strings.Join(conditions, " AND "),
		"{after}", p.add(after), "{upto}", p.add(upTo), "{limit}", p.add(limit)), p.values, nil
}

// CountErase says what an Erase would remove now. progress, if any, is called with how many deliveries were counted so far.
func (s *Store) CountErase(ctx context.Context, scope EraseScope, progress func(int)) (EraseCount, error) {
	count := EraseCount{Deliveries: make(map[delivery.Status]int)}
	upTo, err := s.newestID(ctx)
	if err != nil {
		return EraseCount{}, fmt.Errorf("store: erase: %w", err)
	}
	for after := int64(0); ; {
		last, err := s.countErasePage(ctx, scope, after, upTo, &count)
		if err != nil {
			return EraseCount{}, fmt.Errorf("store: erase: %w", err)
		}
		if last == after {
			return count, nil
		}
		if after = last; progress != nil {
			progress(count.Total())
		}
	}
}

// countErasePage adds the next page, and returns its last id: after when there is none.
func (s *Store) countErasePage(ctx context.Context, scope EraseScope, after, upTo int64, count *EraseCount) (last int64, err error) {
	statement, values, err := scope.in(eraseCountSQL, after, upTo, eraseCountPage)
	if err != nil {
		return 0, err
	}
	last = after
	err = s.inQueryTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadOnly}, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, s.sql(statement), values...)
		if err != nil {
			return err
		}
		var status delivery.Status
		var n, sending, attempts int
		var highest int64
		_, err = pgx.ForEachRow(rows, []any{&status, &n, &sending, &highest, &attempts}, func() error {
			count.Deliveries[status] += n
			count.Sending += sending
			last = max(last, highest)
			return nil
		})
		count.Attempts += attempts
		return err
	})
	return last, err
}

func (s *Store) newestID(ctx context.Context) (id int64, err error) {
	err = s.inQueryTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadOnly}, func(ctx context.Context, tx pgx.Tx) error {
		return tx.QueryRow(ctx, s.sql(newestIDSQL)).Scan(&id)
	})
	return id, err
}

// Erase removes deliveries, whatever their status, with their attempts and their jobs: those that are there when it begins,
// in pages of 1,000, each in a transaction of its own. A delivery that is being sent is removed once its claim has ended,
// by an outcome or with its lease: Erase waits for such ones, and for locked ones, for up to wait, and says how many were
// left. progress, if any, is called after each page. After an error, or when ctx ends, the result says what was removed;
// the same call goes on from there.
func (s *Store) Erase(ctx context.Context, scope EraseScope, wait time.Duration, progress func(Erased)) (total Erased, err error) {
	upTo, err := s.newestID(ctx)
	if err != nil {
		return total, fmt.Errorf("store: erase: %w", err)
	}
	for deadline := time.Now().Add(wait); ; {
		if err := s.erasePass(ctx, scope, upTo, &total, progress); err != nil {
			return total, fmt.Errorf("store: erase: %w", err)
		}
		if total.Left == 0 || time.Now().After(deadline) {
			return total, nil
		}
		if progress != nil {
			progress(total)
		}
		select {
		case <-ctx.Done():
			return total, fmt.Errorf("store: erase: %w", ctx.Err())
		case <-time.After(erasePoll):
		}
	}
}

// erasePass goes through all there is once.
func (s *Store) erasePass(ctx context.Context, scope EraseScope, upTo int64, total *Erased, progress func(Erased)) error {
	total.Left, total.Referred = 0, 0
	for after := int64(0); ; {
		ids, err := s.eraseWindow(ctx, scope, after, upTo)
		if err != nil {
			return err
		}
		for page := range slices.Chunk(ids, erasePage) {
			gone, err := s.erasePage(ctx, page)
			if err != nil {
				return err
			}
			total.Deliveries += gone.deliveries
			total.Attempts += gone.attempts
			total.Referred += len(gone.referred)
			total.Left += len(page) - gone.deliveries - len(gone.referred)
			if progress != nil {
				progress(*total)
			}
		}
		if len(ids) < eraseWindow {
			return nil
		}
		after = ids[len(ids)-1]
	}
}

func (s *Store) eraseWindow(ctx context.Context, scope EraseScope, after, upTo int64) (ids []int64, err error) {
	statement, values, err := scope.in(eraseWindowSQL, after, upTo, eraseWindow)
	if err != nil {
		return nil, err
	}
	err = s.inQueryTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadOnly}, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, s.sql(statement), values...)
		if err != nil {
			return err
		}
		ids, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		return err
	})
	return ids, err
}

// erasePage removes what of the page can be locked. A record that is under way holds the lock: either it is seen here with
// its row in the ledger, or it comes later and finds nothing.
func (s *Store) erasePage(ctx context.Context, page []int64) (gone removed, err error) {
	err = s.inBatchTx(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, s.sql(eraseLockSQL), page)
		if err != nil {
			return err
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil || len(ids) == 0 {
			return err
		}
		gone, err = s.remove(ctx, tx, removeAnySQL, ids)
		return err
	})
	if err != nil {
		return removed{}, err
	}
	return gone, nil
}
