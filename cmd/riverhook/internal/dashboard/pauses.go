package dashboard

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/ask"
	"github.com/riverhook/riverhook/cmd/riverhook/internal/auth"
	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
)

func (d *Dashboard) registerPauses() {
	d.page("GET /pauses", auth.ScopeOperate, nil, d.listPauses)
	d.page("POST /pauses", auth.ScopeOperate, fields{"endpoint_origin", "organization_id", "reason", "everything"}, d.pause)
	d.page("GET /pauses/{id}/resume", auth.ScopeOperate, nil, d.confirmResume)
	d.page("POST /pauses/{id}/resume", auth.ScopeOperate, nil, d.resume)
}

type pausesData struct {
	Pauses []store.Pause
	Held   *heldBack
	All    bool
}

func (d *Dashboard) listPauses(ctx context.Context, v *visit) (answer, error) {
	pauses, err := d.reads.PausesOf(ctx, v.Organization)
	if err != nil {
		return answer{}, err
	}
	held, err := kept(ctx, d.held, v.Organization)
	if err != nil {
		return answer{}, err
	}
	return answer{template: "pauses", title: "Pauses", data: pausesData{pauses, held, v.Organization == ""}}, nil
}

func (d *Dashboard) pause(ctx context.Context, v *visit) (answer, error) {
	organization, err := organizationOf(v, v.form.Get("organization_id"))
	if err != nil {
		return answer{}, err
	}
	origin := ""
	if endpoint := strings.TrimSpace(v.form.Get("endpoint_origin")); endpoint != "" {
		u, err := delivery.ParseEndpoint(endpoint)
		if err != nil {
			return answer{}, wrong("The receiver must be an origin such as https://example.com, or the URL of an endpoint there.")
		}
		origin = delivery.Origin(u)
	}
	reason := strings.TrimSpace(v.form.Get("reason"))
	switch {
	case ask.NotText(reason) != "" || utf8.RuneCountInString(reason) > store.MaxPauseReason:
		return answer{}, wrong(fmt.Sprintf("The reason must be text of at most %d characters.", store.MaxPauseReason))
	case origin == "" && organization == "" && v.form.Get("everything") != "true":
		return answer{}, wrong("This would hold back everything: name a receiver or an organization, or tick the box that says that everything is meant.")
	}
	created, err := d.Store.Pause(ctx, origin, organization, reason)
	if errors.Is(err, store.ErrTooManyPauses) {
		return answer{}, &failure{http.StatusConflict, fmt.Sprintf("There are %d pauses already: end some, or pause a whole receiver or organization.", store.MaxPauses)}
	}
	if err != nil {
		return answer{}, err
	}
	d.Log.InfoContext(ctx, "paused", "created", created, "by", v.Name)
	return seeOther("/pauses"), nil
}

// paused is what a pause holds back, in words.
func paused(p store.Pause) string {
	switch {
	case p.EndpointOrigin == nil && p.OrganizationID == nil:
		return "everything"
	case p.EndpointOrigin == nil:
		return "deliveries of organization " + visible(*p.OrganizationID)
	case p.OrganizationID == nil:
		return "deliveries to " + visible(*p.EndpointOrigin)
	}
	return "deliveries of organization " + visible(*p.OrganizationID) + " to " + visible(*p.EndpointOrigin)
}

var errNoPause = &failure{http.StatusNotFound, "There is no such pause: it may have ended."}

func (d *Dashboard) confirmResume(ctx context.Context, v *visit) (answer, error) {
	id, _ := ask.ID(v.request.PathValue("id"))
	pauses, err := d.reads.PausesOf(ctx, v.Organization)
	if err != nil {
		return answer{}, err
	}
	i := slices.IndexFunc(pauses, func(p store.Pause) bool { return p.ID == id })
	if i < 0 {
		return answer{}, errNoPause
	}
	return answer{template: "confirm", title: "Resume", data: confirmData{
		Question: "Let go of what this pause holds back?", Notes: []string{"It holds back " + paused(pauses[i]) + ".", "What another pause holds back as well stays held."},
		Post: fmt.Sprintf("/pauses/%d/resume", id), Button: "Resume", Back: "/pauses",
	}}, nil
}

func (d *Dashboard) resume(ctx context.Context, v *visit) (answer, error) {
	id, ok := ask.ID(v.request.PathValue("id"))
	if !ok {
		return answer{}, errNoPause
	}
	found, err := d.Store.ResumeOne(ctx, id, v.Organization)
	if err != nil {
		return answer{}, err
	}
	if !found {
		return answer{}, errNoPause
	}
	d.Log.InfoContext(ctx, "resumed", "pause_id", id, "by", v.Name)
	return seeOther("/pauses"), nil
}
