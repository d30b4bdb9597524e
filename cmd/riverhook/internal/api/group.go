package api

import (
	"context"
	"sync"

	"github.com/riverhook/riverhook/delivery/store"
)

const (
	// groupSize and groupBytes bound one INSERT of grouped requests.
	groupSize  = 500
	groupBytes = 8 << 20
)

// group is a group commit of requests with one delivery each: whoever comes while all lanes are busy waits for the next
// INSERT, which takes all that wait. There is no timer: an idle service inserts a single request at once, and a busy one
// makes its INSERTs as large as the database makes them slow.
type group struct {
	flush func([]store.Request) []store.Answer // the answers stand in the order of the requests
	size  int                                  // requests of one flush at most
	bytes int                                  // and their size, unless it is one alone
	lanes int                                  // flushes under way at a time

	mu      sync.Mutex
	waiting []member
	flying  int
}

type member struct {
	request store.Request
	answer  chan<- store.Answer
}

// do hands a request to a flush, and returns its answer once it is committed.
func (g *group) do(r store.Request) store.Answer {
	answer := make(chan store.Answer, 1)
	g.mu.Lock()
	g.waiting = append(g.waiting, member{r, answer})
	start := g.flying < g.lanes
	if start {
		g.flying++
	}
	g.mu.Unlock()
	if start {
		go g.fly()
	}
	return <-answer
}

// fly flushes until nobody waits.
func (g *group) fly() {
	for {
		g.mu.Lock()
		n, size := 0, 0
		for n < min(len(g.waiting), g.size) {
			size += g.waiting[n].request.Bytes()
			if n > 0 && size > g.bytes {
				break
			}
			n++
		}
		if n == 0 {
			g.flying--
			g.mu.Unlock()
			return
		}
		batch := g.waiting[:n:n]
		g.waiting = g.waiting[n:]
		g.mu.Unlock()

		requests := make([]store.Request, n)
		for i := range batch {
			requests[i] = batch[i].request
		}
		for i, answer := range g.flush(requests) {
			batch[i].answer <- answer
		}
	}
}

// accept inserts a group of requests. A client that goes away does not stop what its neighbours wait for.
func (a *API) accept(requests []store.Request) []store.Answer {
	return a.store.Accept(context.Background(), requests)
}
