package console

import (
	"context"
	"errors"
	"io"
	"sync"

	"openkd/sharing"
)

// promptOpen says whether the target asks for input.
func (k *console) promptOpen() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.prompt != nil && k.js == nil
}

// answer asks the person what the target asks.
func (k *console) answer() {
	ctx, end := k.begin(false)
	defer end()
	k.poke() // what changed before
	k.ask(ctx)
}

// ask asks until the person has answered or ctx ends.
func (k *console) ask(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	k.mu.Lock()
	p := k.prompt
	// A program may answer, too, with answerTarget, or the target stop.
	k.unask = cancel
	k.mu.Unlock()
	if p == nil {
		return
	}
	l, _, err := k.take(ctx, func() string { return "Input> " }, "asks")
	line := l.Text
	if errors.Is(err, io.EOF) {
		// Nobody can answer. An empty answer lets the target go on.
		line, err = "", nil
	}
	if k.s.Share != nil && (err != nil || l.Local()) {
		k.s.Share.SetPrompt("", k.state(), 0)
	}
	if err != nil {
		return
	}
	if k.s.Share != nil {
		if l.Local() {
			k.typed(line, "Input> ")
		} else {
			k.echo(l, "Input> ")
			k.s.Share.Append(sharing.Entry{Kind: sharing.EntryResult, From: l.ID, Who: l.Name, ID: l.Request, Text: l.Text, OK: true, Name: k.state()})
		}
	}
	if n := int(p.MaxAnswer); n > 0 && len(line) >= n {
		line = line[:n-1]
	}
	if err := k.e.Answer(ctx, line); err != nil && ctx.Err() == nil {
		k.say("The answer did not reach the target: %v\n", err)
	}
	k.mu.Lock()
	if k.prompt == p {
		k.prompt = nil
	}
	k.mu.Unlock()
}

// watchPrompts answers what the target asks while a command waits for it. It
// must be told when the command is over. The owner does not read meanwhile: a
// command that reads input has a target that stands, and such a one asks
// nothing.
func (k *console) watchPrompts() (stop func()) {
	ctx, cancel := context.WithCancel(k.ctx)
	var w sync.WaitGroup
	w.Go(func() {
		for ctx.Err() == nil {
			if k.promptOpen() {
				k.ask(ctx)
			}
			select {
			case <-k.changed:
			case <-ctx.Done():
			}
		}
	})
	return func() { cancel(); w.Wait() }
}
