package sharing

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"io"
	"net"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// golden are the frames of PROTOCOL.md.
func golden() map[string][]byte {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).UnixNano()
	entries := func(l ...Entry) []byte { return encode(l) }
	return map[string][]byte{
		"hello":   appendFrame(nil, kindHello, encode(hello{Magic: magic, Release: "1.0", Min: 1, Max: 1, Capabilities: []string{canComplete}, Program: "kd"})),
		"refuse":  appendFrame(nil, kindRefuse, encode(Refusal{Code: RefusedVersion, Text: "no common version", Release: "1.0", Min: 8, Max: 9})),
		"ping":    appendFrame(nil, kindPing, nil),
		"join":    appendFrame(nil, kindJoin, encode(join{Name: `BOX\ann`, Lines: 200})),
		"back":    appendFrame(nil, kindJoin, encode(join{Name: `BOX\ann`, Session: []byte{1, 2}, Token: []byte{3, 4}, After: 300})),
		"joined":  appendFrame(nil, kindJoined, encode(joined{Session: []byte{1, 2}, Token: []byte{3, 4}, ID: 5, After: 40, Now: 42, Title: "Remote KD", Fresh: true, State: "halted", Prompt: "0: kd> "})),
		"request": appendFrame(nil, kindRequest, encode(request{ID: 1, Op: OpCommand, Text: "r rip"})),
		"reply":   appendFrame(nil, kindReply, encode(reply{ID: 1, OK: true})),
		"entries": appendFrame(nil, kindEntries, entries(
			Entry{Seq: 43, Kind: EntryCommand, Time: at, From: 5, Who: `BOX\ann`, ID: 1, Text: "r rip", Prompt: "0: kd> "},
			Entry{Seq: 44, Kind: EntryText, Time: at, Text: "rip=fffff8019e201010\n"},
			Entry{Seq: 45, Kind: EntryResult, Time: at, From: 5, Who: `BOX\ann`, ID: 1, Text: "r rip", Prompt: "0: kd> ", Name: "halted", OK: true})),
		"ask": appendFrame(nil, kindAsk, encode(ask{ID: 1, Line: "r @ri", Cursor: 5})),
		"answer": appendFrame(nil, kindAnswer, encode(answer{ID: 1, Completion: Completion{
			From: 2, To: 5, Insert: "@rip", Candidates: []Candidate{{Text: "@rip", Show: 1, Kind: "register"}}}})),
		"end": appendFrame(nil, kindEnd, encode(end{Text: "over"})),
		"bye": appendFrame(nil, kindBye, nil),
	}
}

// FuzzServe: whatever a client sends after the password, the hub neither
// panics nor hangs nor grows, and serves the next one.
func FuzzServe(f *testing.F) {
	g := golden()
	hi := g["hello"]
	f.Add(hi)
	f.Add(append(bytes.Clone(hi), g["join"]...))
	f.Add(append(append(bytes.Clone(hi), g["join"]...), g["request"]...))
	f.Add(append(append(bytes.Clone(hi), g["back"]...), g["bye"]...))
	f.Add(append(append(bytes.Clone(hi), g["join"]...), g["ask"]...))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	h := NewHub(Options{Grace: time.Millisecond, Timeouts: Timeouts{Hello: time.Second, Dead: time.Second}})
	f.Cleanup(func() { h.Close("") })
	p := &program{h: h}
	p.own.c = make(chan struct{}, 1)
	h.Attach(p)
	f.Fuzz(func(t *testing.T, b []byte) {
		x, y := net.Pipe()
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := h.Serve(context.Background(), y, Via{}); err != nil && strings.HasPrefix(err.Error(), "panic: ") {
				t.Error(err)
			}
		})
		wg.Go(func() { io.Copy(io.Discard, x) })
		x.SetWriteDeadline(time.Now().Add(5 * time.Second))
		x.Write(b)
		x.Close()
		wg.Wait()
		for { // what was typed
			if _, ok := h.Take(func() bool { return false }); !ok {
				break
			}
		}
		if n := len(h.clients()); n > 100 {
			t.Fatalf("%d clients", n)
		}
	})
}

// still is a viewer that takes everything.
type still struct{}

func (still) Joined(Session)                   {}
func (still) Entry(Entry, uint64)              {}
func (still) Reply(uint64, bool, bool, string) {}
func (still) Link(string)                      {}

// FuzzClient: whatever a server sends, the client neither panics nor hangs.
func FuzzClient(f *testing.F) {
	g := golden()
	start := append(bytes.Clone(g["hello"]), g["joined"]...)
	f.Add(start)
	f.Add(append(append(append(bytes.Clone(start), g["entries"]...), g["reply"]...), g["end"]...))
	f.Add(append(append(bytes.Clone(start), g["answer"]...), g["end"]...))
	f.Add(g["refuse"])
	f.Add([]byte("SSH-2.0-OpenSSH_9.2\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Join(context.Background(), ClientOptions{
			Where: "here", Patience: time.Millisecond, Retry: time.Millisecond, Timeouts: Timeouts{Hello: time.Second, Dead: time.Second},
			Dial: func(context.Context) (net.Conn, error) {
				x, y := net.Pipe()
				go func() {
					go io.Copy(io.Discard, y)
					y.SetWriteDeadline(time.Now().Add(5 * time.Second))
					y.Write(b)
					y.Close()
				}()
				return x, nil
			},
		}, still{})
		if err != nil {
			return
		}
		c.Send(OpCommand, "r")
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		c.Complete(ctx, "r @ri", 5)
		cancel()
		select {
		case <-c.Done():
		case <-time.After(2 * time.Minute): // on a busy machine, too
			t.Fatal("it does not end")
		}
		c.Close()
	})
}

// FuzzFrame: frames that are read are those that were written.
func FuzzFrame(f *testing.F) {
	for _, b := range golden() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bufio.NewReader(bytes.NewReader(b))
		var buf, again []byte
		for {
			k, p, err := readFrame(r, &buf)
			if err != nil {
				break
			}
			n := len(again)
			again = appendFrame(again, k, p)
			again[n+4], again[n+5], again[n+6], again[n+7] = b[n+4], b[n+5], b[n+6], b[n+7] // an id of later versions
		}
		if !bytes.HasPrefix(b, again) {
			t.Errorf("%x was read as %x", b, again)
		}
	})
}

// TestGolden: the bytes in PROTOCOL.md are those of this release.
func TestGolden(t *testing.T) {
	want := map[string]string{}
	got := golden()
	doc := protocolBytes(t)
	for name, text := range doc {
		want[name] = text
		b, err := hex.DecodeString(text)
		if err != nil || !bytes.Equal(b, got[name]) {
			t.Errorf("%s is %x", name, got[name])
		}
	}
	for name, b := range got {
		if want[name] == "" {
			t.Errorf("* %s:\n  `%x`", name, b)
		}
	}
}

var documented = regexp.MustCompile("(?m)^\\* (\\w+):\n((?:  `[0-9a-f]+`\n)+)")

// protocolBytes are the frames that PROTOCOL.md shows, by name.
func protocolBytes(t *testing.T) map[string]string {
	b, err := os.ReadFile("PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for _, x := range documented.FindAllStringSubmatch(strings.ReplaceAll(string(b), "\r\n", "\n"), -1) {
		m[x[1]] = strings.NewReplacer(" ", "", "`", "", "\n", "").Replace(x[2])
	}
	return m
}
