package egress_test

import (
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/egress"
)

// What is too late writes nothing, on a new connection or on one that is used again, over TLS or not; what is in time passes.
func TestBeginBefore(t *testing.T) {
	t.Parallel()
	for name, serve := range map[string]func(http.Handler) *httptest.Server{
		"plain": httptest.NewServer,
		"tls":   httptest.NewTLSServer,
		"http2": func(h http.Handler) *httptest.Server {
			s := httptest.NewUnstartedServer(h)
			s.EnableHTTP2 = true
			s.StartTLS()
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var arrived atomic.Int32
			server := serve(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived.Add(1) }))
			defer server.Close()
			transport := egress.NewTransport(egress.NewGuard(egress.Config{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}))
			defer transport.CloseIdleConnections()
			if own, ok := server.Client().Transport.(*http.Transport); ok && own.TLSClientConfig != nil {
				transport.TLSClientConfig.RootCAs = own.TLSClientConfig.RootCAs
			}
			try := func(before time.Duration) error {
				traced := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
					egress.BeginBefore(info.Conn, time.Now().Add(before))
				}})
				r, err := http.NewRequestWithContext(traced, http.MethodGet, server.URL, http.NoBody)
				require.NoError(t, err)
				egress.Prepare(r)
				response, err := transport.RoundTrip(r)
				if err == nil {
					_ = response.Body.Close()
				}
				return err
			}
			require.Error(t, try(-time.Second))
			assert.Zero(t, arrived.Load())
			require.NoError(t, try(time.Minute))
			require.NoError(t, try(time.Minute), "the same connection")
			require.Error(t, try(-time.Second), "the same connection")
			assert.EqualValues(t, 2, arrived.Load())
			require.NoError(t, try(time.Minute))
		})
	}
}
