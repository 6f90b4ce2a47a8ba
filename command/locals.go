package command

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"openkd/engine"
	"openkd/engine/expr"
	"openkd/engine/types"
	"openkd/image/sym"
)

func localCommands() []*Command {
	return []*Command{
		{Names: []string{"dv"}, Family: "Types", Run: cmdLocals,
			Summary: "show the parameters and local variables of the current frame: /i kinds, /t types, /v places, /V and what they are relative to, /a /A by address, /n /N by name, /z /Z by size, /f of a function",
			Usage:   "dv [/i] [/t] [/v|/V] [/a|/A|/n|/N|/z|/Z] [pattern]\ndv [/i] [/t] /f address [\"pattern\"]", Example: "dv /t /v"},
	}
}

// unavailable stands for a variable that is nowhere, or in a register that is
// not known in this frame.
const unavailable = "<value unavailable>"

func cmdLocals(c *Call) error {
	args := strings.TrimSpace(c.Args)
	var kinds, typed, places, relative bool
	var order byte
	var function *uint64
	for strings.HasPrefix(args, "/") || strings.HasPrefix(args, "-") {
		w, rest := cutWord(args)
		for i := 1; i < len(w); i++ {
			switch w[i] {
			case 'i':
				kinds = true
			case 't':
				typed = true
			case 'v':
				places = true
			case 'V':
				places, relative = true, true
			case 'a', 'A', 'n', 'N', 'z', 'Z':
				order = w[i]
			case 'f':
				v, after, err := c.EvalPrefix(strings.TrimSpace(rest))
				if err != nil {
					return err
				}
				v = c.S.canon(v)
				function, rest = &v, after
				places, relative = true, true
			default:
				return c.Syntax(args)
			}
		}
		args = strings.TrimSpace(rest)
	}
	pattern := strings.Trim(args, `"`)
	if strings.ContainsAny(pattern, " \t") {
		return c.Fault("Extra character error", pattern, "one pattern is expected")
	}
	e := c.S.Engine
	var list []engine.Local
	var err error
	if function != nil {
		list, err = e.LocalsAt(c.Ctx, *function)
	} else {
		list, err = e.Locals(c.Ctx)
	}
	if err != nil {
		if errors.Is(err, engine.ErrNoLocals) {
			return phrased(fmt.Sprintf("Unable to enumerate locals: %s\nPrivate symbols (symbols.pri) are required for locals.", strings.TrimPrefix(err.Error(), engine.ErrNoLocals.Error()+": ")))
		}
		return err
	}
	if pattern != "" {
		list = slices.DeleteFunc(list, func(l engine.Local) bool { return !expr.Match(pattern, l.Name) })
	}
	sortLocals(list, order)
	// All values are read together.
	return c.gather(func(w *bytes.Buffer, m types.Memory) error {
		for i := range list {
			l := &list[i]
			var line strings.Builder
			if kinds {
				kind := "local"
				if l.Param {
					kind = "param"
				}
				line.WriteString("prv " + kind + "  ")
			}
			if places {
				line.WriteString(c.placeOf(l, relative) + " ")
			}
			t, err := types.Of(l.File, l.Type, l.Module)
			name := fmt.Sprintf("%15s", l.Name)
			if typed {
				name = l.Name
				if err == nil {
					name = t.C(types.Expression) + " " + l.Name
				}
			}
			line.WriteString(name)
			if function == nil {
				text := "<damaged type>"
				if err == nil {
					text = c.localText(m, l, t)
				}
				line.WriteString(" = " + text)
			}
			fmt.Fprintf(w, "%s\n", line.String())
			if w.Len() > maxOutput {
				return types.ErrTooMuch
			}
		}
		return nil
	})
}

func sortLocals(list []engine.Local, order byte) {
	if order == 0 {
		return
	}
	place := func(l *engine.Local) uint64 {
		if len(l.Places) > 0 && l.Places[0].InMemory {
			return l.Places[0].Addr
		}
		return 0
	}
	slices.SortStableFunc(list, func(a, b engine.Local) int {
		r := 0
		switch order | 0x20 {
		case 'a':
			r = cmp.Compare(place(&a), place(&b))
		case 'n':
			r = strings.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name))
		case 'z':
			r = cmp.Compare(a.Size, b.Size)
		}
		if order < 'a' {
			return -r
		}
		return r
	})
}

// placeOf is where a variable is: an address or a register, and what an address
// is relative to.
func (c *Call) placeOf(l *engine.Local, relative bool) string {
	const relWidth = 13 // <unavailable>
	width := len(c.S.addr(0))
	if len(l.Places) == 0 {
		s := fmt.Sprintf("%-*s", width, "<unavailable>")
		if relative {
			s += fmt.Sprintf(" %-*s", relWidth, "<unavailable>")
		}
		return s
	}
	p := &l.Places[0]
	at, rel := "<unavailable>", ""
	digits := 4
	if c.S.pointerSize() == 4 {
		digits = 2
	}
	switch {
	case p.Reg != "" && (p.InMemory || p.Disp != 0):
		rel = fmt.Sprintf("@%s+0x%0*x", p.Reg, digits, p.Disp)
		if p.Disp < 0 {
			rel = fmt.Sprintf("@%s-0x%0*x", p.Reg, digits, -p.Disp)
		}
	case p.Reg != "":
		rel = "@" + p.Reg
	}
	switch {
	case p.InMemory && p.Addr != 0:
		at = c.S.addr(p.Addr)
	case !p.InMemory && p.Reg != "" && p.Disp == 0:
		at = "@" + p.Reg
	case !p.InMemory && p.Value != nil:
		at = "<constant>"
	}
	s := fmt.Sprintf("%-*s", width, at)
	if relative {
		s += fmt.Sprintf(" %-*s", relWidth, rel)
	}
	return s
}

// localText is the value of a variable as dv shows it.
func (c *Call) localText(m types.Memory, l *engine.Local, t types.Type) string {
	if t.HasMembers() {
		if len(l.Places) == 0 {
			return unavailable
		}
		text := t.C(types.Expression)
		if p := c.printer(t); p.Summarised(t) && l.Known() {
			if data, covered := c.localData(m, l, l.Size); covered >= l.Size {
				if s := p.Summary(c.Ctx, m, t, data); s != "" {
					text += " " + s
				}
			}
		}
		return text
	}
	if !l.Known() {
		return unavailable
	}
	want := min(l.Size, 1<<16)
	if t.Kind == sym.Array {
		want = min(want, 256)
	}
	data, covered := c.localData(m, l, want)
	p := c.printer(t)
	if t.Kind == sym.Array {
		text := t.C(types.Expression)
		if s, ok := p.ArrayText(t, data[:covered]); ok {
			text += ` "` + s + `"`
		}
		return text
	}
	if covered < want {
		return "????"
	}
	text := p.Expression(c.Ctx, m, t, data)
	if t.Kind == sym.Pointer {
		v := number(data[:min(t.Size, 8)])
		if t.Size == 4 {
			v = c.S.canon(uint64(uint32(v)))
		}
		if s, ok := p.PointedText(c.Ctx, m, t, v); ok {
			text += ` "` + s + `"`
		}
		if to, err := t.Element(); err == nil && to.Kind == sym.Func && v != 0 {
			if n := c.S.symbol(v); n != "" {
				text += " " + n
			}
		}
	}
	return text
}

// localData is the value of a variable, at most want bytes of it, and how many
// of these are known.
func (c *Call) localData(m types.Memory, l *engine.Local, want uint64) (data []byte, covered uint64) {
	data = make([]byte, want)
	for _, p := range l.Places {
		b := p.Value
		if p.InMemory {
			b = make([]byte, min(p.Size, want))
			n, _ := m.Read(c.Ctx, p.Addr, b)
			b = b[:n]
		}
		if p.Offset < want {
			covered += uint64(copy(data[p.Offset:], b[:min(uint64(len(b)), p.Size)]))
		}
	}
	return data, covered
}
