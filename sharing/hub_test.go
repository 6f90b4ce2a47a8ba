package sharing

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait; nothing comes near it.
const patience = 30 * time.Second

// program is a shared program: it answers each line with itself.
type program struct {
	h    *Hub
	own  viewText // what its own console shows
	stop chan struct{}
	wg   sync.WaitGroup

	early func() // nil, or what it does meanwhile

	order sync.Mutex
	mu    sync.Mutex
	done  []string // Do
}

// viewText collects text.
type viewText struct {
	mu sync.Mutex
	b  strings.Builder
	c  chan struct{}
}

func (v *viewText) add(s string) {
	v.mu.Lock()
	v.b.WriteString(s)
	v.mu.Unlock()
	poke(v.c)
}

func (v *viewText) text() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.b.String()
}

// until waits until the text holds what is asked for.
func (v *viewText) until(t *testing.T, part string) {
	t.Helper()
	end := time.After(patience)
	for !strings.Contains(v.text(), part) {
		select {
		case <-v.c:
		case <-end:
			t.Fatalf("%q was not shown:\n%s", part, v.text())
		}
	}
}

// put appends and shows in one order.
func (p *program) put(e Entry, text string) {
	p.order.Lock()
	defer p.order.Unlock()
	p.h.Append(e)
	p.own.add(text)
}

func (p *program) Announce(e Entry) { p.put(e, e.Text) }

func (p *program) Do(who Person, op Op, text string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = append(p.done, fmt.Sprintf("%s %d %s", who.Name, op, text))
	if text == "fail" {
		return errors.New("as asked")
	}
	return nil
}

func (p *program) Early(who Person, line string) (string, bool) {
	if p.early != nil && line == "early" {
		p.early()
	}
	return "for " + who.Name + " only", line == "early"
}

// run answers lines until the test ends: "say text" says it, "block" waits for
// gate.
func (p *program) run(gate chan struct{}) {
	arrival := make(chan struct{}, 1)
	p.h.OnArrival(func() { poke(arrival) })
	n := 0
	for {
		p.h.SetPrompt(p.h.PromptMark()+fmt.Sprintf("%d> ", n), "halted", 0)
		l, ok := p.h.Take(func() bool { return false })
		if !ok {
			select {
			case <-arrival:
				continue
			case <-p.stop:
				return
			}
		}
		n++
		p.order.Lock()
		p.h.Command(l, fmt.Sprintf("%d> ", n-1))
		p.own.add(fmt.Sprintf("[%s] %d> %s\n", l.Name, n-1, l.Text))
		p.order.Unlock()
		if l.Text == "block" {
			select {
			case <-gate:
			case <-p.stop:
			}
		}
		out := "answer to " + l.Text + "\n"
		p.put(Entry{Kind: EntryText, Text: out}, out)
		p.h.Append(Entry{Kind: EntryResult, From: l.ID, ID: l.Request, OK: true, Name: "halted"})
	}
}

func newProgram(t *testing.T, o Options, gate chan struct{}) *program {
	o.Machine = "BOX"
	p := &program{h: NewHub(o), stop: make(chan struct{})}
	p.own.c = make(chan struct{}, 1)
	p.h.Attach(p)
	p.wg.Go(func() { p.run(gate) })
	t.Cleanup(func() {
		p.h.Close("The test is over.")
		close(p.stop)
		p.wg.Wait()
	})
	return p
}

// guest is a client that writes down what it sees.
type guest struct {
	viewText
	t    *testing.T
	c    *Client
	info Session

	mu      sync.Mutex
	replies map[uint64]string
	results map[uint64]bool
	links   []string
	conn    net.Conn // the current one
}

func (g *guest) Joined(s Session) { g.info = s }

func (g *guest) Entry(e Entry, mine uint64) {
	switch e.Kind {
	case EntryText, EntryEvent, EntryNotice:
		g.add(e.Text)
	case EntryCommand:
		who := ""
		if e.From != 0 {
			who = "[" + e.Who + "] "
		}
		g.add(who + e.Prompt + e.Text + "\n")
	case EntryResult:
		if mine > 0 {
			g.mu.Lock()
			g.results[mine] = e.OK
			g.mu.Unlock()
			poke(g.c2())
		}
	}
}

func (g *guest) c2() chan struct{} { return g.viewText.c }

func (g *guest) Reply(id uint64, ok, done bool, text string) {
	g.mu.Lock()
	g.replies[id] = fmt.Sprintf("%v %v %s", ok, done, text)
	g.mu.Unlock()
	poke(g.viewText.c)
}

func (g *guest) Link(text string) {
	g.mu.Lock()
	g.links = append(g.links, text)
	g.mu.Unlock()
	poke(g.viewText.c)
}

func (g *guest) wait(what string, ok func() bool) {
	g.t.Helper()
	end := time.After(patience)
	for {
		g.mu.Lock()
		is := ok()
		g.mu.Unlock()
		if is {
			return
		}
		select {
		case <-g.viewText.c:
		case <-time.After(20 * time.Millisecond):
		case <-end:
			g.t.Fatalf("%s did not come about:\n%s\n%v", what, g.text(), g.replies)
		}
	}
}

// send asks for something and waits for the reply.
func (g *guest) send(op Op, text string) (id uint64, reply string) {
	g.t.Helper()
	id, err := g.c.Send(op, text)
	if err != nil {
		g.t.Fatal(err)
	}
	g.wait("the reply to "+text, func() bool { reply = g.replies[id]; return reply != "" })
	return id, reply
}

// run runs a line and waits for its end.
func (g *guest) run(line string) {
	g.t.Helper()
	id, reply := g.send(OpCommand, line)
	if reply != "true false " {
		g.t.Fatalf("%s: %s", line, reply)
	}
	g.wait("the end of "+line, func() bool { return g.results[id] })
}

// counts says how many lines the guest has seen, and how many there were, when
// it has seen all.
func (g *guest) counts(p *program, last string) (seen, all int) {
	g.t.Helper()
	p.h.Append(Entry{Kind: EntryText, Text: last + "\n"})
	g.until(g.t, last)
	p.h.mu.Lock()
	defer p.h.mu.Unlock()
	return strings.Count(g.text(), "\n"), int(p.h.log.lines)
}

// cut breaks the connection.
func (g *guest) cut() {
	g.mu.Lock()
	c := g.conn
	g.mu.Unlock()
	c.Close()
}

func join3(t *testing.T, p *program, name string, via Via, change func(*ClientOptions)) *guest {
	t.Helper()
	g, err := tryJoin(t, p, name, via, change)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func tryJoin(t *testing.T, p *program, name string, via Via, change func(*ClientOptions)) (*guest, error) {
	g := &guest{t: t, replies: map[uint64]string{}, results: map[uint64]bool{}}
	g.viewText.c = make(chan struct{}, 1)
	o := ClientOptions{Name: name, Where: "here", Retry: time.Millisecond, Dial: func(ctx context.Context) (net.Conn, error) {
		a, b := net.Pipe()
		p.h.mu.Lock()
		if !p.h.closed {
			p.h.wg.Go(func() { p.h.Serve(context.Background(), b, via) })
		} else {
			b.Close()
		}
		p.h.mu.Unlock()
		g.mu.Lock()
		g.conn = a
		g.mu.Unlock()
		return a, nil
	}}
	if change != nil {
		change(&o)
	}
	c, err := Join(context.Background(), o, g)
	if err != nil {
		return nil, err
	}
	g.c = c
	t.Cleanup(c.Close)
	return g, nil
}

// TestTogether: three people see the same in the same order, one who comes
// later sees the history, and the end is told to all.
func TestTogether(t *testing.T) {
	p := newProgram(t, Options{}, nil)
	ann := join3(t, p, "BOX\\ann", Via{}, nil)
	ben := join3(t, p, "BOX\\ben", Via{}, nil)
	var wg sync.WaitGroup
	for _, g := range []*guest{ann, ben} {
		wg.Go(func() {
			for i := range 50 {
				g.run(fmt.Sprintf("%s %d", g.c.o.Name, i))
			}
		})
	}
	for i := range 100 {
		text := fmt.Sprintf("print %d\n", i)
		p.put(Entry{Kind: EntryEvent, Name: "print", Text: text}, text)
	}
	wg.Wait()
	cat := join3(t, p, "BOX\\cat", Via{}, nil)
	cat.run("last")
	last := "answer to last\n"
	for _, g := range []*guest{ann, ben, cat} {
		g.until(t, last)
	}
	want := p.own.text()
	for _, g := range []*guest{ann, ben, cat} {
		if got := g.text(); got != want {
			t.Errorf("%s sees\n%s\nthe server\n%s", g.c.o.Name, got, want)
		}
	}
	if n := strings.Count(want, "answer to"); n != 101 {
		t.Errorf("%d answers", n)
	}
	p.h.Close("The session is over.")
	for _, g := range []*guest{ann, ben, cat} {
		<-g.c.Done()
		var e *Ended
		if err := g.c.Err(); !errors.As(err, &e) || e.Text != "The session is over." || e.Person {
			t.Errorf("%s ended with %v", g.c.o.Name, err)
		}
	}
}

// TestOrder: lines run in the order in which they came, those of the program's
// own console among them.
func TestOrder(t *testing.T) {
	h := NewHub(Options{})
	defer h.Close("")
	p := &program{h: h}
	h.Attach(p)
	add := func(id uint32, text string) {
		x := h.parts[id]
		if x == nil {
			x = &participant{Person: Person{ID: id, Name: fmt.Sprint(id)}, replies: map[uint64]reply{}}
			h.parts[id] = x
		}
		if r, err := h.request(x, request{ID: x.taken + 1, Op: OpCommand, Text: text}); err != nil || !r.OK {
			t.Fatal(r, err)
		}
	}
	var local []string
	type0 := func(text string) { local = append(local, text); h.Local() }
	add(1, "a")
	type0("b")
	add(2, "c")
	add(1, "d")
	type0("e")
	var got []string
	for range 5 {
		l, ok := h.Take(func() bool { return len(local) > 0 })
		if !ok {
			l.Text, local = local[0], local[1:]
			h.TookLocal()
		}
		got = append(got, l.Text)
	}
	if s := strings.Join(got, ""); s != "abcde" {
		t.Errorf("they run in the order %s", s)
	}
}

// TestComeBack: connections that break again and again cost nobody a line, and
// no command runs twice.
func TestComeBack(t *testing.T) {
	p := newProgram(t, Options{}, nil)
	ann := join3(t, p, "ann", Via{}, nil)
	watch := join3(t, p, "watch", Via{ReadOnly: true}, nil)
	const n = 120
	for i := range n {
		if i%7 == 3 {
			ann.cut()
		}
		if i%11 == 5 {
			watch.cut()
		}
		ann.run(fmt.Sprintf("line %d.", i))
	}
	if got := strings.Count(p.own.text(), "answer to"); got != n {
		t.Errorf("%d of %d lines were run", got, n)
	}
	ann.run("last")
	for _, g := range []*guest{ann, watch} {
		g.until(t, "answer to last\n")
		for i := range n {
			if got := strings.Count(g.text(), fmt.Sprintf("answer to line %d.\n", i)); got != 1 {
				t.Errorf("%s saw the answer to line %d %d times", g.c.o.Name, i, got)
			}
		}
	}
	if l := p.h.clientList(); strings.Count(l, "id ") != 2 {
		t.Errorf("who comes back is not somebody new:\n%s", l)
	}
}

// TestGone: what a client that is away for too long does not know it is told.
func TestGone(t *testing.T) {
	p := newProgram(t, Options{Grace: time.Millisecond}, nil)
	p.h.log.maxEntries = 20
	hold := make(chan struct{})
	ann := join3(t, p, "ann", Via{}, func(o *ClientOptions) {
		dial, first := o.Dial, true
		o.Dial = func(ctx context.Context) (net.Conn, error) {
			if !first {
				<-hold
			}
			first = false
			return dial(ctx)
		}
	})
	ann.run("one")
	ann.cut()
	p.own.until(t, "ann (local) has not come back")
	for i := range 50 {
		p.h.Append(Entry{Kind: EntryText, Text: fmt.Sprintf("missed %d\n", i)})
	}
	close(hold)
	ann.wait("the way back", func() bool { return len(ann.links) == 2 })
	ann.run("two")
	// What it saw and what it was told to have missed is all there was.
	var missed int
	fmt.Sscanf(ann.links[1], "Connected again. %d lines of the session are missing here", &missed)
	if seen, all := ann.counts(p, "the end for ann"); missed < 50-20 || seen+missed != all {
		t.Errorf("%d lines were seen, %d are said to be missing, of %d: %q", seen, missed, all, ann.links)
	}
	// So is what came before the history of somebody new.
	ben := join3(t, p, "ben", Via{}, func(o *ClientOptions) { o.Lines = 3 })
	if seen, all := ben.counts(p, "the end for ben"); ben.info.Above == 0 || seen+int(ben.info.Above) != all {
		t.Errorf("%d lines were seen, %d came before them, of %d", seen, ben.info.Above, all)
	}
}

// TestServedStill: a request that is sent again while the first connection is
// still at it gets the reply of the first one, and is served once.
func TestServedStill(t *testing.T) {
	p := newProgram(t, Options{}, nil)
	begun, gate := make(chan struct{}, 8), make(chan struct{})
	p.early = func() { begun <- struct{}{}; <-gate }
	dials := make(chan struct{}, 8)
	ann := join3(t, p, "ann", Via{}, func(o *ClientOptions) {
		dial := o.Dial
		o.Dial = func(ctx context.Context) (net.Conn, error) {
			dials <- struct{}{}
			return dial(ctx)
		}
	})
	<-dials
	id, err := ann.c.Send(OpCommand, "early")
	if err != nil {
		t.Fatal(err)
	}
	<-begun
	ann.cut()
	<-dials
	ann.wait("the way back", func() bool { return len(ann.links) == 2 })
	watch := join3(t, p, "watch", Via{}, nil)
	watch.run("x") // time for a wrong reply
	close(gate)
	ann.wait("the reply", func() bool { return ann.replies[id] != "" })
	if got := ann.replies[id]; got != "true true for ann only" || len(begun) != 0 {
		t.Errorf("the reply is %q, served %d times more", got, len(begun))
	}
}

// TestSlow: one that reads nothing holds nobody up and is dropped with a note.
func TestSlow(t *testing.T) {
	p := newProgram(t, Options{}, nil)
	p.h.log.maxEntries = 1000
	ann := join3(t, p, "ann", Via{}, nil)
	// This one says hello and never reads again.
	a, b := net.Pipe()
	p.h.wg.Go(func() { p.h.Serve(context.Background(), b, Via{Proto: "tcp"}) })
	w := newWire(a, Timeouts{}.withDefaults())
	w.send(kindHello, encode(hello{Magic: magic, Min: 1, Max: 1}))
	if k, _, err := w.next(); k != kindHello || err != nil {
		t.Fatal(k, err)
	}
	w.send(kindJoin, encode(join{Name: "sloth"}))
	if k, _, err := w.next(); k != kindJoined || err != nil {
		t.Fatal(k, err)
	}
	for i := range 3000 {
		p.h.Append(Entry{Kind: EntryText, Text: fmt.Sprintf("text %d\n", i)})
		if i%100 == 0 {
			ann.run(fmt.Sprint("still quick ", i))
		}
	}
	// It reads on, much too late.
	go io.Copy(io.Discard, a)
	ann.until(t, "sloth (tcp) does not keep up with the session and was dropped")
	a.Close()
	if l := p.h.clientList(); strings.Contains(l, "sloth") {
		t.Errorf("it is still there:\n%s", l)
	}
}

// TestStalled: one that takes nothing is dropped after a while, whatever the
// log holds.
func TestStalled(t *testing.T) {
	p := newProgram(t, Options{Timeouts: Timeouts{Write: 50 * time.Millisecond}}, nil)
	ann := join3(t, p, "ann", Via{}, nil)
	a, b := net.Pipe()
	p.h.wg.Go(func() { p.h.Serve(context.Background(), b, Via{}) })
	w := newWire(a, Timeouts{}.withDefaults())
	w.send(kindHello, encode(hello{Magic: magic, Min: 1, Max: 1}))
	w.next()
	w.send(kindJoin, encode(join{Name: "wall"}))
	w.next()
	ann.until(t, "wall (local) takes nothing and was dropped")
	a.Close()
}

// TestReadOnly: who may only look sees all, chats, and types nothing.
func TestReadOnly(t *testing.T) {
	p := newProgram(t, Options{}, nil)
	ann := join3(t, p, "ann", Via{}, nil)
	eve := join3(t, p, "eve", Via{ReadOnly: true}, nil)
	own := join3(t, p, "own", Via{}, func(o *ClientOptions) { o.ReadOnly = true })
	for _, g := range []*guest{eve, own} {
		if !g.c.Session().ReadOnly {
			t.Errorf("%s may type", g.c.o.Name)
		}
		for _, x := range []struct {
			op   Op
			text string
		}{{OpCommand, "r"}, {OpBreakIn, ""}, {OpInterrupt, ""}, {OpKey, "\x12"}, {OpAnswer, "i"}, {OpCommand, ".keyboard take"}, {OpCommand, "early"}} {
			if _, got := g.send(x.op, x.text); !strings.HasPrefix(got, "false true this client may only look") {
				t.Errorf("%s: %d %q: %s", g.c.o.Name, x.op, x.text, got)
			}
		}
		if _, got := g.send(OpCommand, ".echo hello; r"); got != "true true " {
			t.Error(got)
		}
	}
	ann.until(t, "[eve] hello; r\n")
	if strings.Contains(p.own.text(), "answer") || len(p.done) > 0 {
		t.Errorf("something was done:\n%s%v", p.own.text(), p.done)
	}
}

// TestRequests: what does not wait, what is refused, what is not known.
func TestRequests(t *testing.T) {
	gate := make(chan struct{})
	p := newProgram(t, Options{}, gate)
	ann := join3(t, p, "ann", Via{}, nil)
	id, _ := ann.send(OpCommand, "block")
	for _, x := range []struct {
		op         Op
		text, want string
	}{
		{OpBreakIn, "", "true true "},
		{OpAnswer, "fail", "false true as asked"},
		{OpCommand, "early", "true true for ann only"},
		{OpCommand, "two\nlines", "false true a request is one line"},
		{99, "", "false true request 99 is not known here"},
		{OpCommand, ".keyboard", "true true Nobody holds the keyboard: all who are not read-only may type.\n"},
	} {
		if _, got := ann.send(x.op, x.text); got != x.want {
			t.Errorf("%d %q: %q, not %q", x.op, x.text, got, x.want)
		}
	}
	if _, err := ann.c.Send(OpCommand, strings.Repeat("x", MaxLine+1)); err == nil || !strings.Contains(err.Error(), "65536") {
		t.Error("too long a line:", err)
	}
	n := 0
	for range maxQueue + 1 {
		if _, got := ann.send(OpCommand, "r"); strings.Contains(got, "wait already") {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d lines too many were refused", n)
	}
	close(gate)
	ann.wait("the blocked one", func() bool { return ann.results[id] })
}

// TestKick: who is sent away is told so and is gone, with what he had queued.
func TestKick(t *testing.T) {
	gate := make(chan struct{})
	p := newProgram(t, Options{}, gate)
	ann := join3(t, p, "ann", Via{}, nil)
	eve := join3(t, p, "eve", Via{}, nil)
	ann.send(OpCommand, "block")
	eve.send(OpCommand, "bad idea")
	if _, err := p.h.Run(context.Background(), ann.c2Person(), ".kick", "eve"); err != nil {
		t.Fatal(err)
	}
	<-eve.c.Done()
	var e *Ended
	if err := eve.c.Err(); !errors.As(err, &e) || !e.Person || e.Text != "You were sent away by ann." {
		t.Errorf("eve ended with %v", err)
	}
	close(gate)
	ann.run("good idea")
	if strings.Contains(p.own.text(), "answer to bad idea") {
		t.Error("what eve had queued was run")
	}
	ann.until(t, "eve (local) was sent away by ann at ")
	for _, args := range []string{"", "7", "eve"} {
		if _, err := p.h.Run(context.Background(), Person{}, ".kick", args); err == nil {
			t.Errorf(".kick %s says nothing", args)
		}
	}
}

func (g *guest) c2Person() Person { return Person{ID: g.info.ID, Name: g.c.o.Name} }

// TestKeyboard: one holds it, others ask.
func TestKeyboard(t *testing.T) {
	var mu sync.Mutex
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	p := newProgram(t, Options{Now: func() time.Time { mu.Lock(); defer mu.Unlock(); return now }}, nil)
	ann := join3(t, p, "ann", Via{}, nil)
	ben := join3(t, p, "ben", Via{}, nil)
	say := func(g *guest, line, want string) {
		t.Helper()
		if _, got := g.send(OpCommand, line); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s: %q, not %q", g.c.o.Name, line, got, want)
		}
	}
	say(ann, ".keyboard take", "true true ")
	say(ben, "r", "false true ann holds the keyboard; .keyboard ask")
	say(ben, ".keyboard take", "false true ann holds the keyboard and was active less than")
	say(ben, ".keyboard ask", "true true ")
	ann.until(t, "ben asks ann for the keyboard")
	if _, got := ben.send(OpBreakIn, ""); got != "true true " {
		t.Error("a break-in is held up:", got)
	}
	say(ben, ".keyboard give", "false true only who holds")
	say(ann, ".keyboard give", "true true ")
	ann.until(t, "ben holds the keyboard, from ann")
	say(ann, "r", "false true ben holds")
	if why := p.h.MayType(Person{}); why == "" {
		t.Error("the server's console may type")
	}
	say(ben, ".keyboard show", "true true ")
	if m := p.h.PromptMark(); m != "[keyboard: ben] " {
		t.Errorf("the prompt shows %q", m)
	}
	mu.Lock()
	now = now.Add(2 * idle)
	mu.Unlock()
	say(ann, ".keyboard take", "true true ")
	ben.until(t, "ann took the keyboard from ben")
	say(ann, ".keyboard give nobody", "false true there is no client")
	say(ann, ".keyboard free", "true true ")
	ben.run("r")
	say(ben, ".keyboard take", "true true ")
	ben.c.Leave(patience)
	ann.until(t, "ben (local) disconnected at")
	ann.run("r")
	if _, err := p.h.Run(context.Background(), Person{}, ".keyboard", "take"); err != nil {
		t.Error(err)
	}
	say(ann, "r", "false true the server's console holds")
}

// TestStrangers: what does not belong to a session is told what this is.
func TestStrangers(t *testing.T) {
	p := newProgram(t, Options{MaxClients: 1, Release: "us 1"}, nil)
	serve := func(first []byte) (kind, []byte) {
		a, b := net.Pipe()
		defer a.Close()
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() { p.h.Serve(context.Background(), b, Via{}) })
		go a.Write(first)
		w := newWire(a, Timeouts{}.withDefaults())
		k, body, _ := w.next()
		a.Close()
		return k, body
	}
	k, b := serve(appendFrame(nil, kindHello, encode(hello{Magic: magicKdrpc, Min: 1, Max: 1})))
	var h hello
	if k != kindHello || decode(b, &h) != nil || h.Magic != magic {
		t.Errorf("a smart client is answered %#x %q", uint8(k), b)
	}
	k, b = serve(appendFrame(nil, kindHello, encode(hello{Magic: magic, Min: 7, Max: 9})))
	var r Refusal
	if k != kindRefuse || decode(b, &r) != nil || r.Code != RefusedVersion || r.Release != "us 1" {
		t.Errorf("another version is answered %#x %q", uint8(k), b)
	}
	if k, _ := serve([]byte("GET / HTTP/1.1\r\n\r\nxxxxxxxxxxxxxxxxxxx")); k != 0 {
		t.Errorf("rubbish is answered %#x", uint8(k))
	}
	join3(t, p, "ann", Via{}, nil)
	var full *Refusal
	if _, err := tryJoin(t, p, "ben", Via{}, nil); !errors.As(err, &full) || full.Code != RefusedFull {
		t.Errorf("one too many: %v", err)
	}
}

// TestWrongServer: the client names what answers.
func TestWrongServer(t *testing.T) {
	answer := func(b []byte) error {
		_, err := Join(context.Background(), ClientOptions{Where: "tcp:Port=5,Server=box", Timeouts: Timeouts{Hello: 200 * time.Millisecond}, Dial: func(context.Context) (net.Conn, error) {
			x, y := net.Pipe()
			go func() {
				defer y.Close()
				buf := make([]byte, 1024)
				y.Read(buf)
				if b == nil {
					y.Read(buf) // says nothing
				}
				y.Write(b)
			}()
			return x, nil
		}}, &guest{})
		return err
	}
	for _, x := range []struct {
		what string
		b    []byte
		want string
	}{
		{"kdsrv", appendFrame(nil, kindHello, encode(hello{Magic: magicKdrpc, Min: 1, Max: 1})), `is a KD connection server, not a shared session: use kd -k "kdsrv:server=@{tcp:Port=5,Server=box},trans=@{<link>}"`},
		{"rubbish", []byte("SSH-2.0-OpenSSH_9.2\r\n"), "is no shared session (the other side broke the protocol: a frame of"},
		{"silence", nil, "is no shared session (no answer within"},
		{"an end", []byte{}, "is no shared session (it ended the connection without a word)"},
		{"a later version", appendFrame(nil, kindRefuse, encode(&Refusal{Code: RefusedVersion, Release: "them 9", Min: 8, Max: 9})), "shared by them 9, which speaks versions 8 to 9"},
	} {
		if err := answer(x.b); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v", x.what, err)
		}
	}
}
