package main

import (
	"fmt"
	"strings"

	"openkd/command"
	"openkd/engine"
	"openkd/symbols"
)

// symbolFiles is where a session's symbols come from: paths as -y, -i and the
// environment say, downloads into a cache of this machine.
type symbolFiles struct {
	finder  *symbols.Finder
	symbols symbols.Path
	images  symbols.Path
	sources string
	lines   bool
	s       *command.Session // shows what happens; set before the session runs
}

// newSymbolFiles reads paths. What cannot be used in them is told and left out.
func newSymbolFiles(f *flags, getenv func(string) string, tell func(string)) (*symbolFiles, error) {
	env := symbols.FromEnvironment(getenv)
	sf := &symbolFiles{sources: strings.Trim(f.sources+";"+getenv("_NT_SOURCE_PATH"), ";"), lines: f.lines}
	parse := func(from, text string) symbols.Path {
		p, err := symbols.ParsePath(text)
		if err != nil {
			tell(fmt.Sprintf("%s: %s", from, strings.ReplaceAll(err.Error(), "\n", "\n    ")))
		}
		return p
	}
	sf.symbols = parse("-y", f.symbols).Append(parse("_NT_SYMBOL_PATH", env.Symbols))
	sf.images = parse("-i", f.images).Append(parse("_NT_EXECUTABLE_IMAGE_PATH", env.Images))
	var err error
	sf.finder, err = symbols.NewFinder(symbols.Options{
		Cache: env.Cache, Proxy: env.Proxy,
		Log:    func(line string) { sf.s.Print(line + "\n") },
		Notice: func(text string) { sf.s.Print(text + "\n") },
		Progress: command.NewDownloads(func(text string) {
			if sf.s.Progress != nil {
				sf.s.Progress(text)
			}
		}).Progress,
	})
	if err != nil {
		return nil, fmt.Errorf("symbols: %w", err)
	}
	sf.finder.SetNoisy(f.noisy)
	return sf, nil
}

// use gives an engine its symbols. The Set is closed by the caller.
func (sf *symbolFiles) use(e *engine.Engine, s *command.Session) *symbols.Set {
	sf.s = s
	s.SetSources(sf.sources, sf.lines)
	set := e.UseSymbols(sf.finder)
	set.SetPaths(sf.symbols, sf.images)
	return set
}
