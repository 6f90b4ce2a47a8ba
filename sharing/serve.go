package sharing

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"time"
)

// connection is one stream of a client, seen from the hub.
type connection struct {
	h    *Hub
	w    *wire
	via  Via
	at   string
	p    *participant
	wake chan struct{} // there is more to send, or the end

	cursor uint64 // the last entry that was sent; the writer's
	again  bool   // the participant came back
	// Guarded by the hub's lock:
	dropped bool   // thrown out
	idle    bool   // the writer waits until there is something
	urgent  uint64 // the last entry that is to go out at once

	work sync.WaitGroup // what answers asks

	mu      sync.Mutex
	replies []reply
	ask     *ask // the last one, nil: it is being answered
	answer  *answer
	// answering says that a goroutine looks after ask.
	answering bool
	err       error
	last      *end // what is said last
	done      chan struct{}
}

// maxPending bounds the replies that a client lets pile up.
const maxPending = 1024

// pace is how long entries gather for one client before they go out again,
// when they are not the answer to his own command; with many clients longer, up
// to maxPace, so that a target that prints does not keep the session busy with
// those who look on.
const (
	pace    = 5 * time.Millisecond
	perPeer = time.Millisecond
	maxPace = 50 * time.Millisecond
)

// Serve serves one connection until it ends, and closes it.
func (h *Hub) Serve(ctx context.Context, conn net.Conn, via Via) (err error) {
	defer conn.Close()
	defer func() {
		if v := recover(); v != nil {
			h.o.Logger.Error("a connection panicked", "panic", v, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	c := &connection{h: h, w: newWire(conn, h.o.Timeouts), via: via, at: via.at(conn), wake: make(chan struct{}, 1), done: make(chan struct{})}
	// The end of the session is told by the writer; before there is one, the
	// reads are interrupted.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	j, err := c.hello(ctx)
	if err != nil {
		return err
	}
	r, refusal := h.enter(c, j)
	if refusal != nil {
		c.w.send(kindRefuse, encode(refusal))
		h.o.Logger.Warn("a client was refused", "audit", "refuse", "peer", c.at, "reason", refusal.Error())
		return refusal
	}
	p := c.p
	var writer sync.WaitGroup
	bye := false
	defer func() {
		c.fail(err)
		writer.Wait()
		c.work.Wait()
		h.leave(c, bye, err)
	}()
	if err := c.w.send(kindJoined, encode(r)); err != nil {
		return err
	}
	writer.Go(func() {
		if err := c.write(ctx); err != nil {
			c.fail(err)
		}
		conn.Close()
	})
	what, name := "connected", "joined"
	if c.again {
		what, name = "is connected again", "back"
	}
	role := ""
	if r.ReadOnly {
		role = ", may only look,"
	}
	h.o.Logger.Info("a client has connected", "audit", "connect", "owner", p.Name, "id", p.ID, "peer", c.at, "readonly", r.ReadOnly, "again", c.again)
	h.announce(Entry{From: p.ID, Who: p.Name, Name: name, Text: fmt.Sprintf("%s%s%s %s at %s\n", p.Name, place(c.at), role, what, h.stamp())})
	bye, err = c.read(p)
	return err
}

// hello says what this is and reads who comes.
func (c *connection) hello(ctx context.Context) (join, error) {
	o := c.h.o
	stop := context.AfterFunc(ctx, func() { c.w.conn.Close() })
	defer stop()
	stop2 := context.AfterFunc(c.h.ctx, func() { c.w.conn.Close() })
	defer stop2()
	timer := time.AfterFunc(o.Timeouts.Hello, func() { c.w.conn.Close() })
	defer timer.Stop()
	k, b, err := c.w.next()
	if err != nil {
		return join{}, fmt.Errorf("no hello: %w", err)
	}
	var h hello
	if k != kindHello {
		return join{}, protocolErrorf("the first frame is of kind %#x", uint8(k))
	}
	if err := decode(b, &h); err != nil {
		return join{}, err
	}
	mine := encode(hello{Magic: magic, Release: o.Release, Min: ProtocolMin, Max: ProtocolMax, Capabilities: []string{canComplete}, Program: o.Program})
	if h.Magic != magic {
		// So that a debugger at the wrong door can say what this is.
		c.w.send(kindHello, mine)
		return join{}, protocolErrorf("the client is not one of a shared session")
	}
	if h.Min > ProtocolMax || h.Max < ProtocolMin || h.Min > h.Max {
		c.w.send(kindRefuse, encode(&Refusal{Code: RefusedVersion, Text: "no common version", Release: o.Release, Min: ProtocolMin, Max: ProtocolMax}))
		return join{}, fmt.Errorf("the client is release %q and speaks versions %d to %d; this is %d to %d", clean(h.Release, maxName), h.Min, h.Max, ProtocolMin, ProtocolMax)
	}
	if err := c.w.send(kindHello, mine); err != nil {
		return join{}, err
	}
	if k, b, err = c.w.next(); err != nil {
		return join{}, err
	}
	var j join
	if k != kindJoin {
		return join{}, protocolErrorf("a frame of kind %#x instead of a join", uint8(k))
	}
	return j, decode(b, &j)
}

// read serves what the client sends; bye: it leaves for good.
func (c *connection) read(p *participant) (bye bool, err error) {
	for {
		k, b, err := c.w.next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the connection was closed")
			}
			return false, err
		}
		switch k {
		case kindRequest:
			var r request
			if err := decode(b, &r); err != nil {
				return false, err
			}
			rep, err := c.h.request(p, r)
			if err != nil {
				return false, err
			}
			c.mu.Lock()
			full := len(c.replies) >= maxPending
			if !full {
				c.replies = append(c.replies, rep)
			}
			c.mu.Unlock()
			if full {
				return false, errors.New("it does not read its replies")
			}
			poke(c.wake)
		case kindAsk:
			var a ask
			if err := decode(b, &a); err != nil {
				return false, err
			}
			c.asked(a)
		case kindBye:
			return true, nil
		}
		// Others are of later versions.
	}
}

// fail ends the connection.
func (c *connection) fail(err error) {
	if err == nil {
		err = errEnded
	}
	c.mu.Lock()
	first := c.err == nil
	if first {
		c.err = err
		close(c.done)
	}
	c.mu.Unlock()
	if first {
		c.w.conn.Close()
	}
}

// part has the client told that it is no part of the session any more.
func (c *connection) part(text string) {
	c.mu.Lock()
	c.last = &end{Text: text, Code: 1}
	c.mu.Unlock()
	poke(c.wake)
}

// write sends entries and replies until the connection or the session ends.
func (c *connection) write(ctx context.Context) error {
	ping := time.NewTicker(c.h.o.Timeouts.Ping)
	defer ping.Stop()
	var buf []byte
	batch := firstBatch
	var sent time.Time // when prints went out last
	for {
		c.mu.Lock()
		replies, last, answer := c.replies, c.last, c.answer
		c.replies, c.answer = nil, nil
		c.mu.Unlock()
		if answer != nil {
			if err := c.w.send(kindAnswer, encode(answer)); err != nil {
				return c.h.stalled(c, err)
			}
		}
		for _, r := range replies {
			if err := c.w.send(kindReply, encode(r)); err != nil {
				return err
			}
		}
		c.h.mu.Lock()
		over := c.h.closed
		behind := c.cursor+1 < c.h.log.first()
		more := c.cursor < c.h.log.last()
		urgent := c.urgent > c.cursor || over || last != nil
		gather := min(max(pace, time.Duration(len(c.h.conns))*perPeer), maxPace)
		c.idle = !more && !over && !behind
		c.h.mu.Unlock()
		if behind {
			return c.h.slow(c)
		}
		if wait := gather - time.Since(sent); more && !urgent && wait > 0 {
			t := time.NewTimer(wait)
			select {
			case <-t.C:
				sent = time.Time{}
			case <-c.wake: // perhaps something that cannot wait
			case <-c.done:
				t.Stop()
				return nil
			}
			t.Stop()
			continue
		}
		if more {
			var n int
			c.h.mu.Lock()
			if c.cursor+1 < c.h.log.first() {
				c.h.mu.Unlock()
				continue
			}
			buf, n, c.cursor = c.h.log.take(buf[:0], c.cursor, batch)
			c.h.mu.Unlock()
			if err := c.w.send(kindEntries, append(arrayHead(n), buf...)); err != nil {
				return c.h.stalled(c, err)
			}
			sent = time.Now()
			batch = min(2*batch, batchBytes)
			continue
		}
		if last != nil || over {
			if last == nil {
				c.h.mu.Lock()
				last = &end{Text: c.h.ending}
				c.h.mu.Unlock()
			}
			c.w.send(kindEnd, encode(last))
			// The client hangs up when it has read that; some never do.
			t := time.NewTimer(2 * time.Second)
			defer t.Stop()
			select {
			case <-t.C:
			case <-c.done:
			}
			return errEnded
		}
		select {
		case <-c.wake:
		case <-ping.C:
			if err := c.w.send(kindPing, nil); err != nil {
				return c.h.stalled(c, err)
			}
		case <-c.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// slow drops a client that the log has left behind.
func (h *Hub) slow(c *connection) error {
	return h.drop(c, "does not keep up with the session and was dropped")
}

// stalled is a client that takes nothing. One whose connection broke may come
// back.
func (h *Hub) stalled(c *connection, err error) error {
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		return h.drop(c, "takes nothing and was dropped")
	}
	return err
}

// drop throws a client out. He is gone when the others are told.
func (h *Hub) drop(c *connection, why string) error {
	h.mu.Lock()
	c.dropped = true
	p := c.p
	there := h.parts[p.ID] == p && p.conn == c
	if there {
		p.conn = nil
		h.removeLocked(p)
	}
	h.mu.Unlock()
	if there {
		h.o.Logger.Info("a client was dropped", "audit", "disconnect", "owner", p.Name, "id", p.ID, "peer", c.at, "reason", why, "duration", h.o.Now().Sub(p.joined))
	}
	h.announce(Entry{From: p.ID, Who: p.Name, Name: "dropped", Text: fmt.Sprintf("%s%s %s at %s\n", p.Name, place(c.at), why, h.stamp())})
	h.arrived()
	return errors.New(why)
}
