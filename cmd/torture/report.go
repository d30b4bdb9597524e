package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/riverhook/riverhook/cmd/torture/internal/check"
)

// show says how it goes: in one line that is written over on a terminal, otherwise a line now and then.
func (t *torture) show(ctx context.Context) {
	interval := 10 * time.Second
	if t.progress {
		interval = 200 * time.Millisecond
	}
	for wait(ctx, interval) {
		t.mu.Lock()
		faults := 0
		for _, n := range t.counts {
			faults += n
		}
		var now []string
		for _, lane := range slices.Sorted(maps.Keys(t.now)) {
			now = append(now, t.now[lane])
		}
		t.mu.Unlock()
		text := fmt.Sprintf("%s of %s: %d faults, %d committed, %d requests; now: %s", time.Since(t.started).Round(time.Second), t.duration,
			faults, t.app.committed.Load(), t.receivers.count.Load(), cmp.Or(strings.Join(now, ", "), "nothing"))
		if t.progress {
			t.line("%s", text)
		} else {
			t.printf("%s\n", text)
		}
	}
	t.line("")
}

// line writes over the last one of its kind, on a terminal.
func (t *torture) line(format string, args ...any) {
	if t.progress {
		const width = 118
		text := fmt.Sprintf(format, args...)
		t.printf("\r%-*s\r", width, text[:min(len(text), width)])
	}
}

func (t *torture) printf(format string, args ...any) {
	t.printing.Lock()
	defer t.printing.Unlock()
	fmt.Fprintf(t.out, format, args...)
}

// print prints what a run came to.
func (o *outcome) print(w io.Writer) {
	r := o.report
	fmt.Fprintf(w, "\n%-32s %7s %10s %16s\n", "fault", "times", "abandoned", "longest wait")
	total := 0
	kinds := slices.SortedFunc(maps.Keys(o.counts), strings.Compare)
	for _, kind := range kinds {
		recovery := r.Recovery[kind]
		slowest := "-"
		if recovery.Slowest > 0 {
			slowest = recovery.Slowest.Round(10 * time.Millisecond).String()
		}
		total += o.counts[kind]
		fmt.Fprintf(w, "%-32s %7d %10d %16s\n", kind, o.counts[kind], recovery.Abandoned, slowest)
	}
	fmt.Fprintf(w, "%-32s %7d %10d %16s\n\n", "all", total, r.AbandonedAttempts, o.took.Round(10*time.Millisecond))

	fmt.Fprintf(w, "inserted    %d committed, %d rolled back, %d of unknown outcome (%d of them were committed); slowest INSERT %s\n",
		r.Committed, r.RolledBack, r.Unknown, r.UnknownCommitted, r.SlowestInsert.Round(time.Millisecond))
	var statuses []string
	for _, status := range slices.Sorted(maps.Keys(r.ByStatus)) {
		statuses = append(statuses, fmt.Sprintf("%d %s", r.ByStatus[status], status))
	}
	fmt.Fprintf(w, "deliveries  %s\n", strings.Join(statuses, ", "))
	fmt.Fprintf(w, "received    %d requests, %d answered 2xx; the ledger has %d attempts\n", r.Requests, r.Delivered, r.Attempts)
	fmt.Fprintf(w, "lost        %d\n", r.Lost)
	fmt.Fprintf(w, "duplicates  %d%s\n", len(r.Duplicates), causes(r.Duplicates))
	fmt.Fprintf(w, "late        %d requests were sent by a node that thawed after its lease\n", r.Late)
	if o.rested {
		fmt.Fprintf(w, "at rest     %s after the last fault; looked %d times for states that must never be\n", o.took.Round(10*time.Millisecond), o.looks)
	} else {
		fmt.Fprintf(w, "at rest     never: given up after %s\n", o.took.Round(time.Second))
	}
	if r.OK() {
		fmt.Fprintln(w, "violations  none")
		return
	}
	fmt.Fprintf(w, "violations  %d\n", len(r.Violations))
	o.printViolations(w, examples)
}

// examples of each rule that are printed.
const examples = 5

// printViolations counts what was violated, by rule, and shows a few of each.
func (o *outcome) printViolations(w io.Writer, few int) {
	rules := make(map[string][]check.Violation)
	for _, v := range o.report.Violations {
		rules[v.Rule] = append(rules[v.Rule], v)
	}
	for _, rule := range slices.Sorted(maps.Keys(rules)) {
		fmt.Fprintf(w, "  %5d  %s\n", len(rules[rule]), rule)
		for _, v := range rules[rule][:min(few, len(rules[rule]))] {
			fmt.Fprintf(w, "         %s\n", strings.TrimSpace(v.UUID+" "+v.Detail))
		}
	}
}

func causes(duplicates []check.Duplicate) string {
	count := make(map[string]int)
	for _, d := range duplicates {
		count[d.Cause]++
	}
	var all []string
	for _, cause := range slices.Sorted(maps.Keys(count)) {
		all = append(all, fmt.Sprintf("%d %s", count[cause], cause))
	}
	if len(all) == 0 {
		return ""
	}
	return ": " + strings.Join(all, ", ")
}
