package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"time"
)

// Config says what is measured. Every field is required unless it says otherwise.
type Config struct {
	Modes       []string // names of [Modes]
	Rounds      int      // how often each mode runs, in turns
	Rows        int      // deliveries of a backlog; 0: the default of the sizes
	GrowthRows  int      // finished deliveries that growth begins with; 0: the default of the sizes
	Quick       bool     // a smoke test: it verifies everything, and its figures mean nothing
	DatabaseURL string   // empty: a throwaway Postgres with its default durability
	Statements  bool     // also the statements on which Postgres spent most time, where pg_stat_statements can be had
	Profile     string   // file for a CPU profile of riverhook in the mode deliver; empty: none

	Program  string    // this program: it is started anew as what is measured
	Version  string    // of this program
	Progress io.Writer // nil: silent
	Terminal bool      // whether Progress is one: a line that is rewritten
}

// Mode is one thing to measure.
type Mode struct {
	Name, Help string
	Heavy      bool // runs only when it is named

	run func(*bench, context.Context) error
}

// modeTimeout bounds one run of a mode other than growth.
const modeTimeout = 10 * time.Minute

// Modes are all modes, in the order in which they run.
func Modes() []Mode {
	return []Mode{
		{Name: "river", Help: "River's own no-op jobs: the ceiling", run: (*bench).river},
		{Name: "steps", Help: "one transaction per step on River, plainly written: the floor", run: (*bench).steps},
		{Name: "deliver", Help: "riverhook end to end: a backlog is sent to a receiver and recorded", run: (*bench).deliver},
		{Name: "enqueue", Help: "INSERT and COPY, with and without the trigger that enqueues", run: (*bench).enqueue},
		{Name: "latency", Help: "from commit to the request at the receiver, at 50/s and at 1,000/s", run: (*bench).latency},
		{Name: "isolation", Help: "healthy receivers while others hang or fail", run: (*bench).isolation},
		{Name: "memory", Help: "peak memory with 2,000 attempts in flight", run: (*bench).memory},
		{Name: "recovery", Help: "how soon what a killed node held is sent again; a crash of Postgres; rolling restarts", Heavy: true, run: (*bench).recovery},
		{Name: "vacuum", Help: "while a transaction that stays open for minutes keeps Postgres from cleaning up", Heavy: true, run: (*bench).vacuum},
		{Name: "growth", Help: "with millions of finished deliveries in the table", Heavy: true, run: (*bench).growth},
	}
}

// VerificationError says that something that was measured did not happen as it had to: the figures mean nothing.
type VerificationError struct{ Mode, Problem string }

func (e *VerificationError) Error() string { return "verification of " + e.Mode + ": " + e.Problem }

var errInterrupted = errors.New("bench: interrupted")

// bench is one call of Run.
type bench struct {
	Config
	sizes    sizes
	database *database
	progress progress

	mode   string             // that runs
	round  map[string]float64 // figures of the round that runs, by name
	values map[string][]float64
	notes  []string
	top    map[string][]Statement
	grown  *grown // what growth keeps from round to round
}

// Run measures, and cleans up behind itself whatever happens. A figure that misses its goal is no error; a
// [*VerificationError] is one.
func Run(ctx context.Context, c Config) (report *Report, err error) {
	modes, err := chosen(c.Modes)
	if err != nil {
		return nil, err
	}
	b := &bench{
		Config: c, sizes: sizesOf(c), progress: progress{out: c.Progress, terminal: c.Terminal},
		values: map[string][]float64{}, top: map[string][]Statement{},
	}
	defer b.progress.clear()
	b.progress.step("preparing Postgres")
	if b.database, err = openDatabase(ctx, c); err != nil {
		return nil, err
	}
	defer func() {
		b.progress.step("cleaning up")
		err = errors.Join(err, b.database.close())
	}()
	report, err = b.newReport(ctx)
	if err != nil {
		return nil, err
	}
	if server := b.database.server; server != nil && inMemory(server.Dir()) {
		b.notes = append(b.notes, "Postgres's directory is in memory, where fsync costs nothing: name one on a disk with TMPDIR.")
	}
	before, known := b.others()
	for n := range c.Rounds {
		if err := b.runRound(ctx, n+1, modes); err != nil {
			return nil, err
		}
	}
	b.fill(report)
	if after, ok := b.others(); ok && known {
		others := max(0, (after-before).Seconds()/report.Seconds)
		report.OtherCPUs = &others
	}
	return report, nil
}

func chosen(names []string) (modes []Mode, err error) {
	for _, name := range names {
		i := slices.IndexFunc(Modes(), func(m Mode) bool { return m.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("bench: there is no mode %q", name)
		}
		if !slices.ContainsFunc(modes, func(m Mode) bool { return m.Name == name }) {
			modes = append(modes, Modes()[i])
		}
	}
	return modes, nil
}

// runRound runs each mode once: the machine's mood is about the same for all of them.
func (b *bench) runRound(ctx context.Context, n int, modes []Mode) error {
	b.round = map[string]float64{}
	for _, m := range modes {
		b.mode = m.Name
		b.progress.begin(fmt.Sprintf("round %d/%d %s", n, b.Rounds, m.Name))
		timeout := modeTimeout
		if m.Heavy {
			timeout *= 12
		}
		if err := b.runMode(ctx, m, timeout); err != nil {
			return err
		}
		b.progress.end(b.headline(m.Name))
	}
	for _, d := range catalog {
		if a, ok := b.round[d.over]; ok && d.under != "" {
			if of, ok := b.round[d.under]; ok {
				b.round[d.name] = a / of
			}
		}
		if value, ok := b.round[d.name]; ok && !math.IsNaN(value) && !math.IsInf(value, 0) {
			b.values[d.name] = append(b.values[d.name], value)
		}
	}
	return nil
}

func (b *bench) runMode(ctx context.Context, m Mode, timeout time.Duration) error {
	run, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not done after %s", timeout))
	defer cancel()
	err := m.run(b, run)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return errInterrupted
	}
	if cause := context.Cause(run); cause != nil {
		err = fmt.Errorf("%w (%w)", cause, err)
	}
	if verification := (*VerificationError)(nil); errors.As(err, &verification) {
		return err
	}
	return fmt.Errorf("bench: %s: %w", m.Name, err)
}

// note keeps a figure of this round. Its name is in the catalog.
func (b *bench) note(name string, value float64) { b.round[name] = value }

// wrong is a failed verification of the mode that runs.
func (b *bench) wrong(format string, args ...any) error {
	return &VerificationError{Mode: b.mode, Problem: fmt.Sprintf(format, args...)}
}

// sizes are how much is measured.
type sizes struct {
	river, steps, deliver int // rows of a backlog

	single     time.Duration // of single-row transactions, each way
	statements int           // multi-row INSERTs
	copied     int           // rows of a COPY

	latency, warmUp time.Duration
	rates           [2]int // per second

	mixed            int           // healthy deliveries of the backlog with some that hang
	hangs            time.Duration // timeout of an attempt at a receiver that hangs
	hanging, failing int           // deliveries that hang, or fail, beside the steady ones
	steady           time.Duration
	steadyRate       int // per second

	inFlight int           // attempts
	held     time.Duration // how long

	recoveryBefore, recoveryAfter time.Duration // of a steady rate, around the death of a node
	crashRows                     int           // of a backlog while Postgres crashes
	restarts, rollingRows         int           // rolling restarts, and the most deliveries meanwhile

	heldBack time.Duration // of the faster steady rate, while a transaction is open

	finished, overdue int // rows in the table that has grown
}

// rowsOf is how many deliveries a backlog has unless the user says otherwise.
const rowsOf = 30_000

func sizesOf(c Config) sizes {
	s := sizes{
		single: 1500 * time.Millisecond, statements: 30, copied: 100_000,
		latency: 5 * time.Second, warmUp: time.Second, rates: [2]int{50, 1000},
		hangs: 5 * time.Second, hanging: 2_000, failing: 100_000, steady: 4 * time.Second, steadyRate: 500,
		inFlight: 2_000, held: 2 * time.Second,
		recoveryBefore: 6 * time.Second, recoveryAfter: 20 * time.Second, crashRows: 60_000, restarts: 100, rollingRows: 500_000,
		heldBack: 4 * time.Minute,
		finished: 10_000_000, overdue: 1_000_000,
	}
	rows := rowsOf
	if c.Quick {
		rows = 500
		s.single, s.statements, s.copied = 100*time.Millisecond, 2, 1_000
		s.latency, s.warmUp, s.rates = 500*time.Millisecond, 100*time.Millisecond, [2]int{50, 200}
		s.hangs, s.hanging, s.failing, s.steady, s.steadyRate = time.Second, 20, 200, 500*time.Millisecond, 100
		s.inFlight, s.held = 100, 200*time.Millisecond
		s.recoveryBefore, s.recoveryAfter, s.crashRows, s.restarts, s.rollingRows = 2*time.Second, 12*time.Second, 2_000, 4, 20_000
		s.heldBack = 500 * time.Millisecond
		s.finished, s.overdue = 5_000, 1_000
	}
	if c.Rows > 0 {
		rows = c.Rows
	}
	s.river, s.steps, s.deliver, s.mixed = 2*rows, max(1, rows/4), rows, rows
	if c.GrowthRows > 0 {
		s.finished = c.GrowthRows
		s.overdue = min(s.overdue, max(1, c.GrowthRows/10))
	}
	return s
}
