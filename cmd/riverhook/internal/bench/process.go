package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// stopTimeout is how long a child may take to stop: attempts in flight have their own time.
const stopTimeout = 20 * time.Second

// child is this program, started anew as what is measured.
type child struct {
	what  string // for errors
	cmd   *exec.Cmd
	log   *os.File    // its standard error
	lines chan string // of its standard output; closed at its end
	done  chan struct{}
	err   error // how it ended, once done is closed
}

// usage is what a child used in its life.
type usage struct {
	cpu    time.Duration
	memory int64 // peak, in bytes; 0 when unknown
}

// application is the application_name of a child on that schema.
func application(schema string) string { return schema + " child" }

// start starts the program on a schema. The caller owes a call of stop.
func (b *bench) start(ctx context.Context, schema string, env []string, args ...string) (*child, error) {
	log, err := os.CreateTemp("", "riverhook-bench-*.log")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(log.Name()); err != nil { // it is there for as long as it is open
		return nil, errors.Join(err, log.Close())
	}
	// Not bound to ctx: it is stopped in its own time.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), b.Program, args...) //nolint:gosec // this program
	cmd.Env = append(cleanEnvironment(),
		"RIVERHOOK_DATABASE_URL="+b.database.url, "RIVERHOOK_SCHEMA="+schema, "PGAPPNAME="+application(schema),
		"RIVERHOOK_LISTEN=127.0.0.1:0", "RIVERHOOK_EGRESS_ALLOW=127.0.0.0/8")
	cmd.Env = append(cmd.Env, env...)
	cmd.SysProcAttr = apart()
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	c := &child{what: "riverhook " + args[0], cmd: cmd, log: log, lines: make(chan string, 16), done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // where the kernel ends the child with its parent, it is this thread that it means
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			c.attend(out)
		}
	}()
	if err := <-started; err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", c.what, err), log.Close())
	}
	return c, nil
}

// attend reads what the child prints until it ends.
func (c *child) attend(out io.Reader) {
	for scanner := bufio.NewScanner(out); scanner.Scan(); {
		select {
		case c.lines <- scanner.Text():
		default: // nobody reads
		}
	}
	close(c.lines)
	c.err = c.cmd.Wait()
	close(c.done)
}

// cleanEnvironment is this process's, without settings for another riverhook or database.
func cleanEnvironment() (env []string) {
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if name != "DATABASE_URL" && name != "PGAPPNAME" && !strings.HasPrefix(name, "RIVERHOOK_") {
			env = append(env, variable)
		}
	}
	return env
}

// wait returns when ready is closed; otherwise with the reason why it will not be.
func (c *child) wait(ctx context.Context, ready <-chan struct{}) error {
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-c.done:
		return c.died()
	}
}

// pause waits a while; it fails if the child has ended or ctx has.
func (c *child) pause(ctx context.Context, d time.Duration) error {
	select {
	case <-c.done:
		return c.died()
	default:
		return sleep(ctx, d)
	}
}

func (c *child) died() error {
	how := "by itself"
	if c.err != nil {
		how = c.err.Error()
	}
	return fmt.Errorf("%s has ended: %s%s", c.what, how, c.lastLines())
}

// lastLines is the end of the child's log.
func (c *child) lastLines() string {
	size, err := c.log.Seek(0, io.SeekEnd)
	if err != nil {
		return ""
	}
	text := make([]byte, min(size, 4<<10))
	_, _ = c.log.ReadAt(text, size-int64(len(text)))
	lines := strings.Split(string(bytes.TrimSpace(text)), "\n")
	return "\n  " + strings.Join(lines[max(0, len(lines)-8):], "\n  ")
}

// stop ends the child, if it still runs, and says what it used. It fails if the child did not end well.
func (c *child) stop() (u usage, err error) {
	defer c.log.Close()
	u.memory = peakMemory(c.cmd.Process.Pid)
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // fails only if it has ended
	select {
	case <-c.done:
		err = c.err
	case <-time.After(stopTimeout):
		_ = c.cmd.Process.Kill()
		<-c.done
		err = fmt.Errorf("it did not end %s after SIGTERM, and was killed", stopTimeout)
	}
	if err != nil {
		return u, fmt.Errorf("%s: %w%s", c.what, err, c.lastLines())
	}
	u.cpu = c.cmd.ProcessState.UserTime() + c.cmd.ProcessState.SystemTime()
	return u, nil
}
