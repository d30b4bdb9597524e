// Package worker turns due deliveries into attempts: one River worker that claims, sends and records. Many jobs run at
// once; their claims and records meet in groups and go to the database together.
package worker
