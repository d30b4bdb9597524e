package egress

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTransportSettings(t *testing.T) {
	t.Parallel()
	for _, transport := range []*http.Transport{open(t, nil), open(t, new(Guard))} {
		assert.Nil(t, transport.Proxy)
		assert.True(t, transport.DisableCompression)
		assert.True(t, transport.ForceAttemptHTTP2)
		assert.EqualValues(t, tls.VersionTLS12, transport.TLSClientConfig.MinVersion)
		assert.False(t, transport.TLSClientConfig.InsecureSkipVerify)
		assert.EqualValues(t, MaxResponseHeaderBytes, transport.MaxResponseHeaderBytes)
		assert.Positive(t, transport.TLSHandshakeTimeout, "the context of a request does not end a handshake")
		assert.Positive(t, transport.IdleConnTimeout)
	}
	assert.Positive(t, newDialer(nil).Timeout, "nor connecting")
}

// Without a guard nothing private is reached: deny is the zero value.
func TestNoGuard(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was reached") }))
	t.Cleanup(server.Close)
	_, port, _ := strings.Cut(server.Listener.Addr().String(), ":")
	names := newNameServer(t, map[string]answers{"name.test": {addresses("127.0.0.1")}})
	for _, url := range []string{server.URL, "http://name.test:" + port} {
		_, _, err := get(t, open(t, nil, WithResolver(names.resolver())), url)
		var blocked *BlockedError
		require.ErrorAs(t, err, &blocked)
	}
}

func TestKeepAlive(t *testing.T) {
	t.Parallel()
	server, tr := receiver(t, func(http.ResponseWriter, *http.Request) {})
	transport := guarded(t, nil)
	var fresh, reused int
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if info.Reused {
			reused++
		} else {
			fresh++
		}
	}}
	for range 5 {
		r, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), http.MethodPost, server.URL, strings.NewReader("{}"))
		require.NoError(t, err)
		response, err := transport.RoundTrip(r)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
	}
	assert.Equal(t, 1, fresh)
	assert.Equal(t, 4, reused)
	tr.untouched(t)
}

func TestHTTP2OverTLS(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	_, port, _ := strings.Cut(server.Listener.Addr().String(), ":")
	names := newNameServer(t, map[string]answers{"example.com": {addresses("127.0.0.1")}})

	allowed := open(t, NewGuard(Config{Allow: addressRanges("127.0.0.1")}), WithResolver(names.resolver()))
	allowed.TLSClientConfig.RootCAs = server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	_, body, err := get(t, allowed, "https://example.com:"+port+"/")
	require.NoError(t, err)
	assert.Equal(t, "HTTP/2.0", body)

	_, _, err = get(t, open(t, nil, WithResolver(names.resolver())), "https://example.com:"+port+"/")
	requireBlocked(t, err, ClassLoopback)
}

func TestRedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	for _, status := range []int{301, 302, 303, 307, 308} {
		var location string
		_, tr := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", location)
			w.WriteHeader(status)
		})
		location = "http://127.0.0.1:" + tr.port + "/"
		got, _, err := get(t, guarded(t, nil), "http://127.0.0.2:"+tr.port+"/")
		require.NoError(t, err)
		assert.Equal(t, status, got)
		tr.untouched(t)
	}
}

const proxied = "RIVERHOOK_TEST_PROXIED"

// net/http reads the environment once in a process, so this test runs itself in another one.
func TestProxyOfTheEnvironmentIsNotUsed(t *testing.T) {
	t.Parallel()
	if os.Getenv(proxied) == "" {
		tr := loopbackTrap(t)
		self, err := os.Executable()
		require.NoError(t, err)
		command := exec.CommandContext(t.Context(), self, "-test.run=^TestProxyOfTheEnvironmentIsNotUsed$", "-test.v")
		proxy := "http://127.0.0.1:" + tr.port
		command.Env = append(os.Environ(), proxied+"=1", "NO_PROXY=", "no_proxy=", "REQUEST_METHOD=",
			"HTTP_PROXY="+proxy, "HTTPS_PROXY="+proxy, "ALL_PROXY="+proxy, "http_proxy="+proxy, "https_proxy="+proxy, "all_proxy="+proxy)
		out, err := command.CombinedOutput()
		require.NoError(t, err, string(out))
		assert.True(t, bytes.Contains(out, []byte("--- PASS: TestProxyOfTheEnvironmentIsNotUsed")), string(out))
		tr.untouched(t)
		return
	}
	_, tr := receiver(t, func(http.ResponseWriter, *http.Request) {})
	names := newNameServer(t, map[string]answers{
		"public.test":  {addresses("127.0.0.2")},
		"private.test": {addresses("127.0.0.1")},
	})
	for _, scheme := range []string{"http", "https"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, scheme+"://public.test:"+tr.port, nil)
		require.NoError(t, err)
		proxy, err := http.ProxyFromEnvironment(r)
		require.NoError(t, err)
		require.NotNil(t, proxy, "others would use it")
	}
	for _, transport := range []*http.Transport{guarded(t, names)} {
		status, _, err := get(t, transport, "http://public.test:"+tr.port)
		require.NoError(t, err)
		assert.Equal(t, http.StatusOK, status)
		_, _, err = get(t, transport, "https://public.test:"+tr.port)
		var record tls.RecordHeaderError
		require.ErrorAs(t, err, &record, "it got there, where nobody speaks TLS")
	}
	_, _, err := get(t, guarded(t, names), "http://private.test:"+tr.port)
	requireBlocked(t, err, ClassLoopback)
	tr.untouched(t)
}

// The context ends a request while its host does not answer.
func TestContextEndsRequest(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{})
	_, tr := receiver(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		close(arrived)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://127.0.0.2:"+tr.port, strings.NewReader("{}"))
	require.NoError(t, err)
	response, err := guarded(t, nil).RoundTrip(r)
	if err == nil {
		_ = response.Body.Close()
	}
	require.ErrorIs(t, err, context.Canceled)
}

// One guard serves many requests at a time.
func TestConcurrentRequests(t *testing.T) {
	t.Parallel()
	var served atomic.Int32
	server, tr := receiver(t, func(http.ResponseWriter, *http.Request) { served.Add(1) })
	names := newNameServer(t, map[string]answers{"private.test": {addresses("127.0.0.1", "::1")}})
	never := netip.MustParseAddrPort("0.0.0.0:1")
	transport := open(t, NewGuard(Config{Allow: addressRanges("127.0.0.2"), Never: []netip.AddrPort{never}}), WithResolver(names.resolver()))
	const each = 50
	done := make(chan error, 2*each)
	for range each {
		for _, url := range []string{server.URL, "http://private.test:" + tr.port} {
			go func() {
				_, _, err := get(t, transport, url)
				done <- err
			}()
		}
	}
	refused := 0
	for range 2 * each {
		if err := <-done; err != nil {
			var blocked *BlockedError
			require.ErrorAs(t, err, &blocked)
			refused++
		}
	}
	assert.Equal(t, each, refused)
	assert.EqualValues(t, each, served.Load())
	tr.untouched(t)
}

func TestPrepare(t *testing.T) {
	t.Parallel()
	r := httptest.NewRequest(http.MethodGet, "http://a.test/", nil)
	r.Body = nil
	r.Header.Set("Idempotency-Key", "a")
	r.Header.Set("X-Idempotency-Key", "b")
	r.Header.Set("X-Other", "c")
	Prepare(r)
	assert.Equal(t, http.Header{"idempotency-key": {"a"}, "x-idempotency-key": {"b"}, "X-Other": {"c"}}, r.Header)
	require.NotNil(t, r.Body)
	assert.NotEqual(t, http.NoBody, r.Body)
	assert.Nil(t, r.GetBody)
	read, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	assert.Empty(t, read)
}
