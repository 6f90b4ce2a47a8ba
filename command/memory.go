package command

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"

	"openkd/engine"
	"openkd/target"
)

func memoryCommands() []*Command {
	f := "Memory"
	return []*Command{
		{Names: []string{"d", "da", "db", "dc", "dd", "dD", "df", "dp", "dq", "du", "dw", "dW", "dyb", "dyd"}, Family: f, Bare: true, Run: cmdDump,
			Summary: "show memory: d as before, a and u text, b bytes, w words, d dwords, q quadwords, p pointers, c and W with text, f D floats, yb yd bits",
			Usage:   "d{a|b|c|d|D|f|p|q|u|w|W|yb|yd} [/c columns] [/p|/p[c]|/p[uc]|/p[wc]] [range]", Example: "dd @rsp L8"},
		{Names: []string{"dds", "dps", "dqs"}, Family: f, Bare: true, Run: cmdDumpSymbols, Summary: "show values with the names of what they point to", Usage: "d{d|p|q}s [/c columns] [range]", Example: "dps @rsp L10"},
		{Names: []string{"dda", "ddu", "ddp", "dpa", "dpu", "dpp", "dqa", "dqu", "dqp"}, Family: f, Bare: true, Run: cmdDumpPointers, Summary: "show values and what they point to: a text, u Unicode text, p a value", Usage: "d{d|p|q}{a|p|u} [range]", Example: "dpa @rsp L4"},
		{Names: []string{"ds", "dS"}, Family: f, Run: cmdDumpCounted, Summary: "show the text of an ANSI_STRING (ds) or UNICODE_STRING (dS)", Usage: "ds address\ndS address", Example: "dS @rcx"},
		{Names: []string{"dl", "dlb"}, Family: f, Run: cmdDumpList, Summary: "follow a linked list (b: backwards)", Usage: "dl[b] address [count] [pointers per node]", Example: "dl @rcx 20 4"},
		{Names: []string{"e", "ea", "eb", "ed", "eD", "ef", "ep", "eq", "eu", "ew", "eza", "ezu"}, Family: f, Run: cmdEnter,
			Summary: "write memory: values, or text (a ANSI, u Unicode, z with a zero behind it)",
			Usage:   "e{b|w|d|q|p|f|D} [/p] address [values]\ne{a|u|za|zu} [/p] address \"text\"", Example: "eb @rip 90 90"},
		{Names: []string{"f"}, Family: f, Run: cmdFill, Summary: "fill memory with a pattern of bytes", Usage: "f range values", Example: "f @rsp-100 L80 de ad"},
		{Names: []string{"fp"}, Family: f, Run: cmdFill, Summary: "fill physical memory with a pattern of bytes", Usage: "fp range values", Example: "fp 1000 L100 0"},
		{Names: []string{"c"}, Family: f, Run: cmdCompare, Summary: "compare two pieces of memory", Usage: "c range address", Example: "c @rsp L40 @rsp+40"},
		{Names: []string{"m"}, Family: f, Run: cmdMove, Summary: "copy memory", Usage: "m range address", Example: "m @rsp L40 @rsp-100"},
		{Names: []string{"ib", "iw", "id"}, Family: f, Run: cmdIn, Summary: "read an I/O port", Usage: "i{b|w|d} port", Example: "ib 60"},
		{Names: []string{"ob", "ow", "od"}, Family: f, Run: cmdOut, Summary: "write an I/O port", Usage: "o{b|w|d} port value", Example: "ob 80 1"},
	}
}

// format is one of the d forms.
type format struct {
	unit    int // bytes of a cell
	columns int
	cell    func(b []byte) string
	width   int    // characters of a cell
	hole    string // what stands for a cell that cannot be read
	text    bool   // characters on the right
	dash    bool   // `-` in the middle
	str     bool   // one string, up to its NUL
	wide    bool
	bits    bool // dyb, dyd
	gap     string
	tight   bool // one blank behind the address, as !db and kin have it
}

func hexCell(n int) func([]byte) string {
	return func(b []byte) string {
		v := number(b)
		if n == 8 {
			return fmt.Sprintf("%08x`%08x", v>>32, uint32(v))
		}
		return fmt.Sprintf("%0*x", 2*n, v)
	}
}

// number is a little-endian value of up to 8 bytes.
func number(b []byte) uint64 {
	var v uint64
	for i := min(len(b), 8) - 1; i >= 0; i-- {
		v = v<<8 | uint64(b[i])
	}
	return v
}

func hexFormat(n, columns int) format {
	f := format{unit: n, columns: columns, cell: hexCell(n), width: 2 * n, hole: strings.Repeat("?", 2*n), gap: " "}
	if n == 8 {
		f.width, f.hole = 17, "????????`????????"
	}
	return f
}

// formatOf is the form that a letter stands for.
func (s *Session) formatOf(letter string) (format, bool) {
	switch letter {
	case "b":
		f := hexFormat(1, 16)
		f.text, f.dash = true, true
		return f, true
	case "w":
		return hexFormat(2, 8), true
	case "W":
		f := hexFormat(2, 8)
		f.text = true
		return f, true
	case "d":
		return hexFormat(4, 4), true
	case "c":
		f := hexFormat(4, 4)
		f.text = true
		return f, true
	case "q":
		return hexFormat(8, 2), true
	case "p":
		if s.pointerSize() == 4 {
			return hexFormat(4, 4), true
		}
		return hexFormat(8, 2), true
	case "f":
		return format{unit: 4, columns: 4, width: 16, hole: "????????????????", gap: " ", cell: func(b []byte) string {
			return fmt.Sprintf("%16s", strconv.FormatFloat(float64(math.Float32frombits(uint32(number(b)))), 'g', 8, 32))
		}}, true
	case "D":
		return format{unit: 8, columns: 2, width: 24, hole: "????????????????????????", gap: " ", cell: func(b []byte) string {
			return fmt.Sprintf("%24s", strconv.FormatFloat(math.Float64frombits(number(b)), 'g', 16, 64))
		}}, true
	case "a":
		return format{unit: 1, columns: 32, str: true}, true
	case "u":
		return format{unit: 2, columns: 32, str: true, wide: true}, true
	case "yb":
		return format{unit: 1, columns: 4, bits: true, width: 8, hole: "????????", gap: " ", cell: func(b []byte) string { return fmt.Sprintf("%08b", b[0]) }}, true
	case "yd":
		return format{unit: 4, columns: 1, bits: true, width: 35, hole: "???????? ???????? ???????? ????????", gap: " ", cell: func(b []byte) string {
			return fmt.Sprintf("%08b %08b %08b %08b", b[3], b[2], b[1], b[0])
		}}, true
	}
	return format{}, false
}

// Sizes of a dump.
const (
	defaultDump = 128     // bytes of a range that is not given
	maxText     = 4096    // characters of a string without a range
	chunk       = 1 << 20 // bytes read at once
)

// dumpOptions takes /c n and the kinds of /p off args.
func (c *Call) dumpOptions(args string) (rest string, columns int, sp engine.Space, err error) {
	for strings.HasPrefix(args, "/") {
		var w string
		w, args = cutWord(args)
		switch strings.ToLower(w) {
		case "/p":
			sp = engine.Physical
		case "/p[c]":
			sp = engine.PhysicalCached
		case "/p[uc]":
			sp = engine.PhysicalUncached
		case "/p[wc]":
			sp = engine.PhysicalWriteCombined
		case "/c":
			t, r := cutWord(args)
			v, err := c.Eval(t)
			if err != nil {
				return "", 0, 0, err
			}
			if v < 1 || v > 1024 {
				return "", 0, 0, c.Fault("Range error", args, "a line has 1 to 0n1024 columns")
			}
			columns, args = int(v), r
		default:
			return "", 0, 0, c.Fault("Syntax error", w, "d knows /c columns, /p, /p[c], /p[uc] and /p[wc]")
		}
	}
	return args, columns, sp, nil
}

func cmdDump(c *Call) error {
	letter := c.Command.letter(c.Name)
	if letter == "" {
		letter = c.S.lastD
		if letter == "" {
			letter = "b"
		}
	}
	f, ok := c.S.formatOf(letter)
	if !ok {
		return c.Syntax(c.Args)
	}
	args, columns, sp, err := c.dumpOptions(c.Args)
	if err != nil {
		return err
	}
	if columns > 0 {
		f.columns = columns
	}
	next := &c.S.nextData
	if sp.IsPhysical() {
		next = &c.S.nextPhys
	}
	deflt := defaultDump / f.unit
	if f.str {
		deflt = maxText
	}
	addr, n := *next, uint64(deflt)
	if left := -addr / uint64(f.unit); addr != 0 && n > left {
		n = left
	}
	given := false
	if strings.TrimSpace(args) != "" {
		var rest string
		if addr, n, rest, err = c.Range(args, f.unit, deflt); err != nil {
			return err
		}
		if err := c.End(rest); err != nil {
			return err
		}
		given = true
	}
	if sp.IsPhysical() && given {
		addr = physical(addr)
	}
	c.S.lastD = letter
	d := dump{c: c, f: f, sp: sp, label: c.S.addr}
	end, err := d.run(addr, n*uint64(f.unit))
	if err == nil || end != addr {
		*next = end
	}
	return err
}

// physical takes back the sign extension of a number from 80000000 to ffffffff:
// a physical address is no pointer.
func physical(addr uint64) uint64 {
	if addr>>31 == 1<<33-1 {
		return addr & 0xffffffff
	}
	return addr
}

// letter is the part of a command name behind its first character, in the
// case that the registry has.
func (k *Command) letter(name string) string {
	for _, n := range k.Names {
		if n == name {
			return n[1:]
		}
	}
	for _, n := range k.Names {
		if strings.EqualFold(n, name) {
			return n[1:]
		}
	}
	return ""
}

// dump writes memory in a format.
type dump struct {
	c     *Call
	f     format
	sp    engine.Space
	label func(uint64) string
	first bool // a value was noted for $p
	read  func(addr uint64, n int) (engine.Data, error)
}

func (d *dump) get(addr uint64, n int) (engine.Data, error) {
	if d.read != nil {
		return d.read(addr, n)
	}
	if d.c.S.Engine == nil {
		return engine.Data{}, engine.ErrUnknownMachine
	}
	data, err := d.c.S.Engine.Read(d.c.Ctx, d.sp, addr, n)
	if err == nil && len(data.Bytes) < n {
		// The end of the address space: what lies behind it is a hole.
		data.Bytes = append(data.Bytes, make([]byte, n-len(data.Bytes))...)
	}
	return data, err
}

// run shows n bytes at addr and returns the address behind them.
func (d *dump) run(addr, n uint64) (uint64, error) {
	if d.f.str {
		return d.text(addr, n)
	}
	if d.f.bits {
		d.rulers()
	}
	line := uint64(d.f.unit * d.f.columns)
	step := max(chunk/line*line, line)
	for n > 0 {
		k := min(n, step)
		data, err := d.get(addr, int(k))
		if err != nil {
			return addr, err
		}
		var b strings.Builder
		for off := uint64(0); off < k; off += line {
			d.line(&b, addr+off, &data, int(off), int(min(line, k-off)))
		}
		d.c.Printf("%s", b.String())
		addr, n = addr+k, n-k
		if err := d.c.Ctx.Err(); err != nil {
			return addr, err
		}
	}
	return addr, nil
}

func (d *dump) rulers() {
	pad := strings.Repeat(" ", len(d.label(0))+2)
	if d.f.unit == 4 {
		d.c.Printf("%s 3          2          1          0\n%s10987654 32109876 54321098 76543210\n", pad, pad)
	} else {
		d.c.Printf("%s%s\n", pad, strings.TrimRight(strings.Repeat("76543210 ", d.f.columns), " "))
	}
	n := d.f.columns
	if d.f.unit == 4 {
		n = 4
	}
	d.c.Printf("%s%s\n", pad, strings.TrimRight(strings.Repeat("-------- ", n), " "))
}

func (d *dump) line(b *strings.Builder, addr uint64, data *engine.Data, off, n int) {
	f := &d.f
	b.WriteString(d.label(addr))
	if !f.tight {
		b.WriteString(" ")
	}
	var text, raw []byte
	for col := range f.columns {
		at := off + col*f.unit
		gap := f.gap
		if f.dash && col == f.columns/2 && f.columns%2 == 0 && (col+1)*f.unit <= n {
			gap = "-"
		}
		if (col+1)*f.unit > n {
			if f.text || f.bits {
				b.WriteString(strings.Repeat(" ", f.width+1))
			}
			continue
		}
		if col == 0 {
			gap = " "
		}
		b.WriteString(gap)
		if data.ValidRange(at, f.unit) {
			cell := data.Bytes[at : at+f.unit]
			b.WriteString(f.cell(cell))
			if !d.first {
				d.first, d.c.S.lastValue = true, number(cell)
			}
		} else {
			b.WriteString(f.hole)
		}
		for i := range f.unit {
			switch {
			case !data.Valid(at + i):
				text = append(text, '?')
				raw = append(raw, "??"...)
			default:
				text = append(text, printable(data.Bytes[at+i]))
				raw = fmt.Appendf(raw, "%02x", data.Bytes[at+i])
			}
		}
	}
	switch {
	case f.text:
		b.WriteString("  ")
		b.Write(text)
	case f.bits && f.unit == 4:
		b.WriteString("  ")
		if data.ValidRange(off, 4) {
			fmt.Fprintf(b, "%08x", number(data.Bytes[off:off+4]))
		} else {
			b.WriteString("????????")
		}
	case f.bits:
		b.WriteString(" ")
		for i := 0; i+2 <= len(raw); i += 2 {
			b.WriteByte(' ')
			b.Write(raw[i : i+2])
		}
	}
	b.WriteByte('\n')
}

// text shows a string, in lines of f.columns characters.
func (d *dump) text(addr, n uint64) (uint64, error) {
	line := uint64(d.f.unit * d.f.columns)
	for n > 0 {
		k := int(min(n, max(chunk/line*line, line), 4096))
		data, err := d.get(addr, k)
		if err != nil {
			return addr, err
		}
		for off := 0; off < k; off += int(line) {
			l := min(int(line), k-off)
			end := off
			ended, unread := false, false
			for ; end < off+l; end += d.f.unit {
				if !data.ValidRange(end, d.f.unit) {
					unread = true
					break
				}
				if number(data.Bytes[end:end+d.f.unit]) == 0 {
					ended = true
					break
				}
			}
			var t string
			if d.f.wide {
				t = wide(data.Bytes[off:end])
			} else {
				t = narrow(data.Bytes[off:end])
			}
			switch {
			case unread && end == off && off == 0:
				q := "????"
				d.c.Printf("%s  \"%s\"\n", d.label(addr), q)
				return addr + uint64(d.f.unit), nil
			case end > off || off == 0:
				d.c.Printf("%s  \"%s\"\n", d.label(addr+uint64(off)), visible(t))
			}
			if ended || unread {
				return addr + uint64(end) + uint64(d.f.unit), nil
			}
		}
		addr, n = addr+uint64(k), n-uint64(k)
		if err := d.c.Ctx.Err(); err != nil {
			return addr, err
		}
	}
	return addr, nil
}

// visible replaces characters that would move the cursor or mean nothing.
func visible(t string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 || r == 0xfffd || r == 0x2028 || r == 0x2029 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '.'
		}
		return r
	}, t)
}

// valueSize is the size of the values of dds, dps and dqs.
func (c *Call) valueSize() int {
	switch strings.ToLower(c.Name)[1] {
	case 'd':
		return 4
	case 'q':
		return 8
	}
	return c.S.pointerSize()
}

// symbolRange reads the range of dps and kin.
func (c *Call) symbolRange(size int) (addr, n uint64, columns int, err error) {
	args, columns, sp, err := c.dumpOptions(c.Args)
	if err != nil {
		return 0, 0, 0, err
	}
	if sp.IsPhysical() {
		return 0, 0, 0, c.Fault("Syntax error", c.Args, "names belong to virtual addresses; use dd /p")
	}
	addr, n = c.S.nextData, uint64(defaultDump/size)
	if strings.TrimSpace(args) != "" {
		var rest string
		if addr, n, rest, err = c.Range(args, size, defaultDump/size); err == nil {
			err = c.End(rest)
		}
	}
	return addr, n, max(columns, 1), err
}

func cmdDumpSymbols(c *Call) error {
	size := c.valueSize()
	addr, n, columns, err := c.symbolRange(size)
	if err != nil {
		return err
	}
	data, err := c.S.Engine.Read(c.Ctx, engine.Virtual, addr, int(min(n*uint64(size), chunk)))
	if err != nil {
		return err
	}
	c.namedValues(&data, size)
	f := hexFormat(size, columns)
	cell := f.cell
	f.cell = func(b []byte) string {
		t := cell(b)
		if name := c.S.symbol(c.pointerOf(b)); name != "" {
			t += " " + name
		}
		return t
	}
	d := dump{c: c, f: f, label: c.S.addr}
	end, err := d.run(addr, n*uint64(size))
	c.S.nextData = end
	return err
}

// pointerOf is a value of dps and kin as an address.
func (c *Call) pointerOf(b []byte) uint64 {
	v := number(b)
	if len(b) == 4 {
		v = c.S.canon(v)
	}
	return v
}

// namedValues loads what names the values in data, all of it together.
func (c *Call) namedValues(data *engine.Data, size int) {
	var addrs []uint64
	for i := 0; i+size <= len(data.Bytes); i += size {
		if data.ValidRange(i, size) {
			addrs = append(addrs, c.pointerOf(data.Bytes[i:i+size]))
		}
	}
	c.listed()
	c.named(addrs...)
}

// listed has the module list read, if it was not: without it there are fewer names.
func (c *Call) listed() { _, _ = c.S.Engine.Modules(c.Ctx) }

// pointsSomewhere reports whether there can be memory at an address: there is none
// in the first 64 KB, and none between the halves of the address space.
func pointsSomewhere(addr uint64) bool {
	top := addr >> 56 // with five levels of page tables
	return addr >= 1<<16 && (top == 0 || top == 0xFF)
}

// maxPointers bounds what dpa and kin follow at once.
const maxPointers = 4096

func cmdDumpPointers(c *Call) error {
	size := c.valueSize()
	kind := strings.ToLower(c.Name)[2]
	addr, n, _, err := c.symbolRange(size)
	if err != nil {
		return err
	}
	if n > maxPointers {
		return c.Fault("Range error", c.Args, "%s follows at most 0n%d pointers at once", c.Name, maxPointers)
	}
	if c.S.Engine == nil {
		return engine.ErrUnknownMachine
	}
	// The values and what they point to come in one exchange, followed next to the
	// line.
	reach := map[byte]int{'a': 64, 'u': 128, 'p': size}[kind]
	wanted := engine.Want{Addr: addr, Len: int(n) * size}
	for i := 0; i < int(n) && size == c.S.pointerSize(); i++ {
		wanted.Then = append(wanted.Then, engine.Deref{Offset: uint32(i * size), Len: reach})
	}
	if err := c.S.Engine.Fetch(c.Ctx, wanted); err != nil {
		return err
	}
	data, err := c.S.Engine.Read(c.Ctx, engine.Virtual, addr, int(n)*size)
	if err != nil {
		return err
	}
	got := make([][]byte, n)
	err = c.S.Engine.Gather(c.Ctx, func(m *engine.Peek) error {
		for i := range got {
			if !data.ValidRange(i*size, size) {
				continue
			}
			to := c.pointerOf(data.Bytes[i*size : (i+1)*size])
			if got[i] = nil; !pointsSomewhere(to) {
				continue
			}
			b := make([]byte, reach)
			k, _ := m.Read(c.Ctx, to, b)
			got[i] = b[:k]
		}
		return nil
	})
	if err != nil {
		return err
	}
	if kind == 'p' {
		var addrs []uint64
		for _, b := range got {
			if len(b) == size {
				addrs = append(addrs, c.pointerOf(b))
			}
		}
		c.listed()
		c.named(addrs...)
	}
	cell := hexFormat(size, 1)
	var b strings.Builder
	for i := range int(n) {
		fmt.Fprintf(&b, "%s  ", c.S.addr(addr+uint64(i*size)))
		if !data.ValidRange(i*size, size) {
			fmt.Fprintf(&b, "%s\n", cell.hole)
			continue
		}
		b.WriteString(cell.cell(data.Bytes[i*size : (i+1)*size]))
		switch text := got[i]; {
		case kind == 'p' && len(text) == size:
			fmt.Fprintf(&b, " %s", cell.cell(text))
			if name := c.S.symbol(c.pointerOf(text)); name != "" {
				b.WriteString(" " + name)
			}
		case kind == 'p':
			b.WriteString(" " + cell.hole)
		case len(text) == 0:
			b.WriteString(" ????")
		case kind == 'a':
			t, _, _ := strings.Cut(string(text), "\x00")
			fmt.Fprintf(&b, " \"%s\"", visible(narrow([]byte(t))))
		default:
			t, _, _ := strings.Cut(wide(text), "\x00")
			fmt.Fprintf(&b, " \"%s\"", visible(t))
		}
		b.WriteByte('\n')
	}
	c.Printf("%s", b.String())
	c.S.nextData = addr + n*uint64(size)
	return nil
}

func cmdDumpCounted(c *Call) error {
	addr, err := c.Eval(c.Args)
	if err != nil {
		return err
	}
	t, err := c.S.readCounted(c.Ctx, c.S.canon(addr), c.Name == "dS")
	if err != nil {
		return err
	}
	c.Printf("%s  \"%s\"\n", c.S.addr(addr), visible(t))
	return nil
}

// cmdDumpList follows a list, forwards in one exchange.
func cmdDumpList(c *Call) error {
	addr, rest, err := c.EvalPrefix(c.Args)
	if err != nil {
		return err
	}
	count, words := uint64(32), uint64(2)
	for _, v := range []*uint64{&count, &words} {
		if strings.TrimSpace(rest) != "" {
			if *v, rest, err = c.EvalPrefix(rest); err != nil {
				return err
			}
		}
	}
	if err := c.End(rest); err != nil {
		return err
	}
	p := c.S.pointerSize()
	if count < 1 || count > target.MaxNodes-1 || words < 1 || words*uint64(p) > target.MaxPiece {
		return c.Fault("Range error", c.Args, "dl shows 1 to 0n%d nodes of 1 to 0n%d pointers", target.MaxNodes-1, target.MaxPiece/p)
	}
	if c.S.Engine == nil {
		return engine.ErrUnknownMachine
	}
	addr = c.S.canon(addr)
	node := target.Piece{Via: target.ViaNode, Len: uint32(words * uint64(p))}
	// The first node is shown too, so it is asked for beside the list. A list
	// ends at its head, which the first node plays.
	batch := []target.Request{{Op: target.OpReadVirtual, Addr: addr, Len: words * uint64(p)}}
	back := strings.EqualFold(c.Name, "dlb")
	if count > 1 && !back {
		batch = append(batch, target.Request{Op: target.OpFollow, List: &target.List{
			Head: addr, Pointer: uint8(p), MaxNodes: uint32(count - 1), Pieces: []target.Piece{node},
		}})
	}
	r, err := c.S.Engine.Do(c.Ctx, batch...)
	if err != nil {
		return err
	}
	nodes := []target.Node{{Addr: addr, Pieces: [][]byte{r[0].Data()}}}
	if len(r) > 1 {
		more, err := target.DecodeNodes(r[1].Data())
		if err != nil {
			return err
		}
		nodes = append(nodes, more...)
	}
	// A Blink points to the Flink in front of the next Blink, which is no chain
	// that the server can follow: one exchange for each node.
	for at := addr; back && uint64(len(nodes)) < count; {
		r, err := c.S.Engine.Do(c.Ctx, target.Request{Op: target.OpReadVirtual, Addr: at + uint64(p), Len: uint64(p)})
		if err != nil {
			return err
		}
		link := r[0].Data()
		if len(link) < p {
			break
		}
		if at = c.S.canon(number(link)); at == addr {
			break
		}
		if r, err = c.S.Engine.Do(c.Ctx, target.Request{Op: target.OpReadVirtual, Addr: at, Len: words * uint64(p)}); err != nil {
			return err
		}
		nodes = append(nodes, target.Node{Addr: at, Pieces: [][]byte{r[0].Data()}})
	}
	cell := hexFormat(p, 1)
	for i, n := range nodes {
		if i > 0 && n.Addr == addr {
			break
		}
		var b strings.Builder
		b.WriteString(c.S.addr(n.Addr) + " ")
		var got []byte
		if len(n.Pieces) > 0 {
			got = n.Pieces[0]
		}
		for w := range int(words) {
			if len(got) >= (w+1)*p {
				b.WriteString(" " + cell.cell(got[w*p:(w+1)*p]))
			} else {
				b.WriteString(" " + cell.hole)
			}
		}
		c.Printf("%s\n", b.String())
	}
	return nil
}

// cmdEnter is the e family.
func cmdEnter(c *Call) error {
	letter := c.Command.letter(c.Name)
	if letter == "" {
		if letter = c.S.lastE; letter == "" {
			letter = "b"
		}
	}
	args, _, sp, err := c.dumpOptions(c.Args)
	if err != nil {
		return err
	}
	addr, rest, err := c.EvalPrefix(args)
	if err != nil {
		return err
	}
	if addr = c.S.canon(addr); sp.IsPhysical() {
		addr = physical(addr)
	}
	c.S.lastE = letter
	if strings.TrimSpace(rest) == "" {
		return c.ask(letter, sp, addr)
	}
	data, rest, err := c.values(letter, rest)
	if err != nil {
		return err
	}
	if err := c.End(rest); err != nil {
		return err
	}
	return c.write(sp, addr, data)
}

func (c *Call) write(sp engine.Space, addr uint64, data []byte) error {
	if c.S.Engine == nil {
		return engine.ErrUnknownMachine
	}
	if n, err := c.S.Engine.Write(c.Ctx, sp, addr, data); err != nil {
		if n > 0 {
			return fmt.Errorf("only 0x%x of 0x%x bytes were written: %w", n, len(data), err)
		}
		return err
	}
	return nil
}

// entrySize is the size of a value of the e form, 1 for text.
func (c *Call) entrySize(letter string) int {
	switch letter {
	case "w", "u", "zu":
		return 2
	case "d", "f":
		return 4
	case "q", "D":
		return 8
	case "p":
		return c.S.pointerSize()
	}
	return 1
}

// values reads the list behind e, f, s and !e: numbers of the form's size, and
// text in quotes, whose characters are bytes (2 bytes with u and zu).
func (c *Call) values(letter, args string) (data []byte, rest string, err error) {
	size := c.entrySize(letter)
	wideText := letter == "u" || letter == "zu"
	textOnly := wideText || letter == "a" || letter == "za"
	for {
		args = strings.TrimLeft(args, " \t,")
		if args == "" {
			break
		}
		if args[0] == '"' || args[0] == '\'' {
			end := quoteEnd(args, 0)
			if end == 0 {
				return nil, "", c.Fault("Syntax error", args, "the closing quote is missing")
			}
			data = appendText(data, args[1:end-1], wideText, size)
			if letter == "za" || letter == "zu" {
				data = append(data, make([]byte, size)...)
			}
			args = args[end:]
			continue
		}
		if textOnly {
			return nil, "", c.Fault("Syntax error", args, "a text in quotes is expected here")
		}
		if letter == "f" || letter == "D" {
			w, r := cutWord(args)
			v, err := strconv.ParseFloat(w, size*8)
			if err != nil {
				return nil, "", c.Fault("Syntax error", args, "a floating-point number is expected here")
			}
			if size == 4 {
				data = binary.LittleEndian.AppendUint32(data, math.Float32bits(float32(v)))
			} else {
				data = binary.LittleEndian.AppendUint64(data, math.Float64bits(v))
			}
			args = r
			continue
		}
		at := args
		v, r, err := c.EvalPrefix(args)
		if err != nil {
			return nil, "", err
		}
		if bits := uint(size * 8); bits < 64 {
			if hi := v >> bits; hi != 0 && uint64(int64(v<<(64-bits))>>(64-bits)) != v {
				return nil, "", c.Fault("Overflow error", at, "%x does not fit into %d byte(s)", v, size)
			}
		}
		for i := range size {
			data = append(data, byte(v>>(8*i)))
		}
		args = r
		if len(data) > maxLine {
			return nil, "", c.Fault("Syntax error", at, "the list is too long")
		}
	}
	if len(data) == 0 {
		return nil, "", c.Fault("Syntax error", "", "values are expected here")
	}
	return data, "", nil
}

func appendText(data []byte, t string, isWide bool, size int) []byte {
	if isWide {
		for _, u := range utf16Of(t) {
			data = binary.LittleEndian.AppendUint16(data, u)
		}
		return data
	}
	for _, b := range narrowOf(t) {
		data = append(data, b)
		data = append(data, make([]byte, max(size-1, 0))...) // ed x "ab" fills one value for each character
	}
	return data
}

// ask prompts for values one by one, as e does without any: an empty line ends
// it, a single blank keeps a value.
func (c *Call) ask(letter string, sp engine.Space, addr uint64) error {
	if c.S.Input == nil {
		return c.Fault("Syntax error", "", "the values are missing, and there is nobody to ask for them")
	}
	if letter == "a" || letter == "u" || letter == "za" || letter == "zu" {
		return c.Fault("Syntax error", "", "a text in quotes is expected here")
	}
	size := c.entrySize(letter)
	f, ok := c.S.formatOf(letter)
	if !ok {
		f, _ = c.S.formatOf("b")
	}
	for {
		if c.S.Engine == nil {
			return engine.ErrUnknownMachine
		}
		d, err := c.S.Engine.Read(c.Ctx, sp, addr, size)
		if err != nil {
			return err
		}
		now := f.hole
		if len(d.Bytes) == size && d.Complete() {
			now = strings.TrimSpace(f.cell(d.Bytes))
		}
		line, err := c.S.Input(c.Ctx, fmt.Sprintf("%s %s ", c.S.addr(addr), now))
		if err != nil {
			return err
		}
		line = strings.TrimRight(line, "\r\n")
		switch {
		case line == "":
			return nil
		case strings.TrimSpace(line) == "":
			addr += uint64(size)
			continue
		}
		data, _, err := c.values(letter, line)
		if err != nil {
			return err
		}
		if err := c.write(sp, addr, data); err != nil {
			return err
		}
		addr += uint64(len(data))
	}
}

func cmdFill(c *Call) error {
	phys := strings.EqualFold(c.Name, "fp")
	args := c.Args
	if phys {
		for _, w := range []string{"[c]", "[uc]", "[wc]", "uc", "wc"} {
			if c.option(&args, w) {
				break // a fill knows no cache attribute; the target uses its own
			}
		}
	}
	addr, n, rest, err := c.Range(args, 1, 0)
	if err != nil {
		return err
	}
	pattern, _, err := c.values("b", rest)
	if err != nil {
		return err
	}
	if len(pattern) > target.MaxPattern {
		return c.Fault("Range error", rest, "the pattern is longer than 0n%d bytes", target.MaxPattern)
	}
	if c.S.Engine == nil {
		return engine.ErrUnknownMachine
	}
	req := target.Request{Op: target.OpFill, Addr: addr, Len: n, Data: pattern}
	if phys {
		req.Addr, req.Flags = physical(addr), 1
	}
	r, err := c.S.Engine.Do(c.Ctx, req)
	if err != nil {
		return err
	}
	c.Printf("Filled 0x%x bytes\n", r[0].Value)
	if r[0].Value < n {
		return fmt.Errorf("the memory at %s cannot be written: 0x%x of 0x%x bytes were filled (status %s)", c.S.addr(addr+r[0].Value), r[0].Value, n, r[0].Status)
	}
	return nil
}

// transfer is the range and the other address of c and m.
func (c *Call) transfer() (addr, n, to uint64, err error) {
	addr, n, rest, err := c.Range(c.Args, 1, 0)
	if err != nil {
		return 0, 0, 0, err
	}
	if strings.TrimSpace(rest) == "" {
		return 0, 0, 0, c.Fault("Syntax error", "", "the other address is missing")
	}
	if to, rest, err = c.EvalPrefix(rest); err != nil {
		return 0, 0, 0, err
	}
	if err := c.End(rest); err != nil {
		return 0, 0, 0, err
	}
	to = c.S.canon(to)
	if left := -to; to != 0 && n > left {
		return 0, 0, 0, c.Fault("Range error", "", "the second range runs over the end of the address space")
	}
	if c.S.Engine == nil {
		return 0, 0, 0, engine.ErrUnknownMachine
	}
	return addr, n, to, nil
}

// readBoth reads two ranges of the same length in one exchange.
func (c *Call) readBoth(a, b uint64, n int) (x, y target.Reply, err error) {
	r, err := c.S.Engine.Do(c.Ctx,
		target.Request{Op: target.OpReadVirtual, Addr: a, Len: uint64(n)},
		target.Request{Op: target.OpReadVirtual, Addr: b, Len: uint64(n)})
	if err != nil {
		return x, y, err
	}
	return r[0], r[1], nil
}

func cmdCompare(c *Call) error {
	a, n, b, err := c.transfer()
	if err != nil {
		return err
	}
	for n > 0 {
		k := int(min(n, chunk))
		x, y, err := c.readBoth(a, b, k)
		if err != nil {
			return err
		}
		dx, dy := x.Data(), y.Data()
		var out strings.Builder
		for i := range min(len(dx), len(dy), k) {
			if dx[i] != dy[i] {
				fmt.Fprintf(&out, "%s  %02x - %s  %02x\n", c.S.addr(a+uint64(i)), dx[i], c.S.addr(b+uint64(i)), dy[i])
			}
		}
		c.Printf("%s", out.String())
		if len(dx) < k {
			return &engine.MemoryError{Addr: a + uint64(len(dx)), Status: x.Status}
		}
		if len(dy) < k {
			return &engine.MemoryError{Addr: b + uint64(len(dy)), Status: y.Status}
		}
		a, b, n = a+uint64(k), b+uint64(k), n-uint64(k)
	}
	return nil
}

func cmdMove(c *Call) error {
	from, n, to, err := c.transfer()
	if err != nil {
		return err
	}
	// Everything is read before anything is written, so that ranges may
	// overlap.
	if n > target.MaxRead {
		return c.Fault("Range error", c.Args, "m copies at most %d MiB; .writemem and .readmem take more", target.MaxRead>>20)
	}
	data, err := c.S.Engine.ReadFull(c.Ctx, engine.Virtual, from, int(n))
	if err != nil {
		return err
	}
	return c.write(engine.Virtual, to, data)
}

func (c *Call) portSize() int {
	switch strings.ToLower(c.Name)[1] {
	case 'w':
		return 2
	case 'd':
		return 4
	}
	return 1
}

// port reads a port number from args.
func (c *Call) port() (uint64, string, error) {
	p, rest, err := c.EvalPrefix(c.Args)
	if err != nil {
		return 0, "", err
	}
	if p > 0xffff {
		return 0, "", c.Fault("Range error", c.Args, "ports go from 0 to ffff")
	}
	if c.S.Engine == nil {
		return 0, "", engine.ErrUnknownMachine
	}
	return p, rest, nil
}

func cmdIn(c *Call) error {
	p, rest, err := c.port()
	if err != nil {
		return err
	}
	if err := c.End(rest); err != nil {
		return err
	}
	size := c.portSize()
	r, err := c.S.Engine.Do(c.Ctx, target.Request{Op: target.OpReadIO, Addr: p, Len: uint64(size)})
	if err != nil {
		return err
	}
	if r[0].Status.Failed() {
		return fmt.Errorf("the target refused to read port %x: status %s", p, r[0].Status)
	}
	c.Printf("%08x: %0*x\n", p, 2*size, r[0].Value)
	return nil
}

func cmdOut(c *Call) error {
	p, rest, err := c.port()
	if err != nil {
		return err
	}
	size := c.portSize()
	v, rest, err := c.EvalPrefix(rest)
	if err != nil {
		return err
	}
	if err := c.End(rest); err != nil {
		return err
	}
	if size < 8 && v>>(8*size) != 0 && uint64(int64(v<<(64-8*size))>>(64-8*size)) != v {
		return c.Fault("Overflow error", "", "%x does not fit into %d byte(s)", v, size)
	}
	v &= 1<<(8*size) - 1
	r, err := c.S.Engine.Do(c.Ctx, target.Request{Op: target.OpWriteIO, Addr: p, Len: uint64(size), Value: v})
	if err != nil {
		return err
	}
	if r[0].Status.Failed() {
		return fmt.Errorf("the target refused to write port %x: status %s", p, r[0].Status)
	}
	return nil
}
