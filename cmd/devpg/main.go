// Command devpg gives the commands of a riverhook developer a PostgreSQL. It is
// not shipped.
//
//	devpg install            make sure the PostgreSQL server binaries are there
//	devpg exec -- CMD ARGS   run CMD with TEST_DATABASE_URL set
//
// exec runs CMD as it is where TEST_DATABASE_URL is set already. Otherwise it
// starts a throwaway server first and stops it afterwards. TEST_BUILD_DIR is a
// directory that is removed at the end. It ends with CMD's exit code.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/riverhook/riverhook/migrations/pgtemp"
)

const (
	urlEnv = "TEST_DATABASE_URL"
	// buildEnv is where tests build programs, which goes when they are killed, too.
	buildEnv = "TEST_BUILD_DIR"
	usage    = "usage: devpg install | devpg exec -- CMD ARGS..."
)

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func run(args []string) (int, error) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)

	switch {
	case len(args) == 1 && args[0] == "install":
		ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer cancel()
		if err := pgtemp.Install(ctx, os.Stderr); err != nil {
			return 1, err
		}
		return 0, nil
	case len(args) >= 3 && args[0] == "exec" && args[1] == "--":
		return execute(args[2], args[3:], signals)
	default:
		fmt.Fprintln(os.Stderr, usage)
		return 2, nil
	}
}

func execute(name string, args []string, signals <-chan os.Signal) (code int, err error) {
	// Not bound to a context: a signal goes to the command, which decides.
	cmd := exec.CommandContext(context.Background(), name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = os.Environ()

	if os.Getenv(urlEnv) == "" {
		// Only until the command runs: from then on signals are the command's.
		ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		server, err := pgtemp.Start(ctx, pgtemp.Options{})
		cancel()
		if err != nil {
			return 1, err
		}
		defer func() {
			if stopErr := server.Stop(); stopErr != nil {
				code, err = max(code, 1), errors.Join(err, stopErr)
			}
		}()
		cmd.Env = append(cmd.Env, urlEnv+"="+server.URL("postgres"))
	}
	// Not TMPDIR: it says where a server's data goes, too.
	if dir, err := os.MkdirTemp("", "riverhook-tests-"); err == nil {
		defer func() { _ = os.RemoveAll(dir) }()
		cmd.Env = append(cmd.Env, buildEnv+"="+dir)
	}

	if len(signals) > 0 {
		return 130, errors.New("devpg: exec: interrupted before the command ran")
	}
	if err := cmd.Start(); err != nil {
		return 127, fmt.Errorf("devpg: exec: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case sig := <-signals:
			_ = cmd.Process.Signal(sig) // fails only when the command has ended
		case err := <-done:
			return exitCode(err)
		}
	}
}

// exitCode is the command's, as a shell would report it.
func exitCode(err error) (int, error) {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case !errors.As(err, &exit):
		return 1, fmt.Errorf("devpg: exec: %w", err)
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return exit.ExitCode(), nil
}
