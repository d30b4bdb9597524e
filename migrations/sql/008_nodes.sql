-- Who is alive. A node holds the session advisory lock (this table's oid, its lock_number) for as long as it lives and the
-- database can know it; its peers look that up in pg_locks.
SET LOCAL lock_timeout = '2s';

CREATE TABLE {{.schema}}.nodes (
    node         text        PRIMARY KEY,
    lock_number  int         GENERATED ALWAYS AS IDENTITY,
    version      text        NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT now(),
    seen_at      timestamptz NOT NULL DEFAULT now(),
    swept_at     timestamptz,
    taken_at     timestamptz,
    dead_at      timestamptz,
    reclaimed_at timestamptz
);

COMMENT ON TABLE  {{.schema}}.nodes              IS 'The running riverhook processes, and those of the last hour that did not stop in order.';
COMMENT ON COLUMN {{.schema}}.nodes.node         IS 'As deliveries.claimed_by and attempts.node: new at each start.';
COMMENT ON COLUMN {{.schema}}.nodes.lock_number  IS 'The second number of its advisory lock; the first is this table''s oid.';
COMMENT ON COLUMN {{.schema}}.nodes.version      IS 'Of the program.';
COMMENT ON COLUMN {{.schema}}.nodes.seen_at      IS 'When it last looked after its peers, every few seconds. For people: nothing is decided by it.';
COMMENT ON COLUMN {{.schema}}.nodes.swept_at     IS 'When it last finished a sweep.';
COMMENT ON COLUMN {{.schema}}.nodes.taken_at     IS 'When it last took its lock. Null: it has none (behind a pooler), and only leases say whether it lives.';
COMMENT ON COLUMN {{.schema}}.nodes.dead_at      IS 'Since when it is known not to be there: what it had claimed is taken back. Null: alive, or not yet known to be dead.';
COMMENT ON COLUMN {{.schema}}.nodes.reclaimed_at IS 'When all that it had claimed was taken back.';

{{ template "shared/grant_service.sql" dict "schema" .schema "schema_name" .schema_name "table" "nodes" }}
INSERT INTO {{.schema}}.schema_migrations (version, name, oldest_program) VALUES (8, 'nodes', 1);

---- create above / drop below ----

SET LOCAL lock_timeout = '2s';
DROP TABLE {{.schema}}.nodes;
DELETE FROM {{.schema}}.schema_migrations WHERE version = 8;
