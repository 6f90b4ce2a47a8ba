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
//   - All output goes through the line editor, which keeps the prompt below.
//   - CTRL+C breaks in while the target runs, cancels a command while one
//     works, and clears the line at a prompt.
//   - What is typed while the target runs waits for the next prompt. The keys
//     of kd (CTRL+B, D, F, K, R, V, W) count only then; at a prompt they belong
//     to the line editor, and `.key` does the same by name.
//   - Without a terminal the same prompts are printed and plain lines are read.
//
// The editor is golang.org/x/term's: it takes its bytes from a stream of ours,
// so that one goroutine reads the keyboard all the time, and it prints above
// the line that is being edited. Editors that read the keyboard themselves
// (liner, readline) leave no way to see CTRL+F while the target runs without
// two readers on one terminal.
package console
