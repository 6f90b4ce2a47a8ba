package cpace

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/gtank/ristretto255"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The vectors of draft-irtf-cfrg-cpace-21, appendix "Test vector for CPace
// using group ristretto255 and hash SHA-512".
const (
	vecCI        = "0b415f696e69746961746f720b425f726573706f6e646572"
	vecSID       = "7e4b4791d6a8ef019b936c79fb7f2c57"
	vecGenerator = "222b6b195fe84b1652badb6f6a3ae3d24341e7306967f0b8115b40d5698c7e56"
	vecYa        = "da3d23700a9e5699258aef94dc060dfda5ebb61f02a5ea77fad53f4ff0976d08"
	vecShareA    = "d6bac480f2c386c394efc7c47adb9925dcd2630b64f240c50f8d0eec482b9157"
	vecYb        = "d2316b454718c35362d83d69df6320f38578ed5984651435e2949762d900b80d"
	vecShareB    = "3ea7e0b19560d7c0b0f5734f63b955286dfa8232b5ebe63324e2d9e7433f7258"
	vecK         = "80b69a8a76457ab6a4d7f887a4bf6b55a2f80ac19c333f917a05fc9887c8b40f"
	vecISK       = `b69effbf61b51d56401c0f65601abe428de8206feaaf0e32198896dc
		ae7b35cd2b38950a39dfd5d4a79164614c2984f7daa460b588c1e80c3fa2068af7900447`
)

func vecInputs(t testing.TB) Inputs {
	return Inputs{Password: []byte("Password"), Channel: unhex(t, vecCI), Session: unhex(t, vecSID)}
}

func TestVectorGenerator(t *testing.T) {
	want := unhex(t, `11435061636552697374726574746f3235350850617373776f726464
		00000000000000000000000000000000000000000000000000000000
		00000000000000000000000000000000000000000000000000000000
		00000000000000000000000000000000000000000000000000000000
		00000000000000000000000000000000180b415f696e69746961746f
		720b425f726573706f6e646572107e4b4791d6a8ef019b936c79fb7f2c57`)
	if got := generatorString(vecInputs(t)); !bytes.Equal(got, want) {
		t.Errorf("generator string\n got %x\nwant %x", got, want)
	}
	if got := generator(vecInputs(t)).Bytes(); !bytes.Equal(got, unhex(t, vecGenerator)) {
		t.Errorf("generator %x", got)
	}
}

func TestVectorRun(t *testing.T) {
	a := newRun(Initiator, vecInputs(t), unhex(t, vecYa))
	b := newRun(Responder, vecInputs(t), unhex(t, vecYb))
	if !bytes.Equal(a.Share(), unhex(t, vecShareA)) || !bytes.Equal(b.Share(), unhex(t, vecShareB)) {
		t.Fatalf("shares %x %x", a.Share(), b.Share())
	}
	if k := scalarMultVerify(a.scalar, b.Share()); !bytes.Equal(k, unhex(t, vecK)) {
		t.Errorf("K of A: %x", k)
	}
	if k := scalarMultVerify(b.scalar, a.Share()); !bytes.Equal(k, unhex(t, vecK)) {
		t.Errorf("K of B: %x", k)
	}
	ka, err := a.Finish(b.Share(), []byte("ADa"), []byte("ADb"))
	if err != nil {
		t.Fatal(err)
	}
	kb, err := b.Finish(a.Share(), []byte("ADb"), []byte("ADa"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(ka.ISK[:], unhex(t, vecISK)) || ka.ISK != kb.ISK {
		t.Errorf("ISK\n%x\n%x", ka.ISK, kb.ISK)
	}
	if !ka.Verify(kb.Confirmation()) || !kb.Verify(ka.Confirmation()) {
		t.Error("confirmations do not agree")
	}
	if ka.Verify(ka.Confirmation()) {
		t.Error("a reflected confirmation was taken")
	}
}

func TestVectorScalarMult(t *testing.T) {
	s, err := ristretto255.NewScalar().SetCanonicalBytes(unhex(t, "7cd0e075fa7955ba52c02759a6c90dbbfc10e6d40aea8d283e407d88cf538a05"))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []struct{ in, out string }{
		{"2c3c6b8c4f3800e7aef6864025b4ed79bd599117e427c41bd47d93d654b4a51c", "7c13645fe790a468f62c39beb7388e541d8405d1ade69d1778c5fe3e7f6b600e"},
		{"2b3c6b8c4f3800e7aef6864025b4ed79bd599117e427c41bd47d93d654b4a51c", ""}, // Y_i1: not an element
		{"0000000000000000000000000000000000000000000000000000000000000000", ""}, // Y_i2: neutral
		{"2c3c", ""},
	} {
		if got := scalarMultVerify(s, unhex(t, v.in)); !bytes.Equal(got, unhex(t, v.out)) {
			t.Errorf("%s: %x, want %s", v.in, got, v.out)
		}
	}
}

func TestLengths(t *testing.T) {
	for _, v := range []struct {
		n    int
		want string
	}{{0, "00"}, {4, "04"}, {127, "7f"}, {128, "8001"}, {300, "ac02"}} {
		got := lvCat(make([]byte, v.n))
		if w := append(unhex(t, v.want), make([]byte, v.n)...); !bytes.Equal(got, w) {
			t.Errorf("%d: %x", v.n, got)
		}
	}
	// A password longer than a block leaves no room for padding.
	if s := generatorString(Inputs{Password: make([]byte, 256)}); len(s) != 18+258+1+1+1 {
		t.Errorf("generator string of a long password has %d bytes", len(s))
	}
}

func TestDisagreement(t *testing.T) {
	base := Inputs{Password: []byte("secret"), Channel: []byte("ch"), Session: []byte("sid")}
	cases := map[string]struct {
		in             Inputs
		adA, adB, seen string
		ok             bool
	}{
		"same":     {in: base, seen: "a", ok: true},
		"password": {in: Inputs{[]byte("secreT"), base.Channel, base.Session}, seen: "a"},
		"channel":  {in: Inputs{base.Password, []byte("cg"), base.Session}, seen: "a"},
		"session":  {in: Inputs{base.Password, base.Channel, []byte("sie")}, seen: "a"},
		"data":     {in: base, seen: "x"},
		"shifted":  {in: Inputs{base.Password, []byte("chs"), []byte("id")}, seen: "a"},
	}
	for name, c := range cases {
		a, b := New(Initiator, base), New(Responder, c.in)
		ka, err := a.Finish(b.Share(), []byte("a"), []byte("b"))
		if err != nil {
			t.Fatal(err)
		}
		kb, err := b.Finish(a.Share(), []byte("b"), []byte(c.seen))
		if err != nil {
			t.Fatal(err)
		}
		if ok := ka.Verify(kb.Confirmation()); ok != c.ok {
			t.Errorf("%s: initiator accepts %v", name, ok)
		}
		if ok := kb.Verify(ka.Confirmation()); ok != c.ok {
			t.Errorf("%s: responder accepts %v", name, ok)
		}
	}
}

func FuzzFinish(f *testing.F) {
	f.Add(make([]byte, 32))
	f.Add(unhex(f, vecShareA))
	f.Fuzz(func(t *testing.T, share []byte) {
		k, err := New(Responder, Inputs{Password: []byte("p")}).Finish(share, nil, nil)
		if (k == nil) == (err == nil) {
			t.Fatal("neither a key nor an error")
		}
	})
}

func BenchmarkRun(b *testing.B) {
	in := Inputs{Password: []byte("secret"), Session: make([]byte, 32)}
	peer := New(Responder, in).Share()
	for b.Loop() {
		if _, err := New(Initiator, in).Finish(peer, nil, nil); err != nil {
			b.Fatal(err)
		}
	}
}
