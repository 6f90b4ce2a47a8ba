package certs

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"software.sslmate.com/src/go-pkcs12"
)

// Bounds of what is read.
const (
	maxFiles = 1000      // in a directory
	maxFile  = 1 << 20   // bytes of a file with certificates only
	maxKey   = 64 << 10  // bytes of a private key and of a PKCS #12 file
	maxRound = 1_000_000 // rounds of a password's derivation; OpenSSL and Windows take about 2000
)

// folder is a directory with certificates in files.
type folder struct {
	path string
	err  error // why path is not known
}

func (f folder) String() string { return "the directory " + f.path }

func (f folder) read() (content, error) {
	var c content
	if f.err != nil {
		return c, f.err
	}
	names, err := f.list()
	if err != nil {
		return c, err
	}
	for _, name := range names {
		ext := filepath.Ext(name)
		base := strings.TrimSuffix(name, ext)
		path := filepath.Join(f.path, name)
		var e entry
		switch strings.ToLower(ext) {
		case ".pem", ".crt", ".cer":
			e, err = readPEM(path)
		case ".pfx", ".p12":
			e, err = readPFX(path)
		default:
			continue
		}
		if err != nil {
			c.problems = append(c.problems, problem{base, err})
			continue
		}
		e.base, e.where = base, path
		c.entries = append(c.entries, e)
	}
	return c, nil
}

// list is the names in the directory, sorted.
func (f folder) list() ([]string, error) {
	d, err := os.Open(f.path)
	if err != nil {
		return nil, fmt.Errorf("the directory of certificates cannot be read: %w", err)
	}
	defer d.Close()
	fi, err := d.Stat()
	if err != nil {
		return nil, fmt.Errorf("the directory of certificates cannot be read: %w", err)
	}
	if !fi.IsDir() {
		return nil, fmt.Errorf("%s is not a directory", f.path)
	}
	if err := notForAll(f.path, fi); err != nil {
		return nil, err
	}
	names, err := d.Readdirnames(maxFiles + 1)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("the directory of certificates cannot be read: %w", err)
	}
	if len(names) > maxFiles {
		return nil, fmt.Errorf("%s holds more than %d files: keep certificates in a directory of their own", f.path, maxFiles)
	}
	slices.Sort(names)
	return names, nil
}

// slurp reads a file of at most limit bytes.
func slurp(path string, limit int64) ([]byte, fs.FileInfo, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, nil, err
	}
	if !fi.Mode().IsRegular() { // opening a FIFO would wait for its other end
		return nil, nil, fmt.Errorf("%s is not a file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if fi, err = f.Stat(); err != nil {
		return nil, nil, err
	}
	if err := notForAll(path, fi); err != nil {
		return nil, nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, nil, err
	}
	if int64(len(data)) > limit {
		return nil, nil, fmt.Errorf("%s is longer than %d KiB: that is no certificate", path, limit>>10)
	}
	return data, fi, nil
}

func readPEM(path string) (entry, error) {
	data, fi, err := slurp(path, maxFile)
	if err != nil {
		return entry{}, err
	}
	certs, key, err := parseCertificates(data)
	if err != nil {
		return entry{}, fmt.Errorf("%s is damaged: %w", path, err)
	}
	if len(certs) == 0 {
		return entry{}, fmt.Errorf("%s holds no certificate", path)
	}
	leafFirst(certs)
	e := entry{leaf: certs[0]}
	e.load = func() (tls.Certificate, error) {
		path, fi, key := path, fi, key
		if key == nil {
			path = strings.TrimSuffix(path, filepath.Ext(path)) + ".key"
			data, kfi, err := slurp(path, maxFile)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return tls.Certificate{}, errNoKey
			case err != nil:
				return tls.Certificate{}, err
			}
			fi = kfi
			if _, key, err = parseCertificates(data); err != nil {
				return tls.Certificate{}, fmt.Errorf("%s is damaged: %w", path, err)
			}
			if key == nil {
				return tls.Certificate{}, fmt.Errorf("%s holds no private key in PEM", path)
			}
		}
		if err := private(path, fi); err != nil {
			return tls.Certificate{}, err
		}
		k, err := parseKey(key)
		if err != nil {
			return tls.Certificate{}, fmt.Errorf("%s: %w", path, err)
		}
		return pair(path, certs, k)
	}
	return e, nil
}

// pair makes what crypto/tls needs of the certificates, the leaf first.
func pair(path string, certs []*x509.Certificate, key crypto.Signer) (tls.Certificate, error) {
	pub, ok := certs[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(key.Public()) {
		return tls.Certificate{}, fmt.Errorf("the private key in %s is not the one of the certificate with %s", path, thumbprint(certs[0]))
	}
	c := tls.Certificate{PrivateKey: key, Leaf: certs[0]}
	for _, x := range certs {
		c.Certificate = append(c.Certificate, x.Raw)
	}
	return c, nil
}

// leafFirst puts the first certificate that is of no authority to the front.
// What stays in front when all are (OpenSSL makes self-signed ones that way) is
// the first.
func leafFirst(certs []*x509.Certificate) {
	i := slices.IndexFunc(certs, func(c *x509.Certificate) bool { return !c.IsCA })
	if i > 0 {
		leaf := certs[i]
		copy(certs[1:], certs[:i])
		certs[0] = leaf
	}
}

// parseCertificates takes the certificates and the first private key out of a
// PEM file, or the certificate out of a DER file.
func parseCertificates(data []byte) (certs []*x509.Certificate, key *pem.Block, err error) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")) // a byte order mark of Windows editors
	begin := []byte("-----BEGIN ")
	if !bytes.Contains(data, begin) {
		if len(data) > 0 && data[0] == 0x30 { // DER: a SEQUENCE
			c, err := x509.ParseCertificate(data)
			return []*x509.Certificate{c}, nil, err
		}
		return nil, nil, nil
	}
	// Decode skips what it cannot read. A chain with a hole would put another
	// certificate in the leaf's place.
	blocks := bytes.Count(data, begin)
	for n := 0; n < blocks; n++ {
		var b *pem.Block
		b, data = pem.Decode(data)
		if b == nil {
			return nil, nil, fmt.Errorf("only %d of its %d PEM blocks can be read", n, blocks)
		}
		switch {
		case b.Type == "CERTIFICATE", b.Type == "X509 CERTIFICATE":
			c, err := x509.ParseCertificate(b.Bytes)
			if err != nil {
				return nil, nil, err
			}
			certs = append(certs, c)
		case strings.HasSuffix(b.Type, "PRIVATE KEY") && key == nil:
			key = b
		}
	}
	return certs, key, nil
}

func parseKey(b *pem.Block) (crypto.Signer, error) {
	if b.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(b.Headers["Proc-Type"], "ENCRYPTED") {
		return nil, errors.New("the private key is encrypted: take the password off (openssl pkey -in FILE -out FILE.key) or use a .pfx with its password in " + EnvPFXPassword)
	}
	if len(b.Bytes) > maxKey {
		return nil, errors.New("the private key is too long")
	}
	var key any
	var err error
	switch b.Type {
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(b.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(b.Bytes)
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(b.Bytes)
	default:
		return nil, fmt.Errorf("a %s cannot be used: convert it (openssl pkey -in FILE -out FILE.key)", strings.ToLower(b.Type))
	}
	if err != nil {
		return nil, fmt.Errorf("the private key is damaged: %w", err)
	}
	return signer(key)
}

func signer(key any) (crypto.Signer, error) {
	if s, ok := key.(crypto.Signer); ok {
		return s, nil
	}
	return nil, errors.New("the private key is none for signatures")
}

func readPFX(path string) (entry, error) {
	data, fi, err := slurp(path, maxKey)
	if err != nil {
		return entry{}, err
	}
	password := os.Getenv(EnvPFXPassword)
	certs, key, err := parsePFX(data, password, maxRound)
	switch wrong := errors.Is(err, pkcs12.ErrIncorrectPassword) || errors.Is(err, pkcs12.ErrDecryption); {
	case wrong && password == "":
		return entry{}, fmt.Errorf("%s has a password: give it in the variable %s", path, EnvPFXPassword)
	case wrong:
		return entry{}, fmt.Errorf("%s: the password in the variable %s is wrong", path, EnvPFXPassword)
	case err != nil && strings.Contains(err.Error(), "asn1:"): // the library wraps by text
		return entry{}, fmt.Errorf("%s is damaged, or no PKCS #12 file in DER; if OpenSSL can read it, convert it: openssl pkcs12 -nodes -in FILE.pfx -out FILE.pem", path)
	case err != nil:
		return entry{}, fmt.Errorf("%s cannot be used: %w; if OpenSSL can read it, convert it: openssl pkcs12 -nodes -in FILE.pfx -out FILE.pem", path, err)
	}
	return entry{leaf: certs[0], load: func() (tls.Certificate, error) {
		if err := private(path, fi); err != nil {
			return tls.Certificate{}, err
		}
		return pair(path, certs, key)
	}}, nil
}

// parsePFX reads a PKCS #12 file. The first certificate is the key's.
func parsePFX(data []byte, password string, rounds int64) ([]*x509.Certificate, crypto.Signer, error) {
	if err := cheap(data, rounds, 0); err != nil {
		return nil, nil, err
	}
	k, leaf, rest, err := pkcs12.DecodeChain(data, password)
	if err != nil {
		return nil, nil, err
	}
	key, err := signer(k)
	if err != nil {
		return nil, nil, err
	}
	certs := append([]*x509.Certificate{leaf}, rest...)
	for i, c := range certs {
		if pub, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); ok && pub.Equal(key.Public()) {
			certs[0], certs[i] = c, certs[0]
			break
		}
	}
	return certs, key, nil
}

// cheap refuses a PKCS #12 file that would keep the processor busy: the library
// derives keys with as many rounds as the file asks for. In all structures that
// say how many (RFC 7292 MacData and pkcs-12PbeParams, RFC 8018 PBKDF2-params)
// an INTEGER stands behind the OCTET STRING of the salt, and nowhere else in
// what is not encrypted.
func cheap(der []byte, rounds int64, depth int) error {
	if depth > 50 { // with its certificates not encrypted a file has some 25
		return errors.New("it is nested too deeply")
	}
	salt := false
	for len(der) > 0 {
		var v asn1.RawValue
		rest, err := asn1.Unmarshal(der, &v)
		if err != nil {
			return nil // for the library to say
		}
		der = rest
		octets := v.Class == asn1.ClassUniversal && v.Tag == asn1.TagOctetString
		if salt && v.Class == asn1.ClassUniversal && v.Tag == asn1.TagInteger {
			var n int64
			if _, err := asn1.Unmarshal(v.FullBytes, &n); err != nil || n > rounds {
				return fmt.Errorf("its password derivation asks for more than %d rounds", rounds)
			}
		}
		salt = v.Tag == asn1.TagOctetString // of any class: the library looks at the tag alone
		if v.IsCompound || octets && isSequence(v.Bytes) {
			if err := cheap(v.Bytes, rounds, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// isSequence says whether an octet string holds a structure and nothing else,
// which is how the library wants it, and how ciphertext does not look.
func isSequence(der []byte) bool {
	var v asn1.RawValue
	rest, err := asn1.Unmarshal(der, &v)
	return err == nil && len(rest) == 0 && v.Class == asn1.ClassUniversal && v.Tag == asn1.TagSequence
}
