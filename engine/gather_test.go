package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"
	"testing"

	"openkd/engine/enginetest"
	"openkd/image/sym"
	"openkd/symbols"
	"openkd/target"
)

// pools is memory with structures that lead to others: at Data+0x100*i one whose
// second word leads to Far+0x2000*i, whose first word leads to Text+0x40*i.
const (
	poolData = 0xFFFFA00000001000
	poolFar  = 0xFFFFA00000100000
	poolText = 0xFFFFA00000800000
)

func pools(f *enginetest.Fake, n int) {
	word := func(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }
	for i := range uint64(n) {
		f.Write(poolData+0x100*i, append(word(i), word(poolFar+0x2000*i)...))
		f.Write(poolFar+0x2000*i, append(word(poolText+0x40*i), word(^i)...))
		f.Write(poolText+0x40*i, append([]byte{byte('a' + i%26)}, "bcdefg\x00"...))
	}
}

func (r *rig) halted() {
	r.Helper()
	if err := r.e.BreakIn(r.ctx); err != nil {
		r.Fatal(err)
	}
	r.wait()
}

func TestFetch(t *testing.T) {
	for _, slow := range []bool{false, true} {
		r := newRig(t, 1, func(f *enginetest.Fake, _ *Options) {
			pools(f, 20)
			if slow {
				f.Speed = 115200
			}
		})
		r.halted()
		n := r.f.Count()
		w := Want{Addr: poolData, Len: 0x100 * 20}
		for i := range uint32(20) {
			w.Then = append(w.Then, Deref{Offset: 0x100*i + 8, Len: 16, Then: []Deref{{Offset: 0, Len: 8}}})
		}
		w.Then = append(w.Then, Deref{Offset: 0x10, Len: 64}, Deref{Offset: 0x1FFFFFF0, Len: 8}, Deref{Offset: 0, Len: 1 << 40}) // null, outside, too much
		if err := r.e.Fetch(r.ctx, w); err != nil {
			t.Fatal(err)
		}
		if got := r.f.Count() - n; got != 1 {
			t.Errorf("slow %v: %d exchanges", slow, got)
		}
		n = r.f.Count()
		rounds := 0
		err := r.e.Gather(r.ctx, func(m *Peek) error {
			rounds++
			for i := range uint64(20) {
				b := make([]byte, 16)
				if k, _ := m.Read(r.ctx, poolFar+0x2000*i, b); k != 16 || binary.LittleEndian.Uint64(b[8:]) != ^i {
					t.Errorf("%d: %x", i, b)
				}
				if k, _ := m.Read(r.ctx, poolText+0x40*i, b[:8]); k != 8 || b[0] != byte('a'+i) {
					t.Errorf("text %d: %x", i, b)
				}
			}
			return nil
		})
		if got := r.f.Count() - n; got != 0 || rounds != 1 || err != nil {
			t.Errorf("%d exchanges and %d rounds for what is known, %v", got, rounds, err)
		}
		// Asking again asks nobody.
		if err := r.e.Fetch(r.ctx, w); err != nil || r.f.Count() != n {
			t.Errorf("%d exchanges more, %v", r.f.Count()-n, err)
		}
	}
}

// What is wanted behind known pointers is asked for directly.
func TestFetchKnown(t *testing.T) {
	r := newRig(t, 1, func(f *enginetest.Fake, _ *Options) { pools(f, 4) })
	r.halted()
	if _, err := r.e.Read(r.ctx, Virtual, poolData, 0x400); err != nil {
		t.Fatal(err)
	}
	n := r.f.Count()
	if err := r.e.Fetch(r.ctx, Want{Addr: poolData, Len: 16, Then: []Deref{{Offset: 8, Len: 16, Then: []Deref{{Len: 8}}}}}); err != nil {
		t.Fatal(err)
	}
	if got := r.f.Count() - n; got != 1 {
		t.Errorf("%d exchanges", got)
	}
	b, err := r.e.ReadFull(r.ctx, Virtual, poolText, 7)
	if err != nil || string(b) != "abcdefg" || r.f.Count() != n+1 {
		t.Errorf("%q, %v, %d exchanges", b, err, r.f.Count()-n)
	}
}

func TestGather(t *testing.T) {
	r := newRig(t, 1, func(f *enginetest.Fake, _ *Options) { pools(f, 8) })
	r.halted()
	n := r.f.Count()
	var out []byte
	err := r.e.Gather(r.ctx, func(m *Peek) error {
		out = out[:0]
		at := uint64(poolData)
		for range 3 { // a chain of pointers: a round for each
			b := make([]byte, 8)
			if k, _ := m.Read(r.ctx, at+8*uint64(len(out)&1^1), b); k < 8 {
				return nil
			}
			out = append(out, b...)
			at = binary.LittleEndian.Uint64(b)
			if len(out) == 8 {
				at -= 8
			}
		}
		return nil
	})
	if got := r.f.Count() - n; err != nil || got == 0 || got > 3 {
		t.Errorf("%d exchanges, %v", got, err)
	}
	// Who always wants something new gets an end.
	n = r.f.Count()
	next := uint64(0xFFFFB00000000000)
	err = r.e.Gather(r.ctx, func(m *Peek) error {
		next += pageSize
		_, _ = m.Read(r.ctx, next, make([]byte, 8))
		return nil
	})
	if got := r.f.Count() - n; err != nil || got != maxGather {
		t.Errorf("%d exchanges, %v", got, err)
	}
	ctx, cancel := context.WithCancel(r.ctx)
	cancel()
	if err := r.e.Gather(ctx, func(m *Peek) error { next += pageSize; _, _ = m.Read(ctx, next, make([]byte, 8)); return nil }); err == nil {
		t.Error("cancelled, and it went on")
	}
}

func TestChase(t *testing.T) {
	const nodes = 200
	at := func(i int) uint64 { return poolFar + uint64(i)*0x1100 }
	r := newRig(t, 1, func(f *enginetest.Fake, _ *Options) {
		for i := range nodes {
			b := binary.LittleEndian.AppendUint64(make([]byte, 0x10), at((i+1)%nodes)+0x10)
			b = binary.LittleEndian.AppendUint64(b, poolText+uint64(i)*0x40)
			f.Write(at(i), b)
			f.Write(poolText+uint64(i)*0x40, bytes.Repeat([]byte{byte(i)}, 0x40))
		}
	})
	r.halted()
	n := r.f.Count()
	list := target.List{Head: at(0) + 0x10, LinkOffset: 0x10, Pointer: 8, MaxNodes: 1000,
		Pieces: []target.Piece{{Len: 0x20}, {Via: target.ViaPointer, Offset: 0x18, Len: 0x40}}}
	got, end, err := r.e.Chase(r.ctx, list, Want{Addr: at(0), Len: 0x20, Then: []Deref{{Offset: 0x18, Len: 0x40}}})
	if err != nil || end != (ChaseEnd{}) || len(got) != nodes-1 || got[0] != at(1) {
		t.Fatalf("%d nodes, %+v, %v", len(got), end, err)
	}
	for i := range nodes {
		if b, err := r.e.ReadFull(r.ctx, Virtual, poolText+uint64(i)*0x40, 0x40); err != nil || b[0] != byte(i) {
			t.Fatalf("%d: %x %v", i, b, err)
		}
		if b, err := r.e.ReadFull(r.ctx, Virtual, at(i), 0x20); err != nil || len(b) != 0x20 {
			t.Fatal(err)
		}
	}
	if x := r.f.Count() - n; x != 1 {
		t.Errorf("%d exchanges", x)
	}
	// A link that leads nowhere.
	r.f.Write(at(7)+0x10, binary.LittleEndian.AppendUint64(nil, 0x1234567890))
	r.e.FlushCache()
	got, end, err = r.e.Chase(r.ctx, list)
	if err != nil || !end.Broken || len(got) < 7 {
		t.Errorf("%d nodes, %+v, %v", len(got), end, err)
	}
}

func TestWatchReads(t *testing.T) {
	r := newRig(t, 1, func(f *enginetest.Fake, _ *Options) { pools(f, 4) })
	if got := r.e.WatchReads()(); len(got) != 0 {
		t.Error(got)
	}
	r.halted()
	stop := r.e.WatchReads()
	if _, err := r.e.Read(r.ctx, Virtual, poolData+8, 8); err != nil {
		t.Fatal(err)
	}
	if err := r.e.Gather(r.ctx, func(m *Peek) error { _, _ = m.Read(r.ctx, poolFar, make([]byte, 16)); return nil }); err != nil {
		t.Fatal(err)
	}
	got := stop()
	if !slices.Contains(got, Range{poolData + 8, 8}) || !slices.Contains(got, Range{poolFar, 16}) {
		t.Errorf("%+v", got)
	}
}

func TestVisible(t *testing.T) {
	v := func(name string, param bool) sym.Var { return sym.Var{Name: name, Param: param} }
	scopes := []sym.Scope{
		{Name: "outer", Vars: []sym.Var{v("local", false), v("p", true)}},
		{Vars: []sym.Var{v("inner", false)}},
		{Name: "first", Inlined: true, Vars: []sym.Var{v("x", true)}},
		{Vars: []sym.Var{v("y", false)}},
		{Name: "second", Inlined: true, Vars: []sym.Var{v("z", true)}},
	}
	for inline, want := range map[string][]string{"": {"p", "local", "inner"}, "first": {"x", "y"}, "second": {"z"}} {
		var got []string
		for _, x := range visible(scopes, inline) {
			got = append(got, x.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %v", inline, got)
		}
	}
	if got := visible(nil, ""); got != nil {
		t.Error(got)
	}
	for in, want := range map[string]string{"nt!F+0x12": "F", "nt!F": "F", "nt!a::b+0x1": "a::b", "": ""} {
		if got := inlineName(in, "nt"); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

// oneType is a file with one type.
type oneType struct {
	sym.File
	t sym.Type
}

func (f oneType) Type(sym.TypeID) (sym.Type, error) { return f.t, nil }

// Every way a variable can be kept, and what is said of it where the frame does
// not know the register.
func TestPlaces(t *testing.T) {
	r := newRig(t, 1)
	r.halted()
	regs, err := r.e.Regs(r.ctx, -1)
	if err != nil {
		t.Fatal(err)
	}
	rsp, _ := regs.Get("rsp")
	f := &Frame{Regs: &regs, CFA: 0xFFFFF80000005000}
	m := symbols.Status{Module: symbols.Module{Name: "nt", Base: enginetest.KernBase}}
	file := oneType{t: sym.Type{Kind: sym.Int, Size: 8}}
	for _, c := range []struct {
		loc   []sym.Location
		known bool
		first Place
	}{
		{nil, false, Place{}},
		{[]sym.Location{{Kind: sym.RegRelative, Reg: "rsp", Offset: 0x20}}, true, Place{Size: 8, InMemory: true, Addr: rsp.Lo + 0x20, Reg: "rsp", Disp: 0x20}},
		{[]sym.Location{{Kind: sym.CFARelative, Offset: -8}}, true, Place{Size: 8, InMemory: true, Addr: 0xFFFFF80000004FF8, Disp: -8}},
		{[]sym.Location{{Kind: sym.AtRVA, RVA: 0x1000}}, true, Place{Size: 8, InMemory: true, Addr: enginetest.KernBase + 0x1000}},
		{[]sym.Location{{Kind: sym.InRegister, Reg: "rsp"}}, true, Place{Size: 8, Reg: "rsp", Value: binary.LittleEndian.AppendUint64(nil, rsp.Lo)}},
		{[]sym.Location{{Kind: sym.IsConstant, Value: []byte{1, 2, 3, 4, 5, 6, 7, 8}}}, true, Place{Size: 8, Value: []byte{1, 2, 3, 4, 5, 6, 7, 8}}},
		{[]sym.Location{{Kind: sym.InRegister, Reg: "nosuch"}}, false, Place{Size: 8, Reg: "nosuch"}},
		{[]sym.Location{{Kind: sym.RegRelative, Reg: "nosuch", Offset: 8}}, false, Place{Size: 8, Reg: "nosuch", Disp: 8}},
		{[]sym.Location{{Kind: sym.RegRelative, Reg: "rsp", PieceOffset: 4, PieceSize: ^uint32(0)}}, true, Place{Offset: 4, Size: 4, InMemory: true, Addr: rsp.Lo, Reg: "rsp"}},
		{[]sym.Location{{Kind: sym.RegRelative, Reg: "rsp", PieceOffset: 400}}, false, Place{}},
	} {
		l := r.e.place(file, m.Name, m.Base, sym.Var{Name: "v", Loc: c.loc}, f)
		var first Place
		if len(l.Places) > 0 {
			first = l.Places[0]
		}
		if l.Known() != c.known || first.InMemory != c.first.InMemory || first.Addr != c.first.Addr || first.Reg != c.first.Reg || first.Disp != c.first.Disp ||
			first.Offset != c.first.Offset || first.Size != c.first.Size || !bytes.Equal(first.Value, c.first.Value) {
			t.Errorf("%+v: known %v, %+v", c.loc, l.Known(), first)
		}
	}
	if l, err := r.e.Locals(r.ctx); err == nil || l != nil {
		t.Errorf("%v %v", l, err) // there are no symbols here
	}
	if l, err := r.e.Local(r.ctx, "x"); l != nil || err != nil {
		t.Errorf("%v %v", l, err)
	}
}
