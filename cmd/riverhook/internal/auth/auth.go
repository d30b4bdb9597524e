package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/riverhook/riverhook/delivery/credential"
	"github.com/riverhook/riverhook/delivery/store"
)

const (
	// maxToken bounds what is taken for a token, in bytes.
	maxToken = 512
	// trust is how long a token that was looked up is not looked up again: a token that another node revoked works for so
	// long.
	trust = 5 * time.Second
	// maxCached bounds the tokens that are remembered.
	maxCached = 10_000
	// touchInterval is how often it is noted that a token is used.
	touchInterval = time.Minute

	// A remote address may fail failureBurst times, and once more every failureInterval.
	failureBurst    = 10
	failureInterval = 2 * time.Second
	// And for sessions that are not there. Nobody guesses one; a page that refreshes itself may go on with one that has ended.
	sessionFailureBurst    = 100
	sessionFailureInterval = 100 * time.Millisecond
	// maxAddresses bounds the addresses that are remembered for their failures.
	maxAddresses = 10_000
)

// Why somebody is not let in. They are told apart with errors.Is and errors.As; every other error is the database's.
var (
	// ErrNoToken: the request has none.
	ErrNoToken = errors.New("auth: no token")
	// ErrBadToken: there is no such token, or it has expired, or was revoked.
	ErrBadToken = errors.New("auth: unknown, expired or revoked token")
)

// TooManyError says that an address has failed too often.
type TooManyError struct{ RetryAfter time.Duration }

func (e *TooManyError) Error() string {
	return fmt.Sprintf("auth: too many failed tries from this address: try again in %s", e.RetryAfter.Round(time.Second))
}

// Identity is who asks.
type Identity struct {
	Name         string // of the token: for the record of who did what
	Prefix       string // of the token; empty for the one of the settings
	Scope        Scope
	Organization string // the one whose rows it sees; empty: all
}

// Sees says whether rows of the organization are there for it.
func (i *Identity) Sees(organization string) bool {
	return i.Organization == "" || i.Organization == organization
}

// Authenticator knows the tokens. It may be used by many goroutines.
type Authenticator struct {
	store *store.Store
	set   *[sha256.Size]byte // of the token of the settings; nil: there is none
	now   func() time.Time

	mu    sync.Mutex
	known map[key]*entry
	ended uint64    // how often something ended here: what was looked up before that is not remembered
	any   bool      // there is a token in the database,
	asked time.Time // as it was then

	failures, sessionFailures failures
}

// key is what an entry is found by: the hash of what was sent, so that how long it takes to find it says nothing about
// another token.
type key struct {
	session bool
	hash    [sha256.Size]byte
}

// entry is a token or a session that was good when it was looked up.
type entry struct {
	identity Identity
	touched  time.Time
	until    time.Time // when it is looked up again; under the lock
}

// New is an authenticator on the tokens of a store, and one of the settings, which is an admin's; an empty one is none.
func New(st *store.Store, set credential.Secret) *Authenticator {
	a := &Authenticator{store: st, now: time.Now, known: make(map[key]*entry)}
	if !set.IsZero() {
		sum := sha256.Sum256([]byte(set.Reveal()))
		a.set = &sum
	}
	a.failures = failures{limits: make(map[netip.Prefix]*rate.Limiter), burst: failureBurst, interval: failureInterval}
	a.sessionFailures = failures{limits: make(map[netip.Prefix]*rate.Limiter), burst: sessionFailureBurst, interval: sessionFailureInterval}
	return a
}

// SetTokenName is the name of the token of the settings.
const SetTokenName = "RIVERHOOK_API_TOKEN"

// Authenticate says who holds the token. A wrong one is counted against the remote address; after some of them, tokens that
// were not seen before are not even looked at for a while. It fails with ErrNoToken, ErrBadToken, a *TooManyError, or an
// error of the database.
func (a *Authenticator) Authenticate(ctx context.Context, remote netip.Addr, token string) (*Identity, error) {
	if token == "" {
		return nil, ErrNoToken
	}
	var hash [sha256.Size]byte
	if len(token) <= maxToken {
		hash = sha256.Sum256([]byte(token))
	}
	if a.set != nil && subtle.ConstantTimeCompare(hash[:], a.set[:]) == 1 {
		identity := setIdentity()
		return &identity, nil
	}
	return a.authenticate(ctx, remote, key{hash: hash}, func(ctx context.Context, old *entry) (*entry, error) {
		return a.lookUp(ctx, token, hash, old)
	})
}

// setIdentity is who has the token of the settings.
func setIdentity() Identity { return Identity{Name: SetTokenName, Scope: ScopeAdmin} }

// authenticate looks up what was not looked up a moment ago. A session that is not there does not count as a wrong token: a
// browser that keeps an old one would lock out all who come from its address.
func (a *Authenticator) authenticate(ctx context.Context, remote netip.Addr, k key, lookUp func(ctx context.Context, old *entry) (*entry, error)) (*Identity, error) {
	now := a.now()
	a.mu.Lock()
	e := a.known[k]
	trusted, ended := e != nil && now.Before(e.until), a.ended
	a.mu.Unlock()
	if trusted {
		return &e.identity, nil
	}
	failed := &a.failures
	if k.session {
		failed = &a.sessionFailures
	}
	if e == nil { // who was good a moment ago does not wait because of others behind the same address
		if wait := failed.wait(remote, now); wait > 0 {
			return nil, &TooManyError{RetryAfter: wait}
		}
	}
	fresh, err := lookUp(ctx, e)
	if errors.Is(err, ErrBadToken) {
		a.forget(k)
		failed.add(remote, now)
	}
	if err != nil {
		return nil, err
	}
	a.remember(k, fresh, ended)
	return &fresh.identity, nil
}

// lookUp asks the database about a token.
func (a *Authenticator) lookUp(ctx context.Context, token string, hash [sha256.Size]byte, old *entry) (*entry, error) {
	parts := tokenSyntax.FindStringSubmatch(token)
	if parts == nil {
		return nil, ErrBadToken
	}
	return a.lookUpPrefix(ctx, parts[1], old, func(stored [sha256.Size]byte) bool { return subtle.ConstantTimeCompare(hash[:], stored[:]) == 1 })
}

// lookUpPrefix asks the database about the token of a prefix, which is good if it is active and its hash is right.
func (a *Authenticator) lookUpPrefix(ctx context.Context, prefix string, old *entry, right func(stored [sha256.Size]byte) bool) (*entry, error) {
	t, stored, err := a.store.FindToken(ctx, prefix)
	if errors.Is(err, store.ErrNoToken) {
		return nil, ErrBadToken
	}
	if err != nil {
		return nil, err
	}
	scope, err := ParseScope(t.Scope)
	if len(stored) != sha256.Size || !right([sha256.Size]byte(stored)) || !t.Active || err != nil {
		return nil, ErrBadToken
	}
	now := a.now()
	e := &entry{identity: Identity{Name: t.Name, Prefix: t.Prefix, Scope: scope}, until: now.Add(trust)}
	if t.OrganizationID != nil {
		e.identity.Organization = *t.OrganizationID
	}
	if old != nil {
		e.touched = old.touched
	}
	if now.Sub(e.touched) >= touchInterval {
		e.touched = now
		_ = a.store.TouchToken(ctx, t.Prefix) // it is for people; the next minute has another try
	}
	return e, nil
}

// remember keeps an entry that was looked up when so many had ended.
func (a *Authenticator) remember(k key, e *entry, ended uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ended != a.ended {
		return
	}
	if len(a.known) >= maxCached {
		clear(a.known)
	}
	a.known[k] = e
}

func (a *Authenticator) forget(k key) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.known, k)
}

// Forget has every token looked up again: one was revoked, or there is a new one.
func (a *Authenticator) Forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended++
	for _, e := range a.known {
		e.until = time.Time{}
	}
	a.asked = time.Time{}
}

// AnyToken says whether there is any token at all, as it was up to 5 s ago.
func (a *Authenticator) AnyToken(ctx context.Context) (bool, error) {
	if a.set != nil {
		return true, nil
	}
	now := a.now()
	a.mu.Lock()
	found, asked := a.any, a.asked
	a.mu.Unlock()
	if !asked.IsZero() && now.Sub(asked) < trust {
		return found, nil
	}
	found, err := a.store.AnyToken(ctx)
	if err != nil {
		return false, err
	}
	a.mu.Lock()
	a.any, a.asked = found, now
	a.mu.Unlock()
	return found, nil
}

// FromRequest is the token that a request has: after Bearer, or as the password of Basic, for browsers. Empty: none.
func FromRequest(r *http.Request) string {
	value := r.Header.Get("Authorization")
	if scheme, rest, ok := strings.Cut(value, " "); ok && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(rest)
	}
	if _, password, ok := r.BasicAuth(); ok {
		return password
	}
	return ""
}

// RemoteAddr is the address that a request comes from: of the connection, since a header may say anything.
func RemoteAddr(r *http.Request) netip.Addr {
	address, _ := netip.ParseAddrPort(r.RemoteAddr)
	return address.Addr().Unmap()
}

// failures are the wrong tokens of each address: burst of them are free, and one more every interval.
type failures struct {
	mu       sync.Mutex
	limits   map[netip.Prefix]*rate.Limiter
	burst    int
	interval time.Duration
}

// network is what counts as one address: who has one of IPv6 has a /64 of them.
func network(remote netip.Addr) netip.Prefix {
	bits := 32
	if remote.Is6() {
		bits = 64
	}
	prefix, _ := remote.WithZone("").Prefix(bits) // the zero prefix, for what is no address
	return prefix
}

// wait is how long the address has to wait; 0: not at all.
func (f *failures) wait(remote netip.Addr, now time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	limit := f.limits[network(remote)]
	if limit == nil {
		return 0
	}
	missing := 1 - limit.TokensAt(now)
	if missing <= 0 {
		return 0
	}
	return max(time.Duration(missing*float64(f.interval)), time.Second)
}

// add counts a failure.
func (f *failures) add(remote netip.Addr, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := network(remote)
	limit := f.limits[key]
	if limit == nil {
		if len(f.limits) >= maxAddresses {
			f.drop(now)
		}
		limit = rate.NewLimiter(rate.Every(f.interval), f.burst)
		f.limits[key] = limit
	}
	limit.AllowN(now, 1)
}

// drop makes room: the addresses that have waited long enough, and if there is none, all. To be forgotten takes so many
// addresses then that one more or less does not matter.
func (f *failures) drop(now time.Time) {
	for key, limit := range f.limits {
		if limit.TokensAt(now) >= float64(f.burst) {
			delete(f.limits, key)
		}
	}
	if len(f.limits) >= maxAddresses {
		clear(f.limits)
	}
}
