package worker

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
)

const (
	// isolationInterval is how often held deliveries are pulled and the queue is cleared; pausesInterval is how soon a
	// pause is known.
	isolationInterval, pausesInterval = 250 * time.Millisecond, time.Second
	// heldReceivers are looked at in one round; the next one goes on where this one ended.
	heldReceivers = 1000
	// manyRefusals of an origin between two rounds are a sign of more in the queue, which is cleared then: in pages of clearSize
	// jobs, until one has few that are held back.
	manyRefusals, clearSize, few = 50, 500, 50
	// stay is how many of a page stay in the queue, so that a receiver that has recovered is noticed.
	stay = 10
	// What waits behind the backlog of a busy origin passes it: so many origins are looked at in one round, and so many of
	// their deliveries pass.
	passingOrigins, passing = 1000, 1000
	// passingCleared is the same while the queue is cleared, of all that came before that began: each passes once.
	passingCleared = 4000
	// soon is when the next round follows one that found more of a receiver that answers than it pulled, and at the earliest.
	soon = 20 * time.Millisecond
	// isolationStatements have a statementTimeout each in one round: pauses, passing, pulling, clearing.
	isolationStatements = 4
)

// admit waits, for firstAnswer at most, until an attempt may begin, or says why the delivery is to be held back.
func (w *Worker) admit(ctx context.Context, d *delivery.Delivery) store.HoldReason {
	r := store.Receiver{Origin: d.Origin, Organization: d.OrganizationID}
	hold, turn := w.limiter.admit(time.Now(), r, false)
	if turn == nil {
		return hold
	}
	last := time.NewTimer(firstAnswer)
	defer last.Stop()
	for turn != nil {
		select {
		case <-turn:
			hold, turn = w.limiter.admit(time.Now(), r, false)
		case <-last.C:
			w.limiter.leave(r.Origin, turn)
			hold, turn = w.limiter.admit(time.Now(), r, true)
		case <-ctx.Done():
			w.limiter.leave(r.Origin, turn)
			return hold
		}
	}
	return hold
}

// hold gives a claim back until the delivery is pulled. Its job ends with it.
func (w *Worker) hold(r store.Release) {
	switch w.holds.do(r) {
	case store.Released:
		if w.jobEnded != nil {
			w.jobEnded(r.Job)
		}
	case store.ReleaseBusy:
		w.release(r)
	}
}

// flushHolds says of each what became of it.
func (w *Worker) flushHolds(releases []store.Release) []store.ReleaseVerdict {
	w.hooks.Batch(StepHold, len(releases))
	ctx, cancel := context.WithTimeout(w.life, statementTimeout)
	defer cancel()
	end := w.progress.Begin("holds", statementTimeout)
	verdicts, err := w.store.Release(ctx, releases)
	end()
	if err != nil {
		w.log.WarnContext(ctx, "holding back failed: trying again", "deliveries", len(releases), "error", err)
		return slices.Repeat([]store.ReleaseVerdict{store.ReleaseBusy}, len(releases))
	}
	return verdicts
}

// LoadPauses reads what is paused, so that nothing of it is sent.
func (w *Worker) LoadPauses(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	found, err := w.store.PausedReceivers(ctx)
	if err != nil {
		return err
	}
	pauses := make([]pause, len(found))
	for i, r := range found {
		pauses[i] = pause{origin: r.Origin, organization: r.Organization}
	}
	w.limiter.setPauses(pauses)
	return nil
}

// Isolate pulls held deliveries for which there is room, clears the queue of what would be held back, and lets others pass
// the backlog of a busy origin, until ctx ends. What fails is tried again in the next round.
func (w *Worker) Isolate(ctx context.Context) {
	at, pause := isolated{loaded: time.Now()}, isolationInterval
	for w.rest(ctx, pause+rand.N(pause/5+1)) { //nolint:gosec // so that nodes take turns
		end := w.progress.Begin("isolation", isolationStatements*statementTimeout)
		pause = w.isolate(ctx, &at)
		end()
	}
}

// rest ends after d, or before that when there are many refusals; it is false when ctx ends.
func (w *Worker) rest(ctx context.Context, d time.Duration) bool {
	if d <= soon {
		return sleep(ctx, d)
	}
	if !sleep(ctx, soon) {
		return false
	}
	more := time.NewTimer(d - soon)
	defer more.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-w.limiter.many:
	case <-more.C:
	}
	return true
}

// isolated is where a round of Isolate goes on from.
type isolated struct {
	loaded   time.Time // when the pauses were
	after    store.Receiver
	passedBy string
	clearing
}

// clearing is what the queue is being cleared of, if anything.
type clearing struct {
	refused map[string]store.HoldReason // for these origins
	paused  bool                        // and what people hold back
	since   time.Time                   // when it began
	behind  store.QueuePosition         // it is clear up to there
}

func (c *clearing) any() bool { return len(c.refused) > 0 || c.paused }

// Clearing is what the queue is being cleared of: deliveries for some origins, and those that are paused. They stand in
// others' way, who are fetched meanwhile: those before a place behind which the queue is clear, and those that have come, or
// have passed, since it began.
type Clearing struct {
	Origins []string
	Since   time.Time
	Behind  store.QueuePosition

	slow atomic.Bool
}

// Slow says that to fetch what has come since the clearing began takes long: much of it is held back, too. Then it is as if
// the clearing had begun now.
func (c *Clearing) Slow() { c.slow.Store(true) }

// Clearing is what the queue is being cleared of, or nil.
func (w *Worker) Clearing() *Clearing { return w.clearing.Load() }

// tell lets Clearing know.
func (w *Worker) tell(c *clearing) {
	if before := w.clearing.Load(); before != nil && before.slow.Load() {
		c.since = time.Now()
	}
	if !c.any() {
		w.clearing.Store(nil)
		return
	}
	w.clearing.Store(&Clearing{Origins: slices.Collect(maps.Keys(c.refused)), Since: c.since, Behind: c.behind})
}

// isolate is one round, and says how soon the next one is.
func (w *Worker) isolate(ctx context.Context, at *isolated) (pause time.Duration) {
	w.limiter.look(time.Now())
	if time.Since(at.loaded) >= pausesInterval {
		at.loaded = time.Now()
		if err := w.LoadPauses(ctx); err != nil && ctx.Err() == nil {
			w.log.DebugContext(ctx, "pauses are not known anew: trying again", "error", err)
		}
		w.limiter.forget(at.loaded)
	}
	w.refusals(&at.clearing)
	pause = isolationInterval
	var more bool
	var err error
	at.passedBy, err = w.pass(ctx, at.passedBy, &at.clearing)
	if err == nil {
		if at.after, more, err = w.pull(ctx, at.after, at.refused); more {
			pause = soon
		}
	}
	if err == nil && at.any() {
		if err = w.clear(ctx, &at.clearing); at.any() {
			pause = 0
		}
	}
	if err != nil { // what is not cleared is fetched as always
		at.clearing = clearing{}
		w.tell(&at.clearing)
		if ctx.Err() == nil {
			w.log.DebugContext(ctx, "isolation: trying again", "error", err)
		}
	}
	return pause
}

// refusals begins to clear the queue where most of what came from it was refused: of a mixed one, holding back by the page
// takes more than it gives. An origin that is not refused any more is left in peace.
func (w *Worker) refusals(c *clearing) {
	now := time.Now()
	refused, paused, mostly := w.limiter.refusals(now)
	if !c.any() {
		*c = clearing{refused: make(map[string]store.HoldReason), since: now}
	}
	if c.any() || mostly {
		maps.Copy(c.refused, refused)
		c.paused = c.paused || paused
	}
	maps.DeleteFunc(c.refused, func(origin string, _ store.HoldReason) bool { return !w.limiter.refuses(now, origin) })
	w.tell(c)
}

// clear clears the queue for as long as a round takes, or to its end. It rests as long as it works: nobody has to wait for it,
// and what it does takes from the database what the others are sent with.
func (w *Worker) clear(ctx context.Context, c *clearing) error {
	for began := time.Now(); time.Since(began) < isolationInterval; {
		pageBegan := time.Now()
		try, cancel := context.WithTimeout(ctx, statementTimeout)
		page, err := w.store.HoldQueued(try, c.refused, c.behind, stay, clearSize)
		cancel()
		took := time.Since(pageBegan)
		if page.Held > 0 {
			w.log.DebugContext(ctx, "held back", "deliveries", page.Held)
		}
		if err != nil || page.Seen < clearSize || page.Held < few {
			*c = clearing{}
			w.tell(c)
			return err
		}
		c.behind = page.Last
		w.tell(c)
		if !sleep(ctx, min(took, isolationInterval)) {
			return nil
		}
	}
	return nil
}

// pull gives held deliveries a job where there is room, of each origin for each organization in turn, but for those that the
// queue is being cleared of. more says that there is more of one that answers.
func (w *Worker) pull(ctx context.Context, after store.Receiver, refused map[string]store.HoldReason) (next store.Receiver, more bool, err error) {
	try, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	receivers, err := w.store.HeldReceivers(try, after, heldReceivers)
	if err != nil {
		return after, false, err
	}
	if len(receivers) == heldReceivers {
		next = receivers[len(receivers)-1]
	}
	now := time.Now()
	var pulls []store.Pull
	var flowing []bool
	chunks := byOrigin(receivers)
	for turn, chunk := range chunks {
		if _, is := refused[chunk[0].Origin]; is {
			continue
		}
		// What is there is shared out among the organizations; what one does not take is there again in the next round.
		for i, r := range chunk {
			if n, flows := w.limiter.room(now, r, maxPull/(len(chunk)-i), len(chunks)-turn); n > 0 {
				pulls, flowing = append(pulls, store.Pull{Receiver: r, N: n}), append(flowing, flows)
			}
		}
	}
	if len(pulls) == 0 {
		return next, false, nil
	}
	pulled, err := w.store.Pull(try, pulls)
	if err != nil {
		return next, false, err
	}
	for i, p := range pulls {
		w.limiter.notComing(p.Origin, p.N-pulled[i])
		more = more || flowing[i] && pulled[i] == p.N
	}
	return next, more, nil
}

// byOrigin are the receivers, which are in order, in groups of an origin, another one first every time, and in each another
// organization.
func byOrigin(receivers []store.Receiver) (groups [][]store.Receiver) {
	for len(receivers) > 0 {
		n := 1
		for n < len(receivers) && receivers[n].Origin == receivers[0].Origin {
			n++
		}
		group := slices.Clone(receivers[:n])
		rand.Shuffle(n, func(i, j int) { group[i], group[j] = group[j], group[i] }) //nolint:gosec // a fair turn
		groups = append(groups, group)
		receivers = receivers[n:]
	}
	rand.Shuffle(len(groups), func(i, j int) { groups[i], groups[j] = groups[j], groups[i] }) //nolint:gosec // a fair turn
	return groups
}

// pass lets what waits behind a backlog pass it: that of an origin that has more than its share while all places are taken,
// or, while the queue is cleared, that of those whose deliveries are held back.
func (w *Worker) pass(ctx context.Context, after string, c *clearing) (next string, err error) {
	busy, crowded := w.limiter.busy(time.Now())
	crowded = crowded && w.working.Load() >= int64(w.limiter.slots-w.limiter.reserve())
	p := store.Passing{Busy: busy, Each: w.limiter.share, All: passing, After: after, Origins: passingOrigins, Crowded: crowded}
	switch {
	case c.any():
		p.Since, p.All = c.since, passingCleared
		if !crowded { // there is no share to keep to: they pass what is not sent
			p.Each = passing
		}
	case !crowded:
		return "", nil
	}
	try, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	passed, next, err := w.store.LetPass(try, p)
	if passed > 0 {
		w.log.DebugContext(ctx, "others pass a backlog", "deliveries", passed)
	}
	return next, err
}
