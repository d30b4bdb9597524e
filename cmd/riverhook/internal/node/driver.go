package node

import (
	"context"
	"sync"

	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"github.com/riverhook/riverhook/delivery"
)

// driver is River's, but for two statements. The record of an attempt deletes its job, as holding back does, so that there is
// nothing left for River to complete: its statement would find nothing, and took a tenth of all the time that Postgres spends
// on a delivery. And deliveries are fetched from the front of their queue on.
type driver struct {
	*riverpgxv5.Driver
	ended *endedJobs
	front *front
}

// GetExecutor is what River's services run their statements on.
func (d *driver) GetExecutor() riverdriver.Executor {
	return &executor{d.Driver.GetExecutor(), d.ended, d.front}
}

type executor struct {
	riverdriver.Executor
	ended *endedJobs
	front *front
}

// JobGetAvailable fetches jobs, those of the deliveries' queue from its front on.
func (e *executor) JobGetAvailable(ctx context.Context, p *riverdriver.JobGetAvailableParams) (*riverdriver.JobGetAvailableResult, error) {
	if p.Queue != delivery.JobQueue || p.Kind != nil || p.Now != nil {
		return e.Executor.JobGetAvailable(ctx, p)
	}
	return e.front.get(ctx, e.Executor, p)
}

// JobSetStateIfRunningMany leaves out the jobs that have ended. River expects nothing back for a job that is gone.
func (e *executor) JobSetStateIfRunningMany(ctx context.Context, p *riverdriver.JobSetStateIfRunningManyParams) ([]*rivertype.JobRow, error) {
	left := e.ended.without(p)
	if len(left.ID) == 0 {
		return nil, nil
	}
	return e.Executor.JobSetStateIfRunningMany(ctx, left)
}

// endedJobs are jobs that are gone, and that River has yet to be told nothing about: River asks once for each.
type endedJobs struct {
	mu  sync.Mutex
	ids map[int64]struct{}
}

func newEndedJobs() *endedJobs { return &endedJobs{ids: make(map[int64]struct{})} }

// add says that a job is gone. It is called before the job's Work returns.
func (e *endedJobs) add(id int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ids[id] = struct{}{}
}

// without is p without the jobs that are gone, of which nobody asks again.
func (e *endedJobs) without(p *riverdriver.JobSetStateIfRunningManyParams) *riverdriver.JobSetStateIfRunningManyParams {
	left := &riverdriver.JobSetStateIfRunningManyParams{Now: p.Now, Schema: p.Schema}
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, id := range p.ID {
		if _, ended := e.ids[id]; ended {
			delete(e.ids, id)
			continue
		}
		left.ID = append(left.ID, id)
		left.Attempt = append(left.Attempt, p.Attempt[i])
		left.ErrData = append(left.ErrData, p.ErrData[i])
		left.FinalizedAt = append(left.FinalizedAt, p.FinalizedAt[i])
		left.MetadataDoMerge = append(left.MetadataDoMerge, p.MetadataDoMerge[i])
		left.MetadataUpdates = append(left.MetadataUpdates, p.MetadataUpdates[i])
		left.ScheduledAt = append(left.ScheduledAt, p.ScheduledAt[i])
		left.State = append(left.State, p.State[i])
	}
	return left
}
