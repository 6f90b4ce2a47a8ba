package fault

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// loop is a stream that keeps what is written and reads what it was given.
type loop struct {
	in     io.Reader
	out    bytes.Buffer
	closed bool
}

func (l *loop) Read(p []byte) (int, error)  { return l.in.Read(p) }
func (l *loop) Write(p []byte) (int, error) { return l.out.Write(p) }
func (l *loop) Close() error                { l.closed = true; return nil }

func TestParse(t *testing.T) {
	for _, c := range []struct {
		text string
		want Config
	}{
		{"", Config{}},
		{" , ", Config{}},
		{"drop=0.001,corrupt=0.002,duplicate=0.003,delay=5ms,seed=42",
			Config{Drop: 0.001, Corrupt: 0.002, Duplicate: 0.003, Delay: 5 * time.Millisecond, Seed: 42}},
		{"NOISE = 1 , spacing=1, split=7, seed=0xffffffffffffffff",
			Config{Noise: 1, Spacing: 1, Split: 7, Seed: 1<<64 - 1}},
	} {
		got, err := Parse(c.text)
		if err != nil || got != c.want {
			t.Errorf("Parse(%q) = %+v, %v", c.text, got, err)
		}
		if again, err := Parse(got.String()); err != nil || again != got {
			t.Errorf("Parse(String %q) = %+v, %v", got.String(), again, err)
		}
	}
	for text, part := range map[string]string{
		"drop":                  `"drop" has no value`,
		"drop=x":                "drop=x",
		"drop=1.5":              "drop=1.5",
		"drop=NaN":              "drop=NaN",
		"corrupt=-1":            "corrupt=-1",
		"loss=0.1":              `"loss" is not known, the keys are drop`,
		"delay=5":               "delay=5 is not a time",
		"delay=-5ms":            "delay=-5ms",
		"seed=-1":               "seed=-1",
		"split=0":               "split=0",
		"spacing=9999999":       "spacing=9999999",
		"drop=0.1,drop=0.1":     "drop is given twice",
		"drop=0.7,corrupt=0.7":  "add up to 1.4",
		"drop=0.1;corrupt=0.01": "drop=0.1;corrupt=0.01",
	} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("Parse(%q): %v, want %q in it", text, err, part)
		}
	}
	c := Config{Seed: 7}
	if err := c.Set("bad"); err == nil || c.Seed != 7 {
		t.Errorf("a refused text changed the value: %+v, %v", c, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("drop=0.001,corrupt=0.001,duplicate=0.001,delay=5ms,seed=42")
	f.Add("noise=1e-3,split=3,spacing=1")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse(text)
		if err != nil {
			return
		}
		if again, err := Parse(c.String()); err != nil || again != c {
			t.Fatalf("%q -> %+v -> %q -> %+v, %v", text, c, c.String(), again, err)
		}
	})
}

type fataler interface {
	Fatal(...any)
	Fatalf(string, ...any)
}

// through sends data through a direction in pieces and returns what comes out.
func through(t fataler, cfg Config, data []byte, write bool, piece func() int) []byte {
	if write {
		l := &loop{}
		s := New(l, cfg)
		for rest := data; len(rest) > 0; {
			n := min(piece(), len(rest))
			if m, err := s.Write(rest[:n]); m != n || err != nil {
				t.Fatalf("Write = %d, %v", m, err)
			}
			rest = rest[n:]
		}
		return l.out.Bytes()
	}
	s := New(&loop{in: bytes.NewReader(data)}, cfg)
	var out []byte
	for {
		p := make([]byte, piece())
		n, err := s.Read(p)
		out = append(out, p[:n]...)
		if err != nil {
			if err != io.EOF {
				t.Fatal(err)
			}
			return out
		}
	}
}

func TestSameSeedSameFaults(t *testing.T) {
	data := make([]byte, 10_000)
	for i := range data {
		data[i] = byte(i * 7)
	}
	cfg := Config{Drop: 0.001, Corrupt: 0.001, Duplicate: 0.001, Noise: 0.001, Spacing: 50, Seed: 42}
	for _, write := range []bool{false, true} {
		whole := through(t, cfg, data, write, func() int { return len(data) })
		if bytes.Equal(whole, data) {
			t.Fatal("nothing was spoiled")
		}
		rapid.Check(t, func(t *rapid.T) {
			dice := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "cuts"), 0))
			c := cfg
			c.Split = rapid.IntRange(0, 5000).Draw(t, "split")
			if got := through(t, c, data, write, func() int { return 1 + dice.IntN(3000) }); !bytes.Equal(got, whole) {
				t.Fatalf("other cuts, other faults (write %v)", write)
			}
		})
		other := cfg
		other.Seed++
		if bytes.Equal(through(t, other, data, write, func() int { return 4096 }), whole) {
			t.Fatal("another seed met the same faults")
		}
	}
	if bytes.Equal(through(t, cfg, data, false, func() int { return 99 }), through(t, cfg, data, true, func() int { return 99 })) {
		t.Fatal("both directions met the same faults")
	}
}

func TestSpacing(t *testing.T) {
	const spacing = 50
	data := make([]byte, 100_000)
	out := through(t, Config{Corrupt: 0.5, Spacing: spacing, Seed: 1}, data, true, func() int { return 777 })
	last, n := -spacing, 0
	for i, c := range out {
		if c == 0 {
			continue
		}
		if i-last < spacing {
			t.Fatalf("faults at %d and %d", last, i)
		}
		last = i
		n++
	}
	if n < len(data)/spacing/2 {
		t.Fatalf("only %d faults", n)
	}
}

func TestKinds(t *testing.T) {
	data := bytes.Repeat([]byte{0}, 1000)
	for _, c := range []struct {
		name string
		cfg  Config
		ok   func(out []byte, n Counts) bool
	}{
		{"drop", Config{Drop: 1}, func(o []byte, n Counts) bool { return len(o) == 900 && n.Drops == 100 }},
		{"corrupt", Config{Corrupt: 1}, func(o []byte, n Counts) bool {
			return len(o) == 1000 && bytes.Count(o, []byte{0}) == 900 && n.Corruptions == 100
		}},
		{"duplicate", Config{Duplicate: 1}, func(o []byte, n Counts) bool { return len(o) == 1100 && n.Dups == 100 }},
		{"noise", Config{Noise: 1}, func(o []byte, n Counts) bool {
			return len(o) >= 1100 && len(o) <= 1800 && n.NoiseRun == 100
		}},
		{"none", Config{}, func(o []byte, n Counts) bool { return bytes.Equal(o, data) && n == Counts{Bytes: 1000} }},
	} {
		l := &loop{}
		c.cfg.Spacing = 9 // the byte that is hit and 9 clean ones
		s := New(l, c.cfg)
		if _, err := s.Write(data); err != nil {
			t.Fatal(err)
		}
		if !c.ok(l.out.Bytes(), s.Counts()) {
			t.Errorf("%s: %d bytes out, %+v", c.name, l.out.Len(), s.Counts())
		}
		if s.Close(); !l.closed {
			t.Errorf("%s: the stream below is open", c.name)
		}
	}
}

func TestDelayAndClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		s := New(a, Config{Delay: time.Hour})
		go b.Write([]byte("x"))
		start := time.Now()
		if n, err := s.Read(make([]byte, 1)); n != 1 || err != nil || time.Since(start) != time.Hour {
			t.Fatal(n, err, time.Since(start))
		}
		end := make(chan error, 1)
		go func() { _, err := s.Write([]byte("y")); end <- err }()
		time.Sleep(time.Minute)
		s.Close()
		if err := <-end; !errors.Is(err, io.ErrClosedPipe) || time.Since(start) != time.Hour+time.Minute {
			t.Fatal(err, time.Since(start))
		}
		b.Close()
	})
}

func TestThrottleTakesTheTimeOfTheLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		s := Throttle(a, 9600)
		defer b.Close()
		defer s.Close()
		perByte := 10 * time.Second / 9600

		go func() { io.CopyN(io.Discard, b, 960); b.Write(make([]byte, 960)) }()
		start := time.Now()
		if n, err := s.Write(make([]byte, 960)); n != 960 || err != nil {
			t.Fatal(n, err)
		}
		if d := time.Since(start); d != 960*perByte {
			t.Fatalf("960 bytes went out in %v", d)
		}
		start = time.Now()
		buf := make([]byte, 960)
		n, err := s.Read(buf)
		if err != nil || n > fifo || time.Since(start) != time.Duration(n)*perByte {
			t.Fatalf("%d bytes after %v, %v", n, time.Since(start), err)
		}
		if _, err := io.ReadFull(s, buf[n:]); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d != 960*perByte {
			t.Fatalf("960 bytes came in %v", d)
		}
	})
}

func TestThrottleWithoutBaud(t *testing.T) {
	l := &loop{in: strings.NewReader("abc")}
	s := Throttle(l, 0)
	if n, err := s.Write(make([]byte, 1<<20)); n != 1<<20 || err != nil {
		t.Fatal(n, err)
	}
	if b, err := io.ReadAll(s); string(b) != "abc" || err != nil {
		t.Fatal(b, err)
	}
}
