package cab

import (
	"bytes"
	"compress/flate"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// cabinet of one file, in the blocks given.
func build(t testing.TB, name string, method uint16, data []byte, blocks [][]byte, spare bool) []byte {
	t.Helper()
	var b bytes.Buffer
	put := func(v ...any) {
		for _, v := range v {
			switch v := v.(type) {
			case uint16:
				b.Write(le.AppendUint16(nil, v))
			case uint32:
				b.Write(le.AppendUint32(nil, v))
			case string:
				b.WriteString(v)
			case []byte:
				b.Write(v)
			}
		}
	}
	head, folder, flags := 36, folderAt, uint16(0)
	if spare {
		head, folder, flags = 36+4+6, folderAt+3, hasSpare
	}
	files := head + folder
	at := files + fileAt + len(name) + 1
	put("MSCF", uint32(0), uint32(0), uint32(0), uint32(files), uint32(0), uint16(0x0103), uint16(1), uint16(1), flags, uint16(7), uint16(0))
	if spare {
		put(uint16(6), []byte{3, 5}, []byte("abcdef"))
	}
	put(uint32(at), uint16(len(blocks)), method)
	if spare {
		put("xyz")
	}
	put(uint32(len(data)), uint32(0), uint16(0), uint16(0x5000), uint16(0), uint16(0x20), name+"\x00")
	for i, blk := range blocks {
		n := min(frame, len(data)-i*frame)
		head := le.AppendUint16(le.AppendUint16(nil, uint16(len(blk))), uint16(n))
		put(checksum(head, checksum(blk, 0)), head)
		if spare {
			put("spare")
		}
		put(blk)
	}
	out := b.Bytes()
	le.PutUint32(out[8:], uint32(len(out)))
	return out
}

func split(data []byte) [][]byte {
	var out [][]byte
	for ; len(data) > 0; data = data[min(frame, len(data)):] {
		out = append(out, data[:min(frame, len(data))])
	}
	return out
}

func zipBlocks(data []byte) [][]byte {
	var out [][]byte
	var last []byte
	for _, p := range split(data) {
		b := bytes.NewBufferString("CK")
		var w *flate.Writer
		if last == nil {
			w, _ = flate.NewWriter(b, 6)
		} else {
			w, _ = flate.NewWriterDict(b, 6, last)
		}
		w.Write(p)
		w.Close()
		out = append(out, b.Bytes())
		last = p
	}
	return out
}

// sample is text, code with calls, noise and zeroes: what finds matches near
// and far, and what finds none.
func sample(seed uint64, size int) []byte {
	r := rand.New(rand.NewPCG(seed, 7))
	out := make([]byte, 0, size+512)
	for len(out) < size {
		switch r.IntN(5) {
		case 0:
			out = fmt.Appendf(out, "?Name%d@Class%d@@QEAA@XZ\x00", r.IntN(50), r.IntN(9))
		case 1:
			out = append(out, 0xE8)
			out = le.AppendUint32(out, uint32(r.IntN(1<<18)-1<<17))
		case 2:
			for range r.IntN(40) {
				out = append(out, byte(r.Uint32()))
			}
		case 3:
			out = append(out, make([]byte, r.IntN(400))...)
		case 4:
			if n := len(out); n > 0 {
				at := r.IntN(n)
				out = append(out, out[at:min(n, at+r.IntN(300))]...)
			}
		}
	}
	return out[:size]
}

type variant struct {
	name   string
	method uint16
	blocks func(data []byte) [][]byte
}

func variants(seed uint64) []variant {
	v := []variant{
		{"stored", stored, split},
		{"mszip", mszip, zipBlocks},
	}
	for bits := minWindow; bits <= maxWindow; bits++ {
		for _, e8 := range []uint32{0, 12 << 20} {
			v = append(v, variant{fmt.Sprintf("lzx%d e8 %d", bits, e8), lzx | uint16(bits)<<8, func(data []byte) [][]byte {
				return lzxFrames(seed, data, bits, e8)
			}})
		}
	}
	return v
}

func TestExpand(t *testing.T) {
	sizes := []int{1, 2, 11, 4096, frame - 1, frame, frame + 1, 3*frame + 77, 150_000}
	for _, v := range variants(1) {
		for i, size := range sizes {
			data := sample(uint64(i), size)
			raw := build(t, "some.pdb", v.method, data, v.blocks(data), i%2 == 1)
			var out bytes.Buffer
			f, err := Expand(context.Background(), &out, bytes.NewReader(raw), math.MaxInt64)
			if err != nil || f.Name != "some.pdb" || f.Size != int64(size) {
				t.Fatalf("%s, %d bytes: %+v, %v", v.name, size, f, err)
			}
			if !bytes.Equal(out.Bytes(), data) {
				t.Fatalf("%s, %d bytes: not what was compressed", v.name, size)
			}
		}
	}
}

// TestLZXFar has matches across the whole of the largest window, and goes round
// it.
func TestLZXFar(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	for _, bits := range []int{minWindow, 17, maxWindow} {
		data := sample(3, 5<<20)
		raw := build(t, "x", lzx|uint16(bits)<<8, data, lzxFrames(2, data, bits, 5<<20), false)
		var out bytes.Buffer
		if _, err := Expand(context.Background(), &out, bytes.NewReader(raw), math.MaxInt64); err != nil {
			t.Fatal(bits, err)
		}
		if !bytes.Equal(out.Bytes(), data) {
			t.Fatalf("window of %d bits: not what was compressed", bits)
		}
	}
}

// TestCabextract has another program read what the tests make, so that the
// encoder and the decoder do not agree on a mistake.
func TestCabextract(t *testing.T) {
	tool, err := exec.LookPath("cabextract")
	if err != nil {
		t.Skip("cabextract is not installed")
	}
	for i, v := range variants(4) {
		data := sample(uint64(i), 200_000)
		file := filepath.Join(t.TempDir(), "x.cab")
		if err := os.WriteFile(file, build(t, "some.pdb", v.method, data, v.blocks(data), i%2 == 0), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(tool, "-q", "-p", file).Output()
		if err != nil {
			t.Errorf("%s: %v", v.name, err)
		} else if !bytes.Equal(out, data) {
			t.Errorf("%s: cabextract reads something else", v.name)
		}
	}
}

// TestGcab reads a cabinet that another program made.
func TestGcab(t *testing.T) {
	tool, err := exec.LookPath("gcab")
	if err != nil {
		t.Skip("gcab is not installed")
	}
	dir := t.TempDir()
	data := sample(9, 300_000)
	if err := os.WriteFile(filepath.Join(dir, "some.pdb"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, flag := range []string{"-c", "-cz"} {
		cmd := exec.Command(tool, flag, "x.cab", "some.pdb")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", flag, err, out)
		}
		raw, err := os.ReadFile(filepath.Join(dir, "x.cab"))
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if _, err := Expand(context.Background(), &out, bytes.NewReader(raw), math.MaxInt64); err != nil || !bytes.Equal(out.Bytes(), data) {
			t.Errorf("%s: %v, equal: %t", flag, err, bytes.Equal(out.Bytes(), data))
		}
	}
}

func TestRefused(t *testing.T) {
	data := sample(1, 70_000)
	good := build(t, "some.pdb", mszip, data, zipBlocks(data), false)
	lz := build(t, "some.pdb", lzx|16<<8, data, lzxFrames(1, data, 16, 0), false)
	change := func(b []byte, at int, v ...byte) []byte {
		b = bytes.Clone(b)
		copy(b[at:], v)
		return b
	}
	noSum := func(b []byte, at int, v ...byte) []byte {
		b = change(b, at, v...)
		pos := 36 + folderAt + fileAt + len("some.pdb") + 1
		for pos < len(b) {
			copy(b[pos:], "\x00\x00\x00\x00")
			pos += dataAt + int(le.Uint16(b[pos+4:]))
		}
		return b
	}
	first := 36 + folderAt + fileAt + len("some.pdb") + 1
	cases := []struct {
		name  string
		raw   []byte
		limit int64
		want  error
		text  string
	}{
		{"empty", nil, 1 << 30, ErrMalformed, "header"},
		{"another file", []byte(strings.Repeat("<html>", 20)), 1 << 30, ErrMalformed, `begins with "<htm"`},
		{"version", change(good, 25, 2), 1 << 30, ErrUnsupported, "version 2"},
		{"a set", change(good, 30, 2), 1 << 30, ErrUnsupported, "set of cabinets"},
		{"no files", change(good, 28, 0), 1 << 30, ErrMalformed, "0 files"},
		{"quantum", change(good, 42, 2), 1 << 30, ErrUnsupported, "Quantum"},
		{"kind", change(good, 42, 9), 1 << 30, ErrUnsupported, "kind 9"},
		{"window", change(lz, 43, 30), 1 << 30, ErrMalformed, "window of 30"},
		{"too large", good, 69_999, ErrTooLarge, "70000"},
		{"says 2 GB", change(good, 44, 0xFF, 0xFF, 0xFF, 0x7E), 1 << 40, ErrMalformed, "blocks of 32 KiB"},
		{"cut", good[:len(good)-1], 1 << 30, ErrMalformed, "ends in the block"},
		{"spoilt", change(good, len(good)-5, 1, 2, 3), 1 << 30, ErrMalformed, "check sum"},
		{"mszip signature", noSum(good, first+dataAt, 'X'), 1 << 30, ErrMalformed, "CK"},
		{"lzx block", noSum(lz, first+dataAt, 0xFF, 0xFF), 1 << 30, ErrMalformed, "LZX"},
		{"spanning", change(good, 44+8, 0xFD, 0xFF), 1 << 30, ErrUnsupported, "several"},
		{"files before the header", change(good, 16, 1, 0, 0, 0), 1 << 30, ErrMalformed, "lies before"},
		{"files behind the end", change(good, 16, 0, 0, 0, 0xFF), 1 << 30, ErrMalformed, "ends before"},
	}
	for _, c := range cases {
		_, err := Expand(context.Background(), io.Discard, bytes.NewReader(c.raw), c.limit)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Expand(ctx, io.Discard, bytes.NewReader(good), 1<<30); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func FuzzExpand(f *testing.F) {
	data := sample(1, 2000)
	for _, v := range variants(2)[:5] {
		f.Add(build(f, "x.pdb", v.method, data, v.blocks(data), true))
		f.Add(build(f, "x.pdb", v.method, data[:100], v.blocks(data[:100]), false))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		// Check sums would stop most of it.
		raw = bytes.Clone(raw)
		if len(raw) > 40 {
			at := int(le.Uint32(raw[36:]))
			for n := 0; n < 100 && at >= 0 && at+8 < len(raw); n++ {
				copy(raw[at:], "\x00\x00\x00\x00")
				at += dataAt + int(le.Uint16(raw[at+4:]))
			}
		}
		var out bytes.Buffer
		file, err := Expand(context.Background(), &out, bytes.NewReader(raw), 1<<22)
		if err == nil && int64(out.Len()) != file.Size || int64(out.Len()) > 1<<22 {
			t.Fatalf("%d bytes of %d", out.Len(), file.Size)
		}
	})
}

func BenchmarkExpand(b *testing.B) {
	data := sample(1, 2<<20)
	for _, v := range variants(1) {
		if v.name != "mszip" && v.name != "lzx21 e8 0" {
			continue
		}
		raw := build(b, "x.pdb", v.method, data, v.blocks(data), false)
		b.Run(v.name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if _, err := Expand(context.Background(), io.Discard, bytes.NewReader(raw), 1<<30); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
