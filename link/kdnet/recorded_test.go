package kdnet

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"testing"
	"time"

	"openkd/kdproto"
	"openkd/link"
	"openkd/target"
)

// recording is a real session: WinDbg and the boot debugger of Windows 10, key
// 8.8.8.8. It lies beside the project, not in it.
const recording = "../../../shared/data/kdnet/windbg-win10-boot.pcapng.gz"

// recorded returns the UDP payloads of the recording in order.
func recorded(t testing.TB) [][]byte {
	t.Helper()
	f, err := os.Open(recording)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("the recorded session is not there:", recording)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	le := binary.LittleEndian
	for len(b) >= 12 {
		kind, size := le.Uint32(b), int(le.Uint32(b[4:]))
		if size < 12 || size > len(b) {
			t.Fatalf("a block of %d bytes", size)
		}
		if kind == 6 { // enhanced packet
			frame := b[28 : 28+le.Uint32(b[20:])]
			if binary.BigEndian.Uint16(frame[12:]) == 0x0800 && frame[23] == 17 {
				udp := frame[14+int(frame[14]&15)*4:]
				out = append(out, bytes.Clone(udp[8:binary.BigEndian.Uint16(udp[4:])]))
			}
		}
		b = b[size:]
	}
	return out
}

// plain is what a datagram says.
type plain struct {
	protocol, channel byte
	host              bool
	sequence          uint64
	body              []byte
}

// reader is a second decoder, written from the description of the protocol
// alone: it shares nothing with the package.
type reader struct{ control, data []byte }

func newReader(parts [4]uint64) *reader {
	r := &reader{}
	for _, p := range parts {
		r.control = binary.LittleEndian.AppendUint64(r.control, p)
	}
	return r
}

func (r *reader) read(d []byte) (plain, error) {
	if len(d) < 38 || (len(d)-22)%16 != 0 || string(d[:4]) != "MDBG" {
		return plain{}, errors.New("no datagram")
	}
	key := r.data
	if d[5] == 1 {
		key = r.control
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return plain{}, err
	}
	text, tag := bytes.Clone(d[6:len(d)-16]), d[len(d)-16:]
	cipher.NewCBCDecrypter(block, tag).CryptBlocks(text, text)
	mac := make([]byte, 32)
	for i := range mac {
		mac[i] = 0xFF - r.control[i]
	}
	h := hmac.New(sha256.New, mac)
	h.Write(d[:6])
	h.Write(text)
	if !bytes.Equal(h.Sum(nil)[:16], tag) {
		return plain{}, errors.New("wrong tag")
	}
	p := plain{protocol: d[4], channel: d[5], host: text[7]&0x80 != 0}
	for _, b := range text[:7] {
		p.sequence = p.sequence<<8 | uint64(b)
	}
	pad := int(text[7] & 0x7F)
	if pad > 15 || pad > len(text)-8 || len(bytes.Trim(text[len(text)-pad:], "\x00")) != 0 {
		return p, errors.New("wrong padding")
	}
	p.body = text[8 : len(text)-pad]
	if d[5] == 1 && p.host && len(p.body) == 322 {
		sum := sha256.Sum256(append(bytes.Clone(r.control), p.body...))
		r.data = sum[:]
	}
	return p, nil
}

// kd splits a body into header and payload and checks both.
func kd(body []byte) (kdproto.Header, []byte, error) {
	h, err := kdproto.DecodeHeader(body)
	if err != nil {
		return h, nil, err
	}
	p := body[16:]
	sum := uint32(0)
	for _, b := range p {
		sum += uint32(b)
	}
	if int(h.ByteCount) != len(p) || h.Checksum != sum || h.Leader != 0x30303030 && h.Leader != 0x69696969 {
		return h, p, fmt.Errorf("%+v over %d bytes", h, len(p))
	}
	return h, p, nil
}

func recordedKey(t testing.TB) Key {
	k, err := ParseKey("8.8.8.8")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestRecordedDatagrams(t *testing.T) {
	all := recorded(t)
	if len(all) != 955 {
		t.Errorf("%d datagrams", len(all))
	}
	key := recordedKey(t)
	control, second := newSeal(key, key), newReader([4]uint64{8, 8, 8, 8})
	var data *seal
	for i, d := range all {
		want, err := second.read(d)
		if err != nil {
			t.Fatalf("datagram %d, second decoder: %v", i, err)
		}
		s := data
		if d[5] == chanControl {
			s = control
		}
		m, body, err := s.open(nil, d, want.host)
		if err != nil {
			t.Fatalf("datagram %d: %v", i, err)
		}
		if m.sequence != want.sequence || m.protocol != 4 || !bytes.Equal(body, want.body) {
			t.Fatalf("datagram %d: %+v", i, m)
		}
		if again := s.append(nil, m, body); !bytes.Equal(again, d) {
			t.Fatalf("datagram %d is made otherwise", i)
		}
		if m.channel == chanControl {
			if want.host {
				if _, ok := decodeResponse(body); !ok {
					t.Fatalf("datagram %d is no response", i)
				}
				data = newSeal(dataKey(key, body), key)
			} else if p, ok := decodePoke(body); !ok || !bytes.Equal(p.encode()[:70], body[:70]) {
				t.Fatalf("datagram %d is no poke", i)
			}
			continue
		}
		if len(body) == checkSize || len(body) == 1 {
			continue
		}
		if _, _, err := kd(body); err != nil {
			t.Fatalf("datagram %d: %v", i, err)
		}
	}
}

// replay is what the recorded target said: its first report, and its answers.
type replay struct {
	report  []byte
	answers map[string][]byte // by request
	reads   []kdproto.Memory
	version []byte
}

// question is what makes two requests the same: number and arguments. Behind
// them WinDbg leaves what lay there.
func question(payload []byte) string {
	n := map[kdproto.API]int{
		kdproto.APIReadVirtualMemory: 12, kdproto.APIReadControlSpace: 12, kdproto.APIRestoreBreakPoint: 4,
		kdproto.APIWriteControlSpace: 12,
	}[kdproto.API(binary.LittleEndian.Uint32(payload))]
	return string(payload[:4]) + string(payload[16:16+n])
}

func newReplay(t *testing.T) *replay {
	r := &replay{answers: map[string][]byte{}}
	second := newReader([4]uint64{8, 8, 8, 8})
	asked := map[uint32][]byte{} // open requests by number
	for _, d := range recorded(t) {
		p, err := second.read(d)
		if err != nil {
			t.Fatal(err)
		}
		if p.channel == chanControl || len(p.body) < 16 {
			continue
		}
		h, payload, err := kd(p.body)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case h.Type == kdproto.TypeStateChange64 && r.report == nil:
			r.report = payload
		case h.Type == kdproto.TypeManipulate && p.host:
			asked[binary.LittleEndian.Uint32(payload)] = payload
		case h.Type == kdproto.TypeManipulate:
			q := asked[binary.LittleEndian.Uint32(payload)]
			if q == nil {
				continue
			}
			delete(asked, binary.LittleEndian.Uint32(payload))
			if _, known := r.answers[question(q)]; known {
				continue
			}
			r.answers[question(q)] = payload
			m, err := kdproto.DecodeManipulate(q)
			if err != nil {
				t.Fatal(err)
			}
			switch m.API {
			case kdproto.APIReadVirtualMemory:
				var b kdproto.Memory
				b.Get(&m.Union)
				r.reads = append(r.reads, b)
			case kdproto.APIGetVersion:
				r.version = payload[16:56]
			}
		}
	}
	return r
}

// serve plays the recorded target; what was not asked then fails.
func (r *replay) serve(ctx context.Context, k *Target) error {
	for {
		if err := k.Send(ctx, kdproto.TypeStateChange64, r.report, false); err != nil {
			return err
		}
		for again := false; !again; {
			p, res, err := k.Receive(ctx, kdproto.TypeManipulate, 0)
			if err != nil {
				return err
			}
			switch {
			case res == link.Resend:
				again = true
				continue
			case res == link.Timeout:
				continue
			case kdproto.API(binary.LittleEndian.Uint32(p)) == kdproto.APIContinue, kdproto.API(binary.LittleEndian.Uint32(p)) == kdproto.APIContinue2:
				return nil
			}
			a := r.answers[question(p)]
			if a == nil {
				a = bytes.Clone(p[:56])
				binary.LittleEndian.PutUint32(a[8:], uint32(kdproto.StatusUnsuccessful))
			}
			if err := k.Send(ctx, kdproto.TypeManipulate, a, false); err != nil {
				return err
			}
		}
	}
}

// TestReplay attaches a whole debugger to the recorded target, reads what
// WinDbg read then, and has the second decoder look at every datagram that our
// host sends.
func TestReplay(t *testing.T) {
	r := newReplay(t)
	if r.report == nil || r.version == nil || len(r.reads) < 20 {
		t.Fatalf("the recording holds %d reads", len(r.reads))
	}
	key := recordedKey(t)
	var wire *tap
	cfg := quick(key)
	cfg.Retransmit, cfg.Socket = DefaultRetransmit, tapped(&wire)
	listened := make(chan int, 1)
	live := target.NewLive(target.LiveOptions{
		Open: func(ctx context.Context) (link.Host, error) {
			h, err := Listen(ctx, cfg)
			if err != nil {
				return nil, err
			}
			listened <- h.Port()
			return h, nil
		},
		Name: "the recording", ReadSize: 1024, Config: target.Config{StopOnLoad: "*"},
	})
	if err := live.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tc := quickTarget(key, <-listened)
	tc.Protocol, tc.Timeout = 4, time.Second
	k := newTarget(t, tc)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { r.serve(ctx, k) })

	var met *kdproto.Version
	for met == nil {
		e, err := live.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == target.EventConnected {
			met = e.Version
		}
	}
	var want kdproto.Version
	want.Get((*[40]byte)(r.version))
	if *met != want {
		t.Errorf("version %+v, want %+v", *met, want)
	}
	for e := (target.Event{}); e.Kind != target.EventHalted; {
		var err error
		if e, err = live.Next(ctx); err != nil {
			t.Fatal(err)
		}
	}
	good := 0
	for _, b := range r.reads {
		req := kdproto.NewRequest(kdproto.APIReadVirtualMemory, 0, &kdproto.Memory{Address: b.Address, Count: b.Count}, nil).Append(nil)
		a, err := kdproto.DecodeManipulate(r.answers[question(req)])
		if err != nil {
			continue // asked with other flags
		}
		got, err := target.Collect(ctx, live, target.Request{Op: target.OpReadVirtual, Addr: b.Address, Len: uint64(b.Count)})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got[0].Data(), a.Data) {
			t.Errorf("%#x: read %x, WinDbg read %x", b.Address, got[0].Data(), a.Data)
		}
		if len(a.Data) > 0 {
			good++
		}
	}
	if good < 10 {
		t.Errorf("only %d reads gave anything", good)
	}
	live.Close(ctx, target.LeaveRunning)
	t.Logf("%d of %d reads gave bytes", good, len(r.reads))

	second, last, id := newReader([4]uint64{8, 8, 8, 8}), uint64(0), uint32(0)
	for i, d := range wire.all() {
		p, err := second.read(d)
		if err != nil || !p.host || p.protocol != 4 && p.protocol != requestProtocol {
			t.Fatalf("our datagram %d: %+v %v", i, p, err)
		}
		if p.channel == chanControl {
			if len(p.body) == 322 {
				last = 0
			}
			continue
		}
		if p.sequence <= last {
			t.Fatalf("our datagram %d: sequence %d behind %d", i, p.sequence, last)
		}
		last = p.sequence
		if len(p.body) == 1 && p.body[0] == 'b' {
			continue
		}
		h, _, err := kd(p.body)
		if err != nil {
			t.Fatalf("our datagram %d: %v", i, err)
		}
		if h.Leader == kdproto.DataLeader {
			if h.ID != id && h.ID != id+2 && h.ID != 0x80000000 && h.ID != id+4 {
				t.Fatalf("our datagram %d: id %08x behind %08x", i, h.ID, id)
			}
			id = h.ID
		}
	}
	if last < 50 {
		t.Errorf("only %d data datagrams", last)
	}
}
