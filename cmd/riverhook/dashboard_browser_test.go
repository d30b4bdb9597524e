package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/migrations/pgtest"
)

// browserNames are what a Chromium may be called.
var browserNames = []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "headless-shell"}

// browser is a headless Chromium of its own.
type browser struct {
	context.Context
	mu   sync.Mutex
	said []string // what it complained of: scripts that fail, what a policy forbids
}

// browse starts one. Where there is none, the test is skipped.
func browse(t testing.TB) *browser {
	t.Helper()
	path := ""
	for _, name := range browserNames {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Skip("no Chromium on this machine (looked for " + strings.Join(browserNames, ", ") + "): apt-get install chromium")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()), chromedp.WindowSize(1280, 900))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // it refuses to run as root with one
	}
	b := &browser{}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(cancel)
	b.Context, cancel = chromedp.NewContext(ctx, chromedp.WithListener(b.listen))
	t.Cleanup(func() {
		_ = chromedp.Cancel(b.Context) // it waits for the process, whose files go
		cancel()
	})
	_, err := chromedp.Call(b.Context, log.Enable, cdp.Empty{})
	require.NoError(t, err, "Chromium does not start")
	return b
}

func (b *browser) listen(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		b.said = append(b.said, e.ExceptionDetails.Text)
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning {
			b.said = append(b.said, e.Entry.Text)
		}
	}
}

func (b *browser) complaints() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.said...)
}

// do takes steps, within a time.
func (b *browser) do(t testing.TB, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	get(t, b, chromedp.Steps(steps...))
}

// get is what a browser says.
func get[T any](t testing.TB, b *browser, action chromedp.Action[T]) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.Context, time.Minute)
	defer cancel()
	value, err := chromedp.Run(ctx, action)
	if err != nil {
		at, _ := chromedp.Run(b.Context, chromedp.Location())
		require.NoError(t, err, "at %s; complaints: %q", at, b.complaints())
	}
	return value
}

// link is a link or a button with that text.
func link(text string) string {
	return fmt.Sprintf(`//main//*[self::a or self::button][contains(normalize-space(.), %q)]`, text)
}

// Somebody logs in, finds a dead letter, replays it, and sees it succeed. What the receiver answered does not run.
func TestDashboardInBrowser(t *testing.T) {
	t.Parallel()
	tab := browse(t)
	db := pgtest.New(t)
	var works atomic.Bool
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !works.Load() {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(http.StatusBadRequest)
			_, _ = fmt.Fprint(w, `</pre><script>window.ran = true</script><img src=x onerror="window.ran = true"><svg onload="window.ran = true">`)
		}
	}))
	defer receiver.Close()
	s := serve(t, db.URL, true, "RIVERHOOK_API_TOKEN="+apiTestToken)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, webhook_name, payload) VALUES ($1, 'orders', '{"event":"call.done"}')`, receiver.URL+"/hook")
	eventually(t, db, "dead_letter", `SELECT status FROM riverhook.deliveries`)

	tab.do(t,
		chromedp.Navigate(s.url+"/"),
		chromedp.WaitVisible(`#token`),
		chromedp.SendKeys(`#token`, apiTestToken),
		chromedp.Click(`//main//button[.="Log in"]`),
		chromedp.WaitVisible(`//h1[.="Overview"]`),
		chromedp.Click(`//nav//a[.="Dead letters"]`),
		chromedp.WaitVisible(`//h1[.="Dead letters"]`),
		chromedp.Click(link("HTTP 400")),
		chromedp.WaitVisible(`//h1[.="Deliveries"]`),
		chromedp.Click(`//tbody//th/a`),
		chromedp.WaitVisible(`#attempts`),
		chromedp.Click(`#attempts summary`),
		chromedp.WaitVisible(`#attempts pre`),
	)
	const ran = `window.ran === true`
	assert.Contains(t, get(t, tab, chromedp.Text(`#attempts pre`)), `<script>window.ran = true</script>`, "it is there, as text")
	assert.False(t, get(t, tab, chromedp.Evaluate[bool](ran)))
	assert.Equal(t, "Delivery 1 – riverhook", get(t, tab, chromedp.Title()))
	assert.Contains(t, get(t, tab, chromedp.Text(`#curl`)), receiver.URL+"/hook")

	works.Store(true)
	tab.do(t,
		chromedp.Click(link("Replay")),
		chromedp.WaitVisible(`//h1[contains(., "Start this delivery over?")]`),
		chromedp.Click(`//main//button[.="Replay"]`),
		// The page refreshes itself.
		chromedp.WaitVisible(`h1 .badge.succeeded`),
		chromedp.WaitVisible(`//strong[.="Replay 1, attempt 1"]`),
	)
	assert.Equal(t, "succeeded", get(t, tab, chromedp.Text(`h1 .badge`)))
	assert.False(t, get(t, tab, chromedp.Evaluate[bool](ran)))
	assert.Equal(t, "succeeded", pgtest.Scalar[string](t, db, `SELECT status FROM riverhook.deliveries`))
	assert.Empty(t, tab.complaints(), "neither a policy's nor a script's")

	tab.do(t,
		chromedp.Click(`//button[.="Log out"]`),
		chromedp.WaitVisible(`#token`),
		chromedp.Navigate(s.url+"/deliveries/1"),
		chromedp.WaitVisible(`#token`),
	)
}

var screenshots = flag.String("screenshots", "", "write a picture of every page of the dashboard into this directory")

// With -screenshots DIR: every page, in light, in dark and as wide as a phone.
func TestScreenshots(t *testing.T) {
	if *screenshots == "" {
		t.Skip("for people, with -screenshots DIR")
	}
	tab := browse(t)
	db := pgtest.New(t)
	exhibit(t, db) // first: a node that starts knows the pauses
	s := serve(t, db.URL, true, "RIVERHOOK_API_TOKEN="+apiTestToken, "RIVERHOOK_SECRET_KEY=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "RIVERHOOK_MAX_ATTEMPTS=20")
	require.NoError(t, os.MkdirAll(*screenshots, 0o750))
	dead := pgtest.Scalar[int64](t, db, `SELECT min(delivery_id) FROM riverhook.attempts WHERE round = 1`)
	waiting := pgtest.Scalar[int64](t, db, `SELECT min(id) FROM riverhook.deliveries WHERE status = 'pending' AND attempt_count > 2`)
	paths := []struct{ name, path string }{
		{"login", "/login"},
		{"overview", "/"},
		{"deliveries", "/deliveries"},
		{"deliveries-filtered", "/deliveries?status=dead_letter&status=pending&origin=https://crm.example.net&since=2020-01-01T00:00:00Z"},
		{"delivery", fmt.Sprint("/deliveries/", dead)},
		{"delivery-waiting", fmt.Sprint("/deliveries/", waiting)},
		{"confirm", fmt.Sprint("/deliveries/", waiting, "/cancel")},
		{"dead-letters", "/dead-letters"},
		{"replays", "/replays"},
		{"replay-new", "/replays/new?status=dead_letter&origin=https://crm.example.net"},
		{"replay", "/replays/1"},
		{"pauses", "/pauses"},
		{"credentials", "/credentials"},
		{"secrets", "/secrets"},
		{"tokens", "/tokens"},
		{"error", "/deliveries/99999999"},
	}
	for _, look := range []struct {
		name   string
		scheme string
		width  int64
	}{{"light", "light", 1280}, {"dark", "dark", 1280}, {"narrow", "light", 390}, {"narrow-dark", "dark", 390}} {
		for _, p := range paths {
			_, err := chromedp.Call(tab.Context, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: look.scheme}},
			})
			require.NoError(t, err)
			tab.do(t, chromedp.EmulateViewport(look.width, 844), chromedp.Navigate(s.url+p.path), chromedp.WaitVisible(`h1`))
			assert.LessOrEqual(t, get(t, tab, chromedp.Evaluate[int64](`document.documentElement.scrollWidth`)), look.width, "%s %s scrolls to the side", look.name, p.name)
			png := get(t, tab, chromedp.FullScreenshot(100))
			require.NoError(t, os.WriteFile(filepath.Join(*screenshots, p.name+"-"+look.name+".png"), png, 0o600))
			if p.name == "login" {
				tab.do(t, chromedp.SendKeys(`#token`, apiTestToken), chromedp.Click(`//main//button[.="Log in"]`), chromedp.WaitVisible(`//h1[.="Overview"]`))
			}
		}
		tab.do(t, chromedp.Click(`//button[.="Log out"]`), chromedp.WaitVisible(`#token`))
	}
	for _, complaint := range tab.complaints() {
		assert.Contains(t, complaint, "404", "of the page that says so")
	}
}

// exhibit fills a database with what a dashboard has to show.
func exhibit(t testing.TB, db *pgtest.DB) {
	t.Helper()
	const receivers = `(ARRAY['https://hooks.example.com', 'https://crm.example.net', 'https://billing.example.org', 'https://api.shop.example'])`
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	run := func(sql string, values ...any) {
		t.Helper()
		_, err := tx.Exec(t.Context(), sql, values...)
		require.NoError(t, err)
	}
	run(`SET LOCAL session_replication_role = replica`)
	// An hour of deliveries: most succeed, those to the CRM often do not.
	run(`WITH d AS (
		INSERT INTO riverhook.deliveries (organization_id, endpoint_url, webhook_name, workflow_run_id, webhook_node_id, status, scheduled_for, created_at, finished_at,
		       attempt_count, last_status_code, last_error, payload)
		SELECT (ARRAY['acme', 'globex', 'initech'])[1 + i % 3], r || '/v1/events/' || (i % 7), (ARRAY['Order paid', 'Call done', 'Invoice sent'])[1 + i % 3], 'run-' || i, 'node-1',
		       CASE WHEN dead THEN 'dead_letter' WHEN i % 211 = 0 THEN 'canceled' ELSE 'succeeded' END, NULL, at - interval '3 seconds' * random(), at, 1,
		       CASE WHEN dead THEN 422 ELSE 200 END, CASE WHEN dead AND i % 5 = 0 THEN 'TLS: certificate has expired' WHEN dead THEN 'HTTP 422: {"error":"unknown customer"}' END,
		       json_build_object('event', 'order.paid', 'order', json_build_object('id', i, 'total', round((random() * 400)::numeric, 2), 'currency', 'EUR', 'lines', json_build_array(json_build_object('sku', 'A-' || i % 9, 'count', 1 + i % 3))))
		  FROM (SELECT i, ` + receivers + `[1 + (i * 7) % 4] AS r, now() - interval '1 hour' * (1 - i / 4000.0) * (0.9 + 0.1 * random()) - interval '20 seconds' AS at,
		               (i * 7) % 4 = 1 AND (i % 9 = 0 OR i BETWEEN 2600 AND 2900) AS dead FROM generate_series(1, 4000) i) s
		RETURNING id, status, created_at, endpoint_origin)
		INSERT INTO riverhook.attempts (delivery_id, round, attempt, started_at, duration_ms, outcome, failure_kind, status_code, error, response_body, node)
		SELECT id, 0, 1, created_at, 20 + 180 * random() * random(), CASE WHEN status = 'dead_letter' THEN 'permanent' ELSE 'succeeded' END,
		       CASE WHEN status = 'dead_letter' THEN 'status' END, CASE WHEN status = 'dead_letter' THEN 422 ELSE 200 END,
		       CASE WHEN status = 'dead_letter' THEN 'HTTP 422: {"error":"unknown customer"}' END, '{"ok":true}', (ARRAY['web-1-4f1c09aa', 'web-2-77be01d2'])[1 + id % 2] FROM d`)
	// Some that are tried again and again.
	run(`WITH d AS (
		INSERT INTO riverhook.deliveries (organization_id, endpoint_url, webhook_name, status, scheduled_for, created_at, attempt_count, last_status_code, last_error, payload)
		SELECT 'acme', 'https://billing.example.org/v1/invoices', 'Invoice sent', 'pending', now() + interval '7 minutes' * i, now() - interval '9 minutes', 4, 503, 'HTTP 503: upstream is restarting', '{"event":"invoice.sent","invoice":"2030-117"}'
		  FROM generate_series(1, 6) i RETURNING id, created_at)
		INSERT INTO riverhook.attempts (delivery_id, round, attempt, started_at, duration_ms, outcome, failure_kind, status_code, error, response_body, node)
		SELECT id, 0, n, created_at + (30 * 2 ^ (n - 1) - 30) * interval '1 second', CASE n WHEN 2 THEN 30000 ELSE 41 + n END, 'transient', CASE n WHEN 2 THEN 'timeout' ELSE 'status' END, CASE n WHEN 2 THEN NULL ELSE 503 END,
		       CASE n WHEN 2 THEN 'no answer within 30s' ELSE 'HTTP 503: upstream is restarting' END, CASE n WHEN 2 THEN NULL ELSE convert_to('<html><body>upstream is restarting</body></html>', 'UTF8') END, 'web-1-4f1c09aa'
		  FROM d, generate_series(1, 4) n`)
	// One that was replayed.
	run(`WITH d AS (
		INSERT INTO riverhook.deliveries (organization_id, endpoint_url, webhook_name, workflow_run_id, webhook_node_id, status, round, scheduled_for, created_at, finished_at, attempt_count, last_status_code, last_error, payload, custom_headers, credential_uuid)
		VALUES ('acme', 'https://crm.example.net/v1/customers', 'Customer changed', 'run-5001', 'crm', 'dead_letter', 1, NULL, now() - interval '50 minutes', now() - interval '4 minutes', 2, 422, 'HTTP 422: {"error":"unknown customer"}',
		        '{"event":"customer.changed","customer":{"id":1093,"plan":"team","tags":["trial","newsletter"],"address":{"city":"Graz","country":"AT"}}}', '[{"key":"X-Tenant","value":"acme"},{"key":"Authorization","value":"x"}]', gen_random_uuid()) RETURNING id)
		INSERT INTO riverhook.attempts (delivery_id, round, attempt, started_at, duration_ms, outcome, failure_kind, status_code, error, response_body, node)
		SELECT id, v.round, v.attempt, now() - v.ago::interval, v.ms, v.outcome, v.kind, v.code, v.error, convert_to(v.body, 'UTF8'), 'web-2-77be01d2' FROM d, (VALUES
		   (0, 1, '50 minutes', 214, 'permanent', 'status', 422, 'HTTP 422: {"error":"unknown customer"}', '{"error":"unknown customer","hint":"<b>create it first</b>"}'),
		   (1, 1, '5 minutes', 30000, 'transient', 'timeout', NULL, 'no answer within 30s', NULL),
		   (1, 2, '4 minutes', 187, 'permanent', 'status', 422, 'HTTP 422: {"error":"unknown customer"}', '{"error":"unknown customer","hint":"<b>create it first</b>"}')) v (round, attempt, ago, ms, outcome, kind, code, error, body)`)
	run(`INSERT INTO riverhook.pauses (endpoint_origin, organization_id, reason, created_at) VALUES ('https://api.shop.example', NULL, 'their maintenance until noon', now() - interval '35 minutes'), (NULL, 'globex', NULL, now() - interval '2 days')`)
	run(`INSERT INTO riverhook.deliveries (organization_id, endpoint_url, webhook_name, scheduled_for, held_since, held_reason, payload, created_at)
		SELECT (ARRAY['acme', 'initech'])[1 + i % 2], 'https://api.shop.example/v2/stock', 'Stock changed', now() - interval '2 seconds' * i, now() - interval '1 second' * i, 'paused', '{"sku":"A-3","left":4}', now() - interval '2 seconds' * i FROM generate_series(1, 640) i`)
	run(`INSERT INTO riverhook.replays (organization_id, filter, pace, created_by, status, matched, done, after_id, up_to_id, claimed_by, leased_until, created_at, finished_at)
		VALUES (NULL, '{"status":["dead_letter"],"origin":"https://hooks.example.com","error":"HTTP 503"}', 50, 'support', 'running', 1840, 1211, 0, 0, 'another', now() + interval '1 hour', now() - interval '24 seconds', NULL),
		       ('acme', '{"status":["dead_letter"],"organization_id":"acme"}', 100, 'RIVERHOOK_API_TOKEN', 'succeeded', 312, 312, 0, 0, NULL, NULL, now() - interval '3 days', now() - interval '3 days')`)
	run(`INSERT INTO riverhook.credentials (organization_id, name, type, updated_at) VALUES ('acme', 'crm', 'bearer_token', now() - interval '12 days'), ('globex', 'shop', 'api_key', now() - interval '3 hours')`)
	run(`INSERT INTO riverhook.signing_secrets (secret_uuid, organization_id, endpoint_origin, sealed, created_at, expires_at) VALUES
		(gen_random_uuid(), 'acme', NULL, '\x00', now() - interval '2 hours', NULL), (gen_random_uuid(), 'acme', NULL, '\x00', now() - interval '90 days', now() + interval '22 hours'),
		(gen_random_uuid(), 'globex', 'https://hooks.example.com', '\x00', now() - interval '90 days', now() - interval '1 day')`)
	run(`INSERT INTO riverhook.nodes (node, version, started_at, seen_at) VALUES ('web-1-4f1c09aa', 'v1.0.0', now() - interval '3 days', now() + interval '5 seconds'), ('web-2-77be01d2', 'v1.0.0', now() - interval '3 days', now() + interval '5 seconds')`)
	run(`INSERT INTO riverhook.tokens (prefix, hash, name, scope, organization_id, created_by, created_at, last_used_at, expires_at, revoked_at) VALUES
		('rvh_0a1b2c3d4e5f', sha256('a'), 'shop backend', 'enqueue', 'acme', 'RIVERHOOK_API_TOKEN', now() - interval '40 days', now() - interval '20 seconds', NULL, NULL),
		('rvh_5f4e3d2c1b0a', sha256('b'), 'support', 'operate', NULL, 'RIVERHOOK_API_TOKEN', now() - interval '8 days', now() - interval '2 hours', now() + interval '82 days', NULL),
		('rvh_00aa11bb22cc', sha256('c'), 'old laptop', 'admin', NULL, 'support', now() - interval '200 days', now() - interval '90 days', NULL, now() - interval '60 days')`)
	require.NoError(t, tx.Commit(t.Context()))
	db.Exec(t, `ANALYZE riverhook.deliveries`)
}
