package main

import (
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/riverhook/riverhook/migrations/pgtest"
)

// An attempt continues the trace of its delivery, and its receiver can continue the attempt's.
func TestServeTraces(t *testing.T) {
	t.Parallel()
	type resourceSpan struct {
		*spans.Span
		resource string
	}
	exported := make(chan resourceSpan, 100)
	otel := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "/v1/traces", r.URL.Path)
		body, _ := io.ReadAll(r.Body)
		var request collector.ExportTraceServiceRequest
		if !assert.NoError(t, proto.Unmarshal(body, &request)) {
			return
		}
		for _, resource := range request.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				for _, span := range scope.Spans {
					exported <- resourceSpan{span, resource.Resource.String()}
				}
			}
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	defer otel.Close()
	headers := make(chan http.Header, 100)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		headers <- r.Header
		if strings.HasPrefix(r.URL.Path, "/gone") {
			w.WriteHeader(http.StatusGone)
			_, _ = io.WriteString(w, "private answer")
		}
	}))
	defer receiver.Close()
	db := pgtest.New(t)
	serve(t, db.URL, true, "OTEL_EXPORTER_OTLP_ENDPOINT="+otel.URL, "OTEL_BSP_SCHEDULE_DELAY=50", "OTEL_SERVICE_NAME=hooks")
	const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	next := func(path, traceparent string) (span resourceSpan, header string) {
		db.Exec(t, `INSERT INTO riverhook.deliveries (endpoint_url, traceparent, workflow_run_id) VALUES ($1, $2, 'run-7')`, receiver.URL+path, traceparent)
		select {
		case span = <-exported:
			return span, (<-headers).Get("traceparent")
		case <-time.After(time.Minute):
			require.Fail(t, "no span")
		}
		return span, ""
	}
	attributes := func(span resourceSpan) map[string]string {
		list := map[string]string{}
		for _, a := range span.Attributes {
			list[a.Key] = strings.TrimSpace(a.Value.String())
		}
		return list
	}

	span, header := next("/ok?token=hunter2", "00-"+trace+"-"+parent+"-01")
	assert.Equal(t, trace, hex.EncodeToString(span.TraceId))
	assert.Equal(t, parent, hex.EncodeToString(span.ParentSpanId))
	assert.Equal(t, "00-"+trace+"-"+hex.EncodeToString(span.SpanId)+"-01", header)
	assert.Equal(t, "POST", span.Name)
	assert.Equal(t, spans.Span_SPAN_KIND_CLIENT, span.Kind)
	assert.Contains(t, span.resource, "hooks", "OTEL_SERVICE_NAME wins")
	assert.Contains(t, attributes(span)["http.response.status_code"], "200")
	assert.Contains(t, attributes(span)["riverhook.workflow_run_id"], "run-7")
	assert.Contains(t, attributes(span)["server.address"], "127.0.0.1")
	assert.NotContains(t, span.String(), "hunter2")

	span, header = next("/gone", "this is none")
	assert.Empty(t, span.ParentSpanId, "a trace of its own")
	assert.Equal(t, "00-"+hex.EncodeToString(span.TraceId)+"-"+hex.EncodeToString(span.SpanId)+"-01", header)
	assert.Equal(t, spans.Status_STATUS_CODE_ERROR, span.Status.Code)
	assert.Contains(t, attributes(span)["error.type"], "410")
	assert.NotContains(t, span.String(), "private answer")
}

func TestTracesWanted(t *testing.T) {
	for _, c := range []struct {
		env    string
		wanted bool
		wrong  string
	}{
		{"", false, ""},
		{"OTEL_SERVICE_NAME=x", false, ""},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318", true, ""},
		{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://c:4318/v1/traces", true, ""},
		{"OTEL_TRACES_EXPORTER=otlp", true, ""},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318 OTEL_TRACES_EXPORTER=none", false, ""},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318 OTEL_SDK_DISABLED=true", false, ""},
		{"OTEL_TRACES_EXPORTER=zipkin", false, "OTEL_TRACES_EXPORTER=zipkin"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4317 OTEL_EXPORTER_OTLP_PROTOCOL=grpc", false, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318 OTEL_EXPORTER_OTLP_PROTOCOL=grpc OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf", true, ""},
	} {
		t.Run(c.env, func(t *testing.T) {
			for _, name := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED", "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"} {
				t.Setenv(name, "")
			}
			for one := range strings.FieldsSeq(c.env) {
				name, value, _ := strings.Cut(one, "=")
				t.Setenv(name, value)
			}
			wanted, wrong := tracesWanted()
			assert.Equal(t, c.wanted, wanted)
			if assert.Equal(t, c.wrong == "", wrong == "", wrong) {
				assert.Contains(t, wrong, c.wrong)
			}
		})
	}
}
