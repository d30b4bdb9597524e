package check

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// The rules. Each is a sentence about what was found.
const (
	RuleLost            = "lost: committed, and not delivered to its end"
	RuleVanished        = "lost: committed, and not in the table"
	RuleNeverReceived   = "lost: recorded as answered, and never received so"
	RuleUnjustified     = "lost: a dead letter without a reason"
	RulePhantom         = "phantom: received, and never committed"
	RuleTooEarly        = "phantom: received before its commit or its time"
	RuleTable           = "phantom: in the table, and never committed"
	RuleForged          = "the body is another delivery's"
	RuleUnaccounted     = "received, and not in the ledger"
	RuleMismatch        = "the ledger says something else than the receiver"
	RuleGap             = "the ledger has a gap"
	RuleDuplicate       = "duplicate without a cause"
	RuleOverlap         = "two attempts at a time without a cause"
	RuleAbandoned       = "abandoned without a cause"
	RuleLate            = "sent after its lease had ended, without a cause"
	RuleNotFinal        = "an attempt after the last one, without a cause"
	RuleState           = "a state that must not be"
	RuleCanceled        = "sent after it was canceled"
	RuleActs            = "the row does not show what people did"
	RuleJob             = "a job that nobody works, or without a row"
	RuleRetryWithoutJob = "a retry that waits without a job"
	RuleInsert          = "an INSERT failed without a cause"
	RuleFault           = "a process did what it must not"
	canceled            = "canceled"
	deadLetter          = "dead_letter"
	pending             = "pending"
	succeeded           = "succeeded"
	abandoned           = "abandoned"
	transient           = "transient"
	permanent           = "permanent"
	mostAbandonedInARow = 5
	defaultMaxAttempts  = 60
	jobGrace            = 30 * time.Second
)

// DefaultMaxAttempts is what the nodes of a run must be told.
const DefaultMaxAttempts = defaultMaxAttempts

// Violation is one broken promise.
type Violation struct {
	Rule, UUID, Detail string
}

func (v Violation) String() string {
	return strings.TrimSpace(v.Rule + ": " + v.UUID + " " + v.Detail)
}

// Duplicate is a request too many, and the fault that explains it.
type Duplicate struct {
	UUID  string
	Cause string
}

// Recovery is how long the slowest delivery that a kind of fault struck had to wait after it.
type Recovery struct {
	Faults, Abandoned, Resent int
	Slowest                   time.Duration
}

// Report is the verdict.
type Report struct {
	Violations []Violation
	Duplicates []Duplicate
	Recovery   map[string]Recovery // by kind of fault

	Committed, RolledBack, Unknown, UnknownCommitted int
	Requests, Delivered, Attempts, AbandonedAttempts int
	Late                                             int // requests that a node sent when it had been frozen beyond its lease
	ByStatus                                         map[string]int
	Lost                                             int // violations that are losses
}

// OK says that nothing was violated.
func (r *Report) OK() bool { return len(r.Violations) == 0 }

// Check compares. It needs no database, has no clock and changes nothing.
func Check(records *Records) *Report {
	c := newChecker(records)
	c.inserts()
	c.received()
	for _, uuid := range slices.Sorted(maps.Keys(c.stories)) {
		c.story(c.stories[uuid])
	}
	c.jobs()
	for _, s := range records.Sightings {
		c.broken(s.Rule, "", s.At.Format(clock)+" "+s.Detail)
	}
	for _, f := range records.Faults {
		if f.Problem != "" {
			c.broken(RuleFault, "", f.From.Format(clock)+" "+f.Kind+": "+f.Problem)
		}
	}
	c.recovery()
	return c.report
}

const clock = "15:04:05.000"

// story is all that is known of one delivery.
type story struct {
	insert   Insert
	row      Delivery
	requests []Request // by time
	rounds   map[int][]Attempt
	acts     []Act
	in       map[int]*place // the place in the ledger of each request
}

// place is where in the ledger a request stands.
type place struct {
	attempt Attempt
	request *Request // nil: it was never received
}

type checker struct {
	*Records
	report   *Report
	byInsert map[string]Insert
	rows     map[string]Delivery
	ids      map[int64]string
	stories  map[string]*story
}

func newChecker(r *Records) *checker {
	c := &checker{
		Records: r, report: &Report{Recovery: make(map[string]Recovery), ByStatus: make(map[string]int)},
		byInsert: make(map[string]Insert), rows: make(map[string]Delivery), ids: make(map[int64]string), stories: make(map[string]*story),
	}
	for _, i := range r.Inserts {
		c.byInsert[i.UUID] = i
	}
	for _, d := range r.Deliveries {
		c.rows[d.UUID], c.ids[d.ID] = d, d.UUID
		c.stories[d.UUID] = &story{insert: c.byInsert[d.UUID], row: d, rounds: make(map[int][]Attempt)}
	}
	for _, a := range r.Attempts {
		if s := c.stories[c.ids[a.DeliveryID]]; s != nil {
			s.rounds[a.Round] = append(s.rounds[a.Round], a)
		} else {
			c.broken(RuleState, "", fmt.Sprintf("attempt %d of a delivery %d that is not there", a.Number, a.DeliveryID))
		}
	}
	for _, q := range r.Requests {
		if s := c.stories[q.UUID]; s != nil {
			s.requests = append(s.requests, q)
		}
	}
	for _, a := range r.Acts {
		if s := c.stories[a.UUID]; s != nil {
			s.acts = append(s.acts, a)
		}
	}
	for _, s := range c.stories {
		slices.SortFunc(s.requests, func(a, b Request) int { return a.Start.Compare(b.Start) })
		slices.SortFunc(s.acts, func(a, b Act) int { return a.Sent.Compare(b.Sent) })
		for _, attempts := range s.rounds {
			slices.SortFunc(attempts, func(a, b Attempt) int { return cmp.Compare(a.Number, b.Number) })
		}
	}
	return c
}

func (c *checker) broken(rule, uuid, detail string) {
	c.report.Violations = append(c.report.Violations, Violation{rule, uuid, detail})
	if strings.HasPrefix(rule, "lost") {
		c.report.Lost++
	}
}

// inserts compares what was committed with the table (G1, G2, G7).
func (c *checker) inserts() {
	for _, i := range c.Inserts {
		_, there := c.rows[i.UUID]
		switch i.Result {
		case Committed:
			c.report.Committed++
			if !there {
				c.broken(RuleVanished, i.UUID, i.Kind)
			}
		case RolledBack:
			c.report.RolledBack++
			if there {
				c.broken(RuleTable, i.UUID, i.Kind+", rolled back")
			}
		default:
			c.report.Unknown++
			if there {
				c.report.UnknownCommitted++
			}
		}
		if i.Problem != "" {
			c.broken(RuleInsert, i.UUID, i.Kind+": "+i.Problem)
		}
	}
	for _, d := range c.Deliveries {
		if _, known := c.byInsert[d.UUID]; !known {
			c.broken(RuleTable, d.UUID, "nobody inserted it")
		}
	}
}

// received looks for requests that should not have been (G2).
func (c *checker) received() {
	for _, q := range c.Requests {
		c.report.Requests++
		if q.Delivered() {
			c.report.Delivered++
		}
		if q.Token != q.UUID {
			c.broken(RuleForged, q.UUID, fmt.Sprintf("attempt %d has the body of %q", q.Attempt, q.Token))
		}
		i, known := c.byInsert[q.UUID]
		_, there := c.rows[q.UUID]
		switch {
		case !known:
			c.broken(RulePhantom, q.UUID, "nobody inserted it")
		case i.Result == RolledBack:
			c.broken(RulePhantom, q.UUID, i.Kind+", rolled back")
		case !there:
			if i.Result == Unknown { // that of a committed one is RuleVanished
				c.broken(RulePhantom, q.UUID, i.Kind+", of unknown outcome and not in the table")
			}
		case q.Start.Before(i.CommitSent):
			c.broken(RuleTooEarly, q.UUID, "received at "+q.Start.Format(clock)+", COMMIT sent at "+i.CommitSent.Format(clock))
		case !i.NotBefore.IsZero() && q.Start.Before(i.NotBefore.Add(-100*time.Millisecond)) && !c.struck(Clock) && !c.replayedBefore(q):
			c.broken(RuleTooEarly, q.UUID, "received at "+q.Start.Format(clock)+", due at "+i.NotBefore.Format(clock))
		}
	}
}

// replayedBefore: a replay is due at once, whatever the time was that it had been inserted for.
func (c *checker) replayedBefore(q Request) bool {
	s := c.stories[q.UUID]
	return s != nil && slices.ContainsFunc(s.acts, func(a Act) bool { return a.Kind == Replay && a.Sent.Before(q.Start) })
}

// struck says whether there was any fault of that kind.
func (c *checker) struck(e Excuse) bool {
	return slices.ContainsFunc(c.Faults, func(f Fault) bool { return f.Excuse == e })
}

// cause is the fault that explains that something of a node went wrong between two times; nil: none does.
func (c *checker) cause(node string, from, to time.Time, excuses ...Excuse) *Fault {
	var best *Fault
	for i := range c.Faults {
		f := &c.Faults[i]
		if !slices.Contains(excuses, f.Excuse) || f.Node != "" && f.Node != node {
			continue
		}
		if f.From.Add(-c.Slack).After(to) || f.To.Add(c.Slack).Before(from) {
			continue
		}
		// The one that struck this very node says more than one that struck all.
		if best == nil || best.Node == "" && f.Node != "" {
			best = f
		}
	}
	return best
}

// story judges one delivery.
func (c *checker) story(s *story) {
	c.report.ByStatus[s.row.Status]++
	c.state(s)
	c.ledger(s)
	c.locate(s)
	c.repeated(s)
	c.abandonment(s)
	c.finality(s)
	c.acted(s)
}

// state holds the row against the invariants.
func (c *checker) state(s *story) {
	d := s.row
	if d.Status == pending {
		c.broken(RuleLost, d.UUID, fmt.Sprintf("pending after %d attempts, round %d: %s", d.Attempts, d.Round, c.waiting(d)))
		return
	}
	for _, bad := range []struct {
		is   bool
		text string
	}{
		{d.ScheduledFor != nil, "has a time"},
		{d.ClaimedBy != nil, "is claimed"},
		{d.LeasedUntil != nil, "has a lease"},
		{d.HeldSince != nil, "is held"},
		{d.FinishedAt == nil, "is not finished"},
	} {
		if bad.is {
			c.broken(RuleState, d.UUID, d.Status+", and "+bad.text)
		}
	}
}

// waiting says what a pending row waits for.
func (c *checker) waiting(d Delivery) string {
	var what []string
	if d.ClaimedBy != nil {
		what = append(what, "claimed by "+*d.ClaimedBy)
	}
	if d.LeasedUntil != nil && d.LeasedUntil.Before(c.ReadAt) {
		what = append(what, "its lease ended "+c.ReadAt.Sub(*d.LeasedUntil).Round(time.Millisecond).String()+" ago")
	}
	if d.HeldSince != nil {
		what = append(what, "held")
	}
	if d.ScheduledFor != nil {
		what = append(what, "due "+c.ReadAt.Sub(*d.ScheduledFor).Round(time.Millisecond).String()+" ago")
	}
	job := "no job"
	for _, j := range c.Jobs {
		if j.DeliveryID == d.ID && j.Claim == d.Claim {
			job = "its job is " + j.State
		}
	}
	return strings.Join(append(what, job), ", ")
}

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

// repeated looks for requests that came once more than needed, and for two at a time (G3, G4).
func (c *checker) repeated(s *story) {
	for n := range s.requests {
		next := s.in[n]
		if next == nil {
			continue // unaccounted already
		}
		for p := n - 1; p >= 0; p-- {
			earlier := s.in[p]
			if earlier == nil || earlier.attempt.Round != next.attempt.Round {
				continue
			}
			if s.requests[p].End.After(s.requests[n].Start) {
				c.overlap(s, earlier, next)
			}
			if s.requests[p].Delivered() {
				c.duplicate(s, earlier)
				break
			}
		}
	}
}

func (c *checker) overlap(s *story, earlier, next *place) {
	// A node that is dead ends no connection cleanly, and one that is frozen none at all.
	q := earlier.request
	if c.cause(earlier.attempt.Node, q.Start.Add(-c.Lease), next.request.Start, Death, Freeze, Clock) == nil {
		c.broken(RuleOverlap, s.row.UUID, fmt.Sprintf("attempt %d of %s, %s to %s, and attempt %d of %s from %s on",
			earlier.attempt.Number, earlier.attempt.Node, q.Start.Format(clock), q.End.Format(clock),
			next.attempt.Number, next.attempt.Node, next.request.Start.Format(clock)))
	}
}

// duplicate: it was delivered, and yet there was another. What went wrong went wrong between its beginning and the record
// of its outcome; an outcome that came late has corrected the ledger.
func (c *checker) duplicate(s *story, earlier *place) {
	a, q := earlier.attempt, earlier.request
	to := q.End
	if a.Outcome != transient {
		to = q.Start.Add(c.Lease)
	}
	excuses := []Excuse{Freeze, Database, Clock}
	if a.Outcome == abandoned {
		excuses = append(excuses, Death)
	}
	if f := c.cause(a.Node, q.Start, to, excuses...); f != nil {
		c.report.Duplicates = append(c.report.Duplicates, Duplicate{s.row.UUID, f.Kind})
		return
	}
	// On a slow machine an answer may lie around for a while before the node looks at it.
	if a.Outcome == transient && a.Failure == "timeout" && (q.End.Sub(q.Start) > c.Timeout/2 || q.End.Sub(a.StartedAt) > c.Timeout/2) {
		c.report.Duplicates = append(c.report.Duplicates, Duplicate{s.row.UUID, "answered after the timeout"})
		return
	}
	c.broken(RuleDuplicate, s.row.UUID, fmt.Sprintf("round %d attempt %d of %s was answered %d from %s to %s; the ledger has it as %s %s",
		a.Round, a.Number, a.Node, q.Status, q.Start.Format(clock), q.End.Format(clock), a.Outcome, a.Failure))
}

// abandonment: every abandoned attempt has a cause.
func (c *checker) abandonment(s *story) {
	for _, attempts := range s.rounds {
		for _, a := range attempts {
			if a.Outcome != abandoned {
				continue
			}
			c.report.AbandonedAttempts++
			// Replayed while it was in flight: that ends a round.
			if a.Round < s.row.Round && a.Number == len(attempts) && len(c.replaysOf(s)) > 0 {
				continue
			}
			f := c.cause(a.Node, a.StartedAt, a.StartedAt.Add(c.Lease), Death, Freeze, Database, Clock)
			if f == nil {
				c.broken(RuleAbandoned, s.row.UUID, fmt.Sprintf("round %d attempt %d of %s, claimed at %s",
					a.Round, a.Number, a.Node, a.StartedAt.Format(clock)))
				continue
			}
			r := c.report.Recovery[f.Kind]
			r.Abandoned++
			for _, q := range s.requests {
				if q.Start.After(f.From) && (q.Attempt > a.Number) {
					r.Resent++
					r.Slowest = max(r.Slowest, q.Start.Sub(f.To))
					break
				}
			}
			c.report.Recovery[f.Kind] = r
		}
	}
}

func (c *checker) replaysOf(s *story) []Act {
	var replays []Act
	for _, a := range s.acts {
		if a.Kind == Replay && a.Result != RolledBack {
			replays = append(replays, a)
		}
	}
	return replays
}

// finality: a terminal row has a last attempt that ended it, and none after that (G6).
func (c *checker) finality(s *story) {
	for round, attempts := range s.rounds {
		for i, a := range attempts[:max(0, len(attempts)-1)] {
			if a.Outcome != succeeded && a.Outcome != permanent {
				continue
			}
			// It was taken for abandoned, and its outcome came late.
			if c.cause(a.Node, a.StartedAt, a.StartedAt.Add(c.Lease), Freeze, Database, Clock) == nil {
				c.broken(RuleNotFinal, s.row.UUID, fmt.Sprintf("round %d: attempt %d is %s, and there is attempt %d",
					round, a.Number, a.Outcome, attempts[i+1].Number))
			}
		}
	}
	attempts := s.rounds[s.row.Round]
	var last Attempt
	if len(attempts) > 0 {
		last = attempts[len(attempts)-1]
	}
	switch s.row.Status {
	case succeeded:
		if last.Outcome != succeeded {
			c.broken(RuleState, s.row.UUID, "succeeded, and its last attempt is "+cmp.Or(last.Outcome, "not there"))
		}
	case deadLetter:
		c.justify(s, attempts, last)
	case canceled:
		if !slices.ContainsFunc(s.acts, func(a Act) bool { return a.Kind == Cancel && a.Result != RolledBack }) {
			c.broken(RuleActs, s.row.UUID, "canceled, and nobody did")
		}
	case pending:
	default:
		c.broken(RuleState, s.row.UUID, "status "+s.row.Status)
	}
}

// justify: a dead letter was refused for good, or tried as often as it may be, or took five nodes in a row with it.
func (c *checker) justify(s *story, attempts []Attempt, last Attempt) {
	made, inARow := 0, 0
	for _, a := range attempts {
		if a.Outcome == abandoned {
			inARow++
			continue
		}
		made, inARow = made+1, 0
	}
	switch {
	case last.Outcome == permanent && last.Failure == "status" && last.Status != 0: // what was answered is compared elsewhere
	case last.Outcome == transient && made >= cmp.Or(s.row.MaxAttempts, defaultMaxAttempts):
	case last.Outcome == abandoned && inARow >= mostAbandonedInARow:
	default:
		c.broken(RuleUnjustified, s.row.UUID, fmt.Sprintf("%d attempts, %d of them made, the last one %s %s %d",
			len(attempts), made, last.Outcome, last.Failure, last.Status))
	}
}

// acted: as many rounds as replays, and nothing is sent of what was canceled while nobody was sending it.
func (c *checker) acted(s *story) {
	sure, most := 0, 0
	for _, a := range s.acts {
		if a.Kind == Replay {
			if a.Result == Committed {
				sure++
			}
			if a.Result != RolledBack {
				most++
			}
		}
	}
	if s.row.Round < sure || s.row.Round > most {
		c.broken(RuleActs, s.row.UUID, fmt.Sprintf("round %d after %d to %d replays", s.row.Round, sure, most))
	}
	for i, a := range s.acts {
		if a.Kind != Cancel || a.Result != Committed || a.InFlight {
			continue
		}
		until := time.Time{}
		for _, later := range s.acts[i+1:] {
			if later.Kind == Replay {
				until = later.Sent
				break
			}
		}
		for n, q := range s.requests {
			if q.Start.After(a.Done) && (until.IsZero() || q.Start.Before(until)) {
				node := ""
				if p := s.in[n]; p != nil {
					node = p.attempt.Node
				}
				if c.cause(node, q.Start.Add(-c.Lease), q.Start, Freeze, Clock) == nil {
					c.broken(RuleCanceled, s.row.UUID, fmt.Sprintf("canceled at %s, sent at %s", a.Done.Format(clock), q.Start.Format(clock)))
				}
			}
		}
	}
}

// jobs: one that could be worked is, soon; and it is for a row.
func (c *checker) jobs() {
	for _, j := range c.Jobs {
		uuid, there := c.ids[j.DeliveryID]
		switch {
		case !there:
			c.broken(RuleJob, "", fmt.Sprintf("job %d is %s, for a delivery %d that is not there", j.ID, j.State, j.DeliveryID))
		case j.State == "available" && j.ScheduledAt.Before(c.ReadAt.Add(-jobGrace)):
			c.broken(RuleJob, uuid, fmt.Sprintf("job %d is available since %s", j.ID, c.ReadAt.Sub(j.ScheduledAt).Round(time.Second)))
		}
	}
}

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
