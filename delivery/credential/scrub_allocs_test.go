//go:build !race

// With the race detector, sync.Pool throws things away: `make check` runs this file without it.

package credential_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// Not parallel: it counts what the whole program allocates.
func TestScrubAllocatesNothing(t *testing.T) {
	s := scrubber("open sesame/é", "sk_live_4eC39HqLyjWDarjtT1zdP7dc")
	for _, text := range []string{"ok", strings.Repeat("a plain answer. ", 512), strings.Repeat(`{"a":"\u00e9 + %41"}`, 400)} {
		bytes := []byte(text)
		assert.Zero(t, testing.AllocsPerRun(100, func() { s.Bytes(bytes) }))
		assert.Zero(t, testing.AllocsPerRun(100, func() { _ = s.String(text) }))
	}
}
