package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"
	"unicode/utf16"

	"openkd/arch"
	"openkd/kdproto"
	"openkd/target"
)

// Module is one image of the kernel.
type Module struct {
	Name       string // as commands spell it: "nt", "hal", "tcpip"
	ImageName  string // file name: "ntoskrnl.exe"
	Path       string // as the target gives it
	Base       uint64
	Size       uint32
	EntryPoint uint64
	CheckSum   uint32
	// TimeDateStamp is that of the PE header once Headers has read it, else the
	// loader's copy, which old systems do not have (0).
	TimeDateStamp uint32
	Header        bool // TimeDateStamp, CheckSum come from the PE header

	FromEvent bool // known from a load event only: the list was not read yet
}

// End is the first address behind the module.
func (m *Module) End() uint64 { return m.Base + uint64(m.Size) }

// Contains reports whether addr is inside. A module whose size is not known
// contains only its base.
func (m *Module) Contains(addr uint64) bool {
	return addr == m.Base || addr > m.Base && addr-m.Base < uint64(m.Size)
}

// Time is TimeDateStamp as a time, zero when unknown.
func (m *Module) Time() time.Time {
	if m.TimeDateStamp == 0 {
		return time.Time{}
	}
	return time.Unix(int64(m.TimeDateStamp), 0).UTC()
}

// UnloadedModule is an image that was unloaded, as the kernel remembers the
// last 50.
type UnloadedModule struct {
	Name       string
	Start, End uint64
	Time       time.Time
}

// modules is what is known. Engine.mu guards it.
type modules struct {
	list     []Module // of the target's list, or of events before it was read
	read     bool     // list is the target's own
	unloaded []UnloadedModule
	added    []Module // by AddModule: not in the target's list
	// changes counts what was done to list, so that who has seen it need not
	// compare. It never goes back.
	changes uint64
}

func (ms *modules) forget() { *ms = modules{changes: ms.changes + 1} }

// edit changes the modules at a base where they are; their base stays.
func (ms *modules) edit(base uint64, change func(*Module)) {
	for i := range ms.list {
		if ms.list[i].Base == base {
			change(&ms.list[i])
			ms.changes++
		}
	}
}

// maxModules bounds the list.
const maxModules = 4096

// Offsets of LDR_DATA_TABLE_ENTRY (KLDR_DATA_TABLE_ENTRY is the same up to
// TimeDateStamp), by pointer size: the ReactOS and WDK headers.
type ldrLayout struct{ base, entry, size, full, name, sum, stamp, len uint32 }

var (
	ldr64 = ldrLayout{0x30, 0x38, 0x40, 0x48, 0x58, 0x78, 0x9C, 0xA0}
	ldr32 = ldrLayout{0x18, 0x1C, 0x20, 0x24, 0x2C, 0x40, 0x58, 0x5C}
)

// Offsets of UNLOADED_DRIVERS: name UNICODE_STRING at 0.
type unloadedLayout struct{ start, end, time, len uint32 }

var (
	unloaded64 = unloadedLayout{0x10, 0x18, 0x20, 0x28}
	unloaded32 = unloadedLayout{0x08, 0x0C, 0x10, 0x18}
)

const maxUnloaded = 50 // MI_UNLOADED_DRIVERS

// Modules returns the loaded modules by base address. The first call reads the
// target's list, and what it remembers of unloaded modules, in one exchange;
// from then on events keep it. Before the kernel has a list, it is what the
// load events told.
func (e *Engine) Modules(ctx context.Context) ([]Module, error) {
	e.mu.Lock()
	if e.mods.read {
		out := append([]Module(nil), e.mods.list...)
		e.mu.Unlock()
		return out, nil
	}
	e.mu.Unlock()
	if err := e.Reload(ctx); err != nil {
		return nil, err
	}
	return e.KnownModules(), nil
}

// KnownModules is Modules without an exchange: what is known already.
func (e *Engine) KnownModules() []Module {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]Module(nil), e.mods.list...)
}

// UnloadedModules is what the target remembered of unloaded modules when the
// list was read, and what was unloaded since, newest first.
func (e *Engine) UnloadedModules() []UnloadedModule {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]UnloadedModule(nil), e.mods.unloaded...)
}

// Reload reads the module list anew. A target without one yet (phase 0 of a
// boot) leaves what the load events told.
func (e *Engine) Reload(ctx context.Context) error {
	h, a, err := e.viewFor(ctx)
	if err != nil {
		return err
	}
	batch := e.moduleRequests(a)
	if len(batch) == 0 {
		return nil
	}
	r, err := e.do(ctx, h, batch...)
	if err != nil {
		return err
	}
	return e.takeModules(a, batch, r)
}

// moduleRequests asks for the module list and for what the target remembers of
// unloaded modules; none where it is not known where the list is.
func (e *Engine) moduleRequests(a *arch.Arch) []target.Request {
	head := uint64(0)
	if v := e.Version(); v != nil {
		head = v.PsLoadedModuleList
	}
	if head == 0 {
		head, _ = e.DataField(0x48)
	}
	if head == 0 {
		return nil
	}
	l, u := ldr64, unloaded64
	if a.PointerSize == 4 {
		l, u = ldr32, unloaded32
	}
	batch := []target.Request{{Op: target.OpFollow, List: &target.List{
		Head: a.Canon(head), Pointer: uint8(a.PointerSize), MaxNodes: maxModules,
		Pieces: []target.Piece{
			{Via: target.ViaNode, Len: l.len},
			{Via: target.ViaUnicode, Offset: l.full, Len: 1024},
			{Via: target.ViaUnicode, Offset: l.name, Len: 512},
		},
	}}}
	return append(batch, e.unloadedRequests(a.PointerSize, u)...)
}

// takeModules takes the answers to moduleRequests.
func (e *Engine) takeModules(a *arch.Arch, batch []target.Request, r []target.Reply) error {
	v, head := e.Version(), batch[0].List.Head
	l, u := ldr64, unloaded64
	if a.PointerSize == 4 {
		l, u = ldr32, unloaded32
	}
	nodes, err := target.DecodeNodes(r[0].Data())
	if err != nil {
		return fmt.Errorf("module list at %s: %w", e.FormatAddr(head), err)
	}
	var list []Module
	for _, n := range nodes {
		if len(n.Pieces) < 3 || uint32(len(n.Pieces[0])) < l.sum {
			continue
		}
		b := n.Pieces[0]
		field := func(off uint32, size int) uint64 {
			if int(off)+size > len(b) {
				return 0
			}
			return uintOf(b[off : int(off)+size])
		}
		m := Module{
			Base:       a.Canon(field(l.base, a.PointerSize)),
			EntryPoint: a.Canon(field(l.entry, a.PointerSize)),
			Size:       uint32(field(l.size, 4)),
			CheckSum:   uint32(field(l.sum, 4)),
			Path:       text16(n.Pieces[1]),
			ImageName:  text16(n.Pieces[2]),
		}
		if v != nil && v.Minor >= 6000 { // Vista; older entries have something else there
			m.TimeDateStamp = uint32(field(l.stamp, 4))
		}
		if m.Base == 0 {
			continue
		}
		list = append(list, m)
	}
	if len(list) == 0 {
		if r[0].Status.Failed() && len(e.KnownModules()) == 0 {
			return &StatusError{fmt.Sprintf("read of the module list at %s", e.FormatAddr(head)), r[0].Status}
		}
		return nil // phase 0: the head exists, nothing is in it
	}
	gone := e.unloadedAnswer(batch[1:], r[1:], a.PointerSize, u)
	kern := uint64(0)
	if v != nil {
		kern = a.Canon(v.KernBase)
	}
	e.mu.Lock()
	old := e.mods.list
	e.mods.list, e.mods.read, e.mods.unloaded = nil, true, gone
	e.mods.changes++
	for i, m := range list {
		// The kernel is the first entry whatever KernBase says.
		e.mods.add(m, m.Base == kern || kern == 0 && i == 0)
	}
	for _, m := range e.mods.added {
		e.mods.addNew(m)
	}
	for _, o := range old {
		if !o.Header {
			continue
		}
		e.mods.edit(o.Base, func(n *Module) {
			if o.Size == n.Size {
				n.Header, n.TimeDateStamp, n.CheckSum = true, o.TimeDateStamp, o.CheckSum
			}
		})
	}
	e.mu.Unlock()
	return nil
}

// unloadedRequests asks for the array of unloaded modules without knowing where
// it is: MmUnloadedDrivers points to it, so that a chase from there of one node
// reads it, in the same exchange as everything else. Names are reached through
// the pieces of further such chases, 15 at a time.
func (e *Engine) unloadedRequests(ptr int, u unloadedLayout) []target.Request {
	head, ok := e.DataField(0x220)
	if !ok || head == 0 {
		return nil
	}
	var out []target.Request
	for i := uint32(0); i < maxUnloaded; {
		p := []target.Piece{{Via: target.ViaNode, Len: maxUnloaded * u.len}}
		if i > 0 {
			p = nil
		}
		for ; len(p) < target.MaxPieces && i < maxUnloaded; i++ {
			p = append(p, target.Piece{Via: target.ViaUnicode, Offset: i * u.len, Len: 256})
		}
		out = append(out, target.Request{Op: target.OpFollow, List: &target.List{Head: head, Pointer: uint8(ptr), MaxNodes: 1, Pieces: p}})
	}
	return out
}

func (e *Engine) unloadedAnswer(batch []target.Request, r []target.Reply, ptr int, u unloadedLayout) []UnloadedModule {
	var array []byte
	var names [][]byte
	for i := range r {
		nodes, err := target.DecodeNodes(r[i].Data())
		if err != nil || len(nodes) == 0 {
			return nil
		}
		p := nodes[0].Pieces
		if i == 0 {
			if len(p) == 0 {
				return nil
			}
			array, p = p[0], p[1:]
		}
		names = append(names, p...)
	}
	var out []UnloadedModule
	for i := 0; i < len(names) && (i+1)*int(u.len) <= len(array); i++ {
		b := array[i*int(u.len):]
		m := UnloadedModule{
			Name:  text16(names[i]),
			Start: e.canon(uintOf(b[u.start : int(u.start)+ptr])),
			End:   e.canon(uintOf(b[u.end : int(u.end)+ptr])),
			Time:  fileTime(le.Uint64(b[u.time:])),
		}
		if m.Name != "" && m.Start != 0 {
			out = append(out, m)
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Time.After(out[j].Time) })
	return out
}

func (e *Engine) canon(addr uint64) uint64 {
	if a := e.Arch(); a != nil {
		return a.Canon(addr)
	}
	return addr
}

// fileTime is a Windows time, 100 ns since 1601, as a time; zero for 0 and for
// what no clock shows.
func fileTime(v uint64) time.Time {
	const epoch = 116444736000000000 // 1970 in units of 1601
	if v < epoch || v > epoch+1<<58 {
		return time.Time{}
	}
	v -= epoch
	return time.Unix(int64(v/1e7), int64(v%1e7)*100).UTC()
}

func text16(b []byte) string {
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = le.Uint16(b[2*i:])
	}
	s := string(utf16.Decode(u))
	s, _, _ = strings.Cut(s, "\x00")
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7F {
			return -1
		}
		return r
	}, s)
}

// add puts a module in its place by base, replacing one at the same base.
// Engine.mu is held.
func (ms *modules) add(m Module, kernel bool) string {
	m.Name = moduleName(m, kernel)
	ms.changes++
	for i := range ms.list {
		if ms.list[i].Base == m.Base {
			if m.Size == 0 {
				m.Size = ms.list[i].Size
			}
			if ms.list[i].Name == "nt" {
				m.Name = "nt"
			}
			ms.list[i] = m
			return m.Name
		}
	}
	for i := range ms.list {
		if strings.EqualFold(ms.list[i].Name, m.Name) {
			m.Name += fmt.Sprintf("_%x", m.Base)
			break
		}
	}
	ms.list = append(ms.list, m)
	sort.Slice(ms.list, func(i, j int) bool { return ms.list[i].Base < ms.list[j].Base })
	return m.Name
}

// addNew is add for what is not in the list. Engine.mu is held.
func (ms *modules) addNew(m Module) {
	for i := range ms.list {
		if ms.list[i].Base == m.Base {
			return
		}
	}
	ms.add(m, false)
}

// AddModule says that an image lies at an address although the target's list does
// not have it: it is hidden, not listed yet, or was unloaded. It stays until
// RemoveModule, or until the target starts anew.
func (e *Engine) AddModule(m Module) {
	m.Base = e.canon(m.Base)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mods.drop(m.Base)
	e.mods.added = append(e.mods.added, m)
	e.mods.addNew(m)
}

// RemoveModule takes back an AddModule. It says whether there was one.
func (e *Engine) RemoveModule(base uint64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.mods.drop(base) {
		return false
	}
	e.mods.list = slices.DeleteFunc(e.mods.list, func(m Module) bool { return m.Base == base })
	e.mods.changes++
	return true
}

// drop forgets an added module, not yet in the list. Engine.mu is held.
func (ms *modules) drop(base uint64) bool {
	n := len(ms.added)
	ms.added = slices.DeleteFunc(ms.added, func(m Module) bool { return m.Base == base })
	return len(ms.added) < n
}

// moduleName is the name that commands use: the file name without its
// extension, made of letters that an expression can hold; the kernel is "nt"
// whatever its file is called.
func moduleName(m Module, kernel bool) string {
	if kernel {
		return "nt"
	}
	n := m.ImageName
	if n == "" {
		n = baseName(m.Path)
	}
	if i := strings.LastIndexByte(n, '.'); i > 0 {
		n = n[:i]
	}
	n = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '$' || r == '@' {
			return r
		}
		return '_'
	}, n)
	if n == "" {
		return fmt.Sprintf("image%x", m.Base)
	}
	return n
}

func baseName(path string) string {
	return path[strings.LastIndexAny(path, `\/`)+1:]
}

// event follows a load or unload report and returns the module's name. Engine.mu
// is held.
func (ms *modules) event(v *kdproto.Version, ev *target.Module) string {
	if ev.All {
		ms.forget()
		return ""
	}
	if ev.Unload {
		for i, m := range ms.list {
			if m.Base == ev.Base {
				ms.list = append(ms.list[:i:i], ms.list[i+1:]...)
				ms.changes++
				ms.unloaded = append([]UnloadedModule{{Name: m.ImageName, Start: m.Base, End: m.End()}}, ms.unloaded...)
				if len(ms.unloaded) > maxUnloaded {
					ms.unloaded = ms.unloaded[:maxUnloaded]
				}
				return m.Name
			}
		}
		return moduleName(Module{Path: ev.Path, Base: ev.Base}, false)
	}
	m := Module{Path: ev.Path, ImageName: baseName(ev.Path), Base: ev.Base, Size: ev.Size, CheckSum: ev.CheckSum, FromEvent: true}
	// The kernel announces itself first of all, some before they know their base.
	kernel := v != nil && v.KernBase == ev.Base || (v == nil || v.KernBase == 0) && len(ms.list) == 0
	return ms.add(m, kernel)
}

// moduleEvent follows a load or unload report and returns the module's name.
// Engine.mu is held.
func (e *Engine) moduleEvent(ev *target.Module) string {
	if ev.All {
		e.images.forgetAll()
	} else {
		e.images.forget(ev.Base) // another image may lie there now
	}
	return e.mods.event(e.version, ev)
}

// moduleAt finds the module of an address without an exchange.
func (e *Engine) moduleAt(addr uint64) (Module, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.mods.list
	i := sort.Search(len(l), func(i int) bool { return l[i].Base > addr })
	if i > 0 && l[i-1].Contains(addr) {
		return l[i-1], true
	}
	return Module{}, false
}

// ModuleAt finds the module of an address. It reads the module list when that
// was not done yet.
func (e *Engine) ModuleAt(ctx context.Context, addr uint64) (Module, bool, error) {
	addr = e.canon(addr)
	if _, err := e.Modules(ctx); err != nil {
		return Module{}, false, err
	}
	m, ok := e.moduleAt(addr)
	return m, ok, nil
}

// baseOf finds the base of a module by name without an exchange.
func (e *Engine) baseOf(name string) (uint64, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range e.mods.list {
		if strings.EqualFold(m.Name, name) {
			return m.Base, true
		}
	}
	if strings.EqualFold(name, "nt") && e.version != nil && e.version.KernBase != 0 && e.arch != nil {
		return e.arch.Canon(e.version.KernBase), true
	}
	return 0, false
}

// Headers reads the PE headers of the modules with these bases, one exchange
// for all of them (a second for headers that lie far in), and notes their time
// stamps and check sums. What cannot be read is left as it was.
func (e *Engine) Headers(ctx context.Context, bases ...uint64) error {
	h, a, err := e.view()
	if err != nil {
		return err
	}
	var todo []uint64
	e.mu.Lock()
	for _, m := range e.mods.list {
		if !m.Header && (len(bases) == 0 || containsAddr(bases, m.Base)) {
			todo = append(todo, m.Base)
		}
	}
	e.mu.Unlock()
	const first = 0x200
	offset := make([]uint64, len(todo))
	for round := 0; round < 2 && len(todo) > 0; round++ {
		batch := make([]target.Request, len(todo))
		for i, base := range todo {
			batch[i] = Virtual.ReadRequest(base+offset[i], first)
		}
		var replies []target.Reply
		for len(batch) > 0 {
			n := min(len(batch), target.MaxBatch)
			r, err := e.do(ctx, h, batch[:n]...)
			if err != nil {
				return err
			}
			replies, batch = append(replies, r...), batch[n:]
		}
		var far, farOffset []uint64
		for i, r := range replies {
			b := r.Data()
			if round == 0 {
				if len(b) < 0x40 || b[0] != 'M' || b[1] != 'Z' {
					continue
				}
				nt := uint64(le.Uint32(b[0x3C:]))
				if nt+0x60 > uint64(len(b)) {
					if nt < 0x10000 {
						far, farOffset = append(far, todo[i]), append(farOffset, nt)
					}
					continue
				}
				b = b[nt:]
			}
			e.noteHeader(a.Canon(todo[i]), b)
		}
		todo, offset = far, farOffset
	}
	return nil
}

// noteHeader takes IMAGE_NT_HEADERS: "PE\0\0", TimeDateStamp @8, optional header
// @18 with SizeOfImage @50 and CheckSum @58 (the same place in PE32 and PE32+).
func (e *Engine) noteHeader(base uint64, b []byte) {
	if len(b) < 0x5C || string(b[:4]) != "PE\x00\x00" {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mods.edit(base, func(m *Module) {
		m.Header = true
		m.TimeDateStamp = le.Uint32(b[8:])
		m.CheckSum = le.Uint32(b[0x58:])
		if m.Size == 0 {
			m.Size = le.Uint32(b[0x50:])
		}
	})
}

// meetKernel learns the kernel's size when nothing else has told it, so that
// the first location has a name. One small read, once for each kernel met.
func (e *Engine) meetKernel(ctx context.Context, h *halt) {
	e.mu.Lock()
	v, a := e.version, e.arch
	if v == nil || a == nil || v.KernBase == 0 || e.headerFor == v.KernBase {
		e.mu.Unlock()
		return
	}
	e.headerFor = v.KernBase
	base := a.Canon(v.KernBase)
	known := false
	e.mods.edit(base, func(m *Module) {
		m.Name = "nt"
		known = m.Size != 0
	})
	e.mu.Unlock()
	if known {
		return
	}
	r, err := e.do(ctx, h, Virtual.ReadRequest(base, 0x200))
	if err != nil {
		return
	}
	h.mu.Lock()
	h.fill(Virtual, base, 0x200, r[0])
	h.mu.Unlock()
	b := r[0].Data()
	if len(b) < 0x40 || b[0] != 'M' || b[1] != 'Z' {
		return
	}
	nt := uint64(le.Uint32(b[0x3C:]))
	if nt+0x5C > uint64(len(b)) {
		return
	}
	e.mu.Lock()
	e.mods.add(Module{Base: base, Size: le.Uint32(b[nt+0x50:]), FromEvent: true}, true)
	e.mu.Unlock()
	e.noteHeader(base, b[nt:])
}

func containsAddr(list []uint64, a uint64) bool {
	for _, x := range list {
		if x == a {
			return true
		}
	}
	return false
}

// KnownModule finds a module by name without an exchange.
func (e *Engine) KnownModule(name string) (Module, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range e.mods.list {
		if strings.EqualFold(m.Name, name) {
			return m, true
		}
	}
	return Module{}, false
}

// ErrNoName says that a name is not known.
var ErrNoName = errors.New("no such name")

// Lookup finds the address of a name: that of a module, or a symbol where there
// are symbols. It may read the module list and load symbols.
func (e *Engine) Lookup(ctx context.Context, name string) (uint64, error) {
	if v, ok := e.baseOf(name); ok {
		return v, nil
	}
	e.mu.Lock()
	read := e.mods.read
	e.mu.Unlock()
	if !read {
		_, err := e.Modules(ctx)
		if v, ok := e.baseOf(name); ok {
			return v, nil
		}
		if err != nil {
			return 0, err
		}
	}
	s := e.opt.Symbols
	if s == nil {
		return 0, fmt.Errorf("%w as %q", ErrNoName, name)
	}
	v, err := s.Lookup(ctx, name)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrNoName, err)
	}
	return v, nil
}

// Name finds the nearest name at or below an address and the distance, without
// an exchange: a symbol where there are symbols, else the module.
func (e *Engine) Name(addr uint64) (name string, displacement uint64, ok bool) {
	addr = e.canon(addr)
	if s := e.opt.Symbols; s != nil {
		if n, d, ok := s.Name(addr); ok {
			return n, d, true
		}
	}
	if m, ok := e.moduleAt(addr); ok {
		return m.Name, addr - m.Base, true
	}
	return "", 0, false
}

// Symbolize is Name as text: "nt+0x1234", "nt" at the very start, "" without a
// name.
func (e *Engine) Symbolize(addr uint64) string {
	n, d, ok := e.Name(addr)
	switch {
	case !ok:
		return ""
	case d == 0:
		return n
	}
	return fmt.Sprintf("%s+0x%x", n, d)
}
