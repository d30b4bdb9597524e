package dashboard

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/store"
)

func TestVisible(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"": "", "plain <b>": "plain <b>", "a\nb\tc": "a\nb\tc", "a\x00b\x1b[31m": "a\u2400b\u241b[31m", "\x7f": "\u2421", "\u0085": "[U+0085]",
		"\u202etxt.exe": "[U+202E]txt.exe", "\u200b\ufeff": "[U+200B][U+FEFF]", "\xff": "\uFFFD", "\U000E0041": "[U+E0041]", "\u2028": "[U+2028]",
		"é 漢 \U0001F469\u200d\U0001F4BB": "é 漢 \U0001F469\u200d\U0001F4BB",
	} {
		assert.Equal(t, want, visible(text), "%q", text)
	}
}

func TestTimes(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0 ms", time.Millisecond: "1 ms", 999 * time.Millisecond: "999 ms", time.Second: "1.0 s", 9900 * time.Millisecond: "9.9 s", 10 * time.Second: "10 s",
		time.Minute: "1 min", 61 * time.Second: "1 min 1 s", 12*time.Minute + 5*time.Second: "12 min", 90 * time.Minute: "1 h 30 min", 47 * time.Hour: "47 h", 49 * time.Hour: "2 d 1 h",
	} {
		assert.Equal(t, want, length(d))
	}
	now := time.Now()
	for d, want := range map[time.Duration]string{
		0: "just now", -time.Second: "just now", 2 * time.Second: "2 s ago", 59 * time.Minute: "59 min ago", 47 * time.Hour: "47 h ago", 72 * time.Hour: "3 d ago", -3 * time.Minute: "in 3 min",
	} {
		assert.Equal(t, want, ago(now, now.Add(-d)))
	}
	assert.Equal(t, "now", until(now, now.Add(-time.Hour)))
	assert.Equal(t, "in 1 min 30 s", until(now, now.Add(90*time.Second)))
}

func TestNumbers(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", -1000: "-1,000", -100: "-100", 1234567: "1,234,567"} {
		assert.Equal(t, want, number(n))
	}
	for _, c := range []struct {
		part, whole int64
		want        string
	}{{0, 0, "0 %"}, {0, 5, "0 %"}, {1, 2000, "< 0.1 %"}, {1, 1000, "0.1 %"}, {99, 1000, "9.9 %"}, {100, 1000, "10 %"}, {5, 5, "100 %"}} {
		assert.Equal(t, c.want, percent(c.part, c.whole))
	}
	for n, want := range map[int64]int64{0: 1, 4: 1, 5: 2, 8: 2, 9: 5, 20: 5, 21: 10, 1_000_000: 500_000} {
		assert.Equal(t, want, niceStep(n), n)
	}
}

// Every bar is within the chart, and they stand on each other.
func TestChart(t *testing.T) {
	t.Parallel()
	minutes := make([]store.Minute, store.OverviewMinutes)
	for i := range minutes {
		minutes[i] = store.Minute{At: time.Date(2030, 1, 1, 12, i, 0, 0, time.UTC), Succeeded: int64(i * i), DeadLetter: int64(i % 3)}
	}
	d := newChartData(minutes)
	require.Len(t, d.Charts, 2)
	assert.False(t, d.Empty)
	assert.Equal(t, int64(59*59), d.Minutes[0].Succeeded, "the newest first")
	for _, c := range d.Charts {
		assert.Len(t, c.Bars, 59+40)
		for _, b := range c.Bars {
			var x, y, width, height float64
			for _, part := range []struct {
				text string
				to   *float64
			}{{b.X, &x}, {b.Y, &y}, {b.Width, &width}, {b.Height, &height}} {
				require.NoError(t, json.Unmarshal([]byte(part.text), part.to))
			}
			assert.GreaterOrEqual(t, x, float64(c.Left))
			assert.LessOrEqual(t, x+width, float64(c.Width)+0.1)
			assert.GreaterOrEqual(t, y, 0.0)
			assert.LessOrEqual(t, y+height, float64(c.Base)+0.2)
		}
	}
	assert.True(t, newChartData(make([]store.Minute, store.OverviewMinutes)).Empty)
}

// A shell takes the command for what it is, whatever stands in the row.
func TestCurl(t *testing.T) {
	t.Parallel()
	for _, payload := range []string{`{}`, `{"a":"it's $(id) ${HOME} ` + "`id`" + ` \"x\" \\n"}`, "{\r\n  \"a\": \"\u202e\U000E0041\x7f'\"\n}", `"@/etc/passwd"`, `"!"`} {
		row := store.Row{EndpointURL: "https://example.com/a'b?c=$(id)&d=[1-9]{x}#f", HTTPMethod: "POST", Payload: []byte(payload)}
		command, note := curl(row, []delivery.Header{{Key: "X-A", Value: "it's; $(id)"}})
		assert.NotContains(t, note, "credential")
		out, err := exec.CommandContext(t.Context(), "sh", "-c", "curl() { printf '%s\\0' \"$@\"; }\n"+command).Output()
		require.NoError(t, err, command)
		args := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
		require.Len(t, args, 11, command)
		assert.Equal(t, []string{"--globoff", "--request", "POST", "--url"}, args[:4])
		target, err := url.Parse(args[4])
		require.NoError(t, err)
		assert.Equal(t, "/a'b", target.Path)
		assert.Equal(t, []string{"--header", "X-A: it's; $(id)", "--header", "Content-Type: application/json", "--data-raw"}, args[5:10])
		assert.JSONEq(t, payload, args[10])
		for _, r := range command {
			assert.False(t, hidden(r), "%U", r)
		}
	}
	uuid := "00000000-0000-4000-8000-000000000001"
	command, note := curl(store.Row{EndpointURL: "https://a/", HTTPMethod: "GET", Payload: []byte("{}"), CredentialUUID: &uuid}, nil)
	assert.NotContains(t, command, "--data")
	assert.Contains(t, note, "credential")
	for _, row := range []store.Row{
		{EndpointURL: "https://user:secret@a/", HTTPMethod: "POST", Payload: []byte("{}")}, {EndpointURL: "-o/etc/passwd", HTTPMethod: "POST", Payload: []byte("{}")},
		{EndpointURL: "https://a/", HTTPMethod: "POST"},
	} {
		command, note := curl(row, nil)
		assert.Empty(t, command)
		assert.NotContains(t, note, "secret")
		assert.NotEmpty(t, note)
	}
}

// Over https only the cookie counts that a neighbour's page cannot set.
func TestSessionCookie(t *testing.T) {
	t.Parallel()
	public, err := url.Parse("https://hooks.example.com")
	require.NoError(t, err)
	d := &Dashboard{Config: Config{Public: public}}
	for _, c := range []struct{ host, cookies, want string }{
		{"hooks.example.com", "riverhook-session=a; __Host-riverhook-session=b", "b"},
		{"hooks.example.com:443", "riverhook-session=a; __Host-riverhook-session=b", "b"},
		{"HOOKS.example.com", "riverhook-session=a", ""},
		{"localhost:8090", "riverhook-session=a; __Host-riverhook-session=b", "a"},
		{"localhost:8090", "__Host-riverhook-session=b", ""},
		{"localhost:8090", "", ""},
	} {
		r := httptest.NewRequest(http.MethodGet, "http://"+c.host+"/", http.NoBody)
		r.Header.Set("Cookie", c.cookies)
		assert.Equal(t, c.want, d.session(r), c)
	}
}
