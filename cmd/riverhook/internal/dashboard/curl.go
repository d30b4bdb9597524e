package dashboard

import (
	"fmt"
	"net/http"
	"strings"
	"unicode/utf16"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
)

// maxCurl bounds a payload that a command line can hold, in bytes.
const maxCurl = 64 << 10

// curl is a command that sends the request by hand, without what authorizes it; note says what is missing. It is empty
// where none can be made. A shell takes every part of it for one word.
func curl(row store.Row, headers []delivery.Header) (command, note string) {
	target, err := delivery.ParseEndpoint(row.EndpointURL)
	switch {
	case err != nil:
		return "", "The endpoint is not one that can be requested."
	case row.Payload == nil || len(row.Payload) > maxCurl:
		return "", "The payload is too large for a command line."
	}
	lines := []string{"curl --globoff --request " + quote(row.HTTPMethod) + " --url " + quote(target.String())}
	typed := false
	for _, h := range headers {
		typed = typed || strings.EqualFold(h.Key, "Content-Type")
		lines = append(lines, "--header "+quote(h.Key+": "+h.Value))
	}
	if !typed {
		lines = append(lines, "--header 'Content-Type: application/json'")
	}
	switch row.HTTPMethod {
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		lines = append(lines, "--data-raw "+quote(escaped(row.Payload)))
	}
	note = "Without the headers that sign and identify the delivery"
	if row.CredentialUUID != nil {
		note += ", and without its credential"
	}
	return strings.Join(lines, " \\\n  "), note + "."
}

// quote is s as a shell takes it for one word.
func quote(s string) string { return "'" + strings.ReplaceAll(visible(s), "'", `'\''`) + "'" }

// escaped is JSON of the same meaning in which everything can be seen: what stands outside of its texts is white space, and
// in them every character may be an escape.
func escaped(payload []byte) string {
	var out strings.Builder
	for _, r := range string(payload) {
		switch {
		case r == '\r':
		case !hidden(r):
			out.WriteRune(r)
		default:
			for _, unit := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(&out, `\u%04x`, unit)
			}
		}
	}
	return out.String()
}
