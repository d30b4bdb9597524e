package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Session is somebody who is logged in to the dashboard.
type Session struct {
	Hash        []byte // SHA-256 of what the browser keeps
	TokenPrefix string // of the token that was entered; empty: the one of the settings
	TokenProof  []byte // shows which token that was to who knows what the browser keeps, and to nobody else
}

// expiredPage is how many sessions that have expired go when another one begins.
const expiredPage = 100

const addSessionSQL = `
WITH expired AS (
    DELETE FROM {schema}.sessions s
     WHERE s.session_hash IN (SELECT x.session_hash FROM {schema}.sessions x WHERE x.expires_at <= now() ORDER BY x.expires_at LIMIT $5 FOR UPDATE SKIP LOCKED)
)
INSERT INTO {schema}.sessions (session_hash, token_prefix, token_proof, expires_at)
VALUES ($1, $2, $3, now() + make_interval(secs => $4))`

// AddSession stores a session, which expires after lifetime. Some that have expired go.
func (s *Store) AddSession(ctx context.Context, session Session, lifetime time.Duration) error {
	_, err := s.db.Exec(ctx, s.sql(addSessionSQL), session.Hash, null(session.TokenPrefix), session.TokenProof, seconds(lifetime), expiredPage)
	if err != nil {
		return fmt.Errorf("store: add session: %w", err)
	}
	return nil
}

// ErrNoSession is the answer of FindSession where there is no such session, or it has expired.
var ErrNoSession = errors.New("store: there is no such session")

const findSessionSQL = `
SELECT s.session_hash, coalesce(s.token_prefix, ''), s.token_proof FROM {schema}.sessions s WHERE s.session_hash = $1 AND s.expires_at > now()`

// FindSession is the session of that hash. It fails with ErrNoSession when there is none.
func (s *Store) FindSession(ctx context.Context, hash []byte) (session Session, err error) {
	err = s.db.QueryRow(ctx, s.sql(findSessionSQL), hash).Scan(&session.Hash, &session.TokenPrefix, &session.TokenProof)
	if errors.Is(err, pgx.ErrNoRows) {
		return Session{}, ErrNoSession
	}
	if err != nil {
		return Session{}, fmt.Errorf("store: find session: %w", err)
	}
	return session, nil
}

const endSessionSQL = `DELETE FROM {schema}.sessions s WHERE s.session_hash = $1`

// EndSession ends a session. One that is not there has ended.
func (s *Store) EndSession(ctx context.Context, hash []byte) error {
	if _, err := s.db.Exec(ctx, s.sql(endSessionSQL), hash); err != nil {
		return fmt.Errorf("store: end session: %w", err)
	}
	return nil
}
