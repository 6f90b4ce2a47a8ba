package comline

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"strings"
	"testing"
	"time"
)

// TestGolden: what is on the line does not change by itself. The checksums were
// computed apart from this package, bit by bit.
func TestGolden(t *testing.T) {
	ab := newTag(0x1111111111111111, 0x2222222222222222)
	data := appendMessage(nil, message{kind: msgOpen, stream: 3, channel: 254})
	data = appendMessage(data, message{kind: msgData, stream: 3, data: []byte("hi\x00!")})
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"hello", stuff(nil, seal(appendHello(nil, frameHello, hello{version: 1, flags: helloAnswer, sender: 0x0102030405060708, window: 4096}), nil)),
			"00 0c010101080706050403020101010101010101010210010598ffac7d 00"},
		{"bye", stuff(nil, seal(appendHello(nil, frameBye, hello{version: 1, sender: 0x0102030405060708, receiver: 0x1112131415161718, window: 65536}), nil)),
			"00 030201110807060504030201181716151413121101020105bea68ce2 00"},
		{"ack", stuff(nil, seal(appendPacket(nil, packet{kind: frameAck, ack: 0x0201, echo: 0x0403, bitmap: []byte{5, 0x80}}), ab)),
			"00 0c2301020304058089426a4d 00"},
		{"data", stuff(nil, seal(appendPacket(nil, packet{kind: frameData, ack: 1, echo: 2, seq: 3, tx: 4, data: data}), ab)),
			"00 030401020202030204090103fe0403046869062130040a11 00"},
	} {
		want := strings.ReplaceAll(c.want, " ", "")
		if got := hex.EncodeToString(c.got); got != want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, want)
		}
	}
	for _, c := range []struct {
		m    message
		want string
	}{
		{message{kind: msgOpen, stream: 3, channel: 254}, "0103fe"},
		{message{kind: msgOpened, stream: 2}, "0202"},
		{message{kind: msgRefused, stream: 2, code: codeNobody}, "03020100"},
		{message{kind: msgData, stream: 300, data: []byte("abc")}, "04ac0203616263"},
		{message{kind: msgFin, stream: 2}, "0502"},
		{message{kind: msgStop, stream: 2}, "0602"},
		{message{kind: msgReset, stream: 2, code: codeBroken, text: "why"}, "07020403776879"},
		{message{kind: msgCredit, stream: 2, n: 1000}, "0802e807"},
		{message{kind: msgAttach, stream: Version, n: 115200, window: 4096, text: "kd"}, "1001808407802002" + "6b64"},
		{message{kind: msgWelcome, stream: Version, n: 115200, window: 4096, text: "kd"}, "1101808407802002" + "6b64"},
		{message{kind: msgDenied, stream: Version, code: codeBaud, text: "no"}, "120106026e6f"},
		{message{kind: msgListen, stream: 254}, "13fe01"},
		{message{kind: msgTaken, stream: 3, code: codeChannelOwn, text: "x"}, "1403080178"},
		{message{kind: msgRelease, stream: 3}, "1503"},
		{message{kind: msgStats, stream: 2, counts: []uint64{1, 300}}, "160201ac02"},
	} {
		b := appendMessage(nil, c.m)
		if got := hex.EncodeToString(b); got != c.want {
			t.Errorf("%+v is %s, want %s", c.m, got, c.want)
		}
		if m, rest, err := parseMessage(b); err != nil || len(rest) != 0 || !reflect.DeepEqual(m, c.m) {
			t.Errorf("%s is %+v, %v", c.want, m, err)
		}
	}
}

func TestStuff(t *testing.T) {
	for n := 1; n < 1200; n++ {
		for _, frame := range [][]byte{bytes.Repeat([]byte{0}, n), bytes.Repeat([]byte{1}, n), some(n, uint64(n)), append(bytes.Repeat([]byte{2}, n-1), 0)} {
			if len(frame) > maxFrame {
				continue
			}
			b := stuff(nil, frame)
			if len(b) > maxCoded+2 || b[0] != 0 || b[len(b)-1] != 0 || bytes.IndexByte(b[1:len(b)-1], 0) >= 0 {
				t.Fatalf("%d bytes are stuffed wrongly: %x", n, b)
			}
			var d deframer
			rest, got, count := d.next(b)
			if len(rest) != 0 || count != len(b)-2 || !bytes.Equal(got, frame) {
				t.Fatalf("%d bytes come back as %d, %d of rubbish", n, len(got), count)
			}
		}
	}
}

func TestBadMessages(t *testing.T) {
	for _, text := range []string{
		"", "01", "0103", "0103ff", "00", "0902", "1702", "0402", "040205aabb", "0402ffffffffffffffffff01",
		"0802", "030201", "0302010561", "02ffffffff7f", "1621", "16ff", "1602", "1001", "01ffffffffffffffffffff01",
	} {
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if m, _, err := parseMessage(b); err == nil {
			t.Errorf("%s passes as %+v", text, m)
		}
	}
	long := appendMessage(nil, message{kind: msgReset, stream: 2, text: strings.Repeat("ü", 200)})
	if m, _, err := parseMessage(long); err != nil || m.text != strings.Repeat("ü", 127) {
		t.Errorf("a long text: %q, %v", m.text, err)
	}
	if m, _, _ := parseMessage(appendMessage(nil, message{kind: msgReset, stream: 2, text: "a\x1b[2Jb\nc"})); m.text != "a?[2Jb?c" {
		t.Errorf("a text for a terminal: %q", m.text)
	}
}

// FuzzDeframe: whatever comes, nothing is held without bound, every byte is
// accounted for, and a frame behind it is found.
func FuzzDeframe(f *testing.F) {
	f.Add([]byte("login: "), []byte{1, 0, 2})
	f.Add([]byte{0, 0, 3, 1, 0xff, 0}, bytes.Repeat([]byte{7}, 600))
	f.Add(bytes.Repeat([]byte{9}, 3000), bytes.Repeat([]byte{0}, 300))
	f.Add([]byte{2, 7}, []byte{7})
	f.Fuzz(func(t *testing.T, rubbish, frame []byte) {
		var d deframer
		total := 0
		in := rubbish
		for len(in) > 0 {
			var n int
			in, _, n = d.next(in)
			total += n
			if cap(d.buf) > 4*maxCoded {
				t.Fatalf("%d bytes are held", cap(d.buf))
			}
		}
		if len(frame) == 0 || len(frame) > maxFrame {
			return
		}
		// The rubbish may be a frame too, even the same one: what is counted is all
		// that was ended by a zero, the frame included.
		found := false
		coded := stuff(nil, frame)
		for in = coded; len(in) > 0; {
			var got []byte
			var n int
			in, got, n = d.next(in)
			found = bytes.Equal(got, frame)
			total += n
		}
		if !found {
			t.Fatalf("the frame behind %x is not found last", rubbish)
		}
		if want := len(bytes.ReplaceAll(rubbish, []byte{0}, nil)) + len(coded) - 2; total != want {
			t.Fatalf("%d bytes counted, want %d", total, want)
		}
	})
}

func FuzzFrame(f *testing.F) {
	f.Add(appendHello(nil, frameHello, hello{version: Version, sender: 1}))
	f.Add(appendPacket(nil, packet{kind: frameData, seq: 1, tx: 2, ack: 3, echo: 4, bitmap: []byte{5}, data: []byte{6}}))
	f.Add(appendPacket(nil, packet{kind: frameAck}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := parseHello(b); err == nil && h.version == Version {
			if again := appendHello(nil, b[0], h); !bytes.Equal(again, b) {
				t.Fatalf("%x -> %+v -> %x", b, h, again)
			}
		}
		p, err := parsePacket(b)
		if err != nil || p.kind != frameData && p.kind != frameAck {
			return
		}
		if again := appendPacket(nil, p); !bytes.Equal(again, b) {
			t.Fatalf("%x -> %+v -> %x", b, p, again)
		}
		// Whatever a packet with a right checksum says, both halves live with it.
		now := time.Unix(0, 0)
		s := newSender(0)
		for range 50 {
			_, tx := s.add([]byte{1}, now)
			s.left(tx, now)
		}
		s.acked(p, now)
		if s.inFlight() > 50 {
			t.Fatalf("%d frames in flight", s.inFlight())
		}
		for _, _, _, ok := s.again(now); ok; _, _, _, ok = s.again(now) {
		}
		var r receiver
		r.arrived(p, func([]byte) {})
		p.seq++
		r.arrived(p, func([]byte) {})
		var space [maxBitmap]byte
		r.fill(&p, &space)
	})
}

func FuzzMessage(f *testing.F) {
	for _, m := range []message{
		{kind: msgOpen, stream: 3, channel: 5}, {kind: msgOpened, stream: 2}, {kind: msgRefused, stream: 2, code: 1, text: "x"},
		{kind: msgData, stream: 2, data: []byte("abc")}, {kind: msgFin, stream: 2}, {kind: msgStop, stream: 2},
		{kind: msgReset, stream: 2, code: 3}, {kind: msgCredit, stream: 2, n: 5}, {kind: msgAttach, stream: 1, n: 9600, window: 1, text: "kd"},
		{kind: msgStats, stream: 1, counts: []uint64{7}},
	} {
		f.Add(appendMessage(nil, m))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, rest, err := parseMessage(b)
		if err == nil {
			again := appendMessage(nil, m)
			if m2, _, err := parseMessage(again); err != nil || !reflect.DeepEqual(m, m2) {
				t.Fatalf("%x -> %+v -> %x -> %+v, %v", b[:len(b)-len(rest)], m, again, m2, err)
			}
		}
		// A mux that is told so neither panics nor grows.
		mx := newMux(refuser{}, func() {}, 5000, 5000, 5000)
		for range 3 {
			mx.open(1)
		}
		mx.receive(b)
		if out := mx.fill(nil, maxPayload); len(out) > 2*maxPayload {
			t.Fatalf("%d bytes for one frame", len(out))
		}
		for _, s := range mx.streams {
			if len(s.in) > 5000 {
				t.Fatalf("%d bytes beyond the window", len(s.in)-5000)
			}
		}
		mx.fail(errWireClosed)
	})
}

// refuser takes every second stream.
type refuser struct{}

func (refuser) opened(s *stream) {
	if s.id&2 != 0 {
		s.accept()
	} else {
		s.refuse(refusal{code: codeNobody})
	}
}

func (refuser) control(message) error { return nil }
