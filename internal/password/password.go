// Package password finds the password for connection strings that carry none,
// so that it need not stand in a list of processes or in the history of a
// shell: in a file, or in the environment. It does not know what a password is
// for, and it proves nothing.
//
// Precedence, highest first: password= in the connection string (the caller's
// business), -passwordfile, OPENKD_PASSWORD.
package password

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Env is the variable that is looked at when no file is named.
const Env = "OPENKD_PASSWORD"

const (
	maxLine = 4096             // bytes of a file that are read
	within  = 10 * time.Second // for a pipe to deliver them
)

// Find returns the first line of the file, or the variable's value when file
// is "". "" without an error: there is no password. Errors name the file and
// never quote it.
func Find(file string, getenv func(string) string) (string, error) {
	if file == "" {
		return getenv(Env), nil
	}
	pw, err := read(file)
	if err != nil {
		return "", fmt.Errorf("-passwordfile %s: %w", file, err)
	}
	return pw, nil
}

func read(file string) (string, error) {
	// A named pipe without a writer would hold up opening it for ever.
	f, err := os.OpenFile(file, os.O_RDONLY|nonblock, 0)
	if err != nil {
		var pe *os.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return "", fmt.Errorf("cannot be opened: %w", err)
	}
	defer f.Close()
	fi, err := f.Stat() // of what is open, not of what the name stands for by now
	if err != nil {
		return "", err
	}
	if fi.IsDir() {
		return "", errors.New("is a directory; a file is meant whose first line is the password")
	}
	if err := private(fi, file); err != nil {
		return "", err
	}
	f.SetReadDeadline(time.Now().Add(within)) // ordinary files have none and need none
	b, err := io.ReadAll(io.LimitReader(f, maxLine))
	if err != nil {
		return "", fmt.Errorf("cannot be read: %w", err)
	}
	if bytes.HasPrefix(b, []byte{0xFF, 0xFE}) || bytes.HasPrefix(b, []byte{0xFE, 0xFF}) {
		return "", errors.New("is UTF-16; save it as UTF-8 or plain ASCII")
	}
	b = bytes.TrimPrefix(b, []byte("\xEF\xBB\xBF"))
	line, _, _ := bytes.Cut(b, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 {
		return "", errors.New("the first line is empty; it has to be the password")
	}
	return string(line), nil
}
