package connstr

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxPipe is the longest name of a pipe in characters: with \\.\pipe\ in front
// it fills the 256 that Windows allows (Microsoft: "Pipe Names").
const maxPipe = 247

// CheckPipe says what is wrong with the name of a named pipe, the same on every
// system, so that a name can be given to a server anywhere.
func CheckPipe(name string) error {
	if strings.Contains(name, "%") {
		return pipeError(name, "codes such as %x are for the server; a client names the pipe that kdsrv printed")
	}
	return checkPipe(name)
}

// ExpandPipe makes a server's pipe name unique as it may ask for: the first of
// the codes %x and %d stands for the process id and a second one for the thread
// id, hexadecimal and decimal (Microsoft: "KdSrv Command-Line Options", pipe=).
func ExpandPipe(name string, pid, tid int) (string, error) {
	ids := []int{pid, tid}
	var b strings.Builder
	for rest := name; ; {
		before, after, code := strings.Cut(rest, "%")
		b.WriteString(before)
		if !code {
			break
		}
		base := 0
		switch {
		case strings.HasPrefix(after, "x"):
			base = 16
		case strings.HasPrefix(after, "d"):
			base = 10
		default:
			return "", pipeError(name, "the only codes are %x and %d, for the process id and then the thread id; a percent sign for itself is not possible")
		}
		if len(ids) == 0 {
			return "", pipeError(name, "there are only two codes: the first %x or %d is the process id, the second the thread id")
		}
		b.WriteString(strconv.FormatInt(int64(ids[0]), base))
		ids, rest = ids[1:], after[1:]
	}
	if err := checkPipe(b.String()); err != nil {
		return "", err
	}
	return b.String(), nil
}

func checkPipe(name string) error {
	switch {
	case name == "":
		return pipeError(name, "the name of the pipe is missing, as in pipe=kernel")
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return pipeError(name, "a pipe name has no control characters")
	case strings.ContainsFunc(name, unicode.IsSpace) || strings.Contains(name, `"`):
		return pipeError(name, "a pipe name has no blanks and no quotation marks")
	case strings.HasPrefix(name, `\\`):
		return pipeError(name, fmt.Sprintf("the machine and \\pipe\\ do not belong into pipe=; write pipe=%s", name[strings.LastIndexByte(name, '\\')+1:]))
	case strings.ContainsAny(name, `/\`):
		return pipeError(name, "a pipe name is one word without slashes, not a path")
	case strings.ContainsAny(name, ",}"):
		return pipeError(name, "a pipe name has no comma and no closing brace, since a client could not write them in @{...}")
	case name == "." || name == "..":
		return pipeError(name, "that is a folder's name, not a pipe's")
	case utf8.RuneCountInString(name) > maxPipe:
		return pipeError(name, fmt.Sprintf("the name has %d characters; at most %d are allowed", utf8.RuneCountInString(name), maxPipe))
	}
	return nil
}

func pipeError(name, why string) *Error {
	return &Error{Input: "pipe=" + name, Why: why}
}
