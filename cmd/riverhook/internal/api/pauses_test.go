package api_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/auth"
	"github.com/riverhook/riverhook/migrations/pgtest"
)

func TestPauses(t *testing.T) {
	t.Parallel()
	b := setup(t)
	made := b.do(t, setToken, "POST", "/v1/pauses", object{"endpoint_origin": "https://Example.com:443/hook?x", "reason": "maintenance"})
	require.Equal(t, 201, made.status, made.text)
	assert.Equal(t, "https://example.com", made.body["endpoint_origin"])
	assert.Nil(t, made.body["organization_id"])
	assert.Equal(t, "maintenance", made.body["reason"])
	again := b.do(t, setToken, "POST", "/v1/pauses", object{"endpoint_origin": "https://example.com", "reason": "longer"})
	require.Equal(t, 200, again.status, again.text)
	assert.Equal(t, false, again.body["created"])
	assert.Equal(t, "longer", again.body["reason"])
	assert.Equal(t, made.header.Get("Location"), again.header.Get("Location"))
	everything := b.do(t, setToken, "POST", "/v1/pauses", object{"everything": true})
	require.Equal(t, 201, everything.status, everything.text)

	for _, body := range []object{
		{}, {"everything": false}, {"endpoint_origin": ""}, {"organization_id": ""}, {"endpoint_origin": "example.com"}, {"endpoint_origin": "https://u:p@example.com"},
		{"organization_id": "a", "everything": true}, {"organization_id": "a\x00"}, {"organization_id": strings.Repeat("x", 801)}, {"organization_id": "a", "reason": strings.Repeat("é", 501)},
	} {
		assert.Equal(t, 422, b.do(t, setToken, "POST", "/v1/pauses", body).status, "%v", body)
	}
	read := b.token(t, auth.ScopeRead, "")
	assert.Equal(t, 403, b.do(t, read, "GET", "/v1/pauses", nil).status)
	assert.Equal(t, 403, b.do(t, read, "POST", "/v1/pauses", object{"everything": true}).status)
	assert.Equal(t, 200, b.do(t, read, "GET", "/v1/held", nil).status)

	// One organization sees and ends its own.
	acme := b.token(t, auth.ScopeOperate, "acme")
	assert.Empty(t, b.do(t, acme, "GET", "/v1/pauses", nil).items())
	assert.Equal(t, 404, b.do(t, acme, "DELETE", everything.header.Get("Location"), nil).status)
	assert.Equal(t, 403, b.do(t, acme, "POST", "/v1/pauses", object{"organization_id": "other"}).status)
	assert.Equal(t, 422, b.do(t, acme, "POST", "/v1/pauses", object{"everything": true}).status)
	own := b.do(t, acme, "POST", "/v1/pauses", object{})
	require.Equal(t, 201, own.status, own.text)
	assert.Equal(t, "acme", own.body["organization_id"])
	assert.Len(t, b.do(t, acme, "GET", "/v1/pauses", nil).items(), 1)
	assert.Equal(t, 403, b.do(t, acme, "GET", "/v1/pauses?organization_id=other", nil).status)
	assert.Len(t, b.do(t, setToken, "GET", "/v1/pauses", nil).items(), 3)
	assert.Equal(t, 204, b.do(t, acme, "DELETE", own.header.Get("Location"), nil).status)
	for _, id := range []string{"0", "x", "99", "9999999999999999999"} {
		assert.Equal(t, 404, b.do(t, setToken, "DELETE", "/v1/pauses/"+id, nil).status, id)
	}
	assert.Equal(t, 204, b.do(t, setToken, "DELETE", everything.header.Get("Location"), nil).status)
	assert.Equal(t, []string{"https://example.com"}, pgtest.Column[string](t, b.DB, `SELECT endpoint_origin FROM riverhook.pauses`))
}

func TestHeldOverHTTP(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for i, endpoint := range []string{"https://a.example/", "https://b.example/", "nowhere"} {
		for _, organization := range []string{"acme", "other"} {
			b.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, organization_id, held_since, held_reason) SELECT $1, $2, now(), 'paused' FROM generate_series(1, $3)`,
				endpoint, organization, i+1)
		}
	}
	b.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, organization_id, held_since, held_reason) VALUES ('https://c.example/', 'other', now(), 'failing')`)
	words := func(a answer) (words []string) {
		require.Equal(t, 200, a.status, a.text)
		for _, g := range a.items() {
			words = append(words, fmt.Sprint(g["endpoint_origin"], " ", g["organization_id"], " ", g["held_reason"], " ", g["count"]))
		}
		return words
	}
	mine := []string{"https://a.example acme paused 1", "https://b.example acme paused 2", "<nil> acme paused 3"}
	assert.Equal(t, mine, words(b.do(t, b.token(t, auth.ScopeRead, "acme"), "GET", "/v1/held", nil)))
	assert.Equal(t, mine, words(b.do(t, setToken, "GET", "/v1/held?organization_id=acme", nil)))
	assert.Len(t, words(b.do(t, setToken, "GET", "/v1/held", nil)), 7)
	short := b.do(t, setToken, "GET", "/v1/held?limit=1", nil)
	assert.Equal(t, true, short.body["more"])
	assert.Len(t, words(short), 1)
	assert.Equal(t, 422, b.do(t, setToken, "GET", "/v1/held?limit=1001", nil).status)
}
