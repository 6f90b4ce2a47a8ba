package cpu

import (
	"fmt"
	"testing"
)

// pageTables builds page tables for tests. Tables are at physical 0x20000 on.
type pageTables struct {
	c    *CPU
	m    *ram
	next uint64
}

const kernelBase = 0xFFFFF80000000000

func paged(t testing.TB) (*CPU, *pageTables) {
	m := newRAM(0x40000)
	c := &CPU{Mem: m, CS: 0x10, SS: 0x18}
	c.InitLongMode()
	p := &pageTables{c: c, m: m, next: 0x21000}
	c.CR3 = 0x20000
	return c, p
}

func (p *pageTables) get(a uint64) uint64 { v, _ := p.c.readPhys64(a); return v }

// mapPage maps at a level: 0 is 4K, 1 is 2M, 2 is 1G.
func (p *pageTables) mapPage(lin, phys, bits uint64, level int) (pte uint64) {
	table := p.c.CR3
	for l := 3; l > level; l-- {
		a := table + lin>>(12+9*l)&0x1FF*8
		e := p.get(a)
		if e == 0 {
			e = p.next | pteP | pteW | pteU
			p.next += 4096
			p.c.writePhys64(a, e)
		}
		table = e & pteAddr
	}
	a := table + lin>>(12+9*level)&0x1FF*8
	if level > 0 {
		bits |= ptePS
	}
	p.c.writePhys64(a, phys|bits)
	p.c.FlushTLB()
	return a
}

func TestTranslateSizes(t *testing.T) {
	c, p := paged(t)
	p.mapPage(kernelBase, 0x3000, pteP|pteW, 0)
	p.mapPage(kernelBase+0x40000000, 0x200000, pteP|pteW, 1)
	p.mapPage(kernelBase+0x8000000000, 0, pteP, 2)
	for _, tc := range []struct{ lin, phys uint64 }{
		{kernelBase + 0x123, 0x3123},
		{kernelBase + 0x40000000 + 0x12345, 0x212345},
		{kernelBase + 0x8000000000 + 0x3ABCDEF0, 0x3ABCDEF0},
	} {
		if got, ok, code := c.Translate(tc.lin, false, false, false); !ok || got != tc.phys {
			t.Errorf("%#x -> %#x %v %#x, want %#x", tc.lin, got, ok, code, tc.phys)
		}
	}
	if _, ok, _ := c.Translate(1<<47, false, false, false); ok {
		t.Error("a non-canonical address translated")
	}
	c.CR0 &^= CR0PG
	if got, ok, _ := c.Translate(1<<47, true, true, true); !ok || got != 1<<47 {
		t.Error("no identity without paging")
	}
}

// TestRights tries every access to every kind of page, by the rules in words.
func TestRights(t *testing.T) {
	for mask := range 1 << 9 {
		bit := func(n int) bool { return mask>>n&1 != 0 }
		present, writable, userPage, nx := bit(0), bit(1), bit(2), bit(3)
		write, user, wp, smep := bit(4), bit(5), bit(6), bit(7)
		exec := bit(8) && !write
		c, p := paged(t)
		bits := uint64(0)
		for n, b := range []uint64{pteP, pteW, pteU, pteNX} {
			if bit(n) {
				bits |= b
			}
		}
		p.mapPage(0x400000, 0x5000, bits, 0)
		if !wp {
			c.CR0 &^= CR0WP
		}
		if smep {
			c.CR4 |= CR4SMEP
		}
		want := present
		if user && !userPage || write && !writable && (user || wp) || exec && nx || exec && !user && userPage && smep {
			want = false
		}
		_, ok, code := c.Translate(0x400000, write, exec, user)
		name := fmt.Sprintf("present %v writable %v user page %v nx %v: write %v exec %v user %v wp %v smep %v",
			present, writable, userPage, nx, write, exec, user, wp, smep)
		if ok != want {
			t.Fatalf("%s: %v, want %v", name, ok, want)
		}
		if !ok {
			var wantCode uint64
			for b, on := range map[uint64]bool{pfP: present, pfW: write, pfU: user, pfI: exec} {
				if on {
					wantCode |= b
				}
			}
			if code != wantCode {
				t.Fatalf("%s: error code %#x, want %#x", name, code, wantCode)
			}
		}
	}
}

func TestReservedBits(t *testing.T) {
	c, p := paged(t)
	p.mapPage(0x400000, 0x5000, pteP|pteNX, 0)
	p.mapPage(0x40000000, 0x201000|1<<13, pteP, 1)
	c.EFER &^= EFERNXE
	for _, a := range []uint64{0x400000, 0x40000000} {
		if _, ok, code := c.Translate(a, false, false, false); ok || code != pfP|pfRsvd {
			t.Errorf("%#x: %v, error code %#x", a, ok, code)
		}
	}
}

func TestAccessedAndDirty(t *testing.T) {
	c, p := paged(t)
	pte := p.mapPage(0x400000, 0x5000, pteP|pteW, 0)
	p.mapPage(0x1000, 0x1000, pteP, 0)
	c.WriteLinear(0x1000, code(t, "48 8b 03  48 89 03")) // mov rax, [rbx]; mov [rbx], rax
	c.RIP, c.R[RBX] = 0x1000, 0x400000
	c.Translate(0x400000, true, false, false)
	var b [8]byte
	c.ReadLinear(0x400000, b[:])
	c.WriteLinear(0x400000, b[:])
	if v := p.get(pte); v&(pteA|pteD) != 0 {
		t.Fatalf("the owner's access marked the page: %#x", v)
	}
	steps(t, c, 1)
	if v := p.get(pte); v&(pteA|pteD) != pteA {
		t.Fatalf("after a read: %#x", v)
	}
	if v := p.get(c.CR3); v&pteA == 0 {
		t.Fatalf("upper level not accessed: %#x", v)
	}
	steps(t, c, 1)
	if v := p.get(pte); v&(pteA|pteD) != pteA|pteD {
		t.Fatalf("after a write: %#x", v)
	}
}

// TestFaultRestarts lets instructions fault and then, the page being there,
// complete: nothing may have changed in between.
func TestFaultRestarts(t *testing.T) {
	for _, tc := range []struct{ name, text string }{
		{"push", "50"},
		{"push memory", "ff 33"},
		{"call", "e8 00 00 00 00"},
		{"call memory", "ff 13"},
		{"pop memory", "8f 03"},
		{"add to memory", "48 01 03"},
		{"xchg", "48 87 03"},
		{"cmpxchg", "f0 48 0f b1 0b"},
		{"cmpxchg16b", "f0 48 0f c7 0b"},
		{"rol memory", "48 d1 03"},
		{"bts memory", "0f ab 0b"},
		{"movs", "48 a5"},
		{"movups", "0f 11 03"},
		{"movups load", "0f 10 03"},
		{"enter", "c8 10 00 02"},
		{"fxsave", "0f ae 03"},
		{"sidt", "0f 01 0b"},
		{"setcc", "0f 94 03"},
		{"iretq", "48 cf"},
		{"div", "48 f7 33"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, p := paged(t)
			p.mapPage(0x1000, 0x1000, pteP, 0)
			c.WriteLinear(0x1000, code(t, tc.text))
			c.RIP = 0x1000
			for k := range c.R {
				c.R[k] = uint64(k) * 0x1111
			}
			c.R[RBX] = 0x400000
			c.R[RSP] = 0x600008 // enter and call also cross into the page below
			c.R[RBP] = 0x600000 // enter reads the outer frame
			c.R[RSI], c.R[RDI] = 0x400000, 0x600000
			c.RFlags |= FlagCF | FlagRF
			before := *c
			e := c.Step()
			wantEx(t, e, VecPF)
			if c.R != before.R || c.RIP != before.RIP || c.RFlags != before.RFlags || c.XMM != before.XMM {
				t.Fatalf("changed by the fault:\n%x %#x\n%x %#x", before.R, before.RFlags, c.R, c.RFlags)
			}
			if c.CR2 != e.Addr {
				t.Fatalf("cr2 %#x, address %#x", c.CR2, e.Addr)
			}
			for k := uint64(0x3FF000); k < 0x602000; k += 0x1000 {
				p.mapPage(k, 0x2000, pteP|pteW, 0)
			}
			if tc.name == "iretq" || tc.name == "div" {
				return // the frame and the divisor are zero
			}
			if e := c.Step(); e != nil {
				t.Fatalf("%+v once the page is there", *e)
			}
		})
	}
}

func TestPageCrossing(t *testing.T) {
	c, p := paged(t)
	p.mapPage(0x1000, 0x1000, pteP, 0)
	p.mapPage(0x400000, 0x5000, pteP|pteW, 0)
	c.WriteLinear(0x1000, code(t, "48 89 03"))
	c.RIP, c.R[RBX], c.R[RAX] = 0x1000, 0x400FFD, 0x1122334455667788
	e := c.Step()
	wantEx(t, e, VecPF)
	if e.Addr != 0x401000 || e.Error != pfW {
		t.Fatalf("%+v", *e)
	}
	if v := p.get(0x5FF8); v != 0 {
		t.Fatalf("half a store was made: %#x", v)
	}
	p.mapPage(0x401000, 0x9000, pteP|pteW, 0) // not adjacent in physical memory
	steps(t, c, 1)
	if a, b := p.get(0x5FF8), p.get(0x9000); a != 0x6677880000000000 || b != 0x1122334455 {
		t.Fatalf("%#x %#x", a, b)
	}
	// The same for code: the fetch faults on the page that is missing, and
	// only where the instruction reaches it.
	p.mapPage(0x7FF000, 0x6000, pteP, 0)
	c.WriteLinear(0x7FFFFE, []byte{0x31, 0xC0}) // xor eax, eax just fits
	c.RIP = 0x7FFFFE
	steps(t, c, 1)
	c.WriteLinear(0x7FFFFE, []byte{0x48, 0x89})
	c.RIP = 0x7FFFFE
	e = c.Step()
	wantEx(t, e, VecPF)
	if e.Addr != 0x800000 || e.Error != pfI {
		t.Fatalf("%+v", *e)
	}
}

func TestUserModeAndInvalidation(t *testing.T) {
	c, p := paged(t)
	p.mapPage(0x1000, 0x1000, pteP|pteU, 0)
	p.mapPage(0x400000, 0x5000, pteP|pteW|pteU, 0)
	p.mapPage(kernelBase, 0x6000, pteP|pteW, 0)
	c.WriteLinear(0x1000, code(t, "48 89 03  48 89 01  f4"))
	c.RIP, c.R[RBX], c.R[RCX] = 0x1000, 0x400000, kernelBase
	c.Run(2) // as the kernel: both fill the TLB
	c.RIP, c.CS = 0x1000, 0x33
	steps(t, c, 1)
	e := c.Step()
	wantEx(t, e, VecPF)
	if e.Error != pfP|pfW|pfU || e.Addr != kernelBase {
		t.Fatalf("%+v", *e)
	}
	c.RIP = 0x1006
	wantEx(t, c.Step(), VecGP) // hlt in ring 3
	// A page made read-only is still writable until the TLB is told.
	c.CS, c.RIP = 0x10, 0x1000
	pte := p.mapPage(0x400000, 0x5000, pteP|pteW|pteU, 0)
	steps(t, c, 1)
	c.writePhys64(pte, 0x5000|pteP|pteU|pteA|pteD)
	c.RIP = 0x1000
	steps(t, c, 1)
	c.RIP = 0x1000
	c.CR3 |= 8 // as a reload of cr3 by the owner
	wantEx(t, c.Step(), VecPF)
}

func TestSMAP(t *testing.T) {
	c, p := paged(t)
	p.mapPage(0x1000, 0x1000, pteP, 0)
	p.mapPage(0x400000, 0x5000, pteP|pteW|pteU, 0)
	c.CR4 |= CR4SMAP
	c.WriteLinear(0x1000, code(t, "0f 01 cb 48 8b 03  0f 01 ca 48 8b 03")) // stac; load; clac; load
	c.RIP, c.R[RBX] = 0x1000, 0x400000
	steps(t, c, 3)
	wantEx(t, c.Step(), VecPF)
}

func TestNonCanonical(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		vec        int
	}{
		{"data", "48 8b 03", VecGP},
		{"stack", "58", VecSS},
		{"through rbp", "48 8b 45 00", VecSS},
		{"jump", "ff e3", VecGP},
		{"call", "ff d3", VecGP},
		{"gs", "65 48 8b 04 25 00 00 00 00", VecGP},
	} {
		c, p := paged(t)
		p.mapPage(0x1000, 0x1000, pteP, 0)
		c.WriteLinear(0x1000, code(t, tc.text))
		c.RIP = 0x1000
		for k := range c.R {
			c.R[k] = 0x0000800000000000
		}
		c.GSBase = 1 << 60
		e := c.Step()
		if e == nil || e.Vector != tc.vec || e.Error != 0 || c.RIP != 0x1000 {
			t.Errorf("%s: %+v", tc.name, e)
		}
	}
}

func TestNoMemory(t *testing.T) {
	c, _ := machine(t, "48 8b 03 48 89 03")
	c.R[RBX] = 1 << 40
	steps(t, c, 2)
	if c.R[RAX] != ^uint64(0) {
		t.Fatalf("read %#x from nowhere", c.R[RAX])
	}
	var b [4]byte
	if n := c.ReadLinear(1<<16-2, b[:]); n != 2 {
		t.Fatalf("the owner read %d bytes across the end of memory", n)
	}
}
