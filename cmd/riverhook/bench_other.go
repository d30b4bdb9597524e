//go:build !unix

package main

// benchCommands need a system on which a throwaway Postgres can run.
type benchCommands struct{}
