// Package extension runs people's own commands: Starlark programs over the
// engine, with limits.
//
// A Manager is one session's chain of extensions. What a script can call is one
// table (API); the builtins, the reference page (extensions/REFERENCE.md), help
// and the checks of arguments are made from it, and so is what programs call in
// the JSON mode, with the same names, arguments and results.
//
// It is not the command language: what it needs of that it asks of a Host, which
// package command is. It knows no terminal, and of files only the scripts
// themselves. Scripts reach neither files nor the network.
//
// Starlark itself bounds steps, not memory: one step may join strings to a
// terabyte. So a script is rewritten before it is compiled: the operators and
// methods that make large things from small ones go through checks (guard.go),
// and the growth of the heap is watched while it runs (budget.go).
//
// The words of .load, .chain, .scriptload and their kin follow the public
// documentation of WinDbg; the language is that of go.starlark.net.
package extension
