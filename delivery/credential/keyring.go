package credential

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

const howToMakeKey = "make one with `openssl rand -base64 32` or `head -c 32 /dev/urandom | base64`"

// Why a cell was not sealed or opened. They are told apart with errors.Is.
var (
	// ErrNoKey: there is no key at all.
	ErrNoKey = errors.New("credential: there is no key: RIVERHOOK_SECRET_KEY is not set")
	// ErrUnknownKey: the cell was sealed with a key that is not in RIVERHOOK_SECRET_KEY.
	ErrUnknownKey = errors.New("credential: sealed with a key that RIVERHOOK_SECRET_KEY does not hold: add that key behind the first, after a comma")
	// ErrOpen: the cell was changed, or belongs to something else, or is none.
	ErrOpen = errors.New("credential: cannot be opened: it was changed, or copied from somewhere else, or never sealed")
)

// A sealed cell is
//
//	version (1 byte) | key id (4) | nonce (12) | ciphertext | tag (16)
//
// with AES-256-GCM. What is authenticated beside it: version, key id, and each context after its length (8 bytes).
const (
	cellVersion = 1
	keyIDBytes  = 4
	headBytes   = 1 + keyIDBytes
	keyBytes    = 32
)

// keyIDLabel goes before the key when its id is derived, so that the hash is of no use for anything else.
const keyIDLabel = "riverhook credential key id\x00"

// Keyring seals secrets for the database and opens them again. The first key seals, all of them open, so a key is replaced
// by putting the new one first, and the old one can go once IsCurrent holds for every cell. It cannot be printed. It does
// not change and may be used by many goroutines. A nil or empty Keyring fails with ErrNoKey.
type Keyring struct {
	_    [0]func()
	keys []key
}

type key struct {
	id   [keyIDBytes]byte
	aead func() cipher.AEAD // in a function: fmt prints its address, and not what a cipher keeps
}

// ParseKeyring reads RIVERHOOK_SECRET_KEY: a comma list of keys, each base64 (standard or URL alphabet, padded or not) of
// 32 bytes. An empty setting is an empty Keyring. A key that is listed twice is taken once. An error says which key is
// wrong, never what it is.
func ParseKeyring(setting string) (*Keyring, error) {
	ring := &Keyring{}
	if strings.TrimSpace(setting) == "" {
		return ring, nil
	}
	items := strings.Split(setting, ",")
	for i, item := range items {
		raw, problem := parseKey(strings.TrimSpace(item))
		if problem != "" {
			which := "the key"
			if len(items) > 1 {
				which = fmt.Sprintf("key %d of %d", i+1, len(items))
			}
			return nil, fmt.Errorf("credential: RIVERHOOK_SECRET_KEY: %s %s, and must be base64 of %d bytes: %s", which, problem, keyBytes, howToMakeKey)
		}
		ring.keys = append(ring.keys, newKey(raw))
	}
	return ring, nil
}

// parseKey says what is wrong without repeating it: the decoder's own error would quote a character.
func parseKey(text string) (raw []byte, problem string) {
	if text == "" {
		return nil, "is empty"
	}
	standard := strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(text, "="))
	raw, err := base64.RawStdEncoding.Strict().DecodeString(standard)
	switch {
	case err != nil, strings.ContainsAny(text, "\r\n"): // which the decoder skips
		return nil, "is not base64"
	case len(raw) != keyBytes:
		return nil, fmt.Sprintf("is %d bytes", len(raw))
	}
	return raw, ""
}

func newKey(raw []byte) key {
	block, err := aes.NewCipher(raw)
	if err != nil {
		panic(err) // 32 bytes are a key
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // AES is a cipher for it
	}
	k := key{aead: func() cipher.AEAD { return aead }}
	hash := sha256.Sum256(append([]byte(keyIDLabel), raw...))
	copy(k.id[:], hash[:])
	return k
}

// Seal encrypts plain so that it opens under the same context only: what the secret belongs to, such as the credential's
// UUID and its organization, always in the same order. Sealing twice gives two different cells.
func (r *Keyring) Seal(plain []byte, context ...string) ([]byte, error) {
	if r.IsEmpty() {
		return nil, fmt.Errorf("%w; %s", ErrNoKey, howToMakeKey)
	}
	first := r.keys[0]
	cell := make([]byte, 0, headBytes+first.aead().Overhead()+len(plain))
	cell = append(cell, cellVersion)
	cell = append(cell, first.id[:]...)
	return first.aead().Seal(cell, nil, plain, associated(cell, context)), nil
}

// Open decrypts what Seal made. An error is one of ErrNoKey, ErrUnknownKey and ErrOpen.
func (r *Keyring) Open(sealed []byte, context ...string) ([]byte, error) {
	if r.IsEmpty() {
		return nil, fmt.Errorf("%w: set it to the one that this was sealed with", ErrNoKey)
	}
	if len(sealed) < headBytes {
		return nil, fmt.Errorf("%w (it is %d bytes long)", ErrOpen, len(sealed))
	}
	if sealed[0] != cellVersion {
		return nil, fmt.Errorf("%w (it has version %d, and this riverhook reads version %d)", ErrOpen, sealed[0], cellVersion)
	}
	head, rest := sealed[:headBytes], sealed[headBytes:]
	known := false
	for _, k := range r.keys {
		if [keyIDBytes]byte(head[1:]) != k.id {
			continue
		}
		known = true // and go on: nothing keeps two keys from having the same id
		if plain, err := k.aead().Open(nil, nil, rest, associated(head, context)); err == nil {
			return plain, nil
		}
	}
	if !known {
		return nil, fmt.Errorf("%w (key id %x)", ErrUnknownKey, head[1:])
	}
	return nil, ErrOpen
}

// IsCurrent says whether sealed names the first key, the one that seals. What does not is to be opened and sealed again.
func (r *Keyring) IsCurrent(sealed []byte) bool {
	return !r.IsEmpty() && len(sealed) >= headBytes && sealed[0] == cellVersion && [keyIDBytes]byte(sealed[1:headBytes]) == r.keys[0].id
}

// IsEmpty says whether there is no key.
func (r *Keyring) IsEmpty() bool { return r == nil || len(r.keys) == 0 }

// associated is what a cell is bound to. A length before each context: ("ab", "c") is not ("a", "bc").
func associated(head []byte, context []string) []byte {
	data := append(make([]byte, 0, 128), head...)
	for _, c := range context {
		data = binary.BigEndian.AppendUint64(data, uint64(len(c)))
		data = append(data, c...)
	}
	return data
}

// Format writes [REDACTED] for every verb.
func (Keyring) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Redacted) }

// String is [REDACTED].
func (Keyring) String() string { return Redacted }

// GoString is [REDACTED].
func (Keyring) GoString() string { return Redacted }

// LogValue is [REDACTED].
func (Keyring) LogValue() slog.Value { return slog.StringValue(Redacted) }

// MarshalText writes [REDACTED].
func (Keyring) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// MarshalJSON writes "[REDACTED]".
func (Keyring) MarshalJSON() ([]byte, error) { return []byte(`"` + Redacted + `"`), nil }
