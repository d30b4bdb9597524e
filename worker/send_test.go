package worker

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/egress"
)

const (
	ample = time.Minute            // a timeout that no test reaches
	short = 200 * time.Millisecond // a timeout that a test waits for
)

// private stands in the paths, queries and passwords of the tests' URLs: no error text may have it.
const private = "hunter2"

// sender is a worker for send alone: it has no store.
func sender(t *testing.T, timeout time.Duration, transport http.RoundTripper) *Worker {
	t.Helper()
	w := New(Config{
		Transport: transport, Log: slog.New(slog.DiscardHandler), Node: "test-1", Policy: delivery.DefaultPolicy(),
		Headers: testHeaders(), Timeout: timeout, Lease: timeout + time.Minute, MaxPayload: 1 << 20,
	})
	t.Cleanup(func() { w.Close(context.Background()) })
	return w
}

// openTransport is the transport of the program, as far as it reaches loopback receivers.
func openTransport(t *testing.T) *http.Transport {
	t.Helper()
	transport := egress.NewTransport(egress.NewGuard(egress.Config{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}}))
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// receiver is an HTTP server for the test's duration.
func receiver(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}

// rawReceiver serves each connection (from 1 on) with serve, on a goroutine of its own, and closes it afterwards.
// It returns host:port. At the end of the test all connections are closed, and serve is waited for.
func rawReceiver(t *testing.T, serve func(conn net.Conn, number int)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var (
		all  sync.WaitGroup
		mu   sync.Mutex
		open []net.Conn
		done bool
	)
	all.Go(func() {
		for number := 1; ; number++ {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			if done {
				_ = conn.Close()
			}
			open = append(open, conn)
			mu.Unlock()
			all.Go(func() {
				defer conn.Close()
				serve(conn, number)
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		mu.Lock()
		done = true
		for _, conn := range open {
			_ = conn.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return listener.Addr().String()
}

// takeRequest reads one request with its body. False: there was none.
func takeRequest(from *bufio.Reader) bool {
	r, err := http.ReadRequest(from)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, r.Body)
	return err == nil
}

// answering is a raw receiver that reads a request, writes text, and closes.
func answering(t *testing.T, text string) string {
	t.Helper()
	return rawReceiver(t, func(conn net.Conn, _ int) {
		if takeRequest(bufio.NewReader(conn)) {
			_, _ = io.WriteString(conn, text)
		}
	})
}

// hold keeps a connection open until the other side closes it.
func hold(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }

// clean asserts what every error text must hold: it is there, it is text, and it does not say where the request went.
func clean(t *testing.T, text, endpoint string) {
	t.Helper()
	assert.NotEmpty(t, text)
	assert.True(t, utf8.ValidString(text), "%q", text)
	target, err := url.Parse(endpoint)
	require.NoError(t, err)
	for _, part := range []string{endpoint, target.Host, target.Port(), private, "127.0.0.1", "[::1]", "://"} {
		if part != "" {
			assert.NotContains(t, strings.ReplaceAll(text, "http:// or https://", ""), part)
		}
	}
}

// failure asserts that s is a failure before an answer.
func failure(t *testing.T, kind delivery.FailureKind, s sent, endpoint string) {
	t.Helper()
	assert.Equal(t, kind, s.Failure, "%s", s.Error)
	assert.Zero(t, s.StatusCode)
	assert.Empty(t, s.body)
	assert.Empty(t, s.note)
	assert.False(t, s.Abandoned)
	assert.False(t, s.interrupted)
	assert.False(t, s.untouched)
	clean(t, s.Error, endpoint)
}

// answer asserts that s is an answer with that status.
func answer(t *testing.T, status int, s sent) {
	t.Helper()
	assert.Equal(t, status, s.StatusCode)
	assert.Equal(t, delivery.FailureNone, s.Failure, "%s", s.Error)
	assert.False(t, s.Abandoned)
	assert.False(t, s.interrupted)
	assert.False(t, s.untouched)
	if status >= 200 && status <= 299 {
		assert.Empty(t, s.Error)
	} else {
		assert.True(t, strings.HasPrefix(s.Error, fmt.Sprintf("HTTP %d: ", status)), "%q", s.Error)
	}
}

func TestSendStatuses(t *testing.T) {
	t.Parallel()
	server := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		status, err := strconv.Atoi(r.URL.Query().Get("status"))
		assert.NoError(t, err)
		w.WriteHeader(status)
		if status != http.StatusNoContent && status != http.StatusNotModified {
			_, _ = io.WriteString(w, "the answer")
		}
	})
	w := sender(t, ample, openTransport(t))
	for _, status := range []int{200, 201, 202, 204, 206, 299, 300, 304, 400, 401, 404, 408, 410, 422, 425, 429, 500, 501, 502, 503, 504, 520, 530, 599, 600, 999} {
		s := w.send(t.Context(), post(server.URL+"/?status="+strconv.Itoa(status)))
		answer(t, status, s)
		want := "the answer"
		if status == http.StatusNoContent || status == http.StatusNotModified {
			want = ""
		}
		assert.Equal(t, want, string(s.body), "%d", status)
		assert.Empty(t, s.note, "%d", status)
		assert.Empty(t, s.RetryAfter, "%d", status)
		if status < 200 || status > 299 {
			assert.Equal(t, fmt.Sprintf("HTTP %d: %s", status, want), s.Error)
		}
	}
}

func TestSendRetryAfter(t *testing.T) {
	t.Parallel()
	server := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", r.URL.Query().Get("after"))
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	w := sender(t, ample, openTransport(t))
	for _, after := range []string{"120", "Wed, 04 Mar 2026 12:00:00 GMT", "soon"} {
		s := w.send(t.Context(), post(server.URL+"/?after="+url.QueryEscape(after)))
		answer(t, 503, s)
		assert.Equal(t, after, s.RetryAfter, "as received: Decide reads it")
	}
}

func TestSendWhatTheReceiverGets(t *testing.T) {
	t.Parallel()
	type got struct {
		method, uri, body string
		header            http.Header
	}
	requests := make(chan got, 10)
	server := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		requests <- got{r.Method, r.RequestURI, string(body), r.Header}
		http.SetCookie(w, &http.Cookie{Name: "session", Value: private})
	})
	w := sender(t, ample, openTransport(t))
	const payload = " {\"b\" : 1.00,\n\"a\":\"\\u00e9<&>\",\"a\":2 }\n"
	for _, method := range []string{"POST", "PUT", "PATCH", "GET", "DELETE"} {
		d := post(server.URL + "/hook%2F?x=1#part")
		d.Method, d.Payload, d.AttemptCount = method, []byte(payload), 4
		d.CustomHeaders = custom(t, "X-A", "1", "idempotency-key", "k1", "X-Idempotency-Key", "k2", "Host", "evil.example", "x-riverhook-delivery-id", "forged")
		s := w.send(t.Context(), d)
		answer(t, 200, s)
		assert.Equal(t, []string{"Host", "x-riverhook-delivery-id"}, s.dropped)
		request := <-requests
		assert.Equal(t, method, request.method)
		assert.Equal(t, "/hook%2F?x=1", request.uri)
		want := http.Header{
			"Content-Type":                 {"application/json"},
			"User-Agent":                   {"riverhook/test"},
			"X-A":                          {"1"},
			"Idempotency-Key":              {"k1"},
			"X-Idempotency-Key":            {"k2"},
			"X-Riverhook-Delivery-Id":      {testUUID},
			"X-Riverhook-Delivery-Attempt": {"5"},
			"X-Riverhook-Workflow-Run-Id":  {"run-7"},
			"Webhook-Id":                   {testUUID},
		}
		if method == "GET" || method == "DELETE" {
			assert.Empty(t, request.body, method)
		} else {
			assert.Equal(t, payload, request.body, method) //nolint:testifylint // byte for byte is meant
			want.Set("Content-Length", strconv.Itoa(len(payload)))
		}
		assert.Equal(t, want, request.header, "%s: nothing else, no cookie and no Accept-Encoding", method)
	}
	assert.Empty(t, requests, "one request for each attempt")
}

func TestSendKeepsTheBeginningOfTheAnswer(t *testing.T) {
	t.Parallel()
	server := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		size, err := strconv.Atoi(r.URL.Query().Get("size"))
		assert.NoError(t, err)
		status, err := strconv.Atoi(r.URL.Query().Get("status"))
		assert.NoError(t, err)
		w.WriteHeader(status)
		_, _ = w.Write(bytes.Repeat([]byte("x"), size))
	})
	w := sender(t, ample, openTransport(t))
	for _, test := range []struct{ size, kept int }{
		{0, 0}, {1, 1}, {8191, 8191}, {8192, 8192}, {8193, 8192}, {1 << 20, 8192},
	} {
		for _, status := range []int{200, 500} {
			s := w.send(t.Context(), post(fmt.Sprintf("%s/?size=%d&status=%d", server.URL, test.size, status)))
			answer(t, status, s)
			assert.Len(t, s.body, test.kept)
			if test.size > test.kept {
				assert.Contains(t, s.note, "8192 bytes")
			} else {
				assert.Empty(t, s.note)
			}
			if status == 500 {
				assert.Equal(t, "HTTP 500: "+strings.Repeat("x", min(test.size, 200)), s.Error)
			}
		}
	}
}

// An answer without an end is not read to its end.
func TestSendEndlessAnswer(t *testing.T) {
	t.Parallel()
	server := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
		chunk := bytes.Repeat([]byte("x"), 4096)
		for {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	s := sender(t, ample, openTransport(t)).send(t.Context(), post(server.URL))
	answer(t, 200, s)
	assert.Len(t, s.body, 8192)
	assert.NotEmpty(t, s.note)
}

func TestSendErrorIsTwoHundredCharacters(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, body, want string }{
		{"empty", "", ""},
		{"199", strings.Repeat("a", 199), strings.Repeat("a", 199)},
		{"200", strings.Repeat("a", 200), strings.Repeat("a", 200)},
		{"201", strings.Repeat("a", 201), strings.Repeat("a", 200)},
		{"characters, not bytes", strings.Repeat("é", 200), strings.Repeat("é", 200)},
		{"characters, not bytes, one more", strings.Repeat("é", 201), strings.Repeat("é", 200)},
		{"invalid UTF-8", "a\xff\xfeb\xc3", "a\uFFFDb\uFFFD"},
		{"all invalid", strings.Repeat("\xffa", 500), strings.Repeat("\uFFFDa", 100)},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusBadGateway)
				_, _ = io.WriteString(w, test.body)
			})
			s := sender(t, ample, openTransport(t)).send(t.Context(), post(server.URL))
			answer(t, 502, s)
			assert.Equal(t, "HTTP 502: "+test.want, s.Error)
			assert.Equal(t, test.body, string(s.body), "the body is kept as it came")
		})
	}
}

func TestSendBytesThatAreNoText(t *testing.T) {
	t.Parallel()
	const body = "\x00\x01\xff\xfe\xc3\x28 \x00"
	for _, status := range []int{200, 400} {
		server := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/octet-stream")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		})
		s := sender(t, ample, openTransport(t)).send(t.Context(), post(server.URL))
		answer(t, status, s)
		assert.Equal(t, []byte(body), s.body)
		assert.True(t, utf8.ValidString(s.Error), "%q", s.Error)
	}
}

func TestSendDoesNotDecompress(t *testing.T) {
	t.Parallel()
	var packed bytes.Buffer
	zip := gzip.NewWriter(&packed)
	_, err := zip.Write(bytes.Repeat([]byte("bomb"), 100_000))
	require.NoError(t, err)
	require.NoError(t, zip.Close())
	server := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		assert.Empty(t, r.Header.Values("Accept-Encoding"))
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(packed.Bytes())
	})
	s := sender(t, ample, openTransport(t)).send(t.Context(), post(server.URL))
	answer(t, 200, s)
	assert.Equal(t, packed.Bytes(), s.body)
	assert.Empty(t, s.note)
}

func TestSendDoesNotFollowRedirects(t *testing.T) {
	t.Parallel()
	var other atomic.Int32
	second := receiver(t, func(http.ResponseWriter, *http.Request) { other.Add(1) })
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, method := range []string{"GET", "POST"} {
			var first atomic.Int32
			server := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
				first.Add(1)
				w.Header().Set("Location", second.URL)
				w.WriteHeader(status)
			})
			d := post(server.URL)
			d.Method = method
			s := sender(t, ample, openTransport(t)).send(t.Context(), d)
			answer(t, status, s)
			assert.Equal(t, int32(1), first.Load())
		}
	}
	assert.Zero(t, other.Load(), "the second server sees nothing")
}

func TestSendInformationalAnswersAreSkipped(t *testing.T) {
	t.Parallel()
	address := answering(t, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	s := sender(t, ample, openTransport(t)).send(t.Context(), post("http://"+address))
	answer(t, 200, s)
	assert.Equal(t, "ok", string(s.body))
}

// The status line decides, also when the body does not come to its end.
func TestSendBodyThatBreaksOff(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer string
		status int
		body   string
	}{
		"short of its length": {"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", 200, "half"},
		"nothing of its body": {"HTTP/1.1 202 Accepted\r\nContent-Length: 100\r\n\r\n", 202, ""},
		"chunks without end":  {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", 200, "half"},
		"a chunk of no size":  {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n", 200, "half"},
		"a failure":           {"HTTP/1.1 503 Busy\r\nContent-Length: 100\r\nRetry-After: 7\r\n\r\nhalf", 503, "half"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			endpoint := "http://" + answering(t, test.answer) + "/" + private
			s := sender(t, ample, openTransport(t)).send(t.Context(), post(endpoint))
			answer(t, test.status, s)
			assert.Equal(t, test.body, string(s.body))
			assert.Contains(t, s.note, "broke off")
			clean(t, s.note, endpoint)
			if test.status == 503 {
				assert.Equal(t, "HTTP 503: half", s.Error)
				assert.Equal(t, "7", s.RetryAfter)
			}
		})
	}
}

// An answer that ends with its connection is whole.
func TestSendBodyUntilClose(t *testing.T) {
	t.Parallel()
	s := sender(t, ample, openTransport(t)).send(t.Context(), post("http://"+answering(t, "HTTP/1.0 200 OK\r\n\r\nall of it")))
	answer(t, 200, s)
	assert.Equal(t, "all of it", string(s.body))
	assert.Empty(t, s.note)
}

func TestSendBodyThatTakesTooLong(t *testing.T) {
	t.Parallel()
	for _, status := range []int{200, 500} {
		address := rawReceiver(t, func(conn net.Conn, _ int) {
			if takeRequest(bufio.NewReader(conn)) {
				_, _ = fmt.Fprintf(conn, "HTTP/1.1 %d X\r\nContent-Length: 100\r\n\r\nhalf", status)
				hold(conn)
			}
		})
		endpoint := "http://" + address + "/" + private
		s := sender(t, short, openTransport(t)).send(t.Context(), post(endpoint))
		answer(t, status, s)
		assert.Equal(t, "half", string(s.body))
		assert.Contains(t, s.note, "timeout")
		clean(t, s.note, endpoint)
	}
}

// An answer of 101 hands the connection over: nobody but us then ends the reading of it. The deadline must.
func TestSendSwitchingProtocolsEndsWithTheDeadline(t *testing.T) {
	t.Parallel()
	address := rawReceiver(t, func(conn net.Conn, _ int) {
		if takeRequest(bufio.NewReader(conn)) {
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			hold(conn)
		}
	})
	w := sender(t, short, openTransport(t))
	done := make(chan sent, 1)
	go func() { done <- w.send(context.Background(), post("http://"+address)) }()
	select {
	case s := <-done:
		assert.NotEqual(t, 200, s.StatusCode)
		assert.NotEmpty(t, s.Error)
	case <-time.After(10 * time.Second):
		require.Failf(t, "send outlives its deadline", "timeout %s, still reading after 10s", short)
	}
}

func TestSendNoAnswer(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"nothing":             "",
		"half a status line":  "HTTP/1.1 20",
		"no end of the line":  "HTTP/1.1 200 OK",
		"headers without end": "HTTP/1.1 200 OK\r\nX-A: 1\r\n",
		"half a header":       "HTTP/1.1 200 OK\r\nX-A",
		"only informational":  "HTTP/1.1 103 Early Hints\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			endpoint := "http://" + rawReceiver(t, func(conn net.Conn, _ int) {
				if takeRequest(bufio.NewReader(conn)) {
					_, _ = io.WriteString(conn, text)
					hold(conn)
				}
			}) + "/?token=" + private
			s := sender(t, short, openTransport(t)).send(t.Context(), post(endpoint))
			failure(t, delivery.FailureTimeout, s, endpoint)
			assert.Contains(t, s.Error, "timeout after 200ms")
			assert.Contains(t, s.Error, "waiting for the answer")
		})
	}
}

func TestSendTimeoutWhileConnecting(t *testing.T) {
	t.Parallel()
	transport := openTransport(t)
	transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8099}, Err: ctx.Err()}
	}
	const endpoint = "http://127.0.0.1:8099/" + private
	s := sender(t, short, transport).send(t.Context(), post(endpoint))
	failure(t, delivery.FailureTimeout, s, endpoint)
	assert.Contains(t, s.Error, "while connecting")
}

// A handshake that does not end is a timeout as well: there is one deadline for all of it.
func TestSendTimeoutDuringHandshake(t *testing.T) {
	t.Parallel()
	endpoint := "https://" + rawReceiver(t, func(conn net.Conn, _ int) { hold(conn) }) + "/" + private
	s := sender(t, short, openTransport(t)).send(t.Context(), post(endpoint))
	failure(t, delivery.FailureTimeout, s, endpoint)
	assert.Contains(t, s.Error, "while connecting")
}

func TestSendConnectionRefused(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	for _, scheme := range []string{"http://", "https://"} {
		endpoint := scheme + listener.Addr().String() + "/?token=" + private
		s := sender(t, ample, openTransport(t)).send(t.Context(), post(endpoint))
		failure(t, delivery.FailureRefused, s, endpoint)
		assert.Equal(t, "connection refused", s.Error)
	}
}

func TestSendAnswerThatIsNotHTTP(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"garbage":               "220 mail.example ESMTP\r\n",
		"binary":                "\x00\x01\x02\xff\xfe\r\n\r\n",
		"no status":             "HTTP/1.1 \r\n\r\n",
		"status of two digits":  "HTTP/1.1 20 OK\r\n\r\n",
		"status of letters":     "HTTP/1.1 abc OK\r\n\r\n",
		"negative status":       "HTTP/1.1 -20 OK\r\n\r\n",
		"no version":            "200 OK\r\n\r\n",
		"a header without name": "HTTP/1.1 200 OK\r\n: x\r\n\r\n",
		"a header of no form":   "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
		"a bad length":          "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
		"two lengths":           "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"unknown framing":       "HTTP/1.1 200 OK\r\nTransfer-Encoding: rot13\r\n\r\n",
		"headers over 64 KiB":   "HTTP/1.1 200 OK\r\nX-A: " + strings.Repeat("x", 80<<10) + "\r\n\r\n",
		"many headers":          "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-A: xxxxxxxx\r\n", 10_000) + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// The connection stays open: what is wrong is the text, not its end.
			address := rawReceiver(t, func(conn net.Conn, _ int) {
				if takeRequest(bufio.NewReader(conn)) {
					_, _ = io.WriteString(conn, text)
					hold(conn)
				}
			})
			endpoint := "http://" + address + "/?token=" + private
			s := sender(t, ample, openTransport(t)).send(t.Context(), post(endpoint))
			failure(t, delivery.FailureProtocol, s, endpoint)
			assert.Less(t, len(s.Error), 1000)
		})
	}
}

func TestSendHeadersBelowTheirLimit(t *testing.T) {
	t.Parallel()
	address := answering(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-A: "+strings.Repeat("x", 60<<10)+"\r\n\r\n")
	answer(t, 200, sender(t, ample, openTransport(t)).send(t.Context(), post("http://"+address)))
}

func TestSendConnectionThatBreaks(t *testing.T) {
	t.Parallel()
	reset := func(conn net.Conn) { _ = conn.(*net.TCPConn).SetLinger(0) } // its Close then resets
	for name, serve := range map[string]func(net.Conn, int){
		"closed after the request": func(conn net.Conn, _ int) { takeRequest(bufio.NewReader(conn)) },
		"reset after the request":  func(conn net.Conn, _ int) { takeRequest(bufio.NewReader(conn)); reset(conn) },
		"reset before the request": func(conn net.Conn, _ int) { reset(conn) },
		"closed in the headers": func(conn net.Conn, _ int) {
			takeRequest(bufio.NewReader(conn))
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nX-A: 1\r\n")
		},
	} {
		for _, method := range []string{"POST", "GET"} {
			t.Run(name+" "+method, func(t *testing.T) {
				t.Parallel()
				endpoint := "http://" + rawReceiver(t, serve) + "/?token=" + private
				d := post(endpoint)
				d.Method = method
				failure(t, delivery.FailureReset, sender(t, ample, openTransport(t)).send(t.Context(), d), endpoint)
			})
		}
	}
	t.Run("closed during the handshake", func(t *testing.T) {
		t.Parallel()
		endpoint := "https://" + rawReceiver(t, func(conn net.Conn, _ int) { var b [64]byte; _, _ = conn.Read(b[:]); reset(conn) }) + "/" + private
		failure(t, delivery.FailureReset, sender(t, ample, openTransport(t)).send(t.Context(), post(endpoint)), endpoint)
	})
}

// quietTLS is a TLS receiver that does not log the handshakes that fail, and fails the test when a request gets through.
func quietTLS(t *testing.T, config *tls.Config) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		assert.Fail(t, "a request got through")
	}))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.TLS = config
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

func TestSendTLSFailures(t *testing.T) {
	t.Parallel()
	t.Run("a certificate that nobody trusts", func(t *testing.T) {
		t.Parallel()
		endpoint := quietTLS(t, nil).URL + "/?token=" + private
		s := sender(t, ample, openTransport(t)).send(t.Context(), post(endpoint))
		failure(t, delivery.FailureTLS, s, endpoint)
		assert.Contains(t, s.Error, "unknown authority")
	})
	t.Run("a certificate of another name", func(t *testing.T) {
		t.Parallel()
		server := quietTLS(t, nil)
		transport := openTransport(t)
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		transport.TLSClientConfig.RootCAs.AddCert(server.Certificate())
		transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
		}
		const endpoint = "https://receiver.test:8443/?token=" + private
		s := sender(t, ample, transport).send(t.Context(), post(endpoint))
		failure(t, delivery.FailureTLS, s, endpoint)
		assert.Contains(t, s.Error, "certificate")
	})
	t.Run("a version that is too old", func(t *testing.T) {
		t.Parallel()
		server := quietTLS(t, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}) //nolint:gosec // the point
		transport := openTransport(t)
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		transport.TLSClientConfig.RootCAs.AddCert(server.Certificate())
		endpoint := server.URL + "/?token=" + private
		s := sender(t, ample, transport).send(t.Context(), post(endpoint))
		failure(t, delivery.FailureTLS, s, endpoint)
		assert.Contains(t, s.Error, "version")
	})
	t.Run("a client certificate is wanted", func(t *testing.T) {
		t.Parallel()
		server := quietTLS(t, &tls.Config{ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12}) //nolint:gosec // the alert comes within the handshake
		transport := openTransport(t)
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		transport.TLSClientConfig.RootCAs.AddCert(server.Certificate())
		endpoint := server.URL + "/?token=" + private
		failure(t, delivery.FailureTLS, sender(t, ample, transport).send(t.Context(), post(endpoint)), endpoint)
	})
	t.Run("a receiver that speaks plain HTTP", func(t *testing.T) {
		t.Parallel()
		address := rawReceiver(t, func(conn net.Conn, _ int) {
			_, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
			hold(conn)
		})
		endpoint := "https://" + address + "/?token=" + private
		failure(t, delivery.FailureTLS, sender(t, ample, openTransport(t)).send(t.Context(), post(endpoint)), endpoint)
	})
}

func TestSendOverTLS(t *testing.T) {
	t.Parallel()
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(proto, func(t *testing.T) {
			t.Parallel()
			var count atomic.Int32
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				count.Add(1)
				assert.Equal(t, proto, r.Proto)
				body, err := io.ReadAll(r.Body)
				assert.NoError(t, err)
				if r.Method == http.MethodGet || r.Method == http.MethodDelete {
					assert.Empty(t, body)
				} else {
					assert.JSONEq(t, `{"event":"call.done"}`, string(body))
				}
				assert.Equal(t, "k1", r.Header.Get("Idempotency-Key"))
				w.WriteHeader(http.StatusAccepted)
			}))
			server.EnableHTTP2 = proto == "HTTP/2.0"
			server.StartTLS()
			t.Cleanup(server.Close)
			transport := openTransport(t)
			transport.TLSClientConfig.RootCAs = x509.NewCertPool()
			transport.TLSClientConfig.RootCAs.AddCert(server.Certificate())
			w := sender(t, ample, transport)
			for i, method := range []string{"POST", "PUT", "PATCH", "GET", "DELETE"} {
				d := post(server.URL)
				d.Method, d.CustomHeaders = method, custom(t, "Idempotency-Key", "k1")
				answer(t, 202, w.send(t.Context(), d))
				assert.Equal(t, int32(i+1), count.Load())
			}
		})
	}
}

// resolving is a transport whose names are looked up at that UDP address.
func resolving(t *testing.T, server string) *http.Transport {
	t.Helper()
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", server)
	}}
	transport := openTransport(t)
	transport.DialContext = (&net.Dialer{Resolver: resolver}).DialContext
	return transport
}

func TestSendNameThatDoesNotExist(t *testing.T) {
	t.Parallel()
	// A name server that knows no name.
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	var served sync.WaitGroup
	served.Go(func() {
		query := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFrom(query)
			if err != nil {
				return
			}
			end := 12
			for end < n && query[end] != 0 {
				end += int(query[end]) + 1
			}
			reply := bytes.Clone(query[:end+5])         // header, name, type and class
			reply[2], reply[3] = 0x81, 0x83             // an answer: no such name
			copy(reply[6:12], []byte{0, 0, 0, 0, 0, 0}) // no records
			_, _ = conn.WriteTo(reply, from)
		}
	})
	t.Cleanup(func() {
		_ = conn.Close()
		served.Wait()
	})
	const endpoint = "http://does-not-exist.invalid:8099/?token=" + private
	s := sender(t, ample, resolving(t, conn.LocalAddr().String())).send(t.Context(), post(endpoint))
	failure(t, delivery.FailureDNS, s, endpoint)
	assert.Contains(t, s.Error, "no such host")
}

// With whatever resolver the machine has, or has not: ".invalid" names never resolve.
func TestSendNameThatDoesNotExistHere(t *testing.T) {
	t.Parallel()
	const endpoint = "http://does-not-exist.invalid:8099/?token=" + private
	s := sender(t, 2*time.Second, openTransport(t)).send(t.Context(), post(endpoint))
	assert.Equal(t, delivery.FailureDNS, s.Failure, "%s", s.Error)
	assert.NotEmpty(t, s.Error)
	assert.NotContains(t, s.Error, private)
	assert.NotContains(t, s.Error, "8099")
}

// A lookup that fails names addresses of the network that riverhook runs in: they are nobody else's business.
func TestSendLookupFailureDoesNotNameTheResolver(t *testing.T) {
	t.Parallel()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	resolver := conn.LocalAddr().String()
	require.NoError(t, conn.Close())
	const endpoint = "http://does-not-exist.invalid:8099/?token=" + private
	s := sender(t, ample, resolving(t, resolver)).send(t.Context(), post(endpoint))
	failure(t, delivery.FailureDNS, s, endpoint)
	assert.NotContains(t, s.Error, resolver)
}

func TestSendInvalidRow(t *testing.T) {
	t.Parallel()
	w := sender(t, ample, roundTrip(func(*http.Request) (*http.Response, error) {
		assert.Fail(t, "a request went out")
		return nil, errors.New("unreachable")
	}))
	for name, change := range map[string]func(*delivery.Delivery){
		"user in the URL":    func(d *delivery.Delivery) { d.EndpointURL = "http://user:hunter2@127.0.0.1:8099/" },
		"another scheme":     func(d *delivery.Delivery) { d.EndpointURL = "ftp://127.0.0.1:8099/hunter2" },
		"no URL":             func(d *delivery.Delivery) { d.EndpointURL = "" },
		"a broken header":    func(d *delivery.Delivery) { d.CustomHeaders = []byte(`[{"key":"X-A","value":"hunter2\r\n"}]`) },
		"headers of no form": func(d *delivery.Delivery) { d.CustomHeaders = []byte(`{"X-A":"hunter2"}`) },
		"a large payload":    func(d *delivery.Delivery) { d.Payload, d.PayloadBytes = nil, 5<<20 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := post("http://127.0.0.1:8099/" + private)
			change(d)
			s := w.send(t.Context(), d)
			failure(t, delivery.FailureInvalid, s, "http://127.0.0.1:8099")
		})
	}
}

func TestSendMissingCredential(t *testing.T) {
	t.Parallel()
	var count atomic.Int32
	server := receiver(t, func(http.ResponseWriter, *http.Request) { count.Add(1) })
	w := sender(t, ample, openTransport(t))
	d := post(server.URL)
	d.CredentialUUID = "6f1e2d3c-0000-4000-8000-000000000001"
	s := w.send(t.Context(), d)
	failure(t, delivery.FailureCredential, s, server.URL)
	assert.Contains(t, s.Error, d.CredentialUUID)
	assert.Zero(t, count.Load())

	w.missingCredential = true
	answer(t, 200, w.send(t.Context(), d))
	assert.Equal(t, int32(1), count.Load())
}

func TestSendFaultOfOurs(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	w := sender(t, ample, roundTrip(func(*http.Request) (*http.Response, error) { panic("broken invariant") }))
	w.log = slog.New(slog.NewTextHandler(&log, nil))
	const endpoint = "http://127.0.0.1:8099/" + private
	s := w.send(t.Context(), post(endpoint))
	failure(t, delivery.FailureInternal, s, endpoint)
	assert.Contains(t, s.Error, "broken invariant")
	assert.Contains(t, log.String(), "level=ERROR")
	assert.Contains(t, log.String(), "delivery_id=42")
	assert.NotContains(t, log.String(), private)
}

// On a reused connection that the receiver closes after it has read the request, whether it worked on it is unknown: the
// request is not sent a second time within the attempt, whatever its method and headers promise.
func TestSendIsOneRequestPerAttempt(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
		for _, key := range []string{"", "Idempotency-Key", "idempotency-key", "X-Idempotency-Key", "x-iDEMPOTENCY-kEY"} {
			for _, payload := range []string{`{"a":1}`, ``} {
				t.Run(fmt.Sprintf("%s %s %d", method, key, len(payload)), func(t *testing.T) {
					t.Parallel()
					var requests, reused atomic.Int32
					address := rawReceiver(t, func(conn net.Conn, _ int) {
						from := bufio.NewReader(conn)
						for n := 1; takeRequest(from); n++ {
							requests.Add(1)
							if n > 1 {
								reused.Add(1)
								return // read, and closed without an answer
							}
							_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
						}
					})
					w := sender(t, ample, openTransport(t))
					endpoint := "http://" + address + "/" + private
					d := post(endpoint)
					d.Method, d.Payload = method, []byte(payload)
					if key != "" {
						d.CustomHeaders = custom(t, key, "k1")
					}
					answer(t, 200, w.send(t.Context(), d))
					require.Equal(t, int32(1), requests.Load())
					s := w.send(t.Context(), d)
					require.Equal(t, int32(1), reused.Load(), "the connection was used again: this is the case in question")
					assert.Equal(t, int32(2), requests.Load(), "one request for each of the two attempts")
					failure(t, delivery.FailureReset, s, endpoint)
				})
			}
		}
	}
}

// The same when the reused connection is reset.
func TestSendIsOneRequestPerAttemptOnReset(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"GET", "POST", "DELETE"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int32
			address := rawReceiver(t, func(conn net.Conn, _ int) {
				from := bufio.NewReader(conn)
				for n := 1; takeRequest(from); n++ {
					requests.Add(1)
					if n > 1 {
						_ = conn.(*net.TCPConn).SetLinger(0)
						return
					}
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				}
			})
			w := sender(t, ample, openTransport(t))
			endpoint := "http://" + address
			d := post(endpoint)
			d.Method, d.CustomHeaders = method, custom(t, "Idempotency-Key", "k1")
			answer(t, 200, w.send(t.Context(), d))
			s := w.send(t.Context(), d)
			assert.Equal(t, int32(2), requests.Load())
			failure(t, delivery.FailureReset, s, endpoint)
		})
	}
}

func TestSendInterrupted(t *testing.T) {
	t.Parallel()
	interrupted := func(t *testing.T, s sent, untouched bool) {
		t.Helper()
		assert.Equal(t, sent{interrupted: true, untouched: untouched}, s, "there is no outcome")
	}

	t.Run("before it began", func(t *testing.T) {
		t.Parallel()
		var count atomic.Int32
		server := receiver(t, func(http.ResponseWriter, *http.Request) { count.Add(1) })
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		interrupted(t, sender(t, ample, openTransport(t)).send(ctx, post(server.URL)), true)
		assert.Zero(t, count.Load())
	})

	t.Run("while connecting", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		transport := openTransport(t)
		transport.DialContext = func(dialing context.Context, _, _ string) (net.Conn, error) {
			cancel()
			<-dialing.Done()
			return nil, dialing.Err()
		}
		interrupted(t, sender(t, ample, transport).send(ctx, post("http://127.0.0.1:8099/")), true)
	})

	t.Run("during the handshake", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		address := rawReceiver(t, func(conn net.Conn, _ int) {
			var b [1]byte
			_, _ = conn.Read(b[:])
			cancel()
			hold(conn)
		})
		interrupted(t, sender(t, ample, openTransport(t)).send(ctx, post("https://"+address)), true)
	})

	t.Run("while waiting for the answer", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		address := rawReceiver(t, func(conn net.Conn, _ int) {
			takeRequest(bufio.NewReader(conn))
			cancel()
			hold(conn)
		})
		interrupted(t, sender(t, ample, openTransport(t)).send(ctx, post("http://"+address)), false)
	})

	t.Run("by the job's own deadline", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithTimeout(t.Context(), short)
		defer cancel()
		address := rawReceiver(t, func(conn net.Conn, _ int) { hold(conn) })
		interrupted(t, sender(t, ample, openTransport(t)).send(ctx, post("http://"+address)), false)
	})

	// Then the outcome is known, and only the body's end is not.
	t.Run("after the status line", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		address := rawReceiver(t, func(conn net.Conn, _ int) {
			takeRequest(bufio.NewReader(conn))
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
			hold(conn)
		})
		transport := openTransport(t)
		s := sender(t, ample, roundTrip(func(r *http.Request) (*http.Response, error) {
			response, err := transport.RoundTrip(r)
			cancel()
			return response, err
		})).send(ctx, post("http://"+address))
		answer(t, 200, s)
		assert.NotEmpty(t, s.note)
	})
}

// No proxy is asked for: neither the environment nor anything else can route a request through another host.
func TestSendUsesNoProxy(t *testing.T) {
	t.Parallel()
	assert.Nil(t, openTransport(t).Proxy)
}

type emptyError struct{}

func (emptyError) Error() string { return "" }

// What reaches classify in production comes from net/http; here are the causes that a test cannot bring about there.
func TestSendClassify(t *testing.T) {
	t.Parallel()
	const endpoint = "http://127.0.0.1:8099/" + private
	dial := func(cause error) error {
		return &net.OpError{
			Op: "dial", Net: "tcp", Source: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 7), Port: 40000}, Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8099}, Err: cause,
		}
	}
	read := func(cause error) error {
		return &net.OpError{Op: "read", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8099}, Err: cause}
	}
	for _, test := range []struct {
		name string
		err  error
		kind delivery.FailureKind
	}{
		{"no route", dial(syscall.EHOSTUNREACH), delivery.FailureRefused},
		{"network unreachable", dial(syscall.ENETUNREACH), delivery.FailureRefused},
		{"no port left", dial(syscall.EADDRNOTAVAIL), delivery.FailureRefused},
		{"refused", dial(syscall.ECONNREFUSED), delivery.FailureRefused},
		{"timeout of the system", dial(syscall.ETIMEDOUT), delivery.FailureTimeout},
		{"reset", read(syscall.ECONNRESET), delivery.FailureReset},
		{"broken pipe", read(syscall.EPIPE), delivery.FailureReset},
		{"closed", read(net.ErrClosed), delivery.FailureReset},
		{"another error of the connection", read(syscall.EIO), delivery.FailureReset},
		{"end of file", io.EOF, delivery.FailureReset},
		{"unexpected end of file", fmt.Errorf("reading: %w", io.ErrUnexpectedEOF), delivery.FailureReset},
		{"unknown host", &url.Error{Op: "Post", URL: endpoint, Err: dial(&net.DNSError{Err: "no such host", Name: "x.example", IsNotFound: true})}, delivery.FailureDNS},
		{"lookup timeout", dial(&net.DNSError{Err: "i/o timeout", Name: "x.example", IsTimeout: true}), delivery.FailureDNS},
		{"unknown", &url.Error{Op: "Post", URL: endpoint, Err: errors.New("malformed")}, delivery.FailureProtocol},
		{"without a text", emptyError{}, delivery.FailureProtocol},
		{"without a text, wrapped", read(emptyError{}), delivery.FailureReset},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := sender(t, ample, roundTrip(func(*http.Request) (*http.Response, error) { return nil, test.err }))
			s := w.send(t.Context(), post(endpoint))
			failure(t, test.kind, s, endpoint)
			assert.NotContains(t, s.Error, "10.0.0.7")
			assert.False(t, strings.HasSuffix(s.Error, ": "), "a cause is named: %q", s.Error)
		})
	}
}
