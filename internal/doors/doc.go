// Package doors holds no code, only tests of the doors between debuggers as
// people meet them: kd, kdsrv and kdprx as processes, one transcript through
// every door, alone, through repeaters and in reverse, and strangers at every
// door while somebody works.
package doors
