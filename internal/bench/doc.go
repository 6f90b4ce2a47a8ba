// Package bench holds no code, only the tests and benchmarks of the whole way,
// from a command down to the simulated machine: how many exchanges a command
// costs a client far away, what the server and a slow line cost, and what a
// server with a thousand clients needs.
//
// Exchanges are counted, never timed; figures that depend on the machine are
// benchmarks that print a ratio:
//
//	go test ./internal/bench -bench . -benchtime 1x -run '^$'
package bench
