// Package hostile holds tests in which the debugger is the victim: a kernel
// that answers with mutations of right answers, and a connection server that
// says anything. They look for panics, hangs and memory without bound, with
// the whole debugger from the link up to the commands in play.
//
// It has no code of its own. Whether right answers are understood is tested
// where they are read; what a transcript looks like, in cmd/kd.
package hostile
