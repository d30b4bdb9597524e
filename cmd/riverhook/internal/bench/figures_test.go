package bench

import (
	"bytes"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMedian(t *testing.T) {
	t.Parallel()
	assert.InDelta(t, 3, median([]float64{9, 3, 1}), 0)
	assert.InDelta(t, 2, median([]float64{3, 1}), 0)
}

func TestPercentile(t *testing.T) {
	t.Parallel()
	hundred := make([]int, 100)
	for i := range hundred {
		hundred[i] = 100 - i
	}
	assert.Equal(t, []int{50, 95, 99, 100}, []int{percentile(hundred, 0.5), percentile(hundred, 0.95), percentile(hundred, 0.99), percentile(hundred, 1)})
	assert.Equal(t, 7, percentile([]int{7}, 0.5))
	assert.Equal(t, 0, percentile([]int(nil), 0.5))
}

func TestNumber(t *testing.T) {
	t.Parallel()
	assert.Equal(t, []string{"0", "999", "1,000", "12,345,678.90", "-1,000"},
		[]string{number(0, 0), number(999, 0), number(1000, 0), number(12345678.9, 2), number(-1000, 0)})
}

func TestGoals(t *testing.T) {
	t.Parallel()
	floor, ceiling := definition{atLeast: 0.6}, definition{atMost: 4}
	assert.True(t, floor.goal(0.6).Met)
	assert.False(t, floor.goal(0.59).Met)
	assert.True(t, ceiling.goal(4).Met)
	assert.False(t, ceiling.goal(4.01).Met)
	assert.Nil(t, definition{}.goal(1))
}

// Ratios are of figures of the same round, and everything has a line in the table.
func TestCatalog(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, d := range catalog {
		assert.False(t, known[d.name], "%s stands twice", d.name)
		known[d.name] = true
	}
	for _, d := range catalog {
		if d.over != "" {
			assert.True(t, known[d.over] && known[d.under], "%s is a ratio of what nobody measures", d.name)
		}
	}
	for mode, names := range headlines {
		for _, name := range names {
			assert.True(t, known[name] && strings.HasPrefix(name, mode+"."), name)
		}
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	b := &bench{values: map[string][]float64{"river.rate": {20000, 10000, 30000}, "deliver.of_river": {0.5, 0.55, 0.7}}}
	r := &Report{Version: "1", Rounds: 3, Rows: 30000, Modes: []string{"river", "deliver"}}
	b.fill(r)
	var out bytes.Buffer
	require.NoError(t, r.WriteTable(&out))
	text := strings.Join(strings.Fields(out.String()), " ")
	assert.Contains(t, text, "no-op jobs 20,000/s 10,000 - 30,000")
	assert.Contains(t, text, "of River's no-op rate 0.55 0.50 - 0.70 >= 0.6 MISSED")
}

func TestLedgerFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	l := newLedger(2)
	request := func(id string) {
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/hook", nil)
		r.Header.Set(deliveryIDHeader, id)
		l.enter(r)
	}
	request(l.ids[0])
	assert.Contains(t, l.problem(), "1 were not received")
	request(l.ids[1])
	assert.Empty(t, l.problem())
	select {
	case <-l.all:
	default:
		assert.Fail(t, "all have come")
	}
	request(l.ids[1])
	assert.Contains(t, l.problem(), "1 more than once")
	request("another")
	assert.Contains(t, l.problem(), "1 requests were of no known delivery")
	assert.Equal(t, []string{l.ids[1]}, l.newest(1))
}

func TestMix(t *testing.T) {
	t.Parallel()
	rows := make([]row, 90)
	mixed := mix(rows, []string{"a", "b"})
	require.Len(t, mixed, 100)
	assert.Equal(t, []string{"a", "b", "a"}, []string{mixed[9].url, mixed[19].url, mixed[29].url})
}
