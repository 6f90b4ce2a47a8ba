package kdnet

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"openkd/kdproto"
)

func TestParseKey(t *testing.T) {
	k, err := ParseKey("1.z.10.3w5e11264sgsf")
	if err != nil || hex.EncodeToString(k[:]) != "010000000000000023000000000000002400000000000000ffffffffffffffff" {
		t.Errorf("%x %v", k[:], err)
	}
	if up, err := ParseKey("1.Z.10.3W5E11264SGSF"); err != nil || up != k {
		t.Errorf("%v", err)
	}
	for in, want := range map[string]string{
		"": "empty", "1.2.3": "3 parts", "1.2.3.4.5": "5 parts", "1..3.4": "part 2 of the key is empty",
		"1.2.3.": "part 4 of the key is empty", "1.2.3w5e11264sgsg.4": "part 3 of the key is too large",
		"1.2.3.zzzzzzzzzzzzz": "part 4 of the key is too large", "12345678901234.2.3.4": "part 1 of the key has 14 characters",
		"1.2-.3.4": "at place 2", "1.2.3.ä": "neither a digit", strings.Repeat("1.", 5000): "far too long",
	} {
		_, err := ParseKey(in)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want %q", in, err, want)
		}
		if err != nil && len(in) > 8 && strings.Contains(err.Error(), in[:8]) {
			t.Errorf("the key is in the error: %v", err)
		}
	}
	for range 100 {
		k := NewKey()
		if back, err := ParseKey(k.Reveal()); err != nil || back != k {
			t.Fatalf("%v", err)
		}
	}
}

func TestKeyIsHidden(t *testing.T) {
	k, err := ParseKey("k1first.k2second.k3third.k4fourth")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%08b", "% x"} {
		fmt.Fprintf(&all, verb+"\n", k)
		fmt.Fprintf(&all, verb+"\n", &k)
		fmt.Fprintf(&all, verb+"\n", Config{Key: k})
		fmt.Fprintf(&all, verb+"\n", TargetConfig{Key: k})
	}
	for _, h := range []slog.Handler{slog.NewTextHandler(&all, nil), slog.NewJSONHandler(&all, nil)} {
		slog.New(h).Info("a key", "key", k, "config", Config{Key: k})
	}
	js, err := json.Marshal(struct{ K Key }{k})
	if err != nil {
		t.Fatal(err)
	}
	text := all.String() + string(js)
	for i := range 4 {
		part := k[8*i : 8*i+8]
		for _, secret := range []string{
			strings.Split(k.Reveal(), ".")[i], hex.EncodeToString(part), strings.ToUpper(hex.EncodeToString(part)), fmt.Sprint(part[:7])[1:20],
			fmt.Sprintf("% x", part), fmt.Sprint(binary.LittleEndian.Uint64(part)), fmt.Sprintf("%#v", part[:4])[7:20],
		} {
			if strings.Contains(text, secret) {
				t.Errorf("part %d is shown as %q in\n%s", i+1, secret, text)
			}
		}
	}
}

func key1234(t testing.TB) Key {
	k, err := ParseKey("1.2.3.4")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// The vectors of the fact sheet, section 4.11.
func TestVectors(t *testing.T) {
	k := key1234(t)
	s := newSeal(k, k)
	var nonce, random [nonceSize]byte
	for i := range nonce {
		nonce[i], random[i] = byte(i), byte(0xa0+i)
	}
	p := poke{nonce: nonce, target: netip.MustParseAddrPort("10.0.0.2:50005"), host: netip.MustParseAddrPort("10.0.0.1:50005")}
	body := p.encode()
	clear(body[70:88]) // the vector has zeros there, not a mapped address
	d := s.append(nil, meta{protocol: 4, channel: chanControl, sequence: 3}, body)
	check := func(what string, d []byte, size int, head, tag, sum string) {
		t.Helper()
		got := sha256.Sum256(d)
		if len(d) != size || !strings.HasPrefix(hex.EncodeToString(d), head) || hex.EncodeToString(d[len(d)-16:]) != tag || hex.EncodeToString(got[:]) != sum {
			t.Errorf("%s: %d bytes, %x ... tag %x sum %x", what, len(d), d[:32], d[len(d)-16:], got)
		}
	}
	check("poke", d, 374, "4d4442470401eb4dcc1ba06126f2f7d1c218e0bf5dbe7c9bf722abcc8af31920", "a17b04a4e6c8987d1fa41520d2d729b1", "69aba740f5fccb9b08be92a426dba289c71ea630a2d69cf5f59bca4bbe6ff125")
	m, got, err := s.open(nil, d, false)
	if err != nil || m.sequence != 3 || m.host || !bytes.Equal(got, body) {
		t.Errorf("%+v %v", m, err)
	}
	if q, ok := decodePoke(got); !ok || q.nonce != nonce || q.target != p.target || q.host != p.host || q.connected.Port() != 0 {
		t.Errorf("%+v", q)
	}

	resp := encodeResponse(nonce, random)
	d = s.append(nil, meta{protocol: 4, channel: chanControl, host: true, sequence: 3}, resp)
	check("response", d, 358, "4d44424704018635ddf4617839c690b88499a96dabe3c3909ed2eed008ca0d75", "4872384c25872cfeb6a811e1de825012", "2bf184e92fc878f0b7837b5aa46e60cfb0b1b0b6740719a1a27f7cabfe9c818e")
	dk := dataKey(k, resp)
	if hex.EncodeToString(dk[:]) != "faa594d4813f0c9b1fa48cd949713d8722cf5d4dafec65c73bc6d23ffb22a696" {
		t.Errorf("data key %x", dk)
	}
	data := newSeal(dk, k)
	if d := data.append(nil, meta{protocol: 4, host: true, sequence: 2}, []byte{0x62}); hex.EncodeToString(d) != "4d4442470400aace7f811cb676e76d9107429b6d9ab4267cb1a4a0efcde499110757ad474554" {
		t.Errorf("break-in %x", d)
	}
}

func TestOpenRefuses(t *testing.T) {
	k := key1234(t)
	s := newSeal(k, k)
	good := s.append(nil, meta{protocol: 5, sequence: 7}, []byte("hello"))
	if _, _, err := s.open(nil, good, true); err != errDirection {
		t.Errorf("the other way: %v", err)
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if _, _, err := s.open(nil, bad, false); err == nil {
			t.Errorf("byte %d may be changed", i)
		}
	}
	for n := range good {
		if _, _, err := s.open(nil, good[:n], false); err == nil {
			t.Errorf("%d bytes are taken", n)
		}
	}
	other := newSeal(dataKey(k, nil), k)
	if _, _, err := other.open(nil, good, false); err != errTag {
		t.Errorf("another key: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	k := key1234(f)
	s := newSeal(k, k)
	f.Add(s.append(nil, meta{protocol: 4, channel: 1, sequence: 3}, make([]byte, pokeSize)))
	f.Add(s.append(nil, meta{protocol: 4, sequence: 1}, []byte{0x62}))
	f.Fuzz(func(t *testing.T, d []byte) {
		m, p, err := s.open(nil, d, false)
		if err != nil {
			return
		}
		if got := s.append(nil, m, p); !bytes.Equal(got, d) {
			t.Errorf("%x is read as %+v %x", d, m, p)
		}
	})
}

// FuzzPlain looks behind the authentication, where a target with the key could
// send anything.
func FuzzPlain(f *testing.F) {
	f.Add(make([]byte, pokeSize))
	f.Add([]byte{1, 1})
	f.Fuzz(func(t *testing.T, body []byte) {
		decodePoke(body)
		decodeResponse(body)
	})
}

func FuzzKey(f *testing.F) {
	f.Add("1.2.3.4")
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := ParseKey(s); err == nil {
			if back, err := ParseKey(k.Reveal()); err != nil || back != k {
				t.Errorf("%q", s)
			}
		}
	})
}

// BenchmarkSeal makes and opens a datagram with a full packet.
func BenchmarkSeal(b *testing.B) {
	k := key1234(b)
	out, in := newSeal(k, k), newSeal(k, k)
	payload, frame, plain := make([]byte, kdproto.HeaderSize+kdproto.MaxPayload), make([]byte, 0, maxDatagram), make([]byte, 0, maxDatagram)
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		frame = out.append(frame[:0], meta{protocol: 5, sequence: 1}, payload)
		if _, _, err := in.open(plain, frame, false); err != nil {
			b.Fatal(err)
		}
	}
}
