// Package kernel holds the images that the simulated machine runs: a small
// kernel of our own, its hardware layer and a few drivers, as real x64 PE
// images with PDB files, and the sources they are built from.
//
// It is data: it loads and runs nothing (package sim does). The names of
// functions, variables and types are those that people know from public
// symbols of Windows; the code is ours and does only what a debugger needs to
// find something to look at. build.sh makes the images again, bit for bit with
// the same tools.
package kernel

import (
	"embed"
	"io/fs"
)

//go:generate ./build.sh

//go:embed image/*.exe image/*.dll image/*.sys image/*.sym
var files embed.FS

//go:embed image/*.pdb
var pdbs embed.FS

// Image returns the bytes of an image file ("ntoskrnl.exe", "hal.dll",
// "openkd.sys", "tcpip.sys", "sample.sys"). The slice is the caller's.
func Image(name string) ([]byte, error) { return fs.ReadFile(files, "image/"+name) }

// Symbols returns the symbol list of an image: lines of a hexadecimal offset
// from the image base, a space, and the name, sorted by offset.
func Symbols(name string) ([]byte, error) { return fs.ReadFile(files, "image/"+name+".sym") }

// PDB returns the bytes of a PDB file ("ntkrnlmp.pdb", "hal.pdb", ...).
func PDB(name string) ([]byte, error) { return fs.ReadFile(pdbs, "image/"+name) }
