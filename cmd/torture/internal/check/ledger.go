package check

import (
	"cmp"
	"fmt"
	"slices"
)

// ledger: numbers without gaps, in every round up to the row's.
func (c *checker) ledger(s *story) {
	for round, attempts := range s.rounds {
		c.report.Attempts += len(attempts)
		if round > s.row.Round {
			c.broken(RuleGap, s.row.UUID, fmt.Sprintf("attempts in round %d, but the row is in round %d", round, s.row.Round))
		}
		for i, a := range attempts {
			if a.Number != i+1 {
				c.broken(RuleGap, s.row.UUID, fmt.Sprintf("round %d: attempt %d stands where %d should", round, a.Number, i+1))
				break
			}
		}
	}
	if n := len(s.rounds[s.row.Round]); n != s.row.Attempts {
		c.broken(RuleGap, s.row.UUID, fmt.Sprintf("the row counts %d attempts, its ledger %d", s.row.Attempts, n))
	}
}

// locate finds the place in the ledger of every request (G5). Requests do not say their round: each number's are laid beside
// its places so that what they say agrees best.
func (c *checker) locate(s *story) {
	s.in = make(map[int]*place)
	places := make(map[int][]*place)
	for _, attempts := range s.rounds {
		for _, a := range attempts {
			places[a.Number] = append(places[a.Number], &place{attempt: a})
		}
	}
	requests := make(map[int][]int)
	for i, q := range s.requests {
		requests[q.Attempt] = append(requests[q.Attempt], i)
	}
	for number, indexes := range requests {
		at := places[number]
		slices.SortFunc(at, func(a, b *place) int { return cmp.Compare(a.attempt.Round, b.attempt.Round) })
		for len(indexes) > len(at) {
			last := indexes[len(indexes)-1]
			c.broken(RuleUnaccounted, s.row.UUID, fmt.Sprintf("attempt %d at %s was received %d times, the ledger has %d",
				number, s.requests[last].Start.Format(clock), len(requests[number]), len(at)))
			indexes = indexes[:len(indexes)-1]
		}
		for i, p := range lay(s.requests, indexes, at) {
			s.in[indexes[i]] = at[p]
			at[p].request = &s.requests[indexes[i]]
		}
	}
	for _, at := range places {
		for _, p := range at {
			c.agree(s, p)
			c.late(s, p)
		}
	}
}

// late: what began in time can still be frozen between the last look at the clock and the first byte; nothing else sends late.
func (c *checker) late(s *story, p *place) {
	if p.request == nil || !p.request.Start.After(p.attempt.StartedAt.Add(c.Lease)) {
		return
	}
	if c.cause(p.attempt.Node, p.attempt.StartedAt, p.request.Start, Freeze, Clock) != nil {
		c.report.Late++
		return
	}
	c.broken(RuleLate, s.row.UUID, fmt.Sprintf("round %d attempt %d of %s began at %s and was received at %s",
		p.attempt.Round, p.attempt.Number, p.attempt.Node, p.attempt.StartedAt.Format(clock), p.request.Start.Format(clock)))
}

// lay chooses for each request one of the places, at least as many, which are in order.
func lay(requests []Request, indexes []int, places []*place) []int {
	best, bestCost := make([]int, len(indexes)), -1.0
	used, now := make([]bool, len(places)), make([]int, len(indexes))
	var try func(i int, cost float64)
	try = func(i int, cost float64) {
		if bestCost >= 0 && cost >= bestCost {
			return
		}
		if i == len(indexes) {
			bestCost = cost
			copy(best, now)
			return
		}
		for p := range places {
			if !used[p] {
				used[p], now[i] = true, p
				try(i+1, cost+disagreement(requests[indexes[i]], places[p].attempt))
				used[p] = false
			}
		}
	}
	try(0, 0)
	return best
}

func disagreement(q Request, a Attempt) float64 {
	cost := q.Start.Sub(a.StartedAt).Abs().Seconds()
	if (a.Status != 0 && a.Status != q.Status) || a.Outcome == succeeded && (q.Status < 200 || q.Status > 299) {
		cost += 1e6
	}
	return cost
}

// agree holds a place in the ledger against what the receiver knows.
func (c *checker) agree(s *story, p *place) {
	a, q := p.attempt, p.request
	answered := a.Outcome == succeeded || a.Status != 0
	what := fmt.Sprintf("round %d attempt %d is %s %d", a.Round, a.Number, a.Outcome, a.Status)
	switch {
	case !answered:
	case q == nil:
		c.broken(RuleNeverReceived, s.row.UUID, what+", and no such request came")
	case a.Status != q.Status || a.Outcome == succeeded && (q.Status < 200 || q.Status > 299):
		rule := RuleMismatch
		if a.Outcome == succeeded {
			rule = RuleNeverReceived
		}
		c.broken(rule, s.row.UUID, fmt.Sprintf("%s, and was answered %d (%s)", what, q.Status, q.How))
	}
}
