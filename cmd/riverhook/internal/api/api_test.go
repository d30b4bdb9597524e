package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/api"
	"github.com/riverhook/riverhook/cmd/riverhook/internal/auth"
	"github.com/riverhook/riverhook/cmd/riverhook/internal/counts"
	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/credential"
	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const (
	setToken   = "the-token-of-the-settings-0123456789"
	maxPayload = 100 << 10
)

// bundle is an API on a database of its own.
type bundle struct {
	*pgtest.DB
	store *store.Store
	api   *api.API
	url   string
	log   *logBuffer
}

// logBuffer is a log that tests read.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func setup(t testing.TB) *bundle {
	t.Helper()
	db := pgtest.New(t)
	config, err := pgxpool.ParseConfig(db.URL)
	require.NoError(t, err)
	store.TuneForRequests(config)
	config.MaxConns = 4
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	keys, err := credential.ParseKeyring("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	require.NoError(t, err)
	b := &bundle{DB: db, store: store.New(pool, db.Schema), log: &logBuffer{}}
	b.api = api.New(api.Config{
		Store: b.store, Conns: 4, Auth: auth.New(b.store, credential.NewSecret(setToken)), Counts: counts.New(context.Background(), b.store.Stats), Keys: keys,
		Headers: delivery.HeaderRules{Prefix: "X-Riverhook-"}, MaxPayload: maxPayload, Version: "test",
		Log: slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	mux := http.NewServeMux()
	b.api.Register(mux)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	b.url = server.URL
	return b
}

// token makes a token.
func (b *bundle) token(t testing.TB, scope auth.Scope, organization string) string {
	t.Helper()
	token, prefix, hash := auth.NewToken()
	row := store.Token{Prefix: prefix, Name: string(scope), Scope: string(scope), CreatedBy: "test"}
	if organization != "" {
		row.OrganizationID = &organization
	}
	_, err := b.store.AddToken(context.Background(), row, hash, 0)
	require.NoError(t, err)
	return token.Reveal()
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	text   string
	body   map[string]any
}

// problems are the locations of a problem's errors.
func (a answer) problems() (locations []string) {
	list, _ := a.body["errors"].([]any)
	for _, one := range list {
		location, _ := one.(map[string]any)["location"].(string)
		locations = append(locations, location)
	}
	return locations
}

func (a answer) items() (items []map[string]any) {
	list, _ := a.body["items"].([]any)
	for _, one := range list {
		items = append(items, one.(map[string]any))
	}
	return items
}

// do sends a request; body is a text, or something to be made JSON of. Headers are names and values by turns.
func (b *bundle) do(t testing.TB, token, method, path string, body any, headers ...string) answer {
	t.Helper()
	text, ok := body.(string)
	if !ok && body != nil {
		encoded, err := json.Marshal(body)
		require.NoError(t, err)
		text = string(encoded)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, b.url+path, strings.NewReader(text))
	require.NoError(t, err)
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	a := answer{status: response.StatusCode, header: response.Header, text: string(raw)}
	_ = json.Unmarshal(raw, &a.body)
	if a.status >= 400 && strings.HasPrefix(path, "/v1") {
		assert.Equal(t, "application/problem+json", response.Header.Get("Content-Type"), "%s %s: %s", method, path, raw)
		assert.NotEmpty(t, a.body["detail"], "%s %s: %s", method, path, raw)
	}
	assert.Less(t, a.status, 500, "%s %s: %s", method, path, raw)
	return a
}

type object = map[string]any

func TestCreateDelivery(t *testing.T) {
	t.Parallel()
	b := setup(t)
	payload := `{"b" : 1.0,"a":[1e400, "é\u0000"],  "a":2}`
	a := b.do(t, setToken, "POST", "/v1/deliveries", `{"payload": `+payload+` , "endpoint_url":"https://Example.com/x?y", "organization_id":"acme", "workflow_run_id":"r",
		"webhook_node_id":"n", "webhook_name":"orders", "http_method":"put", "custom_headers":[{"key":"X-A","value":"1"},{"key":"Authorization","value":"x"}],
		"credential_uuid":"00000000-0000-4000-8000-000000000001", "max_attempts":3, "scheduled_for":"2030-01-31T12:00:00+01:00",
		"delivery_uuid":"00000000-0000-4000-8000-00000000000A"}`)
	require.Equal(t, 201, a.status, a.text)
	assert.Equal(t, object{"id": 1.0, "delivery_uuid": "00000000-0000-4000-8000-00000000000a", "created": true, "dropped_headers": []any{"Authorization"}}, a.body)
	assert.Equal(t, "/v1/deliveries/1", a.header.Get("Location"))
	assert.Equal(t, payload, pgtest.Scalar[string](t, b.DB, `SELECT payload::text FROM riverhook.deliveries`), "byte for byte")
	assert.JSONEq(t, `{"organization_id":"acme","workflow_run_id":"r","webhook_node_id":"n","webhook_name":"orders","http_method":"PUT","max_attempts":3,
		"custom_headers":[{"key":"X-A","value":"1"},{"key":"Authorization","value":"x"}],"credential_uuid":"00000000-0000-4000-8000-000000000001",
		"scheduled_for":"2030-01-31T11:00:00","status":"pending","endpoint_origin":"https://example.com"}`,
		pgtest.Scalar[string](t, b.DB, `SELECT to_jsonb(d)::text FROM (SELECT organization_id, workflow_run_id, webhook_node_id, webhook_name, http_method, max_attempts,
			custom_headers, credential_uuid, scheduled_for AT TIME ZONE 'UTC' AS scheduled_for, status, endpoint_origin FROM riverhook.deliveries) d`))

	again := b.do(t, setToken, "POST", "/v1/deliveries", object{"endpoint_url": "https://other.example/", "organization_id": "acme", "workflow_run_id": "r", "webhook_node_id": "n"})
	assert.Equal(t, 200, again.status)
	assert.Equal(t, object{"id": 1.0, "delivery_uuid": "00000000-0000-4000-8000-00000000000a", "created": false}, again.body)
	taken := b.do(t, setToken, "POST", "/v1/deliveries", object{"endpoint_url": "https://other.example/", "delivery_uuid": "00000000-0000-4000-8000-00000000000A"})
	assert.Equal(t, 409, taken.status)
	assert.Equal(t, []string{"body.delivery_uuid"}, taken.problems())

	least := b.do(t, setToken, "POST", "/v1/deliveries", `{"endpoint_url":"http://a.example/","payload":null,"organization_id":null}`)
	require.Equal(t, 201, least.status, least.text)
	assert.Equal(t, "null default POST", pgtest.Scalar[string](t, b.DB, `SELECT payload::text || ' ' || organization_id || ' ' || http_method FROM riverhook.deliveries WHERE id = $1`, least.body["id"]))
	assert.Equal(t, 2, pgtest.Scalar[int](t, b.DB, `SELECT count(*)::int FROM riverhook.deliveries`))
	assert.Equal(t, 2, pgtest.Scalar[int](t, b.DB, `SELECT count(*)::int FROM riverhook.river_job WHERE kind = 'deliver_webhook'`))
}

func TestBadBodies(t *testing.T) {
	t.Parallel()
	b := setup(t)
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	long := strings.Repeat("x", 801)
	for name, c := range map[string]struct {
		body   string
		status int
		at     string
	}{
		"nothing":             {" ", 400, "body"},
		"no JSON":             {`{"endpoint_url":}`, 400, "body"},
		"garbage behind":      {`{"endpoint_url":"http://a/"} x`, 400, "body"},
		"two values":          {`{"endpoint_url":"http://a/"}{}`, 400, "body"},
		"not UTF-8":           {"{\"endpoint_url\":\"http://a/\xff\"}", 400, "body"},
		"an array":            {`[]`, 422, "body"},
		"null":                {`null`, 422, "body.endpoint_url"},
		"no endpoint":         {`{}`, 422, "body.endpoint_url"},
		"an unknown field":    {`{"endpoint_url":"http://a/","endpoint":"x"}`, 422, "body.endpoint"},
		"a field's case":      {`{"endpoint_url":"http://a/","Payload":1}`, 422, "body.Payload"},
		"an empty name":       {`{"endpoint_url":"http://a/","":1}`, 422, `body.""`},
		"a field twice":       {`{"endpoint_url":"http://a/","endpoint_url":"http://b/"}`, 400, "body.endpoint_url"},
		"twice by escape":     {`{"endpoint_url":"http://a/","endpoint\u005furl":"http://b/"}`, 400, "body.endpoint_url"},
		"twice in a header":   {`{"endpoint_url":"http://a/","custom_headers":[{"key":"a","value":"b","key":"c"}]}`, 400, "body.custom_headers[0].key"},
		"not a string":        {`{"endpoint_url":1}`, 422, "body.endpoint_url"},
		"not a number":        {`{"endpoint_url":"http://a/","max_attempts":"3"}`, 422, "body.max_attempts"},
		"half a number":       {`{"endpoint_url":"http://a/","max_attempts":1.5}`, 422, "body.max_attempts"},
		"a huge number":       {`{"endpoint_url":"http://a/","max_attempts":1e99}`, 422, "body.max_attempts"},
		"no attempts":         {`{"endpoint_url":"http://a/","max_attempts":0}`, 422, "body.max_attempts"},
		"a scheme":            {`{"endpoint_url":"ftp://a/"}`, 422, "body.endpoint_url"},
		"a user":              {`{"endpoint_url":"http://u:p@a/"}`, 422, "body.endpoint_url"},
		"a method":            {`{"endpoint_url":"http://a/","http_method":"HEAD"}`, 422, "body.http_method"},
		"a uuid":              {`{"endpoint_url":"http://a/","delivery_uuid":"x"}`, 422, "body.delivery_uuid"},
		"a credential":        {`{"endpoint_url":"http://a/","credential_uuid":""}`, 422, "body.credential_uuid"},
		"a time":              {`{"endpoint_url":"http://a/","scheduled_for":"tomorrow"}`, 422, "body.scheduled_for"},
		"the end of times":    {`{"endpoint_url":"http://a/","scheduled_for":"9999-12-31T23:59:59Z"}`, 422, "body.scheduled_for"},
		"a long run":          {`{"endpoint_url":"http://a/","workflow_run_id":"` + long + `"}`, 422, "body.workflow_run_id"},
		"an empty run":        {`{"endpoint_url":"http://a/","workflow_run_id":""}`, 422, "body.workflow_run_id"},
		"a NUL":               {`{"endpoint_url":"http://a/","webhook_name":"\u0000"}`, 422, "body.webhook_name"},
		"a NUL in the URL":    {`{"endpoint_url":"http://a/\u0000"}`, 422, "body.endpoint_url"},
		"headers":             {`{"endpoint_url":"http://a/","custom_headers":{"a":"b"}}`, 422, "body.custom_headers"},
		"a header's type":     {`{"endpoint_url":"http://a/","custom_headers":[{"key":1}]}`, 422, "body.custom_headers[0].key"},
		"a header's name":     {`{"endpoint_url":"http://a/","custom_headers":[{"key":"a b","value":"c"}]}`, 422, "body.custom_headers"},
		"a header's line end": {`{"endpoint_url":"http://a/","custom_headers":[{"key":"a","value":"b\r\nc"}]}`, 422, "body.custom_headers"},
		"a skipped NUL":       {`{"endpoint_url":"http://a/","custom_headers":[{"key":"","value":"\u0000"}]}`, 422, "body.custom_headers[0]"},
		"too deep":            {`{"endpoint_url":"http://a/","payload":` + deep(300) + `}`, 400, "body"},
		"very deep":           {deep(100_000 / 4), 400, "body"},
		"a large payload":     {`{"endpoint_url":"http://a/","payload":"` + strings.Repeat("x", maxPayload) + `"}`, 422, "body.payload"},
		"a large body":        {`{"endpoint_url":"http://a/","payload":"` + strings.Repeat("x", maxPayload+70<<10) + `"}`, 413, "body"},
	} {
		a := b.do(t, setToken, "POST", "/v1/deliveries", c.body)
		assert.Equal(t, c.status, a.status, "%s: %s", name, a.text)
		if assert.NotEmpty(t, a.problems(), "%s: %s", name, a.text) {
			assert.Equal(t, c.at, a.problems()[0], "%s: %s", name, a.text)
		}
	}
	a := b.do(t, setToken, "POST", "/v1/deliveries", `{"endpoint_url":"http://a/","payload":`+deep(150)+`}`)
	assert.Equal(t, 201, a.status, a.text)
	a = b.do(t, setToken, "POST", "/v1/deliveries", `{"endpoint_url":"http://a/"}`, "Content-Type", "text/plain")
	assert.Equal(t, 415, a.status)
	assert.Equal(t, 1, pgtest.Scalar[int](t, b.DB, `SELECT count(*)::int FROM riverhook.deliveries`))

	// Neither by Content-Length nor by chunks.
	for _, size := range []int64{-1, 1 << 40} {
		request, err := http.NewRequestWithContext(t.Context(), "POST", b.url+"/v1/deliveries", io.LimitReader(endless{}, 1<<20))
		require.NoError(t, err)
		request.ContentLength = size
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("Authorization", "Bearer "+setToken)
		response, err := http.DefaultClient.Do(request)
		if size > 0 && err != nil {
			continue // it was answered before all was sent, which the client may take for a broken connection
		}
		require.NoError(t, err)
		assert.Equal(t, 413, response.StatusCode)
		_ = response.Body.Close()
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '['
	}
	return len(p), nil
}

func TestBatch(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, workflow_run_id, webhook_node_id) VALUES ('http://a/', 'r', 'n')`)
	a := b.do(t, setToken, "POST", "/v1/deliveries/batch", object{"deliveries": []object{
		{"endpoint_url": "http://a/1"}, {"endpoint_url": "http://a/2", "workflow_run_id": "r", "webhook_node_id": "n"},
		{"endpoint_url": "http://a/3", "workflow_run_id": "r", "webhook_node_id": "m"}, {"endpoint_url": "http://a/4", "workflow_run_id": "r", "webhook_node_id": "m"},
	}})
	require.Equal(t, 201, a.status, a.text)
	var news []any
	for _, item := range a.items() {
		news = append(news, item["created"])
	}
	assert.Equal(t, []any{true, false, true, false}, news)
	assert.InEpsilon(t, 2, a.body["created"], 0)
	assert.InEpsilon(t, 1, a.items()[1]["id"], 0)
	assert.Equal(t, a.items()[2]["id"], a.items()[3]["id"])
	assert.Equal(t, "http://a/1", pgtest.Scalar[string](t, b.DB, `SELECT endpoint_url FROM riverhook.deliveries WHERE id = $1`, a.items()[0]["id"]))

	for name, c := range map[string]struct {
		body   any
		status int
		at     string
	}{
		"none":     {object{"deliveries": []object{}}, 422, "body.deliveries"},
		"too many": {object{"deliveries": make([]struct{}, 1001)}, 422, "body.deliveries"},
		"wrong":    {object{"deliveries": []object{{"endpoint_url": "http://a/"}, {"endpoint_url": "x"}}}, 422, "body.deliveries[1].endpoint_url"},
		"unknown":  {object{"deliveries": []object{{"endpoint_url": "http://a/"}, {"endpoint_url": "http://a/", "x": 1}}}, 422, "body.deliveries[1].x"},
		"a uuid twice": {object{"deliveries": []object{
			{"endpoint_url": "http://a/", "delivery_uuid": "00000000-0000-4000-8000-000000000001"},
			{"endpoint_url": "http://a/", "delivery_uuid": "00000000-0000-4000-8000-000000000001"},
		}}, 409, "body.deliveries[1].delivery_uuid"},
	} {
		a := b.do(t, setToken, "POST", "/v1/deliveries/batch", c.body)
		assert.Equal(t, c.status, a.status, "%s: %s", name, a.text)
		if assert.NotEmpty(t, a.problems(), name) {
			assert.Equal(t, c.at, a.problems()[0], name)
		}
	}
	assert.Equal(t, 3, pgtest.Scalar[int](t, b.DB, `SELECT count(*)::int FROM riverhook.deliveries`), "all or nothing")
	many := make([]object, 1000)
	for i := range many {
		many[i] = object{"endpoint_url": fmt.Sprintf("http://a/%d", i)}
	}
	assert.Equal(t, 201, b.do(t, setToken, "POST", "/v1/deliveries/batch", object{"deliveries": many}).status)
}

func TestIdempotencyKeys(t *testing.T) {
	t.Parallel()
	b := setup(t)
	acme := b.token(t, auth.ScopeEnqueue, "acme")
	other := b.token(t, auth.ScopeEnqueue, "other")
	body := `{"endpoint_url":"http://a/"}`
	first := b.do(t, acme, "POST", "/v1/deliveries", body, "Idempotency-Key", "k")
	require.Equal(t, 201, first.status, first.text)
	again := b.do(t, acme, "POST", "/v1/deliveries", body, "Idempotency-Key", "k")
	assert.Equal(t, 201, again.status)
	assert.Equal(t, first.body, again.body)
	assert.Equal(t, "true", again.header.Get("Idempotent-Replayed"))
	assert.Empty(t, first.header.Get("Idempotent-Replayed"))
	changed := b.do(t, acme, "POST", "/v1/deliveries", `{"endpoint_url":"http://b/"}`, "Idempotency-Key", "k")
	assert.Equal(t, 409, changed.status)
	assert.Equal(t, []string{"header.Idempotency-Key"}, changed.problems())
	batch := b.do(t, acme, "POST", "/v1/deliveries/batch", `{"deliveries":[{"endpoint_url":"http://a/"}]}`, "Idempotency-Key", "k")
	assert.Equal(t, 409, batch.status, "another path is another request")
	foreign := b.do(t, other, "POST", "/v1/deliveries", body, "Idempotency-Key", "k")
	assert.Equal(t, 201, foreign.status, "each organization has its own keys")
	assert.NotEqual(t, first.body["id"], foreign.body["id"])
	assert.Equal(t, 422, b.do(t, acme, "POST", "/v1/deliveries", body, "Idempotency-Key", "a b").status)
	assert.Equal(t, 422, b.do(t, acme, "POST", "/v1/deliveries", body, "Idempotency-Key", strings.Repeat("x", 300)).status)

	// What was refused leaves its key free.
	uuid := `{"endpoint_url":"http://a/","delivery_uuid":"` + first.body["delivery_uuid"].(string) + `"}`
	assert.Equal(t, 409, b.do(t, acme, "POST", "/v1/deliveries", uuid, "Idempotency-Key", "free").status)
	assert.Equal(t, 201, b.do(t, acme, "POST", "/v1/deliveries", body, "Idempotency-Key", "free").status)

	twice := b.do(t, acme, "POST", "/v1/deliveries/batch", `{"deliveries":[{"endpoint_url":"http://a/"},{"endpoint_url":"http://b/"}]}`, "Idempotency-Key", "batch")
	assert.Equal(t, 201, twice.status)
	assert.Equal(t, twice.body, b.do(t, acme, "POST", "/v1/deliveries/batch", `{"deliveries":[{"endpoint_url":"http://a/"},{"endpoint_url":"http://b/"}]}`, "Idempotency-Key", "batch").body)

	// A day later it is a new request; and the old keys go.
	before := pgtest.Scalar[int](t, b.DB, `SELECT count(*)::int FROM riverhook.deliveries`)
	b.Exec(t, `UPDATE riverhook.idempotency_keys SET expires_at = now() WHERE organization_id = 'acme'`)
	later := b.do(t, acme, "POST", "/v1/deliveries", body, "Idempotency-Key", "k")
	assert.Equal(t, 201, later.status)
	assert.NotEqual(t, first.body["id"], later.body["id"])
	assert.Equal(t, before+1, pgtest.Scalar[int](t, b.DB, `SELECT count(*)::int FROM riverhook.deliveries`))
	require.NoError(t, b.api.ExpireKeys(context.Background()))
	assert.ElementsMatch(t, []string{"acme k", "other k"}, pgtest.Column[string](t, b.DB, `SELECT organization_id || ' ' || key FROM riverhook.idempotency_keys`))
}

// Many callers with the same few keys and rows at once: each key is done once, and nobody waits for ever.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const clients, requests, keys = 24, 40, 7
	var ids sync.Map
	var wg sync.WaitGroup
	for client := range clients {
		wg.Go(func() {
			for i := range requests {
				n := (client*requests + i*5) % keys
				switch i % 3 {
				case 0:
					a := b.do(t, setToken, "POST", "/v1/deliveries", fmt.Sprintf(`{"endpoint_url":"http://a/%d"}`, n), "Idempotency-Key", fmt.Sprint(n))
					if id, known := ids.LoadOrStore(fmt.Sprint("key ", n), a.body["id"]); known {
						assert.Equal(t, id, a.body["id"])
					}
				case 1:
					a := b.do(t, setToken, "POST", "/v1/deliveries", object{"endpoint_url": "http://a/", "workflow_run_id": fmt.Sprint(n), "webhook_node_id": "n"})
					if id, known := ids.LoadOrStore(fmt.Sprint("run ", n), a.body["id"]); known {
						assert.Equal(t, id, a.body["id"])
					}
				case 2:
					a := b.do(t, setToken, "POST", "/v1/deliveries/batch", object{"deliveries": []object{
						{"endpoint_url": "http://a/", "workflow_run_id": fmt.Sprint(keys - n), "webhook_node_id": "b"}, {"endpoint_url": "http://a/", "workflow_run_id": fmt.Sprint(n), "webhook_node_id": "b"},
					}})
					assert.Contains(t, []int{200, 201}, a.status)
				}
			}
		})
	}
	wg.Wait()
	assert.Equal(t, keys, pgtest.Scalar[int](t, b.DB, `SELECT count(*)::int FROM riverhook.deliveries WHERE workflow_run_id IS NULL`))
	assert.Equal(t, keys, pgtest.Scalar[int](t, b.DB, `SELECT count(*)::int FROM riverhook.deliveries WHERE webhook_node_id = 'n'`))
}

// Somebody else's transaction holds a key: who waits for that is told so; others with keys are not failed by it, and those
// without do not even wait.
func TestOneInTheWay(t *testing.T) {
	t.Parallel()
	b := setup(t)
	tx, err := b.Pool.Begin(context.Background())
	require.NoError(t, err)
	defer tx.Rollback(context.Background()) //nolint:errcheck // at the end
	_, err = tx.Exec(context.Background(), `INSERT INTO riverhook.deliveries (endpoint_url, workflow_run_id, webhook_node_id) VALUES ('http://a/', 'r', 'n')`)
	require.NoError(t, err)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			run, want := fmt.Sprint(i), 201
			if i%4 == 0 {
				run, want = "r", 409
			}
			a := b.do(t, setToken, "POST", "/v1/deliveries", object{"endpoint_url": "http://a/", "workflow_run_id": run, "webhook_node_id": "n"})
			assert.Equal(t, want, a.status, a.text)
		})
	}
	require.Eventually(t, func() bool {
		return pgtest.Scalar[bool](t, b.DB, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')`)
	}, 10*time.Second, time.Millisecond)
	started := time.Now()
	assert.Equal(t, 201, b.do(t, setToken, "POST", "/v1/deliveries", object{"endpoint_url": "http://a/"}).status)
	assert.Less(t, time.Since(started), 800*time.Millisecond, "which is less than a lock is waited for")
	wg.Wait()
}

// What breaks off, or is no HTTP, is the client's: an answer of 400, or none.
func TestBrokenRequests(t *testing.T) {
	t.Parallel()
	b := setup(t)
	head := "POST /v1/deliveries HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAuthorization: Bearer " + setToken + "\r\n"
	for name, text := range map[string]string{
		"a chunk's size":      head + "Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
		"the end of a chunk":  head + "Transfer-Encoding: chunked\r\n\r\n5\r\n{",
		"less than announced": head + "Content-Length: 100\r\n\r\n{",
		"two lengths":         head + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
		"no length":           head + "\r\n{}",
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
		require.NoError(t, err)
		_, err = io.WriteString(conn, text)
		require.NoError(t, err)
		require.NoError(t, conn.(*net.TCPConn).CloseWrite())
		answer, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.NoError(t, conn.Close())
		if len(answer) > 0 {
			assert.Contains(t, string(answer), "HTTP/1.1 400", name)
		}
	}
	assert.NotContains(t, b.log.String(), "panic")
	assert.Equal(t, 0, pgtest.Scalar[int](t, b.DB, `SELECT count(*)::int FROM riverhook.deliveries`))
}

func TestListDeliveries(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, organization_id, workflow_run_id, status, created_at, credential_uuid, last_error)
		SELECT 'http://h' || i % 3 || ':8080/path/' || i, CASE WHEN i % 2 = 0 THEN 'acme' ELSE 'other' END, 'run ' || i % 4,
		       CASE WHEN i % 5 = 0 THEN 'dead_letter' ELSE 'pending' END, now() - make_interval(hours => 60 - i),
		       CASE WHEN i % 7 = 0 THEN '00000000-0000-4000-8000-00000000000a'::uuid END, CASE WHEN i % 5 = 0 THEN 'HTTP 410: Gone ' || i END FROM generate_series(1, 60) i`)
	list := func(query string) (ids []float64, next string) {
		a := b.do(t, setToken, "GET", "/v1/deliveries?"+query, nil)
		require.Equal(t, 200, a.status, a.text)
		for _, item := range a.items() {
			ids = append(ids, item["id"].(float64))
			assert.NotContains(t, item, "payload")
		}
		next, _ = a.body["next_cursor"].(string)
		return ids, next
	}
	where := func(condition string) []float64 {
		return append([]float64(nil), pgtest.Column[float64](t, b.DB, `SELECT id::float8 FROM riverhook.deliveries WHERE `+condition+` ORDER BY id DESC`)...)
	}
	var all []float64
	for cursor, pages := "", 0; ; pages++ {
		require.Less(t, pages, 10)
		ids, next := list("limit=17&cursor=" + cursor)
		all = append(all, ids...)
		if cursor = next; cursor == "" {
			break
		}
	}
	assert.Equal(t, where("true"), all)
	for query, condition := range map[string]string{
		"limit=200&status=dead_letter":                                   "status = 'dead_letter'",
		"limit=200&status=dead_letter&status=pending":                    "true",
		"limit=200&status=succeeded":                                     "false",
		"limit=200&organization_id=acme":                                 "organization_id = 'acme'",
		"limit=200&workflow_run_id=run%201&status=pending":               "workflow_run_id = 'run 1' AND status = 'pending'",
		"limit=200&origin=HTTP://H1:8080":                                "endpoint_origin = 'http://h1:8080'",
		"limit=200&endpoint=PATH/5":                                      "endpoint_url LIKE '%path/5%'",
		"limit=200&organization_id=nobody":                               "false",
		"limit=200&error=gone%202":                                       "last_error LIKE '%Gone 2%'",
		"limit=200&credential_uuid=00000000-0000-4000-8000-00000000000A": "credential_uuid IS NOT NULL",
	} {
		ids, next := list(query)
		assert.Equal(t, where(condition), ids, query)
		assert.Empty(t, next, query)
	}
	since := pgtest.Scalar[time.Time](t, b.DB, `SELECT created_at FROM riverhook.deliveries WHERE id = 50`)
	ids, _ := list("since=" + since.UTC().Format("2006-01-02T15:04:05.999999Z"))
	assert.Equal(t, where("id >= 50"), ids)
	ids, _ = list("until=" + since.UTC().Format("2006-01-02T15:04:05.999999Z"))
	assert.Equal(t, where("id < 50"), ids)

	for query, at := range map[string]string{
		"limit=0": "query.limit", "limit=201": "query.limit", "limit=x": "query.limit", "status=sent": "query.status[0]", "status=pending&status=x": "query.status[1]",
		"since=yesterday": "query.since", "origin=example.com": "query.origin", "origin=http://a/path": "query.origin", "colour=red": "query.colour",
		"workflow_run_id=%00": "query.workflow_run_id", "endpoint=%ff": "query.endpoint", "organization_id=" + strings.Repeat("x", 900): "query.organization_id",
		"until=tomorrow": "query.until", "credential_uuid=1": "query.credential_uuid", "error=%00": "query.error",
		"since=99999-01-01T00:00:00Z": "query.since", "cursor=x": "query.cursor", "cursor=MTow": "query.cursor", "cursor=Mjox": "query.cursor", "cursor=MTotMQ": "query.cursor",
		"cursor=" + strings.Repeat("A", 99): "query.cursor", "cursor=MTorMQ": "query.cursor", "cursor=%27%3B--": "query.cursor",
	} {
		a := b.do(t, setToken, "GET", "/v1/deliveries?"+query, nil)
		want := 422
		if at == "query.cursor" {
			want = 400
		}
		assert.Equal(t, want, a.status, "%s: %s", query, a.text)
		if assert.NotEmpty(t, a.problems(), "%s: %s", query, a.text) {
			assert.Equal(t, at, a.problems()[0], "%s: %s", query, a.text)
		}
	}
}

func TestGetAndAct(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, status, scheduled_for, claimed_by, leased_until, finished_at) VALUES
		('http://a/', 'pending', now() + interval '1 hour', NULL, NULL, NULL), ('http://a/', 'dead_letter', NULL, NULL, NULL, now()), ('http://a/', 'succeeded', NULL, NULL, NULL, now()),
		('http://a/', 'pending', now(), 'n', now() + interval '1 hour', NULL), ('http://a/', 'pending', now() - interval '1 hour', NULL, NULL, NULL)`)
	b.Exec(t, `INSERT INTO riverhook.attempts (delivery_id, round, attempt, started_at, outcome, failure_kind, status_code, response_body, node) VALUES
		(2, 0, 1, now(), 'transient', 'status', 503, '\x00ff', 'n'), (2, 0, 2, now(), 'permanent', 'status', 410, NULL, 'n')`)
	a := b.do(t, setToken, "GET", "/v1/deliveries/2", nil)
	require.Equal(t, 200, a.status, a.text)
	assert.Equal(t, object{}, a.body["payload"])
	attempts := a.body["attempts"].([]any)
	require.Len(t, attempts, 2)
	assert.Equal(t, "AP8=", attempts[0].(object)["response_body"])
	uuid := a.body["delivery_uuid"].(string)
	assert.Equal(t, a.body, b.do(t, setToken, "GET", "/v1/deliveries/"+strings.ToUpper(uuid), nil).body)
	// Postgres takes deeper nesting than anybody can write here.
	b.Exec(t, `INSERT INTO riverhook.deliveries (id, endpoint_url, payload) OVERRIDING SYSTEM VALUE VALUES (50, 'http://a/', (repeat('[', 10500) || repeat(']', 10500))::json)`)
	deep := b.do(t, setToken, "GET", "/v1/deliveries/50", nil)
	assert.Equal(t, 200, deep.status, deep.text)
	assert.InEpsilon(t, 21000, deep.body["payload_bytes"], 0)
	assert.NotContains(t, deep.body, "payload")

	for _, id := range []string{"99", "0", "-1", "x", "99999999999999999999", "00000000-0000-4000-8000-000000000009", "%00", "1%2F2"} {
		assert.Equal(t, 404, b.do(t, setToken, "GET", "/v1/deliveries/"+id, nil).status, id)
		assert.Equal(t, 404, b.do(t, setToken, "POST", "/v1/deliveries/"+id+"/cancel", nil).status, id)
	}
	act := func(id, action string) (int, string) {
		a := b.do(t, setToken, "POST", "/v1/deliveries/"+id+"/"+action, nil)
		if a.status == 200 {
			return a.status, a.body["status"].(string)
		}
		return a.status, a.body["detail"].(string)
	}
	for _, c := range []struct {
		id, action string
		status     int
		says       string
	}{
		{"1", "replay", 409, "pending"}, {"1", "retry", 200, "pending"}, {"1", "retry", 409, "due already"}, {"1", "cancel", 200, "canceled"},
		{"1", "cancel", 409, "canceled already"}, {"1", "retry", 409, "replay starts it over"}, {"1", "replay", 200, "pending"},
		{uuid, "retry", 409, "dead_letter"}, {uuid, "cancel", 409, "dead_letter already"}, {uuid, "replay", 200, "pending"},
		{"3", "replay", 200, "pending"}, {"4", "retry", 409, "being made"}, {"5", "retry", 409, "due already"}, {"5", "cancel", 200, "canceled"},
	} {
		status, says := act(c.id, c.action)
		assert.Equal(t, c.status, status, "%s %s: %s", c.action, c.id, says)
		assert.Contains(t, says, c.says, "%s %s", c.action, c.id)
	}
	assert.Equal(t, 1, pgtest.Scalar[int](t, b.DB, `SELECT round FROM riverhook.deliveries WHERE id = 2`))
	assert.Contains(t, b.log.String(), "by=RIVERHOOK_API_TOKEN")
}

func TestScopes(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, organization_id) SELECT 'http://a/', 'default' FROM generate_series(1, 9)`)
	tokens := map[auth.Scope]string{}
	for _, scope := range auth.Scopes() {
		tokens[scope] = b.token(t, scope, "")
	}
	for _, c := range []struct {
		method, path string
		body         any
		needed       auth.Scope
	}{
		{"POST", "/v1/deliveries", object{"endpoint_url": "http://a/"}, auth.ScopeEnqueue},
		{"POST", "/v1/deliveries/batch", object{"deliveries": []object{{"endpoint_url": "http://a/"}}}, auth.ScopeEnqueue},
		{"GET", "/v1/deliveries", nil, auth.ScopeRead},
		{"GET", "/v1/deliveries/1", nil, auth.ScopeRead},
		{"GET", "/v1/stats", nil, auth.ScopeRead},
		{"GET", "/v1/replays", nil, auth.ScopeRead},
		{"POST", "/v1/deliveries/1/cancel", nil, auth.ScopeOperate},
		{"POST", "/v1/deliveries/1/retry", nil, auth.ScopeOperate},
		{"POST", "/v1/deliveries/1/replay", nil, auth.ScopeOperate},
		{"POST", "/v1/replays", object{"filter": object{}, "dry_run": true}, auth.ScopeOperate},
		{"POST", "/v1/replays/1/cancel", nil, auth.ScopeOperate},
		{"GET", "/v1/credentials", nil, auth.ScopeAdmin},
		{"POST", "/v1/credentials", object{"name": "x", "type": "none"}, auth.ScopeAdmin},
		{"DELETE", "/v1/credentials/x", nil, auth.ScopeAdmin},
		{"GET", "/v1/secrets", nil, auth.ScopeAdmin},
		{"POST", "/v1/secrets", object{}, auth.ScopeAdmin},
		{"POST", "/v1/secrets/rotate", object{}, auth.ScopeAdmin},
		{"DELETE", "/v1/secrets", nil, auth.ScopeAdmin},
		{"GET", "/v1/tokens", nil, auth.ScopeAdmin},
		{"POST", "/v1/tokens", object{"scope": "read"}, auth.ScopeAdmin},
		{"DELETE", "/v1/tokens/rvh_000000000000", nil, auth.ScopeAdmin},
	} {
		for _, scope := range auth.Scopes() {
			a := b.do(t, tokens[scope], c.method, c.path, c.body)
			if scope.Allows(c.needed) {
				assert.NotContains(t, []int{401, 403}, a.status, "%s: %s %s: %s", scope, c.method, c.path, a.text)
			} else {
				assert.Equal(t, 403, a.status, "%s: %s %s: %s", scope, c.method, c.path, a.text)
			}
		}
		assert.Equal(t, 401, b.do(t, "", c.method, c.path, c.body).status, c.path)
	}
	assert.Equal(t, 404, b.do(t, setToken, "GET", "/v1/nothing", nil).status)
	a := b.do(t, setToken, "DELETE", "/v1/stats", nil)
	assert.Equal(t, 405, a.status)
	assert.Equal(t, "GET", a.header.Get("Allow"))
	assert.Equal(t, 401, b.do(t, "", "GET", "/v1/nothing", nil).status)
}

// A token of one organization neither sees nor changes what is another's, whatever it names.
func TestOrganizations(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, organization_id, status, finished_at, workflow_run_id, webhook_node_id) VALUES
		('http://secret.example/', 'other', 'dead_letter', now(), 'r', 'n'), ('http://secret.example/', 'other', 'pending', NULL, 'r', 'm'), ('http://a/', 'acme', 'dead_letter', now(), 'x', 'y')`)
	b.Exec(t, `INSERT INTO riverhook.credentials (organization_id, name, type) VALUES ('other', 'crm', 'none')`)
	before := pgtest.Scalar[string](t, b.DB, `SELECT string_agg(d::text, ' ' ORDER BY id) FROM riverhook.deliveries d WHERE organization_id = 'other'`)
	uuid := pgtest.Scalar[string](t, b.DB, `SELECT delivery_uuid::text FROM riverhook.deliveries WHERE id = 1`)
	admin := b.token(t, auth.ScopeAdmin, "acme")
	foreign := b.token(t, auth.ScopeRead, "other")
	check := func(a answer, status int, what string) {
		t.Helper()
		assert.Equal(t, status, a.status, "%s: %s", what, a.text)
		assert.NotContains(t, a.text, "secret.example", what)
	}
	for _, id := range []string{"1", "2", uuid} {
		check(b.do(t, admin, "GET", "/v1/deliveries/"+id, nil), 404, id)
		for _, action := range []string{"replay", "retry", "cancel"} {
			check(b.do(t, admin, "POST", "/v1/deliveries/"+id+"/"+action, nil), 404, action)
		}
	}
	check(b.do(t, admin, "GET", "/v1/deliveries?organization_id=other", nil), 403, "list")
	list := b.do(t, admin, "GET", "/v1/deliveries", nil)
	check(list, 200, "list")
	assert.Len(t, list.items(), 1)
	check(b.do(t, admin, "POST", "/v1/deliveries", object{"endpoint_url": "http://a/", "organization_id": "other"}), 403, "create")
	check(b.do(t, admin, "POST", "/v1/deliveries/batch", object{"deliveries": []object{{"endpoint_url": "http://a/"}, {"endpoint_url": "http://a/", "organization_id": "other"}}}), 403, "batch")
	mine := b.do(t, admin, "POST", "/v1/deliveries", object{"endpoint_url": "http://a/", "workflow_run_id": "r", "webhook_node_id": "n"})
	check(mine, 201, "the same key is another row")
	assert.Equal(t, "acme", pgtest.Scalar[string](t, b.DB, `SELECT organization_id FROM riverhook.deliveries WHERE id = $1`, mine.body["id"]))
	check(b.do(t, admin, "POST", "/v1/replays", object{"filter": object{"organization_id": "other"}}), 403, "replay")
	check(b.do(t, admin, "POST", "/v1/replays", object{}), 422, "all of them takes a word")
	check(b.do(t, admin, "POST", "/v1/replays", object{"filter": nil}), 422, "all of them takes a word")
	dry := b.do(t, admin, "POST", "/v1/replays", object{"filter": object{}, "dry_run": true})
	check(dry, 200, "dry run")
	assert.InEpsilon(t, 1, dry.body["matched"], 0)
	theirs := b.do(t, setToken, "POST", "/v1/replays", object{"filter": object{"organization_id": "other"}})
	everyones := b.do(t, setToken, "POST", "/v1/replays", object{"filter": object{"status": []string{"canceled"}}})
	for _, r := range []answer{theirs, everyones} {
		require.Equal(t, 202, r.status, r.text)
		path := r.header.Get("Location")
		check(b.do(t, admin, "GET", path, nil), 404, "replay")
		check(b.do(t, admin, "POST", path+"/cancel", nil), 404, "replay")
	}
	assert.Empty(t, b.do(t, admin, "GET", "/v1/replays", nil).items())
	assert.Len(t, b.do(t, foreign, "GET", "/v1/replays", nil).items(), 1)
	stats := b.do(t, admin, "GET", "/v1/stats", nil)
	check(stats, 200, "stats")
	assert.Equal(t, object{"pending": 1.0, "succeeded": 0.0, "dead_letter": 1.0, "canceled": 0.0}, stats.body["counts"])

	assert.Empty(t, b.do(t, admin, "GET", "/v1/credentials", nil).items())
	check(b.do(t, admin, "GET", "/v1/credentials?organization_id=other", nil), 403, "credentials")
	check(b.do(t, admin, "DELETE", "/v1/credentials/crm", nil), 404, "credential")
	check(b.do(t, admin, "DELETE", "/v1/credentials/crm?organization_id=other", nil), 403, "credential")
	check(b.do(t, admin, "POST", "/v1/credentials", object{"name": "crm", "type": "none", "organization_id": "other"}), 403, "credential")
	check(b.do(t, admin, "POST", "/v1/secrets", object{"organization_id": "other"}), 403, "secret")
	check(b.do(t, admin, "DELETE", "/v1/secrets?organization_id=other&all=true", nil), 403, "secrets")
	check(b.do(t, admin, "POST", "/v1/tokens", object{"scope": "read", "organization_id": "other"}), 403, "token")
	own := b.do(t, admin, "POST", "/v1/tokens", object{"scope": "admin"})
	check(own, 201, "token")
	assert.Equal(t, "acme", own.body["organization_id"])
	theirPrefix, _, _ := strings.Cut(strings.TrimPrefix(foreign, "rvh_"), "_")
	check(b.do(t, admin, "DELETE", "/v1/tokens/rvh_"+theirPrefix, nil), 404, "token")
	assert.Equal(t, 200, b.do(t, foreign, "GET", "/v1/stats", nil).status)
	assert.Len(t, b.do(t, admin, "GET", "/v1/tokens", nil).items(), 2)
	assert.Equal(t, before, pgtest.Scalar[string](t, b.DB, `SELECT string_agg(d::text, ' ' ORDER BY id) FROM riverhook.deliveries d WHERE organization_id = 'other'`))
}

func TestSecretsAndCredentials(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const secret = "hunter2-hunter2"
	first := b.do(t, setToken, "POST", "/v1/credentials", object{"name": "crm", "type": "bearer_token", "secret": secret})
	require.Equal(t, 201, first.status, first.text)
	rotated := b.do(t, setToken, "POST", "/v1/credentials", object{"name": "crm", "type": "api_key", "secret": secret + "x", "header": "X-Key"})
	require.Equal(t, 200, rotated.status, rotated.text)
	assert.Equal(t, first.body["credential_uuid"], rotated.body["credential_uuid"])
	list := b.do(t, setToken, "GET", "/v1/credentials", nil)
	require.Len(t, list.items(), 1)
	assert.Equal(t, "api_key", list.items()[0]["type"])
	for _, body := range []object{
		{"name": "", "type": "none"}, {"type": "none"}, {"name": "x"}, {"name": "x", "type": "password", "secret": secret}, {"name": "x", "type": "none", "secret": secret},
		{"name": "x", "type": "bearer_token", "secret": secret + "\n\n"}, {"name": "x", "type": "custom_header", "secret": secret}, {"name": "x", "type": "custom_header", "header": secret + " ", "secret": "y"},
		{"name": "x", "type": "none", "credential_uuid": "x"}, {"name": "x", "type": "none", "secrets": secret}, {"name": "x\x00", "type": "none"},
	} {
		a := b.do(t, setToken, "POST", "/v1/credentials", body)
		assert.Equal(t, 422, a.status, "%v: %s", body, a.text)
		assert.NotContains(t, a.text, "hunter2", "%v", body)
	}
	other := b.do(t, setToken, "POST", "/v1/credentials", object{"name": "crm", "type": "none", "credential_uuid": "00000000-0000-4000-8000-000000000001"})
	assert.Equal(t, 409, other.status, other.text)
	taken := b.do(t, setToken, "POST", "/v1/credentials", object{"name": "new", "type": "none", "credential_uuid": first.body["credential_uuid"]})
	assert.Equal(t, 422, taken.status, taken.text)
	assert.Equal(t, 204, b.do(t, setToken, "DELETE", "/v1/credentials/crm", nil).status)
	assert.Equal(t, 404, b.do(t, setToken, "DELETE", "/v1/credentials/crm", nil).status)

	made := b.do(t, setToken, "POST", "/v1/secrets", object{"organization_id": "acme", "endpoint_origin": "https://Example.com:443/"})
	require.Equal(t, 201, made.status, made.text)
	whsec := made.body["secret"].(string)
	assert.Contains(t, whsec, "whsec_")
	assert.Equal(t, 409, b.do(t, setToken, "POST", "/v1/secrets", object{"organization_id": "acme", "endpoint_origin": "https://example.com"}).status)
	again := b.do(t, setToken, "POST", "/v1/secrets/rotate", object{"organization_id": "acme", "endpoint_origin": "https://example.com", "ed25519": true, "overlap_seconds": 60})
	require.Equal(t, 201, again.status, again.text)
	assert.Contains(t, again.body["public"], "whpk_")
	secrets := b.do(t, setToken, "GET", "/v1/secrets?organization_id=acme", nil)
	require.Len(t, secrets.items(), 2)
	assert.NotContains(t, secrets.text, whsec)
	for _, body := range []object{{"secret": "x" + whsec}, {"endpoint_origin": "https://a/b"}, {"overlap_seconds": 1}} {
		a := b.do(t, setToken, "POST", "/v1/secrets", body)
		assert.Equal(t, 422, a.status, a.text)
		assert.NotContains(t, a.text, whsec)
	}
	assert.Equal(t, object{"expired": 1.0}, b.do(t, setToken, "DELETE", "/v1/secrets?organization_id=acme&endpoint_origin=https://example.com", nil).body)
	assert.Equal(t, object{"expired": 1.0}, b.do(t, setToken, "DELETE", "/v1/secrets?organization_id=acme&endpoint_origin=https://example.com&all=true", nil).body)

	for _, hidden := range []string{"hunter2", whsec, again.body["secret"].(string), setToken} {
		assert.NotContains(t, b.log.String(), hidden)
	}
}

func TestTokensOverHTTP(t *testing.T) {
	t.Parallel()
	b := setup(t)
	made := b.do(t, setToken, "POST", "/v1/tokens", object{"scope": "read", "name": "shop", "organization_id": "acme", "expires_in_seconds": 3600})
	require.Equal(t, 201, made.status, made.text)
	token, prefix := made.body["token"].(string), made.body["prefix"].(string)
	assert.True(t, strings.HasPrefix(token, prefix+"_"))
	assert.Equal(t, 200, b.do(t, token, "GET", "/v1/deliveries", nil).status)
	list := b.do(t, setToken, "GET", "/v1/tokens", nil)
	require.Len(t, list.items(), 1)
	assert.NotContains(t, list.text, token)
	assert.NotContains(t, pgtest.Scalar[string](t, b.DB, `SELECT t::text FROM riverhook.tokens t`), token)
	assert.Equal(t, "RIVERHOOK_API_TOKEN", list.items()[0]["created_by"])
	assert.NotNil(t, list.items()[0]["last_used_at"])
	assert.Equal(t, 204, b.do(t, setToken, "DELETE", "/v1/tokens/"+prefix, nil).status)
	assert.Equal(t, 401, b.do(t, token, "GET", "/v1/deliveries", nil).status, "at once")
	assert.Equal(t, 404, b.do(t, setToken, "DELETE", "/v1/tokens/rvh_x", nil).status)
	for _, body := range []object{{}, {"scope": "king"}, {"scope": "read", "expires_in_seconds": 0}, {"scope": "read", "name": strings.Repeat("x", 201)}, {"scope": "read", "organization_id": "\x00"}} {
		assert.Equal(t, 422, b.do(t, setToken, "POST", "/v1/tokens", body).status, "%v", body)
	}
	assert.NotContains(t, b.log.String(), token)
}

// Counts are not made for each who asks.
func TestStatsAreKept(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, status, scheduled_for) VALUES ('http://a/', 'pending', now() - interval '1 hour'), ('http://a/', 'succeeded', NULL)`)
	first := b.do(t, setToken, "GET", "/v1/stats", nil)
	require.Equal(t, 200, first.status, first.text)
	assert.Equal(t, object{"pending": 1.0, "succeeded": 1.0, "dead_letter": 0.0, "canceled": 0.0}, first.body["counts"])
	assert.InEpsilon(t, 1, first.body["due"], 0)
	assert.NotNil(t, first.body["oldest_due"])
	b.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('http://a/')`)
	assert.Equal(t, first.body, b.do(t, setToken, "GET", "/v1/stats", nil).body)
}
