// Package replay works on replays of many deliveries, in the background: River jobs of their own kind, in a queue of their
// own. The row says how far one is; a job only wakes a node up for it.
package replay
