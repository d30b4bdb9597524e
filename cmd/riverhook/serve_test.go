package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/migrations"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

// The test binary is the program when it is told so: these tests look at processes.
func init() {
	if os.Getenv("TEST_PROGRAM") == "1" {
		os.Exit(run(os.Args[1:], console{os.Stdin, os.Stdout, os.Stderr}))
	}
}

// program is the command of a process of ours, with an environment of its own.
func program(t testing.TB, env []string, args ...string) *exec.Cmd {
	t.Helper()
	command := exec.Command(os.Args[0], args...) //nolint:gosec,noctx // this binary; tests signal it themselves
	command.Env = append([]string{"TEST_PROGRAM=1", "PATH=" + os.Getenv("PATH")}, env...)
	return command
}

// call runs the program to its end.
func call(t testing.TB, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	command := program(t, env, args...)
	command.Stdout, command.Stderr = &out, &errs
	timeout := time.AfterFunc(time.Minute, func() { _ = command.Process.Kill() }) // should it not end by itself
	defer timeout.Stop()
	err := command.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !assert.ErrorAs(t, err, &exit) {
		t.FailNow()
	}
	return out.String(), errs.String(), command.ProcessState.ExitCode()
}

// service is a running "riverhook serve".
type service struct {
	*exec.Cmd
	url  string // of its listener
	done chan struct{}

	mu    sync.Mutex
	lines []map[string]any // its log
}

// serve starts the service on a free port and, unless it is told not to, waits until it is ready.
func serve(t testing.TB, databaseURL string, ready bool, env ...string) *service {
	t.Helper()
	return launch(t, program(t, append(quickly(databaseURL), env...), "serve"), ready)
}

// quickly are settings of short times.
func quickly(databaseURL string) []string {
	return []string{
		"RIVERHOOK_DATABASE_URL=" + databaseURL, "RIVERHOOK_LISTEN=127.0.0.1:0", "RIVERHOOK_SWEEP_INTERVAL=1s", "RIVERHOOK_TIMEOUT=2s",
		"RIVERHOOK_LEASE=4s", "RIVERHOOK_BASE_DELAY=50ms", "RIVERHOOK_JITTER=0", "RIVERHOOK_MAX_ATTEMPTS=2", "RIVERHOOK_DB_MAX_CONNS=10", "RIVERHOOK_EGRESS_ALLOW=127.0.0.0/8",
	}
}

// launch starts a command that is "riverhook serve".
func launch(t testing.TB, command *exec.Cmd, ready bool) *service {
	t.Helper()
	s := &service{Cmd: command, done: make(chan struct{})}
	stderr, err := s.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, s.Start())
	listening := make(chan string, 1)
	go func() {
		defer close(s.done)
		for scanner := bufio.NewScanner(stderr); scanner.Scan(); {
			line := map[string]any{}
			if json.Unmarshal(scanner.Bytes(), &line) != nil {
				line["text"] = scanner.Text()
			}
			s.mu.Lock()
			s.lines = append(s.lines, line)
			s.mu.Unlock()
			if line["msg"] == "riverhook" {
				listening <- line["listen"].(string)
			}
		}
		_ = s.Wait()
	}()
	t.Cleanup(func() {
		_ = s.Process.Kill()
		<-s.done
		if t.Failed() {
			for _, line := range s.log() {
				t.Log(line)
			}
		}
	})
	select {
	case s.url = <-listening:
	case <-s.done:
		require.Fail(t, "it ended", "%v", s.log())
	case <-time.After(20 * time.Second):
		require.Fail(t, "it does not listen")
	}
	if ready {
		require.Eventually(t, func() bool { return s.status("/readyz") == 200 }, 20*time.Second, 10*time.Millisecond)
	}
	return s
}

func (s *service) log() []map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]map[string]any(nil), s.lines...)
}

// logged returns the log lines with that message.
func (s *service) logged(message string) (found []map[string]any) {
	for _, line := range s.log() {
		if line["msg"] == message {
			found = append(found, line)
		}
	}
	return found
}

func (s *service) get(t testing.TB, method, path string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, s.url+path, http.NoBody)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(body)
}

func (s *service) status(path string) int {
	response, err := http.Get(s.url + path) //nolint:gosec,noctx // our own listener
	if err != nil {
		return 0
	}
	defer func() { _ = response.Body.Close() }()
	return response.StatusCode
}

// ended waits for the end and returns the exit code.
func (s *service) ended(t testing.TB, within time.Duration) int {
	t.Helper()
	select {
	case <-s.done:
	case <-time.After(within):
		require.Fail(t, "it did not end", "within %s", within)
	}
	return s.ProcessState.ExitCode()
}

func eventually[T comparable](t testing.TB, db *pgtest.DB, want T, sql string, args ...any) {
	t.Helper()
	var got T
	require.Eventually(t, func() bool {
		got = pgtest.Scalar[T](t, db, sql, args...)
		return got == want
	}, time.Minute, 10*time.Millisecond, "%s: want %v", sql, want)
}

const insertSQL = `INSERT INTO riverhook.deliveries (endpoint_url, webhook_name, workflow_run_id) VALUES ($1, 'orders', 'run 1') RETURNING id`

func TestServe(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/down" {
			http.Error(w, "secret answer", http.StatusServiceUnavailable)
		}
	}))
	defer receiver.Close()
	s := serve(t, db.URL, true)

	code, body := s.get(t, "GET", "/healthz")
	assert.Equal(t, [2]any{200, "ok\n"}, [2]any{code, body})
	code, body = s.get(t, "GET", "/river/")
	assert.Equal(t, 200, code)
	assert.Contains(t, body, "<html")
	code, body = s.get(t, "GET", "/river/api/jobs?state=available&limit=20")
	assert.Equal(t, 200, code, body)
	code, _ = s.get(t, "POST", "/river/api/jobs/cancel")
	assert.Equal(t, http.StatusMethodNotAllowed, code)
	code, _ = s.get(t, "PUT", "/river/api/queues/webhooks/pause")
	assert.Equal(t, http.StatusMethodNotAllowed, code)
	code, _ = s.get(t, "GET", "/elsewhere")
	assert.Equal(t, http.StatusNotFound, code)

	id := pgtest.Scalar[int64](t, db, insertSQL, receiver.URL+"/ok?token=secret")
	eventually(t, db, "succeeded", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
	down := pgtest.Scalar[int64](t, db, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ($1) RETURNING id`, receiver.URL+"/down")
	eventually(t, db, "dead_letter", `SELECT status FROM riverhook.deliveries WHERE id = $1`, down)

	require.NoError(t, s.Process.Signal(syscall.SIGTERM))
	assert.Equal(t, 0, s.ended(t, 10*time.Second))

	require.Len(t, s.logged("delivery succeeded"), 1)
	line := s.logged("delivery succeeded")[0]
	for field, want := range map[string]any{
		"level": "INFO", "delivery_id": float64(id), "organization_id": "default", "workflow_run_id": "run 1", "webhook_name": "orders",
		"attempt": 1.0, "max_attempts": 2.0, "outcome": "succeeded", "status": 200.0, "endpoint_origin": receiver.URL,
	} {
		assert.Equal(t, want, line[field], field)
	}
	assert.NotEmpty(t, line["duration"])
	require.Len(t, s.logged("attempt failed: retrying"), 1)
	line = s.logged("attempt failed: retrying")[0]
	assert.Equal(t, [4]any{"WARN", "transient", "status", "50ms"}, [4]any{line["level"], line["outcome"], line["failure_kind"], line["next_delay"]})
	require.Len(t, s.logged("delivery dead-lettered"), 1)
	assert.Equal(t, "WARN", s.logged("delivery dead-lettered")[0]["level"])
	for _, line := range s.log() {
		assert.NotContains(t, fmt.Sprint(line), "secret", "no path, query or answer in the log")
	}
}

// What serve needs is what migrate grant --as service gives.
func TestServeAsServiceRole(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	receiver := httptest.NewServer(http.NotFoundHandler())
	defer receiver.Close()
	role := fmt.Sprintf("rh_service_%d", time.Now().UnixNano())
	db.Exec(t, `CREATE ROLE `+role+` LOGIN PASSWORD 'pw'`)
	t.Cleanup(func() { db.Exec(t, `DROP OWNED BY `+role); db.Exec(t, `DROP ROLE `+role) })
	config, err := url.Parse(db.URL)
	require.NoError(t, err)
	config.User = url.UserPassword(role, "pw")

	_, stderr, code := call(t, []string{"RIVERHOOK_DATABASE_URL=" + config.String(), "RIVERHOOK_LISTEN=127.0.0.1:0"}, "serve")
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, "riverhook migrate grant "+role+" --as service")
	_, stderr, code = call(t, []string{"RIVERHOOK_DATABASE_URL=" + db.URL}, "migrate", "grant", role, "--as", "support")
	require.Equal(t, 0, code, stderr)
	_, stderr, code = call(t, []string{"RIVERHOOK_DATABASE_URL=" + config.String(), "RIVERHOOK_LISTEN=127.0.0.1:0"}, "serve")
	assert.Equal(t, 1, code, "it may look, and cannot serve")
	assert.Contains(t, stderr, "riverhook migrate grant "+role+" --as service")
	_, stderr, code = call(t, []string{"RIVERHOOK_DATABASE_URL=" + config.String()}, "migrate", "grant", role, "--as", "service")
	assert.Equal(t, 1, code, "Postgres would only warn that nothing was granted")
	assert.Contains(t, stderr, "only the owner of schema riverhook grants what is in it: run this as ")
	stdout, stderr, code := call(t, []string{"RIVERHOOK_DATABASE_URL=" + db.URL}, "migrate", "grant", role, "--as", "service")
	require.Equal(t, 0, code, stderr)
	assert.Contains(t, stdout, "granted service rights")

	// It may ask for a migration, where there is none to do.
	s := launch(t, program(t, quickly(config.String()), "serve", "--migrate"), true)
	id := pgtest.Scalar[int64](t, db, insertSQL, receiver.URL)
	eventually(t, db, "dead_letter", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
	db.Exec(t, `ALTER TABLE riverhook.deliveries DISABLE TRIGGER deliveries_enqueue`)
	id = pgtest.Scalar[int64](t, db, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ($1) RETURNING id`, receiver.URL)
	eventually(t, db, "dead_letter", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
	for _, line := range s.log() {
		assert.NotEqual(t, "ERROR", line["level"], "%v", line)
	}
}

func TestServeWithoutSchema(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmpty(t)
	env := []string{"RIVERHOOK_DATABASE_URL=" + db.URL, "RIVERHOOK_LISTEN=127.0.0.1:0"}
	_, stderr, code := call(t, env, "serve")
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, `run "riverhook migrate up" (or serve --migrate)`)

	s := program(t, append(env, "RIVERHOOK_LOG_FORMAT=json"), "serve", "--migrate")
	require.NoError(t, s.Start())
	eventually(t, db, true, `SELECT to_regclass('riverhook.river_queue') IS NOT NULL AND to_regclass('riverhook.schema_migrations') IS NOT NULL`)
	require.NoError(t, s.Process.Signal(syscall.SIGTERM)) // also while it is still starting
	require.NoError(t, s.Wait())
}

// While a node runs nobody takes its tables away. One without the key says so at once, not only when an attempt fails.
func TestMigrateDownBesideServe(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	key := "RIVERHOOK_SECRET_KEY=" + strings.Repeat("A", 43) + "="
	_, stderr, code := call(t, []string{"RIVERHOOK_DATABASE_URL=" + db.URL, key}, "secrets", "create", "--organization", "acme")
	require.Equal(t, 0, code, stderr)
	s := serve(t, db.URL, true)
	require.Eventually(t, func() bool {
		return len(s.logged("credentials or signing secrets cannot be opened (riverhook doctor says which and why)")) == 1
	}, 10*time.Second, 10*time.Millisecond)
	assert.Contains(t, fmt.Sprint(s.log()), "RIVERHOOK_SECRET_KEY is not set: set it to the one that this was sealed with")
	r := on(t, db.URL, "migrate", "down", "--to", fmt.Sprint(migrations.Latest), "--yes")
	assert.Equal(t, 0, r.code, "there is nothing to do: %s", r.err)
	r = on(t, db.URL, "migrate", "down", "--to", "0", "--yes")
	assert.Equal(t, 1, r.code)
	assert.Contains(t, r.err, "riverhook serve is running: stop it first")
	require.NoError(t, s.Process.Signal(syscall.SIGTERM))
	assert.Equal(t, 0, s.ended(t, 10*time.Second))
	r = on(t, db.URL, "migrate", "down", "--to", "0", "--yes")
	assert.Equal(t, 0, r.code, r.err)
}

// Attempts in flight finish, also when the signal comes several times at once; nothing new begins; the exit code is 0.
func TestStop(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	arrived, open := make(chan struct{}, 10), make(chan struct{})
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-open
	}))
	defer receiver.Close()
	s := serve(t, db.URL, true, "RIVERHOOK_LOG_LEVEL=debug")
	id := pgtest.Scalar[int64](t, db, insertSQL, receiver.URL)
	<-arrived
	// GNU timeout, for one, signals both the process and its group: that is one request to stop, not two. Frozen meanwhile,
	// the process finds both at once, however slowly they were sent.
	for _, signal := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCONT} {
		require.NoError(t, s.Process.Signal(signal))
	}
	require.Eventually(t, func() bool { return len(s.logged("nothing more is fetched")) == 1 }, 10*time.Second, time.Millisecond)
	assert.Equal(t, http.StatusServiceUnavailable, s.status("/readyz"))
	later := pgtest.Scalar[int64](t, db, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ($1) RETURNING id`, receiver.URL)
	close(open)
	assert.Equal(t, 0, s.ended(t, 10*time.Second))
	assert.Len(t, s.logged("stopping: attempts in flight may finish"), 1)
	assert.Equal(t, "succeeded", pgtest.Scalar[string](t, db, `SELECT status FROM riverhook.deliveries WHERE id = $1`, id))
	assert.True(t, pgtest.Scalar[bool](t, db, `SELECT status = 'pending' AND claimed_by IS NULL FROM riverhook.deliveries WHERE id = $1`, later))
}

// The second signal ends it at once: the lease runs out, and the next service takes the delivery back.
func TestStopTwiceAndRecover(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	arrived, hang := make(chan struct{}, 10), make(chan struct{})
	var once sync.Once
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		first := false
		once.Do(func() { first = true })
		if first {
			arrived <- struct{}{}
			<-hang
		}
	}))
	defer receiver.Close()
	defer close(hang)
	s := serve(t, db.URL, true, "RIVERHOOK_TIMEOUT=60s", "RIVERHOOK_LEASE=62s")
	id := pgtest.Scalar[int64](t, db, insertSQL, receiver.URL)
	<-arrived
	require.NoError(t, s.Process.Signal(syscall.SIGTERM))
	require.Eventually(t, func() bool { return len(s.logged("stopping: attempts in flight may finish")) == 1 }, 10*time.Second, time.Millisecond)
	again := time.AfterFunc(2*sameSignal, func() { _ = s.Process.Signal(syscall.SIGTERM) }) // sooner it is the same signal
	defer again.Stop()
	assert.Equal(t, 1, s.ended(t, 10*time.Second))
	assert.Len(t, s.logged("ended at once by another signal"), 1)
	assert.True(t, pgtest.Scalar[bool](t, db, `SELECT status = 'pending' AND claimed_by IS NOT NULL FROM riverhook.deliveries WHERE id = $1`, id))

	db.Exec(t, `UPDATE riverhook.deliveries SET leased_until = now()`) // an hour later
	serve(t, db.URL, true)
	eventually(t, db, "succeeded", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
	assert.Equal(t, []string{"1 abandoned", "2 succeeded"}, pgtest.Column[string](t, db, `SELECT attempt || ' ' || outcome FROM riverhook.attempts ORDER BY attempt`))
}

func TestServeBeforePostgres(t *testing.T) {
	t.Parallel()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, free.Close())
	s := serve(t, "postgres://someone:hunter2@"+free.Addr().String()+"/app", false)
	require.Eventually(t, func() bool { return len(s.logged("waiting for Postgres")) > 0 }, 10*time.Second, 10*time.Millisecond)
	assert.Equal(t, 200, s.status("/healthz"))
	assert.Equal(t, http.StatusServiceUnavailable, s.status("/readyz"))
	assert.Equal(t, http.StatusServiceUnavailable, s.status("/river/"))
	assert.Equal(t, http.StatusUnauthorized, s.status("/v1/stats"))
	unknown := "Bearer rvh_000000000000_" + strings.Repeat("a", 52)
	assert.Equal(t, http.StatusServiceUnavailable, s.ask(t, "GET", "/v1/stats", "", "Authorization", unknown).StatusCode)
	require.NoError(t, s.Process.Signal(syscall.SIGTERM))
	assert.Equal(t, 0, s.ended(t, 10*time.Second))
	assert.NotContains(t, fmt.Sprint(s.log()), "hunter2")
}

func TestSettings(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"RIVERHOOK_TIMEOUT=abc":                "duration",
		"RIVERHOOK_TIMEOUT=1ms":                "RIVERHOOK_TIMEOUT",
		"RIVERHOOK_LEASE=31s":                  "RIVERHOOK_LEASE",
		"RIVERHOOK_CONCURRENCY=0":              "RIVERHOOK_CONCURRENCY",
		"RIVERHOOK_CONCURRENCY=10001":          "RIVERHOOK_CONCURRENCY",
		"RIVERHOOK_DB_MAX_CONNS=2":             "RIVERHOOK_DB_MAX_CONNS",
		"RIVERHOOK_JITTER=2":                   "RIVERHOOK_JITTER",
		"RIVERHOOK_JITTER=NaN":                 "RIVERHOOK_JITTER",
		"RIVERHOOK_MAX_ATTEMPTS=0":             "RIVERHOOK_MAX_ATTEMPTS",
		"RIVERHOOK_BASE_DELAY=0":               "RIVERHOOK_BASE_DELAY",
		"RIVERHOOK_MAX_DELAY=1s":               "RIVERHOOK_MAX_DELAY",
		"RIVERHOOK_RETRYABLE_STATUS=200":       "between 300 and 599",
		"RIVERHOOK_SWEEP_INTERVAL=99ms":        "RIVERHOOK_SWEEP_INTERVAL",
		"RIVERHOOK_RETENTION=59s":              "RIVERHOOK_RETENTION",
		"RIVERHOOK_RETENTION_DEAD_LETTER=1s":   "RIVERHOOK_RETENTION_DEAD_LETTER",
		"RIVERHOOK_HEADER_PREFIX=X Y":          "RIVERHOOK_HEADER_PREFIX",
		"RIVERHOOK_LISTEN=8090":                "RIVERHOOK_LISTEN",
		"RIVERHOOK_SCHEMA=a-b":                 "schema",
		"RIVERHOOK_LOG_LEVEL=loud":             "debug",
		"RIVERHOOK_MAX_PAYLOAD=lots":           "size",
		"RIVERHOOK_MISSING_CREDENTIAL=perhaps": "fail",
	} {
		_, stderr, code := call(t, []string{name, "RIVERHOOK_DATABASE_URL=postgres://localhost/x"}, "serve")
		assert.Equal(t, 2, code, name)
		assert.Contains(t, stderr, want, name)
		assert.NotContains(t, stderr, "goroutine", name)
	}
	_, stderr, code := call(t, []string{"RIVERHOOK_DATABASE_URL=postgres://u:hunter2@host:port/x"}, "serve")
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, "RIVERHOOK_DATABASE_URL is not a Postgres URL")
	assert.NotContains(t, stderr, "hunter2")
	_, stderr, code = call(t, []string{"RIVERHOOK_DATABASE_URL="}, "serve")
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, "set RIVERHOOK_DATABASE_URL")
	_, _, code = call(t, nil, "nonsense")
	assert.Equal(t, 2, code)
}

func TestDatabaseURLSources(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	file := t.TempDir() + "/url"
	require.NoError(t, os.WriteFile(file, []byte(db.URL+"\n"), 0o600))
	for _, env := range [][]string{
		{"RIVERHOOK_DATABASE_URL=" + db.URL, "DATABASE_URL=garbage"},
		{"RIVERHOOK_DATABASE_URL_FILE=" + file, "DATABASE_URL=garbage"},
		{"RIVERHOOK_DATABASE_URL=", "DATABASE_URL=" + db.URL},
	} {
		stdout, stderr, code := call(t, env, "migrate", "status")
		assert.Equal(t, 0, code, stderr)
		assert.Contains(t, stdout, fmt.Sprintf("version %d of %d", migrations.Latest, migrations.Latest))
	}
	_, _, code := call(t, []string{"DATABASE_URL=garbage"}, "migrate", "status", "--database-url", db.URL)
	assert.Equal(t, 0, code)
}

func TestMigrateCommands(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmpty(t)
	env := []string{"RIVERHOOK_DATABASE_URL=" + db.URL}
	_, stderr, code := call(t, env, "migrate", "status")
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, "riverhook migrate up")
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			_, stderr, code := call(t, env, "migrate", "up")
			assert.Equal(t, 0, code, stderr)
		})
	}
	wg.Wait()
	stdout, _, code := call(t, env, "migrate", "up")
	assert.Equal(t, 0, code)
	assert.Contains(t, stdout, "nothing to do")
	_, stderr, code = call(t, env, "migrate", "down", "--to", "0")
	assert.Equal(t, 2, code)
	assert.Contains(t, stderr, "--yes")
	_, stderr, code = call(t, env, "migrate", "down", "--to", "0", "--yes")
	assert.Equal(t, 0, code, stderr)
	assert.False(t, pgtest.Scalar[bool](t, db, `SELECT EXISTS (SELECT FROM pg_class WHERE relnamespace = 'riverhook'::regnamespace)`))
	_, stderr, code = call(t, env, "migrate", "up", "--schema", "other")
	assert.Equal(t, 0, code, stderr)
	_, stderr, code = call(t, env, "migrate", "grant", "nobody", "--schema", "riverhook")
	assert.Equal(t, 1, code)
	assert.Contains(t, stderr, "riverhook migrate up")
}

func TestSend(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	var got sync.Map
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got.Store(r.URL.Path, r.Method+" "+string(body)+" "+r.Header.Get("X-A"))
		if r.URL.Path == "/gone" {
			w.WriteHeader(http.StatusGone)
		}
	}))
	defer receiver.Close()
	env := []string{"RIVERHOOK_DATABASE_URL=" + db.URL}

	stdout, stderr, code := call(t, env, "send", receiver.URL+"/x", "--wait", "--wait-timeout", "200ms")
	assert.Equal(t, 3, code, stderr)
	assert.Contains(t, stdout, "enqueued delivery 1")
	assert.Contains(t, stderr, "still pending")

	serve(t, db.URL, true)
	stdout, stderr, code = call(t, env, "send", receiver.URL+"/ok", "--data", `{"a": 1}`, "--method", "put", "--header", "X-A: b:c", "--wait")
	assert.Equal(t, 0, code, stderr)
	assert.Contains(t, stdout, "delivered: HTTP 200 at attempt 1")
	value, _ := got.Load("/ok")
	assert.Equal(t, `PUT {"a": 1} b:c`, value)

	stdout, _, code = call(t, env, "send", receiver.URL+"/gone", "--wait")
	assert.Equal(t, 1, code)
	assert.Contains(t, stdout, "dead_letter after 1 attempt: HTTP 410")

	file := t.TempDir() + "/payload"
	require.NoError(t, os.WriteFile(file, []byte(`"from a file"`), 0o600))
	_, stderr, code = call(t, env, "send", receiver.URL+"/file", "--data", "@"+file, "--wait")
	assert.Equal(t, 0, code, stderr)
	value, _ = got.Load("/file")
	assert.Equal(t, `POST "from a file" `, value)
	stdin := program(t, env, "send", receiver.URL+"/stdin", "--data", "@-", "--wait")
	stdin.Stdin = strings.NewReader(`["from stdin"]`)
	require.NoError(t, stdin.Run())
	value, _ = got.Load("/stdin")
	assert.Equal(t, `POST ["from stdin"] `, value)

	for range 2 {
		_, _, code = call(t, env, "send", receiver.URL+"/once", "--organization", "acme", "--run", "r", "--node", "n", "--at", "1h")
		assert.Equal(t, 0, code)
	}
	assert.Equal(t, 1, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.deliveries WHERE organization_id = 'acme'
		AND scheduled_for BETWEEN now() + interval '59 minutes' AND now() + interval '1 hour'`))
	stdout, _, code = call(t, env, "send", receiver.URL+"/once", "--organization", "acme", "--run", "r", "--node", "n", "--json")
	assert.Equal(t, 0, code)
	assert.Contains(t, stdout, `"created":false`)

	for _, bad := range [][]string{
		{"ftp://x/"}, {"http://u:p@x/"}, {receiver.URL, "--data", "{"}, {receiver.URL, "--method", "HEAD"}, {receiver.URL, "--header", "x"},
		{receiver.URL, "--at", "soon"}, {receiver.URL, "--data", "@/does/not/exist"}, {},
	} {
		_, stderr, code = call(t, env, append([]string{"send"}, bad...)...)
		assert.Equal(t, 2, code, "%v: %s", bad, stderr)
	}
}

func TestSweepCommand(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) SELECT 'http://a/' FROM generate_series(1, 5); DELETE FROM riverhook.river_job`)
	env := []string{"RIVERHOOK_DATABASE_URL=" + db.URL}
	stdout, stderr, code := call(t, env, "sweep")
	assert.Equal(t, 0, code, stderr)
	assert.Contains(t, stdout, "swept 5 overdue deliveries")
	assert.Contains(t, stdout, "5 requeued")
	stdout, _, _ = call(t, env, "sweep", "--json")
	assert.JSONEq(t, `{"overdue":5,"requeued":0,"reclaimed":0,"parked":0,"live":5,"leased":0,"held":0,"skipped":0}`, stdout)
}

func TestHelpRetries(t *testing.T) {
	t.Parallel()
	stdout, _, code := call(t, nil, "help", "retries")
	assert.Equal(t, 0, code)
	assert.Contains(t, stdout, "up to 20 times")
	assert.Contains(t, stdout, "2 days")
	stdout, _, code = call(t, []string{"RIVERHOOK_MAX_ATTEMPTS=5", "RIVERHOOK_BASE_DELAY=30s", "RIVERHOOK_MAX_DELAY=10m", "RIVERHOOK_JITTER=0"}, "help", "retries")
	assert.Equal(t, 0, code)
	for _, delay := range []string{"30 seconds ", "1 minute ", "2 minutes ", "4 minutes ", "7 minutes 30 seconds"} {
		assert.Contains(t, stdout, delay)
	}
	stdout, _, code = call(t, nil, "version")
	assert.Equal(t, 0, code)
	assert.Regexp(t, `^riverhook \S+\n$`, stdout)
}
