package check

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

var (
	start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	nodeA = "a"
	nodeB = "b"
)

func at(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }

func when(seconds float64) *time.Time {
	t := at(seconds)
	return &t
}

// well is a run in which nothing went wrong, though something did happen:
//
//	one      is delivered at once
//	two      is refused once, and delivered then
//	three    is in flight when node a is killed, and is delivered by b: it was received twice
//	four     is rolled back
//	five     is of unknown outcome, and in the table
//	six      is of unknown outcome, and is not
//	seven    is refused for good, replayed, and delivered in the round after
//	eight    is canceled before it is due
func well() *Records {
	inserts := []Insert{
		{UUID: "one", Result: Committed, Took: time.Millisecond, CommitSent: at(0), Ended: at(0.01)},
		{UUID: "two", Result: Committed, CommitSent: at(0), Ended: at(0.01)},
		{UUID: "three", Result: Committed, CommitSent: at(9.8), Ended: at(9.81)},
		{UUID: "four", Result: RolledBack},
		{UUID: "five", Result: Unknown, CommitSent: at(1), Ended: at(2)},
		{UUID: "six", Result: Unknown, CommitSent: at(1), Ended: at(2)},
		{UUID: "seven", Result: Committed, CommitSent: at(1), Ended: at(1.1)},
		{UUID: "eight", Result: Committed, CommitSent: at(1), Ended: at(1.1), NotBefore: at(100)},
	}
	request := func(uuid string, attempt int, from, to float64, status int) Request {
		return Request{UUID: uuid, Token: uuid, Attempt: attempt, Start: at(from), End: at(to), Status: status, Written: status != 0}
	}
	row := func(id int64, uuid, status string, round, attempts int) Delivery {
		return Delivery{ID: id, UUID: uuid, Status: status, Round: round, Attempts: attempts, FinishedAt: when(50)}
	}
	attempt := func(id int64, round, number int, started float64, outcome string, status int, node string) Attempt {
		failure := ""
		if outcome != succeeded && outcome != abandoned {
			failure = "status"
		}
		return Attempt{id, round, number, at(started), outcome, failure, status, node}
	}
	return &Records{
		Timeout: 2 * time.Second, Lease: 8 * time.Second, Slack: time.Second,
		Inserts: inserts,
		Requests: []Request{
			request("one", 1, 0.1, 0.2, 200),
			request("two", 1, 0.1, 0.2, 503),
			request("two", 2, 0.5, 0.6, 204),
			request("three", 1, 10, 10.1, 200),
			request("three", 2, 18.5, 18.6, 200),
			request("five", 1, 1.5, 1.6, 200),
			request("seven", 1, 1.2, 1.3, 410),
			request("seven", 1, 30, 30.1, 200),
		},
		Acts: []Act{
			{Kind: Replay, UUID: "seven", Sent: at(29), Done: at(29.1), Result: Committed},
			{Kind: Cancel, UUID: "eight", Sent: at(29), Done: at(29.1), Result: Committed},
		},
		Faults: []Fault{
			{Kind: "kill -9", Node: nodeA, From: at(10.2), To: at(10.2), Excuse: Death, Delays: true},
			{Kind: "queue paused", From: at(9), To: at(9.9), Delays: true},
		},
		Deliveries: []Delivery{
			row(1, "one", succeeded, 0, 1),
			row(2, "two", succeeded, 0, 2),
			row(3, "three", succeeded, 0, 2),
			row(5, "five", succeeded, 0, 1),
			row(7, "seven", succeeded, 1, 1),
			row(8, "eight", canceled, 0, 0),
		},
		Attempts: []Attempt{
			attempt(1, 0, 1, 0.1, succeeded, 200, nodeA),
			attempt(2, 0, 1, 0.1, transient, 503, nodeA),
			attempt(2, 0, 2, 0.5, succeeded, 204, nodeB),
			attempt(3, 0, 1, 9.9, abandoned, 0, nodeA),
			attempt(3, 0, 2, 18.5, succeeded, 200, nodeB),
			attempt(5, 0, 1, 1.5, succeeded, 200, nodeA),
			attempt(7, 0, 1, 1.2, permanent, 410, nodeA),
			attempt(7, 1, 1, 30, succeeded, 200, nodeB),
		},
		Jobs:   []Job{{ID: 1, DeliveryID: 8, State: "scheduled", ScheduledAt: at(100)}},
		ReadAt: at(60),
	}
}

func TestNothingToComplainAbout(t *testing.T) {
	t.Parallel()
	report := Check(well())
	assert.Empty(t, report.Violations)
	assert.Equal(t, []Duplicate{{"three", "kill -9"}}, report.Duplicates)
	assert.Equal(t, map[string]int{succeeded: 5, canceled: 1}, report.ByStatus)
	assert.Equal(t, 5, report.Committed)
	assert.Equal(t, time.Millisecond, report.SlowestInsert)
	assert.Equal(t, 1, report.RolledBack)
	assert.Equal(t, 2, report.Unknown)
	assert.Equal(t, 1, report.UnknownCommitted)
	assert.Equal(t, 8, report.Requests)
	assert.Equal(t, 6, report.Delivered)
	assert.Equal(t, 8, report.Attempts)
	assert.Equal(t, 1, report.AbandonedAttempts)
	assert.Equal(t, Recovery{Faults: 1, Abandoned: 1, Resent: 1, Slowest: 8300 * time.Millisecond}, report.Recovery["kill -9"])
	assert.Equal(t, 100*time.Millisecond, report.Recovery["queue paused"].Slowest)
}

// TestViolations breaks a run in which nothing went wrong, each time in one way.
func TestViolations(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*Records)
		rules  []string
	}{
		"a committed row is still pending": {
			func(r *Records) {
				r.Deliveries[0] = Delivery{ID: 1, UUID: "one", Status: pending, Attempts: 1, ScheduledFor: when(5)}
			},
			[]string{RuleLost},
		},
		"a committed row is not in the table": {
			func(r *Records) {
				r.Deliveries, r.Attempts, r.Requests = r.Deliveries[1:], r.Attempts[1:], r.Requests[1:]
			},
			[]string{RuleVanished},
		},
		"succeeded, and never received": {
			func(r *Records) { r.Requests = r.Requests[1:] },
			[]string{RuleNeverReceived},
		},
		"succeeded, and answered otherwise": {
			func(r *Records) { r.Requests[0].Status = 503 },
			[]string{RuleNeverReceived},
		},
		"succeeded, and the connection was reset": {
			func(r *Records) { r.Requests[0].Status, r.Requests[0].Written = 0, false },
			[]string{RuleNeverReceived},
		},
		"a refusal that was another one": {
			func(r *Records) { r.Requests[1].Status = 500 },
			[]string{RuleMismatch},
		},
		"a refusal that never was": {
			func(r *Records) { r.Requests = slices.Delete(r.Requests, 1, 2) },
			[]string{RuleNeverReceived},
		},
		"a dead letter after too few attempts": {
			func(r *Records) {
				r.Deliveries[1].Status, r.Deliveries[1].Attempts = deadLetter, 1
				r.Attempts, r.Requests = slices.Delete(r.Attempts, 2, 3), slices.Delete(r.Requests, 2, 3)
			},
			[]string{RuleUnjustified},
		},
		"a dead letter that the receiver never refused": {
			func(r *Records) {
				r.Deliveries[0].Status = deadLetter
				r.Attempts[0].Outcome, r.Attempts[0].Failure, r.Attempts[0].Status = permanent, "internal", 0
			},
			[]string{RuleUnjustified},
		},
		"a dead letter after four abandoned attempts": {
			func(r *Records) {
				r.Deliveries[0].Status, r.Deliveries[0].Attempts = deadLetter, 4
				r.Attempts, r.Requests = r.Attempts[1:], r.Requests[1:]
				for n := range 4 {
					r.Attempts = append(r.Attempts, Attempt{1, 0, n + 1, at(10), abandoned, "", 0, nodeA})
				}
			},
			[]string{RuleUnjustified},
		},
		"a rolled back one is received": {
			func(r *Records) {
				r.Requests = append(r.Requests, Request{UUID: "four", Token: "four", Attempt: 1, Start: at(1), End: at(1)})
			},
			[]string{RulePhantom},
		},
		"a rolled back one is in the table": {
			func(r *Records) { r.Inserts[0].Result = RolledBack },
			[]string{RuleTable, RulePhantom},
		},
		"one that was not committed after all is received": {
			func(r *Records) {
				r.Requests = append(r.Requests, Request{UUID: "six", Token: "six", Attempt: 1, Start: at(2), End: at(2)})
			},
			[]string{RulePhantom},
		},
		"one that nobody inserted is received": {
			func(r *Records) { r.Requests = append(r.Requests, Request{UUID: "none", Token: "none", Attempt: 1}) },
			[]string{RulePhantom},
		},
		"one that nobody inserted is in the table": {
			func(r *Records) {
				r.Deliveries = append(r.Deliveries, Delivery{ID: 9, UUID: "nine", Status: succeeded, Attempts: 1, FinishedAt: when(1)})
				r.Attempts = append(r.Attempts, Attempt{9, 0, 1, at(1), succeeded, "", 200, nodeA})
			},
			[]string{RuleTable, RuleNeverReceived},
		},
		"received before it was committed": {
			func(r *Records) { r.Inserts[0].CommitSent = at(0.15) },
			[]string{RuleTooEarly},
		},
		"received before it was due": {
			func(r *Records) { r.Inserts[0].NotBefore = at(0.3) },
			[]string{RuleTooEarly},
		},
		"a body of another delivery": {
			func(r *Records) { r.Requests[0].Token = "two" },
			[]string{RuleForged},
		},
		"the same attempt twice": {
			func(r *Records) {
				again := r.Requests[0]
				again.Start, again.End = at(0.5), at(0.6)
				r.Requests = append(r.Requests, again)
			},
			[]string{RuleUnaccounted},
		},
		"a request that the ledger does not have": {
			func(r *Records) {
				r.Requests = append(r.Requests, Request{UUID: "one", Token: "one", Attempt: 2, Start: at(0.5), End: at(0.6), Status: 503})
			},
			[]string{RuleUnaccounted},
		},
		"attempts with a gap": {
			func(r *Records) { r.Attempts[2].Number, r.Requests[2].Attempt = 3, 3 },
			[]string{RuleGap},
		},
		"more attempts than the row counts": {
			func(r *Records) { r.Deliveries[1].Attempts = 1 },
			[]string{RuleGap},
		},
		"attempts of a round that has not begun": {
			func(r *Records) { r.Attempts[2].Round, r.Attempts[2].Number, r.Requests[2].Attempt = 1, 1, 1 },
			[]string{RuleGap, RuleGap, RuleState},
		},
		"an attempt without a delivery": {
			func(r *Records) { r.Attempts = append(r.Attempts, Attempt{99, 0, 1, at(1), succeeded, "", 200, nodeA}) },
			[]string{RuleState},
		},
		"a duplicate, and nobody was killed": {
			func(r *Records) { r.Faults = nil },
			[]string{RuleDuplicate, RuleAbandoned},
		},
		"a duplicate, and another node was killed": {
			func(r *Records) { r.Faults[0].Node = nodeB },
			[]string{RuleDuplicate, RuleAbandoned},
		},
		"a duplicate, and the node was killed a minute later": {
			func(r *Records) { r.Faults[0].From, r.Faults[0].To = at(70), at(70) },
			[]string{RuleDuplicate, RuleAbandoned},
		},
		"a duplicate, and the node was killed when its outcome should long have been recorded": {
			func(r *Records) { r.Faults[0].From, r.Faults[0].To = at(12.5), at(12.5) },
			[]string{RuleDuplicate},
		},
		"a duplicate, and the queue was paused": {
			func(r *Records) { r.Faults[0].Excuse = None },
			[]string{RuleDuplicate, RuleAbandoned},
		},
		"a duplicate after an answer that came in time": {
			func(r *Records) {
				r.Requests[1].Status = 200
				r.Attempts[1].Status, r.Attempts[1].Failure = 0, "timeout"
			},
			[]string{RuleDuplicate},
		},
		"two attempts at a time": {
			func(r *Records) { r.Requests[1].End = at(0.55) },
			[]string{RuleOverlap},
		},
		"sent after its lease, and the node was not frozen": {
			func(r *Records) { r.Requests[3].Start, r.Requests[3].End = at(18), at(18.1) },
			[]string{RuleLate, RuleDuplicate},
		},
		"an attempt after a success": {
			func(r *Records) {
				r.Requests[1].Status, r.Requests[1].Written = 200, false
				r.Attempts[1].Outcome, r.Attempts[1].Status, r.Attempts[1].Failure = succeeded, 200, ""
			},
			[]string{RuleNotFinal},
		},
		"an attempt after a refusal for good": {
			func(r *Records) {
				r.Requests[1].Status = 410
				r.Attempts[1].Outcome, r.Attempts[1].Status = permanent, 410
			},
			[]string{RuleNotFinal},
		},
		"terminal with a time":      {func(r *Records) { r.Deliveries[0].ScheduledFor = when(5) }, []string{RuleState}},
		"terminal and claimed":      {func(r *Records) { r.Deliveries[0].ClaimedBy = &nodeA }, []string{RuleState}},
		"terminal with a lease":     {func(r *Records) { r.Deliveries[0].LeasedUntil = when(5) }, []string{RuleState}},
		"terminal and held":         {func(r *Records) { r.Deliveries[0].HeldSince = when(5) }, []string{RuleState}},
		"terminal and not finished": {func(r *Records) { r.Deliveries[0].FinishedAt = nil }, []string{RuleState}},
		"no status that there is":   {func(r *Records) { r.Deliveries[0].Status = "sent" }, []string{RuleState}},
		"succeeded after a failure": {
			func(r *Records) {
				r.Attempts[0].Outcome, r.Attempts[0].Failure, r.Attempts[0].Status = transient, "timeout", 0
				r.Requests[0].Written = false
			},
			[]string{RuleState},
		},
		"canceled, and nobody did": {func(r *Records) { r.Acts = r.Acts[:1] }, []string{RuleActs}},
		"canceled, and sent": {
			func(r *Records) {
				r.Acts = append(r.Acts, Act{Kind: Cancel, UUID: "one", Sent: at(0.02), Done: at(0.03), Result: Committed})
				r.Deliveries[0].Status = canceled
			},
			[]string{RuleCanceled},
		},
		"a replay that nobody asked for": {func(r *Records) { r.Acts = r.Acts[1:] }, []string{RuleActs}},
		"a replay that was not made": {
			func(r *Records) {
				r.Acts = append(r.Acts, Act{Kind: Replay, UUID: "one", Sent: at(40), Done: at(41), Result: Committed})
			},
			[]string{RuleActs},
		},
		"a job without a row": {func(r *Records) { r.Jobs[0].DeliveryID = 99 }, []string{RuleJob}},
		"a job that nobody works": {
			func(r *Records) { r.Jobs[0].State, r.Jobs[0].ScheduledAt = "available", at(20) },
			[]string{RuleJob},
		},
		"a retry without a job, for a moment": {
			func(r *Records) { r.Sightings = []Sighting{{at(3), RuleRetryWithoutJob, "delivery 4"}} },
			[]string{RuleRetryWithoutJob},
		},
		"an INSERT that failed": {func(r *Records) { r.Inserts[3].Problem = "42501" }, []string{RuleInsert}},
		"a node that ended by itself": {
			func(r *Records) { r.Faults = append(r.Faults, Fault{Kind: "node ended", Problem: "exit status 2"}) },
			[]string{RuleFault},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := well()
			test.change(r)
			var rules []string
			report := Check(r)
			for _, v := range report.Violations {
				rules = append(rules, v.Rule)
			}
			assert.ElementsMatch(t, test.rules, rules, "%v", report.Violations)
			assert.False(t, report.OK())
		})
	}
}

// TestExcuses are things that look like violations and are none.
func TestExcuses(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Records){
		"a freeze explains a duplicate":      func(r *Records) { r.Faults[0].Excuse, r.Faults[0].To = Freeze, at(19) },
		"a lost answer of the database does": func(r *Records) { r.Faults[0].Excuse, r.Faults[0].Node = Database, "" },
		"an outcome that came late": func(r *Records) {
			r.Faults[0].Excuse, r.Attempts[3].Outcome, r.Attempts[3].Status = Freeze, succeeded, 200
		},
		"an answer after the timeout":          lateAnswer,
		"a dead node leaves a connection open": func(r *Records) { r.Requests[3].End = at(18.55) },
		"a frozen node sends late": func(r *Records) {
			r.Faults[0].Excuse, r.Faults[0].To = Freeze, at(18)
			r.Requests[3].Start, r.Requests[3].End = at(18), at(18.1)
		},
		"replayed while it was in flight": func(r *Records) {
			r.Attempts[6].Outcome, r.Attempts[6].Failure, r.Attempts[6].Status = abandoned, "", 0
		},
		"canceled while it was in flight": func(r *Records) {
			r.Acts = append(r.Acts, Act{Kind: Cancel, UUID: "one", Sent: at(0.15), Done: at(0.16), Result: Committed, InFlight: true})
			r.Deliveries[0].Status = canceled
		},
		"a replay before the time that it was inserted for": func(r *Records) { r.Inserts[6].NotBefore = at(1.2); r.Requests[6].Start = at(1.15) },
		"five abandoned attempts in a row": func(r *Records) {
			r.Deliveries[0].Status, r.Deliveries[0].Attempts = deadLetter, 5
			r.Attempts, r.Requests = r.Attempts[1:], r.Requests[1:]
			for n := range 5 {
				r.Attempts = append(r.Attempts, Attempt{1, 0, n + 1, at(10), abandoned, "", 0, nodeA})
			}
		},
		"as many attempts as the row allows": func(r *Records) {
			r.Deliveries[1].Status, r.Deliveries[1].Attempts, r.Deliveries[1].MaxAttempts = deadLetter, 1, 1
			r.Attempts, r.Requests = slices.Delete(r.Attempts, 2, 3), slices.Delete(r.Requests, 2, 3)
		},
		"a zombie of a job": func(r *Records) { r.Jobs[0].State, r.Jobs[0].ScheduledAt = "running", at(1) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := well()
			change(r)
			assert.Empty(t, Check(r).Violations)
		})
	}
}

func lateAnswer(r *Records) {
	r.Requests[1].Status, r.Requests[1].End = 200, at(1.2)
	r.Attempts[1].Status, r.Attempts[1].Failure = 0, "timeout"
	r.Requests[2].Start, r.Requests[2].End, r.Attempts[2].StartedAt = at(2.4), at(2.5), at(2.4)
}

// TestRequestsFindTheirRound: a request does not say which round it is of.
func TestRequestsFindTheirRound(t *testing.T) {
	t.Parallel()
	requests := []Request{
		{Attempt: 1, Start: at(1), Status: 503},
		{Attempt: 1, Start: at(1.1), Status: 200, Written: true},
	}
	places := []*place{
		{attempt: Attempt{Number: 1, Round: 0, StartedAt: at(1.1), Outcome: succeeded, Status: 200}},
		{attempt: Attempt{Number: 1, Round: 1, StartedAt: at(1), Outcome: transient, Status: 503}},
		{attempt: Attempt{Number: 1, Round: 2, StartedAt: at(9), Outcome: abandoned}},
	}
	assert.Equal(t, []int{1, 0}, lay(requests, []int{0, 1}, places))
	assert.Equal(t, []int{0}, lay(requests[1:], []int{0}, places))
	assert.Equal(t, []int{2}, lay([]Request{{Start: at(8), Status: 200, Written: true}}, []int{0}, places), "the nearest that says nothing else")
}
