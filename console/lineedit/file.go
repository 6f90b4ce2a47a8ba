package lineedit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"
)

// maxFile is the size in bytes beyond which a history file is made smaller; no
// more than that of its end is ever read.
const maxFile = 512 << 10

// File is a history file: a line for each command, the oldest first, read and
// written by its owner alone (mode 0600). Several programs may use one at a time:
// each adds lines at the end, under a lock, and the one that makes the file too
// large puts a shorter one in its place.
//
// Concurrency: one goroutine at a time in a program.
type File struct{ path string }

// OpenFile reads the lines of a history file. Where there is none it begins with
// the first line that is added. What is no text in it is left out. The error says
// why there can be no history there; a program does without.
func OpenFile(path string) (*File, []string, error) {
	lines, err := readLines(path)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return nil, nil, err
	}
	return &File{path}, lines, nil
}

// readLines reads the end of a history file.
func readLines(path string) ([]string, error) {
	if err := regular(path); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	from := max(0, st.Size()-maxFile)
	b, err := io.ReadAll(io.NewSectionReader(f, from, maxFile))
	if err != nil {
		return nil, err
	}
	if from > 0 {
		_, b, _ = bytes.Cut(b, []byte("\n")) // the first one is cut in two
	}
	var lines []string
	for l := range strings.Lines(string(b)) {
		whole := strings.HasSuffix(l, "\n")
		if l = strings.TrimRight(l, "\r\n"); whole && utf8.ValidString(l) {
			lines = append(lines, l)
		}
	}
	return tidy(lines), nil
}

// regular refuses what is no plain file: reading a pipe would wait for ever.
func regular(path string) error {
	st, err := os.Stat(path)
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("the history file %s is no plain file", path)
	}
	return err
}

// Add adds a line at the end. It does not add one that Keeps refuses.
func (f *File) Add(line string) error {
	line = strings.TrimRight(line, " \t\r\n")
	if f == nil || !Keeps(line) || clean(line) != line {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return err
	}
	if err := regular(f.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	unlock, locked := f.lock()
	defer unlock()
	h, err := os.OpenFile(f.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	size := int64(0)
	if st, err := h.Stat(); err == nil {
		size = st.Size()
		if st.Mode().Perm()&0o077 != 0 {
			_ = h.Chmod(0o600) // not ours to change on some systems
		}
	}
	// A line in one write: what others add stands before or behind it.
	_, err = h.WriteString(line + "\n")
	if e := h.Close(); err == nil {
		err = e
	}
	if err == nil && locked && size > maxFile {
		err = f.shorten()
	}
	return err
}

// shorten drops lines that are there more than once, and the oldest. The lock is
// held.
func (f *File) shorten() error {
	lines, err := readLines(f.path)
	if err != nil {
		return err
	}
	n, first := 0, len(lines)
	for first > 0 && n+len(lines[first-1]) < maxFile/2 {
		first--
		n += len(lines[first]) + 1
	}
	t, err := os.CreateTemp(filepath.Dir(f.path), filepath.Base(f.path)+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = t.WriteString(strings.Join(lines[first:], "\n") + "\n")
	if e := t.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(t.Name(), f.path)
	}
	if err != nil {
		_ = os.Remove(t.Name())
	}
	return err
}

// lock keeps other programs away for a moment. Where that is not to be had (a
// file system without locks, a program that hangs) lines are added all the same,
// and only the file is not made shorter.
func (f *File) lock() (unlock func(), locked bool) {
	h, err := os.OpenFile(f.path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return func() {}, false
	}
	for try := 0; ; try++ {
		if tryLock(h) == nil {
			return func() { _ = h.Close() }, true
		}
		if try == 50 {
			_ = h.Close()
			return func() {}, false
		}
		time.Sleep(2 * time.Millisecond)
	}
}
