package signing

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// redacted stands for a key wherever one would be printed.
const redacted = "[REDACTED]"

// What keys begin with.
const (
	prefixSymmetric = "whsec_"
	prefixPrivate   = "whsk_"
	prefixPublic    = "whpk_"
)

// The length of a symmetric key, in bytes: what Standard Webhooks allows, and what Generate makes.
const (
	minSymmetric = 24
	maxSymmetric = 64
	ourSymmetric = 32
)

// Algorithm is how a key signs.
type Algorithm string

// The algorithms. HMACSHA256 makes v1 signatures, Ed25519 makes v1a signatures.
const (
	AlgorithmUnknown    Algorithm = ""
	AlgorithmHMACSHA256 Algorithm = "hmac-sha256"
	AlgorithmEd25519    Algorithm = "ed25519"
)

// Key signs. It cannot be printed, logged or encoded: every verb, slog and the text and JSON encoders write [REDACTED].
// Only Reveal has its text. The zero Key signs nothing. A Key does not change and may be used by many goroutines.
type Key struct {
	_ [0]func() // not comparable with ==: that would take a different time for a better guess
	// In a function: of an unexported field, fmt may not call the methods, and of anything but a function it prints what
	// is inside, through pointers too. nil in the zero Key.
	material func() material
}

type material struct {
	symmetric []byte             // or nil
	private   ed25519.PrivateKey // or nil
}

// Generate makes a symmetric key of 32 random bytes.
func Generate() Key {
	secret := make([]byte, ourSymmetric)
	_, _ = rand.Read(secret) // never fails: without randomness the program ends
	return symmetricKey(secret)
}

// GenerateEd25519 makes an asymmetric key.
func GenerateEd25519() Key {
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed) // never fails: without randomness the program ends
	return privateKey(ed25519.NewKeyFromSeed(seed))
}

func symmetricKey(secret []byte) Key {
	return Key{material: func() material { return material{symmetric: secret} }}
}

func privateKey(private ed25519.PrivateKey) Key {
	return Key{material: func() material { return material{private: private} }}
}

// ParseKey reads what Reveal writes: whsec_ and base64 of 24 to 64 bytes, or whsk_ and base64 of an ed25519 private key,
// which is 64 bytes (seed and public key) or the 32 of the seed. White space around it and missing padding are no errors.
// An error never contains any of the text.
func ParseKey(text string) (Key, error) {
	text = strings.TrimSpace(text)
	if rest, ok := strings.CutPrefix(text, prefixSymmetric); ok {
		secret, err := decode(rest)
		if err != nil {
			return Key{}, err
		}
		if len(secret) < minSymmetric || len(secret) > maxSymmetric {
			return Key{}, fmt.Errorf("signing: a %s key has %d to %d bytes, and this one has %d", prefixSymmetric, minSymmetric, maxSymmetric, len(secret))
		}
		return symmetricKey(secret), nil
	}
	if rest, ok := strings.CutPrefix(text, prefixPrivate); ok {
		return parsePrivate(rest)
	}
	if strings.HasPrefix(text, prefixPublic) {
		return Key{}, fmt.Errorf("signing: %s is a public key, which receivers verify with; signing takes the private one, %s", prefixPublic, prefixPrivate)
	}
	return Key{}, fmt.Errorf("signing: a key begins with %s or %s", prefixSymmetric, prefixPrivate)
}

func parsePrivate(text string) (Key, error) {
	raw, err := decode(text)
	if err != nil {
		return Key{}, err
	}
	switch len(raw) {
	case ed25519.SeedSize:
		return privateKey(ed25519.NewKeyFromSeed(raw)), nil
	case ed25519.PrivateKeySize:
		private := ed25519.NewKeyFromSeed(raw[:ed25519.SeedSize])
		// Signing with a public half that is not the seed's gives the private one away.
		if !private.Equal(ed25519.PrivateKey(raw)) {
			return Key{}, fmt.Errorf("signing: the public half of the %s key does not belong to its private half", prefixPrivate)
		}
		return privateKey(private), nil
	}
	return Key{}, fmt.Errorf("signing: a %s key has %d or %d bytes, and this one has %d", prefixPrivate, ed25519.SeedSize, ed25519.PrivateKeySize, len(raw))
}

// decode reads standard base64, padded or not. The decoder's own error would quote a character.
func decode(text string) ([]byte, error) {
	raw, err := base64.RawStdEncoding.Strict().DecodeString(strings.TrimRight(text, "="))
	if err != nil || strings.ContainsAny(text, "\r\n") { // which the decoder skips
		return nil, errors.New("signing: what follows the key's prefix is not base64")
	}
	return raw, nil
}

// Reveal is the key as text, to be stored sealed, or shown to who made it: whsec_... or whsk_.... Empty for the zero Key.
func (k Key) Reveal() string {
	switch k.Algorithm() {
	case AlgorithmHMACSHA256:
		return prefixSymmetric + base64.StdEncoding.EncodeToString(k.material().symmetric)
	case AlgorithmEd25519:
		return prefixPrivate + base64.StdEncoding.EncodeToString(k.material().private)
	}
	return ""
}

// Public is the key that receivers verify with, whpk_...; ok is false for a symmetric key, which has none.
func (k Key) Public() (text string, ok bool) {
	if k.Algorithm() != AlgorithmEd25519 {
		return "", false
	}
	public := k.material().private[ed25519.SeedSize:]
	return prefixPublic + base64.StdEncoding.EncodeToString(public), true
}

// Algorithm says how the key signs; unknown for the zero Key.
func (k Key) Algorithm() Algorithm {
	switch {
	case k.material == nil:
		return AlgorithmUnknown
	case k.material().private != nil:
		return AlgorithmEd25519
	}
	return AlgorithmHMACSHA256
}

// IsZero says whether there is no key.
func (k Key) IsZero() bool { return k.material == nil }

// Format writes [REDACTED] for every verb.
func (Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// String is [REDACTED].
func (Key) String() string { return redacted }

// GoString is [REDACTED].
func (Key) GoString() string { return redacted }

// LogValue is [REDACTED].
func (Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText writes [REDACTED].
func (Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON writes "[REDACTED]".
func (Key) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
