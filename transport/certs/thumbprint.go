package certs

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// thumb is a thumbprint: 20 bytes are a SHA-1, 32 a SHA-256.
//
// SHA-1 is accepted because that is what Windows shows and what people paste.
// Two certificates with the same SHA-1 can be made by who makes both, so it does
// not prove that the certificate's owner has only the one; to make a second one
// for a certificate of somebody else is beyond what is known. Where 64 digits
// are given, SHA-256 is compared, and it is what this package prints.
type thumb []byte

// parseThumbprint reads a thumbprint. Anything but 40 or 64 hex digits is none.
// A blank, a colon and an invisible character (the dialogue of Windows puts a
// left-to-right mark in front of what is copied) do not count.
func parseThumbprint(text string) (thumb, bool) {
	digits, ok := hexDigits(text)
	if !ok || len(digits) != 2*sha1.Size && len(digits) != 2*sha256.Size {
		return nil, false
	}
	t, err := hex.DecodeString(digits)
	return t, err == nil
}

// hexDigits is the text without separators, if hex digits are all that is left.
func hexDigits(text string) (string, bool) {
	var b strings.Builder
	for _, r := range text {
		switch {
		case '0' <= r && r <= '9', 'a' <= r && r <= 'f', 'A' <= r && r <= 'F':
			b.WriteRune(r)
		case r == ':', unicode.IsSpace(r), unicode.Is(unicode.Cf, r):
		default:
			return "", false
		}
	}
	return b.String(), b.Len() > 0
}

// checkText refuses what cannot be a name and was most likely meant as a
// thumbprint.
func checkText(text string) error {
	if strings.TrimSpace(text) == "" {
		return errors.New("a certificate's name or its thumbprint is needed")
	}
	if _, ok := parseThumbprint(text); !ok && thumbLike(text) {
		digits, _ := hexDigits(text)
		return fmt.Errorf("a thumbprint with %d hex digits: a SHA-1 has 40, a SHA-256 has 64", len(digits))
	}
	return nil
}

// thumbLike says whether a text is a thumbprint, or one with digits too few or
// too many. A GUID in 32 digits is none: certificates are named that way.
func thumbLike(text string) bool {
	digits, ok := hexDigits(text)
	return ok && len(digits) > 2*sha1.Size-4 && len(digits) < 2*sha256.Size+4
}

func (t thumb) is(c *x509.Certificate) bool {
	if len(t) == sha1.Size {
		h := sha1.Sum(c.Raw)
		return bytes.Equal(t, h[:])
	}
	h := sha256.Sum256(c.Raw)
	return bytes.Equal(t, h[:])
}

// describe is a certificate in one line, for a person who has to decide whether
// it is the right one.
func describe(c *x509.Certificate) string {
	return fmt.Sprintf("subject %s, valid %s to %s, SHA-1 %x, %s", shown(c.Subject.String()), day(c.NotBefore), day(c.NotAfter), sha1.Sum(c.Raw), thumbprint(c))
}
