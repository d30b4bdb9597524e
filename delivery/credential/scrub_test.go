package credential_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery/credential"
)

func scrubber(secrets ...string) *credential.Scrubber {
	all := []credential.Secret{}
	for _, s := range secrets {
		all = append(all, credential.NewSecret(s))
	}
	return credential.NewScrubber(all...)
}

func percentAll(text, format string) string {
	var b strings.Builder
	for _, c := range []byte(text) {
		fmt.Fprintf(&b, format, c)
	}
	return b.String()
}

func unicodeAll(text, format string) string {
	var b strings.Builder
	for _, r := range text {
		if r > 0xffff {
			r -= 0x10000
			fmt.Fprintf(&b, format+format, 0xD800+r>>10, 0xDC00+r&0x3ff)
			continue
		}
		fmt.Fprintf(&b, format, r)
	}
	return b.String()
}

func quoted(text string) string {
	b, err := json.Marshal(text)
	if err != nil {
		panic(err)
	}
	return string(b[1 : len(b)-1])
}

// forms are texts that a receiver might write instead of secret.
func forms(secret string) map[string]string {
	raw := []byte(secret)
	return map[string]string{
		"as is":                     secret,
		"base64":                    base64.StdEncoding.EncodeToString(raw),
		"base64, no padding":        base64.RawStdEncoding.EncodeToString(raw),
		"base64, URL":               base64.URLEncoding.EncodeToString(raw),
		"base64, URL, no padding":   base64.RawURLEncoding.EncodeToString(raw),
		"of a query":                url.QueryEscape(secret),
		"of a path":                 url.PathEscape(secret),
		"all percent, upper case":   percentAll(secret, "%%%02X"),
		"all percent, lower case":   percentAll(secret, "%%%02x"),
		"JSON":                      quoted(secret),
		"JSON, PHP":                 strings.ReplaceAll(quoted(secret), "/", `\/`),
		"JSON, all, lower case":     unicodeAll(secret, `\u%04x`),
		"JSON, all, upper case":     unicodeAll(secret, `\u%04X`),
		"JSON in JSON":              quoted(quoted(secret)),
		"percent twice":             url.QueryEscape(url.QueryEscape(secret)),
		"percent in JSON":           quoted(url.QueryEscape(secret)),
		"JSON in percent":           url.QueryEscape(quoted(secret)),
		"base64 in percent":         url.QueryEscape(base64.StdEncoding.EncodeToString(raw)),
		"base64 in JSON, PHP":       strings.ReplaceAll(base64.StdEncoding.EncodeToString(raw), "/", `\/`),
		"half of it percent":        secret[:len(secret)/2] + percentAll(secret[len(secret)/2:], "%%%02x"),
		"percent, upper and lower":  percentAll(secret[:len(secret)/2], "%%%02X") + percentAll(secret[len(secret)/2:], "%%%02x"),
		"query escapes, lower case": strings.NewReplacer("%2F", "%2f", "%3D", "%3d", "%2B", "%2b", "%3F", "%3f").Replace(url.QueryEscape(secret)),
	}
}

var scrubbed = []string{
	"hunter2!", "sk_live_4eC39HqLyjWDarjtT1zdP7dc", "a/b+c=d?e f&g", `quote"back\slash`, "schlüssel-東京-🌊", "Bearer t0k.en", "<b>&amp;</b>",
	"1234", "    x", "%41%42%43", "aaaaaaaa", "abababab", "ÿþýü>>>???", "[REDACTED]", "DACT", "]abc[", "x[", strings.Repeat("long secret/", 300),
}

func TestScrubForms(t *testing.T) {
	t.Parallel()
	for _, secret := range scrubbed {
		t.Run(secret[:min(len(secret), 20)], func(t *testing.T) {
			t.Parallel()
			s := scrubber(secret)
			for name, form := range forms(secret) {
				if len(secret) < 4 && name != "as is" || name == "half of it percent" && strings.Contains(secret, "%") {
					continue
				}
				for _, around := range [][2]string{{"", ""}, {"before ", " behind"}, {`{"a":"`, `","b":1}`}, {"?a=", "&b=1"}, {"(", ")"}, {"-", "\n"}} {
					text := around[0] + form + around[1]
					got := s.String(text)
					require.NotContains(t, got, form, name)
					require.NotContains(t, got, secret, name)
					require.Less(t, len(got), len(text)+24, name)
					if len(around[0]) > 1 && utf8.ValidString(text) { // what is not the secret stays
						require.True(t, strings.HasPrefix(got, around[0]), "%s: %q", name, got)
						require.True(t, strings.HasSuffix(got, around[1]), "%s: %q", name, got)
					}
					require.Equal(t, got, string(s.Bytes([]byte(text))), name)
					require.Equal(t, got, s.String(got), "there is nothing left to find: %s", name)
				}
			}
		})
	}
}

// In base64 of something longer, the secret begins at one of three places.
func TestScrubBase64OfMore(t *testing.T) {
	t.Parallel()
	for _, secret := range scrubbed {
		if len(secret) < 4 {
			continue
		}
		s := scrubber(secret)
		for before := range 7 {
			for after := range 5 {
				whole := strings.Repeat("u", before) + secret + strings.Repeat("~", after)
				for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
					encoded := encoding.EncodeToString([]byte(whole))
					got := s.String("x " + encoded + " y")
					require.NotContains(t, got, encoded)
					// All digits that have bits of the secret are gone.
					first, last := before*8/6, ((before+len(secret))*8+5)/6
					require.Equal(t, "x "+encoded[:first], got[:2+first])
					rest := encoded[last:]
					if strings.Trim(rest, "=") == "" {
						rest = "" // padding goes with what it is the padding of
					}
					rest += " y"
					require.True(t, strings.HasSuffix(got, rest), "%q %d %d %q", secret, before, after, got)
					require.LessOrEqual(t, len(got), 2+first+len("[REDACTED]")+len(rest)+2)
				}
			}
		}
	}
}

func TestScrub(t *testing.T) {
	t.Parallel()
	const r = "[REDACTED]"
	for _, test := range []struct {
		name    string
		secrets []string
		text    string
		want    string
	}{
		{"nothing to find", []string{"hunter2"}, "an answer", "an answer"},
		{"alone", []string{"hunter2"}, "hunter2", r},
		{"within a word", []string{"hunter2"}, "xhunter2y", "x" + r + "y"},
		{"twice", []string{"hunter2"}, "hunter2 hunter2", r + " " + r},
		{"touching", []string{"hunter2"}, "hunter2hunter2", r},
		{"overlapping itself", []string{"abcab"}, "xabcabcaby", "x" + r + "y"},
		{"overlapping another", []string{"abcdef", "efghij"}, "xabcdefghijy", "x" + r + "y"},
		{"one in the other", []string{"hunter2", "user:hunter2"}, "user:hunter2 hunter2", r + " " + r},
		{"another case is another secret", []string{"hunter2"}, "HUNTER2", "HUNTER2"},
		{"what is left does not join", []string{"abcd"}, "ababcdcd", "ab" + r + "cd"},
		{"not UTF-8 around it", []string{"hunter2"}, "\xff\x00hunter2\xfe", "\xff\x00" + r + "\xfe"},
		{"in JSON", []string{`a"b"c`}, `{"key":"a\"b\"c"}`, `{"key":"` + r + `"}`},
		{"a sign that is no escape", []string{"hunter2"}, `100%, \x, %zz, %, hunter2 \`, `100%, \x, %zz, %, ` + r + ` \`},
		{"percent before it", []string{"41hunter"}, "%41hunter", "%" + r},
		{"a digit of it belongs to an escape", []string{"1hunt er"}, "%41hunt+er", "%4" + r},
		{"a backslash before it", []string{`"hun"ter`}, `\\"hun\"ter"`, r + `"`},
		{"plus is a space", []string{"open sesame"}, "p=open+sesame&q=a+b", "p=" + r + "&q=a+b"},
		{"plus is plus without spaces", []string{"open+sesame"}, "open+sesame open sesame", r + " open sesame"},

		{"short, alone", []string{"abc"}, "abc", r},
		{"short, between", []string{"abc"}, "key=abc&x=1", "key=" + r + "&x=1"},
		{"short, quoted", []string{"abc"}, `{"key":"abc"}`, `{"key":"` + r + `"}`},
		{"short, in a word", []string{"abc"}, "abcd xabc 1abc abc1", "abcd xabc 1abc abc1"},
		{"short, within", []string{"a"}, "a banana is a fruit", r + " banana is " + r + " fruit"},
		{"short, with a sign", []string{"a-"}, "a-b ba- a-", r + "b ba- " + r},
		{"short, percent", []string{"a b"}, "x=a%20b&y=a+b", "x=" + r + "&y=" + r},
		{"short, not in base64", []string{"abc"}, "YWJj", "YWJj"},
		{"short, beside another", []string{"abc", "hunter2"}, "hunter2abc abc", r + r + " " + r},
		{"of four bytes", []string{"abcd"}, "xabcdy", "x" + r + "y"},
		{"of two letters and four bytes", []string{"éé"}, "xééy", "x" + r + "y"},

		{"cut, 8 bytes of it", []string{"0123456789"}, "text 01234567", "text " + r},
		{"cut, 9 bytes of it", []string{"0123456789"}, "text 012345678", "text " + r},
		{"cut, 7 bytes of it", []string{"0123456789"}, "text 0123456", "text 0123456"},
		{"cut, only that", []string{"0123456789"}, "01234567", r},
		{"cut, and more behind", []string{"0123456789"}, "01234567 ", "01234567 "},
		{"cut, the longest of two", []string{"0123456701234567x"}, "0123456701234567", r},
		{"cut, of a secret of 8", []string{"01234567"}, "0123456", "0123456"},
		{"cut, the scheme alone", []string{"Bearer t0k"}, "no Bearer ", "no Bearer "},
		{"cut, in base64", []string{"0123456789"}, "text MDEyMzQ1", "text " + r},
		{"cut, in percent", []string{"0123 456789"}, "q=0123%20456", "q=" + r},
		{"cut, in an escape of percent", []string{"01234567/9"}, "q=01234567%2", "q=" + r},
		{"cut, at the sign", []string{"01234567/9"}, "q=01234567%", "q=" + r},
		{"cut, in an escape of JSON", []string{`01234567é9`}, `{"k":"01234567\u00e`, `{"k":"` + r},
		{"cut, in half a pair", []string{`01234567🌊9`}, `{"k":"01234567\ud83c\udf`, `{"k":"` + r},
		{"cut, whole and begun", []string{"0123456789"}, "0123456789 0123456789 012345678", r + " " + r + " " + r},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := scrubber(test.secrets...)
			assert.Equal(t, test.want, s.String(test.text))
			assert.Equal(t, test.want, string(s.Bytes([]byte(test.text))))
		})
	}
}

// Where [REDACTED] would be, or help to write, a secret, something else stands.
func TestScrubMarker(t *testing.T) {
	t.Parallel()
	for secret, want := range map[string]string{
		"hunter2": "[REDACTED]", "red": "[REDACTED]", "REDACTION": "[REDACTED]",
		"RED": "███", "DACT": "███", "]abc": "███", "abc[": "███", "[REDACTED]": "███", "x[REDACTED]y": "███",
	} {
		assert.Equal(t, "a "+want+" b", scrubber(secret).String("a "+secret+" b"))
	}
	assert.Equal(t, "a ▉▉▉ b", scrubber("]█]█").String("a ]█]█ b"))
	assert.Equal(t, "[REDACTED]abc", scrubber("hunter2", "abcd").String("hunter2abc"))
	assert.NotContains(t, scrubber("hunter2", "]abc").String("hunter2abc"), "]abc")
}

func TestScrubLeavesItsInputAlone(t *testing.T) {
	t.Parallel()
	s := scrubber("hunter2", "a b c d")
	for _, text := range []string{"hunter2 and more", `{"a":"a\u0020b%20c+d"}`, "nothing %41 \\n"} {
		input := []byte(text)
		got := s.Bytes(input)
		assert.Equal(t, text, string(input))
		kept := bytes.Clone(got)
		s.String("another text, hunter2, that uses the same workspace %41")
		assert.Equal(t, kept, got)
	}
	input := []byte("nothing")
	assert.Same(t, &input[0], &s.Bytes(input)[0], "what has no secret is not copied")
}

func TestScrubNothing(t *testing.T) {
	t.Parallel()
	var none *credential.Scrubber
	for _, s := range []*credential.Scrubber{none, {}, scrubber(), scrubber(""), credential.NewScrubber(credential.Secret{})} {
		assert.True(t, s.IsEmpty())
		assert.Equal(t, "text", s.String("text"))
		assert.Equal(t, []byte("text"), s.Bytes([]byte("text")))
	}
	s := scrubber("hunter2")
	assert.False(t, s.IsEmpty())
	assert.Empty(t, s.String(""))
	assert.Nil(t, s.Bytes(nil))
}

func TestScrubberCannotPrint(t *testing.T) {
	t.Parallel()
	s := scrubber(hunter)
	for _, value := range []any{s, struct{ s *credential.Scrubber }{s}, struct{ S *credential.Scrubber }{s}} {
		assertSilent(t, value, spellings...)
	}
}

// The secrets of a credential are found in an echo of its request.
func TestScrubEcho(t *testing.T) {
	t.Parallel()
	c, err := credential.Parse(credential.TypeBasicAuth, "", []byte("shop:open sesame/é"))
	require.NoError(t, err)
	_, value, _ := c.Header()
	s := credential.NewScrubber(c.Secrets()...)
	got := s.String(`{"headers":{"Authorization":` + `"` + value.Reveal() + `"},"user":"shop","password":"open sesame\/\u00e9","url":"/?p=open+sesame%2f%c3%a9"}`)
	assert.JSONEq(t, `{"headers":{"Authorization":"[REDACTED]"},"user":"shop","password":"[REDACTED]","url":"/?p=[REDACTED]"}`, got)
}

func BenchmarkScrub(b *testing.B) {
	c, err := credential.Parse(credential.TypeBasicAuth, "", []byte("shop:open sesame/é"))
	require.NoError(b, err)
	repeated := strings.Repeat("a", 4000)
	for _, test := range []struct {
		name    string
		secrets []credential.Secret
		text    string
	}{
		{"short", c.Secrets(), "ok"},
		{"8 KiB", c.Secrets(), strings.Repeat("a plain answer. ", 512)},
		{"8 KiB with escapes", c.Secrets(), strings.Repeat(`{"a":"\u00e9 + %41"}`, 400)},
		{"8 KiB of secrets", c.Secrets(), strings.Repeat("open sesame/é, ", 512)},
		{"8 KiB of one letter", []credential.Secret{credential.NewSecret(repeated)}, repeated + repeated},
		{"8 KiB, nearly", []credential.Secret{credential.NewSecret(repeated + "b" + repeated[:90])}, repeated + repeated},
	} {
		s := credential.NewScrubber(test.secrets...)
		text := []byte(test.text)
		b.Run(test.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				s.Bytes(text)
			}
		})
	}
	b.Run("NewScrubber", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			credential.NewScrubber(c.Secrets()...)
		}
	})
}

// occursAlone says whether short stands in text as a word of its own.
func occursAlone(text, short string) bool {
	word := func(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
	for i := 0; i+len(short) <= len(text); i++ {
		j := i + len(short)
		if text[i:j] == short && (i == 0 || !word(text[i-1]) || !word(text[i])) && (j == len(text) || !word(text[j]) || !word(text[j-1])) {
			return true
		}
	}
	return false
}

func FuzzScrub(f *testing.F) {
	for i, secret := range scrubbed {
		f.Add(secret, scrubbed[(i+1)%len(scrubbed)], "before", "behind")
	}
	f.Add("abc", "hunter2", "hunter2", "abc")
	f.Add("é", "]x]x", "\\", "\\")
	f.Add("a+b c", "1234 5", "%4", "%")
	f.Fuzz(func(t *testing.T, one, two, before, behind string) {
		if len(one)+len(two)+len(before)+len(behind) > 4000 {
			return
		}
		s := scrubber(one, two)
		for _, secret := range []string{one, two} {
			encoded := map[string]string{"as is": secret}
			if len(secret) >= 4 {
				encoded["base64"] = base64.StdEncoding.EncodeToString([]byte(secret))
				encoded["base64, URL"] = base64.RawURLEncoding.EncodeToString([]byte(secret))
				encoded["query"] = url.QueryEscape(secret)
				encoded["path"] = url.PathEscape(secret)
				encoded["percent, upper"] = percentAll(secret, "%%%02X")
				encoded["percent, lower"] = percentAll(secret, "%%%02x")
				if utf8.ValidString(secret) {
					encoded["JSON"] = quoted(secret)
				}
			}
			for name, form := range encoded {
				text := before + form + behind
				got := s.String(text)
				for _, secret := range []string{one, two} {
					switch {
					case len(secret) >= 4:
						require.NotContains(t, got, secret, name)
					case secret != "":
						require.False(t, occursAlone(got, secret), name)
					}
				}
				if len(secret) >= 4 {
					require.NotContains(t, got, form, name)
				}
				require.Equal(t, got, s.String(got), name)
				require.Equal(t, got, string(s.Bytes([]byte(text))), name)

				// Cut anywhere behind its eighth byte, it is not told either.
				if len(secret) >= 4 && len(form) > 8 {
					cut := before + form[:8+len(behind)%(len(form)-8)]
					require.False(t, strings.HasSuffix(s.String(cut), form[:8]), name)
				}
			}
			if len(secret) >= 4 {
				whole := base64.StdEncoding.EncodeToString([]byte(before + secret + behind))
				first, last := (len(before)*8+5)/6, (len(before)+len(secret))*8/6
				require.NotContains(t, s.String(whole), whole[first:last])
			}
		}
	})
}
