package counts

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/store"
)

// counter counts how often it is asked to count, and takes a while for it.
type counter struct {
	mu    sync.Mutex
	times map[string]int
	busy  int
	takes time.Duration
	err   error
}

func (c *counter) count(_ context.Context, organization string) (store.Stats, error) {
	c.mu.Lock()
	c.times[organization]++
	c.busy++
	if c.busy > 1 {
		panic("two at a time")
	}
	n, err := c.times[organization], c.err
	c.mu.Unlock()
	time.Sleep(c.takes)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy--
	return store.Stats{Due: int64(n), At: time.Now()}, err
}

// asked is how often it was asked for an organization.
func (c *counter) asked(organization string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.times[organization]
}

func setup(t *testing.T, takes time.Duration) (*counter, func(organization string) int64) {
	t.Helper()
	c := &counter{times: map[string]int{}, takes: takes}
	cache := New(t.Context(), c.count)
	return c, func(organization string) int64 {
		t.Helper()
		stats, err := cache.Get(t.Context(), organization)
		require.NoError(t, err)
		return stats.Due
	}
}

func TestCountedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, get := setup(t, 100*time.Millisecond)
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() { assert.Equal(t, int64(1), get(fmt.Sprint(i%2))) })
		}
		wg.Wait()
		time.Sleep(minAge - time.Millisecond)
		assert.Equal(t, int64(1), get("0"))
		assert.Equal(t, []int{1, 1}, []int{c.asked("0"), c.asked("1")})
		time.Sleep(time.Millisecond)
		assert.Equal(t, int64(1), get("0"), "the old ones, while new ones are made")
		time.Sleep(time.Second)
		assert.Equal(t, int64(2), get("0"))
	})
}

func TestCountingIsAShareOfTheTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, get := setup(t, 3*time.Second)
		end := time.Now().Add(10 * time.Minute)
		for time.Now().Before(end) {
			get("")
			time.Sleep(time.Second)
		}
		assert.LessOrEqual(t, c.asked(""), 10)
		assert.GreaterOrEqual(t, c.asked(""), 9)
	})
}

func TestErrorsAndSlowness(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &counter{times: map[string]int{}, takes: time.Minute, err: errors.New("no")}
		cache := New(t.Context(), c.count)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := cache.Get(ctx, "")
		require.ErrorIs(t, err, ErrSlow)
		_, err = cache.Get(t.Context(), "")
		require.ErrorIs(t, err, c.err)
		_, err = cache.Get(t.Context(), "")
		require.ErrorIs(t, err, c.err)
		assert.Equal(t, 1, c.asked(""), "not again at once")
	})
}

func TestKeptIsBounded(t *testing.T) {
	t.Parallel()
	cache := New(t.Context(), func(context.Context, string) (store.Stats, error) { return store.Stats{At: time.Now()}, nil })
	for i := range 2*maxKept + 10 {
		_, err := cache.Get(t.Context(), fmt.Sprint(i))
		require.NoError(t, err)
	}
	assert.LessOrEqual(t, len(cache.kept), maxKept)
}
