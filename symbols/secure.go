package symbols

import "errors"

// Secure Mode: files come from folders and stores on disks of this machine and
// from nowhere else. Paths are cut down when they are set, so that a person sees
// what is left; the Finder holds to it whatever a path says.

// What Secure Mode has against an element of a path.
var (
	errSecureServer = errors.New("Secure Mode asks no server over HTTP or HTTPS")
	errSecureStore  = errors.New("Secure Mode has no downstream store")
	errSecurePacked = errors.New("it is compressed, and Secure Mode has no downstream store to expand it into")
)

// SetSecure turns Secure Mode on, for the life of the Finder: it asks no server,
// also not by a path that was set before, fills no cache, and takes files from
// disks of this machine only.
func (f *Finder) SetSecure() {
	f.secure.Store(true)
	f.client.CloseIdleConnections()
}

// Secure says whether Secure Mode is on.
func (f *Finder) Secure() bool { return f.secure.Load() }

// local says why a file or folder is not to be read; nil: it may be.
func (f *Finder) local(path string) error {
	if !f.secure.Load() {
		return nil
	}
	return f.opt.Local(path)
}

// refuses says what Secure Mode has against an element.
func (f *Finder) refuses(e *Element) error {
	for _, s := range e.Stores {
		if isURL(s) {
			return errSecureServer
		}
	}
	if e.Kind == Cache || len(e.Stores) > 1 {
		return errSecureStore
	}
	return f.opt.Local(f.folder(e.Stores[0]))
}

// Secured is the path without what Secure Mode refuses, and what that is. What is
// left is read and never written.
func (f *Finder) Secured(p Path) (Path, []Problem) {
	var out Path
	var left []Problem
	for i := range p.elements {
		e := &p.elements[i]
		if err := f.refuses(e); err != nil {
			left = append(left, Problem{e.String(), err})
		} else {
			out.elements = append(out.elements, *e)
		}
	}
	return out, left
}
