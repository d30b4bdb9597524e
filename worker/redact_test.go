package worker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fieldNames are the names in testdata/redact/fields.txt, in order, and whether the value of each is left out.
func fieldNames(t testing.TB) (names []string, hidden map[string]bool) {
	t.Helper()
	text, err := os.ReadFile("../testdata/redact/fields.txt")
	require.NoError(t, err)
	hidden = map[string]bool{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		verdict, name, _ := strings.Cut(line, " ")
		if strings.HasPrefix(name, `"`) {
			name, err = strconv.Unquote(name)
			require.NoError(t, err, "%s", line)
		}
		require.Contains(t, []string{"hide", "show"}, verdict, "%s", line)
		require.NotContains(t, hidden, name, "a name stands there once")
		names = append(names, name)
		hidden[name] = verdict == "hide"
	}
	return names, hidden
}

// object is the text of an object with one field.
func object(t testing.TB, name, value string) string {
	t.Helper()
	quoted, err := json.Marshal(name)
	require.NoError(t, err)
	return fmt.Sprintf(`{%s:%s}`, quoted, value)
}

func TestRedactFieldNames(t *testing.T) {
	t.Parallel()
	names, hidden := fieldNames(t)
	require.Greater(t, len(names), 150)
	for _, name := range names {
		assert.Equal(t, hidden[name], sensitiveName(name), "%q", name)
		out := redactPayload([]byte(object(t, name, `"hunter2"`)))
		if hidden[name] {
			assert.True(t, strings.HasSuffix(out, `:"[REDACTED]"}`), "%q: %s", name, out)
		} else {
			assert.True(t, strings.HasSuffix(out, `:"hunter2"}`), "%q: %s", name, out)
		}
	}
}

func TestRedactLongFieldName(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("aB2_", 1<<16)
	assert.False(t, sensitiveName(long))
	assert.True(t, sensitiveName(long+"api_key"))
	assert.True(t, sensitiveName("apiKey_"+long))
}

func TestRedactGoldenPayloads(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../testdata/redact/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			payload, err := os.ReadFile(file)
			require.NoError(t, err)
			want, err := os.ReadFile(strings.TrimSuffix(file, ".json") + ".want")
			require.NoError(t, err)
			out := redactPayload(payload)
			assert.Equal(t, strings.TrimSuffix(string(want), "\n"), out)
			wellFormed(t, out)
		})
	}
}

func TestRedactPayload(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ payload, want string }{
		{`"only names tell: hunter2"`, `"only names tell: hunter2"`},
		{`"https://example.com/hooks/abc"`, redactedValue},
		{" -12.50\n", "-12.50"},
		{"null", "null"},
		{"true", "true"},
		{"{ }", "{}"},
		{"[ ]", "[]"},
		{`""`, `""`},
		{"\"a\xffb\xc3\"", `"a` + "\ufffd" + `b` + "\ufffd" + `"`},
		{"{\"pass\xffword\":\"hunter2\"}", `{"pass` + "\ufffd" + `word":"[REDACTED]"}`},

		{"", redactedText},
		{" ", redactedText},
		{"password=hunter2&order=1", redactedText},
		{"<password>hunter2</password>", redactedText},
		{"\ufeff{}", redactedText},
		{"\x00", redactedText},
		{`{"order":1,"password":"hunter2`, redactedText},
		{`{"order":1,"password":"hunter2"`, redactedText},
		{`{"order":1,"password":`, redactedText},
		{`{"order":1,"password"`, redactedText},
		{`{"order":1,"password":}`, redactedText},
		{`{"order":1,"password":{"a":1]}`, redactedText},
		{`{"order":1,}`, redactedText},
		{`{"order" 1}`, redactedText},
		{`{1:1}`, redactedText},
		{`{"a":1]`, redactedText},
		{`[1}`, redactedText},
		{`[1,]`, redactedText},
		{`[,1]`, redactedText},
		{`[1 2]`, redactedText},
		{`]`, redactedText},
		{`{} {}`, redactedText},
		{`{}]`, redactedText},
		{`1 2`, redactedText},
		{`"a",`, redactedText},
		{`NaN`, redactedText},
		{`01`, redactedText},
		{`'hunter2'`, redactedText},
		{"\"a\nb\"", redactedText},
		{`"\x"`, redactedText},
	} {
		assert.Equal(t, test.want, redactPayload([]byte(test.payload)), "%q", test.payload)
	}
	assert.Equal(t, redactedText, redactPayload(nil))
}

func TestRedactIsCut(t *testing.T) {
	t.Parallel()
	fill := func(n int) string { return strings.Repeat("é", n) }
	for _, test := range []struct{ name, payload, want string }{
		{"it fits", `"` + fill(7998) + `"`, `"` + fill(7998) + `"`},
		{"the quote does not fit", `"` + fill(7999) + `"`, `"` + fill(7999) + cutMark},
		{"in a string", `"` + fill(9000) + `"`, `"` + fill(7999) + cutMark},
		{"before an escape", `"` + fill(7994) + `\u0000"`, `"` + fill(7994) + cutMark},
		{"behind an escape", `"` + fill(7993) + `\u0000"`, `"` + fill(7993) + `\u0000` + cutMark},
		{"before a number", `["` + fill(7990) + `",12345678]`, `["` + fill(7990) + `",` + cutMark},
		{"before a secret", `{"a":"` + fill(7970) + `","password":"hunter2"}`, `{"a":"` + fill(7970) + `","password":` + cutMark},
		{"before a URL", `["` + fill(7990) + `","https://x/"]`, `["` + fill(7990) + `",` + cutMark},
		{"in a name", `{"a":"` + fill(7987) + `","password":"hunter2"}`, `{"a":"` + fill(7987) + `","pass` + cutMark},
		{"before the last bracket", `["` + fill(7997) + `"]`, `["` + fill(7997) + `"` + cutMark},
		// Redaction comes first: what is left out does not count.
		{"a long secret", `{"password":"` + fill(9000) + `","a":1}`, `{"password":"[REDACTED]","a":1}`},
		{"a long URL", `["https://` + fill(9000) + `",1]`, `["[REDACTED]",1]`},
		// A full text that is not JSON is still not shown.
		{"something follows", `"` + fill(7998) + `" password=hunter2`, redactedText},
		{"a string without end", `"` + fill(9000), redactedText},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			out := redactPayload([]byte(test.payload))
			assert.Equal(t, test.want, out)
			wellFormed(t, out)
		})
	}
}

// What is not JSON at its end is found out only by reading on to there.
func TestRedactStopsAtTheCut(t *testing.T) {
	t.Parallel()
	payload := "[" + strings.Repeat("1,", 1<<20) + "!"
	out := redactPayload([]byte(payload))
	assert.Equal(t, payload[:maxLogged]+cutMark, out)
	assert.Equal(t, redactedText, redactPayload([]byte("["+strings.Repeat("1,", 100)+"!")))
}

func TestRedactDepth(t *testing.T) {
	t.Parallel()
	nested := func(depth int, open, inner, end string) string {
		return strings.Repeat(open, depth) + inner + strings.Repeat(end, depth)
	}
	for _, test := range []struct{ name, payload, want string }{
		{"arrays", nested(200, "[", "1", "]"), nested(200, "[", "1", "]")},
		{"one array too many", nested(201, "[", "1", "]"), nested(200, "[", redactedValue, "]")},
		{"objects", nested(200, `{"a":`, "1", "}"), nested(200, `{"a":`, "1", "}")},
		{"one object too many", nested(201, `{"a":`, "1", "}"), nested(200, `{"a":`, redactedValue, "}")},
		{"what follows is there", nested(200, "[", `{"a":[{}]},2`, "]"), nested(200, "[", redactedValue+",2", "]")},
		{"a secret at the end", nested(200, `{"a":`, `1,"password":"hunter2"`, "}"), nested(200, `{"a":`, `1,"password":"[REDACTED]"`, "}")},
		{"far too many", nested(100_000, "[", "1", "]"), nested(200, "[", redactedValue, "]")},
		{"far too many, without end", strings.Repeat("[", 100_000), redactedText},
		{"far too many in a secret", `{"password":` + nested(100_000, "[", "1", "]") + `}`, `{"password":"[REDACTED]"}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			out := redactPayload([]byte(test.payload))
			assert.Equal(t, test.want, out)
			wellFormed(t, out)
		})
	}
}

// wellFormed asserts what holds for every payload in the log.
func wellFormed(t testing.TB, out string) {
	t.Helper()
	assert.True(t, utf8.ValidString(out), "%q", out)
	assert.Equal(t, -1, strings.IndexFunc(out, func(c rune) bool { return !unicode.IsPrint(c) }), "one line of text: %q", out)
	if out == redactedText {
		return
	}
	text, isCut := strings.CutSuffix(out, cutMark)
	assert.LessOrEqual(t, utf8.RuneCountInString(text), maxLogged)
	if !isCut {
		assert.True(t, json.Valid([]byte(out)) || strings.Count(out, "{")+strings.Count(out, "[") > 10_000, "%s", out)
		assert.Equal(t, out, redactPayload([]byte(out)), "there is nothing left to redact")
	}
}

const planted = "c4n4ry-7d1e" // what the fuzz target hides

// plantedValues hold planted in every kind of value that can hold text, and deep enough to be left out for its depth.
var plantedValues = []string{
	`"` + planted + `"`,
	`"https://` + planted + `/"`,
	`{"a":"` + planted + `"}`,
	`{"` + planted + `":1,"b":[]}`,
	`[[1,"` + planted + `"],{}]`,
	`{"a":{"a":[{"a":"\"\\` + planted + `"}]},"token":"` + planted + `"}`,
	strings.Repeat("[", 300) + `"` + planted + `"` + strings.Repeat("]", 300),
	`"` + strings.Repeat(planted, 1000) + `"`,
}

// plant adds the field to one of the document's objects, or makes an object of both. It tells brackets in strings apart.
func plant(document []byte, place int, field string) []byte {
	var objects []int // behind their first brackets
	inString := false
	for i := 0; i < len(document); i++ {
		switch c := document[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case !inString && c == '{':
			objects = append(objects, i+1)
		}
	}
	if len(objects) == 0 {
		return fmt.Appendf(nil, `{"a":%s,%s}`, document, field)
	}
	at := objects[place%len(objects)]
	if !bytes.HasPrefix(bytes.TrimSpace(document[at:]), []byte("}")) {
		field += ","
	}
	return bytes.Join([][]byte{document[:at], []byte(field), document[at:]}, nil)
}

func TestRedactPlantedSecretShowsUnderOtherNames(t *testing.T) {
	t.Parallel()
	for _, document := range []string{`{}`, `[{"a":{"{":1}},{ }]`, `1`, `"{"`} {
		for place := range 4 {
			payload := plant([]byte(document), place, `"colour":`+plantedValues[0])
			require.True(t, json.Valid(payload), "%s", payload)
			assert.Contains(t, redactPayload(payload), planted, "%s", payload)
			payload = plant([]byte(document), place, `"Card-Number":`+plantedValues[0])
			assert.NotContains(t, redactPayload(payload), planted, "%s", payload)
		}
	}
}

func FuzzRedactPayload(f *testing.F) {
	names, hidden := fieldNames(f)
	var fields []string // names of fields, as JSON
	for _, name := range names {
		if hidden[name] {
			quoted, err := json.Marshal(name)
			require.NoError(f, err)
			fields = append(fields, string(quoted))
		}
	}
	files, err := filepath.Glob("../testdata/redact/*.json")
	require.NoError(f, err)
	for i, file := range files {
		payload, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(payload, uint16(i), uint8(i), uint8(i), uint16(1))
	}
	for i, payload := range []string{
		"", "null", "{}", "[{}]", `{"a":[{"b":{"c":{}}}]}`, `{"{":"}\"{"}`, "\"\xff\"", `"\ud800"`, `[1,]`, `{} {}`, `[}`,
		`["` + strings.Repeat("a", 7990) + `",{}]`, strings.Repeat("[", 199) + `{"a":{}}` + strings.Repeat("]", 199),
	} {
		f.Add([]byte(payload), uint16(i), uint8(7*i), uint8(i), uint16(3*i))
	}
	f.Fuzz(func(t *testing.T, document []byte, place uint16, name, value uint8, end uint16) {
		out := redactPayload(document)
		wellFormed(t, out)
		valid := json.Valid(document)
		if valid {
			assert.NotEqual(t, redactedText, out)
		} else if out != redactedText && !strings.HasSuffix(out, cutMark) {
			// encoding/json takes nothing to be valid that is nested deeper than 10,000.
			assert.Greater(t, bytes.Count(document, []byte("["))+bytes.Count(document, []byte("{")), 10_000, "%s", document)
		}

		if bytes.Contains(document, []byte("n4ry")) || bytes.Contains(document, []byte(`\u00`)) {
			return // it may have the secret itself
		}
		field := fields[int(name)%len(fields)] + ":" + plantedValues[int(value)%len(plantedValues)]
		payload := plant(document, int(place), field)
		if valid {
			require.True(t, json.Valid(payload), "%s", payload)
		}
		for _, payload := range [][]byte{payload, payload[:int(end)%(len(payload)+1)]} {
			out := redactPayload(payload)
			wellFormed(t, out)
			assert.NotContains(t, out, "n4ry", "%s", payload)
		}
	})
}

func BenchmarkRedactPayload(b *testing.B) {
	payload, err := os.ReadFile("../testdata/redact/order.json")
	require.NoError(b, err)
	payload = fmt.Appendf(nil, `{"data":%s,"note":"%s"}`, bytes.TrimSpace(payload), strings.Repeat("all is well ", 38))
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		redactPayload(payload)
	}
}

// The largest payload by default, and nothing that fills the log.
func BenchmarkRedactPayloadThatIsSecret(b *testing.B) {
	payload := []byte(`{"token":[` + strings.Repeat(`"0123456789abcd",`, 1<<16-2) + `0]}`)
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		redactPayload(payload)
	}
}

func TestLogHeaders(t *testing.T) {
	t.Parallel()
	ours := func(name string) bool { return strings.HasPrefix(name, "X-Riverhook-") || name == "Webhook-Id" }
	header := http.Header{
		"X-Riverhook-Delivery-Id": {"d-1"},
		"Webhook-Id":              {"d-1"},
		"Content-Type":            {"application/json"},
		"content-type":            {"text/plain", "text/html"}, // no canonical name, but it is one
		"Authorization":           {"Bearer hunter2"},
		"X-Tenant":                {"hunter2", "hunter2"},
		"User-Agent":              {"hunter2"},
		"X-Content-Type":          {"hunter2"},
		"X-Empty":                 nil,
	}
	value := logHeaders(header, ours)
	assert.Equal(t, []slog.Attr{
		slog.String("Authorization", redacted),
		slog.String("Content-Type", "application/json"),
		slog.String("User-Agent", redacted),
		slog.String("Webhook-Id", "d-1"),
		slog.String("X-Content-Type", redacted),
		slog.String("X-Empty", redacted),
		slog.String("X-Riverhook-Delivery-Id", "d-1"),
		slog.String("X-Tenant", redacted),
		slog.String("content-type", "text/plain, text/html"),
	}, value.Group())

	var line bytes.Buffer
	slog.New(slog.NewJSONHandler(&line, nil)).Info("request", "headers", value)
	assert.Contains(t, line.String(), `"headers":{"Authorization":"[REDACTED]","Content-Type":"application/json",`)
	assert.NotContains(t, line.String(), "hunter2")

	assert.Empty(t, logHeaders(nil, ours).Group())
	assert.Empty(t, logHeaders(http.Header{}, ours).Group())
}
