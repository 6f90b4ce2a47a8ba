package console

import (
	"strings"
	"time"

	"openkd/command"
	"openkd/engine"
	"openkd/target"
)

// Event implements engine.Sink. It runs on the pump's goroutine: it notes,
// shows, and returns.
func (k *console) Event(ev engine.Event) {
	k.mu.Lock()
	verbose, noisy := k.opt.Verbose, k.opt.Noisy
	switch ev.Kind {
	case target.EventConnected:
		k.met, k.lost = true, false
	case target.EventHalted:
		k.met, k.lost = true, false
		if k.prompt = nil; k.unask != nil {
			k.unask()
		}
	case target.EventRunning:
		k.met, k.lost = true, false
	case target.EventLost:
		k.lost = true
	case target.EventStage:
		k.stage = ev.Stage
	case target.EventNotice:
		k.noticed = time.Now()
	case target.EventPrompt:
		p := ev.Event
		k.prompt = &p
	}
	k.mu.Unlock()
	k.s.Note(ev)
	switch {
	case k.s.Share != nil:
		k.tell(ev, k.render(ev, verbose, noisy))
	case k.js != nil:
		k.js.send(k, ev)
	default:
		if text := k.render(ev, verbose, noisy); text != "" {
			k.s.PrintStyled(styleOf(ev.Kind), text)
		}
	}
	k.poke()
}

// where is which stop it is, and the current processor.
func (k *console) where() (stop uint64, cpu int) {
	if st := k.e.Stop(); st != nil {
		stop = st.Number
	}
	return stop, k.e.Processor()
}

// styleOf is how the text of an event is shown.
func styleOf(k target.EventKind) command.Style {
	switch k {
	case target.EventPrint, target.EventPrompt:
		return command.Debuggee
	case target.EventLost, target.EventClosed:
		return command.Mistake
	case target.EventModule:
		return command.Aside
	}
	return command.Plain
}

// render is an event as text. Stops are shown by the command that waits for
// them.
func (k *console) render(ev engine.Event, verbose, noisy bool) string {
	line := func(t string) string {
		if t == "" {
			return ""
		}
		return strings.TrimRight(t, "\n") + "\n"
	}
	switch ev.Kind {
	case target.EventStage:
		switch {
		case ev.Stage == target.StageOpened:
			if ev.Text != "" {
				return "Opened " + line(ev.Text)
			}
		case ev.Stage == target.StageServerReached:
			if verbose {
				return "Connection server reached: " + line(ev.Text)
			}
		case ev.Text != "":
			return line(ev.Text)
		case verbose:
			return upperFirst(ev.Stage.String()) + "\n"
		}
	case target.EventConnected:
		t := ""
		if ev.Version != nil {
			t = engine.ConnectedLine(ev.Version, ev.Time) + "\n"
		}
		t += "Kernel Debugger connection established."
		if k.e.Config().Break {
			t += "  (Initial Breakpoint requested)"
		}
		t += "\n"
		if !k.greeted {
			k.greeted = true // where symbols come from does not change with a new boot
			t += k.s.Banner()
		}
		return t
	case target.EventPrint:
		return ev.Text
	case target.EventPrompt:
		return ev.Text
	case target.EventModule:
		if noisy && k.e.Tells(ev) {
			return line(k.e.ModuleLine(ev))
		}
	case target.EventReloaded:
		return "\nShutdown occurred at (" + engine.FormatTime(ev.Time) + ")...unloading all symbol tables.\nWaiting to reconnect...\n"
	case target.EventLost:
		t := ev.Text
		if t == "" {
			t = "it does not answer"
		}
		return "The link to the target is lost: " + strings.TrimRight(t, "\n") + "\nIt is looked for again. CTRL+R resynchronises the link; q leaves.\n"
	case target.EventNotice:
		return line(ev.Text)
	case target.EventClosed:
		return line(ev.Text)
	}
	return ""
}

func upperFirst(t string) string {
	if t != "" && t[0] >= 'a' && t[0] <= 'z' {
		return string(t[0]-32) + t[1:]
	}
	return t
}
