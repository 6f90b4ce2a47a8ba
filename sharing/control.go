package sharing

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// Words are the commands that Run knows.
var Words = []string{".server", ".remote", ".servers", ".endsrv", ".clients", ".kick", ".keyboard"}

// RemotePipe is the named pipe of a session that has a name only, for command
// remote.
func RemotePipe(id string) string { return "remote_" + id }

// IsWord says whether a line is one of these commands and nothing else.
func IsWord(line string) (name, args string, ok bool) {
	name, args, _ = strings.Cut(strings.TrimSpace(line), " ")
	name = strings.ToLower(name)
	for _, w := range Words {
		if name == w {
			return name, strings.TrimSpace(args), !strings.Contains(args, ";")
		}
	}
	return "", "", false
}

// Run serves a command about the sharing itself and returns what it shows.
func (h *Hub) Run(ctx context.Context, who Person, name, args string) (string, error) {
	nothing := func() error {
		if args != "" {
			return fmt.Errorf("%s takes no argument, and %q was given", name, args)
		}
		return nil
	}
	switch name {
	case ".server":
		if args == "" {
			return "", errors.New("a transport is missing, as in .server tcp:port=5005,password=<password>")
		}
		return h.Open(ctx, args)
	case ".remote":
		if args == "" || strings.ContainsAny(args, " :,=") {
			return "", errors.New("a name is missing, as in .remote kernel; then remote /c <this machine> kernel joins")
		}
		if _, err := h.Open(ctx, "npipe:pipe="+RemotePipe(args)); err != nil {
			return "", err
		}
		host := h.o.Machine
		if runtime.GOOS != "windows" {
			host = "localhost"
		}
		return fmt.Sprintf("Server started.  Client can connect with this command line\nremote /c %s %s\n", host, args), nil
	case ".servers":
		return h.servers(), nothing()
	case ".endsrv":
		return h.endDoor(args)
	case ".clients":
		return h.clientList(), nothing()
	case ".kick":
		return h.kick(who, args)
	case ".keyboard":
		return h.runKeyboard(who, args)
	}
	return "", fmt.Errorf("%s is not known", name)
}

// clientList is .clients.
func (h *Hub) clientList() string {
	var b strings.Builder
	for _, p := range h.clients() {
		fmt.Fprintf(&b, "%s%s, last active %s, id %d", p.Name, place(p.at), stamp(p.active), p.ID)
		if p.readOnly {
			b.WriteString(", read-only")
		}
		if p.conn == nil {
			b.WriteString(", connection lost")
		}
		b.WriteString("\n")
	}
	if b.Len() == 0 {
		return "No clients.\n"
	}
	return b.String()
}

// find finds a participant by number or name.
func (h *Hub) findLocked(text string) (*participant, error) {
	if n, err := strconv.ParseUint(text, 10, 32); err == nil {
		if p := h.parts[uint32(n)]; p != nil {
			return p, nil
		}
		return nil, fmt.Errorf("there is no client %d; .clients lists them", n)
	}
	var found *participant
	for _, p := range h.parts {
		if strings.EqualFold(p.Name, text) {
			if found != nil {
				return nil, fmt.Errorf("there is more than one %s; .clients tells their ids", text)
			}
			found = p
		}
	}
	if found == nil {
		return nil, fmt.Errorf("there is no client %q; .clients lists them", text)
	}
	return found, nil
}

// kick throws a client out.
func (h *Hub) kick(who Person, args string) (string, error) {
	if args == "" {
		return "", errors.New("whom? .kick takes the id of a client; .clients lists them")
	}
	h.mu.Lock()
	p, err := h.findLocked(args)
	if err != nil {
		h.mu.Unlock()
		return "", err
	}
	c := p.conn
	if c != nil {
		c.dropped = true
	}
	kept := h.queue[:0:0]
	for _, q := range h.queue {
		if q.p != p {
			kept = append(kept, q)
		}
	}
	h.queue = kept
	h.removeLocked(p)
	h.mu.Unlock()
	h.announce(Entry{From: who.ID, Who: who.Name, Name: "kicked", Text: fmt.Sprintf("%s%s was sent away by %s at %s\n", p.Name, place(p.at), who, h.stamp())})
	if c != nil {
		c.part("You were sent away by " + who.String() + ".")
	}
	h.o.Logger.Warn("a client was sent away", "audit", "kick", "owner", p.Name, "id", p.ID, "peer", p.at, "by", who.String())
	h.arrived()
	return "", nil
}

// keyboard is who may type; the hub's lock guards it.
type keyboard struct {
	held   bool
	holder Person
	since  time.Time
	show   bool
	asked  Person // who asked last
	asking bool
	typed  time.Time // when the local holder typed last
}

// idle is after how long without a command a keyboard can be taken from who
// holds it.
const idle = time.Minute

// MayType says why somebody may not type now, "" when he may.
func (h *Hub) MayType(who Person) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := &h.keyboard
	if !k.held || k.holder.ID == who.ID {
		if who.Local() {
			k.typed = h.o.Now()
		}
		return ""
	}
	if who.Local() {
		return fmt.Sprintf("%s holds the keyboard; .keyboard take takes it back", k.holder)
	}
	return fmt.Sprintf("%s holds the keyboard; .keyboard ask asks for it", k.holder)
}

// PromptMark is what stands before the prompt: who holds the keyboard, if that
// is wanted. It is not to be taken for who has typed a line, [name].
func (h *Hub) PromptMark() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if k := &h.keyboard; k.held && k.show {
		return "[keyboard: " + k.holder.String() + "] "
	}
	return ""
}

// keyboardLine serves .keyboard of a client, which needs no turn.
func (h *Hub) keyboardLine(who Person, line string) (bool, reply) {
	name, args, ok := IsWord(line)
	if !ok || name != ".keyboard" {
		return false, reply{}
	}
	text, err := h.runKeyboard(who, args)
	if err != nil {
		return true, reply{Text: err.Error(), Done: true}
	}
	return true, reply{Text: text, OK: true, Done: true}
}

func (h *Hub) runKeyboard(who Person, args string) (string, error) {
	verb, rest, _ := strings.Cut(args, " ")
	rest = strings.TrimSpace(rest)
	h.mu.Lock()
	k := &h.keyboard
	now := h.o.Now()
	mine := k.held && k.holder.ID == who.ID
	tell, answer := "", ""
	var err error
	give := func(p Person) {
		k.held, k.holder, k.since, k.asking, k.typed = true, p, now, false, now
	}
	switch strings.ToLower(verb) {
	case "":
		answer = "Nobody holds the keyboard: all who are not read-only may type.\n"
		if k.held {
			answer = fmt.Sprintf("%s holds the keyboard since %s\n", k.holder, stamp(k.since))
		}
	case "take":
		switch {
		case mine:
			answer = "You hold it already.\n"
		case !k.held:
			give(who)
			tell = fmt.Sprintf("%s holds the keyboard\n", who)
		default:
			last := k.typed
			p := h.parts[k.holder.ID]
			if p != nil {
				last = p.active
			}
			if who.Local() || p != nil && p.conn == nil || now.Sub(last) >= idle {
				tell = fmt.Sprintf("%s took the keyboard from %s\n", who, k.holder)
				give(who)
			} else {
				err = fmt.Errorf("%s holds the keyboard and was active less than %v ago; .keyboard ask asks for it, and then it can be taken", k.holder, idle)
			}
		}
	case "ask":
		switch {
		case mine:
			answer = "You hold it already.\n"
		case !k.held:
			give(who)
			tell = fmt.Sprintf("%s holds the keyboard\n", who)
		default:
			k.asked, k.asking = who, true
			tell = fmt.Sprintf("%s asks %s for the keyboard (.keyboard give hands it over)\n", who, k.holder)
		}
	case "give":
		to := k.asked
		switch {
		case !mine && !who.Local():
			err = errors.New("only who holds the keyboard can give it away")
		case rest != "":
			var p *participant
			if p, err = h.findLocked(rest); err == nil {
				to = p.Person
				if p.readOnly {
					err = fmt.Errorf("%s may only look", p.Name)
				}
			}
		case !k.asking:
			err = errors.New("nobody has asked for it; .keyboard give <id> gives it to a client, .keyboard free to all")
		case !to.Local() && h.parts[to.ID] == nil:
			err = fmt.Errorf("%s has left", to)
		}
		if err == nil {
			give(to)
			tell = fmt.Sprintf("%s holds the keyboard, from %s\n", to, who)
		}
	case "free":
		switch {
		case !k.held:
			answer = "Nobody holds it.\n"
		case !mine && !who.Local():
			err = errors.New("only who holds the keyboard can free it")
		default:
			k.held, k.asking = false, false
			tell = "Nobody holds the keyboard: all may type\n"
		}
	case "show":
		switch strings.ToLower(rest) {
		case "", "on":
			k.show = true
		case "off":
			k.show = false
		default:
			err = fmt.Errorf("%q: show on or show off", rest)
		}
		if err == nil {
			tell = "The prompt shows who holds the keyboard\n"
			if !k.show {
				tell = "The prompt does not show who holds the keyboard\n"
			}
		}
	default:
		err = fmt.Errorf("%q: .keyboard alone tells who holds it; take, ask, give [id], free and show {on|off} are known", verb)
	}
	h.mu.Unlock()
	if tell != "" {
		h.o.Logger.Info("the keyboard", "audit", "keyboard", "owner", who.String(), "id", who.ID, "command", args)
		h.announce(Entry{From: who.ID, Who: who.Name, Name: "keyboard", Text: tell})
		h.arrived()
	}
	return answer, err
}
