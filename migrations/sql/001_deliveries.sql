-- The public contract: deliveries, attempts, credentials, and the triggers that turn rows into River jobs.
-- River's own tables are already there when this runs.
SET LOCAL lock_timeout = '2s';

-- Which migrations this schema has had, and the oldest program that can live with each: a program whose newest
-- migration is lower than oldest_program must not serve.
CREATE TABLE {{.schema}}.schema_migrations (
    version        int         PRIMARY KEY,
    name           text        NOT NULL,
    oldest_program int         NOT NULL,
    applied_at     timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE {{.schema}}.deliveries (
    id               bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    delivery_uuid    uuid        NOT NULL DEFAULT gen_random_uuid(),
    organization_id  text        NOT NULL DEFAULT 'default',
    workflow_run_id  text,
    webhook_node_id  text,
    webhook_name     text,
    endpoint_url     text        NOT NULL,
    -- Scheme, host and port, lower case, without userinfo and without the scheme's default port. Null when the URL
    -- has no such beginning (what is no port may be half a password): the attempt parks that row as invalid. Cut at 300 characters (a host name has 253 at
    -- most): a longer one could not be indexed, and would fail the application's INSERT.
    -- The first two cases are what nearly every URL is and say the same as the last, in a fifth of its time: Postgres computes
    -- this anew at every UPDATE of a table that has BEFORE UPDATE triggers. (A test compares them.)
    endpoint_origin  text        GENERATED ALWAYS AS (
        left(CASE
        WHEN split_part(endpoint_url, '/', 1) IN ('http:', 'https:') AND split_part(endpoint_url, '/', 2) = ''
         AND split_part(endpoint_url, '/', 3) <> '' AND ltrim(split_part(endpoint_url, '/', 3), 'abcdefghijklmnopqrstuvwxyz0123456789.-') = ''
        THEN split_part(endpoint_url, '/', 1) || '//' || split_part(endpoint_url, '/', 3)
        WHEN split_part(endpoint_url, '/', 1) IN ('http:', 'https:') AND split_part(endpoint_url, '/', 2) = ''
         AND split_part(endpoint_url, '/', 3) = split_part(split_part(endpoint_url, '/', 3), ':', 1) || ':' || split_part(split_part(endpoint_url, '/', 3), ':', 2)
         AND split_part(split_part(endpoint_url, '/', 3), ':', 1) <> ''
         AND ltrim(split_part(split_part(endpoint_url, '/', 3), ':', 1), 'abcdefghijklmnopqrstuvwxyz0123456789.-') = ''
         AND length(split_part(split_part(endpoint_url, '/', 3), ':', 2)) BETWEEN 1 AND 5
         AND ltrim(split_part(split_part(endpoint_url, '/', 3), ':', 2), '0123456789') = ''
         AND split_part(split_part(endpoint_url, '/', 3), ':', 2) NOT IN ('80', '443')
        THEN split_part(endpoint_url, '/', 1) || '//' || split_part(endpoint_url, '/', 3)
        ELSE regexp_replace(
            substring(lower(regexp_replace(substring(endpoint_url FROM '^[a-zA-Z][a-zA-Z0-9+.-]*://[^/?#]*'), '//.*@', '//'))
                      FROM '^([^:]+://(?:\[[^]]*\]|[^]@\\:[[:space:][:cntrl:]]+)(?::[0-9]{0,5})?)$'),
            '^(?:(http://.*):80|(https://.*):443)$', '\1\2')
        END, 300)
    ) STORED,
    http_method      text        NOT NULL DEFAULT 'POST',
    payload          json        NOT NULL DEFAULT '{}',
    custom_headers   jsonb,
    credential_uuid  uuid,
    max_attempts     int,
    scheduled_for    timestamptz DEFAULT now(),
    status           text        NOT NULL DEFAULT 'pending',
    claim            bigint      NOT NULL DEFAULT 0,
    claimed_by       text,
    leased_until     timestamptz,
    round            int         NOT NULL DEFAULT 0,
    attempt_count    int         NOT NULL DEFAULT 0,
    abandoned_count  int         NOT NULL DEFAULT 0,
    held_since       timestamptz,
    last_status_code int,
    last_error       text,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    finished_at      timestamptz,

    CONSTRAINT deliveries_delivery_uuid_key  UNIQUE (delivery_uuid),
    -- The get-or-create key. The run comes first so that the index also serves "everything of this run".
    CONSTRAINT deliveries_get_or_create_key  UNIQUE (workflow_run_id, webhook_node_id, organization_id),
    CONSTRAINT deliveries_http_method_check  CHECK (upper(http_method) IN ('GET', 'POST', 'PUT', 'PATCH', 'DELETE')),
    CONSTRAINT deliveries_max_attempts_check CHECK (max_attempts > 0),
    -- Finite, and a time that every program can write down.
    CONSTRAINT deliveries_scheduled_for_check CHECK (scheduled_for BETWEEN '0001-01-01 00:00:00Z' AND '9999-12-31 00:00:00Z'),
    -- What is in an index cannot be long; this says so more readably than the index would.
    CONSTRAINT deliveries_key_length_check   CHECK (octet_length(organization_id) <= 800 AND octet_length(workflow_run_id) <= 800 AND octet_length(webhook_node_id) <= 800),
    CONSTRAINT deliveries_status_check       CHECK (status IN ('pending', 'succeeded', 'dead_letter', 'canceled'))
) WITH (
    -- A claim changes no indexed column: half-empty pages let it stay on its page (HOT), which leaves every index alone.
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02
);

CREATE INDEX deliveries_due_idx        ON {{.schema}}.deliveries (scheduled_for, id) WHERE status = 'pending';
CREATE INDEX deliveries_origin_due_idx ON {{.schema}}.deliveries (endpoint_origin, scheduled_for) WHERE status = 'pending';
CREATE INDEX deliveries_finished_idx   ON {{.schema}}.deliveries (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX deliveries_org_idx        ON {{.schema}}.deliveries (organization_id, id);
CREATE INDEX deliveries_status_idx     ON {{.schema}}.deliveries (status, id);
-- Canceled while an attempt was in flight: not finished before that attempt is in the ledger.
CREATE INDEX deliveries_ended_in_flight_idx ON {{.schema}}.deliveries (id) WHERE status <> 'pending' AND finished_at IS NULL;

COMMENT ON TABLE  {{.schema}}.deliveries                 IS 'One webhook to be delivered. INSERT enqueues it; UPDATE of status or scheduled_for replays, cancels or retries it.';
COMMENT ON COLUMN {{.schema}}.deliveries.delivery_uuid   IS 'What the receiver recognizes repeated attempts by.';
COMMENT ON COLUMN {{.schema}}.deliveries.payload         IS 'json, not jsonb: the bytes that were inserted are the bytes that are sent.';
COMMENT ON COLUMN {{.schema}}.deliveries.custom_headers  IS 'An array of {"key": ..., "value": ...}.';
COMMENT ON COLUMN {{.schema}}.deliveries.max_attempts    IS 'Null: the default of the service.';
COMMENT ON COLUMN {{.schema}}.deliveries.scheduled_for   IS 'When the row is next due (null: now). Null once terminal.';
COMMENT ON COLUMN {{.schema}}.deliveries.claim           IS 'Generation: +1 at every claim, release, reclaim, retry and replay. A job and an outcome are for one generation.';
COMMENT ON COLUMN {{.schema}}.deliveries.claimed_by      IS 'The node that is sending it, until leased_until at the latest; null when nobody is.';
COMMENT ON COLUMN {{.schema}}.deliveries.round           IS '+1 at each replay.';
COMMENT ON COLUMN {{.schema}}.deliveries.abandoned_count IS 'Consecutive attempts whose node died.';
COMMENT ON COLUMN {{.schema}}.deliveries.held_since      IS 'Due, but without a job on purpose, since then.';

CREATE TABLE {{.schema}}.attempts (
    delivery_id   bigint      NOT NULL,
    round         int         NOT NULL,
    attempt       int         NOT NULL,
    started_at    timestamptz NOT NULL,
    duration_ms   int,
    outcome       text        NOT NULL,
    failure_kind  text,
    status_code   int,
    error         text,
    response_body bytea,
    node          text        NOT NULL,

    PRIMARY KEY (delivery_id, round, attempt),
    CONSTRAINT attempts_outcome_check      CHECK (outcome IN ('succeeded', 'transient', 'permanent', 'abandoned')),
    CONSTRAINT attempts_failure_kind_check CHECK (failure_kind IN ('status', 'timeout', 'dns', 'refused', 'reset', 'tls',
                                                                   'protocol', 'blocked', 'invalid', 'credential', 'internal')),
    CONSTRAINT attempts_failure_kind_iff_failed CHECK ((failure_kind IS NULL) = (outcome IN ('succeeded', 'abandoned')))
) WITH (autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

COMMENT ON TABLE  {{.schema}}.attempts               IS 'One HTTP try of a delivery. An attempt whose node died before its outcome was known is abandoned.';
COMMENT ON COLUMN {{.schema}}.attempts.attempt       IS '1-based within the round, without gaps.';
COMMENT ON COLUMN {{.schema}}.attempts.response_body IS 'The first 8 KiB, as received.';

CREATE TABLE {{.schema}}.credentials (
    credential_uuid uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id text        NOT NULL DEFAULT 'default',
    name            text        NOT NULL,
    type            text        NOT NULL,
    sealed          bytea,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),

    CONSTRAINT credentials_name_key   UNIQUE (organization_id, name),
    CONSTRAINT credentials_type_check CHECK (type IN ('none', 'api_key', 'bearer_token', 'basic_auth', 'custom_header'))
);

-- The one place that says what a job looks like: byte for byte what River's Go client inserts for the same arguments
-- with UniqueOpts by args (a test holds the two together). Plain SQL without settings of its own, so that the planner
-- inlines it. Due within 10 s is `available`, which a fetch picks up by itself at scheduled_at; beyond that it is
-- `scheduled`, and River's leader promotes it.
CREATE FUNCTION {{.schema}}.delivery_job_key(delivery_id bigint, claim bigint) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT pg_catalog.sha256(pg_catalog.convert_to(
        '&kind=deliver_webhook&args={"claim":' || claim::text || ',"delivery_id":' || delivery_id::text || '}', 'UTF8'))
$$;

CREATE FUNCTION {{.schema}}.delivery_job(delivery_id bigint, claim bigint, due timestamptz)
RETURNS TABLE (kind text, args jsonb, queue text, max_attempts smallint, state text, scheduled_at timestamptz, unique_key bytea, unique_states bit(8))
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1 AS $$
    SELECT 'deliver_webhook'::text,
           pg_catalog.jsonb_build_object('claim', claim, 'delivery_id', delivery_id),
           'webhooks'::text,
           1::smallint,
           CASE WHEN due > pg_catalog.now() + interval '10 seconds' THEN 'scheduled'::text ELSE 'available'::text END,
           greatest(due, pg_catalog.now()),
           {{.schema}}.delivery_job_key(delivery_id, claim),
           B'11110001'::bit(8)
$$;

-- Explicit NULLs, as ORMs write them, mean the default.
CREATE FUNCTION {{.schema}}.deliveries_defaults() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.delivery_uuid   := coalesce(NEW.delivery_uuid, gen_random_uuid());
    NEW.organization_id := coalesce(NEW.organization_id, 'default');
    NEW.http_method     := coalesce(NEW.http_method, 'POST');
    NEW.payload         := coalesce(NEW.payload, '{}');
    IF NEW.status = 'pending' THEN
        NEW.scheduled_for := coalesce(NEW.scheduled_for, now());
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER deliveries_defaults
    BEFORE INSERT ON {{.schema}}.deliveries FOR EACH ROW
    WHEN (NEW.delivery_uuid IS NULL OR NEW.organization_id IS NULL OR NEW.http_method IS NULL OR NEW.payload IS NULL OR NEW.scheduled_for IS NULL)
    EXECUTE FUNCTION {{.schema}}.deliveries_defaults();

-- One statement enqueues all rows of an INSERT or COPY. It runs with its owner's rights: an application needs none on
-- River's tables.
CREATE FUNCTION {{.schema}}.deliveries_enqueue() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    enqueued bigint;
    notify   text := coalesce(current_setting('riverhook.notify', true), '');
BEGIN
    -- An INSERT must not wait for a locked job table, and a statement_timeout that strikes while it waits could not
    -- be caught below.
    LOCK TABLE {{.schema}}.river_job IN ROW EXCLUSIVE MODE NOWAIT;

    INSERT INTO {{.schema}}.river_job (kind, args, queue, max_attempts, state, scheduled_at, unique_key, unique_states)
    SELECT j.kind, j.args, j.queue, j.max_attempts, j.state::{{.schema}}.river_job_state, j.scheduled_at, j.unique_key, j.unique_states
      FROM inserted d, {{.schema}}.delivery_job(d.id, d.claim, d.scheduled_for) j
     WHERE d.status = 'pending'
        ON CONFLICT (unique_key)
     WHERE unique_key IS NOT NULL AND unique_states IS NOT NULL AND {{.schema}}.river_job_state_in_bitmask(unique_states, state)
        DO NOTHING;
    GET DIAGNOSTICS enqueued = ROW_COUNT;

    -- NOTIFY serializes the commits of the whole database, so only a few transactions at a time may do it; the others
    -- rely on those and on the poll. The lock class is this table, so that no lock of an application is in the way.
    -- PREPARE TRANSACTION refuses a transaction that has notified, and a full notification queue fails COMMIT.
    IF enqueued > 0
       AND notify <> 'off'
       AND (notify = 'on' OR current_setting('max_prepared_transactions')::int = 0)
       AND EXISTS (SELECT FROM inserted d WHERE d.status = 'pending' AND (d.scheduled_for IS NULL OR d.scheduled_for <= now()))
       AND pg_notification_queue_usage() <= 0.5
       AND pg_try_advisory_xact_lock(TG_RELID::int, floor(random() * 4)::int)
    THEN
        PERFORM pg_notify('{{.schema_name}}.river_insert', '{"queue":"webhooks"}');
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    -- The application's INSERT never fails because of us: the sweep finds the rows that have no job.
    RAISE WARNING 'riverhook: deliveries were stored but not enqueued (%); the next sweep will enqueue them', SQLERRM;
    RETURN NULL;
END
$$;

CREATE TRIGGER deliveries_enqueue
    AFTER INSERT ON {{.schema}}.deliveries REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT
    EXECUTE FUNCTION {{.schema}}.deliveries_enqueue();

-- People act by UPDATE. These are row triggers with a WHEN, so that claims and records do not pay for them, and have no
-- EXCEPTION handler: one would cost a transaction id a row.
CREATE FUNCTION {{.schema}}.deliveries_rearm() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.status <> 'pending' THEN
        -- Replayed while an attempt of the old round is still in flight (canceled, then replayed): its outcome will not
        -- find the row any more, so the ledger says now that the attempt was made. The late outcome corrects it.
        IF OLD.claimed_by IS NOT NULL THEN
            INSERT INTO {{.schema}}.attempts (delivery_id, round, attempt, started_at, outcome, node)
            VALUES (OLD.id, OLD.round, OLD.attempt_count + 1, OLD.updated_at, 'abandoned', OLD.claimed_by);
        END IF;
        NEW.round           := OLD.round + 1;
        NEW.attempt_count   := 0;
        NEW.abandoned_count := 0;
        NEW.claimed_by      := NULL;
        NEW.leased_until    := NULL;
        NEW.finished_at     := NULL;
    END IF;
    NEW.claim         := OLD.claim + 1;
    NEW.scheduled_for := coalesce(NEW.scheduled_for, now());
    NEW.held_since    := NULL;
    NEW.updated_at    := now();

    INSERT INTO {{.schema}}.river_job (kind, args, queue, max_attempts, state, scheduled_at, unique_key, unique_states)
    SELECT j.kind, j.args, j.queue, j.max_attempts, j.state::{{.schema}}.river_job_state, j.scheduled_at, j.unique_key, j.unique_states
      FROM {{.schema}}.delivery_job(NEW.id, NEW.claim, NEW.scheduled_for) j
        ON CONFLICT (unique_key)
     WHERE unique_key IS NOT NULL AND unique_states IS NOT NULL AND {{.schema}}.river_job_state_in_bitmask(unique_states, state)
        DO NOTHING;
    RETURN NEW;
END
$$;

CREATE TRIGGER deliveries_replay
    BEFORE UPDATE OF status ON {{.schema}}.deliveries FOR EACH ROW
    WHEN (OLD.status <> 'pending' AND NEW.status = 'pending')
    EXECUTE FUNCTION {{.schema}}.deliveries_rearm();

-- A new time for a row that nobody is sending: the old job is void, the new one comes at the new time. Statements of the
-- service itself change claim or claimed_by as well, and are not meant.
CREATE TRIGGER deliveries_reschedule
    BEFORE UPDATE OF scheduled_for ON {{.schema}}.deliveries FOR EACH ROW
    WHEN (OLD.status = 'pending' AND NEW.status = 'pending' AND OLD.claimed_by IS NULL AND NEW.claimed_by IS NULL
          AND NEW.claim = OLD.claim AND NEW.scheduled_for IS DISTINCT FROM OLD.scheduled_for)
    EXECUTE FUNCTION {{.schema}}.deliveries_rearm();

-- A time for a row that is being sent, or that has ended, means nothing: the outcome, or a replay, sets it. (A claimed row
-- whose time were null or in the future would not be found by the sweep, should its node die.)
CREATE FUNCTION {{.schema}}.deliveries_keep_time() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.scheduled_for := OLD.scheduled_for;
    RETURN NEW;
END
$$;

CREATE TRIGGER deliveries_keep_time
    BEFORE UPDATE OF scheduled_for ON {{.schema}}.deliveries FOR EACH ROW
    WHEN (NEW.scheduled_for IS DISTINCT FROM OLD.scheduled_for AND NEW.status = OLD.status AND NEW.claim = OLD.claim
          AND NEW.claimed_by IS NOT DISTINCT FROM OLD.claimed_by AND (OLD.status <> 'pending' OR OLD.claimed_by IS NOT NULL))
    EXECUTE FUNCTION {{.schema}}.deliveries_keep_time();

-- Canceled (or otherwise ended) by a person. With an attempt in flight the row is not finished before that attempt is in
-- the ledger; updated_at stays the time of its claim until then.
CREATE FUNCTION {{.schema}}.deliveries_end() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.scheduled_for := NULL;
    NEW.held_since    := NULL;
    IF OLD.claimed_by IS NULL THEN
        NEW.finished_at := now();
        NEW.updated_at  := now();
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER deliveries_end
    BEFORE UPDATE OF status ON {{.schema}}.deliveries FOR EACH ROW
    WHEN (OLD.status = 'pending' AND NEW.status <> 'pending' AND NEW.finished_at IS NULL)
    EXECUTE FUNCTION {{.schema}}.deliveries_end();

-- They run with their owner's rights: nobody else hangs them on a table of his own.
REVOKE ALL ON FUNCTION {{.schema}}.deliveries_enqueue(), {{.schema}}.deliveries_rearm() FROM PUBLIC;

-- River's table lives by updates and deletes: vacuum it by what died, not by a fifth of its size.
ALTER TABLE {{.schema}}.river_job SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.02);

INSERT INTO {{.schema}}.schema_migrations (version, name, oldest_program) VALUES (1, 'deliveries', 1);

---- create above / drop below ----

SET LOCAL lock_timeout = '2s';
DROP TABLE {{.schema}}.deliveries, {{.schema}}.attempts, {{.schema}}.credentials, {{.schema}}.schema_migrations;
DROP FUNCTION IF EXISTS {{.schema}}.deliveries_origin(); -- of version 14, which leaves it behind
DROP FUNCTION {{.schema}}.deliveries_enqueue(), {{.schema}}.deliveries_defaults(), {{.schema}}.deliveries_rearm(), {{.schema}}.deliveries_end(), {{.schema}}.deliveries_keep_time(),
              {{.schema}}.delivery_job(bigint, bigint, timestamptz), {{.schema}}.delivery_job_key(bigint, bigint);
