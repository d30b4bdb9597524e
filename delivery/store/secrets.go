package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Credential is a stored credential, without its secret.
type Credential struct {
	UUID           string    `json:"credential_uuid"`
	OrganizationID string    `json:"organization_id"`
	Name           string    `json:"name"`
	Type           string    `json:"type"`
	CreatedAt      time.Time `json:"created_at"`
	UpdatedAt      time.Time `json:"updated_at"`
}

// SealFunc seals a secret for the row of that uuid and organization.
type SealFunc func(uuid, organization string) ([]byte, error)

// CredentialUUIDError says that a credential has another uuid than the one that was wanted.
type CredentialUUIDError struct{ UUID string }

func (e *CredentialUUIDError) Error() string { return "this credential has the uuid " + e.UUID }

// ErrCredentialRace says that two callers set one credential at the same time, and this one lost.
var ErrCredentialRace = errors.New("somebody else is setting this credential right now: try again")

const lockCredentialSQL = `
SELECT credential_uuid::text FROM {schema}.credentials WHERE organization_id = $1 AND name = $2 FOR UPDATE`

const setCredentialSQL = `
INSERT INTO {schema}.credentials (credential_uuid, organization_id, name, type, sealed)
VALUES ($1::text::uuid, $2, $3, $4, $5)
    ON CONFLICT (organization_id, name) DO UPDATE SET type = excluded.type, sealed = excluded.sealed, updated_at = now()
RETURNING credential_uuid::text`

const newUUIDSQL = `SELECT gen_random_uuid()::text`

// SetCredential stores a credential. One of the same organization and name keeps its uuid, and with it the deliveries
// that name it: that is a rotation, and rotated says so. A new one gets wanted for its uuid (that of one that was removed,
// so that the deliveries which name it heal), or, when that is empty, a random one.
func (s *Store) SetCredential(ctx context.Context, organization, name, kind, wanted string, seal SealFunc) (uuid string, rotated bool, err error) {
	err = pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, s.sql(lockCredentialSQL), organization, name).Scan(&uuid)
		rotated = err == nil
		switch {
		case errors.Is(err, pgx.ErrNoRows) && wanted != "":
			uuid = wanted
		case errors.Is(err, pgx.ErrNoRows):
			err = tx.QueryRow(ctx, newUUIDSQL).Scan(&uuid)
			if err != nil {
				return err
			}
		case err != nil:
			return err
		case wanted != "" && wanted != uuid:
			return &CredentialUUIDError{UUID: uuid}
		}
		sealed, err := seal(uuid, organization)
		if err != nil {
			return err
		}
		var stored string
		if err := tx.QueryRow(ctx, s.sql(setCredentialSQL), uuid, organization, name, kind, sealed).Scan(&stored); err != nil {
			return err
		}
		if stored != uuid { // sealed for a uuid that lost the race: it could not be opened
			return ErrCredentialRace
		}
		return nil
	})
	if err != nil {
		return "", false, fmt.Errorf("store: set credential: %w", err)
	}
	return uuid, rotated, nil
}

const credentialsSQL = `
SELECT credential_uuid::text, organization_id, name, type, created_at, updated_at
  FROM {schema}.credentials
 WHERE $1::text IS NULL OR organization_id = $1
 ORDER BY organization_id, name
 LIMIT $2`

// maxSecretRows bounds lists of credentials and secrets.
const maxSecretRows = 10_000

// Credentials lists the credentials of an organization, or of all when it is empty: 10,000 at most.
func (s *Store) Credentials(ctx context.Context, organization string) ([]Credential, error) {
	rows, err := s.db.Query(ctx, s.sql(credentialsSQL), null(organization), maxSecretRows)
	if err != nil {
		return nil, fmt.Errorf("store: credentials: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Credential])
	if err != nil {
		return nil, fmt.Errorf("store: credentials: %w", err)
	}
	for i := range list {
		utc(&list[i].CreatedAt, &list[i].UpdatedAt)
	}
	return list, nil
}

const removeCredentialSQL = `DELETE FROM {schema}.credentials WHERE organization_id = $1 AND name = $2`

// RemoveCredential removes a credential; removed is false when there is none. Deliveries that name it fail until there is
// one of its uuid again.
func (s *Store) RemoveCredential(ctx context.Context, organization, name string) (removed bool, err error) {
	tag, err := s.db.Exec(ctx, s.sql(removeCredentialSQL), organization, name)
	if err != nil {
		return false, fmt.Errorf("store: remove credential: %w", err)
	}
	return tag.RowsAffected() > 0, nil
}

// SigningSecret is a stored signing secret.
type SigningSecret struct {
	UUID           string     `json:"secret_uuid"`
	OrganizationID string     `json:"organization_id"`
	EndpointOrigin *string    `json:"endpoint_origin"` // nil: every receiver that has none of its own
	CreatedAt      time.Time  `json:"created_at"`
	ExpiresAt      *time.Time `json:"expires_at"` // nil: never
	Active         bool       `json:"active"`
	Sealed         []byte     `json:"-"`
}

// Scope is whom a signing secret is for.
type Scope struct {
	Organization string
	Origin       string // empty: every receiver of the organization that has none of its own
}

const expireSecretsSQL = `
UPDATE {schema}.signing_secrets
   SET expires_at = now() + make_interval(secs => $3)
 WHERE organization_id = $1 AND endpoint_origin IS NOT DISTINCT FROM $2
   AND (expires_at IS NULL OR expires_at > now() + make_interval(secs => $3))`

const addSecretSQL = `
INSERT INTO {schema}.signing_secrets (secret_uuid, organization_id, endpoint_origin, sealed) VALUES ($1::text::uuid, $2, $3, $4)`

const activeSecretsSQL = `
SELECT count(*) FROM {schema}.signing_secrets
 WHERE organization_id = $1 AND endpoint_origin IS NOT DISTINCT FROM $2 AND (expires_at IS NULL OR expires_at > now())`

const lockSecretsSQL = `LOCK TABLE {schema}.signing_secrets IN SHARE ROW EXCLUSIVE MODE`

// ErrSecretExists says that a scope has an active signing secret already.
var ErrSecretExists = errors.New("store: there is a signing secret already")

// AddSecret stores a signing secret. With rotate, those that the scope has expire after overlap, until when deliveries are
// signed with all of them; without it, a scope that has one is ErrSecretExists.
func (s *Store) AddSecret(ctx context.Context, scope Scope, rotate bool, overlap time.Duration, seal SealFunc) (uuid string, err error) {
	err = pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, s.sql(lockSecretsSQL)); err != nil {
			return err
		}
		var active int
		if err := tx.QueryRow(ctx, s.sql(activeSecretsSQL), scope.Organization, null(scope.Origin)).Scan(&active); err != nil {
			return err
		}
		if active > 0 && !rotate {
			return ErrSecretExists
		}
		if _, err := tx.Exec(ctx, s.sql(expireSecretsSQL), scope.Organization, null(scope.Origin), seconds(overlap)); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, newUUIDSQL).Scan(&uuid); err != nil {
			return err
		}
		sealed, err := seal(uuid, scope.Organization)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, s.sql(addSecretSQL), uuid, scope.Organization, null(scope.Origin), sealed)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("store: add signing secret: %w", err)
	}
	return uuid, nil
}

// expireOldSecretsSQL ends all of a scope's secrets but the newest, or all.
const expireOldSecretsSQL = `
UPDATE {schema}.signing_secrets x
   SET expires_at = now()
 WHERE x.organization_id = $1 AND x.endpoint_origin IS NOT DISTINCT FROM $2 AND (x.expires_at IS NULL OR x.expires_at > now())
   AND ($3 OR x.secret_uuid <> (SELECT n.secret_uuid FROM {schema}.signing_secrets n
                                 WHERE n.organization_id = $1 AND n.endpoint_origin IS NOT DISTINCT FROM $2
                                 ORDER BY n.created_at DESC, n.secret_uuid LIMIT 1))`

// ExpireSecrets ends a scope's secrets at once: those that a rotation left, or, with all, every one. It returns how many.
func (s *Store) ExpireSecrets(ctx context.Context, scope Scope, all bool) (int, error) {
	tag, err := s.db.Exec(ctx, s.sql(expireOldSecretsSQL), scope.Organization, null(scope.Origin), all)
	if err != nil {
		return 0, fmt.Errorf("store: expire signing secrets: %w", err)
	}
	return int(tag.RowsAffected()), nil
}

const secretsSQL = `
SELECT secret_uuid::text, organization_id, endpoint_origin, created_at, expires_at, expires_at IS NULL OR expires_at > now(), sealed
  FROM {schema}.signing_secrets
 WHERE $1::text IS NULL OR organization_id = $1
 ORDER BY organization_id, endpoint_origin NULLS FIRST, created_at DESC
 LIMIT $2`

// Secrets lists the signing secrets of an organization, or of all when it is empty, expired ones included: 10,000 at most.
func (s *Store) Secrets(ctx context.Context, organization string) ([]SigningSecret, error) {
	rows, err := s.db.Query(ctx, s.sql(secretsSQL), null(organization), maxSecretRows)
	if err != nil {
		return nil, fmt.Errorf("store: signing secrets: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[SigningSecret])
	if err != nil {
		return nil, fmt.Errorf("store: signing secrets: %w", err)
	}
	for i := range list {
		utc(&list[i].CreatedAt, list[i].ExpiresAt)
	}
	return list, nil
}

const sealedSQL = `
SELECT 'credential' AS kind, credential_uuid::text AS uuid, organization_id, sealed FROM {schema}.credentials WHERE sealed IS NOT NULL
 UNION ALL
SELECT 'secret', secret_uuid::text, organization_id, sealed FROM {schema}.signing_secrets`

const resealCredentialSQL = `UPDATE {schema}.credentials SET sealed = $3 WHERE credential_uuid = $1::text::uuid AND sealed = $2`

const resealSecretSQL = `UPDATE {schema}.signing_secrets SET sealed = $3 WHERE secret_uuid = $1::text::uuid AND sealed = $2`

// Sealed is one sealed cell of the database.
type Sealed struct {
	Kind           string // "credential" or "secret"
	UUID           string
	OrganizationID string
	Cell           []byte
}

// SealedCells reads every sealed cell.
func (s *Store) SealedCells(ctx context.Context) ([]Sealed, error) {
	rows, err := s.db.Query(ctx, s.sql(sealedSQL))
	if err != nil {
		return nil, fmt.Errorf("store: sealed cells: %w", err)
	}
	cells, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Sealed])
	if err != nil {
		return nil, fmt.Errorf("store: sealed cells: %w", err)
	}
	return cells, nil
}

// Reseal replaces a cell by another one of the same secret, unless it was changed meanwhile.
func (s *Store) Reseal(ctx context.Context, old Sealed, cell []byte) error {
	statement := resealCredentialSQL
	if old.Kind == "secret" {
		statement = resealSecretSQL
	}
	if _, err := s.db.Exec(ctx, s.sql(statement), old.UUID, old.Cell, cell); err != nil {
		return fmt.Errorf("store: reseal: %w", err)
	}
	return nil
}
