package worker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// What stands in the log for what is left out.
const (
	redacted      = "[REDACTED]"
	redactedValue = `"` + redacted + `"`
	redactedText  = "[REDACTED: not JSON]"
	cutMark       = "[CUT]"
)

// Bounds of a payload in the log.
const (
	maxLogged      = 8000 // characters, before cutMark
	maxLoggedDepth = 200  // objects and arrays in each other; what is deeper is left out
)

// sensitive has the names of fields whose values are not logged, without their separators, and their plurals.
var sensitive = nameSet(
	"authorization", "cookie", "credential", "password", "passwd", "secret", "signature", "token",
	"api_key", "access_key", "private_key", "client_secret",
	"email", "phone", "telephone", "mobile", "address", "date_of_birth", "dob", "ssn",
	"card", "card_number", "credit_card", "pan", "cvv", "cvc",
	"callback_url", "redirect_uri",
	// Sensitive by one of their words already. Here for those who write them as one word: accesstoken, PHONENUMBER.
	"access_key_id", "access_token", "auth_token", "refresh_token", "credit_card_number", "debit_card",
	"email_address", "mobile_number", "phone_number",
)

// maxNameWords is how many words in a row are looked up as one name: three, and one more because acronyms with a plural s
// fall apart (callBackURLs has the words call, back, ur, ls).
const maxNameWords = 4

func nameSet(names ...string) map[string]bool {
	set := make(map[string]bool, 2*len(names))
	for _, name := range names {
		name = strings.ReplaceAll(name, "_", "")
		set[name] = true
		if strings.HasSuffix(name, "s") {
			name += "e"
		}
		set[name+"s"] = true
	}
	return set
}

// sensitiveName says whether the field's value is not for the log: whether one or more whole words of its name, in a row,
// are a sensitive name. Since words are joined for that, it does not matter how a name was split: api_key, apiKey, APIKey,
// "API key" and apikey are one, and so are SSN, SSNs and s.s.n.
func sensitiveName(name string) bool {
	var (
		lettersArray [64]byte
		startsArray  [16]int
		letters      = lettersArray[:0] // and digits, in lower case
		starts       = startsArray[:0]  // of the words in letters
	)
	for i := range len(name) {
		if !isAlphanumeric(name[i]) {
			continue
		}
		if beginsWord(name, i) {
			starts = append(starts, len(letters))
		}
		letters = append(letters, lower(name[i]))
	}
	starts = append(starts, len(letters))
	for from := range starts {
		for to := from + 1; to < len(starts) && to <= from+maxNameWords; to++ {
			if sensitive[string(letters[starts[from]:starts[to]])] {
				return true
			}
		}
	}
	return false
}

// beginsWord says whether the letter or digit at i is the first of a word. Digits are words of their own: cvv2, address1.
// What is not ASCII separates words; no sensitive name has any of it.
func beginsWord(name string, i int) bool {
	if i == 0 || !isAlphanumeric(name[i-1]) || isDigit(name[i-1]) != isDigit(name[i]) {
		return true
	}
	if !isUpper(name[i]) {
		return false
	}
	// In userAPIKey, the A follows a small letter, and the K is followed by one.
	return !isUpper(name[i-1]) || i+1 < len(name) && isLower(name[i+1])
}

func isDigit(c byte) bool        { return '0' <= c && c <= '9' }
func isUpper(c byte) bool        { return 'A' <= c && c <= 'Z' }
func isLower(c byte) bool        { return 'a' <= c && c <= 'z' }
func isAlphanumeric(c byte) bool { return isDigit(c) || isUpper(c) || isLower(c) }

func lower(c byte) byte {
	if isUpper(c) {
		return c + 'a' - 'A'
	}
	return c
}

// isWebURL says whether s is an http or https URL. Such URLs carry tokens and signatures in their query and path.
func isWebURL(s string) bool {
	s = strings.TrimLeftFunc(s, func(c rune) bool { return c == ' ' || !unicode.IsPrint(c) })
	for _, scheme := range []string{"http://", "https://"} {
		if len(s) >= len(scheme) && strings.EqualFold(s[:len(scheme)], scheme) {
			return true
		}
	}
	return false
}

// redactPayload is the payload for the log: on one line, without the values of sensitive fields and without URLs, and cut
// at 8,000 characters. Order, repeated fields and numbers stay as they were written. All of it is replaced if it is not
// JSON; what comes after the cut is not looked at.
func redactPayload(payload []byte) string {
	r := redactor{
		in:   json.NewDecoder(bytes.NewReader(payload)),
		out:  make([]byte, 0, min(len(payload), maxLogged)+len(cutMark)),
		left: maxLogged,
	}
	r.in.UseNumber()
	err := r.value(0)
	if err == nil {
		err = r.end()
	}
	switch {
	case err == nil:
		return string(r.out)
	case errors.Is(err, errFull):
		return string(append(r.out, cutMark...))
	}
	return redactedText
}

// redactor copies one JSON value, token by token. Its methods fail with errFull, or because the text is not JSON.
type redactor struct {
	in   *json.Decoder
	out  []byte
	left int // characters until out is full
}

// errFull ends the copying.
var errFull = errors.New("worker: redact: full")

// write adds text, all of it or nothing.
func (r *redactor) write(text string) error {
	n := utf8.RuneCountInString(text)
	if n > r.left {
		return errFull
	}
	r.left -= n
	r.out = append(r.out, text...)
	return nil
}

// end fails unless the text is at its end.
func (r *redactor) end() error {
	if _, err := r.in.Token(); !errors.Is(err, io.EOF) {
		return errors.New("worker: redact: something follows the value")
	}
	return nil
}

// value copies the next value, which is within depth objects and arrays.
func (r *redactor) value(depth int) error {
	token, err := r.in.Token()
	if err != nil {
		return err
	}
	switch token := token.(type) {
	case json.Delim:
		if depth < maxLoggedDepth {
			return r.inside(token, depth+1)
		}
		if err := r.write(redactedValue); err != nil {
			return err
		}
		return r.skip(1)
	case string:
		return r.quote(token)
	case json.Number:
		return r.write(token.String())
	case bool:
		return r.write(strconv.FormatBool(token))
	default:
		return r.write("null")
	}
}

// inside copies an object or array whose bracket has been read.
func (r *redactor) inside(open json.Delim, depth int) error {
	if err := r.write(open.String()); err != nil {
		return err
	}
	next, end := r.value, "]"
	if open == '{' {
		next, end = r.field, "}"
	}
	for separator := ""; r.in.More(); separator = "," {
		if err := r.write(separator); err != nil {
			return err
		}
		if err := next(depth); err != nil {
			return err
		}
	}
	if _, err := r.in.Token(); err != nil {
		return err
	}
	return r.write(end)
}

// field copies one field of an object.
func (r *redactor) field(depth int) error {
	token, err := r.in.Token()
	if err != nil {
		return err
	}
	name, ok := token.(string)
	if !ok {
		return errors.New("worker: redact: a field without a name")
	}
	if err := r.quote(name); err != nil {
		return err
	}
	if err := r.write(":"); err != nil {
		return err
	}
	if !sensitiveName(name) {
		return r.value(depth)
	}
	if err := r.write(redactedValue); err != nil {
		return err
	}
	return r.skip(0)
}

// skip reads on to the end of the next value, or if open brackets have been read, to the end of these.
func (r *redactor) skip(open int) error {
	for {
		token, err := r.in.Token()
		if err != nil {
			return err
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			open++
		case json.Delim('}'), json.Delim(']'):
			open--
		}
		if open == 0 {
			return nil
		}
	}
}

// quote copies a string, and no URL. What a terminal or a log reader may not show as it is, is escaped: control
// characters, line separators, marks that turn the direction of writing. An escape is not cut in two.
func (r *redactor) quote(s string) error {
	if isWebURL(s) {
		return r.write(redactedValue)
	}
	if err := r.write(`"`); err != nil {
		return err
	}
	for _, c := range s {
		switch {
		case c == '"' || c == '\\' || !unicode.IsPrint(c):
			if err := r.write(escape(c)); err != nil {
				return err
			}
		case r.left == 0:
			return errFull
		default:
			r.left--
			r.out = utf8.AppendRune(r.out, c)
		}
	}
	return r.write(`"`)
}

// escape is c, escaped for a JSON string.
func escape(c rune) string {
	switch {
	case c == '"' || c == '\\':
		return `\` + string(c)
	case c == '\n':
		return `\n`
	case c == '\r':
		return `\r`
	case c == '\t':
		return `\t`
	case c > 0xffff:
		high, low := utf16.EncodeRune(c)
		return fmt.Sprintf(`\u%04x\u%04x`, high, low)
	}
	return fmt.Sprintf(`\u%04x`, c)
}

// logHeaders is a header for the log: a group of all names, sorted, with the values of Content-Type and of those that ours
// says are ours.
func logHeaders(header http.Header, ours func(name string) bool) slog.Value {
	attrs := make([]slog.Attr, 0, len(header))
	for _, name := range slices.Sorted(maps.Keys(header)) {
		value := redacted
		if textproto.CanonicalMIMEHeaderKey(name) == "Content-Type" || ours(name) {
			value = strings.Join(header[name], ", ")
		}
		attrs = append(attrs, slog.String(name, value))
	}
	return slog.GroupValue(attrs...)
}
