package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"reflect"
	"runtime/debug"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/ask"
	"github.com/riverhook/riverhook/cmd/riverhook/internal/auth"
	"github.com/riverhook/riverhook/cmd/riverhook/internal/counts"
	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/credential"
	"github.com/riverhook/riverhook/delivery/store"
)

const (
	// maxSmallBody bounds the bodies that hold no payload, in bytes.
	maxSmallBody = 64 << 10
	// bodyRoom is what a delivery may take beside its payload.
	bodyRoom = 64 << 10
	// maxBatchBody bounds a batch. It is never less than what one delivery may take.
	maxBatchBody = 32 << 20
	// maxBatch is how many deliveries a batch may have.
	maxBatch = 1000

	// bodyTimeout is how long a body may take to arrive, and largeBodyTimeout that of a batch.
	bodyTimeout      = 10 * time.Second
	largeBodyTimeout = 60 * time.Second
	// answerTimeout is how long the answer may take after that.
	answerTimeout = 60 * time.Second
	// queryTimeout bounds each statement of a request that looks.
	queryTimeout = 10 * time.Second
	// handlerTimeout bounds a request once its body is there, and tokenTimeout the look at its token.
	handlerTimeout = 45 * time.Second
	tokenTimeout   = 5 * time.Second
	// slotTimeout is how long a request waits for its turn before it is told to come back.
	slotTimeout = 5 * time.Second

	// maxSingles and maxBatches bound the requests that hold a body in memory.
	maxSingles = 512
	maxBatches = 8

	// expireInterval is between two looks for idempotency keys that have expired.
	expireInterval = time.Minute
	expirePage     = 1000
	maxExpirePages = 500
)

// Config is what the API needs.
type Config struct {
	Store      *store.Store // on a pool of its own, which store.TuneForRequests prepared
	Conns      int          // connections of that pool: at least 2
	Auth       *auth.Authenticator
	Counts     *counts.Cache[store.Stats]
	Keys       *credential.Keyring // that credentials and signing secrets are sealed under
	Headers    delivery.HeaderRules
	MaxPayload int // bytes
	Log        *slog.Logger
	Version    string
}

// API answers requests. New makes one.
type API struct {
	store      *store.Store // for what is written; reads have their own time
	reads      *store.Store
	auth       *auth.Authenticator
	counts     *counts.Cache[store.Stats]
	keys       *credential.Keyring
	headers    delivery.HeaderRules
	maxPayload int
	log        *slog.Logger

	free, keyed               *group // of single inserts: those that cannot run into anything, and those with a key, which may have to wait for somebody
	queries, singles, batches slots  // queries: all that inserts no deliveries

	mux      *http.ServeMux
	huma     huma.API
	document []byte // of OpenAPI
	page     []byte // to read it
}

// New is an API. It does not connect.
func New(c Config) *API {
	// Half of the connections are for inserts, so that slow queries do not stop them.
	lanes := max(1, c.Conns/2)
	a := &API{
		store: c.Store, reads: c.Store.Within(queryTimeout), auth: c.Auth, counts: c.Counts, keys: c.Keys, headers: c.Headers, maxPayload: c.MaxPayload, log: c.Log,
		queries: newSlots(max(1, c.Conns-lanes)), singles: newSlots(maxSingles), batches: newSlots(maxBatches),
		mux: http.NewServeMux(),
	}
	a.free = &group{flush: a.accept, size: groupSize, bytes: groupBytes, lanes: lanes}
	a.keyed = &group{flush: a.accept, size: groupSize, bytes: groupBytes, lanes: lanes}
	format := huma.Format{Marshal: marshal, Unmarshal: json.Unmarshal}
	config := huma.Config{
		OpenAPI: newDocument(c.Version),
		// Of application/problem+json, huma looks for what stands behind the plus.
		Formats:                      map[string]huma.Format{"application/json": format, "json": format},
		DefaultFormat:                "application/json",
		RejectUnknownQueryParameters: true,
	}
	a.huma = humago.New(a.mux, config)
	a.huma.OpenAPI().Components.Schemas.RegisterTypeAlias(reflect.TypeFor[json.RawMessage](), reflect.TypeFor[anyJSON]())
	a.registerDeliveries()
	a.registerReplays()
	a.registerSecrets()
	a.registerTokens()
	a.registerPauses()
	a.registerStats()
	a.finishDocument()
	return a
}

func marshal(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// Run keeps house until ctx ends: idempotency keys that have expired go.
func (a *API) Run(ctx context.Context) {
	for {
		// Nodes do not all come at once.
		timer := time.NewTimer(expireInterval/2 + rand.N(expireInterval)) //nolint:gosec // jitter
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if err := a.ExpireKeys(ctx); err != nil && ctx.Err() == nil {
			a.log.WarnContext(ctx, "cannot remove expired idempotency keys: trying again in a minute", "error", err)
		}
	}
}

// ExpireKeys removes the idempotency keys that have expired, page by page.
func (a *API) ExpireKeys(ctx context.Context) error {
	for range maxExpirePages {
		n, err := a.store.ExpireKeys(ctx, expirePage)
		if err != nil || n < expirePage {
			return err
		}
	}
	return nil
}

// Register puts the API's paths on a mux.
func (a *API) Register(mux *http.ServeMux) {
	mux.HandleFunc("/v1/", a.serve)
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/openapi+json")
		_, _ = w.Write(a.document)
	})
	mux.HandleFunc("GET /docs", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", pagePolicy)
		_, _ = w.Write(a.page)
	})
}

// serve asks for the token before anything else: who has none learns not even which paths there are.
func (a *API) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	ctx, cancel := context.WithTimeout(r.Context(), tokenTimeout)
	identity, err := a.auth.Authenticate(ctx, auth.RemoteAddr(r), auth.FromRequest(r))
	cancel()
	if err != nil {
		a.WriteUnauthorized(w, r, err, "Bearer")
		return
	}
	_, pattern := a.mux.Handler(r)
	if pattern == "" {
		a.unknownPath(w, r)
		return
	}
	defer func() {
		if bug := recover(); bug != nil {
			a.log.ErrorContext(r.Context(), "panic in a request", "pattern", pattern, "panic", fmt.Sprint(bug), "stack", string(debug.Stack()))
			WriteProblem(w, http.StatusInternalServerError, "this is riverhook's fault: its log says more")
		}
	}()
	a.mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), identityKey{}, identity)))
}

type identityKey struct{}

// identityOf is who asks.
func identityOf(ctx context.Context) *auth.Identity {
	identity, _ := ctx.Value(identityKey{}).(*auth.Identity)
	return identity
}

// unknownPath is a 404, or a 405 that says what the path does have.
func (a *API) unknownPath(w http.ResponseWriter, r *http.Request) {
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		other := r.Clone(r.Context())
		other.Method = method
		if _, pattern := a.mux.Handler(other); pattern != "" {
			allowed = append(allowed, method)
		}
	}
	if len(allowed) == 0 {
		WriteProblem(w, http.StatusNotFound, "there is nothing at this path: /docs says what there is")
		return
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	WriteProblem(w, http.StatusMethodNotAllowed, "this path takes "+strings.Join(allowed, " or "))
}

// call is what every handler gets beside its input.
type call struct {
	*auth.Identity
	body []byte // as it was sent
	path string

	traceparent string // of the request; it may be none
}

// organization is the one that a request is about: the token's, or what the request names if the token sees it. Empty: all
// that the token sees, which is all.
func (c call) organization(named, location string) (string, error) {
	if named != "" && !c.Sees(named) {
		return "", c.foreign(location)
	}
	if named == "" {
		return c.Organization, nil
	}
	return named, nil
}

// foreign says that a request names an organization that the token does not see.
func (c call) foreign(location string) error {
	return problem(http.StatusForbidden, "this token is for organization "+c.Organization+" only", at(location, ask.ForeignOrganization))
}

// none is the input of an operation without parameters.
type none struct{}

// get registers an operation that takes no body.
func get[I, O any](a *API, op huma.Operation, needed auth.Scope, do func(context.Context, call, *I) (*O, error)) {
	a.prepare(&op, needed)
	op.Middlewares = huma.Middlewares{a.allow(needed), a.takeTurns(a.queries)}
	huma.Register(a.huma, op, func(ctx context.Context, in *I) (*O, error) {
		ctx, cancel := context.WithTimeout(ctx, handlerTimeout)
		defer cancel()
		out, err := do(ctx, call{Identity: identityOf(ctx), path: op.Path}, in)
		if err != nil {
			return nil, a.fail(ctx, op.OperationID, err)
		}
		return out, nil
	})
}

// body says what an operation takes.
type body struct {
	limit   int // bytes
	timeout time.Duration
	slots   slots // default: those of queries
	example any
}

// post registers an operation that takes a body.
func post[I, B, O any](a *API, op huma.Operation, needed auth.Scope, b body, do func(context.Context, call, *I, *B) (*O, error)) {
	a.prepare(&op, needed)
	op.Errors = append(op.Errors, http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
	if b.slots == nil {
		b.slots = a.queries
	}
	if b.timeout == 0 {
		b.timeout = bodyTimeout
	}
	op.Middlewares = huma.Middlewares{a.allow(needed), a.takeTurns(b.slots), a.readBody(b)}
	huma.Register(a.huma, op, func(ctx context.Context, in *I) (*O, error) {
		ctx, cancel := context.WithTimeout(ctx, handlerTimeout)
		defer cancel()
		text, _ := ctx.Value(bodyKey{}).([]byte)
		into := new(B)
		err := decode(text, into)
		if err == nil {
			var out *O
			if out, err = do(ctx, call{Identity: identityOf(ctx), body: text, path: op.Path}, in, into); err == nil {
				return out, nil
			}
		}
		return nil, a.fail(ctx, op.OperationID, err)
	})
	// In the document only: the body is read here, and not by huma, which would take two values for a field, and make
	// numbers of a payload's digits.
	documented := *a.huma.OpenAPI().Paths[op.Path].Post
	documented.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		"application/json": {Schema: a.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[B](), true, ""), Example: b.example},
	}}
	a.huma.OpenAPI().Paths[op.Path].Post = &documented
}

// prepare says in the document what every operation has.
func (a *API) prepare(op *huma.Operation, needed auth.Scope) {
	op.Security = []map[string][]string{{"token": {}}}
	op.Description = strings.TrimSpace(op.Description + "\n\nTakes a token of scope " + auth.ScopesFor(needed) + ".")
	op.Errors = append(op.Errors, http.StatusUnauthorized, http.StatusForbidden, http.StatusUnprocessableEntity, http.StatusTooManyRequests,
		http.StatusServiceUnavailable)
}

// answer writes an error in a middleware.
func answer(ctx huma.Context, err error) {
	_, w := humago.Unwrap(ctx)
	var status huma.StatusError
	if !errors.As(err, &status) {
		status = problem(http.StatusInternalServerError, "this is riverhook's fault")
	}
	var headers huma.HeadersError
	if errors.As(err, &headers) {
		maps.Copy(w.Header(), headers.GetHeaders())
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status.GetStatus())
	_ = json.NewEncoder(w).Encode(status)
}

// allow lets a request pass whose token has the right.
func (a *API) allow(needed auth.Scope) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		identity := identityOf(ctx.Context())
		if identity == nil || !identity.Scope.Allows(needed) {
			answer(ctx, problem(http.StatusForbidden, "this takes a token of scope "+auth.ScopesFor(needed)))
			return
		}
		next(ctx)
	}
}

// takeTurns has requests wait for one of the slots, for a while.
func (a *API) takeTurns(s slots) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		if !s.take(ctx.Context(), slotTimeout) {
			answer(ctx, unavailable("too many requests of this kind at once: try again"))
			return
		}
		defer s.give()
		next(ctx)
	}
}

type bodyKey struct{}

// readBody reads the body, up to its limit, before anything is made of it.
func (a *API) readBody(b body) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		r, w := humago.Unwrap(ctx)
		if kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); !strings.EqualFold(strings.TrimSpace(kind), "application/json") {
			answer(ctx, problem(http.StatusUnsupportedMediaType, "Content-Type must be application/json", at("header.Content-Type", "must be application/json")))
			return
		}
		connection, end := http.NewResponseController(w), time.Now().Add(b.timeout)
		_ = connection.SetReadDeadline(end) // a test's has no deadlines
		_ = connection.SetWriteDeadline(end.Add(answerTimeout))
		text, err := readAll(w, r, b.limit)
		if err != nil {
			answer(ctx, err)
			return
		}
		next(huma.WithValue(ctx, bodyKey{}, text))
	}
}

func readAll(w http.ResponseWriter, r *http.Request, limit int) ([]byte, error) {
	tooLarge := problem(http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is larger than %d bytes, the limit of this request", limit),
		at("body", fmt.Sprintf("is larger than %d bytes", limit)))
	if r.ContentLength > int64(limit) {
		w.Header().Set("Connection", "close") // what is still to come is not read
		return nil, tooLarge
	}
	var buffer bytes.Buffer
	if r.ContentLength > 0 {
		buffer.Grow(int(r.ContentLength) + bytes.MinRead)
	}
	_, err := buffer.ReadFrom(http.MaxBytesReader(w, r.Body, int64(limit)))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, tooLarge
	case err != nil:
		return nil, problem(http.StatusBadRequest, "the body ended early, or came too slowly", at("body", "could not be read"))
	}
	return buffer.Bytes(), nil
}

// slots bound how many do something at a time.
type slots chan struct{}

func newSlots(n int) slots { return make(slots, n) }

func (s slots) take(ctx context.Context, within time.Duration) bool {
	select {
	case s <- struct{}{}:
		return true
	default:
	}
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case s <- struct{}{}:
		return true
	case <-ctx.Done():
	case <-timer.C:
	}
	return false
}

func (s slots) give() { <-s }
