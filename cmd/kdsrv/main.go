// Command kdsrv is the KD connection server: it runs on the machine next to a
// target and lets kernel debuggers elsewhere use the lines of this machine. It
// opens no line by itself; the debugger names it. Packages server and transport
// do the work; here are the flags and the life cycle.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"openkd/connstr"
	"openkd/internal/firewall"
	"openkd/internal/password"
	"openkd/internal/version"
	"openkd/server"
	"openkd/transport"
)

// Exit codes.
const (
	exitOK     = 0
	exitUsage  = 1
	exitListen = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// run serves until ctx ends or a client asks for the end, and returns the exit
// code.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		io.WriteString(stderr, usage())
		return exitUsage
	}
	f, err := parse(args)
	switch {
	case err != nil:
		fmt.Fprintln(stderr, "kdsrv:", err)
		return exitUsage
	case f.help:
		io.WriteString(stdout, usage())
		return exitOK
	case f.makeCert != "":
		return makeCertificate(f.makeCert, stdout, stderr)
	case f.version:
		fmt.Fprintf(stdout, "OpenKD connection server %s %s/%s\n", version.String(), runtime.GOOS, runtime.GOARCH)
		return exitOK
	}
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
	out := stderr
	if f.logFile != "" {
		// 0600: who connects from where is nobody else's business.
		file, err := os.OpenFile(f.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			fmt.Fprintf(stderr, "kdsrv: the log file cannot be opened: %v\n", err)
			return exitListen
		}
		defer file.Close()
		out = file
	}
	level := slog.LevelInfo
	if f.verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: level}))

	// All doors open before anything is served: nothing is half started.
	var doors []transport.Listener
	defer func() {
		for _, l := range doors {
			l.Close()
		}
	}()
	guesses := transport.NewLimiter(transport.Guesses{})
	for _, t := range f.transports {
		l, err := transport.Listen(ctx, t, transport.Options{Logger: log, Limiter: guesses, PipeUsers: f.pipeUsers})
		if err != nil {
			fmt.Fprintln(stderr, "kdsrv:", err)
			return exitListen
		}
		if t.Firewall {
			openFirewall(ctx, l.Transport(), stderr, log)
		}
		doors = append(doors, l)
	}
	grace := f.grace
	if grace == 0 {
		grace = -1 // 0 would be the default
	}
	lines := server.Lines{Getenv: getenv}
	srv := server.New(server.Options{Opener: lines.Open, Canonical: lines.Key, Grace: grace, MaxClients: f.maxClients, Release: version.Release, Logger: log})
	var wg sync.WaitGroup
	for _, l := range doors {
		wg.Go(func() {
			if err := srv.Serve(ctx, l); err != nil {
				log.Error("a door does not accept any more", "address", l.Addr().String(), "error", err)
			}
		})
	}
	unlist := list(ctx, doors, f.noAnnounce, log)
	fmt.Fprintln(stdout, announce(doors))
	log.Info("started", "version", version.String(), "pid", os.Getpid())

	select {
	case <-ctx.Done():
		log.Info("ending: told by a signal")
	case <-srv.EndAsked():
		log.Info("ending: told by a client")
	}
	unlist()
	for _, l := range doors {
		l.Close()
	}
	down, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	held := len(srv.Sessions())
	if err := srv.Shutdown(down); err != nil {
		log.Error("ended, but not everything came to its end", "error", err)
	} else {
		log.Info("ended", "sessions", held)
	}
	wg.Wait()
	return exitOK
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

// announce is the one line on standard output.
func announce(doors []transport.Listener) string {
	var at []string
	for _, l := range doors {
		at = append(at, l.Transport().String())
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "<host>"
	}
	to := doors[0].Transport().ForClient(host, runtime.GOOS == "windows")
	return fmt.Sprintf(`kdsrv: listening on %s (connect with kd -k "kdsrv:server=@{%s},trans=@{com:port=<device>,baud=115200}")`, strings.Join(at, " and "), to)
}
