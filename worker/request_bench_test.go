package worker

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/riverhook/riverhook/delivery"
	"github.com/riverhook/riverhook/delivery/signing"
)

func BenchmarkNewRequest(b *testing.B) {
	headers := Headers{HeaderRules: delivery.HeaderRules{Prefix: "X-Riverhook-"}, UserAgent: "riverhook/1.0.0"}
	plain := delivery.Delivery{
		ID: 1, UUID: "8f14e45f-ceea-467f-a8d5-1b2c3d4e5f60", OrganizationID: "default", WorkflowRunID: "run 1",
		EndpointURL: "https://hooks.example.com/tenants/42", Method: "POST", Payload: bytes.Repeat([]byte("x"), 1024), PayloadBytes: 1024,
	}
	withHeaders := plain
	withHeaders.CustomHeaders = []byte(`[{"key":"X-Tenant","value":"acme"},{"key":"Accept-Language","value":"en"}]`)
	for _, c := range []struct {
		name string
		d    delivery.Delivery
		o    opened
	}{
		{"plain", plain, opened{}},
		{"custom headers", withHeaders, opened{}},
		{"signed", plain, opened{signing: []signing.Key{signing.Generate()}}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _, err := newRequest(b.Context(), &c.d, headers, 1<<20, c.o)
				require.NoError(b, err)
			}
		})
	}
}
