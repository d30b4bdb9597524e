package check

import (
	"slices"
	"time"
)

// recovery measures how long what came due during a fault had to wait after it. Where there were several, all are blamed.
func (c *checker) recovery() {
	first := make(map[string]time.Time)
	for _, s := range c.stories {
		if len(s.requests) > 0 {
			first[s.row.UUID] = s.requests[0].Start
		}
	}
	type due struct {
		at, first time.Time
		origin    string
	}
	var all []due
	for _, i := range c.Inserts {
		f, received := first[i.UUID]
		if s := c.stories[i.UUID]; received && i.Result == Committed && len(s.acts) == 0 {
			at := i.Ended
			if i.NotBefore.After(at) {
				at = i.NotBefore
			}
			all = append(all, due{at, f, i.Origin})
		}
	}
	slices.SortFunc(all, func(a, b due) int { return a.at.Compare(b.at) })
	for _, f := range c.Faults {
		r := c.report.Recovery[f.Kind]
		r.Faults++
		from, _ := slices.BinarySearchFunc(all, f.From, func(d due, t time.Time) int { return d.at.Compare(t) })
		for _, d := range all[from:] {
			if d.at.After(f.To) {
				break
			}
			if f.Delays && (f.Origin == "" || f.Origin == d.origin) {
				r.Slowest = max(r.Slowest, d.first.Sub(f.To))
			}
		}
		c.report.Recovery[f.Kind] = r
	}
}
