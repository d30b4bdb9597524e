package sweeper

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/riverhook/riverhook/delivery/store"
)

func TestSized(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		size int
		took time.Duration
		want int
	}{
		"quick":                {pageSize, 10 * time.Millisecond, 2 * pageSize},
		"quick and large":      {maxPageSize, 10 * time.Millisecond, maxPageSize},
		"as it should be":      {4000, pageAim, 4000},
		"slow":                 {4000, 2*pageAim + 1, 2000},
		"slow and small":       {pageSize, 2*pageAim + 1, pageSize},
		"very slow":            {maxPageSize, 10 * time.Second, pageSize},
		"very slow, and small": {pageSize, 10 * time.Second, pageSize},
	} {
		assert.Equal(t, test.want, sized(test.size, test.took), name)
	}
}

func TestRest(t *testing.T) {
	t.Parallel()
	live := store.SweepPage{Seen: pageSize, Live: pageSize - 1, Held: 1}
	for name, test := range map[string]struct {
		n    int
		page store.SweepPage
		took time.Duration
		want time.Duration
	}{
		"the first pages":      {unpacedPages - 1, live, 20 * time.Millisecond, 0},
		"a backlog":            {unpacedPages, live, 10 * time.Millisecond, 40 * time.Millisecond},
		"a slow database":      {unpacedPages, live, 10 * time.Second, time.Second},
		"a lost job":           {unpacedPages, store.SweepPage{Seen: pageSize, Live: pageSize - 1, Requeued: 1}, time.Millisecond, 0},
		"a locked row":         {unpacedPages, store.SweepPage{Seen: pageSize, Live: pageSize - 1, Skipped: 1}, time.Millisecond, 0},
		"a node that was lost": {unpacedPages, store.SweepPage{Seen: pageSize, Reclaimed: make([]store.Attempt, 1)}, time.Millisecond, 0},
	} {
		assert.Equal(t, test.want, rest(test.n, test.page, test.took), name)
	}
}
