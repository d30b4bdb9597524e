-- Who is logged in to the dashboard.
SET LOCAL lock_timeout = '2s';

CREATE TABLE {{.schema}}.sessions (
    session_hash bytea       PRIMARY KEY,
    token_prefix text,
    token_proof  bytea       NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL,

    CONSTRAINT sessions_length_check CHECK (octet_length(session_hash) = 32 AND octet_length(token_proof) = 32)
) WITH (autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX sessions_expires_idx ON {{.schema}}.sessions (expires_at);

COMMENT ON TABLE  {{.schema}}.sessions              IS 'Who is logged in to the dashboard, until expires_at. What a browser keeps is nowhere.';
COMMENT ON COLUMN {{.schema}}.sessions.session_hash IS 'SHA-256 of what the browser keeps.';
COMMENT ON COLUMN {{.schema}}.sessions.token_prefix IS 'Of the token that was entered; null: the one of RIVERHOOK_API_TOKEN.';
COMMENT ON COLUMN {{.schema}}.sessions.token_proof  IS 'HMAC-SHA-256 of that token''s SHA-256 under what the browser keeps: a session ends with its token.';

{{ template "shared/grant_service.sql" dict "schema" .schema "schema_name" .schema_name "table" "sessions" }}
INSERT INTO {{.schema}}.schema_migrations (version, name, oldest_program) VALUES (12, 'sessions', 1);

---- create above / drop below ----

SET LOCAL lock_timeout = '2s';
DROP TABLE {{.schema}}.sessions;
DELETE FROM {{.schema}}.schema_migrations WHERE version = 12;
