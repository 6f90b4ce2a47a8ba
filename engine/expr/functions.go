package expr

import (
	"fmt"
	"strings"
)

// function is one of the $ functions. Strings says which arguments are text.
type function struct {
	text bool // two strings instead of numbers
	args int
	run  func(p *parser, at int, s []string, v []uint64) (uint64, error)
}

var functions map[string]function

func init() {
	// Set here because $iment reads memory through the parser, which uses the
	// table. It is never changed afterwards.
	functions = map[string]function{
		"$scmp": {true, 2, func(_ *parser, _ int, s []string, _ []uint64) (uint64, error) {
			return uint64(strings.Compare(s[0], s[1])), nil
		}},
		"$sicmp": {true, 2, func(_ *parser, _ int, s []string, _ []uint64) (uint64, error) {
			return uint64(strings.Compare(strings.ToLower(s[0]), strings.ToLower(s[1]))), nil
		}},
		"$spat": {true, 2, func(_ *parser, _ int, s []string, _ []uint64) (uint64, error) {
			return truth(Match(s[1], s[0])), nil
		}},
		"$vvalid": {false, 2, func(p *parser, at int, _ []string, v []uint64) (uint64, error) {
			ok, err := p.env.Valid(v[0], v[1])
			if err != nil {
				return 0, p.wrap(Memory, at, err)
			}
			return truth(ok), nil
		}},
		"$iment": {false, 1, (*parser).entry},
		"$fnsucc": {false, 3, func(p *parser, at int, _ []string, _ []uint64) (uint64, error) {
			return 0, p.fail(Unsupported, at, "$fnsucc needs the type of the function's result, and type information is not loaded")
		}},
	}
}

// entry is $iment: the entry point of the image at v[0], from its header.
func (p *parser) entry(at int, _ []string, v []uint64) (uint64, error) {
	base := v[0]
	read := func(off uint64, size int) (uint64, error) {
		n, err := p.env.Read(false, base+off, size)
		if err != nil {
			return 0, p.wrap(Memory, at, err)
		}
		return n, nil
	}
	mz, err := read(0, 2)
	if err != nil {
		return 0, err
	}
	lfanew, err := read(0x3c, 4)
	if err != nil {
		return 0, err
	}
	if mz != 0x5a4d || lfanew > 0x10000 {
		return 0, p.fail(Operand, at, "there is no image at %s", hex64(base))
	}
	sig, err := read(lfanew, 4)
	if err != nil {
		return 0, err
	}
	if sig != 0x4550 {
		return 0, p.fail(Operand, at, "there is no image at %s", hex64(base))
	}
	ep, err := read(lfanew+0x28, 4)
	return base + ep, err
}

func hex64(v uint64) string { return fmt.Sprintf("%08x`%08x", v>>32, uint32(v)) }

func (p *parser) call(at int, name string, f function) (uint64, error) {
	p.space()
	if p.i == len(p.s) || p.s[p.i] != '(' {
		return 0, p.fail(Syntax, p.i, "%s is followed by its arguments in parentheses", name)
	}
	p.i++
	var ss []string
	var vs []uint64
	for i := range f.args {
		if i > 0 {
			p.space()
			if p.i == len(p.s) || p.s[p.i] != ',' {
				return 0, p.fail(Syntax, p.i, "%s takes %d arguments, separated by commas", name, f.args)
			}
			p.i++
		}
		p.space()
		if f.text {
			s, err := p.text(name)
			if err != nil {
				return 0, err
			}
			ss = append(ss, s)
			continue
		}
		v, err := p.binary(0)
		if err != nil {
			return 0, err
		}
		vs = append(vs, v)
	}
	p.space()
	if p.i == len(p.s) || p.s[p.i] != ')' {
		return 0, p.fail(Syntax, p.i, "')' is expected after the arguments of %s", name)
	}
	p.i++
	return f.run(p, at, ss, vs)
}

// text is a string argument in double quotes.
func (p *parser) text(name string) (string, error) {
	if p.i == len(p.s) || p.s[p.i] != '"' {
		return "", p.fail(Syntax, p.i, "%s compares strings in double quotes", name)
	}
	end := strings.IndexByte(p.s[p.i+1:], '"')
	if end < 0 {
		return "", p.fail(Syntax, p.i, "the closing quote is missing")
	}
	s := p.s[p.i+1 : p.i+1+end]
	p.i += end + 2
	return s, nil
}

// MaxPattern is the longest pattern and text that Match compares, in bytes.
const MaxPattern = 4096

// Match says whether all of s fits a pattern of the debugger's wildcards:
// `*` any run of characters, `?` one, `[abc]` or `[a-z]` one of a set, `#`
// zero or more of what stands before it, `+` one or more, `\` takes the next
// character as it is. Case does not matter. A pattern or text longer than
// MaxPattern does not fit.
func Match(pattern, s string) bool {
	if len(pattern) > MaxPattern || len(s) > MaxPattern {
		return false
	}
	atoms := compile([]rune(strings.ToLower(pattern)))
	text := []rune(strings.ToLower(s))
	// Row by row, so that no pattern takes more than len(pattern)*len(s) steps.
	prev := make([]bool, len(text)+1)
	prev[0] = true
	for _, a := range atoms {
		next := make([]bool, len(text)+1)
		for j := range next {
			if prev[j] && a.min == 0 {
				next[j] = true
			}
			if j > 0 && a.fits(text[j-1]) && (prev[j-1] || a.many && next[j-1]) {
				next[j] = true
			}
		}
		prev = next
	}
	return prev[len(text)]
}

// atom is one element of a pattern. With many and min 1, next[j-1] can only be
// true after one character has fitted.
type atom struct {
	any  bool
	set  []rune // pairs: first, last
	min  int
	many bool
}

func (a *atom) fits(r rune) bool {
	if a.any {
		return true
	}
	for i := 0; i < len(a.set); i += 2 {
		if r >= a.set[i] && r <= a.set[i+1] {
			return true
		}
	}
	return false
}

func compile(p []rune) []atom {
	var out []atom
	for i := 0; i < len(p); i++ {
		switch c := p[i]; c {
		case '*':
			out = append(out, atom{any: true, many: true})
		case '?':
			out = append(out, atom{any: true, min: 1})
		case '#', '+':
			if n := len(out); n > 0 && out[n-1].min == 1 && !out[n-1].many {
				out[n-1].many = true
				if c == '#' {
					out[n-1].min = 0
				}
				continue
			}
			out = append(out, atom{set: []rune{c, c}, min: 1})
		case '[':
			a := atom{min: 1}
			j := i + 1
			for j < len(p) && p[j] != ']' {
				lo := p[j]
				hi := lo
				if j+2 < len(p) && p[j+1] == '-' && p[j+2] != ']' {
					hi = p[j+2]
					j += 2
				}
				a.set = append(a.set, lo, hi)
				j++
			}
			if j == len(p) { // no closing bracket: an ordinary character
				out = append(out, atom{set: []rune{c, c}, min: 1})
				continue
			}
			out, i = append(out, a), j
		case '\\':
			if i+1 < len(p) {
				i++
			}
			out = append(out, atom{set: []rune{p[i], p[i]}, min: 1})
		default:
			out = append(out, atom{set: []rune{c, c}, min: 1})
		}
	}
	return out
}
