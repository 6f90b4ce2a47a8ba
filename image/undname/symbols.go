package undname

import (
	"fmt"
	"strconv"
	"strings"
)

// special takes the symbols whose names begin with a code and whose rest is
// like no other's: tables, descriptions of types, texts, guards.
func (d *demangler) special() (string, bool) {
	switch {
	case d.skip("?_7"):
		return d.table("`vftable'"), true
	case d.skip("?_8"):
		return d.table("`vbtable'"), true
	case d.skip("?_S"):
		return d.table("`local vftable'"), true
	case d.skip("?_R4"):
		return d.table("`RTTI Complete Object Locator'"), true
	case d.skip("?_9"):
		return d.vcall(), true
	case d.skip("?_B"):
		return d.guard("`local static guard'"), true
	case d.skip("?__J"):
		return d.guard("`local static thread guard'"), true
	case d.skip("?_C"):
		return d.text(), true
	case d.skip("?_R0"):
		t := d.typ(quals{result: true})
		d.must("@8")
		return d.render(func(b *buffer) { t.declare(b, "`RTTI Type Descriptor'") }), true
	case d.skip("?_R1"):
		nv := d.signed()
		ptr, table, flags := d.signed(), d.signed(), d.signed()
		return d.untyped(fmt.Sprintf("`RTTI Base Class Descriptor at (%d, %d, %d, %d)'", nv, ptr, table, flags)), true
	case d.skip("?_R2"):
		return d.untyped("`RTTI Base Class Array'"), true
	case d.skip("?_R3"):
		return d.untyped("`RTTI Class Hierarchy Descriptor'"), true
	case d.skip("?__E"):
		return d.dynamic("`dynamic initializer for "), true
	case d.skip("?__F"):
		return d.dynamic("`dynamic atexit destructor for "), true
	}
	return "", false
}

// inScopes takes scopes and puts them before a name.
func (d *demangler) inScopes(name string) string {
	q := qualified{id: identifier{text: name}, scope: d.scopes()}
	return d.render(func(b *buffer) { q.write(b, nil) })
}

// table takes a table of virtual functions or bases.
func (d *demangler) table(name string) string {
	s := d.inScopes(name)
	if c := d.next(); c != '6' && c != '7' {
		d.bad = true
	}
	q, _ := d.cv()
	var targets []string // the way to the base
	for !d.bad && !d.skip("@") {
		targets = append(targets, d.typeName())
	}
	if d.short {
		return s
	}
	return d.render(func(b *buffer) {
		q.write(b)
		b.gap()
		b.write(s)
		if len(targets) > 0 {
			b.write("{for `", strings.Join(targets, "'s `"), "'}")
		}
	})
}

// untyped takes a symbol without type.
func (d *demangler) untyped(name string) string {
	s := d.inScopes(name)
	d.must("8")
	return s
}

// vcall takes a function that calls through a table of virtual functions.
func (d *demangler) vcall() string {
	s := d.inScopes("`vcall'")
	d.must("$B")
	off, _ := d.number()
	d.must("A")
	convention := d.convention()
	if d.short {
		return s
	}
	return d.render(func(b *buffer) {
		b.write("[thunk]: ", convention, " ", s, "{", strconv.FormatUint(off, 10), ", {flat}}")
	})
}

// guard takes a variable that says whether local variables were initialised.
func (d *demangler) guard(name string) string {
	s := d.inScopes(name)
	if !d.skip("4IA") {
		d.must("5")
	}
	if d.bad || d.in == "" {
		return s
	}
	n, _ := d.number()
	if n == 0 || d.short {
		return s
	}
	return s + "{" + strconv.FormatUint(n, 10) + "}"
}

// dynamic takes a function that initialises or destroys a variable.
func (d *demangler) dynamic(name string) string {
	var of string
	member := d.skip("?")
	q := d.qualified()
	if c := d.peek(); c >= '0' && c <= '4' {
		s := d.variable(q)
		of = "`" + s + "''"
		// Some compilers leave out one of the two characters.
		d.must("@")
		if member {
			d.must("@")
		}
	} else {
		if member {
			d.bad = true
		}
		of = "'" + d.render(func(b *buffer) { q.write(b, nil) }) + "''"
	}
	return d.encoding(qualified{id: identifier{text: name + of}})
}

// Bits of what a function is.
type class uint8

const (
	isStatic class = 1 << iota
	isVirtual
	isGlobal
	isThunk // with an offset that is fixed
)

// function takes what a function is, and its type.
func (d *demangler) function() *node {
	externC := d.skip("$$J0")
	if d.skip("9") {
		return &node{kind: function, sig: &signature{prefix: `extern "C" `, noParam: true}}
	}
	var c class
	var access, thunk string
	switch letter := d.next(); {
	case letter >= 'A' && letter <= 'X':
		i := (letter - 'A') / 2
		access = []string{"private: ", "protected: ", "public: "}[i/4]
		c = []class{0, isStatic, isVirtual, isVirtual | isThunk}[i%4]
	case letter == 'Y' || letter == 'Z':
		c = isGlobal
	case letter == '$':
		// A thunk for a virtual base: the offset is in the object.
		ex := d.skip("R")
		which := d.next()
		if which < '0' || which > '5' {
			d.bad = true
			return &node{kind: function, sig: &signature{}}
		}
		access = []string{"private: ", "protected: ", "public: "}[(which-'0')/2]
		c = isVirtual
		if ex {
			a, e, o, s := d.offset(), d.offset(), d.offset(), d.offset()
			thunk = fmt.Sprintf("`vtordispex{%d, %d, %d, %d}'", a, e, o, s)
		} else {
			o, s := d.offset(), d.offset()
			thunk = fmt.Sprintf("`vtordisp{%d, %d}'", o, s)
		}
	default:
		d.bad = true
	}
	if c&isThunk != 0 {
		thunk = "`adjustor{" + strconv.Itoa(int(d.offset())) + "}'"
	}
	n := d.functionType(c&(isGlobal|isStatic) == 0)
	s := n.sig
	if thunk != "" {
		s.prefix = "[thunk]: "
	}
	s.prefix += access
	s.thunk = thunk
	if c&isStatic != 0 {
		s.prefix += "static "
	}
	if c&isVirtual != 0 {
		s.prefix += "virtual "
	}
	if externC {
		s.prefix += `extern "C" `
	}
	return n
}

// text takes a literal: whether its characters are wide, its length, a checksum,
// and its first bytes.
func (d *demangler) text() string {
	d.must("@_")
	wide := false
	switch d.next() {
	case '0':
	case '1':
		wide = true
	default:
		d.bad = true
	}
	size, minus := d.number()
	if minus || size == 0 {
		d.bad = true
	}
	for !d.bad && d.next() != '@' {
	}
	const most = 128 // bytes; compilers keep 32
	var raw []byte
	for !d.bad && !d.skip("@") {
		if raw = append(raw, d.textByte()); len(raw) > most {
			d.bad = true
		}
	}
	if d.bad || wide && len(raw)%2 != 0 {
		d.bad = true
		return ""
	}
	if d.short {
		return "`string'"
	}
	cut := size > uint64(len(raw))
	each, prefix := 1, ""
	if wide {
		each, prefix, cut = 2, "L", size > 64
	} else if each = charSize(raw, size); each > 1 {
		prefix = map[int]string{2: "u", 4: "U"}[each]
	}
	return d.render(func(b *buffer) {
		b.write(prefix, `"`)
		for i := 0; i+each <= len(raw); i += each {
			last := i+2*each > len(raw)
			if wide {
				last = size == uint64(i+each)
			}
			if last && !cut {
				break // the zero at the end
			}
			var v uint32
			for j := range each {
				if wide {
					v = v<<8 | uint32(raw[i+j])
				} else {
					v |= uint32(raw[i+j]) << (8 * j)
				}
			}
			b.write(escape(v))
		}
		b.write(`"`)
		if cut {
			b.write("...")
		}
	})
}

// textByte takes a byte of a text.
func (d *demangler) textByte() byte {
	if !d.skip("?") {
		return d.next()
	}
	if d.skip("$") {
		hi, lo := d.next()-'A', d.next()-'A'
		if hi > 15 || lo > 15 {
			d.bad = true
		}
		return hi<<4 | lo
	}
	switch c := d.next(); {
	case isDigit(c):
		return ",/\\:. \n\t'-"[c-'0']
	case c >= 'a' && c <= 'z':
		return c - 'a' + 0xe1
	case c >= 'A' && c <= 'Z':
		return c - 'A' + 0xc1
	}
	d.bad = true
	return 0
}

// charSize guesses how many bytes a character has: the name does not say. Short
// texts end in a zero of that size, in longer ones the zeros are counted.
func charSize(raw []byte, size uint64) int {
	if size%2 == 1 || len(raw) == 0 {
		return 1
	}
	if size < 32 {
		zeros := 0
		for i := len(raw) - 1; i >= 0 && raw[i] == 0; i-- {
			zeros++
		}
		switch {
		case zeros >= 4 && size%4 == 0:
			return 4
		case zeros >= 2:
			return 2
		}
		return 1
	}
	zeros := 0
	for _, c := range raw {
		if c == 0 {
			zeros++
		}
	}
	switch {
	case zeros >= 2*len(raw)/3 && size%4 == 0:
		return 4
	case zeros >= len(raw)/3:
		return 2
	}
	return 1
}

func escape(v uint32) string {
	switch v {
	case 0:
		return `\0`
	case '\'':
		return `\'`
	case '"':
		return `\"`
	case '\\':
		return `\\`
	case '\a':
		return `\a`
	case '\b':
		return `\b`
	case '\f':
		return `\f`
	case '\n':
		return `\n`
	case '\r':
		return `\r`
	case '\t':
		return `\t`
	case '\v':
		return `\v`
	}
	if v > 0x1f && v < 0x7f {
		return string(rune(v))
	}
	s := fmt.Sprintf("%X", v)
	if len(s)%2 == 1 {
		s = "0" + s
	}
	return `\x` + s
}
