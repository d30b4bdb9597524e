package node

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivertype"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/worker"
)

const (
	// slack is how far before the front a fetch begins: a transaction may last for so long, and its jobs are found by the
	// next fetch all the same.
	slack = 3 * time.Second
	// lookInterval is how often a node looks for jobs behind that, unless one look takes more than a lookShare of the time. But
	// however long it took, also to a Postgres that did not answer, the next one follows within maxLookInterval.
	lookInterval, lookShare, maxLookInterval = 250 * time.Millisecond, 10, 30 * time.Second
	// slowFetch, and slowFetchEach for each job, is how long a fetch beyond what is being cleared takes that does not go through
	// many jobs that are held back, too.
	slowFetch, slowFetchEach = 50 * time.Millisecond, 100 * time.Microsecond
)

// front is where the queue of deliveries begins, as far as this node knows.
//
// River's fetch looks for the first available job from the beginning of an index, through the entries of all jobs that were
// there before. Usually Postgres has cleaned them up. As long as a transaction stays open anywhere on the server, it may not:
// after four minutes at 1,000 deliveries a second each fetch took a tenth of a second, and the next ones more. So fetches
// begin at the front. What has come in behind it, because a transaction took long to commit or a clock was set back, is
// looked for in the background, and fetched as River does when there is any.
//
// While the worker clears the queue of a backlog that is held back, there are two fronts: where it has cleared, and beyond all
// that was there when it began.
type front struct {
	store    *store.Store
	life     context.Context         //nolint:containedctx // the node's, for what goes on between two fetches
	clearing func() *worker.Clearing // nil, or it returns nil: the queue is not being cleared

	mu    sync.Mutex
	ended bool      // nothing more is fetched
	next  time.Time // the front, by the database's clock: the last job that was fetched, or the last fetch if that left nothing
	clock time.Time // of the database, at; zero: nothing is known yet
	at    time.Time

	around  bool                // the last fetch was one while the queue is cleared
	cleared store.QueuePosition // and this is where the first front had come

	behind  bool // there are jobs behind the front
	looking bool
	looked  time.Time     // when the last look ended
	took    time.Duration // how long it took
}

// get is a fetch of available jobs.
func (f *front) get(ctx context.Context, river riverdriver.Executor, p *riverdriver.JobGetAvailableParams) (*riverdriver.JobGetAvailableResult, error) {
	f.mu.Lock() // River fetches of a queue once at a time
	defer f.mu.Unlock()
	if f.ended {
		return &riverdriver.JobGetAvailableResult{}, nil
	}
	var c *worker.Clearing
	if f.clearing != nil {
		c = f.clearing()
	}
	if c == nil && f.around { // what was left between the two fronts is not known
		f.around, f.cleared, f.clock = false, store.QueuePosition{}, time.Time{}
	}
	if f.clock.IsZero() || f.behind && c == nil {
		f.behind = false
		asked := f.now()
		result, err := river.JobGetAvailable(ctx, p)
		if err == nil {
			f.saw(result.Jobs, p.MaxToLock, asked)
		}
		return result, err
	}
	by := store.Fetcher{Node: p.ClientID, Nodes: p.MaxAttemptedBy}
	if c != nil {
		return f.getAround(ctx, by, c, p.MaxToLock)
	}
	from, asked := f.next.Add(-slack), f.now()
	fetched, err := f.store.Fetch(ctx, by, from, p.MaxToLock)
	if err != nil {
		return nil, err
	}
	jobs := jobRows(fetched)
	f.saw(jobs, p.MaxToLock, asked)
	if !f.looking && time.Since(f.looked) >= min(max(lookInterval, lookShare*f.took), maxLookInterval) {
		f.looking = true
		go f.look(from)
	}
	return &riverdriver.JobGetAvailableResult{Jobs: jobs}, nil
}

// now is what the database's clock shows.
func (f *front) now() time.Time { return f.clock.Add(time.Since(f.at)) }

// getAround is a fetch while the queue is cleared.
func (f *front) getAround(ctx context.Context, by store.Fetcher, c *worker.Clearing, limit int) (*riverdriver.JobGetAvailableResult, error) {
	f.around = true
	var jobs []*rivertype.JobRow
	if c.Behind != f.cleared {
		cleared, err := f.store.FetchBetween(ctx, by, f.cleared, c.Behind, limit)
		if err != nil {
			return nil, err
		}
		if len(cleared) < limit {
			f.cleared = c.Behind
		}
		jobs = jobRows(cleared)
	}
	if limit -= len(jobs); limit > 0 {
		began := time.Now()
		fetched, err := f.store.FetchExcept(ctx, by, f.now().Add(-time.Since(c.Since)), c.Origins, limit)
		if err != nil || time.Since(began) > slowFetch+time.Duration(len(fetched))*slowFetchEach {
			c.Slow()
		}
		if err != nil && len(jobs) == 0 {
			return nil, err
		}
		jobs = append(jobs, jobRows(fetched)...)
	}
	return &riverdriver.JobGetAvailableResult{Jobs: jobs}, nil
}

// end waits for the fetch under way; no other one follows. River by itself begins its last one, and what that brings, some time
// after it was told to stop.
func (f *front) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
}

// saw moves the front: jobs are all that there were, up to limit, when the database's clock showed asked.
func (f *front) saw(jobs []*rivertype.JobRow, limit int, asked time.Time) {
	f.next = asked
	if len(jobs) == 0 {
		return
	}
	f.clock, f.at = *jobs[0].AttemptedAt, time.Now()
	f.next = f.clock
	if len(jobs) == limit {
		f.next = slices.MaxFunc(jobs, func(a, b *rivertype.JobRow) int { return a.ScheduledAt.Compare(b.ScheduledAt) }).ScheduledAt
	}
}

// look finds out whether there are jobs before from. When it fails, the next one does.
func (f *front) look(from time.Time) {
	began := time.Now()
	behind, err := f.store.AvailableBefore(f.life, from)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.behind = err == nil && behind
	f.looking, f.looked, f.took = false, time.Now(), time.Since(began)
}

func jobRows(fetched []store.FetchedJob) []*rivertype.JobRow {
	jobs := make([]*rivertype.JobRow, len(fetched))
	for i := range fetched {
		jobs[i] = jobRow(&fetched[i])
	}
	return jobs
}

func jobRow(j *store.FetchedJob) *rivertype.JobRow {
	return &rivertype.JobRow{
		ID:          j.ID,
		Attempt:     j.Attempt,
		AttemptedAt: &j.AttemptedAt,
		AttemptedBy: j.AttemptedBy,
		CreatedAt:   j.CreatedAt,
		EncodedArgs: j.Args,
		Kind:        j.Kind,
		MaxAttempts: j.MaxAttempts,
		Metadata:    j.Metadata,
		Priority:    j.Priority,
		Queue:       delivery.JobQueue,
		ScheduledAt: j.ScheduledAt,
		State:       rivertype.JobStateRunning,
		Tags:        j.Tags,
	}
}
