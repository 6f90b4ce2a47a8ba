package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"

	"openkd/connstr"
	"openkd/console"
	"openkd/internal/audit"
	"openkd/internal/firewall"
	"openkd/internal/password"
	"openkd/internal/version"
	"openkd/sharing"
	"openkd/transport"
)

// newShare makes the hub of this session; done writes the last of its audit.
func newShare(f *flags) (hub *sharing.Hub, done func(), err error) {
	log, done := slog.New(slog.DiscardHandler), func() {}
	if f.audit != "" {
		file, err := os.OpenFile(f.audit, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, nil, fmt.Errorf("the audit file cannot be opened: %w", err)
		}
		log, done = slog.New(audit.New(slog.DiscardHandler, file)), func() { file.Close() }
	}
	return sharing.NewHub(sharing.Options{
		Program: "kd", Release: version.Release, Lines: f.clines, Logger: log, Listed: true,
		Firewall: func(ctx context.Context, t connstr.Transport) string {
			text, err := firewall.This().Allow(ctx, t)
			if err != nil {
				return err.Error()
			}
			return text
		},
	}), done, nil
}

// openDoors opens every -server.
func openDoors(ctx context.Context, f *flags, hub *sharing.Hub, say io.Writer) error {
	for i, text := range f.doors {
		t, readOnly, err := sharing.ParseDoor(text)
		if err != nil {
			return fmt.Errorf("-server: %w", err)
		}
		if t.Password == "" {
			if t.Password, err = password.Find(f.password, os.Getenv); err != nil {
				return err
			}
		}
		answer, err := hub.OpenDoor(ctx, t, readOnly)
		if err != nil {
			return fmt.Errorf("-server: %w", err)
		}
		if i == len(f.doors)-1 { // it names all
			io.WriteString(say, answer)
		}
	}
	return nil
}

// sayAll writes to w and to those who share the session.
type sayAll struct {
	w   io.Writer
	hub *sharing.Hub
}

func (s sayAll) Write(b []byte) (int, error) {
	s.hub.Append(sharing.Entry{Kind: sharing.EntryText, Text: string(b)})
	return s.w.Write(b)
}

// parseRemote reads -remote. It is not the way to a kernel, which people try.
func parseRemote(text string) (connstr.Transport, bool, error) {
	t, readOnly, err := sharing.ParseClient(text)
	if err == nil {
		return t, readOnly, nil
	}
	low := strings.ToLower(strings.TrimSpace(text))
	switch _, kernel := connstr.ParseKernel(text); {
	case strings.HasPrefix(low, "kdsrv:"):
		return t, false, fmt.Errorf("-remote joins a session that another debugger shares; a kernel behind a connection server is debugged with -k: kd -k \"%s\"", mask(text))
	case kernel == nil || strings.HasPrefix(low, "net:"):
		return t, false, fmt.Errorf("-remote joins a session that another debugger shares, as in -remote tcp:port=5005,server=<host>; a kernel is debugged with -k: kd -k \"%s\"", mask(text))
	}
	return t, false, fmt.Errorf("-remote: %w", err)
}

// mask hides what is secret in a string that is shown.
func mask(text string) string {
	parts := strings.Split(text, ",")
	for i, p := range parts {
		key, _, ok := strings.Cut(p, "=")
		if ok && (strings.EqualFold(strings.TrimSpace(key), "password") || strings.EqualFold(strings.TrimSpace(key), "key")) {
			end := ""
			if strings.HasSuffix(p, "}") {
				end = "}"
			}
			parts[i] = key + "=*" + end
		}
	}
	return strings.Join(parts, ",")
}

// runRemote is kd -remote.
func runRemote(f *flags, stdin io.Reader, stdout, stderr io.Writer) int {
	t, readOnly, err := parseRemote(*f.remote)
	if err == nil && t.Password == "" {
		t.Password, err = password.Find(f.password, os.Getenv)
	}
	if err != nil {
		fmt.Fprintln(stderr, "kd:", err)
		return exitUsage
	}
	text := stdout
	if f.json {
		text = stderr
	}
	fmt.Fprintf(text, "\n%s\n\n", banner())
	d := &door{t: t, out: text, there: "type .server %s", expect: "shared session"}
	ctx, stop := signal.NotifyContext(context.Background(), endSignals()...)
	defer stop()
	lines := f.clines
	if lines == 0 && f.json {
		lines = -1 // a program wants what happens, not what happened
	}
	code, err := console.RunRemote(ctx, console.RemoteOptions{
		In: stdin, Out: stdout, Err: stderr, Commands: f.commands, Break: f.breakIn, JSON: f.json, Terminal: f.terminal(),
		Join: func(ctx context.Context, v sharing.Viewer) (*sharing.Client, error) {
			return sharing.Join(ctx, sharing.ClientOptions{
				Dial: d.dial, Where: t.String(), Release: version.Release, Name: f.as, ReadOnly: readOnly, Lines: lines, Fatal: passwordFault,
			}, v)
		},
	})
	if err != nil {
		fmt.Fprintln(stderr, "kd:", explain(err, t))
		return exitNoConnect
	}
	return code
}

// passwordFault: another attempt with the same password does not help.
func passwordFault(err error) bool {
	var ae *transport.AuthError
	return errors.As(err, &ae) && ae.Reason != transport.AuthIncomplete && ae.Reason != transport.AuthWait
}

// explain says what a closed door may mean.
func explain(err error, t connstr.Transport) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return fmt.Errorf("%w\nNobody shares a session there. At the other debugger .servers lists its doors, and kd -QR %s lists those of a machine", err, t.Server)
	}
	return err
}
