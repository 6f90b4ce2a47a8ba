package extension

import (
	"fmt"
	"strings"
)

// Reference is the page about the API, made from its table.
func Reference() string {
	var b strings.Builder
	b.WriteString(`# The functions of extensions

This page is made from the table in package extension: ` + "`go test ./extension -run Reference -update`" + `. API version ` + Version + `.

`)
	b.WriteString(guide)
	b.WriteString(limitsText())
	group := ""
	for _, f := range Functions() {
		if f.Group != group {
			group = f.Group
			fmt.Fprintf(&b, "## %s\n\n", group)
		}
		fmt.Fprintf(&b, "### %s\n\n%s", f.Signature(), f.Summary)
		if f.Scripts {
			b.WriteString(" *Scripts only.*")
		}
		if !f.NoTarget {
			b.WriteString(" *The target must stand.*")
		}
		b.WriteString("\n\n")
		for _, p := range f.Params {
			fmt.Fprintf(&b, "- `%s`, %s: %s", p.Name, p.Kind, p.Doc)
			if p.Min != 0 || p.Max != 0 {
				fmt.Fprintf(&b, " (%d to %d)", p.Min, p.Max)
			}
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "- returns %s\n\n    %s\n\n", f.Returns, f.Example)
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

func limitsText() string {
	l, c := DefaultLimits(), CallbackLimits()
	return fmt.Sprintf(`## Limits

A command may work for %v itself (waiting for the target is not counted) in %d million steps, let the debugger's memory grow
by %d MiB, write %d MiB and nest %d calls. A callback has %v, %d million steps and %d KiB of output. A string has at most
%d MiB, bytes %d MiB, a list or dict %d elements, a number %d bits. A script that meets a limit ends with one line that says
where it was; CTRL+C ends it at once; the session goes on in both cases.

Scripts have no files and no network. `+"`load(\"other.star\", \"f\")`"+` takes names from a file of the script's own folder or one
below it, or of a folder of `+"`.extpath`"+`.

In Secure Mode (`+"`kd -secure`"+`) a script is loaded if it lies on a disk of this machine, its name ends in .star, and it is in a
folder of the extension path, or below one, or was named by `+"`-a`"+` at the start. The current folder does not count, and
`+"`.extpath`"+` changes nothing. What was loaded before and would not be now is unloaded. Commands that Secure Mode removes are
not there for `+"`run()`"+` either.

`, l.Time, l.Steps>>20, l.Memory>>20, l.Output>>20, l.Depth, c.Time, c.Steps>>20, c.Output>>10, maxText>>20, maxBytes>>20, maxElements, maxBits)
}

const guide = `## A script

An extension is a file of [Starlark](https://github.com/bazelbuild/starlark/blob/master/spec.md), a small Python, whose name
ends in .star:

    def ps(args):
        """Lists processes whose names contain a text.

        !ps [text]"""
        for p in list_entries("nt!PsActiveProcessHead", "nt!_EPROCESS", "ActiveProcessLinks"):
            if args.lower() in p.ImageFileName.lower():
                printf("%p  %5d  %s\n", p, p.UniqueProcessId, p.ImageFileName)

    command(ps)

` + "`.load ps`" + ` loads ps.star from the current folder, from those of .extpath or of _NT_DEBUGGER_EXTENSION_PATH; then
` + "`!ps sys`" + ` runs it, ` + "`!ps.ps sys`" + ` too if another extension has a command of that name, and ` + "`!ps.help`" + ` shows what stands in
its documentation string. ` + "`.load ps`" + ` again loads a file that has changed. ` + "`kd -aps`" + ` loads it at the start.

- while, recursion, sets and if and for outside of functions are allowed. Variables of the script stay as long as it is
  loaded; functions change them through what they hold (` + "`counts = {}`" + `, then ` + "`counts[name] = 1`" + `). The dict ` + "`state`" + ` stays for
  the session, also when the script is loaded anew.
- Wherever an address is wanted, text is an expression of the command language: ` + "`\"nt!PsActiveProcessHead\"`, `\"poi(@rsp)+8\"`" + `.
- ` + "`read_many`, `list_entries`, `typed(..., count)`, `u64(..., count)` and `unicode_strings`" + ` take one exchange with the target
  however much they bring. A loop that reads piece by piece takes one for each, which is slow when the target is far.
- Functions that scripts and programs share are called by programs with ` + "`{\"call\": ...}`" + `, see console/JSON.md.

`
