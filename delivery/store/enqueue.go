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

// NewDelivery is a delivery to be enqueued. Zero values mean the default of the column.
type NewDelivery struct {
	EndpointURL    string          // required; http or https, without a user name
	Payload        json.RawMessage // sent byte for byte; default {}
	UUID           string          // what the receiver recognizes repeated attempts by; default random
	OrganizationID string          // default "default"
	WorkflowRunID  string          // with WebhookNodeID and OrganizationID the get-or-create key
	WebhookNodeID  string
	WebhookName    string            // for people
	Method         string            // GET, POST, PUT, PATCH or DELETE; default POST
	Headers        map[string]string // sent with every attempt
	CredentialUUID string
	MaxAttempts    int       // default: the service's
	ScheduledFor   time.Time // default now
	Traceparent    string    // W3C trace context of what caused it: attempts continue that trace; what is not valid is ignored

	Schema string // where riverhook lives in this database; default "riverhook"
}

// Enqueued is what EnqueueTx made, or found.
type Enqueued struct {
	ID      int64
	UUID    string
	Created bool // false: a delivery with the same organization, run and node was already there
}

const enqueueSQL = `
INSERT INTO {schema}.deliveries
       (endpoint_url, payload, delivery_uuid, organization_id, workflow_run_id, webhook_node_id, webhook_name, http_method,
        custom_headers, credential_uuid, max_attempts, scheduled_for)
VALUES ($1, $2::text::json, $3::uuid, coalesce($4, 'default'), $5, $6, $7, coalesce($8, 'POST'),
        $9::text::jsonb, $10::uuid, $11, coalesce($12::timestamptz, now()))
    ON CONFLICT (organization_id, workflow_run_id, webhook_node_id) DO NOTHING
RETURNING id, delivery_uuid::text`

// enqueueTracedSQL is apart: a program may be newer than the database, which has the column since version 11.
const enqueueTracedSQL = `
INSERT INTO {schema}.deliveries
       (endpoint_url, payload, delivery_uuid, organization_id, workflow_run_id, webhook_node_id, webhook_name, http_method,
        custom_headers, credential_uuid, max_attempts, scheduled_for, traceparent)
VALUES ($1, $2::text::json, $3::uuid, coalesce($4, 'default'), $5, $6, $7, coalesce($8, 'POST'),
        $9::text::jsonb, $10::uuid, $11, coalesce($12::timestamptz, now()), $13)
    ON CONFLICT (organization_id, workflow_run_id, webhook_node_id) DO NOTHING
RETURNING id, delivery_uuid::text`

const enqueuedSQL = `
SELECT id, delivery_uuid::text
  FROM {schema}.deliveries
 WHERE organization_id = coalesce($1, 'default') AND workflow_run_id = $2 AND webhook_node_id = $3`

// enqueueTries bounds the loop between "it is there" and "it is gone", should retention remove the row in between.
const enqueueTries = 3

// EnqueueTx inserts a delivery in the caller's transaction: it is sent once that commits, and never if it rolls back.
// When WorkflowRunID and WebhookNodeID are both set and a delivery of the same organization has them, that one is
// returned and nothing is inserted (under serializable or repeatable read, the conflict with a row that this transaction
// cannot see is a serialization failure, as always there).
//
// What could never be sent (another scheme, a user name in the URL, a bad header) is an error before anything is inserted.
//
// It needs INSERT on the columns that an application may insert and SELECT on the key (`riverhook migrate grant`). An
// error leaves the transaction aborted, as any failed statement does.
func EnqueueTx(ctx context.Context, tx pgx.Tx, d NewDelivery) (Enqueued, error) {
	if d.EndpointURL == "" {
		return Enqueued{}, errors.New("store: enqueue: EndpointURL is empty: say where to send it")
	}
	if _, err := delivery.ParseEndpoint(d.EndpointURL); err != nil {
		return Enqueued{}, fmt.Errorf("store: enqueue: %w", err)
	}
	if d.Schema == "" {
		d.Schema = "riverhook"
	}
	payload := string(d.Payload)
	if payload == "" {
		payload = "{}"
	}
	var headers *string
	if len(d.Headers) > 0 {
		type entry struct {
			Key   string `json:"key"`
			Value string `json:"value"`
		}
		var list []entry
		for k, v := range d.Headers {
			list = append(list, entry{k, v})
		}
		text, err := json.Marshal(list)
		if err != nil {
			return Enqueued{}, fmt.Errorf("store: enqueue: headers: %w", err)
		}
		if _, _, err := (delivery.HeaderRules{}).Custom(text); err != nil {
			return Enqueued{}, fmt.Errorf("store: enqueue: %w", err)
		}
		headers = null(string(text))
	}

	names := schemaNames(d.Schema)
	statement := enqueueSQL
	values := []any{
		d.EndpointURL, payload, null(d.UUID), null(d.OrganizationID), null(d.WorkflowRunID), null(d.WebhookNodeID), null(d.WebhookName),
		null(d.Method), headers, null(d.CredentialUUID), null(d.MaxAttempts), null(d.ScheduledFor),
	}
	if traceparent := delivery.Traceparent(d.Traceparent); traceparent != "" {
		statement, values = enqueueTracedSQL, append(values, traceparent)
	}
	for range enqueueTries {
		e := Enqueued{Created: true}
		err := tx.QueryRow(ctx, names.Replace(statement), values...).Scan(&e.ID, &e.UUID)
		if err == nil {
			return e, nil
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return Enqueued{}, fmt.Errorf("store: enqueue: %w", err)
		}
		e.Created = false
		err = tx.QueryRow(ctx, names.Replace(enqueuedSQL), null(d.OrganizationID), d.WorkflowRunID, d.WebhookNodeID).Scan(&e.ID, &e.UUID)
		if err == nil {
			return e, nil
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return Enqueued{}, fmt.Errorf("store: enqueue: find the existing delivery: %w", err)
		}
	}
	return Enqueued{}, errors.New("store: enqueue: the delivery with this organization, run and node comes and goes: try again")
}
