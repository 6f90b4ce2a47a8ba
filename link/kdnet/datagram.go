package kdnet

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"

	"openkd/kdproto"
)

// A datagram:
//
//	@0 "MDBG"  @4 u8 protocol  @5 u8 channel
//	@6 AES-256-CBC of: u64 big-endian sequence<<8 | direction | padding,
//	   payload, zeros up to a multiple of 16
//	end-16: tag, the first 16 bytes of HMAC-SHA256 over the six bytes of the
//	   header and what is encrypted; it is the IV, too
//
// Source: kd-protocol, sections 4.2 and 4.3.
const (
	magic       = "MDBG"
	headerSize  = 6
	metaSize    = 8
	tagSize     = 16
	minDatagram = headerSize + 16 + tagSize
	// maxDatagram is the largest that holds a KD packet. Windows' targets were
	// seen to send at most 1334 bytes.
	maxDatagram = headerSize + (metaSize+kdproto.HeaderSize+kdproto.MaxPayload+padMask)&^padMask + tagSize
	// pokeDatagram is the size of every datagram that a target sends on the
	// control channel.
	pokeDatagram = headerSize + metaSize + pokeSize + tagSize

	chanData    = 0
	chanControl = 1

	fromHost = 0x80
	padMask  = 0x0F
)

// Why a datagram is not taken. Each is counted by itself.
var (
	errFormat    = errors.New("no datagram of this protocol")
	errTag       = errors.New("its authentication is wrong: another key, or not from the target")
	errDirection = errors.New("it goes the other way")
	errPadding   = errors.New("its padding is wrong")
)

// seal makes and opens the datagrams of one key in one direction each. The MAC
// key is always the complement of the control key, whatever encrypts.
//
// Concurrency: none.
type seal struct {
	block    cipher.Block
	enc, dec blockMode
	mac      hash.Hash
	sum      [sha256.Size]byte
}

// blockMode is a mode that takes another IV: the one of AES does. Making a new
// one for each datagram would be half of the garbage.
type blockMode interface {
	cipher.BlockMode
	SetIV([]byte)
}

// crypt runs b through the mode that make makes, or through the kept one.
func crypt(kept *blockMode, make func(cipher.Block, []byte) cipher.BlockMode, block cipher.Block, iv, b []byte) {
	if m := *kept; m != nil {
		m.SetIV(iv)
		m.CryptBlocks(b, b)
		return
	}
	m := make(block, iv)
	*kept, _ = m.(blockMode)
	m.CryptBlocks(b, b)
}

// newSeal returns the seal of a channel. key encrypts; control is the key of
// the session.
func newSeal(key [32]byte, control Key) *seal {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // 32 bytes are a key
	}
	var m [32]byte
	for i, b := range control {
		m[i] = ^b
	}
	return &seal{block: block, mac: hmac.New(sha256.New, m[:])}
}

func (s *seal) tag(header, plain []byte) []byte {
	s.mac.Reset()
	s.mac.Write(header)
	s.mac.Write(plain)
	return s.mac.Sum(s.sum[:0])[:tagSize]
}

var zeros [padMask]byte

// meta is what stands in front of the payload.
type meta struct {
	protocol byte
	channel  byte
	host     bool // sent by the host
	sequence uint64
}

// append adds a datagram to b.
func (s *seal) append(b []byte, m meta, payload []byte) []byte {
	pad := -(metaSize + len(payload)) & padMask
	at := len(b)
	b = append(b, magic...)
	b = append(b, m.protocol, m.channel)
	word := m.sequence<<8 | uint64(pad)
	if m.host {
		word |= fromHost
	}
	b = binary.BigEndian.AppendUint64(b, word)
	b = append(b, payload...)
	b = append(b, zeros[:pad]...)
	plain := b[at+headerSize:]
	tag := s.tag(b[at:at+headerSize], plain)
	crypt(&s.enc, cipher.NewCBCEncrypter, s.block, tag, plain)
	return append(b, tag...)
}

// peek reads what is not encrypted.
func peek(d []byte) (protocol, channel byte, err error) {
	if len(d) < minDatagram || len(d) > maxDatagram || (len(d)-headerSize-tagSize)%16 != 0 || string(d[:4]) != magic || d[5] > chanControl {
		return 0, 0, errFormat
	}
	return d[4], d[5], nil
}

// open checks and decrypts a datagram into buf, which it returns the payload's
// part of. host says whose datagrams are wanted.
func (s *seal) open(buf, d []byte, host bool) (meta, []byte, error) {
	protocol, channel, err := peek(d)
	if err != nil {
		return meta{}, nil, err
	}
	tag := d[len(d)-tagSize:]
	buf = append(buf[:0], d[headerSize:len(d)-tagSize]...)
	crypt(&s.dec, cipher.NewCBCDecrypter, s.block, tag, buf)
	if !hmac.Equal(tag, s.tag(d[:headerSize], buf)) {
		return meta{}, nil, errTag
	}
	word := binary.BigEndian.Uint64(buf)
	m := meta{protocol: protocol, channel: channel, host: word&fromHost != 0, sequence: word >> 8}
	pad := int(word & padMask)
	if word&0x70 != 0 || pad > len(buf)-metaSize {
		return m, nil, errPadding
	}
	for _, b := range buf[len(buf)-pad:] {
		if b != 0 {
			return m, nil, errPadding
		}
	}
	if m.host != host {
		return m, nil, errDirection
	}
	return m, buf[metaSize : len(buf)-pad], nil
}

// dataKey is the key of a data channel: SHA-256 over the control key and the
// response that opened it.
func dataKey(control Key, response []byte) [32]byte {
	h := sha256.New()
	h.Write(control[:])
	h.Write(response)
	return [32]byte(h.Sum(nil))
}
