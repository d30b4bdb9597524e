package worker

import "sync"

// group is a group commit: whoever calls do while a flush is under way waits for the next one, which takes all that wait.
// There is no timer: an idle group flushes a single member at once, and a busy one makes its batches as large as the
// database makes its flushes slow.
type group[In, Out any] struct {
	flush func([]In) []Out // the results stand in the members' order
	size  int              // members of one flush at most
	lanes int              // flushes under way at a time

	mu      sync.Mutex
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
