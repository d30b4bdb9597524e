package progress

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestStuck(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	ago := func(loop string, age, limit time.Duration) try {
		return try{loop: loop, began: now.Add(-age), limit: limit}
	}
	for name, c := range map[string]struct {
		tries []try
		want  []string
	}{
		"nothing under way":         {nil, nil},
		"just begun":                {[]try{ago("a", 0, 5*time.Second)}, nil},
		"within its limit":          {[]try{ago("a", 5*time.Second, 5*time.Second)}, nil},
		"within the grace":          {[]try{ago("a", 35*time.Second, 5*time.Second)}, nil},
		"past both":                 {[]try{ago("a", 35*time.Second+1, 5*time.Second)}, []string{"a"}},
		"a long limit":              {[]try{ago("sweep", 10*time.Minute+30*time.Second, 10*time.Minute)}, nil},
		"past a long limit":         {[]try{ago("sweep", 10*time.Minute+31*time.Second, 10*time.Minute)}, []string{"sweep"}},
		"no limit is the grace":     {[]try{ago("a", 30*time.Second, 0), ago("b", 30*time.Second+1, 0)}, []string{"b"}},
		"a limit that has passed":   {[]try{ago("a", 30*time.Second, -time.Hour), ago("b", 31*time.Second, -time.Hour)}, []string{"b"}},
		"of several tries, by name": {[]try{ago("b", time.Hour, 0), ago("a", time.Hour, 0), ago("b", time.Hour, 0), ago("c", 0, 0)}, []string{"a", "b"}},
		"a clock that went back":    {[]try{ago("a", -time.Hour, time.Second)}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, c.want, stuck(c.tries, now))
		})
	}
}

func TestBoard(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b Board
		assert.Empty(t, b.Stuck(time.Now()))
		end := b.Begin("look", 5*time.Second)
		other := b.Begin("look", time.Minute)
		time.Sleep(35 * time.Second)
		assert.Empty(t, b.Stuck(time.Now()))
		time.Sleep(time.Nanosecond)
		assert.Equal(t, []string{"look"}, b.Stuck(time.Now()))
		end()
		assert.Empty(t, b.Stuck(time.Now()), "what returned late has returned")
		end()
		time.Sleep(time.Minute)
		assert.Equal(t, []string{"look"}, b.Stuck(time.Now()))
		other()
		assert.Empty(t, b.Stuck(time.Now()))
		assert.Empty(t, b.tries, "nothing is kept")
	})
}

func TestNilBoard(t *testing.T) {
	t.Parallel()
	var b *Board
	end := b.Begin("look", 0)
	assert.Empty(t, b.Stuck(time.Now().Add(time.Hour)))
	end()
}

func TestBoardOfMany(t *testing.T) {
	t.Parallel()
	var b Board
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			for range 100 {
				end := b.Begin("look", time.Hour)
				_ = b.Stuck(time.Now())
				end()
			}
		})
	}
	all.Wait()
	assert.Empty(t, b.tries)
}
