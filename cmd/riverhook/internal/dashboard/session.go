package dashboard

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/auth"
)

const (
	// secureCookie holds the session where the connection is encrypted: browsers take a cookie of that name only from there,
	// for this host alone. plainCookie is for http on a loopback address, where there is no such thing.
	secureCookie = "__Host-riverhook-session"
	plainCookie  = "riverhook-session"
)

// Identify says who is logged in, as auth.Authenticator.Session does.
func (d *Dashboard) Identify(ctx context.Context, r *http.Request) (*auth.Identity, error) {
	return d.Auth.Session(ctx, auth.RemoteAddr(r), d.session(r))
}

// session is what the browser keeps of the log-in; empty: it does not. Over https, the other cookie counts for nothing: a
// neighbour's page could have set it.
func (d *Dashboard) session(r *http.Request) string {
	cookie, err := r.Cookie(d.cookie(r).Name)
	if err != nil {
		return ""
	}
	return cookie.Value
}

// encrypted says whether the browser got here by https.
func (d *Dashboard) encrypted(r *http.Request) bool {
	if d.Public == nil || d.Public.Scheme != "https" {
		return false
	}
	port := d.Public.Port()
	if port == "" {
		port = "443"
	}
	return strings.EqualFold(r.Host, d.Public.Host) || strings.EqualFold(r.Host, net.JoinHostPort(d.Public.Hostname(), port))
}

// onLoopback says whether the browser is on this machine.
func onLoopback(r *http.Request) bool {
	name := (&url.URL{Host: r.Host}).Hostname()
	address, err := netip.ParseAddr(name)
	return strings.EqualFold(name, "localhost") || err == nil && address.Unmap().IsLoopback()
}

// cookie is the one for this connection.
func (d *Dashboard) cookie(r *http.Request) *http.Cookie {
	c := &http.Cookie{Name: plainCookie, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode}
	if d.encrypted(r) {
		c.Name, c.Secure = secureCookie, true
	}
	return c
}

// Forget has the browser forget a session that has ended. Else a page that asks again and again would go on with it.
func (d *Dashboard) Forget(w http.ResponseWriter, r *http.Request) {
	c := d.cookie(r)
	c.MaxAge = -1
	http.SetCookie(w, c)
}

// localPath is where to go after the log-in: a path of ours, whatever the address said.
func localPath(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(u.Path, "//") ||
		strings.Contains(text, `\`) || strings.HasPrefix(u.Path, "/login") {
		return "/"
	}
	return (&url.URL{Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}).String()
}

// loginPath is the log-in that leads back to a path.
func loginPath(next string) string {
	if next = localPath(next); next == "/" {
		return "/login"
	}
	return "/login?" + url.Values{"next": {next}}.Encode()
}

// LoginPath is where to send a browser that has to log in first, and comes back to the path then.
func LoginPath(back string) string { return loginPath(back) }

// loginData is what the log-in shows.
type loginData struct {
	Wrong   string
	Next    string
	NoToken bool // there is none at all yet
	Unsafe  bool // the connection is not encrypted, and not on this machine
}

func (d *Dashboard) loginPage(w http.ResponseWriter, r *http.Request) {
	next := localPath(r.URL.Query().Get("next"))
	ctx, cancel := context.WithTimeout(r.Context(), tokenTimeout)
	defer cancel()
	_, err := d.Identify(ctx, r)
	switch {
	case err == nil:
		http.Redirect(w, r, next, http.StatusSeeOther)
		return
	case errors.Is(err, auth.ErrBadToken):
		d.Forget(w, r)
	}
	d.showLogin(w, r, nil, next)
}

func (d *Dashboard) showLogin(w http.ResponseWriter, r *http.Request, f *failure, next string) {
	data, status := loginData{Next: next, Unsafe: !d.encrypted(r) && !onLoopback(r)}, http.StatusOK
	if f != nil {
		data.Wrong, status = f.text, f.status
	}
	ctx, cancel := context.WithTimeout(r.Context(), tokenTimeout)
	defer cancel()
	if found, err := d.Auth.AnyToken(ctx); err == nil {
		data.NoToken = !found
	}
	d.show(w, nil, answer{template: "login", title: "Log in", status: status, data: data})
}

func (d *Dashboard) login(w http.ResponseWriter, r *http.Request) {
	form, err := readForm(w, r)
	if err == nil {
		err = fields{"token", "next"}.check(form)
	}
	if err == nil && !d.encrypted(r) && !onLoopback(r) {
		err = &failure{http.StatusForbidden, "A token is not sent over a connection that is not encrypted."}
	}
	if err != nil {
		d.showError(w, nil, d.explain(r, err))
		return
	}
	next, token := localPath(form.Get("next")), strings.TrimSpace(form.Get("token"))
	ctx, cancel := context.WithTimeout(r.Context(), tokenTimeout)
	defer cancel()
	_, session, err := d.Auth.Login(ctx, auth.RemoteAddr(r), token, auth.ScopeRead)
	if err != nil {
		d.showLogin(w, r, d.refusal(w, r, err), next)
		return
	}
	if session == "" {
		d.showLogin(w, r, &failure{http.StatusForbidden, "This token may only enqueue: the dashboard takes one of scope " + auth.ScopesFor(auth.ScopeRead) + "."}, next)
		return
	}
	if err := d.Auth.Logout(ctx, d.session(r)); err != nil { // of who was logged in before
		d.Log.WarnContext(ctx, "cannot end a session before it expires", "error", err)
	}
	c := d.cookie(r)
	c.Value, c.MaxAge = session, int(auth.SessionLength/time.Second)
	http.SetCookie(w, c)
	http.Redirect(w, r, next, http.StatusSeeOther)
}

func (d *Dashboard) logout(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), tokenTimeout)
	defer cancel()
	err := d.Auth.Logout(ctx, d.session(r))
	d.Forget(w, r) // all the same
	if err != nil {
		d.Log.WarnContext(ctx, "cannot end a session before it expires", "error", err)
		d.showLogin(w, r, &failure{http.StatusServiceUnavailable, "This browser is logged out, but the database does not answer: a copy of its cookie, if there is one, " +
			"works until the session expires (" + length(auth.SessionLength) + " after the log-in). Revoking its token ends it at once."}, "/")
		return
	}
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}
