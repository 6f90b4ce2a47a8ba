// Package console is the terminal of the debugger: prompts, the line editor,
// keys, what is typed ahead, events as they come, the JSON mode, and the exit
// code.
//
// It holds no command: lines go to command.Session.Execute on one goroutine,
// the owner. Keys that must not wait for it, the break-in above all, are
// served beside it. It opens no link and parses no command line.
//
// The terminal's rules:
//
//   - A terminal is in raw mode for the whole session, so that every key
//     reaches the console at once; it is restored on every way out.
//   - All output goes through the line editor's screen, which keeps the line that
//     is being typed below it: commands, events, progress, and what other parts of
//     the program say on standard error. Control characters in it become visible
//     on that way, whoever wrote them.
//   - A terminal that takes nothing for a while holds up nobody else who shares the
//     session: what it lacks waits, up to a bound, and then a line says how much was
//     left out. Alone, the session waits for it, and nothing is left out. CTRL+C
//     skips what a slow terminal has not shown yet; the end waits two seconds for it.
//     A client's terminal that is behind has the client read no further: what it
//     lacks is with the server, which drops it in the end.
//   - CTRL+C breaks in while the target runs, cancels a command while one
//     works, and clears the line at a prompt.
//   - What is typed while the target runs waits for the next prompt, where it can
//     be seen. The keys of kd (CTRL+A, B, D, F, K, R, V, W) count only then; at a
//     prompt they belong to the line editor, but for V, and with ALT, as in WinDbg,
//     or by name (.key) they count there too, and CTRL+B with ENTER on an empty line
//     leaves, as people know it.
//   - Without a terminal, or on one that knows no control sequences (TERM=dumb),
//     the same prompts are printed and plain lines are read.
//   - Colours are the terminal's alone: commands mark a few pieces of their output
//     (command.Style), names of symbols and changed registers are found by their
//     shape on the way to the screen, and no log, capture or program sees any of
//     it. NO_COLOR and -nocolor turn them off, to the last byte.
//
// The editor is package lineedit, made for this: it is fed bytes, so that one
// goroutine reads the keyboard all the time, and it prints above the line that is
// being edited, of which golang.org/x/term's editor does the half. Editors that
// read the keyboard themselves (liner, readline) leave no way to see CTRL+F while
// the target runs without two readers on one terminal.
package console
