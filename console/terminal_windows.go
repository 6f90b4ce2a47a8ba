package console

import (
	"fmt"
	"os"

	"golang.org/x/sys/windows"
)

// prepare makes the output understand control sequences; undo takes that back. A
// console older than Windows 10 does not.
func prepare(out *os.File) (undo func(), err error) {
	h := windows.Handle(descriptor(out))
	var mode uint32
	if err := windows.GetConsoleMode(h, &mode); err != nil {
		return nil, fmt.Errorf("the mode of the console cannot be read: %w", err)
	}
	// Without the second flag a full row breaks at once, not before the next
	// character, as everywhere else.
	const want = windows.ENABLE_PROCESSED_OUTPUT | windows.ENABLE_VIRTUAL_TERMINAL_PROCESSING | windows.DISABLE_NEWLINE_AUTO_RETURN
	if err := windows.SetConsoleMode(h, mode|want); err != nil {
		return nil, fmt.Errorf("the console knows no control sequences: %w", err)
	}
	return func() { _ = windows.SetConsoleMode(h, mode) }, nil
}

// notifyResize: there is no signal; the size is looked at whenever something is
// drawn.
func notifyResize(chan<- os.Signal) {}

// dumb says that a terminal of this kind knows no control sequences.
func dumb(kind string) bool { return kind == "dumb" }
