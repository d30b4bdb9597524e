-- What people hold back.
SET LOCAL lock_timeout = '2s';

CREATE TABLE {{.schema}}.pauses (
    pause_id        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    endpoint_origin text,
    organization_id text,
    reason          text,
    created_at      timestamptz NOT NULL DEFAULT now()
);

-- One pause of the same. (NULLS NOT DISTINCT came with PostgreSQL 15.)
CREATE UNIQUE INDEX pauses_scope_key ON {{.schema}}.pauses (coalesce(endpoint_origin, ''), coalesce(organization_id, ''));

COMMENT ON TABLE  {{.schema}}.pauses                 IS 'Deliveries that are held back by hand: those that match all of what is not null. A row with neither holds everything.';
COMMENT ON COLUMN {{.schema}}.pauses.endpoint_origin IS 'As deliveries.endpoint_origin; null: of every receiver.';
COMMENT ON COLUMN {{.schema}}.pauses.organization_id IS 'Null: of every organization.';
COMMENT ON COLUMN {{.schema}}.pauses.reason          IS 'For people.';

{{ template "shared/grant_service.sql" dict "schema" .schema "schema_name" .schema_name "table" "pauses" }}
INSERT INTO {{.schema}}.schema_migrations (version, name, oldest_program) VALUES (5, 'pauses', 1);

---- create above / drop below ----

SET LOCAL lock_timeout = '2s';
DROP TABLE {{.schema}}.pauses;
DELETE FROM {{.schema}}.schema_migrations WHERE version = 5;
