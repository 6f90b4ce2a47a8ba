// Command kdsrv is the KD connection server: it runs on the machine next to a
// target and lets kernel debuggers elsewhere use the lines of this machine. It
// opens no line by itself; the debugger names it. Packages server and transport
// do the work; here are the flags and the life cycle.
package main

import (
	"context"
	"errors"
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
	"openkd/internal/version"
	"openkd/server"
	"openkd/transport"
)

const usage = `kdsrv: a KD connection server; kernel debuggers elsewhere use the lines of this machine

  kdsrv -t tcp:port=1234,password=secret

then on the other machine

  kd -k "kdsrv:server=@{tcp:server=<this host>,port=1234,password=secret},trans=@{com:port=/dev/ttyUSB0,baud=115200}"

  -t transport    where to listen; may be given more than once
                  tcp:port=<n>|<low>:<high>[,password=<word>][,ipversion=6]
  -grace time     how long a session waits for a client whose connection was lost,
                  such as 90s, before the target is let go (default 60s)
  -logfile file   append the log to a file instead of standard error
  -v              log more
  -version        print the version
  -?              print this
  -x              ignore the rest of the command line

/ works for -. What a client leaves out of a link is filled in from
_NT_DEBUG_PORT and _NT_DEBUG_BAUD_RATE of this process. The server ends on
Ctrl+C, SIGTERM, or .endpsrv from a client, and lets every target run.

exit code: 0 ended on request, 1 the command line is wrong, 2 it cannot listen or log
`

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

type flags struct {
	transports []connstr.Transport
	grace      time.Duration
	logFile    string
	verbose    bool
	version    bool
	help       bool
}

func parse(args []string) (flags, error) {
	f := flags{grace: time.Minute}
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if len(arg) < 2 || arg[0] != '-' && arg[0] != '/' {
			return f, fmt.Errorf("%q is not an option; options begin with -, and the server is given as -t tcp:port=1234", arg)
		}
		name := strings.ToLower(strings.TrimPrefix(arg[1:], "-"))
		value := func(example string) (string, error) {
			i++
			if i >= len(args) {
				return "", fmt.Errorf("%s needs a value, as in %s %s", arg, arg, example)
			}
			return args[i], nil
		}
		switch name {
		case "t":
			v, err := value("tcp:port=1234,password=secret")
			if err != nil {
				return f, err
			}
			t, err := connstr.ParseTransport(v, true)
			if err != nil {
				return f, err
			}
			f.transports = append(f.transports, t)
		case "grace":
			v, err := value("90s")
			if err != nil {
				return f, err
			}
			d, err := time.ParseDuration(v)
			if err != nil || d < 0 || d > 24*time.Hour {
				return f, fmt.Errorf("-grace %q: a time from 0s to 24h is meant, as in -grace 90s", v)
			}
			f.grace = d
		case "logfile":
			v, err := value("kdsrv.log")
			if err != nil {
				return f, err
			}
			f.logFile = v
		case "v":
			f.verbose = true
		case "version":
			f.version = true
		case "?", "h", "help":
			f.help = true
		case "x":
			i = len(args)
		case "c", "cs", "pc", "sifeo", "p", "noio", "uwmi":
			return f, fmt.Errorf("%s belongs to process servers; kdsrv takes -t", arg)
		default:
			return f, fmt.Errorf("%s is not an option of kdsrv; kdsrv -? lists them", arg)
		}
	}
	if len(f.transports) == 0 && !f.help && !f.version {
		return f, errors.New("-t is missing: where to listen, as in kdsrv -t tcp:port=1234,password=secret")
	}
	return f, nil
}

// run serves until ctx ends or a client asks for the end, and returns the exit
// code.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		io.WriteString(stderr, usage)
		return exitUsage
	}
	f, err := parse(args)
	switch {
	case err != nil:
		fmt.Fprintln(stderr, "kdsrv:", err)
		return exitUsage
	case f.help:
		io.WriteString(stdout, usage)
		return exitOK
	case f.version:
		fmt.Fprintf(stdout, "OpenKD connection server %s %s/%s\n", version.String(), runtime.GOOS, runtime.GOARCH)
		return exitOK
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
	for _, t := range f.transports {
		l, err := transport.Listen(ctx, t, transport.Options{Logger: log})
		if err != nil {
			fmt.Fprintln(stderr, "kdsrv:", err)
			return exitListen
		}
		if t.Firewall {
			log.Warn("IcfEnable: the firewall is not touched; allow this address by hand if it blocks", "address", l.Addr().String())
		}
		doors = append(doors, l)
	}
	grace := f.grace
	if grace == 0 {
		grace = -1 // 0 would be the default
	}
	lines := server.Lines{Getenv: getenv}
	srv := server.New(server.Options{Opener: lines.Open, Canonical: lines.Key, Grace: grace, Release: version.Release, Logger: log})
	var wg sync.WaitGroup
	for _, l := range doors {
		wg.Go(func() {
			if err := srv.Serve(ctx, l); err != nil {
				log.Error("a door does not accept any more", "address", l.Addr().String(), "error", err)
			}
		})
	}
	fmt.Fprintln(stdout, announce(doors))
	log.Info("started", "version", version.String(), "pid", os.Getpid())

	select {
	case <-ctx.Done():
		log.Info("ending: told by a signal")
	case <-srv.EndAsked():
		log.Info("ending: told by a client")
	}
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
	t := doors[0].Transport()
	to := fmt.Sprintf("%s:server=%s,port=%d", t.Proto, host, t.Port)
	if t.Password != "" {
		to += ",password=<password>"
	}
	return fmt.Sprintf(`kdsrv: listening on %s (connect with kd -k "kdsrv:server=@{%s},trans=@{com:port=<device>,baud=115200}")`, strings.Join(at, " and "), to)
}
