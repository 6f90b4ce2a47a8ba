package transport_test

import (
	"context"
	"crypto/tls"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"openkd/connstr"
	"openkd/transport"
	"openkd/transport/certs"
)

// certificates makes a user's directory with a server's and a client's
// certificate.
func certificates(t *testing.T) (server, client certs.Made) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv(certs.EnvUserDir, dir)
	t.Setenv(certs.EnvMachineDir, filepath.Join(dir, "none"))
	var made []certs.Made
	for _, name := range []string{"lab", "person"} {
		m, err := certs.Make(dir, name, "lab.example", nil, time.Now(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		made = append(made, m)
	}
	return made[0], made[1]
}

func ssl(password string) connstr.Transport {
	return connstr.Transport{Proto: "ssl", Secure: "tls13", CertUser: "lab", Password: password}
}

// sslPair connects; change turns the server's transport into the client's.
func sslPair(t *testing.T, at connstr.Transport, change func(*connstr.Transport)) (s, c transport.Conn, err error) {
	t.Helper()
	l, err := transport.Listen(t.Context(), at, transport.Options{Handshake: 5 * time.Second})
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	accepted := make(chan transport.Conn, 1)
	go func() {
		c, _ := l.Accept(ctx)
		accepted <- c
	}()
	to := l.Transport()
	to.Server, to.ClientCA = "127.0.0.1", ""
	change(&to)
	c, err = transport.Dial(ctx, to, transport.Options{Handshake: 5 * time.Second})
	if err != nil {
		cancel()
	}
	return <-accepted, c, err
}

func TestCertificates(t *testing.T) {
	server, client := certificates(t)
	spaced := ""
	for i := 0; i < len(server.Thumbprint); i += 2 {
		spaced += strings.ToUpper(server.Thumbprint[i:i+2]) + " "
	}
	pinned := func(c *connstr.Transport) { c.CertUser = server.Thumbprint }
	for _, c := range []struct {
		name   string
		server func(*connstr.Transport)
		client func(*connstr.Transport)
		want   string // part of the client's error; empty: it works
	}{
		{"by name", nil, nil, ""},
		{"by thumbprint", nil, pinned, ""},
		{"by thumbprint as it is printed", nil, func(c *connstr.Transport) { c.CertUser = strings.TrimSpace(spaced) }, ""},
		{"the word of the original", func(s *connstr.Transport) { s.Secure = "tls1" }, nil, ""},
		{"TLS 1.2 allowed", func(s *connstr.Transport) { s.Secure = "tls12" }, nil, ""},
		{"another certificate is pinned", nil, func(c *connstr.Transport) { c.CertUser = client.Thumbprint }, server.Thumbprint},
		{"another certificate is named", nil, func(c *connstr.Transport) { c.CertUser = "person" }, server.Thumbprint},
		{"nobody vouches for it", nil, func(c *connstr.Transport) { c.CertUser = "nobody" }, server.Thumbprint},
		{"wrong password", nil, func(c *connstr.Transport) { c.Password = "guess" }, "0x80004005"},
		{"client's certificate, by thumbprint", func(s *connstr.Transport) { s.ClientCA = client.Thumbprint },
			func(c *connstr.Transport) { c.ClientCert = "person" }, ""},
		{"client's certificate, by file", func(s *connstr.Transport) { s.ClientCA = client.Cert },
			func(c *connstr.Transport) { c.ClientCert = "person" }, ""},
		{"client's certificate missing", func(s *connstr.Transport) { s.ClientCA = client.Thumbprint }, nil, "add clientcert="},
		{"client's certificate unknown", func(s *connstr.Transport) { s.ClientCA = client.Thumbprint },
			func(c *connstr.Transport) { c.ClientCert = "lab" }, "did not accept the client's certificate"},
		{"client's certificate not there", nil, func(c *connstr.Transport) { c.ClientCert = "gone" }, "clientcert="},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := ssl("secret")
			if c.server != nil {
				c.server(&at)
			}
			change := c.client
			if change == nil {
				change = func(*connstr.Transport) {}
			}
			s, cl, err := sslPair(t, at, change)
			for _, x := range []transport.Conn{s, cl} {
				if x != nil {
					defer x.Close()
				}
			}
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%v, want %q in it", err, c.want)
			}
		})
	}
	at := ssl("secret")
	at.CertUser = "nobody"
	if _, err := transport.Listen(t.Context(), at, transport.Options{}); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("a server without its certificate: %v", err)
	}
}

// The version that was asked for is the oldest that is spoken.
func TestTLSVersions(t *testing.T) {
	certificates(t)
	for _, c := range []struct {
		proto string
		max   uint16
		ok    bool
	}{
		{"tls13", tls.VersionTLS12, false}, {"tls1", tls.VersionTLS12, false},
		{"tls12", tls.VersionTLS12, true}, {"tls12", tls.VersionTLS11, false},
	} {
		at := ssl("secret")
		at.Secure = c.proto
		l, err := transport.Listen(t.Context(), at, transport.Options{})
		if err != nil {
			t.Fatal(err)
		}
		raw, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", l.Addr().String()[strings.LastIndexByte(l.Addr().String(), ':')+1:]))
		if err != nil {
			t.Fatal(err)
		}
		tc := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: c.max, NextProtos: []string{"openkd"}})
		if err := tc.HandshakeContext(t.Context()); (err == nil) != c.ok {
			t.Errorf("proto=%s, a client with at most %s: %v", c.proto, tls.VersionName(c.max), err)
		}
		raw.Close()
		l.Close()
	}
}
