// Package bench measures riverhook against River itself and against the plain way to deliver on River, on one machine and
// in turns, and verifies what it measured.
//
// How the rates of river, steps and deliver are computed, the same for all three: a backlog is in the database before the
// measured process starts. The clock starts with the first piece of work that the process begins (the first request at the
// receiver; for river, the first call of the no-op worker), and stops when the database shows the last result (no row pending;
// for river, no job unfinished). The rate is the rows divided by that time, so neither the start of the process nor the
// insertion of the backlog is in it. Postgres, the process and the receiver share the machine.
//
// CPU time of the process is that of its whole life, start and stop included; Postgres's is that of all its processes over the
// same time, whatever they were busy with, autovacuum included.
package bench
