package delivery

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/textproto"
	"strconv"
	"strings"
)

// Bounds of custom_headers.
const (
	maxHeaders     = 50
	maxHeaderBytes = 16 << 10
)

// The headers that identify a delivery, after HeaderRules.Prefix.
const (
	HeaderDeliveryID    = "Delivery-Id"
	HeaderAttempt       = "Delivery-Attempt"
	HeaderWorkflowRunID = "Workflow-Run-Id"
)

// HeaderRules say which custom headers a request may carry.
type HeaderRules struct {
	Prefix      string // of the headers that identify the delivery; default of the program "X-Riverhook-"
	SendSecrets bool   // send those whose name looks like a secret's; they belong into a credential
}

// Header is one entry of a row's custom_headers.
type Header struct{ Key, Value string }

var errHeaders = errors.New(`custom_headers is not an array of {"key": "...", "value": "..."}`)

// ParseHeaders reads custom_headers. An error means that the row cannot be sent as it is: anything but an array of
// objects with a string key and a string value. Nulls, no headers at all and missing keys or values are not errors; the
// entries with an empty key or value are left out.
func ParseHeaders(custom []byte) ([]Header, error) {
	if len(custom) == 0 {
		return nil, nil
	}
	var entries []struct {
		Key   *string `json:"key"`
		Value *string `json:"value"`
	}
	if err := json.Unmarshal(custom, &entries); err != nil {
		return nil, errHeaders
	}
	headers := make([]Header, 0, len(entries))
	for _, e := range entries {
		if e.Key != nil && e.Value != nil && *e.Key != "" && *e.Value != "" {
			headers = append(headers, Header{Key: *e.Key, Value: *e.Value})
		}
	}
	return headers, nil
}

// Custom sorts a row's custom_headers: what is sent, in their order, and the names of those that are dropped (ours, those of
// the connection and the framing, and those that look like a secret's). An error means that the row cannot be sent as it
// is; it names no value.
func (r HeaderRules) Custom(custom []byte) (send []Header, dropped []string, err error) {
	headers, err := ParseHeaders(custom)
	if err != nil {
		return nil, nil, err
	}
	if len(headers) > maxHeaders {
		return nil, nil, fmt.Errorf("custom_headers has %d headers, more than %d", len(headers), maxHeaders)
	}
	total := 0
	for _, h := range headers {
		total += len(h.Key) + len(h.Value)
		switch {
		case total > maxHeaderBytes:
			return nil, nil, fmt.Errorf("custom_headers has more than %d bytes", maxHeaderBytes)
		case !validToken(h.Key):
			return nil, nil, fmt.Errorf("custom_headers has a key that is no header name: %s", strconv.QuoteToASCII(cut(h.Key, 100)))
		case !ValidHeaderValue(h.Value):
			return nil, nil, fmt.Errorf("custom_headers has a value with control characters in it, for %s", cut(h.Key, 100))
		case neverCustom[dashed(h.Key)], r.Identifies(h.Key), !r.SendSecrets && secretHeader(h.Key):
			dropped = append(dropped, h.Key)
		default:
			send = append(send, h)
		}
	}
	return send, dropped, nil
}

// dashed is a header's name in its canonical form, with dashes for underscores: many receivers take the two for one.
func dashed(name string) string {
	return textproto.CanonicalMIMEHeaderKey(strings.ReplaceAll(name, "_", "-"))
}

// Identifies says whether name is one of the headers that identify the delivery.
func (r HeaderRules) Identifies(name string) bool {
	name = strings.ReplaceAll(name, "_", "-")
	if len(name) <= len(r.Prefix) || !strings.EqualFold(name[:len(r.Prefix)], r.Prefix) {
		return false
	}
	switch textproto.CanonicalMIMEHeaderKey(name[len(r.Prefix):]) {
	case HeaderDeliveryID, HeaderAttempt, HeaderWorkflowRunID:
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

// secretWords make a header's name look like a secret's, as whole words of it; so do "api key" and "access key".
var secretWords = map[string]bool{
	"authorization": true, "auth": true, "token": true, "secret": true, "password": true, "passwd": true, "cookie": true,
	"credential": true, "apikey": true,
}

// secretHeader says whether the header of that name looks like a secret, by whole words of it: X-Auth, not X-Author.
func secretHeader(name string) bool {
	before := ""
	for word := range strings.FieldsFuncSeq(strings.ToLower(name), func(c rune) bool { return c == '-' || c == '_' }) {
		if secretWords[word] || word == "key" && (before == "api" || before == "access") {
			return true
		}
		before = word
	}
	return false
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

// ValidHeaderValue says whether s can be the value of a header: no control character but the tab.
func ValidHeaderValue(s string) bool {
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
