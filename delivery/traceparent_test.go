package delivery

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestTraceparent(t *testing.T) {
	t.Parallel()
	const valid = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for text, want := range map[string]string{
		valid: valid,
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00":            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff":            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff",
		"cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03":            valid,
		"cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-02":            strings.TrimSuffix(valid, "01") + "00",
		"01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-and more\n": valid,
		"01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01more":        "",
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more":       "",
		"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01":            "",
		"00-00000000000000000000000000000000-b7ad6b7169203331-01":            "",
		"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01":            "",
		"00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01":            "",
		"00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01":            "",
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333\r-01":           "",
		"00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01":            "",
		valid[:54]: "", valid + " ": "", " " + valid: "", "": "", "00": "", strings.Repeat("é", 55): "", strings.Repeat("0", 1<<20): "",
	} {
		assert.Equal(t, want, Traceparent(text), "%.80q", text)
	}
}
