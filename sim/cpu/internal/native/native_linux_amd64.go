package native

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// State is what a snippet starts with and leaves behind. R[4], the stack
// pointer, is neither loaded nor stored. The layout is known to call.
type State struct {
	R     [16]uint64
	Flags uint64
	XMM   [16][16]byte
}

// Machine is a page of code and pages of data.
type Machine struct {
	code, data []byte
}

// call loads the state, calls the code and stores the state.
//
//go:noescape
func call(code uintptr, s *State)

// New maps the pages. Systems that allow no writable and executable memory
// give an error.
func New(dataSize int) (*Machine, error) {
	code, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("mapping an executable page: %w", err)
	}
	data, err := unix.Mmap(-1, 0, dataSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		_ = unix.Munmap(code)
		return nil, fmt.Errorf("mapping data: %w", err)
	}
	return &Machine{code, data}, nil
}

// Close unmaps the pages.
func (m *Machine) Close() {
	_ = unix.Munmap(m.code)
	_ = unix.Munmap(m.data)
}

// Data is the data area.
func (m *Machine) Data() []byte { return m.data }

// DataAddr is the linear address of the data area.
func (m *Machine) DataAddr() uint64 { return uint64(uintptr(unsafe.Pointer(&m.data[0]))) }

// CodeAddr is the linear address where snippets run.
func (m *Machine) CodeAddr() uint64 { return uint64(uintptr(unsafe.Pointer(&m.code[0]))) }

// Run executes a snippet that must fall through its end, keep off the stack
// and raise nothing.
func (m *Machine) Run(snippet []byte, s *State) {
	n := copy(m.code, snippet)
	m.code[n] = 0xC3
	call(uintptr(unsafe.Pointer(&m.code[0])), s)
}
