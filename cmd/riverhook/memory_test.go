package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/migrations/pgtest"
)

// addressSpace is how much a process has, in KiB.
func addressSpace(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	found := regexp.MustCompile(`(?m)^VmSize:\s+(\d+) kB$`).FindSubmatch(status)
	require.NotNil(t, found)
	n, err := strconv.Atoi(string(found[1]))
	require.NoError(t, err)
	return n
}

// A payload that does not fit into memory kills its node each time it is claimed, which is started again each time. It is
// parked after a few times, and takes nobody with it for good.
func TestRowThatKillsItsNode(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("memory is capped by Linux's RLIMIT_AS")
	}
	binary, err := built()
	require.NoError(t, err)
	db := pgtest.New(t)
	died := make(chan struct{}) // the others are in flight when it happens for the first time
	receiver := newArrivals(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-died:
		case <-r.Context().Done():
		}
	})
	env := append(quickly(db.URL), "PATH="+os.Getenv("PATH"), "GOGC=50",
		"RIVERHOOK_MAX_PAYLOAD=512MiB", "RIVERHOOK_TIMEOUT=4s", "RIVERHOOK_LEASE=6s", "RIVERHOOK_MAX_ATTEMPTS=20", "RIVERHOOK_CONCURRENCY=50")
	plain := exec.Command(binary, "serve") //nolint:gosec,noctx // ours
	plain.Env = env
	s := launch(t, plain, true)
	limit := addressSpace(t, s.Process.Pid) + 128<<10
	require.NoError(t, s.Process.Kill())
	<-s.done

	const innocents, poison = 60, `INSERT INTO riverhook.deliveries (endpoint_url, webhook_name, payload) VALUES ($1, 'poison', to_json(repeat('x', 150000000)))`
	const some = `INSERT INTO riverhook.deliveries (endpoint_url, webhook_name) SELECT $1, 'innocent' FROM generate_series(1, $2::int)`
	db.Exec(t, some, receiver.URL, innocents/2)
	db.Exec(t, poison, receiver.URL)
	db.Exec(t, some, receiver.URL, innocents/2)
	const pending = `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'pending'`
	deaths := 0
	for deadline := time.Now().Add(time.Minute); pgtest.Scalar[int](t, db, pending) > 0; {
		capped := exec.Command("/bin/sh", "-c", `ulimit -v "$0" && exec "$@"`, strconv.Itoa(limit), binary, "serve") //nolint:gosec,noctx // ours
		capped.Env = env
		s := launch(t, capped, false)
		for over := false; !over; {
			require.True(t, time.Now().Before(deadline), "%d are still pending, after %d deaths", pgtest.Scalar[int](t, db, pending), deaths)
			select {
			case <-s.done:
				assert.Contains(t, fmt.Sprint(s.log()), "out of memory")
				if deaths++; deaths == 1 {
					close(died)
				}
				over = true
			case <-time.After(50 * time.Millisecond):
				over = pgtest.Scalar[int](t, db, pending) == 0
			}
		}
		_ = s.Process.Kill()
		<-s.done
	}
	t.Log(deaths, "deaths;", "innocents by abandoned attempts:", pgtest.Column[string](t, db, `SELECT concat(n, ': ', count(*)) FROM (SELECT count(a.*) FILTER (WHERE a.outcome = 'abandoned') AS n
		FROM riverhook.deliveries d JOIN riverhook.attempts a ON a.delivery_id = d.id WHERE d.webhook_name = 'innocent' GROUP BY d.id) x GROUP BY n ORDER BY n`))
	assert.Equal(t, "dead_letter 5", pgtest.Scalar[string](t, db, `SELECT concat(status, ' ', abandoned_count) FROM riverhook.deliveries WHERE webhook_name = 'poison'`))
	assert.Contains(t, pgtest.Scalar[string](t, db, `SELECT last_error FROM riverhook.deliveries WHERE webhook_name = 'poison'`), "5 attempts in a row were abandoned")
	assert.Equal(t, []string{"succeeded 60"}, pgtest.Column[string](t, db, `SELECT concat(status, ' ', count(*)) FROM riverhook.deliveries WHERE webhook_name = 'innocent' GROUP BY status`))
	assert.LessOrEqual(t, deaths, 6)
	assert.Less(t, pgtest.Scalar[int](t, db, `SELECT coalesce(max(n), 0)::int FROM (SELECT count(*) AS n FROM riverhook.attempts a JOIN riverhook.deliveries d ON d.id = a.delivery_id
		WHERE a.outcome = 'abandoned' AND d.webhook_name = 'innocent' GROUP BY d.id) x`), 4)
}
