package kdproto

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestBodiesRoundTrip: any values of any body come back, and bytes that Get has
// read Put writes again.
func TestBodiesRoundTrip(t *testing.T) {
	for _, c := range bodies {
		rapid.Check(t, func(t *rapid.T) {
			var u [UnionSize]byte
			copy(u[:], rapid.SliceOfN(rapid.Byte(), UnionSize, UnionSize).Draw(t, "union"))
			fresh := func() Body {
				b := reflect.New(reflect.TypeOf(c.body).Elem()).Interface().(Body)
				if c2, ok := b.(*Continue2); ok {
					c2.Machine = c.body.(*Continue2).Machine
				}
				return b
			}
			b := fresh()
			b.Get(&u)
			if c2, ok := b.(*Continue2); ok { // Trace is a flag in a u32
				u[4], u[5], u[6], u[7] = 0, 0, 0, 0
				if c2.Trace {
					u[4] = 1
				}
			}
			v := u
			b.Put(&v)
			if v != u {
				t.Fatalf("%s: %x became %x", c.name, u, v)
			}
			again := fresh()
			again.Get(&v)
			if !reflect.DeepEqual(again, b) {
				t.Fatalf("%s: %+v became %+v", c.name, b, again)
			}
		})
	}
}

func TestHeaderRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := Header{rapid.Uint32().Draw(t, "leader"), PacketType(rapid.Uint16().Draw(t, "type")),
			rapid.Uint16().Draw(t, "count"), rapid.Uint32().Draw(t, "id"), rapid.Uint32().Draw(t, "sum")}
		if got, err := DecodeHeader(h.Append(nil)); err != nil || got != h {
			t.Fatalf("%+v became %+v, %v", h, got, err)
		}
	})
}

func TestPacketRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		payload := rapid.SliceOfN(rapid.Byte(), 0, MaxPayload).Draw(t, "payload")
		typ := PacketType(rapid.IntRange(0, 11).Draw(t, "type"))
		b := AppendData(nil, typ, InitialID, payload)
		h, err := DecodeHeader(b)
		if err != nil || h.Type != typ || int(h.ByteCount) != len(payload) || h.Checksum != Checksum(payload) ||
			!bytes.Equal(b[HeaderSize:len(b)-1], payload) || b[len(b)-1] != Trailer {
			t.Fatalf("%+v %v %x", h, err, b)
		}
	})
}

// payloads are decoders whose packet encodes to the same bytes again, but for
// the padding that they do not keep. pad returns the ranges of the padding.
var payloads = map[PacketType]struct {
	again func(b []byte) ([]byte, error)
	pad   func(b []byte) [][2]int
}{
	TypeManipulate: {func(b []byte) ([]byte, error) { v, err := DecodeManipulate(b); return v.Append(nil), err },
		func([]byte) [][2]int { return [][2]int{{12, 16}} }},
	TypeDebugIO: {func(b []byte) ([]byte, error) { v, err := DecodeDebugIO(b); return v.Append(nil), err },
		func([]byte) [][2]int { return nil }},
	TypeTraceIO: {func(b []byte) ([]byte, error) { v, err := DecodeTraceIO(b); return v.Append(nil), err },
		func([]byte) [][2]int { return [][2]int{{12, 64}} }},
	TypeControlRequest: {func(b []byte) ([]byte, error) { v, err := DecodeControlRequest(b); return v.Append(nil), err },
		func(b []byte) [][2]int { return [][2]int{{12, len(b)}} }},
	TypeFileIO: {func(b []byte) ([]byte, error) { v, err := DecodeFileIO(b); return v.Append(nil), err },
		func([]byte) [][2]int { return nil }},
	TypeStateChange64: {func(b []byte) ([]byte, error) { v, err := DecodeStateChange(b); return v.Append(nil), err },
		func(b []byte) [][2]int {
			pad := [][2]int{{12, 16}}
			switch StateKind(le.Uint32(b)) &^ StateAlternate {
			case StateException:
				pad = append(pad, [2]int{60, 64}, [2]int{188, 192})
			case StateLoadSymbols:
				pad = append(pad, [2]int{36, 40}, [2]int{65, 192})
			case StateCommandString:
				pad = append(pad, [2]int{36, 192})
			}
			return pad
		}},
}

// again decodes and encodes b and compares all but the padding.
func again(t testing.TB, typ PacketType, b []byte) (ok bool) {
	t.Helper()
	before := bytes.Clone(b)
	got, err := payloads[typ].again(b)
	if !bytes.Equal(before, b) {
		t.Fatalf("%v: the decoder wrote to its input", typ)
	}
	if err != nil {
		return false
	}
	want := bytes.Clone(b)
	if typ == TypeDebugIO && len(got) < len(want) && le.Uint32(b) == APIPrintString {
		want = want[:len(got)] // cut to the stated length
	}
	if typ == TypeControlRequest {
		want = want[:ControlRequestSize]
	}
	if len(got) != len(want) {
		t.Fatalf("%v: %d bytes became %d", typ, len(want), len(got))
	}
	for _, p := range payloads[typ].pad(b) {
		for i := p[0]; i < min(p[1], len(want)); i++ {
			want[i], got[i] = 0, 0
		}
	}
	switch {
	case typ == TypeStateChange64 && StateKind(le.Uint32(b))&^StateAlternate == StateException:
		flag(want[184:188])
	case typ == TypeStateChange64 && StateKind(le.Uint32(b))&^StateAlternate == StateLoadSymbols && want[64] != 0:
		want[64] = 1
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%v:\n%x became\n%x", typ, want, got)
	}
	return true
}

// flag makes any nonzero u32 a 1.
func flag(b []byte) {
	if v := le.Uint32(b); v != 0 {
		le.PutUint32(b, 1)
	}
}

// TestRecordedSessions decodes and encodes everything that a real kernel and
// its debugger said to each other.
func TestRecordedSessions(t *testing.T) {
	files, _ := filepath.Glob("../../shared/data/kdcom/*.txt")
	if len(files) == 0 {
		t.Skip("no recorded sessions in ../shared/data/kdcom")
	}
	for _, f := range files {
		r, err := os.Open(f)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		count := map[PacketType]int{}
		s := bufio.NewScanner(r)
		s.Buffer(nil, 1<<20)
		for s.Scan() {
			fields := strings.Fields(s.Text())
			if len(fields) < 3 || fields[1] != "<" && fields[1] != ">" {
				continue
			}
			text, cut := strings.CutSuffix(fields[2], "...")
			b, err := hex.DecodeString(text)
			if err != nil {
				t.Fatalf("%s: %v", f, err)
			}
			if len(b) == 1 {
				continue // break-in
			}
			h, err := DecodeHeader(b)
			if err != nil {
				t.Fatalf("%s: %s: %v", f, fields[2], err)
			}
			same(t, "header", h.Append(nil), b[:HeaderSize])
			count[h.Type]++
			if h.Leader == ControlLeader {
				same(t, "control packet", AppendControl(nil, h.Type, h.ID), b)
				continue
			}
			payload := b[HeaderSize:]
			if !cut {
				payload = payload[:len(payload)-1]
				same(t, "packet", AppendData(nil, h.Type, h.ID, payload), b)
			}
			if !again(t, h.Type, payload) {
				t.Errorf("%s: a %v that does not decode: %x", f, h.Type, payload)
			}
		}
		t.Logf("%s: %v", filepath.Base(f), count)
		if count[TypeManipulate] == 0 || count[TypeStateChange64] == 0 || count[TypeAcknowledge] == 0 {
			t.Errorf("%s: hardly anything in it: %v", f, count)
		}
	}
}

func fuzz(f *testing.F, typ PacketType, seeds ...[]byte) {
	f.Add([]byte{})
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ok := again(t, typ, b)
		if ok && len(b) < typ.MessageHeaderSize() {
			t.Fatalf("%v of %d bytes", typ, len(b))
		}
	})
}

func FuzzDecodeManipulate(f *testing.F) {
	fuzz(f, TypeManipulate, NewRequest(APIReadVirtualMemory, 1, &Memory{1, 2, 3}, []byte("x")).Append(nil))
}

func FuzzDecodeDebugIO(f *testing.F) {
	fuzz(f, TypeDebugIO, NewPrint([]byte("hello")).Append(nil), NewPrompt([]byte("?"), 4).Append(nil))
}

func FuzzDecodeTraceIO(f *testing.F) {
	fuzz(f, TypeTraceIO, (&TraceIO{API: APIPrintTrace, Length: 1, Data: []byte("x")}).Append(nil))
}

func FuzzDecodeControlRequest(f *testing.F) {
	fuzz(f, TypeControlRequest, (&ControlRequest{APIRequestHWBreak, 1, 0}).Append(nil))
}

func FuzzDecodeFileIO(f *testing.F) {
	f.Add(NewFileCreate(`\SystemRoot\x.sys`).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if !again(t, TypeFileIO, b) {
			return
		}
		v, _ := DecodeFileIO(b)
		if n := v.Name(); len(n) > 3*len(b) {
			t.Fatalf("a name of %d bytes from %d", len(n), len(b))
		}
		v.Handle()
		v.Offset()
		v.Count()
		if r, err := DecodeFileIO(v.Refusal().Append(nil)); err != nil || r.Status != StatusNoSuchFile || r.Union != v.Union {
			t.Fatalf("%+v, %v", r, err)
		}
	})
}

func FuzzDecodeStateChange(f *testing.F) {
	for _, k := range []StateKind{StateException, StateLoadSymbols, StateCommandString} {
		f.Add((&StateChange{Kind: k, Data: []byte("a\x00b\x00")}).Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if !again(t, TypeStateChange64, b) {
			return
		}
		s, _ := DecodeStateChange(b)
		s.Command()
		if p := s.Path(); len(p) > len(b) {
			t.Fatal(p)
		}
		for _, m := range []Machine{MachineI386, MachineAMD64, MachineARM64, MachineARMNT} {
			r := s.DecodeReport(m)
			c := s
			c.EncodeReport(m, r)
			if got := c.DecodeReport(m); !bytes.Equal(got.Stream, r.Stream) || got.Dr6 != r.Dr6 || got.Dr7 != r.Dr7 || got.EFlags != r.EFlags || got.SegFs != r.SegFs {
				t.Fatalf("%v: %+v became %+v", m, r, got)
			}
		}
	})
}

func FuzzDecodeStateChange32(f *testing.F) {
	f.Add((&StateChange32{Kind: StateException}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := DecodeStateChange32(b)
		if err != nil {
			return
		}
		if again, err := DecodeStateChange32(s.Append(nil)); err != nil || again != s {
			t.Fatalf("%+v became %+v, %v", s, again, err)
		}
	})
}

func FuzzDecodeHeader(f *testing.F) {
	f.Add(AppendControl(nil, TypeReset, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := DecodeHeader(b)
		if err == nil && !bytes.Equal(h.Append(nil), b[:HeaderSize]) {
			t.Fatalf("%x became %+v", b, h)
		}
	})
}
