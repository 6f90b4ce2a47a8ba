package symbols

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"openkd/internal/brief"
)

// Files of a store that are not symbols.
const (
	pointerName = "file.ptr"   // beside the others: where the file is
	tiersName   = "index2.txt" // at the root: a third tier of the first two letters
	pingName    = "pingme.txt" // at the root: this is a store
)

// tiers is how a store is laid out.
type tiers uint8

const (
	unknownTiers tiers = iota
	twoTiers           // name/key/name
	threeTiers         // na/name/key/name
)

// place is where a store has a file, as parts of a path.
func (t tiers) place(w *Wanted, file string) []string {
	p := []string{w.Name, w.Key(), file}
	if t == threeTiers {
		p = append([]string{w.Name[:min(2, len(w.Name))]}, p...)
	}
	return p
}

// squeezed is the name of a file that was compressed: the last letter becomes an
// underscore.
func squeezed(name string) string { return name[:len(name)-1] + "_" }

// tiersOf looks how the store in a folder is laid out. What is said of a folder
// that is not there is not kept.
func tiersOf(root string) tiers {
	if _, err := os.Stat(filepath.Join(root, tiersName)); err == nil {
		return threeTiers
	}
	return twoTiers
}

// pointer is what a file.ptr says: where the file is, or why it is not there.
type pointer struct{ path, message string }

const maxPointer = 4096 // bytes

// parsePointer reads PATH:where, MSG: text or only where.
func parsePointer(b []byte) (pointer, error) {
	if len(b) > maxPointer {
		return pointer{}, fmt.Errorf("%s is longer than %d bytes", pointerName, maxPointer)
	}
	text := strings.TrimSpace(strings.TrimPrefix(string(b), "\ufeff"))
	text, _, _ = strings.Cut(text, "\n")
	text = strings.TrimSpace(text)
	for _, c := range text {
		if c < ' ' && c != '\t' || c == 0x7F || c == 0xFFFD {
			return pointer{}, fmt.Errorf("%s has control characters", pointerName)
		}
	}
	switch word, rest, ok := strings.Cut(text, ":"); {
	case text == "":
		return pointer{}, fmt.Errorf("%s is empty", pointerName)
	case ok && strings.EqualFold(word, "PATH"):
		if rest = strings.TrimSpace(rest); rest == "" {
			return pointer{}, fmt.Errorf("%s names no file", pointerName)
		}
		return pointer{path: rest}, nil
	case ok && strings.EqualFold(word, "MSG"):
		return pointer{message: brief.Text(strings.TrimSpace(rest), 80)}, nil
	}
	return pointer{path: text}, nil
}

func readPointer(path string) (pointer, error) {
	r, err := os.Open(path)
	if err != nil {
		return pointer{}, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxPointer+1))
	if err != nil {
		return pointer{}, err
	}
	return parsePointer(b)
}

// maxListing bounds how many names of a folder are compared.
const maxListing = 1 << 17

// lookUp finds a file or a folder below a folder. Where case matters and it is
// not there as spelt, any case will do, as on Windows.
func lookUp(root string, parts ...string) (string, fs.FileInfo, error) {
	exact := filepath.Join(append([]string{root}, parts...)...)
	st, err := os.Stat(exact)
	if err == nil || runtime.GOOS == "windows" || !errors.Is(err, fs.ErrNotExist) {
		return exact, st, err
	}
	at := root
	for _, part := range parts {
		next := filepath.Join(at, part)
		if _, err := os.Stat(next); err != nil {
			name, ok := anyCase(at, part)
			if !ok {
				return exact, nil, fs.ErrNotExist
			}
			next = filepath.Join(at, name)
		}
		at = next
	}
	st, err = os.Stat(at)
	return at, st, err
}

// lookUpFile is lookUp for what must be a file.
func lookUpFile(root string, parts ...string) (string, error) {
	path, st, err := lookUp(root, parts...)
	if err == nil && !st.Mode().IsRegular() {
		err = errNoFile
	}
	return path, err
}

var errNoFile = errors.New("not a file")

func anyCase(dir, name string) (string, bool) {
	d, err := os.Open(dir)
	if err != nil {
		return "", false
	}
	defer d.Close()
	for seen := 0; seen < maxListing; {
		list, err := d.Readdirnames(1024)
		for _, n := range list {
			if strings.EqualFold(n, name) {
				return n, true
			}
		}
		if seen += len(list); err != nil || len(list) == 0 {
			break
		}
	}
	return "", false
}

// reason is an error of a file system in a few words.
func reason(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "file not found"
	case errors.Is(err, fs.ErrPermission):
		return "access denied"
	}
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}
