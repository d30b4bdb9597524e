package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/ask"
	"github.com/riverhook/riverhook/delivery/store"
)

// FilterInput selects deliveries in a query. What is set must hold, all of it. A filter that is added here goes into
// ask.Wanted, and into store.ReplayFilter for replays.
type FilterInput struct {
	Status         []string `query:"status,explode" enum:"pending,succeeded,dead_letter,canceled" doc:"Any of these; may be repeated."`
	OrganizationID string   `query:"organization_id" maxLength:"800"`
	WorkflowRunID  string   `query:"workflow_run_id" maxLength:"800"`
	Origin         string   `query:"origin" maxLength:"8192" doc:"Scheme, host and port, such as https://example.com. Unless status is pending or dead_letter, only the newest 100,000 of what the other filters leave are looked at."`
	Endpoint       string   `query:"endpoint" maxLength:"8192" doc:"A part of endpoint_url, in any case; only the newest 100,000 of what the other filters leave are looked at."`
	Since          string   `query:"since" format:"date-time" doc:"Created then or later."`
	Until          string   `query:"until" format:"date-time" doc:"Created before."`
	CredentialUUID string   `query:"credential_uuid" format:"uuid" doc:"With that credential; only the newest 100,000 of what the other filters leave are looked at."`
	Error          string   `query:"error" maxLength:"8192" doc:"A part of last_error, in any case; only the newest 100,000 of what the other filters leave are looked at."`
}

func (in *FilterInput) wanted() ask.Wanted {
	return ask.Wanted{
		Status: in.Status, Organization: in.OrganizationID, Run: in.WorkflowRunID, Origin: in.Origin, Endpoint: in.Endpoint,
		Since: in.Since, Until: in.Until, Credential: in.CredentialUUID, Error: in.Error,
	}
}

// filter checks a filter; the fields of its errors are below prefix.
func (c call) filter(w ask.Wanted, prefix string) (store.ReplayFilter, error) {
	f, err := ask.Filter(c.Identity, w)
	var field *ask.Error
	switch {
	case errors.As(err, &field) && field.Foreign:
		return f, c.foreign(prefix + field.Field)
	case errors.As(err, &field):
		return f, wrong(prefix+field.Field, field.Message)
	}
	return f, err
}

// plain refuses a text that no column can hold.
func plain(location, text string) error {
	if message := ask.NotText(text); message != "" {
		return wrong(location, message)
	}
	return nil
}

// parseOrigin reads an origin as deliveries.endpoint_origin has it.
func parseOrigin(text, location string) (string, error) {
	origin, ok := ask.Origin(text)
	if !ok {
		return "", wrong(location, ask.NotOrigin)
	}
	return origin, nil
}

// PageInput is which page of a list.
type PageInput struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"200" default:"50" doc:"How many at most."`
	Cursor string `query:"cursor" maxLength:"100" doc:"next_cursor of the page before; without it, the first page."`
}

// page cuts a list, which was asked for with one more than the limit, and says where the next one begins.
func page[T any](rows []T, limit int, id func(T) int64) (items []T, next *string) {
	items, cursor := ask.Page(rows, limit, id)
	if cursor != "" {
		next = &cursor
	}
	return items, next
}

// parseCursor reads a cursor; empty is the first page, 0.
func parseCursor(text string) (before int64, err error) {
	before, ok := ask.ParseCursor(text)
	if !ok {
		return 0, problem(http.StatusBadRequest, "cursor is not one that this API gave out: begin again without it", at("query.cursor", "is not a cursor of this API"))
	}
	return before, nil
}

type listInput struct {
	FilterInput
	PageInput
}

type listOutput struct {
	Body struct {
		Items      []store.Row `json:"items"`
		NextCursor *string     `json:"next_cursor" doc:"Null on the last page."`
	}
}

func (a *API) listDeliveries(ctx context.Context, c call, in *listInput) (*listOutput, error) {
	f, err := c.filter(in.wanted(), "query.")
	if err != nil {
		return nil, err
	}
	before, err := parseCursor(in.Cursor)
	if err != nil {
		return nil, err
	}
	rows, err := a.reads.List(ctx, f.Filter(), before, in.Limit+1)
	if err != nil {
		return nil, err
	}
	out := &listOutput{}
	out.Body.Items, out.Body.NextCursor = page(rows, in.Limit, func(r store.Row) int64 { return r.ID })
	return out, nil
}

type deliveryPath struct {
	ID string `path:"id" doc:"id or delivery_uuid" example:"1"`
}

// parse reads an id or a uuid. What is neither names no delivery.
func (p *deliveryPath) parse() (id int64, uuid string, err error) {
	id, uuid, ok := ask.Delivery(p.ID)
	if !ok {
		return 0, "", store.ErrNotFound
	}
	return id, uuid, nil
}

// oneDelivery is a row with everything.
type oneDelivery struct {
	store.Row
	PayloadBytes int                `json:"payload_bytes" doc:"Its size. A payload above 4 MiB, or nested too deep to be repeated, is left out."`
	Attempts     []store.AttemptRow `json:"attempts"`
}

type oneOutput struct{ Body oneDelivery }

func (a *API) getDelivery(ctx context.Context, c call, in *deliveryPath) (*oneOutput, error) {
	id, uuid, err := in.parse()
	if err != nil {
		return nil, err
	}
	row, attempts, err := a.reads.Get(ctx, id, uuid)
	if err != nil {
		return nil, err
	}
	if !c.Sees(row.OrganizationID) {
		return nil, store.ErrNotFound
	}
	if !json.Valid(row.Payload) { // Postgres takes what is nested deeper than this program can write
		row.Payload = nil
	}
	if !json.Valid(row.CustomHeaders) {
		row.CustomHeaders = nil
	}
	return &oneOutput{oneDelivery{Row: row, PayloadBytes: row.PayloadBytes, Attempts: append([]store.AttemptRow{}, attempts...)}}, nil
}

type deliveryOutput struct{ Body store.Row }

// find is a delivery that the token sees.
func (a *API) find(ctx context.Context, c call, in *deliveryPath) (store.Row, error) {
	id, uuid, err := in.parse()
	if err != nil {
		return store.Row{}, err
	}
	f := store.Filter{Organization: c.Organization, IDs: []int64{id}}
	if uuid != "" {
		f.IDs, f.UUIDs = nil, []string{uuid}
	}
	rows, err := a.reads.List(ctx, f, 0, 1)
	if err != nil {
		return store.Row{}, err
	}
	if len(rows) == 0 {
		return store.Row{}, store.ErrNotFound
	}
	return rows[0], nil
}

func (a *API) actOnDelivery(ctx context.Context, c call, in *deliveryPath, action store.Action) (*deliveryOutput, error) {
	row, err := a.find(ctx, c, in)
	if err != nil {
		return nil, err
	}
	why, err := ask.Act(ctx, a.reads, action, c.Organization, row.ID)
	if err != nil {
		return nil, err
	}
	a.log.InfoContext(ctx, "delivery acted on", "action", action.String(), "delivery_id", row.ID, "changed", why == "", "by", c.Name)
	if why != "" {
		return nil, problem(http.StatusConflict, why)
	}
	if row, err = a.find(ctx, c, &deliveryPath{ID: strconv.FormatInt(row.ID, 10)}); err != nil {
		return nil, err
	}
	return &deliveryOutput{row}, nil
}
