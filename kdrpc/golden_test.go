package kdrpc

import (
	"bytes"
	"encoding/hex"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"openkd/kdproto"
	"openkd/status"
	"openkd/target"
)

var goldenTime = time.Date(2026, 11, 21, 12, 0, 0, 5, time.UTC)

// golden are the messages whose bytes PROTOCOL.md shows, by the name there.
func golden() map[string][]byte {
	f := func(id uint32, k Kind, body []byte) []byte { return appendFrames(nil, id, k, body) }
	part := func(p target.Part) []byte { return appendPart(nil, 3, &p, p.Data, p.Done) }
	return map[string][]byte{
		"hello": f(0, KindHello, encode(Hello{Magic: magic, Release: "1.0", Min: 1, Max: 1})),
		"refuse": f(0, KindRefuse, encode(Refusal{Code: RefusedVersion, Text: "no common protocol version", Release: "1.0",
			Min: 1, Max: 1})),
		"ping": f(0, KindPing, nil),
		"pong": f(0, KindPong, nil),
		"open": f(1, KindOpen, encode(Open{Link: "com:port=com1", Owner: "ann@lab", Config: target.Config{Break: true}})),
		"open, resuming": f(1, KindOpen, encode(Open{Link: "com:", Owner: "ann@lab", Resume: []byte{0xAA, 0xBB},
			LastSeen: 300})),
		"opened": f(1, KindOpened, encode(Opened{Token: []byte{0xAA, 0xBB}, Epoch: 2, Grace: 60, Line: "com:Port=com1", After: 7})),
		"done, refused": f(1, KindDone, encode(Result{Code: CodeRefused, Text: "x", Refusal: &Refusal{Code: RefusedHeld,
			Holder: "ben@lab", Since: goldenTime}})),
		"do": f(3, KindDo, encode([]target.Request{
			{Op: target.OpReadVirtual, Addr: 0xFFFFF80000001000, Len: 4096},
			{Op: target.OpWriteMSR, Addr: 0xC0000082, Value: 5},
			{Op: target.OpFollow, List: &target.List{Head: 0x1000, Pointer: 8, MaxNodes: 2, Pieces: []target.Piece{{Via: target.ViaUnicode, Offset: 0x58, Len: 64}}}}})),
		"part":            part(target.Part{Index: 0, Offset: 16, Data: []byte{1, 2, 3}}),
		"part, done":      part(target.Part{Index: 1, Done: true, Status: kdproto.StatusUnsuccessful, Value: 9}),
		"done":            f(3, KindDone, nil),
		"done, running":   f(3, KindDone, encode(resultOf(target.ErrRunning))),
		"done, not taken": f(4, KindDone, encode(Result{Code: CodeInsert, Text: "x", Addresses: []uint64{0x1000}})),
		"cancel":          f(3, KindCancel, nil),
		"credit":          f(0, KindCredit, []byte{0, 0, 0x10, 0}),
		"acknowledgement": f(0, KindAck, []byte{8, 0, 0, 0, 0, 0, 0, 0}),
		"resume":          f(4, KindResume, encode(target.Resume{Status: kdproto.DbgContinue, Breakpoints: []uint64{0x1000}})),
		"switch":          f(5, KindSwitch, []byte{1, 0, 0, 0}),
		"break-in":        f(6, KindBreakIn, nil),
		"answer":          f(7, KindAnswer, []byte("i")),
		"control":         f(8, KindControl, encode(target.Control{Op: target.ControlConfigure, Config: target.Config{StopOnLoad: "nt"}})),
		"status":          f(9, KindStatus, nil),
		"close":           f(10, KindClose, []byte{byte(target.LeaveHalted)}),
		"end server":      f(11, KindEndServer, nil),
		"server status":   f(12, KindServer, nil),
		"done, server status": f(12, KindDone, encode(Result{Server: &status.Server{Release: "1.0", Host: "lab", PID: 7, Started: goldenTime, Now: goldenTime, MaxClients: 9, ClientCount: 1, SessionCount: 1,
			Doors:    []status.Door{{Transport: "tcp:Port=1", Address: "[::]:1", Clients: 1, Accepted: 2}},
			Sessions: []status.Session{{Line: "com:Port=com1", Owner: "ann@lab", Peer: "h:2", Opened: goldenTime, Since: goldenTime, Epoch: 1, Lost: &goldenTime, GraceSeconds: 60, State: "halted", StateSince: goldenTime, Speed: 9600, Link: status.Link{BytesIn: 3, RoundTrip: 5}}},
			Clients:  []status.Client{{Peer: "h:2", Door: "tcp:Port=1", Since: goldenTime, Owner: "ann@lab", Line: "com:Port=com1", BytesIn: 4, RoundTrip: 6}}}})),
		"event, print":    f(0, KindEvent, encodeEvent(8, target.Event{Kind: target.EventPrint, Time: goldenTime, Text: "hi\n"})),
		"event, halted":   f(0, KindEvent, encodeEvent(9, target.Event{Kind: target.EventHalted, Time: goldenTime, Stop: &target.Stop{Number: 1, Processors: 2, PC: 0x1000, Asked: true, Bundle: target.Bundle{Memory: []target.Memory{{Addr: 0x1000, Data: []byte{0xCC}}}}}})),
		"events, no more": f(0, KindEvent, nil),
	}
}

// The document and the code agree on every byte. KDRPC_GOLDEN=1 prints the
// lines as they have to stand in the document.
func TestGolden(t *testing.T) {
	doc, err := os.ReadFile("PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\* ([a-z, -]+):\\s+((?:`[0-9a-f ]+`\\s*)+)").FindAllStringSubmatch(string(doc), -1) {
		want[m[1]] = regexp.MustCompile("[`\\s]").ReplaceAllString(m[2], "")
	}
	have := golden()
	for name, b := range have {
		if os.Getenv("KDRPC_GOLDEN") != "" {
			var lines []string
			for x := hex.EncodeToString(b); x != ""; {
				n := min(96, len(x))
				lines = append(lines, "  `"+x[:n]+"`")
				x = x[n:]
			}
			t.Logf("GOLDEN* %s:\n%s", name, strings.Join(lines, "\n"))
			continue
		}
		if want[name] != hex.EncodeToString(b) {
			t.Errorf("%s:\n code     %x\n document %s", name, b, want[name])
		}
	}
	for name := range want {
		if have[name] == nil {
			t.Errorf("the document shows %q, which is not tested", name)
		}
	}
}

// What a later version adds does not disturb this one.
func TestUnknownFields(t *testing.T) {
	b := encode(map[int]any{1: magic, 2: "9", 3: 1, 4: 4, 5: []string{"new"}, 99: map[int]any{1: 2}})
	var h Hello
	if err := decode(b, &h); err != nil || h.Max != 4 || !reflect.DeepEqual(h.Capabilities, []string{"new"}) {
		t.Errorf("%+v, %v", h, err)
	}
}

func TestLimitsOfDecoding(t *testing.T) {
	deep := append(bytes.Repeat([]byte{0x81}, 1000), 0)
	var reqs []target.Request
	for name, b := range map[string][]byte{
		"deep":           deep,
		"many":           {0x9A, 0xFF, 0xFF, 0xFF, 0xFF},
		"long string":    {0x81, 0xA1, 0x07, 0x5B, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF},
		"endless":        {0x9F, 0xA0},
		"tagged":         {0xC1, 0x80},
		"twice":          {0x81, 0xA2, 0x01, 0x01, 0x01, 0x02},
		"behind the end": {0x80, 0x00},
		"empty":          {},
	} {
		if err := decode(b, &reqs); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func FuzzFrames(f *testing.F) {
	for _, b := range golden() {
		f.Add(b)
	}
	f.Add([]byte{0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 1})
	f.Add(appendFrames(nil, 1, KindDo, make([]byte, 3*fragment)))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := newFrameReader(bytes.NewReader(b))
		asm := bodies{max: 1 << 20}
		var again []byte
		for {
			fr, err := r.next()
			if err != nil {
				break
			}
			if len(fr.payload) > maxFrame {
				t.Fatal("a frame over the bound")
			}
			again = append(appendHeader(again, fr.id, fr.kind, len(fr.payload)), fr.payload...)
			body, _, whole, err := asm.add(fr)
			if err != nil {
				return
			}
			if whole && len(body) > 1<<20+maxFrame {
				t.Fatal("a body over the bound")
			}
		}
		if !bytes.HasPrefix(b, again) {
			t.Fatal("frames do not encode to what they were decoded from")
		}
	})
}

func FuzzMessages(f *testing.F) {
	for _, b := range golden() {
		f.Add(b[8], b[9:])
	}
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		again := func(v any) {
			out := reflect.New(reflect.TypeOf(v).Elem()).Interface()
			if err := decode(encode(v), out); err != nil {
				t.Fatalf("%T does not survive: %v", v, err)
			}
		}
		switch Kind(kind) {
		case KindHello:
			var v Hello
			if decode(b, &v) == nil {
				again(&v)
			}
		case KindOpen:
			var v Open
			if decode(b, &v) == nil {
				again(&v)
			}
		case KindOpened:
			var v Opened
			if decode(b, &v) == nil {
				again(&v)
			}
		case KindRefuse:
			var v Refusal
			if decode(b, &v) == nil {
				_ = v.Error()
			}
		case KindDo:
			var v []target.Request
			if decode(b, &v) == nil {
				again(&v)
			}
		case KindResume:
			var v target.Resume
			if decode(b, &v) == nil {
				again(&v)
			}
		case KindControl:
			var v target.Control
			if decode(b, &v) == nil {
				again(&v)
			}
		case KindDone:
			var v Result
			if decode(b, &v) == nil {
				if err := v.err(); err != nil {
					_ = err.Error()
				}
			}
		case KindPart:
			if p, err := decodePart(b); err == nil {
				if got := appendPart(nil, 0, &p, p.Data, p.Done); len(got) != frameHeader+len(b) {
					t.Fatalf("a part of %d bytes became one of %d", len(b), len(got)-frameHeader)
				}
			}
		case KindEvent:
			if seq, e, err := decodeEvent(b); err == nil {
				encodeEvent(seq, e)
			}
		}
	})
}

// FuzzServe throws bytes at a whole server behind a good hello.
func FuzzServe(f *testing.F) {
	for _, b := range golden() {
		f.Add(b)
	}
	f.Add(append(golden()["open"], golden()["do"]...))
	for _, r := range []target.Request{{Op: target.OpFill, Len: 100}, {Op: target.OpReadPhysical, Len: 1 << 60}, {Op: target.OpSearch, Len: 1 << 62, Flags: 1 << 31}} {
		f.Add(append(golden()["open"], appendFrames(nil, 7, KindDo, encode([]target.Request{r}))...))
	}
	hello := golden()["hello"]
	f.Fuzz(func(t *testing.T, b []byte) { serveBytes(t, append(bytes.Clone(hello), b...)) })
}

// FuzzClient throws bytes at a client behind a good hello and open.
func FuzzClient(f *testing.F) {
	for _, b := range golden() {
		f.Add(b)
	}
	g := golden()
	pre := append(bytes.Clone(g["hello"]), g["opened"]...)
	f.Fuzz(func(t *testing.T, b []byte) { connectBytes(t, append(bytes.Clone(pre), b...)) })
}
