package sweeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/riverqueue/river"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/failpoint"
	"github.com/riverhook/riverhook/delivery/progress"
	"github.com/riverhook/riverhook/delivery/store"
)

// Queue is River's queue of sweeps: its own, so that a backlog of deliveries does not delay them.
const Queue = "riverhook_sweep"

const (
	// The first pages of a sweep are pageSize rows, looked at in one transaction. Later ones may have up to maxPageSize, as
	// many as take some pageAim: beside busy workers, what surrounds a page (four statements, each of which waits for its turn
	// on a processor) costs as much time as a thousand rows do.
	pageSize, maxPageSize, pageAim = 1000, 8000, 200 * time.Millisecond
	// Timeout bounds one sweep. Each begins with what has been due for longest, and must come to what is due last.
	Timeout = 30 * time.Minute
	// pageTimeout bounds one page.
	pageTimeout = 30 * time.Second
	// The first unpacedPages of a sweep follow each other at once, then there are pauses of up to maxRest, for restingTime in
	// all: see rest.
	unpacedPages, maxRest, restingTime = 5, time.Second, 5 * time.Minute
)

// ErrRunning says that another sweep is running: there is no need for a second.
var ErrRunning = errors.New("another sweep is running")

// Config is what a sweeper needs.
type Config struct {
	Store  *store.Store
	Policy delivery.Policy
	Log    *slog.Logger
	Hooks  Hooks  // may be empty
	Node   string // the one that sweeps, which is registered; empty: none, and nobody is told

	Progress *progress.Board // is told of each sweep and page; may be nil
}

// Sweeper sweeps.
type Sweeper struct {
	store  *store.Store
	policy delivery.Policy
	log    *slog.Logger
	hooks  Hooks
	node   string

	progress *progress.Board
}

// New is a sweeper.
func New(c Config) *Sweeper {
	return &Sweeper{store: c.Store, policy: c.Policy, log: c.Log, node: c.Node, hooks: c.Hooks.whole(), progress: c.Progress}
}

// Counts is what one sweep did, and what it found and left alone.
type Counts struct {
	Overdue   int // due rows it looked at
	Requeued  int // had no live job, and have one now
	Reclaimed int // were being sent by a node whose lease ended; their attempt is in the ledger as abandoned
	Parked    int // of those, how many are dead letters now
	Live      int // have a live job: backlog
	Leased    int // are being sent
	Held      int // have no job on purpose
	Skipped   int // somebody holds the row's lock: the next sweep sees to them
}

// Changed says whether the sweep did anything.
func (c Counts) Changed() bool { return c.Requeued+c.Reclaimed > 0 }

// Sweep drains: page after page of overdue rows, until there are none left. It returns ErrRunning while another sweep of
// this schema runs, on whatever node. On an error the counts say what was done before it.
func (s *Sweeper) Sweep(ctx context.Context) (Counts, error) {
	var total Counts
	lock, held, ok, err := s.store.LockSweep(ctx)
	if err != nil {
		return total, fmt.Errorf("sweeper: %w", err)
	}
	if !ok {
		return total, ErrRunning
	}
	defer lock.Unlock()
	ctx = held

	for more := true; more; {
		var reclaimed []store.Attempt
		var requeued int
		reclaimed, requeued, more, err = s.ended(ctx)
		if err != nil {
			return total, fmt.Errorf("sweeper: %w", err)
		}
		total.Requeued += requeued
		s.reclaimed(ctx, &total, reclaimed)
	}
	var rested time.Duration
	size, largest := pageSize, maxPageSize
	for page, n := (store.SweepPage{}), 1; !page.Last; n++ {
		from, started := page.Next, time.Now()
		page, err = s.page(ctx, from, size)
		if err != nil && size > pageSize && ctx.Err() == nil {
			// Perhaps it was too large for what it came upon. The next sweep would grow to it again, and come no further.
			s.log.WarnContext(ctx, "a page of the sweep failed: trying again with a smaller one", "rows", size, "error", err)
			size, largest = pageSize, pageSize
			page, err = s.page(ctx, from, size)
		}
		if err != nil {
			return total, fmt.Errorf("sweeper: %w", err)
		}
		failpoint.Hit(failpoint.AfterSweepPage)
		took := time.Since(started)
		if n >= unpacedPages {
			size = min(sized(size, took), largest)
		}
		if pause := rest(n, page, took); !page.Last && rested < restingTime {
			rested += pause
			if !wait(ctx, pause) {
				return total, fmt.Errorf("sweeper: %w", context.Cause(ctx))
			}
		}
		total.Overdue += page.Seen
		total.Requeued += page.Requeued
		total.Live += page.Live
		total.Leased += page.Leased
		total.Held += page.Held
		total.Skipped += page.Skipped
		s.reclaimed(ctx, &total, page.Reclaimed)
	}
	if s.node != "" {
		if err := s.store.Swept(ctx, s.node); err != nil {
			s.log.WarnContext(ctx, "a sweep was not written down", "error", err)
		}
	}
	return total, nil
}

// sized is the size of the page after one of that size, which took that long. It comes down again faster than it goes up.
func sized(size int, took time.Duration) int {
	switch {
	case took < pageAim/2:
		return min(2*size, maxPageSize)
	case took > 4*pageAim:
		return pageSize
	case took > 2*pageAim:
		return max(size/2, pageSize)
	}
	return size
}

// rest is the pause after the n-th page, which took that long. A large backlog whose jobs are all there needs no sweep, and
// going through it takes from the workers what they work it off with: it gets a fifth of one connection's time, and is through
// a million in one to four minutes. There is no pause on the first pages, nor where anything was amiss.
func rest(n int, page store.SweepPage, took time.Duration) time.Duration {
	if n < unpacedPages || page.Requeued+page.Skipped+len(page.Reclaimed) > 0 {
		return 0
	}
	return min(4*took, maxRest)
}

func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func (s *Sweeper) ended(ctx context.Context) ([]store.Attempt, int, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	defer s.progress.Begin("sweep page", pageTimeout)()
	return s.store.SweepEnded(ctx, pageSize, s.abandoned)
}

func (s *Sweeper) page(ctx context.Context, after store.SweepCursor, size int) (store.SweepPage, error) {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	defer s.progress.Begin("sweep page", pageTimeout)()
	return s.store.SweepPage(ctx, after, size, s.abandoned)
}

// abandoned decides about a claim whose node is gone.
func (s *Sweeper) abandoned(d *delivery.Delivery) store.Attempt {
	observation := delivery.Observation{Abandoned: true, Error: "node " + d.ClaimedBy + " did not report the outcome: it died, or its lease ended"}
	return store.Attempt{
		Fence:    d.Fence(),
		Receiver: store.Receiver{Origin: d.Origin, Organization: d.OrganizationID},
		Round:    d.Round,
		Number:   d.Attempt(),
		Decision: delivery.Decide(d, observation, s.policy, time.Time{}, rand.Float64()), //nolint:gosec // jitter
		Error:    observation.Error,
	}
}

// reclaimed counts and logs claims that were taken back.
func (s *Sweeper) reclaimed(ctx context.Context, total *Counts, attempts []store.Attempt) {
	for _, a := range attempts {
		total.Reclaimed++
		s.hooks.Reclaimed(a)
		message := "attempt abandoned: trying again"
		switch {
		case a.Ended:
			message = "attempt abandoned: the delivery was canceled"
		case a.Decision.Status == delivery.StatusDeadLetter:
			total.Parked++
			message = "delivery dead-lettered"
		}
		s.log.WarnContext(ctx, message,
			"delivery_id", a.Fence.ID, "attempt", a.Number, "outcome", string(a.Decision.Outcome), "node", a.Fence.Node,
			"next_delay", a.Decision.Delay.String())
	}
}

// JobArgs are the arguments of a sweep's job: none.
type JobArgs struct{}

// Kind is River's name of the job.
func (JobArgs) Kind() string { return "riverhook_sweep" }

// InsertOpts are one try, and not unique, since a job whose node was killed would block the next ones. Two sweeps at a time
// are kept apart by a lock.
func (JobArgs) InsertOpts() river.InsertOpts { return river.InsertOpts{Queue: Queue, MaxAttempts: 1} }

// Periodic is the job that sweeps at every interval, and when a leader is elected.
func Periodic(interval time.Duration) *river.PeriodicJob {
	return river.NewPeriodicJob(
		river.PeriodicInterval(interval),
		func() (river.JobArgs, *river.InsertOpts) { return JobArgs{}, nil },
		&river.PeriodicJobOpts{ID: "riverhook_sweep", RunOnStart: true},
	)
}

// Worker is River's worker of sweeps.
type Worker struct {
	river.WorkerDefaults[JobArgs]
	sweeper *Sweeper
}

// NewWorker is River's worker of sweeps by s.
func NewWorker(s *Sweeper) *Worker { return &Worker{sweeper: s} }

// Timeout is long: a sweep drains all there is.
func (*Worker) Timeout(*river.Job[JobArgs]) time.Duration { return Timeout }

// Work sweeps once. It is not an error when another sweep runs, nor when this one fails: the next one comes soon.
func (w *Worker) Work(ctx context.Context, _ *river.Job[JobArgs]) error {
	w.sweeper.run(ctx)
	return nil
}
