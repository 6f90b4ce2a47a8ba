// Package cpu interprets x86-64 machine code for a simulated machine: one
// logical processor in 64-bit mode, rings 0 and 3, four-level paging, debug
// registers and exceptions as the architecture manuals describe them, so that
// breakpoints, single steps, data breakpoints and faults seen by a debugger
// are those of the code that runs and not of a script.
//
// It is not an emulator of a whole machine: there is no interrupt controller,
// no device, no reset into real mode, no compatibility mode, no x87, MMX or
// AVX. What is not covered raises #UD. Exceptions are not delivered through
// the IDT by the processor itself: Step and Run hand them to the owner, who
// may ask the debugger first and then call Deliver.
//
// Known differences from hardware, all deliberate: alignment checks (#AC),
// the I/O permission bitmap and the DPL check of IDT gates on "int n" are not
// made; floating point arithmetic rounds to nearest whatever MXCSR says and
// raises no #XM (conversions to integers do follow MXCSR.RC); a physical
// address without memory reads as ones and swallows writes; flags that the
// manuals call undefined have some fixed value.
//
// Facts: Intel 64 and IA-32 Architectures Software Developer's Manual,
// volumes 2 (instructions) and 3A/3B (paging 4.5, exceptions 6, debug 17);
// AMD64 Architecture Programmer's Manual volume 3. The instruction semantics
// are compared with a real processor by the tests.
//
// Concurrency: a CPU belongs to one goroutine at a time. Processors that
// share a Memory must be stepped in turn; "lock" is then trivially honest.
package cpu
