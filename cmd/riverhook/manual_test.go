package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/signing"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

// signed are the headers of a request with the body {}, as somebody with the secret makes them at a moment.
func signed(t *testing.T, secret string, at time.Time) map[string]string {
	t.Helper()
	key, err := signing.ParseKey(secret)
	require.NoError(t, err)
	return map[string]string{
		signing.HeaderID: "a", signing.HeaderTimestamp: signing.Timestamp(at), signing.HeaderSignature: signing.Sign("a", at, []byte("{}"), key),
	}
}

// topicsOfManual are the topics with a text, and the texts.
func topicsOfManual(t *testing.T) map[string]string {
	t.Helper()
	files, err := fs.Glob(manual, "manual/*.md")
	require.NoError(t, err)
	topics := make(map[string]string, len(files))
	for _, file := range files {
		text, err := manual.ReadFile(file)
		require.NoError(t, err)
		topics[strings.TrimSuffix(filepath.Base(file), ".md")] = string(text)
	}
	return topics
}

// blocks are the fenced blocks of a text in a language.
func blocks(text, language string) (found []string) {
	for _, block := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		found = append(found, block[1])
	}
	return found
}

// Every topic has a text and every text a topic; what they refer to exists.
func TestManual(t *testing.T) {
	t.Parallel()
	list, stderr, code := call(t, nil, "help")
	require.Equal(t, 0, code, stderr)
	listed := map[string]bool{}
	for _, line := range regexp.MustCompile(`(?m)^  ([a-z]+)   `).FindAllStringSubmatch(list, -1) {
		listed[line[1]] = true
	}
	assert.Len(t, listed, 11, list)
	help := map[string]string{}
	helpOf := func(words string) string {
		if _, known := help[words]; !known {
			stdout, stderr, code := call(t, nil, append(strings.Fields(words), "--help")...)
			assert.Equal(t, 0, code, "riverhook %s: %s", words, stderr)
			help[words] = stdout
		}
		return help[words]
	}
	settings := helpOf("serve") + "RIVERHOOK_SECRET_KEY RIVERHOOK_DATABASE_URL RIVERHOOK_API_TOKEN"
	for topic, text := range topicsOfManual(t) {
		stdout, stderr, code := call(t, nil, "help", topic)
		assert.Equal(t, 0, code, stderr)
		assert.Equal(t, text, stdout)
		assert.True(t, listed[topic], "%s is listed", topic)
		for i, line := range strings.Split(text, "\n") {
			assert.LessOrEqual(t, len([]rune(line)), 130, "%s.md:%d", topic, i+1)
		}
		for _, other := range regexp.MustCompile(`riverhook help\s+([a-z]+)`).FindAllStringSubmatch(text, -1) {
			assert.True(t, listed[other[1]], "%s names %s", topic, other[0])
		}
		for _, name := range regexp.MustCompile(`RIVERHOOK_[A-Z_]+`).FindAllString(text, -1) {
			assert.Contains(t, settings, name, topic)
		}
		// Commands in blocks, word by word: subcommands until the first flag, and each flag.
		for _, line := range strings.Split(strings.Join(blocks(text, "sh"), ""), "\n") {
			words := strings.Fields(line)
			if len(words) == 0 {
				continue
			}
			require.Equal(t, "riverhook", words[0], "%s: %s", topic, line)
			command := regexp.MustCompile(`^riverhook ((?:[a-z]+ ?)+)`).FindStringSubmatch(line)[1]
			if strings.HasPrefix(command, "bench") {
				command = "bench"
			}
			for _, flag := range regexp.MustCompile(`--[a-z-]+`).FindAllString(line, -1) {
				assert.Contains(t, helpOf(strings.TrimSpace(command)), flag, "%s: %s", topic, line)
			}
			helpOf(strings.TrimSpace(command))
		}
	}
	_, stderr, code = call(t, nil, "help", "everything")
	assert.Equal(t, exitUsage, code)
	assert.Contains(t, stderr, "everything")
}

// The receivers of the manual take what riverhook signs, with the old and the new secret while one is rotated, and nothing else.
func TestSignatureSnippets(t *testing.T) {
	t.Parallel()
	text := topicsOfManual(t)["signatures"]
	for language, run := range map[string]struct {
		file    string
		command []string
	}{
		"python": {"receiver.py", []string{"python3"}},
		"js":     {"receiver.mjs", []string{"node"}},
		"go":     {"receiver.go", []string{"go", "run"}},
	} {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			found := blocks(text, language)
			require.Len(t, found, 1)
			if _, err := exec.LookPath(run.command[0]); err != nil {
				t.Skipf("%s is not installed", run.command[0])
			}
			dir := t.TempDir()
			file := filepath.Join(dir, run.file)
			require.NoError(t, os.WriteFile(file, []byte(found[0]), 0o600))

			free, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			_, port, err := net.SplitHostPort(free.Addr().String())
			require.NoError(t, err)
			require.NoError(t, free.Close())
			url := "http://127.0.0.1:" + port

			db := pgtest.New(t)
			env := []string{"RIVERHOOK_DATABASE_URL=" + db.URL, "RIVERHOOK_SECRET_KEY=" + testKey("a")}
			riverhook := func(args ...string) string {
				stdout, stderr, code := call(t, env, append(args, "--origin", url)...)
				require.Equal(t, 0, code, stderr)
				return stdout
			}
			riverhook("secrets", "create")
			secret := strings.TrimSpace(riverhook("secrets", "show"))
			require.True(t, strings.HasPrefix(secret, "whsec_"), secret)

			var output bytes.Buffer
			command := exec.Command(run.command[0], append(run.command[1:], file)...) //nolint:gosec,noctx // the manual's own; ended below
			command.Dir = dir
			command.Env = append(os.Environ(), "PORT="+port, "WEBHOOK_SECRET="+secret, "GOFLAGS=-mod=mod", "CGO_ENABLED=0")
			command.Stdout, command.Stderr = &output, &output
			command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // go run has a child
			require.NoError(t, command.Start())
			t.Cleanup(func() {
				_ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL)
				_ = command.Wait()
				if t.Failed() {
					t.Log(output.String())
				}
			})
			post := func(headers http.Header, body string) int {
				request, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url, strings.NewReader(body))
				require.NoError(t, err)
				request.Header = headers
				response, err := http.DefaultClient.Do(request)
				if err != nil {
					return 0
				}
				_ = response.Body.Close()
				return response.StatusCode
			}
			require.Eventually(t, func() bool { return post(http.Header{}, "{}") != 0 }, 2*time.Minute, 20*time.Millisecond, "it listens")

			serve(t, db.URL, true, env...)
			const body = `{"event": "caf\u00e9 ☕"}` + "\n "
			insert := func() int64 {
				return pgtest.Scalar[int64](t, db, `INSERT INTO riverhook.deliveries (endpoint_url, payload) VALUES ($1, $2::text::json) RETURNING id`, url+"/hook", body)
			}
			const statusSQL = `SELECT status || coalesce(' ' || last_status_code, '') FROM riverhook.deliveries WHERE id = $1`
			eventually(t, db, "succeeded 200", statusSQL, insert())
			riverhook("secrets", "rotate", "--overlap", "1h")
			eventually(t, db, "succeeded 200", statusSQL, insert())
			riverhook("secrets", "expire") // the receiver still has the old one
			eventually(t, db, "dead_letter 401", statusSQL, insert())

			now := fmt.Sprint(time.Now().Unix())
			for name, headers := range map[string]map[string]string{
				"nothing":       {},
				"no signature":  {"webhook-id": "a", "webhook-timestamp": now},
				"not one":       {"webhook-id": "a", "webhook-timestamp": now, "webhook-signature": "v1,é v1, garbage"},
				"not a time":    {"webhook-id": "a", "webhook-timestamp": "now", "webhook-signature": "v1,AAAA"},
				"another's":     {"webhook-id": "a", "webhook-timestamp": now, "webhook-signature": "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="},
				"an old moment": signed(t, secret, time.Now().Add(-6*time.Minute)),
				"a later one":   signed(t, secret, time.Now().Add(6*time.Minute)),
			} {
				h := http.Header{}
				for k, v := range headers {
					h.Set(k, v)
				}
				assert.Equal(t, http.StatusUnauthorized, post(h, "{}"), name)
			}
			h := http.Header{}
			for k, v := range signed(t, secret, time.Now()) {
				h.Set(k, v)
			}
			assert.Equal(t, 200, post(h, "{}"), "which is no reason to refuse")
			assert.Equal(t, http.StatusUnauthorized, post(h, "{ }"), "another body")
		})
	}
}

// The questions of the manual are answered by indexes.
func TestRecipes(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("300,000 rows")
	}
	db := pgtest.New(t)
	db.MayHaveProblems(t, "rows that never had a job")
	conn, err := db.Pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	for _, statement := range []string{
		`SET session_replication_role = replica`, // rows with a past: no triggers, no jobs
		`SET statement_timeout = '5min'`,
		`INSERT INTO riverhook.deliveries (delivery_uuid, organization_id, workflow_run_id, webhook_node_id, endpoint_url, payload, status, scheduled_for,
			attempt_count, last_status_code, last_error, created_at, finished_at, held_since, held_reason)
		 SELECT CASE WHEN n = 42 THEN '3f2b8c1e-0000-4000-8000-000000000042' ELSE gen_random_uuid() END,
			CASE WHEN n % 1000 = 0 THEN 'acme' ELSE 'tenant-' || n % 500 END, 'call-' || n / 3, 'node-' || n % 3,
			'https://' || CASE WHEN n % 200 = 0 OR n % 30 = 7 THEN 'example.com' ELSE 'receiver-' || n % 997 || '.example' END || '/hook', '{"event":"call.done"}', s.status,
			CASE WHEN s.status = 'pending' THEN now() + (n % 7200 - 3600) * interval '1 second' END,
			CASE WHEN s.status = 'pending' THEN n % 3 ELSE 1 END,
			CASE WHEN s.status = 'succeeded' THEN 200 WHEN s.status = 'dead_letter' THEN 410 END, CASE WHEN s.status = 'dead_letter' THEN 'HTTP 410: gone' END,
			now() - n * interval '10 seconds', CASE WHEN s.status <> 'pending' THEN now() - n * interval '9 seconds' END,
			CASE WHEN s.status = 'pending' AND n % 40 = 3 THEN now() END, CASE WHEN s.status = 'pending' AND n % 40 = 3 THEN 'failing' END
		   FROM generate_series(1, 300000) n,
			LATERAL (SELECT CASE WHEN n % 100 = 3 OR n % 1000 = 0 AND n < 20000 THEN 'pending' WHEN n % 50 = 0 THEN 'dead_letter' ELSE 'succeeded' END AS status) s`,
		`INSERT INTO riverhook.attempts (delivery_id, round, attempt, started_at, duration_ms, outcome, failure_kind, status_code, response_body, node)
		 SELECT id, 0, 1, created_at, 20, CASE WHEN status = 'succeeded' THEN 'succeeded' ELSE 'permanent' END, CASE WHEN status <> 'succeeded' THEN 'status' END,
			coalesce(last_status_code, 503), '\x00ff6f6b', 'node-1' FROM riverhook.deliveries WHERE attempt_count > 0`,
		`ANALYZE riverhook.deliveries`, `ANALYZE riverhook.attempts`, `RESET session_replication_role`,
	} {
		_, err := conn.Exec(t.Context(), statement)
		require.NoError(t, err, statement)
	}
	recipes := blocks(topicsOfManual(t)["recipes"], "sql")
	require.GreaterOrEqual(t, len(recipes), 10)
	for _, recipe := range recipes {
		tx, err := conn.Begin(t.Context())
		require.NoError(t, err)
		rows, err := tx.Query(t.Context(), "EXPLAIN (ANALYZE, TIMING OFF) "+recipe)
		require.NoError(t, err, recipe)
		var plan []string
		for rows.Next() {
			var line string
			require.NoError(t, rows.Scan(&line))
			plan = append(plan, line)
		}
		require.NoError(t, rows.Err(), recipe)
		require.NoError(t, tx.Rollback(t.Context()))
		all := strings.Join(plan, "\n")
		assert.NotRegexp(t, `Seq Scan on (deliveries|attempts)`, all, "%s\n%s", recipe, all)
		assert.Regexp(t, `Scan .*actual rows=[1-9]`, all, "it finds something, or this says nothing: %s\n%s", recipe, all)
	}
}

// What the manual says about moving, as it stands there, into a table of an application's.
func TestMoving(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE TABLE old_webhooks (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), customer text NOT NULL, url text NOT NULL, body text NOT NULL,
		run_at timestamptz, done_at timestamptz)`)
	db.Exec(t, `INSERT INTO old_webhooks (customer, url, body, run_at, done_at)
		SELECT 'acme', 'https://example.com/hook', '{"n": ' || n || '}', CASE WHEN n % 2 = 0 THEN now() - interval '1 hour' END, CASE WHEN n > 100 THEN now() END
		  FROM generate_series(1, 150) n`)
	db.Exec(t, `INSERT INTO old_webhooks (customer, url, body, run_at) VALUES ('acme', 'https://example.com/hook', '{}', now() + interval '1 day')`)
	statements := blocks(topicsOfManual(t)["moving"], "sql")
	require.Len(t, statements, 2)
	db.Exec(t, statements[0])
	db.Exec(t, statements[0])
	assert.Equal(t, 1, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.deliveries`), "get or create")

	db.Exec(t, statements[1])
	db.Exec(t, statements[1])
	assert.Equal(t, 101, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.deliveries d JOIN old_webhooks o ON o.id = d.delivery_uuid AND o.body = d.payload::text`))
	assert.Equal(t, 102, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.deliveries`), "nothing twice")
	assert.Equal(t, 50, pgtest.Scalar[int](t, db, `SELECT max(n)::int FROM (SELECT count(*) AS n FROM riverhook.deliveries WHERE organization_id = 'acme'
		GROUP BY floor(EXTRACT(epoch FROM scheduled_for - created_at))) s`), "50 a second")
	assert.Equal(t, 1, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.deliveries WHERE scheduled_for > now() + interval '23 hours'`), "what was for later")
}
