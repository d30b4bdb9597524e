package progress

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// Grace is how much longer than its own limit a try may take before its loop is stuck: what ends a try at its limit (a
// context, a server's timeout, a connection that is closed) may itself take a while.
const Grace = 30 * time.Second

// Board has the tries that are under way. The zero value has none and is ready; a nil board takes whatever is said to it, and
// knows of nothing. Its methods may be called by many goroutines at once; Begin and what it returns cost some 100 ns.
type Board struct {
	mu    sync.Mutex
	tries map[*try]struct{}
}

// try is one that has begun and not returned.
type try struct {
	loop  string
	began time.Time
	limit time.Duration
}

// Begin says that a try of a loop begins, which returns within limit unless something is wrong with this process. Call end
// when it has returned, with an error or without: an error that returned is progress. A second call of end does nothing.
func (b *Board) Begin(loop string, limit time.Duration) (end func()) {
	if b == nil {
		return func() {}
	}
	t := &try{loop: loop, began: time.Now(), limit: limit}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tries == nil {
		b.tries = make(map[*try]struct{})
	}
	b.tries[t] = struct{}{}
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.tries, t)
	}
}

// Stuck are the loops whose try has not returned within its limit and the grace, in the order of their names, each once.
func (b *Board) Stuck(now time.Time) []string {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	tries := make([]try, 0, len(b.tries))
	for t := range b.tries {
		tries = append(tries, *t)
	}
	b.mu.Unlock()
	return stuck(tries, now)
}

// stuck is the verdict. A limit of zero or less is one that has passed: then the grace alone counts.
func stuck(tries []try, now time.Time) (loops []string) {
	for _, t := range tries {
		if now.Sub(t.began) > max(t.limit, 0)+Grace {
			loops = append(loops, t.loop)
		}
	}
	slices.SortFunc(loops, strings.Compare)
	return slices.Compact(loops)
}
