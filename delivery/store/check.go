package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Problem is something that may not be: a violated invariant. Its JSON names are the columns of the view riverhook.problems.
type Problem struct {
	Problem    string     `json:"problem"`     // its kind: see the view's comment
	DeliveryID *int64     `json:"delivery_id"` // nil where it is not about one
	JobID      *int64     `json:"job_id"`      // River's; nil where it is not about one
	Since      *time.Time `json:"since"`       // as far as the row tells
	Detail     string     `json:"detail"`
}

// ProblemKind are the problems of one kind.
type ProblemKind struct {
	Problem string
	Total   int       // among the rows that were looked at
	First   []Problem // those that have been there for longest
}

// ProblemSearch says how to look for problems.
type ProblemSearch struct {
	Grace   time.Duration // how long a sweep may take to repair what it repairs
	LookAt  int           // rows of each kind: pending ones that are due first, the newest that have ended, ...; 0: all
	PerKind int           // how many problems of a kind to return
	Within  time.Duration // how long that may take
}

// problemsSQL: all of them at once, so that each row is looked at once.
const problemsSQL = `
SELECT p.problem, p.delivery_id, p.job_id, p.since, p.detail, p.total
  FROM (SELECT f.problem, f.delivery_id, f.job_id, f.since, f.detail,
               count(*) OVER (PARTITION BY f.problem) AS total,
               row_number() OVER (PARTITION BY f.problem ORDER BY f.since, f.delivery_id, f.job_id) AS n
          FROM {schema}.find_problems(make_interval(secs => $1), nullif($2::int, 0)) f) p
 WHERE p.n <= $3
 ORDER BY p.problem, p.n`

// Problems looks for what may not be, in one snapshot, and changes nothing. It is right on a busy system: what a sweep
// repairs is a problem after the grace only, and of everything else there is never a moment in which it is so. (What makes
// jobs disappear, such as a TRUNCATE of River's table, shows until the next sweep.) It looks at every row of each kind up
// to a bound, by index: see ProblemSearch.
func (s *Store) Problems(ctx context.Context, search ProblemSearch) (kinds []ProblemKind, err error) {
	ctx, cancel := context.WithTimeout(ctx, search.Within)
	defer cancel()
	err = pgx.BeginTxFunc(ctx, s.db, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, fmt.Sprintf(`SET LOCAL statement_timeout = %d`, search.Within.Milliseconds())); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, s.sql(problemsSQL), seconds(search.Grace), search.LookAt, search.PerKind)
		if err != nil {
			return err
		}
		var p Problem
		var total int
		_, err = pgx.ForEachRow(rows, []any{&p.Problem, &p.DeliveryID, &p.JobID, &p.Since, &p.Detail, &total}, func() error {
			utc(p.Since)
			if len(kinds) == 0 || kinds[len(kinds)-1].Problem != p.Problem {
				kinds = append(kinds, ProblemKind{Problem: p.Problem, Total: total})
			}
			last := &kinds[len(kinds)-1]
			last.First = append(last.First, p)
			return nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("store: problems: %w", err)
	}
	return kinds, nil
}
