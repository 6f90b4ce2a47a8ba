package sharing

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"openkd/connstr"
	"openkd/discovery"
)

// Options of a hub. Zero fields take the defaults.
type Options struct {
	Program    string        // what is shared, for the hello: "kd"
	Title      string        // of the session, for people
	Release    string        // of the program
	Lines      int           // of history for newcomers (-clines): 10000
	MaxClients int           // 100
	Grace      time.Duration // for a client that lost its connection: 2 min
	Timeouts   Timeouts
	Logger     *slog.Logger     // lines with "audit" are for package audit; nil: nothing is logged
	Now        func() time.Time // nil: time.Now
	Machine    string           // this machine's name; "": the system's

	// Listed has doors announced to this machine, and to the network too unless
	// LocalOnly.
	Listed, LocalOnly bool
	ListedAs          discovery.Kind // "": discovery.Debugger
	ListedText        string         // in place of the release
	// PipeUsers may use named pipes besides their owner (package carrier).
	PipeUsers []string
	// Firewall opens the firewall for a door with IcfEnable and says what it did.
	Firewall func(ctx context.Context, t connstr.Transport) string
}

// Host is the program that is shared. Its methods are called from any
// goroutine, without a lock of the hub, and do not wait for a command.
type Host interface {
	// Announce shows and logs what the hub itself has to say, and appends it.
	Announce(e Entry)
	// Do serves what does not wait for its turn: OpBreakIn, OpInterrupt, OpKey,
	// OpAnswer. An error is told to who asked.
	Do(who Person, op Op, text string) error
	// Early serves a line that is not to wait for its turn, and returns what is
	// told to who typed it.
	Early(who Person, line string) (text string, served bool)
}

// Person is who does something: a participant, or the person at the program's
// own console, for whom ID is 0 and Name is empty.
type Person struct {
	ID   uint32
	Name string
}

// Local says that it is the person at the program's own console.
func (p Person) Local() bool { return p.ID == 0 }

// String is the name for lists and notices.
func (p Person) String() string {
	if p.Local() {
		return "the server's console"
	}
	return p.Name
}

// Line is one line that was typed.
type Line struct {
	Person
	Request uint64
	Text    string
}

// Bounds of a hub.
const (
	maxQueue   = 256 // lines of one client that wait
	maxReplies = 512 // remembered for one client
	maxLocal   = 1 << 14
	maxHeld    = 256 // notices before there is a host
)

// participant is one client, over all its connections.
type participant struct {
	Person
	at       string // "tcp 127.0.0.1:63141"
	door     int
	token    []byte
	readOnly bool
	joined   time.Time
	active   time.Time
	taken    uint64        // the last request
	served   chan struct{} // closed when its reply is there
	replies  map[uint64]reply
	queued   int
	conn     *connection // nil: lost
	grace    *time.Timer
}

// Hub is one shared session.
//
// Concurrency: all methods may be called from any goroutine; none waits for a
// client. A program whose own console is to show the same order as the log
// appends and shows under a lock of its own.
type Hub struct {
	o  Options
	id []byte

	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu       sync.Mutex
	host     Host
	held     []Entry // notices that wait for a host
	log      *entryLog
	actor    uint32 // who typed the last command
	parts    map[uint32]*participant
	nextID   uint32
	conns    map[*connection]struct{}
	queue    []queued
	local    int // how many of queue are of the own console
	arrival  func()
	missed   bool // something arrived while nobody was to be told
	secure   bool
	prompt   string
	state    string
	promptOf uint32
	stopData []byte // of the last halted event
	closed   bool
	ending   string // what clients are told at the end

	keyboard keyboard
	doors    doors
}

// queued is a line in the order of arrival; without a participant it stands for
// one that the program's own console holds.
type queued struct {
	p    *participant
	line Line
}

// NewHub returns a hub that nobody has joined. Close must be called.
func NewHub(o Options) *Hub {
	if o.Lines <= 0 {
		o.Lines = 10000
	}
	if o.MaxClients <= 0 {
		o.MaxClients = 100
	}
	if o.Grace <= 0 {
		o.Grace = 2 * time.Minute
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Program == "" {
		o.Program = "kd"
	}
	if o.ListedAs == "" {
		o.ListedAs = discovery.Debugger
	}
	if o.ListedText == "" {
		o.ListedText = o.Release
	}
	if o.Machine == "" {
		if o.Machine, _ = os.Hostname(); o.Machine == "" {
			o.Machine = "<host>"
		}
	}
	o.Timeouts = o.Timeouts.withDefaults()
	h := &Hub{o: o, id: secret(), log: newEntryLog(), parts: make(map[uint32]*participant), conns: make(map[*connection]struct{})}
	h.ctx, h.stop = context.WithCancel(context.Background())
	return h
}

func secret() []byte {
	b := make([]byte, 16)
	rand.Read(b) // never fails
	return b
}

// SetTitle names the session for people.
func (h *Hub) SetTitle(text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.o.Title = text
}

// SetSecure notes that the session is in Secure Mode, which those who join are
// told.
func (h *Hub) SetSecure() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.secure = true
}

// Secure says whether SetSecure was called.
func (h *Hub) Secure() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.secure
}

// Attach tells who is shared. What there was to announce before is announced.
func (h *Hub) Attach(host Host) {
	h.mu.Lock()
	held := h.held
	h.host, h.held = host, nil
	h.mu.Unlock()
	for _, e := range held {
		host.Announce(e)
	}
}

// Append adds an entry to the log and gives it to everybody.
func (h *Hub) Append(e Entry) {
	if e.Time == 0 {
		e.Time = h.o.Now().UnixNano()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.appendLocked(e)
}

func (h *Hub) appendLocked(e Entry) {
	for cut := e.Kind == EntryText || e.Kind == EntryEvent && e.Data == nil; cut && len(e.Text) > maxEntry; {
		part := e
		part.Text, e.Text = e.Text[:maxEntry], e.Text[maxEntry:]
		h.log.add(part)
	}
	if len(e.Data) > maxEntry {
		e.Data = []byte("{}")
	}
	if len(e.Text) > MaxLine+1024 {
		e.Text = e.Text[:MaxLine]
	}
	e.Message = clip(e.Message, 4096)
	if e.Kind == EntryCommand || e.Kind == EntryResult { // both have the line
		e.Text = Masked(e.Text)
	}
	switch e.Kind {
	case EntryPrompt:
		h.prompt, h.state, h.promptOf = e.Prompt, e.Name, e.From
	case EntryCommand:
		h.prompt = ""
	case EntryResult:
		h.state = e.Name
	case EntryEvent:
		switch e.Name {
		case "halted":
			h.state, h.stopData = e.Name, e.Data
		case "running", "lost", "closed":
			h.state = e.Name
		}
	}
	seq := h.log.add(e)
	if e.Kind == EntryCommand {
		h.actor = e.From
	}
	print := e.Kind == EntryEvent && e.Name == "print"
	for c := range h.conns {
		// Who typed what runs is not kept waiting; the others can look on a moment
		// later, in fewer and larger pieces.
		hurry := !print && c.p.ID == h.actor
		if hurry {
			c.urgent = seq
		}
		if hurry || c.idle {
			c.idle = false
			poke(c.wake)
		}
	}
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// SetPrompt says that a line is waited for at this prompt; "" that none is.
// state is the session's, in one word. of is who may answer; 0: all who may
// type.
func (h *Hub) SetPrompt(prompt, state string, of uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if prompt == h.prompt && state == h.state && of == h.promptOf {
		return
	}
	h.appendLocked(Entry{Kind: EntryPrompt, Prompt: prompt, Name: state, From: of, Time: h.o.Now().UnixNano()})
}

// Command says that a line is being run.
func (h *Hub) Command(l Line, prompt string) {
	h.mu.Lock()
	if p := h.parts[l.ID]; p != nil {
		p.active = h.o.Now()
	}
	h.mu.Unlock()
	l.Text = Masked(l.Text)
	// Who ran what is written before it runs.
	h.o.Logger.Info("command", "audit", "command", "owner", l.String(), "id", l.ID, "command", clip(clean(l.Text, 4096), 4096))
	h.Append(Entry{Kind: EntryCommand, From: l.ID, Who: l.Name, ID: l.Request, Text: l.Text, Prompt: prompt})
}

// Local notes that the program's own console holds a line more.
func (h *Hub) Local() {
	h.mu.Lock()
	defer h.mu.Unlock()
	// Without anybody else there is no order to keep.
	if h.local < maxLocal && (len(h.parts) > 0 || len(h.queue) > 0) {
		h.queue = append(h.queue, queued{})
		h.local++
	}
}

// TookLocal notes that a line of the program's own console was taken.
func (h *Hub) TookLocal() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := slices.IndexFunc(h.queue, func(q queued) bool { return q.p == nil }); i >= 0 {
		h.queue = slices.Delete(h.queue, i, i+1)
		h.local--
	}
}

// Take takes the next line, if it is one of a client. have says whether the
// program's own console holds one.
func (h *Hub) Take(have func() bool) (Line, bool) {
	local := have()
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.queue) > 0 {
		q := h.queue[0]
		if q.p == nil && local {
			return Line{}, false
		}
		h.queue = h.queue[1:]
		if q.p == nil {
			h.local--
			continue
		}
		q.p.queued--
		return q.line, true
	}
	h.queue = nil
	return Line{}, false
}

// TakeFrom takes the next line of one participant, for a command of his that
// reads input. gone: he has left.
func (h *Hub) TakeFrom(id uint32) (l Line, ok, gone bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, q := range h.queue {
		if q.p != nil && q.p.ID == id {
			h.queue = slices.Delete(h.queue, i, i+1)
			q.p.queued--
			return q.line, true, false
		}
	}
	return Line{}, false, h.parts[id] == nil
}

// OnArrival has f called when a line of a client arrives, or somebody leaves,
// or the keyboard changes hands, until the next OnArrival; nil: nobody. It is
// called at once when that has happened already.
func (h *Hub) OnArrival(f func()) {
	h.mu.Lock()
	h.arrival = f
	there := len(h.queue) > h.local || h.missed
	if f != nil {
		h.missed = false
	}
	h.mu.Unlock()
	if there && f != nil {
		f()
	}
}

func (h *Hub) arrived() {
	h.mu.Lock()
	f := h.arrival
	h.missed = h.missed || f == nil
	h.mu.Unlock()
	if f != nil {
		f()
	}
}

// Shared says whether there is a door, or somebody has joined.
func (h *Hub) Shared() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.parts) > 0 || len(h.doors.list) > 0
}

// announce tells all something.
func (h *Hub) announce(e Entry) {
	e.Kind = EntryNotice
	h.mu.Lock()
	host, closed := h.host, h.closed
	hold := host == nil && len(h.held) < maxHeld
	if hold && !closed {
		h.held = append(h.held, e)
	}
	h.mu.Unlock()
	switch {
	case closed, hold: // doors may be open before the program has its console
	case host != nil:
		host.Announce(e)
	default:
		h.Append(e)
	}
}

// stamp is how a time is shown.
func (h *Hub) stamp() string { return stamp(h.o.Now()) }

func stamp(t time.Time) string { return t.Format("Mon Jan 02 15:04:05 2006") }

// place is where somebody is, in parentheses.
func place(at string) string {
	if at == "" {
		return ""
	}
	return " (" + at + ")"
}

// errEnded is what connections end with when the session does.
var errEnded = errors.New("the session has ended")

// enter makes the participant of a connection, or finds the one that comes
// back.
func (h *Hub) enter(c *connection, j join) (joined, *Refusal) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return joined{}, &Refusal{Text: "the session has ended"}
	}
	now := h.o.Now()
	var p *participant
	ours := len(j.Session) > 0 && subtle.ConstantTimeCompare(j.Session, h.id) == 1
	if ours && len(j.Token) > 0 {
		for _, x := range h.parts {
			if subtle.ConstantTimeCompare(x.token, j.Token) == 1 {
				p = x
			}
		}
	}
	r := joined{Session: h.id, Title: h.o.Title, Now: h.log.last(), State: h.state, Stop: h.stopData, Secure: h.secure}
	r.Prompt, r.PromptOf = h.prompt, h.promptOf
	if p == nil {
		if len(h.parts) >= h.o.MaxClients {
			return joined{}, &Refusal{Code: RefusedFull}
		}
		h.nextID++
		p = &participant{
			Person: Person{ID: h.nextID, Name: clean(j.Name, maxName)}, token: secret(), joined: now, active: now,
			readOnly: j.ReadOnly || c.via.ReadOnly, replies: make(map[uint64]reply),
		}
		if p.Name == "" {
			p.Name = "somebody"
		}
		h.parts[p.ID] = p
		r.Fresh = true
	}
	if c.via.ReadOnly { // it may have come through another door before
		p.readOnly = true
	}
	if old := p.conn; old != nil {
		old.fail(errors.New("the client has connected anew"))
	}
	if p.grace != nil {
		p.grace.Stop()
		p.grace = nil
	}
	c.again = !r.Fresh
	p.conn, p.at, p.door = c, c.at, c.via.Door
	c.p = p
	switch {
	case ours && j.After > 0 && j.After <= h.log.last():
		r.After = j.After
		if r.After+1 < h.log.first() {
			after := h.log.back(math.MaxInt)
			r.Missed = after - r.After
			r.After = after
		}
	default:
		switch lines := h.o.Lines; {
		case j.Lines < 0:
			r.After = h.log.last()
		case j.Lines > 0:
			r.After = h.log.back(min(lines, j.Lines))
		default:
			r.After = h.log.back(lines)
		}
	}
	r.Token, r.ID, r.ReadOnly, r.Taken, r.Lines = p.token, p.ID, p.readOnly, p.taken, h.log.above(r.After)
	c.cursor = r.After
	h.log.seal()
	h.conns[c] = struct{}{}
	return r, nil
}

// leave ends a connection's hold on its participant.
func (h *Hub) leave(c *connection, bye bool, why error) {
	h.mu.Lock()
	delete(h.conns, c)
	p := c.p
	if p == nil || p.conn != c || h.parts[p.ID] != p {
		h.mu.Unlock()
		return
	}
	p.conn = nil
	if dropped := c.dropped; bye || h.closed || dropped {
		h.removeLocked(p)
		h.mu.Unlock()
		h.o.Logger.Info("a client has left", "audit", "disconnect", "owner", p.Name, "id", p.ID, "peer", c.at, "reason", reason(why), "duration", h.o.Now().Sub(p.joined))
		if !dropped { // what dropped it has told
			h.announce(Entry{From: p.ID, Who: p.Name, Name: "left", Text: fmt.Sprintf("%s%s disconnected at %s\n", p.Name, place(c.at), h.stamp())})
		}
		h.arrived()
		return
	}
	p.grace = time.AfterFunc(h.o.Grace, func() { h.expire(p) })
	h.mu.Unlock()
	h.o.Logger.Info("a client has lost its connection", "audit", "lost", "owner", p.Name, "id", p.ID, "peer", c.at, "reason", reason(why))
	h.announce(Entry{From: p.ID, Who: p.Name, Name: "lost", Text: fmt.Sprintf("%s%s has lost its connection at %s\n", p.Name, place(c.at), h.stamp())})
}

func reason(err error) string {
	if err == nil {
		return "left"
	}
	return clip(err.Error(), 256)
}

// expire forgets a client that has not come back.
func (h *Hub) expire(p *participant) {
	h.mu.Lock()
	if h.parts[p.ID] != p || p.conn != nil || h.closed {
		h.mu.Unlock()
		return
	}
	h.removeLocked(p)
	h.mu.Unlock()
	h.announce(Entry{From: p.ID, Who: p.Name, Name: "left", Text: fmt.Sprintf("%s%s has not come back\n", p.Name, place(p.at))})
	h.o.Logger.Info("a client has not come back", "audit", "disconnect", "owner", p.Name, "id", p.ID, "peer", p.at, "reason", "its connection was lost")
	h.arrived()
}

// removeLocked forgets a participant. What he has asked for is still done.
func (h *Hub) removeLocked(p *participant) {
	delete(h.parts, p.ID)
	if p.grace != nil {
		p.grace.Stop()
		p.grace = nil
	}
	if h.keyboard.holder.ID == p.ID && h.keyboard.held {
		h.keyboard.held = false
	}
}

// request serves one request of a participant and returns the reply.
func (h *Hub) request(p *participant, r request) (reply, error) {
	h.mu.Lock()
	if r.ID <= p.taken {
		// Sent again: the reply was lost.
		served := p.served
		h.mu.Unlock()
		// The connection that it came on first may be serving it still.
		select {
		case <-served:
		case <-h.ctx.Done():
			return reply{}, errEnded
		}
		h.mu.Lock()
		old, ok := p.replies[r.ID]
		h.mu.Unlock()
		if !ok {
			old = reply{ID: r.ID, OK: true, Done: true}
		}
		return old, nil
	}
	if r.ID != p.taken+1 {
		h.mu.Unlock()
		return reply{}, protocolErrorf("request %d behind %d", r.ID, p.taken)
	}
	p.taken = r.ID
	served := make(chan struct{})
	p.served = served
	host := h.host
	h.mu.Unlock()
	rep := h.serve(p, r, host)
	rep.ID = r.ID
	h.mu.Lock()
	p.replies[r.ID] = rep
	delete(p.replies, r.ID-maxReplies)
	h.mu.Unlock()
	close(served)
	return rep, nil
}

// serve does what is asked.
func (h *Hub) serve(p *participant, r request, host Host) reply {
	no := func(format string, a ...any) reply { return reply{Text: fmt.Sprintf(format, a...), Done: true} }
	if host == nil {
		return no("the session is not ready yet")
	}
	h.mu.Lock()
	p.active = h.o.Now()
	readOnly, closed := p.readOnly, h.closed
	h.mu.Unlock()
	if closed {
		return no("the session has ended")
	}
	text := strings.TrimRight(r.Text, "\r\n")
	if r.Op == OpCommand && h.chat(p, text, readOnly) {
		return reply{OK: true, Done: true}
	}
	if readOnly {
		return no("this client may only look; .echo <text> is shown to all")
	}
	if r.Op == OpCommand {
		if done, rep := h.keyboardLine(p.Person, text); done {
			return rep
		}
	}
	if why := h.MayType(p.Person); why != "" && r.Op != OpBreakIn && r.Op != OpInterrupt {
		return no("%s", why)
	}
	switch r.Op {
	case OpCommand:
		switch {
		case len(text) > MaxLine:
			return no("the line has %d bytes; at most %d are taken", len(text), MaxLine)
		case strings.ContainsAny(text, "\r\n"):
			return no("a request is one line")
		}
		if said, served := host.Early(p.Person, text); served {
			h.audit(p, "command", text)
			return reply{Text: said, OK: true, Done: true}
		}
		h.mu.Lock()
		if p.queued >= maxQueue {
			h.mu.Unlock()
			return no("%d lines of this client wait already", maxQueue)
		}
		p.queued++
		h.queue = append(h.queue, queued{p, Line{Person: p.Person, Request: r.ID, Text: text}})
		h.mu.Unlock()
		h.arrived()
		return reply{OK: true}
	case OpBreakIn, OpInterrupt, OpAnswer, OpKey:
		h.audit(p, opNames[r.Op], text)
		if err := host.Do(p.Person, r.Op, text); err != nil {
			return no("%v", err)
		}
		return reply{OK: true, Done: true}
	}
	return no("request %d is not known here", r.Op)
}

var opNames = map[Op]string{OpBreakIn: "breakin", OpInterrupt: "interrupt", OpAnswer: "answer", OpKey: "key"}

func (h *Hub) audit(p *participant, what, text string) {
	text = Masked(text)
	h.o.Logger.Info("asked", "audit", what, "owner", p.Name, "id", p.ID, "command", clean(text, 4096))
}

// chat serves .echo of those who may only look: it reaches no command.
func (h *Hub) chat(p *participant, text string, readOnly bool) bool {
	word, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
	if !readOnly || !strings.EqualFold(word, ".echo") {
		return false
	}
	h.announce(Entry{From: p.ID, Who: p.Name, Name: "chat", Text: fmt.Sprintf("[%s] %s\n", p.Name, clip(Shown(rest), 4096))})
	return true
}

// Close tells everybody that the session has ended, and why, closes the doors,
// and waits for what the hub has started.
func (h *Hub) Close(text string) {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		h.wg.Wait()
		return
	}
	h.closed, h.ending = true, text
	for c := range h.conns {
		poke(c.wake)
	}
	for _, p := range h.parts {
		if p.grace != nil {
			p.grace.Stop()
		}
	}
	h.mu.Unlock()
	h.closeDoors()
	h.stop()
	h.wg.Wait()
}

// Via is how a connection came in.
type Via struct {
	Door     int
	Proto    string // "tcp", "npipe" ...
	ReadOnly bool   // who comes through may only look
}

// at names the other end of a connection.
func (v Via) at(conn net.Conn) string {
	proto := v.Proto
	if proto == "" {
		proto = "local"
	}
	if a := conn.RemoteAddr(); a != nil {
		if _, err := net.ResolveTCPAddr("tcp", a.String()); err == nil && strings.Contains(a.String(), ":") {
			return proto + " " + a.String()
		}
	}
	return proto
}

// clients lists the participants by number.
func (h *Hub) clients() []*participant {
	h.mu.Lock()
	defer h.mu.Unlock()
	var l []*participant
	for _, p := range h.parts {
		c := *p
		l = append(l, &c)
	}
	slices.SortFunc(l, func(a, b *participant) int { return int(a.ID) - int(b.ID) })
	return l
}
