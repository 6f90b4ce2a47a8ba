package transport

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"

	"openkd/connstr"
	"openkd/transport/certs"
)

// tlsConfig is common to both sides: one protocol version, one application.
func tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		NextProtos:                  []string{authALPN},
		DynamicRecordSizingDisabled: true,
		SessionTicketsDisabled:      true,
	}
}

// ephemeralCertificate makes up a key and a certificate that lives as long as
// the listener. It carries no claim; see the package comment.
func ephemeralCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "openkd"},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280: no expiry
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// named says whether a person named the certificate: ssl and spipe.
func named(t connstr.Transport) bool { return t.Proto == "ssl" || t.Proto == "spipe" }

func certName(t connstr.Transport) certs.Name {
	if t.CertMach != "" {
		return certs.Name{Machine: true, Text: t.CertMach}
	}
	return certs.Name{Text: t.CertUser}
}

// setVersion: proto=tls12 allows TLS 1.2 and what is newer; tls1, the word of
// the original, and tls13 mean current TLS.
func setVersion(cfg *tls.Config, t connstr.Transport) {
	if t.Secure == "tls12" {
		cfg.MinVersion = tls.VersionTLS12
	}
}

// serverTLS is the server's side of a door. Errors name the certificate at
// fault.
func serverTLS(t connstr.Transport) (*tls.Config, error) {
	cfg := tlsConfig()
	if !named(t) {
		cert, err := ephemeralCertificate()
		if err != nil {
			return nil, fmt.Errorf("%s: making a certificate: %w", t.Proto, err)
		}
		cfg.Certificates = []tls.Certificate{cert}
		return cfg, nil
	}
	setVersion(cfg, t)
	store := certs.System()
	cert, err := store.Server(certName(t), time.Now())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.Proto, err)
	}
	cfg.Certificates = []tls.Certificate{cert}
	if t.ClientCA != "" {
		cfg.ClientAuth = tls.RequireAnyClientCert
		if cfg.VerifyConnection, err = store.ClientVerifier(t.ClientCA); err != nil {
			return nil, fmt.Errorf("%s: %w", t.Proto, err)
		}
	}
	return cfg, nil
}

// clientTLS is the client's side.
func clientTLS(t connstr.Transport) (*tls.Config, error) {
	cfg := tlsConfig()
	// crypto/tls would compare the name of the host, which says nothing here:
	// without a named certificate CPace proves the server, with one certs does.
	cfg.InsecureSkipVerify = true
	if !named(t) {
		return cfg, nil
	}
	setVersion(cfg, t)
	store := certs.System()
	var err error
	if cfg.VerifyConnection, err = store.Verifier(certName(t), cmp.Or(t.Server, t.ClientOf)); err != nil {
		return nil, fmt.Errorf("%s: %w", t.Proto, err)
	}
	if t.ClientCert != "" {
		cert, err := store.Client(certs.Name{Text: t.ClientCert}, time.Now())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.Proto, err)
		}
		// Even when the server names other authorities: its own message is better
		// than a certificate left out in silence.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	}
	return cfg, nil
}

// remoteAlert is what the other side said of the TLS connection before it ended
// it; "" when it said nothing. crypto/tls has no exported type for it.
func remoteAlert(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" {
		return op.Err.Error()
	}
	return ""
}

// refusedCertificate is what a person is told when the server did not take
// the client's certificate; "" when that is not what happened.
func refusedCertificate(err error) string {
	switch remoteAlert(err) {
	case tls.AlertError(116).Error(): // certificate_required (RFC 8446 section 6)
		return "the server asks for a client's certificate: add clientcert=<name or thumbprint>"
	case tls.AlertError(42).Error(): // bad_certificate
		return "the server did not accept the client's certificate: name one that it knows with clientcert=, or add it to the server's clientca="
	}
	return ""
}
