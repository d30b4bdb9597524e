---- tern: disable-tx ----
-- Indexes for retention and for lists. They are built CONCURRENTLY, which no INSERT waits for, and so outside of a
-- transaction. Each statement can be repeated, since a build that was interrupted leaves an invalid index behind. A build
-- waits for the transactions that are open when it begins, without being in anyone's way, and gives up after lock_timeout.
SET lock_timeout = '5min';

-- What retention removes, the oldest first. Two indexes, so that neither walks through what the other one is for: dead
-- letters may stay for ever.
DROP INDEX CONCURRENTLY IF EXISTS {{.schema}}.deliveries_done_idx;
CREATE INDEX CONCURRENTLY deliveries_done_idx ON {{.schema}}.deliveries (finished_at) WHERE status IN ('succeeded', 'canceled');
DROP INDEX CONCURRENTLY IF EXISTS {{.schema}}.deliveries_dead_letter_idx;
CREATE INDEX CONCURRENTLY deliveries_dead_letter_idx ON {{.schema}}.deliveries (finished_at) WHERE status = 'dead_letter';
DROP INDEX CONCURRENTLY IF EXISTS {{.schema}}.deliveries_finished_idx;

-- Lists of dead letters, by receiver and by tenant.
DROP INDEX CONCURRENTLY IF EXISTS {{.schema}}.deliveries_dead_letter_origin_idx;
CREATE INDEX CONCURRENTLY deliveries_dead_letter_origin_idx ON {{.schema}}.deliveries (endpoint_origin, id) WHERE status = 'dead_letter';
DROP INDEX CONCURRENTLY IF EXISTS {{.schema}}.deliveries_dead_letter_org_idx;
CREATE INDEX CONCURRENTLY deliveries_dead_letter_org_idx ON {{.schema}}.deliveries (organization_id, id) WHERE status = 'dead_letter';

INSERT INTO {{.schema}}.schema_migrations (version, name, oldest_program) VALUES (3, 'retention_and_lists', 1) ON CONFLICT (version) DO NOTHING;

---- create above / drop below ----

---- tern: disable-tx ----
SET lock_timeout = '5min';

DROP INDEX CONCURRENTLY IF EXISTS {{.schema}}.deliveries_finished_idx;
CREATE INDEX CONCURRENTLY deliveries_finished_idx ON {{.schema}}.deliveries (finished_at) WHERE finished_at IS NOT NULL;
DROP INDEX CONCURRENTLY IF EXISTS {{.schema}}.deliveries_done_idx;
DROP INDEX CONCURRENTLY IF EXISTS {{.schema}}.deliveries_dead_letter_idx;
DROP INDEX CONCURRENTLY IF EXISTS {{.schema}}.deliveries_dead_letter_origin_idx;
DROP INDEX CONCURRENTLY IF EXISTS {{.schema}}.deliveries_dead_letter_org_idx;
DELETE FROM {{.schema}}.schema_migrations WHERE version = 3;
