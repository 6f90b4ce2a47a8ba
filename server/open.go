package server

import (
	"context"
	"errors"
	"fmt"
	"io"

	"openkd/connstr"
	"openkd/link"
	"openkd/link/kdcom"
	"openkd/link/kdnet"
	"openkd/link/line"
	"openkd/target"
)

// Lines opens kernel links on this machine: it is the way from the text of a
// link to a live target.
type Lines struct {
	// Getenv reads the environment that fills in what a link leaves out.
	Getenv func(string) string
	// Trace, when set, sees what crosses every line (kdcom.HostOptions.Trace).
	Trace func(line string, d kdcom.Direction, b []byte)
	// Wrap, when set, stands between the line and the link: a decorator that
	// throttles, delays or spoils bytes.
	Wrap func(io.ReadWriteCloser) io.ReadWriteCloser
	// Tune, when set, changes the options of a live target before it is made.
	Tune func(*target.LiveOptions)
}

// Resolve reads a link and fills in its defaults. The key names what only one
// session can hold, however its parameters are spelt.
func (o Lines) Resolve(text string) (l connstr.Link, key string, err error) {
	if text == "" {
		text = "com:"
	}
	l, err = connstr.ParseLink(text)
	if err != nil {
		return l, "", err
	}
	if o.Getenv != nil {
		if l, err = l.WithDefaults(o.Getenv); err != nil {
			return l, "", err
		}
	}
	if l.Kind == connstr.LinkNet {
		if l, err = o.net(l); err != nil {
			return l, "", err
		}
	}
	return l, l.Resource(), nil
}

// net completes a network link from its profile and checks its key.
func (o Lines) net(l connstr.Link) (connstr.Link, error) {
	var err error
	from := l
	if l.Profile != "" {
		if l, err = o.profile(l.Profile); err != nil {
			return l, err
		}
	}
	if l.HostIP != "" {
		return l, fmt.Errorf("%s: hostip= belongs to the target; a debugger listens at all its addresses", from)
	}
	if _, err := kdnet.ParseKey(l.Key); err != nil {
		return l, fmt.Errorf("%s: %w", from, err)
	}
	return l, nil
}

// Key tells what only one session can hold, for Options.Canonical.
func (o Lines) Key(text string) (string, error) {
	_, key, err := o.Resolve(text)
	return key, err
}

// openNet is Open for a network link.
func (o Lines) openNet(ctx context.Context, k connstr.Link, cfg target.Config) (target.Target, string, error) {
	key, err := kdnet.ParseKey(k.Key)
	if err != nil {
		return nil, "", err
	}
	name := fmt.Sprintf("udp/%d", k.IPPort)
	nc := kdnet.Config{Key: key, Port: k.IPPort, Target: k.Target}
	if o.Trace != nil {
		nc.Trace = func(out bool, b []byte) {
			d := kdcom.In
			if out {
				d = kdcom.Out
			}
			o.Trace(name, d, b)
		}
	}
	opt := target.LiveOptions{
		Open: func(ctx context.Context) (link.Host, error) {
			h, err := kdnet.Listen(ctx, nc)
			if err != nil {
				return nil, err
			}
			// target= takes a target from another debugger when somebody says so,
			// which is now; not when one debugger loses it to the other and both
			// would take it in turns.
			nc.Polite = true
			return h, nil
		},
		Temporary: func(error) bool { return true },
		Line:      k.String(), Name: name, ReadSize: 1024, Config: cfg,
	}
	if o.Tune != nil {
		o.Tune(&opt)
	}
	live := target.NewLive(opt)
	if err := live.Start(ctx); err != nil {
		return nil, "", err
	}
	return live, k.String(), nil
}

// liveLine is a live target with the line it owns.
type liveLine struct {
	*target.Live
	line *line.Line
}

func (l *liveLine) Close(ctx context.Context, how target.Leave) error {
	err := l.Live.Close(ctx, how)
	l.line.Close()
	return err
}

// Open opens a link and starts a session on it. It returns when the line is
// open, or waited for (reconnect, listen); the target is met later.
func (o Lines) Open(ctx context.Context, text string, cfg target.Config) (target.Target, string, error) {
	k, _, err := o.Resolve(text)
	if err != nil {
		return nil, "", err
	}
	if k.Kind == connstr.LinkNet {
		return o.openNet(ctx, k, cfg)
	}
	ln, err := line.New(k)
	if err != nil {
		return nil, "", err
	}
	open := func(ctx context.Context) (link.Host, error) {
		s, err := ln.Open(ctx)
		if err != nil {
			return nil, err
		}
		if o.Wrap != nil {
			s = o.Wrap(s)
		}
		opt := kdcom.HostOptions{Speed: ln.Speed(), UnlimitedResets: k.Resets == 0, MaxResets: max(k.Resets, 0)}
		if o.Trace != nil {
			opt.Trace = func(d kdcom.Direction, b []byte) { o.Trace(ln.Name(), d, b) }
		}
		return kdcom.NewHost(s, opt), nil
	}
	opt := target.LiveOptions{
		Open: open, Temporary: temporary, Line: ln.String(), Name: ln.Name(), Note: ln.Note, Speed: ln.Speed(),
		Reconnect: k.Reconnect, Waits: ln.Waits(), Config: cfg,
	}
	if o.Tune != nil {
		o.Tune(&opt)
	}
	live := target.NewLive(opt)
	if err := live.Start(ctx); err != nil {
		ln.Close()
		return nil, "", err
	}
	return &liveLine{live, ln}, ln.String(), nil
}

func temporary(err error) bool {
	var e *line.Error
	return errors.As(err, &e) && e.Temporary
}
