-- How each receiver does, as all nodes together see it, and when which event about it was last sent.
SET LOCAL lock_timeout = '2s';

CREATE TABLE {{.schema}}.origin_states (
    endpoint_origin     text        PRIMARY KEY,
    failures            int         NOT NULL DEFAULT 0,
    failing             boolean     NOT NULL DEFAULT false,
    failing_since       timestamptz,
    last_delivery_id    bigint,
    last_failure_kind   text,
    last_status_code    int,
    failing_sent_at     timestamptz,
    failing_count       int         NOT NULL DEFAULT 0,
    recovered_sent_at   timestamptz,
    recovered_count     int         NOT NULL DEFAULT 0,
    dead_letter_sent_at timestamptz,
    dead_letter_count   int         NOT NULL DEFAULT 0,
    updated_at          timestamptz NOT NULL DEFAULT now()
);

-- Few rows are in these: every node asks for them every few seconds.
CREATE INDEX origin_states_failures_idx ON {{.schema}}.origin_states (endpoint_origin) WHERE failures > 0;
CREATE INDEX origin_states_failing_idx  ON {{.schema}}.origin_states (failing_since) WHERE failing;
CREATE INDEX origin_states_unsent_idx   ON {{.schema}}.origin_states (endpoint_origin) WHERE failing_count > 0 OR recovered_count > 0 OR dead_letter_count > 0;
CREATE INDEX origin_states_updated_idx  ON {{.schema}}.origin_states (updated_at);

COMMENT ON TABLE  {{.schema}}.origin_states                 IS 'Receivers whose deliveries have failed lately. A row is forgotten a day after its receiver recovered, or a week after nothing was sent any more.';
COMMENT ON COLUMN {{.schema}}.origin_states.endpoint_origin IS 'As deliveries.endpoint_origin; empty: of endpoints that have none.';
COMMENT ON COLUMN {{.schema}}.origin_states.failures        IS 'Attempts in a row that failed, of all nodes, as far as they have said so.';
COMMENT ON COLUMN {{.schema}}.origin_states.failing_since   IS 'Since when it is failing, or was the last time.';
COMMENT ON COLUMN {{.schema}}.origin_states.failing_count   IS 'How often it happened since the last event of that kind: those that are not told yet. Likewise the other two.';

{{ template "shared/grant_service.sql" dict "schema" .schema "schema_name" .schema_name "table" "origin_states" }}
INSERT INTO {{.schema}}.schema_migrations (version, name, oldest_program) VALUES (10, 'origin_states', 1);

---- create above / drop below ----

SET LOCAL lock_timeout = '2s';
DROP TABLE {{.schema}}.origin_states;
DELETE FROM {{.schema}}.schema_migrations WHERE version = 10;
