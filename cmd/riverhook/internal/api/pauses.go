package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/ask"
	"github.com/riverhook/riverhook/cmd/riverhook/internal/auth"
	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
)

func (a *API) registerPauses() {
	get(a, huma.Operation{
		OperationID: "list-pauses", Method: http.MethodGet, Path: "/v1/pauses", Tags: []string{"Pauses"},
		Summary: "List what is held back by hand", Description: "The oldest first. A token of one organization sees the pauses of that organization only, and none of all organizations.",
	}, auth.ScopeOperate, a.listPauses)
	post(a, huma.Operation{
		OperationID: "create-pause", Method: http.MethodPost, Path: "/v1/pauses", Tags: []string{"Pauses"},
		Summary: "Hold deliveries back: of a receiver, of an organization, of both, or all",
		Description: "Within about a second no more attempts of what matches begin, now and later; attempts in flight end. Nothing is lost: deliveries are accepted as ever, wait, " +
			"and use up no attempt. A pause has no end but DELETE. 201 when it is new; 200 when there was the same already: then a reason replaces the one it had.",
		DefaultStatus: http.StatusCreated, Errors: []int{http.StatusConflict},
	}, auth.ScopeOperate, body{limit: maxSmallBody, example: map[string]any{
		"endpoint_origin": "https://example.com", "organization_id": "acme", "reason": "maintenance until noon",
	}}, a.createPause)
	get(a, huma.Operation{
		OperationID: "delete-pause", Method: http.MethodDelete, Path: "/v1/pauses/{pause_id}", Tags: []string{"Pauses"},
		Summary: "Let go of what was paused", Description: "What another pause holds back as well stays held.",
		Errors: []int{http.StatusNotFound}, DefaultStatus: http.StatusNoContent,
	}, auth.ScopeOperate, a.deletePause)
	get(a, huma.Operation{
		OperationID: "list-held", Method: http.MethodGet, Path: "/v1/held", Tags: []string{"Pauses"},
		Summary: "Count what is held back, and say why",
		Description: "For each receiver and organization. held_reason is paused (by hand), no_answer (the receiver does not answer: few at a time), failing (every attempt at it " +
			"fails: a few a second) or crowded (it has its share of the attempts in flight). Counting stops at 10,000 for each receiver and organization: then at_least is true.",
	}, auth.ScopeRead, a.listHeld)
}

type pausesOutput struct {
	Body struct {
		Items []store.Pause `json:"items"`
	}
}

func (a *API) listPauses(ctx context.Context, c call, in *organizationInput) (*pausesOutput, error) {
	organization, err := in.list(c)
	if err != nil {
		return nil, err
	}
	list, err := a.reads.PausesOf(ctx, organization)
	if err != nil {
		return nil, err
	}
	out := &pausesOutput{}
	out.Body.Items = append([]store.Pause{}, list...)
	return out, nil
}

type newPause struct {
	EndpointOrigin *string `json:"endpoint_origin,omitempty" maxLength:"8192" doc:"Of this receiver: an origin such as https://example.com, or the URL of an endpoint there. Default: of all."`
	OrganizationID *string `json:"organization_id,omitempty" maxLength:"800" doc:"Of this tenant. Default: the token's, or else of all."`
	Reason         string  `json:"reason,omitempty" maxLength:"500" doc:"Why, for people."`
	Everything     bool    `json:"everything,omitempty" doc:"Must be true for a pause with neither of the two: it holds back all deliveries of all organizations."`
}

type pauseOutput struct {
	Status   int
	Location string `header:"Location"`
	Body     struct {
		store.Pause
		Created bool `json:"created" doc:"False: there was the same already."`
	}
}

// pauseScope reads what a pause is for. What is empty may be a variable that was not set: it is not taken for all.
func (c call) pauseScope(in *newPause) (origin, organization string, err error) {
	if in.EndpointOrigin != nil {
		u, err := delivery.ParseEndpoint(*in.EndpointOrigin)
		if err != nil {
			return "", "", wrong("body.endpoint_origin", "must be an origin such as https://example.com, or the URL of an endpoint there")
		}
		origin = delivery.Origin(u)
	}
	named := ""
	if in.OrganizationID != nil {
		if named = *in.OrganizationID; named == "" {
			return "", "", wrong("body.organization_id", "is empty: leave it out to mean all of them")
		}
	}
	if len(named) > maxKeyBytes || plain("", named) != nil {
		return "", "", wrong("body.organization_id", "is not text of at most 800 bytes")
	}
	if organization, err = c.organization(named, "body.organization_id"); err != nil {
		return "", "", err
	}
	switch everything := origin == "" && organization == ""; {
	case everything && !in.Everything:
		return "", "", wrong("body.everything", "must be true to hold back everything: or name endpoint_origin, organization_id or both")
	case !everything && in.Everything:
		return "", "", wrong("body.everything", "is true, but this pause is not of everything")
	}
	return origin, organization, nil
}

func (a *API) createPause(ctx context.Context, c call, _ *none, in *newPause) (*pauseOutput, error) {
	origin, organization, err := c.pauseScope(in)
	if err != nil {
		return nil, err
	}
	if plain("", in.Reason) != nil || utf8.RuneCountInString(in.Reason) > store.MaxPauseReason {
		return nil, wrong("body.reason", fmt.Sprintf("is not text of at most %d characters", store.MaxPauseReason))
	}
	out := &pauseOutput{Status: http.StatusOK}
	if out.Body.Created, err = a.store.Pause(ctx, origin, organization, in.Reason); errors.Is(err, store.ErrTooManyPauses) {
		return nil, problem(http.StatusConflict, fmt.Sprintf("there are %d pauses already: end some, or pause a whole receiver or organization", store.MaxPauses))
	}
	if err != nil {
		return nil, err
	}
	if out.Body.Created {
		out.Status = http.StatusCreated
	}
	list, err := a.reads.Pauses(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list, func(p store.Pause) bool {
		return orEmpty(p.EndpointOrigin) == origin && orEmpty(p.OrganizationID) == organization
	})
	if i < 0 {
		return nil, problem(http.StatusConflict, "somebody else has just ended the same pause: try again")
	}
	out.Body.Pause, out.Location = list[i], fmt.Sprintf("/v1/pauses/%d", list[i].ID)
	a.log.InfoContext(ctx, "paused", "pause_id", list[i].ID, "created", out.Body.Created, "by", c.Name)
	return out, nil
}

func orEmpty(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

type pausePath struct {
	ID string `path:"pause_id" example:"1"`
}

func (a *API) deletePause(ctx context.Context, c call, in *pausePath) (*empty, error) {
	found := false
	id, ok := ask.ID(in.ID)
	if ok {
		var err error
		if found, err = a.store.ResumeOne(ctx, id, c.Organization); err != nil {
			return nil, err
		}
	}
	if !found {
		return nil, problem(http.StatusNotFound, "there is no such pause")
	}
	a.log.InfoContext(ctx, "resumed", "pause_id", id, "by", c.Name)
	return &empty{}, nil
}

type heldInput struct {
	OrganizationID string `query:"organization_id" maxLength:"800" doc:"Default: all that the token sees."`
	Limit          int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Pairs of receiver and organization, at most."`
}

type heldOutput struct {
	Body struct {
		Items []store.HeldGroup `json:"items"`
		More  bool              `json:"more" doc:"There are more pairs than limit."`
	}
}

func (a *API) listHeld(ctx context.Context, c call, in *heldInput) (*heldOutput, error) {
	organization, err := (&organizationInput{in.OrganizationID}).list(c)
	if err != nil {
		return nil, err
	}
	groups, more, err := a.reads.HeldOf(ctx, organization, in.Limit)
	if err != nil {
		return nil, err
	}
	out := &heldOutput{}
	out.Body.Items, out.Body.More = append([]store.HeldGroup{}, groups...), more
	return out, nil
}
