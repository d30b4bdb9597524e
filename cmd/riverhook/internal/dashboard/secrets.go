package dashboard

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/ask"
	"github.com/riverhook/riverhook/cmd/riverhook/internal/auth"
	"github.com/riverhook/riverhook/delivery/credential"
	"github.com/riverhook/riverhook/delivery/signing"
	"github.com/riverhook/riverhook/delivery/store"
)

const (
	defaultOrganization = "default"
	maxKeyBytes         = 800 // of an organization or a name
	defaultOverlapHours = 24
	maxOverlapHours     = 365 * 24
)

func (d *Dashboard) registerSecrets() {
	d.page("GET /credentials", auth.ScopeAdmin, nil, d.listCredentials)
	d.page("POST /credentials", auth.ScopeAdmin, fields{"organization_id", "name", "type", "header", "secret"}, d.setCredential)
	d.page("GET /credentials/remove", auth.ScopeAdmin, fields{"organization_id", "name"}, d.confirmRemoveCredential)
	d.page("POST /credentials/remove", auth.ScopeAdmin, fields{"organization_id", "name"}, d.removeCredential)
	d.page("GET /secrets", auth.ScopeAdmin, nil, d.listSecrets)
	d.page("POST /secrets", auth.ScopeAdmin, fields{"organization_id", "endpoint_origin", "kind", "rotate", "overlap_hours"}, d.addSecret)
	d.page("GET /secrets/expire", auth.ScopeAdmin, fields{"organization_id", "endpoint_origin"}, d.confirmExpireSecrets)
	d.page("POST /secrets/expire", auth.ScopeAdmin, fields{"organization_id", "endpoint_origin", "all"}, d.expireSecrets)
}

// organizationOf is the organization that a form names: the visitor's, or one that he sees. Empty: all that he sees.
func organizationOf(v *visit, named string) (string, error) {
	named = strings.TrimSpace(named)
	switch {
	case len(named) > maxKeyBytes || ask.NotText(named) != "":
		return "", wrong("The organization must be text of at most 800 bytes.")
	case named == "":
		return v.Organization, nil
	case !v.Sees(named):
		return "", &ask.Error{Field: "organization_id", Message: ask.ForeignOrganization, Foreign: true}
	}
	return named, nil
}

// ownerOf is the organization that something is made for.
func ownerOf(v *visit, named string) (string, error) {
	organization, err := organizationOf(v, named)
	if organization == "" {
		organization = defaultOrganization
	}
	return organization, err
}

type credentialsData struct {
	List  []store.Credential
	Types []credential.Type
	All   bool
}

func (d *Dashboard) listCredentials(ctx context.Context, v *visit) (answer, error) {
	list, err := d.reads.Credentials(ctx, v.Organization)
	if err != nil {
		return answer{}, err
	}
	return answer{template: "credentials", title: "Credentials", data: credentialsData{list, credential.Types(), v.Organization == ""}}, nil
}

func (d *Dashboard) setCredential(ctx context.Context, v *visit) (answer, error) {
	organization, err := ownerOf(v, v.form.Get("organization_id"))
	if err != nil {
		return answer{}, err
	}
	name := strings.TrimSpace(v.form.Get("name"))
	if name == "" || len(name) > maxKeyBytes || ask.NotText(name) != "" {
		return answer{}, wrong("The name must be text of 1 to 800 bytes.")
	}
	parsed, err := credential.Parse(credential.Type(v.form.Get("type")), v.form.Get("header"), []byte(v.form.Get("secret")))
	if err != nil { // it repeats nothing of the secret
		return answer{}, wrong("This is no credential: " + strings.TrimPrefix(err.Error(), "credential: ") + ".")
	}
	uuid, rotated, err := d.Store.SetCredential(ctx, organization, name, v.form.Get("type"), "", d.seal(parsed.Encode()))
	if err != nil {
		return answer{}, secretError(err)
	}
	d.Log.InfoContext(ctx, "credential set", "credential_uuid", uuid, "rotated", rotated, "by", v.Name)
	return seeOther("/credentials"), nil
}

// seal seals a secret for the row that it will be in.
func (d *Dashboard) seal(secret []byte) store.SealFunc {
	return func(uuid, organization string) ([]byte, error) { return d.Keys.Seal(secret, uuid, organization) }
}

// secretError says what the store says about a secret.
func secretError(err error) error {
	switch {
	case errors.Is(err, credential.ErrNoKey):
		return &failure{http.StatusConflict, "This service has no key to seal secrets with: set RIVERHOOK_SECRET_KEY."}
	case errors.Is(err, store.ErrSecretExists):
		return &failure{http.StatusConflict, "There is a signing secret already: rotate it to make a new one beside it."}
	case errors.Is(err, store.ErrCredentialRace):
		return &failure{http.StatusConflict, "Somebody else is setting this credential right now: try again."}
	}
	return err
}

func (d *Dashboard) confirmRemoveCredential(_ context.Context, v *visit) (answer, error) {
	organization, err := ownerOf(v, v.query.Get("organization_id"))
	if err != nil {
		return answer{}, err
	}
	name := v.query.Get("name")
	return answer{template: "confirm", title: "Remove credential", data: confirmData{
		Question: "Remove the credential " + visible(cut(name, 100)) + " of organization " + visible(cut(organization, 100)) + "?",
		Notes:    []string{"Deliveries that name it fail until one of its uuid is stored again."},
		Post:     "/credentials/remove", Hidden: url.Values{"name": {name}, "organization_id": {organization}}, Button: "Remove credential", Danger: true, Back: "/credentials",
	}}, nil
}

func (d *Dashboard) removeCredential(ctx context.Context, v *visit) (answer, error) {
	organization, err := ownerOf(v, v.form.Get("organization_id"))
	if err != nil {
		return answer{}, err
	}
	if ask.NotText(v.form.Get("name")) != "" {
		return answer{}, wrong("The name is not text.")
	}
	removed, err := d.Store.RemoveCredential(ctx, organization, v.form.Get("name"))
	if err != nil {
		return answer{}, err
	}
	if !removed {
		return answer{}, &failure{http.StatusNotFound, "There is no such credential: it may have been removed."}
	}
	d.Log.InfoContext(ctx, "credential removed", "by", v.Name)
	return seeOther("/credentials"), nil
}

type secretsData struct {
	List []store.SigningSecret
	All  bool
}

func (d *Dashboard) listSecrets(ctx context.Context, v *visit) (answer, error) {
	list, err := d.reads.Secrets(ctx, v.Organization)
	if err != nil {
		return answer{}, err
	}
	return answer{template: "secrets", title: "Signing secrets", data: secretsData{list, v.Organization == ""}}, nil
}

// secretScope is whom a form's signing secret is for.
func secretScope(v *visit, values url.Values) (scope store.Scope, err error) {
	if scope.Organization, err = ownerOf(v, values.Get("organization_id")); err != nil {
		return scope, err
	}
	if text := strings.TrimSpace(values.Get("endpoint_origin")); text != "" {
		origin, ok := ask.Origin(text)
		if !ok {
			return scope, wrong("The receiver " + ask.NotOrigin + ".")
		}
		scope.Origin = origin
	}
	return scope, nil
}

// shownOnce is a secret that was made a moment ago.
type shownOnce struct {
	What, Secret, Public, Back string
}

func (d *Dashboard) addSecret(ctx context.Context, v *visit) (answer, error) {
	scope, err := secretScope(v, v.form)
	if err != nil {
		return answer{}, err
	}
	key := signing.Generate()
	switch v.form.Get("kind") {
	case "", "hmac":
	case "ed25519":
		key = signing.GenerateEd25519()
	default:
		return answer{}, wrong("The kind must be hmac or ed25519.")
	}
	rotate, hours := v.form.Get("rotate") == "true", defaultOverlapHours
	if text := v.form.Get("overlap_hours"); text != "" {
		if hours, err = strconv.Atoi(text); err != nil || hours < 0 || hours > maxOverlapHours {
			return answer{}, wrong("The overlap must be a number from 0 to 8,760 hours.")
		}
	}
	uuid, err := d.Store.AddSecret(ctx, scope, rotate, time.Duration(hours)*time.Hour, d.seal([]byte(key.Reveal())))
	if err != nil {
		return answer{}, secretError(err)
	}
	d.Log.InfoContext(ctx, "signing secret made", "secret_uuid", uuid, "rotated", rotate, "by", v.Name)
	once := shownOnce{What: "signing secret", Secret: key.Reveal(), Back: "/secrets"}
	once.Public, _ = key.Public()
	return answer{template: "once", title: "New signing secret", data: once}, nil
}

func (d *Dashboard) confirmExpireSecrets(_ context.Context, v *visit) (answer, error) {
	scope, err := secretScope(v, v.query)
	if err != nil {
		return answer{}, err
	}
	receiver := "all receivers that have none of their own"
	if scope.Origin != "" {
		receiver = visible(scope.Origin)
	}
	return answer{template: "confirm", title: "End signing secrets", data: confirmData{
		Question: "End every signing secret of organization " + visible(cut(scope.Organization, 100)) + " for " + receiver + "?",
		Notes:    []string{"Deliveries are not signed any more then, at once. To end only what a rotation has left, wait for its overlap, or use riverhook secrets."},
		Post:     "/secrets/expire", Hidden: url.Values{"organization_id": {scope.Organization}, "endpoint_origin": {scope.Origin}, "all": {"true"}},
		Button: "End secrets", Danger: true, Back: "/secrets",
	}}, nil
}

func (d *Dashboard) expireSecrets(ctx context.Context, v *visit) (answer, error) {
	scope, err := secretScope(v, v.form)
	if err != nil {
		return answer{}, err
	}
	n, err := d.Store.ExpireSecrets(ctx, scope, v.form.Get("all") == "true")
	if err != nil {
		return answer{}, err
	}
	d.Log.InfoContext(ctx, "signing secrets ended", "expired", n, "by", v.Name)
	return seeOther("/secrets"), nil
}
