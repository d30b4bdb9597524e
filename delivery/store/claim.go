package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/riverhook/riverhook/delivery"
)

// ClaimVerdict says what became of one job of a claim.
type ClaimVerdict int

const (
	// ClaimGone says that there is nothing to send for this job. The row is not pending, not due, claimed by somebody, of another
	// generation, or not there.
	ClaimGone ClaimVerdict = iota
	// ClaimBusy says that the row could be claimed, but somebody holds its lock. Try again later.
	ClaimBusy
	// ClaimDeferred says that the batch was full. Try again at once.
	ClaimDeferred
	// ClaimSuspect says that the last attempts of the delivery were abandoned, which AbandonedCount counts. It is claimed with
	// ClaimLimits.Suspects only.
	ClaimSuspect
	// ClaimTaken says that it was claimed.
	ClaimTaken
)

// SuspectFrom is how many attempts in a row must have been abandoned for a delivery to be a suspect: it may be what takes
// its node down. One is what everything in flight has after a crash.
const SuspectFrom = 2

// ClaimLimits bound a claim.
type ClaimLimits struct {
	Lease      time.Duration // how long the claim holds, by the database's clock
	MaxPayload int           // bytes; a larger payload is not fetched: PayloadBytes tells its size, and Payload fetches it
	MaxBatch   int           // bytes of payload in one claim; the first row is taken whatever its size
	Suspects   bool          // suspects are claimed too
}

// Claimed is the verdict on one job, with the delivery when it was taken. A suspect's has its AbandonedCount only.
type Claimed struct {
	Verdict  ClaimVerdict
	Delivery delivery.Delivery
}

const claimSQL = `
WITH wanted AS (
    SELECT w.id, w.claim, w.n FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY AS w (id, claim, n)
), locked AS (
    -- NO KEY: an application's foreign keys to this table do not collide with it. SKIP LOCKED: one row that somebody
    -- holds does not stall the batch, and two batches never wait for each other. See TuneForBatches for LATERAL.
    SELECT d.id, w.n, octet_length(d.payload::text) AS payload_bytes
      FROM wanted w
     CROSS JOIN LATERAL (SELECT d.id, d.claim, d.status, d.claimed_by, d.scheduled_for, d.abandoned_count, d.payload
                           FROM {schema}.deliveries d WHERE d.id = w.id OFFSET 0 FOR NO KEY UPDATE SKIP LOCKED) d
     WHERE d.claim = w.claim AND d.status = 'pending' AND d.claimed_by IS NULL AND (d.scheduled_for IS NULL OR d.scheduled_for <= now())
       AND (d.abandoned_count < $7 OR $8)
), sized AS (
    SELECT l.id, l.n, l.payload_bytes,
           sum(least(l.payload_bytes, $5)) OVER (ORDER BY l.id) - least(l.payload_bytes, $5) AS bytes_before
      FROM locked l
), taken AS (
    UPDATE {schema}.deliveries d
       SET claim = d.claim + 1, claimed_by = $3, leased_until = now() + make_interval(secs => $4), held_since = NULL, held_reason = NULL, updated_at = now()
      FROM sized s
     WHERE d.id = s.id AND s.bytes_before < $6
    RETURNING d.id, s.n, s.payload_bytes, d.delivery_uuid, d.organization_id, d.workflow_run_id, d.webhook_node_id, d.webhook_name,
              d.endpoint_url, d.endpoint_origin, d.http_method, d.custom_headers, d.credential_uuid, d.max_attempts, d.claim, left(d.traceparent, 200) AS traceparent,
              d.round, d.attempt_count, d.abandoned_count, least(coalesce(extract(epoch FROM now() - d.scheduled_for), 0), 1e9)::float8 AS waited,
              CASE WHEN s.payload_bytes <= $5 THEN d.payload::text END AS payload
)
SELECT t.n, t.id, t.delivery_uuid::text, t.organization_id, coalesce(t.workflow_run_id, ''), coalesce(t.webhook_node_id, ''),
       coalesce(t.webhook_name, ''), t.endpoint_url, coalesce(t.endpoint_origin, ''), upper(t.http_method), t.payload, t.payload_bytes,
       t.custom_headers::text, coalesce(t.credential_uuid::text, ''), coalesce(t.max_attempts, 0), t.claim, t.round, t.attempt_count,
       t.abandoned_count,
       CASE WHEN t.attempt_count > 0 THEN
           (SELECT count(*) FROM {schema}.attempts a WHERE a.delivery_id = t.id AND a.round = t.round AND a.outcome = 'abandoned')
       ELSE 0 END AS abandoned_total,
       -- How many did not fit into the batch. Where there is such a row, at least one was taken.
       (SELECT count(*) FROM sized s WHERE s.bytes_before >= $6) AS deferred,
       t.waited, coalesce(t.traceparent, ''), coalesce(c.type, '') AS credential_type, c.sealed, x.secrets
  FROM taken t
  -- Within the organization: a credential of another one is not there.
  LEFT JOIN {schema}.credentials c ON c.credential_uuid = t.credential_uuid AND c.organization_id = t.organization_id
  -- Signing secrets of this receiver, and those for all of the organization's. Where nobody has any, nobody pays for them.
  LEFT JOIN LATERAL (
       SELECT json_agg(json_build_object('uuid', x.secret_uuid, 'cell', encode(x.sealed, 'base64'), 'own', x.endpoint_origin IS NOT NULL)
                       ORDER BY x.created_at DESC, x.secret_uuid)::text AS secrets
         FROM {schema}.signing_secrets x
        WHERE (SELECT EXISTS (SELECT FROM {schema}.signing_secrets))
          AND x.organization_id = t.organization_id AND (x.endpoint_origin = t.endpoint_origin OR x.endpoint_origin IS NULL)
          AND (x.expires_at IS NULL OR x.expires_at > now())) x ON true`

// claimableSQL says which of the jobs that were not taken could have been: they are suspects, or somebody holds their row's
// lock.
const claimableSQL = `
SELECT w.n, d.abandoned_count
  FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY AS w (id, claim, n)
 CROSS JOIN LATERAL (SELECT d.claim, d.status, d.claimed_by, d.scheduled_for, d.abandoned_count FROM {schema}.deliveries d WHERE d.id = w.id OFFSET 0) d
 WHERE d.claim = w.claim AND d.status = 'pending' AND d.claimed_by IS NULL AND (d.scheduled_for IS NULL OR d.scheduled_for <= now())`

// Claim takes the deliveries of jobs for node, and says for each job, in their order, what became of it. A job that
// stands in jobs twice is gone the second time. After an error nobody knows whether rows were claimed: Release them.
func (s *Store) Claim(ctx context.Context, node string, jobs []delivery.JobArgs, limits ClaimLimits) ([]Claimed, error) {
	claimed := make([]Claimed, len(jobs))
	ids := make([]int64, 0, len(jobs))
	claims := make([]int64, 0, len(jobs))
	position := make([]int, 0, len(jobs)) // of the n-th job asked for
	seen := make(map[delivery.JobArgs]bool, len(jobs))
	for i, job := range jobs {
		if seen[job] {
			continue
		}
		seen[job] = true
		ids = append(ids, job.DeliveryID)
		claims = append(claims, job.Claim)
		position = append(position, i)
	}

	var n, deferred int
	missing := len(ids)
	err := s.inBatch(ctx, func(db Querier) error {
		rows, err := db.Query(ctx, s.sql(claimSQL), ids, claims, node, seconds(limits.Lease), limits.MaxPayload, limits.MaxBatch,
			SuspectFrom, limits.Suspects)
		if err != nil {
			return err
		}
		var d delivery.Delivery
		var waited float64
		var secrets []byte
		_, err = pgx.ForEachRow(rows, []any{
			&n, &d.ID, &d.UUID, &d.OrganizationID, &d.WorkflowRunID, &d.WebhookNodeID, &d.WebhookName, &d.EndpointURL, &d.Origin,
			&d.Method, &d.Payload, &d.PayloadBytes, &d.CustomHeaders, &d.CredentialUUID, &d.MaxAttempts, &d.Claim, &d.Round,
			&d.AttemptCount, &d.AbandonedCount, &d.AbandonedTotal, &deferred, &waited, &d.Traceparent,
			&d.Credential.Type, &d.Credential.Cell, &secrets,
		}, func() (err error) {
			d.ClaimedBy = node
			d.Waited = time.Duration(waited * float64(time.Second))
			if d.SigningSecrets, err = mostSpecific(secrets); err != nil {
				return err
			}
			claimed[position[n-1]] = Claimed{Verdict: ClaimTaken, Delivery: d}
			missing--
			return nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("store: claim: %w", err)
	}
	if missing == 0 {
		return claimed, nil
	}

	// Rare: a duplicate job, a suspect, a locked row, or a full batch. What goes wrong here is no reason to forget what was claimed:
	// the sweep finds a row whose job ended too early.
	verdict := ClaimBusy
	if deferred > 0 { // those that are only locked turn out to be so when they are tried again
		verdict = ClaimDeferred
	}
	_ = s.inBatch(ctx, func(db Querier) error {
		rows, err := db.Query(ctx, s.sql(claimableSQL), ids, claims)
		if err != nil {
			return err
		}
		var abandoned int
		_, err = pgx.ForEachRow(rows, []any{&n, &abandoned}, func() error {
			switch c := &claimed[position[n-1]]; {
			case c.Verdict != ClaimGone:
			case abandoned >= SuspectFrom && !limits.Suspects:
				*c = Claimed{Verdict: ClaimSuspect, Delivery: delivery.Delivery{AbandonedCount: abandoned}}
			default:
				c.Verdict = verdict
			}
			return nil
		})
		return err
	})
	return claimed, nil
}

const payloadSQL = `SELECT d.payload::text FROM {schema}.deliveries d WHERE d.id = $1 AND d.claim = $2 AND d.claimed_by = $3`

// Payload fetches the payload of a claimed delivery that was too large for the claim to come with. It is nil when the claim
// does not hold any more.
func (s *Store) Payload(ctx context.Context, fence delivery.Fence) (payload []byte, err error) {
	err = s.db.QueryRow(ctx, s.sql(payloadSQL), fence.ID, fence.Claim, fence.Node).Scan(&payload)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("store: payload: %w", err)
	}
	return payload, nil
}

// mostSpecific are the secrets of the receiver itself, or else those for all receivers.
func mostSpecific(found []byte) (secrets []delivery.SealedSecret, err error) {
	if found == nil {
		return nil, nil
	}
	var all []struct {
		UUID string
		Cell []byte
		Own  bool
	}
	if err := json.Unmarshal(found, &all); err != nil {
		return nil, err
	}
	own := false
	for _, one := range all {
		own = own || one.Own
	}
	for _, one := range all {
		if one.Own == own {
			secrets = append(secrets, delivery.SealedSecret{UUID: one.UUID, Cell: one.Cell})
		}
	}
	return secrets, nil
}
