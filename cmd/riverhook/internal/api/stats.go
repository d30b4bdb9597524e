package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/auth"
	"github.com/riverhook/riverhook/cmd/riverhook/internal/counts"
	"github.com/riverhook/riverhook/delivery"
)

// statsWait is how long a first caller waits for the counts.
const statsWait = 25 * time.Second

func (a *API) registerStats() {
	get(a, huma.Operation{
		OperationID: "get-stats", Method: http.MethodGet, Path: "/v1/stats", Tags: []string{"Stats"},
		Summary:     "Count deliveries by status",
		Description: "Of the token's organization, or of all. The counts are kept, and made again when somebody asks for them after a while (10 s, or longer where counting takes long): as_of says when.",
	}, auth.ScopeRead, a.getStats)
}

type stats struct {
	Counts    map[delivery.Status]int64 `json:"counts" doc:"Of each status."`
	Due       int64                     `json:"due" doc:"Pending, not being sent, and their time has come: the backlog."`
	Sending   int64                     `json:"sending" doc:"Being sent."`
	OldestDue *time.Time                `json:"oldest_due" doc:"Since when the oldest of the due ones is due; null when there is none."`
	AsOf      time.Time                 `json:"as_of"`
}

type statsOutput struct{ Body stats }

func (a *API) getStats(ctx context.Context, c call, _ *none) (*statsOutput, error) {
	ctx, cancel := context.WithTimeout(ctx, statsWait)
	defer cancel()
	s, err := a.counts.Get(ctx, c.Organization)
	if errors.Is(err, counts.ErrSlow) {
		return nil, unavailable("counting takes long: try again")
	}
	if err != nil {
		return nil, err
	}
	return &statsOutput{stats{s.Statuses, s.Due, s.Sending, s.OldestDue, s.At}}, nil
}
