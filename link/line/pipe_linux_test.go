package line

import (
	"os"
	"path/filepath"
	"testing"

	"openkd/internal/shortdir"
)

// The socket is private from the moment it is there, not only after a chmod.
func TestSocketIsMadePrivate(t *testing.T) {
	path := filepath.Join(shortdir.New(t), "s")
	ln, err := listenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if m := st.Mode().Perm(); m&0o077 != 0 {
		t.Errorf("mode %o", m)
	}
}
