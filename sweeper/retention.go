package sweeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/riverqueue/river"

	"github.com/riverhook/riverhook/delivery/progress"
	"github.com/riverhook/riverhook/delivery/store"
)

// RetentionQueue is River's queue of retention: its own, so that older programs leave it alone and a long one delays no sweep.
const RetentionQueue = "riverhook_retention"

const (
	// retentionInterval is the time between two retentions. Each goes on until nothing is left.
	retentionInterval = 5 * time.Minute
	// RetentionTimeout bounds one retention. What it does not get to, the next one does.
	RetentionTimeout = time.Hour
	// retentionPageSize deliveries are removed in one transaction.
	retentionPageSize = 500
	// retentionPause is how long it rests after a page, in units of what the page took: it works a tenth of the time, and
	// gives way to deliveries as they make its pages slower. (A page takes about 8 ms where nothing else happens.)
	retentionPause = 9
	// maxRetentionPause: the first page also walks over what was removed since the last vacuum.
	maxRetentionPause = 2 * time.Second
	// maxReferred is how many deliveries that another table refers to are passed over before it gives up.
	maxReferred = 10_000
)

// ErrRetentionRunning says that another retention is running: there is no need for a second.
var ErrRetentionRunning = errors.New("another retention is running")

// RetentionConfig says how long what ended is kept. 0 is for ever.
type RetentionConfig struct {
	Store      *store.Store
	Done       time.Duration // deliveries that succeeded or were canceled
	DeadLetter time.Duration // dead letters
	Log        *slog.Logger
	Progress   *progress.Board // is told of each page; may be nil
}

// Forever says that nothing is ever removed.
func (c RetentionConfig) Forever() bool { return c.Done <= 0 && c.DeadLetter <= 0 }

// Retention removes deliveries that ended long ago, and their attempts.
type Retention struct{ RetentionConfig }

// NewRetention is a retention.
func NewRetention(c RetentionConfig) *Retention { return &Retention{c} }

// RetentionCounts is what one retention did.
type RetentionCounts struct {
	Done        int // removed, succeeded and canceled
	DeadLetters int // removed
	Attempts    int // removed with them
	Referred    int // could not be removed: another table refers to them
}

// Changed says whether anything was removed.
func (c RetentionCounts) Changed() bool { return c.Done+c.DeadLetters > 0 }

// Run removes page after page, with rests in between, until nothing is left that is old enough. It returns
// ErrRetentionRunning when it meets another one of this schema, on whatever node. On an error the counts say what was done
// before it.
func (r *Retention) Run(ctx context.Context) (total RetentionCounts, err error) {
	for _, part := range []struct {
		what    store.Retained
		age     time.Duration
		removed *int
	}{
		{store.RetainedDone, r.Done, &total.Done},
		{store.RetainedDeadLetters, r.DeadLetter, &total.DeadLetters},
	} {
		if part.age <= 0 {
			continue
		}
		var page store.RetentionPage
		for !page.Last {
			started := time.Now()
			page, err = r.page(ctx, part.what, part.age, page.Next)
			if err != nil {
				return total, fmt.Errorf("sweeper: %w", err)
			}
			if page.Busy {
				return total, ErrRetentionRunning
			}
			*part.removed += page.Deliveries
			total.Attempts += page.Attempts
			if len(page.Next.Kept) > maxReferred {
				return total, fmt.Errorf("sweeper: retention: another table refers to more than %d deliveries that are old enough to go: declare its foreign key ON DELETE CASCADE or SET NULL", maxReferred)
			}
			if !page.Last && !wait(ctx, min(retentionPause*time.Since(started), maxRetentionPause)) {
				return total, fmt.Errorf("sweeper: retention: %w", ctx.Err())
			}
		}
		total.Referred += len(page.Next.Kept)
	}
	return total, nil
}

func (r *Retention) page(ctx context.Context, what store.Retained, age time.Duration, after store.RetentionCursor) (store.RetentionPage, error) {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	defer r.Progress.Begin("retention page", pageTimeout)()
	return r.Store.RetentionPage(ctx, what, age, after, retentionPageSize)
}

// RetentionJobArgs are the arguments of a retention's job: none. How long what ended is kept is a setting of the node that
// works it.
type RetentionJobArgs struct{}

// Kind is River's name of the job.
func (RetentionJobArgs) Kind() string { return "riverhook_retention" }

// InsertOpts are one try, and not unique, as those of a sweep.
func (RetentionJobArgs) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: RetentionQueue, MaxAttempts: 1}
}

// PeriodicRetention is the job that removes every 5 minutes, and when a leader is elected.
func PeriodicRetention() *river.PeriodicJob {
	return river.NewPeriodicJob(
		river.PeriodicInterval(retentionInterval),
		func() (river.JobArgs, *river.InsertOpts) { return RetentionJobArgs{}, nil },
		&river.PeriodicJobOpts{ID: "riverhook_retention", RunOnStart: true},
	)
}

// RetentionWorker is River's worker of retention.
type RetentionWorker struct {
	river.WorkerDefaults[RetentionJobArgs]
	retention *Retention
}

// NewRetentionWorker is River's worker of retention by r.
func NewRetentionWorker(r *Retention) *RetentionWorker { return &RetentionWorker{retention: r} }

// Timeout is long: a retention goes on until nothing is left.
func (*RetentionWorker) Timeout(*river.Job[RetentionJobArgs]) time.Duration { return RetentionTimeout }

// Work removes once. It is not an error when another one runs, nor when this one fails: the next one comes soon.
func (w *RetentionWorker) Work(ctx context.Context, _ *river.Job[RetentionJobArgs]) error {
	started := time.Now()
	counts, err := w.retention.Run(ctx)
	log := w.retention.Log.With(
		"deliveries", counts.Done, "dead_letters", counts.DeadLetters, "attempts", counts.Attempts, "referred", counts.Referred,
		"duration", time.Since(started).Round(time.Millisecond).String())
	switch {
	case errors.Is(err, ErrRetentionRunning):
		log.DebugContext(ctx, "retention: another one is running")
	case err != nil && ctx.Err() != nil:
		log.InfoContext(ctx, "retention interrupted: the next one goes on")
	case err != nil:
		log.ErrorContext(ctx, "retention failed: the next one tries again", "error", err)
	case counts.Referred > 0:
		log.WarnContext(ctx, "retention: another table refers to deliveries that are old enough to go; declare its foreign key ON DELETE CASCADE or SET NULL")
	case counts.Changed():
		log.InfoContext(ctx, "retention")
	default:
		log.DebugContext(ctx, "retention")
	}
	return nil
}
