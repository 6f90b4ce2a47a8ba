// Package recorded is a real session of network debugging for tests: WinDbg
// and the boot debugger of Windows 10, key 8.8.8.8. It reads the recording,
// decodes it, and plays its target.
//
// The recording lies beside the project, not in it; tests skip without it. Its
// decoder is written from the description of the protocol alone and shares
// nothing with package kdnet, which it judges.
package recorded

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"openkd/kdproto"
	"openkd/link"
)

// Key is the key of the recorded session.
const Key = "8.8.8.8"

// maxSize bounds what the recording unpacks to.
const maxSize = 64 << 20

// path is where the recording is, as seen from this file.
func path() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "../../../../shared/data/kdnet/windbg-win10-boot.pcapng.gz")
}

// Datagrams returns the UDP payloads of the recording in order. The error is
// fs.ErrNotExist where there is no recording.
func Datagrams() ([][]byte, error) {
	f, err := os.Open(path())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(z, maxSize))
	if err != nil {
		return nil, err
	}
	var out [][]byte
	le := binary.LittleEndian
	for len(b) >= 12 {
		kind, size := le.Uint32(b), int(le.Uint32(b[4:]))
		if size < 12 || size > len(b) {
			return nil, fmt.Errorf("a block of %d bytes", size)
		}
		if kind == 6 && size >= 32 { // enhanced packet
			n := int(le.Uint32(b[20:]))
			if n > size-32 {
				return nil, fmt.Errorf("a frame of %d bytes in a block of %d", n, size)
			}
			if frame := b[28 : 28+n]; n >= 42 && binary.BigEndian.Uint16(frame[12:]) == 0x0800 && frame[23] == 17 {
				udp := frame[14+int(frame[14]&15)*4:]
				end := int(binary.BigEndian.Uint16(udp[4:]))
				if end < 8 || end > len(udp) {
					return nil, fmt.Errorf("a datagram of %d bytes in %d", end, len(udp))
				}
				out = append(out, bytes.Clone(udp[8:end]))
			}
		}
		b = b[size:]
	}
	return out, nil
}

// Plain is what a datagram says.
type Plain struct {
	Protocol, Channel byte
	Host              bool // sent by the host
	Sequence          uint64
	Body              []byte
}

// Reader decodes the datagrams of both sides. It learns the key of the data
// channel from the responses that it reads.
//
// Concurrency: none.
type Reader struct{ control, data []byte }

// NewReader returns a Reader for a key of four numbers.
func NewReader(parts [4]uint64) *Reader {
	r := &Reader{}
	for _, p := range parts {
		r.control = binary.LittleEndian.AppendUint64(r.control, p)
	}
	return r
}

// Read decodes a datagram.
func (r *Reader) Read(d []byte) (Plain, error) {
	if len(d) < 38 || (len(d)-22)%16 != 0 || string(d[:4]) != "MDBG" {
		return Plain{}, errors.New("no datagram")
	}
	key := r.data
	if d[5] == 1 {
		key = r.control
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return Plain{}, err
	}
	text, tag := bytes.Clone(d[6:len(d)-16]), d[len(d)-16:]
	cipher.NewCBCDecrypter(block, tag).CryptBlocks(text, text)
	mac := make([]byte, 32)
	for i := range mac {
		mac[i] = 0xFF - r.control[i]
	}
	h := hmac.New(sha256.New, mac)
	h.Write(d[:6])
	h.Write(text)
	if !bytes.Equal(h.Sum(nil)[:16], tag) {
		return Plain{}, errors.New("wrong tag")
	}
	p := Plain{Protocol: d[4], Channel: d[5], Host: text[7]&0x80 != 0}
	for _, b := range text[:7] {
		p.Sequence = p.Sequence<<8 | uint64(b)
	}
	pad := int(text[7] & 0x7F)
	if pad > 15 || pad > len(text)-8 || len(bytes.Trim(text[len(text)-pad:], "\x00")) != 0 {
		return p, errors.New("wrong padding")
	}
	p.Body = text[8 : len(text)-pad]
	if d[5] == 1 && p.Host && len(p.Body) == 322 {
		sum := sha256.Sum256(append(bytes.Clone(r.control), p.Body...))
		r.data = sum[:]
	}
	return p, nil
}

// KD splits the body of a data datagram into header and payload and checks
// both.
func KD(body []byte) (kdproto.Header, []byte, error) {
	h, err := kdproto.DecodeHeader(body)
	if err != nil {
		return h, nil, err
	}
	p := body[16:]
	sum := uint32(0)
	for _, b := range p {
		sum += uint32(b)
	}
	if int(h.ByteCount) != len(p) || h.Checksum != sum || h.Leader != 0x30303030 && h.Leader != 0x69696969 {
		return h, p, fmt.Errorf("%+v over %d bytes", h, len(p))
	}
	return h, p, nil
}

// Session is what the recorded target said: its first report, and its answers.
type Session struct {
	Report   []byte
	Reads    []kdproto.Memory // that WinDbg asked for
	Version  []byte           // the answer to GetVersion
	Requests int              // of WinDbg in all, repeated ones once
	answers  map[string][]byte
}

// question is what makes two requests the same: number and arguments. Behind
// them WinDbg leaves what lay there.
func question(payload []byte) string {
	n := map[kdproto.API]int{
		kdproto.APIReadVirtualMemory: 12, kdproto.APIReadControlSpace: 12, kdproto.APIRestoreBreakPoint: 4,
		kdproto.APIWriteControlSpace: 12,
	}[kdproto.API(binary.LittleEndian.Uint32(payload))]
	return string(payload[:4]) + string(payload[16:16+n])
}

// Load reads the recording. The error is fs.ErrNotExist where there is none.
func Load() (*Session, error) {
	all, err := Datagrams()
	if err != nil {
		return nil, err
	}
	s := &Session{answers: map[string][]byte{}}
	r := NewReader([4]uint64{8, 8, 8, 8})
	asked := map[uint32][]byte{} // open requests by number
	id := uint32(0)
	for _, d := range all {
		p, err := r.Read(d)
		if err != nil {
			return nil, err
		}
		if p.Channel == 1 || len(p.Body) < 16 {
			continue
		}
		h, payload, err := KD(p.Body)
		if err != nil {
			return nil, err
		}
		switch {
		case h.Type == kdproto.TypeStateChange64 && s.Report == nil:
			s.Report = payload
		case h.Type == kdproto.TypeManipulate && len(payload) < 56:
			return nil, fmt.Errorf("a request of %d bytes", len(payload))
		case h.Type == kdproto.TypeManipulate && p.Host:
			if h.ID != id {
				s.Requests++
			}
			id = h.ID
			asked[binary.LittleEndian.Uint32(payload)] = payload
		case h.Type == kdproto.TypeManipulate:
			q := asked[binary.LittleEndian.Uint32(payload)]
			if q == nil {
				continue
			}
			delete(asked, binary.LittleEndian.Uint32(payload))
			if _, known := s.answers[question(q)]; known {
				continue
			}
			s.answers[question(q)] = payload
			m, err := kdproto.DecodeManipulate(q)
			if err != nil {
				return nil, err
			}
			switch m.API {
			case kdproto.APIReadVirtualMemory:
				var b kdproto.Memory
				b.Get(&m.Union)
				s.Reads = append(s.Reads, b)
			case kdproto.APIGetVersion:
				s.Version = payload[16:56]
			}
		}
	}
	return s, nil
}

// Answer is what the target answered to a request; nil: it was not asked.
func (s *Session) Answer(request []byte) []byte {
	if len(request) < 56 {
		return nil
	}
	return s.answers[question(request)]
}

// Serve plays the recorded target until it is let go; what was not asked then
// fails. It calls served, when set, for each request.
func (s *Session) Serve(ctx context.Context, k link.Target, served func()) error {
	for {
		if err := k.Send(ctx, kdproto.TypeStateChange64, s.Report, false); err != nil {
			return err
		}
		for again := false; !again; {
			p, res, err := k.Receive(ctx, kdproto.TypeManipulate, 0)
			if err != nil {
				return err
			}
			switch {
			case res == link.Resend:
				again = true
				continue
			case res == link.Timeout:
				continue
			}
			if served != nil {
				served()
			}
			switch kdproto.API(binary.LittleEndian.Uint32(p)) {
			case kdproto.APIContinue, kdproto.APIContinue2:
				return nil
			}
			a := s.Answer(p)
			if a == nil {
				a = bytes.Clone(p[:56])
				binary.LittleEndian.PutUint32(a[8:], uint32(kdproto.StatusUnsuccessful))
			}
			if err := k.Send(ctx, kdproto.TypeManipulate, a, false); err != nil {
				return err
			}
		}
	}
}
