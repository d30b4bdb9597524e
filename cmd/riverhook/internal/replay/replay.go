package replay

import (
	"context"
	"log/slog"
	"time"

	"github.com/riverqueue/river"

	"github.com/riverhook/riverhook/delivery/store"
)

const (
	// Workers are replays at a time on a node. They share their connections with the sweep.
	Workers = 2
	// lease is how long a node that died keeps a replay. A page, its wait included, takes less.
	lease = time.Minute
	// turn bounds one job: a replay that takes longer goes on in another one, so that no job is taken for a stuck one.
	turn = time.Minute
	// timeout ends a job that is stuck itself.
	timeout = 2 * time.Minute
	// pageSize bounds one transaction.
	pageSize = 1000
	// pagesASecond is how finely a pace is kept.
	pagesASecond = 4
	// failureDelay is between a failure and the next try.
	failureDelay = 5 * time.Second
	// resumeInterval is between two looks for replays whose node died.
	resumeInterval = 15 * time.Second
	// yieldTimeout is for giving a replay back, also while the node stops.
	yieldTimeout = 3 * time.Second
)

// Worker is River's worker of replays.
type Worker struct {
	river.WorkerDefaults[store.ReplayJobArgs]
	store *store.Store
	log   *slog.Logger
	node  string
}

// NewWorker is a worker on a node.
func NewWorker(st *store.Store, log *slog.Logger, node string) *Worker {
	return &Worker{store: st, log: log, node: node}
}

// Periodic is the job that looks for replays that nobody works on, though they are not over.
func Periodic() *river.PeriodicJob {
	return river.NewPeriodicJob(
		river.PeriodicInterval(resumeInterval),
		func() (river.JobArgs, *river.InsertOpts) {
			return store.ReplayJobArgs{}, &river.InsertOpts{Queue: store.ReplayQueue, MaxAttempts: 1}
		},
		&river.PeriodicJobOpts{ID: store.ReplayJobKind, RunOnStart: true},
	)
}

// Timeout is longer than a turn.
func (*Worker) Timeout(*river.Job[store.ReplayJobArgs]) time.Duration { return timeout }

// Work works on a replay for a while, or on all that lost their node, one after the other. It is not an error when it
// cannot: the row stays, and the periodic job comes back to it.
func (w *Worker) Work(ctx context.Context, job *river.Job[store.ReplayJobArgs]) error {
	ids := []int64{job.Args.ReplayID}
	if job.Args.ReplayID == 0 {
		ids = w.orphaned(ctx)
	}
	end := time.Now().Add(turn)
	for _, id := range ids {
		if ctx.Err() == nil && time.Now().Before(end) {
			w.work(ctx, id, end)
		}
	}
	return nil
}

// orphaned are the replays that nobody works on. When they cannot be looked for, the next job does.
func (w *Worker) orphaned(ctx context.Context) []int64 {
	ids, err := w.store.OrphanedReplays(ctx)
	if err != nil {
		w.log.WarnContext(ctx, "cannot look for replays that were left", "error", err)
	}
	return ids
}

// work takes a replay, and gives it back when it is not over at the end of the turn.
func (w *Worker) work(ctx context.Context, id int64, end time.Time) {
	r, ok, err := w.store.ClaimReplay(ctx, id, w.node, lease)
	if err != nil {
		w.log.WarnContext(ctx, "cannot claim a replay: trying again soon", "replay_id", id, "error", err)
		return
	}
	if !ok {
		return
	}
	log := w.log.With("replay_id", id, "created_by", r.CreatedBy, "matched", r.Matched)
	if r.Done == 0 {
		log.InfoContext(ctx, "replay begins", "pace", r.Pace)
	}
	over, done, err := w.pages(ctx, r, end)
	if over {
		log.InfoContext(ctx, "replay is over", "done", done)
		return
	}
	failure, after := "", time.Duration(0)
	if err != nil && ctx.Err() == nil {
		log.WarnContext(ctx, "replay stopped: trying again soon", "done", done, "error", err)
		failure, after = explain(err), failureDelay
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), yieldTimeout)
	defer cancel()
	if err := w.store.YieldReplay(ctx, id, w.node, failure, after); err != nil {
		log.WarnContext(ctx, "cannot give a replay back: it goes on when its lease ends", "error", err)
	}
}

// explain is what readers of the row may know of a failure: the log has the rest.
func explain(err error) string {
	if store.IsTooSlow(err) {
		return "a page took too long, or another transaction held one of its deliveries: it is tried again"
	}
	return "the database failed: it is tried again"
}

// pages replays at the replay's pace until it is over, canceled or taken away, or the turn ends.
func (w *Worker) pages(ctx context.Context, r store.BulkReplay, end time.Time) (over bool, done int64, err error) {
	done = r.Done
	size := pageOf(r.Pace)
	next := time.Now()
	for time.Now().Before(end) {
		n, more, held, err := w.store.ReplayPage(ctx, r, w.node, size, lease)
		done += int64(n)
		if err != nil {
			return false, done, err
		}
		if !more || !held {
			return true, done, nil
		}
		next = next.Add(wait(n, r.Pace))
		if late := time.Now(); next.Before(late) {
			next = late // what was slower than the pace is not caught up with
		}
		if !sleep(ctx, time.Until(next)) {
			return false, done, ctx.Err()
		}
	}
	return false, done, nil
}

// pageOf is how many deliveries one transaction replays at that pace.
func pageOf(pace int) int { return min(max(pace/pagesASecond, 1), pageSize) }

// wait is how long n deliveries take at that pace.
func wait(n, pace int) time.Duration { return time.Duration(n) * time.Second / time.Duration(pace) }

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
