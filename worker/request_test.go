package worker

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery"
)

const testUUID = "0b7c2f6e-3c0d-4f58-9c55-6a0e6f6f2a11"

func testHeaders() Headers {
	return Headers{HeaderRules: delivery.HeaderRules{Prefix: "X-Riverhook-"}, UserAgent: "riverhook/test"}
}

// post is a delivery that can be sent; its fields are for the tests to change.
func post(endpoint string) *delivery.Delivery {
	return &delivery.Delivery{
		ID: 42, UUID: testUUID, OrganizationID: "default", WorkflowRunID: "run-7", EndpointURL: endpoint, Method: http.MethodPost,
		Payload: []byte(`{"event":"call.done"}`), PayloadBytes: 21,
	}
}

// custom is custom_headers of names and values in turn.
func custom(t testing.TB, pairs ...string) []byte {
	t.Helper()
	entries := []map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		entries = append(entries, map[string]string{"key": pairs[i], "value": pairs[i+1]})
	}
	text, err := json.Marshal(entries)
	require.NoError(t, err)
	return text
}

// received is r as a server reads it.
func received(t testing.TB, r *http.Request) (parsed *http.Request, body []byte, wire string) {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, r.Write(&out))
	wire = out.String()
	parsed, err := http.ReadRequest(bufio.NewReader(&out))
	require.NoError(t, err, "%q", wire)
	body, err = io.ReadAll(parsed.Body)
	require.NoError(t, err)
	assert.Zero(t, out.Len(), "nothing follows the request")
	return parsed, body, wire
}

// exchange builds a request of d and reads it as a server does.
func exchange(t testing.TB, d *delivery.Delivery, h Headers) (parsed *http.Request, body []byte, dropped []string) {
	t.Helper()
	r, dropped, err := newRequest(t.Context(), d, h, 1<<20, opened{})
	require.NoError(t, err)
	parsed, body, _ = received(t, r)
	return parsed, body, dropped
}

func TestRequestCarriesTheDelivery(t *testing.T) {
	t.Parallel()
	d := post("https://example.com:8443/hook/a%2Fb?x=1&y=%20#part")
	d.AttemptCount = 2
	got, body, dropped := exchange(t, d, testHeaders())
	assert.Empty(t, dropped)
	assert.Equal(t, "POST", got.Method)
	assert.Equal(t, "/hook/a%2Fb?x=1&y=%20", got.RequestURI)
	assert.Equal(t, "example.com:8443", got.Host)
	assert.JSONEq(t, `{"event":"call.done"}`, string(body))
	assert.Equal(t, http.Header{
		"Content-Type":                 {"application/json"},
		"User-Agent":                   {"riverhook/test"},
		"X-Riverhook-Delivery-Id":      {testUUID},
		"X-Riverhook-Delivery-Attempt": {"3"},
		"X-Riverhook-Workflow-Run-Id":  {"run-7"},
		"Webhook-Id":                   {testUUID},
		"Content-Length":               {"21"},
	}, got.Header)
}

func TestRequestIsOfItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	r, _, err := newRequest(ctx, post("http://example.com/"), testHeaders(), 1<<20, opened{})
	require.NoError(t, err)
	require.NoError(t, r.Context().Err())
	cancel()
	require.ErrorIs(t, r.Context().Err(), context.Canceled)
}

func TestRequestNameOfTheOriginal(t *testing.T) {
	t.Parallel()
	d := post("http://example.com/")
	d.CustomHeaders = custom(t, "x-dograh-delivery-id", "forged", "X-DOGRAH-DELIVERY-ATTEMPT", "99", "X-Dograh-Workflow-Run-ID", "forged", "X-Dograh-Other", "kept")
	r, dropped, err := newRequest(t.Context(), d, Headers{HeaderRules: delivery.HeaderRules{Prefix: "X-Dograh-"}, UserAgent: "riverhook/test"}, 1<<20, opened{})
	require.NoError(t, err)
	assert.Equal(t, []string{"x-dograh-delivery-id", "X-DOGRAH-DELIVERY-ATTEMPT", "X-Dograh-Workflow-Run-ID"}, dropped)
	got, _, wire := received(t, r)
	assert.Contains(t, wire, "\r\nX-Dograh-Delivery-Id: "+testUUID+"\r\n")
	assert.Contains(t, wire, "\r\nX-Dograh-Workflow-Run-Id: run-7\r\n")
	assert.Contains(t, wire, "\r\nX-Dograh-Delivery-Attempt: 1\r\n")
	assert.Equal(t, "kept", got.Header.Get("X-Dograh-Other"))
	assert.NotContains(t, strings.ToLower(wire), "x-riverhook-")
	assert.NotContains(t, wire, "forged")
}

func TestRequestWorkflowRunID(t *testing.T) {
	t.Parallel()
	const name = "X-Riverhook-Workflow-Run-Id"
	for _, test := range []struct {
		id      string
		want    []string // of the header
		dropped []string
	}{
		{"", nil, nil},
		{"1", []string{"1"}, nil},
		{"order 7/é", []string{"order 7/é"}, nil},
		{"a\tb", []string{"a\tb"}, nil},
		// It comes from the application and is no reason not to deliver: only the header is left out.
		{"a\r\nX-Evil: 1", nil, []string{name}},
		{"a\nb", nil, []string{name}},
		{"a\x00b", nil, []string{name}},
		{"a\x7fb", nil, []string{name}},
	} {
		t.Run(fmt.Sprintf("%q", test.id), func(t *testing.T) {
			t.Parallel()
			d := post("http://example.com/")
			d.WorkflowRunID = test.id
			got, _, dropped := exchange(t, d, testHeaders())
			assert.Equal(t, test.want, got.Header.Values(name))
			assert.Equal(t, test.dropped, dropped)
			assert.Empty(t, got.Header.Values("X-Evil"))
		})
	}
	// A custom header does not stand in for the one that is absent.
	d := post("http://example.com/")
	d.WorkflowRunID = ""
	d.CustomHeaders = custom(t, name, "forged")
	got, _, dropped := exchange(t, d, testHeaders())
	assert.Empty(t, got.Header.Values(name))
	assert.Equal(t, []string{name}, dropped)
}

func TestRequestCustomHeaders(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		custom string
		want   map[string][]string // by canonical name; nil: absent
	}{
		{"none", ``, map[string][]string{"Content-Type": {"application/json"}, "User-Agent": {"riverhook/test"}}},
		{"null", `null`, map[string][]string{"Content-Type": {"application/json"}, "User-Agent": {"riverhook/test"}}},
		{"one", `[{"key":"X-A","value":"1"}]`, map[string][]string{"X-A": {"1"}}},
		{"content type", `[{"key":"Content-Type","value":"text/plain"}]`, map[string][]string{"Content-Type": {"text/plain"}}},
		{"content type, other case", `[{"key":"cOnTeNt-TyPe","value":"text/plain"}]`, map[string][]string{"Content-Type": {"text/plain"}}},
		{"user agent", `[{"key":"User-Agent","value":"mine/1"}]`, map[string][]string{"User-Agent": {"mine/1"}}},
		{"user agent, other case", `[{"key":"USER-AGENT","value":"mine/1"}]`, map[string][]string{"User-Agent": {"mine/1"}}},
		{"last wins", `[{"key":"X-A","value":"1"},{"key":"x-a","value":"2"},{"key":"X-a","value":"3"}]`, map[string][]string{"X-A": {"3"}}},
		{"empty ones are skipped and do not win", `[{"key":"X-A","value":"1"},{"key":"X-A","value":""},{"key":"Content-Type","value":""},{"key":"","value":"x"}]`,
			map[string][]string{"X-A": {"1"}, "Content-Type": {"application/json"}}},
		{"idempotency keys", `[{"key":"Idempotency-Key","value":"k1"},{"key":"X-Idempotency-Key","value":"k2"}]`,
			map[string][]string{"Idempotency-Key": {"k1"}, "X-Idempotency-Key": {"k2"}}},
		{"idempotency key, last wins", `[{"key":"idempotency-key","value":"k1"},{"key":"IDEMPOTENCY-KEY","value":"k2"}]`,
			map[string][]string{"Idempotency-Key": {"k2"}}},
		{"a value that is not ASCII", `[{"key":"X-A","value":"é→"}]`, map[string][]string{"X-A": {"é→"}}},
		{"a tab in a value", `[{"key":"X-A","value":"a\tb"}]`, map[string][]string{"X-A": {"a\tb"}}},
		{"all marks of a token", `[{"key":"!#$%&'*+-.^_` + "`" + `|~9","value":"1"}]`, map[string][]string{textproto.CanonicalMIMEHeaderKey("!#$%&'*+-.^_`|~9"): {"1"}}},
		{"ours with another spelling is another name", `[{"key":"X-Riverhook-Delivery","value":"1"},{"key":"Delivery-Id","value":"2"},{"key":"X_Riverhook_Delivery","value":"3"}]`,
			map[string][]string{"X-Riverhook-Delivery": {"1"}, "Delivery-Id": {"2"}, "X_riverhook_delivery": {"3"}, "X-Riverhook-Delivery-Id": {testUUID}}},
		{"more of ours' prefix", `[{"key":"X-Riverhook-","value":"1"},{"key":"X-Riverhook-Delivery-Id-2","value":"2"}]`,
			map[string][]string{"X-Riverhook-": {"1"}, "X-Riverhook-Delivery-Id-2": {"2"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := post("http://example.com/")
			d.CustomHeaders = []byte(test.custom)
			got, _, dropped := exchange(t, d, testHeaders())
			assert.Empty(t, dropped)
			for name, want := range test.want {
				assert.Equal(t, want, got.Header[name], name)
			}
			assert.Equal(t, []string{testUUID}, got.Header.Values("X-Riverhook-Delivery-Id"))
		})
	}
}

// Names that are never a row's, in whatever case: left out, and reported as they were written.
func TestRequestDropsCustomHeaders(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"X-Riverhook-Delivery-Id", "X-Riverhook-Delivery-Attempt", "X-Riverhook-Workflow-Run-Id",
		"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature",
		"Host", "Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate",
		"Proxy-Authorization", "TE", "Trailer", "Upgrade", "Expect", "HTTP2-Settings",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plain := post("http://example.com/")
			want, wantBody, _ := exchange(t, plain, testHeaders())
			mixed := []byte(strings.ToLower(name))
			for i := range mixed {
				if i%2 == 1 {
					mixed[i] = name[i] &^ 0x20 // letters to upper case
					if mixed[i] < 'A' || mixed[i] > 'Z' {
						mixed[i] = name[i]
					}
				}
			}
			for _, written := range []string{name, strings.ToLower(name), strings.ToUpper(name), string(mixed)} {
				require.True(t, strings.EqualFold(name, written))
				d := post("http://example.com/")
				d.CustomHeaders = custom(t, "X-Before", "1", written, "7", "X-After", "2")
				got, body, dropped := exchange(t, d, testHeaders())
				assert.Equal(t, []string{written}, dropped)
				assert.Equal(t, "1", got.Header.Get("X-Before"))
				assert.Equal(t, "2", got.Header.Get("X-After"))
				got.Header.Del("X-Before")
				got.Header.Del("X-After")
				assert.Equal(t, want.Header, got.Header, written)
				assert.Equal(t, want.Host, got.Host, written)
				assert.Equal(t, want.TransferEncoding, got.TransferEncoding, written)
				assert.Equal(t, want.Close, got.Close, written)
				assert.Equal(t, wantBody, body, written)
			}
		})
	}
}

func TestRequestReportsEveryDroppedHeader(t *testing.T) {
	t.Parallel()
	d := post("http://example.com/")
	d.CustomHeaders = custom(t, "host", "a", "X-A", "1", "HOST", "b", "webhook-id", "c")
	_, _, dropped := exchange(t, d, testHeaders())
	assert.Equal(t, []string{"host", "HOST", "webhook-id"}, dropped)
}

func TestRequestRejectsCustomHeaders(t *testing.T) {
	t.Parallel()
	const secret = "hunter2"
	bad := map[string][]byte{
		"not an array": []byte(`{"key":"a","value":"hunter2"}`),
		"not a string": []byte(`[{"key":"a","value":2}]`),
		"not JSON":     []byte(`hunter2`),
	}
	for _, name := range []string{
		" ", "X A", " X-A", "X-A ", "X-A:", ":", ":authority", "X:A", "X-A\r", "X-A\n", "X-A\r\nX-B", "\x00", "X\x00A", "X-A\t", "X(A", "X)A", "X<A", "X>A", "X@A",
		"X,A", "X;A", `X\A`, `X"A`, "X/A", "X[A", "X]A", "X?A", "X=A", "X{A", "X}A", "X\x7fA", "Xé", "Ⅹ", "X-A\u2028", "Host\r\n", "X-Riverhook-Delivery-Id ",
	} {
		bad[fmt.Sprintf("name %q", name)] = custom(t, "X-Good", "1", name, secret)
	}
	for _, value := range []string{
		"\r", "\n", "\r\n", secret + "\r\nX-Evil: 1", secret + "\nX-Evil: 1", secret + "\r", secret + "\n", "\x00", secret + "\x00", "\x01", "\x08", "\x0b", "\x1b[31m", "\x1f", "\x7f",
	} {
		bad[fmt.Sprintf("value %q", value)] = custom(t, "X-Good", "1", "X-A", value)
	}
	// What would be dropped is not exempt.
	bad["value of a dropped header"] = custom(t, "Host", "a\r\nb")
	for name, text := range bad {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := post("http://example.com/")
			d.CustomHeaders = text
			r, dropped, err := newRequest(t.Context(), d, testHeaders(), 1<<20, opened{})
			require.Error(t, err)
			assert.Nil(t, r)
			assert.Empty(t, dropped)
			assert.Contains(t, err.Error(), "custom_headers")
			assert.NotContains(t, err.Error(), secret, "a value does not stand in an error")
			assert.NotContains(t, err.Error(), "example.com")
			assert.Equal(t, -1, strings.IndexFunc(err.Error(), func(r rune) bool { return r < ' ' || r > '~' }), "printable: %q", err)
		})
	}
}

func TestRequestErrorsNameTheHeader(t *testing.T) {
	t.Parallel()
	d := post("http://example.com/")
	d.CustomHeaders = custom(t, "X-Good", "1", "X-Broken", "a\nb")
	_, _, err := newRequest(t.Context(), d, testHeaders(), 1<<20, opened{})
	require.ErrorContains(t, err, "X-Broken")
	d.CustomHeaders = custom(t, "X Broken", "a")
	_, _, err = newRequest(t.Context(), d, testHeaders(), 1<<20, opened{})
	require.ErrorContains(t, err, "X Broken")
	d.CustomHeaders = custom(t, strings.Repeat("x", 99)+" "+strings.Repeat("y", 5000), "a")
	_, _, err = newRequest(t.Context(), d, testHeaders(), 1<<20, opened{})
	require.Error(t, err)
	assert.Less(t, len(err.Error()), 300, "a long name is cut")
}

func TestRequestBoundsCustomHeaders(t *testing.T) {
	t.Parallel()
	count := func(n int) []byte {
		pairs := []string{}
		for i := range n {
			pairs = append(pairs, fmt.Sprintf("X-%d", i), "v")
		}
		return custom(t, pairs...)
	}
	size := func(n int) []byte { return custom(t, "X-A", "1", "X-B", strings.Repeat("v", n-7)) }
	manySkipped := []string{"X-A", "1"}
	for range 200 {
		manySkipped = append(manySkipped, "", strings.Repeat("v", 1000))
	}
	for _, test := range []struct {
		name   string
		custom []byte
		err    string // empty: none
	}{
		{"49 headers", count(49), ""},
		{"50 headers", count(50), ""},
		{"51 headers", count(51), "51 headers, more than 50"},
		{"1000 headers", count(1000), "1000 headers, more than 50"},
		{"one byte below 16 KiB", size(16<<10 - 1), ""},
		{"16 KiB", size(16 << 10), ""},
		{"one byte over 16 KiB", size(16<<10 + 1), "more than 16384 bytes"},
		{"1 MiB", size(1 << 20), "more than 16384 bytes"},
		{"a name of 16 KiB", custom(t, strings.Repeat("n", 16<<10-1), "v"), ""},
		{"a name over 16 KiB", custom(t, strings.Repeat("n", 16<<10), "v"), "more than 16384 bytes"},
		{"entries that are skipped do not count", custom(t, manySkipped...), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := post("http://example.com/")
			d.CustomHeaders = test.custom
			r, _, err := newRequest(t.Context(), d, testHeaders(), 1<<20, opened{})
			if test.err != "" {
				require.ErrorContains(t, err, test.err)
				assert.Nil(t, r)
				return
			}
			require.NoError(t, err)
			received(t, r)
		})
	}
}

func TestRequestBody(t *testing.T) {
	t.Parallel()
	payloads := map[string]string{
		"object":               `{"a":1}`,
		"white space":          " \n{ \"a\" :\t1 } \r\n",
		"repeated keys":        `{"a":1,"a":2}`,
		"large number":         `{"n":123456789012345678901234567890.000100}`,
		"characters of HTML":   `{"h":"<&>"}`,
		"escapes":              `{"e":"\u00e9\/\ud83d\ude00"}`,
		"not ASCII":            `{"é":"→😀"}`,
		"null":                 `null`,
		"string":               `"x"`,
		"array":                `[1,2]`,
		"deep":                 strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000),
		"larger than a buffer": `"` + strings.Repeat("x", 300<<10) + `"`,
	}
	for name, payload := range payloads {
		for _, method := range []string{"POST", "PUT", "PATCH"} {
			t.Run(method+" "+name, func(t *testing.T) {
				t.Parallel()
				d := post("http://example.com/")
				d.Method, d.Payload = method, []byte(payload)
				got, body, _ := exchange(t, d, testHeaders())
				assert.Equal(t, method, got.Method)
				assert.Equal(t, int64(len(payload)), got.ContentLength)
				assert.Empty(t, got.TransferEncoding)
				assert.Equal(t, payload, string(body), "the body is the payload, byte for byte")
				assert.Equal(t, payload, string(d.Payload), "the payload stays as it is")
				assert.Equal(t, "application/json", got.Header.Get("Content-Type"))
			})
		}
		for _, method := range []string{"GET", "DELETE"} {
			t.Run(method+" "+name, func(t *testing.T) {
				t.Parallel()
				d := post("http://example.com/")
				d.Method, d.Payload = method, []byte(payload)
				r, _, err := newRequest(t.Context(), d, testHeaders(), 1<<20, opened{})
				require.NoError(t, err)
				got, body, wire := received(t, r)
				assert.Equal(t, method, got.Method)
				assert.Empty(t, body)
				assert.True(t, strings.HasSuffix(wire, "\r\n\r\n"), "nothing after the headers")
				assert.NotContains(t, wire, "Content-Length")
				assert.NotContains(t, wire, "Transfer-Encoding")
				assert.Equal(t, "application/json", got.Header.Get("Content-Type"))
				assert.Equal(t, testUUID, got.Header.Get("X-Riverhook-Delivery-Id"))
			})
		}
	}
}

func TestRequestBodyCanBeReadAgain(t *testing.T) {
	t.Parallel()
	r, _, err := newRequest(t.Context(), post("http://example.com/"), testHeaders(), 1<<20, opened{})
	require.NoError(t, err)
	for range 2 {
		again, err := r.GetBody()
		require.NoError(t, err)
		text, err := io.ReadAll(again)
		require.NoError(t, err)
		assert.JSONEq(t, `{"event":"call.done"}`, string(text))
	}
}

func TestRequestWithoutPayload(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
		d := post("http://example.com/")
		d.Method, d.Payload, d.PayloadBytes = method, nil, 2_000_000
		r, _, err := newRequest(t.Context(), d, testHeaders(), 1_048_576, opened{})
		require.Error(t, err, method)
		assert.Nil(t, r)
		assert.Contains(t, err.Error(), "RIVERHOOK_MAX_PAYLOAD=1048576", "the setting to change")
		assert.Contains(t, err.Error(), "2000000 bytes", "and by how much")
	}
}

func TestEndpointAccepted(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ endpoint, url, host, uri string }{
		{"http://example.com", "http://example.com", "example.com", "/"},
		{"https://example.com", "https://example.com", "example.com", "/"},
		{"HTTPS://Example.COM/Hook", "https://Example.COM/Hook", "Example.COM", "/Hook"},
		{"http://example.com/", "http://example.com/", "example.com", "/"},
		{"http://example.com:1/", "http://example.com:1/", "example.com:1", "/"},
		{"http://example.com:8080/a/b", "http://example.com:8080/a/b", "example.com:8080", "/a/b"},
		{"http://example.com:65535/", "http://example.com:65535/", "example.com:65535", "/"},
		{"http://example.com?x=1", "http://example.com?x=1", "example.com", "/?x=1"},
		{"http://example.com/?x=1&x=2&y=a%20b+c", "http://example.com/?x=1&x=2&y=a%20b+c", "example.com", "/?x=1&x=2&y=a%20b+c"},
		{"http://example.com/a%2Fb;c=d", "http://example.com/a%2Fb;c=d", "example.com", "/a%2Fb;c=d"},
		{"http://example.com/#part", "http://example.com/", "example.com", "/"},
		{"http://example.com/a?b=c#d%2Fe?f", "http://example.com/a?b=c", "example.com", "/a?b=c"},
		{"http://example.com#part", "http://example.com", "example.com", "/"},
		{"http://127.0.0.1:9000/", "http://127.0.0.1:9000/", "127.0.0.1:9000", "/"},
		{"http://[::1]/x", "http://[::1]/x", "[::1]", "/x"},
		{"https://[2001:db8::7]:8443/x", "https://[2001:db8::7]:8443/x", "[2001:db8::7]:8443", "/x"},
		{"http://localhost", "http://localhost", "localhost", "/"},
		{"http://under_score.example/", "http://under_score.example/", "under_score.example", "/"},
		{"http://example.com./", "http://example.com./", "example.com.", "/"},
		{"http://xn--bcher-kva.example/", "http://xn--bcher-kva.example/", "xn--bcher-kva.example", "/"},
		{"http://bücher.example/", "http://b%C3%BCcher.example/", "bücher.example", "/"},
		{"http://例え.テスト:81/", "http://%E4%BE%8B%E3%81%88.%E3%83%86%E3%82%B9%E3%83%88:81/", "例え.テスト:81", "/"},
		{"http://example.com/ü b", "http://example.com/%C3%BC%20b", "example.com", "/%C3%BC%20b"},
		{"http://example.com/@b:c", "http://example.com/@b:c", "example.com", "/@b:c"},
		{"http://example.com//a", "http://example.com//a", "example.com", "//a"},
	} {
		t.Run(test.endpoint, func(t *testing.T) {
			t.Parallel()
			got, err := delivery.ParseEndpoint(test.endpoint)
			require.NoError(t, err)
			assert.Equal(t, test.url, got.String())
			assert.Equal(t, test.host, got.Host)
			assert.Equal(t, test.uri, got.RequestURI())
			assert.Empty(t, got.Fragment)
			r, _, err := newRequest(t.Context(), post(test.endpoint), testHeaders(), 1<<20, opened{})
			require.NoError(t, err)
			assert.Equal(t, test.host, r.Host)
			require.NoError(t, r.Write(io.Discard))
		})
	}
}

// A host name that is not ASCII goes out in the spelling of the domain name system.
func TestEndpointIDNOnTheWire(t *testing.T) {
	t.Parallel()
	got, _, _ := exchange(t, post("http://bücher.example:81/"), testHeaders())
	assert.Equal(t, "xn--bcher-kva.example:81", got.Host)
}

var badEndpoints = []string{
	"", " ", "hunter2", "example.com", "example.com/hook?token=hunter2", "example.com:80/hunter2", "localhost:8080", "//example.com/hunter2",
	"/hunter2", "?hunter2", "#hunter2", ":", "://", "://example.com/hunter2",
	"http", "http:", "http:/", "http://", "https://", "http:///hunter2", "http:/example.com/hunter2", "http:example.com/hunter2", "http://?hunter2", "http://#hunter2",
	"ftp://example.com/hunter2", "file:///etc/passwd", "gopher://example.com/hunter2", "ws://example.com/hunter2", "unix:///run/hunter2.sock",
	"javascript:alert('hunter2')", "data:text/plain,hunter2", "mailto:hunter2@example.com", "httpx://example.com/hunter2", "http+unix://example.com/hunter2", "1http://example.com/hunter2",
	"http://user@example.com/", "http://user:hunter2@example.com/", "https://:hunter2@example.com/", "http://@example.com/hunter2", "http://:@example.com/hunter2", "http://hunter2@example.com:80/",
	"http://user:hunter2@", "http://user:hunter2@/x", "http://us er:hunter2@example.com/", "http://a@hunter2@example.com/", "http://user:hunter2@[::1]/",
	"http://:80/hunter2", "http://:/hunter2",
	"http://example.com:0/hunter2", "http://example.com:65536/hunter2", "http://example.com:99999999999999999999/hunter2", "http://example.com:-1/hunter2",
	"http://example.com:+80/hunter2", "http://example.com:abc/hunter2", "http://example.com:80:81/hunter2", "http://example.com: 80/hunter2", "http://example.com:8o/hunter2",
	"http://[::1/hunter2", "http://::1/hunter2", "http://[hunter2]/", "http://[]/hunter2", "http://[::1]80/hunter2", "http://[::1]:0/hunter2", "http://[::1]:65536/hunter2",
	"http://exam ple.com/hunter2", "http://example.com /hunter2", " http://example.com/hunter2", "\thttp://example.com/hunter2",
	"http://example.com\\hunter2", "http://example.com/\r\nHost: hunter2", "http://example.com/\nhunter2", "http://example.com/hunter2\n", "http://example.com/\x00hunter2",
	"http://example.com/\x7fhunter2", "http://exa\x00mple.com/hunter2", "http://example.com/%zz?hunter2", "http://example.com/%?hunter2", "http://example.com/hunter2%2",
	"http://%41.example.com/hunter2", "http://%00/hunter2", "http://exa%0d%0ample.com/hunter2", "http://exa%20mple.com/hunter2", "http://example.com%2fhunter2/", "http://exa^mple.com/hunter2", "http://exa{mple.com/hunter2", "http://exa|mple.com/hunter2",
}

func TestEndpointRejected(t *testing.T) {
	t.Parallel()
	require.GreaterOrEqual(t, len(badEndpoints), 40)
	for _, endpoint := range badEndpoints {
		t.Run(fmt.Sprintf("%q", endpoint), func(t *testing.T) {
			t.Parallel()
			got, err := delivery.ParseEndpoint(endpoint)
			require.Error(t, err)
			assert.Nil(t, got)
			_, _, fromRequest := newRequest(t.Context(), post(endpoint), testHeaders(), 1<<20, opened{})
			require.Error(t, fromRequest)
			assert.Equal(t, err.Error(), fromRequest.Error())
			for _, private := range []string{"hunter2", "example", "::1", "user:", "passwd", "99999", "65536", "\r", "\n", "\x00"} {
				assert.NotContains(t, err.Error(), private)
			}
			assert.Contains(t, err.Error(), "endpoint_url")
		})
	}
}

func TestEndpointErrorsSayWhy(t *testing.T) {
	t.Parallel()
	for endpoint, why := range map[string]string{
		"http://exam ple.com/":             "not a valid URL",
		"ftp://example.com/":               "http:// or https://",
		"example.com/hook":                 "http:// or https://",
		"http:///hook":                     "no host",
		"http://user:hunter2@example.com/": "credential",
		"http://example.com:65536/":        "port",
	} {
		_, err := delivery.ParseEndpoint(endpoint)
		require.ErrorContains(t, err, why, endpoint)
	}
}

// A host that no request can be written for is the row's fault: it must be found before anything is sent.
func TestEndpointWithImpossibleIDNIsRejected(t *testing.T) {
	t.Parallel()
	for _, endpoint := range []string{"http://xn--é/", "http://xn--é.example/", "http://www.xn--ü-/"} {
		r, _, err := newRequest(t.Context(), post(endpoint), testHeaders(), 1<<20, opened{})
		if err != nil {
			continue
		}
		assert.NoError(t, r.Write(io.Discard), "%s was accepted, but cannot be written", endpoint)
	}
}

// Whatever custom_headers hold: no panic, and what is accepted is one well-formed request that names this delivery.
func FuzzHeaders(f *testing.F) {
	f.Add(`[{"key":"X-A","value":"1"}]`, "X-B", "2", "run-7", "X-Riverhook-", false)
	f.Add(`null`, "Content-Type", "text/plain", "", "X-Dograh-", true)
	f.Add(`[{"key":"x-riverhook-delivery-id","value":"forged"}]`, "Transfer-Encoding", "chunked", "a\r\nb", "X-Riverhook-", false)
	f.Add(`[{"key":"Idempotency-Key","value":"k"},{"key":"host","value":"evil"}]`, "Content-Length", "3", "é", "X-Riverhook-", true)
	f.Add(`[{"key":"X-A","value":"a\r\nX-Evil: 1"}]`, ":authority", "\x00", "\x00", "X-Riverhook-", false)
	f.Add(`[{"key":1}]`, "X A", " \t ", "\u2028", "X", true)
	f.Add(`[[`, "Cookie", "\xff\xfe", "\xff", "X-", false)
	f.Fuzz(func(t *testing.T, customHeaders, name, value, run, prefix string, get bool) {
		if !regexp.MustCompile(`^[A-Za-z0-9-]{1,50}$`).MatchString(prefix) {
			prefix = "X-Riverhook-" // it is a setting, not a row's
		}
		for _, text := range [][]byte{[]byte(customHeaders), custom(t, name, value), custom(t, "X-First", "1", name, value, name, "again")} {
			d := post("http://example.com:8080/hook?x=1")
			d.CustomHeaders, d.WorkflowRunID = text, run
			wantBody := d.Payload
			if get {
				d.Method, wantBody = http.MethodGet, []byte{}
			}
			h := Headers{HeaderRules: delivery.HeaderRules{Prefix: prefix}, UserAgent: "riverhook/test"}
			r, _, err := newRequest(t.Context(), d, h, 1<<20, opened{})
			if err != nil {
				require.NotEmpty(t, err.Error())
				require.Nil(t, r)
				continue
			}
			got, body, wire := received(t, r)
			require.Equal(t, d.Method, got.Method)
			require.Equal(t, "example.com:8080", got.Host)
			require.Equal(t, "/hook?x=1", got.RequestURI)
			require.Equal(t, wantBody, body)
			require.Empty(t, got.TransferEncoding)
			require.False(t, got.Close)
			require.Equal(t, []string{testUUID}, got.Header.Values(prefix+"Delivery-Id"), "%q", wire)
			require.Equal(t, []string{"1"}, got.Header.Values(prefix+"Delivery-Attempt"), "%q", wire)
			require.Equal(t, []string{testUUID}, got.Header.Values("Webhook-Id"), "%q", wire)
			require.LessOrEqual(t, len(got.Header.Values(prefix+"Workflow-Run-Id")), 1, "%q", wire)
			require.Len(t, got.Header.Values("Content-Type"), 1, "%q", wire)
		}
	})
}

// Whatever endpoint_url holds: no panic, and a request for what is accepted can be written.
func FuzzEndpoint(f *testing.F) {
	for _, endpoint := range badEndpoints {
		f.Add(endpoint)
	}
	for _, endpoint := range []string{
		"http://example.com/", "https://example.com:8443/a?b=c#d", "http://[::1]:80/", "http://[fe80::1%25eth0]/", "http://bücher.example/",
		"http://①②⑦.⓪.⓪.①/", "http://a<b/", "http://%ff/", "http://.../", "http://a:/", "HTTP://A", "http://a/\u2028?\u2029#x",
	} {
		f.Add(endpoint)
	}
	f.Fuzz(func(t *testing.T, endpoint string) {
		target, err := delivery.ParseEndpoint(endpoint)
		r, _, errRequest := newRequest(t.Context(), post(endpoint), testHeaders(), 1<<20, opened{})
		if err != nil {
			require.Error(t, errRequest)
			require.NotEmpty(t, err.Error())
			require.Nil(t, target)
			return
		}
		require.NoError(t, errRequest)
		require.Contains(t, []string{"http", "https"}, target.Scheme)
		require.NotEmpty(t, target.Hostname())
		require.Nil(t, target.User)
		require.Empty(t, target.Fragment)
		var out bytes.Buffer
		require.NoError(t, r.Write(&out), "%q", endpoint)
		require.True(t, strings.HasPrefix(out.String(), "POST "+target.RequestURI()+" HTTP/1.1\r\nHost: "), "%q", out.String())
	})
}
