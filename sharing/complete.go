package sharing

import (
	"context"
	"errors"
	"slices"
	"strings"
	"unicode/utf8"
)

// Completer is a Host that knows what can stand at a place of a line.
type Completer interface {
	// Complete answers within some tens of milliseconds, whatever else is under
	// way; readOnly: who asks may only look. It is called from any goroutine.
	Complete(who Person, readOnly bool, line string, cursor int) Completion
}

// ErrNoCompletion is what Client.Complete says when there will be no answer.
var ErrNoCompletion = errors.New("the other side completes nothing")

// asked takes an ask of a client. Only the last one counts: whoever asks again
// does not want to know the other any more.
func (c *connection) asked(a ask) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ask = &a
	if !c.answering {
		c.answering = true
		c.work.Go(c.answerAsks)
	}
}

// answerAsks answers what was asked last until nothing is.
func (c *connection) answerAsks() {
	for {
		c.mu.Lock()
		a := c.ask
		c.ask = nil
		if a == nil || c.err != nil {
			c.answering = false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		r := c.h.complete(c.p, *a)
		c.mu.Lock()
		c.answer = &r
		c.mu.Unlock()
		poke(c.wake)
	}
}

// complete asks the program.
func (h *Hub) complete(p *participant, a ask) answer {
	h.mu.Lock()
	host, readOnly, closed := h.host, p.readOnly, h.closed
	h.mu.Unlock()
	r := answer{ID: a.ID}
	if f, ok := host.(Completer); ok && !closed && len(a.Line) <= maxAsk && a.Cursor >= 0 && a.Cursor <= len(a.Line) {
		r.Completion = f.Complete(p.Person, readOnly, a.Line, a.Cursor).bounded()
	}
	return r
}

// bounded is a completion that fits a frame.
func (c Completion) bounded() Completion {
	c.Insert, c.Note = clip(c.Insert, maxAsk), clip(c.Note, 512)
	have := 0
	for i, x := range c.Candidates {
		if have += len(x.Text) + 32; have > maxAnswer {
			c.More += len(c.Candidates) - i
			c.Candidates = c.Candidates[:i]
			break
		}
	}
	return c
}

// fits says that an answer belongs to a line, and that a line can be made of it.
func (c *Completion) fits(line string) bool {
	plain := func(t string) bool {
		return !strings.ContainsFunc(t, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 })
	}
	if c.From < 0 || c.From > c.To || c.To > len(line) || c.More < 0 || !utf8.ValidString(c.Insert) || !plain(c.Insert) {
		return false
	}
	return !slices.ContainsFunc(c.Candidates, func(x Candidate) bool { return x.Show < 0 || x.Show > len(x.Text) })
}

// waiting is a caller of Complete.
type waiting struct {
	ask
	give chan *Completion // has room for one; nil: there will be no answer
}

// Complete asks the server what the word at the cursor (a byte offset) can become,
// which takes one exchange. ErrNoCompletion: the server knows nothing of that, or
// there is no connection. It waits until ctx ends; a further call ends an earlier
// one.
func (c *Client) Complete(ctx context.Context, line string, cursor int) (Completion, error) {
	w := &waiting{ask: ask{Line: line, Cursor: cursor}, give: make(chan *Completion, 1)}
	c.mu.Lock()
	if !c.completes || len(line) > maxAsk {
		c.mu.Unlock()
		return Completion{}, ErrNoCompletion
	}
	c.asks++
	w.ID = c.asks
	if c.waiting != nil {
		c.waiting.give <- nil
	}
	c.waiting, c.unasked = w, true
	poke(c.wake)
	c.mu.Unlock()
	select {
	case r := <-w.give:
		if r == nil || !r.fits(line) {
			return Completion{}, ErrNoCompletion
		}
		return *r, nil
	case <-ctx.Done():
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.waiting == w {
			c.waiting, c.unasked = nil, false
		}
		return Completion{}, ctx.Err()
	}
}

// toAsk is what is to be asked now, if there is something.
func (c *Client) toAskLocked() (ask, bool) {
	if !c.unasked {
		return ask{}, false
	}
	c.unasked = false
	return c.waiting.ask, true
}

// answered gives an answer to who waits for it.
func (c *Client) answered(a answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := c.waiting; w != nil && w.ID == a.ID && !c.unasked {
		c.waiting = nil
		w.give <- &a.Completion
	}
}

// unanswered: the connection is gone.
func (c *Client) unanswered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.completes = false
	if w := c.waiting; w != nil {
		c.waiting, c.unasked = nil, false
		w.give <- nil
	}
}
