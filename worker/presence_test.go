package worker

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// What was claimed before a gap in which the peers may have taken it back is not sent after it, also where nobody was there
// to see the gap: the process was stopped, and could prove that it lives before its watch looked.
func TestClaimsBeforeAGap(t *testing.T) {
	t.Parallel()
	ended := 0
	p := &Presence{lost: func() { ended++ }}
	assert.False(t, p.Proven())
	p.proved(time.Now())
	claimed := time.Now()
	assert.True(t, p.ProvenSince(claimed))

	// The next proof comes soon enough.
	ended = 0
	before := time.Now().Add(-presenceEnd / 2)
	p.proven.Store(&before)
	p.proved(time.Now())
	assert.True(t, p.ProvenSince(claimed))
	assert.Zero(t, ended)

	before = time.Now().Add(-presenceEnd - time.Millisecond)
	p.proven.Store(&before)
	assert.False(t, p.ProvenSince(claimed))
	p.proved(time.Now())
	assert.True(t, p.Proven())
	assert.False(t, p.ProvenSince(claimed), "it may have been taken back")
	assert.Equal(t, 1, ended, "what is in flight, too")
	assert.True(t, p.ProvenSince(time.Now()))

	// Nor may the first byte go out once what is in flight has ended.
	soon, late := time.Now().Add(time.Second), time.Now().Add(time.Hour)
	assert.Equal(t, soon, p.until(soon))
	assert.True(t, p.until(late).Before(time.Now().Add(presenceEnd+time.Second)))

	var none *Presence
	assert.Equal(t, late, none.until(late))
	assert.True(t, none.ProvenSince(claimed))
}
