package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/credential"
	"github.com/riverhook/riverhook/delivery/egress"
	"github.com/riverhook/riverhook/delivery/signing"
)

// Headers names what every request carries.
type Headers struct {
	delivery.HeaderRules
	UserAgent string // unless a custom header says otherwise
}

// ours says whether a header is one whose value may be logged: it identifies the delivery, and is no secret.
func (h Headers) ours(name string) bool {
	return h.Identifies(name) || strings.EqualFold(name, signing.HeaderID) || strings.EqualFold(name, signing.HeaderTimestamp)
}

// opened is what of a delivery was sealed.
type opened struct {
	credential credential.Credential
	signing    []signing.Key
}

// newRequest is the request of one attempt. dropped are the custom headers that were left out. An error means that the row
// cannot be sent as it is; it says why, without the URL.
func newRequest(ctx context.Context, d *delivery.Delivery, h Headers, maxPayload int, o opened) (r *http.Request, dropped []string, err error) {
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
	var body []byte
	switch d.Method {
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		body = d.Payload
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		r.Body, _ = r.GetBody()
		r.ContentLength = int64(len(body))
	}
	if dropped, err = setHeaders(r.Header, d, h, o.credential); err != nil {
		return nil, nil, err
	}
	sign(r.Header, d, body, o.signing, time.Now())
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

// setHeaders: Content-Type < credential < custom < ours, whatever their case; but a custom header never replaces the
// credential's. dropped are the names of custom headers that were left out.
func setHeaders(header http.Header, d *delivery.Delivery, h Headers, c credential.Credential) (dropped []string, err error) {
	header.Set("Content-Type", "application/json")
	header.Set("User-Agent", h.UserAgent)
	custom, dropped, err := h.Custom(d.CustomHeaders)
	if err != nil {
		return nil, err
	}
	authorized, value, ok := c.Header()
	if ok {
		header.Set(authorized, value.Reveal())
	}
	for _, one := range custom {
		if ok && strings.EqualFold(one.Key, authorized) {
			dropped = append(dropped, one.Key)
			continue
		}
		header.Set(one.Key, one.Value)
	}

	header.Set(h.Prefix+delivery.HeaderDeliveryID, d.UUID)
	header.Set(h.Prefix+delivery.HeaderAttempt, strconv.Itoa(d.Attempt()))
	if d.WorkflowRunID != "" {
		if delivery.ValidHeaderValue(d.WorkflowRunID) {
			header.Set(h.Prefix+delivery.HeaderWorkflowRunID, d.WorkflowRunID)
		} else {
			dropped = append(dropped, h.Prefix+delivery.HeaderWorkflowRunID)
		}
	}
	return dropped, nil
}

// setTraceparent sets ours, if there is one, and says whether it replaces a custom one.
func setTraceparent(header http.Header, traceparent string) (replaces bool) {
	if traceparent == "" {
		return false
	}
	replaces = header.Get(delivery.HeaderTraceparent) != ""
	header.Set(delivery.HeaderTraceparent, traceparent)
	return replaces
}

// sign adds the headers of Standard Webhooks: the id always, timestamp and signature where there is a key to sign with.
func sign(header http.Header, d *delivery.Delivery, body []byte, keys []signing.Key, at time.Time) {
	header.Set(signing.HeaderID, d.UUID)
	if len(keys) == 0 {
		return
	}
	header.Set(signing.HeaderTimestamp, signing.Timestamp(at))
	header.Set(signing.HeaderSignature, signing.Sign(d.UUID, at, body, keys...))
}
