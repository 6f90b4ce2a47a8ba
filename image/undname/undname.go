// Package undname reads the names that Microsoft's C++ compiler and those
// compatible with it give to functions and variables for the linker.
//
// It makes the declaration as undname prints it, or the plain name as a person
// and the compiler's own debug information write it. It undecorates no names of
// other compilers (_Z...), no C names (_f@8), and decorates nothing.
//
// The scheme was never published by Microsoft. What is here follows the
// description on Wikiversity ("Visual C++ name mangling"), LLVM's comments on
// its grammar, and comparison with llvm-undname.
//
// Names come from files: their length, the depth of what they describe and the
// length of the result are bounded.
package undname

import (
	"errors"
	"strings"
)

// Bounds. Compilers hash names of more than 4096 characters.
const (
	maxInput  = 16 << 10
	maxDepth  = 200
	maxOutput = 32 << 10 // of one name or part of it
	maxWork   = 1 << 20  // of all parts together
)

// ErrInvalid says that a text is no decorated C++ name.
var ErrInvalid = errors.New("not a decorated C++ name")

// Full returns the whole declaration: access, type, calling convention, name and
// parameters, in the words of llvm-undname:
//
//	public: int __cdecl ns::Array<int, 8>::at(int) const
func Full(decorated string) (string, error) {
	d := demangler{in: decorated}
	return d.run()
}

// Name returns the name alone, as debug information has it: no parameters, no
// struct or class before types, no blanks after commas.
//
//	ns::Array<int,8>::at
//
// False: it is no decorated C++ name.
func Name(decorated string) (string, bool) {
	d := demangler{in: decorated, short: true}
	s, err := d.run()
	return s, err == nil
}

// demangler reads one name from front to back.
type demangler struct {
	in    string // what is left
	short bool
	bad   bool
	depth int
	work  int // bytes rendered so far
	refs  refs
	last  identifier // of the last symbol
}

// refs are what digits refer back to. Template arguments have their own.
type refs struct {
	names []string
	types []*node // of parameters
}

const maxRefs = 10

func (d *demangler) run() (string, error) {
	if len(d.in) > maxInput {
		return "", ErrInvalid
	}
	var s string
	switch {
	case strings.HasPrefix(d.in, "."):
		d.in = d.in[1:]
		t := d.typ(quals{result: true})
		if s = d.render(func(b *buffer) { t.declare(b, "`RTTI Type Descriptor Name'") }); d.in != "" {
			d.bad = true
		}
	case strings.HasPrefix(d.in, "??@"):
		// A hash of what was too long.
		s = d.in
		if strings.IndexByte(s[3:], '@') < 0 {
			d.bad = true
		}
	case strings.HasPrefix(d.in, "?"):
		s = d.symbol()
	default:
		d.bad = true
	}
	if d.bad || s == "" {
		return "", ErrInvalid
	}
	return s, nil
}

// enter counts the depth of what describes each other; every enter has a leave.
func (d *demangler) enter() {
	if d.depth++; d.depth > maxDepth {
		d.bad = true
	}
}

func (d *demangler) leave() { d.depth-- }

// peek returns the next character; 0: the end, or the name is bad.
func (d *demangler) peek() byte {
	if d.bad || d.in == "" {
		return 0
	}
	return d.in[0]
}

// next takes a character, which must be there.
func (d *demangler) next() byte {
	c := d.peek()
	if c == 0 {
		d.bad = true
		return 0
	}
	d.in = d.in[1:]
	return c
}

// skip takes a text if it is next.
func (d *demangler) skip(s string) bool {
	if d.bad || !strings.HasPrefix(d.in, s) {
		return false
	}
	d.in = d.in[len(s):]
	return true
}

// must takes a text that has to be next.
func (d *demangler) must(s string) {
	if !d.skip(s) {
		d.bad = true
	}
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// number takes a number: a digit is one less than it stands for, larger ones
// are hexadecimal with letters from A, ? is minus.
func (d *demangler) number() (v uint64, minus bool) {
	minus = d.skip("?")
	if isDigit(d.peek()) {
		return uint64(d.next()-'0') + 1, minus
	}
	for i := 0; ; i++ {
		c := d.next()
		switch {
		case c == '@' && i > 0:
			return v, minus
		case c >= 'A' && c <= 'P' && i < 16:
			v = v<<4 | uint64(c-'A')
		default:
			d.bad = true
			return 0, false
		}
	}
}

// signed takes a number as a signed one.
func (d *demangler) signed() int64 {
	v, minus := d.number()
	if minus {
		return -int64(v)
	}
	return int64(v)
}

// offset takes a number of 32 bits, negative ones with or without minus.
func (d *demangler) offset() int32 { return int32(d.signed()) }

// remember keeps a name for back references.
func (d *demangler) remember(s string) {
	if len(d.refs.names) >= maxRefs || d.bad {
		return
	}
	for _, n := range d.refs.names {
		if n == s {
			return
		}
	}
	d.refs.names = append(d.refs.names, s)
}

func (d *demangler) nameRef() string {
	i := int(d.next() - '0')
	if i >= len(d.refs.names) {
		d.bad = true
		return ""
	}
	return d.refs.names[i]
}

// buffer collects a bounded text.
type buffer struct {
	strings.Builder
	short bool
	over  bool
}

func (b *buffer) write(s ...string) {
	for _, s := range s {
		if b.Len()+len(s) > maxOutput {
			b.over = true
			return
		}
		b.WriteString(s)
	}
}

// gap writes a blank after what must not run into a word.
func (b *buffer) gap() {
	s := b.String()
	if s == "" {
		return
	}
	if c := s[len(s)-1]; c == '>' || isDigit(c) || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
		b.write(" ")
	}
}

func (d *demangler) render(f func(b *buffer)) string {
	b := buffer{short: d.short}
	f(&b)
	d.work += b.Len()
	if b.over || d.work > maxWork {
		d.bad = true
		return ""
	}
	return b.String()
}

// symbol takes a whole symbol and returns its declaration, or its name.
func (d *demangler) symbol() string {
	d.enter()
	defer d.leave()
	if d.bad {
		return ""
	}
	d.must("?")
	if s, ok := d.special(); ok {
		return s
	}
	n := d.qualified()
	s := d.encoding(n)
	d.last = n.id
	return s
}

// encoding takes what follows a name: what it is the name of.
func (d *demangler) encoding(n qualified) string {
	c := d.peek()
	if d.short && d.depth == 1 && !n.conversion() {
		// What follows does not change the name.
		if !isDigit(c) && c != '$' && (c < 'A' || c > 'Z') {
			d.bad = true
		}
		return d.render(func(b *buffer) { n.write(b, nil) })
	}
	if c >= '0' && c <= '4' {
		return d.variable(n)
	}
	f := d.function()
	if n.conversion() && f.sig.elem == nil {
		d.bad = true
	}
	if d.bad {
		return ""
	}
	name := d.render(func(b *buffer) { n.write(b, f.sig.elem) })
	if d.short {
		return name
	}
	return d.render(func(b *buffer) { f.declare(b, name) })
}

// variable takes the storage class, type and qualifiers of a variable.
func (d *demangler) variable(n qualified) string {
	class := d.next()
	t := d.typ(quals{})
	if d.bad {
		return ""
	}
	if t.kind == pointer {
		t.quals |= d.pointerQuals()
		q, _ := d.cv()
		if t.class != "" {
			d.typeName()
		}
		t.elem = t.elem.with(q)
	} else {
		q, _ := d.cv()
		t.quals = q
	}
	name := d.render(func(b *buffer) { n.write(b, nil) })
	if d.short || d.bad {
		return name
	}
	return d.render(func(b *buffer) {
		if class <= '2' {
			b.write([]string{"private: static ", "protected: static ", "public: static "}[class-'0'])
		}
		t.declare(b, name)
	})
}
