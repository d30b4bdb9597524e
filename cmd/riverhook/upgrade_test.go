package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/migrations"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

// application inserts deliveries, one after the other in a few sessions, until it is stopped.
type application struct {
	stopped atomic.Bool
	group   sync.WaitGroup

	mu    sync.Mutex
	took  []time.Duration // each insert, with its commit
	wrong error           // the first that failed
}

func startApplication(t *testing.T, db *pgtest.DB, url string, sessions int, pause time.Duration) *application {
	t.Helper()
	a := new(application)
	for range sessions {
		conn, err := pgx.Connect(t.Context(), db.URL)
		require.NoError(t, err)
		a.group.Go(func() {
			defer func() { _ = conn.Close(context.Background()) }()
			for !a.stopped.Load() {
				began := time.Now()
				_, err := conn.Exec(context.Background(), `INSERT INTO riverhook.deliveries (endpoint_url, payload) VALUES ($1, '{"event": "call.done"}')`, url)
				took := time.Since(began)
				a.mu.Lock()
				if a.took = append(a.took, took); err != nil && a.wrong == nil {
					a.wrong = err
				}
				a.mu.Unlock()
				<-time.After(pause)
			}
		})
	}
	t.Cleanup(func() { a.stop() })
	return a
}

func (a *application) stop() {
	a.stopped.Store(true)
	a.group.Wait()
}

// since is how many inserts there were, and how long they took from the n-th on.
func (a *application) since(n int) (total int, p50, p99, longest time.Duration, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.took) == n {
		return n, 0, 0, 0, a.wrong
	}
	took := slices.Clone(a.took[n:])
	slices.Sort(took)
	return len(a.took), took[len(took)/2], took[len(took)*99/100], took[len(took)-1], a.wrong
}

// Two versions of the program side by side, on a schema that a newer one has migrated: each works on what it finds.
func TestTwoVersions(t *testing.T) {
	t.Parallel()
	binary, err := built()
	require.NoError(t, err)
	db := pgtest.New(t)
	// What a migration may do that an older program can live with: see oldest_program.
	db.Exec(t, `INSERT INTO riverhook.schema_migrations VALUES ($1, 'later', $2)`, migrations.Latest+1, migrations.Latest)
	db.Exec(t, `ALTER TABLE riverhook.deliveries ADD COLUMN later text; ALTER TABLE riverhook.attempts ADD COLUMN later jsonb; ALTER TABLE riverhook.nodes ADD COLUMN later int DEFAULT 1`)
	db.Exec(t, `CREATE TABLE riverhook.later (id int)`)
	receiver := newArrivals(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Riverhook-Delivery-Attempt") == "1" && r.Header.Get("X-Riverhook-Delivery-Id")[0] == '0' {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	other := exec.Command(binary, "serve") //nolint:gosec,noctx // ours
	other.Env = append(quickly(db.URL), "RIVERHOOK_MAX_ATTEMPTS=5")
	services := []*service{serve(t, db.URL, true, "RIVERHOOK_MAX_ATTEMPTS=5"), launch(t, other, true)}
	assert.Equal(t, 2, pgtest.Scalar[int](t, db, `SELECT count(DISTINCT version)::int FROM riverhook.nodes WHERE taken_at IS NOT NULL`))
	// A kind of job of the newer one, in a queue of its own.
	db.Exec(t, `INSERT INTO riverhook.river_job (kind, args, queue, max_attempts) VALUES ('later', '{}', 'later', 1)`)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) SELECT $1 FROM generate_series(1, 500)`, receiver.URL)
	eventually(t, db, 500, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded'`)
	assert.Equal(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.attempts`), receiver.total())
	assert.Equal(t, 2, pgtest.Scalar[int](t, db, `SELECT count(DISTINCT node)::int FROM riverhook.attempts`))
	require.NoError(t, services[1].Process.Signal(syscall.SIGKILL))
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) SELECT $1 FROM generate_series(1, 100)`, receiver.URL)
	eventually(t, db, 600, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded'`)
	assert.Equal(t, "available", pgtest.Scalar[string](t, db, `SELECT state::text FROM riverhook.river_job WHERE kind = 'later'`))
}

// Inserts go on while the schema is migrated from its first version to the last.
func TestInsertsWhileMigrating(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	env := []string{"RIVERHOOK_DATABASE_URL=" + db.URL}
	_, stderr, code := call(t, env, "migrate", "down", "--to", "1", "--yes")
	require.Equal(t, 0, code, stderr)
	app := startApplication(t, db, "http://127.0.0.1:1/", 4, time.Millisecond)
	eventually(t, db, true, `SELECT count(*) > 100 FROM riverhook.deliveries`)
	before, _, _, _, _ := app.since(0)
	_, stderr, code = call(t, env, "migrate", "up")
	require.Equal(t, 0, code, stderr)
	during, _, _, longest, err := app.since(before)
	require.NoError(t, err)
	assert.Greater(t, during, before, "they went on meanwhile")
	t.Log(during-before, "inserts while migrating; the longest took", longest)
	app.stop()
	total, _, _, _, err := app.since(0)
	require.NoError(t, err)
	assert.Equal(t, total, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.deliveries`))
	assert.Equal(t, total, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.river_job WHERE kind = 'deliver_webhook' AND state = 'available'`))
}

// TestUpgrade is `make test/upgrade`: an older program, of TEST_OLD_PROGRAM, works under load while this one migrates the
// schema; then both work; then the older one is stopped. Nothing is lost. What it prints is a measurement.
func TestUpgrade(t *testing.T) {
	old := os.Getenv("TEST_OLD_PROGRAM")
	if old == "" {
		t.Skip("for `make test/upgrade OLD=<commit>`")
	}
	binary, err := built()
	require.NoError(t, err)
	server := pgtest.Server(t, map[string]string{"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"})
	db := pgtest.NewOnEmpty(t, server.URL("postgres"))
	run := func(program string, args ...string) string {
		command := exec.Command(program, args...) //nolint:gosec,noctx // ours
		command.Env = []string{"RIVERHOOK_DATABASE_URL=" + db.URL}
		out, err := command.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	serveBy := func(program string) *service {
		command := exec.Command(program, "serve") //nolint:gosec,noctx // ours
		command.Env = append(quickly(db.URL), "RIVERHOOK_MAX_ATTEMPTS=10")
		return launch(t, command, true)
	}
	t.Log("old:", run(old, "migrate", "up"))
	receiver := newArrivals(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Riverhook-Delivery-Attempt") == "1" && r.Header.Get("X-Riverhook-Delivery-Id")[0] == '0' {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	first, second := serveBy(old), serveBy(old)
	app := startApplication(t, db, receiver.URL, 4, 5*time.Millisecond)
	at := 0
	phase := func(name string) {
		n, p50, p99, longest, err := app.since(at)
		require.NoError(t, err, "no insert fails")
		fmt.Printf("%-45s %6d inserts  p50 %8s  p99 %8s  longest %8s\n", name, n-at, p50.Round(10*time.Microsecond), p99.Round(10*time.Microsecond), longest.Round(10*time.Microsecond))
		at = n
	}
	<-time.After(10 * time.Second)
	phase("two old nodes")
	began := time.Now()
	t.Log("new:", run(binary, "migrate", "up"))
	took := time.Since(began)
	phase("while migrating (" + took.Round(time.Millisecond).String() + ")")
	<-time.After(5 * time.Second)
	phase("two old nodes on the new schema")
	require.NoError(t, first.Process.Signal(syscall.SIGTERM))
	newer := serveBy(binary)
	<-time.After(10 * time.Second)
	phase("an old and a new node")
	require.NoError(t, second.Process.Signal(syscall.SIGKILL))
	serveBy(binary)
	<-time.After(5 * time.Second)
	phase("the old one killed, two new ones")
	app.stop()
	total, _, _, _, err := app.since(0)
	require.NoError(t, err)
	eventually(t, db, total, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'succeeded'`)
	missing := 0
	for _, uuid := range pgtest.Column[string](t, db, `SELECT delivery_uuid::text FROM riverhook.deliveries`) {
		if len(receiver.of(uuid)) == 0 {
			missing++
		}
	}
	assert.Zero(t, missing)
	attempts := pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.attempts`)
	abandoned := pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.attempts WHERE outcome = 'abandoned'`)
	fmt.Printf("%d deliveries, %d lost; %d requests, %d attempts, %d of them abandoned by the node that was killed\n", total, missing, receiver.total(), attempts, abandoned)
	assert.LessOrEqual(t, attempts-abandoned, receiver.total())
	assert.LessOrEqual(t, receiver.total(), attempts)
	require.NoError(t, newer.Process.Signal(syscall.SIGTERM))
	assert.Equal(t, 0, newer.ended(t, 20*time.Second))
}
