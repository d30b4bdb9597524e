package egress

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A name that leads to a public address when it is checked, and to a private one when it is used.
func TestRebinding(t *testing.T) {
	t.Parallel()
	server, tr := receiver(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("public")) })
	names := newNameServer(t, map[string]answers{
		"rebinding.test": {addresses("127.0.0.2"), addresses("127.0.0.1", "::1")},
	})
	transport := guarded(t, names)
	url := "http://rebinding.test:" + tr.port + "/"

	status, body, err := get(t, transport, url)
	require.NoError(t, err)
	assert.Equal(t, http.StatusOK, status)
	assert.Equal(t, "public", body)
	assert.Equal(t, 1, names.lookups("rebinding.test"), "what was judged is dialled: nothing is looked up in between")

	status, _, err = get(t, transport, url)
	require.NoError(t, err, "on the connection that is kept open")
	assert.Equal(t, http.StatusOK, status)
	assert.Equal(t, 1, names.lookups("rebinding.test"))

	server.CloseClientConnections()
	transport.CloseIdleConnections()
	_, _, err = get(t, transport, url)
	requireBlocked(t, err, ClassLoopback)
	assert.Equal(t, 2, names.lookups("rebinding.test"))
	tr.untouched(t)
}

func TestMixedAnswers(t *testing.T) {
	t.Parallel()
	_, tr := receiver(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("public")) })
	names := newNameServer(t, map[string]answers{
		"first.test":   {addresses("127.0.0.1", "127.0.0.2")},
		"last.test":    {addresses("127.0.0.2", "127.0.0.1", "::1")},
		"many.test":    {addresses("127.0.0.1", "10.0.0.1", "127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.6", "127.0.0.7", "::1", "127.0.0.2")},
		"refused.test": {addresses("127.0.0.1", "10.0.0.1", "::1", "fe80::1", "64:ff9b::a9fe:a9fe", "192.168.0.1")},
		"mapped.test":  {addresses("::ffff:127.0.0.1")},
		"empty.test":   {nil},
	})
	transport := guarded(t, names)
	for _, name := range []string{"first.test", "last.test", "many.test"} {
		_, body, err := get(t, transport, "http://"+name+":"+tr.port+"/")
		require.NoError(t, err, name)
		assert.Equal(t, "public", body, name)
	}
	_, _, err := get(t, transport, "http://refused.test:"+tr.port+"/")
	requireBlocked(t, err, ClassLinkLocal, ClassLoopback, ClassPrivate)
	_, _, err = get(t, transport, "http://mapped.test:"+tr.port+"/")
	requireBlocked(t, err, ClassLoopback)

	for _, name := range []string{"empty.test", "unknown.test"} {
		_, _, err = get(t, transport, "http://"+name+":"+tr.port+"/")
		var dns *net.DNSError
		require.ErrorAs(t, err, &dns, name)
		assert.True(t, dns.IsNotFound, name)
	}
	tr.untouched(t)
}

// Where something allowed was dialled, its failure is the outcome, and not what was refused beside it.
func TestFailureOfAnAllowedAddress(t *testing.T) {
	t.Parallel()
	server, tr := receiver(t, nil)
	server.Close()
	names := newNameServer(t, map[string]answers{"half.test": {addresses("127.0.0.1", "127.0.0.2", "::1")}})
	_, _, err := get(t, guarded(t, names), "http://half.test:"+tr.port+"/")
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	var op *net.OpError
	require.ErrorAs(t, err, &op)
	assert.Equal(t, "dial", op.Op)
	var blocked *BlockedError
	assert.NotErrorAs(t, err, &blocked)
	tr.untouched(t)
}

// hidden are hosts that are, or are said to be, the machine itself. %p is the port.
var hidden = []string{
	"http://127.0.0.1:%p/",
	"http://127.0.0.1:%p/hook?x=1",
	"http://127.0.0.2:%p/",
	"http://127.1.2.3:%p/",
	"http://127.255.255.254:%p/",
	"http://0.0.0.0:%p/",
	"http://[::1]:%p/",
	"http://[::]:%p/",
	"http://[0:0:0:0:0:0:0:1]:%p/",
	"http://[0000:0000:0000:0000:0000:0000:0000:0001]:%p/",
	"http://[::1%25lo]:%p/",
	"http://[::ffff:127.0.0.1]:%p/",
	"http://[::ffff:7f00:1]:%p/",
	"http://[0:0:0:0:0:ffff:127.0.0.1]:%p/",
	"http://[::ffff:0.0.0.0]:%p/",
	"http://[::127.0.0.1]:%p/",
	"http://[::7f00:1]:%p/",
	"http://[64:ff9b::127.0.0.1]:%p/",
	"http://[64:ff9b::7f00:1]:%p/",
	"http://[64:ff9b:1::7f00:1]:%p/",
	"http://[2002:7f00:1::]:%p/",
	"http://[2001:0:7f00:1::]:%p/",
	"http://[::ffff:0:127.0.0.1]:%p/",
	"http://[fe80::1%25lo]:%p/",
	"http://①②⑦.⓪.⓪.①:%p/",
	"http://１２７.0.0.1:%p/",
	"http://127。0。0。1:%p/",
	"http://localhost:%p/",
	"http://LOCALHOST:%p/",
	"http://localhost.:%p/",
	"http://ⓛocalhost:%p/",
	"http://localtest:%p/",
	"http://localtest.example:%p/",
	"http://127.0.0.1.nip.example:%p/",
	"http://127.0.0.1.:%p/",
	"http://127.1:%p/",
	"http://127.0.1:%p/",
	"http://2130706433:%p/",
	"http://017700000001:%p/",
	"http://0177.0.0.1:%p/",
	"http://0177.0.0.01:%p/",
	"http://127.0.0.01:%p/",
	"http://0:%p/",
	"http://0x7f.1:%p/",
	"http://0x7f000001:%p/",
	"http://0x7f.0x0.0x0.0x1:%p/",
	"https://127.0.0.1:%p/",
	"https://localtest.example:%p/",
}

// numeric are those of them that the system's own resolver takes for addresses, without asking anybody.
var numeric = []string{
	"http://127.1:%p/", "http://127.0.1:%p/", "http://2130706433:%p/", "http://017700000001:%p/", "http://0177.0.0.1:%p/",
	"http://127.0.0.01:%p/", "http://0:%p/",
}

// Whatever a host looks like, and even if every name resolves to the machine itself, nothing gets there.
func TestNothingReachesTheMachine(t *testing.T) {
	t.Parallel()
	names := newNameServer(t, map[string]answers{"*": {addresses("127.0.0.1", "::1")}})
	require.Greater(t, len(hidden), 30)
	tr := loopbackTrap(t)
	traps := []*trap{tr}
	if other := newTrap(t, "[::1]:"+tr.port); other != nil { // there may be no IPv6
		traps = append(traps, other)
	}

	for kind, transport := range map[string]*http.Transport{
		"no guard but the zero one": open(t, nil, WithResolver(names.resolver())),
		"the zero guard":            open(t, new(Guard), WithResolver(names.resolver())),
		"an allowed public range":   open(t, NewGuard(Config{Allow: addressRanges("198.41.0.4")}), WithResolver(names.resolver())),
	} {
		for _, url := range hidden {
			_, _, err := get(t, transport, strings.ReplaceAll(url, "%p", tr.port))
			var (
				blocked *BlockedError
				dns     *net.DNSError
			)
			if !errors.As(err, &blocked) && !errors.As(err, &dns) {
				assert.Fail(t, "not refused", "%s: %s: %v", kind, url, err)
			}
		}
	}
	for name, resolver := range map[string]*net.Resolver{"Go": {PreferGo: true}, "default": {}} {
		transport := open(t, nil, WithResolver(resolver))
		for _, url := range numeric {
			_, _, err := get(t, transport, strings.ReplaceAll(url, "%p", tr.port))
			require.Error(t, err, "%s: %s", name, url)
		}
	}
	for _, tr := range traps {
		tr.untouched(t)
	}
}

// The same hosts do reach the machine where that is allowed: the test above could fail.
func TestEverythingReachesTheMachineIfAllowed(t *testing.T) {
	t.Parallel()
	server, _ := receiver(t, func(http.ResponseWriter, *http.Request) {})
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	require.NoError(t, err)
	names := newNameServer(t, map[string]answers{"*": {addresses("127.0.0.2")}})
	transport := open(t, NewGuard(Config{Allow: addressRanges("127.0.0.2")}), WithResolver(names.resolver()))
	for _, host := range []string{
		"127.0.0.2", "[::ffff:127.0.0.2]", "[::ffff:7f00:2]", "①②⑦.⓪.⓪.②", "１２７.0.0.2", "127。0。0。2",
		"localtest", "localtest.example", "0x7f.2", "127.0.0.2.nip.example",
	} {
		status, _, err := get(t, transport, "http://"+host+":"+port+"/")
		if assert.NoError(t, err, host) {
			assert.Equal(t, http.StatusOK, status, host)
		}
	}
}

// The check before a socket connects stands by itself, whatever was filtered earlier.
func TestSocketIsJudged(t *testing.T) {
	t.Parallel()
	tr := loopbackTrap(t)
	d := newDialer(new(Guard))
	_, err := d.connect(t.Context(), "tcp", netip.MustParseAddrPort("127.0.0.1:"+tr.port))
	requireBlocked(t, err, ClassLoopback)
	_, err = d.Dialer.DialContext(t.Context(), "tcp", "127.0.0.1:"+tr.port)
	var blocked *BlockedError
	require.ErrorAs(t, err, &blocked)
	require.ErrorAs(t, d.control(t.Context(), "unix", "/run/a.socket", nil), &blocked)
	assert.Equal(t, []Class{ClassUnknown}, blocked.Classes)
	tr.untouched(t)
}

func TestOwnListener(t *testing.T) {
	t.Parallel()
	tr := loopbackTrap(t)
	listener := netip.MustParseAddrPort("127.0.0.1:" + tr.port)
	everything := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	transport := open(t, NewGuard(Config{Allow: everything, Never: []netip.AddrPort{listener}}))
	for _, host := range []string{"127.0.0.1", "0.0.0.0", "[::ffff:127.0.0.1]", "①②⑦.⓪.⓪.①"} {
		_, _, err := get(t, transport, "http://"+host+":"+tr.port+"/")
		requireBlocked(t, err, ClassOwn)
	}
	tr.untouched(t)

	_, _, err := get(t, transport, "http://127.0.0.1:0/")
	requireBlocked(t, err, ClassPort)
}

func TestDialOfWhatIsNoAddress(t *testing.T) {
	t.Parallel()
	d := newDialer(new(Guard))
	for _, address := range []string{"127.0.0.1", "127.0.0.1:99999", "127.0.0.1:-1", "127.0.0.1:http", "127.0.0.1:"} {
		_, err := d.DialContext(t.Context(), "tcp", address)
		var malformed *net.AddrError
		require.ErrorAs(t, err, &malformed, address)
	}
	_, err := d.DialContext(t.Context(), "tcp", ":80")
	var dns *net.DNSError
	assert.ErrorAs(t, err, &dns)
}

func TestOrderOfAddresses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ found, want string }{
		{"1.1.1.1", "1.1.1.1"},
		{"1.1.1.1 1.1.1.1 ::ffff:1.1.1.1", "1.1.1.1"},
		{"2606::1 2606::2 2606::3 1.1.1.1", "2606::1 1.1.1.1 2606::2 2606::3"},
		{"1.1.1.1 1.1.1.2 10.0.0.1 2606::1 fe80::1 2606::2 2606::3", "1.1.1.1 2606::1 1.1.1.2 2606::2 2606::3"},
		{"127.0.0.1 127.0.0.2 127.0.0.3 127.0.0.4 127.0.0.5 127.0.0.6 1.1.1.1", "1.1.1.1"},
		{"1.0.0.1 1.0.0.2 1.0.0.3 1.0.0.4 1.0.0.5 1.0.0.6 1.0.0.7", "1.0.0.1 1.0.0.2 1.0.0.3 1.0.0.4 1.0.0.5 1.0.0.6"},
	} {
		var found []net.IPAddr
		for _, addr := range addresses(strings.Fields(test.found)...) {
			found = append(found, net.IPAddr{IP: net.IP(addr.AsSlice())})
		}
		allowed, err := new(Guard).allowed(found, 443)
		require.NoError(t, err)
		var order []string
		for _, to := range allowed {
			assert.EqualValues(t, 443, to.Port())
			order = append(order, to.Addr().String())
		}
		assert.Equal(t, test.want, strings.Join(order, " "), test.found)
	}

	zoned, err := NewGuard(Config{Allow: []netip.Prefix{netip.MustParsePrefix("fe80::/10")}}).
		allowed([]net.IPAddr{{IP: net.ParseIP("fe80::1"), Zone: "eth0"}}, 80)
	require.NoError(t, err)
	assert.Equal(t, []netip.AddrPort{netip.MustParseAddrPort("[fe80::1%eth0]:80")}, zoned, "an allowed address keeps its zone")
}

// racer is a connection, or not, some time after it was asked for.
type racer struct {
	after time.Duration
	err   error
	late  bool // connects although it is told to stop: that can happen in the same moment
}

// run races addresses 1.0.0.1, 1.0.0.2, ..., in a bubble, and returns which one won, when each was begun (-1: never), how
// long it took, and how many connections were made and closed.
func run(ctx context.Context, racers ...racer) (winner int, begun []time.Duration, took time.Duration, made, closed int32, err error) {
	var (
		start = time.Now()
		addrs []netip.AddrPort
		opens atomic.Int32
		ends  atomic.Int32
	)
	begun = make([]time.Duration, len(racers))
	for i := range racers {
		begun[i] = -1
		addrs = append(addrs, netip.AddrPortFrom(netip.AddrFrom4([4]byte{1, 0, 0, byte(i + 1)}), 80))
	}
	conn, err := race(ctx, addrs, func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
		i := to.Addr().As4()[3] - 1
		begun[i] = time.Since(start)
		select {
		case <-time.After(racers[i].after):
		case <-ctx.Done():
			if !racers[i].late {
				return nil, ctx.Err()
			}
		}
		if racers[i].err != nil {
			return nil, racers[i].err
		}
		opens.Add(1)
		return fakeConn{to: to, closed: &ends}, nil
	})
	took = time.Since(start)
	synctest.Wait()
	if conn != nil {
		winner = int(conn.(fakeConn).to.Addr().As4()[3])
	}
	return winner, begun, took, opens.Load(), ends.Load(), err
}

type fakeConn struct {
	net.Conn
	to     netip.AddrPort
	closed *atomic.Int32
}

func (c fakeConn) Close() error { c.closed.Add(1); return nil }

func TestRace(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	refused, unreachable := syscall.ECONNREFUSED, syscall.EHOSTUNREACH
	for name, test := range map[string]struct {
		racers       []racer
		winner       int
		begun        []time.Duration
		took         time.Duration
		made, closed int32
		err          error
	}{
		"the first answers": {
			racers: []racer{{after: 299 * ms}, {}}, winner: 1, begun: []time.Duration{0, -1}, took: 299 * ms, made: 1,
		},
		"the first is slow": {
			racers: []racer{{after: time.Hour}, {after: 10 * ms}}, winner: 2, begun: []time.Duration{0, 300 * ms}, took: 310 * ms, made: 1,
		},
		"the first is slow, but faster": {
			racers: []racer{{after: 400 * ms}, {after: 200 * ms}, {}}, winner: 1, begun: []time.Duration{0, 300 * ms, -1}, took: 400 * ms, made: 1,
		},
		"the first fails": {
			racers: []racer{{after: 5 * ms, err: refused}, {}}, winner: 2, begun: []time.Duration{0, 5 * ms}, took: 5 * ms, made: 1,
		},
		"all fail": {
			racers: []racer{{after: 5 * ms, err: refused}, {err: unreachable}, {after: ms, err: unreachable}},
			begun:  []time.Duration{0, 5 * ms, 5 * ms}, took: 6 * ms, err: refused,
		},
		"some lead nowhere, one fails": {
			racers: []racer{{after: time.Hour}, {after: time.Hour}, {after: 50 * ms, err: refused}, {}}, winner: 4,
			begun: []time.Duration{0, 300 * ms, 600 * ms, 650 * ms}, took: 650 * ms, made: 1,
		},
		"one loses in the same moment": {
			racers: []racer{{after: time.Hour, late: true}, {}}, winner: 2, begun: []time.Duration{0, 300 * ms}, took: 300 * ms, made: 2, closed: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				winner, begun, took, made, closed, err := run(t.Context(), test.racers...)
				assert.Equal(t, test.winner, winner)
				assert.Equal(t, test.begun, begun)
				assert.Equal(t, test.took, took)
				assert.Equal(t, test.made, made, "connections made")
				assert.Equal(t, test.closed, closed, "connections closed")
				assert.Equal(t, test.err, err)
			})
		})
	}
	t.Run("none answers before the context ends", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 500*ms)
			defer cancel()
			winner, begun, took, made, _, err := run(ctx, racer{after: time.Hour}, racer{after: time.Hour}, racer{})
			assert.Zero(t, winner)
			assert.Equal(t, []time.Duration{0, 300 * ms, -1}, begun)
			assert.Equal(t, 500*ms, took)
			assert.Zero(t, made)
			assert.ErrorIs(t, err, context.DeadlineExceeded)
		})
	})
}
