package dashboard

import (
	"math"
	"strconv"

	"github.com/riverhook/riverhook/delivery/store"
)

// The size of a chart, in units of its own: as wide as a screen, and as a phone.
const (
	wideChart   = 960
	narrowChart = 340
	chartHeight = 220
	chartLeft   = 44 // for the numbers
	chartTop    = 10
	chartBottom = 22 // for the times
)

// chart is deliveries per minute by outcome, as an SVG has it: bars that stand on each other.
type chart struct {
	Class                            string
	Width, Height, Left, Right, Base int
	Bars                             []bar
	Lines                            []mark // of numbers
	Times                            []mark
}

// chartData is what the charts are about.
type chartData struct {
	Charts       []chart        // the same for a wide and for a narrow page
	Minutes      []store.Minute // for those who do not see it, the newest first
	Total        store.Minute
	About, Empty bool
}

// bar is one outcome within one minute.
type bar struct {
	X, Y, Width, Height string
	Class               string
}

// mark is a text at a place.
type mark struct {
	At   string
	Text string
}

func newChartData(minutes []store.Minute) *chartData {
	d := &chartData{}
	highest := int64(0)
	for _, m := range minutes {
		highest = max(highest, m.Succeeded+m.DeadLetter+m.Canceled)
		d.Total.Succeeded += m.Succeeded
		d.Total.DeadLetter += m.DeadLetter
		d.Total.Canceled += m.Canceled
		d.About = d.About || m.About
		d.Minutes = append([]store.Minute{m}, d.Minutes...)
	}
	d.Empty = highest == 0
	d.Charts = []chart{newChart("wide", wideChart, minutes, highest), newChart("narrow", narrowChart, minutes, highest)}
	return d
}

func newChart(class string, size int, minutes []store.Minute, highest int64) chart {
	c := chart{Class: class, Width: size, Height: chartHeight, Left: chartLeft, Right: size, Base: chartHeight - chartBottom}
	step := niceStep(highest)
	top := max(step, int64(math.Ceil(float64(highest)/float64(step)))*step)
	height := func(n int64) float64 { return float64(n) / float64(top) * float64(c.Base-chartTop) }
	for n := int64(0); n <= top; n += step {
		c.Lines = append(c.Lines, mark{coordinate(float64(c.Base) - height(n)), compact(n)})
	}
	width := float64(size-chartLeft) / float64(max(len(minutes), 1))
	for i, m := range minutes {
		x, y := chartLeft+float64(i)*width, float64(c.Base)
		for _, part := range []struct {
			n     int64
			class string
		}{{m.Succeeded, "succeeded"}, {m.DeadLetter, "dead_letter"}, {m.Canceled, "canceled"}} {
			if part.n == 0 {
				continue
			}
			h := max(height(part.n), 1.5) // what is there is seen
			y -= h
			c.Bars = append(c.Bars, bar{coordinate(x + width*0.1), coordinate(y), coordinate(width * 0.8), coordinate(h), part.class})
		}
		if m.At.Minute()%15 == 0 && x < float64(size)-24 { // where its text has room
			c.Times = append(c.Times, mark{coordinate(x + width/2), m.At.UTC().Format("15:04")})
		}
	}
	return c
}

// niceStep is the distance of about four lines: 1, 2 or 5 times a power of ten.
func niceStep(highest int64) int64 {
	for power := int64(1); ; power *= 10 {
		for _, digit := range []int64{1, 2, 5} {
			if step := digit * power; step*4 >= highest {
				return step
			}
		}
	}
}

// compact is a number of few characters.
func compact(n int64) string {
	switch {
	case n >= 1_000_000:
		return strconv.FormatFloat(float64(n)/1e6, 'f', -1, 64) + " M"
	case n >= 10_000:
		return strconv.FormatFloat(float64(n)/1e3, 'f', -1, 64) + " k"
	}
	return number(n)
}

func coordinate(f float64) string { return strconv.FormatFloat(f, 'f', 1, 64) }
