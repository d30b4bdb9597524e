package dashboard

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/auth"
	"github.com/riverhook/riverhook/cmd/riverhook/internal/counts"
	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/credential"
	"github.com/riverhook/riverhook/delivery/store"
)

const (
	// queryTimeout bounds each statement of a page, and pageTimeout the page.
	queryTimeout = 10 * time.Second
	pageTimeout  = 30 * time.Second
	tokenTimeout = 5 * time.Second
	// turnTimeout is how long a page waits for its turn before it is told to come back.
	turnTimeout = 5 * time.Second
	// countsWait is how long the first visitor waits for counts. Later ones get those that there are.
	countsWait = 2 * time.Second
	// maxForm bounds what a form may hold, in bytes.
	maxForm = 64 << 10
)

// Config is what the dashboard needs.
type Config struct {
	Store   *store.Store // on a pool that others use, too
	Conns   int          // connections of that pool
	Auth    *auth.Authenticator
	Counts  *counts.Cache[store.Stats]
	Keys    *credential.Keyring // that credentials and signing secrets are sealed under
	Headers delivery.HeaderRules
	Public  *url.URL // how clients reach the service; nil: on loopback only
	UI      string   // path of River UI
	Log     *slog.Logger
	Version string
}

// Dashboard answers requests of browsers. New makes one.
type Dashboard struct {
	Config
	reads       *store.Store
	overview    *counts.Cache[store.Overview]
	deadLetters *counts.Cache[store.DeadLetters]
	held        *counts.Cache[heldBack]
	turns       chan struct{} // pages that ask the database
	mux         *http.ServeMux
	templates   map[string]*template.Template
	assets      map[string]asset
	stamp       string // of the assets: a new program's are fetched anew
}

// New is a dashboard. It does not connect; nothing is counted after life has ended.
func New(life context.Context, c Config) *Dashboard {
	d := &Dashboard{Config: c, reads: c.Store.Within(queryTimeout), turns: make(chan struct{}, max(1, c.Conns/2)), mux: http.NewServeMux()}
	d.overview = counts.New(life, d.reads.Overview)
	d.deadLetters = counts.New(life, d.reads.DeadLetters)
	d.held = counts.New(life, d.heldBack)
	d.loadAssets()
	d.loadTemplates()

	d.mux.HandleFunc("GET /assets/{name}", d.serveAsset)
	d.mux.HandleFunc("GET /login", d.loginPage)
	d.mux.HandleFunc("POST /login", d.login)
	d.mux.HandleFunc("POST /logout", d.logout)
	d.registerOverview()
	d.registerDeliveries()
	d.registerReplays()
	d.registerPauses()
	d.registerSecrets()
	d.registerTokens()
	return d
}

//go:embed assets templates
var files embed.FS

// asset is a file that pages refer to.
type asset struct {
	kind string
	body []byte
}

func (d *Dashboard) loadAssets() {
	d.assets = make(map[string]asset)
	sum := sha256.New()
	entries, err := fs.ReadDir(files, "assets")
	if err != nil {
		panic(err) // embedded
	}
	for _, entry := range entries {
		body, err := files.ReadFile("assets/" + entry.Name())
		if err != nil {
			panic(err) // embedded
		}
		_, _ = sum.Write(body)
		kind := map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}[path.Ext(entry.Name())]
		d.assets[entry.Name()] = asset{kind, body}
	}
	d.stamp = hex.EncodeToString(sum.Sum(nil)[:6])
}

// loadTemplates makes one template of each page and the frame around all of them.
func (d *Dashboard) loadTemplates() {
	d.templates = make(map[string]*template.Template)
	frame := template.Must(template.New("frame").Funcs(functions).ParseFS(files, "templates/frame.html"))
	pages, err := fs.Glob(files, "templates/*.html")
	if err != nil {
		panic(err) // a pattern of ours
	}
	for _, file := range pages {
		if name := strings.TrimSuffix(path.Base(file), ".html"); name != "frame" {
			d.templates[name] = template.Must(template.Must(frame.Clone()).ParseFS(files, file))
		}
	}
}

func (d *Dashboard) serveAsset(w http.ResponseWriter, r *http.Request) {
	a, ok := d.assets[r.PathValue("name")]
	if !ok {
		d.showError(w, nil, &failure{http.StatusNotFound, "There is nothing at this path."})
		return
	}
	w.Header().Set("Content-Type", a.kind)
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable") // its URL has the stamp
	_, _ = w.Write(a.body)
}

// policy lets a page have our style, our script and what they load, and nothing else. Neither stands in a page.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// Has says whether there is a page for a request.
func (d *Dashboard) Has(r *http.Request) bool {
	_, pattern := d.mux.Handler(r)
	return pattern != ""
}

// ServeHTTP answers with a page, also where there is none.
func (d *Dashboard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	// Not no-referrer: with it, browsers say "Origin: null" of our own forms.
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	defer func() {
		if bug := recover(); bug != nil {
			d.Log.ErrorContext(r.Context(), "panic in a page", "path", r.Pattern, "panic", fmt.Sprint(bug), "stack", string(debug.Stack()))
			d.showError(w, nil, &failure{http.StatusInternalServerError, "This is riverhook's fault: its log says more."})
		}
	}()
	if !d.Has(r) {
		d.showError(w, nil, &failure{http.StatusNotFound, "There is nothing at this path."})
		return
	}
	d.mux.ServeHTTP(w, r)
}

// visit is a request of somebody who is logged in.
type visit struct {
	*auth.Identity
	request *http.Request
	query   url.Values
	form    url.Values // of a POST
}

// may says whether the visitor's token has the right.
func (v *visit) may(needed auth.Scope) bool { return v.Scope.Allows(needed) }

// answer is a page, or where to go instead.
type answer struct {
	template string
	title    string
	status   int // 0: 200
	data     any
	redirect string
}

// seeOther is where to go after something was done.
func seeOther(to string) answer { return answer{redirect: to} }

// fields are the names that a query or a form may have. A misspelt filter must not be taken for none.
type fields []string

func (f fields) check(values url.Values) error {
	for name := range values {
		if !slices.Contains(f, name) {
			return &failure{http.StatusBadRequest, "The address or the form has a field that this page does not know: " + visible(cut(name, 100)) + "."}
		}
	}
	return nil
}

// page registers a page that takes a token of that scope.
func (d *Dashboard) page(pattern string, needed auth.Scope, names fields, do func(context.Context, *visit) (answer, error)) {
	d.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		v, ok := d.enter(w, r)
		if !ok {
			return
		}
		a, err := d.visit(r.Context(), w, v, needed, names, do)
		switch {
		case err != nil:
			d.showError(w, v, d.explain(r, err))
		case a.redirect != "":
			http.Redirect(w, r, a.redirect, http.StatusSeeOther)
		default:
			d.show(w, v, a)
		}
	})
}

// enter is who asks. Who is not logged in is sent to do so, and ok is false.
func (d *Dashboard) enter(w http.ResponseWriter, r *http.Request) (v *visit, ok bool) {
	ctx, cancel := context.WithTimeout(r.Context(), tokenTimeout)
	defer cancel()
	identity, err := d.Identify(ctx, r)
	switch {
	case err == nil:
		return &visit{Identity: identity, request: r}, true
	case errors.Is(err, auth.ErrBadToken):
		d.Forget(w, r)
		fallthrough
	case errors.Is(err, auth.ErrNoToken):
		next := ""
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			next = r.URL.RequestURI()
		}
		http.Redirect(w, r, loginPath(next), http.StatusSeeOther)
	default:
		d.showLogin(w, r, d.refusal(w, r, err), localPath(r.URL.RequestURI()))
	}
	return nil, false
}

// visit checks what a page is asked, waits for its turn, and makes it.
func (d *Dashboard) visit(ctx context.Context, w http.ResponseWriter, v *visit, needed auth.Scope, names fields,
	do func(context.Context, *visit) (answer, error),
) (answer, error) {
	if !v.may(needed) {
		return answer{}, &failure{http.StatusForbidden, "This takes a token of scope " + auth.ScopesFor(needed) + "; yours is " + string(v.Scope) + "."}
	}
	var err error
	if v.query, err = url.ParseQuery(v.request.URL.RawQuery); err != nil {
		return answer{}, &failure{http.StatusBadRequest, "The address cannot be read."}
	}
	if err = names.check(v.query); err == nil && v.request.Method == http.MethodPost {
		if v.form, err = readForm(w, v.request); err == nil {
			err = names.check(v.form)
		}
	}
	if err != nil {
		return answer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	turn, stop := context.WithTimeout(ctx, turnTimeout)
	defer stop()
	select {
	case d.turns <- struct{}{}:
		defer func() { <-d.turns }()
	case <-turn.Done():
		return answer{}, &failure{http.StatusServiceUnavailable, "Too many pages are asked for at once: try again."}
	}
	return do(ctx, v)
}

// readForm reads a form's body.
func readForm(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/x-www-form-urlencoded" {
		return nil, &failure{http.StatusUnsupportedMediaType, "This takes a form."}
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	err := r.ParseForm()
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, &failure{http.StatusRequestEntityTooLarge, "The form holds more than this takes."}
	case err != nil:
		return nil, &failure{http.StatusBadRequest, "The form cannot be read."}
	}
	return r.PostForm, nil
}

// frame is what every page has.
type frame struct {
	Title   string
	Who     *auth.Identity // nil: nobody is logged in
	Links   []link
	Stamp   string
	Version string
	Now     time.Time
	Data    any
}

// link is one of the navigation.
type link struct {
	Path, Name string
	Current    bool
}

// links are what the visitor may look at.
func (d *Dashboard) links(v *visit) (links []link) {
	for _, l := range []struct {
		path, name string
		needed     auth.Scope
	}{
		{"/", "Overview", auth.ScopeRead},
		{"/deliveries", "Deliveries", auth.ScopeRead},
		{"/dead-letters", "Dead letters", auth.ScopeRead},
		{"/replays", "Replays", auth.ScopeRead},
		{"/pauses", "Pauses", auth.ScopeOperate},
		{"/credentials", "Credentials", auth.ScopeAdmin},
		{"/secrets", "Signing secrets", auth.ScopeAdmin},
		{"/tokens", "Tokens", auth.ScopeAdmin},
		{"/docs", "API", auth.ScopeRead},
		{d.UI + "/", "River UI", auth.ScopeRead},
	} {
		if !v.may(l.needed) || l.path == d.UI+"/" && v.Organization != "" {
			continue
		}
		at := v.request.URL.Path
		links = append(links, link{l.path, l.name, at == l.path || l.path != "/" && strings.HasPrefix(at, l.path+"/")})
	}
	return links
}

// show writes a page.
func (d *Dashboard) show(w http.ResponseWriter, v *visit, a answer) {
	f := frame{Title: a.title, Stamp: d.stamp, Version: d.Version, Now: time.Now().UTC(), Data: a.data}
	if v != nil {
		f.Who, f.Links = v.Identity, d.links(v)
	}
	var page bytes.Buffer
	if err := d.templates[a.template].ExecuteTemplate(&page, "frame", f); err != nil {
		d.Log.Error("a page cannot be shown", "template", a.template, "error", err)
		http.Error(w, "this is riverhook's fault: its log says more", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(max(a.status, http.StatusOK))
	_, _ = w.Write(page.Bytes())
}
