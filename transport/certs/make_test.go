package certs

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"openkd/connstr"
)

// TestMake: what was made is found, is accepted where it is pinned, and its two
// command lines say so.
func TestMake(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "certs")
	clock := time.Now()
	m, err := Make(dir, "Lab_1", "box.lab.example", []string{"10.0.0.42", "LOCALHOST", "second"}, clock, 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"box.lab.example", "localhost", "127.0.0.1", "::1", "10.0.0.42", "second"}; !slices.Equal(m.Names, append([]string{"Lab_1"}, want...)) {
		t.Errorf("names: %q", m.Names)
	}
	if runtime.GOOS != "windows" {
		for path, mode := range map[string]os.FileMode{dir: 0o700, m.Key: 0o600} {
			if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != mode {
				t.Errorf("%s: %v, %v", path, fi.Mode(), err)
			}
		}
	}
	s := Dirs(dir, "")
	server, err := s.Server(Name{Text: m.Name}, clock)
	if err != nil {
		t.Fatal(err)
	}
	leaf := server.Leaf
	for _, name := range m.Names {
		if err := leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if Thumbprint(leaf) != m.Thumbprint || !leaf.NotAfter.Equal(m.NotAfter) || leaf.IsCA || leaf.PublicKeyAlgorithm != x509.ECDSA {
		t.Errorf("%+v is not %s", m, describe(leaf))
	}
	if leaf.NotBefore.After(clock.Add(-23 * time.Hour)) {
		t.Errorf("valid from %v on: a clock that is late would refuse it", leaf.NotBefore)
	}
	for _, late := range []time.Time{m.NotAfter.Add(time.Second), leaf.NotBefore.Add(-time.Second)} {
		if _, err := s.Server(Name{Text: m.Name}, late); err == nil {
			t.Errorf("good at %v", late)
		}
	}
	if _, err := s.Client(Name{Text: m.Thumbprint}, clock); err != nil {
		t.Error(err)
	}

	kdsrv, kd := m.Commands(5005, "<password>", "com:port=com1,baud=115200")
	value := func(line, option string) string {
		t.Helper()
		v, ok := strings.CutPrefix(line, option+` "`)
		v, ok2 := strings.CutSuffix(v, `"`)
		if !ok || !ok2 {
			t.Fatalf("no argument of %s in %s", option, line)
		}
		return v
	}
	st, err := connstr.ParseTransport(value(kdsrv, "kdsrv -t"), true)
	if err != nil || st.Proto != "ssl" || st.CertUser != "Lab_1" || st.Port != 5005 || st.Password != "<password>" {
		t.Errorf("%s: %+v, %v", kdsrv, st, err)
	}
	k, err := connstr.ParseKernel(value(kd, "kd -k"))
	if err != nil || k.Server == nil || k.Server.CertUser != m.Thumbprint || k.Server.Server != "box.lab.example" || k.Link.Port != "com1" {
		t.Fatalf("%s: %+v, %v", kd, k, err)
	}
	if kdsrv, _ := m.Commands(1, "", "com:"); strings.Contains(kdsrv, "password") {
		t.Error(kdsrv)
	}
	verify, err := Store{}.Verifier(Name{Text: k.Server.CertUser}, k.Server.Server)
	if err != nil {
		t.Fatal(err)
	}
	accept, err := Store{}.ClientVerifier(m.Cert)
	if err != nil {
		t.Fatal(err)
	}
	serverErr, clientErr := handshake(t,
		&tls.Config{Certificates: []tls.Certificate{server}, ClientAuth: tls.RequireAnyClientCert, VerifyConnection: accept},
		&tls.Config{Certificates: []tls.Certificate{server}, InsecureSkipVerify: true, VerifyConnection: verify})
	if serverErr != nil || clientErr != nil {
		t.Error(serverErr, clientErr)
	}
}

func TestMakeRefuses(t *testing.T) {
	clock := time.Now()
	dir := t.TempDir()
	if _, err := Make(dir, "lab", "", nil, clock, time.Hour); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "old.pfx"), nil)
	put(t, filepath.Join(dir, "half.key"), []byte("kept"))
	file := filepath.Join(dir, "file")
	put(t, file, nil)
	before, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		dir, name, host string
		also            []string
		valid           time.Duration
		want            string
	}{
		{dir, "lab", "", nil, time.Hour, "exists already and is not replaced"},
		{dir, "LAB", "", nil, time.Hour, "exists already"},
		{dir, "old", "", nil, time.Hour, "old.pfx exists already"},
		{dir, "half", "", nil, time.Hour, "half.key exists already"},
		{dir, "", "", nil, time.Hour, "cannot be named"},
		{dir, "../lab", "", nil, time.Hour, "cannot be named"},
		{dir, ".lab", "", nil, time.Hour, "cannot be named"},
		{dir, "a,b", "", nil, time.Hour, "cannot be named"},
		{dir, "a}", "", nil, time.Hour, "cannot be named"},
		{dir, "läb", "", nil, time.Hour, "cannot be named"},
		{dir, strings.Repeat("x", 65), "", nil, time.Hour, "cannot be named"},
		{dir, strings.Repeat("a", 40), "", nil, time.Hour, "taken as a thumbprint"},
		{dir, "new", "two words", nil, time.Hour, `"two words" is neither a host name nor an address`},
		{dir, "new", "", []string{"a..b"}, time.Hour, "neither a host name"},
		{dir, "new", "", []string{strings.Repeat("x", 64)}, time.Hour, "neither a host name"},
		{dir, "new", "", []string{strings.Repeat("x.", 127) + "x"}, time.Hour, "neither a host name"},
		{dir, "new", "", nil, 0, "cannot be valid for 0s"},
		{file, "new", "", nil, time.Hour, "cannot be made"},
	} {
		_, err := Make(tt.dir, tt.name, tt.host, tt.also, clock, tt.valid)
		expect(t, err, []string{tt.want})
	}
	after, err := os.ReadDir(dir)
	if err != nil || len(after) != len(before) {
		t.Errorf("files were left: %v", after)
	}
	if runtime.GOOS == "windows" {
		return
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	_, err = Make(dir, "new", "", nil, clock, time.Hour)
	expect(t, err, []string{"can be written by everybody"})
}

// A name that is no host name is the common name only.
func TestMakeNames(t *testing.T) {
	m, err := Make(t.TempDir(), "lab..1", "", nil, time.Now(), time.Hour)
	if err != nil || slices.Contains(m.Names, "lab..1") {
		t.Error(m.Names, err)
	}
}
