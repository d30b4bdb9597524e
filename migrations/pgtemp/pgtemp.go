//go:build unix

// Package pgtemp runs throwaway PostgreSQL servers: for tests, the demo and
// benchmarks. A server has its own temporary directory, listens on a free port
// of 127.0.0.1 alone, trusts whoever connects there, and is gone after
// [Server.Stop], or when the process that started it ends in whatever way.
//
// It is no way to run a database that anybody needs to keep.
package pgtemp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// startTimeout bounds one start: a start after StopImmediate recovers first.
	startTimeout = 60 * time.Second
	// portTries is how often Start picks another port after somebody else took
	// the one it had found free.
	portTries = 5
)

// Options says how a server differs from the default one. The zero value is a
// server for tests.
type Options struct {
	// Settings are server settings (as in postgresql.conf, values unquoted) that
	// go before the defaults. The address, the port, the socket directory and
	// cluster_name are not up for choice.
	Settings map[string]string

	// Durable keeps PostgreSQL's own durability, so that what was committed
	// survives a crash of the machine, at its cost in time. Otherwise fsync,
	// synchronous_commit and full_page_writes are off, and a commit survives
	// StopImmediate only as far as the server had come to write it; and on Linux
	// the directory is in memory, in /dev/shm, if that has 4 GiB to spare and TMPDIR
	// is not set.
	Durable bool

	// Env is added to the environment of the server (NAME=value), for what only that reaches, such as LD_PRELOAD.
	Env []string

	// Log is where the output of an installation goes, see [Install].
	// nil is os.Stderr.
	Log io.Writer
}

// Server is a running PostgreSQL server. Its methods may be called from several
// goroutines.
type Server struct {
	binDir string
	dir    string
	port   int
	cred   *syscall.Credential
	env    []string

	mu      sync.Mutex
	process *os.Process // nil when it does not run
	guard   *guard
	removed bool
}

// Start installs PostgreSQL where there is none (see [Install]), creates a
// database cluster (UTF-8, locale C, time zone UTC, superuser postgres) in a
// fresh temporary directory, starts a server on it and waits, 60 seconds at
// most, until it accepts connections. As PostgreSQL refuses to run as root, it
// then runs as the user postgres, or as nobody where there is no such user.
//
// ctx bounds Start alone, not the server's life. The caller owes a call of
// [Server.Stop].
func Start(ctx context.Context, o Options) (*Server, error) {
	conf, err := config(o)
	if err != nil {
		return nil, err
	}
	binDir, err := Find()
	if err != nil {
		log := o.Log
		if log == nil {
			log = os.Stderr
		}
		if err := Install(ctx, log); err != nil {
			return nil, err
		}
		if binDir, err = Find(); err != nil {
			return nil, err
		}
	}
	cred, err := credential()
	if err != nil {
		return nil, err
	}

	s := &Server{binDir: binDir, cred: cred, env: o.Env}
	if err := s.create(ctx, conf, o.Durable); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	for try := 1; ; try++ {
		if s.port, err = freePort(ctx); err == nil {
			err = s.start(ctx)
		}
		if err == nil {
			return s, nil
		}
		if !errors.Is(err, errPortTaken) || try == portTries {
			return nil, errors.Join(err, s.Stop())
		}
	}
}

// URL returns the URL of a database on this server, as superuser and without
// TLS. It stays the same over a Restart.
func (s *Server) URL(database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.User("postgres"),
		Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Port returns the TCP port on 127.0.0.1. It stays the same over a Restart.
func (s *Server) Port() int { return s.port }

// Dir returns the server's directory, with the cluster in data and the server's
// output in log.
func (s *Server) Dir() string { return s.dir }

// Pid returns the process id of the server (its postmaster), or 0 when it does
// not run.
func (s *Server) Pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running() {
		return 0
	}
	return s.process.Pid
}

// Stop ends every session, shuts the server down and removes its directory.
// A server that does not shut down within 20 seconds is killed. Stop on a
// stopped server does nothing.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.removed {
		return nil
	}
	if err := s.end(syscall.SIGINT); err != nil {
		return err
	}
	if s.dir != "" {
		if err := os.RemoveAll(s.dir); err != nil {
			return fmt.Errorf("pgtemp: stop: remove the server's directory (remove it by hand): %w", err)
		}
	}
	s.guard.dismiss()
	s.removed = true
	return nil
}

// StopImmediate stops the server as pg_ctl stop -m immediate does: without
// writing anything more, as in a crash. The directory stays, for [Server.Restart].
func (s *Server) StopImmediate() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end(syscall.SIGQUIT)
}

// Restart starts the server again, on the same directory and port, after
// [Server.StopImmediate] or after somebody killed it, and waits, 60 seconds at
// most, until it accepts connections. A server that still runs is shut down
// first. After [Server.Stop] there is nothing to restart, and Restart fails.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.removed {
		return errors.New("pgtemp: restart: the server's directory is gone after Stop: start a new server")
	}
	if err := s.end(syscall.SIGINT); err != nil {
		return err
	}
	// What a killed server leaves behind (processes that still hold its shared
	// memory, its port) goes away by itself soon.
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := s.start(ctx)
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) ||
			!errors.Is(err, errPortTaken) && !errors.Is(err, errStillInUse) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

var settingName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]*$`)

// config returns the lines to add to postgresql.conf.
func config(o Options) (string, error) {
	settings := map[string]string{
		"max_connections": "400",
		"shared_buffers":  "128MB",
		"timezone":        "UTC",
		"log_timezone":    "UTC",
	}
	if !o.Durable {
		for _, name := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
			settings[name] = "off"
		}
	}
	for name, value := range o.Settings {
		name = strings.ToLower(name)
		switch name {
		case "listen_addresses", "port", "unix_socket_directories", "cluster_name":
			return "", fmt.Errorf("pgtemp: start: setting %s is pgtemp's own: leave it out", name)
		}
		if !settingName.MatchString(name) || strings.ContainsAny(value, "\n\r\x00") {
			return "", fmt.Errorf("pgtemp: start: setting %q = %q is malformed: correct it", name, value)
		}
		settings[name] = value
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		quoted := strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(settings[name])
		fmt.Fprintf(&b, "%s = '%s'\n", name, quoted)
	}
	return b.String(), nil
}

// credential returns whom PostgreSQL is to run as; nil is this process's user.
func credential() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		// Signed, as some systems write nobody's ids as -2.
		uid, uidErr := strconv.ParseInt(u.Uid, 10, 64)
		gid, gidErr := strconv.ParseInt(u.Gid, 10, 64)
		if uidErr == nil && gidErr == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, errors.New("pgtemp: start: PostgreSQL does not run as root, and there is no user postgres or nobody: " +
		"add one, or run this as an ordinary user")
}

// create makes the server's directory, the guard over it, and the cluster in it.
func (s *Server) create(ctx context.Context, conf string, durable bool) error {
	root, err := tempRoot(s.cred, durable)
	if err != nil {
		return err
	}
	if s.dir, err = os.MkdirTemp(root, "riverhook-pg-"); err != nil {
		return fmt.Errorf("pgtemp: start: make a directory: %w", err)
	}
	if s.cred != nil {
		if err := os.Chown(s.dir, int(s.cred.Uid), int(s.cred.Gid)); err != nil {
			return fmt.Errorf("pgtemp: start: give the directory to PostgreSQL's user: %w", err)
		}
	}
	if s.guard, err = startGuard(s.dir, s.cred); err != nil {
		return err
	}

	initdb := s.command(ctx, "initdb", "--pgdata", s.dataDir(), "--username=postgres", "--auth=trust",
		"--encoding=UTF8", "--locale=C", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("pgtemp: start: initdb: %w: %s", err, lastLines(string(out)))
	}
	file, err := os.OpenFile(filepath.Join(s.dataDir(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("pgtemp: start: open postgresql.conf: %w", err)
	}
	_, err = file.WriteString("\n# pgtemp\n" + conf)
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("pgtemp: start: write postgresql.conf: %w", err)
	}
	return nil
}

var (
	errPortTaken  = errors.New("the port is taken")
	errStillInUse = errors.New("processes of the server before it still run")
)

// start starts the server and waits until it accepts connections. When it
// fails, no server runs.
func (s *Server) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()

	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_APPEND|os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return fmt.Errorf("pgtemp: start: open the server's log: %w", err)
	}
	defer log.Close()
	before, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("pgtemp: start: open the server's log: %w", err)
	}

	sockets := s.dir
	if len(sockets) > 80 {
		sockets = "" // past what the address of a socket holds
	}
	// The server outlives ctx, which bounds only the wait for it.
	cmd := s.command(context.WithoutCancel(ctx), "postgres", "-D", s.dataDir(),
		"-c", "listen_addresses=127.0.0.1", "-c", "port="+strconv.Itoa(s.port),
		"-c", "unix_socket_directories="+sockets, "-c", "cluster_name="+s.name())
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(cmd.Env, s.env...)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("pgtemp: start: %w", err)
	}
	s.process = cmd.Process
	s.guard.watch(s.process.Pid)

	for {
		pingErr := s.ping(ctx)
		if pingErr == nil {
			return nil
		}
		if !s.running() {
			output, _ := io.ReadAll(io.NewSectionReader(log, before, 1<<20))
			switch text := string(output); {
			case strings.Contains(text, "could not create any TCP/IP sockets"):
				err = errPortTaken
			case strings.Contains(text, "is still in use"), strings.Contains(text, "Is another postmaster"):
				err = errStillInUse
			default:
				err = errors.New("it ended at once")
			}
			return fmt.Errorf("pgtemp: start: %w: %s", err, lastLines(string(output)))
		}
		select {
		case <-ctx.Done():
			err := fmt.Errorf("pgtemp: start: the server does not accept connections: %w (last: %w)", ctx.Err(), pingErr)
			return errors.Join(err, s.end(syscall.SIGQUIT))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// ping succeeds when this very server, and not some other that took the port
// first, answers.
func (s *Server) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	var name string
	if err := conn.QueryRow(ctx, "select current_setting('cluster_name')").Scan(&name); err != nil {
		return err
	}
	if name != s.name() {
		return fmt.Errorf("port %d answers as %q, want %q", s.port, name, s.name())
	}
	return nil
}

// running tells whether the server's process is there, and buries it if not.
// It asks the kernel instead of leaving a goroutine to wait, so that a server
// is invisible to tests that look for leaked goroutines.
func (s *Server) running() bool {
	if s.process == nil {
		return false
	}
	var status syscall.WaitStatus
	for {
		pid, err := syscall.Wait4(s.process.Pid, &status, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err == nil && pid == 0 {
			return true
		}
		_ = s.process.Release()
		s.process = nil
		s.guard.watch(0)
		return false
	}
}

// end makes the server end: by sig first, harder if that takes too long.
func (s *Server) end(sig syscall.Signal) error {
	for _, step := range []struct {
		sig  syscall.Signal
		wait time.Duration
	}{{sig, 20 * time.Second}, {syscall.SIGQUIT, 10 * time.Second}, {syscall.SIGKILL, 10 * time.Second}} {
		if !s.running() {
			return nil
		}
		if err := syscall.Kill(s.process.Pid, step.sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("pgtemp: stop: signal process %d: %w", s.process.Pid, err)
		}
		for deadline := time.Now().Add(step.wait); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			if !s.running() {
				return nil
			}
		}
	}
	return fmt.Errorf("pgtemp: stop: process %d does not end: kill it by hand and remove %s", s.process.Pid, s.dir)
}

// command prepares one of the server programs to run as PostgreSQL's user, in a
// session of its own: a terminal's Ctrl-C goes to a whole process group, and
// the server is to outlive it until Stop.
func (s *Server) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.binDir, program), args...)
	cmd.Dir = s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: s.cred}
	// The caller's PGDATA, PGPORT and their like are about some other server.
	for _, env := range os.Environ() {
		if !strings.HasPrefix(env, "PG") && !strings.HasPrefix(env, "LC_") {
			cmd.Env = append(cmd.Env, env)
		}
	}
	cmd.Env = append(cmd.Env, "LC_ALL=C", "PWD="+s.dir)
	return cmd
}

func (s *Server) dataDir() string { return filepath.Join(s.dir, "data") }

// name is unique to the server, as its directory is.
func (s *Server) name() string { return filepath.Base(s.dir) }

// tempRoot returns the first temporary directory that cred's user can reach: one in
// memory for what need not be durable, unless TMPDIR says where to go.
func tempRoot(cred *syscall.Credential, durable bool) (string, error) {
	root, err := filepath.Abs(os.TempDir())
	if err != nil {
		return "", fmt.Errorf("pgtemp: start: find the temporary directory: %w", err)
	}
	if dir := memoryDir(); dir != "" && !durable && os.Getenv("TMPDIR") == "" {
		return dir, nil
	}
	if cred == nil {
		return root, nil
	}
	for _, dir := range []string{root, "/tmp", "/var/tmp"} {
		if openToAll(dir) {
			return dir, nil
		}
	}
	return "", fmt.Errorf("pgtemp: start: an ordinary user cannot enter any of %s, /tmp, /var/tmp: "+
		"set TMPDIR to a directory that all users can enter", root)
}

func openToAll(dir string) bool {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false
	}
	for {
		info, err := os.Stat(dir)
		if err != nil || !info.IsDir() || info.Mode()&0o001 == 0 {
			return false
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return true
		}
		dir = parent
	}
}

func freePort(ctx context.Context) (int, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("pgtemp: start: find a free port: %w", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		return 0, fmt.Errorf("pgtemp: start: find a free port: %w", err)
	}
	return port, nil
}

// lastLines makes the end of a program's output fit an error.
func lastLines(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "; ")
}

// guard is a shell process that outlives this one: should this process end
// without Stop (a panic, a test's timeout, kill -9), the guard stops the server
// and removes its directory. It runs as PostgreSQL's user, so it can do no more
// than that.
type guard struct {
	cmd  *exec.Cmd
	pipe *os.File
}

// guardScript learns over its standard input what to do; end of file without
// "dismiss" means that the process that started it is gone.
const guardScript = `
pid=0
while read -r word arg; do
  case $word in
  watch) pid=$arg ;;
  dismiss) exit 0 ;;
  esac
done
if [ "$pid" -gt 0 ]; then
  for sig in INT QUIT KILL; do
    kill -$sig "$pid" 2>/dev/null || break
    i=0
    while [ $i -lt 50 ] && kill -0 "$pid" 2>/dev/null; do sleep 0.1; i=$((i+1)); done
  done
fi
rm -rf "$1"
`

func startGuard(dir string, cred *syscall.Credential) (*guard, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("pgtemp: start: make a pipe: %w", err)
	}
	defer read.Close()
	cmd := exec.CommandContext(context.Background(), "/bin/sh", "-c", guardScript, "riverhook-pgtemp-guard", dir)
	cmd.Stdin = read
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: cred}
	if err := cmd.Start(); err != nil {
		_ = write.Close()
		return nil, fmt.Errorf("pgtemp: start: start the guard: %w", err)
	}
	return &guard{cmd: cmd, pipe: write}, nil
}

// watch names the process to stop; 0 is none.
func (g *guard) watch(pid int) {
	if g != nil {
		_, _ = fmt.Fprintf(g.pipe, "watch %d\n", pid)
	}
}

// dismiss ends the guard, with nothing left for it to do.
func (g *guard) dismiss() {
	if g != nil {
		_, _ = fmt.Fprintln(g.pipe, "dismiss")
		_ = g.pipe.Close()
		_ = g.cmd.Wait()
	}
}
