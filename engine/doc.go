// Package engine is the debugger without a person: the halted view of one
// target with its memory cache, registers, modules and breakpoints, and the
// motions (go, step, step over) that end in a stop a user must see.
//
// It speaks to a target.Target and to nothing below it, so it does not know
// how far away the line is; what it does know is that one batch is one
// exchange, and that a stop brings what the first commands will ask for. It
// knows no commands, no prompts and no files. Its texts are the lines of a
// stop (exception names, "Breakpoint 1 hit"), because programs and people see
// the same ones.
//
// Facts about structures in memory come from the target itself (version
// block, debugger data block, module list); the layouts of those are public
// (ReactOS headers, WDK headers) and named where they are used. The words of
// a stop follow the public documentation of WinDbg.
package engine
