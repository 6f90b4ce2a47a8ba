package unwind

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"openkd/image/pe"
)

// fixtureBase is where the images of testdata are linked to.
const fixtureBase = 0x400000

var levels = []string{"0", "1", "2", "s"} // of optimisation

// fixture is an image of testdata.
type fixture struct {
	name string
	data []byte
	pe   *pe.Image
	im   Image
}

func openFixture(t testing.TB, name string) *fixture {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	p, err := pe.Open(bytes.NewReader(data), pe.File)
	if err != nil {
		t.Fatal(err)
	}
	im, err := NewImage(p, fixtureBase)
	if err != nil {
		t.Fatal(err)
	}
	return &fixture{name, data, p, im}
}

// functions lists the entries of the exception directory.
func (f *fixture) functions(t testing.TB) []pe.Function {
	t.Helper()
	fs, err := f.pe.Functions()
	if err != nil {
		t.Fatal(err)
	}
	var l []pe.Function
	if fs == nil {
		return nil
	}
	for i := range fs.Len() {
		fn, err := fs.At(i)
		if err != nil {
			t.Fatal(err)
		}
		l = append(l, fn)
	}
	return l
}

func (f *fixture) at(pc uint64) (Image, bool) {
	if pc >= fixtureBase && pc-fixtureBase < uint64(f.im.Size()) {
		return f.im, true
	}
	return nil, false
}

func (f *fixture) code(t testing.TB, rva uint32, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if err := f.im.ReadRVA(rva, b); err != nil {
		t.Fatal(err)
	}
	return b
}

var errHole = errors.New("not mapped")

// memory is sparse memory that counts its reads.
type memory struct {
	b        map[uint64]byte
	from, to uint64   // there is something here too, though nobody wrote it
	reads    []uint64 // addresses
	bytes    int
}

func (m *memory) Read(addr uint64, b []byte) (int, error) {
	m.reads = append(m.reads, addr)
	for i := range b {
		v, ok := m.byte(addr + uint64(i))
		if !ok {
			m.bytes += i
			return i, errHole
		}
		b[i] = v
	}
	m.bytes += len(b)
	return len(b), nil
}

func (m *memory) byte(addr uint64) (byte, bool) {
	v, ok := m.b[addr]
	if !ok && addr >= m.from && addr < m.to {
		return 0xA5, true
	}
	return v, ok
}

func (m *memory) put(addr, v uint64, n int) {
	if m.b == nil {
		m.b = map[uint64]byte{}
	}
	for i := range n {
		m.b[addr+uint64(i)] = byte(v >> (8 * i))
	}
}

func (m *memory) get(addr uint64, n int) (v uint64) {
	for i := n - 1; i >= 0; i-- {
		b, _ := m.byte(addr + uint64(i))
		v = v<<8 | uint64(b)
	}
	return v
}

func (m *memory) clone() *memory {
	c := &memory{b: make(map[uint64]byte, len(m.b)), from: m.from, to: m.to}
	for a, v := range m.b {
		c.b[a] = v
	}
	return c
}

func (m *memory) fill(from, to uint64) { m.from, m.to = from, to }

func at(name string, rva uint32) string { return fmt.Sprintf("%s+%#x", name, rva) }
