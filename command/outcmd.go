package command

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"

	"openkd/internal/brief"
)

func outputCommands() []*Command {
	f := "Output and state"
	return []*Command{
		{Names: []string{".echo"}, Family: f, NoTarget: true, Run: cmdEcho, Summary: "show a text", Usage: ".echo text\n.echo \"text; with semicolons\"", Example: ".echo here we are"},
		{Names: []string{".printf"}, Family: f, NoTarget: true, Run: cmdPrintf, Summary: "show a formatted text: %p %N %x %d %u %c %I64x, strings %ma %mu %msa %msu, symbols %y %ly", Usage: ".printf \"format\", value, ...", Example: `.printf "%p %y\n", @$ip, @$ip`},
		{Names: []string{".sleep"}, Family: f, NoTarget: true, Run: cmdSleep, Summary: "wait for some milliseconds; CTRL+C ends it", Usage: ".sleep milliseconds", Example: ".sleep 0n500"},
		{Names: []string{".cls"}, Family: f, NoTarget: true, Run: cmdCls, Summary: "clear the screen", Usage: ".cls", Example: ".cls"},
		{Names: []string{".logopen"}, Family: f, NoTarget: true, Run: cmdLogOpen, Summary: "write everything into a new log file", Usage: ".logopen [/t] [/u] [file]", Example: ".logopen /t session.log"},
		{Names: []string{".logappend"}, Family: f, NoTarget: true, Run: cmdLogOpen, Summary: "write everything to the end of a log file", Usage: ".logappend [/t] [/u] [file]", Example: ".logappend session.log"},
		{Names: []string{".logclose"}, Family: f, NoTarget: true, Run: cmdLogClose, Summary: "close the log file", Usage: ".logclose", Example: ".logclose"},
		{Names: []string{".logfile"}, Family: f, NoTarget: true, Run: cmdLogFile, Summary: "tell where the log goes", Usage: ".logfile", Example: ".logfile"},
	}
}

func cmdEcho(c *Call) error {
	t := c.Args
	if q, rest, ok := cutString(t); ok && rest == "" {
		t = q
	}
	c.Printf("%s\n", t)
	return nil
}

func cmdSleep(c *Call) error {
	n, err := c.Eval(c.Args)
	if err != nil {
		return err
	}
	if n > 24*3600*1000 {
		return c.Fault("Range error", c.Args, "a sleep lasts at most a day: %d ms", 24*3600*1000)
	}
	t := time.NewTimer(time.Duration(n) * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-c.Ctx.Done():
		return c.Ctx.Err()
	}
}

func cmdCls(c *Call) error {
	if err := c.End(c.Args); err != nil {
		return err
	}
	if c.S.Clear != nil {
		c.S.Clear()
	}
	return nil
}

// maxStringText bounds strings that are read to be shown, in bytes.
const maxStringText = 16 << 10

// cmdPrintf shows values by a format. Integers are taken from the low 32 bits
// unless I64 stands in the conversion, as in WinDbg.
func cmdPrintf(c *Call) error {
	args := c.Args
	c.option(&args, "/D") // markup is not shown here
	format, rest, ok, err := c.rawString(args)
	if err != nil {
		return err
	}
	if !ok {
		return c.Fault("Syntax error", args, "the format is a text in double quotes: .printf \"%%p\\n\", @$ip")
	}
	var b strings.Builder
	next := func(conv string) (uint64, error) {
		rest = strings.TrimLeft(rest, " \t")
		if !strings.HasPrefix(rest, ",") {
			return 0, c.Fault("Syntax error", rest, "the format has more conversions than there are values (%s has none)", conv)
		}
		v, r, err := c.EvalPrefix(rest[1:])
		if err != nil {
			return 0, err
		}
		rest = r
		return v, nil
	}
	for i := 0; i < len(format); {
		switch ch := format[i]; {
		case ch == '\\' && i+1 < len(format):
			n, text := escape(format[i:])
			b.WriteString(text)
			i += n
		case ch == '%' && i+1 < len(format):
			n, err := c.convert(&b, format[i:], next)
			if err != nil {
				return err
			}
			i += n
		default:
			b.WriteByte(ch)
			i++
		}
	}
	if t := strings.TrimLeft(rest, " \t,"); t != "" {
		return c.Fault("Extra character error", t, "the format has no conversion for this value")
	}
	c.Printf("%s", b.String())
	return nil
}

// option takes an option word off the front of args.
func (c *Call) option(args *string, name string) bool {
	w, rest := cutWord(*args)
	if strings.EqualFold(w, name) {
		*args = rest
		return true
	}
	return false
}

// rawString is CutString without the escapes resolved.
func (c *Call) rawString(args string) (text, rest string, ok bool, err error) {
	if args == "" || args[0] != '"' {
		return "", args, false, nil
	}
	end := quoteEnd(args, 0)
	if end == 0 {
		return "", args, false, c.Fault("Syntax error", args, "the closing quote is missing")
	}
	return args[1 : end-1], args[end:], true, nil
}

// escape resolves the escape that t begins with.
func escape(t string) (int, string) {
	switch t[1] {
	case 'n':
		return 2, "\n"
	case 't':
		return 2, "\t"
	case 'r':
		return 2, "\r"
	case 'a':
		return 2, "\a"
	case 'b':
		return 2, "\b"
	case '"', '\\', '\'':
		return 2, t[1:2]
	case 'x':
		n := 2
		for n < len(t) && n < 4 && strings.IndexByte("0123456789abcdefABCDEF", t[n]) >= 0 {
			n++
		}
		if v, err := strconv.ParseUint(t[2:n], 16, 8); err == nil {
			return n, string([]byte{byte(v)})
		}
	}
	return 1, `\`
}

// convert writes the conversion that t begins with and returns its length.
func (c *Call) convert(b *strings.Builder, t string, next func(string) (uint64, error)) (int, error) {
	i := 1
	for i < len(t) && strings.IndexByte("-+ #0", t[i]) >= 0 {
		i++
	}
	flags := t[1:i]
	number := func() int {
		n := 0
		for i < len(t) && isDigit(t[i]) {
			n = min(n*10+int(t[i]-'0'), 1000)
			i++
		}
		return n
	}
	width, prec := number(), -1
	if i < len(t) && t[i] == '.' {
		i++
		prec = number()
	}
	size := 32
	from := i
	for _, l := range []struct {
		text string
		bits int
	}{{"I64", 64}, {"I32", 32}, {"ll", 64}, {"hh", 8}, {"I", 64}, {"h", 16}} {
		if strings.HasPrefix(t[i:], l.text) {
			size = l.bits
			i += len(l.text)
			break
		}
	}
	if i == from && strings.HasPrefix(t[i:], "l") && !strings.HasPrefix(t[i:], "ly") {
		i++
	}
	conv := ""
	for _, k := range []string{"msa", "msu", "ma", "mu", "ly"} {
		if strings.HasPrefix(t[i:], k) {
			conv = k
		}
	}
	if conv == "" && i < len(t) {
		conv = t[i : i+1]
	}
	i += len(conv)
	whole := t[:i]
	if conv == "%" {
		b.WriteByte('%')
		return i, nil
	}
	if conv == "" || !strings.Contains("msa msu ma mu ly d i u x X o p N c C s S y e E f g G", conv) || conv == " " || conv == "m" {
		return 0, c.Fault("Syntax error", t, "%s is no conversion of .printf", brief.Text(whole, 20))
	}
	v, err := next(whole)
	if err != nil {
		return 0, err
	}
	pad := func(s string) {
		if prec >= 0 && prec < len(s) && strings.Contains("msu ma s S y", conv) {
			s = s[:prec]
		}
		if n := width - len([]rune(s)); n > 0 {
			if strings.Contains(flags, "-") {
				s += strings.Repeat(" ", n)
			} else {
				s = strings.Repeat(" ", n) + s
			}
		}
		b.WriteString(s)
	}
	mask := uint64(1)<<size - 1
	if size == 64 {
		mask = ^uint64(0)
	}
	digits := func(s string) string {
		if prec > len(s) {
			s = strings.Repeat("0", prec-len(s)) + s
		}
		return s
	}
	sign := func(neg bool, s string) string {
		lead := ""
		switch {
		case neg:
			lead = "-"
		case strings.Contains(flags, "+") && (conv == "d" || conv == "i"):
			lead = "+"
		case strings.Contains(flags, " ") && (conv == "d" || conv == "i"):
			lead = " "
		case strings.Contains(flags, "#") && conv == "x" && v&mask != 0:
			lead = "0x"
		case strings.Contains(flags, "#") && conv == "X" && v&mask != 0:
			lead = "0X"
		case strings.Contains(flags, "#") && conv == "o":
			lead = "0"
		}
		if strings.Contains(flags, "0") && !strings.Contains(flags, "-") && prec < 0 {
			if n := width - len(lead) - len(s); n > 0 {
				s = strings.Repeat("0", n) + s
			}
		}
		return lead + s
	}
	switch conv {
	case "d", "i":
		n := int64(v<<(64-size)) >> (64 - size)
		u := uint64(n)
		if n < 0 {
			u = -u
		}
		pad(sign(n < 0, digits(strconv.FormatUint(u, 10))))
	case "u":
		pad(sign(false, digits(strconv.FormatUint(v&mask, 10))))
	case "x":
		pad(sign(false, digits(strconv.FormatUint(v&mask, 16))))
	case "X":
		pad(sign(false, digits(strings.ToUpper(strconv.FormatUint(v&mask, 16)))))
	case "o":
		pad(sign(false, digits(strconv.FormatUint(v&mask, 8))))
	case "p", "N":
		n := 2 * c.S.pointerSize()
		if n == 8 {
			v &= 0xffffffff
		}
		pad(fmt.Sprintf("%0*x", n, v))
	case "c", "C":
		pad(string(rune(v & 0xffff)))
	case "s", "ma", "S", "mu":
		s, err := c.S.readString(c.Ctx, v, conv == "S" || conv == "mu", maxStringText)
		if err != nil {
			return 0, err
		}
		pad(s)
	case "msa", "msu":
		s, err := c.S.readCounted(c.Ctx, v, conv == "msu")
		if err != nil {
			return 0, err
		}
		pad(s)
	case "y", "ly":
		s := c.S.addr(v)
		if n := c.S.symbol(v); n != "" {
			s = n + " (" + s + ")"
		}
		pad(s)
	case "e", "E", "f", "g", "G":
		if prec < 0 {
			prec = 6
		}
		pad(strconv.FormatFloat(math.Float64frombits(v), conv[0], prec, 64))
	}
	return i, nil
}

// wide turns little-endian 16-bit characters into text.
func wide(b []byte) string {
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(u))
}

// narrow turns 8-bit characters into text; what is not ASCII becomes Latin-1,
// so that nothing is lost.
func narrow(b []byte) string {
	r := make([]rune, len(b))
	for i, c := range b {
		r[i] = rune(c)
	}
	return string(r)
}

func cmdLogOpen(c *Call) error {
	args := c.Args
	stamp := false
options:
	for {
		switch w, rest := cutWord(args); strings.ToLower(w) {
		case "/t":
			stamp, args = true, rest
		case "/u": // logs are UTF-8, which holds everything that /u is for
			args = rest
		default: // a path may begin with / too
			break options
		}
	}
	name, rest, err := c.fileName(args)
	if err != nil {
		return err
	}
	if err := c.End(rest); err != nil {
		return err
	}
	if name == "" {
		name = "kd.log"
	}
	if stamp {
		t := c.S.now().Format("_2006-01-02_15-04-05-000")
		dot := strings.LastIndexByte(name, '.')
		if dot <= strings.LastIndexAny(name, `/\`) {
			dot = len(name)
		}
		name = fmt.Sprintf("%s_%04x%s%s", name[:dot], os.Getpid(), t, name[dot:])
	}
	return c.S.OpenLog(name, strings.EqualFold(c.Name, ".logappend"))
}

func (s *Session) now() time.Time {
	if s.Engine != nil {
		return s.Engine.Now()
	}
	return time.Now()
}

// OpenLog writes everything from now on into a file as well, as .logopen and
// .logappend do. A log that is open is closed first.
func (s *Session) OpenLog(name string, add bool) error {
	if err := s.namesFile(name); err != nil {
		return err
	}
	if err := s.CloseLog(); err != nil {
		return err
	}
	mode := os.O_TRUNC
	if add {
		mode = os.O_APPEND
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|mode, 0o666)
	if err != nil {
		return fmt.Errorf("the log file cannot be opened: %w", err)
	}
	s.out.mu.Lock()
	s.out.log, s.out.bad = f, nil
	s.out.mu.Unlock()
	fmt.Fprintf(s.w, "Opened log file '%s'\n", name)
	return nil
}

// CloseLog closes the log file, if one is open.
func (s *Session) CloseLog() error {
	s.out.mu.Lock()
	f := s.out.log
	s.out.mu.Unlock()
	if f == nil {
		return nil
	}
	fmt.Fprintf(s.w, "Closing open log file %s\n", f.Name())
	s.out.mu.Lock()
	s.out.log = nil
	bad := s.out.bad
	s.out.mu.Unlock()
	if err := f.Close(); err != nil && bad == nil {
		bad = err
	}
	if bad != nil {
		return fmt.Errorf("the log file %s is not complete: %w", f.Name(), bad)
	}
	return nil
}

func cmdLogClose(c *Call) error {
	if err := c.End(c.Args); err != nil {
		return err
	}
	c.S.out.mu.Lock()
	open := c.S.out.log != nil
	c.S.out.mu.Unlock()
	if !open {
		return fmt.Errorf("no log file is open")
	}
	return c.S.CloseLog()
}

func cmdLogFile(c *Call) error {
	if err := c.End(c.Args); err != nil {
		return err
	}
	c.S.out.mu.Lock()
	f := c.S.out.log
	c.S.out.mu.Unlock()
	if f == nil {
		c.Printf("No log file open\n")
		return nil
	}
	c.Printf("Log '%s' opened\n", f.Name())
	return nil
}
