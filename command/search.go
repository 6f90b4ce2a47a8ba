package command

import (
	"encoding/binary"
	"strings"

	"openkd/engine"
	"openkd/target"
)

func searchCommands() []*Command {
	return []*Command{
		{Names: []string{"s"}, Family: "Memory", Run: cmdSearch, Summary: "search memory for bytes (b), words (w), dwords (d), quadwords (q), text (a, u), any text (sa, su), or objects of the class of one (v)",
			Usage: "s [-[[flags]b|w|d|q|a|u]] range pattern\ns -[[l<n>]]sa|su range\ns -[[flags]]v range object", Example: `s -a nt L1000 "PAGE"`},
	}
}

// maxHits is how many places one search shows.
const maxHits = 1 << 16

// cmdSearch is s. `-[1]b` shows addresses only; `-[l5]sa` asks for at least
// five characters. The search itself runs next to the line, in one exchange.
func cmdSearch(c *Call) error {
	args := c.Args
	kind, flags := "b", ""
	if strings.HasPrefix(args, "-") {
		w := args[1:]
		if strings.HasPrefix(w, "[") {
			end := strings.IndexByte(w, ']')
			if end < 0 {
				return c.Fault("Syntax error", args, "']' is missing behind the flags")
			}
			flags, w = strings.ToLower(w[1:end]), w[end+1:]
		}
		kind, args = cutWord(w)
	}
	minimum := 3
	only := false
	for f := flags; f != ""; {
		switch f[0] {
		case '1':
			only, f = true, f[1:]
		case 'l':
			n := 1
			for n < len(f) && isDigit(f[n]) {
				n++
			}
			minimum = 0
			for _, d := range f[1:n] {
				minimum = min(minimum*10+int(d-'0'), 1<<16)
			}
			if minimum == 0 {
				return c.Fault("Syntax error", flags, "a length of at least 1 follows l: -[l5]sa")
			}
			f = f[n:]
		case ' ', ',':
			f = f[1:]
		case 'w':
			return c.Fault("Syntax error", flags, "-[w] (writable memory only) belongs to user mode")
		default:
			return c.Fault("Syntax error", flags, "the flags known are 1 (addresses only) and l<n> (least length of a text)")
		}
	}
	var step int
	shape := ""
	switch kind {
	case "b":
		step, shape = 1, "b"
	case "a":
		step, shape = 1, "b"
	case "w":
		step, shape = 2, "W"
	case "u":
		step, shape = 2, "W"
	case "d":
		step, shape = 4, "c"
	case "q":
		step, shape = 8, "q"
	case "v":
		step, shape = c.S.pointerSize(), "p"
	case "sa", "su":
		return c.searchText(args, kind == "su", minimum, only)
	default:
		return c.Fault("Syntax error", c.Args, "s knows -b -w -d -q -a -u -sa -su -v")
	}
	addr, n, rest, err := c.Range(args, step, 0)
	if err != nil {
		return err
	}
	var pattern []byte
	if kind == "v" {
		// Objects of one class begin with the address of one table of functions.
		object, err := c.Eval(rest)
		if err != nil {
			return err
		}
		if pattern, err = c.S.Engine.ReadFull(c.Ctx, engine.Virtual, c.S.canon(object), step); err != nil {
			return err
		}
	} else if pattern, _, err = c.values(kind, rest); err != nil {
		return err
	}
	if len(pattern) > target.MaxPattern {
		return c.Fault("Range error", rest, "the pattern is longer than 0n%d bytes", target.MaxPattern)
	}
	if c.S.Engine == nil {
		return engine.ErrUnknownMachine
	}
	var hits []uint64
	for left := n * uint64(step); left > 0 && len(hits) < maxHits; {
		k := min(left, target.MaxSearch)
		r, err := c.S.Engine.Do(c.Ctx, target.Request{Op: target.OpSearch, Addr: addr, Len: k, Value: uint64(step), Flags: uint32(maxHits - len(hits)), Data: pattern})
		if err != nil {
			return err
		}
		for b := r[0].Data(); len(b) >= 8; b = b[8:] {
			hits = append(hits, binary.LittleEndian.Uint64(b))
		}
		if k == left {
			break
		}
		// Searches overlap by the pattern, so that none hides at a seam.
		back := (uint64(len(pattern)-1) + uint64(step) - 1) / uint64(step) * uint64(step)
		addr, left = addr+k-back, left-k+back
	}
	if err := c.showHits(hits, shape, only); err != nil {
		return err
	}
	if len(hits) >= maxHits {
		c.Printf("The search ends here: 0n%d places were found. Search on behind the last one.\n", maxHits)
	}
	return nil
}

// showHits shows a line of memory for each place, all read in one exchange.
func (c *Call) showHits(hits []uint64, shape string, only bool) error {
	if only {
		for _, a := range hits {
			c.Printf("%s\n", c.S.addr(a))
		}
		return nil
	}
	f, _ := c.S.formatOf(shape)
	if shape == "q" {
		f.text = true
	}
	for len(hits) > 0 {
		part := hits[:min(len(hits), target.MaxBatch)]
		batch := make([]target.Request, len(part))
		for i, a := range part {
			batch[i] = target.Request{Op: target.OpReadVirtual, Addr: a, Len: 16}
		}
		r, err := c.S.Engine.Do(c.Ctx, batch...)
		if err != nil {
			return err
		}
		d := dump{c: c, f: f, label: c.S.addr}
		var b strings.Builder
		for i, a := range part {
			data := engine.Data{Addr: a, Bytes: make([]byte, 16)}
			for _, run := range r[i].Runs {
				if run.Offset < 16 {
					k := copy(data.Bytes[run.Offset:], run.Data)
					data.Spans = append(data.Spans, engine.Span{Offset: int(run.Offset), Len: k})
				}
			}
			d.line(&b, a, &data, 0, 16)
		}
		c.Printf("%s", b.String())
		hits = hits[len(part):]
	}
	return nil
}

// searchText is s -sa and s -su: every run of printable characters.
func (c *Call) searchText(args string, isWide bool, minimum int, only bool) error {
	addr, n, rest, err := c.Range(args, 1, 0)
	if err != nil {
		return err
	}
	if err := c.End(rest); err != nil {
		return err
	}
	if c.S.Engine == nil {
		return engine.ErrUnknownMachine
	}
	size := 1
	if isWide {
		size = 2
	}
	const longest = 1024 // characters shown of one text
	var run []byte
	var start uint64
	hits := 0
	var b strings.Builder
	flush := func() {
		if len(run)/size >= minimum {
			hits++
			if only {
				b.WriteString(c.S.addr(start) + "\n")
			} else if isWide {
				b.WriteString(c.S.addr(start) + "  \"" + wide(run) + "\"\n")
			} else {
				b.WriteString(c.S.addr(start) + "  \"" + narrow(run) + "\"\n")
			}
		}
		run = run[:0]
	}
	for n > 0 && hits < maxHits {
		k := min(n, chunk)
		data, err := c.S.Engine.Read(c.Ctx, engine.Virtual, addr, int(k))
		if err != nil {
			return err
		}
		for off := 0; off < int(k); {
			good := off+size <= len(data.Bytes) && data.ValidRange(off, size)
			if good {
				v := number(data.Bytes[off : off+size])
				good = v >= 0x20 && v < 0x7f
			}
			if !good {
				flush()
				off++ // a Unicode text may begin at any byte
				continue
			}
			if len(run) == 0 {
				start = addr + uint64(off)
			}
			run = append(run, data.Bytes[off:off+size]...)
			off += size
			if len(run) >= longest*size {
				flush()
			}
		}
		addr, n = addr+k, n-k
		c.Printf("%s", b.String())
		b.Reset()
	}
	flush()
	c.Printf("%s", b.String())
	return nil
}
