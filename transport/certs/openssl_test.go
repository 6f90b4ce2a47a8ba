package certs

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// openssl runs OpenSSL in a directory.
func openssl(t *testing.T, dir, line string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "openssl", strings.Fields(line)...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestOpenSSL: what OpenSSL writes is read, what Make writes OpenSSL accepts, and
// both see the same thumbprints.
func TestOpenSSL(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("OpenSSL is not installed")
	}
	work := t.TempDir()
	run := func(line string) string {
		t.Helper()
		out, err := openssl(t, work, line)
		if err != nil {
			t.Fatalf("openssl %s: %v\n%s", line, err, out)
		}
		return out
	}
	for _, kind := range []struct{ name, options string }{
		{"rsa", "-newkey rsa:2048"},
		{"p256", "-newkey ec -pkeyopt ec_paramgen_curve:P-256"},
		{"p384", "-newkey ec -pkeyopt ec_paramgen_curve:P-384"},
		{"ed25519", "-newkey ed25519"},
	} {
		run("req -x509 -nodes -days 30 -subj /CN=" + kind.name + " -keyout key.pem -out cert.pem " + kind.options)
		sha1 := run("x509 -noout -fingerprint -sha1 -in cert.pem")
		sha256 := run("x509 -noout -fingerprint -sha256 -in cert.pem")
		for _, form := range []struct {
			name, file, make string
			optional         bool
		}{
			{"PKCS 8", "x.key", "pkey -in key.pem -out x.key", false},
			{"traditional", "x.key", "pkey -in key.pem -traditional -out x.key", true},
			{"pfx, modern", "x.pfx", "pkcs12 -export -in cert.pem -inkey key.pem -passout pass:secret -out x.pfx", false},
			{"pfx, many rounds", "x.pfx", "pkcs12 -export -iter 100000 -nomaciter -in cert.pem -inkey key.pem -passout pass:secret -out x.pfx", false},
			{"pfx, empty password", "x.pfx", "pkcs12 -export -in cert.pem -inkey key.pem -passout pass: -out x.pfx", false},
			{"pfx, old", "x.pfx", "pkcs12 -export -legacy -in cert.pem -inkey key.pem -passout pass:secret -out x.pfx", true},
			{"pfx, 3DES", "x.p12", "pkcs12 -export -keypbe PBE-SHA1-3DES -certpbe PBE-SHA1-3DES -macalg sha1 -in cert.pem -inkey key.pem -passout pass:secret -out x.p12", false},
			{"both in a PEM", "x.pem", "pkcs12 -export -in cert.pem -inkey key.pem -passout pass:secret -out y.p12", false},
		} {
			t.Run(kind.name+", "+form.name, func(t *testing.T) {
				dir := t.TempDir()
				out, err := openssl(t, work, form.make)
				switch {
				case err != nil && form.optional:
					t.Skipf("this OpenSSL cannot: %s", out)
				case err != nil:
					t.Fatal(out)
				}
				cp := func(from, to string) {
					put(t, filepath.Join(dir, to), get(t, filepath.Join(work, from)))
				}
				switch form.file {
				case "x.key":
					cp("x.key", "x.key")
					cp("cert.pem", "x.crt")
				case "x.pem":
					run("pkcs12 -nodes -in y.p12 -passin pass:secret -out x.pem")
					cp("x.pem", "x.pem")
				default:
					cp(form.file, form.file)
				}
				password := "secret"
				if strings.Contains(form.make, "-passout pass: ") {
					password = ""
				}
				t.Setenv(EnvPFXPassword, password)
				for _, fingerprint := range []string{sha1, sha256, "=" + kind.name} {
					_, ask, _ := strings.Cut(strings.TrimSpace(fingerprint), "=")
					if _, err := Dirs(dir, "").Server(Name{Text: ask}, time.Now()); err != nil {
						t.Error(err)
					}
				}
				if strings.HasPrefix(form.name, "pfx") {
					t.Setenv(EnvPFXPassword, "wrong")
					_, err := Dirs(dir, "").Server(Name{Text: kind.name}, time.Now())
					expect(t, err, []string{"password", EnvPFXPassword})
				}
			})
		}
	}

	t.Run("made", func(t *testing.T) {
		dir := t.TempDir()
		m, err := Make(dir, "lab", "box.lab.example", nil, time.Now(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		for _, purpose := range []string{"sslserver", "sslclient"} {
			if out, err := openssl(t, dir, "verify -x509_strict -purpose "+purpose+" -verify_hostname box.lab.example -CAfile lab.crt lab.crt"); err != nil {
				t.Error(out)
			}
		}
		out, err := openssl(t, dir, "x509 -noout -text -fingerprint -sha256 -in lab.crt")
		if err != nil {
			t.Fatal(out)
		}
		for _, want := range []string{"TLS Web Server Authentication, TLS Web Client Authentication", "CA:FALSE", "DNS:localhost", "IP Address:127.0.0.1"} {
			if !strings.Contains(out, want) {
				t.Errorf("%q is missing in %s", want, out)
			}
		}
		_, fingerprint, _ := strings.Cut(out, "Fingerprint=")
		if digits, _ := hexDigits(fingerprint); !strings.EqualFold(digits, m.Thumbprint) {
			t.Errorf("%s is not %s", digits, m.Thumbprint)
		}
		if out, err := openssl(t, dir, "pkey -noout -check -in lab.key"); err != nil {
			t.Error(out)
		}
	})
}
