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
		Concurrency: 200, MaxConns: 12, Timeout: 5 * time.Second, Lease: 10 * time.Second,
		Policy: delivery.Policy{
			MaxAttempts: 3, BaseDelay: 50 * time.Millisecond, MaxDelay: time.Second, Retryable: delivery.DefaultRetryable(),
		},
		SweepInterval: time.Second, HeaderPrefix: "X-Riverhook-", MaxPayload: 1 << 20,
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
	}, 20*time.Second, 10*time.Millisecond, "%s: want %v", sql, want)
}

const insertSQL = `INSERT INTO riverhook.deliveries (endpoint_url, payload) VALUES ($1, $2) RETURNING id`

func TestDelivers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := newReceiver(t, nil)
	start(t, config(t, db))
	id := pgtest.Scalar[int64](t, db, insertSQL, r.URL+"/hook", `{"event" : "call.done"}`)
	eventually(t, db, "succeeded", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
	require.Equal(t, 1, r.count())
	got := r.all()[0]
	require.Equal(t, `{"event" : "call.done"}`, got.body)
	fmt.Println(got.header)
}
