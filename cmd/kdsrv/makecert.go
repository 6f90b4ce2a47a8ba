package main

import (
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"time"

	"openkd/transport/certs"
)

// Long enough for a laboratory not to be woken up by it, and not for ever.
const certLife = 2 * 365 * 24 * time.Hour

// Port of the printed command lines; any other does.
const certPort = 50443

// makeCertificate makes a certificate in the user's directory and prints what
// to type on both machines. It returns the exit code.
func makeCertificate(name string, stdout, stderr io.Writer) int {
	dir, err := certs.UserDir()
	if err != nil {
		fmt.Fprintln(stderr, "kdsrv: -makecert:", err)
		return exitListen
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	m, err := certs.Make(dir, name, host, nil, time.Now(), certLife)
	if err != nil {
		fmt.Fprintln(stderr, "kdsrv: -makecert:", err)
		return exitListen
	}
	server, client := m.Commands(certPort, rand.Text()[:12], "com:port=<device>,baud=115200")
	fmt.Fprintf(stdout, `Certificate  %s
Private key  %s
Thumbprint   %s (SHA-256)
Valid until  %s

On this machine, with a password made for it:

  %s

On yours, where the thumbprint stands for the certificate and nothing else is needed:

  %s
`, m.Cert, m.Key, m.Thumbprint, m.NotAfter.Format(time.DateOnly), server, client)
	return exitOK
}
