package certs

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"syscall"
	"unsafe"

	"github.com/tailscale/certstore"
)

func machineDir() string { return "" }

// Files of a user's profile are closed to others by the profile's access list.
func notForAll(string, fs.FileInfo) error { return nil }
func private(string, fs.FileInfo) error   { return nil }

func systemStore(machine bool) []place { return []place{myStore{machine}} }

// myStore is the store "MY" of the user or of the machine.
//
// It is listed through the system itself, since certstore lists only what has
// a private key, and a client has the public half only.
type myStore struct{ machine bool }

func (s myStore) String() string {
	if s.machine {
		return `the machine's store of certificates (certlm.msc, Personal)`
	}
	return `the user's store of certificates (certmgr.msc, Personal)`
}

// wincrypt.h
const (
	certStoreProvSystemW       = 10
	certStoreOpenExistingFlag  = 0x4000
	certStoreReadonlyFlag      = 0x8000
	certSystemStoreCurrentUser = 1 << 16
	certSystemStoreMachine     = 2 << 16
)

func (s myStore) read() (content, error) {
	var c content
	my, err := syscall.UTF16PtrFromString("MY")
	if err != nil {
		return c, err
	}
	flags := uint32(certStoreOpenExistingFlag | certStoreReadonlyFlag | certSystemStoreCurrentUser)
	if s.machine {
		flags = certStoreOpenExistingFlag | certStoreReadonlyFlag | certSystemStoreMachine
	}
	h, err := syscall.CertOpenStore(certStoreProvSystemW, 0, 0, flags, uintptr(unsafe.Pointer(my)))
	runtime.KeepAlive(my)
	if err != nil {
		return c, fmt.Errorf("%v cannot be opened: %w", s, err)
	}
	defer syscall.CertCloseStore(h, 0)
	var ctx *syscall.CertContext
	for {
		// The call frees the context that it is given. It fails at the end.
		ctx, err = syscall.CertEnumCertificatesInStore(h, ctx)
		if err != nil || ctx == nil {
			return c, nil
		}
		if len(c.entries) == maxFiles {
			syscall.CertFreeCertificateContext(ctx)
			return c, fmt.Errorf("%v holds more than %d certificates", s, maxFiles)
		}
		der := append([]byte(nil), unsafe.Slice(ctx.EncodedCert, ctx.Length)...)
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			c.problems = append(c.problems, problem{err: fmt.Errorf("a certificate in %v: %w", s, err)})
			continue
		}
		c.entries = append(c.entries, entry{leaf: leaf, where: "the certificate in " + s.String(), load: func() (tls.Certificate, error) { return s.load(leaf) }})
	}
}

// load gets the chain and a handle of the private key.
func (s myStore) load(leaf *x509.Certificate) (tls.Certificate, error) {
	where := certstore.User
	if s.machine {
		where = certstore.System
	}
	st, err := certstore.Open(where, certstore.ReadOnly)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%v: %w", s, err)
	}
	defer st.Close()
	ids, err := st.Identities()
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%v: %w", s, err)
	}
	var mine certstore.Identity
	for _, id := range ids {
		if c, err := id.Certificate(); mine == nil && err == nil && c.Equal(leaf) {
			mine = id
			continue
		}
		id.Close()
	}
	if mine == nil {
		return tls.Certificate{}, errNoKey
	}
	c, err := s.use(mine, leaf)
	if err != nil {
		mine.Close()
	}
	return c, err
}

func (s myStore) use(id certstore.Identity, leaf *x509.Certificate) (tls.Certificate, error) {
	sig, err := id.Signer()
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("the private key in %v may not be used by this user: %w; give access in its dialogue (All Tasks, Manage Private Keys), or start as administrator", s, err)
	}
	// Keys of the old providers cannot make the signatures of TLS 1.3. Now is
	// the time to say so, not when somebody connects.
	h := sha256.Sum256(nil)
	var opts crypto.SignerOpts = crypto.SHA256
	if _, ok := leaf.PublicKey.(*rsa.PublicKey); ok {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
	}
	if _, err := sig.Sign(rand.Reader, h[:], opts); err != nil {
		return tls.Certificate{}, fmt.Errorf("the private key in %v cannot sign for TLS: %w; import it with the Microsoft Software Key Storage Provider (certutil -csp KSP -importpfx)", s, err)
	}
	chain, err := id.CertificateChain()
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%v: %w", s, err)
	}
	c := tls.Certificate{Leaf: leaf}
	for _, x := range chain {
		c.Certificate = append(c.Certificate, x.Raw)
	}
	if len(c.Certificate) == 0 {
		return c, errors.New("a certificate without itself in its chain")
	}
	k := &storeKey{sig}
	runtime.AddCleanup(k, certstore.Identity.Close, id)
	c.PrivateKey = k
	return c, nil
}

// storeKey keeps the system's handle open for as long as somebody has the key.
type storeKey struct{ s crypto.Signer }

func (k *storeKey) Public() crypto.PublicKey { return k.s.Public() }

func (k *storeKey) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	defer runtime.KeepAlive(k)
	return k.s.Sign(r, digest, o)
}
