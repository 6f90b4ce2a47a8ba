// Package fault spoils and slows byte streams, to test what stands on them.
//
// New wraps a stream that loses, changes, repeats and invents bytes; Throttle
// wraps one that is as slow as a serial line. Both are decorators: they know
// bytes, not packets.
//
// Which byte is hit depends on the seed, the direction and the number of the
// byte in its direction, and on nothing else: the same bytes with the same seed
// meet the same faults, however they are cut into reads and writes.
//
// Faults of one direction are at least Config.Spacing bytes apart. KD's
// checksum is a plain sum, so two changed bytes in one packet can make up for
// each other and pass; a byte error rate that does that has nothing to say about
// the link. With the default spacing a packet is hit once at most and every
// change is one that a receiver can see.
package fault

import (
	"io"
	"math"
	"math/rand/v2"
	"sync"
	"time"
)

// Counts says what a Stream has done, both directions together.
type Counts struct {
	Bytes                              uint64 // that went in
	Drops, Corruptions, Dups, NoiseRun uint64
}

// Stream is a byte stream with faults in both directions.
//
// Concurrency: as the stream below, Read and Write at the same time; one Read
// and one Write at a time.
type Stream struct {
	below io.ReadWriteCloser
	cfg   Config
	done  chan struct{}
	once  sync.Once

	in, out *way

	left []byte // spoiled and not yet read
	raw  []byte
}

// New wraps a stream. Closing it closes the stream below.
func New(below io.ReadWriteCloser, cfg Config) *Stream {
	if cfg.Spacing <= 0 {
		cfg.Spacing = DefaultSpacing
	}
	return &Stream{
		below: below, cfg: cfg, done: make(chan struct{}),
		in: newWay(cfg, 1), out: newWay(cfg, 2),
		raw: make([]byte, 4096),
	}
}

// way is one direction.
type way struct {
	cfg   Config
	total float64
	dice  *rand.Rand // faults
	cuts  *rand.Rand // pieces, which must not disturb the faults

	mu     sync.Mutex
	wait   uint64 // bytes until the next fault
	counts Counts
	buf    []byte
}

func newWay(cfg Config, direction uint64) *way {
	w := &way{
		cfg:   cfg,
		total: cfg.Drop + cfg.Corrupt + cfg.Duplicate + cfg.Noise,
		dice:  rand.New(rand.NewPCG(cfg.Seed, direction)),
		cuts:  rand.New(rand.NewPCG(cfg.Seed, direction+2)),
	}
	w.wait = w.distance()
	return w
}

// distance draws the clean bytes before a fault that may come at any byte.
func (w *way) distance() uint64 {
	switch {
	case w.total <= 0:
		return math.MaxUint64
	case w.total >= 1:
		return 0
	}
	d := math.Log(1-w.dice.Float64()) / math.Log1p(-w.total)
	if d > 1e15 {
		return 1e15
	}
	return uint64(d)
}

// spoil returns what becomes of b. The result is valid until the next call.
func (w *way) spoil(b []byte) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts.Bytes += uint64(len(b))
	out := w.buf[:0]
	for len(b) > 0 {
		if w.wait >= uint64(len(b)) {
			out = append(out, b...)
			w.wait -= uint64(len(b))
			break
		}
		out = append(out, b[:w.wait]...)
		b = b[w.wait:]
		c := b[0]
		b = b[1:]
		switch x := w.dice.Float64() * w.total; {
		case x < w.cfg.Drop:
			w.counts.Drops++
		case x < w.cfg.Drop+w.cfg.Corrupt:
			w.counts.Corruptions++
			out = append(out, c^byte(1+w.dice.IntN(255)))
		case x < w.cfg.Drop+w.cfg.Corrupt+w.cfg.Duplicate:
			w.counts.Dups++
			out = append(out, c, c)
		default:
			w.counts.NoiseRun++
			for range 1 + w.dice.IntN(8) {
				out = append(out, byte(w.dice.IntN(256)))
			}
			out = append(out, c)
		}
		w.wait = w.distance()
		if w.wait < math.MaxUint64/2 {
			w.wait += uint64(w.cfg.Spacing)
		}
	}
	w.buf = out
	return out
}

// piece is how many of n bytes travel together.
func (w *way) piece(n int) int {
	if w.cfg.Split <= 0 {
		return n
	}
	return min(n, 1+w.cuts.IntN(w.cfg.Split))
}

// Read implements io.Reader.
func (s *Stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(s.left) == 0 {
		n, err := s.below.Read(s.raw)
		if n > 0 {
			s.left = s.in.spoil(s.raw[:n])
			s.pause()
		}
		if err != nil && len(s.left) == 0 {
			return 0, err
		}
	}
	n := copy(p[:s.in.piece(len(p))], s.left)
	s.left = s.left[n:]
	return n, nil
}

// Write implements io.Writer. It reports all bytes written, lost ones too.
func (s *Stream) Write(p []byte) (int, error) {
	b := s.out.spoil(p)
	s.pause()
	for len(b) > 0 {
		n := s.out.piece(len(b))
		if _, err := s.below.Write(b[:n]); err != nil {
			return 0, err
		}
		b = b[n:]
	}
	return len(p), nil
}

// pause is the delay of a piece, cut short by Close.
func (s *Stream) pause() { sleep(s.cfg.Delay, s.done) }

func sleep(d time.Duration, done <-chan struct{}) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-done:
	}
}

// Close closes the stream below.
func (s *Stream) Close() error {
	s.once.Do(func() { close(s.done) })
	return s.below.Close()
}

// Counts returns what has been done so far.
func (s *Stream) Counts() Counts {
	var c Counts
	for _, w := range []*way{s.in, s.out} {
		w.mu.Lock()
		c.Bytes += w.counts.Bytes
		c.Drops += w.counts.Drops
		c.Corruptions += w.counts.Corruptions
		c.Dups += w.counts.Dups
		c.NoiseRun += w.counts.NoiseRun
		w.mu.Unlock()
	}
	return c
}
