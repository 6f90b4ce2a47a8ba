// Package kdrpc is the protocol between a smart client and a connection
// server: target.Target on both sides of a stream.
//
// Client is a Target whose target is elsewhere; Serve lets a stream use a
// Session, which is a Target with a lease. What crosses is whole questions and
// events, not packets, so that distance costs one round trip for each batch and
// none for a stop. The protocol is specified in PROTOCOL.md; its messages and
// errors are declared in messages.go and its frames in frame.go.
//
// The package knows no passwords (package transport has proved them already),
// no links and no leases beyond their names (package server grants them).
package kdrpc
