package worker

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/riverqueue/river"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/credential"
	"github.com/riverhook/riverhook/delivery/failpoint"
	"github.com/riverhook/riverhook/delivery/progress"
	"github.com/riverhook/riverhook/delivery/store"
)

// Config is what a worker needs. Every field is required unless it says otherwise.
type Config struct {
	Store     *store.Store      // on a pool prepared by store.TuneForBatches
	Transport http.RoundTripper // one request per call, see egress.NewTransport
	Log       *slog.Logger
	Node      string // this process, new at each start
	Policy    delivery.Policy
	Headers   Headers

	Concurrency         int // attempts in flight; default of the program 2000
	EndpointConcurrency int // of those, the share of an origin that does not answer; default of the program 100

	Timeout    time.Duration // of one attempt, all of it; default of the program 30 s
	Lease      time.Duration // how long a claim holds; at least Timeout + 2 s, default of the program Timeout + 60 s
	MaxPayload int           // bytes; a larger payload is not sent

	Keys        *credential.Keyring // that credentials and signing secrets are sealed under; may be empty
	LogRequests bool                // a line per request, redacted

	// Presence is the proof that this node lives, without which no attempt begins. Nil: only leases say so.
	Presence *Presence

	// JobEnded is told, before Work returns, which jobs were deleted in the record of their attempt, or when their delivery was
	// held back. It may be nil.
	JobEnded func(id int64)

	// SendWithoutCredential sends a delivery whose credential is missing without it, instead of failing the attempt.
	SendWithoutCredential bool

	Hooks Hooks // may be empty

	// Progress is told of each try of the worker's loops. It may be nil.
	Progress *progress.Board
}

// Worker is River's worker of the jobs that wake a delivery up.
type Worker struct {
	river.WorkerDefaults[delivery.JobArgs]

	store             *store.Store
	transport         http.RoundTripper
	log               *slog.Logger
	node              string
	policy            delivery.Policy
	headers           Headers
	timeout, lease    time.Duration
	maxPayload        int
	missingCredential bool
	keys              *credential.Keyring
	logRequests       bool
	hooks             Hooks
	progress          *progress.Board
	presence          *Presence
	jobEnded          func(int64)

	claims   group[delivery.JobArgs, claim]
	records  group[store.Attempt, record]
	holds    group[store.Release, store.ReleaseVerdict]
	limiter  *limiter
	working  atomic.Int64 // jobs that have a place
	clearing atomic.Pointer[Clearing]
	suspects [2]chan struct{} // places for deliveries whose last attempts were abandoned: SuspectFrom in a row, and more

	mu         sync.Mutex
	unresolved map[int64]int // deliveries with a claim of unknown outcome that is being released

	flying   sync.Mutex
	attempts map[*attempt]struct{} // in flight

	complained atomic.Int64 // when it was last said that attempts cannot be recorded, in nanoseconds
	leftBehind atomic.Bool  // there are claims that were neither recorded nor released

	// background are releases that go on after their job has ended. stop ends them.
	background sync.WaitGroup
	life       context.Context //nolint:containedctx // the worker's own, for what outlives a job
	stop       context.CancelFunc
}

const (
	// A flush takes few milliseconds; two at a time keep both database and process busy, more only make the batches smaller.
	claimLanes, claimSize   = 2, 500
	recordLanes, recordSize = 2, 500
	holdLanes, holdSize     = 1, 500
	// After paceMany were recorded or held back together, the next flush begins not sooner than so long later, or when a paceShare
	// of the places waits for it: nobody waits for these, and a small batch costs as much as a dozen members.
	recordPace, holdPace, paceMany, paceShare = 20 * time.Millisecond, 50 * time.Millisecond, 5, 10
	// maxBatchBytes of payload come with one claim.
	maxBatchBytes = 16 << 20
	// maxBatchPayload is the largest payload that comes with its claim. Larger ones are fetched after it: a claim that takes
	// its node down before it is answered is rolled back, so that nobody would count how often that happens.
	maxBatchPayload = 256 << 10
	// statementTimeout bounds one try of a claim, record or release. The server gives up before it.
	statementTimeout = store.BatchTimeout + 2*time.Second
	// busyDelay is when a row that was only locked is tried again.
	busyDelay = time.Second
	// suspectsAfterTwo and suspectsAfterMore bound how many deliveries whose last two, or more, attempts were abandoned are
	// claimed at a time: one of them may be what takes its node down, if only by what it is to be claimed, and must not take
	// the innocent with it.
	suspectsAfterTwo, suspectsAfterMore = 4, 1
	// suspectWait is how long one waits for its turn, and suspectDelay when its job is tried again if that did not come: at
	// least so long, and up to twice. That is short enough for River to keep the job available, so that a sweep sees it live.
	suspectWait, suspectDelay = 5 * time.Second, 2 * time.Second
	// stopGrace is how long, once the process is told to stop at once, an outcome that is there may still be recorded.
	stopGrace = 5 * time.Second
	// recordFor is how long a record is tried, if the lease does not hold longer, and complaintInterval is between two
	// complaints that it does not succeed.
	recordFor, complaintInterval = time.Hour, 10 * time.Second
)

// New is a worker. Close it after River's client has stopped.
func New(c Config) *Worker {
	w := &Worker{
		store: c.Store, transport: c.Transport, log: c.Log, node: c.Node, policy: c.Policy, headers: c.Headers,
		timeout: c.Timeout, lease: c.Lease, maxPayload: c.MaxPayload, missingCredential: c.SendWithoutCredential,
		keys: c.Keys, logRequests: c.LogRequests, presence: c.Presence, jobEnded: c.JobEnded, hooks: c.Hooks.whole(), progress: c.Progress,
		suspects:   [2]chan struct{}{make(chan struct{}, suspectsAfterTwo), make(chan struct{}, suspectsAfterMore)},
		unresolved: make(map[int64]int), attempts: make(map[*attempt]struct{}),
	}
	w.claims = group[delivery.JobArgs, claim]{flush: w.flushClaims, size: claimSize, lanes: claimLanes}
	w.records = group[store.Attempt, record]{flush: w.flushRecords, size: recordSize, lanes: recordLanes, pace: newPace(recordPace, paceMany, c.Concurrency/paceShare)}
	w.holds = group[store.Release, store.ReleaseVerdict]{flush: w.flushHolds, size: holdSize, lanes: holdLanes, pace: newPace(holdPace, paceMany, c.Concurrency/paceShare)}
	w.limiter = newLimiter(c.Concurrency, c.EndpointConcurrency)
	w.life, w.stop = context.WithCancel(context.Background())
	return w
}

// Timeout is River's limit for one job. It is none while the job is worked: claim, attempt and record have limits of their
// own, and River's would cost a goroutine and three timers for each. River's rescuer, which asks about jobs that are older
// than RescueAfter, must not take them for endless, or it would keep what a killed node left behind.
func (w *Worker) Timeout(job *river.Job[delivery.JobArgs]) time.Duration {
	if job.AttemptedAt != nil && time.Since(*job.AttemptedAt) < RescueAfter(w.timeout) {
		return -1
	}
	return JobTimeout(w.timeout)
}

// JobTimeout is how long a job with attempts of that timeout may run.
func JobTimeout(attempt time.Duration) time.Duration { return attempt + 30*time.Second }

// RescueAfter is the age from which River takes a running job with attempts of that timeout for lost. River compares the
// database's clock with that of its leader's machine, which may be minutes ahead of it. Nothing waits for it: what a dead node
// held, its peers and the sweep find.
func RescueAfter(attempt time.Duration) time.Duration {
	return JobTimeout(attempt) + 15*time.Minute
}

// Close waits until what the worker began in the background is done, or ctx is, and ends it.
func (w *Worker) Close(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		w.background.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
	w.stop()
	<-done
}

// Work does one job: claim, send, decide, record. The one path of first attempts, retries, replays and reclaims.
//
// It returns nil whenever there is nothing more to do for this job, whatever became of the delivery: retries are the
// row's, never River's. Where the process dies on the way, the sweep finds: before the claim, a due row whose job is no
// longer alive; after it, a lease that runs out; after the record, nothing to do.
func (w *Worker) Work(ctx context.Context, job *river.Job[delivery.JobArgs]) error {
	w.working.Add(1)
	defer w.working.Add(-1)
	failpoint.Hit(failpoint.AfterFetch)
	c, err := w.claim(ctx, job.Args)
	if c.delivery == nil {
		return err
	}
	if c.leave != nil {
		defer c.leave()
	}
	failpoint.Hit(failpoint.AfterClaim)
	if begun, err := w.begin(ctx, &c, job.ID); !begun {
		return err
	}

	made, err := w.attempt(ctx, &c, job.ID)
	if made == nil {
		return err
	}
	// Not below attempt's frame: a stack that the log line is too deep for is copied to a larger one, which took a twentieth of
	// the process's time.
	w.record(ctx, &c, made)
	return nil
}

// made is an attempt that was made, and the custom headers that were not sent.
type made struct {
	store.Attempt
	dropped []string
}

// attempt makes the attempt of a claim. It is nil when it was given up because the process stops; the error is what River is
// told then.
func (w *Worker) attempt(ctx context.Context, c *claim, job int64) (*made, error) {
	started := time.Now()
	w.hooks.Began(c.delivery.Waited + started.Sub(c.sent))
	s := w.send(ctx, c.delivery)
	if s.interrupted {
		w.limiter.done(time.Now(), c.delivery.Origin, started, noReaction)
		if s.untouched || !s.unproven {
			w.hooks.Ended(delivery.OutcomeUnknown, delivery.FailureNone, time.Since(started))
		}
		switch {
		case s.untouched:
			w.release(store.Release{Fence: c.delivery.Fence()})
			return nil, context.Cause(ctx)
		case !s.unproven: // bytes may have gone out: a sweep takes the claim back, and the attempt is abandoned
			w.leftBehind.Store(true)
			return nil, context.Cause(ctx)
		}
		s = sent{Observation: delivery.Observation{Abandoned: true, Error: unprovenText}}
	} else {
		w.limiter.done(time.Now(), c.delivery.Origin, started, reactionTo(s.Observation))
	}
	a := &made{dropped: s.dropped, Attempt: store.Attempt{
		Fence:      c.delivery.Fence(),
		Job:        job,
		Round:      c.delivery.Round,
		Number:     c.delivery.Attempt(),
		Started:    started,
		Duration:   time.Since(started),
		Decision:   delivery.Decide(c.delivery, s.Observation, w.policy, time.Now(), rand.Float64()), //nolint:gosec // jitter
		StatusCode: s.StatusCode,
		Error:      s.Error,
		Body:       s.body,
	}}
	if a.Error == "" {
		a.Error = s.note
	}
	w.hooks.Ended(a.Decision.Outcome, a.Decision.Failure, a.Duration)
	return a, nil
}

// claim claims a job's delivery. Where there is none to send, the error is what River is told.
func (w *Worker) claim(ctx context.Context, job delivery.JobArgs) (claim, error) {
	if w.isUnresolved(job.DeliveryID) || !w.presence.Proven() {
		return claim{}, river.JobSnooze(busyDelay)
	}
	c := w.claims.do(job)
	for c.verdict == store.ClaimDeferred {
		c = w.claims.do(job)
	}
	if c.verdict == store.ClaimSuspect {
		leave := w.turn(ctx, c.delivery.AbandonedCount)
		if leave == nil {
			w.log.DebugContext(ctx, "waiting for its turn: its last attempts were abandoned", "delivery_id", job.DeliveryID, "abandoned", c.delivery.AbandonedCount)
			return claim{}, river.JobSnooze(suspectDelay + rand.N(suspectDelay)) //nolint:gosec // jitter
		}
		if c = w.tryClaims([]delivery.JobArgs{job}, true)[0]; c.delivery == nil || c.verdict != store.ClaimTaken {
			leave()
		} else {
			c.leave = leave
		}
	}
	switch {
	case c.err != nil:
		return claim{}, river.JobSnooze(busyDelay)
	case c.verdict == store.ClaimBusy:
		w.log.DebugContext(ctx, "the row is locked: trying again", "delivery_id", job.DeliveryID)
		return claim{}, river.JobSnooze(busyDelay)
	case c.verdict != store.ClaimTaken:
		w.log.DebugContext(ctx, "nothing to claim", "delivery_id", job.DeliveryID, "claim", job.Claim)
		return claim{}, nil
	}
	return c, nil
}

// turn waits for the turn of a delivery whose last attempts, so many, were abandoned, and takes its place until leave is
// called. leave is nil when the turn did not come.
//
// It is not claimed while it waits: whatever takes the node down meanwhile would count against it.
func (w *Worker) turn(ctx context.Context, abandoned int) (leave func()) {
	places := w.suspects[min(abandoned, store.SuspectFrom+1)-store.SuspectFrom]
	turn := time.NewTimer(suspectWait)
	defer turn.Stop()
	select {
	case places <- struct{}{}:
		return func() { <-places }
	case <-turn.C:
	case <-ctx.Done():
	}
	return nil
}

// begin says whether the attempt of a claim may begin now: then the limiter's done is owed. If not the claim is given back,
// and the error is what River is told.
func (w *Worker) begin(ctx context.Context, c *claim, job int64) (begun bool, err error) {
	if hold := w.admit(ctx, c.delivery); hold != store.NotHeld {
		if ctx.Err() != nil {
			w.release(store.Release{Fence: c.delivery.Fence()})
			return false, context.Cause(ctx)
		}
		w.hold(store.Release{Fence: c.delivery.Fence(), Job: job, Hold: hold})
		return false, nil
	}
	if mayBegin := w.fetchPayload(ctx, c.delivery) && ctx.Err() == nil && !w.tooLate(c); !mayBegin {
		w.log.InfoContext(ctx, "claim released without an attempt", "delivery_id", c.delivery.ID, "waited", time.Since(c.sent).String())
		w.limiter.done(time.Now(), c.delivery.Origin, time.Time{}, noReaction)
		w.release(store.Release{Fence: c.delivery.Fence()})
		return false, nil
	}
	return true, nil
}

// fetchPayload fetches a payload that was too large for the claim.
func (w *Worker) fetchPayload(ctx context.Context, d *delivery.Delivery) (ok bool) {
	if d.Payload != nil || d.PayloadBytes > w.maxPayload {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	payload, err := w.store.Payload(ctx, d.Fence())
	if err != nil {
		w.log.WarnContext(ctx, "a payload could not be fetched: trying again", "delivery_id", d.ID, "error", err)
	}
	d.Payload = payload
	return payload != nil
}

// tooLate says whether an attempt that begins now could outlast its lease, or its claim may have been taken back already: the
// process may have been frozen, or the claim slow.
func (w *Worker) tooLate(c *claim) bool {
	return elapsed(c.sent) > (w.lease-w.timeout)/2 || !w.presence.ProvenSince(c.sent)
}

// attempt is one in flight.
type attempt struct {
	end      context.CancelFunc
	unproven atomic.Bool // it was ended by EndAttempts
}

// unprovenText is what the ledger says of an attempt that was ended by EndAttempts.
const unprovenText = "ended by its node, which had lost the database: nobody knows whether it arrived"

// inFlight is an attempt that begins now, with its context: that ends after the timeout, with ctx, with EndAttempts, or when
// over is called, which it must be.
func (w *Worker) inFlight(ctx context.Context) (a *attempt, inner context.Context, over func()) {
	a = new(attempt)
	inner, a.end = context.WithTimeout(ctx, w.timeout)
	w.flying.Lock()
	w.attempts[a] = struct{}{}
	w.flying.Unlock()
	return a, inner, func() {
		w.flying.Lock()
		delete(w.attempts, a)
		w.flying.Unlock()
		a.end()
	}
}

// EndAttempts ends all attempts in flight, since this node could not prove that it lives: others may send again what it was
// sending. What became of them nobody knows, and the ledger says so.
func (w *Worker) EndAttempts() {
	w.flying.Lock()
	defer w.flying.Unlock()
	for a := range w.attempts {
		a.unproven.Store(true)
		a.end()
	}
}

// LeftBehind says whether there may be claims that were neither recorded nor released. Ask after Close.
func (w *Worker) LeftBehind() bool { return w.leftBehind.Load() }

// claim is what became of one job's claim.
type claim struct {
	verdict  store.ClaimVerdict
	delivery *delivery.Delivery // when it was taken; a suspect's has its AbandonedCount only
	leave    func()             // of a suspect: gives its place back
	sent     time.Time          // before the claim went out: the lease is at least that much younger
	err      error
}

func (w *Worker) flushClaims(jobs []delivery.JobArgs) []claim { return w.tryClaims(jobs, false) }

// tryClaims tries once. A batch that fails because of what one row holds is split until that one is alone.
func (w *Worker) tryClaims(jobs []delivery.JobArgs, suspects bool) []claim {
	w.hooks.Batch(StepClaim, len(jobs))
	end := w.progress.Begin("claims", statementTimeout)
	claims := make([]claim, len(jobs))
	sent := time.Now()
	ctx, cancel := context.WithTimeout(w.life, statementTimeout)
	defer cancel()
	claimed, err := w.store.Claim(ctx, w.node, jobs, store.ClaimLimits{Lease: w.lease, MaxPayload: min(w.maxPayload, maxBatchPayload), MaxBatch: maxBatchBytes, Suspects: suspects})
	end()
	if store.IsRowError(err) && len(jobs) > 1 {
		half := len(jobs) / 2
		return append(w.tryClaims(jobs[:half], suspects), w.tryClaims(jobs[half:], suspects)...)
	}
	if err != nil {
		w.log.ErrorContext(ctx, "claim failed: trying again", "jobs", len(jobs), "error", err)
		for i := range jobs {
			claims[i] = claim{err: err}
		}
		if !store.IsRefusal(err) {
			w.releaseUnknown(jobs)
		}
		return claims
	}
	for i := range claimed {
		claims[i] = claim{verdict: claimed[i].Verdict, delivery: &claimed[i].Delivery, sent: sent}
	}
	return claims
}

// release gives claims back, in the background, until it is done or their lease has ended.
func (w *Worker) release(releases ...store.Release) {
	w.background.Go(func() { w.releaseNow(releases) })
}

// releaseUnknown releases claims of which nobody knows whether they were committed: what was, nobody is sending. Until that
// is known, their deliveries are not claimed here again: a second claim would have the same fence, and be released in the
// middle of its attempt.
func (w *Worker) releaseUnknown(jobs []delivery.JobArgs) {
	releases := make([]store.Release, len(jobs))
	w.mu.Lock()
	for i, job := range jobs {
		releases[i].Fence = delivery.Fence{ID: job.DeliveryID, Claim: job.Claim + 1, Node: w.node}
		w.unresolved[job.DeliveryID]++
	}
	w.mu.Unlock()
	w.background.Go(func() {
		w.releaseNow(releases)
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, job := range jobs {
			if w.unresolved[job.DeliveryID]--; w.unresolved[job.DeliveryID] == 0 {
				delete(w.unresolved, job.DeliveryID)
			}
		}
	})
}

func (w *Worker) isUnresolved(id int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.unresolved[id] > 0
}

func (w *Worker) releaseNow(releases []store.Release) {
	ctx, cancel := context.WithTimeout(w.life, w.lease)
	defer cancel()
	for delay := minDelay; len(releases) > 0; delay = min(2*delay, maxDelay) {
		end := w.progress.Begin("releases", statementTimeout)
		try, cancel := context.WithTimeout(ctx, statementTimeout)
		verdicts, err := w.store.Release(try, releases)
		cancel()
		end()
		if err == nil {
			releases = stillBusy(releases, verdicts)
		}
		if len(releases) > 0 && !sleep(ctx, delay) {
			w.leftBehind.Store(true)
			return
		}
	}
}

// stillBusy are the releases to try again.
func stillBusy(releases []store.Release, verdicts []store.ReleaseVerdict) (busy []store.Release) {
	for i, verdict := range verdicts {
		if verdict == store.ReleaseBusy {
			busy = append(busy, releases[i])
		}
	}
	return busy
}

// Delays between two tries of a record or release.
const minDelay, maxDelay = 50 * time.Millisecond, 2 * time.Second

// record is what became of one attempt's record.
type record struct {
	verdict store.RecordVerdict
	err     error
}

// done says that trying again is of no use.
func (r *record) done() bool {
	return r.err == nil && r.verdict != store.RecordBusy || store.IsRowError(r.err)
}

// record writes an outcome, again until it is written, its claim is lost, or recordFor has passed, and logs it. That goes on
// after the end of the lease: the fence says whether anybody has taken the claim back, and while the database takes nothing,
// nobody can. The outcome is never thrown away for a fault of the database: the row stays claimed, and the sweep takes it back.
func (w *Worker) record(ctx context.Context, c *claim, a *made) {
	r := w.records.do(a.Attempt)
	if !r.done() {
		r = w.recordAgain(ctx, c, a.Attempt, r)
	}
	switch {
	case r.err != nil || r.verdict == store.RecordBusy:
	case r.verdict == store.RecordLost:
		w.hooks.Late()
	default:
		if w.jobEnded != nil {
			w.jobEnded(a.Job)
		}
		a.Ended = r.verdict == store.RecordedEnded
		w.hooks.Recorded(c.delivery, &a.Attempt)
	}
	w.logAttempt(ctx, c.delivery, a, r)
}

// recordAgain goes on after r, which was not the end of it.
func (w *Worker) recordAgain(ctx context.Context, c *claim, attempt store.Attempt, r record) record {
	deadline, cancel := context.WithDeadline(w.life, c.sent.Add(max(w.lease, recordFor)))
	defer cancel()
	// Told to stop at once, it tries for stopGrace more. (A job that merely ran into River's timeout goes on.)
	defer context.AfterFunc(ctx, func() {
		if !errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
			time.AfterFunc(stopGrace, cancel)
		}
	})()
	for delay := minDelay; !r.done() && sleep(deadline, delay); delay = min(2*delay, maxDelay) {
		r = w.records.do(attempt)
	}
	if !r.done() {
		w.leftBehind.Store(true)
	}
	return r
}

// flushRecords tries once. A batch that fails because of what one row holds is split until that one is alone.
func (w *Worker) flushRecords(attempts []store.Attempt) []record {
	w.hooks.Batch(StepRecord, len(attempts))
	// Not the jobs' context: an outcome that is there is recorded also while the process stops.
	ctx, cancel := context.WithTimeout(context.Background(), statementTimeout)
	defer cancel()
	end := w.progress.Begin("records", statementTimeout)
	failpoint.Hit(failpoint.BeforeRecord)
	verdicts, err := w.store.Record(ctx, attempts)
	failpoint.Hit(failpoint.AfterRecord)
	end()
	if store.IsRowError(err) && len(attempts) > 1 {
		half := len(attempts) / 2
		return append(w.flushRecords(attempts[:half]), w.flushRecords(attempts[half:])...)
	}
	if err != nil && !store.IsRowError(err) && w.mayComplain() {
		w.log.WarnContext(ctx, "attempts made, but not recorded yet: trying again", "attempts", len(attempts), "error", err)
	}
	records := make([]record, len(attempts))
	for i := range records {
		if records[i].err = err; err == nil {
			records[i].verdict = verdicts[i]
		}
	}
	return records
}

// mayComplain says whether the last complaint about records is long enough ago for another one.
func (w *Worker) mayComplain() bool {
	now, last := time.Now().UnixNano(), w.complained.Load()
	return now-last > int64(complaintInterval) && w.complained.CompareAndSwap(last, now)
}

// sleep waits for d. It is false when ctx ended first.
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

// logAttempt is the one log line of an attempt.
func (w *Worker) logAttempt(ctx context.Context, d *delivery.Delivery, a *made, r record) {
	decision := &a.Decision
	attrs := append(make([]slog.Attr, 0, 14),
		slog.Int64("delivery_id", d.ID),
		slog.String("organization_id", d.OrganizationID),
		slog.String("workflow_run_id", d.WorkflowRunID),
		slog.String("webhook_name", d.WebhookName),
		slog.Int("attempt", a.Number),
		slog.Int("max_attempts", d.MaxAttemptsUnder(w.policy)),
		slog.String("outcome", string(decision.Outcome)),
		slog.String("endpoint_origin", d.Origin),
		slog.String("duration", a.Duration.Round(10*time.Microsecond).String()),
	)
	if a.StatusCode != 0 {
		attrs = append(attrs, slog.Int("status", a.StatusCode))
	}
	if decision.Failure != delivery.FailureNone {
		attrs = append(attrs, slog.String("failure_kind", string(decision.Failure)))
		if decision.Failure != delivery.FailureStatus { // its text has the beginning of the answer
			attrs = append(attrs, slog.String("error", decision.Error))
		}
	}
	if len(a.dropped) > 0 {
		attrs = append(attrs, slog.Any("dropped_headers", a.dropped))
	}

	level, message := slog.LevelWarn, "delivery dead-lettered"
	switch {
	case r.err != nil, r.verdict == store.RecordBusy:
		level, message = slog.LevelError, "attempt made, but not recorded: it is repeated after the lease"
		cause := errors.New("the row stayed locked by another transaction")
		if r.err != nil {
			cause = r.err
		}
		attrs = append(attrs, slog.String("cause", cause.Error()))
	case r.verdict == store.RecordLost:
		message = "late outcome: the claim was taken away meanwhile"
	case r.verdict == store.RecordedEnded:
		level, message = slog.LevelInfo, "attempt made after the delivery was canceled"
	case decision.Failure == delivery.FailureInternal:
		level = slog.LevelError
	case decision.Status == delivery.StatusSucceeded:
		level, message = slog.LevelInfo, "delivery succeeded"
		if len(a.dropped) > 0 {
			level = slog.LevelWarn
		}
	case decision.Status == delivery.StatusPending:
		message = "attempt failed: retrying"
		attrs = append(attrs, slog.String("next_delay", decision.Delay.Round(time.Millisecond).String()))
	}
	w.log.LogAttrs(ctx, level, message, attrs...)
}
