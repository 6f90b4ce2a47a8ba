package engine

import (
	"errors"

	"openkd/kdproto"
)

// The disassembler is not in the tree yet; stepping over and to a return wait
// for it.
type disasmKind uint8

const (
	disasmOther disasmKind = iota
	disasmCall
	disasmRet
	disasmJump
	disasmCondJump
	disasmRep
)

type disasmInst struct {
	Addr     uint64
	Len      int
	Mnemonic string
	Kind     disasmKind
}

func disasmDecode(kdproto.Machine, []byte, uint64, func(uint64) string) (disasmInst, error) {
	return disasmInst{}, errors.New("no disassembler yet")
}
