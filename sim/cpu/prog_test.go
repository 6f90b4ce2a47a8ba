package cpu

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"math/bits"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestCompiledPrograms runs what a C compiler made of testdata/prog.c at
// several optimisation levels and compares with Go.
func TestCompiledPrograms(t *testing.T) {
	const (
		base, in, out, stack = 0x10000, 0x30000, 0x38000, 0x50000
	)
	r := rand.New(rand.NewPCG(7, 8))
	input := make([]byte, 4000)
	for k := range input {
		input[k] = byte(r.Uint32())
	}
	names, err := filepath.Glob("testdata/prog_*.bin")
	if err != nil || len(names) != 3 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for which, want := range [][]byte{goSHA(input), goSort(input), goDivide(input), goMachine(input), goFloats(input)} {
			if which == 4 && filepath.Base(name) == "prog_int.bin" {
				continue
			}
			c, _ := paged(t)
			c.Mem = newRAM(0x60000)
			c.CR0 &^= CR0PG
			c.WriteLinear(base, text)
			c.WriteLinear(in, input)
			c.RIP = base
			c.R[RCX], c.R[RDX], c.R[R8], c.R[R9] = uint64(which), in, uint64(len(input)), out
			c.R[RSP] = stack - 0x28
			poke(t, c, c.R[RSP], 0x20000) // returns to a hlt
			c.WriteLinear(0x20000, []byte{0xF4})
			n, e := c.Run(20_000_000)
			if e != nil || !c.Halted {
				t.Fatalf("%s, routine %d: %d instructions, %+v at %#x", name, which, n, e, c.RIP)
			}
			if c.R[RAX] != uint64(len(want)) || c.R[RSP] != stack-0x20 {
				t.Errorf("%s, routine %d: returned %d, rsp %#x", name, which, c.R[RAX], c.R[RSP])
			}
			got := make([]byte, len(want))
			c.ReadLinear(out, got)
			if !slices.Equal(got, want) {
				t.Errorf("%s, routine %d:\n got %x\nwant %x", name, which, got[:32%(len(got)+1)], want[:32%(len(got)+1)])
			}
		}
	}
}

func goSHA(in []byte) []byte { s := sha256.Sum256(in); return s[:] }

func goSort(in []byte) (out []byte) {
	var v []int64
	for k := 0; k+8 <= len(in); k += 8 {
		v = append(v, int64(binary.LittleEndian.Uint64(in[k:])))
	}
	slices.Sort(v)
	for _, x := range v {
		out = binary.LittleEndian.AppendUint64(out, uint64(x))
	}
	return out
}

func goDivide(in []byte) []byte {
	acc := uint64(1)
	for k := 0; k+16 <= len(in); k += 16 {
		a, b := binary.LittleEndian.Uint64(in[k:]), binary.LittleEndian.Uint64(in[k+8:])
		acc = acc*31 + a/(b|1) + uint64(int64(a)%int64(b>>1|1))
		acc = acc*31 + uint64(uint32(a)/(uint32(b)|1)) + uint64(int64(int32(a)%int32(uint32(b)>>1|1)))
		hi, _ := bits.Mul64(a, b)
		acc ^= hi
		acc += uint64(uint16(a)/(uint16(b)|1)) + uint64(int64(int8(a)/(int8(b&0x7F)|1)))
	}
	return binary.LittleEndian.AppendUint64(nil, acc)
}

func goMachine(in []byte) []byte {
	r, x := uint64(0), uint64(1)
	for _, b := range in {
		switch b & 15 {
		case 0:
			r += x
		case 1:
			r -= x
		case 2:
			r ^= x << 7
		case 3:
			x = bits.RotateLeft64(x, -3)
		case 4:
			r *= 3
		case 5:
			x += uint64(b)
		case 6:
			r = bits.ReverseBytes64(r)
		case 7:
			x ^= uint64(bits.OnesCount64(r))
		case 8:
			x = ^x
		case 9:
			r = max(r, x) - min(r, x)
		case 10:
			if int64(x) < 0 {
				x += 5
			} else {
				x += 9
			}
		case 11:
			if r != 0 {
				x += uint64(bits.TrailingZeros64(r))
			}
		case 12:
			if r != 0 {
				x += uint64(bits.LeadingZeros64(r))
			}
		case 13:
			r = uint64(int64(r) >> 5)
		case 14:
			x = r<<(x&63) | 1
		default:
			r += 0x9E3779B97F4A7C15
		}
	}
	return binary.LittleEndian.AppendUint64(nil, r^x)
}

func goFloats(in []byte) []byte {
	var sum float64
	least := 1e300
	var low float32
	for k := 0; k+4 <= len(in); k += 4 {
		v := int32(binary.LittleEndian.Uint32(in[k:]))
		s := math.Sqrt(math.Abs(float64(v) / 3))
		sum = sum + s
		sum = sum - float64(uint32(v))
		least = min(least, s)
		low = float32(low * 0.5) // the conversion forbids a fused multiply and add
		low = low + float32(v)
	}
	out := binary.LittleEndian.AppendUint64(nil, math.Float64bits(sum))
	out = binary.LittleEndian.AppendUint64(out, math.Float64bits(least))
	out = binary.LittleEndian.AppendUint64(out, math.Float64bits(float64(low)))
	return binary.LittleEndian.AppendUint64(out, uint64(int64(sum/1024)))
}
