---- tern: disable-tx ----
-- What is held back, and River's indexes that nothing uses. As 003: concurrently, outside of a transaction, repeatable.
SET lock_timeout = '5min';

ALTER TABLE {{.schema}}.deliveries ADD COLUMN IF NOT EXISTS held_reason text;
COMMENT ON COLUMN {{.schema}}.deliveries.held_reason IS 'Why it is held: paused, no_answer, failing or crowded. Where held_since is null it says nothing.';

-- What is held, by whom it is for: nodes pull from it. A claim leaves held_since as it is, null, and so its row on its page.
DROP INDEX CONCURRENTLY IF EXISTS {{.schema}}.deliveries_held_idx;
CREATE INDEX CONCURRENTLY deliveries_held_idx ON {{.schema}}.deliveries (endpoint_origin, organization_id, scheduled_for, id)
    WHERE status = 'pending' AND held_since IS NOT NULL;

-- Three of the seven indexes that each state of each job is written into. River does not read these; River UI searches a
-- table that is small here, since jobs do not outlast their attempt.
DROP INDEX CONCURRENTLY IF EXISTS {{.schema}}.river_job_args_index;
DROP INDEX CONCURRENTLY IF EXISTS {{.schema}}.river_job_metadata_index;
DROP INDEX CONCURRENTLY IF EXISTS {{.schema}}.river_job_kind;

INSERT INTO {{.schema}}.schema_migrations (version, name, oldest_program) VALUES (4, 'held', 1) ON CONFLICT (version) DO NOTHING;

---- create above / drop below ----

---- tern: disable-tx ----
SET lock_timeout = '5min';

DROP INDEX CONCURRENTLY IF EXISTS {{.schema}}.river_job_kind;
CREATE INDEX CONCURRENTLY river_job_kind ON {{.schema}}.river_job (kind);
DROP INDEX CONCURRENTLY IF EXISTS {{.schema}}.river_job_metadata_index;
CREATE INDEX CONCURRENTLY river_job_metadata_index ON {{.schema}}.river_job USING gin (metadata);
DROP INDEX CONCURRENTLY IF EXISTS {{.schema}}.river_job_args_index;
CREATE INDEX CONCURRENTLY river_job_args_index ON {{.schema}}.river_job USING gin (args);
DROP INDEX CONCURRENTLY IF EXISTS {{.schema}}.deliveries_held_idx;
SET lock_timeout = '2s';
ALTER TABLE {{.schema}}.deliveries DROP COLUMN IF EXISTS held_reason;
DELETE FROM {{.schema}}.schema_migrations WHERE version = 4;
