package dashboard

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/ask"
	"github.com/riverhook/riverhook/cmd/riverhook/internal/auth"
	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
)

// filterFields are the names of a filter in an address: the API's.
var filterFields = fields{"status", "organization_id", "workflow_run_id", "origin", "endpoint", "since", "until", "credential_uuid", "error"}

const (
	pageSize = 50
	// shownAttempts is how many attempts a page shows: each may have 8 KiB of an answer.
	shownAttempts = 100
)

func (d *Dashboard) registerDeliveries() {
	d.page("GET /deliveries", auth.ScopeRead, append(slices.Clone(filterFields), "cursor"), d.listDeliveries)
	d.page("GET /deliveries/{id}", auth.ScopeRead, fields{"done"}, d.showDelivery)
	for _, action := range []store.Action{store.ActionRetry, store.ActionReplay, store.ActionCancel} {
		d.page("GET /deliveries/{id}/"+action.String(), auth.ScopeOperate, nil, func(ctx context.Context, v *visit) (answer, error) {
			return d.confirmAction(ctx, v, action)
		})
		d.page("POST /deliveries/{id}/"+action.String(), auth.ScopeOperate, nil, func(ctx context.Context, v *visit) (answer, error) {
			return d.act(ctx, v, action)
		})
	}
}

// readFilter reads a filter of an address or a form. Times may be those of a browser's field, which are UTC here.
func readFilter(v *visit, values url.Values) (store.ReplayFilter, error) {
	var statuses []string
	for _, s := range values["status"] {
		if s != "" {
			statuses = append(statuses, s)
		}
	}
	get := func(name string) string { return strings.TrimSpace(values.Get(name)) }
	return ask.Filter(v.Identity, ask.Wanted{
		Status: statuses, Organization: get("organization_id"), Run: get("workflow_run_id"), Origin: get("origin"), Endpoint: get("endpoint"),
		Since: fullTime(get("since")), Until: fullTime(get("until")), Credential: get("credential_uuid"), Error: get("error"),
	})
}

// fullTime makes RFC 3339 of what a browser's field for a time holds.
func fullTime(text string) string {
	for _, layout := range []string{"2006-01-02T15:04", "2006-01-02T15:04:05"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.Format(time.RFC3339)
		}
	}
	return text
}

// filterValues is a filter as an address has it. The organization of a token that sees only one goes without saying.
func filterValues(v *visit, f store.ReplayFilter) url.Values {
	values := url.Values{}
	for _, s := range f.Status {
		values.Add("status", string(s))
	}
	for name, text := range map[string]string{
		"workflow_run_id": f.WorkflowRunID, "origin": f.Origin, "endpoint": f.Endpoint, "credential_uuid": f.CredentialUUID, "error": f.Error,
	} {
		if text != "" {
			values.Set(name, text)
		}
	}
	if f.OrganizationID != "" && v.Organization == "" {
		values.Set("organization_id", f.OrganizationID)
	}
	if f.Since != nil {
		values.Set("since", f.Since.UTC().Format(time.RFC3339Nano))
	}
	if f.Until != nil {
		values.Set("until", f.Until.UTC().Format(time.RFC3339Nano))
	}
	return values
}

// filterForm is a filter as the form shows it.
type filterForm struct {
	Statuses []statusChoice
	Values   url.Values
	Since    string // as a browser's field has it
	Until    string
	All      bool // organizations
	Any      bool // there is a filter
	More     bool // there is one of those that stand behind the others
}

type statusChoice struct {
	Status delivery.Status
	Chosen bool
}

func newFilterForm(v *visit, f store.ReplayFilter) filterForm {
	form := filterForm{Values: filterValues(v, f), All: v.Organization == ""}
	for _, s := range delivery.Statuses {
		form.Statuses = append(form.Statuses, statusChoice{s, slices.Contains(f.Status, s)})
	}
	const field = "2006-01-02T15:04:05"
	if f.Since != nil {
		form.Since = f.Since.UTC().Format(field)
	}
	if f.Until != nil {
		form.Until = f.Until.UTC().Format(field)
	}
	form.Any = len(form.Values) > 0
	for _, name := range []string{"organization_id", "workflow_run_id", "endpoint", "credential_uuid", "since", "until"} {
		form.More = form.More || form.Values.Has(name)
	}
	return form
}

// Text is a value of the filter.
func (f filterForm) Text(name string) string { return f.Values.Get(name) }

type listData struct {
	Form     filterForm
	Rows     []store.Row
	Next     string // the address of the next page
	First    string // of the first one, when this is another
	Replay   string // of what the filter matches
	Windowed bool
	Rowcount int
	All      bool
}

func (d *Dashboard) listDeliveries(ctx context.Context, v *visit) (answer, error) {
	f, err := readFilter(v, v.query)
	if err != nil {
		return answer{}, err
	}
	before, ok := ask.ParseCursor(v.query.Get("cursor"))
	if !ok {
		return answer{}, &failure{http.StatusBadRequest, "This page of the list is none: begin again with the first one."}
	}
	// What is empty goes out of the address, so that it can be read and passed on.
	for name, values := range v.query {
		if slices.Contains(values, "") && name != "cursor" {
			return seeOther(address("/deliveries", filterValues(v, f))), nil
		}
	}
	rows, err := d.reads.List(ctx, f.Filter(), before, pageSize+1)
	if err != nil {
		return answer{}, err
	}
	data := listData{Form: newFilterForm(v, f), Windowed: f.Filter().Windowed(), Rowcount: store.SubstringRows, All: v.Organization == ""}
	var next string
	data.Rows, next = ask.Page(rows, pageSize, func(r store.Row) int64 { return r.ID })
	if next != "" {
		values := filterValues(v, f)
		values.Set("cursor", next)
		data.Next = address("/deliveries", values)
	}
	if before > 0 {
		data.First = address("/deliveries", filterValues(v, f))
	}
	if v.may(auth.ScopeOperate) && !slices.Contains(f.Status, delivery.StatusPending) {
		data.Replay = address("/replays/new", filterValues(v, f))
	}
	return answer{template: "deliveries", title: "Deliveries", data: data}, nil
}

func address(path string, values url.Values) string {
	if len(values) == 0 {
		return path
	}
	return path + "?" + values.Encode()
}

type deliveryData struct {
	store.Row
	Rounds     []round // the newest first
	Hidden     int     // attempts that are not shown
	Shown      string  // the payload
	More       bool    // it is not all of the payload
	NoPayload  bool
	Headers    []delivery.Header
	Dropped    []string
	BadHeaders string
	Curl       string
	CurlNote   string
	Actions    []string
	Done       string
	Limit      string // of attempts
}

// round is the attempts between two replays, the newest first.
type round struct {
	Number   int
	Attempts []store.AttemptRow
}

// find is the delivery that an address names, if the visitor sees it.
func (d *Dashboard) find(ctx context.Context, v *visit) (store.Row, []store.AttemptRow, error) {
	id, uuid, ok := ask.Delivery(v.request.PathValue("id"))
	if !ok {
		return store.Row{}, nil, store.ErrNotFound
	}
	row, attempts, err := d.reads.Get(ctx, id, uuid)
	if err == nil && !v.Sees(row.OrganizationID) {
		err = store.ErrNotFound
	}
	return row, attempts, err
}

func (d *Dashboard) showDelivery(ctx context.Context, v *visit) (answer, error) {
	row, attempts, err := d.find(ctx, v)
	if err != nil {
		return answer{}, err
	}
	data := deliveryData{Row: row, NoPayload: row.Payload == nil}
	data.Shown, data.More = pretty(row.Payload)
	send, dropped, err := d.Headers.Custom(row.CustomHeaders)
	if err != nil {
		data.BadHeaders = err.Error()
	}
	data.Headers, data.Dropped = send, dropped
	data.Curl, data.CurlNote = curl(row, send)
	if len(attempts) > shownAttempts {
		data.Hidden = len(attempts) - shownAttempts
		attempts = attempts[data.Hidden:]
	}
	for _, a := range slices.Backward(attempts) {
		if n := len(data.Rounds); n == 0 || data.Rounds[n-1].Number != a.Round {
			data.Rounds = append(data.Rounds, round{Number: a.Round})
		}
		last := &data.Rounds[len(data.Rounds)-1]
		last.Attempts = append(last.Attempts, a)
	}
	if v.may(auth.ScopeOperate) {
		data.Actions = actions(row)
	}
	if row.MaxAttempts != nil {
		data.Limit = strconv.Itoa(*row.MaxAttempts)
	}
	data.Done = map[string]string{
		"retry": "The next attempt is due now.", "replay": "It starts over: the first attempt is due now.", "cancel": "It is canceled.",
	}[v.query.Get("done")]
	return answer{template: "delivery", title: "Delivery " + strconv.FormatInt(row.ID, 10), data: data}, nil
}

// actions are what can be done to a delivery as it is.
func actions(row store.Row) []string {
	switch {
	case row.Status != delivery.StatusPending:
		return []string{"replay"}
	case row.ClaimedBy == nil && row.ScheduledFor != nil && row.ScheduledFor.After(row.Now):
		return []string{"retry", "cancel"}
	}
	return []string{"cancel"}
}

// confirmData is a question before something is done.
type confirmData struct {
	Question string
	Notes    []string
	Post     string
	Hidden   url.Values
	Button   string
	Danger   bool
	Back     string
}

var actionWords = map[store.Action]confirmData{
	store.ActionRetry:  {Question: "Bring the next attempt forward to now?", Button: "Retry now"},
	store.ActionReplay: {Question: "Start this delivery over?", Notes: []string{"It is sent again, with the same delivery id; its attempts are counted from 1 again."}, Button: "Replay"},
	store.ActionCancel: {Question: "Cancel this delivery?", Notes: []string{"No more attempts of it begin. One that is being sent may still arrive."}, Button: "Cancel delivery", Danger: true},
}

func (d *Dashboard) confirmAction(ctx context.Context, v *visit, action store.Action) (answer, error) {
	row, _, err := d.find(ctx, v)
	if err != nil {
		return answer{}, err
	}
	id := strconv.FormatInt(row.ID, 10)
	data := actionWords[action]
	data.Back = "/deliveries/" + id
	data.Post = data.Back + "/" + action.String()
	data.Notes = append([]string{"Delivery " + id + ": " + row.HTTPMethod + " " + visible(cut(row.EndpointURL, 300)) + ", " + word(row.Status) + "."}, data.Notes...)
	return answer{template: "confirm", title: data.Button, data: data}, nil
}

func (d *Dashboard) act(ctx context.Context, v *visit, action store.Action) (answer, error) {
	row, _, err := d.find(ctx, v)
	if err != nil {
		return answer{}, err
	}
	why, err := ask.Act(ctx, d.reads, action, v.Organization, row.ID)
	if err != nil {
		return answer{}, err
	}
	d.Log.InfoContext(ctx, "delivery acted on", "action", action.String(), "delivery_id", row.ID, "changed", why == "", "by", v.Name)
	if why != "" {
		return answer{}, &failure{http.StatusConflict, "Nothing was changed: " + why + "."}
	}
	return seeOther("/deliveries/" + strconv.FormatInt(row.ID, 10) + "?done=" + action.String()), nil
}
