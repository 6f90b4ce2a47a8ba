package symbols

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"openkd/image/dwarf"
	"openkd/image/pdb"
	"openkd/image/pe"
	"openkd/image/sym"
	"openkd/internal/brief"
)

// Openers read symbol files. They are a table so that a test can count, and so
// that a format can be added.
type Openers struct {
	PDB   func(path string) (sym.File, error)
	Image func(path string) (sym.File, error) // symbols inside an image
}

// DefaultOpeners reads PDBs, and DWARF and COFF symbols in images.
func DefaultOpeners() Openers {
	return Openers{
		PDB:   func(path string) (sym.File, error) { return pdb.Open(path) },
		Image: func(path string) (sym.File, error) { return dwarf.Open(path) },
	}
}

// Wanted is a file that is looked for.
type Wanted struct {
	Name string // of the file, without folders
	// Ext is the extension of the image, which is a sub folder of symbol folders:
	// sys, dll, exe.
	Ext string
	// One of them: a PDB by what its image says of it, an image by its headers.
	PDB   *pe.CodeView
	Image *ImageID
	// Local leaves servers out.
	Local bool
	// Loose takes a file from a folder of the path that has the name and another
	// identity, if there is no better one (.reload /i).
	Loose bool
}

// ImageID is what tells images of one name apart.
type ImageID struct {
	Timestamp uint32 // 0: unknown; then CheckSum must do
	Size      uint32 // SizeOfImage
	CheckSum  uint32 // 0: unknown
	// Header says that they were read in the image's headers, so that 0 is 0:
	// linkers that make the same image of the same sources set no time stamp.
	Header bool
}

func (id ImageID) String() string {
	if id.Timestamp == 0 && !id.Header {
		return fmt.Sprintf("check sum %08X, size %x", id.CheckSum, id.Size)
	}
	s := fmt.Sprintf("time stamp %08X, size %x", id.Timestamp, id.Size)
	if id.Timestamp == 0 {
		s += fmt.Sprintf(", check sum %08X", id.CheckSum)
	}
	return s
}

func pdbText(guid [16]byte, age uint32) string {
	return fmt.Sprintf("GUID %s, age %x", strings.ToUpper(pe.GUID(guid).String()), age)
}

// Identity is what the file must have, as text.
func (w *Wanted) Identity() string {
	if w.PDB != nil {
		return pdbText(w.PDB.GUID, w.PDB.Age)
	}
	return w.Image.String()
}

// Key is the folder of the file in a store; "" if too little is known of it.
func (w *Wanted) Key() string {
	switch {
	case w.PDB != nil:
		return w.PDB.Key()
	case w.Image.Timestamp == 0 && !w.Image.Header:
		return ""
	}
	return fmt.Sprintf("%08X%x", w.Image.Timestamp, w.Image.Size)
}

// check refuses names that would lead out of a folder. They come from images,
// which anybody may have made.
func (w *Wanted) check() error {
	if (w.PDB == nil) == (w.Image == nil) {
		return errors.New("a file is wanted by what is said of a PDB or by an image's headers")
	}
	if !plainName(w.Name) {
		return fmt.Errorf("%q is not the name of a file", brief.Text(w.Name, 80))
	}
	if w.Ext != "" && !plainName(w.Ext) {
		w.Ext = ""
	}
	return nil
}

const maxName = 200 // bytes; file systems take 255, and temporary names are longer

// plainName says whether a name names a file in a folder, on every system.
func plainName(s string) bool {
	if s == "" || len(s) > maxName || s[0] == ' ' || strings.ContainsAny(s, `/\:*?"<>|`) {
		return false
	}
	for _, c := range s {
		if c < ' ' || c == 0x7F || c == 0xFFFD {
			return false
		}
	}
	if c := s[len(s)-1]; c == '.' || c == ' ' { // Windows drops them
		return false
	}
	stem, _, _ := strings.Cut(strings.ToLower(s), ".")
	switch stem {
	case "con", "prn", "aux", "nul", "conin$", "conout$":
		return false
	}
	// com1 to lpt9 are devices.
	return !(len(stem) == 4 && (stem[:3] == "com" || stem[:3] == "lpt") && stem[3] >= '0' && stem[3] <= '9')
}

// MismatchError says that a file is not the one that is wanted.
type MismatchError struct {
	Where      string
	Want, Have string // identities
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("%s does not match: it has %s, and %s is wanted", e.Where, e.Have, e.Want)
}

// What files begin with.
const (
	msf7   = "Microsoft C/C++ MSF 7.00\r\n\x1aDS\x00\x00\x00"
	msf2   = "Microsoft C/C++ program database 2.00"
	mz     = "MZ"
	sniff  = 64 // bytes that tell the kind of a file
	magicC = "MSCF"
)

// begins looks at the first bytes of a file. The error says what it is instead;
// a cabinet is let through, it may hold the file.
func (w *Wanted) begins(b []byte) error {
	switch {
	case bytes.HasPrefix(b, []byte(magicC)):
		return nil
	case w.PDB != nil && (bytes.HasPrefix(b, []byte(msf7)) || bytes.HasPrefix(b, []byte(msf2))):
		return nil
	case w.Image != nil && bytes.HasPrefix(b, []byte(mz)):
		return nil
	}
	kind := "PDB"
	if w.Image != nil {
		kind = "image"
	}
	return fmt.Errorf("it is no %s: it begins with %q", kind, b[:min(len(b), 24)])
}

// verify opens a file and compares its identity. where names it for people.
func (f *Finder) verify(w *Wanted, path, where string) error {
	if w.Image != nil {
		return verifyImage(w, path, where)
	}
	if err := startsWell(w, path); err != nil {
		return err
	}
	s, err := f.opt.Openers.PDB(path)
	if err != nil {
		return withoutPath(err, path)
	}
	id := s.Identity()
	if err := s.Close(); err != nil {
		return err
	}
	if id.GUID != w.PDB.GUID || id.Age != w.PDB.Age {
		return &MismatchError{where, w.Identity(), pdbText(id.GUID, id.Age)}
	}
	return nil
}

// startsWell has the first bytes of a file looked at, which says more than a
// reader of the format can.
func startsWell(w *Wanted, path string) error {
	r, err := os.Open(path)
	if err != nil {
		return err
	}
	defer r.Close()
	b := make([]byte, sniff)
	n, err := io.ReadFull(r, b)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return err
	}
	return w.begins(b[:n])
}

func verifyImage(w *Wanted, path, where string) error {
	if err := startsWell(w, path); err != nil {
		return err
	}
	r, err := os.Open(path)
	if err != nil {
		return err
	}
	defer r.Close()
	im, err := pe.Open(r, pe.File)
	if err != nil {
		return err
	}
	have, want := ImageID{im.TimeDateStamp, im.SizeOfImage, im.CheckSum, w.Image.Header}, *w.Image
	same := have.Size == want.Size
	switch {
	case want.Timestamp != 0:
		// Stripping an image changes its check sum.
		same = same && have.Timestamp == want.Timestamp
	case want.Header:
		same = same && have == want
	case want.CheckSum != 0:
		same = same && have.CheckSum == want.CheckSum
		have.Timestamp = 0
	default:
		return fmt.Errorf("neither the time stamp nor the check sum of %s is known, so no file can be told to be right", w.Name)
	}
	if !same {
		return &MismatchError{where, w.Identity(), have.String()}
	}
	return nil
}

// withoutPath is an error without the name of a temporary file in it.
func withoutPath(err error, path string) error {
	var p *os.PathError
	if errors.As(err, &p) && p.Path == path {
		return p.Err
	}
	if rest, ok := strings.CutPrefix(err.Error(), path+": "); ok {
		return &renamed{rest, err}
	}
	return err
}

type renamed struct {
	text string
	err  error
}

func (e *renamed) Error() string { return e.text }
func (e *renamed) Unwrap() error { return e.err }
