package sharing

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"openkd/connstr"
	"openkd/discovery"
	"openkd/internal/localdisk"
	"openkd/transport"
	"openkd/transport/comline"
)

// door is one way in.
type door struct {
	id       int
	ln       transport.Listener
	readOnly bool
	listed   *discovery.Announcement
	done     chan struct{} // its accepting has ended
}

// doors of a hub; its lock guards the list.
type doors struct {
	list    []*door
	next    int
	opening int
	once    sync.Once
	limiter *transport.Limiter
	lines   *comline.Lines
}

// maxDoors bounds the doors of one session.
const maxDoors = 64

// ParseDoor reads what stands behind .server: a transport, and the word
// readonly among its parameters.
func ParseDoor(text string) (t connstr.Transport, readOnly bool, err error) {
	text, readOnly = cutReadOnly(text)
	t, err = connstr.ParseTransport(text, true)
	return t, readOnly, err
}

// ParseClient reads what stands behind -remote; with the word readonly the
// client does not want to type.
func ParseClient(text string) (t connstr.Transport, readOnly bool, err error) {
	text, readOnly = cutReadOnly(text)
	t, err = connstr.ParseTransport(text, false)
	return t, readOnly, err
}

func cutReadOnly(text string) (string, bool) {
	proto, body, ok := strings.Cut(text, ":")
	if !ok {
		return text, false
	}
	found := false
	parts := slices.DeleteFunc(strings.Split(body, ","), func(p string) bool {
		is := strings.EqualFold(strings.TrimSpace(p), "readonly")
		found = found || is
		return is
	})
	if !found {
		return text, false
	}
	return proto + ":" + strings.Join(parts, ","), true
}

// Open opens a door. ctx bounds the opening only. The answer is what .server
// shows: a line for each open door.
func (h *Hub) Open(ctx context.Context, text string) (string, error) {
	t, readOnly, err := ParseDoor(text)
	if err != nil {
		return "", err
	}
	return h.OpenDoor(ctx, t, readOnly)
}

// OpenDoor is Open of a transport.
func (h *Hub) OpenDoor(ctx context.Context, t connstr.Transport, readOnly bool) (string, error) {
	ds := &h.doors
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return "", errors.New("the session has ended")
	}
	if len(ds.list)+ds.opening >= maxDoors {
		h.mu.Unlock()
		return "", fmt.Errorf("there are %d doors already; .endsrv closes one", maxDoors)
	}
	if h.secure {
		if err := here(t); err != nil {
			h.mu.Unlock()
			return "", err
		}
	}
	ds.opening++
	ds.once.Do(func() {
		ds.limiter, ds.lines = transport.NewLimiter(transport.Guesses{}), new(comline.Lines)
	})
	h.mu.Unlock()
	opened := func(d *door) bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		ds.opening--
		if d == nil || h.closed {
			return false
		}
		d.id = ds.next
		ds.next++
		ds.list = append(ds.list, d)
		h.wg.Go(func() { h.accept(d) })
		return true
	}
	ln, err := transport.Listen(ctx, t, transport.Options{Logger: h.o.Logger, Limiter: ds.limiter, Lines: ds.lines, PipeUsers: h.o.PipeUsers})
	if err != nil {
		opened(nil)
		return "", err
	}
	d := &door{ln: ln, readOnly: readOnly, done: make(chan struct{})}
	if h.o.Listed {
		d.listed, err = discovery.Announce(h.ctx, []discovery.Entry{{Kind: h.o.ListedAs, Transport: ln.Transport()}},
			discovery.Options{Release: h.o.ListedText, LocalOnly: h.o.LocalOnly, Logger: h.o.Logger})
		if err != nil {
			h.o.Logger.Warn("-QR will not list this door", "error", err)
			d.listed = nil
		}
	}
	if !opened(d) {
		d.close()
		return "", errors.New("the session has ended")
	}
	h.o.Logger.Info("a door was opened", "audit", "door", "door", h.doorText(d), "id", d.id)
	answer := "Server started.  Client can connect with any of these command lines\n" + h.ways()
	if t.Password == "" && t.ClientCA == "" && (t.Proto == "tcp" || t.Proto == "ssl") {
		answer += "There is no password: whoever reaches this port can join, with the rights of this account.\n"
	}
	if t.Firewall && h.o.Firewall != nil {
		answer += h.o.Firewall(ctx, ln.Transport()) + "\n"
	}
	return answer, nil
}

// here says that a door takes nothing from another machine, for Secure Mode: the
// files of certificates, and a serial port that is none.
func here(t connstr.Transport) error {
	for _, name := range append(strings.Split(t.ClientCA, ";"), t.ComPort) {
		err := localdisk.Named(strings.TrimSpace(name))
		if e := new(localdisk.Error); errors.As(err, &e) && !(e.Device && name == t.ComPort) {
			return fmt.Errorf("%w, and Secure Mode reaches none", err)
		}
	}
	return nil
}

// accept serves who comes through a door.
func (h *Hub) accept(d *door) {
	defer close(d.done)
	places := make(chan struct{}, 2*h.o.MaxClients)
	t := d.ln.Transport()
	for {
		c, err := d.ln.Accept(h.ctx)
		if err != nil {
			return
		}
		select {
		case places <- struct{}{}:
		default:
			c.Close()
			continue
		}
		h.wg.Go(func() {
			defer func() { <-places }()
			via := Via{Door: d.id, Proto: t.Proto, ReadOnly: d.readOnly}
			if err := h.Serve(context.Background(), c, via); err != nil {
				h.o.Logger.Debug("a connection has ended", "peer", via.at(c), "error", err)
			}
		})
	}
}

func (d *door) close() {
	if d.listed != nil {
		d.listed.Close()
	}
	d.ln.Close()
}

func (h *Hub) closeDoors() {
	h.mu.Lock()
	list := h.doors.list
	h.doors.list = nil
	h.mu.Unlock()
	for _, d := range list {
		d.close()
	}
}

// Doors lists the transports of the open doors.
func (h *Hub) Doors() []connstr.Transport {
	var l []connstr.Transport
	for _, d := range h.openDoors() {
		l = append(l, d.ln.Transport())
	}
	return l
}

func (h *Hub) openDoors() []*door {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.doors.list)
}

func (h *Hub) doorText(d *door) string {
	text := d.ln.Transport().String()
	if d.readOnly {
		text += ",readonly"
	}
	return text
}

// ways are the lines that a person pastes to come in.
func (h *Hub) ways() string {
	var b strings.Builder
	for _, d := range h.openDoors() {
		fmt.Fprintf(&b, "%d: %s -remote %s\n", d.id, h.o.Program, Way(d.ln.Transport(), h.o.Machine))
	}
	return b.String()
}

// Way is what a client writes behind -remote to come through a door of machine
// host, quoted where a shell would take it apart. A password is a *.
func Way(t connstr.Transport, host string) string {
	text := ""
	pipe := t.Proto == "npipe" || t.Proto == "spipe"
	switch {
	case t.ClientOf != "" || t.ClientCA != "" || t.Proto == "com":
		text = t.ForClient(host, runtime.GOOS == "windows")
	default:
		t.Server, t.PortHigh, t.Hidden, t.Firewall = host, 0, false, false
		if pipe && runtime.GOOS != "windows" {
			t.Server = "localhost"
		}
		text = t.String()
	}
	if strings.ContainsAny(text, " ;&|<>()'$`\\*") {
		return `"` + text + `"`
	}
	return text
}

// ended closes a door; those inside stay.
func (h *Hub) endDoor(text string) (string, error) {
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		return "", fmt.Errorf("%q is not the number of a door; .servers lists them", text)
	}
	h.mu.Lock()
	i := slices.IndexFunc(h.doors.list, func(d *door) bool { return d.id == n })
	if i < 0 {
		h.mu.Unlock()
		return "", fmt.Errorf("there is no door %d; .servers lists them", n)
	}
	d := h.doors.list[i]
	h.doors.list = slices.Delete(h.doors.list, i, i+1)
	h.mu.Unlock()
	d.close()
	h.o.Logger.Info("a door was closed", "audit", "enddoor", "door", h.doorText(d), "id", d.id)
	return "Server told to exit.  Nobody new comes in through it;\nthose who came through it stay.\n", nil
}

// servers is .servers.
func (h *Hub) servers() string {
	var b strings.Builder
	for _, d := range h.openDoors() {
		fmt.Fprintf(&b, "%d - Debugger Server - %s\n", d.id, h.doorText(d))
	}
	if b.Len() == 0 {
		return "No servers.  .server <transport> starts one, as in .server tcp:port=5005,password=<password>\n"
	}
	return b.String()
}
