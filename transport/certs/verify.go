package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Verifier says whether a server's certificate is the one that certuser= or
// machuser= names on the client's side. What it returns is for
// tls.Config.VerifyConnection, together with InsecureSkipVerify, since
// crypto/tls knows host names only.
//
// It is accepted when
//
//  1. n is a thumbprint, and the certificate has it. Nothing need be on this
//     machine.
//  2. Otherwise, a certificate that is found under the same name on this machine
//     is the same one. Its public half is enough.
//  3. Otherwise, the system's roots vouch for it, for server authentication, and
//     it is for n as its DNS name (or its common name, if it has no DNS names),
//     or for host, the name or address that was connected to; "" for none.
//
// In all cases it must be valid now and good for server authentication.
// A file of the very name that cannot be used is an error at once.
func (s Store) Verifier(n Name, host string) (func(tls.ConnectionState) error, error) {
	q := s.query(n)
	if err := checkText(n.Text); err != nil {
		return nil, q.errorf("%w", err)
	}
	if pin, ok := parseThumbprint(n.Text); ok {
		return func(cs tls.ConnectionState) error {
			leaf, err := peer(cs, "server")
			if err != nil {
				return err
			}
			if !pin.is(leaf) {
				return fmt.Errorf("the server showed another certificate than %s=%s: %s; its certificate was replaced, or somebody is between here and there: compare the SHA-256 with the one at the server before you write %s=%s",
					q.param, shown(n.Text), describe(leaf), q.param, Thumbprint(leaf))
			}
			return suitsPeer(leaf, "server", serverUse)
		}, nil
	}
	r := q.find()
	if err := r.ownProblem(n.Text); err != nil && len(r.matches) == 0 {
		return nil, q.errorf("%w", err)
	}
	return func(cs tls.ConnectionState) error {
		leaf, err := peer(cs, "server")
		if err != nil {
			return err
		}
		local := "no certificate of this name is in " + some(slices.Concat(r.places, r.missing, r.broken))
		for _, e := range r.matches {
			if e.leaf.Equal(leaf) {
				return suitsPeer(leaf, "server", serverUse)
			}
			local = fmt.Sprintf("%s is another one (%s)", e.where, thumbprint(e.leaf))
		}
		err = chain(cs.PeerCertificates, s.roots, serverUse)
		switch {
		case err != nil:
			err = fmt.Errorf("the system's roots do not vouch for it (%w)", err)
		case bears(leaf, n.Text, host):
			return nil
		case host == "":
			err = errors.New("the system's roots vouch for it, but not for this name")
		default:
			err = fmt.Errorf("the system's roots vouch for it, but neither for this name nor for the host %s", shown(host))
		}
		return fmt.Errorf("the server's certificate is not accepted for %s=%s: it is no thumbprint; %s; %w; the server showed %s; if that SHA-256 is the one at the server, write %s=%s",
			q.param, shown(n.Text), local, err, describe(leaf), q.param, Thumbprint(leaf))
	}, nil
}

// bears says whether a certificate that the roots vouch for belongs to the name
// or to the host.
func bears(leaf *x509.Certificate, name, host string) bool {
	for _, n := range []string{name, host} {
		if n != "" && leaf.VerifyHostname(n) == nil {
			return true
		}
	}
	return len(leaf.DNSNames) == 0 && strings.EqualFold(leaf.Subject.CommonName, name)
}

// ClientVerifier says whether a client's certificate is one that the server
// accepts (clientca=). accepted is one or more of these, with semicolons between
// them: a thumbprint, or a file with certificates (PEM, or one in DER). A file
// name without a directory is looked for in the directories of certificates, the
// user's first, before it is taken as a path. A certificate is accepted when its
// thumbprint is listed, when it is itself in a file, or when an authority in a
// file vouches for it; always only if it is valid now and good for client
// authentication.
//
// What it returns is for tls.Config.VerifyConnection, together with ClientAuth
// set to tls.RequireAnyClientCert.
func (s Store) ClientVerifier(accepted string) (func(tls.ConnectionState) error, error) {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("clientca=%s: %w", shown(accepted), fmt.Errorf(format, args...))
	}
	var pins []thumb
	roots, files := x509.NewCertPool(), 0
	for part := range strings.SplitSeq(accepted, ";") {
		part = strings.TrimSpace(part)
		if err := checkText(part); err != nil {
			return nil, fail("%w", err)
		}
		if pin, ok := parseThumbprint(part); ok {
			pins = append(pins, pin)
			continue
		}
		part = s.file(part)
		data, _, err := slurp(part, maxFile)
		if err != nil {
			return nil, fail("not a thumbprint, and not a file that can be read: %w", err)
		}
		certs, _, err := parseCertificates(data)
		if err != nil {
			return nil, fail("%s is damaged: %w", part, err)
		}
		if len(certs) == 0 {
			return nil, fail("%s holds no certificate", part)
		}
		for _, c := range certs {
			roots.AddCert(c)
		}
		files++
	}
	return func(cs tls.ConnectionState) error {
		leaf, err := peer(cs, "client")
		if err != nil {
			return err
		}
		for _, p := range pins {
			if p.is(leaf) {
				return suitsPeer(leaf, "client", clientUse)
			}
		}
		if err := suitsPeer(leaf, "client", clientUse); err != nil {
			return err
		}
		why := "its thumbprint is not in clientca="
		if files > 0 {
			err := chain(cs.PeerCertificates, roots, clientUse)
			if err == nil {
				return nil
			}
			why = fmt.Sprintf("no authority in clientca= vouches for it (%v)", err)
		}
		return fmt.Errorf("the client's certificate is not accepted: %s; the client showed %s; to let it in, add its SHA-256 to clientca=", why, describe(leaf))
	}, nil
}

// file is the path of a file that is named in clientca=.
func (s Store) file(name string) string {
	if filepath.Base(name) != name {
		return name
	}
	for _, p := range slices.Concat(s.user, s.machine) {
		if f, ok := p.(folder); ok && f.err == nil {
			path := filepath.Join(f.path, name)
			if _, err := os.Stat(path); err == nil {
				return path
			}
		}
	}
	return name
}

func peer(cs tls.ConnectionState, who string) (*x509.Certificate, error) {
	if len(cs.PeerCertificates) == 0 {
		return nil, fmt.Errorf("the %s showed no certificate", who)
	}
	return cs.PeerCertificates[0], nil
}

func suitsPeer(leaf *x509.Certificate, who string, use usage) error {
	if err := suits(leaf, use, time.Now()); err != nil {
		return fmt.Errorf("the %s's certificate %w; it is %s", who, err, describe(leaf))
	}
	return nil
}

func chain(certs []*x509.Certificate, roots *x509.CertPool, use usage) error {
	between := x509.NewCertPool()
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	_, err := certs[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsage(use)}})
	return err
}
