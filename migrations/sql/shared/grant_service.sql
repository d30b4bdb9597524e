-- Who is a service (it may delete credentials) may use the new table too.
DO $grant$
DECLARE
    service regrole;
BEGIN
    FOR service IN
        SELECT DISTINCT a.grantee::regrole
          FROM pg_class c, aclexplode(c.relacl) a
         WHERE c.oid = '{{.schema}}.credentials'::regclass AND a.privilege_type = 'DELETE' AND a.grantee <> 0
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %s', '{{.schema}}.{{.table}}', service);
    END LOOP;
END
$grant$;
