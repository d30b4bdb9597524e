// Command torture breaks what riverhook depends on, for as long as it is told to, and has an independent checker say whether
// riverhook kept its promises. It is not shipped.
//
//	torture [-duration 30m] [-seed N] [-riverhook bin/riverhook] ...   torture it, and judge it
//	torture -mutants                                                  show that deliberately broken builds are caught
//	torture -recheck records.json                                     judge again what a run has left
//
// It starts a throwaway Postgres, two or three riverhook processes that reach it through toxiproxy, and receivers that log
// every request. An application inserts at a steady rate, rolls back some of it, and writes down what committed. Then faults
// strike, after a schedule that the seed stands for. In the end all is healed, and what was committed, what was received and
// what the tables say is compared.
//
// The exit code is 0 if nothing was violated, 1 if something was, and 2 for a run that came to no verdict.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/riverhook/riverhook/cmd/torture/internal/check"
)

const (
	exitViolated = 1
	exitFailed   = 2
)

var errViolated = errors.New("torture: promises were broken")

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:])
	cancel()
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errViolated):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exitViolated)
	default:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exitFailed)
	}
}

func command(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("torture", flag.ContinueOnError)
	o := options{out: os.Stdout, progress: term.IsTerminal(int(os.Stdout.Fd()))}
	flags.StringVar(&o.program, "riverhook", "bin/riverhook", "the program to torture")
	flags.DurationVar(&o.duration, "duration", 30*time.Minute, "how long faults strike")
	flags.Uint64Var(&o.seed, "seed", 0, "replays a schedule (0: a random one)")
	flags.IntVar(&o.nodes, "nodes", 3, "riverhook processes")
	flags.Float64Var(&o.rate, "rate", 60, "rows inserted per second")
	flags.BoolVar(&o.verbose, "v", false, "a line per fault")
	keep := flags.Bool("keep", false, "keep the evidence of a run without violations too")
	mutants := flags.Bool("mutants", false, "torture deliberately broken builds: each must be caught")
	recheck := flags.String("recheck", "", "judge the records.json of a run again")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || o.nodes < 1 || o.rate <= 0 || o.duration <= 0 {
		return errors.New("torture: there is something wrong with the arguments: see -help")
	}
	if *recheck != "" {
		return judgeAgain(*recheck)
	}
	if o.seed == 0 {
		o.seed = uint64(rand.Uint32()) //nolint:gosec // not a secret
	}
	if *mutants {
		return runMutants(ctx, o, ".")
	}
	_, err := runAndPrint(ctx, o, *keep)
	return err
}

// runAndPrint keeps the evidence of what was violated.
func runAndPrint(ctx context.Context, o options, keep bool) (*outcome, error) {
	parent, err := os.MkdirTemp("", "riverhook-torture-")
	if err != nil {
		return nil, fmt.Errorf("torture: %w", err)
	}
	o.dir = filepath.Join(parent, fmt.Sprintf("seed-%d", o.seed))
	fmt.Fprintf(o.out, "seed %d, %s, %d nodes, %.0f rows/s%s\n", o.seed, o.duration, o.nodes, o.rate, clockNote())
	result, err := run(ctx, o)
	if err != nil {
		fmt.Fprintf(o.out, "what there is of the run is in %s\n", o.dir)
		return nil, err
	}
	result.print(o.out)
	if keep || !result.report.OK() {
		fmt.Fprintf(o.out, "evidence    %s\n", o.dir)
	} else if err := os.RemoveAll(parent); err != nil {
		return nil, fmt.Errorf("torture: %w", err)
	}
	fmt.Fprintf(o.out, "again       make torture SEED=%d DURATION=%s\n", o.seed, o.duration)
	if !result.report.OK() {
		return result, errViolated
	}
	return result, nil
}

func clockNote() string {
	for _, library := range faketimeLibraries {
		if _, err := os.Stat(library); err == nil {
			return ""
		}
	}
	return "; libfaketime is not installed: Postgres's clock stays right"
}

func judgeAgain(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("torture: %w", err)
	}
	var r check.Records
	if err := json.Unmarshal(text, &r); err != nil {
		return fmt.Errorf("torture: %s: %w", path, err)
	}
	counts := make(map[string]int)
	for _, f := range r.Faults {
		counts[f.Kind]++
	}
	result := &outcome{report: check.Check(&r), counts: counts, rested: true}
	result.print(os.Stdout)
	if !result.report.OK() {
		return errViolated
	}
	return nil
}
