package command

import (
	"fmt"
	"strings"
)

// absent says of a command that WinDbg has and this debugger has not yet what
// it would need, so that nobody looks for a misspelling.
func absent(word string) string {
	const types = "type information"
	needs := ""
	switch w := strings.ToLower(word); w {
	case ".open", ".srcfix", ".srcnoisy":
		return fmt.Sprintf("%s is not there yet: sources are files on this machine, and commands show them (lsf, lsa)", word)
	case "dg", ".tss", ".process", ".context", "#", "a":
		needs = types
		if w == "dg" || w == "#" || w == "a" || w == ".context" {
			needs = "code of its own"
		}
	case ".attach", ".create", ".detach", ".abandon", ".kill", ".tlist", ".wake", ".send_file":
		return fmt.Sprintf("%s is for debuggers of user-mode processes; this one debugs a kernel", word)
	case ".dump", ".opendump":
		return fmt.Sprintf("%s is not there yet: dump files are neither read nor written", word)
	case ".kdfiles", ".pagein", ".asm", ".effmach", ".pcmd", ".outmask", ".push", ".pop":
		return fmt.Sprintf("%s is a command of WinDbg that is not there yet", word)
	}
	if needs == "" {
		return ""
	}
	return fmt.Sprintf("%s is a command of WinDbg that is not there yet: it needs %s", word, needs)
}
