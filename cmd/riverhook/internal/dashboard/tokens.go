package dashboard

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/ask"
	"github.com/riverhook/riverhook/cmd/riverhook/internal/auth"
	"github.com/riverhook/riverhook/delivery/store"
)

const (
	maxTokenName = 200
	maxTokenDays = 3650
)

func (d *Dashboard) registerTokens() {
	d.page("GET /tokens", auth.ScopeAdmin, nil, d.listTokens)
	d.page("POST /tokens", auth.ScopeAdmin, fields{"name", "scope", "organization_id", "expires_in_days"}, d.createToken)
	d.page("GET /tokens/{prefix}/revoke", auth.ScopeAdmin, nil, d.confirmRevoke)
	d.page("POST /tokens/{prefix}/revoke", auth.ScopeAdmin, nil, d.revoke)
}

type tokensData struct {
	List   []store.Token
	Scopes []auth.Scope
	All    bool
	Own    string // prefix of the visitor's
}

func (d *Dashboard) listTokens(ctx context.Context, v *visit) (answer, error) {
	list, err := d.reads.Tokens(ctx, v.Organization)
	if err != nil {
		return answer{}, err
	}
	return answer{template: "tokens", title: "Tokens", data: tokensData{list, auth.Scopes(), v.Organization == "", v.Prefix}}, nil
}

func (d *Dashboard) createToken(ctx context.Context, v *visit) (answer, error) {
	organization, err := organizationOf(v, v.form.Get("organization_id"))
	if err != nil {
		return answer{}, err
	}
	scope, err := auth.ParseScope(v.form.Get("scope"))
	if err != nil {
		return answer{}, wrong("The scope must be one of enqueue, read, operate, admin.")
	}
	name := strings.TrimSpace(v.form.Get("name"))
	if len(name) > maxTokenName || ask.NotText(name) != "" {
		return answer{}, wrong("The name must be text of at most 200 bytes.")
	}
	var lifetime time.Duration
	if text := v.form.Get("expires_in_days"); text != "" {
		days, err := strconv.Atoi(text)
		if err != nil || days < 1 || days > maxTokenDays {
			return answer{}, wrong("It must expire in 1 to 3,650 days, or never.")
		}
		lifetime = time.Duration(days) * 24 * time.Hour
	}
	token, prefix, hash := auth.NewToken()
	row := store.Token{Prefix: prefix, Name: name, Scope: string(scope), CreatedBy: v.Name}
	if organization != "" {
		row.OrganizationID = &organization
	}
	if _, err := d.Store.AddToken(ctx, row, hash, lifetime); err != nil {
		return answer{}, err
	}
	d.Auth.Forget()
	d.Log.InfoContext(ctx, "token made", "prefix", prefix, "scope", string(scope), "by", v.Name)
	return answer{template: "once", title: "New token", data: shownOnce{What: "token", Secret: token.Reveal(), Back: "/tokens"}}, nil
}

func (d *Dashboard) confirmRevoke(_ context.Context, v *visit) (answer, error) {
	prefix := v.request.PathValue("prefix")
	if !auth.ValidPrefix(prefix) {
		return answer{}, errNoToken
	}
	data := confirmData{
		Question: "Revoke the token " + prefix + "_…?", Notes: []string{"Whoever uses it is refused: here at once, on other nodes within 5 seconds."},
		Post: "/tokens/" + prefix + "/revoke", Button: "Revoke token", Danger: true, Back: "/tokens",
	}
	if prefix == v.Prefix {
		data.Notes = append(data.Notes, "You are logged in with it: this logs you out.")
	}
	return answer{template: "confirm", title: "Revoke token", data: data}, nil
}

var errNoToken = &failure{http.StatusNotFound, "There is no such token."}

func (d *Dashboard) revoke(ctx context.Context, v *visit) (answer, error) {
	prefix := v.request.PathValue("prefix")
	if !auth.ValidPrefix(prefix) {
		return answer{}, errNoToken
	}
	found, err := d.Store.RevokeToken(ctx, prefix, v.Organization)
	if err != nil {
		return answer{}, err
	}
	if !found {
		return answer{}, errNoToken
	}
	d.Auth.Forget()
	d.Log.InfoContext(ctx, "token revoked", "prefix", prefix, "by", v.Name)
	return seeOther("/tokens"), nil
}
