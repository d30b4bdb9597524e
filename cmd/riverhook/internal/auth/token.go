package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/riverhook/riverhook/delivery/credential"
)

// Scope is what a token may do.
type Scope string

// The scopes. Each right is needed by some requests; which token has which, Allows says.
const (
	ScopeUnknown Scope = ""
	ScopeEnqueue Scope = "enqueue" // insert deliveries, and nothing else
	ScopeRead    Scope = "read"    // look at deliveries, replays and counts
	ScopeOperate Scope = "operate" // both, and replay, retry and cancel
	ScopeAdmin   Scope = "admin"   // everything: credentials, signing secrets and tokens, too
)

// Scopes are all of them, without the unknown one.
func Scopes() []Scope { return []Scope{ScopeEnqueue, ScopeRead, ScopeOperate, ScopeAdmin} }

// ParseScope reads a scope.
func ParseScope(text string) (Scope, error) {
	for _, s := range Scopes() {
		if string(s) == text {
			return s, nil
		}
	}
	return ScopeUnknown, errors.New("a scope is one of enqueue, read, operate, admin")
}

// Allows says whether a token of scope s may do what takes the scope needed. An unknown scope may nothing, and nothing is
// allowed that takes an unknown one.
func (s Scope) Allows(needed Scope) bool {
	switch needed {
	case ScopeEnqueue:
		return s == ScopeEnqueue || s == ScopeOperate || s == ScopeAdmin
	case ScopeRead:
		return s == ScopeRead || s == ScopeOperate || s == ScopeAdmin
	case ScopeOperate:
		return s == ScopeOperate || s == ScopeAdmin
	case ScopeAdmin:
		return s == ScopeAdmin
	}
	return false
}

// ScopesFor names the scopes that may do what takes needed.
func ScopesFor(needed Scope) string {
	var names []string
	for _, s := range Scopes() {
		if s.Allows(needed) {
			names = append(names, string(s))
		}
	}
	if n := len(names); n > 1 {
		return strings.Join(names[:n-1], ", ") + " or " + names[n-1]
	}
	return strings.Join(names, "")
}

// A token is
//
//	rvh_ | 12 characters (with rvh_ the prefix, by which it is found) | _ | 52 characters (256 random bits)
const (
	tokenMark   = "rvh_"
	prefixBytes = 6
	secretBytes = 32
)

var (
	tokenSyntax  = regexp.MustCompile(`^(rvh_[0-9a-f]{12})_[a-z2-7]{52}$`)
	prefixSyntax = regexp.MustCompile(`^rvh_[0-9a-f]{12}$`)
)

// NewToken is a random token, with the prefix and the hash that are stored of it.
func NewToken() (token credential.Secret, prefix string, hash []byte) {
	random := make([]byte, prefixBytes+secretBytes)
	_, _ = rand.Read(random) // never fails
	prefix = tokenMark + hex.EncodeToString(random[:prefixBytes])
	text := prefix + "_" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(random[prefixBytes:]))
	sum := sha256.Sum256([]byte(text))
	return credential.NewSecret(text), prefix, sum[:]
}

// ValidPrefix says whether a token's prefix can look like that.
func ValidPrefix(prefix string) bool { return prefixSyntax.MatchString(prefix) }

// minSetToken is the shortest token that a setting may hold, in bytes.
const minSetToken = 24

// CheckSetToken says what is wrong with the value of RIVERHOOK_API_TOKEN, without repeating it.
func CheckSetToken(text string) error {
	const hint = "make one with `openssl rand -hex 32`"
	switch {
	case len(text) < minSetToken:
		return fmt.Errorf("RIVERHOOK_API_TOKEN is shorter than %d characters: %s", minSetToken, hint)
	case len(text) > maxToken:
		return fmt.Errorf("RIVERHOOK_API_TOKEN is longer than %d characters: %s", maxToken, hint)
	case strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }):
		return errors.New("RIVERHOOK_API_TOKEN has a character that a header cannot hold: " + hint)
	}
	return nil
}
