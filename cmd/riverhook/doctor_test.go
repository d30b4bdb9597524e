package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/credential"
	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

// examine runs the doctor with --json; found has its lines by check.
func examine(t *testing.T, databaseURL string, env []string, args ...string) (found map[string][]finding, code int) {
	t.Helper()
	stdout, stderr, code := call(t, append([]string{"RIVERHOOK_DATABASE_URL=" + databaseURL}, env...), append([]string{"doctor", "--json"}, args...)...)
	assert.Empty(t, stderr)
	found = map[string][]finding{}
	fails := 0
	for line := range strings.Lines(stdout) {
		var f finding
		require.NoError(t, json.Unmarshal([]byte(line), &f), line)
		found[f.Check] = append(found[f.Check], f)
		assert.NotEmpty(t, f.Message, line)
		assert.Equal(t, f.Result == resultOK, f.Hint == "", "a hint for whatever is not ok: %s", line)
		if f.Result == resultFail {
			fails++
		}
	}
	assert.Equal(t, fails > 0, code == exitFailed, stdout)
	return found, code
}

// has asserts that a check found that.
func has(t *testing.T, found map[string][]finding, check, result, message, hint string) {
	t.Helper()
	for _, f := range found[check] {
		if f.Result == result && strings.Contains(f.Message, message) && strings.Contains(f.Hint, hint) {
			return
		}
	}
	assert.Fail(t, "not found", "%s %s %q -> %q in %v", check, result, message, hint, found)
}

func TestDoctorHealthy(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	found, code := examine(t, db.URL, nil)
	assert.Equal(t, 0, code)
	for _, check := range checks {
		if check.name == "vacuum" || check.name == "connections" { // of the whole server, which other tests use
			assert.NotEmpty(t, found[check.name])
			continue
		}
		has(t, found, check.name, resultOK, "", "")
	}
	assert.Zero(t, pgtest.Scalar[int](t, db, `SELECT ((SELECT count(*) FROM riverhook.deliveries) + (SELECT count(*) FROM riverhook.river_job))::int`), "it was rolled back")

	stdout, _, code := call(t, []string{"RIVERHOOK_DATABASE_URL=" + asRole(t, db, "service")}, "doctor")
	assert.Equal(t, 0, code, stdout)
	assert.Contains(t, stdout, "ok    privileges      role rh_")
	assert.Contains(t, stdout, "ok    enqueue         an INSERT made a job")
}

func TestDoctorWithoutConnection(t *testing.T) {
	t.Parallel()
	found, code := examine(t, "postgres://u:hunter2@127.0.0.1:1/x?sslmode=disable", nil)
	assert.Equal(t, 1, code)
	has(t, found, "connection", resultFail, "cannot connect", "is Postgres up")
	has(t, found, "settings", resultOK, "", "")
	has(t, found, "skipped", resultWarn, "no connection: postgres, clock", "")
	for _, check := range []string{"connection", "skipped"} {
		assert.NotContains(t, found[check][0].Message, "hunter2")
	}
	found, _ = examine(t, "no URL with hunter2", nil)
	has(t, found, "connection", resultFail, "RIVERHOOK_DATABASE_URL is not a Postgres URL", "it looks like")
}

func TestDoctorSettings(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	found, _ := examine(t, db.URL, []string{"RIVERHOOK_TIMEOUT=30s", "RIVERHOOK_LEASE=10s", "RIVERHOOK_TIMOUT=1s", "RIVERHOOK_CONCURRENCY=50", "RIVERHOOK_API_TOKEN=short"})
	has(t, found, "settings", resultFail, "--lease (RIVERHOOK_LEASE): 10s is too short", "mend")
	has(t, found, "settings", resultFail, "RIVERHOOK_API_TOKEN", "mend")
	has(t, found, "settings", resultWarn, "RIVERHOOK_TIMOUT", "remove")
	has(t, found, "settings", resultWarn, "RIVERHOOK_ENDPOINT_CONCURRENCY (100)", "lower")
	has(t, found, "enqueue", resultOK, "", "") // the other checks go on
	found, _ = examine(t, db.URL, []string{"RIVERHOOK_MAX_ATTEMPTS=many", "RIVERHOOK_TIMEOUT=soon", "RIVERHOOK_LOG_FORMAT=xml", "RIVERHOOK_DB_MAX_CONNS=33"})
	has(t, found, "settings", resultFail, "--max-attempts (RIVERHOOK_MAX_ATTEMPTS)", "mend")
	has(t, found, "settings", resultFail, "--timeout (RIVERHOOK_TIMEOUT)", "mend")
	has(t, found, "settings", resultFail, "--log-format", "mend")
	assert.Len(t, found["settings"], 3)
	assert.Contains(t, found["connections"][0].Message, "RIVERHOOK_DB_MAX_CONNS is 33") // what can be read counts
	found, _ = examine(t, db.URL, []string{"RIVERHOOK_DB_MAX_CONNS=1000", "RIVERHOOK_POLL_ONLY=true"})
	has(t, found, "connections", resultWarn, "RIVERHOOK_DB_MAX_CONNS is 1000", "max_connections")
	has(t, found, "notify", resultOK, "not needed", "")
}

func TestDoctorSchemaAndPrivileges(t *testing.T) {
	t.Parallel()
	empty := pgtest.NewEmpty(t)
	found, _ := examine(t, empty.URL, nil)
	has(t, found, "schema", resultFail, "no riverhook schema", "riverhook migrate up")
	has(t, found, "skipped", resultWarn, "triggers, enqueue", "")
	found, _ = examine(t, empty.URL, nil, "--schema", "other")
	has(t, found, "schema", resultFail, "", "migrate up --schema other")

	db := pgtest.New(t)
	for _, kinds := range [][]string{nil, {"reader"}, {"application"}} {
		found, _ = examine(t, asRole(t, db, kinds...), nil)
		has(t, found, "privileges", resultFail, "lacks what serve needs", "run doctor with the database URL that serve has; if this is it, as the owner of the schema: riverhook migrate grant")
		if !slices.Contains(kinds, "reader") { // who sees how far it is migrated
			has(t, found, "schema", resultFail, "permission denied", "--as service")
		}
	}
	_, err := migrations.Down(t.Context(), db.Pool, migrations.Options{Schema: db.Schema}, migrations.Latest-1)
	require.NoError(t, err)
	found, _ = examine(t, db.URL, nil)
	has(t, found, "schema", resultFail, fmt.Sprintf("version %d of %d", migrations.Latest-1, migrations.Latest), "riverhook migrate up")
}

func TestDoctorTriggers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `ALTER TABLE riverhook.deliveries DISABLE TRIGGER deliveries_enqueue, ENABLE REPLICA TRIGGER deliveries_end; DROP TRIGGER deliveries_replay ON riverhook.deliveries`)
	found, _ := examine(t, db.URL, nil)
	has(t, found, "triggers", resultFail, "deliveries_enqueue is disabled", `ALTER TABLE "riverhook".deliveries ENABLE TRIGGER deliveries_enqueue`)
	has(t, found, "triggers", resultFail, "deliveries_end is disabled, or set to REPLICA", "ENABLE TRIGGER")
	has(t, found, "triggers", resultFail, "deliveries_replay is missing", "pg_dump")
	has(t, found, "enqueue", resultFail, "made no job", "sweep")

	db = pgtest.New(t)
	db.Exec(t, `ALTER TABLE riverhook.river_job ADD CONSTRAINT never CHECK (kind <> 'deliver_webhook')`)
	found, _ = examine(t, db.URL, nil)
	has(t, found, "triggers", resultOK, "", "")
	has(t, found, "enqueue", resultFail, "made no job: riverhook: deliveries were stored but not enqueued", "sweep")

	db = pgtest.New(t)
	db.Exec(t, `ALTER TABLE riverhook.deliveries ADD CONSTRAINT never CHECK (organization_id <> 'riverhook doctor')`)
	found, _ = examine(t, db.URL, nil)
	has(t, found, "enqueue", resultFail, "an INSERT fails", "applications")

	u, err := url.Parse(pgtest.New(t).URL)
	require.NoError(t, err)
	query := u.Query()
	query.Set("session_replication_role", "replica")
	u.RawQuery = query.Encode()
	found, _ = examine(t, u.String(), nil)
	has(t, found, "enqueue", resultFail, "session_replication_role is replica", "RESET")
}

func TestDoctorKeyAndSharedSecrets(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	env := []string{"RIVERHOOK_DATABASE_URL=" + db.URL, "RIVERHOOK_SECRET_KEY=" + testKey("a")}
	must := func(input string, args ...string) string {
		t.Helper()
		stdout, stderr, code := feed(t, input, env, args...)
		require.Equal(t, 0, code, stderr)
		return stdout
	}
	must("hunter2", "credentials", "set", "--name", "crm", "--type", "bearer_token")
	must("", "secrets", "create")
	must("", "secrets", "create", "--organization", "asymmetric", "--ed25519")
	secret := strings.TrimSpace(must("", "secrets", "show"))

	found, _ := examine(t, db.URL, env[1:])
	has(t, found, "secret key", resultOK, "all 3", "")
	has(t, found, "shared secrets", resultOK, "", "")
	found, _ = examine(t, db.URL, nil)
	has(t, found, "secret key", resultFail, "there is no key: 3 of 3", "set RIVERHOOK_SECRET_KEY")
	found, _ = examine(t, db.URL, []string{"RIVERHOOK_SECRET_KEY=" + testKey("b")})
	has(t, found, "secret key", resultFail, "3 of 3", "behind the first")
	found, _ = examine(t, db.URL, []string{"RIVERHOOK_SECRET_KEY=" + testKey("b") + "," + testKey("a")})
	has(t, found, "secret key", resultOK, "3 of them under an older key", "")
	found, _ = examine(t, db.URL, []string{"RIVERHOOK_SECRET_KEY=hunter2key"})
	has(t, found, "secret key", resultFail, "RIVERHOOK_SECRET_KEY", "mend")
	assert.NotContains(t, found["secret key"][0].Message, "hunter2key")

	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, organization_id, scheduled_for, created_at)
		SELECT 'http://' || host || '.invalid/', org, now() + interval '1 day', now() - interval '2 days'
		  FROM unnest('{one,two,two}'::text[]) host, unnest('{default,asymmetric,unsigned}'::text[]) org`)
	found, _ = examine(t, db.URL, env[1:])
	has(t, found, "shared secrets", resultWarn, "organization default to 2 receivers", "secrets create --origin")
	assert.Len(t, found["shared secrets"], 1, "one with a public half may be shared")
	has(t, found, "receivers", resultOK, "no deliveries", "")

	must("", "secrets", "create", "--origin", "http://one.invalid")
	found, _ = examine(t, db.URL, env[1:])
	has(t, found, "shared secrets", resultOK, "", "")
	must(secret, "secrets", "create", "--origin", "http://two.invalid", "--from", "-")
	stdout, _, code := call(t, env, "doctor")
	assert.Equal(t, 0, code)
	assert.Contains(t, stdout, "one key is stored for several receivers: every receiver of organization default, http://two.invalid")
	assert.NotContains(t, stdout, strings.TrimPrefix(secret, "whsec_"))
	assert.NotContains(t, stdout, "hunter2")

	db.Exec(t, `UPDATE riverhook.credentials SET organization_id = 'thief'`)
	found, _ = examine(t, db.URL, env[1:])
	has(t, found, "secret key", resultFail, "1 of 5", "copied")
}

func TestDoctorVacuum(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context()) //nolint:errcheck // a test's
	var pid string
	require.NoError(t, tx.QueryRow(t.Context(), `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('http://a/') RETURNING pg_backend_pid()::text`).Scan(&pid))
	found, code := examine(t, db.URL, nil, "--long-transaction", "0s")
	assert.Equal(t, 0, code)
	has(t, found, "vacuum", resultWarn, "pid "+pid, "pg_terminate_backend")
	found, _ = examine(t, db.URL, nil, "--long-transaction", "1d")
	has(t, found, "vacuum", resultOK, "older than 1 day", "")
}

func TestDoctorBacklog(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	insertDelivery(t, db, `scheduled_for = now() - interval '10 minutes'`)
	insertDelivery(t, db, `scheduled_for = now() - interval '20 minutes', held_since = now(), held_reason = 'failing'`)
	insertDelivery(t, db, `scheduled_for = now() - interval '20 minutes', claim = 1, claimed_by = 'dead', leased_until = now() - interval '40 seconds'`)
	db.Exec(t, `INSERT INTO riverhook.river_job (kind, args, max_attempts, state, finalized_at) VALUES ('x', '{}', 1, 'discarded', now())`)
	db.Exec(t, `INSERT INTO riverhook.pauses (endpoint_origin) VALUES ('http://paused.example')`)
	found, _ := examine(t, db.URL, nil)
	has(t, found, "backlog", resultFail, "due and not sent: 1 delivery (of the 3 that are due first), the oldest for 10 minutes; no node is up", "riverhook serve")
	has(t, found, "backlog", resultWarn, "claimed, under a lease that ended more than 30s ago: 1 delivery", "riverhook sweep")
	has(t, found, "backlog", resultWarn, "discarded by River: 1 job", "")
	has(t, found, "held", resultWarn, "held back: 1 delivery (failing 1); 1 pause", "riverhook held")
	db.Exec(t, `INSERT INTO riverhook.river_leader (name, leader_id, elected_at, expires_at) VALUES ('default', 'n', now(), now() + interval '1 minute')`)
	found, code := examine(t, db.URL, []string{"RIVERHOOK_SWEEP_INTERVAL=1m"})
	assert.Equal(t, 0, code)
	has(t, found, "backlog", resultWarn, "a node is up", "serve")
	for _, f := range found["backlog"] {
		assert.NotContains(t, f.Message, "claimed", "two sweeps are not over")
	}
}

func TestDoctorOfAPauseOfNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `INSERT INTO riverhook.pauses (organization_id) VALUES ('acme')`)
	found, _ := examine(t, db.URL, nil)
	has(t, found, "held", resultWarn, "held back: 0 deliveries; 1 pause", "riverhook held")
}

func TestDoctorReceivers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	var lc net.ListenConfig
	up, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer up.Close()
	down, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	down.Close()
	for _, receiver := range []string{up.Addr().String(), down.Addr().String(), "169.254.1.1"} {
		db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ($1)`, "http://"+receiver+"/hook?token=hunter2")
	}
	found, code := examine(t, db.URL, []string{"RIVERHOOK_EGRESS_ALLOW=127.0.0.0/8"})
	assert.Equal(t, 0, code)
	has(t, found, "receivers", resultOK, "1 of 3 receivers", "")
	has(t, found, "receivers", resultWarn, "http://169.254.1.1: ", "dead letters at once")
	has(t, found, "receivers", resultWarn, "http://"+down.Addr().String()+": ", "retried")
	has(t, found, "receivers", resultWarn, "http://"+down.Addr().String()+": connection refused", "")
	has(t, found, "receivers", resultWarn, "http://169.254.1.1: the endpoint is not in a public network", "RIVERHOOK_EGRESS_ALLOW")
	for _, f := range found["receivers"] {
		assert.NotContains(t, f.Message, "hunter2")
	}
}

func TestJudgeSkew(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		skew, took time.Duration
		result     string
	}{
		{0, 0, resultOK}, {time.Second, 0, resultOK}, {-time.Second, 0, resultOK}, {time.Second + 1, 0, resultWarn}, {-time.Second - 1, 0, resultWarn},
		{2 * time.Second, 2 * time.Second, resultOK}, {2*time.Second + 1, 2 * time.Second, resultWarn},
	} {
		assert.Equal(t, test.result, judgeSkew(test.skew, test.took).Result, test)
	}
	assert.Contains(t, judgeSkew(time.Minute, 0).Message, "1m0s behind the database's")
	assert.Contains(t, judgeSkew(-time.Minute, 0).Message, "1m0s ahead of the database's")
}

func TestIsBloated(t *testing.T) {
	t.Parallel()
	recent, old := vacuumOverdue, vacuumOverdue+1
	assert.True(t, isBloated(store.Bloat{Dead: manyDead + 1}))
	assert.True(t, isBloated(store.Bloat{Dead: manyDead + 1, Vacuumed: &old}))
	assert.False(t, isBloated(store.Bloat{Dead: manyDead + 1, Vacuumed: &recent}))
	assert.False(t, isBloated(store.Bloat{Dead: manyDead}))
	assert.False(t, isBloated(store.Bloat{Dead: manyDead + 1, Live: 5 * (manyDead + 1)}))
}

func TestJudgeKeyOfACellThatWasChanged(t *testing.T) {
	t.Parallel()
	keys, err := credential.ParseKeyring(testKey("a"))
	require.NoError(t, err)
	assert.Equal(t, resultFail, judgeKey(keys, nil, 1, 0, []string{"secret x"}, nil).Result)
	assert.Equal(t, resultFail, judgeKey(keys, errors.New("bad"), 0, 0, nil, nil).Result)
	assert.Equal(t, resultOK, judgeKey(nil, nil, 0, 0, nil, nil).Result)
}
