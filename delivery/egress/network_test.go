package egress

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// answers are what a name resolves to at its first, second, ... look-up; the last one stays.
type answers [][]netip.Addr

func addresses(list ...string) []netip.Addr {
	addrs := make([]netip.Addr, len(list))
	for i, text := range list {
		addrs[i] = netip.MustParseAddr(text)
	}
	return addrs
}

// nameServer answers A and AAAA queries over UDP for the test's duration. The name "*" is every other name.
type nameServer struct {
	zone    map[string]answers
	address string

	mu    sync.Mutex
	asked map[string]int // by name and type
}

const typeA, typeAAAA = 1, 28

func newNameServer(t *testing.T, zone map[string]answers) *nameServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &nameServer{zone: zone, address: conn.LocalAddr().String(), asked: make(map[string]int)}
	var serving sync.WaitGroup
	serving.Go(func() {
		query := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(query)
			if err != nil {
				return
			}
			if answer := s.answer(query[:n]); answer != nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	})
	t.Cleanup(func() {
		_ = conn.Close()
		serving.Wait()
	})
	return s
}

// resolver asks this server, and looks names up as Go does.
func (s *nameServer) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", s.address)
	}}
}

// lookups is how often the addresses of a name were asked for.
func (s *nameServer) lookups(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(s.asked[key(name, typeA)], s.asked[key(name, typeAAAA)])
}

func key(name string, kind uint16) string { return name + " " + strconv.Itoa(int(kind)) }

func (s *nameServer) answer(query []byte) []byte {
	const header = 12
	end := header
	var labels []string
	for end < len(query) && query[end] != 0 {
		next := end + 1 + int(query[end])
		if next >= len(query) {
			return nil
		}
		labels = append(labels, string(query[end+1:next]))
		end = next
	}
	end++
	if end+4 > len(query) {
		return nil
	}
	name, kind := strings.ToLower(strings.Join(labels, ".")), binary.BigEndian.Uint16(query[end:])
	end += 4

	s.mu.Lock()
	defer s.mu.Unlock()
	known, ok := s.zone[name]
	if !ok {
		known, ok = s.zone["*"]
	}
	count := s.asked[key(name, kind)]
	s.asked[key(name, kind)]++

	var records []byte
	total := 0
	if ok {
		for _, addr := range known[min(count, len(known)-1)] {
			if addr.Is4() != (kind == typeA) || addr.Is6() != (kind == typeAAAA) {
				continue
			}
			bytes := addr.AsSlice()
			records = append(records, 0xc0, header, 0, byte(kind), 0, 1, 0, 0, 0, 0, 0, byte(len(bytes)))
			records = append(records, bytes...)
			total++
		}
	}
	reply := append([]byte(nil), query[:2]...)
	flags := uint16(0x8580) // a final answer, recursion available
	if !ok {
		flags |= 3 // no such name
	}
	for _, field := range []uint16{flags, 1, uint16(total), 0, 0} {
		reply = binary.BigEndian.AppendUint16(reply, field)
	}
	reply = append(reply, query[header:end]...)
	return append(reply, records...)
}

// trap is a listener that nobody may reach. It closes every connection at once.
type trap struct {
	port    string
	address string

	mu      sync.Mutex
	visited []string // from where
}

// newTrap listens on address, of which the port may be 0, for the test's duration. Nil: the address is not free.
func newTrap(t *testing.T, address string) *trap {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil
	}
	tr := &trap{address: listener.Addr().String()}
	_, tr.port, err = net.SplitHostPort(tr.address)
	require.NoError(t, err)
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			tr.mu.Lock()
			tr.visited = append(tr.visited, conn.RemoteAddr().String())
			tr.mu.Unlock()
			_ = conn.Close()
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		accepting.Wait()
	})
	return tr
}

// untouched asserts that nobody connected. Connections are accepted in their order: once the one made here is closed, those
// before it have been seen.
func (tr *trap) untouched(t *testing.T) {
	t.Helper()
	conn, err := net.Dial("tcp", tr.address)
	require.NoError(t, err)
	defer conn.Close()
	_, _ = conn.Read(make([]byte, 1))
	tr.mu.Lock()
	defer tr.mu.Unlock()
	assert.Equal(t, []string{conn.LocalAddr().String()}, tr.visited, "something reached %s", tr.address)
}

func loopbackTrap(t *testing.T) *trap {
	t.Helper()
	tr := newTrap(t, "127.0.0.1:0")
	require.NotNil(t, tr)
	return tr
}

// receiver is an HTTP server on 127.0.0.2, at a port that is a trap's on 127.0.0.1.
func receiver(t *testing.T, handler http.HandlerFunc) (*httptest.Server, *trap) {
	t.Helper()
	for range 20 {
		tr := loopbackTrap(t)
		listener, err := net.Listen("tcp", "127.0.0.2:"+tr.port)
		if err != nil { // taken by somebody else
			continue
		}
		server := httptest.NewUnstartedServer(handler)
		_ = server.Listener.Close()
		server.Listener = listener
		server.Start()
		t.Cleanup(server.Close)
		return server, tr
	}
	require.FailNow(t, "no port is free on both 127.0.0.1 and 127.0.0.2")
	return nil, nil
}

// guarded is a transport whose guard takes 127.0.0.2 for public.
func guarded(t *testing.T, names *nameServer) *http.Transport {
	t.Helper()
	var options []Option
	if names != nil {
		options = append(options, WithResolver(names.resolver()))
	}
	return open(t, NewGuard(Config{Allow: addressRanges("127.0.0.2")}), options...)
}

func addressRanges(list ...string) []netip.Prefix {
	ranges := make([]netip.Prefix, len(list))
	for i, addr := range addresses(list...) {
		ranges[i] = netip.PrefixFrom(addr, addr.BitLen())
	}
	return ranges
}

func open(t *testing.T, guard *Guard, options ...Option) *http.Transport {
	t.Helper()
	transport := NewTransport(guard, options...)
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// get makes one request and reads the answer.
func get(t *testing.T, transport http.RoundTripper, url string) (status int, body string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader("{}"))
	if err != nil {
		return 0, "", err
	}
	response, err := transport.RoundTrip(r)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	read, err := io.ReadAll(response.Body)
	return response.StatusCode, string(read), err
}

// requireBlocked asserts that err is a refusal for these reasons, that its text says what to do, and that it does not say
// where the request would have gone.
func requireBlocked(t *testing.T, err error, classes ...Class) {
	t.Helper()
	var blocked *BlockedError
	require.ErrorAs(t, err, &blocked)
	assert.Equal(t, classes, blocked.Classes)
	assert.Equal(t, blocked.Error(), err.Error(), "nothing around it")
	assert.Contains(t, err.Error(), "RIVERHOOK_EGRESS_ALLOW")
	for _, class := range classes {
		assert.Contains(t, err.Error(), string(class))
	}
	for _, secret := range []string{"127.", "::", "10.", "192.", "test"} {
		assert.NotContains(t, err.Error(), secret)
	}
}
