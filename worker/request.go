package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"unicode"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/egress"
)

// Bounds of custom_headers.
const (
	maxHeaders     = 50
	maxHeaderBytes = 16 << 10
)

// Headers names what every request carries.
type Headers struct {
	Prefix    string // of the headers that identify the delivery; default "X-Riverhook-"
	UserAgent string // unless a custom header says otherwise
}

// The headers that identify the delivery, after the prefix.
const (
	headerDeliveryID    = "Delivery-Id"
	headerAttempt       = "Delivery-Attempt"
	headerWorkflowRunID = "Workflow-Run-Id"
)

// identifies says whether name is one of the headers that identify the delivery.
func (h Headers) identifies(name string) bool {
	if len(name) <= len(h.Prefix) || !strings.EqualFold(name[:len(h.Prefix)], h.Prefix) {
		return false
	}
	switch rest := textproto.CanonicalMIMEHeaderKey(name[len(h.Prefix):]); rest {
	case headerDeliveryID, headerAttempt, headerWorkflowRunID:
		return true
	}
	return false
}

// neverCustom are headers that belong to the connection, the framing or Standard Webhooks, not to a row.
var neverCustom = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Proxy-Connection": true, "Proxy-Authenticate": true, "Proxy-Authorization": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true, "Http2-Settings": true,
	"Content-Length": true, "Expect": true, "Host": true,
	"Webhook-Id": true, "Webhook-Timestamp": true, "Webhook-Signature": true,
}

// newRequest is the request of one attempt. dropped are the custom headers that were left out. An error means that the row
// cannot be sent as it is; it says why, without the URL.
func newRequest(ctx context.Context, d *delivery.Delivery, h Headers, maxPayload int) (r *http.Request, dropped []string, err error) {
	if d.Payload == nil {
		return nil, nil, fmt.Errorf("the payload is %d bytes long, more than RIVERHOOK_MAX_PAYLOAD=%d", d.PayloadBytes, maxPayload)
	}
	target, err := delivery.ParseEndpoint(d.EndpointURL)
	if err != nil {
		return nil, nil, err
	}
	if err := checkHostName(target); err != nil {
		return nil, nil, err
	}
	r = (&http.Request{
		Method: d.Method, URL: target, Host: target.Host, Header: make(http.Header, 8),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(ctx)
	switch d.Method {
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(d.Payload)), nil }
		r.Body, _ = r.GetBody()
		r.ContentLength = int64(len(d.Payload))
	}
	if dropped, err = setHeaders(r.Header, d, h); err != nil {
		return nil, nil, err
	}
	egress.Prepare(r)
	return r, dropped, nil
}

// checkHostName asks net/http itself whether it can write an international host name: what it cannot, would fail every
// attempt.
func checkHostName(target *url.URL) error {
	if strings.IndexFunc(target.Host, func(r rune) bool { return r > unicode.MaxASCII }) < 0 {
		return nil
	}
	probe := http.Request{Method: http.MethodGet, URL: target, Host: target.Host}
	if probe.Write(io.Discard) != nil {
		return errors.New("endpoint_url has a host name that is none")
	}
	return nil
}

// setHeaders: Content-Type < custom < ours, whatever their case. Credentials will come between the first two.
func setHeaders(header http.Header, d *delivery.Delivery, h Headers) (dropped []string, err error) {
	header.Set("Content-Type", "application/json")
	header.Set("User-Agent", h.UserAgent)
	custom, err := delivery.ParseHeaders(d.CustomHeaders)
	if err != nil {
		return nil, err
	}
	if len(custom) > maxHeaders {
		return nil, fmt.Errorf("custom_headers has %d headers, more than %d", len(custom), maxHeaders)
	}
	total := 0
	for _, c := range custom {
		total += len(c.Key) + len(c.Value)
		switch {
		case total > maxHeaderBytes:
			return nil, fmt.Errorf("custom_headers has more than %d bytes", maxHeaderBytes)
		case !validToken(c.Key):
			return nil, fmt.Errorf("custom_headers has a key that is no header name: %s", strconv.QuoteToASCII(cut(c.Key, 100)))
		case !validValue(c.Value):
			return nil, fmt.Errorf("custom_headers has a value with control characters in it, for %s", cut(c.Key, 100))
		case neverCustom[textproto.CanonicalMIMEHeaderKey(c.Key)], h.identifies(c.Key):
			dropped = append(dropped, c.Key)
		default:
			header.Set(c.Key, c.Value)
		}
	}

	header.Set(h.Prefix+headerDeliveryID, d.UUID)
	header.Set(h.Prefix+headerAttempt, strconv.Itoa(d.Attempt()))
	if d.WorkflowRunID != "" {
		if validValue(d.WorkflowRunID) {
			header.Set(h.Prefix+headerWorkflowRunID, d.WorkflowRunID)
		} else {
			dropped = append(dropped, h.Prefix+headerWorkflowRunID)
		}
	}
	header.Set("Webhook-Id", d.UUID)
	return dropped, nil
}

// validToken says whether s can be the name of a header (RFC 9110, token).
func validToken(s string) bool {
	const marks = "!#$%&'*+-.^_`|~"
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && strings.IndexByte(marks, c) < 0 {
			return false
		}
	}
	return s != ""
}

// validValue says whether s can be the value of a header: no control character but the tab.
func validValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// cut is the first n characters of s.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	if runes := []rune(s); len(runes) > n {
		return string(runes[:n])
	}
	return s
}
