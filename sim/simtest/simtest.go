// Package simtest runs simulated machines in the processes of tests. It is for
// tests only; cmd/kdtarget is the machine of people, and its ports are sim's.
package simtest

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"openkd/sim"
)

// Machine is a machine that is switched off when its test ends. Its methods may
// be called by any goroutine until then.
type Machine struct {
	*sim.Machine
	t   testing.TB
	ctx context.Context
	off context.CancelFunc
	on  sync.Once
	wg  sync.WaitGroup
}

// Steady is a machine that is the same, byte for byte, whenever it is made, and
// stops at its first instruction.
func Steady() sim.Config {
	return sim.Config{
		Processors: 2, Seed: 7, BootTime: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Tick: time.Millisecond,
		// A slow computer must not look like a debugger that went away.
		LinkTimeout: time.Second, BreakAtBoot: true,
	}
}

// New makes a machine. It is off until PowerOn or its first debugger.
func New(t testing.TB, cfg sim.Config) *Machine {
	t.Helper()
	sm, err := sim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &Machine{Machine: sm, t: t, ctx: ctx}
	m.off = cancel
	t.Cleanup(m.Off)
	return m
}

// Off switches the machine off before the end of its test.
func (m *Machine) Off() {
	m.PowerOn() // what Run holds is given back by Run alone
	m.off()
	m.wg.Wait()
}

// PowerOn switches the machine on, once.
func (m *Machine) PowerOn() {
	m.on.Do(func() {
		m.wg.Go(func() {
			if err := m.Run(m.ctx); err != nil {
				m.t.Error("the machine:", err)
			}
		})
	})
}

// Attach puts the other end of a debugger's line into the serial port, until it
// ends or another one is put there, and switches the machine on. It does not wait.
func (m *Machine) Attach(stream io.ReadWriteCloser) {
	m.PowerOn()
	m.wg.Go(func() { m.Serve(m.ctx, stream) })
}

// TCP serves the machine's serial port at a TCP port of loopback, switches it on
// when the first debugger comes, so that this one meets the whole boot, and
// returns the link.
func (m *Machine) TCP() string {
	m.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		m.t.Fatal(err)
	}
	m.Listen(ln, nil)
	return fmt.Sprintf("com:ipport=%d,port=127.0.0.1", ln.Addr().(*net.TCPAddr).Port)
}

// Listen does the same at any listener, which it closes at the end. What wrap
// makes of a connection is served, where it is not nil.
func (m *Machine) Listen(ln net.Listener, wrap func(net.Conn) io.ReadWriteCloser) {
	context.AfterFunc(m.ctx, func() { ln.Close() })
	m.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			var s io.ReadWriteCloser = c
			if wrap != nil {
				s = wrap(c)
			}
			m.Attach(s)
		}
	})
}
