package node_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/credential"
	"github.com/riverhook/riverhook/delivery/signing"
	"github.com/riverhook/riverhook/delivery/store"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

// private is in every path, query and password of these tests: no error, origin or log may have it.
const private = "hunter2"

// tried is a delivery with its only attempt.
type tried struct {
	Name, Status, Origin, LastError string // Name is webhook_name
	Attempts                        int    // in the ledger
	Ledger                          string // "outcome failure_kind status_code"
	Error                           string // the ledger's
	MS                              int
	Body                            []byte
}

// text is all of it that people are shown and that comes from us.
func (d *tried) text() string { return d.Origin + "\n" + d.LastError + "\n" + d.Error }

// resultsOf waits until no delivery is pending, and returns those whose name begins with prefix, by name. It fails the test
// for a delivery without exactly one attempt, or that is not clean.
func resultsOf(t testing.TB, db *pgtest.DB, prefix string) map[string]*tried {
	t.Helper()
	eventually(t, db, 0, `SELECT count(*)::int FROM riverhook.deliveries WHERE status = 'pending'`)
	rows, err := db.Pool.Query(t.Context(), `
		SELECT d.webhook_name, d.status, coalesce(d.endpoint_origin, ''), coalesce(d.last_error, ''),
		       (SELECT count(*)::int FROM riverhook.attempts b WHERE b.delivery_id = d.id),
		       coalesce(concat_ws(' ', a.outcome, a.failure_kind, a.status_code), ''), coalesce(a.error, ''), coalesce(a.duration_ms, -1), coalesce(a.response_body, '')
		  FROM riverhook.deliveries d LEFT JOIN riverhook.attempts a ON a.delivery_id = d.id AND a.round = 0 AND a.attempt = 1
		 WHERE starts_with(d.webhook_name, $1)`, prefix)
	require.NoError(t, err)
	list, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByPos[tried])
	require.NoError(t, err)
	byName := make(map[string]*tried, len(list))
	for _, d := range list {
		assert.NotContains(t, byName, d.Name)
		byName[d.Name] = d
		assert.Equal(t, 1, d.Attempts, "%s: one attempt, one row in the ledger", d.Name)
		succeeded := strings.HasPrefix(d.Ledger, "succeeded ")
		if succeeded {
			assert.Equal(t, "succeeded", d.Status, d.Name)
			assert.Empty(t, d.LastError, d.Name)
		} else {
			assert.Equal(t, "dead_letter", d.Status, d.Name)
			assert.NotEmpty(t, d.LastError, d.Name)
			assert.Equal(t, d.LastError, d.Error, d.Name)
		}
		assert.LessOrEqual(t, utf8.RuneCountInString(d.Error), 2000, d.Name)
		assert.LessOrEqual(t, len(d.Body), 8192, d.Name)
	}
	assert.True(t, pgtest.Scalar[bool](t, db, `SELECT bool_and(finished_at IS NOT NULL AND scheduled_for IS NULL AND leased_until IS NULL AND claimed_by IS NULL
		AND attempt_count = 1 AND round = 0 AND abandoned_count = 0) FROM riverhook.deliveries WHERE starts_with(webhook_name, $1)`, prefix), "a terminal row is clean")
	return byName
}

// enqueue inserts a delivery with one attempt for each URL, all in one statement. Their names are name and the index.
func enqueue(t testing.TB, db *pgtest.DB, name string, urls []string) {
	t.Helper()
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, webhook_name, max_attempts)
		SELECT url, $1 || n - 1, 1 FROM unnest($2::text[]) WITH ORDINALITY AS u (url, n)`, name, urls)
}

// mixed puts the good ones among the others, evenly.
func mixed[T any](others, good []T) []T {
	var all []T
	for i, g := range good {
		all = append(append(all, others[i*len(others)/len(good):(i+1)*len(others)/len(good)]...), g)
	}
	return all
}

func repeat(s string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = s
	}
	return all
}

// unharmed asserts that n deliveries named prefix all succeeded and arrived once each.
func unharmed(t testing.TB, db *pgtest.DB, r *receiver, prefix string, n int) {
	t.Helper()
	good := resultsOf(t, db, prefix)
	assert.Len(t, good, n)
	for name, d := range good {
		assert.Equal(t, "succeeded 200", d.Ledger, "%s: %s", name, d.Error)
		assert.Empty(t, d.Error, name)
	}
	arrived := make(map[string]int)
	for _, q := range r.all() {
		arrived[q.header.Get("X-Riverhook-Delivery-Id")]++
	}
	for _, uuid := range pgtest.Column[string](t, db, `SELECT delivery_uuid::text FROM riverhook.deliveries WHERE starts_with(webhook_name, $1)`, prefix) {
		assert.Equal(t, 1, arrived[uuid], "how often it arrived")
	}
}

var times = regexp.MustCompile(`«([^«»]*)\*(\d+)»`)

// expand writes out «x*9000».
func expand(t testing.TB, s string) string {
	return times.ReplaceAllStringFunc(s, func(match string) string {
		part := times.FindStringSubmatch(match)
		n, err := strconv.Atoi(part[2])
		require.NoError(t, err)
		return strings.Repeat(part[1], n)
	})
}

// brief is what a message shows of s.
func brief(s string) string {
	if len(s) > 120 {
		return fmt.Sprintf("%.120q and %d bytes more", s, len(s)-120)
	}
	return strconv.Quote(s)
}

// closedAddress is a host:port where nobody listens.
func closedAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	return listener.Addr().String()
}

// trap is a listener that nothing may connect to.
func trap(t testing.TB) string {
	t.Helper()
	p := newPeer(t, func(*conn) {})
	t.Cleanup(func() { assert.Zero(t, p.conns.Load(), "connections to where none may lead") })
	return p.address
}

func TestBadURLs(t *testing.T) {
	t.Parallel()
	table, err := os.ReadFile("../../../../testdata/hostile/urls.txt")
	require.NoError(t, err)
	closed := closedAddress(t)
	_, closedPort, err := net.SplitHostPort(closed)
	require.NoError(t, err)
	replace := strings.NewReplacer("«trap»", trap(t), "«closed»", closed, "«closed port»", closedPort)
	var urls, kinds []string
	for i, line := range strings.Split(string(table), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		kind, rest, _ := strings.Cut(line, " ")
		quoted, err := strconv.QuotedPrefix(strings.TrimLeft(rest, " "))
		require.NoError(t, err, "urls.txt:%d", i+1)
		url, err := strconv.Unquote(quoted)
		require.NoError(t, err, "urls.txt:%d", i+1)
		urls, kinds = append(urls, expand(t, replace.Replace(url))), append(kinds, kind)
	}
	require.GreaterOrEqual(t, len(urls), 100)

	db := pgtest.New(t)
	r := newReceiver(t, nil)
	var log lockedBuffer
	c := config(t, db)
	c.LogRequests, c.Log = true, slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	start(t, c)

	type row struct {
		URL  string `json:"url"`
		Name string `json:"name"`
	}
	bad, good := make([]row, len(urls)), make([]row, 20)
	for i := range bad {
		bad[i] = row{urls[i], fmt.Sprint("bad ", i)}
	}
	for i := range good {
		good[i] = row{r.URL, fmt.Sprint("good ", i)}
	}
	all, err := json.Marshal(mixed(bad, good))
	require.NoError(t, err)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, webhook_name, max_attempts)
		SELECT url, name, 1 FROM json_to_recordset($1::json) AS r (url text, name text)`, string(all))

	results := resultsOf(t, db, "bad ")
	assert.Len(t, results, len(urls))
	for i, url := range urls {
		got := results[fmt.Sprint("bad ", i)]
		if !assert.NotNil(t, got, brief(url)) {
			continue
		}
		outcome, kind, _ := strings.Cut(got.Ledger, " ")
		assert.Contains(t, strings.Split(kinds[i], "|"), kind, "%s: %s", brief(url), got.Error)
		want := "permanent"
		if kind == "dns" || kind == "refused" {
			want = "transient"
		}
		assert.Equal(t, want, outcome, brief(url))
		assert.NotContains(t, got.text(), private, brief(url))
		assert.NotContains(t, got.LastError, "127.0.0.1", brief(url))
		assert.Empty(t, got.Body, brief(url))
	}
	unharmed(t, db, r, "good ", 20)
	assert.Equal(t, 20, r.count())
	for line := range strings.Lines(log.String()) {
		assert.NotContains(t, line, private, "the log")
	}
	enqueue(t, db, "after ", []string{r.URL})
	unharmed(t, db, r, "after ", 1)
}

func TestBadHeaders(t *testing.T) {
	t.Parallel()
	file, err := os.ReadFile("../../../../testdata/hostile/headers.json")
	require.NoError(t, err)
	// What Postgres does not take as jsonb is not in it: a NUL, half a surrogate pair.
	var cases []struct {
		Why     string
		Custom  json.RawMessage   `json:"custom_headers"`
		Raw     string            // the same as a text, where that is easier to write
		Kind    string            // of the failure; or else it succeeds
		Dropped []string          // left out, and the log says so
		Sent    map[string]string // what the request has beside what every request has
	}
	require.NoError(t, json.Unmarshal(file, &cases))
	require.GreaterOrEqual(t, len(cases), 40)

	db := pgtest.New(t)
	type seen struct {
		host     string
		encoding []string
		request
	}
	var mu sync.Mutex
	got := make(map[string]seen) // by workflow_run_id
	r := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		mu.Lock()
		defer mu.Unlock()
		run := q.Header.Get("X-Riverhook-Workflow-Run-Id")
		assert.NotContains(t, got, run, "sent once")
		got[run] = seen{q.Host, q.TransferEncoding, request{q.Method, q.URL.Path, string(body), q.Header}}
	}))
	t.Cleanup(r.Close)
	var log lockedBuffer
	c := config(t, db)
	c.LogRequests, c.Log = true, slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	start(t, c)

	type row struct {
		Name    string `json:"name"`
		Headers string `json:"headers"`
	}
	bad, good := make([]row, len(cases)), make([]row, 20)
	for i, c := range cases {
		text := c.Raw
		if text == "" {
			text = string(c.Custom)
		}
		bad[i] = row{fmt.Sprint("bad ", i), expand(t, text)}
	}
	for i := range good {
		good[i] = row{fmt.Sprint("good ", i), `[{"key":"X-Good","value":"1"}]`}
	}
	all, err := json.Marshal(mixed(bad, good))
	require.NoError(t, err)
	const payload = `{"event": "call.done"}`
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, webhook_name, workflow_run_id, custom_headers, payload, max_attempts)
		SELECT $2, name, name, headers::jsonb, $3::json, 1 FROM json_to_recordset($1::json) AS r (name text, headers text)`, string(all), r.URL, payload)

	results := resultsOf(t, db, "")
	assert.Len(t, results, len(cases)+len(good))
	logged := func() map[string][]string { // the dropped headers that the log names, by webhook_name
		dropped := make(map[string][]string)
		for line := range strings.Lines(log.String()) {
			var entry struct {
				Msg     string
				Name    string   `json:"webhook_name"`
				Dropped []string `json:"dropped_headers"`
			}
			assert.NoError(t, json.Unmarshal([]byte(line), &entry))
			if entry.Msg == "delivery succeeded" {
				dropped[entry.Name] = entry.Dropped
			}
		}
		return dropped
	}
	succeeded := len(good)
	for _, c := range cases {
		if c.Kind == "" {
			succeeded++
		}
	}
	var dropped map[string][]string
	require.Eventually(t, func() bool { dropped = logged(); return len(dropped) >= succeeded }, 20*time.Second, 10*time.Millisecond, "a line for each in the log")
	mu.Lock()
	defer mu.Unlock()
	assert.Len(t, got, succeeded)
	base := got["good 0"].header
	for i := range good {
		assert.Equal(t, "succeeded 200", results[good[i].Name].Ledger)
		assert.Equal(t, "1", got[good[i].Name].header.Get("X-Good"))
	}
	for i, c := range cases {
		name := bad[i].Name
		result := results[name]
		if c.Kind != "" {
			assert.Equal(t, "permanent "+c.Kind, result.Ledger, "%s: %s", c.Why, result.Error)
			assert.NotContains(t, got, name, "%s: not sent", c.Why)
			assert.NotContains(t, result.Error, "\n", c.Why)
			assert.NotContains(t, result.Error, "\r", c.Why)
			assert.Less(t, len(result.Error), 1000, c.Why)
			continue
		}
		if !assert.Equal(t, "succeeded 200", result.Ledger, "%s: %s", c.Why, result.Error) {
			continue
		}
		q := got[name]
		want := map[string]string{}
		for name := range base {
			if name != "X-Good" {
				want[name] = base.Get(name)
			}
		}
		for _, own := range []string{"X-Riverhook-Delivery-Id", "Webhook-Id", "X-Riverhook-Workflow-Run-Id"} {
			want[own] = q.header.Get(own)
		}
		for name, value := range c.Sent {
			want[http.CanonicalHeaderKey(expand(t, name))] = expand(t, value)
		}
		have := map[string]string{}
		for name, values := range q.header {
			have[name] = strings.Join(values, " AND ")
			assert.NotContains(t, have[name], "forged", "%s: %s", c.Why, brief(name))
		}
		assert.Equal(t, want, have, c.Why)
		assert.Equal(t, c.Dropped, dropped[name], c.Why)
		assert.Equal(t, "http://"+q.host, r.URL, c.Why)
		assert.Empty(t, q.encoding, c.Why)
		assert.Equal(t, payload, q.body, c.Why) //nolint:testifylint // byte for byte is meant
	}
	assert.NotContains(t, log.String(), "forged", "the log has no header's value")
}

// peer is a receiver below HTTP.
type peer struct {
	address  string
	conns    atomic.Int64
	active   atomic.Int64 // connections that the peer has not done with
	requests chan http.Header
	written  atomic.Int64 // by endless
}

// conn is one connection to a peer.
type conn struct {
	net.Conn
	raw  *net.TCPConn
	peer *peer
	from *bufio.Reader
	over <-chan struct{} // the test ends
}

// newPeer serves each connection on a goroutine of its own and then closes it.
func newPeer(t testing.TB, serve func(*conn)) *peer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &peer{address: listener.Addr().String(), requests: make(chan http.Header, 1000)}
	over := make(chan struct{})
	var (
		all  sync.WaitGroup
		mu   sync.Mutex
		open = make(map[net.Conn]bool)
		done bool
	)
	all.Go(func() {
		for {
			raw, err := listener.Accept()
			if err != nil {
				return
			}
			p.conns.Add(1)
			p.active.Add(1)
			mu.Lock()
			open[raw] = true
			if done {
				raw.Close()
			}
			mu.Unlock()
			all.Go(func() {
				defer p.active.Add(-1)
				c := &conn{Conn: raw, raw: raw.(*net.TCPConn), peer: p, from: bufio.NewReader(raw), over: over}
				serve(c)
				raw.Close()
				mu.Lock()
				defer mu.Unlock()
				delete(open, raw)
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		close(over)
		mu.Lock()
		done = true
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return p
}

// request reads one request with its body, and counts it.
func (c *conn) request() http.Header {
	r, err := http.ReadRequest(c.from)
	if err != nil {
		return nil
	}
	c.peer.requests <- r.Header
	_, _ = io.Copy(io.Discard, r.Body)
	return r.Header
}

func (c *conn) say(text string) { _, _ = io.WriteString(c.Conn, text) }

// hold waits until the other side closes.
func (c *conn) hold() { _, _ = io.Copy(io.Discard, c.from) }

// endless writes text until that fails: the other side has closed.
func (c *conn) endless(text string) {
	chunk := []byte(strings.Repeat(text, 1+4096/len(text)))
	for {
		n, err := c.Write(chunk)
		c.peer.written.Add(int64(n))
		if err != nil {
			return
		}
	}
}

// drip writes a byte of text every few milliseconds, from the beginning again, until that fails.
func (c *conn) drip(text string) {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for i := 0; ; i++ {
		select {
		case <-ticker.C:
			if _, err := io.WriteString(c.Conn, text[i%len(text):i%len(text)+1]); err != nil {
				return
			}
		case <-c.over:
			return
		}
	}
}

// reset makes the close a reset.
func (c *conn) reset() { _ = c.raw.SetLinger(0) }

// hello reads the beginning of a TLS handshake.
func (c *conn) hello() {
	head, err := c.from.Peek(5)
	if err == nil {
		_, _ = c.from.Discard(5 + int(head[3])<<8 + int(head[4]))
	}
}

// says takes the request, answers with text, and holds the connection: whatever is wrong is the text, not its end.
func says(text string) func(*conn) {
	return func(c *conn) { c.request(); c.say(text); c.hold() }
}

// saysAndCloses takes the request, answers with text, and closes.
func saysAndCloses(text string) func(*conn) {
	return func(c *conn) { c.request(); c.say(text) }
}

// forever takes the request, answers with text, and then with more again and again.
func forever(text, more string) func(*conn) {
	return func(c *conn) { c.request(); c.say(text); c.endless(more) }
}

// drips takes the request, answers with text, and then slowly with more.
func drips(text, more string) func(*conn) {
	return func(c *conn) { c.request(); c.say(text); c.drip(more) }
}

// secures does the server's part of a TLS handshake, which is to fail.
func secures(t testing.TB, config *tls.Config) func(*conn) {
	return func(c *conn) {
		server := tls.Server(c.Conn, config)
		if err := server.Handshake(); err == nil {
			// In TLS 1.3 the client's refusal comes after the server's part is done.
			n, _ := server.Read(make([]byte, 1))
			assert.Zero(t, n, "a request got through")
		}
	}
}

// certificate is one that signs itself, for these names, until then.
func certificate(t testing.TB, until time.Time, names []string, ips ...net.IP) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "receiver"}, NotBefore: until.Add(-100 * 24 * time.Hour), NotAfter: until,
		DNSNames: names, IPAddresses: ips, BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func packed(t testing.TB, size int) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(make([]byte, size))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.String()
}

// whole is an answer with its body.
func whole(status int, header, body string) string {
	return fmt.Sprintf("HTTP/1.1 %d X\r\nContent-Length: %d\r\n%s\r\n%s", status, len(body), header, body)
}

// hostile is a receiver that does what none should, and what becomes of its delivery.
type hostile struct {
	name   string
	serve  func(*conn)
	want   string // the ledger; a|b where both are right
	error  string // part of the ledger's error, or of its note on a success; "": no note
	body   string // what is kept of the answer
	some   bool   // of the answer is kept: how much is not known
	https  bool
	byName bool // reached as localhost
	big    bool // payload
	lasts  bool // the connection may go on after the attempt
	noRead bool // the request is not read as one
}

// Hostile receivers, all at once: each has its attempt recorded in time, and a healthy receiver notices
// nothing.
func TestHostileReceivers(t *testing.T) {
	t.Parallel()
	const (
		timeout = 5 * time.Second
		chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
		long    = "longer than 8192 bytes"
		broke   = "broke off"
		late    = "did not end before the timeout"
		noText  = "\x00\x01\xff\xfe\xc3\x28 \x00"
	)
	notFollowed := trap(t)
	loopback := net.IPv4(127, 0, 0, 1)
	future, past := time.Now().Add(24*time.Hour), time.Now().Add(-24*time.Hour)
	silent := make(chan struct{}, 1)
	bomb, bigBomb := packed(t, 4<<20), packed(t, 64<<20)

	cases := []hostile{
		// bodies
		{name: "endless body with 200", serve: forever("HTTP/1.1 200 OK\r\n\r\n", "x"), want: "succeeded 200", error: long, body: strings.Repeat("x", 8192)},
		{name: "endless body with 500", serve: forever("HTTP/1.1 500 X\r\n\r\n", "x"), want: "transient status 500", error: "HTTP 500: xxx", body: strings.Repeat("x", 8192)},
		{name: "endless body with 404", serve: forever("HTTP/1.1 404 X\r\n\r\n", "\x00"), want: "permanent status 404", error: "HTTP 404: ", body: strings.Repeat("\x00", 8192)},
		{name: "endless chunks", serve: forever(chunked, "3\r\nabc\r\n"), want: "succeeded 200", error: long, some: true},
		{name: "one endless chunk", serve: forever(chunked+"7fffffffffffffff\r\n", "x"), want: "succeeded 200", error: long, body: strings.Repeat("x", 8192)},
		{name: "an endless extension of a chunk", serve: forever(chunked+"3;x=", "x"), want: "succeeded 200", error: broke},
		{name: "endless chunks with extensions", serve: forever(chunked, "1;"+strings.Repeat("x", 2000)+"\r\na\r\n"), want: "succeeded 200", error: broke, some: true},
		{name: "an endless trailer", serve: forever(chunked+"3\r\nabc\r\n0\r\n", "X-A: x\r\n"), want: "succeeded 200", error: broke, body: "abc"},
		{name: "body that drips with 200", serve: drips("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", "x"), want: "succeeded 200", error: late, some: true},
		{name: "body that drips until the close", serve: drips("HTTP/1.1 202 OK\r\n\r\n", "x"), want: "succeeded 202", error: late, some: true},
		{name: "body that drips with 500", serve: drips("HTTP/1.1 500 X\r\nContent-Length: 100000\r\n\r\n", "x"), want: "transient status 500", error: "HTTP 500: x", some: true},
		{name: "chunks that drip", serve: drips(chunked, "1\r\nx\r\n"), want: "succeeded 200", error: late, some: true},
		{name: "200, then silence", serve: says("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"), want: "succeeded 200", error: late},
		{name: "200 without a length, then silence", serve: says("HTTP/1.1 200 OK\r\n\r\n"), want: "succeeded 200", error: late},
		{name: "200 and half a body, then silence", serve: says("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"), want: "succeeded 200", error: late, body: "half"},
		{name: "gzip bomb", serve: says(whole(200, "Content-Encoding: gzip\r\n", bomb)), want: "succeeded 200", body: bomb},
		{name: "gzip bomb with 400", serve: says(whole(400, "Content-Encoding: gzip\r\n", bigBomb)), want: "permanent status 400", error: "HTTP 400: ", body: bigBomb[:8192]},
		{name: "unknown content encoding", serve: says(whole(200, "Content-Encoding: br, zstd, x\r\n", "??")), want: "succeeded 200", body: "??"},
		{name: "no text with 200", serve: says(whole(200, "", noText)), want: "succeeded 200", body: noText},
		{name: "no text with 400", serve: says(whole(400, "", noText)), want: "permanent status 400", error: "HTTP 400: \uFFFD\x01", body: noText},
		{name: "escape sequences with 400", serve: says(whole(400, "Content-Type: text/plain; charset=utf-16\r\n", "\x1b[2J\r\nfake line")), want: "permanent status 400", error: "HTTP 400: ", body: "\x1b[2J\r\nfake line"},
		{name: "204 with a body", serve: says(whole(204, "", "body")), want: "succeeded 204"},
		{name: "304 with a body", serve: says(whole(304, "", "body")), want: "permanent status 304", error: "HTTP 304: "},
		{name: "205 with a body", serve: says(whole(205, "", "body")), want: "succeeded 205", body: "body"},
		{name: "two answers", serve: says(whole(200, "", "ok") + whole(500, "", "no")), want: "succeeded 200", body: "ok"},
		{name: "an answer before the request is read", serve: func(c *conn) { _, _ = c.from.Peek(1); c.say(whole(200, "", "ok")); c.hold() }, want: "succeeded 200", body: "ok", noRead: true},
		{name: "an answer before there is a request", serve: func(c *conn) { c.say(whole(200, "", "ok")); c.hold() }, want: "succeeded 200|transient protocol", some: true, noRead: true},
		{name: "an answer before a large request is read", serve: func(c *conn) { _, _ = c.from.Peek(1); c.say(whole(413, "", "no")); <-c.over }, want: "permanent status 413", error: "HTTP 413: no", body: "no", big: true, lasts: true, noRead: true},

		// framing
		{name: "length longer than the body", serve: saysAndCloses("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"), want: "succeeded 200", error: broke, body: "half"},
		{name: "length longer than the body, with 503", serve: saysAndCloses("HTTP/1.1 503 X\r\nContent-Length: 100\r\n\r\nhalf"), want: "transient status 503", error: "HTTP 503: half", body: "half"},
		{name: "length shorter than the body", serve: says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhello"), want: "succeeded 200", body: "he"},
		{name: "the longest length there is", serve: saysAndCloses("HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\nhalf"), want: "succeeded 200", error: broke, body: "half"},
		{name: "a length too long for a number", serve: says("HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775808\r\n\r\nhello"), want: "transient protocol", error: "Content-Length"},
		{name: "negative length", serve: says("HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello"), want: "transient protocol", error: "Content-Length"},
		{name: "a length with a sign", serve: says("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello"), want: "transient protocol", error: "Content-Length"},
		{name: "a length that is none", serve: says("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello"), want: "transient protocol", error: "Content-Length"},
		{name: "the same length twice", serve: says("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"), want: "succeeded 200", body: "hello"},
		{name: "two lengths", serve: says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 5\r\n\r\nhello"), want: "transient protocol", error: "Content-Length"},
		{name: "length and chunks", serve: says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), want: "succeeded 200", body: "hello"},
		{name: "chunks twice", serve: says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), want: "transient protocol", error: "transfer encoding"},
		{name: "packed for the transfer", serve: says("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), want: "transient protocol", error: "transfer encoding"},
		{name: "a chunk's size that is none", serve: says(chunked + "4\r\nhalf\r\nzz\r\n"), want: "succeeded 200", error: broke, body: "half"},
		{name: "a chunk's size that is negative", serve: says(chunked + "-1\r\n"), want: "succeeded 200", error: broke},
		{name: "a chunk's size over 64 bits", serve: says(chunked + "ffffffffffffffffff\r\n"), want: "succeeded 200", error: broke},
		{name: "a chunk longer than its size", serve: says(chunked + "2\r\nhello\r\n0\r\n\r\n"), want: "succeeded 200", error: broke, body: "he"},
		{name: "chunks without an end", serve: saysAndCloses(chunked + "4\r\nhalf\r\n"), want: "succeeded 200", error: broke, body: "half"},

		// status lines
		{name: "status 99", serve: says("HTTP/1.1 99 X\r\n\r\n"), want: "transient protocol", error: "malformed"},
		{name: "status 1000", serve: says("HTTP/1.1 1000 X\r\n\r\n"), want: "transient protocol", error: "malformed"},
		{name: "status of letters", serve: says("HTTP/1.1 abc X\r\n\r\n"), want: "transient protocol", error: "malformed"},
		{name: "negative status", serve: says("HTTP/1.1 -12 X\r\n\r\n"), want: "transient protocol", error: "malformed"},
		{name: "status 000", serve: saysAndCloses("HTTP/1.1 000 X\r\n\r\n"), want: "transient protocol", error: "no HTTP status"},
		{name: "status 099", serve: saysAndCloses("HTTP/1.1 099 X\r\n\r\n"), want: "transient protocol", error: "no HTTP status"},
		{name: "status 600", serve: says(whole(600, "", "")), want: "permanent status 600", error: "HTTP 600: "},
		{name: "status 999", serve: says(whole(999, "", "")), want: "permanent status 999", error: "HTTP 999: "},
		{name: "no status", serve: says("HTTP/1.1 \r\n\r\n"), want: "transient protocol", error: "malformed"},
		{name: "no reason", serve: says("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"), want: "succeeded 200"},
		{name: "an endless reason", serve: forever("HTTP/1.1 200 ", "x"), want: "transient protocol"},
		{name: "no text for a reason", serve: says("HTTP/1.1 404 \x00\xff\x1b[2J\r\nContent-Length: 0\r\n\r\n"), want: "permanent status 404", error: "HTTP 404: "},
		{name: "another protocol's greeting", serve: says("220 mail.example ESMTP\r\n"), want: "transient protocol", error: "malformed"},
		{name: "garbage", serve: says("\x00\x01\x02\xff\xfe\r\n\r\n"), want: "transient protocol", error: "malformed"},
		{name: "endless garbage", serve: forever("", "\x00\xff\x17"), want: "transient protocol"},
		{name: "endless lines without anything", serve: forever("", "\r\n"), want: "transient protocol"},
		{name: "HTTP/0.9", serve: saysAndCloses("<html>ok</html>\r\n"), want: "transient protocol", error: "malformed"},
		{name: "the preface of HTTP/2", serve: says("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), want: "transient protocol", error: "malformed"},
		{name: "frames of HTTP/2", serve: says("\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80\x00\x04\x00\x01\x00\x00\x00\x05\x00\xff\xff\xff\r\n\r\n"), want: "transient protocol", error: "malformed"},
		{name: "the request itself", serve: func(c *conn) { _, _ = io.Copy(c.Conn, io.LimitReader(c.from, 10)); c.say("\r\n\r\n"); c.hold() }, want: "transient protocol", error: "malformed", noRead: true},

		// headers
		{name: "headers that drip", serve: drips("HTTP/1.1 200 OK\r\nX-Drip: ", "x"), want: "transient timeout", error: "waiting for the answer"},
		{name: "a status line that drips", serve: drips("", "HTTP/1.1 200 OKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOKOK"), want: "transient timeout", error: "waiting for the answer"},
		{name: "headers without an end", serve: says("HTTP/1.1 200 OK\r\nX-A: 1\r\n"), want: "transient timeout", error: "waiting for the answer"},
		{name: "a header over 64 KiB", serve: says("HTTP/1.1 200 OK\r\nX-A: " + strings.Repeat("x", 80<<10) + "\r\n\r\n"), want: "transient protocol"},
		{name: "headers over 64 KiB", serve: says("HTTP/1.1 200 OK\r\n" + strings.Repeat("X-A: xxxxxxxx\r\n", 8000) + "\r\n"), want: "transient protocol"},
		{name: "endless header", serve: forever("HTTP/1.1 200 OK\r\nX-A: ", "x"), want: "transient protocol"},
		{name: "endless headers", serve: forever("HTTP/1.1 200 OK\r\n", "X-A: x\r\n"), want: "transient protocol"},
		{name: "endless folded header", serve: forever("HTTP/1.1 200 OK\r\nX-A: x\r\n", " x\r\n"), want: "transient protocol"},
		{name: "endless cookies", serve: forever("HTTP/1.1 200 OK\r\n", "Set-Cookie: a=hunter2\r\n"), want: "transient protocol"},
		{name: "very many headers", serve: says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + strings.Repeat("X: x\r\n", 8000) + "\r\nok"), want: "succeeded 200", body: "ok"},
		{name: "a header without a name", serve: says("HTTP/1.1 200 OK\r\n: x\r\n\r\n"), want: "transient protocol", error: "malformed"},
		{name: "a header without a colon", serve: says("HTTP/1.1 200 OK\r\nnonsense\r\n\r\n"), want: "transient protocol", error: "malformed"},
		{name: "endless 100", serve: forever("", "HTTP/1.1 100 Continue\r\n\r\n"), want: "transient protocol"},
		{name: "endless 103", serve: forever("", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"), want: "transient protocol"},
		{name: "103 that drips", serve: drips("", "HTTP/1.1 103 X\r\n\r\n"), want: "transient timeout", error: "waiting for the answer"},
		{name: "103, then silence", serve: says("HTTP/1.1 103 Early Hints\r\n\r\n"), want: "transient timeout", error: "waiting for the answer"},
		{name: "103, then 200", serve: says("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + whole(200, "", "ok")), want: "succeeded 200", body: "ok"},
		{name: "101, then silence", serve: says("HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"), want: "permanent status 101", error: "HTTP 101: "},
		{name: "101, then endless", serve: forever("HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "\x81\x01x"), want: "permanent status 101", error: "HTTP 101: "},
		{name: "101 to nothing", serve: forever("HTTP/1.1 101 X\r\n\r\n", "x"), want: "permanent status 101", error: "HTTP 101: "},

		// connections
		{name: "accepts and is silent", serve: func(c *conn) { silent <- struct{}{}; c.hold() }, want: "transient timeout", error: "waiting for the answer", noRead: true},
		{name: "reads the request and is silent", serve: says(""), want: "transient timeout", error: "waiting for the answer"},
		{name: "does not read", serve: func(c *conn) { <-c.over }, want: "transient timeout", error: "waiting for the answer", big: true, lasts: true, noRead: true},
		{name: "closes at once", serve: func(*conn) {}, want: "transient reset", noRead: true},
		{name: "closes after the request", serve: saysAndCloses(""), want: "transient reset"},
		{name: "closes after the status line", serve: saysAndCloses("HTTP/1.1 200 OK\r\n"), want: "transient reset"},
		{name: "closes within the status line", serve: saysAndCloses("HTTP/1.1 20"), want: "transient protocol|transient reset"},
		{name: "closes within the headers", serve: saysAndCloses("HTTP/1.1 200 OK\r\nX-A: 1\r\n"), want: "transient reset"},
		{name: "closes after 100", serve: saysAndCloses("HTTP/1.1 100 Continue\r\n\r\n"), want: "transient reset"},
		{name: "half-closes after the request", serve: func(c *conn) { c.request(); _ = c.raw.CloseWrite(); c.hold() }, want: "transient reset"},
		{name: "half-closes before the request", serve: func(c *conn) { _ = c.raw.CloseWrite(); c.request(); c.hold() }, want: "transient reset", noRead: true},
		{name: "half-closes after the headers", serve: func(c *conn) { c.request(); c.say("HTTP/1.1 200 OK\r\n\r\n"); _ = c.raw.CloseWrite(); c.hold() }, want: "succeeded 200"},
		{name: "resets at once", serve: func(c *conn) { c.reset() }, want: "transient reset", noRead: true},
		{name: "resets after the request", serve: func(c *conn) { c.request(); c.reset() }, want: "transient reset"},
		{name: "resets within the body", serve: func(c *conn) { c.request(); c.say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"); c.reset() }, want: "succeeded 200|transient reset", some: true},

		// redirects and what else an answer may ask for
		{name: "redirect to itself", serve: says(whole(302, "Location: /hunter2\r\n", "")), want: "permanent status 302", error: "HTTP 302: "},
		{name: "redirect to metadata", serve: says(whole(307, "Location: http://169.254.169.254/latest/meta-data/\r\n", "")), want: "permanent status 307", error: "HTTP 307: "},
		{name: "redirect to a trap", serve: says(whole(308, "Location: http://"+notFollowed+"/\r\nRefresh: 0; url=http://"+notFollowed+"/\r\n", "")), want: "permanent status 308", error: "HTTP 308: "},
		{name: "redirect to a file", serve: says(whole(301, "Location: file:///etc/passwd\r\n", "")), want: "permanent status 301", error: "HTTP 301: "},
		{name: "redirect to nowhere", serve: says(whole(303, "", "")), want: "permanent status 303", error: "HTTP 303: "},
		{name: "300 with a trap", serve: says(whole(300, "Location: http://"+notFollowed+"/\r\n", "")), want: "permanent status 300", error: "HTTP 300: "},
		{name: "200 with a trap", serve: says(whole(200, "Location: http://"+notFollowed+"/\r\nContent-Location: http://"+notFollowed+"/\r\nLink: <http://"+notFollowed+"/>; rel=preload\r\nAlt-Svc: h2=\""+notFollowed+"\"; ma=86400\r\n", "")), want: "succeeded 200"},
		{name: "401 asks for a password", serve: says(whole(401, "WWW-Authenticate: Basic realm=x, NTLM, Negotiate\r\n", "")), want: "permanent status 401", error: "HTTP 401: "},
		{name: "407 asks for a password", serve: says(whole(407, "Proxy-Authenticate: Basic realm=x\r\n", "")), want: "permanent status 407", error: "HTTP 407: "},
		{name: "cookies", serve: func(c *conn) {
			for c.request() != nil {
				c.say(whole(200, "Set-Cookie: session=hunter2; Domain=127.0.0.1; Path=/\r\n", ""))
			}
		}, want: "succeeded 200"},
		{name: "absurd Retry-After", serve: says(whole(503, "Retry-After: 999999999999999999999999\r\n", "")), want: "transient status 503", error: "HTTP 503: "},
		{name: "negative Retry-After", serve: says(whole(503, "Retry-After: -1\r\n", "")), want: "transient status 503", error: "HTTP 503: "},
		{name: "Retry-After that is no number", serve: says(whole(429, "Retry-After: NaN\r\nRetry-After: 1e400\r\n", "")), want: "transient status 429", error: "HTTP 429: "},
		{name: "Retry-After at the end of time", serve: says(whole(429, "Retry-After: Fri, 31 Dec 9999 23:59:59 GMT\r\n", "")), want: "transient status 429", error: "HTTP 429: "},

		// TLS
		{name: "plain HTTP where TLS is", serve: func(c *conn) { c.hello(); c.say(whole(400, "", "")); c.hold() }, want: "transient tls", https: true, noRead: true},
		{name: "plain HTTP at once where TLS is", serve: func(c *conn) { c.say(whole(200, "", "")); c.hold() }, want: "transient tls", https: true, noRead: true},
		{name: "a TLS alert where plain HTTP is", serve: saysAndCloses("\x15\x03\x01\x00\x02\x02\x46"), want: "transient protocol", error: "malformed"},
		{name: "garbage instead of TLS", serve: func(c *conn) { c.hello(); c.endless("\x00\xff\x17") }, want: "transient tls", https: true, noRead: true},
		{name: "a TLS alert instead of a handshake", serve: func(c *conn) { c.hello(); c.say("\x15\x03\x03\x00\x02\x02\x28"); c.hold() }, want: "transient tls", https: true, noRead: true},
		{name: "endless warnings instead of a handshake", serve: func(c *conn) { c.hello(); c.endless("\x15\x03\x03\x00\x02\x01\x00") }, want: "transient tls|transient reset", https: true, noRead: true},
		{name: "a handshake that is too long", serve: func(c *conn) {
			c.hello()
			c.say("\x16\x03\x03\x40\x00\x02\xff\xff\xff")
			c.endless("x")
		}, want: "transient tls", https: true, noRead: true},
		{name: "a handshake that drips", serve: func(c *conn) { c.hello(); c.drip("\x16\x03\x03\x40\x00\x02\x00\x30\x00" + strings.Repeat("x", 1000)) }, want: "transient timeout", error: "while connecting", https: true, lasts: true, noRead: true},
		{name: "silence instead of a handshake", serve: (*conn).hold, want: "transient timeout", error: "while connecting", https: true, lasts: true, noRead: true},
		{name: "closes instead of a handshake", serve: (*conn).hello, want: "transient reset", https: true, noRead: true},
		{name: "resets instead of a handshake", serve: func(c *conn) { c.hello(); c.reset() }, want: "transient reset", https: true, noRead: true},
		{name: "signs itself", serve: secures(t, &tls.Config{Certificates: []tls.Certificate{certificate(t, future, nil, loopback)}}), want: "transient tls", error: "certificate", https: true, noRead: true},
		{name: "expired", serve: secures(t, &tls.Config{Certificates: []tls.Certificate{certificate(t, past, nil, loopback)}}), want: "transient tls", error: "expired", https: true, noRead: true},
		{name: "not yet valid", serve: secures(t, &tls.Config{Certificates: []tls.Certificate{certificate(t, future.Add(200*24*time.Hour), nil, loopback)}}), want: "transient tls", error: "certificate", https: true, noRead: true},
		// These two fail: the error of a certificate for another name repeats the host.
		{name: "of another host", serve: secures(t, &tls.Config{Certificates: []tls.Certificate{certificate(t, future, []string{"other.example"})}}), want: "transient tls", error: "certificate", https: true, noRead: true},
		{name: "of another address", serve: secures(t, &tls.Config{Certificates: []tls.Certificate{certificate(t, future, nil, net.IPv4(192, 0, 2, 1))}}), want: "transient tls", error: "certificate", https: true, noRead: true},
		{name: "of very many hosts", serve: secures(t, &tls.Config{Certificates: []tls.Certificate{certificate(t, future, repeat("a-rather-long-name-of-a-host.example", 1000))}}), want: "transient tls", error: "certificate", https: true, byName: true, noRead: true},
		{name: "TLS 1.0", serve: secures(t, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10, Certificates: []tls.Certificate{certificate(t, future, nil, loopback)}}), want: "transient tls", error: "version", https: true, noRead: true},
		{name: "TLS 1.1", serve: secures(t, &tls.Config{MinVersion: tls.VersionTLS11, MaxVersion: tls.VersionTLS11, Certificates: []tls.Certificate{certificate(t, future, nil, loopback)}}), want: "transient tls", error: "version", https: true, noRead: true},
		{name: "wants our certificate", serve: secures(t, &tls.Config{MaxVersion: tls.VersionTLS12, ClientAuth: tls.RequireAnyClientCert, Certificates: []tls.Certificate{certificate(t, future, nil, loopback)}}), want: "transient tls", https: true, noRead: true},
	}
	require.GreaterOrEqual(t, len(cases), 30)

	db := pgtest.New(t)
	healthy := newReceiver(t, nil)
	c := config(t, db)
	c.Timeout = timeout
	start(t, c)
	type row struct {
		URL     string `json:"url"`
		Name    string `json:"name"`
		Payload string `json:"payload"`
	}
	peers := make([]*peer, len(cases))
	bad, good := make([]row, len(cases)), make([]row, 40)
	for i, c := range cases {
		peers[i] = newPeer(t, c.serve)
		bad[i] = row{"http://" + peers[i].address + "/hunter2?token=hunter2", "hostile " + c.name, `{}`}
		if c.https {
			bad[i].URL = "https" + strings.TrimPrefix(bad[i].URL, "http")
		}
		if c.byName {
			bad[i].URL = strings.Replace(bad[i].URL, "127.0.0.1", "localhost", 1)
		}
		if c.big {
			bad[i].Payload = `"` + string(make0(1<<20-2)) + `"`
		}
	}
	for i := range good {
		good[i] = row{healthy.URL, fmt.Sprint("good ", 160+i), `{}`}
	}
	all, err := json.Marshal(mixed(bad, good))
	require.NoError(t, err)
	db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, webhook_name, payload, max_attempts)
		SELECT url, name, payload::json, 1 FROM json_to_recordset($1::json) AS r (url text, name text, payload text)`, string(all))
	select {
	case <-silent: // the others are in flight
	case <-time.After(20 * time.Second):
		require.Fail(t, "no connection to the silent one")
	}
	for wave := range 4 {
		enqueue(t, db, fmt.Sprint("good ", wave, " "), repeat(healthy.URL, 40))
	}

	results := resultsOf(t, db, "hostile ")
	assert.Len(t, results, len(cases))
	for i, c := range cases {
		got := results["hostile "+c.name]
		if !assert.NotNil(t, got, c.name) {
			continue
		}
		assert.Contains(t, strings.Split(c.want, "|"), got.Ledger, "%s: %s", c.name, got.Error)
		switch {
		case c.error != "":
			assert.Contains(t, got.Error, c.error, c.name)
		case c.want == "succeeded 200":
			assert.Empty(t, got.Error, c.name)
		}
		_, port, err := net.SplitHostPort(peers[i].address)
		require.NoError(t, err)
		for _, secret := range []string{"127.0.0.1", port, private} {
			assert.NotContains(t, got.LastError+"\n"+got.Error, secret, c.name)
		}
		assert.True(t, utf8.ValidString(got.Error), c.name)
		if !c.some {
			assert.Equal(t, c.body, string(got.Body), c.name)
		}
		assert.GreaterOrEqual(t, got.MS, 0, c.name)
		assert.LessOrEqual(t, got.MS, int((timeout + 2*time.Second).Milliseconds()), c.name)
		assert.Equal(t, int64(1), peers[i].conns.Load(), "%s: one connection", c.name)
		if !c.noRead {
			assert.Len(t, peers[i].requests, 1, "%s: one request", c.name)
		}
	}
	unharmed(t, db, healthy, "good ", 200)
	assert.Equal(t, 200, healthy.count())
	// An answer that came to its end leaves its connection open for the next delivery; every other one is over.
	idle := func(i int) bool {
		got := results["hostile "+cases[i].name]
		return cases[i].lasts || got.Error == "" || strings.Contains(got.Ledger, " status ")
	}
	var open []string
	require.Eventually(t, func() bool {
		open = nil
		for i, p := range peers {
			if p.active.Load() > 0 && (!idle(i) || p.written.Load() > 0) {
				open = append(open, cases[i].name)
			}
		}
		return len(open) == 0
	}, 10*time.Second, 10*time.Millisecond, "connections that are still open: %v", &open)

	// It goes on, and has not kept the cookie.
	cookies := peers[slices.IndexFunc(cases, func(c hostile) bool {
		return c.name == "cookies"
	})]
	enqueue(t, db, "again ", []string{"http://" + cookies.address + "/hunter2", healthy.URL})
	for name, got := range resultsOf(t, db, "again ") {
		assert.Equal(t, "succeeded 200", got.Ledger, name)
	}
	require.Len(t, cookies.requests, 2)
	<-cookies.requests
	again := <-cookies.requests
	assert.NotContains(t, again, "Cookie")
}

// What the receiver is sent as a secret and repeats where its answer is no HTTP is not stored or logged either.
// It fails: only the body of an answer is scrubbed, not the error that quotes what is wrong with the rest of it.
func TestHostileEcho(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ring := keys(t, 1)
	key := signing.Generate()
	_, err := store.New(db.Pool, db.Schema).AddSecret(context.Background(), store.Scope{Organization: "default"}, false, 0, func(uuid, organization string) ([]byte, error) {
		return ring.Seal([]byte(key.Reveal()), uuid, organization)
	})
	require.NoError(t, err)
	uuid := setCredential(t, db, ring, "default", "it", credential.TypeBearerToken, "", "hunter2hunter2")
	var log lockedBuffer
	c := config(t, db)
	c.Keys, c.LogRequests, c.Log = ring, true, slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	start(t, c)

	formats := map[string]string{
		"body":                   "HTTP/1.1 400 X\r\n\r\n%s",
		"first line":             "%s\r\n\r\n",
		"version":                "HTTP/%s 200 OK\r\n\r\n",
		"status":                 "HTTP/1.1 %s\r\n\r\n",
		"header without a colon": "HTTP/1.1 200 OK\r\n%s\r\n\r\n",
		"header's name":          "HTTP/1.1 200 OK\r\n%s: x\r\n\r\n",
		"length":                 "HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n",
		"two lengths":            "HTTP/1.1 200 OK\r\nContent-Length: %[1]s\r\nContent-Length: 1%[1]s\r\n\r\n",
		"transfer encoding":      "HTTP/1.1 200 OK\r\nTransfer-Encoding: %s\r\n\r\n",
		"trailer":                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Content-Length, %s\r\n\r\n0\r\n\r\n",
		"chunk":                  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n",
		"trailer of the body":    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n%s\r\n\r\n",
	}
	var mu sync.Mutex
	secrets := make(map[string]bool)
	for name, format := range formats {
		for _, header := range []string{"Authorization", "Webhook-Signature"} {
			p := newPeer(t, func(c *conn) {
				request := c.request()
				value := request.Get(header)
				bare := value[strings.IndexAny(value, " ,")+1:]
				mu.Lock()
				secrets[bare] = true
				mu.Unlock()
				c.say(fmt.Sprintf(format, bare))
			})
			insert(t, db, "http://"+p.address, "webhook_name", name+" "+header, "credential_uuid", uuid, "max_attempts", 1)
		}
	}
	results := resultsOf(t, db, "")
	require.Eventually(t, func() bool { return strings.Count(log.String(), `"outcome"`) >= len(results) }, 10*time.Second, 10*time.Millisecond)
	mu.Lock()
	defer mu.Unlock()
	for secret := range secrets {
		assert.Greater(t, len(secret), 10)
		for name, got := range results {
			assert.NotContains(t, got.text()+string(got.Body), secret, name)
		}
		assert.Zero(t, strings.Count(log.String(), secret), "the log has a secret")
	}
}

// Answers without an end cost neither memory nor connections. This test is not parallel: it measures the process.
func TestManyEndlessBodies(t *testing.T) { //nolint:paralleltest // see above
	const n = 50
	db := pgtest.New(t)
	p := newPeer(t, forever("HTTP/1.1 200 OK\r\n\r\n", "x"))
	healthy := newReceiver(t, nil)
	start(t, config(t, db))
	enqueue(t, db, "warm up ", repeat(healthy.URL, n))
	unharmed(t, db, healthy, "warm up ", n)
	heap := func() uint64 {
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapInuse
	}
	before := heap()
	enqueue(t, db, "endless ", repeat("http://"+p.address, n))
	results := resultsOf(t, db, "endless ")
	assert.Len(t, results, n)
	for name, got := range results {
		assert.Equal(t, "succeeded 200", got.Ledger, "%s: %s", name, got.Error)
		assert.Contains(t, got.Error, "longer than 8192 bytes", name)
		assert.Equal(t, strings.Repeat("x", 8192), string(got.Body), name)
	}
	require.Eventually(t, func() bool { return p.active.Load() == 0 }, 10*time.Second, time.Millisecond, "the connections are closed")
	after := heap()
	assert.Less(t, after, before+64<<20, "the heap grew")
	assert.Equal(t, int64(n), p.conns.Load())
	assert.Less(t, p.written.Load(), int64(n*16<<20), "what the receiver could write is what sockets hold")
	t.Logf("heap in use %d KiB before, %d KiB after; the receiver wrote %d KiB", before>>10, after>>10, p.written.Load()>>10)
}
