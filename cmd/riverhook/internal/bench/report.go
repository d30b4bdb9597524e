package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is what came out. Its JSON is what --json prints.
type Report struct {
	Version    string                 `json:"version"`
	StartedAt  time.Time              `json:"started_at"`
	Seconds    float64                `json:"seconds"` // that all of it took
	Quick      bool                   `json:"quick"`   // then the figures mean nothing
	Modes      []string               `json:"modes"`
	Rounds     int                    `json:"rounds"`
	Rows       int                    `json:"rows"`
	Machine    Machine                `json:"machine"`
	OtherCPUs  *float64               `json:"other_cpus"` // CPUs that others kept busy meanwhile, on average; null where that is not known
	Notes      []string               `json:"notes,omitempty"`
	Figures    []Figure               `json:"figures"`
	Statements map[string][]Statement `json:"statements,omitempty"` // by mode, of its last run
}

// Machine is where it was measured.
type Machine struct {
	OS        string            `json:"os"`
	Arch      string            `json:"arch"`
	CPU       string            `json:"cpu,omitempty"` // model, where the system says
	CPUs      int               `json:"cpus"`
	Go        string            `json:"go"`
	Postgres  string            `json:"postgres"`
	Throwaway bool              `json:"throwaway"` // Postgres was the bench's own
	Settings  map[string]string `json:"settings"`  // of Postgres
}

// Figure is one measured value with its runs.
type Figure struct {
	Name   string    `json:"name"` // mode.what
	Label  string    `json:"label"`
	Unit   string    `json:"unit,omitempty"`
	Runs   []float64 `json:"runs"` // in the order of the rounds
	Median float64   `json:"median"`
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
	Goal   *Goal     `json:"goal,omitempty"` // nil: none, or a quick run

	digits int
}

// Goal is what the median should be.
type Goal struct {
	AtLeast *float64 `json:"at_least,omitempty"`
	AtMost  *float64 `json:"at_most,omitempty"`
	Met     bool     `json:"met"`
}

// Statement is what Postgres spent time on.
type Statement struct {
	TotalMS float64 `json:"total_ms"`
	Calls   int64   `json:"calls"`
	Rows    int64   `json:"rows"`
	Query   string  `json:"query"` // its beginning
}

// definition says what a figure is.
type definition struct {
	name, label, unit string
	digits            int
	over, under       string // a ratio of two other figures of the same round
	atLeast, atMost   float64
}

// catalog has every figure, in the order in which they are printed.
var catalog = []definition{
	{name: "river.rate", label: "no-op jobs", unit: "/s"},
	{name: "river.cpu_process", label: "CPU of the process", unit: "s per 1,000", digits: 3},
	{name: "river.cpu_postgres", label: "CPU of Postgres", unit: "s per 1,000", digits: 3},

	{name: "steps.rate", label: "deliveries", unit: "/s"},
	{name: "steps.cpu_process", label: "CPU of the process", unit: "s per 1,000", digits: 3},
	{name: "steps.cpu_postgres", label: "CPU of Postgres", unit: "s per 1,000", digits: 3},
	{name: "steps.wal", label: "WAL", unit: "bytes per delivery"},

	{name: "deliver.rate", label: "deliveries", unit: "/s"},
	{name: "deliver.of_river", label: "of River's no-op rate", digits: 2, over: "deliver.rate", under: "river.rate", atLeast: 0.6},
	{name: "deliver.of_steps", label: "times one transaction per step", digits: 2, over: "deliver.rate", under: "steps.rate", atLeast: 6},
	{name: "deliver.cpu_process", label: "CPU of riverhook", unit: "s per 1,000", digits: 3},
	{name: "deliver.cpu_postgres", label: "CPU of Postgres", unit: "s per 1,000", digits: 3},
	{name: "deliver.cpu", label: "CPU of both", unit: "s per 1,000", digits: 3, atMost: 0.12},
	{name: "deliver.cpu_insert", label: "CPU of Postgres to insert them (apart)", unit: "s per 1,000", digits: 3},
	{name: "deliver.wal", label: "WAL", unit: "bytes per delivery"},
	{name: "deliver.memory", label: "peak memory", unit: "MB", digits: 1},

	{name: "enqueue.single_1", label: "1 client, single rows", unit: "/s"},
	{name: "enqueue.single_1_bare", label: "  without the trigger", unit: "/s"},
	{name: "enqueue.single_1_ratio", label: "  with / without", digits: 2, over: "enqueue.single_1", under: "enqueue.single_1_bare"},
	{name: "enqueue.single_32", label: "32 clients, single rows", unit: "/s"},
	{name: "enqueue.single_32_bare", label: "  without the trigger", unit: "/s"},
	{name: "enqueue.single_32_ratio", label: "  with / without", digits: 2, over: "enqueue.single_32", under: "enqueue.single_32_bare", atLeast: 0.45},
	{name: "enqueue.multi", label: "1,000 rows a statement", unit: "rows/s"},
	{name: "enqueue.multi_bare", label: "  without the trigger", unit: "rows/s"},
	{name: "enqueue.multi_ratio", label: "  with / without", digits: 2, over: "enqueue.multi", under: "enqueue.multi_bare"},
	{name: "enqueue.copy", label: "COPY", unit: "s per 100,000", digits: 2},
	{name: "enqueue.copy_bare", label: "  without the trigger", unit: "s per 100,000", digits: 2},
	{name: "enqueue.copy_ratio", label: "  time with / without", digits: 2, over: "enqueue.copy", under: "enqueue.copy_bare", atMost: 4},

	{name: "latency.slow_rate", label: "steady rate", unit: "/s"},
	{name: "latency.slow_p50", label: "  commit to request, p50", unit: "ms", digits: 1, atMost: 3},
	{name: "latency.slow_p95", label: "  p95", unit: "ms", digits: 1},
	{name: "latency.slow_p99", label: "  p99", unit: "ms", digits: 1, atMost: 15},
	{name: "latency.slow_recorded_p50", label: "  insert to record, p50", unit: "ms", digits: 1},
	{name: "latency.slow_recorded_p99", label: "  insert to record, p99", unit: "ms", digits: 1},
	{name: "latency.fast_rate", label: "steady rate", unit: "/s"},
	{name: "latency.fast_p50", label: "  commit to request, p50", unit: "ms", digits: 1, atMost: 15},
	{name: "latency.fast_p95", label: "  p95", unit: "ms", digits: 1},
	{name: "latency.fast_p99", label: "  p99", unit: "ms", digits: 1, atMost: 40},
	{name: "latency.fast_recorded_p50", label: "  insert to record, p50", unit: "ms", digits: 1},
	{name: "latency.fast_recorded_p99", label: "  insert to record, p99", unit: "ms", digits: 1},

	{name: "isolation.alone", label: "healthy backlog alone", unit: "/s"},
	{name: "isolation.mixed", label: "  with one in ten that hangs", unit: "/s"},
	{name: "isolation.mixed_ratio", label: "  with / alone", digits: 2, over: "isolation.mixed", under: "isolation.alone", atLeast: 0.9},
	{name: "isolation.quiet_p99", label: "healthy 500/s alone, p99", unit: "ms", digits: 1},
	{name: "isolation.hanging_p99", label: "  beside an origin that hangs, p99", unit: "ms", digits: 1},
	{name: "isolation.hanging_ratio", label: "  beside / alone", digits: 2, over: "isolation.hanging_p99", under: "isolation.quiet_p99", atMost: 2},
	{name: "isolation.queued_p99", label: "  behind a backlog that fails, p99", unit: "ms", digits: 1},
	{name: "isolation.held_after", label: "  until it is held back", unit: "s", digits: 1},
	{name: "isolation.failing_p99", label: "  beside a backlog that fails, p99", unit: "ms", digits: 1},
	{name: "isolation.failing_ratio", label: "  beside / alone", digits: 2, over: "isolation.failing_p99", under: "isolation.quiet_p99", atMost: 2},

	{name: "memory.in_flight", label: "attempts in flight"},
	{name: "memory.peak", label: "peak memory", unit: "MB", digits: 1, atMost: 150},

	{name: "recovery.follower_claims", label: "kill -9 of one of two nodes: claims it had"},
	{name: "recovery.follower_claimed", label: "  all of those sent again after", unit: "s", digits: 1, atMost: 20},
	{name: "recovery.follower_jobs", label: "  jobs it had only fetched"},
	{name: "recovery.follower_fetched", label: "  all of those sent after", unit: "s", digits: 1, atMost: 20},
	{name: "recovery.follower_before", label: "  the other's commit to request before, p99", unit: "ms", digits: 1},
	{name: "recovery.follower_after", label: "  after", unit: "ms", digits: 1},
	{name: "recovery.leader_claims", label: "kill -9 of River's leader: claims it had"},
	{name: "recovery.leader_claimed", label: "  all of those sent again after", unit: "s", digits: 1, atMost: 20},
	{name: "recovery.leader_jobs", label: "  jobs it had only fetched"},
	{name: "recovery.leader_fetched", label: "  all of those sent after", unit: "s", digits: 1, atMost: 20},
	{name: "recovery.leader_before", label: "  the other's commit to request before, p99", unit: "ms", digits: 1},
	{name: "recovery.leader_after", label: "  after", unit: "ms", digits: 1},
	{name: "recovery.single_claims", label: "kill -9 of a single node, started again: claims it had"},
	{name: "recovery.single_claimed", label: "  all of those sent again after", unit: "s", digits: 1, atMost: 15},
	{name: "recovery.single_jobs", label: "  jobs it had only fetched"},
	{name: "recovery.single_fetched", label: "  all of those sent after", unit: "s", digits: 1, atMost: 15},
	{name: "recovery.postgres", label: "full rate after Postgres's immediate stop and start", unit: "s", digits: 1, atMost: 5},
	{name: "recovery.restarts", label: "rolling restarts with SIGTERM"},
	{name: "recovery.restarts_deliveries", label: "  deliveries meanwhile"},
	{name: "recovery.restarts_lost", label: "  lost"},
	{name: "recovery.restarts_twice", label: "  received more than once"},

	{name: "vacuum.before", label: "deliveries", unit: "/s"},
	{name: "vacuum.during", label: "  at the end of a long transaction", unit: "/s"},
	{name: "vacuum.ratio", label: "  during / before", digits: 2, over: "vacuum.during", under: "vacuum.before"},
	{name: "vacuum.after", label: "  after it", unit: "/s"},
	{name: "vacuum.rate", label: "steady rate while it is open", unit: "/s"},
	{name: "vacuum.first_p99", label: "  commit to request, p99 of the first tenth", unit: "ms", digits: 1},
	{name: "vacuum.last_p99", label: "  of the last tenth", unit: "ms", digits: 1},
	{name: "vacuum.open", label: "it was open for", unit: "s"},
	{name: "vacuum.transactions", label: "  transactions meanwhile"},
	{name: "vacuum.dead", label: "  dead rows of river_job at its end"},

	{name: "growth.empty", label: "deliveries, empty table", unit: "/s"},
	{name: "growth.grown", label: "  grown table", unit: "/s"},
	{name: "growth.ratio", label: "  grown / empty", digits: 2, over: "growth.grown", under: "growth.empty", atLeast: 0.9},
	{name: "growth.list_newest_p50", label: "list: newest, p50", unit: "ms", digits: 1},
	{name: "growth.list_newest_max", label: "  max", unit: "ms", digits: 1, atMost: 50},
	{name: "growth.list_organization_p50", label: "list: an organization's, p50", unit: "ms", digits: 1},
	{name: "growth.list_organization_max", label: "  max", unit: "ms", digits: 1, atMost: 50},
	{name: "growth.list_status_p50", label: "list: dead letters, p50", unit: "ms", digits: 1},
	{name: "growth.list_status_max", label: "  max", unit: "ms", digits: 1, atMost: 50},
	{name: "growth.list_run_p50", label: "list: a run's, p50", unit: "ms", digits: 1},
	{name: "growth.list_run_max", label: "  max", unit: "ms", digits: 1, atMost: 50},
	{name: "growth.list_endpoint_p50", label: "list: part of an endpoint, p50", unit: "ms", digits: 1},
	{name: "growth.list_endpoint_max", label: "  max", unit: "ms", digits: 1},
	{name: "growth.show_p50", label: "show: by UUID, p50", unit: "ms", digits: 1},
	{name: "growth.show_max", label: "  max", unit: "ms", digits: 1, atMost: 50},
	{name: "growth.retention_rows", label: "retention: deliveries to remove"},
	{name: "growth.retention", label: "  removed in", unit: "s", digits: 1, atMost: 600},
	{name: "growth.retention_before", label: "  deliveries before it", unit: "/s"},
	{name: "growth.retention_during", label: "  deliveries during it", unit: "/s"},
	{name: "growth.retention_ratio", label: "  during / before", digits: 2, over: "growth.retention_during", under: "growth.retention_before", atLeast: 0.9},
	{name: "growth.sweep_rows", label: "sweep: overdue rows without a job"},
	{name: "growth.sweep_seen", label: "  looked at, with the backlog"},
	{name: "growth.sweep", label: "  drained in", unit: "s", digits: 1, atMost: 60},
	{name: "growth.sweep_before", label: "  deliveries before it", unit: "/s"},
	{name: "growth.sweep_during", label: "  deliveries during it", unit: "/s"},
	{name: "growth.sweep_ratio", label: "  during / before", digits: 2, over: "growth.sweep_during", under: "growth.sweep_before"},
}

// headlines are the figures that stand for a mode while the bench runs.
var headlines = map[string][]string{
	"river": {"river.rate"}, "steps": {"steps.rate"}, "deliver": {"deliver.rate"}, "enqueue": {"enqueue.single_32"},
	"latency": {"latency.slow_p99", "latency.fast_p99"}, "isolation": {"isolation.alone", "isolation.mixed"},
	"memory": {"memory.peak"}, "recovery": {"recovery.follower_claimed", "recovery.leader_claimed", "recovery.single_claimed"}, "vacuum": {"vacuum.before", "vacuum.during"}, "growth": {"growth.empty", "growth.grown"},
}

func (b *bench) headline(mode string) string {
	var parts []string
	for _, d := range catalog {
		if value, ok := b.round[d.name]; ok && slices.Contains(headlines[mode], d.name) {
			parts = append(parts, strings.TrimSpace(d.label)+" "+number(value, d.digits)+unit(d.unit))
		}
	}
	return strings.Join(parts, ", ")
}

func (b *bench) newReport(ctx context.Context) (*Report, error) {
	version, settings, err := b.database.describe(ctx)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	return &Report{
		Version: b.Version, StartedAt: time.Now().UTC(), Quick: b.Quick, Modes: b.Modes, Rounds: b.Rounds, Rows: b.sizes.deliver,
		Machine: Machine{
			OS: runtime.GOOS, Arch: runtime.GOARCH, CPU: cpuModel(), CPUs: runtime.NumCPU(), Go: runtime.Version(),
			Postgres: version, Throwaway: b.database.server != nil, Settings: settings,
		},
	}, nil
}

func cpuModel() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// others is the CPU time that the rest of the machine has used so far.
func (b *bench) others() (time.Duration, bool) {
	busy, ok := busyCPU()
	if !ok {
		return 0, false
	}
	postgres, ok := b.database.cpu()
	return busy - ownCPU() - postgres, ok
}

// fill puts the figures of all rounds into the report.
func (b *bench) fill(r *Report) {
	r.Seconds = time.Since(r.StartedAt).Seconds()
	r.Notes = b.notes
	for _, d := range catalog {
		runs := b.values[d.name]
		if len(runs) == 0 {
			continue
		}
		f := Figure{
			Name: d.name, Label: d.label, Unit: d.unit, Runs: runs, Median: median(runs), Min: slices.Min(runs), Max: slices.Max(runs),
			digits: d.digits,
		}
		if !b.Quick {
			f.Goal = d.goal(f.Median)
		}
		r.Figures = append(r.Figures, f)
	}
	if len(b.top) > 0 {
		r.Statements = b.top
	}
}

// exception is what may have been received twice.
func (r *Report) exception() string {
	if slices.Contains(r.Modes, "recovery") {
		return ", but for what a killed node or Postgres took down"
	}
	return ""
}

func (d definition) goal(value float64) *Goal {
	switch {
	case d.atLeast > 0:
		return &Goal{AtLeast: &d.atLeast, Met: value >= d.atLeast}
	case d.atMost > 0:
		return &Goal{AtMost: &d.atMost, Met: value <= d.atMost}
	}
	return nil
}

func (g *Goal) String() string {
	switch {
	case g == nil:
		return ""
	case g.AtLeast != nil:
		return ">= " + strconv.FormatFloat(*g.AtLeast, 'f', -1, 64)
	}
	return "<= " + strconv.FormatFloat(*g.AtMost, 'f', -1, 64)
}

func (g *Goal) verdict() string {
	switch {
	case g == nil:
		return ""
	case g.Met:
		return "met"
	}
	return "MISSED"
}

// WriteJSON writes one JSON object.
func (r *Report) WriteJSON(w io.Writer) error { return json.NewEncoder(w).Encode(r) }

// WriteTable writes it for people.
func (r *Report) WriteTable(w io.Writer) error {
	m := r.Machine
	whose := "given by URL"
	if m.Throwaway {
		whose = "throwaway"
	}
	var settings []string
	for _, name := range settingNames {
		settings = append(settings, name+" "+m.Settings[name])
	}
	fmt.Fprintf(w, "riverhook %s, %s/%s, %d CPUs %s, %s\nPostgres %s (%s), %s\n%d round(s), backlog of %s rows with 1 KB payloads, %.0f s in all\n",
		r.Version, m.OS, m.Arch, m.CPUs, cmp.Or(m.CPU, "of unknown model"), m.Go, m.Postgres, whose, strings.Join(settings, ", "),
		r.Rounds, number(float64(r.Rows), 0), r.Seconds)
	if r.Quick {
		fmt.Fprintln(w, "A quick run: its figures mean nothing.")
	}
	if r.OtherCPUs != nil {
		fmt.Fprintf(w, "Meanwhile other processes kept %.1f of the CPUs busy.\n", *r.OtherCPUs)
	}
	if len(r.Notes) == 0 {
		fmt.Fprintln(w, "Every delivery was received once, and recorded by one attempt"+r.exception()+".")
	}
	for _, note := range r.Notes {
		fmt.Fprintln(w, note)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	shown := ""
	for i := range r.Figures {
		f := &r.Figures[i]
		if mode, _, _ := strings.Cut(f.Name, "."); mode != shown {
			shown = mode
			fmt.Fprintf(table, "\t\t\t\t\n%s\tMEDIAN\tMIN - MAX\tGOAL\t\n", strings.ToUpper(mode))
		}
		fmt.Fprintf(table, "%s\t%s%s\t%s - %s\t%s\t%s\n", f.Label, number(f.Median, f.digits), unit(f.Unit),
			number(f.Min, f.digits), number(f.Max, f.digits), f.Goal, f.Goal.verdict())
	}
	if err := table.Flush(); err != nil {
		return err
	}
	return r.writeStatements(w)
}

func (r *Report) writeStatements(w io.Writer) error {
	for _, mode := range r.Modes {
		if len(r.Statements[mode]) == 0 {
			continue
		}
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintf(table, "\nSTATEMENTS of %s\nTOTAL MS\tCALLS\tROWS\tMS A CALL\tSTATEMENT\n", mode)
		for _, s := range r.Statements[mode] {
			fmt.Fprintf(table, "%.0f\t%d\t%d\t%.3f\t%s\n", s.TotalMS, s.Calls, s.Rows, s.TotalMS/float64(max(1, s.Calls)), s.Query)
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// number is a value with that many digits after the point and commas between thousands.
func number(value float64, digits int) string {
	text := strconv.FormatFloat(value, 'f', digits, 64)
	whole, rest, _ := strings.Cut(text, ".")
	sign := ""
	if strings.HasPrefix(whole, "-") {
		sign, whole = "-", whole[1:]
	}
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if rest != "" {
		rest = "." + rest
	}
	return sign + whole + rest
}

func unit(u string) string {
	if u == "" || strings.HasPrefix(u, "/") {
		return u
	}
	return " " + u
}

// median is the middle value, or the mean of the two.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// percentile is the smallest of the values that p of them (0 to 1) do not exceed; 0 without values.
func percentile[T cmp.Ordered](values []T, p float64) T {
	sorted := slices.Sorted(slices.Values(values))
	if len(sorted) == 0 {
		var zero T
		return zero
	}
	at := int(p*float64(len(sorted))+0.999999) - 1
	return sorted[min(max(at, 0), len(sorted)-1)]
}
