package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/migrations"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

func TestStatus(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.MayHaveProblems(t, "rows of every kind, written by hand to be shown")
	env := []string{"RIVERHOOK_DATABASE_URL=" + db.URL}
	out, stderr, code := call(t, env, "status")
	require.Equal(t, 0, code, stderr)
	for _, line := range []string{"NODES  none: nothing is sent", "0 due; 0 being sent, 0 held back", "HELD BACK  nothing", "DEAD LETTERS  none"} {
		assert.Contains(t, out, line, "an empty database")
	}

	db.Exec(t, `INSERT INTO riverhook.nodes (node, version, started_at, seen_at, swept_at, taken_at, dead_at) VALUES
		('n-1', '1.0', now() - interval '2 hours', now(), now() - interval '7 seconds', now(), NULL),
		('n-2', '1.0', now() - interval '3 hours', now() - interval '1 minute', NULL, now(), now() - interval '30 seconds'),
		('n-4', '1.0', now() - interval '4 hours', now() - interval '1 minute', NULL, now(), now() - interval '30 seconds'),
		('n-3', '0.9', now() - interval '1 hour', now() - interval '1 minute', NULL, now(), NULL);
		UPDATE riverhook.nodes SET reclaimed_at = now() WHERE node = 'n-4';
		INSERT INTO riverhook.river_leader (elected_at, expires_at, leader_id, name) VALUES (now(), now() + interval '1 hour', 'n-1', 'default');
		INSERT INTO riverhook.origin_states (endpoint_origin, failures, failing, failing_since, last_failure_kind, last_status_code) VALUES
		('http://bad', 12, true, now() - interval '3 hours', 'status', 503), ('http://dns', 6, true, now() - interval '4 hours', 'dns', NULL), ('http://once', 1, false, NULL, 'dns', NULL);
		INSERT INTO riverhook.pauses (endpoint_origin, reason) VALUES ('http://paused', 'they asked');
		INSERT INTO riverhook.deliveries (endpoint_url, scheduled_for, claimed_by, leased_until, held_since, held_reason, attempt_count, status, finished_at, created_at, last_status_code, last_error) VALUES
		('http://a/', now() - interval '90 seconds', NULL, NULL, NULL, NULL, 0, 'pending', NULL, now(), NULL, NULL),
		('http://a/', now() - interval '10 seconds', NULL, NULL, NULL, NULL, 0, 'pending', NULL, now(), NULL, NULL),
		('http://a/', now() - interval '10 seconds', 'n-1', now() + interval '1 hour', NULL, NULL, 0, 'pending', NULL, now(), NULL, NULL),
		('http://a/', now() - interval '10 seconds', 'n-2', now() - interval '1 hour', NULL, NULL, 0, 'pending', NULL, now(), NULL, NULL),
		('http://down/', now() - interval '1 hour', NULL, NULL, now() - interval '5 minutes', 'failing', 3, 'pending', NULL, now(), NULL, NULL),
		('http://a/', now() + interval '1 hour', NULL, NULL, NULL, NULL, 2, 'pending', NULL, now(), 503, 'HTTP 503: '),
		('http://a/', now() + interval '2 hours', NULL, NULL, NULL, NULL, 0, 'pending', NULL, now(), NULL, NULL),
		('http://a/', NULL, NULL, NULL, NULL, NULL, 1, 'succeeded', now(), now() - interval '20 milliseconds', 200, NULL),
		('http://a/', NULL, NULL, NULL, NULL, NULL, 1, 'succeeded', now(), now() - interval '25 minutes', 200, NULL),
		('http://a/', NULL, NULL, NULL, NULL, NULL, 1, 'succeeded', now() - interval '1 hour', now(), 200, NULL),
		('http://a/', NULL, NULL, NULL, NULL, NULL, 0, 'canceled', now(), now(), NULL, NULL),
		('http://bad/', NULL, NULL, NULL, NULL, NULL, 1, 'dead_letter', now(), now(), 410, 'HTTP 410: gone'),
		('http://bad/', NULL, NULL, NULL, NULL, NULL, 1, 'dead_letter', now() - interval '1 hour', now(), 410, 'HTTP 410: gone'),
		('http://worse/', NULL, NULL, NULL, NULL, NULL, 1, 'dead_letter', now() - interval '2 days', now(), NULL, E'no\x1b[2Jsuch host');
		INSERT INTO riverhook.attempts (delivery_id, round, attempt, started_at, duration_ms, outcome, node)
		SELECT id, 0, 1, now(), 17, 'succeeded', 'n-1' FROM riverhook.deliveries WHERE status = 'succeeded';
		UPDATE riverhook.deliveries SET claim = CASE WHEN created_at < now() - interval '20 minutes' THEN 3 ELSE 1 END WHERE status = 'succeeded'`)
	out, stderr, code = call(t, env, "status")
	require.Equal(t, 0, code, stderr)
	for _, want := range []string{
		`(?m)^n-1 +leader +1 +2h.* \d+s ago +1\.0$`, `(?m)^n-2 +dead +1 +- `, `(?m)^n-4 +dead, taken back +0 +- `, `(?m)^n-3 +silent +0 `,
		`BACKLOG +2 due, the oldest for 1m\d+s; 2 being sent, 1 held back; 1 under a lease`, `RETRIES +1 wait for their next attempt, the first in \S+.*; 1 wait for a later time`,
		`LAST 5M +2 delivered \(0\.0/s\), 1 failed and wait for a retry, 1 dead-lettered, 1 canceled`,
		`ATTEMPTS +p50 17ms`, `DELIVERED +p50 20ms, p95 20ms, p99 20ms after `, `(?m)^ +p50 25m0s, p95 25m0s, p99 25m0s of 1 more, which were held back`, `SWEPT +\d+s ago`,
		`http://paused +\(all\) +\d+s ago +they asked`, `http://down +default +1 +5m ago +every attempt at the receiver fails`,
		`http://bad +12 +3h ago +HTTP 503\n`, `http://dns +6 +4h ago +dns\n`, `DEAD LETTERS +3\n`, `http://bad +2 +\d+s ago +HTTP 410: gone\n`, `http://worse +1 +2d ago +no\\x1b\[2Jsuch host\n`, fmt.Sprintf("version %d of %d,", migrations.Latest, migrations.Latest),
	} {
		assert.Regexp(t, want, out)
	}
	assert.Less(t, strings.Count(out, "\n"), 35, "one screen")

	out, stderr, code = call(t, env, "status", "--json")
	require.Equal(t, 0, code, stderr)
	assert.Equal(t, 1, strings.Count(out, "\n"))
	var report map[string]any
	require.NoError(t, json.Unmarshal([]byte(out), &report))
	at := func(path ...string) (v any) {
		v = report
		for _, name := range path {
			v = v.(map[string]any)[name]
		}
		return v
	}
	assert.Len(t, at("nodes"), 4)
	assert.InDelta(t, 2, at("backlog", "waiting"), 0)
	assert.InDelta(t, 1, at("later", "retries"), 0)
	assert.InDelta(t, 17, at("recent", "attempt_ms", "p99"), 0)
	assert.Len(t, at("dead_letters", "groups"), 2)
	assert.Len(t, at("held"), 1)
	assert.Len(t, at("pauses"), 1)
	assert.Len(t, at("failing"), 2)
	assert.Equal(t, "riverhook", at("schema", "name"))

	for _, kind := range []string{"support", "reader"} {
		role := asRole(t, db, kind)
		r := on(t, role, "status")
		assert.Equal(t, 0, r.code, kind)
		assert.Empty(t, r.err, kind)
		assert.Contains(t, r.out, "http://paused", kind)
		assert.Equal(t, 0, on(t, role, "migrate", "status").code, kind)
	}
	r := on(t, asRole(t, db, "application"), "status")
	assert.Equal(t, 1, r.code)
	assert.Contains(t, r.err, "riverhook migrate grant ROLE --as reader")

	_, stderr, code = call(t, env, "status", "--every", "1ms")
	assert.Equal(t, 2, code)
	assert.Contains(t, stderr, "--every")
	_, stderr, code = call(t, []string{"RIVERHOOK_DATABASE_URL=" + pgtest.NewEmpty(t).URL}, "status")
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, "migrate up")
}

// --watch goes on until it is interrupted, and ends in order.
func TestStatusWatch(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	command := program(t, []string{"RIVERHOOK_DATABASE_URL=" + db.URL}, "status", "--watch", "--every", "100ms", "--json")
	out, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	t.Cleanup(func() { _ = command.Process.Kill() })
	lines := bufio.NewScanner(out)
	for range 3 {
		require.True(t, lines.Scan())
		assert.True(t, json.Valid(lines.Bytes()))
	}
	require.NoError(t, command.Process.Signal(os.Interrupt))
	for lines.Scan() { //nolint:revive // to the end
	}
	require.NoError(t, command.Wait())
}
