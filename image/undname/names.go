package undname

import (
	"strconv"
	"strings"
)

// qualified is a name with what it is in, innermost first.
type qualified struct {
	id    identifier
	scope []string
}

// identifier is the name itself.
type identifier struct {
	text string // of a plain one; before the class of ctors and dtors
	what identKind
	args string // of a template
}

type identKind uint8

const (
	plain identKind = iota
	constructor
	destructor
	conversion
)

func (q *qualified) conversion() bool { return q.id.what == conversion }

// write writes the name. result is what the function returns, the name of a
// conversion.
func (q *qualified) write(b *buffer, result *node) {
	for i := len(q.scope) - 1; i >= 0; i-- {
		b.write(q.scope[i], "::")
	}
	q.id.write(b, q.scope, result)
}

func (id *identifier) write(b *buffer, scope []string, result *node) {
	b.write(id.text)
	switch id.what {
	case constructor, destructor:
		if len(scope) > 0 {
			b.write(scope[0])
		}
	case conversion:
		b.write("operator", id.args)
		if result != nil {
			b.write(" ")
			result.declare(b, "")
		}
		return
	}
	b.write(id.args)
}

// qualified takes a name and its scopes.
func (d *demangler) qualified() qualified {
	var q qualified
	if isDigit(d.peek()) {
		q.id.text = d.nameRef()
	} else {
		q.id = d.identifier(true)
	}
	q.scope = d.scopes()
	if (q.id.what == constructor || q.id.what == destructor) && len(q.scope) == 0 {
		d.bad = true
	}
	return q
}

// identifier takes a name without scopes; remember: for back references.
func (d *demangler) identifier(remember bool) identifier {
	switch {
	case d.skip("?$"):
		return d.template()
	case d.skip("?"):
		return d.operator()
	}
	return identifier{text: d.simple(remember)}
}

// simple takes a name up to the @ behind it.
func (d *demangler) simple(remember bool) string {
	i := strings.IndexByte(d.in, '@')
	if i <= 0 || d.bad {
		d.bad = true
		return ""
	}
	s := d.in[:i]
	d.in = d.in[i+1:]
	if remember {
		d.remember(s)
	}
	return s
}

// typeName takes the name of a type with its scopes.
func (d *demangler) typeName() string {
	name := d.typeIdentifier()
	scope := d.scopes()
	return d.render(func(b *buffer) {
		for i := len(scope) - 1; i >= 0; i-- {
			b.write(scope[i], "::")
		}
		b.write(name)
	})
}

func (d *demangler) typeIdentifier() string {
	switch {
	case isDigit(d.peek()):
		return d.nameRef()
	case d.skip("?$"):
		return d.scopeTemplate()
	}
	return d.simple(true)
}

// scopeTemplate takes a template with its arguments that is a type or a scope,
// which can be referred back to.
func (d *demangler) scopeTemplate() string {
	id := d.template()
	s := d.render(func(b *buffer) { id.write(b, nil, nil) })
	d.remember(s)
	return s
}

// scopes takes what a name is in, up to the @ at the end.
func (d *demangler) scopes() []string {
	var list []string
	for !d.bad && !d.skip("@") {
		list = append(list, d.scope())
	}
	return list
}

func (d *demangler) scope() string {
	d.enter()
	defer d.leave()
	switch {
	case isDigit(d.peek()):
		return d.nameRef()
	case d.skip("?$"):
		return d.scopeTemplate()
	case d.skip("?A"):
		i := strings.IndexByte(d.in, '@')
		if i < 0 {
			d.bad = true
			return ""
		}
		// A reference to it has the compiler's number.
		d.remember(d.in[:i])
		d.in = d.in[i+1:]
		return "`anonymous namespace'"
	case d.peek() == '?':
		// In a function: a number, and the function.
		d.next()
		n, minus := d.number()
		if minus {
			d.bad = true
		}
		d.must("?")
		s := d.symbol()
		return d.render(func(b *buffer) { b.write("`", s, "'::`", strconv.FormatUint(n, 10), "'") })
	}
	return d.simple(true)
}

// template takes a template's name and arguments, which have back references
// of their own.
func (d *demangler) template() identifier {
	d.enter()
	defer d.leave()
	outer := d.refs
	d.refs = refs{}
	var id identifier
	if isDigit(d.peek()) {
		id.text = d.nameRef()
	} else {
		id = d.identifier(true)
	}
	id.args = d.templateArgs()
	d.refs = outer
	return id
}

func (d *demangler) templateArgs() string {
	var list []string
	for !d.bad && !d.skip("@") {
		if d.skip("$S") || d.skip("$$V") || d.skip("$$$V") || d.skip("$$Z") {
			continue // an empty pack, the end of one
		}
		list = append(list, d.templateArg())
	}
	return d.render(func(b *buffer) {
		b.write("<")
		for i, s := range list {
			switch {
			case i > 0 && d.short:
				b.write(",")
			case i > 0:
				b.write(", ")
			}
			b.write(s)
		}
		if d.short && strings.HasSuffix(b.String(), ">") {
			b.write(" ")
		}
		b.write(">")
	})
}

func (d *demangler) templateArg() string {
	switch {
	case d.skip("$$Y"):
		return d.typeName()
	case d.skip("$$B"):
		return d.typeText(quals{})
	case d.skip("$$C"):
		return d.typeText(quals{always: true})
	case d.skip("$0"):
		v, minus := d.number()
		s := strconv.FormatUint(v, 10)
		if minus {
			s = "-" + s
		}
		return s
	case d.skip("$1"):
		return d.memberArg(0)
	case d.skip("$H"):
		return d.memberArg(1)
	case d.skip("$I"):
		return d.memberArg(2)
	case d.skip("$J"):
		return d.memberArg(3)
	case strings.HasPrefix(d.in, "$E?"):
		d.skip("$E")
		return d.symbol()
	case d.skip("$F"):
		return d.offsets("", 2)
	case d.skip("$G"):
		return d.offsets("", 3)
	}
	return d.typeText(quals{})
}

func (d *demangler) typeText(where quals) string {
	t := d.typ(where)
	return d.render(func(b *buffer) { t.declare(b, "") })
}

// memberArg takes the address of something, with so many offsets.
func (d *demangler) memberArg(offsets int) string {
	var s string
	if d.peek() == '?' {
		s = d.symbol()
		// The name in it can be referred back to.
		last := d.last
		d.remember(d.render(func(b *buffer) { last.write(b, nil, nil) }))
	}
	if offsets == 0 {
		return "&" + s
	}
	return d.offsets(s, offsets)
}

// offsets takes the offsets of a pointer to member.
func (d *demangler) offsets(symbol string, n int) string {
	list := make([]string, 0, 4)
	if symbol != "" {
		list = append(list, symbol)
	}
	for range n {
		list = append(list, strconv.FormatInt(d.signed(), 10))
	}
	sep := ", "
	if d.short {
		sep = ","
	}
	return d.render(func(b *buffer) { b.write("{", strings.Join(list, sep), "}") })
}

// Operators and names of the compiler's own functions, by their letter, by it
// after one underscore, and after two.
var operators = [3]['Z' + 1]string{
	{
		'2': "operator new", '3': "operator delete", '4': "operator=", '5': "operator>>", '6': "operator<<",
		'7': "operator!", '8': "operator==", '9': "operator!=", 'A': "operator[]", 'C': "operator->",
		'D': "operator*", 'E': "operator++", 'F': "operator--", 'G': "operator-", 'H': "operator+",
		'I': "operator&", 'J': "operator->*", 'K': "operator/", 'L': "operator%", 'M': "operator<",
		'N': "operator<=", 'O': "operator>", 'P': "operator>=", 'Q': "operator,", 'R': "operator()",
		'S': "operator~", 'T': "operator^", 'U': "operator|", 'V': "operator&&", 'W': "operator||",
		'X': "operator*=", 'Y': "operator+=", 'Z': "operator-=",
	},
	{
		'0': "operator/=", '1': "operator%=", '2': "operator>>=", '3': "operator<<=", '4': "operator&=",
		'5': "operator|=", '6': "operator^=", 'D': "`vbase dtor'", 'E': "`vector deleting dtor'",
		'F': "`default ctor closure'", 'G': "`scalar deleting dtor'", 'H': "`vector ctor iterator'",
		'I': "`vector dtor iterator'", 'J': "`vector vbase ctor iterator'", 'K': "`virtual displacement map'",
		'L': "`eh vector ctor iterator'", 'M': "`eh vector dtor iterator'", 'N': "`eh vector vbase ctor iterator'",
		'O': "`copy ctor closure'", 'T': "`local vftable ctor closure'", 'U': "operator new[]", 'V': "operator delete[]",
	},
	{
		'A': "`managed vector ctor iterator'", 'B': "`managed vector dtor iterator'", 'C': "`EH vector copy ctor iterator'",
		'D': "`EH vector vbase copy ctor iterator'", 'G': "`vector copy ctor iterator'",
		'H': "`vector vbase copy constructor iterator'", 'I': "`managed vector vbase copy constructor iterator'",
		'L': "operator co_await", 'M': "operator<=>",
	},
}

// operator takes what follows the question mark of a name that is none.
func (d *demangler) operator() identifier {
	set := 0
	for set < 2 && d.skip("_") {
		set++
	}
	c := d.next()
	switch {
	case set == 0 && c == '0':
		return identifier{what: constructor}
	case set == 0 && c == '1':
		return identifier{what: destructor, text: "~"}
	case set == 0 && c == 'B':
		return identifier{what: conversion}
	case set == 2 && c == 'K':
		return identifier{text: `operator ""` + d.simple(false)}
	}
	var s string
	if int(c) < len(operators[set]) {
		s = operators[set][c]
	}
	if s == "" {
		d.bad = true
	}
	return identifier{text: s}
}
