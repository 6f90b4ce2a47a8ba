package sharing

import (
	"strings"
	"time"
)

// Bounds of the log: whichever is reached first.
const (
	logBytes   = 16 << 20
	logEntries = 128 << 10
	entryCost  = 200 // of an entry besides its text, bytes
)

// merging is how long prints go into one entry, if nobody has taken it yet, and
// mergeBytes how much.
const (
	merging    = 20 * time.Millisecond
	mergeBytes = 4 << 10
)

// record is an entry of the log with its encoding, which is made once, when the
// first client takes it.
type record struct {
	Entry
	enc   []byte
	size  int
	lines int    // that end in it, for the history
	above uint64 // lines of the session before it
}

// entryLog is a ring of the last entries. The hub's lock guards it.
type entryLog struct {
	ring  []record
	start int // of the oldest
	n     int
	next  uint64 // sequence number of the next entry; the first is 1
	bytes int
	lines uint64 // of the session so far

	maxBytes, maxEntries int
}

func newEntryLog() *entryLog {
	return &entryLog{next: 1, maxBytes: logBytes, maxEntries: logEntries}
}

// first is the number of the oldest entry that is kept.
func (l *entryLog) first() uint64 { return l.next - uint64(l.n) }

func (l *entryLog) last() uint64 { return l.next - 1 }

func (l *entryLog) at(seq uint64) *record {
	return &l.ring[(l.start+int(seq-l.first()))%len(l.ring)]
}

// add appends an entry and returns its number. Prints that follow each other
// closely become one entry.
func (l *entryLog) add(e Entry) uint64 {
	if l.n > 0 && e.Kind == EntryEvent && e.Name == "print" && e.Data == nil {
		r := l.at(l.last())
		if r.Kind == EntryEvent && r.Name == "print" && r.Data == nil && r.enc == nil && len(r.Text)+len(e.Text) <= mergeBytes && e.Time-r.Time < int64(merging) {
			r.Text += e.Text
			r.size += len(e.Text)
			l.bytes += len(e.Text)
			n := strings.Count(e.Text, "\n")
			r.lines += n
			l.lines += uint64(n)
			return r.Seq
		}
	}
	e.Seq = l.next
	l.next++
	r := record{Entry: e, size: entryCost + len(e.Text) + len(e.Data) + len(e.Message) + len(e.Who), lines: e.lines(), above: l.lines}
	l.lines += uint64(r.lines)
	for l.n > 0 && (l.n >= l.maxEntries || l.bytes+r.size > l.maxBytes) {
		old := &l.ring[l.start]
		l.bytes -= old.size
		*old = record{}
		l.start = (l.start + 1) % len(l.ring)
		l.n--
	}
	if l.n == len(l.ring) {
		ring := make([]record, max(64, 2*l.n))
		for i := range l.n {
			ring[i] = l.ring[(l.start+i)%len(l.ring)]
		}
		l.ring, l.start = ring, 0
	}
	l.ring[(l.start+l.n)%len(l.ring)] = r
	l.n++
	l.bytes += r.size
	return e.Seq
}

// lines is how many lines of the session end in an entry.
func (e *Entry) lines() int {
	switch e.Kind {
	case EntryCommand:
		return 1
	case EntryText, EntryEvent, EntryNotice:
		return strings.Count(e.Text, "\n")
	}
	return 0
}

// above is how many lines of the session there are up to an entry, which is the
// one before the oldest that is kept, or a later one.
func (l *entryLog) above(seq uint64) uint64 {
	if seq >= l.last() {
		return l.lines
	}
	return l.at(seq + 1).above
}

// seal keeps later prints out of the last entry: somebody goes on behind it.
func (l *entryLog) seal() {
	if l.n > 0 {
		l.encoded(l.last())
	}
}

// encoded is the encoding of an entry.
func (l *entryLog) encoded(seq uint64) []byte {
	r := l.at(seq)
	if r.enc == nil {
		r.enc = encode(r.Entry)
		l.bytes += len(r.enc)
		r.size += len(r.enc)
	}
	return r.enc
}

// take appends the encodings of the entries behind after to b, an array of
// CBOR without its head, until it has most bytes, and returns how many there are and the number of the
// last one.
func (l *entryLog) take(b []byte, after uint64, most int) ([]byte, int, uint64) {
	n := 0
	for after < l.last() && len(b) < most && n < 4096 {
		after++
		b = append(b, l.encoded(after)...)
		n++
	}
	return b, n, after
}

// back is the number of the entry behind which the last lines begin.
func (l *entryLog) back(lines int) uint64 {
	seq, have, bytes, n := l.last(), 0, 0, 0
	for seq >= l.first() && seq > 0 {
		r := l.at(seq)
		have += r.lines
		bytes += r.size
		n++
		// Not the oldest that is kept: it would be gone before it is sent.
		if have > lines || bytes > l.maxBytes/4*3 || n > l.maxEntries/4*3 {
			break
		}
		seq--
	}
	return seq
}

// arrayHead is the head of a CBOR array of n items.
func arrayHead(n int) []byte {
	switch {
	case n < 24:
		return []byte{0x80 | byte(n)}
	case n < 1<<8:
		return []byte{0x98, byte(n)}
	}
	return []byte{0x99, byte(n >> 8), byte(n)}
}
