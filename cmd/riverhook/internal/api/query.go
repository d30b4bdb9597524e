package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
)

// FilterInput selects deliveries in a query. What is set must hold, all of it. A filter that is added here goes into
// filter below, and into store.ReplayFilter for replays.
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

// wanted is a filter as somebody asks for it, in a query or in a body.
type wanted struct {
	status                              []string
	organization, run, origin, endpoint string
	since, until                        string
	credential, lastError               string
}

func (in *FilterInput) wanted() wanted {
	return wanted{in.Status, in.OrganizationID, in.WorkflowRunID, in.Origin, in.Endpoint, in.Since, in.Until, in.CredentialUUID, in.Error}
}

// filter checks a filter; the fields of its errors are below prefix.
func (c call) filter(w wanted, prefix string) (f store.ReplayFilter, err error) {
	f = store.ReplayFilter{WorkflowRunID: w.run, Endpoint: w.endpoint, CredentialUUID: w.credential, Error: w.lastError}
	for name, text := range map[string]string{
		"organization_id": w.organization, "workflow_run_id": w.run, "origin": w.origin, "endpoint": w.endpoint, "error": w.lastError,
	} {
		if err := plain(prefix+name, text); err != nil {
			return f, err
		}
	}
	if f.OrganizationID, err = c.organization(w.organization, prefix+"organization_id"); err != nil {
		return f, err
	}
	for i, text := range w.status {
		status := delivery.Status(text)
		if !slices.Contains(delivery.Statuses, status) {
			return f, wrong(fmt.Sprintf("%sstatus[%d]", prefix, i), "must be one of pending, succeeded, dead_letter, canceled")
		}
		if !slices.Contains(f.Status, status) {
			f.Status = append(f.Status, status)
		}
	}
	if w.origin != "" {
		if f.Origin, err = parseOrigin(w.origin, prefix+"origin"); err != nil {
			return f, err
		}
	}
	if w.credential != "" && !uuidSyntax.MatchString(w.credential) {
		return f, wrong(prefix+"credential_uuid", "must be a UUID such as 1f0a4c1e-7b64-4b7e-9d0c-2f1f5f3b8a11")
	}
	if f.Since, err = parseTime(prefix+"since", w.since); err != nil {
		return f, err
	}
	if f.Until, err = parseTime(prefix+"until", w.until); err != nil {
		return f, err
	}
	return f, nil
}

// parseTime reads a time; nil for none.
func parseTime(location, text string) (*time.Time, error) {
	if text == "" {
		return nil, nil //nolint:nilnil // no time is not an error
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || t.UTC().Year() < 1 || t.UTC().Year() > 9998 {
		return nil, wrong(location, "must be a time such as 2030-01-31T12:00:00Z")
	}
	return &t, nil
}

// maxFilterText bounds a text to look for, in bytes.
const maxFilterText = 8 << 10

// plain refuses a text that no column can hold.
func plain(location, text string) error {
	switch {
	case len(text) > maxFilterText:
		return wrong(location, fmt.Sprintf("is longer than %d bytes", maxFilterText))
	case !utf8.ValidString(text) || strings.ContainsRune(text, 0):
		return wrong(location, "is not text: it is not UTF-8, or has a NUL character in it")
	}
	return nil
}

// parseOrigin reads an origin as deliveries.endpoint_origin has it.
func parseOrigin(text, location string) (string, error) {
	u, err := delivery.ParseEndpoint(text)
	if err != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return "", wrong(location, "must be scheme, host and port only, such as https://example.com")
	}
	return delivery.Origin(u), nil
}

// PageInput is which page of a list.
type PageInput struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"200" default:"50" doc:"How many at most."`
	Cursor string `query:"cursor" maxLength:"100" doc:"next_cursor of the page before; without it, the first page."`
}

// page cuts a list, which was asked for with one more than the limit, and says where the next one begins.
func page[T any](rows []T, limit int, id func(T) int64) (items []T, next *string) {
	if len(rows) <= limit {
		return append([]T{}, rows...), nil
	}
	text := cursor(id(rows[limit-1]))
	return rows[:limit], &text
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
	if uuidSyntax.MatchString(p.ID) {
		return 0, strings.ToLower(p.ID), nil
	}
	if id, err = parseID(p.ID); err != nil {
		return 0, "", store.ErrNotFound
	}
	return id, "", nil
}

func parseID(text string) (int64, error) {
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || id < 1 {
		return 0, fmt.Errorf("%w: not an id", strconv.ErrSyntax)
	}
	return id, nil
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
	f := store.Filter{Organization: c.Organization, IDs: []int64{row.ID}}
	var result store.Result
	switch action {
	case store.ActionReplay:
		f.Statuses = []delivery.Status{delivery.StatusSucceeded, delivery.StatusDeadLetter, delivery.StatusCanceled}
		result, err = a.reads.Replay(ctx, f, "", nil)
	case store.ActionRetry:
		result, err = a.reads.Retry(ctx, f, nil)
	case store.ActionCancel:
		result, err = a.reads.Cancel(ctx, f, nil)
	}
	if err != nil {
		return nil, err
	}
	a.log.InfoContext(ctx, "delivery acted on", "action", action.String(), "delivery_id", row.ID, "changed", result.Changed, "by", c.Name)
	if result.Changed == 0 && len(result.Unchanged) > 0 {
		return nil, problem(http.StatusConflict, whyNot(action, result.Unchanged[0]))
	}
	if row, err = a.find(ctx, c, &deliveryPath{ID: strconv.FormatInt(row.ID, 10)}); err != nil {
		return nil, err
	}
	return &deliveryOutput{row}, nil
}

// whyNot says why an action did not change a delivery.
func whyNot(action store.Action, u store.Unchanged) string {
	pending := u.Status == delivery.StatusPending
	switch {
	case action == store.ActionReplay && pending:
		return "it is pending: only what has ended starts over; retry brings its next attempt forward"
	case action == store.ActionRetry && pending && u.Sending:
		return "an attempt is being made right now"
	case action == store.ActionRetry && pending:
		return "it is due already"
	case action == store.ActionRetry:
		return "it is " + string(u.Status) + ": replay starts it over"
	}
	return "it is " + string(u.Status) + " already"
}
