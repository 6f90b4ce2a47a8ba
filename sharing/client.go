package sharing

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/user"
	"slices"
	"strings"
	"sync"
	"time"
)

// Viewer is what a client shows a session to. Its methods are called by one
// goroutine at a time, in the order of the session, and may take their time:
// the hub drops who takes too long.
type Viewer interface {
	// Joined is called at the beginning and whenever the client is a new
	// participant or has missed something.
	Joined(s Session)
	// Entry is the next step of the session. mine is the number that Send gave
	// to the line which it belongs to, 0 if it is somebody else's.
	Entry(e Entry, mine uint64)
	// Reply says what became of a request: ok, it was taken; done, no result of
	// it will come. text is for who sent it.
	Reply(id uint64, ok, done bool, text string)
	// Link tells about the connection: lost, there again.
	Link(text string)
}

// Session is what a client knows of the session it has joined.
type Session struct {
	Program  string // what is shared: "kd"
	Title    string
	Release  string // of the server
	ID       uint32 // this client among the participants
	ReadOnly bool
	Secure   bool // the session is in Secure Mode
	// History: entries up to this one were there before; what follows is how the
	// session stood then.
	History uint64
	Shown   uint64 // the entries that come begin behind this one
	Above   uint64 // lines of the session that come before those
	State   string
	Prompt  string // that this client may answer
	Stop    []byte // JSON: the fields of the last halted event
}

// ClientOptions of Join. Zero fields take the defaults.
type ClientOptions struct {
	Dial     func(ctx context.Context) (net.Conn, error)
	Where    string // the transport, for errors
	Name     string // machine\user; "": of this process
	Release  string
	ReadOnly bool
	Lines    int // of history wanted; 0: what the server keeps; -1: none
	Timeouts Timeouts
	Patience time.Duration    // for a lost connection to come back: 2 min
	Retry    time.Duration    // the first wait between two attempts: 200 ms, growing to 5 s
	Fatal    func(error) bool // errors of Dial that no further attempt mends
}

// maxUnanswered bounds the requests that wait for their reply.
const maxUnanswered = 256

// ErrBusy is what Send says when too many requests wait.
var ErrBusy = errors.New("too many lines wait for the server")

// Ended is how a client ends when the other side says so.
type Ended struct {
	Text   string
	Person bool // only this client's part has ended
}

func (e *Ended) Error() string {
	if e.Text == "" {
		return "the session has ended"
	}
	return e.Text
}

// WrongServer says that something else than a shared session answers.
type WrongServer struct {
	Where  string
	Kernel bool // a KD connection server
	Err    error
}

func (e *WrongServer) Error() string {
	if e.Kernel {
		return fmt.Sprintf(`what answers at %s is a KD connection server, not a shared session: use kd -k "kdsrv:server=@{%s},trans=@{<link>}"`, e.Where, e.Where)
	}
	return fmt.Sprintf("what answers at %s is no shared session (%v); a KD connection server is used with kd -k \"kdsrv:server=@{%s},trans=@{<link>}\"", e.Where, e.Err, e.Where)
}

func (e *WrongServer) Unwrap() error { return e.Err }

// Client is one participant in a session somewhere else.
//
// Concurrency: Send, Leave and Close may be called from any goroutine.
type Client struct {
	o    ClientOptions
	v    Viewer
	ctx  context.Context
	stop context.CancelFunc
	done chan struct{} // nothing more will come, and err is why
	gone chan struct{} // all goroutines have ended

	mu      sync.Mutex
	session []byte
	token   []byte
	info    Session
	last    uint64    // the last entry that was shown
	lines   uint64    // of the session up to there
	next    uint64    // number of the next request
	base    uint64    // numbers on the wire are less by this
	pending []request // no reply yet; numbers as Send gave them
	sent    int       // of pending, on this connection
	open    map[uint64]bool
	wake    chan struct{}
	bye     bool
	over    bool // done is closed
	err     error

	completes bool // the server answers asks
	asks      uint64
	waiting   *waiting // who waits for an answer; nil: nobody
	unasked   bool     // it has not gone out yet
}

// Name is machine\user of this process.
func Name() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "?"
	}
	name := ""
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if strings.Contains(name, `\`) { // Windows says domain\user
		return name
	}
	if name == "" {
		name = "?"
	}
	return host + `\` + name
}

// Join joins a session. ctx bounds the first connection; when ctx ends later
// nothing happens. Errors: *WrongServer, *Refusal, those of Dial.
func Join(ctx context.Context, o ClientOptions, v Viewer) (*Client, error) {
	if o.Name == "" {
		o.Name = Name()
	}
	if o.Patience <= 0 {
		o.Patience = 2 * time.Minute
	}
	if o.Retry <= 0 {
		o.Retry = 200 * time.Millisecond
	}
	o.Timeouts = o.Timeouts.withDefaults()
	c := &Client{o: o, v: v, next: 1, open: make(map[uint64]bool), wake: make(chan struct{}, 1), done: make(chan struct{}), gone: make(chan struct{})}
	c.ctx, c.stop = context.WithCancel(context.Background())
	w, err := c.connect(ctx)
	if err != nil {
		c.stop()
		return nil, err
	}
	go c.run(w)
	return c, nil
}

// Done is closed when the client has ended; Err says why then.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err is why the client ended: nil after Leave, *Ended when the other side said
// so.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Session is what is known of the session.
func (c *Client) Session() Session {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.info
}

// Send asks for something and returns its number. It does not wait: the request
// goes out as soon as there is a connection, once. ErrBusy: too much waits.
func (c *Client) Send(op Op, text string) (uint64, error) {
	if len(text) > MaxLine {
		return 0, fmt.Errorf("the line has %d bytes; a shared session takes at most %d", len(text), MaxLine)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pending) >= maxUnanswered {
		return 0, ErrBusy
	}
	select {
	case <-c.done:
		return 0, errEnded
	default:
	}
	id := c.next
	c.next++
	c.pending = append(c.pending, request{ID: id, Op: op, Text: text})
	if op == OpCommand {
		c.open[id] = true
	}
	poke(c.wake)
	return id, nil
}

// Leave says good-bye and ends the client. Requests that were sent are still
// taken by the server; those that were not within the time are dropped.
func (c *Client) Leave(within time.Duration) {
	c.mu.Lock()
	c.bye = true
	poke(c.wake)
	c.mu.Unlock()
	t := time.NewTimer(within)
	defer t.Stop()
	select {
	case <-c.done:
	case <-t.C:
	}
	c.Close()
}

// Close ends the client at once and waits for its goroutines.
func (c *Client) Close() {
	c.stop()
	<-c.gone
}

// connect dials and joins.
func (c *Client) connect(ctx context.Context) (*wire, error) {
	conn, err := c.o.Dial(ctx)
	if err != nil {
		return nil, err
	}
	w := newWire(conn, c.o.Timeouts)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	late := false
	var lateMu sync.Mutex
	timer := time.AfterFunc(c.o.Timeouts.Hello, func() {
		lateMu.Lock()
		late = true
		lateMu.Unlock()
		conn.Close()
	})
	defer timer.Stop()
	j, h, err := c.join(w)
	timer.Stop()
	if err != nil {
		conn.Close()
		lateMu.Lock()
		defer lateMu.Unlock()
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case late:
			return nil, &WrongServer{Where: c.o.Where, Err: fmt.Errorf("no answer within %v", c.o.Timeouts.Hello)}
		}
		return nil, err
	}
	c.entered(j, h)
	return w, nil
}

// join speaks the hello and says who comes.
func (c *Client) join(w *wire) (j joined, h hello, err error) {
	if err := w.send(kindHello, encode(hello{Magic: magic, Release: c.o.Release, Min: ProtocolMin, Max: ProtocolMax})); err != nil {
		return j, h, err
	}
	wrong := func(err error) error { return &WrongServer{Where: c.o.Where, Err: err} }
	k, b, err := w.next()
	switch {
	case errors.Is(err, io.EOF):
		return j, h, wrong(errors.New("it ended the connection without a word"))
	case err != nil:
		var pe *ProtocolError
		if errors.As(err, &pe) {
			return j, h, wrong(err)
		}
		return j, h, err
	case k == kindRefuse:
		var r Refusal
		if err := decode(b, &r); err != nil {
			return j, h, wrong(err)
		}
		return j, h, &r
	case k != kindHello:
		return j, h, wrong(fmt.Errorf("it begins with a frame of kind %#x", uint8(k)))
	}
	if err := decode(b, &h); err != nil {
		return j, h, wrong(err)
	}
	switch {
	case h.Magic == magicKdrpc:
		return j, h, &WrongServer{Where: c.o.Where, Kernel: true}
	case h.Magic != magic:
		return j, h, wrong(errors.New("its hello is of something else"))
	case h.Min > ProtocolMax || h.Max < ProtocolMin:
		return j, h, &Refusal{Code: RefusedVersion, Release: h.Release, Min: h.Min, Max: h.Max}
	}
	c.mu.Lock()
	ask := join{Name: c.o.Name, Session: c.session, Token: c.token, After: c.last, ReadOnly: c.o.ReadOnly, Lines: c.o.Lines}
	c.mu.Unlock()
	if err := w.send(kindJoin, encode(ask)); err != nil {
		return j, h, err
	}
	if k, b, err = w.next(); err != nil {
		return j, h, err
	}
	switch k {
	case kindJoined:
		return j, h, decode(b, &j)
	case kindRefuse:
		var r Refusal
		if err := decode(b, &r); err != nil {
			return j, h, err
		}
		return j, h, &r
	}
	return j, h, protocolErrorf("a frame of kind %#x instead of joined", uint8(k))
}

// entered takes what the server said about the client's place.
func (c *Client) entered(j joined, h hello) {
	c.mu.Lock()
	first := c.session == nil
	other := !first && !bytes.Equal(c.session, j.Session)
	c.session, c.token = j.Session, j.Token
	c.info = Session{Program: clean(h.Program, maxName), Title: clean(j.Title, 512), Release: clean(h.Release, maxName), ID: j.ID, ReadOnly: j.ReadOnly, Secure: j.Secure, History: j.Now, Shown: j.After, State: clean(j.State, maxName), Stop: j.Stop}
	if j.PromptOf == 0 || j.PromptOf == j.ID {
		c.info.Prompt = j.Prompt
	}
	c.info.Above = j.Lines
	missed := j.Lines - min(c.lines, j.Lines)
	c.last, c.lines = j.After, j.Lines
	var unknown []uint64
	if !first && (j.Fresh || j.Missed > 0) {
		// What became of these will not be told any more.
		for id := range c.open {
			if j.Fresh || !slices.ContainsFunc(c.pending, func(r request) bool { return r.ID == id }) {
				unknown = append(unknown, id)
				delete(c.open, id)
			}
		}
		slices.Sort(unknown)
	}
	if j.Fresh {
		c.pending = nil
		c.base = c.next - 1
	}
	c.sent = 0
	c.completes = slices.Contains(h.Capabilities, canComplete)
	info := c.info
	c.mu.Unlock()
	if first {
		c.v.Joined(info)
		return
	}
	switch {
	case other:
		c.v.Link("Connected again, but to another session than before.")
	case j.Missed > 0:
		c.v.Link(fmt.Sprintf("Connected again. %d lines of the session are missing here: the server does not keep them any more.", missed))
	default:
		c.v.Link("Connected again; nothing was missed.")
	}
	if j.Fresh || j.Missed > 0 {
		c.v.Joined(info)
	}
	for _, id := range unknown {
		c.v.Reply(id, false, true, "The connection was lost for too long: whether this was done is not known.")
	}
}

// run keeps the client connected until it ends.
func (c *Client) run(w *wire) {
	defer close(c.gone)
	defer c.end(nil)
	defer c.stop()
	for {
		err := c.serve(w)
		w.conn.Close()
		c.unanswered()
		var over *Ended
		switch {
		case c.ctx.Err() != nil || err == nil:
			return
		case errors.As(err, &over):
			return
		}
		c.v.Link(fmt.Sprintf("The connection to %s is lost (%v). It is made again.", c.o.Where, err))
		if w, err = c.reconnect(); err != nil {
			c.end(err)
			return
		}
	}
}

// end notes why the client ends; the first time counts.
func (c *Client) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	if c.ctx.Err() == nil {
		c.err = err
	}
	c.over = true
	close(c.done)
}

// reconnect tries until it works, Patience has passed or nothing helps.
func (c *Client) reconnect() (*wire, error) {
	until := time.Now().Add(c.o.Patience)
	wait := c.o.Retry
	for {
		ctx, cancel := context.WithDeadline(c.ctx, until)
		w, err := c.connect(ctx)
		cancel()
		if err == nil {
			return w, nil
		}
		var ref *Refusal
		var wrong *WrongServer
		switch {
		case c.ctx.Err() != nil:
			return nil, c.ctx.Err()
		case errors.As(err, &ref) && ref.Code != RefusedFull, errors.As(err, &wrong) && wrong.Kernel, c.o.Fatal != nil && c.o.Fatal(err):
			return nil, err
		case time.Now().Add(wait).After(until):
			return nil, fmt.Errorf("the connection did not come back within %v: %w", c.o.Patience, err)
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-c.ctx.Done():
			t.Stop()
			return nil, c.ctx.Err()
		}
		wait = min(2*wait, 5*time.Second)
	}
}

// serve reads one connection until it ends; nil: the client has left.
func (c *Client) serve(w *wire) error {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	left := make(chan struct{})
	wg.Go(func() {
		if c.write(w, stop) {
			close(left)
		}
		// The other side hangs up: with something unread here, hanging up would
		// take the good-bye back. One that takes no more may have said why.
		t := time.NewTimer(2 * time.Second)
		defer t.Stop()
		select {
		case <-t.C:
		case <-stop:
		case <-c.ctx.Done():
		}
		w.conn.Close()
	})
	cancel := context.AfterFunc(c.ctx, func() { w.conn.Close() })
	defer cancel()
	err := c.read(w)
	select {
	case <-left:
		return nil
	default:
	}
	c.mu.Lock()
	leaving := c.bye && len(c.pending) == 0
	c.mu.Unlock()
	if leaving {
		return nil
	}
	// The end is known here before the other side sees that this one hangs up:
	// what happens there then comes later.
	if over := new(Ended); errors.As(err, &over) {
		c.end(over)
	}
	return err
}

// write sends requests and pings; true: the client has said good-bye.
func (c *Client) write(w *wire, stop chan struct{}) bool {
	ping := time.NewTicker(c.o.Timeouts.Ping)
	defer ping.Stop()
	for {
		c.mu.Lock()
		var r request
		more := c.sent < len(c.pending)
		if more {
			r = c.pending[c.sent]
			r.ID -= c.base
			c.sent++
		}
		bye := c.bye && len(c.pending) == 0
		question, asks := c.toAskLocked()
		c.mu.Unlock()
		if asks && w.send(kindAsk, encode(question)) != nil {
			return false
		}
		switch {
		case more:
			if w.send(kindRequest, encode(r)) != nil {
				return false
			}
			continue
		case bye:
			w.send(kindBye, nil)
			return true
		}
		select {
		case <-c.wake:
		case <-ping.C:
			if w.send(kindPing, nil) != nil {
				return false
			}
		case <-stop:
			return false
		case <-c.ctx.Done():
			return false
		}
	}
}

func (c *Client) read(w *wire) error {
	for {
		k, b, err := w.next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the other side closed it")
			}
			return err
		}
		switch k {
		case kindEntries:
			var l []Entry
			if err := decode(b, &l); err != nil {
				return err
			}
			for _, e := range l {
				if err := c.entry(e); err != nil {
					return err
				}
			}
		case kindReply:
			var r reply
			if err := decode(b, &r); err != nil {
				return err
			}
			c.reply(r)
		case kindAnswer:
			var a answer
			if err := decode(b, &a); err != nil {
				return err
			}
			c.answered(a)
		case kindEnd:
			var e end
			if err := decode(b, &e); err != nil {
				return err
			}
			return &Ended{Text: clean(e.Text, 1024), Person: e.Code == 1}
		}
	}
}

func (c *Client) entry(e Entry) error {
	c.mu.Lock()
	if e.Seq != c.last+1 {
		last := c.last
		c.mu.Unlock()
		return protocolErrorf("entry %d behind %d", e.Seq, last)
	}
	c.last = e.Seq
	c.lines += uint64(e.lines())
	var mine uint64
	if e.From == c.info.ID && (e.Kind == EntryCommand || e.Kind == EntryResult) && e.ID > 0 {
		mine = e.ID + c.base
		if e.Kind == EntryResult {
			delete(c.open, mine)
		}
	}
	c.mu.Unlock()
	c.v.Entry(e, mine)
	return nil
}

func (c *Client) reply(r reply) {
	c.mu.Lock()
	id := r.ID + c.base
	i := slices.IndexFunc(c.pending, func(p request) bool { return p.ID == id })
	if i < 0 || i >= c.sent {
		c.mu.Unlock()
		return // to one that was answered before the connection was lost
	}
	c.pending = slices.Delete(c.pending, i, i+1)
	c.sent--
	if r.Done {
		delete(c.open, id)
	}
	if c.bye {
		poke(c.wake)
	}
	c.mu.Unlock()
	c.v.Reply(id, r.OK, r.Done, r.Text)
}
