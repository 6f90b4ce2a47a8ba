package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"openkd/connstr"
	"openkd/internal/audit"
	"openkd/internal/firewall"
	"openkd/internal/password"
	"openkd/internal/version"
	"openkd/server"
	"openkd/status/local"
	"openkd/status/metrics"
	"openkd/transport"
	"openkd/transport/comline"
)

// shutdownWithin bounds letting every target go when the server ends.
const shutdownWithin = 15 * time.Second

// daemon is a server with its doors and what stands beside them.
type daemon struct {
	f      flags
	getenv func(string) string
	stderr io.Writer

	log   *slog.Logger
	trail *audit.Trail
	srv   *server.Server
	doors []transport.Listener
	undo  []func() // what open opened, in order
}

// serve opens everything and serves until ctx ends or a client asks for the
// end. It returns the exit code.
func serve(ctx context.Context, f flags, getenv func(string) string, stdout, stderr io.Writer) int {
	pw, err := password.Find(f.password, getenv)
	if err != nil {
		fmt.Fprintln(stderr, "kdsrv:", err)
		return exitUsage
	}
	for i := range f.transports {
		if t := &f.transports[i]; t.Password == "" {
			t.Password = pw
		}
	}
	d := &daemon{f: f, getenv: getenv, stderr: stderr}
	defer d.close()
	if err := d.open(ctx); err != nil {
		fmt.Fprintln(stderr, "kdsrv:", err)
		return exitListen
	}
	d.run(ctx, stdout)
	return exitOK
}

// open opens all that is asked for before anything is served: nothing is half
// started.
func (d *daemon) open(ctx context.Context) error {
	if err := d.openLog(); err != nil {
		return err
	}
	if err := d.openDoors(ctx); err != nil {
		return err
	}
	grace := d.f.grace
	if grace == 0 {
		grace = -1 // 0 would be the default
	}
	lines := server.Lines{Getenv: d.getenv}
	d.srv = server.New(server.Options{
		Opener: lines.Open, Canonical: lines.Key, Grace: grace, MaxClients: d.f.maxClients, Release: version.Release, Logger: d.log,
	})
	if d.f.metrics != "" {
		m, public, err := metrics.Listen(ctx, d.f.metrics, metrics.Source{Status: d.srv.Status, Events: d.trail.Counts}, d.log)
		if err != nil {
			return err
		}
		d.undo = append(d.undo, m.Close)
		d.log.Info("metrics", "address", "http://"+m.Addr().String()+"/metrics")
		if public {
			d.log.Warn("whoever reaches the address of the metrics can read which lines there are, without a password")
		}
	}
	st, err := local.Serve(d.srv.Status)
	if err != nil {
		d.log.Warn("kdsrv -status will not show this server", "error", err)
		return nil
	}
	d.undo = append(d.undo, st.Close)
	return nil
}

// openLog opens the log and the audit. 0600: who connects from where is nobody
// else's business.
func (d *daemon) openLog() error {
	file := func(name, what string) (io.Writer, error) {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, fmt.Errorf("the %s file cannot be opened: %w", what, err)
		}
		d.undo = append(d.undo, func() { f.Close() })
		return f, nil
	}
	out, lines := d.stderr, io.Writer(nil)
	var err error
	if d.f.logFile != "" {
		if out, err = file(d.f.logFile, "log"); err != nil {
			return err
		}
	}
	if d.f.audit != "" {
		if lines, err = file(d.f.audit, "audit"); err != nil {
			return err
		}
	}
	level := slog.LevelInfo
	if d.f.verbose {
		level = slog.LevelDebug
	}
	d.trail = audit.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: level}), lines)
	d.log = slog.New(d.trail)
	return nil
}

// openDoors opens every -t, with sockets that were passed on where they fit.
func (d *daemon) openDoors(ctx context.Context) error {
	passed, err := inherited(d.getenv)
	if err != nil {
		return err
	}
	defer passed.close()
	guesses, serial := transport.NewLimiter(transport.Guesses{}), new(comline.Lines)
	for _, t := range d.f.transports {
		o := transport.Options{Logger: d.log, Limiter: guesses, PipeUsers: d.f.pipeUsers, Socket: passed.take(t), Lines: serial}
		l, err := transport.Listen(ctx, t, o)
		if err != nil {
			if o.Socket != nil {
				o.Socket.Close()
			}
			return err
		}
		d.undo = append(d.undo, func() { l.Close() })
		d.doors = append(d.doors, l)
		if t.Firewall {
			openFirewall(ctx, l.Transport(), d.stderr, d.log)
		}
	}
	return passed.unused()
}

// run serves.
func (d *daemon) run(ctx context.Context, stdout io.Writer) {
	var wg sync.WaitGroup
	for _, l := range d.doors {
		wg.Go(func() {
			if err := d.srv.Serve(ctx, l); err != nil {
				d.log.Error("a door does not accept any more", "address", l.Addr().String(), "error", err)
			}
		})
	}
	unlist := list(ctx, d.doors, d.f.noAnnounce, d.log)
	line := announce(d.doors)
	fmt.Fprintln(stdout, line)
	d.log.Info("started", "audit", "start", "version", version.String(), "pid", os.Getpid())
	notify(d.getenv, d.log, "READY=1\nSTATUS="+line)
	if d.f.ready != nil {
		d.f.ready()
	}

	select {
	case <-ctx.Done():
		d.log.Info("ending: told by a signal")
	case <-d.srv.EndAsked():
		d.log.Info("ending: told by a client")
	}
	notify(d.getenv, d.log, "STOPPING=1\nSTATUS=letting every target run")
	unlist()
	for _, l := range d.doors {
		l.Close()
	}
	down, cancel := context.WithTimeout(context.Background(), shutdownWithin)
	defer cancel()
	held := len(d.srv.Sessions())
	if err := d.srv.Shutdown(down); err != nil {
		d.log.Error("ended, but not everything came to its end", "audit", "stop", "sessions", held, "error", err)
	} else {
		d.log.Info("ended", "audit", "stop", "sessions", held)
	}
	wg.Wait()
}

// close closes in the reverse order. What is closed already takes it.
func (d *daemon) close() {
	for i := len(d.undo) - 1; i >= 0; i-- {
		d.undo[i]()
	}
}

// openFirewall is IcfEnable. What it says is for the person who starts the
// server, wherever the log goes.
func openFirewall(ctx context.Context, t connstr.Transport, stderr io.Writer, log *slog.Logger) {
	text, err := firewall.This().Allow(ctx, t)
	if err != nil {
		text = err.Error()
		log.Warn("the firewall was not opened", "door", t.String())
	}
	fmt.Fprintln(stderr, "kdsrv:", text)
}
