-- The invariants, as SQL: what may not be, whatever was killed, cut or changed by hand. `riverhook check` reads it.
SET LOCAL lock_timeout = '2s';

-- What came in ended already (an import) has no time either. The trigger as it was, and those rows.
CREATE OR REPLACE FUNCTION {{.schema}}.deliveries_defaults() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.delivery_uuid   := coalesce(NEW.delivery_uuid, gen_random_uuid());
    NEW.organization_id := coalesce(NEW.organization_id, 'default');
    NEW.http_method     := coalesce(NEW.http_method, 'POST');
    NEW.payload         := coalesce(NEW.payload, '{}');
    NEW.scheduled_for   := CASE WHEN NEW.status = 'pending' THEN coalesce(NEW.scheduled_for, now()) END;
    RETURN NEW;
END
$$;

CREATE OR REPLACE TRIGGER deliveries_defaults
    BEFORE INSERT ON {{.schema}}.deliveries FOR EACH ROW
    WHEN (NEW.delivery_uuid IS NULL OR NEW.organization_id IS NULL OR NEW.http_method IS NULL OR NEW.payload IS NULL
          OR (NEW.scheduled_for IS NULL) = (NEW.status = 'pending'))
    EXECUTE FUNCTION {{.schema}}.deliveries_defaults();

-- grace is for what a sweep repairs, and how long that may take: more than two of its intervals. look_at bounds the work: so
-- many rows of each kind are looked at, pending ones those that are due first, ended ones and attempts the newest, jobs the
-- oldest of each state; null is all of them. Everything else is wrong the moment it is there: one statement sees one
-- snapshot, and what belongs together is committed together.
--
-- With its owner's rights: readers need none on River's tables. Text that is planned at each call, with the values: for
-- bounds that are not known a plan may go through whole tables. No sequential scan and no sort: each part goes along an
-- index and ends at its bound, whatever the statistics say; and River's migrations do not run into it.
CREATE FUNCTION {{.schema}}.find_problems(grace interval DEFAULT '1 minute', look_at int DEFAULT 100000)
RETURNS TABLE (problem text, delivery_id bigint, job_id bigint, since timestamptz, detail text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off
AS $function$
BEGIN
    RETURN QUERY EXECUTE $sql$
WITH delivery AS (
    -- Claimed rows keep their time, so that they are among those that are due first.
    (SELECT d.* FROM (SELECT d.id, d.status, d.scheduled_for, d.claim, d.claimed_by, d.leased_until, d.round, d.attempt_count, d.abandoned_count,
                             d.held_since, d.held_reason, d.endpoint_origin IS NOT NULL AS has_origin, d.created_at, d.updated_at, d.finished_at
                        FROM {{.schema}}.deliveries d
                       WHERE d.status = 'pending' AND d.scheduled_for IS NOT NULL
                       ORDER BY d.scheduled_for, d.id LIMIT $2) d)
     UNION ALL
    (SELECT d.id, d.status, d.scheduled_for, d.claim, d.claimed_by, d.leased_until, d.round, d.attempt_count, d.abandoned_count,
            d.held_since, d.held_reason, d.endpoint_origin IS NOT NULL, d.created_at, d.updated_at, d.finished_at
       FROM {{.schema}}.deliveries d
      WHERE d.status = 'pending' AND d.scheduled_for IS NULL
      ORDER BY d.scheduled_for, d.id LIMIT $2)
     UNION ALL
    (SELECT d.id, d.status, d.scheduled_for, d.claim, d.claimed_by, d.leased_until, d.round, d.attempt_count, d.abandoned_count,
            d.held_since, d.held_reason, true, d.created_at, d.updated_at, d.finished_at
       FROM {{.schema}}.deliveries d
      WHERE d.status <> 'pending' AND d.finished_at IS NULL
      ORDER BY d.id LIMIT $2)
     UNION ALL
    (SELECT d.id, d.status, d.scheduled_for, d.claim, d.claimed_by, d.leased_until, d.round, d.attempt_count, d.abandoned_count,
            d.held_since, d.held_reason, true, d.created_at, d.updated_at, d.finished_at
       FROM {{.schema}}.deliveries d
      WHERE d.status IN ('succeeded', 'canceled') AND d.finished_at IS NOT NULL
      ORDER BY d.finished_at DESC LIMIT $2)
     UNION ALL
    (SELECT d.id, d.status, d.scheduled_for, d.claim, d.claimed_by, d.leased_until, d.round, d.attempt_count, d.abandoned_count,
            d.held_since, d.held_reason, true, d.created_at, d.updated_at, d.finished_at
       FROM {{.schema}}.deliveries d
      WHERE d.status = 'dead_letter' AND d.finished_at IS NOT NULL
      ORDER BY d.finished_at DESC LIMIT $2)
), job AS (
    SELECT s.state, j.id, j.scheduled_at, j.attempted_at,
           CASE WHEN j.args->>'delivery_id' ~ '^[0-9]{1,18}$' THEN (j.args->>'delivery_id')::bigint END AS delivery_id,
           CASE WHEN j.args->>'claim'       ~ '^[0-9]{1,18}$' THEN (j.args->>'claim')::bigint END AS claim
      FROM unnest('{available,running,scheduled,retryable,pending}'::{{.schema}}.river_job_state[]) s (state)
     CROSS JOIN LATERAL (
           SELECT j.id, j.scheduled_at, j.attempted_at, j.args, j.kind
             FROM {{.schema}}.river_job j
            WHERE j.state = s.state AND j.queue = 'webhooks'
            ORDER BY j.priority, j.scheduled_at, j.id LIMIT $2) j
     WHERE j.kind = 'deliver_webhook'
)
SELECT p.problem, d.id, NULL::bigint, p.since, p.detail
  FROM delivery d
  -- What a sweep takes for live (store.SweepPage), and as long as a sweep may take: LIMIT makes it a probe.
 CROSS JOIN LATERAL (SELECT now() - $1 AS at) late
  LEFT JOIN LATERAL (
       SELECT true AS is_there
         FROM {{.schema}}.river_job j
        WHERE d.status = 'pending' AND d.claimed_by IS NULL AND d.scheduled_for < late.at
          AND j.unique_key = {{.schema}}.delivery_job_key(d.id, d.claim)
          AND j.unique_key IS NOT NULL AND j.unique_states IS NOT NULL AND {{.schema}}.river_job_state_in_bitmask(j.unique_states, j.state)
          AND CASE j.state WHEN 'available' THEN true
                           WHEN 'running'   THEN j.attempted_at > late.at - interval '30 seconds'
                           ELSE j.scheduled_at > late.at - interval '10 seconds' AND j.scheduled_at <= d.scheduled_for END
        LIMIT 1) live ON true
 CROSS JOIN LATERAL (
       SELECT count(*) FILTER (WHERE a.round = d.round) AS made, count(*) FILTER (WHERE a.round > d.round) AS beyond,
              count(*) FILTER (WHERE a.attempt <> a.n) AS misnumbered
         FROM (SELECT a.round, a.attempt, row_number() OVER (PARTITION BY a.round ORDER BY a.attempt) AS n
                 FROM {{.schema}}.attempts a WHERE a.delivery_id = d.id) a) ledger
 CROSS JOIN LATERAL (
       SELECT 'overdue' AS problem, d.scheduled_for AS since, format('due, claim %s, and no live job', d.claim) AS detail
        WHERE d.status = 'pending' AND d.claimed_by IS NULL AND d.scheduled_for < late.at AND live.is_there IS NULL
          -- As the sweep: what has no origin is nobody's to pull.
          AND NOT (d.held_since IS NOT NULL AND d.has_origin)
        UNION ALL
       SELECT 'no_time', d.updated_at, 'pending, and scheduled_for is null'
        WHERE d.status = 'pending' AND d.scheduled_for IS NULL AND d.claimed_by IS NULL AND d.updated_at < late.at
        UNION ALL
       SELECT 'lease_expired', d.leased_until, format('claimed by %s', d.claimed_by)
        WHERE d.claimed_by IS NOT NULL AND d.leased_until < late.at
        UNION ALL
       SELECT 'owner_dead', n.dead_at, format('claimed by %s, which is dead', d.claimed_by)
         FROM {{.schema}}.nodes n
        WHERE n.node = d.claimed_by AND n.dead_at < late.at AND d.leased_until >= late.at
        UNION ALL
       SELECT 'claim_inconsistent', d.updated_at,
              CASE WHEN (d.claimed_by IS NULL) <> (d.leased_until IS NULL) THEN 'one of claimed_by and leased_until is null'
                   WHEN d.held_since IS NOT NULL THEN 'claimed and held'
                   ELSE 'claimed, and not due: no sweep would find it' END
        WHERE (d.claimed_by IS NULL) <> (d.leased_until IS NULL)
           OR d.claimed_by IS NOT NULL AND d.status = 'pending'
              AND (d.held_since IS NOT NULL OR d.scheduled_for IS NULL OR d.scheduled_for > d.leased_until)
        UNION ALL
       SELECT 'held_too_long', d.held_since, format('held: %s', coalesce(d.held_reason, 'no reason'))
        WHERE d.status = 'pending' AND d.held_since < late.at - interval '24 hours' AND d.claimed_by IS NULL
        UNION ALL
       SELECT 'held_without_reason', d.held_since, 'held_since is set, held_reason is null'
        WHERE d.status = 'pending' AND d.held_since IS NOT NULL AND d.held_reason IS NULL
        UNION ALL
       SELECT 'finished_inconsistent', coalesce(d.finished_at, d.updated_at), format('%s, and finished_at is %s', d.status, coalesce(d.finished_at::text, 'null'))
        WHERE d.status = 'pending' AND d.finished_at IS NOT NULL
           OR d.status <> 'pending' AND d.finished_at IS NULL AND d.claimed_by IS NULL AND d.updated_at < late.at
        UNION ALL
       SELECT 'leftovers', coalesce(d.finished_at, d.updated_at),
              d.status || concat(CASE WHEN d.scheduled_for IS NOT NULL THEN ', scheduled_for is set' END,
                                 CASE WHEN d.held_since IS NOT NULL THEN ', held_since is set' END,
                                 CASE WHEN d.finished_at IS NOT NULL AND d.claimed_by IS NOT NULL THEN ', claimed_by is set' END)
        WHERE d.status <> 'pending' AND (d.scheduled_for IS NOT NULL OR d.held_since IS NOT NULL OR d.finished_at IS NOT NULL AND d.claimed_by IS NOT NULL)
        UNION ALL
       SELECT 'ledger', coalesce(d.finished_at, d.updated_at),
              CASE WHEN ledger.beyond > 0 THEN format('%s attempts of a later round than the row''s, %s', ledger.beyond, d.round)
                   WHEN ledger.misnumbered > 0 THEN 'attempts are not numbered 1, 2, 3 ...'
                   WHEN ledger.made <> d.attempt_count THEN format('attempt_count is %s, attempts of round %s are %s', d.attempt_count, d.round, ledger.made)
                   ELSE format('abandoned_count is %s of %s attempts', d.abandoned_count, d.attempt_count) END
        WHERE ledger.made <> d.attempt_count OR ledger.beyond > 0 OR ledger.misnumbered > 0
           OR d.abandoned_count NOT BETWEEN 0 AND d.attempt_count) p
 UNION ALL
SELECT 'attempts_orphaned', a.delivery_id, NULL, a.started_at, format('attempt %s of round %s, and no such delivery', a.attempt, a.round)
  FROM (SELECT a.delivery_id, a.round, a.attempt, a.started_at
          FROM {{.schema}}.attempts a
         ORDER BY a.delivery_id DESC, a.round DESC, a.attempt DESC LIMIT $2) a
 WHERE NOT EXISTS (SELECT FROM {{.schema}}.deliveries d WHERE d.id = a.delivery_id OFFSET 0)
 UNION ALL
-- A job that no claim can come of does nothing when it is worked, and is allowed: people reschedule, cancel and erase. So it
-- may wait for its time, and in a backlog; but not for ever.
SELECT p.problem, j.delivery_id, j.id, j.since, p.detail
  FROM (SELECT j.*, coalesce(CASE WHEN j.state = 'running' THEN j.attempted_at END, j.scheduled_at) AS since FROM job j) j
  LEFT JOIN LATERAL (
       SELECT d.status, d.claim, d.claimed_by FROM {{.schema}}.deliveries d WHERE d.id = j.delivery_id OFFSET 0) d ON true
 CROSS JOIN LATERAL (
       SELECT 'job_ahead' AS problem, format('%s, for claim %s of a delivery at claim %s', j.state, j.claim, d.claim) AS detail
        WHERE j.claim > d.claim
        UNION ALL
       SELECT 'job_orphaned', format('%s, and no such delivery', j.state)
        WHERE d.status IS NULL AND j.since < now() - greatest($1, interval '1 hour')
        UNION ALL
       SELECT 'job_stale', format('%s, for claim %s of a delivery at claim %s, %s', j.state, j.claim, d.claim, d.status)
        WHERE j.since < now() - greatest($1, interval '1 hour')
          AND (d.status <> 'pending' AND d.claimed_by IS NULL OR j.claim < d.claim)
          -- What is being sent.
          AND NOT (j.state = 'running' AND d.claimed_by IS NOT NULL AND j.claim = d.claim - 1)) p
 UNION ALL
-- A killed node's jobs are discarded by River's rescuer, after the sweep has replaced them.
SELECT 'job_discarded', CASE WHEN j.args->>'delivery_id' ~ '^[0-9]{1,18}$' THEN (j.args->>'delivery_id')::bigint END, j.id, j.finalized_at,
       format('%s: %s', j.kind, left(coalesce(j.errors[array_upper(j.errors, 1)]->>'error', 'no error'), 200))
  FROM (SELECT j.id, j.kind, j.args, j.errors, j.finalized_at
          FROM {{.schema}}.river_job j
         WHERE j.state = 'discarded' AND j.finalized_at > now() - interval '1 day'
         ORDER BY j.finalized_at DESC LIMIT $2) j
 WHERE coalesce(j.errors[array_upper(j.errors, 1)]->>'error', '') NOT LIKE 'Stuck job rescued by %'
    $sql$ USING grace, look_at;
END
$function$;

CREATE VIEW {{.schema}}.problems AS
SELECT p.problem, p.delivery_id, p.job_id, p.since, p.detail FROM {{.schema}}.find_problems() p;

COMMENT ON FUNCTION {{.schema}}.find_problems(interval, int) IS
    'What may not be. grace: how long a sweep may take to repair what it repairs. look_at: how many rows of each kind are looked at; null: all.';
COMMENT ON VIEW   {{.schema}}.problems             IS 'What may not be; empty when all is well. See riverhook check, which says what to do.';
COMMENT ON COLUMN {{.schema}}.problems.problem     IS 'overdue, no_time, lease_expired, owner_dead, claim_inconsistent, held_too_long, held_without_reason, finished_inconsistent, leftovers, ledger, attempts_orphaned, job_ahead, job_orphaned, job_stale or job_discarded.';
COMMENT ON COLUMN {{.schema}}.problems.delivery_id IS 'Null where it is not about one.';
COMMENT ON COLUMN {{.schema}}.problems.job_id      IS 'Of river_job; null where it is not about one.';
COMMENT ON COLUMN {{.schema}}.problems.since       IS 'Since when, as far as the row tells.';

-- Who may read the ledger may read this, with the function that it calls.
REVOKE ALL ON FUNCTION {{.schema}}.find_problems(interval, int) FROM PUBLIC;
DO $grant$
DECLARE
    reader regrole;
BEGIN
    FOR reader IN
        SELECT DISTINCT a.grantee::regrole
          FROM pg_class c, aclexplode(c.relacl) a
         WHERE c.oid = '{{.schema}}.attempts'::regclass AND a.privilege_type = 'SELECT' AND a.grantee <> 0
    LOOP
        EXECUTE format('GRANT SELECT ON %s TO %s', '{{.schema}}.problems', reader);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', '{{.schema}}.find_problems(interval, int)', reader);
    END LOOP;
END
$grant$;
{{ template "shared/grant_service.sql" dict "schema" .schema "schema_name" .schema_name "table" "problems" }}
INSERT INTO {{.schema}}.schema_migrations (version, name, oldest_program) VALUES (9, 'problems', 1);

---- create above / drop below ----

SET LOCAL lock_timeout = '2s';
DROP VIEW {{.schema}}.problems;
DROP FUNCTION {{.schema}}.find_problems(interval, int);
CREATE OR REPLACE FUNCTION {{.schema}}.deliveries_defaults() RETURNS trigger
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

CREATE OR REPLACE TRIGGER deliveries_defaults
    BEFORE INSERT ON {{.schema}}.deliveries FOR EACH ROW
    WHEN (NEW.delivery_uuid IS NULL OR NEW.organization_id IS NULL OR NEW.http_method IS NULL OR NEW.payload IS NULL OR NEW.scheduled_for IS NULL)
    EXECUTE FUNCTION {{.schema}}.deliveries_defaults();
DELETE FROM {{.schema}}.schema_migrations WHERE version = 9;
