package node_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/migrations/pgtest"
)

// link is a way to Postgres that can be cut: its connections end, and there are no new ones.
type link struct {
	net.Listener
	to string

	mu    sync.Mutex
	cut   bool
	mute  bool           // new connections are never answered
	muted map[string]int // of them, by the pool whose they are
	conns []net.Conn
}

func newLink(t testing.TB, databaseURL string) *link {
	t.Helper()
	u, err := url.Parse(databaseURL)
	require.NoError(t, err)
	l := &link{to: u.Host, muted: map[string]int{}}
	l.Listener, err = net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.set(true); _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go l.serve(c)
		}
	}()
	return l
}

func (l *link) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	l.mu.Lock()
	if l.cut {
		l.mu.Unlock()
		return
	}
	if l.mute {
		l.mu.Unlock()
		startup := make([]byte, 1000)
		n, _ := c.Read(startup)
		for _, pool := range []string{"other", "presence"} {
			if bytes.Contains(startup[:n], []byte("riverhook "+pool)) {
				l.mu.Lock()
				l.muted[pool]++
				l.mu.Unlock()
			}
		}
		_, _ = io.Copy(io.Discard, c)
		return
	}
	s, err := net.Dial("tcp", l.to)
	if err != nil {
		l.mu.Unlock()
		return
	}
	l.conns = append(l.conns, c, s)
	l.mu.Unlock()
	go func() { _, _ = io.Copy(s, c); _ = s.Close() }()
	_, _ = io.Copy(c, s)
}

func (l *link) set(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
	for _, c := range l.conns {
		_ = c.Close()
	}
	l.conns = nil
}

// answer has new connections answered or not.
func (l *link) answer(yes bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mute = !yes
}

func (l *link) unanswered(pool string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.muted[pool]
}

// through is the database's URL by way of l.
func (l *link) through(t testing.TB, databaseURL string) *pgxpool.Config {
	t.Helper()
	u, err := url.Parse(databaseURL)
	require.NoError(t, err)
	u.Host = l.Addr().String()
	config, err := pgxpool.ParseConfig(u.String())
	require.NoError(t, err)
	return config
}

// A node that loses the database while its peer does not: the peer sends again what it was sending, and not before it has
// given up.
func TestCutOff(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	var first atomic.Bool
	var gaveUp atomic.Bool
	again := make(chan bool, 100)
	r := newReceiver(t, func(_ http.ResponseWriter, q *http.Request) {
		if first.CompareAndSwap(false, true) {
			<-q.Context().Done()
			gaveUp.Store(true)
			return
		}
		again <- gaveUp.Load()
	})
	l := newLink(t, db.URL)
	c := config(t, db)
	c.Timeout, c.Lease, c.SweepInterval = time.Minute, time.Hour, time.Hour
	lone := c
	lone.Database = l.through(t, db.URL)
	cutOff, _ := start(t, lone)
	id := insert(t, db, r.URL)
	<-r.arrived
	start(t, c)
	eventually(t, db, 2, `SELECT count(*)::int FROM riverhook.nodes WHERE taken_at IS NOT NULL`)
	l.set(true)
	select {
	case late := <-again:
		assert.True(t, late, "it was sent again while the first attempt was still in flight")
	case <-time.After(time.Minute):
		t.Fatal("it is not sent again")
	}
	eventually(t, db, "succeeded", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
	assert.True(t, pgtest.Scalar[bool](t, db, `SELECT dead_at IS NOT NULL FROM riverhook.nodes WHERE node = $1`, cutOff.ID))
	l.set(false)
	eventually(t, db, true, `SELECT dead_at IS NULL FROM riverhook.nodes WHERE node = $1`, cutOff.ID)
	assert.Equal(t, []string{"0.1 abandoned", "0.2 succeeded 200"}, ledger(t, db, id))
	assert.Equal(t, 2, r.count())
	// It works again.
	for range 20 {
		insert(t, db, r.URL)
	}
	eventually(t, db, 0, `SELECT count(*)::int FROM riverhook.deliveries WHERE status <> 'succeeded'`)
}

// Whoever loses the connection that proves its life takes it again, and is not dead.
func TestPresenceIsTakenAgain(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	c := config(t, db)
	start(t, c)
	start(t, c)
	const taken = `SELECT array_agg(taken_at ORDER BY node)::text FROM riverhook.nodes`
	eventually(t, db, 2, `SELECT count(taken_at)::int FROM riverhook.nodes`)
	before := pgtest.Scalar[string](t, db, taken)
	ended := pgtest.Scalar[int](t, db, `SELECT count(pg_terminate_backend(pid))::int FROM pg_stat_activity
		WHERE datname = current_database() AND application_name = 'riverhook presence'`)
	assert.Equal(t, 2, ended)
	eventually(t, db, 2, `SELECT count(*)::int FROM riverhook.nodes WHERE NOT taken_at = ANY ($1::timestamptz[])`, before)
	assert.Zero(t, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM riverhook.nodes WHERE dead_at IS NOT NULL`))
	assert.Equal(t, 2, pgtest.Scalar[int](t, db, `SELECT count(*)::int FROM pg_locks WHERE locktype = 'advisory' AND classid = 'riverhook.nodes'::regclass
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`))
}

// A restart of Postgres frees all locks, and kills nobody. What was in flight is recorded as it ended.
func TestPresenceOutlastsPostgres(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, map[string]string{"fsync": "on", "synchronous_commit": "on"})
	db := pgtest.NewOn(t, server.URL("postgres"))
	g := newGate(t)
	c := config(t, db)
	c.Timeout, c.Lease = time.Minute, time.Hour
	one, _ := start(t, c)
	two, _ := start(t, c)
	// One whose start Postgres interrupts ends what it had begun to send.
	require.Eventually(t, func() bool { return one.Delivering() && two.Delivering() }, time.Minute, 10*time.Millisecond)
	eventually(t, db, 2, `SELECT count(taken_at)::int FROM riverhook.nodes`)
	id := insert(t, db, g.URL)
	g.wait(t)
	require.NoError(t, server.StopImmediate())
	require.NoError(t, server.Restart(context.Background()))
	g.open <- 200
	up := `SELECT count(*)::int FROM riverhook.nodes WHERE taken_at > pg_postmaster_start_time() AND dead_at IS NULL`
	require.Eventually(t, func() bool {
		var n int
		return db.Pool.QueryRow(t.Context(), up).Scan(&n) == nil && n == 2
	}, time.Minute, 50*time.Millisecond)
	eventually(t, db, "succeeded", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
	assert.Equal(t, []string{"0.1 succeeded 200"}, ledger(t, db, id))
	assert.Equal(t, 1, g.count())
}

// Connections that were begun while nothing was answered, and that nobody answers later either, do not keep a node from
// working for long: the one that proves that it lives has a pool with one place.
func TestConnectionsThatAreNeverAnswered(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	r := newReceiver(t, func(http.ResponseWriter, *http.Request) {})
	l := newLink(t, db.URL)
	c := config(t, db)
	c.Database = l.through(t, db.URL)
	start(t, c)
	id := insert(t, db, r.URL)
	eventually(t, db, "succeeded", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
	l.answer(false)
	l.set(true)
	l.set(false)
	require.Eventually(t, func() bool { return l.unanswered("other") >= 2 }, time.Minute, 10*time.Millisecond, "all that its pool has places for")
	l.answer(true)
	id = insert(t, db, r.URL)
	eventually(t, db, "succeeded", `SELECT status FROM riverhook.deliveries WHERE id = $1`, id)
}
