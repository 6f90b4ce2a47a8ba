package transport

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"

	"openkd/transport/cpace"
)

// The password exchange, inside TLS 1.3, all fields fixed, little-endian.
// A is the client (initiator), B the server (responder).
//
//	1  A -> B  38 bytes   @0 "KDPW"  @4 u8 version  @5 u8 flags  @6 share Ya [32]
//	2  B -> A  36 bytes   @0 u8 code  @1 u8 flags  @2 u16 seconds  @4 share Yb [32]
//	3  A -> B  64 bytes   confirmation Ta
//	4  B -> A  65 bytes   @0 u8 code  @1 confirmation Tb [64]
//
// version is 1. flags bit 0: this side has a password. seconds counts only
// with codeWait. With a code other than codeGo in message 2 the share is zero
// and the server closes; with another code in message 4 the confirmation is
// zero and the server closes.
//
// CPace inputs: PRS the password as typed, empty for none; CI authChannel; sid
// 32 bytes of keying material exported from the TLS connection under
// authLabel without context; ADa the first 6 bytes of message 1, ADb the first
// 4 bytes of message 2. The confirmations are HMAC-SHA-512 (see cpace).
//
// The server speaks its confirmation only after the client's was right, so a
// client that guesses learns one bit. A server that guesses learns as much
// from Ta: one guess for each connection that a person makes.
const (
	authMagic   = "KDPW"
	authVersion = 1
	authLabel   = "EXPORTER-openkd-password"
	authChannel = "\x0dopenkd-client\x0dopenkd-server" // length, initiator, length, responder
	authALPN    = "openkd"

	flagPassword = 1

	codeGo      = 0 // message 2: go on; message 4: accepted
	codeRefused = 1 // message 4: the confirmation was wrong
	codeWait    = 2 // message 2: too many wrong ones lately
	codeVersion = 3 // message 2: this version is not spoken

	authLen1 = 6 + cpace.ShareSize
	authLen2 = 4 + cpace.ShareSize
	authLen3 = cpace.TagSize
	authLen4 = 1 + cpace.TagSize
)

// tlsStream is what a finished TLS handshake offers to the password exchange.
type tlsStream interface {
	io.ReadWriter
	ConnectionState() tls.ConnectionState
}

func authInputs(c tlsStream, password string) (cpace.Inputs, error) {
	st := c.ConnectionState()
	sid, err := st.ExportKeyingMaterial(authLabel, nil, 32)
	return cpace.Inputs{Password: []byte(password), Channel: []byte(authChannel), Session: sid}, err
}

func passwordFlag(password string) byte {
	if password != "" {
		return flagPassword
	}
	return 0
}

// authClient proves the password to the server and has the server prove it.
func authClient(c tlsStream, password, addr string) error {
	broken := func(err error) error { return &AuthError{Addr: addr, Reason: AuthIncomplete, Err: err} }
	in, err := authInputs(c, password)
	if err != nil {
		return broken(err)
	}
	run := cpace.New(cpace.Initiator, in)
	m1 := append([]byte(authMagic), authVersion, passwordFlag(password))
	m1 = append(m1, run.Share()...)
	if _, err := c.Write(m1); err != nil {
		return broken(err)
	}
	var m2 [authLen2]byte
	if _, err := io.ReadFull(c, m2[:]); err != nil {
		return broken(err)
	}
	switch m2[0] {
	case codeGo:
	case codeWait:
		wait := time.Duration(binary.LittleEndian.Uint16(m2[2:])) * time.Second
		return &AuthError{Addr: addr, Reason: AuthWait, Wait: wait}
	case codeVersion:
		return &AuthError{Addr: addr, Reason: AuthVersion}
	default:
		return &AuthError{Addr: addr, Reason: AuthRefused}
	}
	// The flags are only hints until the confirmations agree; giving up on one
	// gives nothing away.
	if theirs := m2[1] & flagPassword; theirs != passwordFlag(password) {
		if theirs != 0 {
			return &AuthError{Addr: addr, Reason: AuthNeeded}
		}
		return &AuthError{Addr: addr, Reason: AuthNotSet}
	}
	key, err := run.Finish(m2[4:], m1[:6], m2[:4])
	if err != nil {
		return &AuthError{Addr: addr, Reason: AuthImpostor}
	}
	if _, err := c.Write(key.Confirmation()); err != nil {
		return broken(err)
	}
	var m4 [authLen4]byte
	if _, err := io.ReadFull(c, m4[:]); err != nil {
		return broken(err)
	}
	if m4[0] != codeGo {
		return &AuthError{Addr: addr, Reason: AuthRefused}
	}
	if !key.Verify(m4[1:]) {
		return &AuthError{Addr: addr, Reason: AuthImpostor}
	}
	return nil
}

var (
	errWrongPassword = errors.New("wrong password")
	errTooMany       = errors.New("too many wrong passwords")
	errNotAuth       = errors.New("not a password exchange")
	errGaveUp        = errors.New("the client gave up the password exchange")
	errNoPassword    = errors.New("no password was given")
)

// authServer is the other side of authClient. The peer's address is what
// wrong passwords are counted against.
func authServer(ctx context.Context, c tlsStream, password string, peer net.Addr, guesses *door) error {
	in, err := authInputs(c, password)
	if err != nil {
		return err
	}
	var m1 [authLen1]byte
	if _, err := io.ReadFull(c, m1[:]); err != nil {
		return err
	}
	if string(m1[:4]) != authMagic {
		return errNotAuth
	}
	var m2 [authLen2]byte
	m2[1] = passwordFlag(password)
	if m1[4] != authVersion {
		m2[0] = codeVersion
		c.Write(m2[:])
		return errNotAuth
	}

	turn, wait, err := guesses.take(ctx, peer)
	if err != nil {
		return err
	}
	if turn == nil {
		m2[0] = codeWait
		binary.LittleEndian.PutUint16(m2[2:], uint16(min((wait+time.Second-1)/time.Second, 0xFFFF)))
		c.Write(m2[:])
		return errTooMany
	}
	end := gaveUp
	defer func() { turn.done(end) }()

	run := cpace.New(cpace.Responder, in)
	copy(m2[4:], run.Share())
	key, err := run.Finish(m1[6:], m2[:4], m1[:6])
	if err != nil {
		end = wrong
		return err
	}
	if _, err := c.Write(m2[:]); err != nil {
		return err
	}
	var m3 [authLen3]byte
	if _, err := io.ReadFull(c, m3[:]); err != nil {
		if password != "" && m1[5]&flagPassword == 0 {
			return errNoPassword
		}
		return errGaveUp
	}
	var m4 [authLen4]byte
	if !key.Verify(m3[:]) {
		end = wrong
		m4[0] = codeRefused
		c.Write(m4[:])
		return errWrongPassword
	}
	end = right
	copy(m4[1:], key.Confirmation())
	_, err = c.Write(m4[:])
	return err
}
