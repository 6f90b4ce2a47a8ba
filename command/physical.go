package command

import (
	"fmt"
	"strings"

	"openkd/engine"
	"openkd/target"
)

func physicalCommands() []*Command {
	f := "Physical memory"
	return []*Command{
		{Names: []string{"!db", "!dc", "!dd", "!dp", "!dq", "!du", "!dw"}, Family: f, Bare: true, Run: cmdPhysicalDump, Summary: "show physical memory; -m reads unit by unit, for devices",
			Usage: "!d{b|c|d|p|q|u|w} [[c]|[uc]|[wc]] [-m] [address] [L count]", Example: "!dd 1000 L8"},
		{Names: []string{"!eb", "!ed", "!eq", "!ew"}, Family: f, Run: cmdPhysicalEnter, Summary: "write physical memory", Usage: "!e{b|d|q|w} [[c]|[uc]|[wc]] address values", Example: "!ed 1000 deadbeef"},
	}
}

// attribute takes a cache attribute off args: [c], [uc], [wc], or without the
// brackets where no number can be meant.
func (c *Call) attribute(args *string) engine.Space {
	for _, k := range []struct {
		word string
		sp   engine.Space
	}{
		{"[c]", engine.PhysicalCached}, {"[uc]", engine.PhysicalUncached}, {"[wc]", engine.PhysicalWriteCombined},
		{"uc", engine.PhysicalUncached}, {"wc", engine.PhysicalWriteCombined},
	} {
		if c.option(args, k.word) {
			return k.sp
		}
	}
	return engine.Physical
}

func cmdPhysicalDump(c *Call) error {
	letter := strings.ToLower(c.Name)[2:]
	f, _ := c.S.formatOf(letter)
	f.tight = true
	args := c.Args
	sp := c.attribute(&args)
	single := c.option(&args, "-m")
	if sp == engine.Physical {
		sp = c.attribute(&args)
	}
	deflt := defaultDump / f.unit
	if f.str {
		deflt = maxText
	}
	addr, n := c.S.nextPhys, uint64(deflt)
	if strings.TrimSpace(args) != "" {
		var rest string
		var err error
		if addr, n, rest, err = c.Range(args, f.unit, deflt); err != nil {
			return err
		}
		if err := c.End(rest); err != nil {
			return err
		}
		addr = physical(addr)
	}
	d := dump{c: c, f: f, sp: sp, label: func(a uint64) string { return fmt.Sprintf("#%8x", a) }}
	if single {
		if n > 4096 {
			return c.Fault("Range error", args, "-m reads at most 0n4096 units at once")
		}
		d.read = func(addr uint64, n int) (engine.Data, error) { return c.units(sp, addr, n, f.unit) }
	}
	end, err := d.run(addr, n*uint64(f.unit))
	if err == nil || end != addr {
		c.S.nextPhys = end
	}
	return err
}

// units reads memory in units of their own, which device registers need. They
// go past the cache, in one exchange.
func (c *Call) units(sp engine.Space, addr uint64, n, unit int) (engine.Data, error) {
	if c.S.Engine == nil {
		return engine.Data{}, engine.ErrUnknownMachine
	}
	d := engine.Data{Addr: addr, Bytes: make([]byte, n)}
	for off := 0; off < n; {
		k := min((n-off+unit-1)/unit, target.MaxBatch)
		batch := make([]target.Request, k)
		for i := range batch {
			batch[i] = sp.ReadRequest(addr+uint64(off+i*unit), unit)
		}
		r, err := c.S.Engine.Do(c.Ctx, batch...)
		if err != nil {
			return d, err
		}
		for i := range r {
			at := off + i*unit
			if got := r[i].Data(); len(got) > 0 {
				l := copy(d.Bytes[at:], got)
				if m := len(d.Spans); m > 0 && d.Spans[m-1].Offset+d.Spans[m-1].Len == at {
					d.Spans[m-1].Len += l
				} else {
					d.Spans = append(d.Spans, engine.Span{Offset: at, Len: l})
				}
			}
		}
		off += k * unit
	}
	return d, nil
}

func cmdPhysicalEnter(c *Call) error {
	args := c.Args
	sp := c.attribute(&args)
	addr, rest, err := c.EvalPrefix(args)
	if err != nil {
		return err
	}
	data, _, err := c.values(strings.ToLower(c.Name)[2:], rest)
	if err != nil {
		return err
	}
	return c.write(sp, physical(addr), data)
}
