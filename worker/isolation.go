package worker

import (
	"context"
	"math/rand/v2"
	"slices"
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
	// manyRefusals of an origin in one round are a sign of more in the queue; then the first clearSize jobs are looked at, and
	// the next round follows at once if many of them were held back.
	manyRefusals, clearSize = 50, 2000
	// linger is how long a delivery keeps its place before it is held back, while the queue is cleared.
	linger = 2 * isolationInterval
	// What waits behind the backlog of a busy origin passes it: so many origins are looked at in one round, and so many of
	// their deliveries pass.
	passingOrigins, passing = 1000, 1000
	// pullAgain is how soon the next round follows one that found more of a receiver that answers than it pulled.
	pullAgain = 20 * time.Millisecond
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

// hold gives a claim back until the delivery is pulled. While the queue's front is cleared of such deliveries it keeps its
// place for a while: to fetch, claim and hold them one by one costs several times as much.
func (w *Worker) hold(ctx context.Context, r store.Release) {
	if r.Hold != store.HeldPaused && w.clearing.Load() {
		sleep(ctx, linger)
	}
	if !w.holds.do(r) {
		w.release(r)
	}
}

// flushHolds says of each whether it was held.
func (w *Worker) flushHolds(releases []store.Release) []bool {
	w.hooks.Batch(StepHold, len(releases))
	held := make([]bool, len(releases))
	ctx, cancel := context.WithTimeout(w.life, statementTimeout)
	defer cancel()
	end := w.progress.Begin("holds", statementTimeout)
	busy, err := w.store.Release(ctx, releases)
	end()
	if err != nil {
		w.log.WarnContext(ctx, "holding back failed: trying again", "deliveries", len(releases), "error", err)
		return held
	}
	for i := range releases {
		held[i] = !slices.Contains(busy, releases[i])
	}
	return held
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

// Isolate pulls held deliveries for which there is room, keeps the front of the queue clear of what would be held back, and
// lets others pass the backlog of a busy origin, until ctx ends. What fails is tried again in the next round.
func (w *Worker) Isolate(ctx context.Context) {
	at, pause := isolated{loaded: time.Now()}, isolationInterval
	for sleep(ctx, pause+rand.N(pause/5+1)) { //nolint:gosec // so that nodes take turns
		end := w.progress.Begin("isolation", isolationStatements*statementTimeout)
		pause = w.isolate(ctx, &at)
		end()
	}
}

// isolated is where a round of Isolate goes on from.
type isolated struct {
	loaded   time.Time // when the pauses were
	after    store.Receiver
	passedBy string
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
	pause = isolationInterval
	refused, mostly, paused := w.limiter.refusals(time.Now(), manyRefusals)
	if !mostly {
		clear(refused)
	}
	w.clearing.Store(len(refused) > 0)
	var more bool
	var err error
	at.passedBy, err = w.pass(ctx, at.passedBy, len(refused) > 0)
	if err == nil {
		if at.after, more, err = w.pull(ctx, at.after); more {
			pause = pullAgain
		}
	}
	if err == nil && (len(refused) > 0 || paused) {
		if more, err = w.clear(ctx, refused); more {
			pause = 0
		}
	}
	if err != nil && ctx.Err() == nil {
		w.log.DebugContext(ctx, "isolation: trying again", "error", err)
	}
	return pause
}

// clear holds back what of the queue's front would be held back one by one. more says that there was a lot of it.
func (w *Worker) clear(ctx context.Context, refused map[string]store.HoldReason) (more bool, err error) {
	try, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	held, err := w.store.HoldQueued(try, refused, clearSize)
	if held > 0 {
		w.log.DebugContext(ctx, "held back", "deliveries", held)
	}
	return held >= clearSize/10, err
}

// pull gives held deliveries a job where there is room, of each origin for each organization in turn. more says that there
// is more of one that answers.
func (w *Worker) pull(ctx context.Context, after store.Receiver) (next store.Receiver, more bool, err error) {
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
	for _, chunk := range byOrigin(receivers) {
		// What is there is shared out among the organizations; what one does not take is there again in the next round.
		for i, r := range chunk {
			if n, flows := w.limiter.room(now, r, maxPull/(len(chunk)-i)); n > 0 {
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

// byOrigin are the receivers, which are in order, in groups of an origin, each beginning with another organization every time.
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
	return groups
}

// pass lets what waits behind a backlog pass it: that of an origin that has more than its share while all places are taken,
// or of one whose deliveries are being held back.
func (w *Worker) pass(ctx context.Context, after string, refused bool) (next string, err error) {
	busy, crowded := w.limiter.busy(time.Now())
	full := w.working.Load() >= int64(w.limiter.slots-w.limiter.reserve())
	if !refused && (!crowded || !full) {
		return "", nil
	}
	try, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	n := w.limiter.share
	if refused { // there is no share to keep to: they pass what is not sent
		n = passing
	}
	passed, next, err := w.store.LetPass(try, busy, after, n, passingOrigins, passing)
	if passed > 0 {
		w.log.DebugContext(ctx, "others pass a backlog", "deliveries", passed)
	}
	return next, err
}
