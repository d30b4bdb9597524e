package dashboard

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html/template"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
)

// functions are what the templates call.
var functions = template.FuncMap{
	"ago": ago, "until": until, "stamp": stamp, "iso": iso, "number": number, "length": length, "millis": millis, "percent": percent,
	"text": text, "visible": visible, "short": func(n int, s string) string { return visible(cut(s, n)) }, "word": word, "because": because,
	"held": func(h *heldBack, now time.Time) heldData { return heldData{h, now} }, "state": state, "paused": paused, "body": body, "life": life,
	"of":    func(counts map[delivery.Status]int64, status string) int64 { return counts[delivery.Status(status)] },
	"query": query,
}

// query is what stands behind the question mark of an address: names and values by turns, those without a value left out.
func query(pairs ...string) template.URL {
	values := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			values.Set(pairs[i], pairs[i+1])
		}
	}
	return template.URL(values.Encode()) //nolint:gosec // it is escaped: a string would be once more
}

// text is what a pointer points to; empty: nothing.
func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// cut is the first n characters of s.
func cut(s string, n int) string {
	if len(s) <= n || utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n]) + "…"
}

// visible is what somebody else wrote as text that does nothing: no control character, nothing that turns the direction of
// what follows, nothing that cannot be seen.
func visible(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	plain := true
	for _, r := range s {
		if hidden(r) {
			plain = false
			break
		}
	}
	if plain {
		return s
	}
	var out strings.Builder
	for _, r := range s {
		switch {
		case !hidden(r):
			out.WriteRune(r)
		case r < ' ':
			out.WriteRune('\u2400' + r)
		case r == 0x7f:
			out.WriteRune('\u2421')
		default:
			fmt.Fprintf(&out, "[U+%04X]", r)
		}
	}
	return out.String()
}

// hidden says whether a character cannot be seen, or moves others.
func hidden(r rune) bool {
	const zeroWidthJoiner = '\u200d' // of emojis and scripts
	return r != '\n' && r != '\t' && unicode.IsControl(r) || unicode.Is(unicode.Cf, r) && r != zeroWidthJoiner || r == '\u2028' || r == '\u2029'
}

// maxShown bounds what a page shows of a payload, in bytes.
const maxShown = 256 << 10

// pretty is JSON on lines of its own, otherwise as it is; more is true when it is not all of it.
func pretty(payload []byte) (shown string, more bool) {
	var out bytes.Buffer
	if len(payload) <= maxShown && json.Indent(&out, payload, "", "  ") == nil && out.Len() <= 4*maxShown {
		payload = out.Bytes()
	} else if len(payload) > maxShown {
		payload, more = payload[:maxShown], true
	}
	return visible(string(payload)), more
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") }
func iso(t time.Time) string   { return t.UTC().Format(time.RFC3339Nano) }

// ago is how long before now a time is.
func ago(now, t time.Time) string {
	d := now.Sub(t)
	switch {
	case d < -2*time.Second:
		return "in " + roughly(-d)
	case d < 2*time.Second:
		return "just now"
	}
	return roughly(d) + " ago"
}

// until is how long after now a time is.
func until(now, t time.Time) string {
	if d := t.Sub(now); d > time.Second {
		return "in " + length(d)
	}
	return "now"
}

// length is a time in two units at most.
func length(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return "0 ms"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return two(int(d.Minutes()), "min", int(d.Seconds())%60, "s")
	case d < 48*time.Hour:
		return two(int(d.Hours()), "h", int(d.Minutes())%60, "min")
	}
	return two(int(d.Hours())/24, "d", int(d.Hours())%24, "h")
}

// roughly is a time in one unit.
func roughly(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d d", int(d.Hours())/24)
}

func two(a int, unit string, b int, smaller string) string {
	if b == 0 || a >= 10 {
		return fmt.Sprintf("%d %s", a, unit)
	}
	return fmt.Sprintf("%d %s %d %s", a, unit, b, smaller)
}

func millis(ms *int) string {
	if ms == nil {
		return "unknown"
	}
	return length(time.Duration(*ms) * time.Millisecond)
}

func retryAfter(d time.Duration) string { return strconv.Itoa(int(d.Seconds()) + 1) }

// number is a number in groups of three.
func number(n any) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// percent is a share.
func percent(part, whole int64) string {
	switch {
	case whole == 0 || part == 0:
		return "0 %"
	case part*1000 < whole:
		return "< 0.1 %"
	case part*10 < whole:
		return strconv.FormatFloat(100*float64(part)/float64(whole), 'f', 1, 64) + " %"
	}
	return fmt.Sprintf("%d %%", 100*part/whole)
}

// word is a status, an outcome or a reason for people.
func word(v any) string {
	if pointer, ok := v.(*string); ok {
		v = text(pointer)
	}
	switch s := fmt.Sprint(v); s {
	case string(delivery.StatusDeadLetter):
		return "dead letter"
	case "no_answer":
		return "no answer"
	default:
		return s
	}
}

// because says in words what a held_reason means.
func because(reason string) string {
	switch reason {
	case "paused":
		return "paused by hand"
	case "no_answer":
		return "the receiver does not answer: few at a time until it does"
	case "failing":
		return "every attempt at the receiver fails: a few a second until one succeeds"
	case "crowded":
		return "the receiver has its share of the attempts in flight: others begin as those end"
	}
	return reason
}

// stateOf is where a delivery stands: its status, and of a pending one, what it waits for.
type stateOf struct{ Class, Word string }

func state(r store.Row) stateOf {
	switch {
	case r.Status != delivery.StatusPending:
		return stateOf{string(r.Status), word(r.Status)}
	case r.ClaimedBy != nil:
		return stateOf{"sending", "sending"}
	case r.HeldSince != nil:
		return stateOf{"held", "held back"}
	case r.ScheduledFor != nil && r.ScheduledFor.After(r.Now) && r.AttemptCount > 0:
		return stateOf{"retrying", "retrying"}
	case r.ScheduledFor != nil && r.ScheduledFor.After(r.Now):
		return stateOf{"pending", "scheduled"}
	}
	return stateOf{"pending", "due"}
}

// body is what a receiver answered, as text.
func body(raw []byte) string { return visible(string(raw)) }

// heldData is what the table of what is held back needs.
type heldData struct {
	Held *heldBack
	Now  time.Time
}

// life says whether a node is there, in the words of riverhook status.
func life(n store.NodeRow) stateOf {
	switch {
	case n.DeadAt != nil:
		return stateOf{"dead_letter", "dead"}
	case n.Now.Sub(n.SeenAt) > store.NodeSilentAfter:
		return stateOf{"held", "silent"}
	}
	return stateOf{"succeeded", "alive"}
}
