package symbols

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unicode"
)

// MicrosoftServer is the server of an element that names none.
const MicrosoftServer = "https://msdl.microsoft.com/download/symbols"

// Bounds of a path. The number of stores is SymSrv's.
const (
	maxPath     = 64 << 10 // bytes
	maxElements = 256
	maxStores   = 10
)

// Path says where symbol files are looked for, in order. The zero value says
// nowhere. Paths are values: what adds to one makes a new one.
type Path struct{ elements []Element }

// Kind is the kind of an Element.
type Kind uint8

// Kinds of elements.
const (
	Folder Kind = iota // the files themselves, or a store
	Cache              // a store that gets a copy of what later elements have
	Server             // stores one behind the other: caches, and the source last
)

// Element is one part of a path.
type Element struct {
	Kind Kind
	// Stores are the folders and servers of a Server, nearest first, or the one
	// folder of the others. "" is the default cache. Servers are URLs; they may
	// hold passwords, so only String is for display.
	Stores []string

	text string // as it was written
}

// isURL tells servers from folders.
func isURL(s string) bool {
	l := strings.ToLower(s)
	return strings.HasPrefix(l, "http://") || strings.HasPrefix(l, "https://")
}

// ParsePath reads a path as a person writes it: elements separated by
// semicolons,
//
//	folder                         files, in the folder, its symbols\sys and sys
//	                               (exe, dll: after the image), or in a store there
//	srv*                           Microsoft's server, by way of the default cache
//	srv*server                     a server (a URL, or a folder that is a store);
//	                               the default cache holds what a URL sends
//	srv*cache*server               by way of a cache; more of them may follow
//	symsrv*symsrv.dll*...          the same
//	cache*folder, cache*           a cache for all that comes after it
//
// A bare URL is a server. In the place of a cache nothing means the default one,
// in the place of the server Microsoft's. The error names every element that
// cannot be used; the path has the others.
func ParsePath(text string) (Path, error) {
	var p Path
	if len(text) > maxPath {
		return p, fmt.Errorf("a symbol path of %d bytes is longer than %d", len(text), maxPath)
	}
	var bad []error
	for part := range strings.SplitSeq(text, ";") {
		part = strings.TrimFunc(part, func(r rune) bool { return r == '"' || unicode.IsSpace(r) })
		if part == "" {
			continue
		}
		if len(p.elements) == maxElements {
			bad = append(bad, fmt.Errorf("a symbol path of more than %d elements", maxElements))
			break
		}
		e, err := parseElement(part)
		if err != nil {
			bad = append(bad, fmt.Errorf("symbol path: %s: %w", redactAll(part), err))
			continue
		}
		p.elements = append(p.elements, e)
	}
	return p, errors.Join(bad...)
}

func parseElement(text string) (Element, error) {
	e := Element{text: text}
	for _, c := range text {
		if c < ' ' || c == 0x7F {
			return e, errors.New("a name cannot have control characters")
		}
	}
	parts := strings.Split(text, "*")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	word := strings.ToLower(parts[0])
	switch {
	case len(parts) == 1:
		e.Kind, e.Stores = Folder, parts
		if isURL(text) {
			e.Kind = Server
		}
	case word == "cache":
		if len(parts) > 2 {
			return e, errors.New("cache* takes one folder: cache*folder")
		}
		e.Kind, e.Stores = Cache, parts[1:]
		if isURL(parts[1]) {
			return e, errors.New("a server cannot be a cache: cache*folder")
		}
	case word == "symsrv" && !strings.EqualFold(parts[1], "symsrv.dll"):
		return e, fmt.Errorf("symbol servers by other libraries (%s) are not supported: srv*cache*server", parts[1])
	case word == "symsrv" && len(parts) == 2:
		return e, errors.New("the server is missing: symsrv*symsrv.dll*cache*server")
	case word == "symsrv":
		e.Kind, e.Stores = Server, parts[2:]
	case word == "srv":
		e.Kind, e.Stores = Server, parts[1:]
		if len(parts) == 2 && parts[1] == "" {
			e.Stores = []string{""}
		}
	default:
		return e, errors.New("an element with a * begins with srv*, cache* or symsrv*")
	}
	if e.Kind == Server {
		e.Stores = append([]string(nil), e.Stores...)
		last := len(e.Stores) - 1
		if e.Stores[last] == "" {
			e.Stores[last] = MicrosoftServer
		}
	}
	if len(e.Stores) > maxStores {
		return e, fmt.Errorf("%d stores are more than %d", len(e.Stores), maxStores)
	}
	for _, s := range e.Stores {
		if err := checkStore(s); err != nil {
			return e, err
		}
	}
	return e, nil
}

func checkStore(s string) error {
	if !isURL(s) {
		if s != "" && foreign(s) {
			return fmt.Errorf("%s is a folder of Windows and cannot be reached by that name here", s)
		}
		return nil
	}
	u, err := url.Parse(s)
	switch {
	case err != nil: // its text has the URL
		return errors.New("the server's address is not a URL")
	case u.Host == "":
		return errors.New("the server's address has no host")
	case strings.Contains(s, "#"): // an empty fragment too
		return errors.New("the server's address has a #")
	}
	return nil
}

// foreign says whether a name is that of a Windows folder where there are none:
// on other systems it would be made in the working directory.
func foreign(s string) bool {
	if runtime.GOOS == "windows" {
		return false
	}
	return strings.HasPrefix(s, `\\`) || len(s) >= 2 && s[1] == ':' && (s[0]|0x20 >= 'a' && s[0]|0x20 <= 'z')
}

// Elements lists the path's parts. They must not be changed.
func (p Path) Elements() []Element { return p.elements }

// Empty says whether there is nowhere to look.
func (p Path) Empty() bool { return len(p.elements) == 0 }

// Append is the path with more behind it (.sympath+).
func (p Path) Append(more Path) Path {
	return Path{append(p.elements[:len(p.elements):len(p.elements)], more.elements...)}
}

// Fix is the path that .symfix sets: Microsoft's public server, by way of a
// cache; "" is the default one.
func Fix(cache string) (Path, error) {
	if cache = strings.TrimSpace(cache); cache == "" {
		return ParsePath("srv*")
	}
	if strings.ContainsAny(cache, "*;") || isURL(cache) {
		return Path{}, fmt.Errorf("%s is not the name of a folder", redactAll(cache))
	}
	return ParsePath("srv*" + cache + "*" + MicrosoftServer)
}

// String is the path as it was written, without passwords.
func (p Path) String() string {
	s := make([]string, len(p.elements))
	for i, e := range p.elements {
		s[i] = e.String()
	}
	return strings.Join(s, ";")
}

// String is the element as it was written, without passwords.
func (e Element) String() string { return redactAll(e.text) }

// Expanded is the path with the folders and the server that the short forms mean.
func (p Path) Expanded(cache string) string {
	folder := func(s string) string {
		if s == "" {
			return cache
		}
		return redact(s)
	}
	var out []string
	for _, e := range p.elements {
		switch e.Kind {
		case Folder:
			out = append(out, folder(e.Stores[0]))
		case Cache:
			out = append(out, "cache*"+folder(e.Stores[0]))
		case Server:
			s := "srv"
			if len(e.Stores) == 1 && isURL(e.Stores[0]) {
				s += "*" + cache
			}
			for _, name := range e.Stores {
				s += "*" + folder(name)
			}
			out = append(out, s)
		}
	}
	return strings.Join(out, ";")
}

// Problem is an element of a path that will not help, and why.
type Problem struct {
	Element string
	Err     error
}

// Problems looks at the folders of the path, not at servers.
func (p Path) Problems() []Problem {
	var out []Problem
	for _, e := range p.elements {
		if e.Kind != Folder {
			continue // the others are made, or are asked when they are needed
		}
		st, err := os.Stat(e.Stores[0])
		if err == nil && !st.IsDir() {
			err = errors.New("not a folder")
		}
		if err != nil {
			var pe *os.PathError
			if errors.As(err, &pe) {
				err = pe.Err
			}
			out = append(out, Problem{e.String(), err})
		}
	}
	return out
}

// redactAll takes passwords out of an element of a path.
func redactAll(text string) string {
	parts := strings.Split(text, "*")
	for i, p := range parts {
		name := strings.TrimSpace(p) // as it was read
		parts[i] = strings.Replace(p, name, redact(name), 1)
	}
	return strings.Join(parts, "*")
}

// redact takes the password and the query, which may be a key, out of a URL.
func redact(s string) string {
	if !isURL(s) {
		return s
	}
	u, err := url.Parse(s)
	if err != nil {
		// What cannot be read is not shown, but for the beginning.
		scheme, _, _ := strings.Cut(s, "//")
		return scheme + "//..."
	}
	if u.User == nil && u.RawQuery == "" {
		return s // as it was written
	}
	return redactURL(u)
}

func redactURL(u *url.URL) string {
	c := *u
	if c.RawQuery != "" {
		c.RawQuery = "..."
	}
	return c.Redacted()
}

// Environment is what a person's environment says of symbols.
type Environment struct {
	Symbols string // paths, as text
	Images  string
	Proxy   string
	Cache   string // the default cache
}

// FromEnvironment reads the variables that DbgHelp and WinDbg read; getenv is
// os.Getenv.
func FromEnvironment(getenv func(string) string) Environment {
	e := Environment{
		Symbols: getenv("_NT_SYMBOL_PATH"),
		Images:  getenv("_NT_EXECUTABLE_IMAGE_PATH"),
		Proxy:   getenv("_NT_SYMBOL_PROXY"),
	}
	if alt := getenv("_NT_ALT_SYMBOL_PATH"); alt != "" {
		e.Symbols = strings.Trim(alt+";"+e.Symbols, ";")
	}
	if home := getenv("DBGHELP_HOMEDIR"); home != "" {
		e.Cache = filepath.Join(home, "sym")
		return e
	}
	if runtime.GOOS == "windows" {
		// Where DbgHelp puts them if it was not told otherwise.
		if data := getenv("ProgramData"); data != "" {
			shared := filepath.Join(data, "Dbg", "Sym")
			if st, err := os.Stat(shared); err == nil && st.IsDir() {
				e.Cache = shared
				return e
			}
		}
	}
	if dir, err := os.UserCacheDir(); err == nil {
		e.Cache = filepath.Join(dir, "openkd", "symbols")
	}
	return e
}
