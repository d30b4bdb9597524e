// Command demo shows riverhook at work. It runs the program that was built, as a process, beside a Postgres, and is
// itself what surrounds it: an application that inserts deliveries by SQL, and a receiver whose endpoints are as good
// and as bad as real ones. At the end it holds the rows, the ledger of attempts and the requests that came against each
// other, and fails if they do not agree.
//
// It starts a throwaway Postgres of its own, or works in a schema of its own where DEMO_DATABASE_URL points (as a role
// that may create schemas and roles), and leaves nothing behind.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

const (
	deadline     = 55 * time.Second // for all that riverhook does; Postgres is up by then
	readyTimeout = 20 * time.Second
	// settle is for a request too many to show up, after the last outcome.
	settle = 300 * time.Millisecond
)

var errUnexpected = errors.New("not everything is as it should be")

func main() {
	d := demo{screen: newScreen(os.Stdout)}
	flag.StringVar(&d.riverhook, "riverhook", "bin/riverhook", "`path` of the program to show")
	flag.BoolVar(&d.stay, "stay", false, "leave everything running after the summary, until Ctrl-C")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	os.Exit(d.main())
}

type demo struct {
	riverhook string // the program
	stay      bool
	*screen

	name     string // of the schema; what else has to have a name in the database begins with it
	token    string // of the dashboard and the HTTP API
	database database
	receiver *receiver
	serve    *process
	undo     []func() error
}

// main runs the demo, cleans up and returns the exit code.
func (d *demo) main() int {
	cleanEnvironment()
	// Signals after the first change nothing: cleaning up is under way, and every step of it is bounded. That nobody
	// reads any more (SIGPIPE) is a reason to clean up as well.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	ctx, cancel := d.untilAlone(ctx)
	defer cancel()

	err := d.run(ctx)
	unexpected := errors.Is(err, errUnexpected) // which it has said already
	interrupted := ctx.Err() != nil && err != nil && !unexpected
	failed := err != nil && !interrupted
	if ctx.Err() != nil {
		d.clearLine()
		d.printf("Cleaning up.\n")
	}
	if failed && !unexpected {
		fmt.Fprintln(os.Stderr, "demo:", err)
	}
	undone := d.cleanUp(failed)
	if undone != nil {
		fmt.Fprintln(os.Stderr, "demo: cleaning up:", undone)
	}
	switch {
	case failed || undone != nil:
		return 1
	case interrupted:
		return 130
	}
	return 0
}

// cleanUp undoes what was done, last things first.
func (d *demo) cleanUp(failed bool) error {
	var errs []error
	if d.serve != nil {
		err := d.serve.stop()
		if err != nil && !failed {
			errs = append(errs, fmt.Errorf("riverhook serve: %w", err))
		}
		if err != nil || failed {
			d.serve.showLog(os.Stderr)
		}
	}
	for i := len(d.undo) - 1; i >= 0; i-- {
		errs = append(errs, d.undo[i]())
	}
	return errors.Join(errs...)
}

func (d *demo) later(undo func() error) { d.undo = append(d.undo, undo) }

// run is the demo. What it starts is for cleanUp to end.
func (d *demo) run(interrupt context.Context) error {
	version, err := d.version(interrupt)
	if err != nil {
		return err
	}
	d.printf("%s\n\n", d.bold(version))
	if err := d.openDatabase(interrupt); err != nil {
		return err
	}

	ctx, cancel := context.WithTimeoutCause(interrupt, deadline, fmt.Errorf("not done after %s", deadline))
	defer cancel()
	ok, err := d.deliver(ctx)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && interrupt.Err() == nil && !errors.As(err, new(stillPendingError)) {
			return fmt.Errorf("%w: %w", cause, err)
		}
		return err
	}
	if d.stay {
		err = d.keepUp(interrupt)
	}
	if !ok && err == nil {
		err = errUnexpected
	}
	return err
}

// deliver is all that there is to see. It says whether everything came as expected.
func (d *demo) deliver(ctx context.Context) (ok bool, err error) {
	if d.receiver, err = startReceiver(ctx); err != nil {
		return false, err
	}
	d.later(d.receiver.close)
	endpoints := d.receiver.endpoints()

	app, err := d.newApplication(ctx)
	if err != nil {
		return false, err
	}
	if err := d.startServe(ctx); err != nil {
		return false, err
	}
	d.printf("  %-10s %s serve, in schema %s\n", "riverhook", d.riverhook, d.name)
	d.printf("  %-10s at most %d attempts, %s\n", "retries", maxAttempts, "0.3 s, 0.6 s and 1.2 s apart (give or take a fifth)")
	d.printf("  %-10s %s, in this process\n\n", "receiver", d.receiver.url)

	started := time.Now()
	if err := app.insert(ctx, endpoints); err != nil {
		return false, err
	}
	d.printf("%d deliveries inserted by SQL, as the role of an application; %d of them each with an order in the same\n"+
		"transaction. %d more inserted and rolled back.\n\n", len(app.inserted), orders, rolledBack)

	if err := d.watch(ctx, endpoints, started); err != nil {
		return false, err
	}
	took := time.Since(started)
	if err := pause(ctx, settle); err != nil {
		return false, err
	}
	ledger, err := readLedger(ctx, d.database.reader, d.name)
	if err != nil {
		return false, err
	}
	requests := d.receiver.received()
	d.summarize(endpoints, ledger, requests, app, took)
	problems := verify(endpoints, ledger, requests, app)
	d.conclude(problems)
	return len(problems) == 0, nil
}

// keepUp leaves everything running until a signal comes.
func (d *demo) keepUp(ctx context.Context) error {
	d.printf("\n%s\n", d.bold("All of it runs on until Ctrl-C"))
	line := func(what, how string) { d.printf("  %-10s %s\n", what, how) }
	line("dashboard", d.serve.url+"/ with the token "+d.token)
	line("River UI", d.serve.url+"/river/ with the same log-in")
	line("readiness", d.serve.url+"/readyz")
	line("receiver", d.receiver.url+" with /well /flaky /slow /broken /gone")
	line("database", "psql "+d.database.psql)
	line("CLI", fmt.Sprintf("%s deliveries list --status dead_letter --schema %s \\", d.riverhook, d.name))
	line("", "  --database-url "+d.database.psql)
	line("try", fmt.Sprintf("INSERT INTO %s.deliveries (endpoint_url, payload)", d.name))
	line("", fmt.Sprintf("VALUES ('%s/flaky', '{\"hello\":\"world\"}');", d.receiver.url))
	d.printf("\nWhat the receiver gets from now on:\n")
	d.receiver.announce(func(r request) {
		d.printf("  %s  %-8s attempt %d  %d  delivery %s\n", time.Now().Format(time.TimeOnly), r.path, r.attempt, r.status, r.delivery)
	})
	select {
	case <-ctx.Done():
		d.receiver.announce(nil)
		return nil
	case <-d.serve.done:
		return d.serve.died()
	}
}

// cleanEnvironment forgets what is set for a riverhook or a database of the user's own. The demo's are given by name.
func cleanEnvironment() {
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if name == "DATABASE_URL" || strings.HasPrefix(name, "RIVERHOOK_") {
			_ = os.Unsetenv(name)
		}
	}
}

// untilAlone ends the context when nobody is left to end it: `go run` dies of a SIGTERM without handing it on, and a
// terminal that closes tells only the first process in it.
func (d *demo) untilAlone(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	parent, terminal := os.Getppid(), d.onTerminal()
	go func() {
		for pause(ctx, 500*time.Millisecond) == nil {
			if os.Getppid() != parent || d.onTerminal() != terminal {
				cancel()
			}
		}
	}()
	return ctx, cancel
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func randomName() string {
	b := make([]byte, 4)
	_, _ = rand.Read(b) // never fails
	return "demo_" + hex.EncodeToString(b)
}
