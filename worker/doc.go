// Package worker turns due deliveries into attempts: one River worker that claims, sends and records. Many jobs run at
// once; their claims and records meet in groups and go to the database together. A limiter gives each origin its share of
// what is in flight on this node; what is over that is held back, and pulled when there is room.
package worker
