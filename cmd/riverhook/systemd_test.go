package main

import (
	"bytes"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/migrations/pgtest"
)

// manager is a service manager's socket: it remembers what it is told.
type manager struct {
	path string
	mu   sync.Mutex
	told []string // line by line
}

func newManager(t *testing.T) *manager {
	t.Helper()
	m := &manager{path: filepath.Join(t.TempDir(), "notify")}
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"})
	require.NoError(t, err)
	var reading sync.WaitGroup
	reading.Go(func() {
		for buffer := make([]byte, 4096); ; {
			n, err := socket.Read(buffer)
			if err != nil {
				return
			}
			m.mu.Lock()
			m.told = append(m.told, strings.Split(string(buffer[:n]), "\n")...)
			m.mu.Unlock()
		}
	})
	t.Cleanup(func() { _ = socket.Close(); reading.Wait() })
	return m
}

// after are the lines since the first one that is line; nil: there is none.
func (m *manager) after(line string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, one := range m.told {
		if one == line {
			return append([]string{}, m.told[i:]...)
		}
	}
	return nil
}

func (m *manager) hears(t *testing.T, line string) {
	t.Helper()
	require.Eventually(t, func() bool { return m.after(line) != nil }, 20*time.Second, 5*time.Millisecond, "%s was not told", line)
}

func TestNotify(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	arrived, open := make(chan struct{}, 1), make(chan struct{})
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-open
	}))
	defer receiver.Close()
	m := newManager(t)
	s := serve(t, db.URL, false, "NOTIFY_SOCKET="+m.path, "WATCHDOG_USEC=400000")
	m.hears(t, "READY=1")
	assert.Equal(t, 200, s.status("/healthz"), "ready means that the listener is up")
	m.hears(t, "STATUS=delivering")
	pings := func(lines []string) int { return strings.Count(strings.Join(lines, "\n"), "WATCHDOG=1") }
	require.Eventually(t, func() bool { return pings(m.after("STATUS=delivering")) >= 3 }, 10*time.Second, 5*time.Millisecond)
	assert.Nil(t, m.after("STOPPING=1"))

	pgtest.Scalar[int64](t, db, insertSQL, receiver.URL)
	<-arrived
	require.NoError(t, s.Process.Signal(syscall.SIGTERM))
	m.hears(t, "STOPPING=1")
	m.hears(t, "STATUS=stopping: attempts in flight may finish within 2s")
	m.hears(t, "EXTEND_TIMEOUT_USEC=22000000")
	require.Eventually(t, func() bool { return pings(m.after("STOPPING=1")) >= 2 }, 10*time.Second, 5*time.Millisecond, "while it stops, too")
	close(open)
	assert.Equal(t, 0, s.ended(t, 10*time.Second))
	assert.Empty(t, s.logged("cannot tell systemd how the service is"))
}

func TestNotifyWithoutPostgres(t *testing.T) {
	t.Parallel()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, free.Close())
	m := newManager(t)
	s := serve(t, "postgres://someone@"+free.Addr().String()+"/app", false, "NOTIFY_SOCKET="+m.path, "WATCHDOG_USEC=400000")
	m.hears(t, "READY=1")
	m.hears(t, "STATUS=waiting for Postgres")
	m.hears(t, "WATCHDOG=1")
	require.NoError(t, s.Process.Signal(syscall.SIGTERM))
	m.hears(t, "STOPPING=1")
	assert.Equal(t, 0, s.ended(t, 10*time.Second))
	assert.Nil(t, m.after("STATUS=delivering"))
}

func TestNotifyOfASocketThatIsGone(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	s := serve(t, db.URL, true, "NOTIFY_SOCKET="+filepath.Join(t.TempDir(), "none"), "WATCHDOG_USEC=40000")
	require.Eventually(t, func() bool { return len(s.logged("cannot tell systemd how the service is")) == 1 }, 10*time.Second, 5*time.Millisecond)
	require.NoError(t, s.Process.Signal(syscall.SIGTERM))
	assert.Equal(t, 0, s.ended(t, 10*time.Second))
	assert.Len(t, s.logged("cannot tell systemd how the service is"), 1, "once is enough")
}

// A loop that is stuck stops the watchdog's pings, and is named once.
func TestStuckLoop(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	s := &systemd{log: slog.New(slog.NewTextHandler(&log, nil)), every: 10 * time.Second}
	now := time.Now()
	s.looked = now
	end := s.board.Begin("isolation", 5*time.Second)
	look := func() bool { now = now.Add(10 * time.Second); return s.look(now) }
	var all []bool
	for range 6 {
		all = append(all, look())
	}
	assert.Equal(t, []bool{true, true, true, false, false, false}, all)
	assert.Equal(t, 1, strings.Count(log.String(), "\n"), log.String())
	assert.Contains(t, log.String(), "level=ERROR")
	assert.Contains(t, log.String(), "loop=isolation")
	end()
	assert.True(t, look(), "it has returned")

	end = s.board.Begin("watch", 0)
	defer end()
	now = now.Add(time.Minute)
	assert.True(t, s.look(now), "who looks this late was frozen with everything else")
	assert.False(t, look(), "but not for ever")
	assert.Contains(t, log.String(), "loop=watch")
}
