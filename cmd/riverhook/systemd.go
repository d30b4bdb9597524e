package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/riverhook/riverhook/cmd/riverhook/internal/node"
	"github.com/riverhook/riverhook/delivery/progress"
)

// systemd tells the service manager how the service is, where there is one that wants to know ($NOTIFY_SOCKET), and the log
// which loop is stuck, wherever it runs.
type systemd struct {
	board progress.Board // that every loop of the node reports to
	log   *slog.Logger
	every time.Duration // between two looks at the board

	failed sync.Once
	looked time.Time // when the board was, last
	stuck  []string  // loops that were stuck at the last look
}

const (
	// lookEvery is between two looks at the board, where no watchdog wants more.
	lookEvery = 15 * time.Second
	// statusEvery is between two questions whether Postgres answers, startingEvery before the node delivers for the first time.
	statusEvery, startingEvery = 5 * time.Second, 250 * time.Millisecond
	// stopMargin is what stopping may take beyond an attempt's timeout: River's grace (5 s), releases (5 s), the last events
	// (5 s), goodbyes (3 s) and the listener's (1 s).
	stopMargin = 20 * time.Second
)

func newSystemd(log *slog.Logger) *systemd {
	s := &systemd{log: log, every: lookEvery, looked: time.Now()}
	switch interval, err := daemon.SdWatchdogEnabled(false); {
	case err != nil:
		log.Warn("systemd's watchdog is not told anything", "error", err)
	case interval > 0:
		s.every = min(interval/4, lookEvery)
	}
	return s
}

// tell sends a state. Without a service manager it does nothing.
func (s *systemd) tell(lines ...string) {
	if _, err := daemon.SdNotify(false, strings.Join(lines, "\n")); err != nil {
		s.failed.Do(func() { s.log.Warn("cannot tell systemd how the service is", "error", err) })
	}
}

// watch says that the listener is up, and until the returned function is called how the node is and that its loops get on.
// When ctx ends, the service is stopping.
func (s *systemd) watch(ctx context.Context, n *node.Node, timeout time.Duration) (stop func()) {
	s.tell(daemon.SdNotifyReady, "STATUS="+statusStarting)
	until, over := context.WithCancel(context.WithoutCancel(ctx))
	var all sync.WaitGroup
	all.Go(func() { s.tellStatus(ctx, until, n, timeout) })
	all.Go(func() {
		ticker := time.NewTicker(s.every)
		defer ticker.Stop()
		for {
			if s.look(time.Now()) {
				s.tell(daemon.SdNotifyWatchdog)
			}
			select {
			case <-until.Done():
				return
			case <-ticker.C:
			}
		}
	})
	return func() { over(); all.Wait() }
}

const (
	statusStarting   = "waiting for Postgres"
	statusDelivering = "delivering"
)

// tellStatus tells every change of what STATUS says.
func (s *systemd) tellStatus(ctx, until context.Context, n *node.Node, timeout time.Duration) {
	said := statusStarting
	for {
		every, status := statusEvery, statusDelivering
		if !n.Delivering() {
			every, status = startingEvery, statusStarting
		} else if err := n.Ready(ctx); err != nil {
			status = "not delivering: " + err.Error()
		}
		if stuck := s.board.Stuck(time.Now()); len(stuck) > 0 {
			status = "stuck: " + strings.Join(stuck, ", ")
		}
		if status != said && ctx.Err() == nil {
			said = status
			s.tell("STATUS=" + oneLine(status))
		}
		timer := time.NewTimer(every)
		select {
		case <-ctx.Done():
			timer.Stop()
			// What stops in its own time is not to be killed for a TimeoutStopSec that does not know RIVERHOOK_TIMEOUT.
			extension := timeout + stopMargin
			s.tell(daemon.SdNotifyStopping, "STATUS=stopping: attempts in flight may finish within "+timeout.String(),
				fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", extension.Microseconds()))
			return
		case <-until.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// look says whether the watchdog may be told that all is well: not while a loop is stuck, which is logged once.
func (s *systemd) look(now time.Time) bool {
	late := now.Sub(s.looked)
	s.looked = now
	if late > 2*s.every+time.Second {
		return true // this process was frozen: its loops are given the time until the next look
	}
	stuck := s.board.Stuck(now)
	for _, loop := range stuck {
		if !slices.Contains(s.stuck, loop) {
			s.log.Error("a loop is stuck: its current try has not returned within its limit and "+progress.Grace.String()+"; the watchdog is not told that all is well", "loop", loop)
		}
	}
	s.stuck = stuck
	return len(stuck) == 0
}

// oneLine is a text for STATUS, which ends with its line.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
