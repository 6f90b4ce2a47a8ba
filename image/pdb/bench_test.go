package pdb

import (
	"bufio"
	"fmt"
	"os"
	"testing"
)

// The large PDB of the benchmarks.
const (
	bigModules   = 2000
	bigFunctions = 300 // of a module
	bigData      = 200 // of a module
	bigTypes     = 50  // of a module
)

func bigFunction(mod, i int) string {
	return fmt.Sprintf("bench::module_%d::function_%d_%d", mod, mod, i)
}

// bigFile writes a PDB of about 200 MB with a million public symbols, the
// private symbols and lines behind them, and 100,000 structures.
func bigFile(path string) error {
	b := newBuilder(machineX64)
	const size = 16 // of a function
	b.sections = []section{{rva: 0x1000, size: bigModules * bigFunctions * size, code: true}, {rva: 0x10000000, size: bigModules * bigData * 8}}
	args := b.typ(lfArgList, uint32(1), uint32(0x74))
	fn := b.typ(lfProcedure, uint32(0x74), uint8(0), uint8(0), uint16(1), args)
	for mod := range bigModules {
		m := b.module(fmt.Sprintf(`c:\bench\obj\module_%d.obj`, mod), uint32(mod*bigFunctions*size), bigFunctions*size)
		file := fmt.Sprintf(`c:\bench\src\module_%d.cpp`, mod)
		m.files = []string{file}
		for i := range bigFunctions {
			name := bigFunction(mod, i)
			off := uint32((mod*bigFunctions + i) * size)
			p := m.proc(sGProc32, name, fn, off, size)
			m.add(sFrameProc, uint32(0), uint32(0), uint32(0), uint32(0), uint32(0), uint16(0), uint32(1<<frameLocalShift|1<<frameParamShift))
			m.add(sLocal, uint32(0x74), uint16(localParam), "argument")
			m.add(sDefRangeFP, int32(8), off, uint16(1), uint16(size))
			m.end(p, sEnd)
			m.sub(subLines, off, uint16(1), uint16(0), uint32(size), uint32(0), uint32(2), uint32(28), uint32(0), uint32(10*i+1), uint32(8), uint32(10*i+2))
			b.global(sProcRef, uint32(0), p, uint16(mod+1), name)
			b.pub(fmt.Sprintf("?function_%d_%d@module_%d@bench@@YAHH@Z", mod, i, mod), 1, off, pubFunction)
		}
		m.sub(subChecksum, b.text(file), uint8(0), uint8(0))
		for i := range bigData {
			name := fmt.Sprintf("variable_of_module_%d_%d", mod, i)
			b.global(sGData32, uint32(0x74), uint32((mod*bigData+i)*8), uint16(2), name)
			b.pub(name, 2, uint32((mod*bigData+i)*8), 0)
		}
		for i := range bigTypes {
			fields := b.typ(lfFieldList, uint16(lfMember), uint16(3), uint32(0x74), uint16(0), "first_member", uint16(lfMember), uint16(3), uint32(0x77), uint16(8), "second_member",
				uint16(lfMember), uint16(3), uint32(0x670), uint16(16), "third_member")
			b.typ(lfStructure, uint16(3), uint16(0), fields, uint32(0), uint32(0), uint16(24), fmt.Sprintf("structure_%d_%d", mod, i))
		}
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	if err := writeMSF(w, b.build(), msfOptions{block: 4096}); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Close()
}

// TestGenerate is no test: it writes the large file for the benchmark of package
// sym, which compares with llvm-pdbutil.
func TestGenerate(t *testing.T) {
	path := os.Getenv("OPENKD_PDB_GENERATE")
	if path == "" {
		t.Skip("it is for a benchmark")
	}
	if err := bigFile(path); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkWarm is what further questions cost in a process that has the file
// open.
func BenchmarkWarm(b *testing.B) {
	f := open(b, "testdata/x64.pdb")
	b.Run("name", func(b *testing.B) {
		for b.Loop() {
			if s, err := f.ByName("optimised"); err != nil || len(s) != 1 {
				b.Fatal(s, err)
			}
		}
	})
	b.Run("address", func(b *testing.B) {
		for b.Loop() {
			if s, ok, err := f.ByRVA(0x1662); err != nil || !ok {
				b.Fatal(s, err)
			}
		}
	})
	b.Run("line", func(b *testing.B) {
		for b.Loop() {
			if l, ok, err := f.Line(0x1662); err != nil || !ok {
				b.Fatal(l, err)
			}
		}
	})
	b.Run("scopes", func(b *testing.B) {
		for b.Loop() {
			if s, err := f.Scopes(0x1662); err != nil || len(s) == 0 {
				b.Fatal(s, err)
			}
		}
	})
	b.Run("members", func(b *testing.B) {
		id, err := f.TypeByName("All")
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if m, err := f.Members(id); err != nil || len(m) == 0 {
				b.Fatal(m, err)
			}
		}
	})
}
