package node

import (
	"context"
	"sync"
	"time"

	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivertype"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
)

const (
	// slack is how far before the last job a fetch begins: a transaction may last for so long, and its jobs are found by the
	// next fetch all the same.
	slack = 3 * time.Second
	// lookInterval is how often a node looks for jobs behind that, unless one look takes more than a lookShare of the time.
	lookInterval, lookShare = 250 * time.Millisecond, 10
)

// front is where the queue of deliveries begins, as far as this node knows.
//
// River's fetch looks for the first available job from the beginning of an index, through the entries of all jobs that were
// there before. Usually Postgres has cleaned them up. As long as a transaction stays open anywhere on the server, it may not:
// after four minutes at 1,000 deliveries a second each fetch took a tenth of a second, and the next ones more. So fetches
// begin at the front. What has come in behind it, because a transaction took long to commit or a clock was set back, is
// looked for in the background, and fetched as River does when there is any.
type front struct {
	store *store.Store
	life  context.Context //nolint:containedctx // the node's, for what goes on between two fetches

	mu      sync.Mutex
	ended   bool      // nothing more is fetched
	next    time.Time // when the last job that was fetched was scheduled
	drained bool      // there was none after it
	clock   time.Time // of the database, at; zero: nothing is known yet
	at      time.Time

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
	if f.clock.IsZero() || f.behind {
		f.behind = false
		result, err := river.JobGetAvailable(ctx, p)
		if err == nil {
			f.saw(result.Jobs, p.MaxToLock)
		}
		return result, err
	}
	from := f.next.Add(-slack)
	if f.drained {
		from = f.clock.Add(time.Since(f.at) - slack)
	}
	fetched, err := f.store.Fetch(ctx, p.ClientID, from, p.MaxToLock, p.MaxAttemptedBy)
	if err != nil {
		return nil, err
	}
	jobs := make([]*rivertype.JobRow, len(fetched))
	for i := range fetched {
		jobs[i] = jobRow(&fetched[i])
	}
	f.saw(jobs, p.MaxToLock)
	if !f.looking && time.Since(f.looked) >= max(lookInterval, lookShare*f.took) {
		f.looking = true
		go f.look(from)
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

// saw moves the front to the last of jobs, which are all that there are, up to limit.
func (f *front) saw(jobs []*rivertype.JobRow, limit int) {
	f.drained = len(jobs) < limit
	if len(jobs) == 0 {
		return
	}
	f.next = jobs[0].ScheduledAt
	for _, j := range jobs {
		if j.ScheduledAt.After(f.next) {
			f.next = j.ScheduledAt
		}
	}
	if at := jobs[0].AttemptedAt; at != nil {
		f.clock, f.at = *at, time.Now()
	}
}

// look finds out whether there are jobs before from. When it fails, the next one comes soon.
func (f *front) look(from time.Time) {
	began := time.Now()
	behind, err := f.store.AvailableBefore(f.life, from)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.behind = err == nil && behind
	f.looking, f.looked, f.took = false, time.Now(), time.Since(began)
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
