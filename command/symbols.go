package command

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"openkd/engine"
	"openkd/engine/expr"
	"openkd/image/pe"
	"openkd/internal/brief"
	"openkd/symbols"
)

func symbolCommands() []*Command {
	f := "Symbols"
	return []*Command{
		{Names: []string{".sympath"}, Family: f, Line: true, NoTarget: true, Run: cmdSymPath, Summary: "show or set the symbol path; + appends",
			Usage: ".sympath[+] [path[;path...]]", Example: ".sympath srv*/var/symbols*https://msdl.microsoft.com/download/symbols"},
		{Names: []string{".symfix"}, Family: f, Line: true, NoTarget: true, Run: cmdSymFix, Summary: "take symbols from Microsoft's server, by way of a cache; + appends that to the path",
			Usage: ".symfix[+] [cache folder]", Example: ".symfix /var/symbols"},
		{Names: []string{".exepath"}, Family: f, Line: true, NoTarget: true, Run: cmdExePath, Summary: "show or set the path for image files; + appends",
			Usage: ".exepath[+] [path[;path...]]", Example: ".exepath+ /srv/images"},
		{Names: []string{".reload"}, Family: f, Run: cmdReload, Summary: "read the module list anew and forget its symbols: /f loads them at once, /i takes files that do not match, /u unloads, /v says what comes of it",
			Usage: ".reload [/f] [/i] [/v] [/n] [/s] [/w] [/d] [module[=address[,size[,time stamp]]]]\n.reload /u module\n.reload /unl [module]", Example: ".reload /f nt"},
		{Names: []string{"ld"}, Family: f, Run: cmdLoadSymbols, Summary: "load the symbols of a module, or of all",
			Usage: "ld {module|*} [/i] [/f file]", Example: "ld tcpip"},
		{Names: []string{"!sym"}, Family: f, NoTarget: true, Run: cmdSym, Summary: "noisy shows where symbols are looked for and why a file is refused",
			Usage: "!sym [noisy|quiet|prompts|prompts off]", Example: "!sym noisy"},
		{Names: []string{"!lmi"}, Family: f, Run: cmdModuleInfo, Summary: "what is known of a module: its headers, its PDB, what symbols it has and where they were looked for",
			Usage: "!lmi {module|address}", Example: "!lmi nt"},
		{Names: []string{"!dh"}, Family: f, Run: cmdHeaders, Summary: "show the headers of an image: -f the file's only, -s sections only, -e exports too",
			Usage: "!dh [-f] [-s] [-e] [-a] {module|address}", Example: "!dh -f nt"},
	}
}

var errNoSymbolSet = errors.New("this session reads no symbol files")

func (c *Call) symbolSet() (*symbols.Set, error) {
	if set := c.S.Engine.SymbolSet(); set != nil {
		return set, nil
	}
	return nil, errNoSymbolSet
}

// named loads what is needed to show the names of addresses. What does not come,
// because nobody has it or the person does not want to wait, is not shown.
func (c *Call) named(addrs ...uint64) { _, _ = c.S.Engine.LoadSymbols(c.Ctx, addrs...) }

// Banner is what a person reads of the paths when a session begins.
func (s *Session) Banner() string {
	set := s.Engine.SymbolSet()
	if set == nil || s.Quiet {
		return ""
	}
	sp, ip := set.Paths()
	text := ""
	if sp.Empty() && s.Secure() {
		text = "Symbol search path is: *** Invalid ***\nSecure Mode takes symbols from folders and stores of this machine: .sympath <folder>, or srv*<folder>\n"
	} else if sp.Empty() {
		text = "Symbol search path is: *** Invalid ***\n" + noPathBox
	} else {
		text = "Symbol search path is: " + sp.String() + "\n" + problems(sp)
	}
	return text + strings.TrimRight("Executable search path is: "+ip.String(), " ") + "\n" + problems(ip)
}

const noPathBox = `****************************************************************************
* Symbol loading may be unreliable without a symbol search path.           *
* Use .symfix to have the debugger choose a symbol path.                   *
* After setting your symbol path, use .reload to refresh symbol locations. *
****************************************************************************
`

// problems are the elements of a path that will not help, in the shape of the
// path validation summary; "" for none.
func problems(p symbols.Path) string {
	text := ""
	for _, x := range p.Problems() {
		if text == "" {
			text = "\n************* Path validation summary **************\nResponse                         Time (ms)     Location\n"
		}
		text += fmt.Sprintf("%-32s %-13s %s: %v\n", "Error", "", x.Element, x.Err)
	}
	return text
}

// plus takes the + off the arguments of .sympath+ and its kin.
func plus(args string) (rest string, found bool) {
	return strings.CutPrefix(strings.TrimSpace(args), "+")
}

// unquote removes a pair of quotes around a whole argument.
func unquote(t string) string {
	t = strings.TrimSpace(t)
	if len(t) >= 2 && t[0] == '"' && t[len(t)-1] == '"' {
		t = t[1 : len(t)-1]
	}
	return t
}

func cmdSymPath(c *Call) error {
	set, err := c.symbolSet()
	if err != nil {
		return err
	}
	old, images := set.Paths()
	args, more := plus(c.Args)
	if text := unquote(args); text != "" {
		p, err := symbols.ParsePath(text)
		if err != nil && p.Empty() {
			return err
		}
		if err != nil {
			c.Printf("%v\n", err)
		}
		if p, err = c.securePath(set.Finder(), p); err != nil {
			return err
		}
		if more {
			p = old.Append(p)
		}
		set.SetPaths(p, images)
	}
	c.showSymPath(set)
	return nil
}

func (c *Call) showSymPath(set *symbols.Set) {
	p, _ := set.Paths()
	if p.Empty() {
		c.Printf("Symbol search path is: <empty>\n")
		return
	}
	c.Printf("Symbol search path is: %s\n", p)
	c.Printf("Expanded Symbol search path is: %s\n", p.Expanded(set.Finder().Cache()))
	c.Printf("%s", problems(p))
}

func cmdSymFix(c *Call) error {
	set, err := c.symbolSet()
	if err != nil {
		return err
	}
	args, more := plus(c.Args)
	if c.S.Secure() {
		return errors.New("Secure Mode asks no server over HTTP or HTTPS, so .symfix has none to set; .sympath names folders and stores of this machine")
	}
	p, err := symbols.Fix(unquote(args))
	if err != nil {
		return err
	}
	old, images := set.Paths()
	if more {
		p = old.Append(p)
	}
	set.SetPaths(p, images)
	return nil
}

func cmdExePath(c *Call) error {
	set, err := c.symbolSet()
	if err != nil {
		return err
	}
	sp, p := set.Paths()
	args, add := plus(c.Args)
	if text := unquote(args); text != "" {
		more, err := symbols.ParsePath(text)
		if err != nil && more.Empty() {
			return err
		}
		if err != nil {
			c.Printf("%v\n", err)
		}
		if more, err = c.securePath(set.Finder(), more); err != nil {
			return err
		}
		if add {
			more = p.Append(more)
		}
		p = more
		set.SetPaths(sp, p)
	}
	if p.Empty() {
		c.Printf("Executable image search path is: <empty>\n")
		return nil
	}
	c.Printf("Executable image search path is: %s\n", p)
	c.Printf("Expanded Executable image search path is: %s\n%s", p.Expanded(set.Finder().Cache()), problems(p))
	return nil
}

// reload is what .reload was asked for.
type reload struct {
	force, loose, verbose, unload, forget, help bool
	module                                      string
	at                                          *engine.Module // module=address,size,time stamp
}

func (c *Call) reloadOptions() (r reload, err error) {
	args := strings.TrimSpace(c.Args)
	for strings.HasPrefix(args, "/") || strings.HasPrefix(args, "-") {
		w, rest := cutWord(args)
		switch strings.ToLower("/" + w[1:]) {
		case "/f":
			r.force = true
		case "/i":
			r.loose, r.force = true, true
		case "/v":
			r.verbose = true
		case "/u":
			r.unload = true
		case "/d", "/n", "/o", "/s", "/w":
		case "/?":
			r.help = true
			return r, nil
		case "/unl":
			r.forget = true
		case "/l", "/p", "/user":
			return r, c.Fault("Syntax error", w, "%s works on the modules of processes, which a session with a kernel does not list", w)
		default:
			return r, c.Syntax(args)
		}
		args = rest
	}
	args = unquote(args)
	name, def, found := strings.Cut(args, "=")
	r.module = strings.TrimSpace(name)
	if !found {
		return r, nil
	}
	if r.module == "" {
		return r, c.Syntax(args)
	}
	m := engine.Module{ImageName: r.module, Path: r.module}
	for i, f := range strings.Split(def, ",") {
		v, err := c.Eval(f)
		switch {
		case err != nil:
			return r, err
		case i == 0:
			m.Base = c.S.canon(v)
		case i > 2 || v > 1<<32-1:
			return r, c.Fault("Range error", f, "module=address[,size[,time stamp]], the latter two of 32 bits")
		case i == 1:
			m.Size = uint32(v)
		default:
			m.TimeDateStamp = uint32(v)
		}
	}
	r.at = &m
	return r, nil
}

func cmdReload(c *Call) error {
	r, err := c.reloadOptions()
	if err != nil {
		return err
	}
	if r.help {
		c.explain(c.Command)
		return nil
	}
	e, set := c.S.Engine, c.S.Engine.SymbolSet()
	if r.at != nil {
		return c.reloadAt(r)
	}
	if r.forget {
		return c.reloadUnloaded(r)
	}
	if r.unload {
		return c.unloadSymbols(r)
	}
	if r.module == "" {
		if v := e.Version(); v != nil {
			c.Printf("%s\n", engine.ConnectedLine(v, c.S.now()))
		}
	}
	if err := e.Reload(c.Ctx); err != nil {
		return err
	}
	var bases []uint64
	for _, m := range e.KnownModules() {
		if r.module == "" || nameFits(r.module, &m) {
			bases = append(bases, m.Base)
		}
	}
	if r.module != "" && len(bases) == 0 {
		return fmt.Errorf("%q was not found in the image list. Name a module as lm shows it; %s=address[,size] adds one that is not listed", brief.Text(r.module, 60), brief.Text(r.module, 60))
	}
	if set != nil {
		e.SymbolSet().Unload(bases...)
		set.Finder().Forget()
	}
	if r.module == "" {
		c.Printf("Loading Kernel Symbols\n")
	}
	var all, failed []symbols.Status
	switch {
	case set != nil && (r.force || r.module != "" || c.S.eager()):
		err := e.SymbolSet().LoadAll(c.Ctx, bases, symbols.LoadOptions{Force: r.force, Loose: r.loose, NoExports: !r.force}, func(st symbols.Status) {
			all = append(all, st)
		})
		if !r.verbose && r.module == "" {
			c.dots(len(all))
		}
		for _, st := range byBase(all) {
			if r.verbose {
				c.Printf("%s: %s\n", st.Name, st.String())
			}
			if st.Err != nil {
				failed = append(failed, st)
			}
		}
		if err != nil {
			return err
		}
	case r.module == "":
		c.dots(len(bases))
	}
	if r.module == "" {
		c.Printf("Loading User Symbols\n\nLoading unloaded module list\n")
		c.dots(len(e.UnloadedModules()))
	}
	c.symbolErrors(failed)
	return nil
}

// symbolErrors says which modules have no symbol file and why.
func (c *Call) symbolErrors(failed []symbols.Status) {
	if len(failed) == 0 {
		return
	}
	c.Printf("\n************* Symbol Loading Error Summary **************\n%-22s Error\n", "Module name")
	for _, st := range failed {
		c.Printf("%-22s %v\n", st.Name, st.Err)
	}
	c.Printf("\n!lmi <module> lists the places that were looked at; !sym noisy shows them as they are.\n")
}

func nameFits(pattern string, m *engine.Module) bool {
	return expr.Match(pattern, m.Name) || expr.Match(pattern, imageName(m))
}

// reloadAt adds a module that the target does not list.
func (c *Call) reloadAt(r reload) error {
	e := c.S.Engine
	if _, err := e.Modules(c.Ctx); err != nil {
		return err
	}
	for _, m := range e.KnownModules() {
		if m.Contains(r.at.Base) && (m.Base != r.at.Base || !nameFits(r.module, &m)) {
			return fmt.Errorf("%s lies at that address already, from %s to %s", m.Name, c.S.addr(m.Base), c.S.addr(m.End()))
		}
	}
	if r.at.Size == 0 {
		// Its header knows.
		b, err := e.ReadFull(c.Ctx, engine.Virtual, r.at.Base, 0x1000)
		if err == nil {
			var im *pe.Image
			if im, err = pe.Open(strings.NewReader(string(b)), pe.Mapped); err == nil {
				r.at.Size = im.SizeOfImage
			}
		}
		if err != nil {
			return fmt.Errorf("there is no image to be read at %s (%w): give the size too, %s=address,size", c.S.addr(r.at.Base), err, r.module)
		}
	}
	e.AddModule(*r.at)
	if e.SymbolSet() == nil {
		return nil
	}
	err := e.SymbolSet().Load(c.Ctx, r.at.Base, symbols.LoadOptions{Force: true, Loose: r.loose})
	var none *symbols.NoSymbolsError
	if errors.As(err, &none) {
		c.Printf("%v\n", err)
		return nil
	}
	return err
}

func (c *Call) unloadSymbols(r reload) error {
	e := c.S.Engine
	if r.module == "" {
		return c.Syntax("")
	}
	n := 0
	for _, m := range e.KnownModules() {
		if !nameFits(r.module, &m) {
			continue
		}
		n++
		if e.RemoveModule(m.Base) {
			continue
		}
		if set := e.SymbolSet(); set != nil {
			set.Unload(m.Base)
		}
		c.Printf("Unloaded %s\n", m.Name)
	}
	if n == 0 {
		return fmt.Errorf("%q was not found in the image list. Name a module as lm shows it", brief.Text(r.module, 60))
	}
	return nil
}

// reloadUnloaded makes modules of those that were unloaded, so that what still
// points to them has a name.
func (c *Call) reloadUnloaded(r reload) error {
	e := c.S.Engine
	if err := e.Reload(c.Ctx); err != nil {
		return err
	}
	n := 0
	for _, u := range e.UnloadedModules() {
		if r.module != "" && !expr.Match(r.module, u.Name) && !expr.Match(r.module, stem(u.Name)) || u.End <= u.Start || u.End-u.Start > 1<<31 {
			continue
		}
		taken := false
		for _, m := range e.KnownModules() {
			taken = taken || m.Base < u.End && u.Start < m.End()
		}
		if taken {
			c.Printf("%s: another image lies there now\n", u.Name)
			continue
		}
		e.AddModule(engine.Module{ImageName: u.Name, Path: u.Name, Base: u.Start, Size: uint32(u.End - u.Start)})
		n++
	}
	if n == 0 {
		c.Printf("No unloaded modules were added.\n")
	}
	return nil
}

func cmdLoadSymbols(c *Call) error {
	if _, err := c.symbolSet(); err != nil {
		return err
	}
	var o symbols.LoadOptions
	name := ""
	for args := strings.TrimSpace(c.Args); args != ""; {
		var w string
		w, args = cutWord(args)
		switch strings.ToLower(w) {
		case "/f", "-f":
			if o.File = unquote(args); o.File == "" {
				return c.Fault("Syntax error", "", "/f needs a file")
			}
			args = ""
		case "/i", "-i":
			o.Loose = true
		default:
			if name != "" {
				return c.Fault("Extra character error", w, "ld takes one module, or a pattern")
			}
			name = w
		}
	}
	if name == "" {
		return c.Syntax("")
	}
	if _, err := c.S.Engine.Modules(c.Ctx); err != nil {
		return err
	}
	set := c.S.Engine.SymbolSet()
	var bases []uint64
	for _, m := range c.S.Engine.KnownModules() {
		if nameFits(name, &m) {
			bases = append(bases, m.Base)
		}
	}
	switch {
	case len(bases) == 0:
		return fmt.Errorf("no module is called %q. Name one as lm shows it", brief.Text(name, 60))
	case o.File != "" && len(bases) > 1:
		return fmt.Errorf("%q are %d modules, and one file is given", brief.Text(name, 60), len(bases))
	case o.File != "":
		if err := set.Load(c.Ctx, bases[0], o); err != nil {
			return err
		}
		st, _ := set.Status(bases[0])
		c.Printf("Symbols loaded for %s\n", st.Name)
		return nil
	}
	loaded := map[uint64]bool{}
	for _, b := range bases {
		st, _ := set.Status(b)
		loaded[b] = st.State == symbols.PDB || st.State == symbols.InImage
	}
	var all []symbols.Status
	err := set.LoadAll(c.Ctx, bases, o, func(st symbols.Status) { all = append(all, st) })
	for _, st := range byBase(all) {
		switch {
		case loaded[st.Base]:
			c.Printf("Symbols already loaded for %s\n", st.Name)
		case st.State == symbols.None:
			c.Printf("*** ERROR: Module load completed but symbols could not be loaded for %s\n    %v\n", st.Image, st.Err)
		case st.State == symbols.Exports:
			c.Printf("*** ERROR: Symbol file could not be found.  Defaulted to export symbols for %s\n    %v\n", st.Image, st.Err)
		default:
			c.Printf("Symbols loaded for %s\n", st.Name)
		}
	}
	return err
}

// byBase sorts what came in the order in which it was loaded.
func byBase(list []symbols.Status) []symbols.Status {
	slices.SortFunc(list, func(a, b symbols.Status) int { return cmp.Compare(a.Base, b.Base) })
	return list
}

func cmdSym(c *Call) error {
	set, err := c.symbolSet()
	if err != nil {
		return err
	}
	f := set.Finder()
	switch w := strings.ToLower(strings.TrimSpace(c.Args)); w {
	case "":
	case "noisy":
		f.SetNoisy(true)
	case "quiet":
		f.SetNoisy(false)
	case "prompts", "prompts on", "prompts off":
		// Servers that want a name and a password get them from the path.
		c.Printf("Nobody is asked for passwords of symbol servers here: write https://user:password@host into the path.\n")
		return nil
	default:
		return c.Syntax(c.Args)
	}
	if f.Noisy() {
		c.Printf("noisy mode - symbol prompts off\n")
	} else {
		c.Printf("quiet mode - symbol prompts off\n")
	}
	return nil
}

// whichModule is the module that an argument names, or that lies at an address.
func (c *Call) whichModule(arg string) (engine.Module, error) {
	mods, err := c.S.Engine.Modules(c.Ctx)
	if err != nil {
		return engine.Module{}, err
	}
	for _, m := range mods {
		if strings.EqualFold(arg, m.Name) || strings.EqualFold(arg, imageName(&m)) {
			return m, nil
		}
	}
	v, err := c.Eval(arg)
	if err != nil {
		return engine.Module{}, err
	}
	m, ok, err := c.S.Engine.ModuleAt(c.Ctx, v)
	if err == nil && !ok {
		err = fmt.Errorf("no module lies at %s", c.S.addr(c.S.canon(v)))
	}
	return m, err
}

func cmdModuleInfo(c *Call) error {
	arg := strings.TrimSpace(c.Args)
	if arg == "" {
		return c.Syntax("")
	}
	m, err := c.whichModule(arg)
	if err != nil {
		return err
	}
	e := c.S.Engine
	var st symbols.Status
	if set := e.SymbolSet(); set != nil {
		err := set.Load(c.Ctx, m.Base, symbols.LoadOptions{})
		if c.Ctx.Err() != nil {
			return err
		}
		st, _ = e.SymbolSet().Status(m.Base)
	}
	im, err := pe.Open(e.ModuleMemory(c.Ctx, m), pe.Mapped)
	c.Printf("Loaded Module Info: [%s] \n", arg)
	row := func(name, format string, a ...any) { c.Printf("%15s: %s\n", name, fmt.Sprintf(format, a...)) }
	row("Module", "%s", m.Name)
	row("Base Address", "%016x", m.Base)
	row("Image Name", "%s", imageName(&m))
	if err != nil {
		row("Image Type", "%-8s - %v", "MEMORY", fmt.Errorf("the headers cannot be read: %w", err))
	} else {
		row("Machine Type", "%d (%s)", uint16(im.Machine), machineWord(uint16(im.Machine)))
		row("Time Stamp", "%08x %s", im.TimeDateStamp, time.Unix(int64(im.TimeDateStamp), 0).In(c.S.now().Location()).Format(time.ANSIC))
		row("Size", "%x", im.SizeOfImage)
		row("CheckSum", "%x", im.CheckSum)
		row("Characteristics", "%x  ", im.Characteristics)
		c.debugDirectory(im)
		row("Image Type", "%-8s - Image read successfully from loaded memory.", "MEMORY")
	}
	if e.SymbolSet() == nil {
		return nil
	}
	word, what := "NONE", "no symbols were found."
	switch st.State {
	case symbols.PDB:
		word, what = "PDB", "Symbols loaded successfully."
	case symbols.InImage:
		word, what = "DWARF", "Symbols loaded successfully from the image."
		if !st.Private {
			word = "COFF"
		}
	case symbols.Exports:
		word, what = "EXPORT", "PDB not found; only the names that the image exports."
	case symbols.Deferred:
		word, what = "DEFERRED", "Symbols are looked for when they are needed."
	}
	row("Symbol Type", "%-8s - %s", word, what)
	if st.File != "" {
		c.Printf("%17s%s\n", "", st.File)
	}
	if st.Mismatched {
		c.Printf("%17s%s\n", "", "It does not belong to this image; it was taken because /i asked for it.")
	}
	report := "no symbols"
	switch {
	case st.Private:
		report = "private symbols & lines"
	case st.State == symbols.PDB || st.State == symbols.InImage:
		report = "public symbols"
	case st.State == symbols.Exports:
		report = "export symbols"
	}
	row("Load Report", "%s", report)
	if st.ImageFile != "" {
		row("Image File", "%s", st.ImageFile)
	}
	if st.Err != nil {
		row("Error", "%v", st.Err)
	}
	if len(st.Tried) > 0 && st.State != symbols.PDB && st.State != symbols.InImage {
		c.Printf("Looked at:\n")
		for _, t := range st.Tried {
			c.Printf("    %s\n", t)
		}
	}
	return nil
}

// debugTypes are the IMAGE_DEBUG_TYPE_* of the PE format.
var debugTypes = map[uint32]string{
	0: "UNKNOWN", 1: "COFF", 2: "CODEVIEW", 3: "FPO", 4: "MISC", 5: "EXCEPTION", 6: "FIXUP", 7: "OMAP_TO_SRC", 8: "OMAP_FROM_SRC",
	9: "BORLAND", 11: "CLSID", 12: "VC_FEATURE", 13: "POGO", 14: "ILTCG", 16: "REPRO", 20: "EX_DLLCHAR",
}

func (c *Call) debugDirectory(im *pe.Image) {
	list, err := im.Debug()
	if err != nil {
		c.Printf("Debug Data Dirs: %v\n", err)
		return
	}
	if len(list) == 0 {
		c.Printf("Debug Data Dirs: none\n")
		return
	}
	c.Printf("Debug Data Dirs: %-12s %6s %8s %8s\n", "Type", "Size", "VA", "Pointer")
	for _, d := range list {
		name := debugTypes[d.Type]
		if name == "" {
			name = fmt.Sprint(d.Type)
		}
		text := ""
		switch {
		case d.RVA == 0:
			text = "[Debug data not mapped]"
		case d.Type == 2:
			if cv, err := im.CodeView(); err != nil {
				text = fmt.Sprintf("[%v]", err)
			} else if cv != nil {
				text = fmt.Sprintf("RSDS - GUID: {%s}\n%34sAge: %x, Pdb: %s", cv.GUID, "", cv.Age, cv.PDB)
			}
		}
		c.Printf("%29s %6x, %7x, %7x %s\n", name, d.Size, d.RVA, d.Offset, text)
	}
}

func machineWord(m uint16) string {
	switch m {
	case 0x14c:
		return "I386"
	case 0x8664:
		return "X64"
	case 0xaa64:
		return "ARM64"
	case 0x1c4:
		return "ARM"
	}
	return "unknown"
}

func cmdHeaders(c *Call) error {
	var files, sections, exports bool
	args := strings.TrimSpace(c.Args)
	for strings.HasPrefix(args, "-") || strings.HasPrefix(args, "/") {
		var w string
		w, args = cutWord(args)
		for _, l := range w[1:] {
			switch l {
			case 'f':
				files = true
			case 's':
				sections = true
			case 'e':
				files, sections, exports = true, true, true
			case 'a':
				files, sections = true, true
			default:
				return c.Syntax(w)
			}
		}
	}
	if !files && !sections {
		files, sections = true, true
	}
	if args == "" {
		return c.Syntax("")
	}
	m, err := c.whichModule(args)
	if err != nil {
		// Any image will do, listed or not.
		v, e2 := c.Eval(args)
		if e2 != nil {
			return err
		}
		m = engine.Module{Name: args, Base: c.S.canon(v), Size: 1 << 31}
	}
	im, err := pe.Open(c.S.Engine.ModuleMemory(c.Ctx, m), pe.Mapped)
	if err != nil {
		return fmt.Errorf("the image at %s: %w", c.S.addr(m.Base), err)
	}
	if files {
		c.fileHeader(im)
	}
	if sections {
		c.sectionHeaders(im)
	}
	if exports {
		return c.exportTable(im)
	}
	return nil
}

var dirNames = [16]string{"Export Directory", "Import Directory", "Resource Directory", "Exception Directory", "Security Directory", "Base Relocation Directory", "Debug Directory",
	"Description Directory", "Special Directory", "Thread Storage Directory", "Load Configuration Directory", "Bound Import Directory", "Import Address Table Directory",
	"Delay Import Directory", "COR20 Header Directory", "Reserved Directory"}

func (c *Call) fileHeader(im *pe.Image) {
	kind := "EXECUTABLE IMAGE"
	if im.Characteristics&0x2000 != 0 {
		kind = "DLL"
	}
	c.Printf("\nFile Type: %s\nFILE HEADER VALUES\n", kind)
	num := func(v any, text string) { c.Printf("%8X %s\n", v, text) }
	num(uint16(im.Machine), fmt.Sprintf("machine (%s)", machineWord(uint16(im.Machine))))
	num(len(im.Sections), "number of sections")
	num(im.TimeDateStamp, "time date stamp "+time.Unix(int64(im.TimeDateStamp), 0).In(c.S.now().Location()).Format(time.ANSIC))
	num(im.Characteristics, "characteristics")
	c.flags(uint32(im.Characteristics), []flagWord{{1, "Relocations stripped"}, {2, "Executable"}, {4, "Line numbers stripped"}, {8, "Symbols stripped"}, {0x20, "App can handle >2gb addresses"}, {0x100, "32 bit word machine"}, {0x200, "Debug information stripped"}, {0x1000, "System"}, {0x2000, "DLL"}})
	magic := 0x10B
	if im.PE32Plus {
		magic = 0x20B
	}
	c.Printf("\nOPTIONAL HEADER VALUES\n")
	num(magic, "magic #")
	num(im.EntryPoint, "address of entry point")
	c.Printf("         ----- new -----\n")
	c.Printf("%s image base\n", strings.ReplaceAll(c.S.addr(im.ImageBase), "`", ""))
	num(im.SectionAlignment, "section alignment")
	num(im.FileAlignment, "file alignment")
	num(im.Subsystem, "subsystem ("+subsystem(im.Subsystem)+")")
	num(im.SizeOfImage, "size of image")
	num(im.SizeOfHeaders, "size of headers")
	num(im.CheckSum, "checksum")
	num(im.DllCharacteristics, "DLL characteristics")
	c.flags(uint32(im.DllCharacteristics), []flagWord{{0x20, "High entropy VA supported"}, {0x40, "Dynamic base"}, {0x80, "Force integrity"}, {0x100, "NX compatible"}, {0x400, "No structured exception handler"}, {0x2000, "WDM driver"}, {0x4000, "Guard"}, {0x8000, "Terminal server aware"}})
	for i, d := range im.Dirs {
		c.Printf("%8X [%8X] address [size] of %s\n", d.VirtualAddress, d.Size, dirNames[i])
	}
	c.Printf("\n")
}

type flagWord struct {
	bit  uint32
	word string
}

func (c *Call) flags(v uint32, list []flagWord) {
	for _, f := range list {
		if v&f.bit != 0 {
			c.Printf("            %s\n", f.word)
		}
	}
}

func subsystem(n uint16) string {
	switch n {
	case 1:
		return "Native"
	case 2:
		return "Windows GUI"
	case 3:
		return "Windows CUI"
	case 10:
		return "EFI Application"
	}
	return "unknown"
}

func (c *Call) sectionHeaders(im *pe.Image) {
	for i, s := range im.Sections {
		c.Printf("\nSECTION HEADER #%X\n%8s name\n%8X virtual size\n%8X virtual address\n%8X size of raw data\n%8X file pointer to raw data\n%8X flags\n",
			i+1, s.Name, s.VirtualSize, s.VirtualAddress, s.Size, s.Offset, s.Characteristics)
		c.flags(s.Characteristics, []flagWord{{0x20, "Code"}, {0x40, "Initialized Data"}, {0x80, "Uninitialized Data"}, {0x02000000, "Discardable"}, {0x04000000, "Not Cached"}, {0x08000000, "Not Paged"}, {0x20000000, "Execute"}, {0x40000000, "Read Only"}, {0x80000000, "Read Write"}})
	}
}

func (c *Call) exportTable(im *pe.Image) error {
	x, err := im.Exports()
	if err != nil || x == nil {
		if err == nil {
			c.Printf("\nThe image exports nothing.\n")
		}
		return err
	}
	list, err := x.All()
	c.Printf("\n%8X ordinal base\n%8X number of functions\n%8X number of names\n\n     ordinal      rva name\n", x.Base, x.NumFunctions, x.NumNames)
	for i, e := range list {
		if i&0xff == 0 && c.Ctx.Err() != nil {
			return c.Ctx.Err()
		}
		if e.Forwarder != "" {
			c.Printf("    %8X          %s (forwarded to %s)\n", e.Ordinal, e.Name, e.Forwarder)
		} else {
			c.Printf("    %8X %8X %s\n", e.Ordinal, e.RVA, e.Name)
		}
	}
	return err
}

// Downloads shows how far downloads are, on one line. Its Progress is for
// symbols.Options, which says who calls it.
type Downloads struct {
	show func(string)
	all  []symbols.Progress
}

// NewDownloads shows them with a function that takes "" to remove the line.
func NewDownloads(show func(string)) *Downloads { return &Downloads{show: show} }

// Progress takes how far one of them is.
func (d *Downloads) Progress(p symbols.Progress) {
	i := slices.IndexFunc(d.all, func(o symbols.Progress) bool { return o.Name == p.Name && o.Server == p.Server })
	switch {
	case p.Finished && i >= 0:
		d.all = slices.Delete(d.all, i, i+1)
	case p.Finished:
	case i >= 0:
		d.all[i] = p
	default:
		d.all = append(d.all, p)
	}
	if len(d.all) == 0 {
		d.show("")
		return
	}
	var done, total int64
	known := true
	for _, o := range d.all {
		done, total, known = done+o.Done, total+o.Total, known && o.Total > 0
	}
	what := filepath.Base(d.all[0].Name)
	if n := len(d.all) - 1; n > 0 {
		what += fmt.Sprintf(" and %d more", n)
	}
	what += " from " + d.all[0].Server
	if known {
		d.show(fmt.Sprintf("%s %s %3d%% of %.1f MB", what, bar(done, total), done*100/total, float64(total)/1e6))
	} else {
		d.show(fmt.Sprintf("%s %.1f MB", what, float64(done)/1e6))
	}
}

func bar(done, total int64) string {
	const width = 20
	n := int(min(done, total) * width / total)
	return "[" + strings.Repeat("#", n) + strings.Repeat(".", width-n) + "]"
}
