package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Made is a certificate that Make made.
type Made struct {
	Name       string // what certuser= takes on this machine
	Cert, Key  string // files
	Thumbprint string // SHA-256, what certuser= takes on any other machine
	Host       string // of the machine, as it was given
	Names      []string
	NotAfter   time.Time
}

// Make makes a self-signed certificate for servers and clients and a key
// (ECDSA P-256) in dir, which is created if it is missing, as name.crt and
// name.key. It is for name, host, localhost, 127.0.0.1, ::1 and what else is
// given, as DNS names and addresses, from a day before now on, since clocks of
// machines in a laboratory differ.
//
// name is the common name; it must do as the name of a file and as a value in a
// connection string. Files that exist are never replaced.
func Make(dir, name, host string, also []string, now time.Time, valid time.Duration) (Made, error) {
	m := Made{Name: name, Host: host, NotAfter: now.Add(valid).UTC().Truncate(time.Second)}
	if err := makeable(name); err != nil {
		return m, err
	}
	if valid <= 0 {
		return m, fmt.Errorf("a certificate cannot be valid for %v", valid)
	}
	m.Cert, m.Key = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return m, err
	}
	tmpl := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-24 * time.Hour),
		NotAfter:              m.NotAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true, // it may not sign others
	}
	seen := map[string]bool{}
	for i, n := range append([]string{name, host, "localhost", "127.0.0.1", "::1"}, also...) {
		if n == "" || seen[strings.ToLower(n)] {
			continue
		}
		seen[strings.ToLower(n)] = true
		switch ip := net.ParseIP(n); {
		case ip != nil:
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		case hostname(n):
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		case i == 0: // a common name need not be a host name
			continue
		default:
			return m, fmt.Errorf("%s is neither a host name nor an address", shown(n))
		}
		m.Names = append(m.Names, n)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return m, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return m, err
	}
	m.Thumbprint = Thumbprint(leaf)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return m, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return m, fmt.Errorf("the directory of certificates cannot be made: %w", err)
	}
	if err := free(dir, name); err != nil {
		return m, err
	}
	if err := create(m.Key, 0o600, "PRIVATE KEY", pkcs8); err != nil {
		return m, err
	}
	if err := create(m.Cert, 0o644, "CERTIFICATE", der); err != nil {
		return m, errors.Join(err, os.Remove(m.Key))
	}
	return m, nil
}

// free says whether the name is not in use in the directory: two files that
// differ in the ending only would make the name ambiguous.
func free(dir, name string) error {
	names, err := folder{path: dir}.list()
	if err != nil {
		return err
	}
	for _, n := range names {
		if strings.EqualFold(strings.TrimSuffix(n, filepath.Ext(n)), name) {
			return taken(filepath.Join(dir, n))
		}
	}
	return nil
}

func taken(path string) error {
	return fmt.Errorf("%s exists already and is not replaced: use the certificate that is there, take another name, or remove it first", path)
}

// makeable says whether a name can be a file's and a value's.
func makeable(name string) error {
	ok := name != "" && len(name) <= 64 // ub-common-name of RFC 5280
	for i, r := range name {
		ok = ok && (r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || i > 0 && (r == '-' || r == '_' || r == '.'))
	}
	if !ok || !filepath.IsLocal(name+".crt") { // NUL.crt and the like on Windows
		return fmt.Errorf("a certificate cannot be named %s: take up to 64 letters, digits, '-', '_' and '.', a letter or digit first", shown(name))
	}
	if thumbLike(name) {
		return fmt.Errorf("a certificate cannot be named %s: it would be taken as a thumbprint", shown(name))
	}
	return nil
}

// hostname says whether n can stand in a certificate as a DNS name.
func hostname(n string) bool {
	if len(n) > 253 {
		return false
	}
	for label := range strings.SplitSeq(n, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for _, r := range label {
			if !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '-' || r == '_') {
				return false
			}
		}
	}
	return true
}

func create(path string, mode fs.FileMode, kind string, der []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return taken(path)
	}
	if err != nil {
		return err
	}
	err = errors.Join(pem.Encode(f, &pem.Block{Type: kind, Bytes: der}), f.Close())
	if err != nil {
		os.Remove(path)
	}
	return err
}

// Commands is what to type on both machines to use the certificate: on the
// server as it was made, on the client pinned, with the quotes that cmd,
// PowerShell and POSIX shells agree on. password is shown as it is given, ""
// leaves it out; trans is the kernel link, "com:port=com1,baud=115200".
func (m Made) Commands(port int, password, trans string) (server, client string) {
	if password != "" {
		password = ",password=" + password
	}
	server = fmt.Sprintf(`kdsrv -t "ssl:proto=tls13,certuser=%s,port=%d%s"`, m.Name, port, password)
	client = fmt.Sprintf(`kd -k "kdsrv:server=@{ssl:proto=tls13,certuser=%s,server=%s,port=%d%s},trans=@{%s}"`, m.Thumbprint, m.Host, port, password, trans)
	return server, client
}
