package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/migrations/pgtest"
)

const apiTestToken = "0123456789abcdef0123456789abcdef"

// reply is what came back.
type reply struct {
	StatusCode int
	Header     http.Header
}

// ask sends a request with headers, names and values by turns; Host is one of them.
func (s *service) ask(t testing.TB, method, path, body string, headers ...string) reply {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, s.url+path, strings.NewReader(body))
	require.NoError(t, err)
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			request.Host = headers[i+1]
			continue
		}
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultTransport.RoundTrip(request)
	require.NoError(t, err)
	_ = response.Body.Close()
	assert.NotEmpty(t, response.Header.Get("Content-Security-Policy"), "%s %s", method, path)
	assert.Equal(t, "nosniff", response.Header.Get("X-Content-Type-Options"), "%s %s", method, path)
	return reply{response.StatusCode, response.Header}
}

// A delivery goes the whole way, from the API to its receiver.
func TestServeAPI(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	got := make(chan string, 1)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- string(body)
	}))
	defer receiver.Close()
	file := t.TempDir() + "/token"
	require.NoError(t, os.WriteFile(file, []byte(apiTestToken+"\n"), 0o600))
	s := serve(t, db.URL, true, "RIVERHOOK_API_TOKEN_FILE="+file, "RIVERHOOK_PUBLIC_URL=https://Hooks.example.com")
	with := []string{"Authorization", "Bearer " + apiTestToken, "Content-Type", "application/json"}
	body := fmt.Sprintf(`{"endpoint_url":%q,"payload": { "a" : 1.0 } }`, receiver.URL)
	require.Equal(t, 201, s.ask(t, "POST", "/v1/deliveries", body, with...).StatusCode)
	assert.Equal(t, `{ "a" : 1.0 }`, <-got)
	eventually(t, db, "succeeded", `SELECT status FROM riverhook.deliveries`)

	for host, want := range map[string]int{
		"hooks.example.com": 200, "HOOKS.example.com:443": 200, "localhost": 200, "localhost:1": 200, "127.0.0.1": 200, "127.9.9.9:80": 200, "[::1]:80": 200,
		"hooks.example.com:80": 421, "evil.example": 421, "evil.example:8090": 421, "hooks.example.com.evil.example": 421, "localhost.evil.example": 421, "127.0.0.1.evil.example": 421,
		"10.0.0.1": 421, "0.0.0.0": 421, "[::]": 421, "0x7f000001": 421, "localhost.": 421,
	} {
		for _, path := range []string{"/v1/deliveries", "/openapi.json", "/docs"} {
			assert.Equal(t, want, s.ask(t, "GET", path, "", append(with, "Host", host)...).StatusCode, "%s %s", host, path)
		}
		assert.Equal(t, want == 200, s.ask(t, "GET", "/river/", "", append(with, "Host", host)...).StatusCode != 421, host)
		assert.Equal(t, 200, s.ask(t, "GET", "/healthz", "", "Host", host).StatusCode, host)
		assert.Equal(t, 200, s.ask(t, "GET", "/readyz", "", "Host", host).StatusCode, host)
	}
	for _, c := range []struct {
		headers []string
		want    int
	}{
		{[]string{"Sec-Fetch-Site", "cross-site"}, 403},
		{[]string{"Sec-Fetch-Site", "same-site"}, 403},
		{[]string{"Sec-Fetch-Site", "same-origin"}, 201},
		{[]string{"Origin", "https://evil.example"}, 403},
		{[]string{"Origin", "null"}, 403},
		{[]string{"Origin", "https://hooks.example.com.evil.example"}, 403},
		{[]string{"Origin", "https://hooks.example.com", "Sec-Fetch-Site", "cross-site"}, 201},
		{[]string{"Origin", "https://hooks.example.com", "Host", "hooks.example.com"}, 201},
	} {
		response := s.ask(t, "POST", "/v1/deliveries", `{"endpoint_url":"http://192.0.2.1/","scheduled_for":"2031-01-01T00:00:00Z"}`, append(with, c.headers...)...)
		assert.Equal(t, c.want, response.StatusCode, c.headers)
	}
	for _, line := range s.log() {
		assert.NotContains(t, fmt.Sprint(line), apiTestToken)
	}
}

// River UI is open on a loopback address until there is a token; then it takes one that sees all.
func TestServeUIWithTokens(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	env := []string{"RIVERHOOK_DATABASE_URL=" + db.URL}
	make := func(args ...string) string {
		stdout, stderr, code := call(t, env, append([]string{"tokens", "create"}, args...)...)
		require.Equal(t, 0, code, stderr)
		return strings.TrimSpace(stdout)
	}
	open := serve(t, db.URL, true)
	assert.Equal(t, 200, open.ask(t, "GET", "/river/", "").StatusCode)
	refused := open.ask(t, "GET", "/v1/deliveries", "")
	assert.Equal(t, 401, refused.StatusCode, "the API always takes one")

	read, bound, enqueue := make("--scope", "read"), make("--scope", "admin", "--organization", "acme"), make("--scope", "enqueue")
	s := serve(t, db.URL, true)
	refused = s.ask(t, "GET", "/river/", "")
	assert.Equal(t, 401, refused.StatusCode)
	assert.Contains(t, refused.Header.Get("WWW-Authenticate"), "Basic")
	assert.Equal(t, 200, s.ask(t, "GET", "/river/", "", "Authorization", "Bearer "+read).StatusCode)
	request, _ := http.NewRequest(http.MethodGet, "http://x/", http.NoBody)
	request.SetBasicAuth("me", read)
	page := s.ask(t, "GET", "/river/", "", "Authorization", request.Header.Get("Authorization"))
	assert.Equal(t, 200, page.StatusCode)
	assert.Contains(t, page.Header.Get("Content-Security-Policy"), "script-src 'self'")
	assert.Equal(t, 403, s.ask(t, "GET", "/river/", "", "Authorization", "Bearer "+bound).StatusCode)
	assert.Equal(t, 403, s.ask(t, "GET", "/river/", "", "Authorization", "Bearer "+enqueue).StatusCode)
	assert.Equal(t, 405, s.ask(t, "POST", "/river/api/jobs/cancel", "{}", "Authorization", "Bearer "+read).StatusCode)
	assert.Equal(t, 404, s.ask(t, "GET", "/nothing", "").StatusCode)
}

// Without a token, nobody on another machine gets to the listener.
func TestListenWithoutToken(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for _, listen := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0", "somewhere.example:0"} {
		_, stderr, code := call(t, []string{"RIVERHOOK_DATABASE_URL=" + db.URL, "RIVERHOOK_LISTEN=" + listen}, "serve")
		assert.Equal(t, 1, code, listen)
		assert.Contains(t, stderr, "there is no token", listen)
		assert.Contains(t, stderr, "riverhook tokens create", listen)
	}
	empty := pgtest.NewEmpty(t)
	_, stderr, code := call(t, []string{"RIVERHOOK_DATABASE_URL=" + empty.URL, "RIVERHOOK_LISTEN=:0"}, "serve", "--migrate")
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, "there is no token")
	for name, want := range map[string]string{
		"RIVERHOOK_API_TOKEN=short":                              "24 characters",
		"RIVERHOOK_API_TOKEN_FILE=/does/not/exist":               "RIVERHOOK_API_TOKEN_FILE",
		"RIVERHOOK_PUBLIC_URL=hooks.example.com":                 "RIVERHOOK_PUBLIC_URL",
		"RIVERHOOK_PUBLIC_URL=https://hooks.example.com/x":       "RIVERHOOK_PUBLIC_URL",
		"RIVERHOOK_PUBLIC_URL=https://someone@hooks.example.com": "RIVERHOOK_PUBLIC_URL",
	} {
		_, stderr, code := call(t, []string{"RIVERHOOK_DATABASE_URL=" + db.URL, name}, "serve")
		assert.NotEqual(t, 0, code, name)
		assert.Contains(t, stderr, want, name)
	}

	_, _, code = call(t, []string{"RIVERHOOK_DATABASE_URL=" + db.URL}, "tokens", "create", "--scope", "enqueue")
	require.Equal(t, 0, code)
	serve(t, db.URL, false, "RIVERHOOK_LISTEN=0.0.0.0:0")
	serve(t, empty.URL, false, "RIVERHOOK_LISTEN=0.0.0.0:0", "RIVERHOOK_API_TOKEN="+apiTestToken)
}

// Prometheus asks by any name, and has no token. What it gets says nothing about anybody's rows.
func TestServeMetrics(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bad" {
			w.WriteHeader(http.StatusGone)
		}
	}))
	defer receiver.Close()
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, organization_id) VALUES ($1, 'acme'), ($1 || '/bad', 'acme')`, receiver.URL)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, scheduled_for) VALUES ($1, now() - interval '1 hour')`, receiver.URL)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, scheduled_for, claim, claimed_by, leased_until)
		VALUES ($1, now() - interval '1 hour', 1, 'a node that died', now() - interval '1 minute')`, receiver.URL)
	s := serve(t, db.URL, true, "RIVERHOOK_API_TOKEN="+apiTestToken)
	eventually(t, db, 4, `SELECT count(*)::int FROM riverhook.deliveries WHERE finished_at IS NOT NULL`)
	assert.Equal(t, 200, s.ask(t, "GET", "/metrics", "", "Host", "prometheus.example").StatusCode)
	assert.Equal(t, 404, s.ask(t, "POST", "/metrics", "").StatusCode)
	var text string
	scrape := func() string {
		response, err := http.Get(s.url + "/metrics")
		require.NoError(t, err)
		defer response.Body.Close() //nolint:errcheck // a test's
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		return string(body)
	}
	// Counts are kept for 10 s: those of the first scrape may be older than the last outcome.
	require.Eventually(t, func() bool {
		text = scrape()
		return strings.Contains(text, "riverhook_deliveries{status=\"succeeded\"} 3\n") && strings.Contains(text, "riverhook_clock_skew_seconds ")
	}, time.Minute, 50*time.Millisecond)
	for _, line := range []string{
		`riverhook_attempts_total{failure_kind="",outcome="succeeded"} 3`,
		`riverhook_attempts_total{failure_kind="",outcome="abandoned"} 1`,
		`riverhook_attempts_total{failure_kind="status",outcome="permanent"} 1`,
		`riverhook_attempts_in_flight 0`, `riverhook_attempt_duration_seconds_count 4`, `riverhook_wakeup_seconds_count 4`,
		`riverhook_leases_reclaimed_total 1`, `riverhook_late_outcomes_total 0`,
		`riverhook_deliveries{status="dead_letter"} 1`, `riverhook_deliveries{status="pending"} 0`, `riverhook_oldest_due_seconds 0`, `riverhook_origins_held 0`,
	} {
		assert.Contains(t, text, line+"\n")
	}
	assert.Regexp(t, `riverhook_sweeps_total\{result="done"\} [1-9]`, text)
	assert.Regexp(t, `riverhook_batch_size_sum\{step="claim"\} [4-9]`, text)
	assert.Regexp(t, `riverhook_build_info\{go_version="go.*",version=".+"\} 1`, text)
	assert.Regexp(t, `riverhook_wakeup_seconds_sum 36\d\d\.`, text, "one of them was an hour late")
	for _, secret := range []string{"127.0.0.1", "acme", receiver.URL} {
		assert.NotContains(t, text, secret)
	}
}
