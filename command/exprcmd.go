package command

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

func expressionCommands() []*Command {
	f := "Expressions"
	return []*Command{
		{Names: []string{"?"}, Family: f, NoTarget: true, Run: cmdEvaluate, Summary: "evaluate an expression", Usage: "? expression", Example: "? poi(@rsp) + 0n16"},
		{Names: []string{".formats"}, Family: f, NoTarget: true, Run: cmdFormats, Summary: "show a value in every format", Usage: ".formats expression", Example: ".formats 1c407e62"},
		{Names: []string{"n"}, Family: f, NoTarget: true, Run: cmdRadix, Summary: "show or set the base of plain numbers", Usage: "n [8|10|16]", Example: "n 10"},
		{Names: []string{".radix"}, Family: f, NoTarget: true, Run: cmdRadix, Summary: "the same as n", Usage: ".radix [8|10|16]", Example: ".radix 16"},
	}
}

// value is v as `?` shows it: of the target's width.
func (s *Session) value(v uint64) string { return s.addr(v) }

func cmdEvaluate(c *Call) error {
	if strings.TrimSpace(c.Args) == "" {
		c.summary()
		return nil
	}
	v, err := c.Eval(c.Args)
	if err != nil {
		return err
	}
	n := int64(v)
	if c.S.pointerSize() == 4 && uint64(int64(int32(v))) == v {
		n = int64(int32(v))
	}
	text := c.S.value(v)
	if c.S.pointerSize() == 4 && uint64(uint32(v)) != v && uint64(int64(int32(v))) != v {
		text = fmt.Sprintf("%08x`%08x", v>>32, uint32(v)) // wider than the target
	}
	c.Printf("Evaluate expression: %d = %s\n", n, text)
	return nil
}

func cmdFormats(c *Call) error {
	v, err := c.Eval(c.Args)
	if err != nil {
		return err
	}
	size := 8
	if c.S.pointerSize() == 4 && (v>>32 == 0 || uint64(int64(int32(v))) == v) {
		size, v = 4, uint64(uint32(v))
	}
	c.Printf("Evaluate expression:\n")
	dec := int64(v)
	if size == 4 {
		dec = int64(int32(v))
		c.Printf("  Hex:     %08x\n", v)
	} else {
		c.Printf("  Hex:     %08x`%08x\n", v>>32, uint32(v))
	}
	c.Printf("  Decimal: %d\n", dec)
	if dec < 0 {
		c.Printf("  Decimal (unsigned) : %d\n", v)
	}
	c.Printf("  Octal:   %0*o\n", (size*8+2)/3, v)
	var bin []string
	chars := make([]byte, 0, 8)
	for i := size - 1; i >= 0; i-- {
		b := byte(v >> (8 * i))
		bin = append(bin, fmt.Sprintf("%08b", b))
		chars = append(chars, printable(b))
	}
	c.Printf("  Binary:  %s\n", strings.Join(bin, " "))
	c.Printf("  Chars:   %s\n", chars)
	c.Printf("  Time:    %s\n", timeText(v, c.S.now().Location()))
	c.Printf("  Float:   low %s high %s\n", cFloat(float64(math.Float32frombits(uint32(v))), 32), cFloat(float64(math.Float32frombits(uint32(v>>32))), 32))
	c.Printf("  Double:  %s\n", cFloat(math.Float64frombits(v), 64))
	return nil
}

func printable(b byte) byte {
	if b < 0x20 || b > 0x7e {
		return '.'
	}
	return b
}

// cFloat is a number as %g of C writes it, with six digits.
func cFloat(v float64, bits int) string {
	switch {
	case math.IsNaN(v):
		return "nan"
	case math.IsInf(v, 1):
		return "inf"
	case math.IsInf(v, -1):
		return "-inf"
	}
	return strconv.FormatFloat(v, 'g', 6, bits)
}

// timeText reads v as a C time, or, if it is larger, as a FILETIME.
func timeText(v uint64, loc *time.Location) string {
	if v < 1<<32 {
		return time.Unix(int64(v), 0).In(loc).Format(time.ANSIC)
	}
	sec := int64(v/10_000_000) - 11644473600
	t := time.Unix(sec, int64(v%10_000_000)*100).In(loc)
	if v >= 1<<63 || t.Year() > 9999 {
		return "***** Invalid FILETIME"
	}
	return t.Format("Mon Jan _2 15:04:05.000 2006") + " (UTC" + zone(t) + ")"
}

// zone is the offset from UTC as WinDbg shows it: " + 1:00".
func zone(t time.Time) string {
	_, off := t.Zone()
	sign := "+"
	if off < 0 {
		sign, off = "-", -off
	}
	return fmt.Sprintf(" %s %d:%02d", sign, off/3600, off/60%60)
}

func cmdRadix(c *Call) error {
	t := strings.TrimSpace(c.Args)
	if t != "" {
		n, err := strconv.Atoi(strings.TrimPrefix(t, "0n"))
		if err == nil {
			err = c.S.SetRadix(n)
		}
		if err != nil {
			return c.Fault("Syntax error", t, "the base is 8, 10 or 16")
		}
	}
	c.Printf("base is %d\n", c.S.Radix())
	return nil
}
