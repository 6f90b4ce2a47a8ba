package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"software.sslmate.com/src/go-pkcs12"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// issued is a certificate with its key.
type issued struct {
	*x509.Certificate
	key crypto.Signer
}

// issue makes a certificate named cn, signed by itself or by an authority.
func issue(t testing.TB, cn string, by *issued, change func(*x509.Certificate)) issued {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return issueFor(t, key, cn, by, change)
}

func issueFor(t testing.TB, key crypto.Signer, cn string, by *issued, change func(*x509.Certificate)) issued {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: cn},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.AddDate(100, 0, 0), // Verifier asks the real clock
		BasicConstraintsValid: true,
	}
	if change != nil {
		change(tmpl)
	}
	parent, signer := tmpl, key
	if by != nil {
		parent, signer = by.Certificate, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return issued{c, key}
}

func authority(c *x509.Certificate) { c.IsCA = true; c.KeyUsage = x509.KeyUsageCertSign }

func forUse(u ...x509.ExtKeyUsage) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.ExtKeyUsage = u }
}

func (i issued) cert() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.Raw})
}

func (i issued) pkcs8(t testing.TB) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(i.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func (i issued) pfx(t testing.TB, password string, chain ...*x509.Certificate) []byte {
	t.Helper()
	data, err := pkcs12.Modern2023.Encode(i.key, i.Certificate, chain, password)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (i issued) both(t testing.TB) []byte { return append(i.cert(), i.pkcs8(t)...) }

func put(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestThumbprints(t *testing.T) {
	c := issue(t, "lab", nil, nil)
	sha256 := Thumbprint(c.Certificate)
	d := describe(c.Certificate)
	_, sha1, _ := strings.Cut(d, "SHA-1 ")
	sha1, _, _ = strings.Cut(sha1, ",")
	spaced := func(s, sep string) string {
		var parts []string
		for i := 0; i < len(s); i += 2 {
			parts = append(parts, s[i:i+2])
		}
		return strings.Join(parts, sep)
	}
	for _, s := range []string{
		sha1, sha256, strings.ToUpper(sha256), spaced(sha1, " "), spaced(strings.ToUpper(sha1), ":"),
		"\u200e" + spaced(sha1, " "), " " + sha256 + "\n", spaced(sha256, ": "),
	} {
		got, ok := parseThumbprint(s)
		if !ok || !got.is(c.Certificate) {
			t.Errorf("%q is not taken as the thumbprint", s)
		}
	}
	other := issue(t, "lab", nil, nil)
	for _, s := range []string{sha1, sha256} {
		if th, _ := parseThumbprint(s); th.is(other.Certificate) {
			t.Errorf("%s is the thumbprint of another certificate", s)
		}
	}
	for _, s := range []string{"", " ", ":", "lab", sha1[1:], sha1 + "0", sha256[2:], sha256 + "a", sha1 + "x", "3f2504e0-4f89-11d3-9a0c-0305e82c3301"} {
		if _, ok := parseThumbprint(s); ok {
			t.Errorf("%q is taken as a thumbprint", s)
		}
	}
}

// TestFound: every form that a certificate may have, by every name.
func TestFound(t *testing.T) {
	root := issue(t, "Root", nil, authority)
	ca := issue(t, "Lab CA", &root, authority)
	lab := issue(t, "Lab One", &ca, func(c *x509.Certificate) {
		c.DNSNames = []string{"one.lab.example", "*.one.lab.example"}
		c.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 42)}
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	})
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := x509.MarshalECPrivateKey(lab.key.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	sec1 := append([]byte("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: ec})...)
	rsaLab := issueFor(t, rsaKey, "Lab One", &ca, nil)
	pkcs1 := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)})
	edLab := issueFor(t, edKey, "Lab One", nil, nil)
	chained := slices.Concat(lab.cert(), ca.cert(), root.cert(), lab.pkcs8(t))
	selfCA := issue(t, "Lab One", nil, authority)
	legacy, err := pkcs12.LegacyRC2.Encode(lab.key, lab.Certificate, []*x509.Certificate{ca.Certificate}, "")
	if err != nil {
		t.Fatal(err)
	}

	tests := []struct {
		name  string
		files map[string][]byte
		ask   string
		want  issued
		chain int
	}{
		{"common name", map[string][]byte{"x.pem": lab.both(t)}, "Lab One", lab, 1},
		{"common name in another case", map[string][]byte{"x.pem": lab.both(t)}, "lab one", lab, 1},
		{"file name", map[string][]byte{"server.pem": lab.both(t)}, "server", lab, 1},
		{"dns name", map[string][]byte{"x.pem": lab.both(t)}, "ONE.lab.example", lab, 1},
		{"wildcard", map[string][]byte{"x.pem": lab.both(t)}, "a.one.lab.example", lab, 1},
		{"address", map[string][]byte{"x.pem": lab.both(t)}, "10.0.0.42", lab, 1},
		{"thumbprint", map[string][]byte{"x.pem": lab.both(t)}, Thumbprint(lab.Certificate), lab, 1},
		{"key before certificate", map[string][]byte{"x.pem": append(lab.pkcs8(t), lab.cert()...)}, "x", lab, 1},
		{"key in a file of its own", map[string][]byte{"x.crt": lab.cert(), "x.key": lab.pkcs8(t)}, "x", lab, 1},
		{"DER", map[string][]byte{"x.cer": lab.Raw, "x.key": lab.pkcs8(t)}, "x", lab, 1},
		{"chain", map[string][]byte{"x.pem": chained}, "x", lab, 3},
		{"chain upside down", map[string][]byte{"x.pem": slices.Concat(root.cert(), ca.cert(), lab.cert(), lab.pkcs8(t))}, "Lab One", lab, 3},
		{"self-signed as an authority", map[string][]byte{"x.pem": selfCA.both(t)}, "Lab One", selfCA, 1},
		{"SEC 1 key", map[string][]byte{"x.crt": lab.cert(), "x.key": sec1}, "x", lab, 1},
		{"PKCS 1 key", map[string][]byte{"x.crt": rsaLab.cert(), "x.key": pkcs1}, "x", rsaLab, 1},
		{"Ed25519 key", map[string][]byte{"x.pem": edLab.both(t)}, "x", edLab, 1},
		{"byte order mark, CR LF", map[string][]byte{"x.pem": append([]byte("\xef\xbb\xbf"), bytes.ReplaceAll(lab.both(t), []byte("\n"), []byte("\r\n"))...)}, "x", lab, 1},
		{"PFX", map[string][]byte{"x.pfx": lab.pfx(t, "", ca.Certificate)}, "x", lab, 2},
		{"PFX, old encryption", map[string][]byte{"x.p12": legacy}, "Lab One", lab, 2},
		{"PFX, authority first", map[string][]byte{"x.pfx": issued{ca.Certificate, lab.key}.pfx(t, "", lab.Certificate)}, "Lab One", lab, 2},
		{"endings in capitals", map[string][]byte{"X.PFX": lab.pfx(t, "")}, "x", lab, 1},
		{"the file's name before the DNS name", map[string][]byte{"x.pem": lab.both(t), "one.lab.example.pem": rsaLab.both(t)}, "one.lab.example", rsaLab, 1},
		{"twice the same", map[string][]byte{"x.pem": lab.both(t), "y.pfx": lab.pfx(t, "")}, "Lab One", lab, 1},
		{"twice the same, once without key", map[string][]byte{"x.pem": lab.cert(), "y.pfx": lab.pfx(t, "")}, "Lab One", lab, 1},
		{"twice the same, the second without key", map[string][]byte{"x.pem": lab.both(t), "y.pem": lab.cert()}, "Lab One", lab, 1},
		{"an expired one beside it", map[string][]byte{"x.pem": lab.both(t), "old.pem": issue(t, "Lab One", nil, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) }).both(t)}, "Lab One", lab, 1},
		{"rubbish beside it", map[string][]byte{"x.pem": lab.both(t), "bad.pem": []byte("-----BEGIN CERTIFICATE-----\n"), "bad.pfx": {1}, "notes.txt": {2}, "k.key": {3}}, "Lab One", lab, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir, none := t.TempDir(), t.TempDir()
			for name, data := range tt.files {
				put(t, filepath.Join(dir, name), data)
			}
			for _, machine := range []bool{false, true} {
				s := Dirs(dir, none)
				if machine {
					s = Dirs(none, dir)
				}
				got, err := s.Server(Name{machine, tt.ask}, now)
				if err != nil {
					t.Fatal(err)
				}
				if !got.Leaf.Equal(tt.want.Certificate) || !bytes.Equal(got.Certificate[0], tt.want.Raw) {
					t.Errorf("machine %v: another certificate: %v", machine, got.Leaf.Subject)
				}
				if len(got.Certificate) != tt.chain {
					t.Errorf("a chain of %d, want %d", len(got.Certificate), tt.chain)
				}
				if !got.PrivateKey.(crypto.Signer).Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(tt.want.key.Public()) {
					t.Error("another key")
				}
				if _, err := s.Client(Name{Text: tt.ask}, now); err != nil {
					t.Errorf("as a client's, machine %v: %v", machine, err)
				}
			}
		})
	}
}

// TestNotFound: every way in which a server's certificate cannot be had, with
// the words that a person must read.
func TestNotFound(t *testing.T) {
	const secret = "S3cretOfTheFile"
	lab := issue(t, "lab", nil, nil)
	two := issue(t, "lab", nil, nil)
	at := func(from, to time.Time) issued {
		return issue(t, "lab", nil, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = from, to })
	}
	encrypted := []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
	oldEncrypted := []byte("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n")
	many := map[string][]byte{}
	for i := range 15 {
		many[fmt.Sprintf("n%02d.pem", i)] = issue(t, fmt.Sprint("box", i), nil, nil).cert()
	}
	trust, err := pkcs12.Modern2023.EncodeTrustStore([]*x509.Certificate{lab.Certificate}, "")
	if err != nil {
		t.Fatal(err)
	}
	x25519 := []byte("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VuBCIEIHcHbQpzGKV9PBbBclGyZkXfTC+H68CZKrF3+6UduSwq\n-----END PRIVATE KEY-----\n")

	tests := []struct {
		name     string
		files    map[string][]byte
		ask      Name
		password string
		want     []string // all of them
		not      []string
	}{
		{"empty", nil, Name{Text: " "}, "", []string{"certuser=", "name or its thumbprint"}, nil},
		{"nothing there", map[string][]byte{}, Name{Text: "lab"}, "", []string{`certuser="lab"`, "no certificate of this name in the directory DIR, which has none", "put lab.pem", "into DIR,", "kdsrv -makecert lab"}, nil},
		{"not that", map[string][]byte{"x.pem": lab.both(t)}, Name{Text: "lap"}, "", []string{`no certificate of this name in the directory DIR, which has "x" (SHA-256 ` + Thumbprint(lab.Certificate)}, nil},
		{"not that thumbprint", map[string][]byte{"x.pem": lab.both(t)}, Name{Text: strings.Repeat("ab ", 20)}, "", []string{"no certificate with this thumbprint", `"x"`}, nil},
		{"many others", many, Name{Text: "lab"}, "", []string{`"n09"`, "and 5 more"}, []string{`"n10"`}},
		{"machine", map[string][]byte{}, Name{Machine: true, Text: "lab"}, "", []string{`machuser="lab"`, "the directory DIR-machine does not exist", "into DIR-machine"}, []string{"-makecert"}},
		{"other store", map[string][]byte{"lab.pem": lab.both(t)}, Name{Machine: true, Text: "lab"}, "", []string{"not in the directory DIR-machine, but in the directory DIR: give certuser= instead"}, nil},
		{"thumbprint too short", nil, Name{Text: strings.Repeat("ab ", 19)}, "", []string{"a thumbprint with 38 hex digits", "40", "64"}, nil},
		{"several", map[string][]byte{"a.pem": lab.both(t), "b.pem": two.both(t)}, Name{Text: "lab"}, "",
			[]string{"several certificates match", Thumbprint(lab.Certificate), Thumbprint(two.Certificate), "give the thumbprint"}, nil},
		{"expired", map[string][]byte{"lab.pem": at(now.AddDate(-1, 0, 0), now.Add(-time.Minute)).both(t)}, Name{Text: "lab"}, "",
			[]string{"lab.pem expired on 2026-05-04 11:59 UTC (it is 2026-05-04 12:00 UTC now)", "renew"}, nil},
		{"not yet", map[string][]byte{"lab.pem": at(now.Add(time.Minute), now.AddDate(1, 0, 0)).both(t)}, Name{Text: "lab"}, "",
			[]string{"lab.pem is not valid before 2026-05-04 12:01 UTC", "clock"}, nil},
		{"wrong purpose", map[string][]byte{"lab.pem": issue(t, "lab", nil, forUse(x509.ExtKeyUsageClientAuth)).both(t)}, Name{Text: "lab"}, "",
			[]string{"lab.pem is not made for server authentication", "extended key usage"}, nil},
		{"unknown purpose", map[string][]byte{"lab.pem": issue(t, "lab", nil, func(c *x509.Certificate) { c.UnknownExtKeyUsage = append(c.UnknownExtKeyUsage, []int{1, 2, 3}) }).both(t)}, Name{Text: "lab"}, "",
			[]string{"lab.pem is not made for server authentication"}, nil},
		{"several, none good", map[string][]byte{"a.pem": lab.cert(), "b.pem": at(now.AddDate(-1, 0, 0), now.Add(-time.Minute)).both(t)}, Name{Text: "lab"}, "",
			[]string{"none of the 2 certificates that match can be used", "a.pem has no private key", "b.pem expired", Thumbprint(lab.Certificate)}, nil},
		{"no key", map[string][]byte{"lab.crt": lab.cert()}, Name{Text: "lab"}, "", []string{"lab.crt has no private key with it (put it into lab.key beside it, or use a .pfx)"}, nil},
		{"empty key file", map[string][]byte{"lab.crt": lab.cert(), "lab.key": nil}, Name{Text: "lab"}, "", []string{"lab.key holds no private key in PEM"}, nil},
		{"damaged key", map[string][]byte{"lab.crt": lab.cert(), "lab.key": []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")}, Name{Text: "lab"}, "", []string{"lab.key: the private key is damaged"}, nil},
		{"cut key", map[string][]byte{"lab.crt": lab.cert(), "lab.key": lab.pkcs8(t)[:60]}, Name{Text: "lab"}, "", []string{"lab.key is damaged: only 0 of its 1 PEM blocks"}, nil},
		{"encrypted key", map[string][]byte{"lab.crt": lab.cert(), "lab.key": encrypted}, Name{Text: "lab"}, "", []string{"lab.key", "is encrypted", "openssl pkey", EnvPFXPassword}, nil},
		{"encrypted key of old", map[string][]byte{"lab.crt": lab.cert(), "lab.key": oldEncrypted}, Name{Text: "lab"}, "", []string{"lab.key", "is encrypted"}, nil},
		{"key of another kind", map[string][]byte{"lab.crt": lab.cert(), "lab.key": x25519}, Name{Text: "lab"}, "", []string{"lab.key", "none for signatures"}, nil},
		{"OpenSSH key", map[string][]byte{"lab.crt": lab.cert(), "lab.key": []byte("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n")}, Name{Text: "lab"}, "", []string{"a openssh private key cannot be used"}, nil},
		{"another's key", map[string][]byte{"lab.crt": lab.cert(), "lab.key": two.pkcs8(t)}, Name{Text: "lab"}, "", []string{"lab.key is not the one of the certificate", Thumbprint(lab.Certificate)}, nil},
		{"damaged", map[string][]byte{"lab.pem": []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")}, Name{Text: "lab"}, "", []string{"lab.pem is damaged"}, []string{"no certificate of this name"}},
		{"twice the same, damaged key and none", map[string][]byte{"a.crt": lab.cert(), "a.key": lab.pkcs8(t)[:60], "b.crt": lab.cert()}, Name{Text: "lab"}, "", []string{"a.key is damaged"}, []string{"b.crt"}},
		{"twice the same, no key and a damaged one", map[string][]byte{"a.crt": lab.cert(), "b.crt": lab.cert(), "b.key": lab.pkcs8(t)[:60]}, Name{Text: "lab"}, "", []string{"b.key is damaged"}, []string{"a.crt"}},
		{"hole in the chain", map[string][]byte{"lab.pem": append(lab.cert()[:80], two.both(t)...)}, Name{Text: "lab"}, "", []string{"lab.pem is damaged: only"}, nil},
		{"no certificate in it", map[string][]byte{"lab.pem": lab.pkcs8(t)}, Name{Text: "lab"}, "", []string{"lab.pem holds no certificate"}, nil},
		{"damaged DER", map[string][]byte{"lab.cer": {0x30, 1, 2}}, Name{Text: "lab"}, "", []string{"lab.cer is damaged"}, nil},
		{"too long", map[string][]byte{"lab.pem": make([]byte, maxFile+1)}, Name{Text: "lab"}, "", []string{"lab.pem is longer than 1024 KiB"}, nil},
		{"damaged, of another name", map[string][]byte{"x.pem": {1}, "y.pfx": {2}}, Name{Text: "lab"}, "", []string{"could not be used: DIR/x.pem holds no certificate", "y.pfx is damaged"}, nil},
		{"PFX with a password", map[string][]byte{"lab.pfx": lab.pfx(t, secret)}, Name{Text: "lab"}, "", []string{"lab.pfx has a password: give it in the variable " + EnvPFXPassword}, []string{secret}},
		{"PFX with another password", map[string][]byte{"lab.pfx": lab.pfx(t, secret)}, Name{Text: "lab"}, "Wr0ngOne", []string{"lab.pfx: the password in the variable OPENKD_PFX_PASSWORD is wrong"}, []string{secret, "Wr0ngOne"}},
		{"PFX cut", map[string][]byte{"lab.pfx": lab.pfx(t, "")[:100]}, Name{Text: "lab"}, "", []string{"lab.pfx is damaged", "openssl pkcs12"}, []string{"asn1"}},
		{"PFX of certificates only", map[string][]byte{"lab.pfx": trust}, Name{Text: "lab"}, "", []string{"lab.pfx cannot be used", "private key missing", "openssl pkcs12"}, nil},
		{"PFX too long", map[string][]byte{"lab.pfx": make([]byte, maxKey+1)}, Name{Text: "lab"}, "", []string{"lab.pfx is longer than 64 KiB"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "c")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			for name, data := range tt.files {
				put(t, filepath.Join(dir, name), data)
			}
			t.Setenv(EnvPFXPassword, tt.password)
			_, err := Dirs(dir, dir+"-machine").Server(tt.ask, now)
			if err == nil {
				t.Fatal("found")
			}
			msg := strings.ReplaceAll(strings.ReplaceAll(err.Error(), dir, "DIR"), `DIR\`, "DIR/")
			for _, w := range tt.want {
				if !strings.Contains(msg, w) {
					t.Errorf("%q is missing in: %s", w, msg)
				}
			}
			for _, w := range append(tt.not, "\n") {
				if strings.Contains(msg, w) {
					t.Errorf("%q is in: %s", w, msg)
				}
			}
		})
	}
}

func TestPlaces(t *testing.T) {
	lab := issue(t, "lab", nil, nil)
	check := func(s Store, want ...string) {
		t.Helper()
		_, err := s.Server(Name{Text: "lab"}, now)
		if err == nil {
			t.Error("found")
			return
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q is missing in: %v", w, err)
			}
		}
	}
	check(Store{}, "no store")
	none := filepath.Join(t.TempDir(), "none")
	check(Dirs(none, ""), "the directory "+none+" does not exist", "-makecert")
	file := filepath.Join(t.TempDir(), "file")
	put(t, file, nil)
	check(Dirs(file, ""), "is not a directory")
	full := t.TempDir()
	for i := range maxFiles + 1 {
		put(t, filepath.Join(full, fmt.Sprint(i)), nil)
	}
	check(Dirs(full, ""), "holds more than 1000 files")

	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "lab.pem"), 0o700); err != nil {
		t.Fatal(err)
	}
	check(Dirs(dir, ""), "lab.pem is not a file")
	if runtime.GOOS == "windows" {
		return
	}
	dir = t.TempDir()
	path := filepath.Join(dir, "lab.pem")
	put(t, path, lab.both(t))
	chmod := func(name string, mode os.FileMode) {
		t.Helper()
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	chmod(path, 0o644)
	check(Dirs(dir, ""), "can be read by others", "chmod 600 '"+path+"'")
	chmod(path, 0o602)
	check(Dirs(dir, ""), "can be written by everybody", "chmod o-w '"+path+"'")
	chmod(path, 0o600)
	chmod(dir, 0o703)
	check(Dirs(dir, ""), "can be written by everybody", "chmod o-w '"+dir+"'")
	chmod(dir, 0o700)
	crt, key := filepath.Join(dir, "lab.crt"), filepath.Join(dir, "lab.key")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	put(t, crt, lab.cert())
	put(t, key, lab.pkcs8(t))
	chmod(crt, 0o644)
	if _, err := Dirs(dir, "").Server(Name{Text: "lab"}, now); err != nil {
		t.Error(err)
	}
	chmod(key, 0o604)
	check(Dirs(dir, ""), "chmod 600 '"+key+"'")
	if err := os.Remove(crt); err != nil {
		t.Fatal(err)
	}
	pfx := filepath.Join(dir, "lab.pfx")
	put(t, pfx, lab.pfx(t, ""))
	chmod(pfx, 0o604)
	check(Dirs(dir, ""), "chmod 600 '"+pfx+"'")
	// A client needs the public half only, and has it from the same file.
	if _, err := Dirs(dir, "").Verifier(Name{Text: "lab"}, ""); err != nil {
		t.Error(err)
	}
	if os.Geteuid() != 0 {
		chmod(dir, 0)
		check(Dirs(dir, ""), "cannot be read")
		chmod(dir, 0o700)
	}
}

func TestSystem(t *testing.T) {
	lab := issue(t, "openkd test", nil, nil)
	user, machine := t.TempDir(), t.TempDir()
	put(t, filepath.Join(user, "u.pem"), lab.both(t))
	put(t, filepath.Join(machine, "m.pem"), lab.both(t))
	t.Setenv(EnvUserDir, user)
	t.Setenv(EnvMachineDir, machine)
	for _, n := range []Name{{false, "u"}, {true, "m"}, {false, "openkd test"}, {true, Thumbprint(lab.Certificate)}} {
		if _, err := System().Server(n, now); err != nil {
			t.Error(err)
		}
	}
	if d, err := UserDir(); d != user || err != nil {
		t.Error(d, err)
	}
	t.Setenv(EnvUserDir, "")
	config := t.TempDir()
	for _, name := range []string{"XDG_CONFIG_HOME", "HOME", "AppData"} {
		t.Setenv(name, config)
	}
	d, err := UserDir()
	if rel, e := filepath.Rel(config, d); err != nil || e != nil || !filepath.IsLocal(rel) || !strings.HasSuffix(d, filepath.Join("openkd", "certs")) {
		t.Error(d, err)
	}
	for _, name := range []string{"XDG_CONFIG_HOME", "HOME", "AppData"} {
		t.Setenv(name, "")
	}
	if _, err := System().Server(Name{Text: "u"}, now); err == nil || !strings.Contains(err.Error(), EnvUserDir) {
		t.Error(err)
	}
}

// handshake lets crypto/tls run the two functions. Each side's own error wins,
// since the other one sees an alert only.
func handshake(t *testing.T, server, client *tls.Config) (serverErr, clientErr error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	b, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	a, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	a.SetDeadline(deadline)
	b.SetDeadline(deadline)
	done := make(chan error, 1)
	go func() {
		s := tls.Server(a, server)
		err := s.Handshake()
		if err == nil {
			_, err = s.Write([]byte{1})
		}
		if err != nil {
			// Let the client read what it is told: a reset would drop it.
			_ = a.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, a)
		}
		a.Close()
		done <- err
	}()
	c := tls.Client(b, client)
	clientErr = c.Handshake()
	if clientErr == nil {
		_, clientErr = c.Read(make([]byte, 1))
	}
	b.Close()
	return <-done, clientErr
}

func (i issued) tls(chain ...issued) tls.Certificate {
	c := tls.Certificate{Certificate: [][]byte{i.Raw}, PrivateKey: i.key}
	for _, x := range chain {
		c.Certificate = append(c.Certificate, x.Raw)
	}
	return c
}

func TestVerifier(t *testing.T) {
	root := issue(t, "Root", nil, authority)
	ca := issue(t, "CA", &root, authority)
	dns := func(names ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.DNSNames = names }
	}
	lab := issue(t, "lab", nil, nil)
	other := issue(t, "lab", nil, nil)
	signed := issue(t, "whatever", &ca, dns("lab.example"))
	plain := issue(t, "Lab One", &ca, nil)
	expired := issue(t, "lab", nil, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) })
	client := issue(t, "lab", nil, forUse(x509.ExtKeyUsageClientAuth))
	anyUse := issue(t, "lab", nil, forUse(x509.ExtKeyUsageAny))
	pin := func(i issued) string { return Thumbprint(i.Certificate) }
	_, sha1, _ := strings.Cut(describe(lab.Certificate), "SHA-1 ")

	tests := []struct {
		name   string
		local  map[string][]byte
		ask    Name
		host   string
		server tls.Certificate
		want   []string // nil: accepted
	}{
		{"pinned", nil, Name{Text: pin(lab)}, "x", lab.tls(), nil},
		{"pinned by SHA-1", nil, Name{Text: sha1[:40]}, "x", lab.tls(), nil},
		{"pinned, any use", nil, Name{Text: pin(anyUse)}, "x", anyUse.tls(), nil},
		{"another pinned", nil, Name{Text: pin(lab)}, "x", other.tls(),
			[]string{"another certificate than certuser=\"" + pin(lab), `subject "CN=lab"`, "write certuser=" + pin(other), "2126"}},
		{"another pinned that the roots vouch for", nil, Name{Text: pin(lab)}, "lab.example", signed.tls(ca), []string{"another certificate"}},
		{"pinned is not the leaf", nil, Name{Text: pin(ca)}, "x", signed.tls(ca), []string{"another certificate"}},
		{"pinned, expired", nil, Name{Text: pin(expired)}, "x", expired.tls(), []string{"the server's certificate expired on"}},
		{"pinned, wrong purpose", nil, Name{Text: pin(client)}, "x", client.tls(), []string{"the server's certificate is not made for server authentication"}},
		{"same here", map[string][]byte{"lab.crt": lab.cert()}, Name{Text: "lab"}, "x", lab.tls(), nil},
		{"same here, by its common name", map[string][]byte{"x.cer": lab.Raw}, Name{Text: "LAB"}, "x", lab.tls(), nil},
		{"one of two here", map[string][]byte{"a.crt": lab.cert(), "b.crt": other.cert()}, Name{Text: "lab"}, "x", other.tls(), nil},
		{"same here, expired", map[string][]byte{"lab.crt": expired.cert()}, Name{Text: "lab"}, "x", expired.tls(), []string{"the server's certificate expired on"}},
		{"same here, wrong purpose", map[string][]byte{"lab.crt": client.cert()}, Name{Text: "lab"}, "x", client.tls(), []string{"not made for server"}},
		{"another here", map[string][]byte{"lab.crt": lab.cert()}, Name{Text: "lab"}, "x", other.tls(),
			[]string{`not accepted for certuser="lab"`, "no thumbprint", "lab.crt is another one (SHA-256 " + pin(lab), "roots do not vouch", "write certuser=" + pin(other)}},
		{"in the other store", map[string][]byte{"lab.crt": lab.cert()}, Name{Machine: true, Text: "lab"}, "x", lab.tls(),
			[]string{`machuser="lab"`, "no certificate of this name is in", "write machuser=" + pin(lab)}},
		{"none here", nil, Name{Text: "lab"}, "x", lab.tls(), []string{"no certificate of this name is in", "roots do not vouch", pin(lab)}},
		{"the roots, DNS name", nil, Name{Text: "lab.example"}, "", signed.tls(ca), nil},
		{"the roots, host", nil, Name{Text: "lab"}, "lab.example", signed.tls(ca), nil},
		{"the roots, common name", nil, Name{Text: "lab one"}, "10.0.0.1", plain.tls(ca), nil},
		{"the roots, common name beside DNS names", nil, Name{Text: "whatever"}, "", signed.tls(ca), []string{"vouch for it, but not for this name;"}},
		{"the roots, neither", nil, Name{Text: "lab"}, "other.example", signed.tls(ca), []string{`neither for this name nor for the host "other.example"`, pin(signed)}},
		{"the roots, chain incomplete", nil, Name{Text: "lab.example"}, "lab.example", signed.tls(), []string{"roots do not vouch"}},
		{"the roots, expired", nil, Name{Text: "lab.example"}, "", issue(t, "x", &ca, func(c *x509.Certificate) {
			c.DNSNames, c.NotAfter = []string{"lab.example"}, now.Add(-time.Minute)
		}).tls(ca), []string{"roots do not vouch", "expired"}},
		{"the roots, wrong purpose", nil, Name{Text: "lab.example"}, "", issue(t, "x", &ca, func(c *x509.Certificate) {
			c.DNSNames, c.ExtKeyUsage = []string{"lab.example"}, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}).tls(ca), []string{"roots do not vouch", "usage"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, data := range tt.local {
				put(t, filepath.Join(dir, name), data)
			}
			s := Dirs(dir, dir+"-none")
			s.roots = x509.NewCertPool()
			s.roots.AddCert(root.Certificate)
			verify, err := s.Verifier(tt.ask, tt.host)
			if err != nil {
				t.Fatal(err)
			}
			_, err = handshake(t,
				&tls.Config{Certificates: []tls.Certificate{tt.server}},
				&tls.Config{InsecureSkipVerify: true, VerifyConnection: verify})
			expect(t, err, tt.want)
		})
	}

	dir := t.TempDir()
	put(t, filepath.Join(dir, "lab.crt"), []byte("-----BEGIN CERTIFICATE-----\n"))
	for _, tt := range []struct{ ask, want string }{
		{"", "thumbprint is needed"},
		{strings.Repeat("a", 41), "41 hex digits"},
		{"lab", "lab.crt is damaged"},
	} {
		_, err := Dirs(dir, "").Verifier(Name{Text: tt.ask}, "")
		expect(t, err, []string{tt.want, "certuser="})
	}
	for _, ask := range []string{pin(lab), "x"} {
		verify, err := Dirs(dir, "").Verifier(Name{Text: ask}, "")
		if err != nil {
			t.Fatal(err)
		}
		expect(t, verify(tls.ConnectionState{}), []string{"showed no certificate"})
	}
}

// expect looks for words in an error; none means no error.
func expect(t *testing.T, err error, words []string) {
	t.Helper()
	switch {
	case words == nil && err != nil:
		t.Errorf("refused: %v", err)
	case words != nil && err == nil:
		t.Errorf("accepted, want %q", words)
	}
	for _, w := range words {
		if err != nil && (!strings.Contains(err.Error(), w) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%q is missing in, or more than a line is: %v", w, err)
		}
	}
}

func TestClientVerifier(t *testing.T) {
	server := issue(t, "server", nil, nil)
	root := issue(t, "Root", nil, authority)
	ca := issue(t, "CA", &root, authority)
	foreign := issue(t, "CA", nil, authority)
	use := forUse(x509.ExtKeyUsageClientAuth)
	own := issue(t, "own", nil, use)
	signed := issue(t, "signed", &ca, use)
	expired := issue(t, "expired", &root, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) })
	serverOnly := issue(t, "server only", &root, forUse(x509.ExtKeyUsageServerAuth))
	// own is no authority: what it signs is nobody's.
	sneaked := issue(t, "sneaked", &own, use)

	dir, elsewhere := t.TempDir(), t.TempDir()
	put(t, filepath.Join(dir, "root.pem"), slices.Concat(root.cert(), own.cert()))
	put(t, filepath.Join(elsewhere, "foreign.pem"), foreign.cert())
	put(t, filepath.Join(dir, "bad.pem"), root.cert()[:100])
	put(t, filepath.Join(dir, "none.pem"), root.pkcs8(t))
	s := Dirs(elsewhere, dir)
	rootFile := filepath.Join(dir, "root.pem")

	tests := []struct {
		name, accepted string
		client         []tls.Certificate
		want           []string
	}{
		{"by thumbprint", Thumbprint(own.Certificate), []tls.Certificate{own.tls()}, nil},
		{"by one of two thumbprints", Thumbprint(signed.Certificate) + "; " + strings.ToUpper(Thumbprint(own.Certificate)), []tls.Certificate{own.tls()}, nil},
		{"by an authority", rootFile, []tls.Certificate{signed.tls(ca)}, nil},
		{"by a file of the store", "root.pem", []tls.Certificate{signed.tls(ca)}, nil},
		{"in the file itself", rootFile, []tls.Certificate{own.tls()}, nil},
		{"thumbprint or file", "foreign.pem;" + Thumbprint(own.Certificate), []tls.Certificate{own.tls()}, nil},
		{"another thumbprint", Thumbprint(own.Certificate), []tls.Certificate{signed.tls(ca)}, []string{"thumbprint is not in clientca=", Thumbprint(signed.Certificate), `"CN=signed"`}},
		{"another authority", "foreign.pem", []tls.Certificate{signed.tls(ca)}, []string{"no authority in clientca= vouches", Thumbprint(signed.Certificate)}},
		{"chain incomplete", rootFile, []tls.Certificate{signed.tls()}, []string{"no authority"}},
		{"signed by a listed certificate that is no authority", rootFile, []tls.Certificate{sneaked.tls(own)}, []string{"no authority"}},
		{"expired", rootFile, []tls.Certificate{expired.tls()}, []string{"the client's certificate expired on"}},
		{"expired and pinned", Thumbprint(expired.Certificate), []tls.Certificate{expired.tls()}, []string{"expired"}},
		{"wrong purpose", rootFile, []tls.Certificate{serverOnly.tls()}, []string{"not made for client authentication"}},
		{"none", rootFile, nil, []string{"certificate"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			verify, err := s.ClientVerifier(tt.accepted)
			if err != nil {
				t.Fatal(err)
			}
			serverErr, clientErr := handshake(t,
				&tls.Config{Certificates: []tls.Certificate{server.tls()}, ClientAuth: tls.RequireAnyClientCert, VerifyConnection: verify},
				&tls.Config{Certificates: tt.client, InsecureSkipVerify: true})
			expect(t, serverErr, tt.want)
			if (clientErr == nil) != (tt.want == nil) {
				t.Errorf("the client sees %v", clientErr)
			}
		})
	}
	for _, tt := range []struct{ accepted, want string }{
		{"", "thumbprint is needed"},
		{rootFile + ";", "thumbprint is needed"},
		{strings.Repeat("0", 39), "39 hex digits"},
		{"nosuch.pem", "not a file that can be read"},
		{dir, "is not a file"},
		{"bad.pem", "is damaged"},
		{"none.pem", "holds no certificate"},
	} {
		_, err := s.ClientVerifier(tt.accepted)
		expect(t, err, []string{"clientca=", tt.want})
	}
	verify, err := s.ClientVerifier(rootFile)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, verify(tls.ConnectionState{}), []string{"the client showed no certificate"})
}

func TestClient(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "me.pem"), issue(t, "me", nil, forUse(x509.ExtKeyUsageServerAuth)).both(t))
	_, err := Dirs(dir, dir+"-none").Client(Name{Text: "me"}, now)
	expect(t, err, []string{`clientcert="me"`, "me.pem is not made for client authentication"})
	_, err = Dirs(dir, dir+"-none").Client(Name{Text: "you"}, now)
	expect(t, err, []string{`clientcert="you"`, "no certificate of this name"})
}
