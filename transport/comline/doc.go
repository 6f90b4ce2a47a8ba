// Package comline makes a serial line between two machines carry up to 255
// channels of reliable streams, for all programs of either machine that share
// its port: what stands behind kdsrv -t com:port=...,baud=...,channel=...
//
// It has nothing to do with the KD debug cable protocol, and it hides nothing:
// encryption and passwords are package transport's, which runs over the
// streams. The documented debuggers say what a com: transport is for and which
// parameters it has (Microsoft: "KdSrv Command-Line Options", "Activating a
// Smart Client"), not what goes over the wire; all of what follows is ours.
//
// # Why not a protocol that exists
//
// KCP (xtaci/kcp-go v5.6) was read for it. It wants datagrams whose borders and
// checksums somebody else keeps (net.PacketConn), spends 24 bytes of header on
// each segment, a tenth of what 115200 baud should carry in 20 ms, works in
// steps of at least 10 ms, does not pace, and has neither an end of a stream, nor
// more than one, nor a way to tell that the other side has started again; all
// that would have to be built above it, in the one order of bytes that it
// delivers. Of HDLC the ideas are here: delimited frames, a window, selective
// repeat. What Go has of it is framing. Both leave out the one thing that makes
// a line easier than a network: it does not reorder, so that a gap is a loss at
// once and exactly (see sender).
//
// # Who speaks to whom
//
//	program   Lines ── owner ── wire ══ cable ══ wire ── owner ── Lines   program
//	program   Lines ── attached ┘                          └ attached ── Lines
//
// Both ends are equal; each may listen and dial. Of the processes of a machine
// that use a port, the one that came first has the device open (owner); the
// others reach it through a socket in the run directory (local.go). A lock that
// dies with its holder says who it is. When the owner ends, one of the others
// opens the device. That is a new session on the line: streams break with an
// error and are dialled anew by whoever wants them. Listeners stay.
//
// A mux holds the streams of a session. It gives the wire payloads for its data
// frames, the channels and the streams of each taking turns frame by frame. Each
// stream has a credit: the bytes that its reader has room for, so that one that
// nobody reads waits alone. A frame is short, 20 ms of the line, and the wire
// gives the system no more than 10 ms in advance, so that what is small waits
// for two frames of what is big and not for a buffer of it.
//
// A line where nobody wants anything is silent, apart from three hellos when
// it is opened: a modem or a login prompt at the other end is left alone. What
// comes from there, and noise, is skipped and counted.
//
// # The line
//
// Between frames, and nowhere else, stand zeros:
//
//	00  COBS(frame, checksum)  00
//
// COBS (Cheshire, Baker, "Consistent Overhead Byte Stuffing", 1999) removes the
// zeros for one byte in 254. The zero in front ends whatever came before, so
// that no frame is lost to rubbish or to the zero of the frame before it. The
// checksum is CRC-32C (Castagnoli) of the tag and the frame, four bytes,
// little-endian, as all numbers here. The tag of a hello and a bye is empty;
// that of the others is the sender's and the receiver's session number, eight
// bytes each: frames of another session are rubbish.
//
// The first byte of a frame has the kind in its low half.
//
//	hello  01, version, flags, sender (8), receiver (8), window (4)
//	bye    02, as hello
//	ack    n3, ack (2), echo (2), bitmap (n)
//	data   n4, ack (2), echo (2), bitmap (n), seq (2), tx (2), messages
//
// Version is 1. It and the kind are all that another version has to keep.
// Sender is the session number of who sends, random and never 0; receiver is
// that of the other end, 0 while it is not known. Bit 0 of flags asks for a
// hello in return. Window is the credit that every stream of the session begins
// with. A session stands when a hello with one's own number as receiver has
// come, or a frame with the right tag. Another sender than before is an end that
// has started again; the session is over then, and an end that loses a
// session, for any reason, takes a new number. A bye says that the sender
// leaves.
//
// Data frames are numbered by seq, from 0. Ack is the first that has not come;
// bit i of the bitmap, lowest first, says that frame ack+1+i has. At most 120 are
// under way. Tx numbers the transmissions, from 1, those of repeated frames too;
// echo is the tx of the data frame that came last. What was transmitted before
// that, and is not acknowledged, is lost.
//
// Messages are never split between frames. A message is a byte with its kind, a
// varint (LEB128, as encoding/binary) with the stream, and a body:
//
//	01 open     channel (1)
//	02 opened
//	03 refused  code (1), length (1), text
//	04 data     length (varint), bytes
//	05 fin      nothing more will come
//	06 stop     nothing more will be read; the receiver answers with fin
//	07 reset    code (1), length (1), text
//	08 credit   bytes (varint) that may be sent in addition
//
// The varint of the stream is twice the number that its opener gave it, from 1
// upwards without gaps, plus one if the sender of the message is the opener. A
// stream is over when fin has gone both ways, or by refused or reset.
//
// Codes: 1 nobody listens on the channel, 2 too many streams (2048 at once), 3
// the program is gone, 4 broken off, 5 see the text.
//
// # Versions
//
// 1: the first.
package comline
