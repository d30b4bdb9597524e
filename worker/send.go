package worker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/credential"
	"github.com/riverhook/riverhook/delivery/egress"
	"github.com/riverhook/riverhook/delivery/failpoint"
	"github.com/riverhook/riverhook/delivery/signing"
	"github.com/riverhook/riverhook/delivery/store"
)

// maxResponseBody is how much of an answer is read and kept, in bytes.
const maxResponseBody = 8 << 10

// sent is what one attempt brought.
type sent struct {
	delivery.Observation
	body    []byte   // the beginning of the answer
	note    string   // how reading the answer ended, if not well; the outcome does not depend on it
	dropped []string // custom headers that were left out

	// interrupted: we ended it ourselves, so there is no outcome. untouched: and nothing can have gone out. Otherwise
	// unproven may say that it had to end because this node could not prove that it lives.
	interrupted, untouched, unproven bool
}

// send is one attempt: one request, under one deadline for all of it. The status line decides; how the body ends does not.
func (w *Worker) send(ctx context.Context, d *delivery.Delivery) (s sent) {
	begun := time.Now()
	traceparent, end := w.hooks.Trace(d)
	defer func() { end(s.Observation) }()
	defer func() {
		if p := recover(); p != nil {
			w.log.ErrorContext(ctx, "fault while sending", "delivery_id", d.ID, "panic", fmt.Sprint(p))
			s = failed(delivery.FailureInternal, fmt.Sprintf("fault of riverhook while sending: %v", p))
		}
	}()
	o, missing, err := w.open(d)
	if err != nil {
		return failed(delivery.FailureCredential, err.Error())
	}

	flight, attempt, over := w.inFlight(ctx)
	defer over()
	var connected, late atomic.Bool
	traced := httptrace.WithClientTrace(attempt, failpoint.Trace(&httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			// The process may have been stopped since the claim, and may be stopped again right here.
			if elapsed(begun) >= w.timeout || !w.presence.ProvenSince(begun) {
				late.Store(true)
				egress.BeginBefore(info.Conn, begun)
				flight.end()
				return
			}
			egress.BeginBefore(info.Conn, w.presence.until(begun.Add(w.timeout)))
			connected.Store(true)
			failpoint.Hit(failpoint.BeforeWrite)
		},
	}))
	r, dropped, err := newRequest(traced, d, w.headers, w.maxPayload, o)
	if err != nil {
		return failed(delivery.FailureInvalid, err.Error())
	}
	if missing != "" {
		dropped = append(dropped, missing)
	}
	if setTraceparent(r.Header, traceparent) {
		dropped = append(dropped, delivery.HeaderTraceparent)
	}
	w.logRequest(ctx, d, r)
	response, err := w.transport.RoundTrip(r)
	if err != nil {
		if late.Load() || errors.Is(err, egress.ErrLate) {
			return sent{interrupted: true, untouched: true}
		}
		if unproven := flight.unproven.Load(); unproven || ctx.Err() != nil {
			return sent{interrupted: true, untouched: !connected.Load(), unproven: unproven}
		}
		s = failed(w.classify(attempt, err, connected.Load()))
		s.Error = scrubber(r, o).String(s.Error)
		s.dropped = dropped
		return s
	}
	failpoint.Hit(failpoint.AfterResponse)
	defer func() { _ = response.Body.Close() }()

	if response.StatusCode < 100 {
		s = failed(delivery.FailureProtocol, fmt.Sprintf("the answer has no HTTP status: %03d", response.StatusCode))
		s.dropped = dropped
		return s
	}
	s.dropped = dropped
	s.StatusCode = response.StatusCode
	s.RetryAfter = response.Header.Get("Retry-After")
	if s.StatusCode != http.StatusSwitchingProtocols { // its body is the connection, which no deadline ends
		s.body, s.note = readBody(response.Body)
	}
	secrets := scrubber(r, o)
	s.body, s.note = secrets.Bytes(s.body), secrets.String(s.note)
	if s.StatusCode < 200 || s.StatusCode > 299 {
		s.Error = fmt.Sprintf("HTTP %d: %s", s.StatusCode, store.Text(string(s.body), 200))
	}
	return s
}

// open opens what of the delivery is sealed. missing names a credential that is sent without, where the settings say so.
// An error says what could not be opened: repairing that heals the delivery.
func (w *Worker) open(d *delivery.Delivery) (o opened, missing string, err error) {
	if d.CredentialUUID != "" {
		if o.credential, err = w.openCredential(d); err != nil && !w.missingCredential {
			return o, "", err
		}
		if err != nil {
			missing = "credential " + d.CredentialUUID
		}
	}
	for _, secret := range d.SigningSecrets {
		plain, err := w.keys.Open(secret.Cell, secret.UUID, d.OrganizationID)
		if err != nil {
			return o, "", fmt.Errorf("signing secret %s: %w", secret.UUID, err)
		}
		key, err := signing.ParseKey(string(plain))
		if err != nil {
			return o, "", fmt.Errorf("signing secret %s: %w", secret.UUID, err)
		}
		o.signing = append(o.signing, key)
	}
	return o, missing, nil
}

func (w *Worker) openCredential(d *delivery.Delivery) (credential.Credential, error) {
	if d.Credential.Type == "" {
		return credential.Credential{}, fmt.Errorf("organization %q has no credential %s", d.OrganizationID, d.CredentialUUID)
	}
	plain, err := w.keys.Open(d.Credential.Cell, d.CredentialUUID, d.OrganizationID)
	if err != nil {
		return credential.Credential{}, fmt.Errorf("credential %s: %w", d.CredentialUUID, err)
	}
	c, err := credential.Decode(plain)
	if err != nil {
		return credential.Credential{}, fmt.Errorf("credential %s: %w", d.CredentialUUID, err)
	}
	if name, _, ok := c.Header(); ok && w.headers.Identifies(name) { // it would be replaced by ours, or logged as ours
		return credential.Credential{}, fmt.Errorf("credential %s is for header %s, which is riverhook's own", d.CredentialUUID, name)
	}
	return c, nil
}

// scrubber takes out of an answer what the request was authorized and signed with: a receiver may echo it.
func scrubber(r *http.Request, o opened) *credential.Scrubber {
	secrets := o.credential.Secrets()
	for signature := range strings.FieldsSeq(r.Header.Get(signing.HeaderSignature)) {
		_, bare, _ := strings.Cut(signature, ",")
		secrets = append(secrets, credential.NewSecret(signature), credential.NewSecret(bare))
	}
	if len(secrets) == 0 {
		return nil // takes out nothing
	}
	return credential.NewScrubber(secrets...)
}

// logRequest is the line per request that RIVERHOOK_LOG_REQUESTS asks for.
func (w *Worker) logRequest(ctx context.Context, d *delivery.Delivery, r *http.Request) {
	if !w.logRequests {
		return
	}
	attrs := []slog.Attr{
		slog.Int64("delivery_id", d.ID), slog.Int("attempt", d.Attempt()), slog.String("method", r.Method),
		slog.String("endpoint_origin", d.Origin), slog.Any("headers", logHeaders(r.Header, w.headers.ours)),
	}
	if r.Body != nil {
		attrs = append(attrs, slog.String("payload", redactPayload(d.Payload)))
	}
	w.log.LogAttrs(ctx, slog.LevelInfo, "request", attrs...)
}

func failed(kind delivery.FailureKind, text string) sent {
	return sent{Observation: delivery.Observation{Failure: kind, Error: text}}
}

// readBody reads what is kept of an answer, and says how that ended if not at the answer's end.
func readBody(body io.Reader) (read []byte, note string) {
	read, err := io.ReadAll(io.LimitReader(body, maxResponseBody+1))
	switch {
	case len(read) > maxResponseBody:
		return read[:maxResponseBody], fmt.Sprintf("the answer is longer than %d bytes: the rest was not read", maxResponseBody)
	case errors.Is(err, context.DeadlineExceeded):
		return read, "the answer did not end before the timeout"
	case err != nil:
		return read, "the answer broke off: " + unquoted(err)
	}
	return read, ""
}

// classify names the failure of a request that had no answer, and says it without URL or address.
func (w *Worker) classify(attempt context.Context, err error, connected bool) (delivery.FailureKind, string) {
	var (
		dns         *net.DNSError
		network     net.Error
		op          *net.OpError
		certificate *tls.CertificateVerificationError
		blocked     *egress.BlockedError
		authority   x509.UnknownAuthorityError
		hostname    x509.HostnameError
		record      tls.RecordHeaderError
		alert       tls.AlertError
	)
	switch {
	case errors.As(err, &blocked):
		return delivery.FailureBlocked, blocked.Error()
	case errors.As(err, &dns):
		return delivery.FailureDNS, dnsText(dns)
	case attempt.Err() != nil || errors.As(err, &network) && network.Timeout():
		where := "while connecting"
		if connected {
			where = "while waiting for the answer"
		}
		return delivery.FailureTimeout, fmt.Sprintf("timeout after %s, %s", w.timeout.Round(time.Millisecond), where)
	case errors.Is(err, syscall.ECONNREFUSED):
		return delivery.FailureRefused, "connection refused"
	case errors.As(err, &hostname):
		return delivery.FailureTLS, "certificate not accepted: it is for another host name"
	case errors.As(err, &certificate):
		return delivery.FailureTLS, "certificate not accepted: " + innermost(certificate)
	case errors.As(err, &authority), errors.As(err, &record), errors.As(err, &alert), strings.HasPrefix(innermost(err), "tls: "):
		return delivery.FailureTLS, innermost(err)
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, net.ErrClosed), strings.HasPrefix(err.Error(), "http: server closed idle connection"):
		return delivery.FailureReset, "the connection was closed without an answer: " + innermost(err)
	case errors.As(err, &op) && op.Op == "dial":
		return delivery.FailureRefused, "no connection: " + innermost(err)
	case errors.As(err, &op):
		return delivery.FailureReset, "the connection broke: " + innermost(err)
	}
	if text := unquoted(err); !strings.Contains(text, "%!") {
		return delivery.FailureProtocol, text
	}
	return delivery.FailureProtocol, "the receiver answered before it was asked"
}

// quotation is what a receiver sent, as net/http repeats it.
var quotation = regexp.MustCompile(`"(?:[^"\\]|\\.)*("|$)`)

// unquoted is the innermost text without what it quotes: that is the receiver's, and no text of ours.
func unquoted(err error) string {
	return quotation.ReplaceAllString(innermost(err), `"..."`)
}

// dnsText says why a name did not resolve. Go's text may name the resolver.
func dnsText(err *net.DNSError) string {
	switch {
	case err.IsNotFound:
		return "the host name does not resolve: no such host"
	case err.IsTimeout:
		return "the host name does not resolve: its name server did not answer in time"
	}
	return "the host name does not resolve: its name server failed"
}

// innermost is the text of the deepest cause: the outer ones repeat it with addresses and URLs. Never empty.
func innermost(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			break
		}
		err = inner
	}
	if text := err.Error(); text != "" {
		return text
	}
	return fmt.Sprintf("%T", err)
}
