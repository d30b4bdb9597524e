package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/failpoint"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

// arrivals is a receiver that remembers which attempt of which delivery arrived: "id attempt", in their order.
type arrivals struct {
	*httptest.Server
	mu   sync.Mutex
	seen map[string][]string // by delivery
}

func newArrivals(t *testing.T, answer http.HandlerFunc) *arrivals {
	a := &arrivals{seen: map[string][]string{}}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Riverhook-Delivery-Id")
		a.mu.Lock()
		a.seen[id] = append(a.seen[id], r.Header.Get("X-Riverhook-Delivery-Attempt"))
		a.mu.Unlock()
		if answer != nil {
			answer(w, r)
		}
	}))
	t.Cleanup(a.Close)
	return a
}

// of are the attempts of a delivery that arrived.
func (a *arrivals) of(uuid string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string{}, a.seen[uuid]...)
}

func (a *arrivals) total() (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, attempts := range a.seen {
		n += len(attempts)
	}
	return n
}

// failing is the path of a binary with failpoints.
func failing(t *testing.T) string {
	t.Helper()
	binary, err := built()
	require.NoError(t, err)
	return binary
}

// killAt runs "riverhook serve" of the tagged binary until it has died at the point.
func killAt(t *testing.T, binary string, db *pgtest.DB, point failpoint.Point, pass int) {
	t.Helper()
	var stderr bytes.Buffer
	c := exec.Command(binary, "serve") //nolint:gosec,noctx // ours; it kills itself
	c.Env = []string{
		"RIVERHOOK_DATABASE_URL=" + db.URL, "RIVERHOOK_LISTEN=127.0.0.1:0", "RIVERHOOK_SWEEP_INTERVAL=1s", "RIVERHOOK_TIMEOUT=10s",
		"RIVERHOOK_BASE_DELAY=50ms", "RIVERHOOK_JITTER=0", "RIVERHOOK_DB_MAX_CONNS=10", "RIVERHOOK_EGRESS_ALLOW=127.0.0.0/8",
		fmt.Sprintf("RIVERHOOK_FAILPOINT=%s:%d", point, pass),
	}
	c.Stderr = &stderr
	require.NoError(t, c.Start())
	timeout := time.AfterFunc(time.Minute, func() { _ = c.Process.Kill() })
	_ = c.Wait()
	require.True(t, timeout.Stop(), "it did not come to %s:\n%s", point, &stderr)
	status, ok := c.ProcessState.Sys().(syscall.WaitStatus)
	require.True(t, ok && status.Signal() == syscall.SIGKILL, "%v:\n%s", c.ProcessState, &stderr)
	require.Contains(t, stderr.String(), "failpoint "+string(point)+"\n")
}

// later is ten seconds later: its peers know that the killed node is dead.
func later(t *testing.T, db *pgtest.DB) {
	t.Helper()
	db.Exec(t, `UPDATE riverhook.nodes SET dead_at = now()`)
}

const ledgerSQL = `SELECT concat_ws(' ', round || '.' || attempt, outcome, status_code) FROM riverhook.attempts WHERE delivery_id = $1 ORDER BY round, attempt`

// A node that is killed at each step of a delivery, and one that comes after it: how often the receiver was asked, and what
// the ledger says, exactly.
func TestFailpoints(t *testing.T) {
	t.Parallel()
	binary := failing(t)
	bad := exec.CommandContext(t.Context(), binary, "version") //nolint:gosec // ours
	bad.Env = append(os.Environ(), "RIVERHOOK_FAILPOINT=nowhere")
	out, err := bad.CombinedOutput()
	require.Error(t, err)
	assert.Contains(t, string(out), "after-claim")

	type state struct {
		row      string
		ledger   []string
		requests []string
		jobs     []string // of deliveries, in whatever state
	}
	const claimed, unclaimed = "pending claim 1 attempts 0 sending", "pending claim 0 attempts 0"
	none := []string{}
	left := []string{"0 running"}
	for point, test := range map[failpoint.Point]struct{ killed, then state }{
		failpoint.AfterFetch: {
			state{unclaimed, none, none, left},
			// The same job is fetched again.
			state{"succeeded claim 1 attempts 1", []string{"0.1 succeeded 200"}, []string{"1"}, none},
		},
		failpoint.AfterClaim: {
			state{claimed, none, none, left},
			state{"succeeded claim 3 attempts 2", []string{"0.1 abandoned", "0.2 succeeded 200"}, []string{"2"}, none},
		},
		failpoint.BeforeWrite: {
			state{claimed, none, none, left},
			state{"succeeded claim 3 attempts 2", []string{"0.1 abandoned", "0.2 succeeded 200"}, []string{"2"}, none},
		},
		failpoint.AfterWrite: {
			state{claimed, none, []string{"1"}, left},
			state{"succeeded claim 3 attempts 2", []string{"0.1 abandoned", "0.2 succeeded 200"}, []string{"1", "2"}, none},
		},
		failpoint.AfterResponse: {
			state{claimed, none, []string{"1"}, left},
			state{"succeeded claim 3 attempts 2", []string{"0.1 abandoned", "0.2 succeeded 200"}, []string{"1", "2"}, none},
		},
		failpoint.BeforeRecord: {
			state{claimed, none, []string{"1"}, left},
			state{"succeeded claim 3 attempts 2", []string{"0.1 abandoned", "0.2 succeeded 200"}, []string{"1", "2"}, none},
		},
		failpoint.AfterRecord: {
			state{"succeeded claim 1 attempts 1", []string{"0.1 succeeded 200"}, []string{"1"}, none},
			state{"succeeded claim 1 attempts 1", []string{"0.1 succeeded 200"}, []string{"1"}, none},
		},
	} {
		t.Run(string(point), func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			r := newArrivals(t, nil)
			// Large, so that its beginning is out before its end is written.
			id := pgtest.Scalar[int64](t, db, `INSERT INTO riverhook.deliveries (endpoint_url, payload) VALUES ($1, to_json(repeat('x', 100000))) RETURNING id`, r.URL)
			uuid := pgtest.Scalar[string](t, db, `SELECT delivery_uuid::text FROM riverhook.deliveries WHERE id = $1`, id)
			look := func() state {
				return state{
					pgtest.Scalar[string](t, db, `SELECT concat(status, ' claim ', claim, ' attempts ', attempt_count, CASE WHEN claimed_by IS NOT NULL THEN ' sending' END) FROM riverhook.deliveries`),
					pgtest.Column[string](t, db, ledgerSQL, id),
					r.of(uuid),
					pgtest.Column[string](t, db, `SELECT concat_ws(' ', args->>'claim', state) FROM riverhook.river_job WHERE kind = 'deliver_webhook' ORDER BY id`),
				}
			}
			killAt(t, binary, db, point, 1)
			if len(test.killed.requests) > 0 { // what is out arrives, even so
				require.Eventually(t, func() bool { return r.total() > 0 }, 10*time.Second, time.Millisecond)
			}
			assert.Equal(t, test.killed, look())
			later(t, db)
			serve(t, db.URL, true)
			eventually(t, db, "succeeded", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
			eventually(t, db, 0, `SELECT count(*)::int FROM riverhook.nodes WHERE dead_at IS NOT NULL AND reclaimed_at IS NULL`)
			// A sweep more changes nothing.
			assert.Contains(t, on(t, db.URL, "sweep").out, "0 requeued, 0 reclaimed")
			assert.Equal(t, test.then, look())
			assert.Equal(t, 0, on(t, db.URL, "check", "--all", "--grace", "0").code)
		})
		t.Run(string(point)+" among many", func(t *testing.T) {
			t.Parallel()
			killedAmongMany(t, binary, point)
		})
	}

	t.Run("in-sweep-page", func(t *testing.T) { t.Parallel(); killedInSweepPage(t, binary) })
	t.Run("after-sweep-page", func(t *testing.T) { t.Parallel(); killedAfterSweepPage(t, binary) })
}

// In the middle of 200 deliveries whose receiver fails the first attempt of each: nothing is lost, each request that arrived
// is in the ledger, and one that the ledger has an answer to has arrived.
func killedAmongMany(t *testing.T, binary string, point failpoint.Point) {
	db := pgtest.New(t)
	r := newArrivals(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Riverhook-Delivery-Attempt") == "1" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	const n = 200
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, payload) SELECT $1, to_json(repeat('x', n % 2 * 20000)) FROM generate_series(1, $2::int) n`, r.URL, n)
	pass := n / 2
	if point == failpoint.BeforeRecord || point == failpoint.AfterRecord { // many at a time
		pass = 5
	}
	killAt(t, binary, db, point, pass)
	later(t, db)
	serve(t, db.URL, true, "RIVERHOOK_MAX_ATTEMPTS=5")
	eventually(t, db, n, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded'`)
	abandoned, duplicates := 0, 0
	for _, uuid := range pgtest.Column[string](t, db, `SELECT delivery_uuid::text FROM riverhook.deliveries`) {
		ledger := pgtest.Column[string](t, db, `SELECT a.attempt || ' ' || a.outcome FROM riverhook.attempts a JOIN riverhook.deliveries d ON d.id = a.delivery_id
			WHERE d.delivery_uuid = $1::text::uuid ORDER BY a.attempt`, uuid)
		arrived := r.of(uuid)
		at := 0
		for _, line := range ledger {
			number, outcome, _ := strings.Cut(line, " ")
			reached := at < len(arrived) && arrived[at] == number
			if reached {
				at++
			}
			switch outcome {
			case "abandoned":
				abandoned++
				if reached {
					duplicates++
				}
			default:
				assert.True(t, reached, "%s: %v is in the ledger, %v arrived", uuid, ledger, arrived)
			}
		}
		assert.Equal(t, len(arrived), at, "%s: %v is in the ledger, %v arrived", uuid, ledger, arrived)
		assert.Contains(t, ledger[len(ledger)-1], " succeeded")
	}
	switch point {
	case failpoint.AfterFetch, failpoint.AfterRecord: // others may have been further, or not yet so far
	default:
		assert.Positive(t, abandoned, "of the one at least that it died with")
	}
	assert.Equal(t, r.total(), pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.attempts WHERE outcome <> 'abandoned'`)+duplicates)
	assert.Equal(t, 0, on(t, db.URL, "check", "--all", "--grace", "0").code)
}

// Killed in the transaction of a page, a sweep has done nothing.
func killedInSweepPage(t *testing.T, binary string) {
	db := pgtest.New(t)
	r := newArrivals(t, nil)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) SELECT $1 FROM generate_series(1, 10)`, r.URL)
	db.Exec(t, `DELETE FROM riverhook.river_job`)
	db.Exec(t, `UPDATE riverhook.deliveries SET claim = 1, claimed_by = 'dead', leased_until = now() WHERE id <= 5`)
	const rowsSQL = `SELECT d::text FROM riverhook.deliveries d ORDER BY id`
	before := pgtest.Column[string](t, db, rowsSQL)
	for pass := 1; pass <= 2; pass++ { // and again
		killAt(t, binary, db, failpoint.InSweepPage, 1)
		assert.Equal(t, before, pgtest.Column[string](t, db, rowsSQL))
		assert.Zero(t, pgtest.Scalar[int](t, db, `SELECT (SELECT count(*) FROM riverhook.attempts)::int + (SELECT count(*) FROM riverhook.river_job WHERE kind = 'deliver_webhook')::int`))
	}
	assert.Zero(t, r.total())
	serve(t, db.URL, true)
	eventually(t, db, 10, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded'`)
	assert.Equal(t, 10, r.total())
	for id := int64(1); id <= 10; id++ {
		want := []string{"0.1 succeeded 200"}
		if id <= 5 {
			want = []string{"0.1 abandoned", "0.2 succeeded 200"}
		}
		assert.Equal(t, want, pgtest.Column[string](t, db, ledgerSQL, id))
	}
	assert.Equal(t, 0, on(t, db.URL, "check", "--all", "--grace", "0").code)
}

// Killed between two pages, a sweep has done the first: here it parks 1,000 deliveries whose nodes died. The next sweep goes
// on with the second.
func killedAfterSweepPage(t *testing.T, binary string) {
	db := pgtest.New(t)
	r := newArrivals(t, nil)
	const page, rest = 1000, 50
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, scheduled_for, claim, claimed_by, leased_until, attempt_count, abandoned_count)
		SELECT $1, now() - interval '10 seconds', 9, 'dead', now(), 4, 4 FROM generate_series(1, $2::int)`, r.URL, page)
	db.Exec(t, `INSERT INTO riverhook.attempts (delivery_id, round, attempt, started_at, outcome, node)
		SELECT d.id, 0, n, now(), 'abandoned', 'dead' FROM riverhook.deliveries d, generate_series(1, 4) n`)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) SELECT $1 FROM generate_series(1, $2::int)`, r.URL, rest)
	db.Exec(t, `DELETE FROM riverhook.river_job`)

	killAt(t, binary, db, failpoint.AfterSweepPage, 1)
	const statesSQL = `SELECT concat_ws(' ', count(*), status, 'claim', claim, 'attempts', attempt_count) FROM riverhook.deliveries GROUP BY status, claim, attempt_count ORDER BY status`
	assert.Equal(t, []string{"1000 dead_letter claim 10 attempts 5", "50 pending claim 0 attempts 0"}, pgtest.Column[string](t, db, statesSQL))
	assert.Zero(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.river_job WHERE kind = 'deliver_webhook'`))
	assert.Zero(t, r.total())
	serve(t, db.URL, true)
	eventually(t, db, rest, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded'`)
	assert.Equal(t, []string{"1000 dead_letter claim 10 attempts 5", "50 succeeded claim 1 attempts 1"}, pgtest.Column[string](t, db, statesSQL))
	assert.Equal(t, rest, r.total())
	assert.Equal(t, 5*page+rest, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.attempts`))
	assert.Equal(t, 0, on(t, db.URL, "check", "--all", "--grace", "0").code)
}

// stopAt starts "riverhook serve" of the tagged binary on a database with one delivery to url, and returns when it has stopped
// itself at the point. end waits until it has ended what it had begun: after SIGCONT.
func stopAt(t *testing.T, binary string, db *pgtest.DB, url string, point failpoint.Point, env ...string) (c *exec.Cmd, uuid string, end func()) {
	t.Helper()
	c = exec.Command(binary, "serve") //nolint:gosec,noctx // ours; it is ended by the caller
	c.Env = append(slices.Clone(env), "RIVERHOOK_DATABASE_URL="+db.URL, "RIVERHOOK_LISTEN=127.0.0.1:0", "RIVERHOOK_DB_MAX_CONNS=10",
		"RIVERHOOK_EGRESS_ALLOW=127.0.0.0/8", "RIVERHOOK_FAILPOINT=stop:"+string(point))
	stderr, err := c.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	t.Cleanup(func() { _ = c.Process.Kill() })
	stopped, drained := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(drained)
		for scanner := bufio.NewScanner(stderr); scanner.Scan(); {
			if strings.HasPrefix(scanner.Text(), "failpoint ") {
				close(stopped)
			}
		}
	}()
	uuid = pgtest.Scalar[string](t, db, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ($1) RETURNING delivery_uuid::text`, url)
	select {
	case <-stopped:
	case <-time.After(30 * time.Second):
		t.Fatal("it did not come to the point")
	}
	return c, uuid, func() {
		require.NoError(t, c.Process.Signal(syscall.SIGTERM))
		<-drained
		_ = c.Wait()
	}
}

// A node that is stopped between claim and first byte, until its lease is over and somebody else has sent what it had
// claimed, sends nothing when it goes on.
func TestStoppedNodeDoesNotSendLate(t *testing.T) {
	t.Parallel()
	binary := failing(t)
	for _, point := range []failpoint.Point{failpoint.AfterClaim, failpoint.BeforeWrite} {
		t.Run(string(point), func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			r := newArrivals(t, nil)
			c, uuid, end := stopAt(t, binary, db, r.URL, point, "RIVERHOOK_TIMEOUT=1s", "RIVERHOOK_LEASE=3s")
			serve(t, db.URL, true)
			eventually(t, db, "succeeded", `SELECT status FROM riverhook.deliveries`)
			require.NoError(t, c.Process.Signal(syscall.SIGCONT))
			end()
			assert.Equal(t, []string{"2"}, r.of(uuid))
			ledger := pgtest.Column[string](t, db, ledgerSQL, int64(1))
			require.Len(t, ledger, 2)
			// It knows better than the sweep what became of its attempt, if it had begun: it ran into its timeout.
			assert.Contains(t, []string{"0.1 abandoned", "0.1 transient"}, ledger[0])
			assert.Equal(t, "0.2 succeeded 200", ledger[1])
		})
	}
}

// A node that is stopped after its claim, until its peers have taken it for dead and have sent what it had claimed, sends
// nothing of it when it goes on, although its lease holds and it can prove at once that it lives.
func TestStoppedNodeThatWasDeadDoesNotSendLate(t *testing.T) {
	t.Parallel()
	binary := failing(t)
	db := pgtest.New(t)
	r := newArrivals(t, nil)
	c, uuid, end := stopAt(t, binary, db, r.URL, failpoint.AfterClaim, "RIVERHOOK_LEASE=1h")
	// Its machine is not to be reached.
	db.Exec(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'riverhook presence'`)
	serve(t, db.URL, true)
	eventually(t, db, "succeeded", `SELECT status FROM riverhook.deliveries`)
	require.NoError(t, c.Process.Signal(syscall.SIGCONT))
	eventually(t, db, 2, `SELECT count(*)::int FROM riverhook.nodes WHERE dead_at IS NULL`)
	end()
	assert.Equal(t, []string{"2"}, r.of(uuid))
	assert.Equal(t, []string{"0.1 abandoned", "0.2 succeeded 200"}, pgtest.Column[string](t, db, ledgerSQL, int64(1)))
}

// Without the tag, a failpoint costs nothing: there is no call.
func TestFailpointsAreInlined(t *testing.T) {
	t.Parallel()
	command := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-gcflags=-m", "./worker", "./sweeper", "./delivery/store")
	command.Dir = "../.."
	out, err := command.CombinedOutput()
	require.NoError(t, err, "%s", out)
	// Each point once; AfterWrite is in Trace.
	assert.Equal(t, len(failpoint.Points)-1, strings.Count(string(out), "inlining call to failpoint.Hit"))
	assert.Equal(t, 1, strings.Count(string(out), "inlining call to failpoint.Trace"))
}
