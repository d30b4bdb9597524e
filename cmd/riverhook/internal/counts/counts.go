package counts

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// minAge is how old counts are at least before they are made again.
	minAge = 10 * time.Second
	// share bounds what counting costs: after it took a second, it is not done again for 20.
	share = 20
	// maxKept bounds the organizations whose counts are kept.
	maxKept = 1000
)

// ErrSlow says that there are no counts yet, and that counting takes longer than the caller waits.
var ErrSlow = errors.New("counts: counting takes long")

// Cache keeps counts. They are made again when somebody asks for old ones, who gets the old ones all the same: an idle
// service counts nothing, and a busy one counts for one organization at a time.
type Cache[T any] struct {
	life  context.Context
	count func(ctx context.Context, organization string) (T, error)

	mu       sync.Mutex
	kept     map[string]*kept[T]
	counting chan struct{} // of one place
}

// kept are the counts of one organization.
type kept[T any] struct {
	counts  T
	counted bool // there are counts
	err     error
	due     time.Time     // when to count again; zero: never counted
	done    chan struct{} // closed when the counting that is under way has ended; nil: none is
}

// New is a cache of what count counts, for an organization or, when that is empty, for all. Nothing is counted after life
// has ended.
func New[T any](life context.Context, count func(ctx context.Context, organization string) (T, error)) *Cache[T] {
	return &Cache[T]{life: life, count: count, kept: make(map[string]*kept[T]), counting: make(chan struct{}, 1)}
}

// Get is what was counted last. If that is nothing, it waits for the counting until ctx ends, and fails with ErrSlow then,
// or with the error of the last counting.
func (c *Cache[T]) Get(ctx context.Context, organization string) (counts T, err error) {
	c.mu.Lock()
	k := c.kept[organization]
	if k == nil {
		if len(c.kept) >= maxKept {
			clear(c.kept)
		}
		k = &kept[T]{}
		c.kept[organization] = k
	}
	if k.done == nil && !time.Now().Before(k.due) {
		k.done = make(chan struct{})
		go c.refresh(organization, k)
	}
	done, counted, last := k.done, k.counted, k.counts
	c.mu.Unlock()
	if counted {
		return last, nil
	}
	if done != nil { // or it failed a moment ago
		select {
		case <-done:
		case <-ctx.Done():
			return counts, fmt.Errorf("%w: %w", ErrSlow, ctx.Err())
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return k.counts, k.err
}

func (c *Cache[T]) refresh(organization string, k *kept[T]) {
	c.counting <- struct{}{}
	started := time.Now()
	counts, err := c.count(c.life, organization)
	took := time.Since(started)
	<-c.counting

	c.mu.Lock()
	defer c.mu.Unlock()
	if k.err = err; err == nil {
		k.counts, k.counted = counts, true
	}
	k.due = time.Now().Add(max(minAge, share*took))
	close(k.done)
	k.done = nil
}
