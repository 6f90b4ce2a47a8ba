// Command kdsrv is the KD connection server: it runs on the machine next to a
// target and lets kernel debuggers elsewhere use the lines of this machine. It
// opens no line by itself; the debugger names it. Packages server and transport
// do the work; here are the flags and the life cycle.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"openkd/internal/service"
	"openkd/internal/version"
	"openkd/transport"
)

// Exit codes.
const (
	exitOK     = 0
	exitUsage  = 1
	exitListen = 2
	exitNone   = 3 // -status: no server runs
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
	case f.status:
		return showStatus(ctx, f.json, stdout, stderr)
	case f.service:
		err := service.Run(func(ctx context.Context, out io.Writer, ready func()) int {
			f.ready = ready
			return serve(ctx, f, getenv, out, out)
		})
		return report(stdout, stderr, "as a service")("", err)
	case f.install:
		return install(ctx, f, getenv, stdout, stderr)
	case f.uninstall:
		return report(stdout, stderr, "-uninstall")(service.Uninstall(ctx))
	case f.version:
		fmt.Fprintf(stdout, "OpenKD connection server %s %s/%s\n", version.String(), runtime.GOOS, runtime.GOARCH)
		return exitOK
	}
	return serve(ctx, f, getenv, stdout, stderr)
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
