package target

import (
	"encoding/binary"
	"errors"
)

// Node is one element of a followed list. Pieces stand in the order of
// List.Pieces; nil means unreadable.
type Node struct {
	Addr   uint64
	Pieces [][]byte
}

const unreadable = 0xFFFFFFFF

// AppendNode appends the encoding of n to b: u64 address, u32 count of pieces,
// then for each piece u32 length (0xFFFFFFFF unreadable) and its bytes, all
// little-endian.
func AppendNode(b []byte, n Node) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, n.Addr)
	b = le.AppendUint32(b, uint32(len(n.Pieces)))
	for _, p := range n.Pieces {
		if p == nil {
			b = le.AppendUint32(b, unreadable)
			continue
		}
		b = le.AppendUint32(b, uint32(len(p)))
		b = append(b, p...)
	}
	return b
}

var errNodes = errors.New("the answer to a list request is damaged")

// DecodeNodes reads the Data of an OpFollow answer. Pieces alias b.
func DecodeNodes(b []byte) ([]Node, error) {
	le := binary.LittleEndian
	var nodes []Node
	for len(b) > 0 {
		if len(b) < 12 {
			return nodes, errNodes
		}
		n := Node{Addr: le.Uint64(b)}
		count := le.Uint32(b[8:])
		b = b[12:]
		if count > MaxPieces {
			return nodes, errNodes
		}
		for range count {
			if len(b) < 4 {
				return nodes, errNodes
			}
			l := le.Uint32(b)
			b = b[4:]
			if l == unreadable {
				n.Pieces = append(n.Pieces, nil)
				continue
			}
			if uint64(l) > uint64(len(b)) {
				return nodes, errNodes
			}
			n.Pieces = append(n.Pieces, b[:l:l])
			b = b[l:]
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}
