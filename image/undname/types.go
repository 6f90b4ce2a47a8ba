package undname

import "strconv"

// quals are qualifiers of a type.
type qualSet uint8

const (
	qConst qualSet = 1 << iota
	qVolatile
	qRestrict
	qUnaligned
	qPtr64 // it has 64 bits; not written
)

// quals says where the qualifiers of a type stand.
type quals struct {
	always bool // in front of it
	result bool // in front of it after a question mark
}

type kind uint8

const (
	primitive kind = iota
	pointer        // to elem
	array          // of elem
	function
)

// node is a type.
type node struct {
	kind  kind
	quals qualSet
	name  string // of a primitive type, a class, an enumeration
	elem  *node  // pointed to, of an array's element, of what is returned
	sign  string // of a pointer: * & &&
	class string // of a pointer to member
	dims  []uint64
	sig   *signature
}

// signature is the rest of a function's type.
type signature struct {
	elem       *node // what it returns; nil: nothing is said
	convention string
	params     []*node
	variadic   bool
	noexcept   bool
	quals      qualSet
	ref        string
	// Of a symbol.
	prefix  string // access and the like
	thunk   string // behind the name
	noParam bool
}

// with returns the type with further qualifiers.
func (n *node) with(q qualSet) *node {
	if n.quals|q == n.quals {
		return n
	}
	c := *n
	c.quals |= q
	return &c
}

// write writes qualifiers, a blank before each.
func (q qualSet) write(b *buffer) {
	for _, x := range []struct {
		q qualSet
		s string
	}{{qConst, "const"}, {qVolatile, "volatile"}, {qRestrict, "__restrict"}} {
		if q&x.q != 0 {
			b.gap()
			b.write(x.s)
		}
	}
}

// declare writes a declaration of something of this type.
func (n *node) declare(b *buffer, name string) {
	n.pre(b, true)
	if name != "" {
		b.gap()
		b.write(name)
	}
	n.post(b)
}

// pre writes what stands before the name.
func (n *node) pre(b *buffer, convention bool) {
	if b.over {
		return
	}
	switch n.kind {
	case primitive:
		b.write(n.name)
		n.quals.write(b)
	case array:
		n.elem.pre(b, true)
		n.quals.write(b)
	case function:
		s := n.sig
		b.write(s.prefix)
		if s.elem != nil {
			s.elem.pre(b, true)
			b.write(" ")
		}
		if convention {
			b.gap()
			b.write(s.convention)
		}
	case pointer:
		e := n.elem
		e.pre(b, false)
		b.gap()
		if n.quals&qUnaligned != 0 {
			b.write("__unaligned ")
		}
		switch e.kind {
		case array:
			b.write("(")
		case function:
			b.write("(", e.sig.convention, " ")
		}
		if n.class != "" {
			b.write(n.class, "::")
		}
		b.write(n.sign)
		n.quals.write(b)
	}
}

// post writes what stands behind the name.
func (n *node) post(b *buffer) {
	if b.over {
		return
	}
	switch n.kind {
	case array:
		for _, d := range n.dims {
			b.write("[")
			if d != 0 {
				b.write(strconv.FormatUint(d, 10))
			}
			b.write("]")
		}
		n.elem.post(b)
	case pointer:
		if n.elem.kind == array || n.elem.kind == function {
			b.write(")")
		}
		n.elem.post(b)
	case function:
		n.sig.post(b)
	}
}

func (s *signature) post(b *buffer) {
	b.write(s.thunk)
	if !s.noParam {
		b.write("(")
		if len(s.params) == 0 && !s.variadic {
			b.write("void")
		}
		comma := ", "
		if b.short {
			comma = ","
		}
		for i, p := range s.params {
			if i > 0 {
				b.write(comma)
			}
			p.declare(b, "")
		}
		if s.variadic {
			if len(s.params) > 0 {
				b.write(comma)
			}
			b.write("...")
		}
		b.write(")")
	}
	for _, x := range []struct {
		q qualSet
		s string
	}{{qConst, " const"}, {qVolatile, " volatile"}, {qRestrict, " __restrict"}, {qUnaligned, " __unaligned"}} {
		if s.quals&x.q != 0 {
			b.write(x.s)
		}
	}
	if s.noexcept {
		b.write(" noexcept")
	}
	b.write(s.ref)
	if s.elem != nil {
		s.elem.post(b)
	}
}

// cv takes qualifiers; member: of a member.
func (d *demangler) cv() (q qualSet, member bool) {
	switch c := d.next(); c {
	case 'A', 'B', 'C', 'D':
		return qualSet(c - 'A'), false
	case 'Q', 'R', 'S', 'T':
		return qualSet(c - 'Q'), true
	}
	d.bad = true
	return 0, false
}

// pointerQuals takes the qualifiers that only pointers have.
func (d *demangler) pointerQuals() (q qualSet) {
	if d.skip("E") {
		q |= qPtr64
	}
	if d.skip("I") {
		q |= qRestrict
	}
	if d.skip("F") {
		q |= qUnaligned
	}
	return q
}

// Simple types by their letter, and by their letter after an underscore.
const (
	simpleLetters = "XDCEFGHIJKMNO"
	longLetters   = "NJKWQSULM"
)

var (
	simpleNames = [...]string{"void", "char", "signed char", "unsigned char", "short", "unsigned short", "int",
		"unsigned int", "long", "unsigned long", "float", "double", "long double"}
	longNames = [...]string{"bool", "__int64", "unsigned __int64", "wchar_t", "char8_t", "char16_t", "char32_t",
		"__int128", "unsigned __int128"}
)

// typ takes a type.
func (d *demangler) typ(where quals) *node {
	d.enter()
	defer d.leave()
	var q qualSet
	if where.always || where.result && d.skip("?") {
		q, _ = d.cv()
	}
	var n *node
	switch c := d.peek(); c {
	case 'T', 'U', 'V', 'W':
		n = d.tagged()
	case 'A', 'B', 'P', 'Q', 'R', 'S':
		n = d.pointer()
	case 'Y':
		n = d.array()
	case '?':
		// A name of the compiler, such as <auto>.
		d.next()
		n = &node{name: d.typeIdentifier()}
		d.must("@")
	case '_':
		d.next()
		n = letter(d.next(), longLetters, longNames[:])
	case '$':
		switch {
		case d.skip("$$A8@@"):
			n = d.functionType(true)
		case d.skip("$$A6"):
			n = d.functionType(false)
		case d.skip("$$T"):
			n = &node{name: "std::nullptr_t"}
		default:
			n = d.pointer()
		}
	default:
		n = letter(d.next(), simpleLetters, simpleNames[:])
	}
	if n == nil {
		d.bad = true
	}
	if d.bad {
		return &node{}
	}
	return n.with(q)
}

// letter returns the type of a letter; nil: none.
func letter(c byte, letters string, names []string) *node {
	for i := range len(letters) {
		if letters[i] == c {
			return &node{name: names[i]}
		}
	}
	return nil
}

// tagged takes a class, structure, union or enumeration.
func (d *demangler) tagged() *node {
	key := map[byte]string{'T': "union ", 'U': "struct ", 'V': "class ", 'W': "enum "}[d.peek()]
	if d.next() == 'W' {
		d.must("4") // an enumeration of int, as all are said to be
	}
	name := d.typeName()
	if d.short {
		key = ""
	}
	return &node{name: key + name}
}

// pointer takes a pointer or a reference.
func (d *demangler) pointer() *node {
	n := &node{kind: pointer, sign: "*"}
	switch {
	case d.skip("$$Q"):
		n.sign = "&&"
	case d.skip("$$R"):
		n.sign, n.quals = "&&", qVolatile
	default:
		switch d.next() {
		case 'A':
			n.sign = "&"
		case 'B':
			n.sign, n.quals = "&", qVolatile
		case 'P':
		case 'Q':
			n.quals = qConst
		case 'R':
			n.quals = qVolatile
		case 'S':
			n.quals = qConst | qVolatile
		default:
			d.bad = true
			return n
		}
	}
	if d.skip("6") {
		n.elem = d.functionType(false)
		return n
	}
	n.quals |= d.pointerQuals()
	if d.skip("8") {
		n.class = d.typeName()
		n.elem = d.functionType(true)
		return n
	}
	q, member := d.cv()
	if member {
		n.class = d.typeName()
	}
	n.elem = d.typ(quals{}).with(q)
	return n
}

// maxDims bounds the dimensions of an array.
const maxDims = 64

func (d *demangler) array() *node {
	d.must("Y")
	n := &node{kind: array}
	count, minus := d.number()
	if count == 0 || count > maxDims || minus {
		d.bad = true
		return n
	}
	for range count {
		v, minus := d.number()
		if minus {
			d.bad = true
		}
		n.dims = append(n.dims, v)
	}
	if d.skip("$$C") {
		var member bool
		if n.quals, member = d.cv(); member {
			d.bad = true
		}
	}
	n.elem = d.typ(quals{})
	return n
}

// Calling conventions by pairs of letters, of which the second is exported.
var conventions = [...]string{"__cdecl", "__pascal", "__thiscall", "__stdcall", "__fastcall", "", "__clrcall", "__eabi", "__vectorcall"}

func (d *demangler) convention() string {
	switch c := d.next(); {
	case c == 'S':
		return "__attribute__((__swiftcall__)) "
	case c == 'W':
		return "__attribute__((__swiftasynccall__)) "
	case c == 'w':
		return "__regcall"
	case c >= 'A' && c <= 'Q':
		return conventions[(c-'A')/2]
	}
	d.bad = true
	return ""
}

// functionType takes a signature. this: its qualifiers come first.
func (d *demangler) functionType(this bool) *node {
	d.enter()
	defer d.leave()
	s := &signature{}
	n := &node{kind: function, sig: s}
	if this {
		s.quals = d.pointerQuals()
		if d.skip("G") {
			s.ref = " &"
		} else if d.skip("H") {
			s.ref = " &&"
		}
		q, _ := d.cv()
		s.quals |= q
	}
	s.convention = d.convention()
	if !d.skip("@") {
		s.elem = d.typ(quals{result: true})
	}
	s.params, s.variadic = d.params()
	if d.skip("_E") {
		s.noexcept = true
	} else {
		d.must("Z")
	}
	return n
}

func (d *demangler) params() (list []*node, variadic bool) {
	if d.skip("X") {
		return nil, false
	}
	for !d.bad {
		switch {
		case d.skip("@"):
			return list, false
		case d.skip("Z"):
			return list, true
		case isDigit(d.peek()):
			i := int(d.next() - '0')
			if i >= len(d.refs.types) {
				d.bad = true
				return nil, false
			}
			list = append(list, d.refs.types[i])
			continue
		}
		before := len(d.in)
		t := d.typ(quals{})
		list = append(list, t)
		// What is one character long is not worth a reference.
		if before-len(d.in) > 1 && len(d.refs.types) < maxRefs {
			d.refs.types = append(d.refs.types, t)
		}
	}
	return nil, false
}
