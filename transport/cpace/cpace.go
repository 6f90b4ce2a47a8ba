// Package cpace is the balanced password-authenticated key exchange CPace in
// the cipher suite CPACE-RISTR255-SHA512, initiator-responder setting, with
// the explicit key confirmation that its document recommends.
//
// Two parties that share a password agree on a strong key. Somebody who
// listens learns nothing that lets him test a password; somebody who takes
// part has one guess for each run. The package holds the mathematics only: it
// moves no bytes, limits no guesses and knows no TLS.
//
// Source: draft-irtf-cfrg-cpace-21 (sections "The CPace protocol", "CPace
// group objects for prime-order group abstractions", "Key confirmation"),
// whose published vectors are in the tests; the group is RFC 9496.
package cpace

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha512"
	"errors"

	"github.com/gtank/ristretto255"
)

// Sizes in bytes.
const (
	ShareSize = 32 // public share, an encoded group element
	KeySize   = 64 // intermediate session key
	TagSize   = 64 // key confirmation, HMAC-SHA-512
)

// Role is which side of the run a party plays.
type Role uint8

// Roles. The initiator speaks first.
const (
	Initiator Role = iota
	Responder
)

// ErrShare says that the other side's share is not an element of the group or
// is the neutral one. The run must be given up.
var ErrShare = errors.New("cpace: the other side's share is not valid")

const (
	dsi        = "CPaceRistretto255" // G.DSI
	blockBytes = 128                 // H.s_in_bytes of SHA-512
)

// Run is one side of one exchange. It is used once, by one goroutine.
type Run struct {
	role   Role
	sid    []byte
	scalar *ristretto255.Scalar
	share  []byte
}

// Inputs are what both sides must agree on for the keys to agree.
type Inputs struct {
	Password []byte // PRS
	Channel  []byte // CI: names the parties and their roles; not sent
	Session  []byte // sid: unique to this connection; not sent
}

// New starts a run with a fresh secret.
func New(role Role, in Inputs) *Run {
	var b [32]byte
	rand.Read(b[:]) // never fails: the runtime ends the process instead
	b[31] &= 0x0F   // 252 bits, G.sample_scalar
	return newRun(role, in, b[:])
}

// newRun is New with a chosen scalar of 252 bits, little-endian.
func newRun(role Role, in Inputs, scalar []byte) *Run {
	s, err := ristretto255.NewScalar().SetCanonicalBytes(scalar)
	if err != nil {
		panic("cpace: scalar out of range") // 252 bits are below the order of the group
	}
	g := generator(in)
	return &Run{
		role:   role,
		sid:    append([]byte(nil), in.Session...),
		scalar: s,
		share:  ristretto255.NewIdentityElement().ScalarMult(s, g).Bytes(),
	}
}

// Share is what is sent to the other side, ShareSize bytes.
func (r *Run) Share() []byte { return append([]byte(nil), r.share...) }

// Key is the outcome of a run. It agrees with the other side's only if
// password, channel, session, shares and associated data agree.
type Key struct {
	ISK        [KeySize]byte
	mac        [sha512.Size]byte
	own, other []byte // what the confirmations cover
}

// Finish takes the other side's share. ownData and otherData are the
// associated data that travelled with the two shares.
func (r *Run) Finish(share, ownData, otherData []byte) (*Key, error) {
	k := scalarMultVerify(r.scalar, share)
	if k == nil {
		return nil, ErrShare
	}
	own, other := lvCat(r.share, ownData), lvCat(share, otherData)
	h := sha512.New()
	h.Write(lvCat([]byte(dsi+"_ISK"), r.sid, k))
	if r.role == Initiator {
		h.Write(own)
		h.Write(other)
	} else {
		h.Write(other)
		h.Write(own)
	}
	key := &Key{own: own, other: other}
	h.Sum(key.ISK[:0])

	h = sha512.New()
	h.Write([]byte("CPaceMac"))
	h.Write(r.sid)
	h.Write(key.ISK[:])
	h.Sum(key.mac[:0])
	return key, nil
}

// Confirmation is the proof of the key that is sent to the other side.
func (k *Key) Confirmation() []byte { return k.tag(k.own) }

// Verify checks the other side's proof, in constant time.
func (k *Key) Verify(tag []byte) bool { return hmac.Equal(tag, k.tag(k.other)) }

func (k *Key) tag(message []byte) []byte {
	m := hmac.New(sha512.New, k.mac[:])
	m.Write(message)
	return m.Sum(nil)
}

// generator is G.calculate_generator.
func generator(in Inputs) *ristretto255.Element {
	h := sha512.Sum512(generatorString(in))
	g, err := ristretto255.NewIdentityElement().SetUniformBytes(h[:])
	if err != nil {
		panic("cpace: " + err.Error()) // the length is right by construction
	}
	return g
}

func generatorString(in Inputs) []byte {
	pad := blockBytes - len(lvCat(in.Password)) - len(lvCat([]byte(dsi))) - 1
	return lvCat([]byte(dsi), in.Password, make([]byte, max(0, pad)), in.Channel, in.Session)
}

// scalarMultVerify is G.scalar_mult_vfy; nil stands for the neutral element.
func scalarMultVerify(s *ristretto255.Scalar, share []byte) []byte {
	p, err := ristretto255.NewIdentityElement().SetCanonicalBytes(share)
	if err != nil {
		return nil
	}
	p.ScalarMult(s, p)
	if p.Equal(ristretto255.NewIdentityElement()) == 1 {
		return nil
	}
	return p.Bytes()
}

// lvCat puts each string behind its length in LEB128.
func lvCat(parts ...[]byte) []byte {
	var b []byte
	for _, p := range parts {
		n := len(p)
		for n >= 0x80 {
			b = append(b, byte(n)|0x80)
			n >>= 7
		}
		b = append(b, byte(n))
		b = append(b, p...)
	}
	return b
}
