-- Pauses that are inserted by SQL hold back what they say, or are refused.
SET LOCAL lock_timeout = '2s';

-- Rows of before may be otherwise; they hold back what they did.
ALTER TABLE {{.schema}}.pauses
    ADD CONSTRAINT pauses_origin_check CHECK (
        endpoint_origin ~ '^https?://[^/?#@[:space:]]+$' AND endpoint_origin !~ '[A-Z]' AND endpoint_origin !~ '^(http://.*:80|https://.*:443)$'
    ) NOT VALID,
    ADD CONSTRAINT pauses_organization_check CHECK (organization_id <> '') NOT VALID,
    ADD CONSTRAINT pauses_length_check CHECK (
        octet_length(endpoint_origin) <= 1200 AND octet_length(organization_id) <= 800 AND octet_length(reason) <= 2000
    ) NOT VALID;

-- Every node looks at all of them every second.
CREATE FUNCTION {{.schema}}.pauses_bound() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (SELECT count(*) FROM {{.schema}}.pauses) > 1000 THEN
        RAISE EXCEPTION 'there would be more than 1000 pauses' USING ERRCODE = 'program_limit_exceeded',
            HINT = 'end some, or pause a whole origin or organization';
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER pauses_bound AFTER INSERT ON {{.schema}}.pauses FOR EACH STATEMENT EXECUTE FUNCTION {{.schema}}.pauses_bound();

COMMENT ON COLUMN {{.schema}}.pauses.endpoint_origin IS 'As deliveries.endpoint_origin, such as https://example.com: lower case, no path, no default port; null: of every receiver.';

INSERT INTO {{.schema}}.schema_migrations (version, name, oldest_program) VALUES (13, 'pauses_by_hand', 1);

---- create above / drop below ----

SET LOCAL lock_timeout = '2s';
DROP TRIGGER pauses_bound ON {{.schema}}.pauses;
DROP FUNCTION {{.schema}}.pauses_bound();
ALTER TABLE {{.schema}}.pauses DROP CONSTRAINT pauses_origin_check, DROP CONSTRAINT pauses_organization_check, DROP CONSTRAINT pauses_length_check;
DELETE FROM {{.schema}}.schema_migrations WHERE version = 13;
