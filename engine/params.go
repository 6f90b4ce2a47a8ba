package engine

import (
	"context"
	"strings"

	"openkd/image/sym"
	"openkd/kdproto"
)

// Param is a parameter of a function in a frame.
type Param struct {
	File  sym.File // that Type belongs to
	Name  string
	Type  sym.TypeID
	Value []byte // little-endian; nil: it is not there any more, or cannot be read
}

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

// maxParam is the largest parameter whose value is read, in bytes.
const maxParam = 16

// Params are the parameters of the functions of a stack, by frame. Frames whose
// symbol file says nothing of them have none. The frames must have their
// registers. All memory that is asked takes one exchange.
func (e *Engine) Params(ctx context.Context, s *Stack) ([][]Param, error) {
	type place struct{ frame, param int }
	out := make([][]Param, len(s.Frames))
	var ranges []Range
	var places []place
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
		for _, v := range scopes[0].Vars {
			if !v.Param {
				continue
			}
			p := Param{File: file, Name: v.Name, Type: v.Type}
			size := 0
			if t, err := file.Type(v.Type); err == nil {
				size = int(min(t.Size, maxParam))
				if t.Kind == sym.Pointer && size == 0 {
					size = e.Arch().PointerSize
				}
			}
			if len(v.Loc) == 1 && v.Loc[0].PieceOffset == 0 && size > 0 {
				var mem uint64
				if p.Value, mem = place1(&v.Loc[0], f, m.Base, size); p.Value == nil && mem != 0 {
					ranges = append(ranges, Range{mem, size})
					places = append(places, place{i, len(out[i])})
				}
			}
			out[i] = append(out[i], p)
		}
	}
	data, err := e.ReadEach(ctx, ranges)
	if err != nil {
		return nil, err
	}
	for i, p := range places {
		if data[i].Complete() {
			out[p.frame][p.param].Value = data[i].Bytes
		}
	}
	return out, nil
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
