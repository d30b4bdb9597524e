package api_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkCreateDelivery is what many clients get accepted a second, one delivery a request, over HTTP on the loopback
// interface: clients, service and Postgres share the machine. Run it with -benchtime 100000x.
func BenchmarkCreateDelivery(b *testing.B) {
	for _, keyed := range []bool{false, true} {
		for _, clients := range []int{1, 32} {
			b.Run(fmt.Sprintf("clients=%d,keyed=%t", clients, keyed), func(b *testing.B) { benchmarkCreate(b, clients, keyed) })
		}
	}
}

func benchmarkCreate(b *testing.B, clients int, keyed bool) {
	s := setup(b)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	defer client.CloseIdleConnections()
	body := append([]byte(`{"endpoint_url":"https://example.com/hook","organization_id":"acme","payload":{"text":"`), bytes.Repeat([]byte("x"), 1000)...)
	body = append(body, `"}}`...)
	var sent atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range clients {
		wg.Go(func() {
			for {
				n := sent.Add(1)
				if n > int64(b.N) {
					return
				}
				request, err := http.NewRequestWithContext(b.Context(), http.MethodPost, s.url+"/v1/deliveries", bytes.NewReader(body))
				if err != nil {
					b.Error(err)
					return
				}
				request.Header.Set("Content-Type", "application/json")
				request.Header.Set("Authorization", "Bearer "+setToken)
				if keyed {
					request.Header.Set("Idempotency-Key", fmt.Sprint(n))
				}
				response, err := client.Do(request)
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, response.Body)
				_ = response.Body.Close()
				if response.StatusCode != http.StatusCreated {
					b.Error(response.Status)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "accepted/s")
	var rows int
	require.NoError(b, s.Pool.QueryRow(b.Context(), `SELECT count(*) FROM riverhook.deliveries`).Scan(&rows))
	require.Equal(b, b.N, rows, "what was accepted is there")
}
