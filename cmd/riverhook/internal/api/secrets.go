package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/ask"
	"github.com/riverhook/riverhook/cmd/riverhook/internal/auth"
	"github.com/riverhook/riverhook/delivery/credential"
	"github.com/riverhook/riverhook/delivery/signing"
	"github.com/riverhook/riverhook/delivery/store"
)

func (a *API) registerSecrets() {
	get(a, huma.Operation{
		OperationID: "list-credentials", Method: http.MethodGet, Path: "/v1/credentials", Tags: []string{"Credentials"},
		Summary: "List credentials, without their secrets",
	}, auth.ScopeAdmin, a.listCredentials)
	post(a, huma.Operation{
		OperationID: "set-credential", Method: http.MethodPost, Path: "/v1/credentials", Tags: []string{"Credentials"},
		Summary:       "Store a credential, or rotate it",
		Description:   "One of the same organization and name keeps its uuid, and gets the new secret: 200 with rotated true. The secret is never shown again.",
		DefaultStatus: http.StatusCreated, Errors: []int{http.StatusConflict},
	}, auth.ScopeAdmin, body{limit: maxSmallBody, example: map[string]any{
		"name": "crm", "type": "bearer_token", "secret": "s3cret-t0ken", "organization_id": "acme",
	}}, a.setCredential)
	get(a, huma.Operation{
		OperationID: "delete-credential", Method: http.MethodDelete, Path: "/v1/credentials/{name}", Tags: []string{"Credentials"},
		Summary: "Remove a credential", Description: "Deliveries that name it fail until one of its uuid is stored again.",
		Errors: []int{http.StatusNotFound}, DefaultStatus: http.StatusNoContent,
	}, auth.ScopeAdmin, a.deleteCredential)
	get(a, huma.Operation{
		OperationID: "list-secrets", Method: http.MethodGet, Path: "/v1/secrets", Tags: []string{"Signing secrets"},
		Summary: "List signing secrets, without the secrets themselves",
	}, auth.ScopeAdmin, a.listSecrets)
	post(a, huma.Operation{
		OperationID: "create-secret", Method: http.MethodPost, Path: "/v1/secrets", Tags: []string{"Signing secrets"},
		Summary:       "Make a signing secret",
		Description:   "Deliveries of the organization (to that origin) are signed with it from then on. The secret is in this answer only. 409 when there is one already.",
		DefaultStatus: http.StatusCreated, Errors: []int{http.StatusConflict},
	}, auth.ScopeAdmin, body{limit: maxSmallBody, example: map[string]any{"organization_id": "acme", "endpoint_origin": "https://example.com"}},
		func(ctx context.Context, c call, _ *none, in *newSecret) (*secretOutput, error) {
			return a.addSecret(ctx, c, in, false, 0)
		})
	post(a, huma.Operation{
		OperationID: "rotate-secret", Method: http.MethodPost, Path: "/v1/secrets/rotate", Tags: []string{"Signing secrets"},
		Summary:       "Make a new signing secret beside the old",
		Description:   "Deliveries are signed with the old one, too, until the overlap has passed.",
		DefaultStatus: http.StatusCreated, Errors: []int{http.StatusConflict},
	}, auth.ScopeAdmin, body{limit: maxSmallBody, example: map[string]any{"organization_id": "acme", "endpoint_origin": "https://example.com", "overlap_seconds": 86400}},
		a.rotateSecret)
	get(a, huma.Operation{
		OperationID: "expire-secrets", Method: http.MethodDelete, Path: "/v1/secrets", Tags: []string{"Signing secrets"},
		Summary: "End signing secrets at once", Description: "Those that a rotation left or, with all, every one: then deliveries are not signed.",
	}, auth.ScopeAdmin, a.expireSecrets)
}

type organizationInput struct {
	OrganizationID string `query:"organization_id" maxLength:"800" doc:"Default: all that the token sees."`
}

// list is the organization of a list.
func (in *organizationInput) list(c call) (string, error) {
	if err := plain("query.organization_id", in.OrganizationID); err != nil {
		return "", err
	}
	return c.organization(in.OrganizationID, "query.organization_id")
}

// one is the organization that something is made for: the token's, or "default".
func (c call) one(named, location string) (string, error) {
	if len(named) > maxKeyBytes || plain(location, named) != nil {
		return "", wrong(location, "is not text of at most 800 bytes")
	}
	organization, err := c.organization(named, location)
	if organization == "" {
		organization = defaultOrganization
	}
	return organization, err
}

type credentialsOutput struct {
	Body struct {
		Items []store.Credential `json:"items"`
	}
}

func (a *API) listCredentials(ctx context.Context, c call, in *organizationInput) (*credentialsOutput, error) {
	organization, err := in.list(c)
	if err != nil {
		return nil, err
	}
	list, err := a.reads.Credentials(ctx, organization)
	if err != nil {
		return nil, err
	}
	out := &credentialsOutput{}
	out.Body.Items = append([]store.Credential{}, list...)
	return out, nil
}

type newCredential struct {
	OrganizationID string `json:"organization_id,omitempty" maxLength:"800" doc:"Default: the token's, or else default."`
	Name           string `json:"name" maxLength:"800" doc:"Its name within the organization."`
	Type           string `json:"type" enum:"none,api_key,bearer_token,basic_auth,custom_header"`
	Header         string `json:"header,omitempty" doc:"Name of the header: of a custom_header, or of an api_key (default X-API-Key)."`
	Secret         string `json:"secret,omitempty" writeOnly:"true" doc:"The key, the token, user:password, or the header's value."`
	CredentialUUID string `json:"credential_uuid,omitempty" format:"uuid" doc:"Of a credential that was removed: the deliveries that name it heal. Default: random."`
}

type credentialOutput struct {
	Status int
	Body   struct {
		CredentialUUID string `json:"credential_uuid"`
		Rotated        bool   `json:"rotated" doc:"There was one of this name: it has the new secret."`
	}
}

func (a *API) setCredential(ctx context.Context, c call, _ *none, in *newCredential) (*credentialOutput, error) {
	organization, err := c.one(in.OrganizationID, "body.organization_id")
	if err != nil {
		return nil, err
	}
	switch {
	case in.Name == "":
		return nil, wrong("body.name", "is missing")
	case len(in.Name) > maxKeyBytes || plain("", in.Name) != nil:
		return nil, wrong("body.name", "is not text of at most 800 bytes")
	case in.CredentialUUID != "" && !ask.IsUUID(in.CredentialUUID):
		return nil, wrong("body.credential_uuid", "is not a uuid")
	}
	parsed, err := credential.Parse(credential.Type(in.Type), in.Header, []byte(in.Secret))
	if err != nil { // it repeats nothing of the secret
		return nil, problem(http.StatusUnprocessableEntity, strings.TrimPrefix(err.Error(), "credential: "), at("body", strings.TrimPrefix(err.Error(), "credential: ")))
	}
	out := &credentialOutput{Status: http.StatusCreated}
	out.Body.CredentialUUID, out.Body.Rotated, err = a.store.SetCredential(ctx, organization, in.Name, in.Type, strings.ToLower(in.CredentialUUID), a.seal(parsed.Encode()))
	if err != nil {
		return nil, secretError(err)
	}
	if out.Body.Rotated {
		out.Status = http.StatusOK
	}
	a.log.InfoContext(ctx, "credential set", "credential_uuid", out.Body.CredentialUUID, "rotated", out.Body.Rotated, "by", c.Name)
	return out, nil
}

// seal seals a secret for the row that it will be in.
func (a *API) seal(secret []byte) store.SealFunc {
	return func(uuid, organization string) ([]byte, error) { return a.keys.Seal(secret, uuid, organization) }
}

// secretError turns what the store says about a secret into an answer.
func secretError(err error) error {
	var other *store.CredentialUUIDError
	switch {
	case errors.Is(err, credential.ErrNoKey):
		return problem(http.StatusConflict, "this service has no key to seal secrets with: set RIVERHOOK_SECRET_KEY")
	case errors.Is(err, store.ErrSecretExists):
		return problem(http.StatusConflict, "there is a signing secret already: POST /v1/secrets/rotate makes a new one beside it")
	case errors.Is(err, store.ErrCredentialRace):
		return problem(http.StatusConflict, "somebody else is setting this credential right now: try again")
	case errors.As(err, &other):
		return problem(http.StatusConflict, other.Error(), at("body.credential_uuid", "is another one than the credential of this name has"))
	}
	return err
}

type credentialPath struct {
	Name           string `path:"name" maxLength:"800"`
	OrganizationID string `query:"organization_id" maxLength:"800" doc:"Default: the token's, or else default."`
}

// empty is an answer without a body.
type empty struct{}

func (a *API) deleteCredential(ctx context.Context, c call, in *credentialPath) (*empty, error) {
	organization, err := c.one(in.OrganizationID, "query.organization_id")
	if err != nil {
		return nil, err
	}
	if err := plain("path.name", in.Name); err != nil {
		return nil, err
	}
	removed, err := a.store.RemoveCredential(ctx, organization, in.Name)
	if err != nil {
		return nil, err
	}
	if !removed {
		return nil, problem(http.StatusNotFound, "there is no such credential")
	}
	a.log.InfoContext(ctx, "credential removed", "by", c.Name)
	return &empty{}, nil
}

type secretsOutput struct {
	Body struct {
		Items []store.SigningSecret `json:"items"`
	}
}

func (a *API) listSecrets(ctx context.Context, c call, in *organizationInput) (*secretsOutput, error) {
	organization, err := in.list(c)
	if err != nil {
		return nil, err
	}
	list, err := a.reads.Secrets(ctx, organization)
	if err != nil {
		return nil, err
	}
	out := &secretsOutput{}
	out.Body.Items = append([]store.SigningSecret{}, list...)
	return out, nil
}

type newSecret struct {
	OrganizationID string `json:"organization_id,omitempty" maxLength:"800" doc:"Default: the token's, or else default."`
	EndpointOrigin string `json:"endpoint_origin,omitempty" doc:"For this receiver only, such as https://example.com. Default: every receiver of the organization that has none of its own."`
	Ed25519        bool   `json:"ed25519,omitempty" doc:"An asymmetric key: the receiver gets its public half."`
	Secret         string `json:"secret,omitempty" writeOnly:"true" doc:"whsec_... or whsk_..., instead of making one."`
}

type rotatedSecret struct {
	OrganizationID string `json:"organization_id,omitempty" maxLength:"800" doc:"Default: the token's, or else default."`
	EndpointOrigin string `json:"endpoint_origin,omitempty" doc:"As when it was made."`
	Ed25519        bool   `json:"ed25519,omitempty" doc:"An asymmetric key: the receiver gets its public half."`
	Secret         string `json:"secret,omitempty" writeOnly:"true" doc:"whsec_... or whsk_..., instead of making one."`
	OverlapSeconds *int   `json:"overlap_seconds,omitempty" minimum:"0" maximum:"31536000" doc:"How long deliveries are signed with the old one, too. Default: a day."`
}

type secretOutput struct {
	Body struct {
		SecretUUID string `json:"secret_uuid"`
		Secret     string `json:"secret" doc:"In this answer only."`
		Public     string `json:"public,omitempty" doc:"Of an asymmetric key: the half that verifies."`
	}
}

const (
	defaultOverlap = 24 * time.Hour
	maxOverlap     = 365 * 24 * time.Hour
)

func (a *API) rotateSecret(ctx context.Context, c call, _ *none, in *rotatedSecret) (*secretOutput, error) {
	overlap := defaultOverlap
	if in.OverlapSeconds != nil {
		if *in.OverlapSeconds < 0 || *in.OverlapSeconds > int(maxOverlap/time.Second) {
			return nil, wrong("body.overlap_seconds", "must be from 0 to 31536000")
		}
		overlap = time.Duration(*in.OverlapSeconds) * time.Second
	}
	return a.addSecret(ctx, c, &newSecret{in.OrganizationID, in.EndpointOrigin, in.Ed25519, in.Secret}, true, overlap)
}

func (a *API) addSecret(ctx context.Context, c call, in *newSecret, rotate bool, overlap time.Duration) (*secretOutput, error) {
	scope := store.Scope{}
	var err error
	if scope.Organization, err = c.one(in.OrganizationID, "body.organization_id"); err != nil {
		return nil, err
	}
	if in.EndpointOrigin != "" {
		if scope.Origin, err = parseOrigin(in.EndpointOrigin, "body.endpoint_origin"); err != nil {
			return nil, err
		}
	}
	var key signing.Key
	switch {
	case in.Secret != "":
		if key, err = signing.ParseKey(strings.TrimSpace(in.Secret)); err != nil { // it repeats nothing of it
			return nil, wrong("body.secret", "is none: "+strings.TrimPrefix(err.Error(), "signing: "))
		}
	case in.Ed25519:
		key = signing.GenerateEd25519()
	default:
		key = signing.Generate()
	}
	out := &secretOutput{}
	if out.Body.SecretUUID, err = a.store.AddSecret(ctx, scope, rotate, overlap, a.seal([]byte(key.Reveal()))); err != nil {
		return nil, secretError(err)
	}
	out.Body.Secret = key.Reveal()
	out.Body.Public, _ = key.Public()
	a.log.InfoContext(ctx, "signing secret made", "secret_uuid", out.Body.SecretUUID, "rotated", rotate, "by", c.Name)
	return out, nil
}

type expireInput struct {
	OrganizationID string `query:"organization_id" maxLength:"800" doc:"Default: the token's, or else default."`
	EndpointOrigin string `query:"endpoint_origin" maxLength:"8192" doc:"As when it was made."`
	All            bool   `query:"all" doc:"Every secret, the newest too."`
}

type expireOutput struct {
	Body struct {
		Expired int `json:"expired" doc:"How many have ended."`
	}
}

func (a *API) expireSecrets(ctx context.Context, c call, in *expireInput) (*expireOutput, error) {
	scope := store.Scope{}
	var err error
	if scope.Organization, err = c.one(in.OrganizationID, "query.organization_id"); err != nil {
		return nil, err
	}
	if in.EndpointOrigin != "" {
		if scope.Origin, err = parseOrigin(in.EndpointOrigin, "query.endpoint_origin"); err != nil {
			return nil, err
		}
	}
	out := &expireOutput{}
	if out.Body.Expired, err = a.store.ExpireSecrets(ctx, scope, in.All); err != nil {
		return nil, err
	}
	a.log.InfoContext(ctx, "signing secrets ended", "expired", out.Body.Expired, "by", c.Name)
	return out, nil
}
