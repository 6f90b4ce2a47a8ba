// Package native runs snippets of machine code on the processor the tests run
// on, so that the interpreter can be compared with it. It exists for the tests
// of sim/cpu, on linux/amd64 only, and is used by nothing else.
package native
