package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/riverhook/riverhook/cmd/torture/internal/check"
)

const (
	receiverCount = 3
	// stopTimeout is how long a node may take to end after SIGTERM: its attempts in flight, and then some.
	stopTimeout = timeout + 20*time.Second
	// The end is given up when nothing has changed for so long, which is more than a lease, the election of a leader and a
	// sweep take together; or after endTimeout.
	stuckAfter = 45 * time.Second
	endTimeout = 5 * time.Minute
	// slack is how late a slow machine may notice something.
	slack = 2 * time.Second
	// lookInterval is how often states are looked for that must never be seen.
	lookInterval = 200 * time.Millisecond
)

// options say how to torture whom.
type options struct {
	program  string // a riverhook
	duration time.Duration
	seed     uint64
	nodes    int
	rate     float64
	dir      string // of the evidence; it must not be there yet
	out      io.Writer
	progress bool // there is a terminal
	verbose  bool
}

// torture is one run.
type torture struct {
	options
	ctx       context.Context //nolint:containedctx // of the noise, which all of its faults share
	clock     *clock
	database  *database
	nodes     []*node
	receivers *receivers
	app       *application
	acts      *journal
	jobsGone  jobsGone
	started   time.Time

	printing  sync.Mutex // of out
	mu        sync.Mutex // of what follows
	faults    []check.Fault
	struck    []*struck
	counts    map[string]int
	sightings []check.Sighting
	looks     int
	now       map[int]string
}

// jobsGone is until when, by the time in a row, the row may have lost its job to a fault. The zero value: none has.
type jobsGone struct {
	mu    sync.Mutex
	going bool
	until time.Time
}

// never is so late that no row was updated after it.
var never = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// begin says that jobs are going now, and end that no row of later than until loses its job any more. The mark never goes
// back: rows that were updated while the clock was ahead keep their times, whatever happens next.
func (j *jobsGone) begin() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.going = true
}

func (j *jobsGone) end(until time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.going = false
	if until.After(j.until) {
		j.until = until
	}
}

func (j *jobsGone) mark() time.Time {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.going {
		return never
	}
	return j.until
}

// struck is a fault with its node still to be named.
type struck struct {
	check.Fault
	node *node
}

// outcome is what a run came to.
type outcome struct {
	report *check.Report
	counts map[string]int // faults by kind
	looks  int
	took   time.Duration // from the end of the noise until all was at rest
	rested bool
}

// run tortures a riverhook, lets it recover, and judges it. An error means that it could not be judged.
func run(ctx context.Context, o options) (result *outcome, err error) {
	if err := os.Mkdir(o.dir, 0o755); err != nil {
		return nil, fmt.Errorf("torture: %w", err)
	}
	t := &torture{options: o, counts: make(map[string]int), now: make(map[int]string)}
	defer func() { err = errors.Join(err, t.close()) }()
	if err := t.open(ctx); err != nil {
		return nil, err
	}
	t.make(ctx)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	result = &outcome{counts: t.counts}
	if result.took, result.rested, err = t.rest(ctx); err != nil {
		return nil, err
	}
	records, err := t.collect(ctx)
	if err != nil {
		return nil, err
	}
	result.report, result.looks = check.Check(records), t.looks
	return result, nil
}

// open starts everything.
func (t *torture) open(ctx context.Context) (err error) {
	if t.clock, err = newClock(); err != nil {
		return err
	}
	if t.database, err = startDatabase(ctx, t.clock); err != nil {
		return err
	}
	url := t.database.server.URL("postgres")
	if err := t.command(ctx, url, "migrate", "up"); err != nil {
		return err
	}
	if err := t.database.exec(ctx, `CREATE ROLE `+role+` LOGIN`); err != nil {
		return err
	}
	if err := t.command(ctx, url, "migrate", "grant", role, "--as", "application"); err != nil {
		return err
	}
	requests, err := openJournal(t.path("requests.jsonl"))
	if err != nil {
		return err
	}
	if t.receivers, err = startReceivers(ctx, receiverCount, requests); err != nil {
		return err
	}
	if t.acts, err = openJournal(t.path("acts.jsonl")); err != nil {
		return err
	}
	t.app = &application{rate: t.rate}
	for _, r := range t.receivers.all {
		t.app.origins = append(t.app.origins, r.origin)
	}
	if t.app.log, err = openJournal(t.path("inserts.jsonl")); err != nil {
		return err
	}
	if t.app.link, err = t.database.newLink("application"); err != nil {
		return err
	}
	for i := range t.options.nodes {
		l, err := t.database.newLink(fmt.Sprintf("node-%d", i+1))
		if err != nil {
			return err
		}
		n, err := newNode(i, t.program, t.dir, l)
		if err != nil {
			return err
		}
		t.nodes = append(t.nodes, n)
		if err := n.start(ctx); err != nil {
			return err
		}
	}
	try, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, n := range t.nodes {
		if err := n.delivers(try); err != nil {
			return err
		}
	}
	return nil
}

func (t *torture) path(name string) string { return filepath.Join(t.dir, name) }

// command runs one riverhook command to its end.
func (t *torture) command(ctx context.Context, url string, args ...string) error {
	cmd := exec.CommandContext(ctx, t.program, args...)
	cmd.Env = environment("RIVERHOOK_DATABASE_URL=" + url)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("torture: riverhook %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// close ends what still runs.
func (t *torture) close() (err error) {
	for _, n := range t.nodes {
		n.kill()
		_ = n.log.Close()
		n.link.cut()
	}
	if t.receivers != nil {
		t.receivers.close()
	}
	if t.app != nil && t.app.link != nil {
		t.app.link.cut()
	}
	if t.database != nil {
		text, _ := os.ReadFile(filepath.Join(t.database.server.Dir(), "log"))
		_ = os.WriteFile(t.path("postgres.log"), text, 0o644)
		err = t.database.server.Stop()
	}
	if t.clock != nil {
		t.clock.remove()
	}
	return err
}

// make makes the noise: the application inserts, the faults strike, and somebody looks on.
func (t *torture) make(ctx context.Context) {
	schedule := plan(t.seed, t.duration, kinds(), len(t.nodes), len(t.receivers.all))
	ctx, cancel := context.WithTimeout(ctx, t.duration)
	defer cancel()
	t.ctx, t.started = ctx, time.Now()

	inserting, stop := context.WithCancel(ctx)
	var noise, others sync.WaitGroup
	others.Go(func() { t.app.run(inserting) })
	others.Go(func() { t.look(inserting) })
	others.Go(func() { t.show(inserting) })
	for lane, steps := range schedule {
		noise.Go(func() {
			for _, s := range steps {
				if !wait(ctx, time.Until(t.started.Add(s.At))) {
					return
				}
				t.strike(lane, s)
			}
		})
	}
	noise.Wait()
	wait(ctx, time.Until(t.started.Add(t.duration)))
	stop()
	others.Wait()
}

// strike does one fault and writes it down.
func (t *torture) strike(lane int, s step) {
	t.mu.Lock()
	t.now[lane] = s.Kind.name
	t.mu.Unlock()
	from := time.Now()
	d := s.Kind.do(t, s)
	f := check.Fault{
		Kind: s.Kind.name, Detail: d.detail, Node: d.name, Origin: d.origin, From: from, To: time.Now().Add(d.aftermath), Excuse: d.excuse,
		Delays: lane != laneWorld || d.origin != "",
	}
	if s.Kind.lane == laneProcesses && d.excuse == check.Death {
		f.To = from // that it is started again later is no excuse
	}
	if d.problem != nil {
		f.Problem = d.problem.Error()
	}
	if d.err != nil {
		f.Detail = strings.TrimSpace(f.Detail + " (" + d.err.Error() + ")")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.now, lane)
	if !d.none {
		t.counts[s.Kind.name]++
		t.struck = append(t.struck, &struck{f, d.node})
	}
	if t.verbose {
		t.printf("%8.3f  %-30s %6.3f s  %s %s\n", from.Sub(t.started).Seconds(), f.Kind, time.Since(from).Seconds(), f.Detail, f.Problem)
	}
}

// look looks for states that must never be, not even for a moment.
func (t *torture) look(ctx context.Context) {
	var conn *pgx.Conn
	for wait(ctx, lookInterval) {
		if conn == nil || conn.IsClosed() {
			try, cancel := context.WithTimeout(ctx, statementTimeout)
			fresh, err := pgx.Connect(try, t.database.server.URL("postgres"))
			cancel()
			if err != nil {
				continue
			}
			conn = fresh
		}
		try, cancel := context.WithTimeout(ctx, statementTimeout)
		gone := t.jobsGone.mark()
		seen, err := check.Look(try, conn, schema, gone)
		cancel()
		if err != nil || t.jobsGone.mark() != gone { // they went while it looked
			continue
		}
		t.mu.Lock()
		t.looks++
		t.sightings = append(t.sightings, seen...)
		t.mu.Unlock()
	}
	if conn != nil {
		closeConn(conn)
	}
}

// rest heals everything and waits until there is nothing left to do. rested is false when that did not come.
func (t *torture) rest(ctx context.Context) (took time.Duration, rested bool, err error) {
	if err := t.heal(ctx); err != nil {
		return 0, false, err
	}
	began, changed := time.Now(), time.Now()
	var before [3]int
	for time.Since(began) < endTimeout && time.Since(changed) < stuckAfter {
		now := before
		err := t.database.do(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
			now[0], now[1], err = check.Rest(ctx, conn, schema)
			return err
		})
		if ctx.Err() != nil {
			return 0, false, context.Cause(ctx)
		}
		if err == nil && now[0]+now[1] == 0 {
			return time.Since(began), true, nil
		}
		if now[2] = int(t.receivers.count.Load()); now != before {
			before, changed = now, time.Now()
		}
		t.line("resting: %d pending", now[0]+now[1])
		if !wait(ctx, 100*time.Millisecond) {
			return 0, false, context.Cause(ctx)
		}
	}
	return time.Since(began), false, nil
}

// heal makes all well, whatever was interrupted.
func (t *torture) heal(ctx context.Context) error {
	t.ctx = ctx
	for _, r := range t.receivers.all {
		r.mood.Store(moodGood)
	}
	if t.database.server.Pid() == 0 {
		if err := t.database.server.Restart(ctx); err != nil {
			return err
		}
	}
	if t.clock.installed() {
		if err := t.clock.set(0); err != nil {
			return err
		}
	}
	for _, n := range t.nodes {
		n.link.heal(ctx)
		n.signal(syscall.SIGCONT, false)
		if err := errors.Join(n.link.mend(), n.start(ctx)); err != nil {
			return err
		}
	}
	t.app.link.heal(ctx)
	return errors.Join(t.app.link.mend(), t.enableTrigger(), t.resumeQueue())
}

// collect stops the nodes and gathers all that is known.
func (t *torture) collect(ctx context.Context) (*check.Records, error) {
	for _, n := range t.nodes {
		if err := n.stop(stopTimeout); err != nil {
			t.faults = append(t.faults, check.Fault{Kind: "the end", From: time.Now(), To: time.Now(), Problem: err.Error()})
		}
	}
	for _, s := range t.struck {
		if s.node == nil {
			t.faults = append(t.faults, s.Fault)
			continue
		}
		for _, name := range s.node.names(s.From, s.To) {
			f := s.Fault
			f.Node = name
			t.faults = append(t.faults, f)
			s.Problem = "" // once is enough
		}
	}
	for _, n := range t.nodes {
		n.mu.Lock()
		t.faults = append(t.faults, n.odd...)
		n.mu.Unlock()
	}
	r := &check.Records{Timeout: timeout, Lease: lease, Slack: slack, Faults: t.faults, Sightings: t.sightings}
	err := t.database.do(ctx, func(ctx context.Context, conn *pgx.Conn) error { return check.Read(ctx, conn, schema, r) })
	if err != nil {
		return nil, err
	}
	t.receivers.close()
	if err := errors.Join(t.receivers.log.close(), t.app.log.close(), t.acts.close()); err != nil {
		return nil, fmt.Errorf("torture: the logs are not whole: %w", err)
	}
	if r.Requests, err = readRequests(t.path("requests.jsonl")); err != nil {
		return nil, err
	}
	if r.Inserts, err = readJournal[check.Insert](t.path("inserts.jsonl")); err != nil {
		return nil, err
	}
	if r.Acts, err = readJournal[check.Act](t.path("acts.jsonl")); err != nil {
		return nil, err
	}
	text, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("torture: %w", err)
	}
	return r, os.WriteFile(t.path("records.json"), text, 0o644)
}
