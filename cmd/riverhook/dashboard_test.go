package main

import (
	"encoding/base64"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/migrations/pgtest"
)

// visitor is somebody with a browser.
type visitor struct {
	*http.Client
	base string
}

// page is what a browser gets.
type page struct {
	status int
	at     string // path and query, after redirects
	header http.Header
	text   string
}

func visit(t testing.TB, base string) *visitor {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	return &visitor{&http.Client{Jar: jar}, base}
}

// do sends a request as a browser would, and follows redirects. Headers are names and values by turns; Host is one of them.
func (v *visitor) do(t testing.TB, method, path string, form url.Values, headers ...string) page {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, v.base+path, strings.NewReader(form.Encode()))
	require.NoError(t, err)
	request.Header.Set("Accept", "text/html")
	if method == http.MethodPost {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		request.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			request.Host = headers[i+1]
			continue
		}
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := v.Do(request)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	p := page{response.StatusCode, response.Request.URL.RequestURI(), response.Header, string(body)}
	what := method + " " + path
	assert.True(t, p.status < 500 || p.status == http.StatusServiceUnavailable, "%s: %d %s", what, p.status, p.text)
	policy := p.header.Get("Content-Security-Policy")
	assert.Contains(t, policy, "default-src 'none'", what)
	assert.Contains(t, policy, "frame-ancestors 'none'", what)
	assert.Equal(t, "nosniff", p.header.Get("X-Content-Type-Options"), what)
	assert.NotEmpty(t, p.header.Get("Referrer-Policy"), what)
	if strings.HasPrefix(p.header.Get("Content-Type"), "text/html") && !strings.HasPrefix(p.at, "/river") && !strings.HasPrefix(p.at, "/docs") {
		assert.NotContains(t, policy, "unsafe", what)
		assert.NotContains(t, policy, "sha256", what)
		assert.NotRegexp(t, `<style|<[^>]*\s(style|on[a-z]+)=|<script>|"javascript:`, p.text, what)
		assert.NotContains(t, p.text, "ZgotmplZ", what)
		assert.NotContains(t, p.text, "<no value>", what)
		assert.Equal(t, p.status != http.StatusSeeOther, strings.Count(p.text, "<h1") == 1, what)
	}
	return p
}

func (v *visitor) get(t testing.TB, path string) page { t.Helper(); return v.do(t, "GET", path, nil) }

// login logs in.
func (v *visitor) login(t testing.TB, token string) page {
	t.Helper()
	return v.do(t, "POST", "/login", url.Values{"token": {token}})
}

// dashboardTokens makes a token through the command line.
func makeToken(t testing.TB, db *pgtest.DB, args ...string) string {
	t.Helper()
	stdout, stderr, code := call(t, []string{"RIVERHOOK_DATABASE_URL=" + db.URL}, append([]string{"tokens", "create"}, args...)...)
	require.Equal(t, 0, code, stderr)
	return strings.TrimSpace(stdout)
}

// everyPage is where a dashboard with one row of everything has a page.
var everyPage = []string{
	"/", "/deliveries", "/deliveries?status=dead_letter", "/deliveries/1", "/deliveries/1/replay", "/deliveries/1/retry", "/deliveries/1/cancel", "/dead-letters",
	"/replays", "/replays/new?status=dead_letter", "/replays/1", "/replays/1/cancel", "/pauses", "/pauses/1/resume", "/credentials",
	"/credentials/remove?name=crm&organization_id=acme", "/secrets", "/secrets/expire?organization_id=acme", "/tokens",
	"/tokens/rvh_0123456789ab/revoke", "/nothing",
}

// oneOfEverything are rows for everyPage, of organization acme.
func oneOfEverything(t testing.TB, db *pgtest.DB, organization string) {
	t.Helper()
	db.Exec(t, `INSERT INTO riverhook.deliveries (organization_id, endpoint_url, webhook_name, status, scheduled_for, finished_at, last_status_code, last_error, attempt_count, payload, credential_uuid, custom_headers)
		VALUES ($1, 'https://'||$1||'.example/hook?a=1', 'name of '||$1, 'dead_letter', NULL, now(), 500, 'HTTP 500: '||$1, 1, ('{"who":"'||$1||'"}')::json, gen_random_uuid(), '[{"key":"X-Note","value":"it''s"},{"key":"Authorization","value":"hunter2"}]')`, organization)
	db.Exec(t, `INSERT INTO riverhook.attempts (delivery_id, round, attempt, started_at, duration_ms, outcome, failure_kind, status_code, error, response_body, node)
		SELECT max(id), 0, 1, now(), 12, 'permanent', 'status', 500, 'HTTP 500: '||$1, convert_to('<script>document.title="run"</script><img src=x onerror=alert(1)> of '||$1, 'UTF8'), 'node-1' FROM riverhook.deliveries`, organization)
	db.Exec(t, `INSERT INTO riverhook.replays (organization_id, filter, pace, created_by, matched, after_id, up_to_id, status, finished_at)
		VALUES ($1, jsonb_build_object('organization_id', $1::text), 1, 'by '||$1, 1, 0, 0, 'succeeded', now())`, organization)
	db.Exec(t, `INSERT INTO riverhook.pauses (endpoint_origin, organization_id, reason) VALUES ('https://paused.example', $1, 'reason of '||$1)`, organization)
	// What is held has no job: else a node would claim it, and hold it again.
	require.NoError(t, pgx.BeginFunc(t.Context(), db.Pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), `INSERT INTO riverhook.deliveries (organization_id, endpoint_url, held_since, held_reason) VALUES ($1, 'https://paused.example/'||$1, now(), 'paused')`, organization)
		if err == nil {
			_, err = tx.Exec(t.Context(), `DELETE FROM riverhook.river_job WHERE (args->>'delivery_id')::bigint = (SELECT max(id) FROM riverhook.deliveries)`)
		}
		return err
	}))
	db.Exec(t, `INSERT INTO riverhook.credentials (organization_id, name, type) VALUES ($1, 'crm', 'none')`, organization)
	db.Exec(t, `INSERT INTO riverhook.signing_secrets (secret_uuid, organization_id, endpoint_origin, sealed) VALUES (gen_random_uuid(), $1, 'https://'||$1||'.example', '\x00')`, organization)
}

func TestDashboardLogin(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	bare := serve(t, db.URL, true)
	v := visit(t, bare.url)
	first := v.get(t, "/")
	assert.Equal(t, 200, first.status)
	assert.Equal(t, "/login", first.at)
	assert.Contains(t, first.text, "There is no token yet", "as the API, it takes one")
	assert.Equal(t, 401, v.login(t, apiTestToken).status)

	oneOfEverything(t, db, "acme")
	s := serve(t, db.URL, true, "RIVERHOOK_API_TOKEN="+apiTestToken, "RIVERHOOK_PUBLIC_URL=https://hooks.example.com")
	v = visit(t, s.url)
	for _, path := range everyPage[:len(everyPage)-1] {
		p := v.get(t, path)
		assert.Equal(t, 200, p.status, path)
		assert.True(t, strings.HasPrefix(p.at, "/login"), "%s led to %s", path, p.at)
		assert.NotContains(t, p.text, "There is no token yet")
		assert.NotContains(t, p.text, "acme.example")
	}
	assert.Equal(t, 404, v.get(t, "/nothing").status)
	assert.Equal(t, "/login?next=%2Fdeliveries%3Fstatus%3Ddead_letter", v.get(t, "/deliveries?status=dead_letter").at)
	for _, path := range []string{"/deliveries/1/replay", "/deliveries/1/cancel", "/replays", "/pauses", "/credentials", "/tokens", "/secrets", "/secrets/expire"} {
		assert.Equal(t, "/login", v.do(t, "POST", path, nil).at, path)
	}
	assert.Equal(t, 422, v.login(t, "").status)

	enqueue := makeToken(t, db, "--scope", "enqueue")
	refused := v.login(t, enqueue)
	assert.Equal(t, 403, refused.status)
	assert.NotContains(t, refused.text, enqueue)

	// Where to go then is a path of ours.
	for next, want := range map[string]string{
		"/deliveries?status=pending": "/deliveries?status=pending", "": "/", "https://evil.example/": "/", "//evil.example/": "/", `/\evil.example/`: "/",
		"/\t/evil.example": "/", "javascript:alert(1)": "/", "/login": "/", "///evil.example": "/", "/..//evil.example": "/evil.example",
	} {
		v := visit(t, s.url)
		v.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		p := v.do(t, "POST", "/login", url.Values{"token": {apiTestToken}, "next": {next}})
		require.Equal(t, 303, p.status, next)
		assert.Equal(t, want, p.header.Get("Location"), next)
		cookie := p.header.Get("Set-Cookie")
		assert.Regexp(t, `^riverhook-session=[^;]+; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict$`, cookie)
		assert.NotContains(t, cookie, apiTestToken)
		assert.NotContains(t, cookie, base64.RawURLEncoding.EncodeToString([]byte(apiTestToken)))
		p = v.do(t, "POST", "/login", url.Values{"token": {apiTestToken}, "next": {next}}, "Host", "hooks.example.com")
		assert.Regexp(t, `^__Host-riverhook-session=[^;]+; Path=/; Max-Age=43200; HttpOnly; Secure; SameSite=Strict$`, p.header.Get("Set-Cookie"))
	}

	read := makeToken(t, db, "--scope", "read")
	in := v.login(t, read)
	assert.Equal(t, 200, in.status)
	assert.Equal(t, "/", in.at)
	assert.Contains(t, in.text, "Log out")
	assert.NotContains(t, in.text, read)
	assert.Equal(t, 200, v.get(t, "/river/").status, "the same log-in")
	assert.Equal(t, "/", v.get(t, "/login").at, "logged in already")
	assert.Equal(t, 401, v.get(t, "/v1/deliveries").status, "the API takes no cookie")
	home, err := url.Parse(s.url)
	require.NoError(t, err)
	cookie := func() *http.Cookie { t.Helper(); require.Len(t, v.Jar.Cookies(home), 1); return v.Jar.Cookies(home)[0] }
	copied := cookie()
	assert.Equal(t, 401, v.do(t, "GET", "/v1/deliveries", nil, "Authorization", "Bearer "+copied.Value).status, "what a browser keeps is no token")
	assert.Equal(t, 401, v.login(t, copied.Value).status)
	assert.Equal(t, "/deliveries", visit(t, s.url).do(t, "GET", "/deliveries", nil, "Cookie", copied.String()).at)
	out := v.do(t, "POST", "/logout", nil)
	assert.Equal(t, "/login", out.at)
	assert.Equal(t, "/login?next=%2Fdeliveries", visit(t, s.url).do(t, "GET", "/deliveries", nil, "Cookie", copied.String()).at, "a copy has ended, too")
	assert.Equal(t, "/login", v.get(t, "/").at)
	assert.Equal(t, "/login?next=%2Friver%2F", v.get(t, "/river/").at)

	for _, path := range []string{"/", "/login", "/river/"} { // else a page that asks again and again would go on with it
		stale := visit(t, s.url)
		stale.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		p := stale.do(t, "GET", path, nil, "Cookie", copied.String())
		assert.Contains(t, p.header.Get("Set-Cookie"), "riverhook-session=; Path=/; Max-Age=0", path)
	}

	// Who cannot be logged out everywhere is told.
	require.Equal(t, 200, v.login(t, read).status)
	copied = cookie()
	db.Exec(t, `ALTER TABLE riverhook.sessions RENAME TO away`)
	out = v.do(t, "POST", "/logout", nil)
	assert.Equal(t, 503, out.status)
	assert.Contains(t, out.text, "works until the session expires")
	assert.Empty(t, v.Jar.Cookies(home))
	db.Exec(t, `ALTER TABLE riverhook.away RENAME TO sessions`)
	assert.Equal(t, "/deliveries", visit(t, s.url).do(t, "GET", "/deliveries", nil, "Cookie", copied.String()).at)

	// A log-in in place of another ends that.
	require.Equal(t, 200, v.login(t, read).status)
	copied = cookie()
	require.Equal(t, 200, v.login(t, read).status)
	assert.NotEqual(t, copied.Value, cookie().Value)
	assert.Equal(t, "/login?next=%2Fdeliveries", visit(t, s.url).do(t, "GET", "/deliveries", nil, "Cookie", copied.String()).at)

	// Who is revoked is out.
	v.login(t, read)
	db.Exec(t, `UPDATE riverhook.tokens SET revoked_at = now()`)
	require.Eventually(t, func() bool { return strings.HasPrefix(v.get(t, "/deliveries").at, "/login") }, 20*time.Second, 50*time.Millisecond)

	paused := false
	for range 20 {
		p := v.login(t, "wrong")
		if paused = p.status == 429; paused {
			assert.NotEmpty(t, p.header.Get("Retry-After"))
			assert.Contains(t, p.text, "Too many wrong tokens")
			break
		}
		require.Equal(t, 401, p.status)
	}
	assert.True(t, paused, "it is slowed down")
	for _, line := range s.log() {
		assert.NotContains(t, fmt.Sprint(line), read)
		assert.NotContains(t, fmt.Sprint(line), apiTestToken)
	}
}

// What a page of somebody else could have a browser do is refused, and so is a host that is not ours.
func TestDashboardForgeries(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	oneOfEverything(t, db, "acme")
	s := serve(t, db.URL, true, "RIVERHOOK_API_TOKEN="+apiTestToken, "RIVERHOOK_PUBLIC_URL=https://hooks.example.com")
	v := visit(t, s.url)
	require.Equal(t, 200, v.login(t, apiTestToken).status)
	before := pgtest.Scalar[string](t, db, `SELECT string_agg(d::text, ' ' ORDER BY id) FROM riverhook.deliveries d`)
	posts := []string{"/login", "/logout", "/deliveries/1/replay", "/deliveries/2/cancel", "/deliveries/2/retry", "/replays", "/replays/1/cancel", "/pauses", "/pauses/1/resume",
		"/credentials", "/credentials/remove", "/secrets", "/secrets/expire", "/tokens", "/tokens/rvh_0123456789ab/revoke"}
	for _, path := range posts {
		for _, headers := range [][]string{
			{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Sec-Fetch-Site", "", "Origin", "https://evil.example"}, {"Sec-Fetch-Site", "", "Origin", "null"},
		} {
			assert.Equal(t, 403, v.do(t, "POST", path, nil, headers...).status, "%s %v", path, headers)
		}
		for _, host := range []string{"evil.example", "127.0.0.1.evil.example", "10.0.0.1"} {
			assert.Equal(t, 421, v.do(t, "POST", path, nil, "Host", host).status, path)
		}
		assert.Equal(t, 415, v.do(t, "POST", "/pauses", nil, "Content-Type", "text/plain").status)
	}
	for _, path := range everyPage {
		assert.Equal(t, 421, v.do(t, "GET", path, nil, "Host", "evil.example").status, path)
	}
	assert.Equal(t, 413, v.do(t, "POST", "/pauses", url.Values{"reason": {strings.Repeat("x", 70<<10)}}).status)
	assert.Equal(t, before, pgtest.Scalar[string](t, db, `SELECT string_agg(d::text, ' ' ORDER BY id) FROM riverhook.deliveries d`))
	assert.Equal(t, 1, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.pauses`))
}

func TestDashboardPages(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	oneOfEverything(t, db, "acme")
	s := serve(t, db.URL, true, "RIVERHOOK_API_TOKEN="+apiTestToken, "RIVERHOOK_SECRET_KEY=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	v := visit(t, s.url)
	v.login(t, apiTestToken)
	for _, path := range everyPage[:len(everyPage)-1] {
		p := v.get(t, path)
		assert.Equal(t, 200, p.status, "%s: %s", path, p.text)
		assert.Equal(t, path, p.at)
		assert.NotContains(t, p.text, "hunter2", path)
		ids := map[string]bool{}
		for _, id := range regexp.MustCompile(`\sid="([^"]*)"`).FindAllStringSubmatch(p.text, -1) {
			assert.False(t, ids[id[1]], "%s: id %s twice", path, id[1])
			ids[id[1]] = true
		}
		for _, label := range regexp.MustCompile(`<label for="([^"]*)"`).FindAllStringSubmatch(p.text, -1) {
			assert.True(t, ids[label[1]], "%s: a label of nothing, %s", path, label[1])
		}
		for _, list := range regexp.MustCompile(`aria-(?:labelledby|describedby)="([^"]*)"`).FindAllStringSubmatch(p.text, -1) {
			for _, id := range strings.Fields(list[1]) {
				assert.True(t, ids[id], "%s: aria names %s, which is not there", path, id)
			}
		}
		assert.Equal(t, strings.Count(p.text, "<table"), strings.Count(p.text, "<caption"), "%s: a table without a caption", path)
	}
	one := v.get(t, "/deliveries/1").text
	assert.Contains(t, one, "&lt;script&gt;document.title=", "what a receiver sent is text")
	assert.NotContains(t, one, "<script>")
	assert.NotContains(t, one, "<img src=x")
	assert.Contains(t, one, `it&#39;\&#39;&#39;s`, "quoted for a shell")
	assert.Contains(t, one, "--data-raw &#39;{&#34;who&#34;:&#34;acme&#34;}&#39;")
	assert.Contains(t, one, "Authorization", "what is dropped is named")
	overview := v.get(t, "/").text
	assert.Contains(t, overview, "1 dead letters")
	assert.Contains(t, overview, "https://acme.example")
	assert.Contains(t, overview, "paused by hand")
	assert.Contains(t, overview, pgtest.Scalar[string](t, db, `SELECT node FROM riverhook.nodes`))
	assert.Contains(t, overview, "alive")
	assert.Contains(t, v.get(t, "/dead-letters").text, "HTTP 500: acme")
	for _, asset := range regexp.MustCompile(`(?:src|href)="(/assets/[^"]+)"`).FindAllStringSubmatch(overview, -1) {
		assert.Equal(t, 200, v.get(t, asset[1]).status, asset[1])
	}
	assert.Equal(t, 404, v.get(t, "/assets/nothing.css").status)

	// Every link leads somewhere.
	known := map[string]bool{"/": true}
	for todo := []string{"/"}; len(todo) > 0; todo = todo[1:] {
		for _, href := range regexp.MustCompile(`<a [^>]*href="(/[^"]*)"`).FindAllStringSubmatch(v.get(t, todo[0]).text, -1) {
			to := html.UnescapeString(href[1])
			if known[to] || strings.HasPrefix(to, "/river") || to == "/docs" {
				continue
			}
			known[to] = true
			assert.Equal(t, 200, v.get(t, to).status, "%s, linked from %s", to, todo[0])
			todo = append(todo, to)
		}
	}
	assert.Greater(t, len(known), 20)
	assert.Contains(t, known, "/replays/new?error=HTTP+500%3A+acme&origin=https%3A%2F%2Facme.example&status=dead_letter")
	assert.Equal(t, "/deliveries?origin=https%3A%2F%2Facme.example", v.get(t, "/deliveries?status=&origin=https://acme.example&error=&since=").at, "what is empty goes")

	uuid := pgtest.Scalar[string](t, db, `SELECT delivery_uuid::text FROM riverhook.deliveries WHERE id = 1`)
	assert.Equal(t, 200, v.get(t, "/deliveries/"+strings.ToUpper(uuid)).status)

	// Pages of a list.
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, status, scheduled_for) SELECT 'https://many.example/', 'canceled', NULL FROM generate_series(1, 120)`)
	seen, path := 0, "/deliveries?origin=https%3A%2F%2Fmany.example&status=canceled"
	for path != "" {
		p := v.get(t, path)
		require.Equal(t, 200, p.status)
		seen += strings.Count(p.text, `<tr role="row"><th role="rowheader"`)
		path = ""
		if next := regexp.MustCompile(`href="([^"]*)" rel="next"`).FindStringSubmatch(p.text); next != nil {
			path = strings.ReplaceAll(next[1], "&amp;", "&")
		}
	}
	assert.Equal(t, 120, seen)

	// Actions.
	assert.Equal(t, "/deliveries/1?done=replay", v.do(t, "POST", "/deliveries/1/replay", nil).at)
	again := v.do(t, "POST", "/deliveries/1/cancel", nil)
	if again.status == 409 { // it has been delivered meanwhile, or parked
		assert.Contains(t, again.text, "Nothing was changed")
	}
	assert.Equal(t, "/deliveries/2?done=cancel", v.do(t, "POST", "/deliveries/2/cancel", nil).at)
	assert.Equal(t, 409, v.do(t, "POST", "/deliveries/2/cancel", nil).status)
	assert.Contains(t, v.get(t, "/replays/new?status=canceled&origin=https://many.example").text, "Replay 120 deliveries?")
	started := v.do(t, "POST", "/replays", url.Values{"status": {"canceled"}, "origin": {"https://many.example"}, "pace": {"1"}})
	assert.Equal(t, "/replays/2", started.at)
	assert.Contains(t, started.text, "of 120")
	assert.Equal(t, "/replays/2", v.do(t, "POST", "/replays/2/cancel", nil).at)
	eventually(t, db, "canceled", `SELECT status FROM riverhook.replays WHERE id = 2`)
	assert.Equal(t, 409, v.do(t, "POST", "/replays/2/cancel", nil).status)
	assert.Equal(t, "RIVERHOOK_API_TOKEN", pgtest.Scalar[string](t, db, `SELECT created_by FROM riverhook.replays WHERE id = 2`))

	assert.Equal(t, 422, v.do(t, "POST", "/pauses", nil).status)
	assert.Equal(t, "/pauses", v.do(t, "POST", "/pauses", url.Values{"everything": {"true"}, "reason": {"all"}}).at)
	assert.Equal(t, "/pauses", v.do(t, "POST", "/pauses/1/resume", nil).at)
	assert.Equal(t, 404, v.do(t, "POST", "/pauses/1/resume", nil).status)

	const secret = "hunter2-hunter2"
	set := v.do(t, "POST", "/credentials", url.Values{"name": {"new"}, "type": {"bearer_token"}, "secret": {secret}})
	assert.Equal(t, "/credentials", set.at)
	wrong := v.do(t, "POST", "/credentials", url.Values{"name": {"new"}, "type": {"bearer_token"}, "secret": {secret + "\n\nx"}})
	assert.Equal(t, 422, wrong.status)
	made := v.do(t, "POST", "/secrets", url.Values{"organization_id": {"acme"}})
	whsec := regexp.MustCompile(`whsec_[A-Za-z0-9+/=]+`).FindString(made.text)
	assert.NotEmpty(t, whsec)
	assert.Equal(t, 409, v.do(t, "POST", "/secrets", url.Values{"organization_id": {"acme"}}).status)
	assert.Equal(t, 200, v.do(t, "POST", "/secrets", url.Values{"organization_id": {"acme"}, "rotate": {"true"}, "kind": {"ed25519"}}).status)
	assert.Equal(t, "/secrets", v.do(t, "POST", "/secrets/expire", url.Values{"organization_id": {"acme"}, "all": {"true"}}).at)
	token := v.do(t, "POST", "/tokens", url.Values{"scope": {"read"}, "name": {"shop"}, "expires_in_days": {"30"}})
	printed := regexp.MustCompile(`rvh_[0-9a-f]{12}_[a-z2-7]{52}`).FindString(token.text)
	require.NotEmpty(t, printed)
	assert.Equal(t, "no-store", token.header.Get("Cache-Control"))
	other := visit(t, s.url)
	assert.Equal(t, 200, other.login(t, printed).status)
	assert.Equal(t, "/tokens", v.do(t, "POST", "/tokens/"+printed[:16]+"/revoke", nil).at)
	assert.Equal(t, "/login", other.get(t, "/").at)
	for _, path := range []string{"/credentials", "/secrets", "/tokens", "/"} {
		text := v.get(t, path).text + wrong.text
		for _, hidden := range []string{secret, whsec, printed} {
			assert.NotContains(t, text, hidden, path)
		}
	}
	for _, line := range s.log() {
		for _, hidden := range []string{secret, whsec, printed, apiTestToken} {
			assert.NotContains(t, fmt.Sprint(line), hidden)
		}
	}
}

// Whatever is asked for, the answer is a page with a status below 500.
func TestDashboardHostileRequests(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	oneOfEverything(t, db, "acme")
	s := serve(t, db.URL, true, "RIVERHOOK_API_TOKEN="+apiTestToken)
	v := visit(t, s.url)
	v.login(t, apiTestToken)
	for path, want := range map[string]int{
		"/deliveries?status=king": 422, "/deliveries?origin=x": 422, "/deliveries?origin=https://a/b": 422, "/deliveries?since=yesterday": 422, "/deliveries?until=9999-12-31T23:59:59Z": 422,
		"/deliveries?credential_uuid=x": 422, "/deliveries?endpoint=%00": 422, "/deliveries?error=%ff": 422, "/deliveries?workflow_run_id=" + strings.Repeat("x", 9000): 422,
		"/deliveries?cursor=x": 400, "/deliveries?cursor=MTow": 400, "/deliveries?stauts=pending": 400, "/deliveries?%zz": 400, "/deliveries?a;b": 400,
		"/deliveries/0": 404, "/deliveries/x": 404, "/deliveries/99": 404, "/deliveries/9223372036854775808": 404, "/deliveries/%00": 404, "/deliveries/1/erase": 404,
		"/deliveries/00000000-0000-4000-8000-000000000000": 404, "/deliveries/1?x=1": 400,
		"/replays/x": 404, "/replays/99": 404, "/replays/new?status=pending": 422, "/replays/new?x=1": 400, "/replays?cursor=%00": 400,
		"/pauses/x/resume": 404, "/tokens/x/revoke": 404, "/credentials/remove?name=%00&organization_id=%00": 422, "/secrets/expire?endpoint_origin=x": 422,
		"/?x=1": 400, "/dead-letters?status=pending": 400, "/../etc/passwd": 404, "/assets/..%2fapp.js": 404,
	} {
		assert.Equal(t, want, v.get(t, path).status, path)
	}
	long := strings.Repeat("x", 900)
	for _, c := range []struct {
		path string
		form url.Values
		want int
	}{
		{"/replays", url.Values{"pace": {"0"}}, 422},
		{"/replays", url.Values{"pace": {"1"}, "status": {"pending"}}, 422},
		{"/replays", url.Values{"pace": {"1"}, "x": {"1"}}, 400},
		{"/replays", url.Values{"pace": {"1"}, "origin": {"\x00"}}, 422},
		{"/pauses", url.Values{"endpoint_origin": {"ftp://x"}}, 422},
		{"/pauses", url.Values{"organization_id": {long}}, 422},
		{"/pauses", url.Values{"organization_id": {"a"}, "reason": {"\x00"}}, 422},
		{"/pauses", url.Values{"organization_id": {"a"}, "reason": {long}}, 422},
		{"/credentials", url.Values{"name": {""}, "type": {"none"}}, 422},
		{"/credentials", url.Values{"name": {"a"}, "type": {"king"}}, 422},
		{"/credentials", url.Values{"name": {"\xff"}, "type": {"none"}}, 422},
		{"/credentials", url.Values{"name": {"a"}, "type": {"bearer_token"}, "secret": {"x"}}, 409}, // there is no key
		{"/credentials/remove", url.Values{"name": {"\x00"}}, 422},
		{"/credentials/remove", url.Values{"name": {"nobody"}}, 404},
		{"/secrets", url.Values{"kind": {"x"}}, 422},
		{"/secrets", url.Values{"overlap_hours": {"-1"}}, 422},
		{"/secrets", url.Values{"endpoint_origin": {"x"}}, 422},
		{"/tokens", url.Values{"scope": {"king"}}, 422},
		{"/tokens", url.Values{"scope": {"read"}, "expires_in_days": {"x"}}, 422},
		{"/tokens", url.Values{"scope": {"read"}, "name": {"\x00"}}, 422},
		{"/tokens/rvh_0123456789ab/revoke", nil, 404},
		{"/deliveries/99/replay", nil, 404},
		{"/replays/99/cancel", nil, 404},
		{"/login", url.Values{"token": {"x"}, "x": {"1"}}, 400},
		{"/login", url.Values{"token": {strings.Repeat("x", 10_000)}}, 401},
		{"/login", url.Values{"token": {"\x00\xff"}}, 401},
	} {
		assert.Equal(t, c.want, v.do(t, "POST", c.path, c.form).status, "%s %v", c.path, c.form)
	}
	for _, cookie := range []string{"x", "%%%", strings.Repeat("A", 5000), `""`, "AAAA"} {
		stranger := visit(t, s.url)
		p := stranger.do(t, "GET", "/", nil, "Cookie", "riverhook-session="+cookie)
		assert.Contains(t, []int{200, 429}, p.status)
		assert.NotContains(t, p.text, "Log out")
	}
}

// A token of one organization sees nothing of another's, and a token of little scope does not do more here than there.
func TestDashboardTenantsAndScopes(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	oneOfEverything(t, db, "acme")    // deliveries 1 and 2
	oneOfEverything(t, db, "foreign") // 3 and 4
	db.Exec(t, `INSERT INTO riverhook.pauses (endpoint_origin, reason) VALUES ('https://foreign-pause.example', 'foreign')`)
	makeToken(t, db, "--scope", "read", "--organization", "foreign", "--name", "foreign")
	token := makeToken(t, db, "--scope", "admin", "--organization", "acme", "--name", "me")
	s := serve(t, db.URL, true)
	v := visit(t, s.url)
	require.Equal(t, 200, v.login(t, token).status)
	before := pgtest.Scalar[string](t, db, `SELECT string_agg(d::text, ' ' ORDER BY id) FROM riverhook.deliveries d WHERE organization_id = 'foreign'`)
	theirs := pgtest.Scalar[string](t, db, `SELECT prefix FROM riverhook.tokens WHERE organization_id = 'foreign'`)
	for _, path := range append([]string{"/replays/new", "/deliveries?origin=https://foreign.example", "/deliveries?error=foreign", "/deliveries?endpoint=paused.example"}, everyPage...) {
		p := v.get(t, path)
		text := strings.ReplaceAll(strings.ReplaceAll(p.text, `value="https://foreign.example"`, ""), `value="foreign"`, "") // what was asked for
		text = strings.ReplaceAll(strings.ReplaceAll(text, "origin=https%3A%2F%2Fforeign.example", ""), "error=foreign", "")
		assert.NotContains(t, text, "foreign", path)
	}
	for path, want := range map[string]int{
		"/deliveries/3": 404, "/deliveries/3/replay": 404, "/replays/2": 404, "/replays/2/cancel": 404, "/pauses/2/resume": 404, "/pauses/3/resume": 404,
		"/deliveries?organization_id=foreign": 403, "/replays/new?organization_id=foreign": 403, "/credentials/remove?name=crm&organization_id=foreign": 403,
		"/secrets/expire?organization_id=foreign": 403, "/river/": 403,
	} {
		assert.Equal(t, want, v.get(t, path).status, path)
	}
	for _, c := range []struct {
		path string
		form url.Values
		want int
	}{
		{"/deliveries/3/replay", nil, 404},
		{"/deliveries/4/cancel", nil, 404},
		{"/replays", url.Values{"organization_id": {"foreign"}, "pace": {"1"}}, 403},
		{"/replays/2/cancel", nil, 404},
		{"/pauses", url.Values{"organization_id": {"foreign"}}, 403},
		{"/pauses/2/resume", nil, 404},
		{"/pauses/3/resume", nil, 404},
		{"/credentials", url.Values{"organization_id": {"foreign"}, "name": {"crm"}, "type": {"none"}}, 403},
		{"/credentials/remove", url.Values{"organization_id": {"foreign"}, "name": {"crm"}}, 403},
		{"/secrets", url.Values{"organization_id": {"foreign"}}, 403},
		{"/secrets/expire", url.Values{"organization_id": {"foreign"}, "all": {"true"}}, 403},
		{"/tokens", url.Values{"organization_id": {"foreign"}, "scope": {"admin"}}, 403},
		{"/tokens/" + theirs + "/revoke", nil, 404},
	} {
		assert.Equal(t, c.want, v.do(t, "POST", c.path, c.form).status, "%s %v", c.path, c.form)
	}
	assert.Contains(t, v.get(t, "/replays/new").text, "Replay 1 delivery?", "its own")
	v.do(t, "POST", "/tokens", url.Values{"scope": {"read"}, "name": {"bound"}})
	assert.Equal(t, "acme", pgtest.Scalar[string](t, db, `SELECT organization_id FROM riverhook.tokens WHERE name = 'bound'`))
	v.do(t, "POST", "/pauses", nil)
	assert.Equal(t, 2, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.pauses WHERE organization_id = 'acme'`), "all of its own, and of nobody else")
	assert.Equal(t, before, pgtest.Scalar[string](t, db, `SELECT string_agg(d::text, ' ' ORDER BY id) FROM riverhook.deliveries d WHERE organization_id = 'foreign'`))

	for scope, allowed := range map[string]string{
		"read":    `^/($|deliveries$|deliveries\?|deliveries/1$|dead-letters|replays$|replays/1$|nothing)`,
		"operate": `^/($|deliveries|dead-letters|replays|pauses|nothing)`,
	} {
		v := visit(t, s.url)
		v.login(t, makeToken(t, db, "--scope", scope))
		for _, path := range everyPage {
			got := v.get(t, path).status
			if regexp.MustCompile(allowed).MatchString(path) {
				assert.NotEqual(t, 403, got, "%s %s", scope, path)
			} else {
				assert.Equal(t, 403, got, "%s %s", scope, path)
			}
		}
		assert.Equal(t, 403, v.do(t, "POST", "/tokens", url.Values{"scope": {"admin"}}).status)
		if scope == "read" {
			for _, path := range []string{"/deliveries/1/replay", "/deliveries/2/cancel", "/replays", "/replays/1/cancel", "/pauses", "/pauses/1/resume"} {
				assert.Equal(t, 403, v.do(t, "POST", path, nil).status, path)
			}
			assert.NotContains(t, v.get(t, "/deliveries/1").text, "Replay …")
			assert.NotContains(t, v.get(t, "/dead-letters").text, "/replays/new")
		}
	}
}
