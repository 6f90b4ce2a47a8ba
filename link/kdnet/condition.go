package kdnet

import (
	"fmt"
	"time"

	"openkd/link"
)

// requestProtocol is the protocol byte of connect requests, sent before the
// target has told its own: the newest.
const requestProtocol = 5

// knownProtocol reports the bytes that were seen of real targets: 2 of Windows
// 8.1, 4 of early Windows 10, 5 of newer ones.
func knownProtocol(b byte) bool { return b == 2 || b == 4 || b == 5 }

// Condition implements link.Finder.
func (h *Host) Condition() link.Condition {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch c := h.sess; {
	case c != nil && time.Since(h.heard) > h.cfg.Quiet:
		return link.Condition{Text: fmt.Sprintf("The target %s has been silent for more than %s, though it gives a sign of life every 3 s, even when it is stopped: it is off, starting again, or cut off.", c.peer, h.cfg.Quiet)}
	case c != nil && h.rival.seen() && h.heard.After(h.rival.first):
		return link.Condition{Text: fmt.Sprintf("%s uses the same key and port as %s and is not served: give each target its own.", h.rival.who, c.peer)}
	case c != nil:
		t := fmt.Sprintf("Connected to target %s on port %d on local IP %s.", c.peer.Addr(), h.port, c.local)
		if !knownProtocol(c.protocol) {
			t += fmt.Sprintf(" It speaks the protocol byte %d, which is not known here (2, 4 and 5 are); it is treated alike.", c.protocol)
		}
		return link.Condition{Text: t}
	case h.held.seen():
		t := link.Condition{Text: fmt.Sprintf("An offer was seen from %s, but another debugger (%s) holds that target.", h.held.who, h.heldBy)}
		t.Hint = fmt.Sprintf("The target %s still has its other debugger (%s). End that one, or take the target over with target=%s.", h.held.who, h.heldBy, h.held.who.Addr())
		if h.target.named() {
			t.Hint = fmt.Sprintf("The target %s still has its other debugger (%s), to which it is left. End that one; or start this debugger again, which takes the target over.", h.held.who, h.heldBy)
		}
		return t
	case len(h.cands) > 0:
		c := h.cands[len(h.cands)-1]
		return link.Condition{Hint: fmt.Sprintf("Offers of %s are answered, but nothing comes of it. Usual causes: a firewall on the way lets nothing out to it from udp/%d; its address is translated (NAT) on the way.", c.peer, h.port)}
	case h.bad.seen() && !knownProtocol(h.badByte):
		return link.Condition{Text: fmt.Sprintf("Datagrams come from %s with the protocol byte %d, which is not known here (2, 4 and 5 are), and the key does not open them.", h.bad.who, h.badByte)}
	case h.bad.seen():
		return link.Condition{
			Text: fmt.Sprintf("Datagrams come from %s, but the key does not fit.", h.bad.who),
			Hint: fmt.Sprintf("The key here is not the one of %s: compare it with what bcdedit /dbgsettings shows there; after a change the target has to be booted again.", h.bad.who),
		}
	}
	hint := fmt.Sprintf("No datagram yet on udp/%d. Usual causes: a firewall here (let UDP port %d in, for all kinds of networks); the target was not booted with bcdedit /debug on and /dbgsettings net to an address of this machine, port:%d; its network adapter is not one that network debugging supports (kdnet.exe there tells).", h.port, h.port, h.port)
	if h.target.named() {
		hint = fmt.Sprintf("No datagram yet on udp/%d, though %s is asked twice a second. Usual causes: a firewall on the way; the target is off, or was not booted with bcdedit /debug on and /dbgsettings net, port:%d.", h.port, h.target.text, h.target.port)
	}
	return link.Condition{Hint: hint}
}
