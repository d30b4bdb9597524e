package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/node"
	"github.com/riverhook/riverhook/cmd/riverhook/internal/tracing"
)

// tracesWanted says whether the standard OTEL_ variables ask for traces; wrong is what they ask for that is not there.
func tracesWanted() (wanted bool, wrong string) {
	exporter := os.Getenv("OTEL_TRACES_EXPORTER")
	endpoint := os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") + os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT")
	switch {
	case os.Getenv("OTEL_SDK_DISABLED") == "true" || exporter == "none" || exporter == "" && endpoint == "":
		return false, ""
	case exporter != "" && exporter != "otlp":
		return false, "OTEL_TRACES_EXPORTER=" + exporter + ": riverhook sends traces over otlp"
	}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"} {
		if protocol := os.Getenv(name); protocol != "" {
			if protocol != "http/protobuf" {
				return false, name + "=" + protocol + ": riverhook sends traces by http/protobuf"
			}
			break // the first one decides
		}
	}
	return true, ""
}

// startTracing gives a node's attempts spans, if that is asked for. stop sends what waits.
func startTracing(ctx context.Context, n *node.Node, log *slog.Logger) (stop func()) {
	wanted, wrong := tracesWanted()
	if wrong != "" {
		log.Warn("there are no traces", "setting", wrong)
	}
	if !wanted {
		return func() {}
	}
	tracer, err := tracing.New(ctx, log, n.Version, n.ID)
	if err != nil {
		log.Warn("there are no traces", "error", err)
		return func() {}
	}
	n.WorkerHooks.Trace = tracer.Attempt
	return tracer.Stop
}
