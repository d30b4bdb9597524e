package api_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/migrations/pgtest"
)

// A delivery belongs to the trace that it names, or else to the request's. What is none is ignored, and no reason to refuse.
func TestTraceparent(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const one, other = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-11111111111111111111111111111111-2222222222222222-00"
	for _, c := range []struct {
		body, header any
		want         string
	}{
		{nil, nil, "-"}, {one, nil, one}, {nil, other, other}, {one, other, one},
		{"none", other, "-"}, {"nul \u0000", nil, "-"}, {strings.Repeat("x", 10_000), nil, "-"}, {nil, "none", "-"},
	} {
		var headers []string
		if c.header != nil {
			headers = []string{"traceparent", c.header.(string)}
		}
		for path, body := range map[string]object{
			"/v1/deliveries":       {"endpoint_url": "http://a.example/", "traceparent": c.body},
			"/v1/deliveries/batch": {"deliveries": []object{{"endpoint_url": "http://a.example/", "traceparent": c.body}}},
		} {
			a := b.do(t, setToken, "POST", path, body, headers...)
			require.Equal(t, 201, a.status, a.text)
			assert.Equal(t, c.want, pgtest.Scalar[string](t, b.DB, `SELECT coalesce(traceparent, '-') FROM riverhook.deliveries ORDER BY id DESC LIMIT 1`), "%s %v", path, c)
		}
	}
	// Sent again under the same key, in another trace, it is the same request.
	body := object{"endpoint_url": "http://a.example/"}
	first := b.do(t, setToken, "POST", "/v1/deliveries", body, "Idempotency-Key", "k", "traceparent", one)
	second := b.do(t, setToken, "POST", "/v1/deliveries", body, "Idempotency-Key", "k", "traceparent", other)
	assert.Equal(t, []any{201, first.body["id"]}, []any{second.status, second.body["id"]})
	shown := b.do(t, setToken, "GET", first.header.Get("Location"), nil)
	assert.Contains(t, shown.text, one)
}
