package delivery_test

import (
	"testing"
	"time"

	"github.com/riverhook/riverhook/delivery"
)

func BenchmarkDecide(b *testing.B) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	policy := delivery.DefaultPolicy()
	for _, c := range []struct {
		name string
		o    delivery.Observation
	}{
		{"succeeded", delivery.Observation{StatusCode: 200}},
		{"transient", delivery.Observation{StatusCode: 503, Error: "HTTP 503"}},
		{"retry after", delivery.Observation{StatusCode: 429, Error: "HTTP 429", RetryAfter: "120"}},
		{"retry after a date", delivery.Observation{StatusCode: 429, Error: "HTTP 429", RetryAfter: "Fri, 02 Jan 2026 03:06:05 GMT"}},
		{"permanent", delivery.Observation{StatusCode: 410, Error: "HTTP 410"}},
	} {
		b.Run(c.name, func(b *testing.B) {
			d := &delivery.Delivery{ID: 1, AttemptCount: 3}
			b.ReportAllocs()
			for b.Loop() {
				delivery.Decide(d, c.o, policy, now, 0.5)
			}
		})
	}
}

func BenchmarkCustomHeaders(b *testing.B) {
	rules := delivery.HeaderRules{Prefix: "X-Riverhook-"}
	for _, c := range []struct{ name, headers string }{
		{"none", ""},
		{"two", `[{"key":"X-Tenant","value":"acme"},{"key":"Accept-Language","value":"en"}]`},
		{"dropped", `[{"key":"X-Api-Key","value":"abc"},{"key":"Connection","value":"close"}]`},
	} {
		b.Run(c.name, func(b *testing.B) {
			custom := []byte(c.headers)
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := rules.Custom(custom); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkParseEndpoint(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := delivery.ParseEndpoint("https://hooks.example.com:8443/tenants/42/calls?version=2"); err != nil {
			b.Fatal(err)
		}
	}
}
