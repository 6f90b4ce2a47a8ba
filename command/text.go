package command

import (
	"context"
	"encoding/binary"
	"fmt"
	"unicode/utf16"

	"openkd/engine"
)

// symbol is the name of an address with its offset, "" where there is none.
func (s *Session) symbol(addr uint64) string {
	if s.Engine == nil {
		return ""
	}
	return s.Engine.Symbolize(addr)
}

// readString reads text up to its NUL, at most max bytes.
func (s *Session) readString(ctx context.Context, addr uint64, isWide bool, max int) (string, error) {
	if s.Engine == nil {
		return "", engine.ErrUnknownMachine
	}
	b, err := s.Engine.ReadString(ctx, addr, isWide, max)
	if err != nil {
		return "", err
	}
	if isWide {
		return wide(b), nil
	}
	return narrow(b), nil
}

// readCounted reads the text of an ANSI_STRING or UNICODE_STRING: u16 length in
// bytes, u16 size of the buffer, padding, pointer.
func (s *Session) readCounted(ctx context.Context, addr uint64, isWide bool) (string, error) {
	if s.Engine == nil {
		return "", engine.ErrUnknownMachine
	}
	p := s.pointerSize()
	b, err := s.Engine.ReadFull(ctx, engine.Virtual, addr, 2*p)
	if err != nil {
		return "", err
	}
	n := int(binary.LittleEndian.Uint16(b))
	buffer := uint64(binary.LittleEndian.Uint32(b[4:]))
	if p == 8 {
		buffer = binary.LittleEndian.Uint64(b[8:])
	}
	if n == 0 {
		return "", nil
	}
	text, err := s.Engine.ReadFull(ctx, engine.Virtual, s.canon(buffer), n)
	if err != nil {
		return "", fmt.Errorf("the buffer of the string at %s: %w", s.addr(addr), err)
	}
	if isWide {
		return wide(text), nil
	}
	return narrow(text), nil
}

// utf16Of is t in 16-bit characters.
func utf16Of(t string) []uint16 { return utf16.Encode([]rune(t)) }

// narrowOf is t in 8-bit characters: Latin-1, and `?` for what lies outside.
func narrowOf(t string) []byte {
	b := make([]byte, 0, len(t))
	for _, r := range t {
		if r > 0xff {
			r = '?'
		}
		b = append(b, byte(r))
	}
	return b
}
