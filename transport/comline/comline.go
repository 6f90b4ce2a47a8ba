package comline

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"openkd/connstr"
	"openkd/link/line"
	"openkd/rundir"
)

const MaxChannel = 254

type Config struct {
	// Port is the device: com2, 2, \\.\com2, /dev/ttyS0, /dev/serial/by-id/...
	// Whatever leads to the same device is the same line.
	Port string
	// Baud is the speed in bits per second, the same on both machines and in all
	// programs that use the port. The line is never sent more than it says.
	Baud int
	// Logger is told what happens to the line. nil: nothing is logged.
	Logger *slog.Logger

	// Open opens the device in place of package link/line; Port then only names
	// the line.
	Open func(context.Context) (io.ReadWriteCloser, error)
	// Dir is where the processes of this machine meet; "": package rundir's
	// directory.
	Dir string
}

func (cfg Config) check(channel int) (Config, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Port == "" {
		return cfg, errors.New("port= is missing: which serial port is it?")
	}
	if strings.Trim(cfg.Port, "0123456789") == "" {
		cfg.Port = "com" + cfg.Port
	}
	if cfg.Baud <= 0 {
		return cfg, fmt.Errorf("baud=%d is no speed; write what both machines are set to, such as baud=115200", cfg.Baud)
	}
	if channel < 0 || channel > MaxChannel {
		return cfg, fmt.Errorf("channel=%d does not exist; there are 0 to %d", channel, MaxChannel)
	}
	if cfg.Open == nil {
		l, err := line.New(connstr.Link{Kind: connstr.LinkSerial, Port: cfg.Port, Baud: cfg.Baud})
		if err != nil {
			return cfg, err
		}
		cfg.Open = func(ctx context.Context) (io.ReadWriteCloser, error) {
			c, err := l.Open(ctx)
			if note := l.Note(); err == nil && note != "" {
				cfg.Logger.Info(note, "port", cfg.Port)
			}
			return c, err
		}
	}
	return cfg, nil
}

type Addr struct {
	Port    string
	Channel int
	Far     bool // the other machine's end
}

func (a Addr) Network() string { return "com" }

func (a Addr) String() string {
	s := fmt.Sprintf("%s channel %d", a.Port, a.Channel)
	if a.Far {
		s = "other end of " + s
	}
	return s
}

type Conn struct {
	*stream
	l     *process
	far   Addr
	once  sync.Once
	local Addr
}

func (c *Conn) Close() error {
	err := c.stream.Close()
	c.once.Do(c.l.release)
	return err
}

func (c *Conn) LocalAddr() net.Addr { return c.local }

func (c *Conn) RemoteAddr() net.Addr { return c.far }

func (c *Conn) Stats() (Stats, bool) { return c.l.stats() }

func Listen(ctx context.Context, cfg Config, channel int) (*Listener, error) {
	return new(Lines).Listen(ctx, cfg, channel)
}

func Dial(ctx context.Context, cfg Config, channel int) (net.Conn, error) {
	return new(Lines).Dial(ctx, cfg, channel)
}

type Lines struct {
	mu sync.Mutex
	m  map[string]*process
}

func (ls *Lines) Listen(ctx context.Context, cfg Config, channel int) (*Listener, error) {
	l, err := ls.use(cfg, channel)
	if err != nil {
		return nil, err
	}
	ln, err := l.listen(ctx, channel)
	if err != nil {
		l.release()
		return nil, l.errorf(channel, err)
	}
	return ln, nil
}

func (ls *Lines) Dial(ctx context.Context, cfg Config, channel int) (net.Conn, error) {
	l, err := ls.use(cfg, channel)
	if err != nil {
		return nil, err
	}
	s, err := l.dial(ctx, channel)
	if err != nil {
		l.release()
		return nil, l.errorf(channel, err)
	}
	return l.conn(s), nil
}

func (ls *Lines) use(cfg Config, channel int) (*process, error) {
	cfg, err := cfg.check(channel)
	if err != nil {
		return nil, err
	}
	dir := cfg.Dir
	if dir == "" {
		if dir, err = rundir.Make(); err != nil {
			return nil, err
		}
	}
	base := filepath.Join(dir, rendezvous(cfg.Port))
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.m[base]
	if l == nil {
		l = &process{ls: ls, base: base, cfg: cfg, changed: make(chan struct{})}
		l.ctx, l.cancel = context.WithCancel(context.Background())
		if ls.m == nil {
			ls.m = make(map[string]*process)
		}
		ls.m[base] = l
		l.wg.Go(l.keep)
	} else if l.cfg.Baud != cfg.Baud {
		return nil, denied{baudError(cfg.Port, "this program", l.cfg.Baud, cfg.Baud)}
	}
	l.users++
	return l, nil
}

func rendezvous(port string) string {
	dev := device(port)
	sum := sha256.Sum256([]byte(dev))
	short := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, filepath.Base(dev))
	return fmt.Sprintf("com-%.16s-%x", short, sum[:4])
}

type upstream interface {
	dial(ctx context.Context, channel int) (*stream, error)
	// listen gives the channel's streams to take, which accepts or refuses.
	listen(ctx context.Context, channel int, take func(*stream)) error
	release(channel int)
	stats() (Stats, bool)
	// over is closed when the upstream is of no more use.
	over() <-chan struct{}
	// close waits for what it started.
	close()
}

type process struct {
	ls     *Lines
	base   string // of the rendezvous
	cfg    Config
	ctx    context.Context // ends with the last user
	cancel context.CancelFunc
	wg     sync.WaitGroup
	users  int // guarded by ls.mu

	mu      sync.Mutex
	up      upstream // nil: none now
	err     error    // the line could not be opened
	changed chan struct{}
}

func (l *process) errorf(channel int, err error) error {
	if _, ok := errors.AsType[*line.Error](err); ok {
		return err
	}
	return fmt.Errorf("%s channel %d: %w", l.cfg.Port, channel, err)
}

func (l *process) forgetLocked() {
	if l.ls.m[l.base] == l {
		delete(l.ls.m, l.base)
	}
}

func (l *process) retain() {
	l.ls.mu.Lock()
	defer l.ls.mu.Unlock()
	l.users++
}

func (l *process) release() {
	l.ls.mu.Lock()
	l.users--
	last := l.users == 0
	if last {
		l.forgetLocked()
	}
	l.ls.mu.Unlock()
	if last {
		l.cancel()
		l.wg.Wait()
	}
}

func (l *process) set(up upstream, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.up, l.err = up, err
	close(l.changed)
	l.changed = make(chan struct{})
}

const (
	firstPause = 100 * time.Millisecond
	maxPause   = 5 * time.Second
)

func (l *process) keep() {
	log, pause, first := l.cfg.Logger, firstPause, true
	for {
		up, err := l.acquire()
		switch {
		case err == nil:
			first = false
			since := time.Now()
			l.set(up, nil)
			select {
			case <-up.over():
			case <-l.ctx.Done():
			}
			up.close()
			l.set(nil, nil)
			if pause = min(2*pause, maxPause); time.Since(since) > maxPause {
				pause = firstPause
			}
		case first:
			l.ls.mu.Lock()
			l.forgetLocked()
			l.ls.mu.Unlock()
			l.set(nil, err)
			return
		default:
			log.Warn("the line cannot be opened again yet", "port", l.cfg.Port, "reason", err)
			pause = min(2*pause, maxPause)
		}
		select {
		case <-time.After(pause):
		case <-l.ctx.Done():
			return
		}
	}
}

func (l *process) acquire() (upstream, error) {
	ctx, cancel := context.WithTimeout(l.ctx, answerWithin)
	defer cancel()
	for {
		lock, err := tryLock(l.base)
		if err != nil {
			return nil, err
		}
		if lock != nil {
			o, err := own(l.ctx, l.base, lock, l.cfg)
			if err != nil {
				lock.Close()
				return nil, err
			}
			return o, nil
		}
		a, err := attach(ctx, l.base, l.cfg)
		if err == nil {
			return a, nil
		}
		if _, no := errors.AsType[denied](err); no {
			return nil, err
		}
		select {
		case <-time.After(20 * time.Millisecond): // it is just starting, or just ending
		case <-ctx.Done():
			return nil, fmt.Errorf("another process has the port and does not answer: %w", err)
		}
	}
}

func (l *process) current(ctx context.Context) (upstream, error) {
	for {
		l.mu.Lock()
		up, err, changed := l.up, l.err, l.changed
		l.mu.Unlock()
		if err != nil {
			return nil, err
		}
		if up != nil {
			select {
			case <-up.over():
			default:
				return up, nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("the line is not open: %w", context.Cause(ctx))
		}
	}
}

func (l *process) dial(ctx context.Context, channel int) (*stream, error) {
	ctx, cancel := context.WithTimeout(ctx, answerBound+2*answerWithin)
	defer cancel()
	for {
		up, err := l.current(ctx)
		if err != nil {
			return nil, err
		}
		s, err := up.dial(ctx, channel)
		if err == nil {
			return s, nil
		}
		select {
		case <-up.over(): // the next one is asked
		default:
			return nil, err
		}
	}
}

func (l *process) conn(s *stream) *Conn {
	near := Addr{Port: l.cfg.Port, Channel: s.channel}
	far := near
	far.Far = true
	return &Conn{stream: s, l: l, local: near, far: far}
}

func (l *process) stats() (Stats, bool) {
	l.mu.Lock()
	up := l.up
	l.mu.Unlock()
	if up == nil {
		return Stats{}, false
	}
	return up.stats()
}

func (l *process) listen(ctx context.Context, channel int) (*Listener, error) {
	ln := &Listener{l: l, addr: Addr{Port: l.cfg.Port, Channel: channel}}
	ln.some.L = &ln.mu
	ln.ctx, ln.cancel = context.WithCancel(l.ctx)
	first := make(chan error, 1)
	ln.wg.Go(func() { ln.hold(first) })
	var err error
	select {
	case err = <-first:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		ln.stop()
		return nil, err
	}
	return ln, nil
}

type Listener struct {
	l      *process
	addr   Addr
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	once   sync.Once

	mu     sync.Mutex
	some   sync.Cond
	queue  queue[*stream]
	closed bool
}

func (ln *Listener) hold(first chan<- error) {
	told := false
	for {
		up, err := ln.l.current(ln.ctx)
		if err == nil {
			err = up.listen(ln.ctx, ln.addr.Channel, ln.push)
			if err == nil {
				if !told {
					told = true
					first <- nil
				}
				select {
				case <-up.over():
					continue
				case <-ln.ctx.Done():
					up.release(ln.addr.Channel)
					return
				}
			}
			select {
			case <-up.over():
				continue
			default:
			}
		}
		if !told {
			first <- err
			return
		}
		if ln.ctx.Err() == nil {
			ln.l.cfg.Logger.Warn("the channel cannot be listened on for now", "port", ln.addr.Port, "channel", ln.addr.Channel, "reason", err)
		}
		select {
		case <-time.After(time.Second):
		case <-ln.ctx.Done():
			return
		}
	}
}

func (ln *Listener) push(s *stream) {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	if ln.closed {
		s.refuse(refusal{code: codeNobody})
		return
	}
	s.accept()
	ln.queue.push(s)
	ln.some.Signal()
}

func (ln *Listener) Accept() (net.Conn, error) {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	for {
		if ln.closed {
			return nil, net.ErrClosed
		}
		for !ln.queue.empty() {
			if s := ln.queue.pop(); s.alive() {
				ln.l.retain()
				return ln.l.conn(s), nil
			}
		}
		ln.some.Wait()
	}
}

func (ln *Listener) stop() {
	ln.cancel()
	ln.wg.Wait()
	ln.mu.Lock()
	defer ln.mu.Unlock()
	ln.closed = true
	for !ln.queue.empty() {
		ln.queue.pop().reset(refusal{code: codeGone})
	}
	ln.some.Broadcast()
}

func (ln *Listener) Close() error {
	err := net.ErrClosed
	ln.once.Do(func() {
		ln.stop()
		ln.l.release()
		err = nil
	})
	return err
}

func (ln *Listener) Addr() net.Addr { return ln.addr }

func (ln *Listener) Stats() (Stats, bool) { return ln.l.stats() }
