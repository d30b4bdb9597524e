package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

// ran is what a command did.
type ran struct {
	code     int
	out, err string
}

// on runs a command on a database.
func on(t *testing.T, databaseURL string, args ...string) ran {
	t.Helper()
	var out, stderr bytes.Buffer
	code := run(append(args, "--database-url", databaseURL), console{strings.NewReader("y\n"), &out, &stderr})
	return ran{code, out.String(), stderr.String()}
}

// insertDelivery makes a delivery with what set says ("column = value, ...") on top, past the triggers.
func insertDelivery(t *testing.T, db *pgtest.DB, set string) int64 {
	t.Helper()
	db.MayHaveProblems(t, "it is made up, and has no job, nor attempts for its attempt_count")
	id := pgtest.Scalar[int64](t, db, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('https://one.example/hook') RETURNING id`)
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SET LOCAL session_replication_role = replica`)
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `DELETE FROM riverhook.river_job`)
	require.NoError(t, err)
	if set != "" {
		_, err = tx.Exec(t.Context(), fmt.Sprintf(`UPDATE riverhook.deliveries SET %s WHERE id = %d`, set, id))
		require.NoError(t, err)
	}
	require.NoError(t, tx.Commit(t.Context()))
	return id
}

func statuses(t *testing.T, db *pgtest.DB) []string {
	t.Helper()
	return pgtest.Column[string](t, db, `SELECT status FROM riverhook.deliveries ORDER BY id`)
}

const (
	beingSent  = `claim = 1, claimed_by = 'node-1', leased_until = now() + interval '1 minute', updated_at = now() - interval '12 seconds'`
	deadLetter = `status = 'dead_letter', scheduled_for = NULL, finished_at = now(), attempt_count = 3`
	canceled   = `status = 'canceled', scheduled_for = NULL, finished_at = now()`
	succeeded  = `status = 'succeeded', scheduled_for = NULL, finished_at = now(), attempt_count = 1`
	inAnHour   = `scheduled_for = now() + interval '1 hour 5 minutes 50 seconds'`
)

func TestDeliveriesList(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	insertDelivery(t, db, deadLetter+`, last_error = E'HTTP 503: \x1b[2J\tgone', workflow_run_id = 'run-1', max_attempts = 3, created_at = '2024-05-06 07:08:09+00'`)
	insertDelivery(t, db, "")
	insertDelivery(t, db, beingSent)
	insertDelivery(t, db, inAnHour+`, organization_id = 'acme', endpoint_url = 'https://two.example:8443/x', credential_uuid = 'c5a4b3f2-0000-4000-8000-00000000000a'`)
	insertDelivery(t, db, `held_since = now(), endpoint_url = E'nowhere'`)
	insertDelivery(t, db, `status = 'canceled', scheduled_for = NULL, `+beingSent)

	r := on(t, db.URL, "deliveries", "list")
	require.Equal(t, 0, r.code, r.err)
	assert.Empty(t, r.err)
	lines := strings.Split(strings.TrimSuffix(r.out, "\n"), "\n")
	require.Len(t, lines, 7)
	fields := func(line string) string { return strings.Join(strings.Fields(line), " ") }
	assert.Equal(t, "ID STATUS ATTEMPTS NEXT CREATED ORIGIN RUN LAST ERROR", fields(lines[0]))
	assert.Regexp(t, `^6 canceled, still being sent 0 - \d+s ago https://one.example - -$`, fields(lines[1]))
	assert.Regexp(t, `^5 pending 0 held back \d+s ago - - -$`, fields(lines[2]))
	assert.Regexp(t, `^4 pending 0 in 1h5m \d+s ago https://two.example:8443 - -$`, fields(lines[3]))
	assert.Regexp(t, `^3 sending since 1[2345]s on node-1 0 - \d+s ago https://one.example - -$`, fields(lines[4]))
	assert.Regexp(t, `^2 pending 0 due \d+s ago https://one.example - -$`, fields(lines[5]))
	assert.Regexp(t, `^1 dead_letter 3/3 - \d+d ago https://one.example run-1 HTTP 503: \\x1b\[2J\\tgone$`, fields(lines[6]))
	for _, line := range lines { // the columns stand below each other
		assert.Equal(t, strings.Index(lines[0], "ORIGIN")-2, strings.LastIndex(line[:strings.Index(lines[0], "ORIGIN")], " ")-1, line)
	}
	r = on(t, db.URL, "deliveries", "list", "--status", "pending") // none of a run
	assert.Equal(t, "ID STATUS ATTEMPTS NEXT CREATED ORIGIN LAST ERROR", fields(strings.Split(r.out, "\n")[0]))

	r = on(t, db.URL, "deliveries", "list", "--json", "--limit", "2")
	require.Equal(t, 0, r.code, r.err)
	assert.Equal(t, "there are more: add --before 5\n", r.err)
	assert.Equal(t, []float64{6, 5}, jsonIDs(t, r.out))
	r = on(t, db.URL, "deliveries", "list", "--json", "--limit", "2", "--before", "5")
	assert.Equal(t, []float64{4, 3}, jsonIDs(t, r.out))
	r = on(t, db.URL, "deliveries", "list", "--json", "--limit", "2", "--before", "3")
	assert.Equal(t, []float64{2, 1}, jsonIDs(t, r.out))
	assert.Empty(t, r.err)

	for want, args := range map[string][]string{
		"[1]":         {"--status", "dead_letter"},
		"[6 1]":       {"--status", "dead_letter,canceled"},
		"[6 1] ":      {"--status=dead_letter", "--status=canceled"}, // a space makes another key of it
		"[4]":         {"--organization", "acme"},
		"[1] ":        {"--run", "run-1"},
		"[4] ":        {"--origin", "https://TWO.example:8443/"},
		"[6 3 2 1]":   {"--origin", "HTTPS://one.example:443"},
		"[5]":         {"--endpoint", "NOWHERE"},
		"[6 5 4 3 2]": {"--since", "7d"},
		"[1]  ":       {"--since", "2024-05-06T07:08:09Z", "--status", "dead_letter"},
		"[]":          {"--since", "2024-05-06T07:08:10Z", "--status", "dead_letter"},
		"[1]   ":      {"--until", "7d"},
		"[] ":         {"--until", "2024-05-06T07:08:09Z"},
		"[1]    ":     {"--error", "http 503: \x1b[2J\tGONE"},
		"[4]  ":       {"--credential", "C5A4B3F2-0000-4000-8000-00000000000A"},
		"[1]     ":    {"--origin", "https://one.example", "--status", "dead_letter"},
	} {
		r := on(t, db.URL, append([]string{"deliveries", "list", "--json"}, args...)...)
		assert.Equal(t, 0, r.code, r.err)
		assert.Equal(t, strings.TrimSpace(want), fmt.Sprint(jsonIDs(t, r.out)), "%s", args)
		windowed := slices.Contains([]string{"--endpoint", "--error", "--credential", "--origin"}, args[0]) && len(args) == 2
		assert.Equal(t, windowed, strings.Contains(r.err, args[0]+" looks at the newest 100000 deliveries that the other filters leave"), "%s: %s", args, r.err)
	}

	// What an error holds is not for the terminal to act on in JSON either.
	r = on(t, db.URL, "deliveries", "list", "--json", "--status", "dead_letter")
	assert.Contains(t, r.out, `"last_error":"HTTP 503: \u001b[2J\tgone"`)
	assert.Contains(t, r.out, `"endpoint_url":"https://one.example/hook"`)
	assert.Contains(t, r.out, `"scheduled_for":null`)
	assert.NotContains(t, r.out, `"payload"`)
}

func jsonIDs(t *testing.T, out string) []float64 {
	t.Helper()
	ids := []float64{}
	for line := range strings.Lines(out) {
		var row map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &row), line)
		ids = append(ids, row["id"].(float64))
	}
	return ids
}

func TestDeliveriesShow(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := insertDelivery(t, db, inAnHour+`, payload = E'{"x": "a\x7f<\u009b2J>"}', custom_headers = '[{"key": "X-A", "value": "1"}]', workflow_run_id = E'r\x1b[31m',
		attempt_count = 1, max_attempts = 20, abandoned_count = 1, round = 1, last_error = 'HTTP 500', last_status_code = 500`)
	db.Exec(t, `INSERT INTO riverhook.attempts (delivery_id, round, attempt, started_at, duration_ms, outcome, failure_kind, status_code, error, response_body, node) VALUES
		($1, 1, 1, '2024-05-06 07:08:09.25+00', NULL, 'abandoned', NULL, NULL, NULL, NULL, 'n2'),
		($1, 0, 2, '2024-05-06 06:08:09+00', 1500, 'transient', 'status', 500, E'HTTP 500: \x1b]0;title\x07', '\x1b5d303b7469746c6507c29b324aff', 'n1'),
		($1, 0, 3, '2024-05-06 06:18:09+00', 0, 'transient', 'reset', NULL, 'the connection broke', NULL, 'n1'),
		($1, 0, 4, '2024-05-06 06:28:09+00', 1, 'permanent', 'status', 404, 'HTTP 404, and more', 'no', 'n1'),
		($1, 0, 1, '2024-05-06 05:08:09+00', 12, 'transient', 'status', 503, 'HTTP 503: ' || repeat('ä', 200), convert_to(repeat('ä', 300) || 'end', 'UTF8'), 'n1')`, id)
	uuid := pgtest.Scalar[string](t, db, `SELECT delivery_uuid::text FROM riverhook.deliveries`)

	r := on(t, db.URL, "deliveries", "show", fmt.Sprint(id))
	require.Equal(t, 0, r.code, r.err)
	assert.Empty(t, r.err)
	for _, raw := range []string{"\x1b", "\x07", "\x7f", "\u009b", "\xff"} {
		assert.NotContains(t, r.out, raw)
	}
	for _, want := range []string{
		"delivery        1\n", "uuid            " + uuid + "\n", "status          pending\n", "next attempt    in 1h5m (", "attempts        1 of 20\n",
		"endpoint        POST https://one.example/hook\n", `run             r\x1b[31m` + "\n", `custom headers  [{"key": "X-A", "value": "1"}]` + "\n",
		`payload         {\"x\": \"a\x7f<\u009b2J>\"}` + "\n", "last error      HTTP 500\n", "round           1 (",
		"\nround 0, attempt 1: transient (status)\n  2024-05-06T05:08:09Z, took 12ms, by n1\n  HTTP 503\n  response: " + strings.Repeat("ä", 199) + "…\n",
		"\nround 0, attempt 2: transient (status)\n  2024-05-06T06:08:09Z, took 1.5s, by n1\n  HTTP 500\n" + `  response: \x1b]0;title\a\u009b2J\xff` + "\n",
		"\nround 0, attempt 3: transient (reset)\n  2024-05-06T06:18:09Z, took <1ms, by n1\n  error: the connection broke\n",
		"  HTTP 404\n  error: HTTP 404, and more\n  response: no\n",
		"\nround 1, attempt 1: abandoned\n  2024-05-06T07:08:09.25Z, took an unknown time, by n2\n",
	} {
		assert.Contains(t, r.out, want)
	}
	assert.Equal(t, r.out, on(t, db.URL, "deliveries", "show", strings.ToUpper(uuid)).out)

	r = on(t, db.URL, "deliveries", "show", fmt.Sprint(id), "--json")
	require.Equal(t, 0, r.code, r.err)
	for _, raw := range []string{"\x1b", "\x07", "\x7f", "\u009b"} {
		assert.NotContains(t, r.out, raw)
	}
	assert.Equal(t, 1, strings.Count(r.out, "\n"))
	var shown struct {
		UUID          string `json:"delivery_uuid"`
		Payload       struct{ X string }
		CustomHeaders []map[string]string `json:"custom_headers"`
		Attempts      []struct {
			Attempt            int
			ResponseBody       *string `json:"response_body"`
			ResponseBodyBase64 []byte  `json:"response_body_base64"`
		}
	}
	require.NoError(t, json.Unmarshal([]byte(r.out), &shown))
	assert.Equal(t, uuid, shown.UUID)
	assert.Equal(t, "a\x7f<\u009b2J>", shown.Payload.X)
	assert.Equal(t, "X-A", shown.CustomHeaders[0]["key"])
	require.Len(t, shown.Attempts, 5)
	assert.Equal(t, strings.Repeat("ä", 300)+"end", *shown.Attempts[0].ResponseBody)
	assert.Nil(t, shown.Attempts[1].ResponseBody)
	assert.Equal(t, []byte("\x1b]0;title\x07\u009b2J\xff"), shown.Attempts[1].ResponseBodyBase64)
	assert.Nil(t, shown.Attempts[4].ResponseBody)
	assert.Nil(t, shown.Attempts[4].ResponseBodyBase64)

	fresh := insertDelivery(t, db, "")
	r = on(t, db.URL, "deliveries", "show", fmt.Sprint(fresh))
	assert.Contains(t, r.out, "next attempt    due (")
	assert.Contains(t, r.out, "no attempt yet")
	assert.NotContains(t, r.out, "custom headers")
	r = on(t, db.URL, "deliveries", "show", fmt.Sprint(insertDelivery(t, db, beingSent)))
	assert.Contains(t, r.out, "next attempt    in flight\n")
	assert.Contains(t, on(t, db.URL, "deliveries", "show", fmt.Sprint(insertDelivery(t, db, succeeded))).out, "next attempt    none\n")

	for _, name := range []string{"999", "00000000-0000-0000-0000-000000000000"} {
		r = on(t, db.URL, "deliveries", "show", name)
		assert.Equal(t, ran{1, "", "riverhook: there is no delivery " + name + " in schema riverhook\n"}, r)
	}
}

func TestDeliveriesShowOddPayloads(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	deep := insertDelivery(t, db, `payload = (repeat('[', 11000) || repeat(']', 11000))::json`)
	large := insertDelivery(t, db, fmt.Sprintf(`payload = ('"' || repeat('x', %d) || '"')::json`, store.MaxShownPayload))

	r := on(t, db.URL, "deliveries", "show", "--json", fmt.Sprint(deep))
	require.Equal(t, 0, r.code, r.err)
	var shown map[string]any
	require.NoError(t, json.Unmarshal([]byte(r.out), &shown))
	assert.Equal(t, strings.Repeat("[", 11000)+strings.Repeat("]", 11000), shown["payload"])
	assert.Less(t, len(on(t, db.URL, "deliveries", "show", fmt.Sprint(deep)).out), 3000)

	r = on(t, db.URL, "deliveries", "show", "--json", fmt.Sprint(large))
	assert.Equal(t, 0, r.code)
	assert.Contains(t, r.err, "4194306 bytes and is not shown")
	assert.Contains(t, on(t, db.URL, "deliveries", "show", fmt.Sprint(large)).out, "payload         4194306 bytes, not shown\n")
}

// standings are one delivery in each: due 1, later 2, being sent 3, dead letter 4, canceled 5, succeeded 6.
func standings(t *testing.T) *pgtest.DB {
	t.Helper()
	db := pgtest.New(t)
	for _, set := range []string{"", inAnHour + ", organization_id = 'acme'", beingSent, deadLetter + ", organization_id = 'acme'", canceled, succeeded} {
		insertDelivery(t, db, set)
	}
	return db
}

func TestDeliveriesActions(t *testing.T) {
	t.Parallel()
	before := "[pending pending pending dead_letter canceled succeeded]"
	for name, test := range map[string]struct {
		args string
		want ran
		then string // the statuses
		jobs int
	}{
		"replay ids": {
			"replay 4 5", ran{0, "replayed 2 deliveries\n", ""},
			"[pending pending pending pending pending succeeded]", 2,
		},
		"replay ids, JSON": {
			"replay 4 --json", ran{0, `{"replayed":1}` + "\n", ""},
			"[pending pending pending pending canceled succeeded]", 1,
		},
		"replay ids that cannot be": {
			"replay 4 1 6 99", ran{1, "replayed 1 delivery\n", "1 was not replayed: it is pending: retry brings its next attempt forward\n" +
				"6 was not replayed: it is succeeded: say --status succeeded if it is meant\n99 was not replayed: there is no such delivery\n"},
			"[pending pending pending pending canceled succeeded]", 1,
		},
		"replay a succeeded one": {
			"replay 6 --status succeeded", ran{0, "replayed 1 delivery\n", ""},
			"[pending pending pending dead_letter canceled pending]", 1,
		},
		"replay by filter": {
			"replay --organization acme --yes", ran{0, "replayed 1 delivery\n", ""},
			"[pending pending pending pending canceled succeeded]", 1,
		},
		"replay by time": {
			"replay --since 1h --yes", ran{0, "replayed 2 deliveries\n", ""},
			"[pending pending pending pending pending succeeded]", 2,
		},
		"replay by endpoint": {
			"replay --endpoint one --yes --status dead_letter", ran{0, "replayed 1 delivery\n", "--endpoint looks at the newest 100000 deliveries that the other filters leave\n"},
			"[pending pending pending pending canceled succeeded]", 1,
		},
		"replay nothing": {
			"replay --organization nobody --yes", ran{0, "replayed 0 deliveries\n", ""}, before, 0,
		},
		"replay, dry run": {
			"replay --since 1h --dry-run", ran{0, "would replay 2 deliveries: 1 dead_letter, 1 canceled\n", ""}, before, 0,
		},
		"replay elsewhere, dry run": {
			"replay --since 1h --dry-run --endpoint-url https://new.example/x",
			ran{0, "would replay 2 deliveries: 1 dead_letter, 1 canceled to https://new.example/x\n", ""}, before, 0,
		},
		"replay, dry run, JSON": {
			"replay --organization acme --dry-run --json", ran{0, `{"would_replay":1,"dead_letter":1,"canceled":0}` + "\n", ""}, before, 0,
		},
		"replay nothing, dry run": {
			"replay --organization nobody --dry-run", ran{0, "would replay 0 deliveries\n", ""}, before, 0,
		},
		"replay ids, dry run, JSON": {
			"replay 4 6 --dry-run --json", ran{0, `{"would_replay":1,"dead_letter":1,"canceled":0}` + "\n", ""}, before, 0,
		},
		"retry ids": {
			"retry 2", ran{0, "retried 1 delivery\n", ""}, before, 1,
		},
		"retry ids that cannot be": {
			"retry 1 2 3 4", ran{1, "retried 1 delivery\n", "1 is due already\n3 was not retried: it is being sent\n" +
				"4 was not retried: it is dead_letter: replay starts it over\n"}, before, 1,
		},
		"retry an id that is due": {
			"retry 1", ran{0, "retried 0 deliveries\n", "1 is due already\n"}, before, 0,
		},
		"retry by filter": {
			"retry --since 1h --yes --json", ran{0, `{"retried":1}` + "\n", ""}, before, 1,
		},
		"cancel ids": {
			"cancel 1 3", ran{0, "canceled 2 deliveries\n", ""},
			"[canceled pending canceled dead_letter canceled succeeded]", 0,
		},
		"cancel an id that cannot be": {
			"cancel 6", ran{1, "canceled 0 deliveries\n", "6 was not canceled: it is succeeded\n"}, before, 0,
		},
		"cancel by filter": {
			"cancel --since 1h --yes", ran{0, "canceled 3 deliveries\n", ""},
			"[canceled canceled canceled dead_letter canceled succeeded]", 0,
		},
		"cancel, dry run, JSON": {
			"cancel --since 1h --dry-run --json", ran{0, `{"would_cancel":3}` + "\n", ""}, before, 0,
		},
		"cancel, dry run": {
			"cancel --origin https://one.example --dry-run", ran{0, "would cancel 3 deliveries\n", ""}, before, 0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := standings(t)
			assert.Equal(t, test.want, on(t, db.URL, append([]string{"deliveries"}, strings.Fields(test.args)...)...))
			assert.Equal(t, test.then, fmt.Sprint(statuses(t, db)))
			assert.Equal(t, test.jobs, pgtest.Scalar[int](t, db, `SELECT count(*) FROM riverhook.river_job`))
		})
	}
}

func TestDeliveriesReplayElsewhere(t *testing.T) {
	t.Parallel()
	db := standings(t)
	r := on(t, db.URL, "deliveries", "replay", "4", "--endpoint-url", "https://new.example/x")
	assert.Equal(t, ran{0, "replayed 1 delivery\n", ""}, r)
	assert.Equal(t, []string{"https://new.example/x"}, pgtest.Column[string](t, db, `SELECT endpoint_url FROM riverhook.deliveries WHERE endpoint_url <> 'https://one.example/hook'`))
	assert.Equal(t, "pending", pgtest.Scalar[string](t, db, `SELECT status FROM riverhook.deliveries WHERE id = 4`))
}

func TestDeliveriesUsage(t *testing.T) {
	t.Parallel()
	db := standings(t)
	rows := pgtest.Column[string](t, db, `SELECT d::text FROM riverhook.deliveries d ORDER BY id`)
	for args, want := range map[string]string{
		"retry":                                "at least one of --status, --organization",
		"replay":                               "at least one of --status, --organization",
		"cancel --yes":                         "cancel which deliveries?",
		"replay --dry-run":                     "replay which deliveries?",
		"replay --since 1h":                    "say --yes to replay all",
		"cancel --since 1h --json":             "say --yes to cancel all",
		"replay 4 --organization acme":         "either ids or a filter",
		"cancel 1 --since 1h":                  "either ids or a filter",
		"replay 4 --status pending":            "a pending delivery is not over yet",
		"cancel --status succeeded --yes":      "--status must be one of",
		"retry --status dead_letter --yes":     "--status must be one of",
		"list --origin 127.0.0.1:18999":        "--origin: scheme, host and port only, such as https://example.com",
		"list --origin http://h/path":          "--origin: scheme, host and port only",
		"replay --origin http://h?x --yes":     "--origin: scheme, host and port only",
		"replay --origin one.example --yes":    "--origin: scheme, host and port only",
		"replay --status gone --yes":           "--status gone",
		"replay x":                             `"x" is neither the id`,
		"replay 0":                             `"0" is neither the id`,
		"replay 4 --endpoint-url ftp://x/":     "--endpoint-url: ",
		"replay 4 --endpoint-url https:///x":   "--endpoint-url: ",
		"replay 4 --endpoint-url one.example/": "--endpoint-url: ",
		"list --limit 0":                       "--limit: from 1 to 1000",
		"list --limit 1001":                    "--limit: from 1 to 1000",
		"list --since yesterday":               "neither a duration",
		"list --status x":                      "--status x",
		"list --schema pg_x":                   "pg_x",
		"show 12x":                             "neither the id",
		"show":                                 "<id>",
	} {
		r := on(t, db.URL, append([]string{"deliveries"}, strings.Fields(args)...)...)
		assert.Equal(t, 2, r.code, "%s: %s", args, r.err)
		assert.Contains(t, r.err, want, args)
		assert.Empty(t, r.out, args)
	}
	assert.Equal(t, rows, pgtest.Column[string](t, db, `SELECT d::text FROM riverhook.deliveries d ORDER BY id`))
}

func TestDeliveriesDatabase(t *testing.T) {
	t.Parallel()
	db := standings(t)

	empty := pgtest.NewEmpty(t)
	r := on(t, empty.URL, "deliveries", "list")
	assert.Equal(t, 1, r.code)
	assert.Contains(t, r.err, `run "riverhook migrate up"`)

	r = on(t, "postgres://me:secret@127.0.0.1:1/app", "deliveries", "list")
	assert.Equal(t, 1, r.code)
	assert.Contains(t, r.err, "is Postgres up")
	assert.NotContains(t, r.err, "secret")

	as := func(kind string) string {
		role := pgtest.Scalar[string](t, db, `SELECT current_database() || '_' || $1::text`, kind)
		db.Exec(t, `CREATE ROLE `+role)
		t.Cleanup(func() {
			db.Exec(t, `DROP OWNED BY `+role)
			db.Exec(t, `DROP ROLE `+role)
		})
		if kind != "nobody" {
			require.NoError(t, migrations.Grant(t.Context(), db.Pool, db.Schema, role, kind))
		}
		u, err := url.Parse(db.URL)
		require.NoError(t, err)
		query := u.Query()
		query.Set("role", role)
		u.RawQuery = query.Encode()
		return u.String()
	}
	// Neither may look at the tables that say which version the schema has.
	reader, support, nobody := as("reader"), as("support"), as("nobody")
	for _, command := range [][]string{{"list"}, {"show", "4"}, {"replay", "4", "--dry-run"}} {
		for _, u := range []string{reader, support} {
			r = on(t, u, append([]string{"deliveries"}, command...)...)
			assert.Equal(t, 0, r.code, "%s: %s", command, r.err)
		}
		r = on(t, nobody, append([]string{"deliveries"}, command...)...)
		assert.Equal(t, 1, r.code)
		assert.Contains(t, r.err, "riverhook migrate grant ROLE --as ", command)
	}
	r = on(t, reader, "deliveries", "replay", "4")
	assert.Equal(t, 1, r.code)
	assert.Contains(t, r.err, "riverhook migrate grant ROLE --as support")
	assert.Equal(t, "dead_letter", statuses(t, db)[3])
	assert.Equal(t, ran{0, "replayed 1 delivery\n", ""}, on(t, support, "deliveries", "replay", "4"))
	assert.Equal(t, ran{0, "retried 1 delivery\n", ""}, on(t, support, "deliveries", "retry", "2"))
	assert.Equal(t, ran{0, "canceled 1 delivery\n", ""}, on(t, support, "deliveries", "cancel", "1"))
}

func TestConfirm(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]bool{"y\n": true, "Yes \n": true, "y": true, "n\n": false, "\n": false, "": false, "yeah\n": false, strings.Repeat(" ", 2000) + "y\n": false} {
		var stderr bytes.Buffer
		yes, err := confirm(t.Context(), console{in: strings.NewReader(answer), err: &stderr}, "Replay 2 deliveries? [y/N] ")
		require.NoError(t, err)
		assert.Equal(t, want, yes, "%q", answer)
		assert.Equal(t, "Replay 2 deliveries? [y/N] ", stderr.String())
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("interrupted"))
	silent, writer := io.Pipe()
	defer func() { _ = writer.Close() }()
	_, err := confirm(ctx, console{in: silent, err: &bytes.Buffer{}}, "?")
	require.ErrorIs(t, err, context.Canceled)
}

func TestBrief(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", time.Millisecond: "1s", 59 * time.Second: "59s", 59*time.Second + 1: "1m0s", time.Hour - time.Second: "59m59s",
		time.Hour: "1h0m", 24*time.Hour - time.Second: "23h59m", 24 * time.Hour: "1d0h", 50 * time.Hour: "2d2h",
	} {
		assert.Equal(t, want, brief(d), d)
	}
}

func TestAge(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		-time.Second: "0s ago", 59*time.Second + 999: "59s ago", time.Minute: "1m ago", time.Hour - 1: "59m ago", time.Hour: "1h ago",
		24*time.Hour - 1: "23h ago", 24 * time.Hour: "1d ago", 800 * 24 * time.Hour: "800d ago",
	} {
		assert.Equal(t, want, age(d), d)
	}
}

func TestTableInATerminal(t *testing.T) {
	t.Parallel()
	now := time.Now()
	later := now.Add(27 * time.Second)
	p := func(s string) *string { return &s }
	rows := []store.Row{
		{ID: 12, Status: "dead_letter", AttemptCount: 20, EndpointOrigin: p("http://127.0.0.1:18999"), LastError: p("HTTP 503: " + strings.Repeat("down ", 30)), CreatedAt: now.Add(-3 * time.Hour), Now: now},
		{ID: 11, Status: "pending", EndpointOrigin: p("https://a.example"), ScheduledFor: &later, CreatedAt: now.Add(-time.Minute), Now: now},
	}
	assert.Equal(t, strings.Join([]string{
		"ID  STATUS       ATTEMPTS  NEXT    CREATED  ORIGIN             LAST ERROR",
		"12  dead_letter  20        -       3h ago   http://127.0.0.1…  HTTP 503: down d…",
		"11  pending      0         in 27s  1m ago   https://a.example  -",
	}, "\n")+"\n", table(rows, 80))
	assert.Contains(t, table(rows[1:], 80), "  https://a.example  -\n") // nobody wants the room
	assert.Contains(t, table(rows, 300), "http://127.0.0.1:18999  HTTP 503: "+strings.Repeat("down ", 29)+"down \n")
	assert.Contains(t, table(rows, 0), strings.Repeat("down ", 29)+"down \n")

	rows = append(rows, store.Row{
		ID: 10, Status: "pending", ClaimedBy: p("ip-10-0-0-7.internal:4711/abcdef"), WorkflowRunID: p(strings.Repeat("run", 20)),
		EndpointOrigin: p("https://" + strings.Repeat("long", 20)), UpdatedAt: now.Add(-2 * time.Second), CreatedAt: now, Now: now,
	})
	assert.Contains(t, table(rows, 0), "sending since 2s on ip-10-0-0-7.internal:4711/abcdef ")
	for columns := 1; columns < 300; columns++ {
		shown := table(rows, columns)
		for line := range strings.Lines(shown) {
			assert.LessOrEqual(t, utf8.RuneCountInString(strings.TrimSuffix(line, "\n")), columns)
		}
		if columns >= 80 {
			assert.Contains(t, shown, "sending since 2s on ip-10-0-0")
		}
	}
}

func TestForetell(t *testing.T) {
	t.Parallel()
	replay := action{kind: store.ActionReplay}
	numbers := map[delivery.Status]int{"dead_letter": 5, "canceled": 3, "succeeded": 0}
	assert.Equal(t, "8 deliveries (5 dead_letter, 3 canceled)", replay.foretell(numbers, " (", ")"))
	replay.endpointURL = "https://new.example"
	assert.Equal(t, "8 deliveries (5 dead_letter, 3 canceled) to https://new.example", replay.foretell(numbers, " (", ")"))
	assert.Equal(t, "1 delivery", action{kind: store.ActionCancel}.foretell(map[delivery.Status]int{"pending": 1}, " (", ")"))
}

func TestCut(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "äää", cut("äää", 3))
	assert.Equal(t, "ää…", cut("äääa", 3))
	assert.Empty(t, cut("", 3))
}
