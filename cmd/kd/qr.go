package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"openkd/discovery"
)

// found is a server as -QR -json tells it; see console/JSON.md.
type found struct {
	Type      string `json:"type"`
	Kind      string `json:"kind"`
	Transport string `json:"transport"`
	Connect   string `json:"connect"`
	Host      string `json:"host,omitempty"`
	Address   string `json:"address,omitempty"`
	PID       int    `json:"pid,omitempty"`
	Release   string `json:"release,omitempty"`
}

// listServers is -QR: it shows what runs on a machine or, when none is typed,
// here and on the networks around. It returns the exit code.
func listServers(ctx context.Context, typed string, asJSON bool, browse func(context.Context, string) ([]discovery.Server, error), stdout, stderr io.Writer) int {
	list, err := browse(ctx, typed)
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("-QR was interrupted")
		}
		defer fmt.Fprintln(stderr, "kd:", err)
		if len(list) == 0 {
			return exitNoConnect
		}
	}
	// Consoles of other programs are listed by remote /q.
	list = slices.DeleteFunc(list, func(s discovery.Server) bool { return s.Kind == discovery.Console })
	switch {
	case asJSON:
		e := json.NewEncoder(stdout)
		e.SetEscapeHTML(false)
		for _, s := range list {
			f := found{Type: "server", Kind: string(s.Kind), Transport: s.String(), Connect: s.At(wayTo(s, typed)), Host: s.Host, PID: s.PID, Release: s.Release}
			if !s.Here() {
				f.Address = s.Addr.String()
			}
			e.Encode(f)
		}
	case typed != "":
		fmt.Fprintf(stdout, "Servers on %s:\n", typed)
		for _, s := range list {
			// As the original: the person has just named the machine. But a name that
			// leads nowhere is of no use to him.
			text := s.String()
			if s.NameOnly {
				text = s.At(wayTo(s, typed))
			}
			fmt.Fprintf(stdout, "%s - %s\n", s.Kind.Label(), text)
		}
	default:
		head := ""
		for _, s := range list {
			if h := heading(s); h != head {
				head = h
				fmt.Fprintln(stdout, head)
			}
			fmt.Fprintf(stdout, "%s - %s\n", s.Kind.Label(), s.At(wayTo(s, typed)))
		}
		if head == "" {
			fmt.Fprintln(stdout, "Servers on this machine and its networks:")
		}
	}
	if len(list) == 0 && !asJSON {
		fmt.Fprintln(stdout, "No servers were found.")
	}
	return 0
}

// heading names a machine that nobody typed.
func heading(s discovery.Server) string {
	switch {
	case s.Here():
		return fmt.Sprintf("Servers on %s (this machine):", s.Host)
	case s.Host == "":
		return fmt.Sprintf("Servers on %s:", s.Addr)
	}
	return fmt.Sprintf("Servers on %s (%s):", s.Host, s.Addr)
}

// wayTo is what to write behind Server=.
func wayTo(s discovery.Server, typed string) string {
	machine, err := discovery.Machine(typed)
	switch {
	case s.Here():
		return "localhost"
	case err != nil || s.NameOnly:
		return s.Addr.String()
	}
	return machine
}
