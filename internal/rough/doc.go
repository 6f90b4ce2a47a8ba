// Package rough holds tests only: the whole stack, from a debugger's commands to
// a simulated machine, over lines that lose and spoil bytes, and with parties
// that die in the middle of something.
//
// What must hold: memory is never shown wrong, nothing hangs, no machine stays
// frozen and no breakpoint stays behind, and the next debugger attaches at once.
// Faults and deaths come by seed; every wait has a deadline.
package rough
