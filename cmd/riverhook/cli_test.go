package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

// asRole is the database's URL for a new role with these rights.
func asRole(t *testing.T, db *pgtest.DB, kinds ...string) string {
	t.Helper()
	role := fmt.Sprintf("rh_%d", time.Now().UnixNano())
	db.Exec(t, `CREATE ROLE `+role)
	t.Cleanup(func() {
		db.Exec(t, `DROP OWNED BY `+role)
		db.Exec(t, `DROP ROLE `+role)
	})
	for _, kind := range kinds {
		require.NoError(t, migrations.Grant(t.Context(), db.Pool, db.Schema, role, kind))
	}
	u, err := url.Parse(db.URL)
	require.NoError(t, err)
	query := u.Query()
	query.Set("role", role)
	u.RawQuery = query.Encode()
	return u.String()
}

func TestSendWait(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	wait := func(databaseURL string, args ...string) ran {
		return on(t, databaseURL, append([]string{"send", "https://one.example/x", "--wait", "--wait-timeout", "300ms"}, args...)...)
	}

	r := wait(db.URL)
	assert.Equal(t, 3, r.code)
	assert.Equal(t, "riverhook: delivery 1 is still pending after 300ms: is \"riverhook serve\" running?\n  look at it with: riverhook deliveries show 1\n", r.err)
	r = wait(db.URL, "--at", "1h", "--json", "--max-attempts", "7")
	assert.Equal(t, 3, r.code)
	assert.Contains(t, r.err, "still pending after 300ms: attempt 1 comes in ")
	var shown map[string]any
	require.NoError(t, json.Unmarshal([]byte(r.out), &shown))
	assert.EqualValues(t, 7, shown["max_attempts"])
	assert.Equal(t, []any{}, shown["attempts"])

	// Who may enqueue and not look: the row is there.
	application := asRole(t, db, "application")
	r = wait(application)
	assert.Equal(t, 3, r.code)
	assert.Contains(t, r.out, "enqueued delivery 3 (")
	assert.Contains(t, r.err, "delivery 3 is enqueued and will be sent, but this role may not look at its outcome\n")
	assert.Contains(t, r.err, "riverhook migrate grant ROLE --as reader")
	r = wait(application, "--json")
	assert.Equal(t, 3, r.code)
	assert.Contains(t, r.out, `"id":4`)
	assert.Equal(t, 4, pgtest.Scalar[int](t, db, `SELECT count(*) FROM riverhook.deliveries`))
	assert.Contains(t, wait(asRole(t, db, "application", "reader")).err, "still pending")

	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	assert.Equal(t, 0, on(t, application, "send", "http://a/", "--traceparent", trace).code)
	assert.Equal(t, trace, pgtest.Scalar[string](t, db, `SELECT traceparent FROM riverhook.deliveries ORDER BY id DESC LIMIT 1`))
	r = on(t, application, "send", "http://a/", "--traceparent", "00-x")
	assert.Equal(t, 2, r.code)
	assert.Contains(t, r.err, "--traceparent \"00-x\" is not a W3C trace context")
	for _, n := range []string{"0", "1001", "x"} {
		r = wait(db.URL, "--max-attempts", n)
		assert.Equal(t, 2, r.code)
		assert.Contains(t, r.err, "--max-attempts")
	}
}

func TestSendWaitsForAttempts(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "down", http.StatusServiceUnavailable)
	}))
	defer receiver.Close()
	serve(t, db.URL, true, "RIVERHOOK_BASE_DELAY=1h", "RIVERHOOK_MAX_DELAY=1h")
	r := on(t, db.URL, "send", receiver.URL, "--wait", "--wait-timeout", "5s")
	assert.Equal(t, 3, r.code)
	assert.Contains(t, r.out, "attempt 1 failed: HTTP 503: down")
	assert.Regexp(t, `still pending after 5s: attempt 2 comes in (59m\d+s|1h0m)\n`, r.err)

	r = on(t, db.URL, "send", receiver.URL, "--wait", "--max-attempts", "1")
	assert.Equal(t, 1, r.code)
	assert.Contains(t, r.out, "dead_letter after 1 attempt: HTTP 503")
	r = on(t, db.URL, "send", receiver.URL, "--wait", "--max-attempts", "1", "--json")
	assert.Equal(t, 1, r.code)
	var shown struct {
		Status   string
		Attempts []struct {
			StatusCode int    `json:"status_code"`
			Body       string `json:"response_body"`
		}
	}
	require.NoError(t, json.Unmarshal([]byte(r.out), &shown))
	assert.Equal(t, "dead_letter", shown.Status)
	require.Len(t, shown.Attempts, 1)
	assert.Equal(t, 503, shown.Attempts[0].StatusCode)
	assert.Equal(t, "down\n", shown.Attempts[0].Body)
}

func TestWhyPending(t *testing.T) {
	t.Parallel()
	now, node, crowded := time.Now(), "n", "crowded"
	later := now.Add(27 * time.Second)
	for want, row := range map[string]store.Row{
		`is "riverhook serve" running?`:                   {},
		"attempt 2 is due":                                {AttemptCount: 1},
		"attempt 2 comes in 27s":                          {AttemptCount: 1, ScheduledFor: &later},
		"attempt 1 comes in 27s":                          {ScheduledFor: &later},
		"attempt 1 is being made":                         {ClaimedBy: &node},
		"attempt 1 is held back":                          {HeldSince: &now},
		"attempt 1 is held back: " + heldBecause[crowded]: {HeldSince: &now, HeldReason: &crowded},
	} {
		row.Status, row.Now = "pending", now
		if want == `is "riverhook serve" running?` {
			assert.Equal(t, want, whyPending(&store.Row{})) // nothing could be read
		}
		assert.Equal(t, want, whyPending(&row))
	}
}

func TestRightsHints(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('http://a/')`)
	r := on(t, asRole(t, db, "reader"), "sweep", "--log-level", "error")
	assert.Equal(t, 1, r.code)
	assert.Contains(t, r.err, "riverhook migrate grant ROLE --as service")
	assert.Regexp(t, `(?m)^riverhook: [^:]*ERROR: `, r.err)

	empty := pgtest.NewEmpty(t)
	r = on(t, asRole(t, empty), "migrate", "up", "--log-level", "error")
	assert.Equal(t, 1, r.code)
	assert.Contains(t, r.err, "the role needs CREATE on the database, or a schema riverhook that it owns")
}

func TestReport(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"store: get: timeout: context deadline exceeded": "timeout: context deadline exceeded",
		"store: there is no such delivery":               "there is no such delivery",
		"store: lock the sweep: ERROR: x":                "lock the sweep: ERROR: x",
		"sweeper: store: sweep: ERROR: x":                "ERROR: x",
		"migrations: ERROR: x":                           "ERROR: x",
		"migrations: River's migrator: x":                "River's migrator: x",
		"riverhook: store: list: x":                      "x",
		"open: store: get: x":                            "open: store: get: x",
	} {
		var stderr bytes.Buffer
		assert.Equal(t, 1, report(console{err: &stderr}, errors.New(text)))
		assert.Equal(t, "riverhook: "+want+"\n", stderr.String())
	}
	var stderr bytes.Buffer
	report(console{err: &stderr}, hintError{errors.New("store: get: x"), "do that"})
	assert.Equal(t, "riverhook: x\n  do that\n", stderr.String())
}

func TestHelp(t *testing.T) {
	t.Parallel()
	help := func(args ...string) string {
		var out, stderr bytes.Buffer
		assert.Equal(t, 0, run(args, console{strings.NewReader(""), &out, &stderr}), "%s", args)
		assert.Empty(t, stderr.String())
		return strings.Join(strings.Fields(out.String()), " ")
	}
	assert.Contains(t, help("--help"), `Exit codes: 0 done; 1 failed, or something named was not changed, or "check" found something; 2 wrong usage or setting; 3 "send --wait" is still pending.`)
	assert.Equal(t, help("version"), help("--version"))
	assert.Regexp(t, `^riverhook \S+$`, help("--version"))
	for command, status := range map[string]string{"list": "--status=STATUS", "replay": "--status=STATUS", "retry": "--status=pending", "cancel": "--status=pending"} {
		assert.Contains(t, help("deliveries", command, "--help"), status)
	}
	list := help("deliveries", "list", "--help")
	assert.Contains(t, list, "--limit=LIMIT At most so many, up to 1000 (default 50).")
	assert.Contains(t, list, "--schema=SCHEMA Schema of riverhook's tables and River's (default riverhook).")
	retries := help("help", "retries")
	for _, want := range []string{
		"no HTTP answer (name not resolved, refused, reset, timeout, TLS or certificate, malformed answer), a missing credential, or HTTP ",
		"Each is up to 20 % shorter or longer", "set -a; . /etc/riverhook.env; riverhook help retries",
	} {
		assert.Contains(t, retries, want)
	}
}

// What show says about custom headers that are not sent is what the service does.
func TestShowWarnsOfHeaders(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for headers, want := range map[string]string{
		`[{"key":"Authorization","value":"x"},{"key":"X-Fine","value":"1"},{"key":"host","value":"y"}]`: "not sent: Authorization, host (",
		`{"a":1}`:                        "it cannot be sent",
		`[{"key":"a b","value":"c"}]`:    "it cannot be sent",
		`[{"key":"X-Fine","value":"1"}]`: "",
	} {
		id := pgtest.Scalar[int64](t, db, `INSERT INTO riverhook.deliveries (endpoint_url, custom_headers) VALUES ('http://a/', $1) RETURNING id`, headers)
		shown := on(t, db.URL, "deliveries", "show", strconv.FormatInt(id, 10))
		assert.Equal(t, 0, shown.code, shown.err)
		if want == "" {
			assert.NotContains(t, shown.out, "warning")
		} else {
			assert.Contains(t, shown.out, want)
		}
	}
}

// All that is pending can be meant, by saying so.
func TestStatusPending(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, scheduled_for) SELECT 'http://a/', now() + interval '1 hour' FROM generate_series(1, 3)`)
	retried := on(t, db.URL, "deliveries", "retry", "--status", "pending", "--yes")
	assert.Equal(t, ran{0, "retried 3 deliveries\n", ""}, retried)
	canceled := on(t, db.URL, "deliveries", "cancel", "--status=pending", "--yes", "--json")
	assert.Equal(t, ran{0, `{"canceled":3}` + "\n", ""}, canceled)
	assert.Equal(t, 3, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'canceled'`))
}
