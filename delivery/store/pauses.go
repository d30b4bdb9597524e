package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Pause is what people hold back: the deliveries that match all of what is not nil. One with neither an origin nor an
// organization holds everything. Its JSON names are the column names.
type Pause struct {
	ID             int64     `json:"pause_id"`
	EndpointOrigin *string   `json:"endpoint_origin"` // as deliveries.endpoint_origin; nil: of every receiver
	OrganizationID *string   `json:"organization_id"` // nil: of every organization
	Reason         *string   `json:"reason"`
	CreatedAt      time.Time `json:"created_at"`
}

// MaxPauses is how many pauses there may be: every node reads all of them, every second.
const MaxPauses = 1000

// MaxPauseReason bounds the reason of a pause, in characters.
const MaxPauseReason = 500

// ErrTooManyPauses says that there are MaxPauses already.
var ErrTooManyPauses = fmt.Errorf("store: there are %d pauses already: end some, or pause a whole origin or organization", MaxPauses)

// pauseSQL: xmax is 0 in a row that was inserted, and not in one that was updated.
const pauseSQL = `
INSERT INTO {schema}.pauses AS p (endpoint_origin, organization_id, reason)
SELECT $1::text, $2::text, $3::text
 WHERE (SELECT count(*) FROM {schema}.pauses) < $4
    OR EXISTS (SELECT FROM {schema}.pauses e
                WHERE coalesce(e.endpoint_origin, '') = coalesce($1, '') AND coalesce(e.organization_id, '') = coalesce($2, ''))
    ON CONFLICT (coalesce(endpoint_origin, ''), coalesce(organization_id, ''))
    DO UPDATE SET reason = coalesce(excluded.reason, p.reason)
RETURNING p.xmax = 0`

// Pause holds back the deliveries to an origin, as deliveries.endpoint_origin has it, of an organization: empty is every
// origin, every organization, and both of them are all deliveries. It holds for those that come later too, until Resume.
// created is false when they were paused already: then a reason that is not empty replaces the one that was given. It
// fails with ErrTooManyPauses when there are MaxPauses others.
func (s *Store) Pause(ctx context.Context, origin, organization, reason string) (created bool, err error) {
	reason = Text(reason, MaxPauseReason)
	err = s.db.QueryRow(ctx, s.sql(pauseSQL), null(origin), null(organization), null(reason), MaxPauses).Scan(&created)
	var pg *pgconn.PgError
	if errors.Is(err, pgx.ErrNoRows) || errors.As(err, &pg) && pg.Code == "54000" { // of the trigger: another was inserted at the same time
		return false, ErrTooManyPauses
	}
	if err != nil {
		return false, fmt.Errorf("store: pause: %w", err)
	}
	return created, nil
}

const resumeSQL = `
DELETE FROM {schema}.pauses
 WHERE coalesce(endpoint_origin, '') = coalesce($1::text, '') AND coalesce(organization_id, '') = coalesce($2::text, '')`

// Resume ends the pause of exactly this origin and organization; found is false when there is none. What another pause
// holds as well stays held.
func (s *Store) Resume(ctx context.Context, origin, organization string) (found bool, err error) {
	tag, err := s.db.Exec(ctx, s.sql(resumeSQL), null(origin), null(organization))
	if err != nil {
		return false, fmt.Errorf("store: resume: %w", err)
	}
	return tag.RowsAffected() > 0, nil
}

const resumeOneSQL = `DELETE FROM {schema}.pauses WHERE pause_id = $1 AND ($2::text IS NULL OR organization_id = $2)`

// ResumeOne ends the pause of that id, of that organization if one is given; found is false when there is none.
func (s *Store) ResumeOne(ctx context.Context, id int64, organization string) (found bool, err error) {
	tag, err := s.db.Exec(ctx, s.sql(resumeOneSQL), id, null(organization))
	if err != nil {
		return false, fmt.Errorf("store: resume: %w", err)
	}
	return tag.RowsAffected() > 0, nil
}

const pausesSQL = `
SELECT pause_id, endpoint_origin, organization_id, reason, created_at
  FROM {schema}.pauses
 WHERE $2::text IS NULL OR organization_id = $2
 ORDER BY pause_id
 LIMIT $1`

// Pauses lists what people hold back, the oldest first: MaxPauses at most.
func (s *Store) Pauses(ctx context.Context) ([]Pause, error) { return s.PausesOf(ctx, "") }

// PausesOf lists the pauses of one organization, or all when it is empty. A pause of all organizations is none of one.
func (s *Store) PausesOf(ctx context.Context, organization string) ([]Pause, error) {
	rows, err := s.db.Query(ctx, s.sql(pausesSQL), MaxPauses, null(organization))
	if err != nil {
		return nil, fmt.Errorf("store: pauses: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p Pause, err error) {
		err = row.Scan(&p.ID, &p.EndpointOrigin, &p.OrganizationID, &p.Reason, &p.CreatedAt)
		utc(&p.CreatedAt)
		return p, err
	})
	if err != nil {
		return nil, fmt.Errorf("store: pauses: %w", err)
	}
	return list, nil
}
