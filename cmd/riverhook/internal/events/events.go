package events

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/progress"
	"github.com/riverhook/riverhook/delivery/store"
)

// Organization is whose deliveries events are: its signing secrets sign them. Nothing that happens to its deliveries makes an
// event, so that there are no loops.
const Organization = "riverhook"

const (
	// Interval is the time between two flushes: what a node that is killed has seen since the last one is lost.
	Interval = 5 * time.Second
	// flushTimeout bounds one call of the database, closing the last flush.
	flushTimeout, closing = 10 * time.Second, 5 * time.Second
	// maxSeen bounds the origins that are remembered between two flushes; of others nothing is told.
	maxSeen = 10_000
	// maxEvents bounds the events of one flush. The others are told with the next ones.
	maxEvents = 100
	// forgetInterval is how often the database is cleared of what has recovered, of forgetLimit origins at most.
	forgetInterval, forgetLimit = 10 * time.Minute, 10_000
	// complaintInterval is how often it is said that the database cannot be told.
	complaintInterval = time.Minute
)

// Config is what events depend on.
type Config struct {
	Store    *store.Store
	Log      *slog.Logger
	Node     string
	URL      string          // where events are sent; empty: they are logged only
	Interval time.Duration   // 0: the package's
	Quiet    time.Duration   // how long no second event of a type is sent about an origin; 0: five minutes
	Progress *progress.Board // is told of each call of the database; may be nil
}

// Watch watches attempts. Attempted and Reclaimed cost a lock and a look into a map.
type Watch struct {
	Config

	mu         sync.Mutex
	seen       map[string]*store.OriginSeen // since the last flush
	failed     map[string]struct{}          // origins whose last attempt failed, as the database had it then
	overflow   int                          // what could not be remembered
	cleared    time.Time                    // when the database was, of what has recovered; flush only
	complained time.Time                    // flush only
}

// New is a watch that has seen nothing.
func New(c Config) *Watch {
	if c.Interval == 0 {
		c.Interval = Interval
	}
	if c.Quiet == 0 {
		c.Quiet = quiet
	}
	return &Watch{Config: c, seen: make(map[string]*store.OriginSeen)}
}

// CheckSigned warns when events are sent, and nothing signs them.
func (w *Watch) CheckSigned(ctx context.Context) {
	target, err := delivery.ParseEndpoint(w.URL)
	if w.URL == "" || err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	signed, err := w.Store.Signs(ctx, Organization, delivery.Origin(target))
	if err == nil && !signed {
		w.Log.WarnContext(ctx, "events are not signed: riverhook secrets create --organization "+Organization+" --origin "+delivery.Origin(target))
	}
}

// receivers are the failures that say something about the receiver. The others are this side's.
var receivers = map[delivery.FailureKind]bool{
	delivery.FailureStatus: true, delivery.FailureTimeout: true, delivery.FailureDNS: true, delivery.FailureRefused: true,
	delivery.FailureReset: true, delivery.FailureTLS: true, delivery.FailureProtocol: true,
}

// Attempted sees an attempt whose outcome was recorded.
func (w *Watch) Attempted(d *delivery.Delivery, a *store.Attempt) {
	w.observe(store.Receiver{Origin: d.Origin, Organization: d.OrganizationID}, a)
}

// Reclaimed sees a claim that was taken back from a node.
func (w *Watch) Reclaimed(a store.Attempt) { w.observe(a.Receiver, &a) }

func (w *Watch) observe(r store.Receiver, a *store.Attempt) {
	if r.Organization == Organization {
		return
	}
	succeeded := a.Decision.Outcome == delivery.OutcomeSucceeded
	fails := receivers[a.Decision.Failure]
	dead := a.Decision.Status == delivery.StatusDeadLetter && !a.Ended
	if !succeeded && !fails && !dead {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	one := w.seen[r.Origin]
	if one == nil {
		if _, failed := w.failed[r.Origin]; succeeded && !failed {
			return // as nearly always
		}
		if len(w.seen) >= maxSeen {
			w.overflow++
			return
		}
		one = &store.OriginSeen{Origin: r.Origin}
		w.seen[r.Origin] = one
	}
	if succeeded {
		one.Succeeded, one.Failures = true, 0
		return
	}
	if fails {
		one.Failures++
	}
	if dead {
		one.DeadLetters++
	}
	id := a.Fence.ID
	one.LastFailure = store.LastFailure{DeliveryID: &id}
	if kind := string(a.Decision.Failure); kind != "" {
		one.FailureKind = &kind
	}
	if code := a.StatusCode; code != 0 {
		one.StatusCode = &code
	}
}

// Run flushes until ctx ends. Close does it for the last time.
func (w *Watch) Run(ctx context.Context) {
	ticker := time.NewTicker(w.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			w.flush(ctx)
		}
	}
}

// Close flushes what was seen until now, once Run has returned.
func (w *Watch) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), closing)
	defer cancel()
	w.flush(ctx)
}

// flush tells the database what was seen. What it cannot tell, it tells the next time.
func (w *Watch) flush(ctx context.Context) {
	w.mu.Lock()
	seen, overflow := w.seen, w.overflow
	w.seen, w.overflow = make(map[string]*store.OriginSeen), 0
	w.mu.Unlock()
	if overflow > 0 {
		w.Log.WarnContext(ctx, "events: too many receivers fail at a time: of some nothing is told", "attempts", overflow)
	}
	// In one order, so that nodes do not wait for each other crosswise.
	all := slices.SortedFunc(maps.Values(seen), func(a, b *store.OriginSeen) int { return strings.Compare(a.Origin, b.Origin) })
	room := maxEvents
	for first := true; first || len(all) > 0; first = false { // also without any, for what is still to be told
		n := min(len(all), store.MaxOrigins)
		told, err := w.tell(ctx, all[:n], room)
		if err != nil {
			w.keep(all)
			w.complain(ctx, err)
			return
		}
		all, room = all[n:], room-told
	}
	w.refresh(ctx)
}

// tell tells of some origins, and logs the events that come of it.
func (w *Watch) tell(ctx context.Context, some []*store.OriginSeen, room int) (told int, err error) {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	defer w.Progress.Begin("events", flushTimeout)()
	seen := make([]store.OriginSeen, len(some))
	for i, one := range some {
		seen[i] = *one
	}
	var events []Event
	err = w.Store.ObserveOrigins(ctx, seen, w.Quiet, Organization, w.URL,
		func(state store.OriginState, seen store.OriginSeen, now time.Time) (store.OriginState, []store.EventDelivery) {
			state, due := decide(state, seen, now, w.Quiet, room-len(events))
			var sent []store.EventDelivery
			for _, e := range due {
				e.Node = w.Node
				events = append(events, e)
				sent = append(sent, store.EventDelivery{Type: e.Type, Payload: e.payload()})
			}
			return state, sent
		})
	if err != nil {
		return 0, err
	}
	for _, e := range events {
		w.log(ctx, e)
	}
	return len(events), nil
}

func (w *Watch) log(ctx context.Context, e Event) {
	attrs := []slog.Attr{slog.String("event", e.Type), slog.Int("count", e.Count)}
	if e.Origin != nil {
		attrs = append(attrs, slog.String("endpoint_origin", *e.Origin))
	}
	if e.DeliveryID != nil {
		attrs = append(attrs, slog.Int64("delivery_id", *e.DeliveryID))
	}
	if e.FailureKind != nil {
		attrs = append(attrs, slog.String("failure_kind", *e.FailureKind))
	}
	if e.StatusCode != nil {
		attrs = append(attrs, slog.Int("status", *e.StatusCode))
	}
	switch e.Type {
	case TypeFailing:
		w.Log.LogAttrs(ctx, slog.LevelWarn, "receiver is failing", append(attrs, slog.Int("failures", *e.Failures))...)
	case TypeRecovered:
		w.Log.LogAttrs(ctx, slog.LevelInfo, "receiver has recovered", attrs...)
	default:
		w.Log.LogAttrs(ctx, slog.LevelWarn, "deliveries were dead-lettered", attrs...)
	}
}

// keep remembers what could not be told, before what was seen since.
func (w *Watch) keep(untold []*store.OriginSeen) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, before := range untold {
		since := w.seen[before.Origin]
		switch {
		case since != nil:
			since.DeadLetters += before.DeadLetters
			if !since.Succeeded {
				since.Succeeded, since.Failures = before.Succeeded, since.Failures+before.Failures
			}
			if since.DeliveryID == nil {
				since.LastFailure = before.LastFailure
			}
		case len(w.seen) < maxSeen:
			w.seen[before.Origin] = before
		default:
			w.overflow++
		}
	}
}

// refresh learns which origins' successes are worth telling, and clears the database once in a while.
func (w *Watch) refresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	defer w.Progress.Begin("events", flushTimeout)()
	failed, err := w.Store.FailedOrigins(ctx)
	if err == nil {
		w.mu.Lock()
		w.failed = failed
		w.mu.Unlock()
		if time.Since(w.cleared) > forgetInterval {
			w.cleared = time.Now()
			err = w.Store.ForgetOrigins(ctx, forgetLimit)
		}
	}
	if err != nil {
		w.complain(ctx, err)
	}
}

// complain logs an error, once in a while: the database may be away.
func (w *Watch) complain(ctx context.Context, err error) {
	if ctx.Err() == nil && time.Since(w.complained) > complaintInterval {
		w.complained = time.Now()
		w.Log.WarnContext(ctx, "events: the database cannot be told what receivers do: trying again", "error", err)
	}
}
