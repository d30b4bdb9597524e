package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/api"
	"github.com/riverhook/riverhook/cmd/riverhook/internal/auth"
	"github.com/riverhook/riverhook/cmd/riverhook/internal/counts"
	"github.com/riverhook/riverhook/cmd/riverhook/internal/dashboard"
	"github.com/riverhook/riverhook/cmd/riverhook/internal/metrics"
	"github.com/riverhook/riverhook/cmd/riverhook/internal/node"
	"github.com/riverhook/riverhook/delivery/credential"
	"github.com/riverhook/riverhook/delivery/store"
)

// publicURL is how clients reach the listener: scheme, host and port.
type publicURL struct{ url *url.URL }

// UnmarshalText reads a public URL.
func (p *publicURL) UnmarshalText(text []byte) error {
	u, err := url.Parse(string(text))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("scheme, host and port only, such as https://hooks.example.com")
	}
	u.Host = strings.ToLower(u.Host) // as browsers send it
	p.url = u
	return nil
}

// web is what the service serves over HTTP.
type web struct {
	node      *node.Node
	api       *api.API
	dashboard *dashboard.Dashboard
	metrics   *metrics.Metrics
	auth      *auth.Authenticator
	public    *url.URL // nil: only loopback names and the listener's own addresses
	loopback  bool     // the listener can be reached from this machine only
}

// newWeb puts it together, before the node runs. Nothing is counted any more after ctx.
func (s *serveCmd) newWeb(ctx context.Context, n *node.Node, token credential.Secret, address net.Addr) *web {
	st, conns := n.Requests()
	w := &web{node: n, auth: auth.New(st, token), public: s.PublicURL.url, loopback: onLoopback(address)}
	stats := counts.New(ctx, st.Stats)
	w.metrics = metrics.New(metrics.Config{
		Version: n.Version, Clock: st.Clock,
		Counts: func(ctx context.Context) (store.Stats, error) { return stats.Get(ctx, "") },
	})
	n.WorkerHooks, n.SweeperHooks = w.metrics.Worker(), w.metrics.Sweeper()
	w.dashboard = dashboard.New(ctx, dashboard.Config{
		Store: st, Conns: conns, Auth: w.auth, Counts: stats, Keys: n.Keys, Headers: n.Headers, Public: w.public, UI: node.UIPrefix, Log: n.Log, Version: n.Version,
	})
	w.api = api.New(api.Config{
		Store: st, Conns: conns, Auth: w.auth, Counts: stats, Keys: n.Keys, Headers: n.Headers, MaxPayload: n.MaxPayload, Log: n.Log, Version: n.Version,
	})
	return w
}

// server is the HTTP listener of the service.
func (web *web) server() *http.Server {
	return &http.Server{
		Handler:           web.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      60 * time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(web.node.Log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return context.Background() },
	}
}

// handler is all of it. What machines look at comes first: it says nothing about anybody's rows, and is asked for by
// address.
func (web *web) handler() http.Handler {
	mux := http.NewServeMux()
	web.api.Register(mux)
	mux.HandleFunc(node.UIPrefix+"/", web.serveUI)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if !web.dashboard.Has(r) && !isBrowser(r) {
			api.WriteProblem(w, http.StatusNotFound, "there is nothing at this path: /docs says what there is")
			return
		}
		web.dashboard.ServeHTTP(w, r)
	})
	guarded := web.checkHost(web.sameOrigin(mux))

	outer := http.NewServeMux()
	outer.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if stuck := web.node.Progress.Stuck(time.Now()); len(stuck) > 0 {
			http.Error(w, "stuck: "+strings.Join(stuck, ", "), http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	})
	outer.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := web.node.Ready(r.Context()); err != nil {
			http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ready")
	})
	outer.Handle("GET /metrics", web.metrics.Handler())
	outer.Handle("/", guarded)
	return secureHeaders(outer)
}

// secureHeaders are on every answer: nothing that is served may be framed, guessed at, or run.
func secureHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		next.ServeHTTP(w, r)
	})
}

// sameOrigin refuses what a page of somebody else has a browser do.
func (web *web) sameOrigin(next http.Handler) http.Handler {
	protection := http.NewCrossOriginProtection()
	if web.public != nil {
		if err := protection.AddTrustedOrigin(web.public.Scheme + "://" + web.public.Host); err != nil {
			panic(err) // publicURL has checked it
		}
	}
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		api.WriteProblem(w, http.StatusForbidden, "a page of another origin may not ask for this")
	}))
	return protection.Handler(next)
}

// checkHost refuses requests for a host that is not ours: a name that somebody else has pointed at this address would
// make his page one of our origin.
func (web *web) checkHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !web.knows(r) {
			api.WriteProblem(w, http.StatusMisdirectedRequest, "this host is not served here: RIVERHOOK_PUBLIC_URL names the one that clients use")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// knows says whether the host is the public one, a loopback name, or the very address that the connection came to, which
// no name can stand for.
func (web *web) knows(r *http.Request) bool {
	host := strings.ToLower(r.Host)
	if web.public != nil && (host == web.public.Host || host == withPort(web.public)) {
		return true
	}
	name := (&url.URL{Host: host}).Hostname()
	if name == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(name)
	if err != nil {
		return false
	}
	address = address.Unmap()
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return address.IsLoopback() || local != nil && address == addressOnly(local)
}

// withPort is a URL's host with its port, also when that is the scheme's.
func withPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

func addressOnly(a net.Addr) netip.Addr {
	address, _ := netip.ParseAddrPort(a.String())
	return address.Addr().Unmap().WithZone("")
}

// isBrowser says whether somebody looks at the answer.
func isBrowser(r *http.Request) bool { return strings.Contains(r.Header.Get("Accept"), "text/html") }

// uiPolicy is what River UI needs: its scripts and styles are in the program.
const uiPolicy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; connect-src 'self'; " +
	"base-uri 'self'; form-action 'none'; frame-ancestors 'none'"

// serveUI is River UI. It shows every organization's jobs, so it takes a token that sees all; on a loopback address, where
// there is no token at all, it is open. Browsers are logged in as they are to the dashboard; others send a token as Bearer,
// or as the password of Basic.
func (web *web) serveUI(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Security-Policy", uiPolicy)
	if web.loopback {
		needed, err := web.auth.AnyToken(r.Context())
		if err == nil && !needed {
			web.node.ServeUI(w, r)
			return
		}
		if err != nil {
			web.api.WriteUnauthorized(w, r, err, "Basic")
			return
		}
	}
	identity, err := web.auth.Authenticate(r.Context(), auth.RemoteAddr(r), auth.FromRequest(r))
	if errors.Is(err, auth.ErrNoToken) {
		identity, err = web.dashboard.Identify(r.Context(), r)
	}
	switch {
	case (errors.Is(err, auth.ErrNoToken) || errors.Is(err, auth.ErrBadToken)) && isBrowser(r) && r.Header.Get("Authorization") == "":
		web.dashboard.Forget(w, r)
		http.Redirect(w, r, dashboard.LoginPath(r.URL.RequestURI()), http.StatusSeeOther)
	case err != nil:
		web.api.WriteUnauthorized(w, r, err, "Basic")
	case !identity.Scope.Allows(auth.ScopeRead) || identity.Organization != "":
		api.WriteProblem(w, http.StatusForbidden, "River UI shows all organizations: it takes a token of scope read, operate or admin without an organization")
	default:
		web.node.ServeUI(w, r)
	}
}

// onLoopback says whether a listener can be reached from this machine only.
func onLoopback(address net.Addr) bool {
	a, err := netip.ParseAddrPort(address.String())
	return err == nil && a.Addr().Unmap().IsLoopback()
}
