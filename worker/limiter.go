package worker

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
)

// limiter decides how many attempts each origin has in flight on this node, so that no receiver takes what the others need.
// It chooses only: it has no clock, and holds nothing back itself. An empty origin is not limited: nothing is sent there.
//
// A receiver that answers may use every place but those kept free for others. One that does not answer has its share at
// most; each timeout halves that, and each answer doubles it again. One that fails every attempt, quickly or slowly, gets a
// few attempts a second until one succeeds: as many as it has places.
type limiter struct {
	slots, share int

	mu      sync.Mutex
	origins map[string]*origin
	sending int // attempts in flight, of all origins
	silent  int // of those, of origins that do not answer, when it was last looked at
	failing bucket
	pauses  []pause

	refused, paused int           // deliveries, since refusals were last asked for; of those, for a pause
	admitted        int           // since the first of them
	many            chan struct{} // there is something in it when it is time to ask
}

// pause matches what a person holds back; what is empty matches all.
type pause struct{ origin, organization string }

const (
	// silentShare of the places is what all origins together have that do not answer; beyond it, one that has not been tried yet
	// may have a single attempt.
	silentShare = 2 // one in two
	// reservedShare of the places is kept free of any one origin: a receiver that answered a moment ago may hang now.
	reservedShare = 10 // one in ten
	// silence is how long after its last answer, and twice the time that took, a receiver is still one that answers.
	silence = time.Second
	// firstAnswer is how long deliveries wait in their places for the first answer of a receiver, when there are more than
	// its share: most answer sooner, and holding a delivery back and pulling it costs more than the wait.
	firstAnswer = 500 * time.Millisecond
	// leastFailures in a row, or as many as the share, make a receiver one that fails.
	leastFailures = 20
	// failingPace is how many attempts a second one that fails gets, for each that it may have in flight; failingPaceInAll is the same
	// for all of them together.
	failingPace, failingPaceInAll = 1, 5
	// comingFor is how long deliveries that were pulled are expected, on this node: another one may have taken them.
	comingFor = 2 * time.Second
	// forgetAfter is how long an origin without attempts is remembered, and maxOrigins how many are.
	forgetAfter, maxOrigins = time.Minute, 100_000
	// maxPull is how many deliveries of an origin are pulled at a time; pulledAhead, or twice the places, of one that answers
	// are in the queue at a time: River fetches without a pause as long as there are any.
	maxPull, pulledAhead = 2000, 1000
)

// origin is what a node knows of one origin.
type origin struct {
	inFlight int
	since    time.Time     // when inFlight was last zero
	answered time.Time     // its last answer; zero: none yet
	latency  time.Duration // of that answer
	limit    int           // of attempts in flight while it does not answer
	halved   time.Time     // when limit was last halved
	fails    int           // attempts in a row without success
	pace     bucket        // attempts while it fails
	refused  int           // deliveries that were not admitted, since refusals were last asked for
	coming   int           // deliveries that were pulled and have not arrived
	paid     int           // of those, for which the pace of one that fails was taken
	pulled   time.Time     // when they were
	touched  time.Time
	waiting  []chan struct{} // deliveries that wait in their places, the first first; closed when it is their turn to ask again
}

// bucket is a token bucket.
type bucket struct {
	tokens float64
	at     time.Time
}

// fill lets the bucket have what came in since the last time.
func (b *bucket) fill(now time.Time, rate, burst float64) {
	if b.at.IsZero() {
		b.tokens = burst
	} else {
		b.tokens = min(burst, b.tokens+rate*now.Sub(b.at).Seconds())
	}
	b.at = now
}

func newLimiter(slots, share int) *limiter {
	return &limiter{slots: slots, share: min(share, slots), origins: make(map[string]*origin), many: make(chan struct{}, 1)}
}

func (l *limiter) at(now time.Time, name string) *origin {
	o := l.origins[name]
	if o == nil {
		o = &origin{limit: l.share, since: now}
		l.origins[name] = o
	}
	o.touched = now
	return o
}

func (l *limiter) reserve() int { return (l.slots + reservedShare - 1) / reservedShare }

func (l *limiter) fails(o *origin) bool { return o.fails >= max(l.share, leastFailures) }

// answers says whether it is one that answers, rather than one that hangs.
func (o *origin) answers(now time.Time) bool {
	return !o.answered.IsZero() && now.Sub(o.answered) < silence+2*o.latency
}

// take takes up to n attempts from the pace of one that fails, and says how many there were.
func (l *limiter) take(now time.Time, o *origin, n int) int {
	l.fill(now, o)
	n = max(0, min(n, int(o.pace.tokens), int(l.failing.tokens)))
	o.pace.tokens -= float64(n)
	l.failing.tokens -= float64(n)
	return n
}

func (l *limiter) fill(now time.Time, o *origin) {
	o.pace.fill(now, failingPace*float64(o.limit), float64(o.limit))
	l.failing.fill(now, failingPaceInAll*float64(l.share), failingPaceInAll*float64(l.share)/2)
}

// isFull says whether those that do not answer have all the places that they get, and it is one of them.
func (l *limiter) isFull(now time.Time, o *origin) bool {
	return l.silent >= max(1, l.slots/silentShare) && !o.answers(now) && (o.fails > 0 || o.inFlight > 0)
}

func (l *limiter) isPaused(r store.Receiver) bool {
	for _, p := range l.pauses {
		if (p.origin == "" || p.origin == r.Origin) && (p.organization == "" || p.organization == r.Organization) {
			return true
		}
	}
	return false
}

// admit says whether an attempt may begin: NotHeld and, for an origin that has a name, done is owed; otherwise the reason to
// hold the delivery back. With a turn it is neither yet: ask again when that is closed, or, after firstAnswer, with last.
func (l *limiter) admit(now time.Time, r store.Receiver, last bool) (hold store.HoldReason, turn chan struct{}) {
	if r.Origin == "" {
		return store.NotHeld, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.at(now, r.Origin)
	paid := o.paid > 0
	o.coming, o.paid = max(0, o.coming-1), max(0, o.paid-1)
	hold = l.refusal(now, o, r, paid)
	switch {
	case hold == store.NotHeld:
		if o.inFlight == 0 {
			o.since = now
		}
		o.inFlight++
		l.sending++
		if l.refused > 0 {
			l.admitted++
		}
	case !last && (hold == store.HeldCrowded || hold == store.HeldNoAnswer && o.limit == l.share && now.Sub(o.since) < firstAnswer):
		turn = make(chan struct{})
		o.waiting = append(o.waiting, turn)
		return hold, turn
	default:
		o.refused++
		l.refused++
		if hold == store.HeldPaused {
			l.paused++
		}
		if o.refused%l.manyRefusals() == 0 && l.refused > l.admitted {
			select {
			case l.many <- struct{}{}:
			default:
			}
		}
	}
	return hold, nil
}

// leave takes back a turn that was not waited for.
func (l *limiter) leave(name string, turn chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o := l.origins[name]; o != nil {
		o.waiting = slices.DeleteFunc(o.waiting, func(c chan struct{}) bool { return c == turn })
	}
}

// wake lets up to n that wait ask again.
func (o *origin) wake(n int) {
	n = min(n, len(o.waiting))
	for _, turn := range o.waiting[:n] {
		close(turn)
	}
	if o.waiting = o.waiting[n:]; len(o.waiting) == 0 {
		o.waiting = nil
	}
}

// refusal is why an attempt may not begin, or NotHeld, which takes from the pace of one that fails unless that was paid.
func (l *limiter) refusal(now time.Time, o *origin, r store.Receiver, paid bool) store.HoldReason {
	switch {
	case l.isPaused(r):
		return store.HeldPaused
	case l.fails(o):
		if o.inFlight >= o.limit || l.isFull(now, o) {
			return store.HeldFailing
		}
		if !paid && l.take(now, o, 1) == 0 {
			return store.HeldFailing
		}
		return store.NotHeld
	case l.isFull(now, o):
		return store.HeldNoAnswer
	case o.inFlight < o.limit:
		return store.NotHeld
	case o.limit < l.share || !o.answers(now):
		return store.HeldNoAnswer
	case l.sending >= l.slots-l.reserve():
		return store.HeldCrowded
	}
	return store.NotHeld
}

// reaction is what an attempt showed of its receiver.
type reaction int

const (
	noReaction reaction = iota // nothing: it did not get that far, or was given up here
	succeeded
	answered // with something else than success
	silent   // no answer
)

// reactionTo says what an attempt's observation shows of the receiver.
func reactionTo(o delivery.Observation) reaction {
	switch {
	case o.Failure == delivery.FailureNone && o.StatusCode >= 200 && o.StatusCode <= 299:
		return succeeded
	case o.StatusCode != 0:
		return answered
	}
	switch o.Failure {
	case delivery.FailureTimeout, delivery.FailureDNS, delivery.FailureRefused, delivery.FailureReset, delivery.FailureTLS, delivery.FailureProtocol:
		return silent
	}
	return noReaction
}

// done ends what admit began.
func (l *limiter) done(now time.Time, name string, began time.Time, what reaction) {
	if name == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.at(now, name)
	o.inFlight--
	l.sending--
	places := 1
	if what != silent && what != noReaction && !o.answers(now) {
		places = len(o.waiting) // its first answer: there is room for all of them now
	}
	switch what {
	case succeeded, answered:
		o.answered, o.latency = now, now.Sub(began)
		o.limit = min(l.share, 2*o.limit)
		if o.fails++; what == succeeded {
			o.fails = 0
		}
	case silent:
		o.fails++
		if !began.Before(o.halved) { // those that were in flight together count once
			o.limit, o.halved = max(1, o.limit/2), now
		}
	}
	o.wake(places)
}

// room is how many held deliveries of a receiver may be pulled now. They are expected from then on. flowing says that the
// receiver answers: its deliveries are pulled ahead, as a backlog that was never held is fetched. Of what those that fail get
// together, it takes its part, if so many origins are still to come, itself included.
func (l *limiter) room(now time.Time, r store.Receiver, held, origins int) (room int, flowing bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isPaused(r) {
		return 0, false
	}
	o := l.at(now, r.Origin)
	if now.Sub(o.pulled) > comingFor {
		o.coming, o.paid = 0, 0
	}
	fails := l.fails(o)
	flowing = !fails && o.limit == l.share && o.answers(now)
	room = o.limit - o.inFlight
	if flowing {
		room = max(room, max(2*l.slots, pulledAhead)-o.inFlight)
	} else if l.isFull(now, o) {
		room = 0
	}
	if room = min(room-o.coming, maxPull, held); fails {
		l.fill(now, o)
		room = l.take(now, o, min(room, max(1, int(l.failing.tokens)/origins)))
		o.paid += max(0, room)
	}
	if room <= 0 {
		return 0, false
	}
	o.coming += room
	o.pulled = now
	return room, flowing
}

// notComing says that n of those that room promised were not there.
func (l *limiter) notComing(name string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o := l.origins[name]; o != nil {
		o.coming, o.paid = max(0, o.coming-n), max(0, o.paid-n)
	}
}

// refusals are the origins that many deliveries were refused for since the last call, and why: there may be more of them in
// the queue. paused says whether so many were refused for pauses, and mostly whether, since the first refusal,
// more were refused than admitted.
func (l *limiter) refusals(now time.Time) (origins map[string]store.HoldReason, paused, mostly bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	origins = make(map[string]store.HoldReason)
	for name, o := range l.origins {
		if reason := l.lasting(now, o); o.refused >= l.manyRefusals() && reason != store.NotHeld {
			origins[name] = reason
		}
		o.refused = 0
	}
	paused, mostly = l.paused >= l.manyRefusals(), l.refused > l.admitted
	l.refused, l.paused, l.admitted = 0, 0, 0
	return origins, paused, mostly
}

// manyRefusals are as many as there are places, within bounds: few places refuse few between two rounds.
func (l *limiter) manyRefusals() int { return min(max(l.slots, 5), manyRefusals) }

// lasting is why most of an origin's deliveries are refused for a while, or NotHeld.
func (l *limiter) lasting(now time.Time, o *origin) store.HoldReason {
	switch {
	case l.fails(o):
		return store.HeldFailing
	case o.limit < l.share || o.inFlight >= o.limit && !o.answers(now):
		return store.HeldNoAnswer
	}
	return store.NotHeld
}

// refuses says whether most of an origin's deliveries are refused for a while.
func (l *limiter) refuses(now time.Time, name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.origins[name]
	return o != nil && l.lasting(now, o) != store.NotHeld
}

// busy are the origins whose deliveries others may pass: they have their share in flight, or are held back. crowded says
// whether any has more than its share.
func (l *limiter) busy(now time.Time) (names []string, crowded bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, o := range l.origins {
		crowded = crowded || o.inFlight > l.share
		if o.inFlight >= l.share || l.lasting(now, o) != store.NotHeld || o.inFlight > 0 && !o.answers(now) && now.Sub(o.since) > firstAnswer {
			names = append(names, name)
		}
	}
	return names, crowded
}

func (l *limiter) setPauses(pauses []pause) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pauses = pauses
}

// look counts the attempts of those that do not answer.
func (l *limiter) look(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.silent = 0
	for _, o := range l.origins {
		if o.inFlight > 0 && !o.answers(now) && now.Sub(o.since) > firstAnswer {
			l.silent += o.inFlight
		}
	}
}

// forget drops what has not been heard of for a while, and, beyond maxOrigins, whatever is idle: what is forgotten begins
// anew with its share.
func (l *limiter) forget(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	many := len(l.origins) > maxOrigins
	maps.DeleteFunc(l.origins, func(_ string, o *origin) bool {
		return o.inFlight == 0 && len(o.waiting) == 0 && (now.Sub(o.touched) > forgetAfter || many)
	})
}
