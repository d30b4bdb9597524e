package node_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/node"
	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/credential"
	"github.com/riverhook/riverhook/delivery/egress"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// receiver is a real HTTP receiver that remembers what it got.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex
	requests []request
	arrived  chan request // gets each request, as long as somebody takes them
}

type request struct {
	method, path, body string
	header             http.Header
}

// newReceiver answers with answer, or 200.
func newReceiver(t testing.TB, answer http.HandlerFunc) *receiver {
	r := &receiver{arrived: make(chan request, 100_000)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		got := request{q.Method, q.URL.Path, string(body), q.Header}
		r.mu.Lock()
		r.requests = append(r.requests, got)
		r.mu.Unlock()
		r.arrived <- got
		if answer != nil {
			answer(w, q)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) all() []request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]request(nil), r.requests...)
}

func (r *receiver) count() int { return len(r.all()) }

// config is a node's with short times.
func config(t testing.TB, db *pgtest.DB) node.Config {
	t.Helper()
	database, err := pgxpool.ParseConfig(db.URL)
	require.NoError(t, err)
	level := slog.LevelError
	if os.Getenv("TEST_LOG") != "" {
		level = slog.LevelDebug
	}
	return node.Config{
		Database: database, Schema: db.Schema, Version: "test",
		Log:         slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: level})),
		Concurrency: 200, EndpointConcurrency: 100, MaxConns: 12, Timeout: 5 * time.Second, Lease: 10 * time.Second,
		Policy: delivery.Policy{
			MaxAttempts: 3, BaseDelay: 50 * time.Millisecond, MaxDelay: time.Second, Retryable: delivery.DefaultRetryable(),
		},
		SweepInterval: time.Second, MaxPayload: 1 << 20,
		Headers: delivery.HeaderRules{Prefix: "X-Riverhook-"},
		Egress:  egress.Config{Allow: allowLoopback()}, // where the receivers are
		Keys:    new(credential.Keyring),
	}
}

// start runs a node until the test ends, or until stop is called, which waits for it.
func start(t testing.TB, c node.Config) (n *node.Node, stop func()) {
	t.Helper()
	n, err := node.New(c)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				require.NoError(t, err)
			case <-time.After(30 * time.Second):
				t.Error("the node did not stop")
			}
		})
	}
	t.Cleanup(stop)
	return n, stop
}

// eventually waits until the query's result is want.
func eventually[T comparable](t testing.TB, db *pgtest.DB, want T, sql string, args ...any) {
	t.Helper()
	var got T
	require.Eventually(t, func() bool {
		got = pgtest.Scalar[T](t, db, sql, args...)
		return got == want
	}, time.Minute, 10*time.Millisecond, "%s: want %v", sql, want)
}

// insert enqueues one delivery to url and returns its id. more are further columns with their values.
func insert(t testing.TB, db *pgtest.DB, url string, more ...any) int64 {
	t.Helper()
	columns, values, args := "endpoint_url", "$1", []any{url}
	for i := 0; i < len(more); i += 2 {
		args = append(args, more[i+1])
		columns += ", " + more[i].(string)
		values += fmt.Sprintf(", $%d", len(args))
	}
	return pgtest.Scalar[int64](t, db, `INSERT INTO riverhook.deliveries (`+columns+`) VALUES (`+values+`) RETURNING id`, args...)
}

// row is what the tests look at, in one text.
const rowSQL = `SELECT concat_ws(' ', status, 'round', round, 'attempts', attempt_count, 'abandoned', abandoned_count,
	coalesce(last_status_code::text, '-'), coalesce(claimed_by, '-')) FROM riverhook.deliveries WHERE id = $1`

// ledger is the attempts of a delivery: round.attempt outcome kind status.
func ledger(t testing.TB, db *pgtest.DB, id int64) []string {
	t.Helper()
	return pgtest.Column[string](t, db, `SELECT concat_ws(' ', round || '.' || attempt, outcome, failure_kind, status_code)
		FROM riverhook.attempts WHERE delivery_id = $1 ORDER BY round, attempt`, id)
}

// countOf is how many requests of one delivery arrived.
func (r *receiver) countOf(uuid string) (n int) {
	for _, q := range r.all() {
		if q.header.Get("X-Riverhook-Delivery-Id") == uuid {
			n++
		}
	}
	return n
}

// countPath is how many requests for a path arrived.
func (r *receiver) countPath(path string) (n int) {
	for _, q := range r.all() {
		if q.path == path {
			n++
		}
	}
	return n
}
