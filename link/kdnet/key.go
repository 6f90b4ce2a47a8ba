package kdnet

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"strconv"
	"strings"
)

// Key is the secret that a target and its debugger share: 256 bits, four
// numbers (bcdedit /dbgsettings net key:w.x.y.z). It is not printed.
type Key [32]byte

// keyDigits is how many digits of base 36 a part has at most; the largest
// number of 64 bits, 3w5e11264sgsf, has thirteen.
const keyDigits = 13

// ParseKey reads a key: four numbers in base 36, each less than 2^64, with
// dots between them, in either case. Errors say which part is wrong and never
// show one.
func ParseKey(s string) (Key, error) {
	var k Key
	if s == "" {
		return k, errors.New("the key is empty; it is four numbers of digits and letters with dots between them, as key=1abc.2def.3ghi.4jkl")
	}
	if len(s) > 1024 {
		return k, errors.New("the key is far too long; it is four numbers of at most 13 digits and letters each")
	}
	parts := strings.Split(s, ".")
	if len(parts) != 4 {
		return k, fmt.Errorf("the key has %d parts; it has four, with dots between them: w.x.y.z", len(parts))
	}
	for i, p := range parts {
		n, err := keyPart(p)
		if err != nil {
			return Key{}, fmt.Errorf("part %d of the key %w", i+1, err)
		}
		binary.LittleEndian.PutUint64(k[8*i:], n)
	}
	return k, nil
}

func keyPart(p string) (uint64, error) {
	if p == "" {
		return 0, errors.New("is empty")
	}
	if len(p) > keyDigits {
		return 0, fmt.Errorf("has %d characters; at most %d are allowed", len(p), keyDigits)
	}
	var n uint64
	for i, c := range []byte(p) {
		var d byte
		switch {
		case c >= '0' && c <= '9':
			d = c - '0'
		case c >= 'a' && c <= 'z':
			d = c - 'a' + 10
		case c >= 'A' && c <= 'Z':
			d = c - 'A' + 10
		default:
			return 0, fmt.Errorf("has a character, at place %d, that is neither a digit nor a letter from a to z", i+1)
		}
		hi, lo := bits.Mul64(n, 36)
		sum, carry := bits.Add64(lo, uint64(d), 0)
		if hi != 0 || carry != 0 {
			return 0, errors.New("is too large; the largest is 3w5e11264sgsf")
		}
		n = sum
	}
	return n, nil
}

// NewKey makes a key up.
func NewKey() Key {
	var k Key
	rand.Read(k[:]) // never fails: the runtime ends the process instead
	return k
}

// Reveal writes the key as it is typed. It is for who made the key; nothing
// that logs or lists may call it.
func (k Key) Reveal() string {
	var parts [4]string
	for i := range parts {
		parts[i] = strconv.FormatUint(binary.LittleEndian.Uint64(k[8*i:]), 36)
	}
	return strings.Join(parts[:], ".")
}

// String and the rest hide the key from whatever prints, logs or encodes a
// value that holds one.
func (Key) String() string                 { return "*" }
func (Key) Format(f fmt.State, _ rune)     { io.WriteString(f, "*") }
func (Key) MarshalText() ([]byte, error)   { return []byte("*"), nil }
func (Key) MarshalBinary() ([]byte, error) { return []byte("*"), nil }
