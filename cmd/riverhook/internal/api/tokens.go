package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/auth"
	"github.com/riverhook/riverhook/delivery/store"
)

func (a *API) registerTokens() {
	get(a, huma.Operation{
		OperationID: "list-tokens", Method: http.MethodGet, Path: "/v1/tokens", Tags: []string{"Tokens"},
		Summary: "List tokens by their prefix", Description: "The one of RIVERHOOK_API_TOKEN is not among them.",
	}, auth.ScopeAdmin, a.listTokens)
	post(a, huma.Operation{
		OperationID: "create-token", Method: http.MethodPost, Path: "/v1/tokens", Tags: []string{"Tokens"},
		Summary:       "Make a token",
		Description:   "The token is in this answer only. A token of one organization can make tokens of that organization only.",
		DefaultStatus: http.StatusCreated,
	}, auth.ScopeAdmin, body{limit: maxSmallBody, example: map[string]any{
		"name": "shop", "scope": "enqueue", "organization_id": "acme", "expires_in_seconds": 31536000,
	}}, a.createToken)
	get(a, huma.Operation{
		OperationID: "revoke-token", Method: http.MethodDelete, Path: "/v1/tokens/{prefix}", Tags: []string{"Tokens"},
		Summary: "Revoke a token", Description: "On this node at once, on others within 5 seconds.",
		Errors: []int{http.StatusNotFound}, DefaultStatus: http.StatusNoContent,
	}, auth.ScopeAdmin, a.revokeToken)
}

type tokensOutput struct {
	Body struct {
		Items []store.Token `json:"items"`
	}
}

func (a *API) listTokens(ctx context.Context, c call, in *organizationInput) (*tokensOutput, error) {
	organization, err := in.list(c)
	if err != nil {
		return nil, err
	}
	list, err := a.reads.Tokens(ctx, organization)
	if err != nil {
		return nil, err
	}
	out := &tokensOutput{}
	out.Body.Items = append([]store.Token{}, list...)
	return out, nil
}

type newToken struct {
	Name             string `json:"name,omitempty" maxLength:"200" doc:"For people: whose it is."`
	Scope            string `json:"scope" enum:"enqueue,read,operate,admin" doc:"enqueue: insert deliveries only; read: look; operate: both, and replay, retry and cancel; admin: everything."`
	OrganizationID   string `json:"organization_id,omitempty" maxLength:"800" doc:"The one organization that it sees. Default: the token's that makes it, which may be all."`
	ExpiresInSeconds *int   `json:"expires_in_seconds,omitempty" minimum:"1" maximum:"315360000" doc:"Default: never."`
}

type newTokenOutput struct {
	Body struct {
		store.Token
		Secret string `json:"token" doc:"The token itself, in this answer only."`
	}
}

const (
	maxTokenName     = 200
	maxTokenLifetime = 10 * 365 * 24 * time.Hour
)

func (a *API) createToken(ctx context.Context, c call, _ *none, in *newToken) (*newTokenOutput, error) {
	scope, err := auth.ParseScope(in.Scope)
	if err != nil {
		return nil, wrong("body.scope", "must be one of enqueue, read, operate, admin")
	}
	if len(in.Name) > maxTokenName || plain("", in.Name) != nil {
		return nil, wrong("body.name", "is not text of at most 200 bytes")
	}
	if len(in.OrganizationID) > maxKeyBytes || plain("", in.OrganizationID) != nil {
		return nil, wrong("body.organization_id", "is not text of at most 800 bytes")
	}
	organization, err := c.organization(in.OrganizationID, "body.organization_id")
	if err != nil {
		return nil, err
	}
	var lifetime time.Duration
	if in.ExpiresInSeconds != nil {
		if *in.ExpiresInSeconds < 1 || *in.ExpiresInSeconds > int(maxTokenLifetime/time.Second) {
			return nil, wrong("body.expires_in_seconds", "must be from 1 to 315360000")
		}
		lifetime = time.Duration(*in.ExpiresInSeconds) * time.Second
	}
	token, prefix, hash := auth.NewToken()
	t := store.Token{Prefix: prefix, Name: in.Name, Scope: string(scope), CreatedBy: c.Name}
	if organization != "" {
		t.OrganizationID = &organization
	}
	out := &newTokenOutput{}
	if out.Body.Token, err = a.store.AddToken(ctx, t, hash, lifetime); err != nil {
		return nil, err
	}
	out.Body.Secret = token.Reveal()
	a.auth.Forget()
	a.log.InfoContext(ctx, "token made", "prefix", prefix, "scope", in.Scope, "by", c.Name)
	return out, nil
}

type tokenPath struct {
	Prefix string `path:"prefix" maxLength:"100" example:"rvh_0123456789ab"`
}

func (a *API) revokeToken(ctx context.Context, c call, in *tokenPath) (*empty, error) {
	found := false
	var err error
	if auth.ValidPrefix(in.Prefix) {
		found, err = a.store.RevokeToken(ctx, in.Prefix, c.Organization)
	}
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, problem(http.StatusNotFound, "there is no such token")
	}
	a.auth.Forget()
	a.log.InfoContext(ctx, "token revoked", "prefix", in.Prefix, "by", c.Name)
	return &empty{}, nil
}
