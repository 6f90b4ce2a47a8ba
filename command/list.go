package command

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"openkd/engine"
	"openkd/engine/types"
	"openkd/target"
)

func listCommands() []*Command {
	return []*Command{
		{Names: []string{"!list", "!ext.list"}, Family: "Types", Run: cmdList,
			Summary: "run commands for every node of a list; @$extret is the node, -e shows the commands, -m bounds the nodes",
			Usage:   "!list -t [module!]type.field [-x \"commands\"] [-a \"arguments\"] [-e] [-m n] address\n!list \"-t ... -x \\\"commands\\\" address\"",
			Example: `!list -t nt!_LIST_ENTRY.Flink -x "dps @$extret L2" nt!PsActiveProcessHead`},
	}
}

// listRequest is what !list was asked for.
type listRequest struct {
	kind, field, commands, args string
	echo                        bool
	most                        uint64
	addr                        string
}

// argument takes a word, or what is between quotes, in which \" stands for a quote.
func argument(s string) (word, rest string) {
	s = strings.TrimLeft(s, " \t")
	if !strings.HasPrefix(s, `"`) {
		return cutWord(s)
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == '"':
			i++
			b.WriteByte('"')
		case s[i] == '"':
			return b.String(), strings.TrimLeft(s[i+1:], " \t")
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), ""
}

func (c *Call) listOptions() (r listRequest, err error) {
	args := strings.TrimSpace(c.Args)
	if strings.HasPrefix(args, `"`) {
		var rest string
		if args, rest = argument(args); strings.TrimSpace(rest) != "" {
			return r, c.Fault("Extra character error", rest, "nothing is expected behind the closing quote")
		}
	}
	r.most = target.MaxNodes
	for strings.HasPrefix(args, "-") {
		var w string
		w, args = cutWord(args)
		switch w {
		case "-t":
			w, args = argument(args)
			mod, name := "", w
			if i := strings.IndexByte(w, '!'); i >= 0 {
				mod, name = w[:i+1], w[i+1:]
			}
			kind, field, ok := strings.Cut(name, ".")
			if !ok || kind == "" || field == "" {
				return r, c.Fault("Syntax error", w, "-t is followed by a type and the field that leads on: -t nt!_LIST_ENTRY.Flink")
			}
			r.kind, r.field = mod+kind, field
		case "-x":
			r.commands, args = argument(args)
		case "-a":
			r.args, args = argument(args)
		case "-e":
			r.echo = true
		case "-m":
			w, args = cutWord(args)
			if r.most, err = c.Eval(w); err != nil {
				return r, err
			}
		case "-h", "-?":
			return r, errHelp
		default:
			return r, c.Syntax(w)
		}
		args = strings.TrimLeft(args, " \t")
	}
	if r.kind == "" {
		return r, c.Syntax("")
	}
	if r.addr = args; args == "" {
		return r, c.Fault("Syntax error", "", "the address of the first node is expected")
	}
	if r.commands == "" {
		r.commands = "dp"
	}
	r.most = min(r.most, target.MaxNodes)
	return r, nil
}

// cmdList is !list.
func cmdList(c *Call) error {
	r, err := c.listOptions()
	if errors.Is(err, errHelp) {
		c.Printf("%s\n%s\nExample: %s\n", c.Command.Usage, c.Command.Summary, c.Command.Example)
		return nil
	}
	if err != nil {
		return err
	}
	addr, err := c.Eval(r.addr)
	if err != nil {
		return err
	}
	addr = c.S.canon(addr)
	t, ok, err := cppEnv{c.Ctx, c.S}.Type(r.kind)
	if err != nil || !ok {
		return c.noType(r.kind, err)
	}
	ch, err := findChain(t, r.field)
	if err != nil {
		return err
	}
	if addr == 0 {
		return errors.New("the address of the first node is 0: there is no list")
	}
	was := c.S.extret
	defer func() { c.S.extret = was }()
	run := func(node uint64) error {
		if err := c.S.stopped(c.Ctx); err != nil {
			return err
		}
		c.S.extret, c.S.hasExtret = node, true
		line := r.commands
		if !strings.Contains(strings.ToLower(line), "$extret") {
			line += " " + c.S.addr(node)
		}
		if r.args != "" {
			line += " " + r.args
		}
		if r.echo {
			c.Printf("%s\n", line)
		}
		c.S.nextData = node
		if err := c.Run(line); err != nil {
			return err
		}
		c.Printf("\n")
		return nil
	}
	// What the commands read of the first node they will read of all others, so
	// the chase brings that along.
	stop := c.S.Engine.WatchReads()
	err = run(addr)
	reads := stop()
	if err != nil {
		return err
	}
	nodes, why, err := c.listNodes(addr, ch, t, int(r.most), reads)
	if err != nil {
		return err
	}
	for _, n := range nodes[1:] {
		if err := run(n); err != nil {
			return err
		}
	}
	if uint64(len(nodes)) >= r.most && r.most < target.MaxNodes {
		return nil // as many as were asked for
	}
	if why != "" {
		return errors.New(why)
	}
	return nil
}

// How far from a node what a command reads may lie to be read of the others too.
const (
	nearBefore = 0x1000
	nearBehind = 0x4000
)

// listNodes walks the list, and has read what reads says of the first node.
func (c *Call) listNodes(addr uint64, ch chain, _ types.Type, most int, reads []engine.Range) ([]uint64, string, error) {
	type span struct{ from, to int64 } // relative to the node
	var spans []span
	for _, r := range reads {
		from := int64(r.Addr - addr)
		if from < -nearBefore || from > nearBehind || r.Len <= 0 || r.Len > target.MaxPiece {
			continue
		}
		spans = append(spans, span{from, from + int64(r.Len)})
	}
	slices.SortFunc(spans, func(a, b span) int { return int(a.from - b.from) })
	var merged []span
	for _, s := range spans {
		if n := len(merged); n > 0 && s.from <= merged[n-1].to+64 && max(s.to, merged[n-1].to)-merged[n-1].from <= target.MaxPiece {
			merged[n-1].to = max(s.to, merged[n-1].to)
			continue
		}
		merged = append(merged, s)
	}
	if len(merged) > 12 {
		merged = merged[:12]
	}
	// Pieces lie behind the beginning of a node, so the node begins further in
	// front.
	shift := int64(0)
	if len(merged) > 0 {
		shift = max(-merged[0].from, 0)
	}
	var pieces []target.Piece
	for _, s := range merged {
		pieces = append(pieces, target.Piece{Offset: uint32(s.from + shift), Len: uint32(s.to - s.from)})
	}
	moved := chain{link: ch.link + uint64(shift), base: ch.base + uint64(shift)}
	nodes, why, err := c.S.nodesOf(c.Ctx, addr-uint64(shift), moved, most, pieces)
	for i := range nodes {
		nodes[i] = c.S.canon(nodes[i] + uint64(shift))
	}
	if err == nil && ch.link != ch.base && len(nodes) > 1 {
		var wants []engine.Want
		for _, n := range nodes[1:] {
			for _, s := range merged {
				wants = append(wants, engine.Want{Addr: n + uint64(s.from), Len: int(s.to - s.from)})
			}
		}
		err = c.S.Engine.Fetch(c.Ctx, wants...)
	}
	if why != "" && shift != 0 && strings.Contains(why, "comes back to") {
		why = fmt.Sprintf("the list runs in a circle: it comes back to a node that is not where it began, after %d", len(nodes))
	}
	return nodes, why, err
}
