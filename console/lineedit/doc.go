// Package lineedit edits a line on a terminal: keys become a line (Editor), the
// line and what else stands below the output is drawn (Screen), and lines are
// remembered (History, File).
//
// Nothing here reads a keyboard, waits or knows a debugger: bytes of keys are
// fed, and what they mean beyond editing comes back as an Event. So one
// goroutine of the caller can read the keyboard all the time, and keys that must
// not wait are seen at once. Editors that read for themselves (liner, readline,
// golang.org/x/term) take the keyboard only while a prompt is shown, or lose
// what was typed when the prompt goes away.
//
// Keys are those of Emacs, as in GNU Readline; escape sequences those of ECMA-48
// and xterm, which other terminals and Windows' consoles send too.
package lineedit
