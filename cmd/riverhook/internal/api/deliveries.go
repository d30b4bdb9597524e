package api

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/ask"
	"github.com/riverhook/riverhook/cmd/riverhook/internal/auth"
	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
)

func (a *API) registerDeliveries() {
	post(a, huma.Operation{
		OperationID: "create-delivery", Method: http.MethodPost, Path: "/v1/deliveries", Tags: []string{"Deliveries"},
		Summary: "Enqueue a delivery",
		Description: "201 when it was created; 200 with created false when the organization has one with the same workflow_run_id and " +
			"webhook_node_id: that one is the answer. It is committed before this is answered. After a 503 nobody knows: send it again with the same Idempotency-Key.",
		DefaultStatus: http.StatusCreated, Errors: []int{http.StatusConflict},
	}, auth.ScopeEnqueue, body{limit: a.maxPayload + bodyRoom, slots: a.singles, example: exampleDelivery}, a.createDelivery)
	post(a, huma.Operation{
		OperationID: "create-deliveries", Method: http.MethodPost, Path: "/v1/deliveries/batch", Tags: []string{"Deliveries"},
		Summary:       "Enqueue up to 1,000 deliveries, all or none",
		Description:   "An error names the one that is wrong, as in body.deliveries[3].endpoint_url, and none is inserted then. 201 when any was created, otherwise 200.",
		DefaultStatus: http.StatusCreated, Errors: []int{http.StatusConflict},
	}, auth.ScopeEnqueue, body{limit: max(maxBatchBody, a.maxPayload+bodyRoom), timeout: largeBodyTimeout, slots: a.batches,
		example: map[string]any{"deliveries": []any{exampleDelivery, map[string]any{"endpoint_url": "https://example.com/other"}}}}, a.createDeliveries)
	get(a, huma.Operation{
		OperationID: "list-deliveries", Method: http.MethodGet, Path: "/v1/deliveries", Tags: []string{"Deliveries"},
		Summary: "List deliveries, the newest first", Description: "Without payload and custom_headers.", Errors: []int{http.StatusBadRequest},
	}, auth.ScopeRead, a.listDeliveries)
	get(a, huma.Operation{
		OperationID: "get-delivery", Method: http.MethodGet, Path: "/v1/deliveries/{id}", Tags: []string{"Deliveries"},
		Summary: "Show a delivery with its attempts", Description: "The newest 1,000 attempts, in their order.", Errors: []int{http.StatusNotFound},
	}, auth.ScopeRead, a.getDelivery)
	for _, action := range []struct {
		kind        store.Action
		description string
	}{
		{store.ActionReplay, "Starts a delivery over that has ended: its attempts are counted from 1 again."},
		{store.ActionRetry, "Brings the next attempt of a pending delivery, which nobody is sending, forward to now."},
		{store.ActionCancel, "Cancels a pending delivery. One that is being sent may still arrive."},
	} {
		name := action.kind.String()
		get(a, huma.Operation{
			OperationID: name + "-delivery", Method: http.MethodPost, Path: "/v1/deliveries/{id}/" + name, Tags: []string{"Deliveries"},
			Summary: strings.ToUpper(name[:1]) + name[1:] + " a delivery", Description: action.description + " 409 says why it cannot be.",
			Errors: []int{http.StatusNotFound, http.StatusConflict},
		}, auth.ScopeOperate, func(ctx context.Context, c call, in *deliveryPath) (*deliveryOutput, error) {
			return a.actOnDelivery(ctx, c, in, action.kind)
		})
	}
}

// header is an entry of custom_headers.
type header struct {
	Key   string `json:"key" doc:"The header's name." example:"X-Tenant"`
	Value string `json:"value" doc:"Its value: text without control characters." example:"acme"`
}

// newDelivery is a delivery to be enqueued. A field that is missing or null means the column's default.
type newDelivery struct {
	EndpointURL    string   `json:"endpoint_url" doc:"Where to send it: http or https, without a user name." format:"uri" maxLength:"8192" example:"https://example.com/hook"`
	Payload        anyJSON  `json:"payload,omitempty" doc:"Any JSON value: its bytes are sent as they stand here. Default {}."`
	DeliveryUUID   *string  `json:"delivery_uuid,omitempty" doc:"What the receiver recognizes repeated attempts by. Default: random." format:"uuid"`
	OrganizationID *string  `json:"organization_id,omitempty" doc:"The tenant. Default: the token's organization, or else default." maxLength:"800" example:"acme"`
	WorkflowRunID  *string  `json:"workflow_run_id,omitempty" doc:"What caused it. With organization_id and webhook_node_id the get-or-create key." maxLength:"800" example:"run-1"`
	WebhookNodeID  *string  `json:"webhook_node_id,omitempty" doc:"Which configured webhook of that cause." maxLength:"800" example:"node-1"`
	WebhookName    *string  `json:"webhook_name,omitempty" doc:"For people." maxLength:"2000"`
	HTTPMethod     *string  `json:"http_method,omitempty" doc:"Default POST." enum:"GET,POST,PUT,PATCH,DELETE"`
	CustomHeaders  []header `json:"custom_headers,omitempty" doc:"Sent with every attempt. Those that only riverhook or a credential may set are left out, and named in dropped_headers." maxItems:"1000"`
	CredentialUUID *string  `json:"credential_uuid,omitempty" doc:"The stored credential that requests are authorized with." format:"uuid"`
	MaxAttempts    *int     `json:"max_attempts,omitempty" doc:"Default: the service's." minimum:"1" maximum:"1000"`
	ScheduledFor   *string  `json:"scheduled_for,omitempty" doc:"Not before then. Default: now." format:"date-time"`
	Traceparent    *string  `json:"traceparent,omitempty" doc:"W3C trace context of what caused it: attempts continue that trace. Default: the request's own traceparent. What is not valid is ignored." example:"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"`
}

var exampleDelivery = map[string]any{
	"endpoint_url": "https://example.com/hook", "payload": map[string]any{"event": "call.done", "id": 7},
	"organization_id": "acme", "custom_headers": []any{map[string]any{"key": "X-Tenant", "value": "acme"}},
}

type newDeliveries struct {
	Deliveries []newDelivery `json:"deliveries" minItems:"1" maxItems:"1000"`
}

type createInput struct {
	Key         string `header:"Idempotency-Key" doc:"1 to 255 visible ASCII characters: the same request with the same key is done once in 24 hours, for each organization. A repetition gets the first one's answer; another request with that key, a 409." maxLength:"255"`
	Traceparent string `header:"Traceparent" doc:"W3C trace context: deliveries that name none belong to this trace."`
}

// created is a delivery that was accepted.
type created struct {
	store.Accepted
	DroppedHeaders []string `json:"dropped_headers,omitempty" doc:"Custom headers that will not be sent: a row may not set them."`
}

type createOutput struct {
	Status   int
	Repeated string `header:"Idempotent-Replayed" doc:"true: the stored answer of the first request with this Idempotency-Key."`
	Location string `header:"Location"`
	Body     created
}

func (a *API) createDelivery(_ context.Context, c call, in *createInput, d *newDelivery) (*createOutput, error) {
	c.traceparent = in.Traceparent
	row, dropped, problems := a.insertion(c, d, "body")
	if len(problems) > 0 {
		return nil, refused(problems)
	}
	request, err := c.request(in.Key, []store.Insertion{row})
	if err != nil {
		return nil, err
	}
	inserts := a.free
	if request.Key != "" || row.WorkflowRunID != nil && row.WebhookNodeID != nil || d.DeliveryUUID != nil {
		inserts = a.keyed
	}
	done := inserts.do(request)
	if done.Err != nil {
		return nil, acceptError(done.Err, "body")
	}
	out := &createOutput{Status: http.StatusOK, Body: created{Accepted: done.Deliveries[0], DroppedHeaders: dropped}}
	if out.Body.Created {
		out.Status = http.StatusCreated
	}
	if done.Repeated {
		out.Repeated = "true"
	}
	out.Location = "/v1/deliveries/" + strconv.FormatInt(out.Body.ID, 10)
	return out, nil
}

type batchOutput struct {
	Status   int
	Repeated string `header:"Idempotent-Replayed"`
	Body     struct {
		Items   []created `json:"items" doc:"In the order of the request."`
		Created int       `json:"created" doc:"How many of them are new."`
	}
}

func (a *API) createDeliveries(ctx context.Context, c call, in *createInput, b *newDeliveries) (*batchOutput, error) {
	if n := len(b.Deliveries); n < 1 || n > maxBatch {
		return nil, wrong("body.deliveries", fmt.Sprintf("must have 1 to %d deliveries", maxBatch))
	}
	c.traceparent = in.Traceparent
	rows := make([]store.Insertion, len(b.Deliveries))
	dropped := make([][]string, len(rows))
	var problems []*huma.ErrorDetail
	for i := range b.Deliveries {
		row, names, errs := a.insertion(c, &b.Deliveries[i], "body.deliveries["+strconv.Itoa(i)+"]")
		rows[i], dropped[i] = row, names
		if problems = append(problems, errs...); len(problems) > maxProblems {
			problems = problems[:maxProblems]
			break
		}
	}
	if len(problems) > 0 {
		return nil, refused(problems)
	}
	request, err := c.request(in.Key, rows)
	if err != nil {
		return nil, err
	}
	done := a.store.Accept(context.WithoutCancel(ctx), []store.Request{request})[0]
	if done.Err != nil {
		return nil, acceptError(done.Err, "body.deliveries")
	}
	out := &batchOutput{Status: http.StatusOK}
	for i, d := range done.Deliveries {
		out.Body.Items = append(out.Body.Items, created{Accepted: d, DroppedHeaders: dropped[i]})
		if d.Created {
			out.Body.Created++
			out.Status = http.StatusCreated
		}
	}
	if done.Repeated {
		out.Repeated = "true"
	}
	return out, nil
}

// refused is what is wrong with a delivery.
func refused(problems []*huma.ErrorDetail) error {
	status := http.StatusUnprocessableEntity
	if slices.ContainsFunc(problems, func(p *huma.ErrorDetail) bool { return p.Message == ask.ForeignOrganization }) {
		status = http.StatusForbidden
	}
	return problem(status, problems[0].Location+" "+problems[0].Message, problems...)
}

// acceptError names the field of an error of the store.
func acceptError(err error, location string) error {
	var taken *store.TakenError
	if errors.As(err, &taken) {
		if location != "body" {
			location += "[" + strconv.Itoa(taken.Index) + "]"
		}
		return problem(http.StatusConflict, "there is a delivery with this delivery_uuid already", at(location+".delivery_uuid", "is taken"))
	}
	return err
}

// request is what the store is asked for.
func (c call) request(key string, rows []store.Insertion) (store.Request, error) {
	r := store.Request{Deliveries: rows, Organization: rows[0].OrganizationID}
	if key == "" {
		return r, nil
	}
	if strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return r, wrong("header.Idempotency-Key", "must be 1 to 255 visible ASCII characters")
	}
	sum := sha256.New()
	_, _ = fmt.Fprintf(sum, "%s\n", c.path)
	_, _ = sum.Write(c.body)
	r.Key, r.Hash = key, sum.Sum(nil)
	return r, nil
}

var methods = []string{"GET", "POST", "PUT", "PATCH", "DELETE"}

const (
	defaultOrganization = "default"
	maxKeyBytes         = 800 // of organization_id, workflow_run_id, webhook_node_id
	maxNameBytes        = 2000
	maxAttempts         = 1000
)

// checks collects what is wrong with one delivery.
type checks struct {
	prefix   string
	problems []*huma.ErrorDetail
}

func (k *checks) wrong(field, message string) {
	k.problems = append(k.problems, at(k.prefix+"."+field, message))
}

// text checks a text of the row, if it is there.
func (k *checks) text(field string, value *string, longest int) {
	switch {
	case value == nil:
	case *value == "":
		k.wrong(field, "is empty: leave it out")
	case len(*value) > longest:
		k.wrong(field, fmt.Sprintf("is longer than %d bytes", longest))
	case strings.ContainsRune(*value, 0):
		k.wrong(field, "has a NUL character in it")
	}
}

func (k *checks) uuid(field string, value *string) {
	if value != nil && !ask.IsUUID(*value) {
		k.wrong(field, "is not a uuid")
	}
}

// insertion checks a delivery, and makes a row of it; dropped are its custom headers that will not be sent.
func (a *API) insertion(c call, d *newDelivery, prefix string) (row store.Insertion, dropped []string, problems []*huma.ErrorDetail) {
	k := &checks{prefix: prefix}
	row = store.Insertion{
		OrganizationID: c.Organization, WorkflowRunID: d.WorkflowRunID, WebhookNodeID: d.WebhookNodeID, WebhookName: d.WebhookName,
		EndpointURL: d.EndpointURL, HTTPMethod: http.MethodPost, Payload: d.Payload, CredentialUUID: d.CredentialUUID, MaxAttempts: d.MaxAttempts,
	}
	a.checkEndpoint(k, d)
	k.text("organization_id", d.OrganizationID, maxKeyBytes)
	k.text("workflow_run_id", d.WorkflowRunID, maxKeyBytes)
	k.text("webhook_node_id", d.WebhookNodeID, maxKeyBytes)
	k.text("webhook_name", d.WebhookName, maxNameBytes)
	k.uuid("delivery_uuid", d.DeliveryUUID)
	k.uuid("credential_uuid", d.CredentialUUID)
	switch {
	case d.OrganizationID != nil && !c.Sees(*d.OrganizationID):
		k.wrong("organization_id", ask.ForeignOrganization)
	case d.OrganizationID != nil:
		row.OrganizationID = *d.OrganizationID
	case row.OrganizationID == "":
		row.OrganizationID = defaultOrganization
	}
	if d.MaxAttempts != nil && (*d.MaxAttempts < 1 || *d.MaxAttempts > maxAttempts) {
		k.wrong("max_attempts", fmt.Sprintf("must be from 1 to %d", maxAttempts))
	}
	if d.HTTPMethod != nil {
		if row.HTTPMethod = strings.ToUpper(*d.HTTPMethod); !slices.Contains(methods, row.HTTPMethod) {
			k.wrong("http_method", "must be one of "+strings.Join(methods, ", "))
		}
	}
	if row.UUID = newUUID(); d.DeliveryUUID != nil {
		row.UUID = strings.ToLower(*d.DeliveryUUID)
	}
	if d.ScheduledFor != nil {
		at, err := time.Parse(time.RFC3339, *d.ScheduledFor)
		if err != nil || at.UTC().Year() < 1 || at.UTC().Year() > 9998 {
			k.wrong("scheduled_for", "must be a time such as 2030-01-31T12:00:00Z")
		}
		row.ScheduledFor = &at
	}
	if len(row.Payload) == 0 {
		row.Payload = []byte("{}")
	}
	if len(row.Payload) > a.maxPayload {
		k.wrong("payload", fmt.Sprintf("is %d bytes, more than the %d that this service sends (RIVERHOOK_MAX_PAYLOAD)", len(row.Payload), a.maxPayload))
	}
	row.Traceparent = traceparent(c, d)
	row.CustomHeaders, dropped = a.customHeaders(k, d.CustomHeaders)
	return row, dropped, k.problems
}

// traceparent is the trace that a delivery belongs to: the one that it names, or else the request's.
func traceparent(c call, d *newDelivery) *string {
	named := c.traceparent
	if d.Traceparent != nil {
		named = *d.Traceparent
	}
	if valid := delivery.Traceparent(named); valid != "" {
		return &valid
	}
	return nil
}

func (a *API) checkEndpoint(k *checks, d *newDelivery) {
	if d.EndpointURL == "" {
		k.wrong("endpoint_url", "is missing: say where to send it")
		return
	}
	if _, err := delivery.ParseEndpoint(d.EndpointURL); err != nil {
		k.wrong("endpoint_url", strings.TrimPrefix(err.Error(), "endpoint_url "))
	}
}

// customHeaders checks custom_headers as the worker will, and is their JSON.
func (a *API) customHeaders(k *checks, headers []header) (text []byte, dropped []string) {
	if len(headers) == 0 {
		return nil, nil
	}
	text, err := json.Marshal(headers)
	if err == nil {
		_, dropped, err = a.headers.Custom(text)
	}
	if err != nil {
		k.wrong("custom_headers", strings.TrimPrefix(err.Error(), "custom_headers "))
	}
	for i, h := range headers { // which the worker skips, but the column cannot hold
		if strings.ContainsRune(h.Key+h.Value, 0) && err == nil {
			k.wrong("custom_headers["+strconv.Itoa(i)+"]", "has a NUL character in it")
		}
	}
	return text, dropped
}

// newUUID is a random uuid (RFC 9562, version 4).
func newUUID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	text := hex.EncodeToString(b)
	return text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:]
}
