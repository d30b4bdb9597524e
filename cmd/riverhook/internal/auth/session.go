package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/netip"
	"regexp"
	"time"

	"github.com/riverhook/riverhook/delivery/store"
)

// SessionLength is how long somebody stays logged in. The token that was entered may end earlier, and the session with it.
const SessionLength = 12 * time.Hour

// A session is 256 random bits: what a browser keeps instead of the token, which lives longer and opens the API, too. The
// database has its hash, as of tokens. Of the token it has an HMAC under the session, so that it ends when another
// token takes its place (that of the settings has no row of its own), and says nothing about the token to who reads it there.
var sessionSyntax = regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`)

// proof shows which token a session was begun with.
func proof(session string, token [sha256.Size]byte) []byte {
	mac := hmac.New(sha256.New, []byte(session))
	_, _ = mac.Write(token[:]) // never fails
	return mac.Sum(nil)
}

// Login authenticates a token, and begins a session with it when its scope allows needed; else session is empty. Errors are
// those of Authenticate.
func (a *Authenticator) Login(ctx context.Context, remote netip.Addr, token string, needed Scope) (identity *Identity, session string, err error) {
	identity, err = a.Authenticate(ctx, remote, token)
	if err != nil || !identity.Scope.Allows(needed) {
		return identity, "", err
	}
	random := make([]byte, sha256.Size)
	_, _ = rand.Read(random) // never fails
	session = base64.RawURLEncoding.EncodeToString(random)
	hash := sha256.Sum256([]byte(session))
	a.mu.Lock()
	ended := a.ended
	a.mu.Unlock()
	err = a.store.AddSession(ctx, store.Session{
		Hash: hash[:], TokenPrefix: identity.Prefix, TokenProof: proof(session, sha256.Sum256([]byte(token))),
	}, SessionLength)
	if err != nil {
		return nil, "", err
	}
	a.remember(key{session: true, hash: hash}, &entry{identity: *identity, until: a.now().Add(trust), touched: a.now()}, ended)
	return identity, session, nil
}

// Session says who is logged in. It is looked up as tokens are, so that nobody stays logged in whose token was revoked,
// whichever node answers. Errors are those of Authenticate; sessions that are not there have a count of their own.
func (a *Authenticator) Session(ctx context.Context, remote netip.Addr, session string) (*Identity, error) {
	if session == "" {
		return nil, ErrNoToken
	}
	if !sessionSyntax.MatchString(session) {
		return nil, ErrBadToken
	}
	return a.authenticate(ctx, remote, key{session: true, hash: sha256.Sum256([]byte(session))}, func(ctx context.Context, old *entry) (*entry, error) {
		return a.lookUpSession(ctx, session, old)
	})
}

func (a *Authenticator) lookUpSession(ctx context.Context, session string, old *entry) (*entry, error) {
	hash := sha256.Sum256([]byte(session))
	found, err := a.store.FindSession(ctx, hash[:])
	if errors.Is(err, store.ErrNoSession) {
		return nil, ErrBadToken
	}
	if err != nil {
		return nil, err
	}
	began := func(token [sha256.Size]byte) bool { return hmac.Equal(proof(session, token), found.TokenProof) }
	if found.TokenPrefix == "" {
		if a.set == nil || !began(*a.set) {
			return nil, ErrBadToken
		}
		return &entry{identity: setIdentity(), until: a.now().Add(trust)}, nil
	}
	return a.lookUpPrefix(ctx, found.TokenPrefix, old, began)
}

// Logout ends a session: here at once, on other nodes within 5 s. After an error it goes on until it expires.
func (a *Authenticator) Logout(ctx context.Context, session string) error {
	if !sessionSyntax.MatchString(session) {
		return nil
	}
	hash := sha256.Sum256([]byte(session))
	err := a.store.EndSession(ctx, hash[:])
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended++ // somebody may have looked it up before it ended, and not remembered it yet
	delete(a.known, key{session: true, hash: hash})
	return err
}
