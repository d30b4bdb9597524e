package credential

import (
	"fmt"
	"io"
	"log/slog"
)

// Redacted stands for a secret wherever one would be printed.
const Redacted = "[REDACTED]"

// Secret is a text that cannot be printed, logged or encoded: every verb, slog and the text and JSON encoders write
// [REDACTED], also for what holds one. Only Reveal has the text. The zero Secret is empty.
type Secret struct {
	_ [0]func() // not comparable with ==: that would take a different time for a better guess
	// Behind a pointer to a string: of an unexported field, fmt may not call the methods; of such a pointer, and of
	// hardly anything else, it then prints the address.
	text *string
}

// NewSecret makes a Secret of text.
func NewSecret(text string) Secret { return Secret{text: &text} }

// Reveal is the text.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsZero says whether the text is empty.
func (s Secret) IsZero() bool { return s.Reveal() == "" }

// Format writes [REDACTED] for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Redacted) }

// String is [REDACTED].
func (Secret) String() string { return Redacted }

// GoString is [REDACTED].
func (Secret) GoString() string { return Redacted }

// LogValue is [REDACTED].
func (Secret) LogValue() slog.Value { return slog.StringValue(Redacted) }

// MarshalText writes [REDACTED].
func (Secret) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// MarshalJSON writes "[REDACTED]".
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + Redacted + `"`), nil }
