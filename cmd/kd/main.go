// Command kd is the kernel debugger: a smart client with a terminal. Here are
// its flags, how the pieces are put together, and its exit codes; the debugger
// is in packages engine, command and console.
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"openkd/command"
	"openkd/connstr"
	"openkd/console"
	"openkd/discovery"
	"openkd/engine"
	"openkd/extension"
	"openkd/internal/password"
	"openkd/internal/version"
	"openkd/kdrpc"
	"openkd/link/kdnet"
	"openkd/server"
	"openkd/sim"
	"openkd/target"
	"openkd/transport"
)

// Exit codes besides those of console.Run (0, 2, 3).
const (
	exitUsage     = 1
	exitNoConnect = 4
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	stderr = console.Visible(stderr) // errors may quote what a server or target said
	f, err := parse(args)
	if err != nil {
		fmt.Fprintln(stderr, "kd:", err)
		return exitUsage
	}
	switch {
	case f.help:
		io.WriteString(stdout, usage())
		return 0
	case f.version:
		fmt.Fprintln(stdout, banner())
		return 0
	case f.servers != nil:
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		return listServers(ctx, *f.servers, f.json, discovery.Browse, stdout, stderr)
	case f.keygen:
		if err := keygen(stdout, f.port, f.hostip); err != nil {
			fmt.Fprintln(stderr, "kd:", err)
			return exitUsage
		}
		return 0
	}
	if f.remote != nil {
		return runRemote(&f, stdin, stdout, stderr)
	}
	f.environment(os.Getenv)
	if f.noio {
		stdout, stdin = io.Discard, nil
	}
	text := stdout // what is said before the console takes over
	if f.json {
		text = stderr
	}
	var k connstr.Kernel
	if !f.demo {
		link := ""
		if f.kernel != nil {
			link = *f.kernel
		} else if os.Getenv("_NT_DEBUG_PORT") == "" {
			fmt.Fprintln(stderr, "kd: no target is named: kd -k <link> debugs one, kd -demo brings its own, kd -? lists the options")
			return exitUsage
		}
		if k, err = connstr.ParseKernel(link); err == nil && k.Server == nil {
			_, err = k.Link.WithDefaults(os.Getenv)
		}
		if err == nil && k.Link.Key != "" {
			_, err = kdnet.ParseKey(k.Link.Key)
		}
		if err == nil && k.Server != nil && k.Server.Password == "" {
			k.Server.Password, err = password.Find(f.password, os.Getenv)
		}
		if err != nil {
			fmt.Fprintln(stderr, "kd:", err)
			return exitUsage
		}
	}
	if f.password != "" && k.Server == nil && len(f.doors) == 0 {
		fmt.Fprintln(stderr, "kd: -passwordfile is not used: the link is a local one, and passwords are for server=@{}, -server and -remote")
	}
	hub, done, err := newShare(&f)
	if err != nil {
		fmt.Fprintln(stderr, "kd:", err)
		return exitUsage
	}
	defer done()
	defer hub.Close("The debugger that shares this session has ended.")
	text = sayAll{text, hub}
	fmt.Fprintf(text, "\n%s\n\n", banner())
	files, err := newSymbolFiles(&f, os.Getenv, func(t string) { fmt.Fprintln(text, t) })
	if err != nil {
		fmt.Fprintln(stderr, "kd:", err)
		return exitUsage
	}
	defer files.finder.Close()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	tr := &tracer{out: stderr}
	var back backstage
	defer back.close()
	if f.demo {
		if k, err = back.demo(ctx, stderr); err != nil {
			fmt.Fprintln(stderr, "kd: the demonstration cannot start:", err)
			return exitNoConnect
		}
		f.breakIn = true
		fmt.Fprintf(text, "A simulated machine runs behind a connection server on this computer; this session is\n  kd -k \"kdsrv:server=@{%s},trans=@{%s}\"\n.help lists the commands, q leaves.\n\n", k.Server, k.Link)
	}

	// Ending this process must not leave the target frozen, with breakpoints in
	// it. A second signal ends it at once.
	end, stop := signal.NotifyContext(ctx, endSignals()...)
	defer stop()
	context.AfterFunc(end, stop)

	if err := openDoors(end, &f, hub, text); err != nil {
		fmt.Fprintln(stderr, "kd:", err)
		return exitNoConnect
	}
	hub.SetTitle("Remote KD: " + k.String())
	cfg := target.Config{Break: f.breakIn, BreakOnFirstLoad: f.firstLoad}
	client, err := connect(end, k, cfg, f.takeOver, text, &back, tr)
	if err != nil {
		fmt.Fprintln(stderr, "kd:", err)
		return exitNoConnect
	}
	defer func() {
		c, stop := context.WithTimeout(context.Background(), 15*time.Second)
		defer stop()
		client.Close(c, target.LeaveRunning)
	}()

	e := engine.New(client, engine.Options{
		Name: "Remote KD: " + k.String(), Config: cfg, StopFirstChance: f.firstExc, CacheSize: cacheSize(os.Getenv, stderr),
	})
	s := command.NewSession(e, stdout, command.Options{Quiet: f.quiet, Verbose: f.verbose, Share: hub})
	if f.noShell {
		s.SetNoShell()
	}
	s.SetExtensionPath(extension.SplitPath(os.Getenv(extension.EnvPath)))
	for i, name := range f.extensions {
		s.NameExtension(name)
		f.commands = slices.Insert(f.commands, i, fmt.Sprintf(".setdll \"%s\"", name))
	}
	set := files.use(e, s)
	defer set.Close()
	var notes []string
	if f.symopt != nil {
		notes = s.SetSymbolOptions(*f.symopt)
	}
	if f.secure {
		notes = append(notes, s.SetSecure()...)
	}
	for _, note := range notes {
		fmt.Fprintln(text, note)
	}
	if f.loadAll {
		f.commands = append([]string{"ld *"}, f.commands...)
	}
	if f.log != "" {
		if err := s.OpenLog(f.log, f.logAppend); err != nil {
			fmt.Fprintln(stderr, "kd:", err)
			return exitUsage
		}
	}
	trace := tr.set
	if k.Server != nil && !f.demo {
		trace = nil // the line is on another machine
	}
	return console.Run(end, console.Options{
		In: stdin, Out: stdout, Err: stderr, Session: s, Engine: e,
		Commands: f.commands, ScriptFile: f.script, JSON: f.json, NoIO: f.noio, Noisy: f.noisy, Verbose: f.verbose,
		Versions: banner(), Trace: trace, Terminal: f.terminal(),
	})
}

func banner() string {
	return fmt.Sprintf("OpenKD kernel debugger %s %s/%s", version.String(), runtime.GOOS, runtime.GOARCH)
}

// environment takes what WinDbg's variables say and the command line does not.
func (f *flags) environment(getenv func(string) string) {
	if getenv("KDQUIET") != "" {
		f.quiet = true
	}
	if f.log == "" {
		if v := getenv("_NT_DEBUG_LOG_FILE_APPEND"); v != "" {
			f.log, f.logAppend = v, true
		} else if v := getenv("_NT_DEBUG_LOG_FILE_OPEN"); v != "" {
			f.log = v
		}
	}
}

// cacheSize is _NT_DEBUG_CACHE_SIZE in bytes, 0 for the default.
func cacheSize(getenv func(string) string, stderr io.Writer) int {
	v := getenv("_NT_DEBUG_CACHE_SIZE")
	if v == "" {
		return 0
	}
	var n int
	if _, err := fmt.Sscanf(v, "%d", &n); err != nil || n < 0 || n > 1<<30 {
		fmt.Fprintf(stderr, "kd: _NT_DEBUG_CACHE_SIZE=%s is not a number of bytes; the default is used\n", v)
		return 0
	}
	return n
}

// backstage is what runs in this process besides the debugger: the server of a
// local line, the demonstration's machine. It is closed in the reverse order.
type backstage struct {
	undo []func()
}

func (b *backstage) add(f func()) { b.undo = append(b.undo, f) }

func (b *backstage) close() {
	for i := len(b.undo) - 1; i >= 0; i-- {
		b.undo[i]()
	}
}

// connect opens the session: through a connection server, or through one in
// this process for a line of this machine. say is for what a person should know
// while it waits.
func connect(ctx context.Context, k connstr.Kernel, cfg target.Config, takeOver bool, say io.Writer, back *backstage, tr *tracer) (*kdrpc.Client, error) {
	open := kdrpc.Open{Link: k.Link.Reveal(), TakeOver: takeOver, Config: cfg}
	// Ctrl+C before the prompt ends the attempt.
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	if k.Server == nil {
		lines := server.Lines{Getenv: os.Getenv, Trace: tr.packet}
		srv := server.InProcess(server.Options{Opener: lines.Open, Canonical: lines.Key, Release: version.Release})
		back.add(func() { shutdown(srv) })
		return kdrpc.Connect(ctx, srv.Dial, open, kdrpc.WithLocal(), kdrpc.WithRelease(version.Release))
	}
	d := &door{t: *k.Server, out: say}
	return kdrpc.Connect(ctx, d.dial, open, kdrpc.WithServer(k.Server.String()), kdrpc.WithRelease(version.Release))
}

// endSignals are those that ask this process to end. Ctrl+C is not among them.
func endSignals() []os.Signal {
	s := []os.Signal{syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // else started with nohup
		s = append(s, syscall.SIGHUP)
	}
	return s
}

func shutdown(srv *server.Server) {
	c, stop := context.WithTimeout(context.Background(), 15*time.Second)
	defer stop()
	srv.Shutdown(c)
}

const demoCPUs = 2

// demo starts a simulated machine and a connection server on loopback and
// returns the way there.
func (b *backstage) demo(ctx context.Context, stderr io.Writer) (connstr.Kernel, error) {
	var k connstr.Kernel
	// Few retries: nobody is there while it boots.
	m, err := sim.New(sim.Config{Processors: demoCPUs, Seed: 1, Drivers: time.Minute, Retries: 3})
	if err != nil {
		return k, err
	}
	mctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	b.add(func() { stop(); wg.Wait() })
	quiet := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelError}))

	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return k, err
	}
	b.add(func() { ln.Close() })
	wg.Go(func() { m.Run(mctx) })
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			m.Serve(mctx, c)
		}
	})

	// A machine that has come up is more to look at than one that boots.
	for up := time.Now().Add(5 * time.Second); time.Now().Before(up); time.Sleep(10 * time.Millisecond) {
		if _, ok := m.CPU(demoCPUs - 1); ok && m.Stats().Ticks > 32 {
			break
		}
	}

	lines := server.Lines{Getenv: os.Getenv}
	srv := server.New(server.Options{Opener: lines.Open, Canonical: lines.Key, Release: version.Release, Logger: quiet})
	b.add(func() { shutdown(srv) })
	pw := rand.Text()[:12]
	door, err := transport.Listen(ctx, connstr.Transport{Proto: "tcp", Server: "127.0.0.1", Port: connstr.AnyPort, Password: pw}, transport.Options{Logger: quiet})
	if err != nil {
		return k, err
	}
	b.add(func() { door.Close() })
	wg.Go(func() { srv.Serve(mctx, door) })

	return connstr.Kernel{
		Server: &connstr.Transport{Proto: "tcp", Server: "127.0.0.1", Port: door.Transport().Port, Password: pw},
		Link:   connstr.Link{Kind: connstr.LinkTCP, Port: "127.0.0.1", IPPort: ln.Addr().(*net.TCPAddr).Port, Resets: -1},
	}, nil
}
