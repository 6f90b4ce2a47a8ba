package certs

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"testing"

	"software.sslmate.com/src/go-pkcs12"
)

func FuzzThumbprint(f *testing.F) {
	for _, s := range []string{"", "lab", "\u200eab 38 f7", "AB:CD", string(bytes.Repeat([]byte("a9 "), 20)), string(bytes.Repeat([]byte("0F"), 32)), "3f2504e0-4f89-11d3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		th, ok := parseThumbprint(s)
		if ok != (len(th) == 20 || len(th) == 32) || ok && checkText(s) != nil {
			t.Errorf("%q: %x, %v, %v", s, th, ok, checkText(s))
		}
		if len(shown(s)) > 1000 {
			t.Errorf("%q is shown too long", s)
		}
	})
}

// FuzzPEM reads certificates and keys as they come from a file.
func FuzzPEM(f *testing.F) {
	lab := issue(f, "lab", nil, nil)
	ca := issue(f, "CA", nil, authority)
	f.Add(lab.both(f))
	f.Add(append(ca.cert(), lab.both(f)...))
	f.Add(lab.Raw)
	f.Add([]byte("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----\n-----BEGIN "))
	f.Fuzz(func(t *testing.T, data []byte) {
		certs, key, err := parseCertificates(data)
		if err != nil {
			return
		}
		before := slices.Clone(certs)
		leafFirst(certs)
		for _, c := range before {
			if !slices.Contains(certs, c) {
				t.Errorf("%d certificates, %s is lost", len(before), describe(c))
			}
			_ = suits(c, serverUse, now)
		}
		if key == nil {
			return
		}
		if k, err := parseKey(key); err == nil && len(certs) > 0 {
			_, _ = pair("x", certs, k)
		}
	})
}

func FuzzPFX(f *testing.F) {
	lab := issue(f, "lab", nil, nil)
	ca := issue(f, "CA", nil, authority)
	for _, enc := range []*pkcs12.Encoder{pkcs12.Modern2023, pkcs12.Modern2026, pkcs12.LegacyDES, pkcs12.LegacyRC2, pkcs12.Passwordless} {
		for _, password := range []string{"", "changeit"} {
			data, err := enc.WithIterations(2).Encode(lab.key, lab.Certificate, []*x509.Certificate{ca.Certificate}, password)
			if err != nil {
				continue // Passwordless takes none
			}
			f.Add(data, password)
			if password != "" {
				continue
			}
			// Without the checksum changes reach what lies behind it.
			var pdu struct {
				Version  int
				AuthSafe asn1.RawValue
				Mac      asn1.RawValue `asn1:"optional"`
			}
			if _, err := asn1.Unmarshal(data, &pdu); err != nil {
				f.Fatal(err)
			}
			data, err = asn1.Marshal(struct {
				Version  int
				AuthSafe asn1.RawValue
			}{pdu.Version, pdu.AuthSafe})
			if err != nil {
				f.Fatal(err)
			}
			if _, _, err := parsePFX(data, "", 10); err != nil {
				f.Fatal(err)
			}
			f.Add(data, "")
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, password string) {
		certs, key, err := parsePFX(data, password, 10)
		if err == nil && (len(certs) == 0 || key == nil) {
			t.Error("nothing, and no error")
		}
	})
}

// TestPFXRounds: a file that asks for work is refused before it gets any.
func TestPFXRounds(t *testing.T) {
	lab := issue(t, "lab", nil, nil)
	for _, enc := range []*pkcs12.Encoder{pkcs12.Modern2023, pkcs12.Modern2026, pkcs12.LegacyDES} {
		data, err := enc.WithIterations(4000).Encode(lab.key, lab.Certificate, nil, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := parsePFX(data, "", 4000); err != nil {
			t.Error(err)
		}
		// Any one of the counts makes it dear: the first, the second, ...
		count, err := asn1.Marshal(4000)
		if err != nil {
			t.Fatal(err)
		}
		dear, err := asn1.Marshal(4001)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for at := 0; ; n++ {
			i := bytes.Index(data[at:], count)
			if i < 0 {
				break
			}
			at += i
			changed := bytes.Clone(data)
			copy(changed[at:], dear)
			_, _, err := parsePFX(changed, "", 4000)
			expect(t, err, []string{"more than 4000 rounds"})
			at += len(count)
		}
		if n < 2 {
			t.Errorf("only %d counts of rounds were found", n)
		}
	}
	deep := []byte{0x30, 0}
	for range 60 {
		var err error
		if deep, err = asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: deep}); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := parsePFX(deep, "", 4000)
	expect(t, err, []string{"nested too deeply"})
}
