package node

import (
	"context"
	"time"
)

const (
	// maxSkew is how far the clocks may be apart without a word.
	maxSkew       = 2 * time.Second
	clockInterval = time.Minute
	clockTimeout  = 5 * time.Second
)

// watchClock compares this machine's clock with the database's, until ctx ends. No lease and no time of a delivery depends
// on it, all of these are the database's, but signatures and the log do.
func (n *Node) watchClock(ctx context.Context) {
	for apart := false; ; {
		try, cancel := context.WithTimeout(ctx, clockTimeout)
		skew, within, err := n.store.Skew(try)
		cancel()
		switch {
		case err != nil: // others complain
		case skew.Abs() > maxSkew+within:
			apart = true
			n.Log.Warn("this machine's clock and the database's disagree: deliveries go by the database's, but the log and webhook-timestamp by this machine's, "+
				"and receivers refuse signatures that are minutes off", "database_ahead_by", skew.Round(time.Millisecond).String())
		case apart:
			apart = false
			n.Log.Info("this machine's clock and the database's agree again")
		}
		if !sleep(ctx, clockInterval) {
			return
		}
	}
}
