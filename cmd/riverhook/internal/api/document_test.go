package api_test

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/auth"
)

func document(t *testing.T, b *bundle) object {
	t.Helper()
	a := b.do(t, "", "GET", "/openapi.json", nil)
	require.Equal(t, 200, a.status)
	assert.Equal(t, "application/openapi+json", a.header.Get("Content-Type"))
	return a.body
}

// operations calls do for every operation of the document.
func operations(t *testing.T, doc object, do func(method, path string, op object)) {
	t.Helper()
	paths := doc["paths"].(object)
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		item := paths[path].(object)
		for _, method := range slices.Sorted(maps.Keys(item)) {
			require.Contains(t, []string{"get", "post", "put", "delete"}, method, path)
			do(strings.ToUpper(method), path, item[method].(object))
		}
	}
}

// The document is what OpenAPI 3.1 wants: every reference leads somewhere, every parameter of a path is declared, every
// operation has a name of its own, its token and its answers.
func TestDocument(t *testing.T) {
	t.Parallel()
	b := setup(t)
	doc := document(t, b)
	assert.Equal(t, "3.1.0", doc["openapi"])
	assert.Equal(t, "riverhook", doc["info"].(object)["title"])
	assert.NotEmpty(t, doc["info"].(object)["version"])
	var refs func(v any)
	found := 0
	refs = func(v any) {
		switch v := v.(type) {
		case object:
			if ref, ok := v["$ref"].(string); ok {
				found++
				at := any(doc)
				for _, step := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
					next, ok := at.(object)[step]
					require.True(t, ok, "%s leads nowhere", ref)
					at = next
				}
			}
			for _, inner := range v {
				refs(inner)
			}
		case []any:
			for _, inner := range v {
				refs(inner)
			}
		}
	}
	refs(doc)
	assert.Greater(t, found, 20)
	for name, s := range doc["components"].(object)["schemas"].(object) {
		schema := s.(object)
		properties, _ := schema["properties"].(object)
		required, _ := schema["required"].([]any)
		for _, field := range required {
			assert.Contains(t, properties, field, "%s requires what it does not have", name)
		}
	}
	seen := map[string]bool{}
	parameter := regexp.MustCompile(`\{(\w+)\}`)
	operations(t, doc, func(method, path string, op object) {
		what := method + " " + path
		id := op["operationId"].(string)
		assert.False(t, seen[id], "%s: the name is taken", what)
		seen[id] = true
		assert.NotEmpty(t, op["summary"], what)
		assert.Equal(t, []any{object{"token": []any{}}}, op["security"], what)
		answers := op["responses"].(object)
		for _, status := range []string{"401", "403", "422", "429"} {
			assert.Contains(t, answers, status, what)
		}
		for status, a := range answers {
			if code, err := strconv.Atoi(status); err == nil && code >= 400 {
				assert.Contains(t, a.(object)["content"], "application/problem+json", "%s %s", what, status)
			}
		}
		declared := map[string]bool{}
		list, _ := op["parameters"].([]any)
		for _, p := range list {
			p := p.(object)
			assert.NotEmpty(t, p["schema"], "%s %v", what, p["name"])
			if p["in"] == "path" {
				assert.Equal(t, true, p["required"], what)
				declared[p["name"].(string)] = true
			}
		}
		for _, name := range parameter.FindAllStringSubmatch(path, -1) {
			assert.True(t, declared[name[1]], "%s: %s is not declared", what, name[1])
		}
	})
	assert.Len(t, seen, 26)
	delivery := doc["components"].(object)["schemas"].(object)["NewDelivery"].(object)
	assert.Equal(t, []any{"endpoint_url"}, delivery["required"])
	assert.Equal(t, false, delivery["additionalProperties"])
	assert.NotContains(t, delivery["properties"].(object)["payload"], "type", "any value")
}

// Every example of the document works against a running server.
func TestExamples(t *testing.T) {
	t.Parallel()
	b := setup(t)
	examples := 0
	b.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('http://a/')`)
	run := func(method, path string, op object) {
		content, ok := op["requestBody"].(object)
		if !ok {
			return
		}
		example := content["content"].(object)["application/json"].(object)["example"]
		if !assert.NotNil(t, example, "%s %s has no example", method, path) {
			return
		}
		examples++
		a := b.do(t, setToken, method, path, example)
		assert.Contains(t, []int{200, 201, 202}, a.status, "%s %s: %s", method, path, a.text)
	}
	doc := document(t, b)
	operations(t, doc, run)
	assert.Equal(t, 8, examples)
	operations(t, doc, func(method, path string, op object) {
		if method != "GET" || strings.Contains(path, "{") {
			return
		}
		a := b.do(t, setToken, method, path, nil)
		assert.Equal(t, 200, a.status, "%s: %s", path, a.text)
	})
}

// The page needs nothing but itself.
func TestPage(t *testing.T) {
	t.Parallel()
	b := setup(t)
	response, err := http.Get(b.url + "/docs") //nolint:gosec // our own server
	require.NoError(t, err)
	defer response.Body.Close() //nolint:errcheck // a test's
	raw, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	page := string(raw)
	assert.Equal(t, 200, response.StatusCode)
	assert.Contains(t, response.Header.Get("Content-Security-Policy"), "default-src 'none'")
	assert.NotRegexp(t, `<script|<link|<img|src=|@import|url\(`, page)
	assert.NotContains(t, page, "ZgotmplZ")
	for _, field := range []string{"deliveries[].custom_headers[].key", "filter.status[]", "overlap_seconds"} {
		assert.Contains(t, page, "<code>"+field+"</code>")
	}
	operations(t, document(t, b), func(method, path string, op object) {
		assert.Contains(t, page, fmt.Sprintf("<code>%s %s</code>", method, path))
		assert.Contains(t, page, fmt.Sprintf("id=%q", op["operationId"]))
	})
}

// Whatever is sent to whatever there is, by whoever: an answer below 500, that is a problem if it is not a success.
func TestNothingFails(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url) VALUES ('http://a/')`)
	var bodies []string
	for _, field := range []string{
		"endpoint_url", "payload", "deliveries", "filter", "pace", "dry_run", "name", "type", "secret", "scope", "organization_id", "overlap_seconds",
		"expires_in_seconds", "endpoint_origin", "custom_headers", "scheduled_for", "credential_uuid",
	} {
		for _, value := range []string{`null`, `""`, `"\u0000"`, `"\ud800"`, `-1`, `1e308`, `9223372036854775808`, `true`, `[]`, `[null]`, `[[]]`, `{}`, `{"":{}}`} {
			bodies = append(bodies, fmt.Sprintf(`{%q:%s}`, field, value))
			bodies = append(bodies, fmt.Sprintf(`{"endpoint_url":"http://a/","name":"x","type":"none","scope":"read","filter":{},"deliveries":[{"endpoint_url":"http://a/"}],%q:%s}`, field, value))
		}
	}
	operations(t, document(t, b), func(method, path string, op object) {
		for _, id := range []string{"1", "0", "x", "%00", "%ff", "%F0%9F%92%A9", strings.Repeat("9", 500), "..%2f..", "%27%22"} {
			if !strings.Contains(path, "{") && id != "1" {
				break
			}
			at := regexp.MustCompile(`\{\w+\}`).ReplaceAllString(path, id)
			b.do(t, setToken, method, at, nil)
			b.do(t, setToken, method, at+"?organization_id=%00&endpoint_origin=%ff&all=perhaps&limit=99999999999999999999", nil)
		}
		if op["requestBody"] != nil {
			for _, body := range bodies {
				b.do(t, setToken, method, path, body)
			}
		}
	})
}

// Wrong tokens are wrong whatever they look like, and after some of them there is a pause for that address.
func TestBadTokens(t *testing.T) {
	t.Parallel()
	b := setup(t)
	good := b.token(t, auth.ScopeRead, "")
	require.Equal(t, 200, b.do(t, good, "GET", "/v1/stats", nil).status)
	for _, bad := range []string{"x", good + "x", good[:len(good)-1] + "1", strings.ToUpper(good), "rvh_000000000000_" + strings.Repeat("a", 52), setToken + "x", strings.Repeat("x", 5000), "' OR 1=1 --"} {
		a := b.do(t, bad, "GET", "/v1/deliveries", nil)
		assert.Equal(t, 401, a.status, bad)
		assert.Contains(t, a.header.Get("WWW-Authenticate"), "Bearer")
	}
	assert.Contains(t, b.do(t, "", "GET", "/v1/deliveries", nil).text, "riverhook tokens create")
	paused := false
	for range 20 {
		a := b.do(t, "x", "GET", "/v1/deliveries", nil)
		if paused = a.status == 429; paused {
			assert.NotEmpty(t, a.header.Get("Retry-After"))
			break
		}
	}
	assert.True(t, paused)
	for _, token := range []string{good, setToken} {
		assert.Equal(t, 200, b.do(t, token, "GET", "/v1/deliveries", nil).status, "who is known does not wait")
	}
}
