package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Token is a token of the HTTP API, without the token itself, which is nowhere.
type Token struct {
	Prefix         string     `json:"prefix"` // how it begins
	Name           string     `json:"name"`
	Scope          string     `json:"scope"`           // enqueue, read, operate or admin
	OrganizationID *string    `json:"organization_id"` // nil: all
	CreatedBy      string     `json:"created_by"`
	CreatedAt      time.Time  `json:"created_at"`
	LastUsedAt     *time.Time `json:"last_used_at"` // to the minute
	ExpiresAt      *time.Time `json:"expires_at"`   // nil: never
	RevokedAt      *time.Time `json:"revoked_at"`
	Active         bool       `json:"active"` // neither expired nor revoked
}

func (t *Token) utc() {
	utc(&t.CreatedAt, t.LastUsedAt, t.ExpiresAt, t.RevokedAt)
}

// activeToken: by the database's clock.
const activeToken = `(t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > now()))`

const tokenColumns = `t.prefix, t.name, t.scope, t.organization_id, t.created_by, t.created_at, t.last_used_at, t.expires_at,
       t.revoked_at, ` + activeToken

func (t *Token) targets() []any {
	return []any{&t.Prefix, &t.Name, &t.Scope, &t.OrganizationID, &t.CreatedBy, &t.CreatedAt, &t.LastUsedAt, &t.ExpiresAt, &t.RevokedAt, &t.Active}
}

const addTokenSQL = `
INSERT INTO {schema}.tokens AS t (prefix, hash, name, scope, organization_id, created_by, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7))
RETURNING ` + tokenColumns

// AddToken stores a token: Prefix, Name, Scope, OrganizationID and CreatedBy are taken from t. It expires after lifetime, or
// never when that is 0.
func (s *Store) AddToken(ctx context.Context, t Token, hash []byte, lifetime time.Duration) (Token, error) {
	var after *float64
	if lifetime > 0 {
		after = null(seconds(lifetime))
	}
	var added Token
	err := s.db.QueryRow(ctx, s.sql(addTokenSQL), t.Prefix, hash, t.Name, t.Scope, t.OrganizationID, t.CreatedBy, after).Scan(added.targets()...)
	if err != nil {
		return Token{}, fmt.Errorf("store: add token: %w", err)
	}
	added.utc()
	return added, nil
}

// ErrNoToken is the answer of FindToken where there is no such token.
var ErrNoToken = errors.New("store: there is no such token")

const findTokenSQL = `SELECT ` + tokenColumns + `, t.hash FROM {schema}.tokens t WHERE t.prefix = $1`

// FindToken is the token of that prefix, and its hash. It fails with ErrNoToken when there is none.
func (s *Store) FindToken(ctx context.Context, prefix string) (t Token, hash []byte, err error) {
	err = s.db.QueryRow(ctx, s.sql(findTokenSQL), prefix).Scan(append(t.targets(), &hash)...)
	if errors.Is(err, pgx.ErrNoRows) {
		return Token{}, nil, ErrNoToken
	}
	if err != nil {
		return Token{}, nil, fmt.Errorf("store: find token: %w", err)
	}
	t.utc()
	return t, hash, nil
}

// touchTokenSQL waits for nobody: another node may be saying the same.
const touchTokenSQL = `
UPDATE {schema}.tokens t
   SET last_used_at = now()
 WHERE t.prefix = (SELECT x.prefix FROM {schema}.tokens x
                    WHERE x.prefix = $1 AND (x.last_used_at IS NULL OR x.last_used_at < now() - interval '1 minute')
                      FOR UPDATE SKIP LOCKED)`

// TouchToken notes that a token is used, at most once a minute.
func (s *Store) TouchToken(ctx context.Context, prefix string) error {
	if _, err := s.db.Exec(ctx, s.sql(touchTokenSQL), prefix); err != nil {
		return fmt.Errorf("store: touch token: %w", err)
	}
	return nil
}

const tokensSQL = `
SELECT ` + tokenColumns + `
  FROM {schema}.tokens t
 WHERE $1::text IS NULL OR t.organization_id = $1
 ORDER BY t.created_at DESC, t.prefix
 LIMIT $2`

// Tokens lists the tokens of an organization, or all when it is empty, the newest first: 10,000 at most.
func (s *Store) Tokens(ctx context.Context, organization string) ([]Token, error) {
	rows, err := s.db.Query(ctx, s.sql(tokensSQL), null(organization), maxSecretRows)
	if err != nil {
		return nil, fmt.Errorf("store: tokens: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t Token, err error) {
		err = row.Scan(t.targets()...)
		t.utc()
		return t, err
	})
	if err != nil {
		return nil, fmt.Errorf("store: tokens: %w", err)
	}
	return list, nil
}

const revokeTokenSQL = `
UPDATE {schema}.tokens t
   SET revoked_at = coalesce(t.revoked_at, now())
 WHERE t.prefix = $1 AND ($2::text IS NULL OR t.organization_id = $2)`

// RevokeToken ends a token, of that organization if one is given; found is false when there is none. Revoking it again
// changes nothing.
func (s *Store) RevokeToken(ctx context.Context, prefix, organization string) (found bool, err error) {
	tag, err := s.db.Exec(ctx, s.sql(revokeTokenSQL), prefix, null(organization))
	if err != nil {
		return false, fmt.Errorf("store: revoke token: %w", err)
	}
	return tag.RowsAffected() > 0, nil
}

const anyTokenSQL = `SELECT EXISTS (SELECT FROM {schema}.tokens t WHERE ` + activeToken + `)`

// AnyToken says whether there is a token that neither expired nor was revoked.
func (s *Store) AnyToken(ctx context.Context) (found bool, err error) {
	if err := s.db.QueryRow(ctx, s.sql(anyTokenSQL)).Scan(&found); err != nil {
		return false, fmt.Errorf("store: any token: %w", err)
	}
	return found, nil
}
