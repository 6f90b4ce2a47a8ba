package hostile

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"openkd/command"
	"openkd/engine/enginetest"
	"openkd/kdproto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// heapMost is what the heap may hold in use at the end of a test: far more
// than any of them needs, far less than a length that was believed.
const heapMost = 512 << 20

func bounded(t *testing.T) {
	t.Helper()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if m.HeapAlloc > heapMost {
		t.Errorf("%d MiB are in use", m.HeapAlloc>>20)
	}
}

// lines are all commands of the registry, with arguments that make sense.
func lines() []string {
	s := command.NewSession(nil, nil, command.Options{})
	var out []string
	for _, c := range s.Commands() {
		switch c.Names[0] {
		case ".sleep", "q", "qq", "qd", ".endpsrv", "z", "$<", "$><", "$$<", "$$><", "$$>a<":
			continue // end the session, take their time, or read files
		}
		if c.Example != "" {
			out = append(out, c.Example)
		}
		out = append(out, c.Names[0])
	}
	return append(out,
		"r", "r rax=1", "rM ff", "u @$ip L20", "ub @$ip", "db @$ip L400", "dps @$sp", "dyb @$ip", "da @$ip", "du @$ip", "lm", "lmv", "lmvm nt", ".reload", "!dd 0 L100",
		"s -a nt L100000 kernel", "bp nt+100", "ba w8 nt+200", "bl", "g", "p", "t 3", "pt", "bc *", "~1s", "~", "vertarget", "version", ".lastevent", ".bugcheck",
		".time", "x nt!*", "? poi(nt)+@$t0", ".exr -1", ".cxr", ".trap", "!process 0 0", ".printf \"%ma %mu %y %p\\n\", nt, nt, @$ip, @$sp", "dl nt 100", "e nt 1 2", "f nt L100 1",
	)
}

// mutations returns a mutate that spoils one payload in n.
func mutations(n int) func(*kernel, kdproto.PacketType, []byte) [][]byte {
	extremes := []uint64{0, 1, 7, 0x80, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 1<<64 - 1, 1<<64 - 0x1000, enginetest.KernBase, enginetest.ListHead}
	texts := []string{"\x1b]0;x\a\x1b[2J", strings.Repeat("%s%n", 500), "\x00\x00", "\xff\xfe", strings.Repeat("A", 3900), "line\r\n"}
	return func(k *kernel, t kdproto.PacketType, p []byte) [][]byte {
		r := k.rng
		if r.IntN(n) != 0 {
			return [][]byte{p}
		}
		p = bytes.Clone(p)
		odd := func() []byte {
			b := make([]byte, r.IntN(kdproto.MaxPayload+1))
			for i := range b {
				b[i] = byte(r.Uint32())
			}
			return b
		}
		extreme := func(from, to int) {
			if to = min(to, len(p)); to-from < 8 {
				return
			}
			at := from + r.IntN(to-from-7)&^3
			v := extremes[r.IntN(len(extremes))]
			if r.IntN(2) == 0 {
				le.PutUint32(p[at:], uint32(v))
			} else {
				le.PutUint64(p[at:], v)
			}
		}
		switch r.IntN(14) {
		case 0: // cut short
			p = p[:r.IntN(len(p)+1)]
		case 1: // longer than asked
			p = append(p, odd()...)
		case 2: // bits
			for range 1 + r.IntN(8) {
				if len(p) > 0 {
					p[r.IntN(len(p))] ^= 1 << r.IntN(8)
				}
			}
		case 3, 4, 5: // absurd numbers in the header
			for range 1 + r.IntN(3) {
				extreme(0, 240)
			}
		case 6, 7: // absurd numbers in what was read
			for range 1 + r.IntN(20) {
				extreme(kdproto.ManipulateSize, len(p))
			}
		case 8: // an answer to something else
			if len(p) >= 4 {
				le.PutUint32(p, uint32(kdproto.APIReadVirtualMemory)+r.Uint32N(0x40))
			}
		case 9: // none; the debugger waits for it, so not often
			if r.IntN(4) == 0 {
				return nil
			}
		case 10: // twice
			return [][]byte{p, p}
		case 11: // noise of other kinds in between
			text := []byte(texts[r.IntN(len(texts))])
			extra := kdproto.NewPrint(text).Append(nil)
			kind := kdproto.TypeDebugIO
			switch r.IntN(6) {
			case 0:
				extra = kdproto.NewPrompt(text, uint32(extremes[r.IntN(len(extremes))])).Append(nil)
			case 1:
				kind, extra = kdproto.PacketType(1+r.IntN(12)), odd()
			case 2:
				kind, extra = kdproto.TypeFileIO, odd()
			case 3:
				le.PutUint32(extra[8:], 0xFFFFFFFF)
			}
			if kind != kdproto.TypeAcknowledge && kind != kdproto.TypeResend && kind != kdproto.TypeReset {
				k.link.Send(k.ctx, kind, extra, true)
			}
		case 12: // noise that is no packet
			b := odd()
			k.link.WriteRaw(b[:min(64, len(b))])
		case 13: // another machine
			if len(p) >= kdproto.ManipulateSize && t == kdproto.TypeManipulate && kdproto.API(le.Uint32(p)) == kdproto.APIGetVersion {
				le.PutUint16(p[16+8:], []uint16{0x14C, 0x8664, 0xAA64, 0, 0x200, 0xFFFF}[r.IntN(6)])
			}
		}
		return [][]byte{p}
	}
}

// TestMutations runs every command over kernels that answer with seeded
// mutations of right answers.
func TestMutations(t *testing.T) {
	const part, atOnce = 6, 4
	seeds := 12
	if testing.Short() {
		seeds = 4
	}
	t.Chdir(t.TempDir()) // what commands write
	all := lines()
	var met, ran atomic.Int64
	var wg sync.WaitGroup
	turns := make(chan struct{}, atOnce) // they wait most of the time
	for seed := range uint64(seeds) {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			f := enginetest.New(2)
			if seed%4 == 3 {
				f = enginetest.NewX86()
			}
			r, end := newRig(t, f, seed, func(k *kernel) { k.mutate = mutations([]int{3, 8, 25}[seed%3]) })
			defer end()
			r.halted(time.Second)
			// Each seed runs a part of the commands, so that all of them have their turn.
			for i, line := range all {
				if (i+int(seed))%part != 0 {
					continue
				}
				if r.halted(150 * time.Millisecond) {
					met.Add(1)
				}
				ran.Add(1)
				r.do(line, 150*time.Millisecond)
			}
		})
	}
	wg.Wait()
	t.Logf("%d of %d commands had a halted target", met.Load(), ran.Load())
	if met.Load() < ran.Load()/4 {
		t.Errorf("only %d of %d commands had a halted target: the kernels are too hostile to test anything", met.Load(), ran.Load())
	}
	bounded(t)
}

// TestAbsurdMachines has kernels that are wrong in one way, all the time.
func TestAbsurdMachines(t *testing.T) {
	t.Chdir(t.TempDir())
	const endless = 0xFFFFA00000000000 // a list without end, names of 64 KiB
	for _, c := range []struct {
		name   string
		change func(k *kernel)
		lines  []string
	}{
		{"four billion processors", func(k *kernel) {
			k.mutate = onStop(func(p []byte) { le.PutUint32(p[8:], 0xFFFFFFFF) })
		}, []string{"~", "~4000000s", "r", "!running"}},
		{"processor 65535", func(k *kernel) {
			k.mutate = onStop(func(p []byte) { le.PutUint16(p[6:], 0xFFFF) })
		}, []string{"r", "~", "~0s", "t"}},
		{"no processors", func(k *kernel) {
			k.mutate = onStop(func(p []byte) { le.PutUint32(p[8:], 0) })
		}, []string{"~", "r", "t"}},
		{"a module list without end", func(k *kernel) {
			le.PutUint64(k.f.Pages[enginetest.ListHead&^0xFFF][enginetest.ListHead&0xFFF:], endless)
			k.read = func(addr uint64, n int) ([]byte, bool) {
				if addr < endless || addr >= endless+1<<40 {
					return nil, false
				}
				b := make([]byte, n)
				for i := range b {
					a := addr + uint64(i)
					var e [8]byte
					switch a &^ 7 % 0x100 {
					case 0x00:
						le.PutUint64(e[:], a&^0xFF+0x100)
					case 0x30:
						le.PutUint64(e[:], 0xFFFFF90000000000+(a&^0xFF-endless)<<8)
					case 0x40:
						le.PutUint32(e[:], 0x1000)
					case 0x48, 0x58:
						le.PutUint32(e[:], 0xFFFEFFFE)
					case 0x50, 0x60:
						le.PutUint64(e[:], endless+1<<39)
					default:
						le.PutUint64(e[:], 0x0041004100410041)
					}
					b[i] = e[a%8]
				}
				return b, true
			}
		}, []string{".reload", "lm", "lmvm nt"}},
		{"a module list that bites its tail", func(k *kernel) {
			pg := k.f.Pages[enginetest.ListHead&^0xFFF]
			first := le.Uint64(pg[enginetest.ListHead&0xFFF:])
			le.PutUint64(k.f.Pages[first&^0xFFF][first&0xFFF:], first)
		}, []string{".reload", "lm"}},
		{"contexts of 4000 bytes", func(k *kernel) {
			for i := range k.f.Context {
				k.f.Context[i] = append(k.f.Context[i], make([]byte, kdproto.MaxTransfer-len(k.f.Context[i]))...)
				k.f.Special[i] = make([]byte, kdproto.MaxTransfer)
			}
		}, []string{"r", "r rax=5", "rM ff", "t", ".cxr"}},
		{"contexts of no bytes", func(k *kernel) {
			k.mutate = onAPI(kdproto.APIGetContext, func(m *kdproto.Manipulate) { m.Data = nil })
		}, []string{"r", "r rax=5", "rM ff", "t", "u", "g"}},
		{"another machine every time", func(k *kernel) {
			n := 0
			k.mutate = onAPI(kdproto.APIGetVersion, func(m *kdproto.Manipulate) {
				n++
				v := k.f.Ver
				v.Machine = []kdproto.Machine{0x8664, 0x14C, 0xAA64, 0, 0xFFFF}[n%5]
				v.Put(&m.Union)
			})
		}, []string{"vertarget", "r", ".reload", "lm", "r", ".restart", "r"}},
		{"Actual greater than Count", func(k *kernel) {
			k.mutate = onAPI(kdproto.APIReadVirtualMemory, func(m *kdproto.Manipulate) {
				var b kdproto.Memory
				b.Get(&m.Union)
				b.Actual = 0xFFFFFFFF
				b.Put(&m.Union)
				m.Data = bytes.Repeat([]byte{0x41}, kdproto.MaxTransfer)
			})
		}, []string{"db nt L40", "u nt", "lm", ".reload", "da nt", "dl nt", "? poi(nt)"}},
		{"reads of nothing", func(k *kernel) {
			k.mutate = onAPI(kdproto.APIReadVirtualMemory, func(m *kdproto.Manipulate) {
				var b kdproto.Memory
				b.Get(&m.Union)
				b.Actual = 0
				b.Put(&m.Union)
				m.Data, m.Status = nil, kdproto.StatusSuccess
			})
		}, []string{"db nt L40", "u nt", "lm", ".reload", "da nt", "s nt L1000 1", "dl nt", ".writemem x nt L2000"}},
		{"a data block of 4 GiB", func(k *kernel) {
			head := k.f.Ver.DebuggerDataList
			block := head + 0x100
			b := make([]byte, 0x1000)
			le.PutUint64(b, block)
			le.PutUint64(b[0x100:], head)
			copy(b[0x110:], "KDBG")
			le.PutUint32(b[0x114:], 0xFFFFFFFF)
			for i := 0x118; i+8 <= len(b); i += 8 {
				le.PutUint64(b[i:], 0xFFFFFFFFFFFFFFF9)
			}
			k.f.Pages[head&^0xFFF] = b
		}, []string{"vertarget", ".reload", "lm", ".bugcheck", "!process 0 0", "lm u"}},
		{"pointers that are none", func(k *kernel) {
			k.f.Ver.KernBase, k.f.Ver.PsLoadedModuleList, k.f.Ver.DebuggerDataList = 1<<64-1, 1<<64-3, 1<<64-9
		}, []string{"vertarget", ".reload", "lm", "u", "? nt"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, end := newRig(t, enginetest.New(2), 1, c.change)
			defer end()
			r.halted(3 * time.Second)
			for _, l := range c.lines {
				r.halted(200 * time.Millisecond)
				r.do(l, time.Second)
			}
			if n := r.out.size(); n > 64<<20 {
				t.Errorf("%d bytes were printed", n)
			}
			bounded(t)
		})
	}
}

func onStop(f func(p []byte)) func(*kernel, kdproto.PacketType, []byte) [][]byte {
	return func(_ *kernel, t kdproto.PacketType, p []byte) [][]byte {
		if t == kdproto.TypeStateChange64 {
			f(p)
		}
		return [][]byte{p}
	}
}

func onAPI(api kdproto.API, f func(m *kdproto.Manipulate)) func(*kernel, kdproto.PacketType, []byte) [][]byte {
	return func(_ *kernel, t kdproto.PacketType, p []byte) [][]byte {
		if t != kdproto.TypeManipulate {
			return [][]byte{p}
		}
		m, err := kdproto.DecodeManipulate(p)
		if err != nil || m.API != api {
			return [][]byte{p}
		}
		f(&m)
		return [][]byte{m.Append(nil)}
	}
}

// TestPrintStorm: a kernel prints far more than anybody reads.
func TestPrintStorm(t *testing.T) {
	n := 6000
	if testing.Short() {
		n = 1500
	}
	var givenUp atomic.Int64
	r, end := newRig(t, enginetest.New(1), 1, func(k *kernel) {
		k.mutate = func(k *kernel, t kdproto.PacketType, p []byte) [][]byte {
			// A kernel prints no more to a debugger that does not answer, and says
			// the rest before its next report.
			for sent := true; t == kdproto.TypeStateChange64 && n > 0 && sent; n-- {
				sent = k.link.Send(k.ctx, kdproto.TypeDebugIO, kdproto.NewPrint(fmt.Appendf(nil, "%d: \x1b[31m%0200d\n", n, n)).Append(nil), true) == nil
				if !sent {
					givenUp.Add(1)
				}
			}
			return [][]byte{p}
		}
	})
	defer end()
	r.halted(20 * time.Second)
	t.Logf("%d prints were given up", givenUp.Load())
	if !r.e.Halted() {
		t.Error("the storm kept the target from stopping")
	}
	bounded(t)
}
