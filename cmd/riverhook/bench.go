//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/pprof"
	"slices"
	"strings"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/bench"
)

// benchCommands need a system on which a throwaway Postgres can run.
type benchCommands struct {
	Bench     benchCmd     `cmd:"" help:"Measure riverhook on this machine, beside River itself and beside one transaction per step, and verify what was measured."`
	BenchNode benchNodeCmd `cmd:"" hidden:"" help:"What bench starts and measures."`
}

type benchCmd struct {
	Modes       []string `arg:"" optional:"" name:"mode" help:"What to measure (default: all but recovery and growth)."`
	Runs        int      `default:"3" help:"Runs of each mode, in turns (default ${default})."`
	Rows        int      `placeholder:"N" help:"Deliveries of a backlog (default 30000; river has twice as many jobs, steps a quarter); with growth, finished deliveries in the table (default 10000000)."`
	DatabaseURL string   `name:"database-url" placeholder:"URL" help:"Postgres to measure on, in schemas with random names that are dropped afterwards (default: a throwaway Postgres; no variable is read)."`
	JSON        bool     `name:"json" help:"Print one JSON object."`
	Quick       bool     `help:"Only show that everything works: a few seconds a mode, and figures that mean nothing."`
	Statements  bool     `help:"Also show the statements that Postgres spent most time on (needs the throwaway Postgres and its pg_stat_statements)."`
	Profile     string   `placeholder:"FILE" help:"Write a CPU profile of riverhook in the mode deliver, of its last run."`
}

// Help explains the modes and the figures.
func (benchCmd) Help() string {
	var text strings.Builder
	text.WriteString("Modes:\n\n")
	for _, m := range bench.Modes() {
		fmt.Fprintf(&text, "%s: %s.\n\n", m.Name, m.Help)
	}
	text.WriteString("The rates of river, steps and deliver are all computed in the same way: a backlog is in the database before the measured process starts; " +
		"rows / (the database shows the last result - the first request arrives, or, for river, the first job begins). " +
		"CPU time is that of the process's whole life, and that of all of Postgres's processes over the same time. " +
		"Ratios are of values from the same round; a goal is for the median.\n\n" +
		"A missed goal is no failure. What was not delivered exactly once, or not recorded, is.")
	return text.String()
}

// Validate checks the command line.
func (cmd *benchCmd) Validate() error {
	var names []string
	for _, m := range bench.Modes() {
		names = append(names, m.Name)
	}
	for _, name := range cmd.Modes {
		if !slices.Contains(names, name) {
			return fmt.Errorf("%s is no mode: %s", name, strings.Join(names, ", "))
		}
	}
	switch {
	case cmd.Runs < 1 || cmd.Runs > 100:
		return errors.New("--runs: from 1 to 100")
	case cmd.Rows < 0 || cmd.Rows > 100_000_000:
		return errors.New("--rows: from 1 to 100000000")
	}
	return nil
}

// Run measures.
func (cmd *benchCmd) Run(ctx context.Context, c console) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	config := bench.Config{
		Modes: cmd.Modes, Rounds: cmd.Runs, Rows: cmd.Rows, Quick: cmd.Quick, DatabaseURL: cmd.DatabaseURL,
		Statements: cmd.Statements, Profile: cmd.Profile,
		Program: program, Version: programVersion(), Progress: c.err, Terminal: isTerminal(c.err),
	}
	if len(config.Modes) == 0 {
		for _, m := range bench.Modes() {
			if !m.Heavy {
				config.Modes = append(config.Modes, m.Name)
			}
		}
	}
	if slices.Contains(config.Modes, "growth") {
		config.Rows, config.GrowthRows = 0, cmd.Rows
	}
	report, err := bench.Run(ctx, config)
	if err != nil {
		return err
	}
	if cmd.JSON {
		return report.WriteJSON(c.out)
	}
	return report.WriteTable(c.out)
}

// benchNodeCmd is the other side of bench: processes that it measures.
type benchNodeCmd struct {
	River benchRiverCmd `cmd:"" help:"Work no-op jobs with River alone."`
	Steps benchStepsCmd `cmd:"" help:"Deliver with one transaction per step."`
	Serve benchServeCmd `cmd:"" help:"Serve, and write a CPU profile."`
}

type benchRiverCmd struct {
	schemaFlag
	Jobs int `required:"" help:"Jobs to work."`
}

// Run works until it is told to stop.
func (cmd *benchRiverCmd) Run(ctx context.Context, c console) error {
	database, err := databaseFromEnvironment()
	if err != nil {
		return err
	}
	return bench.WorkRiver(ctx, database, string(cmd.Schema), cmd.Jobs, c.out)
}

type benchStepsCmd struct{ schemaFlag }

// Run works until it is told to stop.
func (cmd *benchStepsCmd) Run(ctx context.Context) error {
	database, err := databaseFromEnvironment()
	if err != nil {
		return err
	}
	return bench.WorkSteps(ctx, database, string(cmd.Schema))
}

type benchServeCmd struct {
	serveCmd
	Profile string `required:"" help:"File of the CPU profile."`
}

// Run serves until it is told to stop.
func (cmd *benchServeCmd) Run(ctx context.Context, c console) error {
	file, err := os.Create(cmd.Profile)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return errors.Join(err, file.Close())
	}
	err = cmd.serveCmd.Run(ctx, c)
	pprof.StopCPUProfile()
	return errors.Join(err, file.Close())
}
