package worker

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
)

// limited is a limiter with 100 places, a share of 10, and a clock that the test moves.
type limited struct {
	*limiter
	t   *testing.T
	now time.Time
}

func newLimited(t *testing.T) *limited {
	return &limited{limiter: newLimiter(100, 10), t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
}

func at(name string) store.Receiver { return store.Receiver{Origin: name, Organization: "default"} }

// begin asks n times for an attempt, without waiting, and says how many were admitted and why the last was not.
func (l *limited) begin(name string, n int) (admitted int, why store.HoldReason) {
	for range n {
		hold, turn := l.admit(l.now, at(name), true)
		require.Nil(l.t, turn)
		if hold == store.NotHeld {
			admitted++
		} else {
			why = hold
		}
	}
	return admitted, why
}

// end ends n attempts that took that long.
func (l *limited) end(name string, n int, took time.Duration, what reaction) {
	for range n {
		l.done(l.now, name, l.now.Add(-took), what)
	}
}

func (l *limited) wants(name string, n, admitted int, why store.HoldReason) {
	l.t.Helper()
	got, reason := l.begin(name, n)
	assert.Equal(l.t, admitted, got, name)
	assert.Equal(l.t, why, reason, name)
}

func (l *limited) roomFor(name string, want int, flowing bool) {
	l.t.Helper()
	room, flows := l.room(l.now, at(name), 1000, 1)
	assert.Equal(l.t, want, room, name)
	assert.Equal(l.t, flowing, flows, name)
}

func TestLimiterOneThatDoesNotAnswerHasItsShare(t *testing.T) {
	t.Parallel()
	l := newLimited(t)
	l.wants("hangs", 11, 10, store.HeldNoAnswer)
	l.wants("other", 10, 10, store.NotHeld)
	l.roomFor("hangs", 0, false)
	// Those that were in flight together and time out count once; the next ones count again.
	l.now = l.now.Add(30 * time.Second)
	l.end("hangs", 10, 30*time.Second, silent)
	l.wants("hangs", 11, 5, store.HeldNoAnswer)
	l.now = l.now.Add(30 * time.Second)
	l.end("hangs", 5, 30*time.Second, silent)
	for _, share := range []int{2, 1, 1} {
		l.wants("hangs", 11, share, store.HeldNoAnswer)
		l.now = l.now.Add(30 * time.Second)
		l.origins["hangs"].fails = 0 // what fails all the time has a pace too, which is tested below
		l.end("hangs", share, 30*time.Second, silent)
	}
	// Each answer doubles it, whatever it says.
	for _, share := range []int{1, 2, 4, 8} {
		l.wants("hangs", 1, 1, store.NotHeld)
		l.end("hangs", 1, time.Second, answered)
		assert.Equal(t, min(10, 2*share), l.origins["hangs"].limit)
	}
}

func TestLimiterOneThatAnswersMayHaveWhatIsFree(t *testing.T) {
	t.Parallel()
	l := newLimited(t)
	l.wants("a", 1, 1, store.NotHeld)
	l.end("a", 1, 100*time.Millisecond, succeeded)
	l.wants("a", 100, 90, store.HeldCrowded) // ten places stay free of it
	l.wants("b", 11, 10, store.HeldNoAnswer)
	l.end("b", 1, 10*time.Millisecond, answered)
	l.wants("b", 2, 1, store.HeldCrowded)
	// It answered a moment ago, and hangs now: from then on it has no more than its share.
	l.now = l.now.Add(silence + 2*100*time.Millisecond)
	l.end("a", 1, time.Second, noReaction)
	l.wants("a", 1, 0, store.HeldNoAnswer)
	l.roomFor("a", 0, false)
	// A slow one is not one that hangs.
	l.end("a", 89, 20*time.Second, succeeded)
	l.now = l.now.Add(30 * time.Second)
	l.wants("a", 20, 20, store.NotHeld)
	// No origin, no receiver.
	l.wants("", 1000, 1000, store.NotHeld)
	l.end("", 1000, 0, silent)
}

func TestLimiterWaitsForTheFirstAnswer(t *testing.T) {
	t.Parallel()
	l := newLimited(t)
	l.wants("a", 10, 10, store.NotHeld)
	turns := make([]chan struct{}, 3)
	for i := range turns {
		hold, turn := l.admit(l.now, at("a"), false)
		assert.Equal(t, store.HeldNoAnswer, hold)
		require.NotNil(t, turn)
		turns[i] = turn
	}
	l.leave("a", turns[1])
	l.end("a", 1, time.Millisecond, answered)
	for i, turn := range turns {
		select {
		case <-turn:
			assert.NotEqual(t, 1, i, "it has left")
		default:
			assert.Equal(t, 1, i, "its turn")
		}
	}
	// Later there is nothing to wait for.
	l = newLimited(t)
	l.wants("a", 10, 10, store.NotHeld)
	l.now = l.now.Add(firstAnswer)
	hold, turn := l.admit(l.now, at("a"), false)
	assert.Equal(t, store.HeldNoAnswer, hold)
	assert.Nil(t, turn)
	// Whoever waits for a place of a crowded node gets it in turn, one for each that is free again.
	l.end("a", 1, time.Millisecond, succeeded)
	l.wants("a", 100, 81, store.HeldCrowded)
	_, first := l.admit(l.now, at("a"), false)
	_, second := l.admit(l.now, at("a"), false)
	l.end("a", 1, time.Millisecond, succeeded)
	<-first
	select {
	case <-second:
		assert.Fail(t, "two turns for one place")
	default:
	}
}

func TestLimiterPacesOneThatFailsEveryAttempt(t *testing.T) {
	t.Parallel()
	l := newLimited(t)
	for range leastFailures {
		l.wants("a", 1, 1, store.NotHeld)
		l.end("a", 1, time.Millisecond, answered)
	}
	quick := func(n int) (admitted int) {
		for range n {
			got, _ := l.begin("a", 1)
			l.end("a", got, time.Millisecond, answered)
			admitted += got
		}
		return admitted
	}
	assert.Equal(t, 10, quick(1000), "its share at once")
	l.roomFor("a", 0, false)
	l.now = l.now.Add(100 * time.Millisecond)
	l.roomFor("a", failingPace, false) // what is pulled comes out of the same pace
	l.roomFor("a", 0, false)           // and is not pulled twice
	assert.Equal(t, failingPace*10/10, quick(1000))
	origins, _, _ := l.refusals(l.now)
	assert.Equal(t, map[string]store.HoldReason{"a": store.HeldFailing}, origins)
	origins, _, _ = l.refusals(l.now)
	assert.Empty(t, origins, "none since the last call")
	// One success, and it is as any other.
	l.now = l.now.Add(time.Second)
	l.wants("a", 1, 1, store.NotHeld)
	l.end("a", 1, time.Millisecond, succeeded)
	assert.Equal(t, leastFailures, quick(leastFailures), "until they all fail again")
}

func TestLimiterPacesAllThatFailTogether(t *testing.T) {
	t.Parallel()
	l := newLimited(t)
	names := []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"}
	for _, name := range names {
		for range leastFailures {
			l.wants(name, 1, 1, store.NotHeld)
			l.end(name, 1, time.Millisecond, answered)
		}
	}
	admitted := 0
	for range 10 {
		for _, name := range names {
			for range 100 {
				got, _ := l.begin(name, 1)
				l.end(name, got, time.Millisecond, answered)
				admitted += got
			}
		}
		l.now = l.now.Add(100 * time.Millisecond)
	}
	// Half a second's worth at once, and what came in during 0.9 s.
	assert.InDelta(t, failingPaceInAll*10/2+failingPaceInAll*10*9/10, admitted, 2)
}

func TestLimiterPauses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		pause  pause
		paused bool
	}{
		"the origin":              {pause{origin: "a"}, true},
		"another origin":          {pause{origin: "b"}, false},
		"the organization":        {pause{organization: "default"}, true},
		"another organization":    {pause{organization: "acme"}, false},
		"both":                    {pause{"a", "default"}, true},
		"both, but for the one":   {pause{"a", "acme"}, false},
		"both, but for the other": {pause{"b", "default"}, false},
		"everything":              {pause{}, true},
	} {
		l := newLimited(t)
		l.setPauses([]pause{test.pause})
		admitted, why := l.begin("a", 1)
		assert.Equal(t, test.paused, why == store.HeldPaused, name)
		room, _ := l.room(l.now, at("a"), 10, 1)
		assert.Equal(t, test.paused, room == 0, name)
		assert.Equal(t, !test.paused, admitted == 1, name)
		l.setPauses(nil)
		l.wants("a", 1, 1, store.NotHeld)
	}
}

func TestLimiterBusy(t *testing.T) {
	t.Parallel()
	l := newLimited(t)
	l.wants("quick", 1, 1, store.NotHeld)
	l.end("quick", 1, time.Millisecond, succeeded)
	_, crowded := l.busy(l.now)
	assert.False(t, crowded)
	l.wants("quick", 11, 11, store.NotHeld)
	l.wants("fresh", 3, 3, store.NotHeld)
	l.wants("hangs", 11, 10, store.HeldNoAnswer)
	names, crowded := l.busy(l.now)
	assert.True(t, crowded)
	assert.ElementsMatch(t, []string{"quick", "hangs"}, names)
	// One that has not answered for a while gains nothing by passing others.
	l.now = l.now.Add(firstAnswer + 1)
	names, _ = l.busy(l.now)
	assert.ElementsMatch(t, []string{"quick", "fresh", "hangs"}, names)
}

func TestLimiterForgets(t *testing.T) {
	t.Parallel()
	l := newLimited(t)
	l.begin("in flight", 1)
	l.begin("idle", 1)
	l.end("idle", 1, 0, succeeded)
	l.now = l.now.Add(forgetAfter)
	l.forget(l.now)
	assert.Len(t, l.origins, 2)
	l.now = l.now.Add(1)
	l.forget(l.now)
	assert.Len(t, l.origins, 1)
	for i := range maxOrigins {
		l.begin(strconv.Itoa(i), 1)
		l.end(strconv.Itoa(i), 1, 0, succeeded)
	}
	l.forget(l.now)
	assert.Equal(t, 1, len(l.origins)) //nolint:testifylint // the map is too long to print
}

func TestReaction(t *testing.T) {
	t.Parallel()
	for want, all := range map[reaction][]delivery.Observation{
		succeeded:  {{StatusCode: 200}, {StatusCode: 299}},
		answered:   {{StatusCode: 100}, {StatusCode: 301}, {StatusCode: 404}, {StatusCode: 503}},
		silent:     {{Failure: delivery.FailureTimeout}, {Failure: delivery.FailureDNS}, {Failure: delivery.FailureRefused}, {Failure: delivery.FailureReset}, {Failure: delivery.FailureTLS}, {Failure: delivery.FailureProtocol}},
		noReaction: {{Failure: delivery.FailureBlocked}, {Failure: delivery.FailureInvalid}, {Failure: delivery.FailureCredential}, {Failure: delivery.FailureInternal}},
	} {
		for _, o := range all {
			assert.Equal(t, want, reactionTo(o), "%+v", o)
		}
	}
}

// All that do not answer have half of the places together; one that was never tried still gets its chance.
func TestLimiterAllThatDoNotAnswer(t *testing.T) {
	t.Parallel()
	l := newLimited(t)
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		l.wants(name, 10, 10, store.NotHeld)
	}
	l.look(l.now)
	l.wants("f", 2, 2, store.NotHeld) // none has been silent for long
	l.now = l.now.Add(firstAnswer + 1)
	l.look(l.now)
	l.wants("f", 1, 0, store.HeldNoAnswer)
	l.wants("fresh", 2, 1, store.HeldNoAnswer)
	l.roomFor("f", 0, false)
	l.end("a", 1, time.Second, succeeded)
	l.wants("a", 20, 20, store.NotHeld) // it answers
	l.end("f", 2, time.Second, silent)
	l.wants("f", 1, 0, store.HeldNoAnswer)
	l.end("b", 10, time.Second, silent)
	l.end("c", 10, time.Second, silent)
	l.look(l.now)
	l.wants("f", 1, 1, store.NotHeld)
}

// What is pulled of one that answers is pulled ahead, and all that fail share one pace.
func TestLimiterRoom(t *testing.T) {
	t.Parallel()
	l := newLimited(t)
	l.roomFor("new", 10, false)
	l.roomFor("new", 0, false)
	l.notComing("new", 4)
	l.roomFor("new", 4, false)
	l.now = l.now.Add(comingFor + 1)
	l.roomFor("new", 10, false)
	l.wants("answers", 1, 1, store.NotHeld)
	l.end("answers", 1, time.Millisecond, succeeded)
	l.roomFor("answers", pulledAhead, true)
	l.roomFor("answers", 0, false)
	total := 0
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"} {
		for range leastFailures {
			l.wants(name, 1, 1, store.NotHeld)
			l.end(name, 1, time.Millisecond, answered)
		}
		room, flowing := l.room(l.now, at(name), 1000, 1)
		assert.False(t, flowing)
		total += room
		// What was promised may begin.
		got, _ := l.begin(name, room+1)
		assert.LessOrEqual(t, got-room, 1)
		assert.GreaterOrEqual(t, got, room)
		l.end(name, got, time.Millisecond, answered)
	}
	assert.LessOrEqual(t, total, failingPaceInAll*10/2, "of all of them together")
	assert.GreaterOrEqual(t, total, failingPaceInAll*10/2-10)
}

// Many refusals are a sign of more in the queue, if they are most of what came from it since they began.
func TestLimiterManyRefusals(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		healthy int // for each that is refused
		mostly  bool
	}{"a backlog": {0, true}, "a mixed one": {2, false}} {
		l := newLimited(t)
		l.wants("other", 50, 10, store.HeldNoAnswer) // before anything is known: as many as there were
		l.end("other", 10, time.Millisecond, succeeded)
		l.wants("hangs", 10, 10, store.NotHeld)
		l.refusals(l.now)
		select {
		case <-l.many:
		default:
		}
		for range manyRefusals {
			l.wants("hangs", 1, 0, store.HeldNoAnswer)
			l.wants("other", c.healthy, c.healthy, store.NotHeld)
			l.end("other", c.healthy, time.Millisecond, succeeded)
		}
		select {
		case <-l.many:
			assert.True(t, c.mostly, name)
		default:
			assert.False(t, c.mostly, name)
		}
		origins, paused, mostly := l.refusals(l.now)
		assert.Equal(t, map[string]store.HoldReason{"hangs": store.HeldNoAnswer}, origins, name)
		assert.Equal(t, c.mostly, mostly, name)
		assert.False(t, paused, name)
		assert.True(t, l.refuses(l.now, "hangs"), name)
		assert.False(t, l.refuses(l.now, "other"), name)
		assert.False(t, l.refuses(l.now, "unknown"), name)
		l.end("hangs", 1, time.Second, succeeded)
		assert.False(t, l.refuses(l.now, "hangs"), name)
	}
}
