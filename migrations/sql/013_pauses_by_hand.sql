-- Pauses that are inserted by SQL hold back what they say, or are refused.
SET LOCAL lock_timeout = '2s';

-- An empty name was all, as null is; of another form of an origin, or longer than a delivery may name it, there are no deliveries.
UPDATE {{.schema}}.pauses SET endpoint_origin = nullif(endpoint_origin, ''), organization_id = nullif(organization_id, ''), reason = left(reason, 500)
 WHERE endpoint_origin = '' OR organization_id = '' OR octet_length(reason) > 2000;
DELETE FROM {{.schema}}.pauses
 WHERE octet_length(endpoint_origin) > 1200 OR octet_length(organization_id) > 800
    OR NOT (endpoint_origin ~ '^https?://[^/?#@[:space:]]+$' AND endpoint_origin !~ '[A-Z]' AND endpoint_origin !~ '^(http://.*:80|https://.*:443)$');

ALTER TABLE {{.schema}}.pauses
    ADD CONSTRAINT pauses_origin_check CHECK (
        endpoint_origin ~ '^https?://[^/?#@[:space:]]+$' AND endpoint_origin !~ '[A-Z]' AND endpoint_origin !~ '^(http://.*:80|https://.*:443)$'
    ),
    ADD CONSTRAINT pauses_organization_check CHECK (organization_id <> ''),
    ADD CONSTRAINT pauses_length_check CHECK (
        octet_length(endpoint_origin) <= 1200 AND octet_length(organization_id) <= 800 AND octet_length(reason) <= 2000
    );

-- Every node looks at all of them every second. One that only gets another reason is not among those that were inserted.
CREATE FUNCTION {{.schema}}.pauses_bound() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM inserted) THEN
        PERFORM pg_advisory_xact_lock(TG_RELID::int, 0); -- one at a time, so that none counts without the others
        IF (SELECT count(*) FROM {{.schema}}.pauses) > 1000 THEN
            RAISE EXCEPTION 'there would be more than 1000 pauses' USING ERRCODE = 'program_limit_exceeded',
                HINT = 'end some, or pause a whole origin or organization';
        END IF;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER pauses_bound AFTER INSERT ON {{.schema}}.pauses REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT
    EXECUTE FUNCTION {{.schema}}.pauses_bound();

COMMENT ON COLUMN {{.schema}}.pauses.endpoint_origin IS 'As deliveries.endpoint_origin, such as https://example.com: lower case, no path, no default port; null: of every receiver.';

INSERT INTO {{.schema}}.schema_migrations (version, name, oldest_program) VALUES (13, 'pauses_by_hand', 1);

---- create above / drop below ----

SET LOCAL lock_timeout = '2s';
DROP TRIGGER pauses_bound ON {{.schema}}.pauses;
DROP FUNCTION {{.schema}}.pauses_bound();
ALTER TABLE {{.schema}}.pauses DROP CONSTRAINT pauses_origin_check, DROP CONSTRAINT pauses_organization_check, DROP CONSTRAINT pauses_length_check;
DELETE FROM {{.schema}}.schema_migrations WHERE version = 13;
