-- The trace that a delivery belongs to.
SET LOCAL lock_timeout = '2s';

ALTER TABLE {{.schema}}.deliveries ADD COLUMN traceparent text;

COMMENT ON COLUMN {{.schema}}.deliveries.traceparent IS 'W3C trace context of what caused it: attempts continue that trace. What is not valid is ignored.';

-- Who is an application (it may insert endpoint_url by a right on that column) may insert this one too.
DO $grant$
DECLARE
    application regrole;
BEGIN
    FOR application IN
        SELECT DISTINCT a.grantee::regrole
          FROM pg_attribute t, aclexplode(t.attacl) a
         WHERE t.attrelid = '{{.schema}}.deliveries'::regclass AND t.attname = 'endpoint_url' AND a.privilege_type = 'INSERT' AND a.grantee <> 0
    LOOP
        EXECUTE format('GRANT INSERT (traceparent) ON {{.schema}}.deliveries TO %s', application);
    END LOOP;
END
$grant$;

INSERT INTO {{.schema}}.schema_migrations (version, name, oldest_program) VALUES (11, 'traceparent', 1);

---- create above / drop below ----

SET LOCAL lock_timeout = '2s';
ALTER TABLE {{.schema}}.deliveries DROP COLUMN traceparent;
DELETE FROM {{.schema}}.schema_migrations WHERE version = 11;
