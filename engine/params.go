package engine

import (
	"context"
	"strings"

	"openkd/image/sym"
	"openkd/kdproto"
)

// Range is a piece of virtual memory.
type Range struct {
	Addr uint64
	Len  int
}

// ReadEach reads several pieces of virtual memory through the cache, in one
// exchange if any of it is not known.
func (e *Engine) ReadEach(ctx context.Context, ranges []Range) ([]Data, error) {
	h, a, err := e.view()
	if err != nil {
		return nil, err
	}
	out := make([]Data, len(ranges))
	for i := 0; i < len(ranges); i += maxFetch {
		v := e.newView(ctx, h, a)
		part := ranges[i:min(len(ranges), i+maxFetch)]
		for _, r := range part {
			v.missing = append(v.missing, Virtual.ReadRequest(a.Canon(r.Addr), min(r.Len, pageSize)))
		}
		if err := v.fetch(false); err != nil {
			return nil, err
		}
		h.mu.Lock()
		for k, r := range part {
			out[i+k] = h.copyOut(a, Virtual, a.Canon(r.Addr), min(r.Len, pageSize))
		}
		h.mu.Unlock()
	}
	return out, nil
}

// Params are the parameters of the functions of a stack, by frame: none, but not
// nil, of a function that has no parameters, and nil where the symbol file does
// not say. The frames must have their registers.
func (e *Engine) Params(ctx context.Context, s *Stack) [][]Local {
	out := make([][]Local, len(s.Frames))
	for i := range s.Frames {
		f := &s.Frames[i]
		if f.Inline != "" || f.Regs == nil {
			continue
		}
		at := f.PC
		if !f.Exact {
			at--
		}
		m, ok := e.moduleAt(at)
		if !ok {
			continue
		}
		file := e.symbolFile(ctx, m)
		if file == nil || !file.Private() {
			continue
		}
		scopes, err := file.Scopes(uint32(at - m.Base))
		if err != nil || len(scopes) == 0 {
			continue
		}
		out[i] = []Local{}
		for _, v := range scopes[0].Vars {
			if v.Param {
				out[i] = append(out[i], e.place(file, m.Name, m.Base, v, f))
			}
		}
	}
	return out
}

// place1 is the value of a variable of a frame, or where in memory it is; nil
// and 0 where that is not known.
func place1(l *sym.Location, f *Frame, base uint64, size int) (value []byte, mem uint64) {
	switch l.Kind {
	case sym.InRegister:
		v, ok := f.Regs.Get(l.Reg)
		if !ok || size > 16 {
			return nil, 0
		}
		return le.AppendUint64(le.AppendUint64(nil, v.Lo), v.Hi)[:size], 0
	case sym.RegRelative:
		if v, ok := f.Regs.Get(l.Reg); ok {
			return nil, v.Lo + uint64(l.Offset)
		}
	case sym.CFARelative:
		if f.CFA != 0 {
			return nil, f.CFA + uint64(l.Offset)
		}
	case sym.FrameBase:
		if f.Regs.Machine != kdproto.MachineI386 || f.FP == 0 {
			return nil, 0
		}
		// $T0 is where the caller's ebp is, or if the function keeps none the
		// return address.
		at := f.FP
		if strings.Contains(f.X86.Program, ".raSearch") {
			at += 4
		}
		return nil, at + uint64(l.Offset)
	case sym.AtRVA:
		return nil, base + uint64(l.RVA)
	case sym.IsConstant:
		if len(l.Value) >= size {
			return l.Value[:size], 0
		}
	}
	return nil, 0
}
