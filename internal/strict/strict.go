// Package strict encodes what goes between our programs as CBOR (RFC 8949), in
// one way only, and decodes what comes with no more trust than a stranger has: no
// tags, nothing of indefinite length, no key twice, within limits. It knows no
// messages; PROTOCOL.md of each protocol says what they are.
//
// Concurrency: a Codec may be used from any goroutine.
package strict

import "github.com/fxamacker/cbor/v2"

// Limits of what is decoded.
const (
	maxElements = 16384 // of an array
	maxPairs    = 64    // of a map
)

// Codec encodes and decodes.
type Codec struct {
	enc cbor.EncMode
	dec cbor.DecMode
}

// New makes a Codec for messages that nest levels deep, 4 to 65535.
func New(levels int) Codec {
	enc, err := cbor.EncOptions{Sort: cbor.SortCoreDeterministic, Time: cbor.TimeRFC3339Nano, TimeTag: cbor.EncTagNone}.EncMode()
	if err != nil {
		panic(err) // constant options
	}
	dec, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, MaxNestedLevels: levels, MaxArrayElements: maxElements, MaxMapPairs: maxPairs,
		IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		// What a target prints is bytes, whatever they mean.
		UTF8: cbor.UTF8DecodeInvalid,
	}.DecMode()
	if err != nil {
		panic(err) // levels are wrong
	}
	return Codec{enc, dec}
}

// Encode encodes a value of a type of ours, which always can be.
func (c Codec) Encode(v any) []byte {
	b, err := c.enc.Marshal(v)
	if err != nil {
		panic("encoding a message: " + err.Error())
	}
	return b
}

// Decode decodes a whole message into v, a pointer.
func (c Codec) Decode(b []byte, v any) error { return c.dec.Unmarshal(b, v) }
