package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/ask"
	"github.com/riverhook/riverhook/cmd/riverhook/internal/auth"
	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
)

const (
	defaultPace = 100
	maxPace     = 100_000
)

func (a *API) registerReplays() {
	post(a, huma.Operation{
		OperationID: "create-replay", Method: http.MethodPost, Path: "/v1/replays", Tags: []string{"Replays"},
		Summary: "Replay what a filter matches, in the background",
		Description: "Dead letters and canceled deliveries, unless the filter names statuses; never pending ones, nor what comes later. With dry_run, the answer says how " +
			"many there are, and nothing is done.",
		DefaultStatus: http.StatusAccepted,
	}, auth.ScopeOperate, body{limit: maxSmallBody, example: map[string]any{
		"filter": map[string]any{"status": []any{"dead_letter"}, "organization_id": "acme", "origin": "https://example.com", "since": "2030-01-31T12:00:00Z"},
		"pace":   100, "dry_run": true,
	}}, a.createReplay)
	get(a, huma.Operation{
		OperationID: "list-replays", Method: http.MethodGet, Path: "/v1/replays", Tags: []string{"Replays"},
		Summary: "List replays, the newest first", Description: "Who wanted which, when, and how far it is.", Errors: []int{http.StatusBadRequest},
	}, auth.ScopeRead, a.listReplays)
	get(a, huma.Operation{
		OperationID: "get-replay", Method: http.MethodGet, Path: "/v1/replays/{id}", Tags: []string{"Replays"},
		Summary: "Show a replay with its progress", Errors: []int{http.StatusNotFound},
	}, auth.ScopeRead, a.getReplay)
	get(a, huma.Operation{
		OperationID: "cancel-replay", Method: http.MethodPost, Path: "/v1/replays/{id}/cancel", Tags: []string{"Replays"},
		Summary: "Cancel a replay", Description: "What it has done stays done. 409 when it is over.", Errors: []int{http.StatusNotFound, http.StatusConflict},
	}, auth.ScopeOperate, a.cancelReplay)
}

// filterBody is a filter in a body.
type filterBody struct {
	Status         []string `json:"status,omitempty" enum:"succeeded,dead_letter,canceled" doc:"Any of these. Default: dead_letter and canceled."`
	OrganizationID string   `json:"organization_id,omitempty" maxLength:"800"`
	WorkflowRunID  string   `json:"workflow_run_id,omitempty" maxLength:"800"`
	Origin         string   `json:"origin,omitempty" maxLength:"8192" doc:"Scheme, host and port, such as https://example.com."`
	Endpoint       string   `json:"endpoint,omitempty" maxLength:"8192" doc:"A part of endpoint_url, in any case; only the newest 100,000 of what the rest leaves."`
	Since          string   `json:"since,omitempty" format:"date-time" doc:"Created then or later."`
	Until          string   `json:"until,omitempty" format:"date-time" doc:"Created before."`
	CredentialUUID string   `json:"credential_uuid,omitempty" format:"uuid" doc:"With that credential; only the newest 100,000 of what the rest leaves."`
	Error          string   `json:"error,omitempty" maxLength:"8192" doc:"A part of last_error, in any case; only the newest 100,000 of what the rest leaves."`
}

func (b *filterBody) wanted() ask.Wanted {
	return ask.Wanted{
		Status: b.Status, Organization: b.OrganizationID, Run: b.WorkflowRunID, Origin: b.Origin, Endpoint: b.Endpoint,
		Since: b.Since, Until: b.Until, Credential: b.CredentialUUID, Error: b.Error,
	}
}

type newReplay struct {
	Filter *filterBody `json:"filter" doc:"What must hold for a delivery, all of it. {} is every dead letter and every canceled delivery that the token sees."`
	Pace   *int        `json:"pace,omitempty" minimum:"1" maximum:"100000" doc:"Deliveries a second. Default 100."`
	DryRun bool        `json:"dry_run,omitempty" doc:"Count only."`
}

type newReplayOutput struct {
	Status   int
	Location string `header:"Location"`
	Body     struct {
		DryRun  bool                    `json:"dry_run"`
		Matched int                     `json:"matched" doc:"How many deliveries the filter matches now."`
		Counts  map[delivery.Status]int `json:"counts,omitempty" doc:"Of a dry run: how many in each status."`
		Replay  *store.BulkReplay       `json:"replay,omitempty" doc:"Of what was begun."`
	}
}

func (a *API) createReplay(ctx context.Context, c call, _ *none, in *newReplay) (*newReplayOutput, error) {
	b := in.Filter
	if b == nil {
		return nil, wrong("body.filter", "is missing: {} is every dead letter and every canceled delivery")
	}
	f, err := c.filter(b.wanted(), "body.filter.")
	if err != nil {
		return nil, err
	}
	for i, status := range f.Status {
		if status == delivery.StatusPending {
			return nil, wrong(fmt.Sprintf("body.filter.status[%d]", i), "is pending: only what has ended starts over")
		}
	}
	pace := defaultPace
	if in.Pace != nil {
		if pace = *in.Pace; pace < 1 || pace > maxPace {
			return nil, wrong("body.pace", fmt.Sprintf("must be from 1 to %d deliveries a second", maxPace))
		}
	}
	out := &newReplayOutput{Status: http.StatusOK}
	if out.Body.DryRun = in.DryRun; in.DryRun {
		out.Body.Counts, err = a.reads.Count(ctx, store.ActionReplay, f.Filter())
		for _, n := range out.Body.Counts {
			out.Body.Matched += n
		}
		return out, err
	}
	r, err := a.reads.AddReplay(ctx, f.OrganizationID, f, pace, c.Name)
	if err != nil {
		return nil, err
	}
	a.log.InfoContext(ctx, "replay wanted", "replay_id", r.ID, "matched", r.Matched, "by", c.Name)
	out.Status, out.Location = http.StatusAccepted, fmt.Sprintf("/v1/replays/%d", r.ID)
	out.Body.Matched, out.Body.Replay = int(r.Matched), &r
	return out, nil
}

type listReplaysOutput struct {
	Body struct {
		Items      []store.BulkReplay `json:"items"`
		NextCursor *string            `json:"next_cursor" doc:"Null on the last page."`
	}
}

func (a *API) listReplays(ctx context.Context, c call, in *PageInput) (*listReplaysOutput, error) {
	before, err := parseCursor(in.Cursor)
	if err != nil {
		return nil, err
	}
	rows, err := a.reads.BulkReplays(ctx, c.Organization, before, in.Limit+1)
	if err != nil {
		return nil, err
	}
	out := &listReplaysOutput{}
	out.Body.Items, out.Body.NextCursor = page(rows, in.Limit, func(r store.BulkReplay) int64 { return r.ID })
	return out, nil
}

type replayPath struct {
	ID string `path:"id" example:"1"`
}

type replayOutput struct{ Body store.BulkReplay }

func (a *API) getReplay(ctx context.Context, c call, in *replayPath) (*replayOutput, error) {
	id, ok := ask.ID(in.ID)
	if !ok {
		return nil, store.ErrNoReplay
	}
	r, err := a.reads.BulkReplay(ctx, id, c.Organization)
	if err != nil {
		return nil, err
	}
	return &replayOutput{r}, nil
}

func (a *API) cancelReplay(ctx context.Context, c call, in *replayPath) (*replayOutput, error) {
	id, ok := ask.ID(in.ID)
	if !ok {
		return nil, store.ErrNoReplay
	}
	r, canceled, err := a.store.CancelReplay(ctx, id, c.Organization)
	if err != nil {
		return nil, err
	}
	if !canceled {
		return nil, problem(http.StatusConflict, "it is "+string(r.Status)+" already")
	}
	a.log.InfoContext(ctx, "replay canceled", "replay_id", id, "done", r.Done, "by", c.Name, "age", time.Since(r.CreatedAt).Round(time.Second).String())
	return &replayOutput{r}, nil
}
