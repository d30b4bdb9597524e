package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/riverhook/riverhook/cmd/torture/internal/check"
)

// What the nodes are told: short, so that much happens in little time.
const (
	timeout       = 2 * time.Second
	lease         = 8 * time.Second
	sweepInterval = 2 * time.Second
	maxDelay      = 2 * time.Second
)

func serveSettings() []string {
	return []string{
		"RIVERHOOK_LISTEN=127.0.0.1:0",
		"RIVERHOOK_TIMEOUT=" + timeout.String(),
		"RIVERHOOK_LEASE=" + lease.String(),
		"RIVERHOOK_SWEEP_INTERVAL=" + sweepInterval.String(),
		"RIVERHOOK_MAX_ATTEMPTS=" + strconv.Itoa(check.DefaultMaxAttempts),
		"RIVERHOOK_BASE_DELAY=300ms",
		"RIVERHOOK_MAX_DELAY=" + maxDelay.String(),
		"RIVERHOOK_CONCURRENCY=300",
		"RIVERHOOK_ENDPOINT_CONCURRENCY=50",
		"RIVERHOOK_RETENTION=0",
		"RIVERHOOK_LOG_FORMAT=json",
		"RIVERHOOK_EGRESS_ALLOW=127.0.0.1/32", // where the receivers are
	}
}

// environment is this process's, without what is about some other riverhook or server.
func environment(more ...string) []string {
	var env []string
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, "RIVERHOOK_") && !strings.HasPrefix(name, "PG") && name != "DATABASE_URL" {
			env = append(env, variable)
		}
	}
	return append(env, more...)
}

// node is a place where riverhook runs: one process after another.
type node struct {
	index   int
	program string
	link    *link // to the database
	log     *os.File

	mu    sync.Mutex
	now   *process // nil: none
	lives []life
	odd   []check.Fault // what a process did by itself
}

// life is one process, by the name that it gives itself.
type life struct {
	id       string
	from, to time.Time // to is zero while it lives
}

type process struct {
	cmd       *exec.Cmd
	says      *listener
	from      time.Time
	expected  bool          // it was told to end
	ended     chan struct{} // closed then, with err set
	err       error
	delivered chan struct{}
}

func newNode(index int, program, dir string, l *link) (*node, error) {
	log, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("node-%d.log", index+1)), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("torture: %w", err)
	}
	return &node{index: index, program: program, link: l, log: log}, nil
}

// start starts a process, unless there is one.
func (n *node) start(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.now != nil {
		return nil
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), n.program, "serve")
	cmd.Env = environment(append(serveSettings(), "RIVERHOOK_DATABASE_URL="+n.link.url("postgres"))...)
	cmd.SysProcAttr = apart()
	p := &process{cmd: cmd, from: time.Now(), ended: make(chan struct{}), delivered: make(chan struct{})}
	p.says = &listener{file: n.log, delivering: func() { close(p.delivered) }}
	cmd.Stdout, cmd.Stderr = p.says, p.says
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // where the kernel ends the process with its parent, it is this thread that it means
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			n.buried(p)
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("torture: start a node: %w", err)
	}
	n.now = p
	return nil
}

// buried notes the end of a process.
func (n *node) buried(p *process) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lives = append(n.lives, life{p.says.name(), p.from, time.Now()})
	if n.now == p {
		n.now = nil
	}
	if !p.expected {
		n.odd = append(n.odd, check.Fault{Kind: "node ended", From: time.Now(), To: time.Now(),
			Problem: fmt.Sprintf("node %d ended by itself: %v", n.index+1, p.err)})
	}
}

// signal sends one, and says which process got it; the name is empty when there is none.
func (n *node) signal(sig syscall.Signal, ends bool) (p *process, name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.now == nil {
		return nil, ""
	}
	n.now.expected = n.now.expected || ends
	_ = n.now.cmd.Process.Signal(sig) // fails only if it has ended
	return n.now, n.now.says.name()
}

// stop ends the process well, and says what went wrong with that.
func (n *node) stop(within time.Duration) error {
	p, name := n.signal(syscall.SIGTERM, true)
	if p == nil {
		return nil
	}
	select {
	case <-p.ended:
		if p.err != nil {
			return fmt.Errorf("%s did not stop well: %w", name, p.err)
		}
		return nil
	case <-time.After(within):
	}
	_ = p.cmd.Process.Kill()
	<-p.ended
	return fmt.Errorf("%s did not stop within %s of SIGTERM", name, within)
}

// kill ends the process at once.
func (n *node) kill() (name string) {
	p, name := n.signal(syscall.SIGKILL, true)
	if p != nil {
		<-p.ended
	}
	return name
}

// delivers waits until the process works.
func (n *node) delivers(ctx context.Context) error {
	n.mu.Lock()
	p := n.now
	n.mu.Unlock()
	if p == nil {
		return errors.New("torture: a node is not there")
	}
	select {
	case <-p.delivered:
		return nil
	case <-p.ended:
		return fmt.Errorf("torture: a node ended at its start: %w", p.err)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// names are those of the processes that lived between two times.
func (n *node) names(from, to time.Time) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var names []string
	lives := slices.Clone(n.lives)
	if n.now != nil {
		lives = append(lives, life{id: n.now.says.name(), from: n.now.from})
	}
	for _, l := range lives {
		if l.id != "" && !l.from.After(to) && (l.to.IsZero() || !l.to.Before(from)) {
			names = append(names, l.id)
		}
	}
	return names
}

// listener keeps what a process says, and learns its name from it.
type listener struct {
	file       *os.File
	delivering func()

	mu   sync.Mutex
	line []byte
	id   string
	done bool
}

func (l *listener) name() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.id
}

func (l *listener) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rest := text; !l.done && len(rest) > 0; {
		line, more, whole := bytes.Cut(rest, []byte("\n"))
		l.line, rest = append(l.line, line...), more
		if !whole {
			break
		}
		var entry struct{ Msg, Node string }
		if json.Unmarshal(l.line, &entry) == nil && entry.Node != "" {
			l.id = entry.Node
			if entry.Msg == "delivering" {
				l.done = true
				l.delivering()
			}
		}
		l.line = l.line[:0]
	}
	return l.file.Write(text)
}
