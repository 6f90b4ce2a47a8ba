// Package wine holds tests only: the Windows programs, cross-built and really
// run, under Wine, as client, server, repeater, target and shared session, against each other
// and against the programs of this system.
//
// The tests need Linux, Wine 8 or later of 64 bits, and the MinGW compiler
// x86_64-w64-mingw32-gcc (Debian: apt install wine64 gcc-mingw-w64-x86-64), and
// are skipped where something is missing, and with -short. No display is
// needed. Each run makes a Wine prefix of its own, of some 700 MB, in the
// temporary directory.
//
// Wine is not Windows. What it cannot show: the security of named pipes and of
// files (its server checks no access lists between processes of one Unix
// user), pipes of another machine, the drivers of real serial ports, the
// firewall (its netsh does nothing and says that it did), the account of a
// service, servers found over the network (Wine 8 refuses an option that Go's
// runtime sets on every UDP socket, so there are none), and private keys in
// Windows' stores of certificates: CertFindChainInStore, which is asked for
// them, finds nothing in any of them. So servers here have their certificates
// from the directory, and clients theirs from the directory and both stores.
//
// What Wine 8 does differently and is dealt with here, not in the programs:
// it has no bcryptprimitives.dll, which Go's runtime asks for random bytes;
// and a client can be connected to the first instance of a pipe of go-winio, on
// which nobody accepts (Windows makes such an instance disconnected). That
// concerns the pipes of kdtarget, of kdsrv -status, and between the processes
// that share a COM port, which try again by themselves; the doors have pipes
// of their own, and with them the check that a name is free.
package wine
