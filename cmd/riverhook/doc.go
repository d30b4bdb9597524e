// Riverhook delivers outbound webhooks from a Postgres that its user already runs. This package is the program: its flags
// and environment (which nothing else reads), its wiring, and what people read in a terminal.
package main
