package command

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"openkd/engine"
	"openkd/engine/enginetest"
	"openkd/internal/shortdir"
	"openkd/kdproto"
	"openkd/target"
)

// halted is a session over a machine that has stopped.
func halted(t testing.TB, processors int, change ...func(*enginetest.Fake)) (*Session, *strings.Builder, *enginetest.Fake) {
	t.Helper()
	f := enginetest.New(processors)
	// A page with a pattern, and no page behind it.
	page := make([]byte, 0x1000)
	for i := range page {
		page[i] = byte(i)
	}
	copy(page[0x100:], "Hello, world\x00rest of it")
	copy(page[0x200:], "H\x00e\x00l\x00l\x00o\x00\x00\x00")
	le := func(off int, v uint64) {
		for i := range 8 {
			page[off+i] = byte(v >> (8 * i))
		}
	}
	le(0x300, enginetest.KernBase+0x1234)
	le(0x308, data+0x100)
	le(0x310, data+0x200)
	le(0x318, 0)
	le(0x320, 0x0000000c_000c)
	le(0x328, data+0x100)
	le(0x330, data+0x340) // a list of three
	le(0x340, data+0x350)
	le(0x350, data+0x330)
	le(0x338, data+0x350) // and back
	le(0x348, data+0x330)
	le(0x358, data+0x340)
	copy(page[0x400:], "\x00\x00\x80\x3f\x00\x00\x00\xc0")
	le(0x408, 0x3ff8000000000000)
	f.Write(data, page)
	f.WritePhys(0x1000, page)
	for _, c := range change {
		c(f)
	}
	e := engine.New(f, engine.Options{Now: func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); e.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	f.Connect()
	f.Stop(target.Stop{PC: enginetest.Break, Asked: true, Exception: enginetest.Exception(kdproto.StatusBreakpoint, true)})
	if _, err := e.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	return NewSession(e, &b, Options{}), &b, f
}

const data = 0xFFFFF80400000000

func TestMemory(t *testing.T) {
	d := "fffff804`00000"
	for _, tt := range []struct{ in, want string }{
		{"db fffff804`00000000 L18", d + "000  00 01 02 03 04 05 06 07-08 09 0a 0b 0c 0d 0e 0f  ................\n" +
			d + "010  10 11 12 13 14 15 16 17                          ........\n"},
		{"db fffff804`00000ff8 L10", d + "ff8  f8 f9 fa fb fc fd fe ff-?? ?? ?? ?? ?? ?? ?? ??  ........????????\n"},
		{"db fffff804`00000100 fffff804`00000104", d + "100  48 65 6c 6c 6f                                   Hello\n"},
		{"db /c 4 fffff804`00000100 L8", d + "100  48 65-6c 6c  Hell\n" + d + "104  6f 2c-20 77  o, w\n"},
		{"dw fffff804`00000000 L9", d + "000  0100 0302 0504 0706 0908 0b0a 0d0c 0f0e\n" + d + "010  1110\n"},
		{"dW fffff804`00000100 L2", d + "100  6548 6c6c                                Hell\n"},
		{"dd fffff804`00000000 L5", d + "000  03020100 07060504 0b0a0908 0f0e0d0c\n" + d + "010  13121110\n"},
		{"dd fffff804`00000000 fffff804`00000004", d + "000  03020100 07060504\n"},
		{"dc fffff804`00000100 L3", d + "100  6c6c6548 77202c6f 646c726f           Hello, world\n"},
		{"dq fffff804`00000000 L2", d + "000  07060504`03020100 0f0e0d0c`0b0a0908\n"},
		{"dq fffff804`00000ff8 L2", d + "ff8  fffefdfc`fbfaf9f8 ????????`????????\n"},
		{"dp fffff804`00000300 L1", d + "300  fffff803`19c01234\n"},
		{"dd fffff805`00000000 L1", "fffff805`00000000  ????????\n"},
		{"da fffff804`00000100", d + "100  \"Hello, world\"\n"},
		{"du fffff804`00000200", d + "200  \"Hello\"\n"},
		{"da fffff805`00000000", "fffff805`00000000  \"????\"\n"},
		{"df fffff804`00000400 L2", d + "400                 1               -2\n"},
		{"dD fffff804`00000408 L1", d + "408                       1.5\n"},
		{"dyb fffff804`00000000 L4", "                   76543210 76543210 76543210 76543210\n                   -------- -------- -------- --------\n" + d + "000  00000000 00000001 00000010 00000011  00 01 02 03\n"},
		{"dyd fffff804`00000000 L1", "                    3          2          1          0\n                   10987654 32109876 54321098 76543210\n                   -------- -------- -------- --------\n" + d + "000  00000011 00000010 00000001 00000000  03020100\n"},
		{"dps fffff804`00000300 L2", d + "300  fffff803`19c01234 nt+0x1234\n" + d + "308  fffff804`00000100\n"},
		{"dds fffff804`00000300 L1", d + "300  19c01234\n"},
		{"dpa fffff804`00000308 L2", d + "308  fffff804`00000100 \"Hello, world\"\n" + d + "310  fffff804`00000200 \"H\"\n"},
		{"dpu fffff804`00000310 L2", d + "310  fffff804`00000200 \"Hello\"\n" + d + "318  00000000`00000000 ????\n"},
		{"dpp fffff804`00000330 L1", d + "330  fffff804`00000340 fffff804`00000350\n"},
		{"ds fffff804`00000320", d + "320  \"Hello, world\"\n"},
		{"dl fffff804`00000330 10 1", d + "330  fffff804`00000340\n" + d + "340  fffff804`00000350\n" + d + "350  fffff804`00000330\n"},
		{"dlb fffff804`00000330", d + "330  fffff804`00000340 fffff804`00000350\n" + d + "350  fffff804`00000330 fffff804`00000340\n" + d + "340  fffff804`00000350 fffff804`00000330\n"},
		{"dlb fffff804`00000330 2 1", d + "330  fffff804`00000340\n" + d + "350  fffff804`00000330\n"},
		{"db /p 1000 L4", "00000000`00001000  00 01 02 03                                      ....\n"},
		{"!db 1000 L4", "#    1000 00 01 02 03                                      ....\n"},
		{"!dd [uc] -m 1000 L2", "#    1000 03020100 07060504\n"},
		{"!dq 1000 L1", "#    1000 07060504`03020100\n"},
		{"!ed 1000 deadbeef; !dd 1000 L1", "#    1000 deadbeef\n"},
		{"eb fffff804`00000000 90 91 'ab'; db fffff804`00000000 L4", d + "000  90 91 61 62                                      ..ab\n"},
		{"ed fffff804`00000000 ffffffff 1; dd fffff804`00000000 L2", d + "000  ffffffff 00000001\n"},
		{"eza fffff804`00000000 \"xy\"; db fffff804`00000000 L4", d + "000  78 79 00 03                                      xy..\n"},
		{"eu fffff804`00000000 \"xy\"; db fffff804`00000000 L5", d + "000  78 00 79 00 04                                   x.y..\n"},
		{"ef fffff804`00000000 1.5; df fffff804`00000000 L1", d + "000               1.5\n"},
		{"eq fffff804`00000000 1`00000002; dq fffff804`00000000 L1", d + "000  00000001`00000002\n"},
		{"eb fffff804`00000000 1ff", "                         ^ Overflow error in 'eb fffff804`00000000 1ff'\n1ff does not fit into 1 byte(s)\n"},
		{"f fffff804`00000000 L5 aa bb; db fffff804`00000000 L6", "Filled 0x5 bytes\n" + d + "000  aa bb aa bb aa 05                                ......\n"},
		{"fp 1000 L2 cc; !db 1000 L3", "Filled 0x2 bytes\n#    1000 cc cc 02                                         ...\n"},
		{"m fffff804`00000100 L5 fffff804`00000000; da fffff804`00000000 L5", d + "000  \"Hello\"\n"},
		{"eb fffff804`00000021 ff; c fffff804`00000020 L4 fffff804`00000020; c fffff804`00000020 L2 fffff804`00000520", d + "021  ff - " + d + "521  21\n"},
		{"s -a fffff804`00000000 L1000 \"Hello\"", d + "100  48 65 6c 6c 6f 2c 20 77-6f 72 6c 64 00 72 65 73  Hello, world.res\n"},
		{"s -[1]u fffff804`00000000 L800 \"Hello\"", d + "200\n"},
		{"s -[1]d fffff804`00000000 L400 6c6c6548", d + "100\n"},
		{"s -[1]b fffff804`00000000 L1000 fe ff", d + "0fe\n" + d + "1fe\n" + d + "2fe\n" + d + "3fe\n" + d + "4fe\n" + d + "5fe\n" + d + "6fe\n" + d + "7fe\n" + d + "8fe\n" + d + "9fe\n" + d + "afe\n" + d + "bfe\n" + d + "cfe\n" + d + "dfe\n" + d + "efe\n" + d + "ffe\n"},
		{"s -[l5]su fffff804`000001f0 L20", d + "200  \"Hello\"\n"},
		{"s -[l8]sa fffff804`000000ff L20", d + "100  \"Hello, world\"\n" + d + "10d  \"rest of it\"\n"},
		{"db fffff804`00000000 L10000001", "                         ^ Range error in 'db fffff804`00000000 L10000001'\nthe range is longer than 256 MB; L?<count> lifts the limit\n"},
		{"db fffff804`00000010 fffff804`00000000", "                         ^ Range error in 'db fffff804`00000010 fffff804`00000000'\nthe end fffff804`00000000 lies below the start fffff804`00000010\n"},
		{"db fffff804`00000000 L4 x", "                            ^ Extra character error in 'db fffff804`00000000 L4 x'\nnothing is expected here\n"},
		{"db poi(fffff805`00000000)", "       ^ Memory access error in 'db poi(fffff805`00000000)'\n'poi': the virtual memory at fffff805`00000000 cannot be read (status 0xC0000001)\n"},
		{"f 1000", "          ^ Range error in 'f 1000'\nthe end of the range is missing: 'address L<count>' or 'address end'\n"},
		{"u @rip L2", "nt+0x24ca60:\nfffff803`19e4ca60 cc              int     3\nfffff803`19e4ca61 c3              ret\n"},
		{"eb @rip-8 90 90 90 90 90 90 90 90; ub @rip+1 L2", "nt+0x24ca5f:\nfffff803`19e4ca5f 90              nop\nfffff803`19e4ca60 cc              int     3\n"},
		{"ob 80 5; ib 80; od 84 ffffffff; id 84", "00000080: 05\n00000084: ffffffff\n"},
		{"? nt", "Evaluate expression: -8782776107008 = fffff803`19c00000\n"},
		{"? @rip - nt", "Evaluate expression: 2411104 = 00000000`0024ca60\n"},
		{"? @$thread", "Evaluate expression: -35184066670464 = ffffe000`12345080\n"},
		{"? poi(fffff804`00000308) = fffff804`00000100", "Evaluate expression: 1 = 00000000`00000001\n"},
		{".printf \"%ma|%mu|%msa|%p|%d|%x|%I64x|%y|%c%%\\n\", fffff804`00000100, fffff804`00000200, fffff804`00000320, @rip, -1, -1, -1, nt+10, 41", "Hello, world|Hello|Hello, world|fffff80319e4ca60|-1|ffffffff|ffffffffffffffff|nt+0x10 (fffff803`19c00010)|A%\n"},
		{".printf \"[%5d|%-5d|%05d|%#x|%+d]\\n\", 5, 5, 5, 5, 5", "[    5|5    |00005|0x5|+5]\n"},
		{".printf \"%d\\n\"", "                  ^ Syntax error in '.printf \"%d\\n\"'\nthe format has more conversions than there are values (%d has none)\n"},
		{".formats 1c407e62", "Evaluate expression:\n  Hex:     00000000`1c407e62\n  Decimal: 473988706\n  Octal:   0000000000003420077142\n  Binary:  00000000 00000000 00000000 00000000 00011100 01000000 01111110 01100010\n  Chars:   .....@~b\n  Time:    Mon Jan  7 23:31:46 1985\n  Float:   low 6.36908e-22 high 0\n  Double:  2.34182e-315\n"},
	} {
		s, b, _ := halted(t, 1)
		s.Execute(context.Background(), tt.in)
		if got := b.String(); got != tt.want {
			t.Errorf("%s\n got: %q\nwant: %q", tt.in, got, tt.want)
		}
	}
}

// TestContinue: a bare d and an empty line go on behind what was shown.
func TestContinue(t *testing.T) {
	s, b, _ := halted(t, 2)
	for _, l := range []string{"dd fffff804`00000000 L1", "", "d L1", "dd fffff804`00000ffc L1"} {
		s.Execute(context.Background(), l)
	}
	lines := strings.Split(b.String(), "\n")
	if lines[0] != "fffff804`00000000  03020100" || lines[1] != "fffff804`00000004  07060504 0b0a0908 0f0e0d0c 13121110" {
		t.Errorf("%q", lines[:2])
	}
	if s.Prompt() != "0: kd> " {
		t.Errorf("prompt %q", s.Prompt())
	}
}

// TestExchanges counts what the line is asked for.
func TestExchanges(t *testing.T) {
	s, _, f := halted(t, 1)
	for _, tt := range []struct {
		in   string
		most int
	}{
		{"dd fffff804`00000000 L400", 1},
		{"dpa fffff804`00000300 L20", 1}, // the values are in the cache by now
		{"f fffff804`00000000 L800 0", 1},
		{"s -a fffff804`00000000 L1000 \"Hello\"", 2}, // the search, and the lines shown
		{"u fffff804`00000400 L20", 1},
		{"dl fffff804`00000330", 1},
		{"!dd [uc] -m 1000 L10", 1},
	} {
		n := f.Count()
		s.Execute(context.Background(), tt.in)
		if got := f.Count() - n; got > tt.most {
			t.Errorf("%s took %d exchanges, want at most %d", tt.in, got, tt.most)
		}
	}
}

func TestTransfer(t *testing.T) {
	dir := shortdir.New(t)
	name := filepath.Join(dir, "x y.bin")
	big := bytes.Repeat([]byte("0123456789abcdef"), 0x30000) // 3 MiB
	s, b, f := halted(t, 1, func(f *enginetest.Fake) { f.Write(data+0x100000, big) })
	n := f.Count()
	s.Execute(context.Background(), `.writemem "`+name+`" fffff804`+"`00100000 L300000")
	if got := b.String(); got != "Writing 300000 bytes.\n" {
		t.Fatalf("%q", got)
	}
	if f.Count() != n+1 {
		t.Errorf("%d exchanges for 3 MiB", f.Count()-n)
	}
	if got, _ := os.ReadFile(name); !bytes.Equal(got, big) {
		t.Error("the file differs")
	}
	b.Reset()
	s.Execute(context.Background(), `.readmem "`+name+`" fffff804`+"`00000000 L20")
	if got := string(f.Bytes(data, 0x21)); got != "0123456789abcdef0123456789abcdef " || b.String() != "Reading 20 bytes.\n" {
		t.Errorf("%q %q", got, b.String())
	}
	b.Reset()
	// Memory that ends.
	err := s.Execute(context.Background(), `.writemem "`+name+`" fffff804`+"`00000f00 L200")
	if want := "Writing 200 bytes.\n" + name + " holds 0x100 of 0x200 bytes.\nThe memory at fffff804`00001000 cannot be read (status 0xC0000001)\n"; b.String() != want || err == nil {
		t.Errorf("got  %q\nwant %q", b.String(), want)
	}
	if st, _ := os.Stat(name); st.Size() != 0x100 {
		t.Errorf("the file has %d bytes", st.Size())
	}
}
