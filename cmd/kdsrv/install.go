package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime"

	"openkd/connstr"
	"openkd/internal/firewall"
	"openkd/internal/password"
	"openkd/internal/service"
)

// install is -install: what else is on the command line becomes that of the
// service. It returns the exit code.
func install(ctx context.Context, f flags, getenv func(string) string, stdout, stderr io.Writer) int {
	s, err := f.serviceSpec(getenv)
	if err != nil {
		fmt.Fprintln(stderr, "kdsrv: -install:", err)
		return exitUsage
	}
	if s.Program, err = service.Self(); err != nil {
		fmt.Fprintln(stderr, "kdsrv: -install:", err)
		return exitListen
	}
	code := report(stdout, stderr, "-install")(service.Install(ctx, s))
	for _, t := range f.transports {
		// The service itself may not change the firewall of Windows.
		if t.Firewall && code == exitOK && runtime.GOOS == "windows" {
			text, err := firewall.This().Allow(ctx, t)
			code = report(stdout, stderr, "-install")(text+"\n", err)
		}
	}
	return code
}

// report prints what was done and what was not.
func report(stdout, stderr io.Writer, what string) func(text string, err error) int {
	return func(text string, err error) int {
		io.WriteString(stdout, text)
		if err != nil {
			fmt.Fprintf(stderr, "kdsrv: %s: %v\n", what, err)
			return exitListen
		}
		return exitOK
	}
}

// serviceSpec is what the command line says about the service.
func (f *flags) serviceSpec(getenv func(string) string) (service.Spec, error) {
	var s service.Spec
	for _, t := range f.transports {
		switch {
		case t.Password != "":
			return s, errors.New("everybody can read the command line of a service: put the password into a file, and write -passwordfile <file> instead of password=")
		case (t.Proto == "tcp" || t.Proto == "ssl") && t.ClientOf == "" && t.Server == "" && t.Port != connstr.AnyPort && t.PortHigh == 0 && !t.IPv6:
			s.Ports = append(s.Ports, t.Port)
		}
	}
	if f.password == "" && getenv(password.Env) != "" {
		return s, fmt.Errorf("a service does not get %s: put the password into a file, and write -passwordfile <file>", password.Env)
	}
	if _, err := password.Find(f.password, getenv); err != nil {
		return s, err
	}
	for _, g := range f.given {
		v, err := g.Value, error(nil)
		if g.Option.Path {
			if v, err = filepath.Abs(v); err != nil {
				return s, err
			}
		}
		switch g.Option.Names[0] {
		case "install", service.Option, "x":
			continue
		case "passwordfile":
			s.PasswordFile = v
			continue
		}
		s.Args = append(s.Args, "-"+g.Option.Names[0])
		if g.Option.Arg != "" {
			s.Args = append(s.Args, v)
		}
	}
	return s, nil
}
