package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"regexp"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/riverhook/riverhook/migrations"
)

// version is set at build time.
var version = ""

// Exit codes.
const (
	exitOK      = 0
	exitFailed  = 1
	exitUsage   = 2
	exitPending = 3 // send --wait: not decided yet
)

// commands is the command line.
type commands struct {
	Serve       serveCmd       `cmd:"" help:"Deliver: the worker, the sweeper and an HTTP listener. Settings come from flags or the environment; the database from RIVERHOOK_DATABASE_URL, the file that RIVERHOOK_DATABASE_URL_FILE names, or DATABASE_URL; RIVERHOOK_SECRET_KEY and RIVERHOOK_API_TOKEN have a _FILE, too. What neither sets may be a credential of systemd's: database_url, secret_key, api_token (riverhook assets systemd)."`
	Migrate     migrateCmd     `cmd:"" help:"Bring a database to riverhook's schema and River's, and grant roles."`
	Send        sendCmd        `cmd:"" help:"Enqueue one delivery."`
	Deliveries  deliveriesCmd  `cmd:"" help:"Look at deliveries; retry, replay and cancel them."`
	Held        heldCmd        `cmd:"" help:"Show what is held back, and why, and what is paused."`
	Pause       pauseCmd       `cmd:"" help:"Hold deliveries back: of a receiver, of a tenant, of both, or all. Nothing is lost."`
	Resume      resumeCmd      `cmd:"" help:"Let go of what was paused."`
	Credentials credentialsCmd `cmd:"" help:"Secrets that requests are authorized with."`
	Secrets     secretsCmd     `cmd:"" help:"Secrets that requests are signed with (Standard Webhooks)."`
	Status      statusCmd      `cmd:"" help:"One screen: nodes, backlog, rates, dead letters, what is held back or paused."`
	Doctor      doctorCmd      `cmd:"" help:"Look for what is wrong with the database, the settings, the secrets and the backlog, and say what to do. Changes nothing."`
	Check       checkCmd       `cmd:"" help:"Look for what may not be: deliveries that nobody will send, claims without an owner, gaps in the ledger. For cron. Changes nothing."`
	Erase       eraseCmd       `cmd:"" help:"Remove all deliveries of a tenant or a run, with their attempts, now."`
	Tokens      tokensCmd      `cmd:"" help:"Tokens of the HTTP API: who may use it, and for what."`
	Sweep       sweepCmd       `cmd:"" help:"Sweep now: give overdue deliveries without a live job one, and take back what a dead node held."`
	Health      healthCmd      `cmd:"" help:"Ask a running serve on this machine whether it is well. For containers."`
	Assets      assetsCmd      `cmd:"" help:"Print files for other programs: a systemd unit, a Dockerfile, a Grafana dashboard, Prometheus alert rules."`
	benchCommands
	Help    helpCmd    `cmd:"" help:"The manual: explain a topic. Without one, list them."`
	Version versionCmd `cmd:"" help:"Print the version."`

	VersionFlag kong.VersionFlag `name:"version" help:"Print the version."`
}

// console is where a command writes, and what it reads.
type console struct {
	in       io.Reader
	out, err io.Writer
}

func main() { os.Exit(run(os.Args[1:], console{os.Stdin, os.Stdout, os.Stderr})) }

// run is main, with an exit code.
func run(args []string, c console) int {
	dropEmptySettings()
	ctx, stop := untilSignal()
	defer stop()

	var cli commands
	exited := -1
	parser, err := kong.New(&cli,
		kong.Name("riverhook"),
		kong.Description("Delivers outbound webhooks from your Postgres.\n\nExit codes: 0 done; 1 failed, or something named was not changed, or \"check\" found something; "+
			"2 wrong usage or setting; 3 \"send --wait\" is still pending."),
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Writers(c.out, c.err),
		kong.Exit(func(code int) { exited = code }),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(c),
		kong.ValueFormatter(formatHelp),
		helpVars(),
		kong.Vars{"version": "riverhook " + programVersion()},
		kong.PostBuild(nameValues),
	)
	if err != nil {
		panic(err) // the command line's own definition is wrong
	}
	switch {
	case len(args) == 0:
		args = []string{"--help"}
	case len(args) == 1 && args[0] == "help":
		args = []string{"help", "topics"}
	}
	parsed, err := parser.Parse(args)
	if exited >= 0 { // --help or --version
		return exited
	}
	if err == nil {
		err = parsed.Run()
	} else {
		err = usageError{err}
	}
	return report(c, err)
}

// nameValues makes --help call a flag's value by the flag's name: its default is in the text.
func nameValues(k *kong.Kong) error {
	return kong.Visit(k.Model, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok && flag.HasDefault && flag.PlaceHolder == "" {
			flag.PlaceHolder = strings.ToUpper(flag.Name)
		}
		return next(nil)
	})
}

// internalPrefix is what our packages begin their errors with: for the log, and not for people.
var internalPrefix = regexp.MustCompile(`^(riverhook: )?(((bench|credential|egress|migrations|signing|store|sweeper|worker): )+([a-z]+: )?)?`)

// sameSignal is how long after the first signal another one counts as the same. Some senders address both the process and
// its group (GNU timeout does), which makes two within a millisecond; people press Ctrl-C twice in more than this.
const sameSignal = 250 * time.Millisecond

// untilSignal is a context that the first SIGINT or SIGTERM ends. Another one, later than sameSignal, ends the process at
// once: leases run out, and the sweep takes the deliveries back.
func untilSignal() (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals, done := make(chan os.Signal, 2), make(chan struct{})
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		var first time.Time
		for {
			select {
			case <-signals:
			case <-done:
				return
			}
			switch {
			case first.IsZero():
				first = time.Now()
				cancel()
			case time.Since(first) > sameSignal:
				slog.Warn("ended at once by another signal")
				os.Exit(exitFailed)
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		cancel()
	}
}

// usageError is a mistake in how the program was called.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// hintError says what went wrong, and what to do about it.
type hintError struct {
	err  error
	hint string
}

func (e hintError) Error() string { return e.err.Error() + "\n  " + e.hint }
func (e hintError) Unwrap() error { return e.err }

// exitError ends the program with a code and without a word more.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit %d", int(e)) }

// report says what went wrong in words, and turns it into an exit code.
func report(c console, err error) int {
	var exit exitError
	var usage usageError
	var parse *kong.ParseError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &exit):
		return int(exit)
	}
	if errors.As(err, new(*migrations.NotMigratedError)) || errors.As(err, new(*migrations.TooOldError)) {
		err = hintError{err, "riverhook help upgrading says in which order"}
	}
	_, _ = fmt.Fprintln(c.err, "riverhook:", internalPrefix.ReplaceAllString(err.Error(), ""))
	if errors.As(err, &usage) || errors.As(err, &parse) {
		_, _ = fmt.Fprintln(c.err, `  see "riverhook --help", or "riverhook COMMAND --help"`)
		return exitUsage
	}
	return exitFailed
}

type versionCmd struct{}

func (versionCmd) Run(c console) error {
	_, err := fmt.Fprintln(c.out, "riverhook", programVersion())
	return err
}

// programVersion is the version that was built in, or else the module's.
func programVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}
