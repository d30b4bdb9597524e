package sweeper

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/riverhook/riverhook/delivery/store"
)

const (
	// lookInterval is between two looks after the other nodes, lookTimeout for one.
	lookInterval, lookTimeout = 2 * time.Second, 5 * time.Second
	// deadPageSize rows are looked at in one transaction for the claims of dead nodes: without their jobs, which is quick.
	deadPageSize = 10_000
	// reclaimTimeout bounds taking back all that dead nodes held. What it does not get to, the next look does.
	reclaimTimeout = 5 * time.Minute
)

// WatchConfig is what a watch needs.
type WatchConfig struct {
	Store    *store.Store
	Sweeper  *Sweeper
	Log      *slog.Logger
	Node     string        // this node, which is registered
	Interval time.Duration // between two sweeps of River's leader
}

// Watch looks after the other nodes, so that what a dead one leaves behind waits neither for the end of its leases nor for
// the election of another leader. Every node does.
type Watch struct {
	WatchConfig
	silent map[string]sighting // nodes without their lock
}

// sighting is since when a node is seen without the lock that it took at some time.
type sighting struct {
	taken time.Time // by the database's clock; another one means that it has come back in between
	since time.Time // by ours
}

// NewWatch is a watch that has seen nothing yet.
func NewWatch(c WatchConfig) *Watch { return &Watch{WatchConfig: c, silent: make(map[string]sighting)} }

// Run looks every two seconds until ctx ends. While the database does not answer, it goes on trying.
func (w *Watch) Run(ctx context.Context) {
	// Nobody knows of a sweep before this node's start: there is to be one within two intervals of it.
	began := time.Now()
	for wait(ctx, lookInterval-lookInterval/10+rand.N(lookInterval/5)) { //nolint:gosec // nodes that started together
		look, err := w.look(ctx)
		if err != nil {
			if ctx.Err() == nil {
				w.Log.DebugContext(ctx, "cannot look after the other nodes", "error", err)
			}
			continue
		}
		for _, node := range w.dead(ctx, look.Silent) {
			w.Log.WarnContext(ctx, "a node is dead: taking back what it held", "node", node)
			look.Unswept = true
		}
		if look.Unswept {
			w.reclaim(ctx)
		}
		if due := 2*w.Interval + lookInterval; time.Since(began) > due && (look.Swept < 0 || look.Swept > due) {
			w.Log.InfoContext(ctx, "no sweep for two intervals: sweeping")
			w.Sweeper.run(ctx)
			began = time.Now()
		}
	}
}

func (w *Watch) look(ctx context.Context) (store.Look, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	defer w.Sweeper.progress.Begin("watch", lookTimeout)()
	return w.Store.Look(ctx, w.Node)
}

// dead are the nodes whose lock has been free for so long that they are dead, and that this one is the first to say it of.
func (w *Watch) dead(ctx context.Context, silent []store.Silence) (nodes []string) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	defer w.Sweeper.progress.Begin("watch", lookTimeout)()
	now := time.Now()
	seen := make(map[string]sighting, len(silent))
	for _, s := range silent {
		before, known := w.silent[s.Node]
		if !known || !before.taken.Equal(s.Taken) {
			before = sighting{taken: s.Taken, since: now}
		}
		seen[s.Node] = before
		if now.Sub(before.since) < store.DeadAfter {
			continue
		}
		switch dead, err := w.Store.DeclareDead(ctx, s); {
		case err != nil:
			w.Log.WarnContext(ctx, "a node seems dead, and that cannot be written down yet", "node", s.Node, "error", err)
		case dead:
			nodes = append(nodes, s.Node)
		}
	}
	w.silent = seen
	return nodes
}

func (w *Watch) reclaim(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, reclaimTimeout)
	defer cancel()
	defer w.Sweeper.progress.Begin("watch", reclaimTimeout)()
	started := time.Now()
	counts, err := w.Sweeper.Reclaim(ctx)
	switch {
	case err != nil && ctx.Err() == nil:
		w.Log.ErrorContext(ctx, "taking back what a dead node held failed: trying again", "error", err)
	case counts.Changed():
		w.Log.InfoContext(ctx, "took back what a dead node held", "reclaimed", counts.Reclaimed, "requeued", counts.Requeued, "parked", counts.Parked,
			"skipped", counts.Skipped, "duration", time.Since(started).Round(time.Millisecond).String())
	}
}

// Reclaim takes back what dead nodes had claimed, and what they had fetched. It needs no lock: two at a time share the work.
// On an error the counts say what was done before it.
func (s *Sweeper) Reclaim(ctx context.Context) (total Counts, err error) {
	var page store.DeadPage
	var nodes []string // dead on every page: of who died meanwhile, the pages before were not asked
	for first := true; !page.Last; first = false {
		page, err = s.deadPage(ctx, page.Next)
		if err != nil {
			return total, err
		}
		if first {
			nodes = page.Nodes
		}
		nodes = slices.DeleteFunc(nodes, func(node string) bool { return !slices.Contains(page.Nodes, node) })
		total.Requeued += page.Requeued
		total.Skipped += page.Skipped
		s.reclaimed(ctx, &total, page.Reclaimed)
	}
	if len(nodes) == 0 || total.Skipped > 0 {
		return total, nil
	}
	return total, s.store.ReclaimedAll(ctx, nodes)
}

func (s *Sweeper) deadPage(ctx context.Context, after store.SweepCursor) (store.DeadPage, error) {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	defer s.progress.Begin("reclaim page", pageTimeout)()
	return s.store.ReclaimDead(ctx, after, deadPageSize, s.abandoned)
}

// run sweeps once, and logs it. It is not an error when another sweep runs, nor when this one fails: the next one comes soon.
func (s *Sweeper) run(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	defer s.progress.Begin("sweep", Timeout)()
	started := time.Now()
	counts, err := s.Sweep(ctx)
	s.hooks.Swept(resultOf(ctx, err))
	log := s.log.With(
		"requeued", counts.Requeued, "reclaimed", counts.Reclaimed, "parked", counts.Parked, "overdue", counts.Overdue,
		"live", counts.Live, "held", counts.Held, "skipped", counts.Skipped, "duration", time.Since(started).Round(time.Millisecond).String())
	switch {
	case errors.Is(err, ErrRunning):
		log.DebugContext(ctx, "sweep: another one is running")
	case err != nil && ctx.Err() != nil:
		log.InfoContext(ctx, "sweep interrupted: the next one goes on")
	case err != nil:
		log.ErrorContext(ctx, "sweep failed: the next one tries again", "error", err)
	case counts.Changed():
		log.InfoContext(ctx, "sweep")
	default:
		log.DebugContext(ctx, "sweep")
	}
}
