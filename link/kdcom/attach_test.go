package kdcom

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"openkd/kdproto"
)

// machine is a target in a synctest bubble whose debugger comes and goes.
type machine struct {
	t      *testing.T
	ctx    context.Context
	k      *Target
	h      *Host
	cancel context.CancelFunc
}

func attachTest(t *testing.T, opt TargetOptions, test func(m *machine)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := &machine{t: t, k: NewTarget(nil, opt)}
		m.ctx, m.cancel = context.WithCancel(context.Background())
		defer func() {
			m.cancel()
			if m.h != nil {
				m.h.Close()
			}
			m.k.Close()
		}()
		test(m)
	})
}

// debugger starts a new debugger; the one before has died.
func (m *machine) debugger() {
	if m.h != nil {
		m.h.Close()
	}
	a, b := net.Pipe()
	m.h = NewHost(a, HostOptions{})
	m.k.Attach(b)
}

// died is a debugger that is gone; the line stays.
func (m *machine) died() {
	m.h.Close()
	m.h = nil
	m.k.Attach(nil)
}

// sends runs a Send of the target in the background.
func (m *machine) sends(payload []byte, droppable bool) chan error {
	typ := kdproto.TypeStateChange64
	switch payload[1] {
	case 0x31:
		typ = kdproto.TypeManipulate
	case 0x32:
		typ = kdproto.TypeDebugIO
	}
	end := make(chan error, 1)
	go func() { end <- m.k.Send(m.ctx, typ, payload, droppable) }()
	synctest.Wait()
	return end
}

func (m *machine) gets(want int, fresh, repeated bool) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.ctx, time.Minute)
	defer cancel()
	p, err := m.h.Receive(ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	if number(p.Payload) != want || p.Fresh != fresh || p.Repeated != repeated {
		m.t.Fatalf("got %d fresh %v repeated %v, want %d %v %v", number(p.Payload), p.Fresh, p.Repeated, want, fresh, repeated)
	}
}

func (m *machine) done(end chan error, want error) {
	m.t.Helper()
	if err := <-end; !errors.Is(err, want) {
		m.t.Fatalf("the target's Send: %v, want %v", err, want)
	}
}

// loop is the command loop: it answers Resend with the state, and requests with
// an echo until n are served.
func (m *machine) loop(state []byte, n int) chan error {
	end := make(chan error, 1)
	go func() {
		for n > 0 {
			p, r, err := m.k.Receive(m.ctx, kdproto.TypeManipulate, 0)
			if err == nil && r == Received {
				n--
				err = m.k.Send(m.ctx, kdproto.TypeManipulate, p, false)
			} else if err == nil && r == Resend {
				err = m.k.Send(m.ctx, kdproto.TypeStateChange64, state, false)
			}
			if err != nil {
				end <- err
				return
			}
		}
		end <- nil
	}()
	synctest.Wait()
	return end
}

// asks is a request with its reply: the proof that both numberings agree.
func (m *machine) asks(state []byte, n int) {
	m.t.Helper()
	end := m.loop(state, n)
	for range n {
		if err := m.h.Send(m.ctx, kdproto.TypeManipulate, request(3)); err != nil {
			m.t.Fatal(err)
		}
		m.gets(0, false, false)
	}
	m.done(end, nil)
}

var printing = func(n int) []byte {
	p := kdproto.NewPrint([]byte("print\n"))
	p.ProcessorLevel = uint16(n)
	return p.Append(nil)
}

// TestAttach is every row of the late attach and reattach matrix, for both
// parities of what went before where that matters.
func TestAttach(t *testing.T) {
	kernels := map[string]TargetOptions{"windows": {}, "reactos": {ReactOS: true}}
	rows := []struct {
		name string
		test func(m *machine, before int)
	}{
		{"host first, target boots", func(m *machine, _ int) {
			m.debugger()
			end := m.sends(stop(1), true)
			m.gets(1, true, false)
			m.done(end, nil)
			m.asks(stop(1), 3)
		}},
		{"booted without host, running", func(m *machine, _ int) {
			m.done(m.sends(printing(1), true), ErrNotPresent)
			if m.k.Present() {
				m.t.Fatal("the target believes in a debugger")
			}
			m.debugger()
			m.h.Resync() // what a running target does not want it throws away
			synctest.Wait()
			m.h.BreakIn()
			synctest.Wait()
			ticks := 1
			for !m.k.PollBreakIn() {
				if ticks++; ticks > 1000 {
					m.t.Fatal("no break-in")
				}
			}
			if ticks != 17 {
				m.t.Errorf("break-in after %d ticks, want one for each byte", ticks)
			}
			end := m.sends(stop(2), false)
			m.gets(2, true, false)
			m.done(end, nil)
			if !m.k.Present() {
				m.t.Fatal("the target does not believe in the debugger")
			}
			m.asks(stop(2), 3)
		}},
		{"booted without host, then crashed", func(m *machine, _ int) {
			m.done(m.sends(printing(1), true), ErrNotPresent)
			end := m.sends(stop(2), false)
			time.Sleep(time.Hour)
			m.debugger()
			m.gets(2, true, false)
			m.done(end, nil)
			m.asks(stop(2), 3)
		}},
		{"host died while the target was stopped", func(m *machine, before int) {
			m.stopped(before)
			m.died()
			time.Sleep(time.Minute)
			m.debugger()
			end := m.loop(stop(1), 1)
			m.h.Resync()
			m.gets(1, false, true)
			if err := m.h.Send(m.ctx, kdproto.TypeManipulate, request(3)); err != nil {
				m.t.Fatal(err)
			}
			m.gets(0, false, false)
			m.done(end, nil)
		}},
		{"host died while the target was stopped, break-in", func(m *machine, before int) {
			m.stopped(before)
			m.died()
			m.debugger()
			end := m.loop(stop(1), 1)
			m.h.BreakIn()
			m.gets(1, false, false) // with any of the two ids
			if !m.k.BreakInSeen() {
				m.t.Error("the break-in is not remembered")
			}
			m.h.Resync()
			m.gets(1, false, true)
			m.h.Send(m.ctx, kdproto.TypeManipulate, request(3))
			m.gets(0, false, false)
			m.done(end, nil)
		}},
		{"host died with a request in flight", func(m *machine, before int) {
			m.stopped(before)
			m.died()
			end := m.sends(request(9), false)
			time.Sleep(time.Minute)
			m.debugger()
			m.gets(0, false, false) // an orphan
			m.done(end, nil)
			end = m.loop(stop(1), 1)
			m.h.Resync()
			m.gets(1, false, true)
			m.h.Send(m.ctx, kdproto.TypeManipulate, request(3))
			m.gets(0, false, false)
			m.done(end, nil)
		}},
		{"host died while the target ran and printed", func(m *machine, before int) {
			m.stopped(before)
			m.died()
			m.done(m.sends(printing(2), true), ErrNotPresent)
			m.debugger()
			end := m.sends(stop(3), false)
			m.gets(3, true, false)
			m.done(end, nil)
			m.asks(stop(3), 3)
		}},
		{"host died while the target ran silently", func(m *machine, before int) {
			m.stopped(before)
			m.died()
			m.debugger()
			end := m.sends(printing(2), true)
			m.gets(2, false, false)
			m.done(end, nil)
			end = m.sends(stop(3), false)
			m.gets(3, false, false)
			m.done(end, nil)
			end = m.loop(stop(3), 2)
			m.h.Resync()
			m.gets(3, false, true)
			for range 2 {
				m.h.Send(m.ctx, kdproto.TypeManipulate, request(3))
				m.gets(0, false, false)
			}
			m.done(end, nil)
		}},
		{"target rebooted under the host", func(m *machine, before int) {
			m.stopped(before)
			m.k.Restart()
			end := m.sends(printing(2), true)
			m.gets(2, true, false)
			m.done(end, nil)
			end = m.sends(stop(3), true)
			m.gets(3, false, false)
			m.done(end, nil)
			m.asks(stop(3), 3)
		}},
		{"resume from hibernation: a packet lost, then RESET", func(m *machine, before int) {
			m.stopped(before)
			m.k.current, m.k.expected = kdproto.InitialID, kdproto.InitialID
			m.k.WriteRaw(reset)
			end := m.sends(stop(4), false)
			m.gets(4, true, false)
			m.done(end, nil)
			// The host's answer makes the target repeat.
			end = m.loop(stop(4), 1)
			synctest.Wait()
			ctx, cancel := context.WithTimeout(m.ctx, time.Second)
			for {
				if _, err := m.h.Receive(ctx); err != nil {
					break
				}
			}
			cancel()
			if err := m.h.Send(m.ctx, kdproto.TypeManipulate, request(3)); err != nil {
				m.t.Fatal(err)
			}
			m.gets(0, false, false)
			m.done(end, nil)
		}},
	}
	for kernel, opt := range kernels {
		for _, row := range rows {
			for before := range 3 {
				t.Run(fmt.Sprintf("%s/%s/%d", kernel, row.name, before), func(t *testing.T) {
					attachTest(t, opt, func(m *machine) { row.test(m, before) })
				})
			}
		}
	}
}

// stopped boots a target with a host and exchanges n requests.
func (m *machine) stopped(n int) {
	m.t.Helper()
	m.debugger()
	end := m.sends(stop(1), false)
	m.gets(1, true, false)
	m.done(end, nil)
	m.asks(stop(1), n)
}

// TestTargetGivesUp counts what a kernel does without a debugger.
func TestTargetGivesUp(t *testing.T) {
	attachTest(t, TargetOptions{}, func(m *machine) {
		writes := 0
		m.k.opt.Tamper = func(p []byte) []byte { writes++; return p }
		start := time.Now()
		m.done(m.sends(printing(1), true), ErrNotPresent)
		if writes != DefaultTargetRetries || time.Since(start) != DefaultTargetRetries*DefaultTargetTimeout {
			m.t.Errorf("%d tries in %v", writes, time.Since(start))
		}
		// What is not droppable is repeated for ever, and one cancel ends it.
		end := m.sends(stop(1), false)
		time.Sleep(time.Hour)
		select {
		case err := <-end:
			m.t.Fatalf("an exception was given up: %v", err)
		default:
		}
		m.cancel()
		m.done(end, context.Canceled)
	})
}

// TestTargetCollapsesResets: RESETs that piled up are answered once.
func TestTargetCollapsesResets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		k := NewTarget(near, TargetOptions{})
		defer k.Close()
		out := make(chan []byte, 1)
		far.Write(bytes.Repeat(reset, 10))
		synctest.Wait()
		go func() { b, _ := io.ReadAll(far); out <- b }()
		if _, r, err := k.Receive(context.Background(), kdproto.TypeManipulate, 0); r != Resend || err != nil {
			t.Fatal(r, err)
		}
		if _, r, err := k.Receive(context.Background(), kdproto.TypeManipulate, 0); r != Timeout || err != nil {
			t.Fatal(r, err)
		}
		k.Close()
		if got := words(<-out); len(got) != 1 || got[0] != "RESET" {
			t.Fatal(got)
		}
	})
}

// TestTargetReceives is the receive table of a kernel, a step at a time.
func TestTargetReceives(t *testing.T) {
	req := func(id uint32) []byte { return kdproto.AppendData(nil, kdproto.TypeManipulate, id, request(1)) }
	bad := req(id0)
	bad[30] ^= 1
	short := kdproto.AppendData(nil, kdproto.TypeManipulate, id0, make([]byte, 55))
	prompt := kdproto.AppendData(nil, kdproto.TypeDebugIO, id0, kdproto.NewAnswer(make([]byte, 60)).Append(nil))
	for _, c := range []struct {
		name    string
		reactos bool
		want    kdproto.PacketType
		in      [][]byte
		result  Result
		out     string
	}{
		{"request", false, kdproto.TypeManipulate, [][]byte{req(id0)}, Received, "ACK 80800000"},
		{"noise first", false, kdproto.TypeManipulate, [][]byte{[]byte("xyz\xAA00b"), req(id0)}, Received, "ACK 80800000"},
		{"wrong id", false, kdproto.TypeManipulate, [][]byte{req(id1)}, Timeout, "ACK 80800001"},
		{"wrong id, then right", false, kdproto.TypeManipulate, [][]byte{req(id1), req(id0)}, Received, "ACK 80800001 ACK 80800000"},
		{"wrong type", false, kdproto.TypeManipulate, [][]byte{prompt}, Timeout, "ACK 80800000"},
		{"prompt", false, kdproto.TypeDebugIO, [][]byte{prompt}, Received, "ACK 80800000"},
		{"bad checksum", false, kdproto.TypeManipulate, [][]byte{bad}, Timeout, "RESEND"},
		{"too short", false, kdproto.TypeManipulate, [][]byte{short}, Timeout, "RESEND"},
		{"cut", false, kdproto.TypeManipulate, [][]byte{req(id0)[:40]}, Timeout, "RESEND"},
		{"cut before its count", false, kdproto.TypeManipulate, [][]byte{req(id0)[:6]}, Timeout, ""},
		{"RESET", false, kdproto.TypeManipulate, [][]byte{reset}, Resend, "RESET"},
		{"RESET with an odd id", false, kdproto.TypeManipulate, [][]byte{ctl(kdproto.TypeReset, 0xDEADBEEF)}, Resend, "RESET"},
		{"RESEND", false, kdproto.TypeManipulate, [][]byte{resend}, Resend, ""},
		{"break-in", false, kdproto.TypeManipulate, [][]byte{{'b'}}, Resend, ""},
		{"break-in, then noise", false, kdproto.TypeManipulate, [][]byte{[]byte("bx")}, Timeout, ""},
		{"break-in, then a request", false, kdproto.TypeManipulate, [][]byte{{'b'}, req(id0)}, Received, "ACK 80800000"},
		{"ACK", false, kdproto.TypeAcknowledge, [][]byte{ack(id0)}, Received, ""},
		{"ACK with SYNC", false, kdproto.TypeAcknowledge, [][]byte{ack(sync0)}, Timeout, ""},
		{"ACK of another", false, kdproto.TypeAcknowledge, [][]byte{ack(id1)}, Timeout, ""},
		{"request instead of the ACK", false, kdproto.TypeAcknowledge, [][]byte{req(id0)}, Received, "RESEND"},
		{"stale request instead of the ACK", false, kdproto.TypeAcknowledge, [][]byte{req(id1)}, Timeout, "ACK 80800001"},
		{"ReactOS: stale request instead of the ACK", true, kdproto.TypeAcknowledge, [][]byte{req(id1)}, Received, "RESEND"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				k := NewTarget(near, TargetOptions{ReactOS: c.reactos})
				out := make(chan []byte, 1)
				go func() { b, _ := io.ReadAll(far); out <- b }()
				if _, err := far.Write(bytes.Join(c.in, nil)); err != nil {
					t.Fatal(err)
				}
				p, r, err := k.Receive(context.Background(), c.want, 0)
				if err != nil || r != c.result {
					t.Fatalf("%v, %v", r, err)
				}
				if r == Received && c.want == kdproto.TypeManipulate && !bytes.Equal(p, request(1)) {
					t.Fatalf("%x", p)
				}
				k.Close()
				if got := strings.Join(words(<-out), " "); got != c.out {
					t.Fatalf("the target wrote %q, want %q", got, c.out)
				}
			})
		})
	}
}

// TestTargetTamper: every damage a target can be told to do, and the host that
// lives with it.
func TestTargetTamper(t *testing.T) {
	data := func(p []byte) bool { return p[0] == dataByte }
	for name, damage := range map[string]func(p []byte) []byte{
		"lost ACK": func(p []byte) []byte {
			if data(p) {
				return p
			}
			return nil
		},
		"lost packet": func(p []byte) []byte { return nil },
		"bad checksum": func(p []byte) []byte {
			if data(p) {
				p[12]++
			}
			return p
		},
		"missing trailer": func(p []byte) []byte {
			if data(p) {
				return p[:len(p)-1]
			}
			return p
		},
		"truncated":         func(p []byte) []byte { return p[:len(p)/2] },
		"duplicate":         func(p []byte) []byte { return append(bytes.Clone(p), p...) },
		"garbage around":    func(p []byte) []byte { return []byte("0000iii\xAA" + string(p) + "b000") },
		"odd RESET before":  func(p []byte) []byte { return append(ctl(kdproto.TypeResend, 0xDEADBEEF), p...) },
		"wrong leader byte": func(p []byte) []byte { p[1] = 'x'; return p },
	} {
		t.Run(name, func(t *testing.T) {
			attachTest(t, TargetOptions{}, func(m *machine) {
				m.stopped(0)
				n := 0
				m.k.opt.Tamper = func(p []byte) []byte {
					if n++; n%3 == 0 {
						return damage(p)
					}
					return p
				}
				// The target serves on when the last reply is through: the ACK
				// of the last request may be the one that is lost.
				end := m.loop(stop(1), 1000)
				for range 20 {
					if err := m.h.Send(m.ctx, kdproto.TypeManipulate, request(3)); err != nil {
						t.Fatal(err)
					}
					m.gets(0, false, false)
				}
				m.cancel()
				m.done(end, context.Canceled)
			})
		})
	}
}

// TestNewStreamUnderAWaitingTarget: a call of the target that waits goes on
// with the new stream.
func TestNewStreamUnderAWaitingTarget(t *testing.T) {
	attachTest(t, TargetOptions{}, func(m *machine) {
		m.stopped(1)
		end := m.loop(stop(1), 1)
		old := m.h
		m.h = nil
		m.debugger()
		old.Close()
		m.h.Resync()
		m.gets(1, false, true)
		m.h.Send(m.ctx, kdproto.TypeManipulate, request(3))
		m.gets(0, false, false)
		m.done(end, nil)
		// The other end hangs up: the target's call says so.
		end = m.loop(stop(1), 1)
		m.h.Close()
		if err := <-end; err == nil {
			t.Fatal("the end of the stream went unnoticed")
		}
		if m.k.Err() == nil {
			t.Fatal("Err does not know the end")
		}
		m.h = nil
		m.debugger()
		if err := m.k.Err(); err != nil {
			t.Fatalf("a new stream has ended: %v", err)
		}
	})
}

// recording is a line of a recorded session.
type recording struct {
	fromTarget bool
	bytes      []byte
	whole      bool
}

func recordings(t *testing.T) map[string][]recording {
	t.Helper()
	files, _ := filepath.Glob("../../../shared/data/kdcom/*.txt")
	if len(files) == 0 {
		t.Skip("no recorded sessions in ../shared/data/kdcom")
	}
	out := map[string][]recording{}
	for _, f := range files {
		r, err := os.Open(f)
		if err != nil {
			t.Fatal(err)
		}
		s := bufio.NewScanner(r)
		s.Buffer(nil, 1<<20)
		for s.Scan() {
			fields := strings.Fields(s.Text())
			if len(fields) < 3 || fields[1] != "<" && fields[1] != ">" {
				continue
			}
			if _, err := strconv.ParseFloat(fields[0], 64); err != nil {
				continue
			}
			text, cut := strings.CutSuffix(fields[2], "...")
			b, err := hex.DecodeString(text)
			if err != nil {
				t.Fatalf("%s: %q: %v", f, fields[2], err)
			}
			out[filepath.Base(f)] = append(out[filepath.Base(f)], recording{fields[1] == "<", b, !cut})
		}
		r.Close()
	}
	return out
}

// TestReplay feeds what a real kernel sent and compares the acknowledgements
// with the recorded ones. Replies whose tail was not recorded are completed
// with bytes that make their checksum right.
func TestReplay(t *testing.T) {
	for name, lines := range recordings(t) {
		t.Run(name, func(t *testing.T) {
			onWire(t, HostOptions{}, func(w *wire) {
				// The recorded loop answered nothing before its first RESET.
				for i, l := range lines {
					if !l.fromTarget && bytes.Equal(l.bytes, reset) {
						lines = lines[i:]
						break
					}
				}
				if err := w.host.Resync(); err != nil {
					t.Fatal(err)
				}
				w.expect("RESET")
				var acks, want []string
				packets := 0
				for _, l := range lines[1:] {
					if !l.fromTarget {
						for _, s := range words(l.bytes) {
							if strings.HasPrefix(s, "ACK") {
								want = append(want, s)
							}
						}
						if bytes.Equal(l.bytes, reset) {
							time.Sleep(resetPatience)
							if err := w.host.Resync(); err != nil {
								t.Fatal(err)
							}
						}
						continue
					}
					b := l.bytes
					if !l.whole {
						b = complete(t, b)
					}
					if b[0] == dataByte {
						packets++
					}
					w.send(b)
					for {
						ctx, cancel := context.WithTimeout(context.Background(), time.Nanosecond)
						_, err := w.host.Receive(ctx)
						cancel()
						if err != nil {
							break
						}
					}
				}
				synctest.Wait()
				for _, s := range words(w.read) {
					if strings.HasPrefix(s, "ACK") {
						acks = append(acks, s)
					}
				}
				if len(want) == 0 || packets == 0 {
					t.Fatal("nothing recorded")
				}
				for i := range max(len(acks), len(want)) {
					if i >= len(acks) || i >= len(want) || acks[i] != want[i] {
						t.Fatalf("ACK %d of %d (recorded %d) differs: %v, recorded %v", i, len(acks), len(want), acks[max(0, i-2):min(i+2, len(acks))], want[max(0, i-2):min(i+2, len(want))])
					}
				}
				s := w.stats()
				if s.BadChecksums+s.Truncated+s.Garbage+s.ResendsAsked != 0 {
					t.Errorf("%+v", s)
				}
				t.Logf("%d packets, %d ACKs as recorded, %d duplicates", packets, len(acks), s.Duplicates)
			})
		})
	}
}

// complete adds a tail with the sum that the header promises.
func complete(t *testing.T, b []byte) []byte {
	t.Helper()
	h, err := kdproto.DecodeHeader(b)
	if err != nil {
		t.Fatal(err)
	}
	left := h.Checksum - kdproto.Checksum(b[kdproto.HeaderSize:])
	n := kdproto.HeaderSize + int(h.ByteCount) - len(b)
	out := bytes.Clone(b)
	for ; n > 0; n-- {
		c := min(left, 255)
		out = append(out, byte(c))
		left -= c
	}
	if left != 0 {
		t.Fatalf("a recorded reply cannot be completed: %d too much", left)
	}
	return append(out, kdproto.Trailer)
}
