package console

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"time"

	"openkd/target"
)

// signals turns the process's interrupts into CTRL+C.
func (k *console) signals() {
	k.wg.Go(interrupts(k.ctx, k.opt.Signals, k.interrupt))
}

// interrupts returns what calls do at every interrupt until ctx ends. Those of the
// process are taken at once, if none are given.
func interrupts(ctx context.Context, given <-chan os.Signal, do func()) func() {
	if given == nil {
		own := make(chan os.Signal, 4)
		signal.Notify(own, os.Interrupt)
		context.AfterFunc(ctx, func() { signal.Stop(own) })
		given = own
	}
	return func() {
		for {
			select {
			case _, ok := <-given:
				if !ok {
					return
				}
				do()
			case <-ctx.Done():
				return
			}
		}
	}
}

// hints tells, once for each stage, why nothing may be happening.
func (k *console) hints() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	told := map[target.Stage]bool{}
	var at target.Stage
	begun := time.Now()
	since := begun
	for {
		select {
		case <-tick.C:
		case <-k.ctx.Done():
			return
		}
		k.mu.Lock()
		stage, met, noticed := k.stage, k.met, k.noticed
		if !k.hinted && time.Since(begun) >= hintAfter {
			k.hinted = true
			poke(k.changed)
		}
		k.mu.Unlock()
		if stage != at {
			at, since = stage, time.Now()
		}
		// What was said in this stage comes from who is nearer to the line.
		if text := hints[stage]; !met && !told[stage] && text != "" && time.Since(since) >= hintAfter && noticed.Before(since.Add(-time.Second)) {
			told[stage] = true
			k.say("%s\n", text)
		}
	}
}

// interrupt is CTRL+C. It never waits.
func (k *console) interrupt() {
	k.s.Interrupt()
	k.mu.Lock()
	halted := k.e.Halted()
	if halted {
		k.struck = true
	}
	if halted && k.cancel != nil && k.busy {
		k.cancel()
	}
	k.mu.Unlock()
	if halted {
		return
	}
	k.breakIn()
}

// breakIn asks the target to stop, beside everything else.
func (k *console) breakIn() {
	k.mu.Lock()
	k.asked++
	n, met := k.asked, k.met
	k.mu.Unlock()
	switch {
	case !met:
		k.say("No target has been met yet; the break-in goes out as soon as there is one. CTRL+B and ENTER leaves.\n")
	case n == 2:
		k.say("The target has not answered the break-in yet. It may be busy, switched off, or its debugger may be off; CTRL+R resynchronises the link.\n")
	}
	k.wg.Go(func() {
		ctx, cancel := context.WithTimeout(k.ctx, 10*time.Second)
		defer cancel()
		err := k.e.BreakIn(ctx)
		if err != nil && k.ctx.Err() == nil && !errors.Is(err, target.ErrHalted) {
			k.say("The break-in could not be sent: %v\n", err)
		}
	})
}

// aside runs something short that talks to the target, beside the owner.
func (k *console) aside(what string, f func(ctx context.Context) error) {
	k.wg.Go(func() {
		ctx, cancel := context.WithTimeout(k.ctx, 10*time.Second)
		defer cancel()
		if err := f(ctx); err != nil && k.ctx.Err() == nil {
			k.say("%s: %v\n", what, err)
		}
	})
}

// key serves a control key of kd. It never waits.
func (k *console) key(b byte) bool {
	switch b {
	case 0x03:
		k.interrupt()
	case 0x06: // CTRL+F
		if !k.e.Halted() {
			k.breakIn()
		}
	case 0x01: // CTRL+A
		k.say("The speed of the line is part of the connection string (baud=); it is not changed while the session runs.\n")
	case 0x02: // CTRL+B
		k.mu.Lock()
		k.leave = true
		k.mu.Unlock()
		k.poke()
	case 0x04: // CTRL+D
		if k.opt.Trace == nil {
			k.say("There is no packet trace on this side; the connection server writes one with its own log.\n")
			break
		}
		k.mu.Lock()
		k.trace = !k.trace
		on := k.trace
		k.mu.Unlock()
		k.opt.Trace(on)
		k.say("Packet trace is %s.\n", onOff(on))
	case 0x0b: // CTRL+K
		k.mu.Lock()
		k.cycle = (k.cycle + 1) % 3
		n := k.cycle
		k.mu.Unlock()
		text := [...]string{"No break at a reboot", "Break at the next reboot", "Break at the first module load after the next reboot"}
		k.say("%s.\n", text[n])
		c := k.e.Config()
		c.Break, c.BreakOnFirstLoad = n == 1, n == 2
		k.aside("The wish could not be sent", func(ctx context.Context) error { return k.e.Configure(ctx, c) })
	case 0x12: // CTRL+R
		k.say("Resynchronising the link.\n")
		k.aside("The link could not be resynchronised", k.e.Resync)
	case 0x16: // CTRL+V
		k.mu.Lock()
		k.opt.Verbose = !k.opt.Verbose
		k.opt.Noisy = k.opt.Verbose
		on := k.opt.Verbose
		k.mu.Unlock()
		k.say("Verbose mode is %s.\n", onOff(on))
	case 0x17: // CTRL+W
		k.say("%s\n", k.opt.Versions)
	case 0x1c: // CTRL+\
		k.say("A debugger on this debugger is not started by a key.\n")
	default:
		return false
	}
	return true
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}
