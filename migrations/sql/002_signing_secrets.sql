-- Signing secrets (Standard Webhooks), sealed like credentials.
SET LOCAL lock_timeout = '2s';

CREATE TABLE {{.schema}}.signing_secrets (
    secret_uuid     uuid        PRIMARY KEY,
    organization_id text        NOT NULL,
    endpoint_origin text,
    sealed          bytea       NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    expires_at      timestamptz
);

CREATE INDEX signing_secrets_scope_idx ON {{.schema}}.signing_secrets (organization_id, endpoint_origin);

COMMENT ON TABLE  {{.schema}}.signing_secrets                 IS 'What deliveries are signed with: those of their origin, or else those of their organization without an origin.';
COMMENT ON COLUMN {{.schema}}.signing_secrets.endpoint_origin IS 'As deliveries.endpoint_origin; null: every receiver of the organization that has none of its own.';
COMMENT ON COLUMN {{.schema}}.signing_secrets.expires_at      IS 'Set by a rotation: deliveries are signed with it, too, until then.';

{{ template "shared/grant_service.sql" dict "schema" .schema "schema_name" .schema_name "table" "signing_secrets" }}
INSERT INTO {{.schema}}.schema_migrations (version, name, oldest_program) VALUES (2, 'signing_secrets', 1);

---- create above / drop below ----

SET LOCAL lock_timeout = '2s';
DROP TABLE {{.schema}}.signing_secrets;
DELETE FROM {{.schema}}.schema_migrations WHERE version = 2;
