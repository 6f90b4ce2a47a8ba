package together

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// fate is how one connection ends before its time.
type fate struct {
	kind  fateKind
	after int  // bytes or pieces
	hard  bool // with a reset, where the carrier has one
}

type fateKind int

const (
	lasts     fateKind = iota
	downCut            // after so many bytes to the client, wherever in a frame that is
	upCut              // after so many bytes from the client
	askedCut           // the server has got a piece that the client sent late, and the client no answer
	askedLost          // in the middle of such a piece: the server has nothing of it to go by
	silent             // after so many bytes to the client, nothing comes through any more, and nobody hangs up
)

func (k fateKind) String() string {
	return [...]string{"lasts", "breaks towards the client", "breaks towards the server", "breaks before the answer", "breaks before the question", "falls silent"}[k]
}

// settled is how many bytes have come to a client that is past its handshake
// and the first of the history.
const settled = 6000

// plan draws the fates of the connections of one client, the first one so that
// it gets in.
func plan(seed uint64, cuts int, door string) []fate {
	r := rand.New(rand.NewPCG(seed, 21))
	var p []fate
	for i := range cuts {
		f := fate{kind: fateKind(1 + r.IntN(4)), hard: r.IntN(2) == 0}
		switch {
		case door == "silent":
			f = fate{kind: silent, after: settled + r.IntN(4000)}
		case i == 0 && f.kind < askedCut:
			f = fate{kind: downCut, after: settled + r.IntN(4000)}
		case f.kind == downCut:
			f.after = 1 + r.IntN(8000)
		case f.kind == upCut:
			f.after = 1 + r.IntN(2500)
		default:
			f.after = 1 + r.IntN(2)
		}
		p = append(p, f)
	}
	return p
}

// badLine carries connections between a client and a door: each piece comes
// late, and connections break as planned, one after the other.
type badLine struct {
	t     testing.TB
	delay time.Duration
	dial  func(ctx context.Context) (net.Conn, error) // to the far side
	// swapped: what is accepted comes from the server, what is dialled is the
	// client.
	swapped bool
	ln      net.Listener
	ctx     context.Context
	stop    context.CancelFunc
	wg      sync.WaitGroup

	mu   sync.Mutex
	plan []fate
	made int
	cut  map[fateKind]int
}

func newBadLine(t testing.TB, ln net.Listener, delay time.Duration, plan []fate, swapped bool, dial func(context.Context) (net.Conn, error)) *badLine {
	l := &badLine{t: t, ln: ln, delay: delay, plan: plan, swapped: swapped, dial: dial, cut: map[fateKind]int{}}
	l.ctx, l.stop = context.WithCancel(context.Background())
	l.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			l.wg.Go(func() { l.carry(c) })
		}
	})
	t.Cleanup(func() { l.stop(); ln.Close(); l.wg.Wait() })
	return l
}

// cuts says how many connections broke as planned, by kind.
func (l *badLine) cuts() (n int, kinds map[fateKind]int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	kinds = map[fateKind]int{}
	for k, c := range l.cut {
		kinds[k] = c
		n += c
	}
	return n, kinds
}

func (l *badLine) next() fate {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.made++
	if len(l.plan) == 0 {
		return fate{}
	}
	f := l.plan[0]
	l.plan = l.plan[1:]
	return f
}

// carry carries one connection.
func (l *badLine) carry(near net.Conn) {
	defer near.Close()
	far, err := l.dial(l.ctx)
	if err != nil {
		return
	}
	defer far.Close()
	client, server := near, far
	if l.swapped {
		client, server = far, near
	}
	f := l.next()
	broken := make(chan struct{})
	var once sync.Once
	var wg sync.WaitGroup
	var mu sync.Mutex
	down, asked, over := 0, 0, false
	var drained chan struct{}
	end := func(fired bool) {
		if f.kind == silent {
			mu.Lock()
			quiet := over
			mu.Unlock()
			if quiet && fired {
				l.mu.Lock()
				l.cut[f.kind]++
				l.mu.Unlock()
			}
			if quiet && l.ctx.Err() == nil {
				return // each side finds out by itself
			}
		}
		once.Do(func() {
			close(broken)
			if fired {
				l.mu.Lock()
				l.cut[f.kind]++
				l.mu.Unlock()
			}
			if fired && f.kind == askedCut {
				// The server is to read what it has got: nothing may reset this half.
				if c, ok := server.(interface{ CloseWrite() error }); ok && c.CloseWrite() == nil {
					drained = make(chan struct{})
				}
			}
			if fired && f.hard {
				for _, c := range []net.Conn{client, server} {
					if c, ok := c.(*net.TCPConn); ok && !(c == server && drained != nil) {
						c.SetLinger(0)
					}
				}
			}
			client.Close()
			if drained == nil {
				server.Close()
			}
		})
	}
	stop := context.AfterFunc(l.ctx, func() { end(false); server.Close() })
	defer stop()
	// n bytes are about to go on, up to the server or down: how many do, and
	// whether that is the end.
	pass := func(up bool, n int) (some int, last bool) {
		mu.Lock()
		defer mu.Unlock()
		if over {
			return 0, false
		}
		defer func() { over = last }()
		if !up {
			down += n
			if (f.kind == downCut || f.kind == silent) && down >= f.after {
				return n - (down - f.after), true
			}
			return n, false
		}
		switch f.kind {
		case upCut:
			f.after -= n
			if f.after <= 0 {
				return n + f.after, true
			}
		case askedCut, askedLost:
			if down >= settled {
				asked++
			}
			if asked >= f.after && f.kind == askedLost {
				return n / 2, true
			}
			return n, asked >= f.after
		}
		return n, false
	}
	way := func(from, to net.Conn, up bool) {
		type piece struct {
			b   []byte
			due time.Time
		}
		late := make(chan piece, 4096)
		wg.Go(func() { // what has arrived goes on when it is due
			for p := range late {
				t := time.NewTimer(time.Until(p.due))
				select {
				case <-t.C:
				case <-broken:
					t.Stop()
					continue
				}
				select {
				case <-broken:
					continue
				default:
				}
				n, last := pass(up, len(p.b))
				if _, err := to.Write(p.b[:n]); err != nil {
					end(false)
				}
				if last {
					end(true)
				}
			}
			end(false) // whoever hung up, behind what was under way
		})
		wg.Go(func() {
			defer close(late)
			for {
				b := make([]byte, 4096)
				n, err := from.Read(b)
				if n > 0 {
					select {
					case late <- piece{b[:n], time.Now().Add(l.delay)}:
					case <-broken:
					}
				}
				if err != nil {
					return
				}
				select {
				case <-broken:
					if !up {
						io.Copy(io.Discard, from) // until the server has read all and hangs up
					}
					return
				default:
				}
			}
		})
	}
	way(client, server, true)
	way(server, client, false)
	wg.Wait()
}
