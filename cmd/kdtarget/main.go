// Command kdtarget is a simulated machine to debug: it runs a small kernel and
// serves it to kernel debuggers as a virtual machine serves its serial port.
// The machine is package sim; here are its flags.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"openkd/connstr"
	"openkd/internal/version"
	"openkd/link/fault"
	"openkd/sim"
)

const usage = `kdtarget: a simulated x64 machine that kernel debuggers can attach to

  kdtarget -t com:pipe,port=/tmp/kd.sock          makes a Unix socket (on Windows: a pipe, port=\\.\pipe\kd)
  kdtarget -t com:ipport=1234,port=127.0.0.1      listens on a TCP port
  kdtarget -t com:port=/dev/pts/3,baud=115200     uses a serial device or pty, at that speed
  kdtarget -t net:hostip=127.0.0.1,port=50000,key=1.2.3.4
                                                  offers itself over UDP to the debugger at hostip, as Windows does

It serves one debugger after another and keeps running between them. Attach with
  kd -k com:pipe,port=/tmp/kd.sock

  -t link         where to serve (required)
  -cpus n         processors, 1 to 64 (default 2)
  -modules n      synthetic modules in the module list besides the real ones
  -seed n         chooses the load addresses (default: another one each time)
  -faults list    faults on the line: drop=, corrupt=, duplicate=, noise= (chance per byte, on net: per datagram), delay=,
                  split=, spacing= (not on net:), reorder= (on net: only), seed=
  -prints time    machine time between two prints of the kernel, such as 5s
  -drivers time   machine time between loading and unloading sample.sys
  -quirks reactos behave as the KD module of ReactOS does (default: as Windows)
  -break          stop at the first instruction after the first report
  -v              log connections and packets' totals to standard error
  -version        print the version
  -?              print this
`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run returns the exit code: 0 ended by a signal, 1 the machine or its line
// failed, 2 the command line is wrong.
func run(args []string, stdout, stderr io.Writer) int {
	f := flag.NewFlagSet("kdtarget", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	var cfg sim.Config
	where := f.String("t", "", "")
	f.IntVar(&cfg.Processors, "cpus", 2, "")
	f.IntVar(&cfg.Modules, "modules", 0, "")
	seed := f.Int64("seed", 0, "")
	faultText := f.String("faults", "", "")
	f.DurationVar(&cfg.Prints, "prints", 0, "")
	f.DurationVar(&cfg.Drivers, "drivers", 0, "")
	quirks := f.String("quirks", "", "")
	f.BoolVar(&cfg.BreakAtBoot, "break", false, "")
	verbose := f.Bool("v", false, "")
	showVersion := f.Bool("version", false, "")
	help := f.Bool("?", false, "")
	bad := func(format string, a ...any) int {
		fmt.Fprintf(stderr, "kdtarget: "+format+"\n", a...)
		return 2
	}
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		*help = true
	} else if err != nil {
		return bad("%v (kdtarget -? lists the flags)", err)
	}
	switch {
	case *help:
		fmt.Fprint(stdout, usage)
		return 0
	case *showVersion:
		fmt.Fprintln(stdout, "kdtarget", version.String())
		return 0
	case f.NArg() > 0:
		return bad("%q: there are no arguments besides flags (kdtarget -? lists them)", f.Arg(0))
	case *where == "":
		return bad("-t says where to serve, such as -t com:pipe,port=/tmp/kd.sock (kdtarget -? lists the flags)")
	}
	link, err := connstr.ParseLink(*where)
	if err == nil {
		link, err = link.WithDefaults(os.Getenv)
	}
	if err != nil {
		return bad("-t: %v", err)
	}
	faults, err := fault.Parse(*faultText)
	if err != nil {
		return bad("-faults: %v", err)
	}
	cfg.Quirks = sim.Quirks(*quirks)
	cfg.Seed = *seed
	if cfg.Seed == 0 {
		cfg.Seed = time.Now().UnixNano()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if link.Kind == connstr.LinkNet {
		if cfg.Net, err = sim.NetConfig(ctx, link, faults); err != nil {
			return bad("-t: %v", err)
		}
	} else if faults.Reorder != 0 {
		return bad("-faults: reorder= is for net: only; bytes of a line do not overtake each other")
	}
	m, err := sim.New(cfg)
	if err != nil {
		return bad("%v", err)
	}
	port, err := sim.OpenPort(ctx, link)
	if err != nil {
		fmt.Fprintf(stderr, "kdtarget: %v\n", err)
		return 1
	}
	level := slog.LevelWarn
	if *verbose {
		level = slog.LevelInfo
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	fmt.Fprintf(stdout, "kdtarget: serving at %s; attach with: kd -k %s\n", port, port.Attach())

	ran := make(chan error, 1)
	go func() {
		err := m.Run(ctx)
		stop()
		ran <- err
	}()
	m.ServePort(ctx, port, faults, log)
	err = <-ran
	if *verbose {
		s := m.Stats()
		log.Info("the machine is off", "requests", s.Exchanges, "stops", s.StateChanges, "prints", s.Prints, "boots", s.Boots, "instructions", s.Instructions)
	}
	if err != nil {
		fmt.Fprintf(stderr, "kdtarget: %v\n", err)
		return 1
	}
	return 0
}
