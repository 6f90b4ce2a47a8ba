// Command ask opens a symbol file, answers one question and ends. The benchmark
// of package sym measures it as a process.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"openkd/image/dwarf"
	"openkd/image/pdb"
	"openkd/image/sym"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: ask QUESTION FILE ARGUMENT")
		os.Exit(2)
	}
	w := bufio.NewWriter(os.Stdout)
	err := ask(w, os.Args[1], os.Args[2], os.Args[3])
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func ask(w *bufio.Writer, question, path, arg string) error {
	if question == "nothing" {
		return nil
	}
	var f sym.File
	var err error
	if strings.HasSuffix(path, ".pdb") {
		f, err = pdb.Open(path)
	} else {
		f, err = dwarf.Open(path)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	some := false
	switch question {
	case "name":
		list, err := f.ByName(arg)
		if err != nil {
			return err
		}
		for _, s := range list {
			some = true
			fmt.Fprintf(w, "%x %s %d\n", s.RVA, s.Name, s.Size)
		}
	case "line":
		rva, err := strconv.ParseUint(arg, 16, 32)
		if err != nil {
			return err
		}
		s, ok, err := f.ByRVA(uint32(rva))
		if err != nil {
			return err
		}
		l, some1, err := f.Line(uint32(rva))
		if err != nil {
			return err
		}
		some = ok && some1
		fmt.Fprintf(w, "%s+%x %s:%d\n", s.Name, uint32(rva)-s.RVA, l.File, l.Line)
	case "type":
		id, err := f.TypeByName(arg)
		if err != nil {
			return err
		}
		members, err := f.Members(id)
		if err != nil {
			return err
		}
		for _, m := range members {
			t, err := f.Type(m.Type)
			if err != nil {
				return err
			}
			if t.Kind == sym.Pointer && t.Elem != 0 {
				if t, err = f.Type(t.Elem); err != nil {
					return err
				}
			}
			some = true
			fmt.Fprintf(w, "+%x %s %s\n", m.Offset, m.Name, t.Name)
		}
	case "all":
		for s, err := range f.Symbols(func(string) bool { return true }) {
			if err != nil {
				return err
			}
			some = true
			fmt.Fprintf(w, "%x %s\n", s.RVA, s.Name)
		}
	default:
		return fmt.Errorf("no question %q", question)
	}
	if !some {
		return fmt.Errorf("%s %s: nothing", question, arg)
	}
	return nil
}
