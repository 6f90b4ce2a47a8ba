package pdb

import "openkd/image/sym"

// simpleType describes a type that has a fixed number: its low byte says what
// it is, the next four bits whether it is a pointer to that.
func simpleType(ti uint32) sym.Type {
	t := sym.Type{ID: sym.TypeID(ti)}
	if mode := ti >> 8 & 0xf; mode != 0 {
		t.Kind, t.Elem = sym.Pointer, sym.TypeID(ti&0xff)
		switch mode {
		case 1: // 16 bits
			t.Size = 2
		case 2, 3, 4: // 16:16, 32 bits
			t.Size = 4
		case 5: // 16:32
			t.Size = 6
		case 6:
			t.Size = 8
		case 7:
			t.Size = 16
		}
		return t
	}
	set := func(kind sym.TypeKind, name string, size uint64, signed bool) {
		t.Kind, t.Name, t.Size, t.Signed = kind, name, size, signed
	}
	switch ti & 0xff {
	case 0x03:
		set(sym.Void, "void", 0, false)
	case 0x08:
		set(sym.Int, "HRESULT", 4, true)
	case 0x10:
		set(sym.Char, "signed char", 1, true)
	case 0x11:
		set(sym.Int, "short", 2, true)
	case 0x12:
		set(sym.Int, "long", 4, true)
	case 0x13, 0x76:
		set(sym.Int, "__int64", 8, true)
	case 0x14, 0x78:
		set(sym.Int, "__int128", 16, true)
	case 0x20:
		set(sym.Char, "unsigned char", 1, false)
	case 0x21:
		set(sym.Int, "unsigned short", 2, false)
	case 0x22:
		set(sym.Int, "unsigned long", 4, false)
	case 0x23, 0x77:
		set(sym.Int, "unsigned __int64", 8, false)
	case 0x24, 0x79:
		set(sym.Int, "unsigned __int128", 16, false)
	case 0x30:
		set(sym.Bool, "bool", 1, false)
	case 0x31:
		set(sym.Bool, "__bool16", 2, false)
	case 0x32:
		set(sym.Bool, "__bool32", 4, false)
	case 0x33:
		set(sym.Bool, "__bool64", 8, false)
	case 0x40, 0x45:
		set(sym.Float, "float", 4, true)
	case 0x41:
		set(sym.Float, "double", 8, true)
	case 0x42:
		set(sym.Float, "long double", 10, true)
	case 0x43:
		set(sym.Float, "__float128", 16, true)
	case 0x44:
		set(sym.Float, "__float48", 6, true)
	case 0x46:
		set(sym.Float, "__half", 2, true)
	case 0x68:
		set(sym.Int, "__int8", 1, true)
	case 0x69:
		set(sym.Int, "unsigned __int8", 1, false)
	case 0x70:
		set(sym.Char, "char", 1, true)
	case 0x71:
		set(sym.WChar, "wchar_t", 2, false)
	case 0x72:
		set(sym.Int, "__int16", 2, true)
	case 0x73:
		set(sym.Int, "unsigned __int16", 2, false)
	case 0x74:
		set(sym.Int, "int", 4, true)
	case 0x75:
		set(sym.Int, "unsigned int", 4, false)
	case 0x7a:
		set(sym.WChar, "char16_t", 2, false)
	case 0x7b:
		set(sym.Char, "char32_t", 4, false)
	case 0x7c:
		set(sym.Char, "char8_t", 1, false)
	default:
		// Complex numbers, segments, "not translated": of the last two
		// nothing is known, of the first nothing is done with them.
		set(sym.Opaque, "", 0, false)
	}
	return t
}
