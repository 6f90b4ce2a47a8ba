// Command kdprx is the repeater: it stands between debuggers that cannot reach
// each other and passes their bytes on. Package repeater does the work; here
// are the flags and the life cycle.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"openkd/connstr"
	"openkd/internal/firewall"
	"openkd/internal/version"
	"openkd/repeater"
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
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run passes connections on until ctx or the last connection ends, and returns
// the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		io.WriteString(stderr, usage())
		return exitUsage
	}
	f, err := parse(args)
	switch {
	case err != nil:
		fmt.Fprintln(stderr, "kdprx:", err)
		return exitUsage
	case f.help:
		io.WriteString(stdout, usage())
		return exitOK
	case f.version:
		fmt.Fprintf(stdout, "OpenKD repeater %s %s/%s\n", version.String(), runtime.GOOS, runtime.GOARCH)
		return exitOK
	}
	out := stderr
	if f.logFile != "" {
		// 0600: who connects from where is nobody else's business.
		file, err := os.OpenFile(f.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			fmt.Fprintf(stderr, "kdprx: the log file cannot be opened: %v\n", err)
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

	r, err := repeater.Open(ctx, *f.server, *f.client, repeater.Options{Logger: log, Keep: f.keep, PipeUsers: f.pipeUsers})
	if err != nil {
		fmt.Fprintln(stderr, "kdprx:", err)
		return exitListen
	}
	if f.client.Firewall {
		text, err := firewall.This().Allow(ctx, r.Client())
		if err != nil {
			text = err.Error()
		}
		fmt.Fprintln(stderr, "kdprx:", text) // for who starts it, wherever the log goes
	}
	fmt.Fprintln(stdout, announce(r.Client(), r.Server()))
	log.Info("started", "version", version.String(), "pid", os.Getpid(), "keep", f.keep)
	log.Info("ended", "reason", r.Run(ctx))
	return exitOK
}

// announce is the one line on standard output: what is passed where, and what
// to type at both ends.
func announce(client, server connstr.Transport) string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "<this host>"
	}
	at := "connect with"
	if client.ClientOf != "" {
		at = "on " + client.ClientOf + " wait with"
	}
	s := fmt.Sprintf(`kdprx: passing %s on to %s (%s kd -k "kdsrv:server=@{%s},trans=@{com:port=<device>,baud=115200}", with the server's password= if it has one`,
		client, server, at, client.ForClient(host, runtime.GOOS == "windows"))
	if server.ClientOf != "" {
		s += fmt.Sprintf("; on %s connect in with kdsrv -t %s", server.ClientOf, server.ForClient(host, false))
	}
	return s + ")"
}
