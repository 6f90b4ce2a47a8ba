package kdrpc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"openkd/target"
	"openkd/target/targettest"
	"openkd/transport"
)

// A batch of a byte for each record unfolds to many times its size.
func TestUnfoldingBodies(t *testing.T) {
	rq := append([]byte{0xa1, 9, 0xa1, 5, 0x99, 0x3f, 0xff}, bytes.Repeat([]byte{0xa0}, 0x3fff)...)
	var reqs []target.Request
	body := append([]byte{0x83}, bytes.Repeat(rq, 3)...)
	if err := decode(body, &reqs); err != nil || len(reqs) != 3 {
		t.Fatalf("a small one: %d, %v", len(reqs), err)
	}
	body = append([]byte{0x99, 0x03, 0xe8}, bytes.Repeat(rq, 1000)...)
	if err := decode(body, &reqs); err == nil || !strings.Contains(err.Error(), "items") {
		t.Errorf("16 million records: %v", err)
	}
	// The largest batch that is allowed.
	l := &target.List{Head: 1, LinkOffset: 1, Pointer: 8, MaxNodes: 1}
	for range target.MaxPieces {
		l.Pieces = append(l.Pieces, target.Piece{Via: 1, Offset: 1, Add: 1, Len: 1})
	}
	full := make([]target.Request, target.MaxBatch)
	for i := range full {
		full[i] = target.Request{Op: 1, Processor: 1, Addr: 1, Len: 1, Value: 1, Flags: 1, Data: []byte{1}, Bus: &target.Bus{Type: 1, Bus: 1, Slot: 1}, List: l}
	}
	if err := decode(encode(full), &reqs); err != nil {
		t.Errorf("the largest batch: %v", err)
	}
}

// slowOpen opens when it is told to; what comes behind waits.
type slowOpen struct {
	*one
	open chan struct{}
}

func (s slowOpen) Open(ctx context.Context, o Open, peer string) (Session, error) {
	select {
	case <-s.open:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return s.one.Open(ctx, o, peer)
}

// Bodies that wait are bounded together, not only one by one.
func TestWaitingBodies(t *testing.T) {
	f := targettest.New()
	b := slowOpen{newOne(f), make(chan struct{})}
	defer func() { f.Close(context.Background(), 0); b.close() }()
	conn, far := transport.Pipe()
	served := make(chan error, 1)
	go func() { served <- Serve(t.Context(), far, b, ServeOptions{}) }()
	codes := make(chan Code, 16)
	go func() {
		defer close(codes)
		r := newFrameReader(conn)
		for {
			f, err := r.next()
			if err != nil {
				return
			}
			var res Result
			if f.kind == KindDone && decode(f.payload, &res) == nil {
				codes <- res.Code
			}
		}
	}()
	conn.Write(appendFrames(nil, 0, KindHello, encode(Hello{Magic: magic, Min: 1, Max: 1})))
	conn.Write(appendFrames(nil, 1, KindOpen, encode(Open{})))
	big := encode([]target.Request{{Op: target.OpWriteVirtual, Data: make([]byte, target.MaxWrite)}, {Op: target.OpWriteVirtual, Data: make([]byte, target.MaxWrite-100)}})
	for id := range uint32(3) {
		conn.Write(appendFrames(nil, 10+id, KindDo, big))
	}
	// Two of them are kept, one is refused at once; the two fail when their turn
	// comes, because the target runs.
	if c := <-codes; c != CodeBadRequest {
		t.Fatalf("answered with code %d instead of being refused", c)
	}
	close(b.open)
	for range 2 {
		if c := <-codes; c != CodeRunning && c != CodeNotReady {
			t.Fatalf("what was kept ended with code %d", c)
		}
	}
	conn.Write(appendFrames(nil, 20, KindDo, big)) // there is room again
	if c := <-codes; c != CodeRunning && c != CodeNotReady {
		t.Fatalf("code %d when there is room again", c)
	}
	conn.Close()
	<-served
	for range codes {
	}
}

// badServer answers hello and open, and then says what say writes.
func badServer(t *testing.T, say func(w io.Writer, id uint32)) func(context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) {
		a, b := net.Pipe()
		go func() {
			defer b.Close()
			r := newFrameReader(b)
			r.next()
			b.Write(appendFrames(nil, 0, KindHello, encode(Hello{Magic: magic, Min: 1, Max: 1})))
			f, err := r.next()
			if err != nil {
				return
			}
			b.Write(appendFrames(nil, f.id, KindOpened, encode(Opened{Token: []byte("x"), Grace: 0})))
			go io.Copy(io.Discard, b)
			say(b, f.id+1)
		}()
		return a, nil
	}
}

// A server that sends without end does not fill the client's memory.
func TestServerWithoutEnd(t *testing.T) {
	for name, say := range map[string]func(w io.Writer, id uint32){
		"events": func(w io.Writer, _ uint32) {
			for seq := uint64(1); ; seq++ {
				if _, err := w.Write(appendFrames(nil, 0, KindEvent, encodeEvent(seq, target.Event{Kind: target.EventModule, Text: strings.Repeat("x", 60<<10)}))); err != nil {
					return
				}
			}
		},
		"parts": func(w io.Writer, id uint32) {
			for off := uint64(0); ; off += 60 << 10 {
				if _, err := w.Write(appendPart(nil, id, &target.Part{Offset: off}, make([]byte, 60<<10), false)); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dials := 0
			dial := badServer(t, say)
			c, err := Connect(t.Context(), func(ctx context.Context) (net.Conn, error) {
				if dials++; dials > 1 {
					return nil, errors.New("gone")
				}
				return dial(ctx)
			}, Open{Owner: "x"}, WithAttempt(time.Millisecond))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(context.Background(), 0)
			stuck := make(chan struct{})
			defer close(stuck)
			go c.Do(t.Context(), []target.Request{{Op: target.OpVersion}}, func(target.Part) error { <-stuck; return nil })
			for begin := time.Now(); ; time.Sleep(time.Millisecond) {
				c.mu.Lock()
				lost, size := c.failed, c.waiting
				c.mu.Unlock()
				if size > maxEvents {
					t.Fatalf("%d bytes of events wait", size)
				}
				if lost != nil {
					break
				}
				if time.Since(begin) > 20*time.Second {
					t.Fatal("the connection is kept")
				}
			}
		})
	}
}
