package worker

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

// heldGroup is a group whose flushes wait for the test: each hands its members over on begun, and returns when it gets a
// token from proceed. A member's result is its negative.
func heldGroup(size, lanes int) (g *group[int, int], begun chan []int, proceed chan struct{}) {
	begun, proceed = make(chan []int), make(chan struct{})
	g = &group[int, int]{size: size, lanes: lanes, flush: func(ins []int) []int {
		begun <- slices.Clone(ins)
		<-proceed
		return negatives(ins)
	}}
	return g, begun, proceed
}

func negatives(ins []int) []int {
	outs := make([]int, len(ins))
	for i, in := range ins {
		outs[i] = -in
	}
	return outs
}

// join lets in take part, and returns once it waits in the group or its flush has begun.
func join(t *testing.T, wg *sync.WaitGroup, g *group[int, int], in int) {
	t.Helper()
	wg.Go(func() { assert.Equal(t, -in, g.do(in), "each member gets its own result") })
	synctest.Wait()
}

// none asserts that no flush is about to begin.
func none(t *testing.T, begun <-chan []int) {
	t.Helper()
	synctest.Wait()
	select {
	case ins := <-begun:
		assert.Fail(t, "a flush began too early", "%v", ins)
	default:
	}
}

func TestGroupFlushesASingleMemberAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var flushed [][]int
		g := &group[int, int]{size: 10, lanes: 2, flush: func(ins []int) []int {
			flushed = append(flushed, slices.Clone(ins))
			return negatives(ins)
		}}
		before := time.Now()
		for in := 1; in <= 3; in++ {
			assert.Equal(t, -in, g.do(in))
			synctest.Wait()
		}
		assert.Equal(t, [][]int{{1}, {2}, {3}}, flushed)
		assert.Zero(t, time.Since(before), "nobody waited for a timer")
	})
}

func TestGroupGathersWhileAFlushIsUnderWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, begun, proceed := heldGroup(100, 1)
		var wg sync.WaitGroup
		join(t, &wg, g, 1)
		assert.Equal(t, []int{1}, <-begun)
		for in := 2; in <= 6; in++ {
			join(t, &wg, g, in)
		}
		none(t, begun)
		proceed <- struct{}{}
		assert.Equal(t, []int{2, 3, 4, 5, 6}, <-begun, "all that waited, in the order in which they came")
		join(t, &wg, g, 7)
		none(t, begun)
		proceed <- struct{}{}
		assert.Equal(t, []int{7}, <-begun)
		proceed <- struct{}{}
		wg.Wait()
		none(t, begun)

		// Idle again: the next one begins at once.
		join(t, &wg, g, 8)
		assert.Equal(t, []int{8}, <-begun)
		proceed <- struct{}{}
		wg.Wait()
	})
}

func TestGroupSplitsBySize(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		waiting int // members that come while the first flush is under way
		want    []int
	}{
		{"below", 2, []int{2}},
		{"exactly", 3, []int{3}},
		{"one more", 4, []int{3, 1}},
		{"twice", 6, []int{3, 3}},
		{"more", 8, []int{3, 3, 2}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				g, begun, proceed := heldGroup(3, 1)
				var wg sync.WaitGroup
				join(t, &wg, g, 1)
				assert.Equal(t, []int{1}, <-begun)
				for i := range test.waiting {
					join(t, &wg, g, 2+i)
				}
				next := 2
				for _, size := range test.want {
					proceed <- struct{}{}
					ins := <-begun
					assert.Len(t, ins, size)
					for _, in := range ins {
						assert.Equal(t, next, in, "first come, first served")
						next++
					}
				}
				proceed <- struct{}{}
				wg.Wait()
				none(t, begun)
			})
		})
	}
}

func TestGroupLanes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, begun, proceed := heldGroup(2, 2)
		var wg sync.WaitGroup
		join(t, &wg, g, 1)
		assert.Equal(t, []int{1}, <-begun)
		join(t, &wg, g, 2)
		assert.Equal(t, []int{2}, <-begun, "a second lane is free: nobody waits")
		for in := 3; in <= 7; in++ {
			join(t, &wg, g, in)
		}
		none(t, begun) // two are under way
		proceed <- struct{}{}
		assert.Equal(t, []int{3, 4}, <-begun)
		none(t, begun)
		proceed <- struct{}{}
		assert.Equal(t, []int{5, 6}, <-begun)
		none(t, begun)
		proceed <- struct{}{}
		assert.Equal(t, []int{7}, <-begun)
		proceed <- struct{}{}
		proceed <- struct{}{}
		wg.Wait()
		none(t, begun)

		// Both lanes are free again.
		join(t, &wg, g, 8)
		assert.Equal(t, []int{8}, <-begun)
		join(t, &wg, g, 9)
		assert.Equal(t, []int{9}, <-begun)
		proceed <- struct{}{}
		proceed <- struct{}{}
		wg.Wait()
	})
}

// A flush that is slow does not hold up the members of another lane.
func TestGroupLanesAreIndependent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		g := &group[int, int]{size: 1, lanes: 2, flush: func(ins []int) []int {
			if ins[0] == 1 {
				<-release
			}
			return negatives(ins)
		}}
		var wg sync.WaitGroup
		join(t, &wg, g, 1)
		for in := 2; in <= 20; in++ {
			assert.Equal(t, -in, g.do(in))
		}
		close(release)
		wg.Wait()
	})
}

func TestGroupOfAThousand(t *testing.T) {
	t.Parallel()
	for _, shape := range []struct{ size, lanes int }{{1, 1}, {7, 1}, {7, 3}, {500, 2}, {5000, 2}} {
		const members, rounds = 1000, 3
		var under, most, total atomic.Int64
		g := &group[int, int]{size: shape.size, lanes: shape.lanes, flush: func(ins []int) []int {
			now := under.Add(1)
			defer under.Add(-1)
			for seen := most.Load(); now > seen && !most.CompareAndSwap(seen, now); seen = most.Load() {
			}
			assert.NotEmpty(t, ins)
			assert.LessOrEqual(t, len(ins), shape.size)
			total.Add(int64(len(ins)))
			return negatives(ins)
		}}
		var wg sync.WaitGroup
		for m := range members {
			wg.Go(func() {
				for r := range rounds {
					in := m*rounds + r + 1
					if out := g.do(in); out != -in {
						assert.Equal(t, -in, out)
					}
				}
			})
		}
		wg.Wait()
		assert.Equal(t, int64(members*rounds), total.Load(), "each member is flushed once")
		assert.LessOrEqual(t, most.Load(), int64(shape.lanes))
		assert.Positive(t, most.Load())
	}
}

// A group with a pace flushes the first members at once, however soon after a few others. Those that come right after many wait
// for their time, or until there are enough of them.
func TestGroupPace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const every, many, enough = 20 * time.Millisecond, 2, 3
		type flushed struct {
			at  time.Duration
			ins int
		}
		var all []flushed
		start, takes := time.Now(), time.Millisecond
		g := &group[int, int]{size: 10, lanes: 1, pace: newPace(every, many, enough), flush: func(ins []int) []int {
			all = append(all, flushed{time.Since(start), len(ins)})
			time.Sleep(takes)
			return negatives(ins)
		}}
		var wg sync.WaitGroup
		join(t, &wg, g, 1) // at once
		join(t, &wg, g, 2) // these as soon as it is over: it was but one
		join(t, &wg, g, 3)
		wg.Wait()
		join(t, &wg, g, 4) // not before there are enough, or their time comes
		join(t, &wg, g, 5)
		join(t, &wg, g, 6)
		wg.Wait()
		join(t, &wg, g, 7) // its time
		wg.Wait()
		join(t, &wg, g, 8) // at once
		wg.Wait()
		assert.Equal(t, []flushed{{0, 1}, {takes, 2}, {2 * takes, 3}, {2*takes + every, 1}, {3*takes + every, 1}}, all)
	})
}
