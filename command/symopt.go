package command

import (
	"strings"
)

func symoptCommand() *Command {
	return &Command{Names: []string{".symopt"}, Family: "Symbols", NoTarget: true, Run: cmdSymbolOptions,
		Summary: "show or change the options of symbols: 4 load them when they are needed, 10 show lines of source, 40 take files that do not match, 40000 Secure Mode, 80000000 noisy; the others are noted and change nothing here",
		Usage:   ".symopt[+|-] [flags]", Example: ".symopt+ 10"}
}

// symbolOptions are the flags of .symopt, with the names that DbgHelp documents
// (SymSetOptions).
var symbolOptions = []struct {
	flag uint32
	name string
}{
	{0x1, "CASE_INSENSITIVE"}, {0x2, "UNDNAME"}, {optionDeferred, "DEFERRED_LOADS"}, {0x8, "NO_CPP"}, {optionLines, "LOAD_LINES"}, {0x20, "OMAP_FIND_NEAREST"},
	{optionAnything, "LOAD_ANYTHING"}, {0x80, "IGNORE_CVREC"}, {0x100, "NO_UNQUALIFIED_LOADS"}, {0x200, "FAIL_CRITICAL_ERRORS"}, {0x400, "EXACT_SYMBOLS"},
	{0x800, "ALLOW_ABSOLUTE_SYMBOLS"}, {0x1000, "IGNORE_NT_SYMPATH"}, {0x2000, "INCLUDE_32BIT_MODULES"}, {0x4000, "PUBLICS_ONLY"}, {0x8000, "NO_PUBLICS"},
	{0x10000, "AUTO_PUBLICS"}, {0x20000, "NO_IMAGE_SEARCH"}, {optionSecure, "SECURE"}, {0x80000, "NO_PROMPTS"},
	{0x100000, "OVERWRITE"}, {0x200000, "IGNORE_IMAGEDIR"}, {0x400000, "FLAT_DIRECTORY"}, {0x800000, "FAVOR_COMPRESSED"},
	{0x1000000, "ALLOW_ZERO_ADDRESS"}, {0x2000000, "DISABLE_SYMSRV_AUTODETECT"}, {0x4000000, "READONLY_CACHE"}, {0x8000000, "SYMPATH_LAST"},
	{0x10000000, "DISABLE_FAST_SYMBOLS"}, {0x20000000, "DISABLE_SYMSRV_TIMEOUT"}, {0x40000000, "DISABLE_SRVSTAR_ON_STARTUP"}, {optionDebug, "DEBUG"},
}

const (
	defaultSymbolOptions = 0xB0227

	optionDeferred = 0x4
	optionLines    = 0x10
	optionAnything = 0x40
	optionSecure   = 0x40000
	optionDebug    = 0x80000000

	// optionsHere change something in this debugger.
	optionsHere = optionDeferred | optionLines | optionAnything | optionSecure | optionDebug
)

func cmdSymbolOptions(c *Call) error {
	args := strings.TrimSpace(c.Args)
	sign := byte(0)
	if args != "" && (args[0] == '+' || args[0] == '-') {
		sign, args = args[0], strings.TrimSpace(args[1:])
	}
	if args == "" && sign != 0 {
		return c.Syntax("")
	}
	if args != "" {
		v, err := c.Eval(args)
		if err != nil {
			return err
		}
		if high := v >> 32; high != 0 && (high != 1<<32-1 || v&optionDebug == 0) { // a constant from 80000000 on comes sign-extended
			return c.Fault("Range error", args, "the options are flags of 32 bits")
		}
		old := c.S.symbolFlags()
		now := uint32(v)
		switch sign {
		case '+':
			now |= old
		case '-':
			now = old &^ now
		}
		if err := c.setSymbolFlags(old, now); err != nil {
			return err
		}
	}
	now := c.S.symbolFlags()
	c.Printf("Symbol options are 0x%X:\n", now)
	for _, o := range symbolOptions {
		if now&o.flag != 0 {
			c.Printf("  0x%08x - SYMOPT_%s\n", o.flag, o.name)
		}
	}
	return nil
}

// SetSymbolOptions sets the options of symbols as .symopt has them (-sflags).
// Lines of source, noise and Secure Mode stay on if they are. It must be called
// before commands run and when symbols and paths have been set; what it returns is
// that of SetSecure.
func (s *Session) SetSymbolOptions(flags uint32) []string {
	s.useSymbolFlags(flags | s.symbolFlags()&(optionLines|optionDebug|optionSecure))
	if flags&optionSecure == 0 {
		return nil
	}
	return s.SetSecure()
}

// useSymbolFlags sets what does not concern Secure Mode.
func (s *Session) useSymbolFlags(now uint32) {
	s.source.lines = now&optionLines != 0
	if s.Engine != nil {
		if set := s.Engine.SymbolSet(); set != nil {
			set.Finder().SetNoisy(now&optionDebug != 0)
			set.SetLoose(now&optionAnything != 0)
		}
	}
	s.source.flags = (now ^ defaultSymbolOptions) &^ (optionLines | optionDebug | optionSecure)
}

func (c *Call) setSymbolFlags(old, now uint32) error {
	switch {
	case old&^now&optionSecure != 0:
		return errSecureStays
	case now&^old&optionSecure != 0:
		if err := c.turnSecure(); err != nil {
			return err
		}
	}
	c.S.useSymbolFlags(now)
	for _, o := range symbolOptions {
		if (now^old)&^optionsHere&o.flag != 0 {
			c.Printf("SYMOPT_%s is noted, and changes nothing in this debugger.\n", o.name)
		}
	}
	return nil
}

// symbolFlags are the options of symbols as .symopt has them.
func (s *Session) symbolFlags() uint32 {
	v := uint32(defaultSymbolOptions) ^ s.source.flags
	if s.source.lines {
		v |= optionLines
	}
	if s.Secure() {
		v |= optionSecure
	}
	if s.Engine != nil {
		if set := s.Engine.SymbolSet(); set != nil && set.Finder().Noisy() {
			v |= optionDebug
		}
	}
	return v
}

// eager says that symbols are to be loaded with their modules.
func (s *Session) eager() bool { return s.symbolFlags()&optionDeferred == 0 }
