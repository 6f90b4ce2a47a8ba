//go:build linux

package wine

import (
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// makeCertificate makes a certificate in the directory of a program's system
// and returns its thumbprint.
func (l *lab) makeCertificate(t *testing.T, program, name string) string {
	t.Helper()
	p := l.start(t, "", program, "-makecert", name)
	if code := p.end(); code != 0 {
		t.Fatalf("-makecert: exit code %d, %s", code, p.err.String())
	}
	return p.shows(`Thumbprint +([0-9a-f]{64})`)[1]
}

// importer puts the certificate in a file (X.509, DER) into the store "MY".
const importer = `
#include <windows.h>
#include <wincrypt.h>
#include <stdio.h>
#include <string.h>
int main(int argc, char **argv)
{
	static unsigned char der[16384];
	DWORD where = strcmp(argv[1], "machine") ? CERT_SYSTEM_STORE_CURRENT_USER : CERT_SYSTEM_STORE_LOCAL_MACHINE;
	HCERTSTORE my = CertOpenStore(CERT_STORE_PROV_SYSTEM_W, 0, 0, where, L"MY");
	FILE *f = fopen(argv[2], "rb");
	if (!my || !f)
		return 1;
	if (!CertAddEncodedCertificateToStore(my, X509_ASN_ENCODING, der, fread(der, 1, sizeof(der), f), CERT_STORE_ADD_NEW, NULL))
		return 2;
	return !CertCloseStore(my, 0);
}
`

// importCertificate puts a certificate that kdsrv has made into a store of
// Windows, without its key, as a client has it.
func (l *lab) importCertificate(t *testing.T, name, store string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(filepath.Dir(l.bin), "certs", name+".crt"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	dir := t.TempDir()
	src, exe, der := filepath.Join(dir, "import.c"), filepath.Join(dir, "import.exe"), filepath.Join(dir, "cert.der")
	for file, b := range map[string][]byte{src: []byte(importer), der: block.Bytes} {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := exec.Command("x86_64-w64-mingw32-gcc", "-o", exe, src, "-lcrypt32").CombinedOutput(); err != nil {
		t.Fatalf("the importer does not build: %v\n%s", err, text)
	}
	if err := l.tool("wine", exe, store, der); err != nil {
		t.Fatal(err)
	}
}
