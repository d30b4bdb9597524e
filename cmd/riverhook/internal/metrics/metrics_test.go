package metrics_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/metrics"
	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/sweeper"
	"github.com/riverhook/riverhook/worker"
)

// config has counts of an hour that began an hour ago, and a clock that is a minute behind.
func config() metrics.Config {
	return metrics.Config{
		Version: "1.2.3",
		Counts: func(context.Context) (store.Stats, error) {
			now := time.Now().Add(-time.Minute)
			hourAgo := now.Add(-time.Hour)
			return store.Stats{Statuses: map[delivery.Status]int64{delivery.StatusPending: 7}, OldestWaiting: &hourAgo, HeldOrigins: 3, At: now}, nil
		},
		Clock: func(context.Context) (time.Time, error) { return time.Now().Add(-time.Minute), nil },
	}
}

// scrape is what Prometheus gets, a map from series to values.
func scrape(t *testing.T, m *metrics.Metrics) map[string]string {
	t.Helper()
	answer := httptest.NewRecorder()
	m.Handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
	require.Equal(t, 200, answer.Code)
	text, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	series := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name != "#" {
			series[name] = value
		}
	}
	return series
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	m := metrics.New(config())
	before := scrape(t, m)
	for _, name := range []string{
		`riverhook_attempts_total{failure_kind="",outcome="succeeded"}`, `riverhook_attempts_total{failure_kind="status",outcome="permanent"}`,
		`riverhook_leases_reclaimed_total`, `riverhook_sweeps_total{result="failed"}`, `riverhook_late_outcomes_total`, `riverhook_attempts_in_flight`,
		`riverhook_batch_size_count{step="record"}`, `riverhook_attempt_duration_seconds_count`, `riverhook_wakeup_seconds_count`,
	} {
		assert.Equal(t, "0", before[name], "%s is there before anything happens", name)
	}
	assert.Equal(t, "7", before[`riverhook_deliveries{status="pending"}`])
	assert.Equal(t, "0", before[`riverhook_deliveries{status="dead_letter"}`])
	assert.Equal(t, "3600", before["riverhook_oldest_due_seconds"])
	assert.Equal(t, "3", before["riverhook_origins_held"])
	assert.Contains(t, before, `go_goroutines`)
	assert.Contains(t, before, `process_start_time_seconds`)
	assert.NotContains(t, before, "riverhook_clock_skew_seconds", "it is not known yet")

	w, s := m.Worker(), m.Sweeper()
	w.Began(2 * time.Second)
	w.Began(-time.Second)
	w.Ended(delivery.OutcomeTransient, delivery.FailureTimeout, time.Second)
	assert.Equal(t, "1", scrape(t, m)["riverhook_attempts_in_flight"])
	w.Ended(delivery.OutcomeUnknown, delivery.FailureNone, time.Second)
	w.Batch(worker.StepRecord, 3)
	w.Batch(worker.StepUnknown, 3)
	w.Late()
	s.Swept(sweeper.ResultDone)
	s.Swept("anything else")
	s.Reclaimed(store.Attempt{Decision: delivery.Decision{Outcome: delivery.OutcomeAbandoned}})
	after := scrape(t, m)
	for name, value := range map[string]string{
		"riverhook_attempts_in_flight":                                         "0",
		`riverhook_attempts_total{failure_kind="timeout",outcome="transient"}`: "1",
		`riverhook_attempts_total{failure_kind="",outcome="abandoned"}`:        "1",
		"riverhook_attempt_duration_seconds_count":                             "1",
		"riverhook_wakeup_seconds_count":                                       "2", "riverhook_wakeup_seconds_sum": "2",
		`riverhook_batch_size_sum{step="record"}`: "3",
		"riverhook_late_outcomes_total":           "1", "riverhook_leases_reclaimed_total": "1",
		`riverhook_sweeps_total{result="done"}`: "1",
	} {
		assert.Equal(t, value, after[name], name)
	}
	assert.Len(t, after, len(before), "what happens makes no new series")

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); m.Run(ctx) }()
	require.Eventually(t, func() bool { return scrape(t, m)["riverhook_clock_skew_seconds"] != "" }, 10*time.Second, time.Millisecond)
	skew, err := strconv.ParseFloat(scrape(t, m)["riverhook_clock_skew_seconds"], 64)
	require.NoError(t, err)
	assert.InDelta(t, 60, skew, 30)
	cancel()
	<-done
}

// What is not known is left out, and the rest is there all the same.
func TestMetricsWithoutDatabase(t *testing.T) {
	t.Parallel()
	c := config()
	c.Counts = func(context.Context) (store.Stats, error) { return store.Stats{}, errors.New("not here") }
	m := metrics.New(c)
	assert.NotContains(t, scrape(t, m), `riverhook_deliveries{status="pending"}`)
	assert.Contains(t, scrape(t, m), `riverhook_attempts_in_flight`)

	c.Counts = func(context.Context) (store.Stats, error) {
		return store.Stats{At: time.Now().Add(-16 * time.Minute)}, nil
	}
	assert.NotContains(t, scrape(t, metrics.New(c)), `riverhook_deliveries{status="pending"}`, "counts that are too old")
	c.Counts = func(context.Context) (store.Stats, error) {
		return store.Stats{At: time.Now().Add(-14 * time.Minute)}, nil
	}
	assert.Equal(t, "0", scrape(t, metrics.New(c))["riverhook_oldest_due_seconds"], "nothing is due")
}

// The hooks are on the way of every attempt.
func TestHooksDoNotAllocate(t *testing.T) {
	m := metrics.New(config())
	w := m.Worker()
	allocated := testing.AllocsPerRun(1000, func() {
		w.Batch(worker.StepClaim, 10)
		w.Began(time.Millisecond)
		w.Ended(delivery.OutcomeSucceeded, delivery.FailureNone, time.Millisecond)
		w.Batch(worker.StepRecord, 10)
	})
	assert.Zero(t, allocated)
}

func BenchmarkHooks(b *testing.B) {
	w := metrics.New(config()).Worker()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			w.Began(time.Millisecond)
			w.Ended(delivery.OutcomeSucceeded, delivery.FailureNone, time.Millisecond)
		}
	})
}
