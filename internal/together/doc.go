// Package together holds no code, only tests of a session that several people
// and programs share: a debugger on a simulated machine, a console, one that may
// only look and a program, far away and over lines that break in the middle of
// whatever is on them. What each of them saw is compared with the session's log,
// line by line, and what was run with the audit.
package together
