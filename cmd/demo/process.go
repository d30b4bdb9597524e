package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const maxAttempts = 4

// environment is what every riverhook command of the demo gets, besides what this process has.
func (d *demo) environment() []string {
	return append(os.Environ(), "RIVERHOOK_DATABASE_URL="+d.database.url, "RIVERHOOK_SCHEMA="+d.name)
}

// serveSettings make the retries short enough to watch.
func serveSettings(listen, token string) []string {
	return []string{
		"RIVERHOOK_API_TOKEN=" + token,
		"RIVERHOOK_LISTEN=" + listen,
		"RIVERHOOK_MAX_ATTEMPTS=" + strconv.Itoa(maxAttempts),
		"RIVERHOOK_BASE_DELAY=300ms",
		"RIVERHOOK_MAX_DELAY=2s",
		"RIVERHOOK_JITTER=0.2",
		"RIVERHOOK_TIMEOUT=5s",
		"RIVERHOOK_SWEEP_INTERVAL=1s",
		"RIVERHOOK_LOG_FORMAT=text",
		"RIVERHOOK_EGRESS_ALLOW=127.0.0.1/32", // where the receiver is
	}
}

// version asks the program which one it is, which also shows that it is there and runs.
func (d *demo) version(ctx context.Context) (string, error) {
	if _, err := os.Stat(d.riverhook); err != nil {
		return "", fmt.Errorf("%w: build it with \"make build\", or say -riverhook PATH", err)
	}
	return d.command(ctx, nil, "version")
}

// command runs one riverhook command to its end, and returns what it printed.
func (d *demo) command(ctx context.Context, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, d.riverhook, args...)
	cmd.Env = env
	cmd.SysProcAttr = apart()
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("riverhook %s: %w\n%s", strings.Join(args, " "), err, indented(problem.String(), 15))
	}
	return strings.TrimSpace(out.String()), nil
}

// process is a running `riverhook serve`.
type process struct {
	url  string   // of its listener
	log  *os.File // its output
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended, with err set
	err  error
}

// startServe starts the service and waits until it is ready.
func (d *demo) startServe(ctx context.Context) error {
	log, err := os.CreateTemp("", "riverhook-demo-*.log")
	if err != nil {
		return err
	}
	d.later(log.Close)
	if err := os.Remove(log.Name()); err != nil { // it is there for as long as it is open
		return err
	}
	address, err := freeAddress(ctx)
	if err != nil {
		return err
	}

	// Not bound to ctx: it is stopped in its own time.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), d.riverhook, "serve")
	cmd.Env = append(d.environment(), serveSettings(address, d.token)...)
	cmd.SysProcAttr = apart()
	cmd.Stdout, cmd.Stderr = log, log
	p := &process{url: "http://" + address, log: log, cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // where the kernel ends the process with its parent, it is this thread that it means
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	d.serve = p
	return p.waitReady(ctx)
}

func (p *process) waitReady(ctx context.Context) error {
	wait, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	client := http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answer := "no answer"
	for {
		if text, ok := get(wait, &client, p.url+"/readyz"); ok {
			return nil
		} else if text != "" {
			answer = text
		}
		select {
		case <-p.done:
			return p.died()
		case <-wait.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("riverhook serve is not ready after %s (%s/readyz: %s)", readyTimeout, p.url, answer)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// get returns the first words of what a URL answers, and whether it is 200.
func get(ctx context.Context, client *http.Client, url string) (string, bool) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err.Error(), false
	}
	answer, err := client.Do(r)
	if err != nil {
		return "", false
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 200))
	return strings.TrimSpace(string(text)), answer.StatusCode == http.StatusOK
}

// died is the error for a service that ended by itself. It must have ended.
func (p *process) died() error {
	how := "by itself"
	if p.err != nil {
		how = p.err.Error()
	}
	return fmt.Errorf("riverhook serve has ended: %s", how)
}

// stop ends the service, if it still runs. An error means that it did not do so well.
func (p *process) stop() error {
	select {
	case <-p.done:
		return nil // somebody knows already
	default:
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails only if it has ended
	select {
	case <-p.done:
		return p.err
	case <-time.After(15 * time.Second):
	}
	_ = p.cmd.Process.Kill()
	select {
	case <-p.done:
		return errors.New("it did not end 15 s after SIGTERM, and was killed")
	case <-time.After(5 * time.Second):
		return fmt.Errorf("process %d does not end: kill it by hand", p.cmd.Process.Pid)
	}
}

// showLog prints the end of the service's log.
func (p *process) showLog(w io.Writer) {
	const lines = 15
	text, err := io.ReadAll(io.NewSectionReader(p.log, 0, 64<<20))
	if err != nil || len(bytes.TrimSpace(text)) == 0 {
		fmt.Fprintln(w, "riverhook serve has logged nothing.")
		return
	}
	fmt.Fprintf(w, "The last lines that riverhook serve has logged:\n%s\n", indented(string(text), lines))
}

// indented is the last lines of a text.
func indented(text string, most int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return "  " + strings.Join(lines[max(0, len(lines)-most):], "\n  ")
}

func freeAddress(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}
