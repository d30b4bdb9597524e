package credential

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
)

const (
	// minAnywhere is the shortest secret that is scrubbed wherever it stands, in bytes. A shorter one would take ordinary
	// words apart.
	minAnywhere = 4
	// minTail is the shortest beginning of a secret that is scrubbed at a text's end, in bytes. "Bearer " is shorter.
	minTail = 8
	// maxLayers is how many encodings around each other are seen through.
	maxLayers = 2
)

// Scrubber takes secrets out of texts that came from elsewhere: a receiver may answer with what it was sent. It does not
// change and may be used by many goroutines. A nil Scrubber takes out nothing.
//
// A secret is found as it is, in base64 (either alphabet, padded or not, at each of the three places where it may begin
// within something longer), and, each of them, percent-encoded or escaped as in JSON, in whatever way these may be
// written, also one within the other. What was found is replaced by [REDACTED]; what overlaps, by one.
//
// A text may have been cut: if it ends with at least 8 bytes that one of these forms begins with, they are replaced too.
//
// Secrets shorter than 4 bytes are replaced only where they stand alone, with no ASCII letter or digit continuing them on
// either side, and not in base64: otherwise the password "a" would blacken every text. Empty ones are ignored.
//
// What is left does not contain a secret in any of these forms, not even with the replacement's help: where [REDACTED]
// itself could be a piece of a secret, another replacement is taken.
type Scrubber struct {
	_       [0]func()
	needles func() []needle // in a function, so that they cannot be printed
	spaces  bool            // a secret has a space, which may be written as +
	marker  string
}

// needle is one form of one secret.
type needle struct {
	text []byte
	// alone: only where it stands alone.
	alone bool
	// escaped: no need to look for it in what was decoded.
	escaped bool
	// of base64: a digit before, or after, that has some bits of the secret and some of its neighbour.
	sharesFirst, sharesLast bool
}

// NewScrubber makes a Scrubber of secrets.
func NewScrubber(secrets ...Secret) *Scrubber {
	s := &Scrubber{}
	var needles []needle
	add := func(n needle) {
		same := func(o needle) bool { return bytes.Equal(n.text, o.text) }
		if i := slices.IndexFunc(needles, same); i < 0 {
			needles = append(needles, n)
		} else {
			needles[i].alone = needles[i].alone && n.alone
			needles[i].escaped = needles[i].escaped && n.escaped
			needles[i].sharesFirst = needles[i].sharesFirst || n.sharesFirst
			needles[i].sharesLast = needles[i].sharesLast || n.sharesLast
		}
	}
	for _, secret := range secrets {
		text := secret.Reveal()
		if text == "" {
			continue
		}
		s.spaces = s.spaces || strings.Contains(text, " ")
		if len(text) < minAnywhere {
			add(needle{text: []byte(text), alone: true})
			continue
		}
		add(needle{text: []byte(text)})
		for _, escaped := range escapedForms(text) {
			add(needle{text: []byte(escaped), escaped: true})
		}
		for shift := range 3 {
			for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
				add(base64Needle(encoding, text, shift))
			}
		}
	}
	s.needles = func() []needle { return needles }
	s.marker = marker(needles)
	return s
}

// escapedForms are the usual ways to escape text. Decoding finds them anyway, unless what stands before them would be
// decoded together with their beginning.
func escapedForms(text string) []string {
	forms := []string{url.QueryEscape(text), url.PathEscape(text), lowerHex(url.QueryEscape(text)), lowerHex(url.PathEscape(text))}
	for _, html := range []bool{true, false} {
		var b bytes.Buffer
		encoder := json.NewEncoder(&b)
		encoder.SetEscapeHTML(html)
		if err := encoder.Encode(text); err == nil {
			forms = append(forms, strings.Trim(b.String(), "\n")[1:b.Len()-2])
		}
	}
	for _, page := range htmlForms {
		forms = append(forms, page.Replace(text))
	}
	return forms
}

// htmlForms are how error pages escape text.
var htmlForms = []*strings.Replacer{
	strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;"),
	strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;"),
	strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&#x27;"),
	strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&#39;"),
	strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&#34;", "'", "&#39;"),
}

// lowerHex writes the hexadecimal digits of percent-encoded text in lower case.
func lowerHex(escaped string) string {
	b := []byte(escaped)
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '%' {
			copy(b[i+1:], bytes.ToLower(b[i+1:i+3]))
		}
	}
	return string(b)
}

// base64Needle is what is the same in every base64 text in which the secret begins shift bytes after a multiple of three.
func base64Needle(encoding *base64.Encoding, text string, shift int) needle {
	encoded := encoding.AppendEncode(nil, append(make([]byte, shift, shift+len(text)), text...))
	n := needle{sharesFirst: shift > 0, sharesLast: (shift+len(text))%3 != 0}
	if shift > 0 {
		encoded = encoded[shift+1:]
	}
	if n.sharesLast {
		encoded = encoded[:len(encoded)-1]
	}
	n.text = encoded
	return n
}

// marker is [REDACTED], or else a replacement that cannot form one of needles together with what stands beside it.
func marker(needles []needle) string {
	clashes := func(m string) bool {
		return slices.ContainsFunc(needles, func(n needle) bool { return overlap(m, string(n.text)) })
	}
	if !clashes(Redacted) {
		return Redacted
	}
	for r := '█'; r < '█'+1000; r++ {
		if m := strings.Repeat(string(r), 3); !clashes(m) {
			return m
		}
	}
	return ""
}

// overlap says whether one of a and b is in the other, or one begins as the other ends.
func overlap(a, b string) bool {
	if strings.Contains(a, b) || strings.Contains(b, a) {
		return true
	}
	for i := 1; i < min(len(a), len(b)); i++ {
		if a[:i] == b[len(b)-i:] || b[:i] == a[len(a)-i:] {
			return true
		}
	}
	return false
}

// Bytes is text without secrets: text itself when there is none in it, otherwise a copy.
func (s *Scrubber) Bytes(text []byte) []byte {
	if s.IsEmpty() || len(text) == 0 {
		return text
	}
	w := workspaces.Get().(*workspace)
	defer workspaces.Put(w)
	scrubbed, _ := s.scrub(w, text)
	return scrubbed
}

// String is text without secrets.
func (s *Scrubber) String(text string) string {
	if s.IsEmpty() || text == "" {
		return text
	}
	w := workspaces.Get().(*workspace)
	defer workspaces.Put(w)
	w.copied = append(w.copied[:0], text...)
	scrubbed, found := s.scrub(w, w.copied)
	if !found {
		return text
	}
	return string(scrubbed)
}

// IsEmpty says whether there is nothing to take out.
func (s *Scrubber) IsEmpty() bool { return s == nil || s.needles == nil || len(s.needles()) == 0 }

// scrub repeats, because what was taken out may have hidden something: what a backslash before it belongs to, or whether a
// short secret stands alone. Each time there is less left that is not the marker.
func (s *Scrubber) scrub(w *workspace, text []byte) (scrubbed []byte, found bool) {
	for {
		w.found = w.found[:0]
		s.search(w, view{text: text}, 0, len(text))
		if len(w.found) == 0 {
			return text, found
		}
		found = true
		text = s.replace(text, w.found)
	}
}

// span is a piece of the text, from from on and before to.
type span struct{ from, to int }

func (s *Scrubber) replace(text []byte, spans []span) []byte {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	out := make([]byte, 0, len(text)+len(s.marker))
	at := 0
	for i := 0; i < len(spans); {
		whole := spans[i]
		for i++; i < len(spans) && spans[i].from <= whole.to; i++ {
			whole.to = max(whole.to, spans[i].to)
		}
		out = append(out, text[at:whole.from]...)
		out = append(out, s.marker...)
		at = whole.to
	}
	return append(out, text[at:]...)
}

// view is the text after some decoding. at[i] is where text[i] came from; at[len(text)] is the end, and is behind what was
// left out there: the first half of an escape. The text itself has no at.
type view struct {
	text []byte
	at   []int
}

func (v view) origin(i int) int {
	if v.at == nil {
		return i
	}
	return v.at[i]
}

// originEnd is where what ends before i ends: behind the whole escape, if that was decoded to more than one byte.
func (v view) originEnd(i int) int {
	for v.at != nil && i < len(v.text) && v.at[i] == v.at[i-1] {
		i++
	}
	return v.origin(i)
}

// workspace is what a search needs; a text without secrets leaves nothing behind.
type workspace struct {
	copied []byte
	views  [maxLayers]view
	found  []span
}

var workspaces = sync.Pool{New: func() any { return new(workspace) }}

// search appends to w.found what is to be replaced in v and in what v decodes to. end is the length of the whole text.
func (s *Scrubber) search(w *workspace, v view, layer, end int) {
	for _, n := range s.needles() {
		if n.escaped && layer > 0 {
			continue
		}
		w.found = n.appendMatches(w.found, v)
		if k := n.tail(v, end); k > 0 {
			w.found = append(w.found, span{v.origin(len(v.text) - k), end})
		}
	}
	if layer == maxLayers {
		return
	}
	for _, decode := range decoders {
		if bytes.IndexByte(v.text, decode.sign) < 0 || decode.sign == '+' && !s.spaces {
			continue
		}
		decoded := &w.views[layer]
		decoded.text, decoded.at = decoded.text[:0], decoded.at[:0]
		decode.into(decoded, v)
		decoded.at = append(decoded.at, end)
		if len(decoded.text) < len(v.text) || decode.sign == '+' {
			s.search(w, *decoded, layer+1, end)
		}
	}
}

// appendMatches appends where n is in v, overlapping ones too.
func (n needle) appendMatches(found []span, v view) []span {
	for from := 0; ; {
		i := bytes.Index(v.text[from:], n.text)
		if i < 0 {
			return found
		}
		i += from
		j := i + len(n.text)
		from = i + 1
		if n.alone && (continues(v.text, i) || continues(v.text, j)) {
			continue
		}
		if n.sharesFirst && i > 0 && isBase64(v.text[i-1]) {
			i--
		}
		if n.sharesLast && j < len(v.text) && isBase64(v.text[j]) {
			j++
		}
		for padding := 0; n.sharesLast && padding < 2 && j < len(v.text) && v.text[j] == '='; padding++ {
			j++
		}
		found = append(found, span{v.origin(i), v.originEnd(j)})
	}
}

// tail is how many bytes at the end of v are a beginning of n, and not all of it. 0 if there are none, or if they are too
// few in the text itself, which is end bytes long.
func (n needle) tail(v view, end int) int {
	if n.alone {
		return 0
	}
	for k := min(len(n.text)-1, len(v.text)); k > 0 && end-v.origin(len(v.text)-k) >= minTail; k-- {
		if n.text[k-1] == v.text[len(v.text)-1] && bytes.HasSuffix(v.text, n.text[:k]) {
			return k
		}
	}
	return 0
}

// continues says whether a word goes on across the place before text[i].
func continues(text []byte, i int) bool {
	return i > 0 && i < len(text) && isAlphanumeric(text[i-1]) && isAlphanumeric(text[i])
}

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func isBase64(c byte) bool {
	return isAlphanumeric(c) || c == '+' || c == '/' || c == '-' || c == '_'
}

// decoders undo one encoding each. Nothing is to be undone where the sign is missing.
var decoders = []struct {
	sign byte
	into func(dst *view, src view)
}{
	{'%', func(dst *view, src view) { decodePercent(dst, src, false) }},
	{'+', func(dst *view, src view) { decodePercent(dst, src, true) }}, // of a query, where a + is a space
	{'\\', decodeJSON},
}

func (v *view) put(c byte, at int) {
	v.text = append(v.text, c)
	v.at = append(v.at, at)
}

func decodePercent(dst *view, src view, query bool) {
	text := src.text
	for i := 0; i < len(text); i++ {
		c, at := text[i], src.origin(i)
		switch {
		case c == '%':
			value, n := hex(text[i+1:], 2)
			if i+1+n == len(text) && n < 2 {
				return // cut within the escape
			}
			if n == 2 {
				c = byte(value)
				i += 2
			}
		case c == '+' && query:
			c = ' '
		}
		dst.put(c, at)
	}
}

// jsonEscapes are those of one letter.
var jsonEscapes = map[byte]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

func decodeJSON(dst *view, src view) {
	text := src.text
	for i := 0; i < len(text); i++ {
		at := src.origin(i)
		if text[i] != '\\' {
			dst.put(text[i], at)
			continue
		}
		r, n, whole := jsonEscape(text[i:])
		if !whole {
			return // cut within the escape
		}
		if n == 0 {
			dst.put('\\', at)
			continue
		}
		var encoded [utf8.UTFMax]byte
		for _, c := range encoded[:utf8.EncodeRune(encoded[:], r)] {
			dst.put(c, at)
		}
		i += n - 1
	}
}

// jsonEscape reads the escape that text begins with: what it stands for, and how long it is. n is 0 when it is none; whole
// is false when the text ends within it.
func jsonEscape(text []byte) (r rune, n int, whole bool) {
	if len(text) < 2 {
		return 0, 0, false
	}
	if c, ok := jsonEscapes[text[1]]; ok {
		return rune(c), 2, true
	}
	if text[1] != 'u' {
		return 0, 0, true
	}
	value, digits := hex(text[2:], 4)
	if digits < 4 {
		return 0, 0, len(text) > 2+digits
	}
	r, n = rune(value), 6
	if r < 0xD800 || r > 0xDBFF {
		return r, n, true
	}
	// The first half of a pair.
	rest := text[n:]
	if len(rest) == 0 || len(rest) == 1 && rest[0] == '\\' {
		return 0, 0, false
	}
	if !bytes.HasPrefix(rest, []byte(`\u`)) {
		return utf8.RuneError, n, true
	}
	low, digits := hex(rest[2:], 4)
	if digits < 4 && len(rest) == 2+digits {
		return 0, 0, false
	}
	if digits < 4 || low < 0xDC00 || low > 0xDFFF {
		return utf8.RuneError, n, true
	}
	return (r-0xD800)<<10 + rune(low-0xDC00) + 0x10000, 12, true
}

// hex reads up to most hexadecimal digits at the beginning of text, and says how many there are.
func hex(text []byte, most int) (value uint32, n int) {
	for ; n < most && n < len(text); n++ {
		c := text[n]
		switch {
		case c >= '0' && c <= '9':
			value = value<<4 | uint32(c-'0')
		case c >= 'a' && c <= 'f':
			value = value<<4 | uint32(c-'a'+10)
		case c >= 'A' && c <= 'F':
			value = value<<4 | uint32(c-'A'+10)
		default:
			return value, n
		}
	}
	return value, n
}
