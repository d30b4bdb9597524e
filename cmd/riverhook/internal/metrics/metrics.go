package metrics

import (
	"context"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/sweeper"
	"github.com/riverhook/riverhook/worker"
)

const (
	// countsWait is how long a scrape waits for the first counts. Without them it is answered all the same.
	countsWait = time.Second
	// countsAge is how old counts may be. Counting may take 30 s, and is not done again for 20 times as long.
	countsAge = 15 * time.Minute
	// clockInterval is how often the clocks are compared, clockTimeout for one try.
	clockInterval, clockTimeout = 30 * time.Second, 5 * time.Second
	// scrapes are answered at a time.
	scrapes = 4
	// scrapeTimeout bounds one.
	scrapeTimeout = 10 * time.Second
)

// Config is what the metrics depend on.
type Config struct {
	Version string
	// Counts are the counts of all deliveries, as they were counted last. It may be slow the first time.
	Counts func(context.Context) (store.Stats, error)
	// Clock is the database's.
	Clock func(context.Context) (time.Time, error)
}

// Metrics are the metrics of one node.
type Metrics struct {
	Config
	registry *prometheus.Registry

	attempts  map[attempt]prometheus.Counter
	duration  prometheus.Histogram
	wakeup    prometheus.Histogram
	inFlight  prometheus.Gauge
	batches   map[worker.Step]prometheus.Observer
	reclaimed prometheus.Counter
	sweeps    map[sweeper.Result]prometheus.Counter
	late      prometheus.Counter

	skew atomic.Pointer[float64] // seconds; nil: not known
}

// attempt is a series of riverhook_attempts_total.
type attempt struct {
	outcome delivery.Outcome
	failure delivery.FailureKind
}

// Buckets of durations, in seconds: of attempts, and of what should take milliseconds and may take hours.
var (
	attemptBuckets = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 30, 60}
	wakeupBuckets  = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600}
	batchBuckets   = []float64{1, 2, 5, 10, 20, 50, 100, 200, 500}
)

// New makes the metrics. Nothing is read before they are asked for.
func New(c Config) *Metrics {
	m := &Metrics{
		Config:   c,
		registry: prometheus.NewRegistry(),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "riverhook_attempt_duration_seconds", Buckets: attemptBuckets,
			Help: "How long attempts took, from name resolution to the end of the answer.",
		}),
		wakeup: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "riverhook_wakeup_seconds", Buckets: wakeupBuckets,
			Help: "From when a delivery was due until its attempt began (before its connection is made), by the database's clock until the claim and this node's monotonic one since. " +
				"Deliveries that were held back (a pause, a receiver that fails or is busy) are among them, with the time that they were held.",
		}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "riverhook_attempts_in_flight", Help: "Attempts that this node is making.",
		}),
		reclaimed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "riverhook_leases_reclaimed_total", Help: "Claims that sweeps of this node took back: the node that had them died, or did not record an outcome in time.",
		}),
		late: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "riverhook_late_outcomes_total", Help: "Outcomes of this node that came after their claim had been taken back: those deliveries may arrive twice.",
		}),
		attempts: make(map[attempt]prometheus.Counter),
		batches:  make(map[worker.Step]prometheus.Observer),
		sweeps:   make(map[sweeper.Result]prometheus.Counter),
	}
	attempts := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "riverhook_attempts_total",
		Help: "Attempts of this node, by what they showed; failure_kind is empty for those that succeeded. Abandoned ones, whose node died, are counted by the node that took them back.",
	}, []string{"outcome", "failure_kind"})
	batches := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "riverhook_batch_size", Buckets: batchBuckets, Help: "Deliveries that were claimed, recorded or held back by one statement.",
	}, []string{"step"})
	sweeps := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "riverhook_sweeps_total", Help: "Sweeps of this node by how they ended; running: another one was at it.",
	}, []string{"result"})
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "riverhook_build_info", Help: "1, with the version of the program.",
	}, []string{"version", "go_version"})
	build.WithLabelValues(c.Version, runtime.Version()).Set(1)

	// Every series is there from the beginning: a rate of what has not happened yet is 0, and nothing is looked up later.
	for _, a := range attemptSeries() {
		m.attempts[a] = attempts.WithLabelValues(string(a.outcome), string(a.failure))
	}
	for _, step := range worker.Steps {
		m.batches[step] = batches.WithLabelValues(step.String())
	}
	for _, result := range sweeper.Results {
		m.sweeps[result] = sweeps.WithLabelValues(string(result))
	}
	m.registry.MustRegister(
		attempts, m.duration, m.wakeup, m.inFlight, batches, m.reclaimed, sweeps, m.late, build, database{m},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// attemptSeries are all that attempts can show.
func attemptSeries() []attempt {
	all := []attempt{{delivery.OutcomeSucceeded, delivery.FailureNone}, {delivery.OutcomeAbandoned, delivery.FailureNone}}
	for _, failure := range delivery.FailureKinds {
		all = append(all, attempt{delivery.OutcomeTransient, failure}, attempt{delivery.OutcomePermanent, failure})
	}
	return all
}

// Worker are the hooks of the node's worker.
func (m *Metrics) Worker() worker.Hooks {
	return worker.Hooks{
		Batch: func(step worker.Step, size int) {
			if observer := m.batches[step]; observer != nil {
				observer.Observe(float64(size))
			}
		},
		Began: func(due time.Duration) {
			m.inFlight.Inc()
			m.wakeup.Observe(max(0, due.Seconds())) // an application may have moved it into the future a moment ago
		},
		Ended: func(outcome delivery.Outcome, failure delivery.FailureKind, took time.Duration) {
			m.inFlight.Dec()
			if counter := m.attempts[attempt{outcome, failure}]; counter != nil { // not when it was given up
				counter.Inc()
				m.duration.Observe(took.Seconds())
			}
		},
		Late: m.late.Inc,
	}
}

// Sweeper are the hooks of the node's sweeper.
func (m *Metrics) Sweeper() sweeper.Hooks {
	return sweeper.Hooks{
		Swept: func(result sweeper.Result) {
			if counter := m.sweeps[result]; counter != nil {
				counter.Inc()
			}
		},
		Reclaimed: func(a store.Attempt) {
			m.reclaimed.Inc()
			if counter := m.attempts[attempt{a.Decision.Outcome, a.Decision.Failure}]; counter != nil {
				counter.Inc()
			}
		},
	}
}

// Handler answers scrapes.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: scrapes, Timeout: scrapeTimeout,
	})
}

// Run compares the clocks once in a while, until ctx ends.
func (m *Metrics) Run(ctx context.Context) {
	ticker := time.NewTicker(clockInterval)
	defer ticker.Stop()
	for {
		m.compareClocks(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// compareClocks takes half of what asking took for the way back.
func (m *Metrics) compareClocks(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, clockTimeout)
	defer cancel()
	asked := time.Now()
	database, err := m.Clock(ctx)
	if err != nil {
		m.skew.Store(nil) // nobody knows
		return
	}
	skew := asked.Add(time.Since(asked) / 2).Sub(database).Seconds()
	m.skew.Store(&skew)
}

// database is what is read from the database, and kept by others.
type database struct{ *Metrics }

var (
	deliveriesDesc  = prometheus.NewDesc("riverhook_deliveries", "Deliveries in the database by status, all organizations, as they were counted last. The same on every node.", []string{"status"}, nil)
	oldestDueDesc   = prometheus.NewDesc("riverhook_oldest_due_seconds", "How long the oldest delivery has been due that nobody sends and that is not held back on purpose; 0 when there is none. As it was counted last, the same on every node.", nil, nil)
	originsHeldDesc = prometheus.NewDesc("riverhook_origins_held", "Receivers that deliveries are held back for (a pause, no answers, failures, a crowd): 1000 at most. As it was counted last, the same on every node.", nil, nil)
	clockSkewDesc   = prometheus.NewDesc("riverhook_clock_skew_seconds", "This machine's clock minus the database's. Known to half of what asking the database takes.", nil, nil)
)

func (d database) Describe(all chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{deliveriesDesc, oldestDueDesc, originsHeldDesc, clockSkewDesc} {
		all <- desc
	}
}

// Collect leaves out what is not known.
func (d database) Collect(all chan<- prometheus.Metric) {
	ahead := time.Duration(0)
	if skew := d.skew.Load(); skew != nil {
		ahead = time.Duration(*skew * float64(time.Second))
		all <- prometheus.MustNewConstMetric(clockSkewDesc, prometheus.GaugeValue, *skew)
	}
	ctx, cancel := context.WithTimeout(context.Background(), countsWait)
	defer cancel()
	counts, err := d.Counts(ctx)
	if err != nil || time.Since(counts.At)-ahead > countsAge {
		return
	}
	for _, status := range delivery.Statuses {
		all <- prometheus.MustNewConstMetric(deliveriesDesc, prometheus.GaugeValue, float64(counts.Statuses[status]), string(status))
	}
	oldest := 0.0
	if counts.OldestWaiting != nil {
		oldest = counts.At.Sub(*counts.OldestWaiting).Seconds()
	}
	all <- prometheus.MustNewConstMetric(oldestDueDesc, prometheus.GaugeValue, oldest)
	all <- prometheus.MustNewConstMetric(originsHeldDesc, prometheus.GaugeValue, float64(counts.HeldOrigins))
}
