package dwarf

import (
	"bytes"
	std "debug/dwarf"
	"encoding/binary"
	"fmt"
	"os"
	"testing"
)

// The large image of the benchmarks.
const (
	bigUnits     = 2000
	bigFunctions = 300 // of a unit
	bigData      = 200 // of a unit
	bigTypes     = 50  // of a unit
	bigFunction  = 16  // bytes of a procedure
	bigBase      = 0x140000000
	bigDataRVA   = 0x10000000
)

// bigImage writes an image as MinGW's linker would: a million symbols, DWARF 4
// for 600,000 procedures with their parameters and lines, 400,000 variables and
// 100,000 structures. It has no code.
func bigImage(path string) error {
	var info, abbrevs, str, line, aranges, symbols, strings asm
	abbrevs.abbrev(1, std.TagCompileUnit, 1, attrName, formStrp, u(std.AttrCompDir), formStrp, u(std.AttrLanguage), formData1,
		u(std.AttrLowpc), formAddr, u(std.AttrHighpc), formData4, u(std.AttrStmtList), formSecOffset).
		abbrev(2, std.TagBaseType, 0, attrName, formStrp, u(std.AttrByteSize), formData1, u(std.AttrEncoding), formData1).
		abbrev(3, std.TagStructType, 1, attrName, formStrp, u(std.AttrByteSize), formData1, attrSibling, formRef4).
		abbrev(4, std.TagMember, 0, attrName, formStrp, attrType, formRef4, u(std.AttrDataMemberLoc), formData1).
		abbrev(5, std.TagSubprogram, 1, attrName, formStrp, u(std.AttrExternal), formFlagPresent, u(std.AttrDeclLine), formData2, attrType, formRef4,
			u(std.AttrLowpc), formAddr, u(std.AttrHighpc), formData4, u(std.AttrFrameBase), formExprloc, attrSibling, formRef4).
		abbrev(6, std.TagFormalParameter, 0, attrName, formStrp, attrType, formRef4, u(std.AttrLocation), formExprloc).
		abbrev(7, std.TagVariable, 0, attrName, formStrp, u(std.AttrExternal), formFlagPresent, attrType, formRef4, u(std.AttrLocation), formExprloc).
		abbrev(8, std.TagSubprogram, 1, attrName, formStrp, u(std.AttrDeclLine), formData2, attrType, formRef4,
			u(std.AttrLowpc), formAddr, u(std.AttrHighpc), formData4, u(std.AttrFrameBase), formExprloc, attrSibling, formRef4).
		u8(0)
	text := func(s string) uint32 {
		at := uint32(str.Len())
		str.str(s)
		return at
	}
	// Section headers have room for seven digits: their names come first.
	long := map[string]int{}
	for _, name := range []string{".debug_info", ".debug_abbrev", ".debug_line", ".debug_str", ".debug_aranges"} {
		if long[name] = 4 + strings.Len(); len(name) > 8 {
			strings.str(name)
		}
	}
	symbol := func(name string, value uint32, section, typ uint16, class uint8) {
		symbols.u32(0).u32(uint32(4+strings.Len())).u32(value).u16(section).u16(typ).u8(class, 0)
		strings.str(name)
	}
	integer, argument, dir := text("int"), text("argument"), text("/bench")
	members := []uint32{text("first_member"), text("second_member"), text("third_member")}
	for unit := range bigUnits {
		begin := info.Len()
		here := func() uint32 { return uint32(info.Len() - begin) }
		code := uint64(bigBase + 0x1000 + unit*bigFunctions*bigFunction)
		aranges.u32(44).u16(2).u32(uint32(begin)).u8(8, 0).u32(0).u64(code).u64(bigFunctions * bigFunction).u64(0).u64(0)
		info.u32(0).u16(4).u32(0).u8(8)
		info.u8(1).u32(text(fmt.Sprintf("unit_%d.c", unit))).u32(dir).u8(0x0C).u64(code).u32(bigFunctions * bigFunction).u32(uint32(line.Len()))
		number := here()
		info.u8(2).u32(integer).u8(4, 5)
		for i := range bigTypes {
			at := here()
			info.u8(3).u32(text(fmt.Sprintf("structure_%d_%d", unit, i))).u8(12).u32(at + 1 + 4 + 1 + 4 + 3*10 + 1)
			for k, m := range members {
				info.u8(4).u32(m).u32(number).u8(uint8(4 * k))
			}
			info.u8(0)
		}
		for i := range bigFunctions {
			name := fmt.Sprintf("function_%d_%d", unit, i)
			at := here()
			rva := uint32((unit*bigFunctions + i) * bigFunction)
			tag, class := uint8(5), uint8(coffExternal)
			if i%10 == 9 {
				tag, class = 8, coffStatic
			}
			info.u8(tag).u32(text(name)).u16(uint16(2*i+1)).u32(number).u64(bigBase+0x1000+uint64(rva)).u32(bigFunction).u8(1, opCallFrameCFA)
			info.u32(at + 1 + 4 + 2 + 4 + 8 + 4 + 2 + 4 + 12 + 1)
			info.u8(6).u32(argument).u32(number).u8(2, opFbreg, 8)
			info.u8(0)
			symbol(name, rva, 1, coffFunction, class)
		}
		for i := range bigData {
			name := fmt.Sprintf("variable_%d_%d", unit, i)
			at := uint32((unit*bigData + i) * 8)
			info.u8(7).u32(text(name)).u32(number).u8(9, opAddr).u64(bigBase + bigDataRVA + uint64(at))
			symbol(name, at, 2, 0, coffExternal)
		}
		info.u8(0)
		binary.LittleEndian.PutUint32(info.Bytes()[begin:], here()-4)
		// Two lines of each procedure.
		head := new(asm).u8(1, 1, 1, 0xFB, 14, 13).u8(0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1).u8(0).str(fmt.Sprintf("unit_%d.c", unit)).u8(0, 0, 0, 0)
		program := new(asm).u8(0, 9, lneSetAddress).u64(code).u8(lnsCopy)
		program.Write(bytes.Repeat([]byte{13 + 5 + 1 + 14*8}, 2*bigFunctions-1))
		program.u8(lnsAdvancePC, 8, 0, 1, lneEndSequence)
		line.u32(uint32(6 + head.Len() + program.Len())).u16(4).u32(uint32(head.Len()))
		line.Write(head.Bytes())
		line.Write(program.Bytes())
	}
	type section struct {
		name  string
		data  []byte
		rva   uint32
		size  uint32
		flags uint32
	}
	sections := []section{
		{".text", nil, 0x1000, bigUnits * bigFunctions * bigFunction, 0x60000020},
		{".data", nil, bigDataRVA, bigUnits * bigData * 8, 0xC0000080},
	}
	at := uint32(0x20000000)
	for name, data := range map[string][]byte{".debug_info": info.Bytes(), ".debug_abbrev": abbrevs.Bytes(), ".debug_str": str.Bytes(),
		".debug_line": line.Bytes(), ".debug_aranges": aranges.Bytes()} {
		sections = append(sections, section{name, data, at, uint32(len(data)), 0x42100040})
		at = (at + uint32(len(data)) + 0xFFF) &^ 0xFFF
	}
	var head asm
	head.WriteString("MZ")
	head.Write(make([]byte, 58))
	head.u32(64)
	offset := uint32(0x400)
	body := offset
	for _, s := range sections {
		body += uint32(len(s.data)+0x1FF) &^ 0x1FF
	}
	head.WriteString("PE\x00\x00")
	head.u16(machineX64).u16(uint16(len(sections))).u32(0).u32(body).u32(uint32(symbols.Len() / coffSymbol)).u16(240).u16(0x22)
	head.u16(0x20B).u16(0).u32(0).u32(0).u32(0).u32(0x1000).u32(0x1000).u64(bigBase).u32(0x1000).u32(0x200).u64(4).u64(0).u32(at).u32(uint32(offset)).u32(0)
	head.u16(1).u16(0).u64(0).u64(0).u64(0).u64(0).u32(0).u32(16)
	head.Write(make([]byte, 128))
	for _, s := range sections {
		name := s.name
		if len(name) > 8 {
			name = fmt.Sprintf("/%d", long[name])
		}
		head.WriteString(name)
		head.Write(make([]byte, 8-len(name)))
		raw := uint32(0)
		if s.data != nil {
			raw = offset
		}
		head.u32(s.size).u32(s.rva).u32(uint32(len(s.data)+0x1FF) &^ 0x1FF).u32(raw).u64(0).u32(0).u32(s.flags)
		offset += uint32(len(s.data)+0x1FF) &^ 0x1FF
	}
	head.Write(make([]byte, 0x400-head.Len()))
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	write := func(b []byte) {
		if err == nil {
			_, err = f.Write(b)
		}
	}
	write(head.Bytes())
	for _, s := range sections {
		write(s.data)
		write(make([]byte, -len(s.data)&0x1FF))
	}
	write(symbols.Bytes())
	write(binary.LittleEndian.AppendUint32(nil, uint32(4+strings.Len())))
	write(strings.Bytes())
	if err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// TestGenerate is no test: it writes the large file for the benchmark of package
// sym, which compares with gdb and nm.
func TestGenerate(t *testing.T) {
	path := os.Getenv("OPENKD_DWARF_GENERATE")
	if path == "" {
		t.Skip("it is for a benchmark")
	}
	if err := bigImage(path); err != nil {
		t.Fatal(err)
	}
}
