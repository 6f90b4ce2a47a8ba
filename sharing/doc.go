// Package sharing lets several people and programs work at one command prompt:
// the hub beside the session, the doors into it, the client, and the protocol
// between them (PROTOCOL.md). It is what `.server`, `kd -server` and
// `kd -remote` are made of.
//
// It is no debugger: it knows no command of one, no target and no terminal.
// What it shares is text, lines that were typed, and events that somebody else
// has put into words. Program remote shares the console of any other program
// with it.
//
// The hub owns an ordered log of entries with sequence numbers: text, echoes of
// commands with who typed them, how they ended, events, prompts, notices.
// Everybody is a view of this log, so all see the same in the same order,
// whoever they are and whenever they came. The log keeps a bounded number of
// bytes. A client has a place in it and nothing else: one that stalls costs no
// memory, and when the log has gone past its place it is dropped with a note.
//
// Commands of all, typed here or far away, go into one queue in the order in
// which they arrive, and are taken by the one goroutine that runs commands.
// What must not wait for it (break-in, chat, who is here) is served at once.
//
// A client that loses its connection dials again. It says which session it
// means, who it was, and the last entry it has seen; the hub goes on behind
// that one. What a client asks has a number that counts up, is acknowledged,
// and is sent again until it is: the hub takes each number once. So nothing is
// lost and nothing is done twice.
//
// The streams come from package transport, which has checked the password
// before anything here is said. The first frame of each side names what it is,
// with the same shape as in package kdrpc, so that a debugger at the wrong kind
// of door can say so.
package sharing
