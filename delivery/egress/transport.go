package egress

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"time"
)

// MaxResponseHeaderBytes bounds the headers of a response: a larger one is a protocol failure.
const MaxResponseHeaderBytes = 64 << 10

// idlePerOrigin and idleInAll bound the connections that are kept open between attempts, to one origin and altogether. A
// backlog goes to its receiver by the hundreds at a time: with 256, most of its connections were closed and dialled anew,
// which cost a fifth of the throughput and a quarter of the CPU time.
const idlePerOrigin, idleInAll = 1000, 4000

// connectTimeout bounds connecting, and then the TLS handshake. net/http lets both go on when the request that asked for
// them is over, for the sake of the next one: without a bound of their own, a receiver that does not answer would keep a
// connection for ever.
const connectTimeout = time.Minute

// Option changes what [NewTransport] makes.
type Option func(*dialer)

// WithResolver resolves names with resolver instead of net.DefaultResolver.
func WithResolver(resolver *net.Resolver) Option {
	return func(d *dialer) { d.Resolver = resolver }
}

// NewTransport is how requests go out: one request per call of RoundTrip, without a proxy from the environment, without
// cookies, without following redirects (a transport follows none) and without transparent decompression. The context of a
// request bounds all of it: name resolution, connecting, the TLS handshake, and reading the answer.
//
// The guard judges every address before it is dialled; nil is the zero [Guard], which allows public networks only. Where it
// refuses all addresses of a host, the error is a [*BlockedError]. Where a name does not resolve, it is a
// [*net.DNSError]. A connection that is kept open is used again without another verdict: it leads where it led.
//
// Prepare makes a request safe to hand to it.
func NewTransport(guard *Guard, options ...Option) *http.Transport {
	return &http.Transport{
		Proxy:                  nil,
		DialContext:            newDialer(guard, options...).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    connectTimeout,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    idlePerOrigin,
		MaxIdleConns:           idleInAll,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: MaxResponseHeaderBytes,
	}
}

// respelled are the header names at which net/http takes a request for safe to repeat, and what is sent instead.
var respelled = map[string]string{"Idempotency-Key": "idempotency-key", "X-Idempotency-Key": "x-idempotency-key"}

// Prepare keeps net/http from sending a request twice by itself. On a reused connection that the server closed without an
// answer it would, for a GET and for whatever carries an idempotency key: every send must be an attempt of its own. It
// looks for the key under its canonical spelling only, and header names have no case, so another spelling is as good for
// the receiver; and it does not repeat a request whose body it cannot rewind, even an empty one. Requests of which nothing was
// written yet still move to a fresh connection, all but a GET: that one fails as reset, and its delivery is retried.
func Prepare(r *http.Request) {
	for canonical, other := range respelled {
		if values, ok := r.Header[canonical]; ok {
			delete(r.Header, canonical)
			r.Header[other] = values
		}
	}
	if r.Method == http.MethodGet && r.Body == nil {
		r.Body, r.GetBody = emptyBody{}, nil
	}
}

// emptyBody is a body of no bytes that is not http.NoBody.
type emptyBody struct{}

func (emptyBody) Read([]byte) (int, error) { return 0, io.EOF }
func (emptyBody) Close() error             { return nil }
