-- What the HTTP API keeps: tokens and idempotency keys.
SET LOCAL lock_timeout = '2s';

CREATE TABLE {{.schema}}.tokens (
    prefix          text        PRIMARY KEY,
    hash            bytea       NOT NULL,
    name            text        NOT NULL,
    scope           text        NOT NULL,
    organization_id text,
    created_by      text        NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    last_used_at    timestamptz,
    expires_at      timestamptz,
    revoked_at      timestamptz,

    CONSTRAINT tokens_scope_check  CHECK (scope IN ('enqueue', 'read', 'operate', 'admin')),
    CONSTRAINT tokens_hash_check   CHECK (octet_length(hash) = 32),
    CONSTRAINT tokens_length_check CHECK (octet_length(name) <= 800 AND octet_length(organization_id) <= 800)
);

COMMENT ON TABLE  {{.schema}}.tokens                 IS 'Who may use the HTTP API. The token itself is nowhere: it was printed once.';
COMMENT ON COLUMN {{.schema}}.tokens.prefix          IS 'How the token begins: it is found by it, and it is no secret.';
COMMENT ON COLUMN {{.schema}}.tokens.hash            IS 'SHA-256 of the whole token, which is random enough to need no salt.';
COMMENT ON COLUMN {{.schema}}.tokens.organization_id IS 'The one organization whose rows it sees; null: all.';
COMMENT ON COLUMN {{.schema}}.tokens.last_used_at    IS 'To the minute.';

-- Small and short-lived: a row a keyed request, for a day.
CREATE TABLE {{.schema}}.idempotency_keys (
    organization_id text        NOT NULL,
    key             text        NOT NULL,
    request_hash    bytea       NOT NULL,
    answer          json        NOT NULL,
    expires_at      timestamptz NOT NULL,

    PRIMARY KEY (organization_id, key),
    CONSTRAINT idempotency_keys_length_check CHECK (octet_length(organization_id) <= 800 AND octet_length(key) <= 800)
) WITH (autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX idempotency_keys_expires_idx ON {{.schema}}.idempotency_keys (expires_at);

COMMENT ON TABLE  {{.schema}}.idempotency_keys        IS 'Requests of the HTTP API that had an Idempotency-Key, and their answers, until expires_at.';
COMMENT ON COLUMN {{.schema}}.idempotency_keys.answer IS 'Written in the transaction that inserted the deliveries.';

{{ template "shared/grant_service.sql" dict "schema" .schema "schema_name" .schema_name "table" "tokens" }}
{{ template "shared/grant_service.sql" dict "schema" .schema "schema_name" .schema_name "table" "idempotency_keys" }}
INSERT INTO {{.schema}}.schema_migrations (version, name, oldest_program) VALUES (6, 'api', 1);

---- create above / drop below ----

SET LOCAL lock_timeout = '2s';
DROP TABLE {{.schema}}.tokens, {{.schema}}.idempotency_keys;
DELETE FROM {{.schema}}.schema_migrations WHERE version = 6;
