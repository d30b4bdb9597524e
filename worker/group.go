package worker

import (
	"sync"
	"time"
)

// group is a group commit: whoever calls do while a flush is under way waits for the next one, which takes all that wait.
// An idle group flushes a single member at once, and a busy one makes its batches as large as the database makes its
// flushes slow. There is no timer, unless it has a pace.
type group[In, Out any] struct {
	flush func([]In) []Out // the results stand in the members' order
	size  int              // members of one flush at most
	lanes int              // flushes under way at a time
	pace  pace             // zero: none

	mu      sync.Mutex
	began   time.Time // the last flush
	flushed int       // its members
	waiting []In
	answers []chan Out // of those waiting, in their order
	flying  int
	idle    sync.Pool // channels without a reader or a writer
}

// do hands in to a flush and returns its result.
func (g *group[In, Out]) do(in In) Out {
	out, _ := g.idle.Get().(chan Out)
	if out == nil {
		out = make(chan Out, 1)
	}
	g.mu.Lock()
	g.waiting = append(g.waiting, in)
	g.answers = append(g.answers, out)
	start := g.flying < g.lanes
	if start {
		g.flying++
	}
	if len(g.waiting) == g.pace.enough {
		select {
		case g.pace.reached <- struct{}{}:
		default:
		}
	}
	g.mu.Unlock()
	if start {
		go g.fly()
	}
	result := <-out
	g.idle.Put(out)
	return result
}

// fly flushes until nobody waits.
func (g *group[In, Out]) fly() {
	for {
		g.mu.Lock()
		n := min(len(g.waiting), g.size)
		if n == 0 {
			g.flying--
			g.mu.Unlock()
			return
		}
		if left := g.pace.every - time.Since(g.began); left > 0 && g.flushed >= g.pace.many && n < g.pace.enough {
			g.mu.Unlock()
			g.pace.wait(left)
			continue
		}
		g.began, g.flushed = time.Now(), n
		batch, answers := g.waiting[:n:n], g.answers[:n:n]
		// What waits on moves to arrays of its own: those of the batch end with it.
		g.waiting = append(make([]In, 0, max(len(g.waiting)-n, n)), g.waiting[n:]...)
		g.answers = append(make([]chan Out, 0, max(len(g.answers)-n, n)), g.answers[n:]...)
		g.mu.Unlock()

		for i, out := range g.flush(batch) {
			answers[i] <- out
		}
	}
}

// pace spares a busy database small batches: after a flush that had many members, the next one begins not sooner than every
// later, unless there are enough for it. The first after a rest begins at once.
type pace struct {
	every   time.Duration
	many    int
	enough  int
	reached chan struct{}
}

func newPace(every time.Duration, many, enough int) pace {
	return pace{every, many, enough, make(chan struct{}, 1)}
}

// wait ends after d, or when there may be enough.
func (p *pace) wait(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.reached:
	}
}
