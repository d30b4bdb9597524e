package events

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// watch is one that is flushed by hand, of a node.
func watch(t testing.TB, db *pgtest.DB, node string, quiet time.Duration) *Watch {
	t.Helper()
	return New(Config{Store: store.New(db.Pool, db.Schema), Log: slog.New(slog.DiscardHandler), Node: node, URL: "https://alert.example/hook", Quiet: quiet})
}

var (
	succeeded = delivery.Decision{Outcome: delivery.OutcomeSucceeded, Status: delivery.StatusSucceeded}
	failed    = delivery.Decision{Outcome: delivery.OutcomeTransient, Failure: delivery.FailureStatus, Status: delivery.StatusPending}
	dead      = delivery.Decision{Outcome: delivery.OutcomePermanent, Failure: delivery.FailureStatus, Status: delivery.StatusDeadLetter}
	unsealed  = delivery.Decision{Outcome: delivery.OutcomeTransient, Failure: delivery.FailureCredential, Status: delivery.StatusPending}
)

// see lets the watch see n attempts at an origin.
func (w *Watch) see(origin string, n int, decision delivery.Decision) {
	for range n {
		w.Attempted(&delivery.Delivery{ID: 7, Origin: origin, OrganizationID: "acme"}, &store.Attempt{Fence: delivery.Fence{ID: 7}, Decision: decision, StatusCode: 503})
	}
}

// sent are the events in the database, in their order, as "type origin count node".
func sent(t testing.TB, db *pgtest.DB) []string {
	t.Helper()
	return pgtest.Column[string](t, db, `SELECT concat_ws(' ', payload->>'type', payload->>'origin', payload->>'count', payload->>'node') FROM riverhook.deliveries
		WHERE organization_id = 'riverhook' AND endpoint_url = 'https://alert.example/hook' AND webhook_name = payload->>'type' ORDER BY id`)
}

// Two nodes see the same receiver fail and recover: each is told once, by one of them.
func TestTwoNodes(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ctx := t.Context()
	a, b := watch(t, db, "a", time.Hour), watch(t, db, "b", time.Hour)
	a.see("https://x", 3, failed)
	a.flush(ctx)
	assert.Empty(t, sent(t, db))
	b.see("https://x", 2, failed)
	b.see("https://x", 2, dead)
	b.see("https://fine", 1000, succeeded)
	b.flush(ctx)
	a.see("https://x", 30, failed)
	a.see("https://x", 30, dead)
	a.flush(ctx)
	want := []string{"origin.failing https://x 1 b", "delivery.dead_lettered https://x 2 b"}
	assert.Equal(t, want, sent(t, db))
	assert.Equal(t, "67 t 30", pgtest.Scalar[string](t, db, `SELECT concat_ws(' ', failures, failing, dead_letter_count) FROM riverhook.origin_states`), "the receiver that is fine is not there")
	failing, err := a.Store.FailingOrigins(ctx, 10)
	require.NoError(t, err)
	require.Len(t, failing, 1)
	assert.Equal(t, "https://x", failing[0].EndpointOrigin)
	assert.Equal(t, 503, *failing[0].StatusCode)

	b.flush(ctx) // and learns that it fails
	b.see("https://x", 1, succeeded)
	b.flush(ctx)
	a.flush(ctx)
	a.see("https://x", 1, succeeded)
	a.flush(ctx)
	want = append(want, "origin.recovered https://x 1 b")
	assert.Equal(t, want, sent(t, db))
	failing, err = a.Store.FailingOrigins(ctx, 10)
	require.NoError(t, err)
	assert.Empty(t, failing)

	// The dead letters that were swallowed are told when it is time, by whoever comes first, though nothing more happens.
	db.Exec(t, `UPDATE riverhook.origin_states SET dead_letter_sent_at = dead_letter_sent_at - interval '1 hour'`)
	a.flush(ctx)
	b.flush(ctx)
	assert.Equal(t, append(want, "delivery.dead_lettered https://x 30 a"), sent(t, db))
	assert.Equal(t, 4, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.river_job`), "they are deliveries like any other")

	db.Exec(t, `UPDATE riverhook.origin_states SET updated_at = now() - interval '2 days'`)
	require.NoError(t, a.Store.ForgetOrigins(ctx, 10))
	assert.Zero(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.origin_states`))
}

// What happens to events makes no events, nor does what is no receiver's fault.
func TestNoLoops(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	w := watch(t, db, "a", time.Hour)
	for range 100 {
		w.Attempted(&delivery.Delivery{Origin: "https://alert.example", OrganizationID: Organization}, &store.Attempt{Decision: dead})
		w.Reclaimed(store.Attempt{Receiver: store.Receiver{Origin: "https://alert.example", Organization: Organization}, Decision: dead})
	}
	w.see("https://x", 100, unsealed)
	w.flush(t.Context())
	assert.Empty(t, sent(t, db))
	assert.Zero(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.origin_states`))

	ended := store.Attempt{Receiver: store.Receiver{Origin: "https://x", Organization: "acme"}, Decision: delivery.Decision{Outcome: delivery.OutcomeAbandoned, Status: delivery.StatusDeadLetter}, Ended: true}
	w.Reclaimed(ended)
	w.flush(t.Context())
	assert.Empty(t, sent(t, db), "a person had ended it")
	ended.Ended = false
	w.Reclaimed(ended)
	w.flush(t.Context())
	assert.Equal(t, []string{"delivery.dead_lettered https://x 1 a"}, sent(t, db))
}

// A flood of dead letters, of many receivers: memory and events are bounded, and what was not told is told later.
func TestFlood(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	w := watch(t, db, "a", time.Hour)
	for i := range maxSeen + 500 {
		w.see(fmt.Sprintf("https://h%05d", i), 3, dead)
	}
	assert.Len(t, w.seen, maxSeen)
	assert.Equal(t, 1500, w.overflow)
	w.flush(t.Context())
	assert.Empty(t, w.seen)
	assert.Len(t, sent(t, db), maxEvents)
	assert.Equal(t, maxSeen, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.origin_states`))
	w.flush(t.Context())
	assert.Len(t, sent(t, db), 2*maxEvents)
	assert.Equal(t, 2*maxEvents, pgtest.Scalar[int](t, db, `SELECT count(DISTINCT payload->>'origin')::int FROM riverhook.deliveries`))
}

// What the database could not be told is told the next time.
func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	w := watch(t, db, "a", time.Hour)
	w.see("https://x", 3, failed)
	w.see("https://y", 9, failed)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	w.flush(gone)
	w.see("https://x", 1, failed)
	w.see("https://x", 1, dead)
	w.see("https://y", 1, succeeded)
	w.see("https://y", 2, failed)
	w.flush(t.Context())
	assert.Equal(t, []string{"origin.failing https://x 1 a", "delivery.dead_lettered https://x 1 a"}, sent(t, db))
	assert.Equal(t, []string{"https://x 5", "https://y 2"}, pgtest.Column[string](t, db, `SELECT concat_ws(' ', endpoint_origin, failures) FROM riverhook.origin_states ORDER BY 1`))
}

// Without a URL nothing is sent, and the log says it all the same.
func TestLog(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	var lines lines
	w := New(Config{Store: store.New(db.Pool, db.Schema), Log: slog.New(slog.NewTextHandler(&lines, nil)), Node: "a"})
	w.CheckSigned(t.Context())
	w.see("https://x", 5, dead)
	w.flush(t.Context())
	assert.Zero(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.deliveries`))
	require.Len(t, lines, 2)
	assert.Contains(t, lines[0], `level=WARN msg="receiver is failing" event=origin.failing count=1 endpoint_origin=https://x delivery_id=7 failure_kind=status status=503 failures=5`)
	assert.Contains(t, lines[1], `level=WARN msg="deliveries were dead-lettered" event=delivery.dead_lettered count=5`)

	w.URL = "https://alert.example/hook?token=secret"
	w.CheckSigned(t.Context())
	require.Len(t, lines, 3)
	assert.Contains(t, lines[2], "riverhook secrets create --organization riverhook --origin https://alert.example")
	assert.NotContains(t, lines[2], "token")
	db.Exec(t, `INSERT INTO riverhook.signing_secrets (secret_uuid, organization_id, sealed) VALUES (gen_random_uuid(), 'riverhook', '')`)
	w.CheckSigned(t.Context())
	assert.Len(t, lines, 3)
}

type lines []string

func (l *lines) Write(p []byte) (int, error) {
	*l = append(*l, string(p))
	return len(p), nil
}

// On the way of every attempt that succeeds.
func BenchmarkAttempted(b *testing.B) {
	w := New(Config{})
	d := &delivery.Delivery{ID: 7, Origin: "https://receiver.example", OrganizationID: "acme"}
	a := &store.Attempt{Decision: succeeded}
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			w.Attempted(d, a)
		}
	})
}
