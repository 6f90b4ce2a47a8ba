// Package command is the command language of the debugger: the registry of
// commands, the parser of lines, control flow, scripts, aliases, logs, help,
// and the commands themselves, one file per family. A command is a small
// function over package engine that writes text.
//
// It does not know terminals (package console), links or connection servers.
// It starts no goroutines.
//
// Names, arguments and the shape of output follow the documentation of
// Microsoft's kernel debuggers and published transcripts, so that what people
// know and what their scripts look for keeps working. Where those leave a gap
// the choice is written down next to the code.
package command
