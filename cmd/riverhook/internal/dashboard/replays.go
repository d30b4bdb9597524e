package dashboard

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/ask"
	"github.com/riverhook/riverhook/cmd/riverhook/internal/auth"
	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
)

const (
	defaultPace = 100
	maxPace     = 100_000
)

func (d *Dashboard) registerReplays() {
	d.page("GET /replays", auth.ScopeRead, fields{"cursor"}, d.listReplays)
	d.page("GET /replays/new", auth.ScopeOperate, filterFields, d.countReplay)
	d.page("POST /replays", auth.ScopeOperate, append(slices.Clone(filterFields), "pace"), d.startReplay)
	d.page("GET /replays/{id}", auth.ScopeRead, nil, d.showReplay)
	d.page("GET /replays/{id}/cancel", auth.ScopeOperate, nil, d.confirmCancelReplay)
	d.page("POST /replays/{id}/cancel", auth.ScopeOperate, nil, d.cancelReplay)
}

// describe is a filter in words, one line each.
func describe(f store.ReplayFilter) (lines []string) {
	statuses := "dead letters and canceled deliveries"
	if len(f.Status) > 0 {
		statuses = "status "
		for i, s := range f.Status {
			if i > 0 {
				statuses += " or "
			}
			statuses += word(s)
		}
	}
	lines = append(lines, statuses)
	for _, part := range [][2]string{
		{"organization", f.OrganizationID}, {"run", f.WorkflowRunID}, {"receiver", f.Origin}, {"endpoint contains", f.Endpoint},
		{"credential", f.CredentialUUID}, {"error contains", f.Error},
	} {
		if part[1] != "" {
			lines = append(lines, part[0]+" "+visible(cut(part[1], 300)))
		}
	}
	if f.Since != nil {
		lines = append(lines, "created since "+stamp(*f.Since)+" UTC")
	}
	if f.Until != nil {
		lines = append(lines, "created before "+stamp(*f.Until)+" UTC")
	}
	return lines
}

type replaysData struct {
	Rows  []replayRow
	Next  string
	First bool
	All   bool
}

// replayRow is a replay with its filter in words.
type replayRow struct {
	store.BulkReplay
	Lines []string
}

// Open says whether it goes on.
func (r replayRow) Open() bool { return r.FinishedAt == nil }

func (d *Dashboard) listReplays(ctx context.Context, v *visit) (answer, error) {
	before, ok := ask.ParseCursor(v.query.Get("cursor"))
	if !ok {
		return answer{}, &failure{http.StatusBadRequest, "This page of the list is none: begin again with the first one."}
	}
	rows, err := d.reads.BulkReplays(ctx, v.Organization, before, pageSize+1)
	if err != nil {
		return answer{}, err
	}
	data := replaysData{First: before == 0, All: v.Organization == ""}
	rows, data.Next = ask.Page(rows, pageSize, func(r store.BulkReplay) int64 { return r.ID })
	for _, r := range rows {
		data.Rows = append(data.Rows, replayRow{r, describe(r.Filter)})
	}
	return answer{template: "replays", title: "Replays", data: data}, nil
}

// readReplay reads what a replay is about: what has ended.
func readReplay(v *visit) (store.ReplayFilter, error) {
	values := v.query
	if v.form != nil {
		values = v.form
	}
	f, err := readFilter(v, values)
	if err == nil && slices.Contains(f.Status, delivery.StatusPending) {
		err = wrong("Only what has ended starts over: pending deliveries are still being tried.")
	}
	return f, err
}

type newReplayData struct {
	Lines   []string
	Filter  map[string][]string
	Matched int
	Counts  []statusCount
	Pace    int
	Takes   string
	List    string
	Search  bool
	Rows    int
}

type statusCount struct {
	Status delivery.Status
	Count  int
}

func (d *Dashboard) countReplay(ctx context.Context, v *visit) (answer, error) {
	f, err := readReplay(v)
	if err != nil {
		return answer{}, err
	}
	counted, err := d.reads.Count(ctx, store.ActionReplay, f.Filter())
	if err != nil {
		return answer{}, err
	}
	values := filterValues(v, f)
	data := newReplayData{Lines: describe(f), Filter: values, Pace: defaultPace, Search: f.Endpoint != "" || f.Error != "" || f.CredentialUUID != "", Rows: store.SubstringRows}
	for _, s := range delivery.Statuses {
		if n, ok := counted[s]; ok {
			data.Matched += n
			data.Counts = append(data.Counts, statusCount{s, n})
		}
	}
	data.Takes = length(time.Duration(data.Matched) * time.Second / defaultPace)
	data.List = address("/deliveries", values)
	return answer{template: "replay_new", title: "Replay " + number(data.Matched) + " deliveries?", data: data}, nil
}

func (d *Dashboard) startReplay(ctx context.Context, v *visit) (answer, error) {
	f, err := readReplay(v)
	if err != nil {
		return answer{}, err
	}
	pace, err := strconv.Atoi(v.form.Get("pace"))
	if err != nil || pace < 1 || pace > maxPace {
		return answer{}, wrong(fmt.Sprintf("The pace must be a number from 1 to %s deliveries a second.", number(maxPace)))
	}
	r, err := d.reads.AddReplay(ctx, f.OrganizationID, f, pace, v.Name)
	if err != nil {
		return answer{}, err
	}
	d.Log.InfoContext(ctx, "replay wanted", "replay_id", r.ID, "matched", r.Matched, "by", v.Name)
	return seeOther("/replays/" + strconv.FormatInt(r.ID, 10)), nil
}

func (d *Dashboard) findReplay(ctx context.Context, v *visit) (store.BulkReplay, error) {
	id, ok := ask.ID(v.request.PathValue("id"))
	if !ok {
		return store.BulkReplay{}, store.ErrNoReplay
	}
	return d.reads.BulkReplay(ctx, id, v.Organization)
}

type replayData struct {
	replayRow
	Left   string
	Cancel bool
}

func (d *Dashboard) showReplay(ctx context.Context, v *visit) (answer, error) {
	r, err := d.findReplay(ctx, v)
	if err != nil {
		return answer{}, err
	}
	data := replayData{replayRow: replayRow{r, describe(r.Filter)}, Cancel: v.may(auth.ScopeOperate) && r.FinishedAt == nil}
	if left := r.Matched - r.Done; left > 0 && r.FinishedAt == nil && r.Pace > 0 {
		data.Left = length(time.Duration(left) * time.Second / time.Duration(r.Pace))
	}
	return answer{template: "replay", title: fmt.Sprintf("Replay %d", r.ID), data: data}, nil
}

func (d *Dashboard) confirmCancelReplay(ctx context.Context, v *visit) (answer, error) {
	r, err := d.findReplay(ctx, v)
	if err != nil {
		return answer{}, err
	}
	back := fmt.Sprintf("/replays/%d", r.ID)
	return answer{template: "confirm", title: "Cancel replay", data: confirmData{
		Question: "Cancel this replay?", Notes: []string{fmt.Sprintf("%s of %s deliveries have started over: that stays done.", number(r.Done), number(r.Matched))},
		Post: back + "/cancel", Button: "Cancel replay", Danger: true, Back: back,
	}}, nil
}

func (d *Dashboard) cancelReplay(ctx context.Context, v *visit) (answer, error) {
	id, ok := ask.ID(v.request.PathValue("id"))
	if !ok {
		return answer{}, store.ErrNoReplay
	}
	r, canceled, err := d.Store.CancelReplay(ctx, id, v.Organization)
	if err != nil {
		return answer{}, err
	}
	if !canceled {
		return answer{}, &failure{http.StatusConflict, "It is " + string(r.Status) + " already."}
	}
	d.Log.InfoContext(ctx, "replay canceled", "replay_id", id, "done", r.Done, "by", v.Name)
	return seeOther(fmt.Sprintf("/replays/%d", id)), nil
}
