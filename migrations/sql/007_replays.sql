-- Replays of many deliveries by a filter, in the background: what is to be done, how far it is, and who wanted it.
SET LOCAL lock_timeout = '2s';

CREATE TABLE {{.schema}}.replays (
    id              bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id text,
    filter          jsonb       NOT NULL,
    pace            int         NOT NULL,
    created_by      text        NOT NULL,
    status          text        NOT NULL DEFAULT 'pending',
    matched         bigint      NOT NULL,
    done            bigint      NOT NULL DEFAULT 0,
    after_id        bigint      NOT NULL,
    up_to_id        bigint      NOT NULL,
    claimed_by      text,
    leased_until    timestamptz,
    last_error      text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    finished_at     timestamptz,

    CONSTRAINT replays_status_check CHECK (status IN ('pending', 'running', 'succeeded', 'canceled')),
    CONSTRAINT replays_pace_check   CHECK (pace > 0),
    CONSTRAINT replays_length_check CHECK (octet_length(organization_id) <= 800)
);

CREATE INDEX replays_unfinished_idx ON {{.schema}}.replays (id) WHERE finished_at IS NULL;
CREATE INDEX replays_org_idx        ON {{.schema}}.replays (organization_id, id);

COMMENT ON TABLE  {{.schema}}.replays                 IS 'Replays of many deliveries: who wanted which, when, and how far it is. Rows stay: they are the record of it.';
COMMENT ON COLUMN {{.schema}}.replays.organization_id IS 'The one organization whose deliveries it may touch; null: all.';
COMMENT ON COLUMN {{.schema}}.replays.pace            IS 'Deliveries a second.';
COMMENT ON COLUMN {{.schema}}.replays.matched         IS 'How many deliveries the filter matched when it was asked for.';
COMMENT ON COLUMN {{.schema}}.replays.after_id        IS 'How far it is: deliveries up to this id are done. It changes in the transaction that replays them.';
COMMENT ON COLUMN {{.schema}}.replays.up_to_id        IS 'The newest delivery when it was asked for: later ones are not replayed.';

{{ template "shared/grant_service.sql" dict "schema" .schema "schema_name" .schema_name "table" "replays" }}
INSERT INTO {{.schema}}.schema_migrations (version, name, oldest_program) VALUES (7, 'replays', 1);

---- create above / drop below ----

SET LOCAL lock_timeout = '2s';
DELETE FROM {{.schema}}.river_job WHERE kind = 'riverhook_replay';
DROP TABLE {{.schema}}.replays;
DELETE FROM {{.schema}}.schema_migrations WHERE version = 7;
