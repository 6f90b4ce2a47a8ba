package pe

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"openkd/kdproto"
)

// withFunctions is build's image with entries at the start of .data, which is
// at 2000 and of which the file has 200 bytes.
func withFunctions(t testing.TB, machine kdproto.Machine, entries ...uint32) []byte {
	f := build(t)
	h := f[0x80:]
	le.PutUint16(h[4:], uint16(machine))
	le.PutUint32(h[24+112+8*DirException:], 0x2000)
	le.PutUint32(h[24+116+8*DirException:], uint32(4*len(entries)))
	for i, v := range entries {
		le.PutUint32(f[0x600+4*i:], v)
	}
	return f
}

func TestFunctions(t *testing.T) {
	x64 := []uint32{
		0x1000, 0x1010, 1,
		0x1010, 0x1080, 2, // with two entries inside, one in the other
		0x1020, 0x1060, 3,
		0x1030, 0x1040, 4,
		0x1090, 0x10A0, 5,
		0, 0, 0, 0, 0, 0, // padding
	}
	arm := []uint32{0x1000, 1, 0x1010, 2, 0x1090, 3}
	for _, c := range []struct {
		machine kdproto.Machine
		entries []uint32
		rva     uint32
		data    uint32 // of the entry that is found; 0: none
	}{
		{kdproto.MachineAMD64, x64, 0x0FFF, 0},
		{kdproto.MachineAMD64, x64, 0x1000, 1},
		{kdproto.MachineAMD64, x64, 0x100F, 1},
		{kdproto.MachineAMD64, x64, 0x1010, 2},
		{kdproto.MachineAMD64, x64, 0x1020, 3},
		{kdproto.MachineAMD64, x64, 0x103F, 4},
		{kdproto.MachineAMD64, x64, 0x1040, 3},
		{kdproto.MachineAMD64, x64, 0x1060, 2},
		{kdproto.MachineAMD64, x64, 0x1080, 0},
		{kdproto.MachineAMD64, x64, 0x109F, 5},
		{kdproto.MachineAMD64, x64, 0x10A0, 0},
		{kdproto.MachineAMD64, x64, 0xFFFFFFFF, 0},
		{kdproto.MachineARM64, arm, 0x0FFF, 0},
		{kdproto.MachineARM64, arm, 0x1000, 1},
		{kdproto.MachineARM64, arm, 0x108C, 2},
		{kdproto.MachineARM64, arm, 0x5000, 3},
	} {
		im, err := Open(bytes.NewReader(withFunctions(t, c.machine, c.entries...)), File)
		if err != nil {
			t.Fatal(err)
		}
		fs, err := im.Functions()
		if err != nil {
			t.Fatal(err)
		}
		fn, ok, err := fs.Find(c.rva)
		if err != nil || ok != (c.data != 0) || fn.Data != c.data {
			t.Errorf("%v %#x: %+v %v %v, want %d", c.machine, c.rva, fn, ok, err, c.data)
		}
	}
}

func TestFunctionsDamaged(t *testing.T) {
	open := func(b []byte) *Image {
		im, err := Open(bytes.NewReader(b), File)
		if err != nil {
			t.Fatal(err)
		}
		return im
	}
	for _, c := range []struct {
		name         string
		machine      kdproto.Machine
		rva, size    uint32
		none         bool
		wrap, onFind error
	}{
		{"none", kdproto.MachineAMD64, 0, 0, true, nil, nil},
		{"x86", kdproto.MachineI386, 0x2000, 0x30, true, nil, nil},
		{"ARM", kdproto.MachineARMNT, 0x2000, 0x30, false, ErrUnsupported, nil},
		{"beyond the image", kdproto.MachineAMD64, 0x5000, 0x2000, false, ErrMalformed, nil},
		{"huge", kdproto.MachineAMD64, 0x2000, 0xFFFFFFF0, false, ErrMalformed, nil},
		{"wraps around", kdproto.MachineAMD64, 0xFFFFFFF0, 0x30, false, ErrMalformed, nil},
	} {
		b := withFunctions(t, c.machine, 0x1000, 0x1010, 1)
		le.PutUint32(b[0x80+24+112+8*DirException:], c.rva)
		le.PutUint32(b[0x80+24+116+8*DirException:], c.size)
		fs, err := open(b).Functions()
		if c.wrap != nil {
			if !errors.Is(err, c.wrap) {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err != nil || (fs == nil) != c.none {
			t.Errorf("%s: %v %v", c.name, fs, err)
		}
	}
	// A file that ends early.
	b := withFunctions(t, kdproto.MachineAMD64, 0x1000, 0x1010, 1)
	fs, err := open(b[:0x600]).Functions()
	if err != nil || fs.Len() != 1 {
		t.Fatal(err)
	}
	if _, _, err := fs.Find(0x1000); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	if _, err := fs.At(0); err == nil {
		t.Error("an entry that is not there")
	}
}

func FuzzFunctions(f *testing.F) {
	f.Add(withFunctions(f, kdproto.MachineAMD64, 0x1000, 0x1010, 1, 0x1020, 0x1030, 2), uint32(0x1024))
	f.Add(withFunctions(f, kdproto.MachineAMD64, 0x2000, 0x3000, 1, 0x1000, 0x1010, 2, 0x1020, 0x1030, 3), uint32(0x1034))
	f.Add(withFunctions(f, kdproto.MachineARM64, 0x1000, 1, 0x1020, 2), uint32(0x1024))
	f.Fuzz(func(t *testing.T, b []byte, rva uint32) {
		im, err := Open(bytes.NewReader(b), File)
		if err != nil {
			return
		}
		fs, err := im.Functions()
		if err != nil || fs == nil {
			return
		}
		if fn, ok, err := fs.Find(rva); ok && err == nil && (rva < fn.Begin || fn.End != 0 && rva >= fn.End) {
			t.Errorf("%#x is found in %+v", rva, fn)
		}
	})
}
