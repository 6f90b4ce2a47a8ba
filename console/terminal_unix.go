//go:build unix

package console

import (
	"os"
	"os/signal"
	"syscall"
)

// prepare makes the output understand control sequences; undo takes that back.
func prepare(*os.File) (undo func(), err error) { return func() {}, nil }

// notifyResize tells when the terminal has another size.
func notifyResize(c chan<- os.Signal) { signal.Notify(c, syscall.SIGWINCH) }

// dumb says that a terminal of this kind knows no control sequences.
func dumb(kind string) bool { return kind == "" || kind == "dumb" }
