// Package sim is a simulated machine to debug: a small kernel of our own
// (package sim/kernel) runs on interpreted x64 processors (package sim/cpu) and
// speaks the target's side of the KD protocol over any byte stream.
//
// What a debugger sees is true: memory lies behind page tables that it can
// walk, breakpoints and steps stop code that runs, lists are lists in memory.
// Only what firmware, boot loader, serial chip and the kernel's KD module do is
// done in Go. Like a virtual machine with its serial port on a socket, the
// machine runs whether or not anybody is connected, and serves one debugger
// after another (Serve).
//
// It is not an emulator for other systems: it runs its own kernel only, and it
// has no disks, no interrupt controller and no user mode.
//
// The behaviour of the KD module follows what is publicly known of Windows and
// what was recorded from ReactOS; where the two differ, Config.Quirks chooses.
package sim
