// Package metrics keeps what Prometheus reads: what the worker and the sweeper of this node do, and counts of the database
// that somebody else keeps. It has a registry of its own; labels are of closed lists, never a receiver or a tenant.
package metrics
