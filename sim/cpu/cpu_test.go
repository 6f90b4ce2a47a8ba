package cpu

import (
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"
)

// ram is plain memory with direct pages; slowRAM hides them.
type ram struct{ pages [][4096]byte }

func newRAM(size int) *ram { return &ram{pages: make([][4096]byte, size/4096)} }

func (m *ram) Page(a uint64) *[4096]byte {
	if a/4096 >= uint64(len(m.pages)) {
		return nil
	}
	return &m.pages[a/4096]
}

func (m *ram) ReadPhys(a uint64, p []byte) bool {
	pg := m.Page(a)
	return pg != nil && copy(p, pg[a&0xFFF:]) == len(p)
}

func (m *ram) WritePhys(a uint64, p []byte) bool {
	pg := m.Page(a)
	return pg != nil && copy(pg[a&0xFFF:], p) == len(p)
}

type slowRAM struct{ m *ram }

func (s slowRAM) ReadPhys(a uint64, p []byte) bool  { return s.m.ReadPhys(a, p) }
func (s slowRAM) WritePhys(a uint64, p []byte) bool { return s.m.WritePhys(a, p) }

func code(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Layout of the test machine without paging.
const (
	testCode  = 0x1000
	testData  = 0x4000
	testStack = 0x8000
)

// machine is a processor in ring 0 without paging, code at testCode.
func machine(t testing.TB, text string) (*CPU, *ram) {
	t.Helper()
	m := newRAM(1 << 16)
	c := &CPU{Mem: m, CS: 0x10, SS: 0x18, RIP: testCode}
	c.InitLongMode()
	c.CR0 &^= CR0PG
	c.R[RSP] = testStack
	c.WriteLinear(testCode, code(t, text))
	return c, m
}

func steps(t testing.TB, c *CPU, n int) {
	t.Helper()
	for k := range n {
		if e := c.Step(); e != nil {
			t.Fatalf("step %d at %#x: %+v", k, c.RIP, *e)
		}
	}
}

func peek(t testing.TB, c *CPU, a uint64) uint64 {
	t.Helper()
	var b [8]byte
	if c.ReadLinear(a, b[:]) != 8 {
		t.Fatalf("no memory at %#x", a)
	}
	return binary.LittleEndian.Uint64(b[:])
}

func poke(t testing.TB, c *CPU, a, v uint64) {
	t.Helper()
	if c.WriteLinear(a, binary.LittleEndian.AppendUint64(nil, v)) != 8 {
		t.Fatalf("no memory at %#x", a)
	}
}

// The bytes sum 1..rcx in a loop: add rax, rcx; dec rcx; jnz.
const sumLoop = "48 31 c0  48 01 c8  48 ff c9  75 f8  f4"

func TestRunLoop(t *testing.T) {
	for _, name := range []string{"paged", "plain"} {
		t.Run(name, func(t *testing.T) {
			c, m := machine(t, sumLoop)
			if name == "plain" {
				c.Mem = slowRAM{m}
			}
			c.R[RCX] = 1000
			n, e := c.Run(1 << 20)
			if e != nil || n != 1+3*1000+1 {
				t.Fatalf("ran %d, %+v", n, e)
			}
			if c.R[RAX] != 500500 || !c.Halted {
				t.Fatalf("rax = %d, halted %v", c.R[RAX], c.Halted)
			}
			if e := c.Step(); e != nil || c.RIP != testCode+uint64(len(code(t, sumLoop))) {
				t.Fatalf("a halted processor moved to %#x, %+v", c.RIP, e)
			}
		})
	}
}

func BenchmarkLoop(b *testing.B) {
	c, _ := machine(b, sumLoop)
	c.R[RCX] = 1 << 62
	n, e := c.Run(b.N)
	if e != nil || n != b.N {
		b.Fatal(n, e)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "Minstr/s")
}

// The inside of a copy loop with a call: memory, stack and branches.
const copyLoop = "48 8b 04 ce  48 89 04 cf  e8 0a 00 00 00  48 ff c1  48 83 e1 7f  eb ea 90  48 01 c2 c3"

func BenchmarkMemory(b *testing.B) {
	c, m := machine(b, copyLoop)
	p := &pageTables{c: c, m: m, next: 0xA000}
	c.CR3 = 0x9000
	for a := uint64(0); a < 0x9000; a += 0x1000 {
		p.mapPage(a, a, pteP|pteW, 0)
	}
	c.CR0 |= CR0PG
	c.R[RSI], c.R[RDI] = testData, testData+0x1000
	n, e := c.Run(b.N)
	if e != nil || n != b.N {
		b.Fatal(n, e)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "Minstr/s")
}
