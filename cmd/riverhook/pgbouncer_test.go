package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/migrations/pgtest"
)

// bouncer starts a PgBouncer in a mode before the server of a database, and returns the database's URL through it.
func bouncer(t *testing.T, databaseURL, mode string, connections int, more ...string) string {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/pgbouncer"); err != nil {
			t.Skip("pgbouncer is not installed (Debian: apt-get install pgbouncer)")
		}
	}
	u, err := url.Parse(databaseURL)
	require.NoError(t, err)
	dir, err := os.MkdirTemp("/tmp", "riverhook-bouncer-") //nolint:usetesting // another user must come to it
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, port, err := net.SplitHostPort(free.Addr().String())
	require.NoError(t, err)
	require.NoError(t, free.Close())
	server := "host=" + u.Hostname() + " port=" + u.Port()
	if password, ok := u.User.Password(); ok {
		server += " password='" + strings.ReplaceAll(password, "'", "''") + "'"
	}
	config := filepath.Join(dir, "pgbouncer.ini")
	require.NoError(t, os.WriteFile(config, []byte(fmt.Sprintf(`[databases]
* = %s user=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %s
unix_socket_dir =
auth_type = any
pool_mode = %s
default_pool_size = %d
max_client_conn = 500
server_round_robin = 1
%s
`, server, u.User.Username(), port, mode, connections, strings.Join(more, "\n"))), 0o644))
	require.NoError(t, os.Chmod(dir, 0o755)) //nolint:gosec // another user reads it
	args := []string{config}
	if os.Getuid() == 0 {
		args = []string{"-u", "nobody", config}
	}
	command := exec.Command(program, args...) //nolint:gosec,noctx // ours
	require.NoError(t, command.Start())
	t.Cleanup(func() { _ = command.Process.Kill(); _ = command.Wait() })
	u.Host = "127.0.0.1:" + port
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", u.Host) //nolint:noctx // a look
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, 20*time.Second, 20*time.Millisecond)
	return u.String()
}

// All of riverhook works through a PgBouncer in transaction mode, but for migrations, which say so.
func TestPgBouncer(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	through := bouncer(t, db.URL, "transaction", 6)
	var hangs atomic.Bool
	receiver := newArrivals(t, func(w http.ResponseWriter, r *http.Request) {
		if hangs.Load() {
			_, _ = io.Copy(io.Discard, r.Body) // else it does not notice who goes away
			<-r.Context().Done()
		}
		if r.URL.Path == "/retry" && r.Header.Get("X-Riverhook-Delivery-Attempt") == "1" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	env := []string{"RIVERHOOK_POLL_ONLY=true", "RIVERHOOK_MAX_ATTEMPTS=1000", "RIVERHOOK_API_TOKEN=rvh_0123456789ab_" + strings.Repeat("a", 52)}
	services := []*service{serve(t, through, true, env...), serve(t, through, true, env...)}
	const rows = `INSERT INTO riverhook.deliveries (endpoint_url) SELECT $1 FROM generate_series(1, $2::int)`
	db.Exec(t, rows, receiver.URL+"/retry", 500)
	const left = `SELECT count(*)::int FROM riverhook.deliveries WHERE status <> 'succeeded'`
	eventually(t, db, 0, left)
	assert.Equal(t, 1000, receiver.total())

	// Those without a job are for the sweep.
	db.Exec(t, `ALTER TABLE riverhook.deliveries DISABLE TRIGGER deliveries_enqueue`)
	db.Exec(t, rows, receiver.URL, 50)
	db.Exec(t, `ALTER TABLE riverhook.deliveries ENABLE TRIGGER deliveries_enqueue`)
	eventually(t, db, 0, left)

	// A node that is killed: its leases end.
	hangs.Store(true)
	victim := services[0].logged("riverhook")[0]["node"]
	eventually(t, db, true, `
		WITH more AS (INSERT INTO riverhook.deliveries (endpoint_url) SELECT $1 WHERE (SELECT count(*) FROM riverhook.deliveries WHERE status = 'pending') < 100)
		SELECT EXISTS (SELECT FROM riverhook.deliveries WHERE claimed_by = $2)`, receiver.URL, victim)
	require.NoError(t, services[0].Process.Signal(syscall.SIGKILL))
	hangs.Store(false)
	eventually(t, db, 0, left)
	assert.Positive(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.attempts WHERE outcome = 'abandoned'`))

	// What one of them sets for itself nobody else has: an application's statements go through the same sessions.
	assert.Zero(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database() AND query ~ '^SET (enable|statement|lock|plan|jit)'`))

	called := []string{"RIVERHOOK_DATABASE_URL=" + through}
	for _, args := range [][]string{
		{"deliveries", "list"}, {"deliveries", "show", "1"}, {"deliveries", "list", "--status", "succeeded", "--since", "1d"}, {"deliveries", "replay", "1"}, {"sweep"},
		{"migrate", "status"}, {"check"}, {"held"}, {"pause", "--origin", "https://elsewhere.example"}, {"resume", "--origin", "https://elsewhere.example"},
		{"send", receiver.URL, "--wait"}, {"tokens", "list"}, {"erase", "--run", "none", "--dry-run"},
	} {
		for range 2 { // on whatever session
			_, stderr, code := call(t, called, args...)
			if !slices.Contains([]string{"resume", "deliveries", "sweep"}, args[0]) { // there may be nothing to do
				assert.Equal(t, 0, code, "%v: %s", args, stderr)
			}
			assert.NotContains(t, stderr, "SQLSTATE", args)
		}
	}
	token := []string{"Authorization", "Bearer rvh_0123456789ab_" + strings.Repeat("a", 52)}
	for range 10 {
		assert.Equal(t, http.StatusCreated, services[1].ask(t, "POST", "/v1/deliveries", `{"endpoint_url": "`+receiver.URL+`", "payload": {}}`, append(token, "Content-Type", "application/json")...).StatusCode)
		assert.Equal(t, http.StatusOK, services[1].ask(t, "GET", "/v1/deliveries", "", token...).StatusCode)
		assert.Equal(t, http.StatusOK, services[1].ask(t, "GET", "/v1/stats", "", token...).StatusCode)
	}
	eventually(t, db, 0, left)
	_, stderr, code := call(t, called, "migrate", "up")
	assert.Equal(t, 0, code, "there is nothing to do: %s", stderr)
	_, stderr, code = call(t, called, "migrate", "down", "--to", "1", "--yes")
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, "riverhook serve is running")
	require.NoError(t, services[1].Process.Signal(syscall.SIGTERM))
	assert.Equal(t, 0, services[1].ended(t, 20*time.Second))
	for _, line := range services[1].log() {
		assert.NotEqual(t, "ERROR", line["level"], "%v", line)
	}
	require.Eventually(t, func() bool { // the node that was killed counts for a while
		_, stderr, code = call(t, called, "migrate", "down", "--to", "1", "--yes")
		return !strings.Contains(stderr, "is running")
	}, 30*time.Second, 100*time.Millisecond)
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, "migrating takes a direct connection to Postgres")
}

// What looks for faults finds none through it, but without the setting the one that keeps serve from starting.
func TestDoctorThroughPgBouncer(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for _, mode := range []string{"transaction", "session"} {
		through := "RIVERHOOK_DATABASE_URL=" + bouncer(t, db.URL, mode, 6)
		for range 3 { // on whatever session
			stdout, stderr, code := call(t, []string{through, "RIVERHOOK_POLL_ONLY=true"}, "doctor")
			assert.Equal(t, 0, code, stderr)
			assert.NotRegexp(t, "(?m)^(warn|fail)", stdout, mode)
			stdout, stderr, code = call(t, []string{through}, "doctor")
			assert.Equal(t, 1, code, stderr)
			assert.Regexp(t, "(?m)^fail +notify +a pooler refuses the connections of serve: .*\n +-> set RIVERHOOK_POLL_ONLY=true", stdout, mode)
			_, stderr, code = call(t, []string{through}, "status")
			assert.Equal(t, 0, code, stderr)
		}
	}
}

// One that lets serve in, and gives its sessions to others, or keeps its locks to itself.
func TestPgBouncerThatIgnoresParameters(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	const ignored = "ignore_startup_parameters = default_transaction_isolation"
	through := bouncer(t, db.URL, "transaction", 6, ignored)
	found, code := examine(t, through, nil)
	assert.Equal(t, 1, code)
	has(t, found, "notify", resultFail, "a pooler in between swallows NOTIFY", "RIVERHOOK_POLL_ONLY=true")
	found, code = examine(t, bouncer(t, db.URL, "session", 6, ignored), nil)
	assert.Equal(t, 0, code)
	has(t, found, "notify", resultWarn, "waits for the end of its lease", "RIVERHOOK_POLL_ONLY=true")

	s := serve(t, through, false)
	require.Eventually(t, func() bool {
		for _, line := range s.log() {
			if strings.Contains(fmt.Sprint(line["hint"]), "RIVERHOOK_POLL_ONLY=true") {
				return true
			}
		}
		return false
	}, 30*time.Second, 10*time.Millisecond, "whatever goes wrong first, it says what to do")
	assert.Equal(t, http.StatusServiceUnavailable, s.status("/readyz"))
	assert.Empty(t, s.logged("delivering"))
	assert.NotContains(t, fmt.Sprint(s.log()), "migrate grant")

	receiver := newArrivals(t, nil)
	serve(t, bouncer(t, db.URL, "session", 40, ignored), true)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ($1)`, receiver.URL)
	eventually(t, db, 0, `SELECT count(*)::int FROM riverhook.deliveries WHERE status <> 'succeeded'`)
	assert.Equal(t, 1, receiver.total(), "one that keeps sessions will do")
}

// In session mode it takes the setting, too.
func TestPgBouncerOfSessions(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	receiver := newArrivals(t, nil)
	s := serve(t, bouncer(t, db.URL, "session", 40), true, "RIVERHOOK_POLL_ONLY=true")
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) SELECT $1 FROM generate_series(1, 100)`, receiver.URL)
	eventually(t, db, 0, `SELECT count(*)::int FROM riverhook.deliveries WHERE status <> 'succeeded'`)
	assert.Equal(t, 100, receiver.total())
	require.NoError(t, s.Process.Signal(syscall.SIGTERM))
	assert.Equal(t, 0, s.ended(t, 20*time.Second))
}

// Without the setting it says what is missing.
func TestPgBouncerWithoutPolling(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	receiver := httptest.NewServer(http.NotFoundHandler())
	defer receiver.Close()
	s := serve(t, bouncer(t, db.URL, "transaction", 6), false)
	require.Eventually(t, func() bool { return len(s.logged("waiting for Postgres")) > 0 }, 20*time.Second, 10*time.Millisecond)
	assert.Contains(t, s.logged("waiting for Postgres")[0]["hint"], "RIVERHOOK_POLL_ONLY=true")
	assert.Equal(t, http.StatusServiceUnavailable, s.status("/readyz"))
}
