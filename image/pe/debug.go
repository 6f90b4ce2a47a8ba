package pe

import (
	"fmt"
	"strings"
)

// DebugEntry is an entry of the debug directory.
type DebugEntry struct {
	Type          uint32 // 2 CodeView, 16 reproducible build, 20 extended characteristics...
	TimeDateStamp uint32
	Size          uint32
	RVA           uint32 // 0 when the data is not mapped
	Offset        uint32 // in the file
}

// Debug reads the debug directory; an image without one has no entries.
func (im *Image) Debug() ([]DebugEntry, error) {
	d := im.Dirs[DirDebug]
	if d.VirtualAddress == 0 || d.Size == 0 {
		return nil, nil
	}
	n := int(d.Size / 28)
	if n > maxDebug {
		return nil, malformed("debug directory", "%d entries", n)
	}
	raw := make([]byte, 28*n)
	if err := readFull(im, raw, int64(d.VirtualAddress), "debug directory"); err != nil {
		return nil, err
	}
	out := make([]DebugEntry, n)
	for i := range out {
		e := raw[28*i:]
		out[i] = DebugEntry{TimeDateStamp: le.Uint32(e[4:]), Type: le.Uint32(e[12:]), Size: le.Uint32(e[16:]), RVA: le.Uint32(e[20:]), Offset: le.Uint32(e[24:])}
	}
	return out, nil
}

// GUID is in the order of the bytes in the image; String gives the usual form.
type GUID [16]byte

func (g GUID) String() string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(g[:]), le.Uint16(g[4:]), le.Uint16(g[6:]), g[8:10], g[10:])
}

// CodeView is the reference from an image to its PDB.
type CodeView struct {
	PDB  string // as the linker wrote it, often a whole path
	GUID GUID
	Age  uint32
}

// Key is the folder of the PDB in a symbol store: GUID without dashes, age.
func (c *CodeView) Key() string {
	return strings.ToUpper(strings.ReplaceAll(c.GUID.String(), "-", "")) + fmt.Sprintf("%X", c.Age)
}

// Name is the file name of the PDB without its folders.
func (c *CodeView) Name() string {
	return c.PDB[strings.LastIndexAny(c.PDB, `\/`)+1:]
}

// CodeView reads the reference to the PDB. It is nil without an error when the
// image has none. References older than RSDS (NB10, NB09) give an error that
// wraps ErrUnsupported and names the format.
func (im *Image) CodeView() (*CodeView, error) {
	entries, err := im.Debug()
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.Type != 2 {
			continue
		}
		return im.codeView(e)
	}
	return nil, nil
}

func (im *Image) codeView(e DebugEntry) (*CodeView, error) {
	if e.Size < 16 || e.Size > 24+maxString {
		return nil, malformed("CodeView record", "size %d", e.Size)
	}
	raw := make([]byte, e.Size)
	var err error
	switch {
	case e.RVA != 0:
		err = readFull(im, raw, int64(e.RVA), "CodeView record")
	case im.Layout == File && e.Offset != 0:
		err = readFull(im.r, raw, int64(e.Offset), "CodeView record")
	default:
		err = fmt.Errorf("CodeView record: the image has it in its file only: %w", ErrUnsupported)
	}
	if err != nil {
		return nil, err
	}
	switch sig := string(raw[:4]); sig {
	case "RSDS":
	case "NB10", "NB09", "NB11":
		return nil, fmt.Errorf("CodeView record %s, older than RSDS, names %q: %w", sig, cstring(raw[16:]), ErrUnsupported)
	default:
		return nil, malformed("CodeView record", "signature %q", sig)
	}
	if e.Size < 25 {
		return nil, malformed("CodeView record", "RSDS of %d bytes", e.Size)
	}
	c := &CodeView{Age: le.Uint32(raw[20:]), PDB: cstring(raw[24:])}
	copy(c.GUID[:], raw[4:])
	return c, nil
}
