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
	waiting []member[In, Out]
	flying  int
}

type member[In, Out any] struct {
	in  In
	out chan<- Out
}

// do hands in to a flush and returns its result.
func (g *group[In, Out]) do(in In) Out {
	out := make(chan Out, 1)
	g.mu.Lock()
	g.waiting = append(g.waiting, member[In, Out]{in, out})
	start := g.flying < g.lanes
	if start {
		g.flying++
	}
	g.mu.Unlock()
	if start {
		go g.fly()
	}
	return <-out
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
		batch := g.waiting[:n:n]
		g.waiting = g.waiting[n:]
		g.mu.Unlock()

		ins := make([]In, n)
		for i := range batch {
			ins[i] = batch[i].in
		}
		for i, out := range g.flush(ins) {
			batch[i].out <- out
		}
	}
}
