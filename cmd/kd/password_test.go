package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"openkd/connstr"
	"openkd/internal/shortdir"
	"openkd/transport"
)

// The password of a server may be in its string, in a file or in the
// environment; the nearer one wins.
func TestPasswordFromElsewhere(t *testing.T) {
	ln, err := transport.Listen(t.Context(), connstr.Transport{Proto: "tcp", Server: "127.0.0.1", Port: connstr.AnyPort, Password: "right"}, transport.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept(context.Background())
			if err != nil {
				return
			}
			c.Close() // who got here has proved the password
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	file := filepath.Join(t.TempDir(), "pw")
	if err := os.WriteFile(file, []byte("right\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		inline, file, env string
		proved            bool
	}{
		{"", "", "", false},
		{"", file, "", true},
		{"", "", "right", true},
		{"", file, "wrong", true},
		{",password=wrong", file, "right", false},
		{",password=right", filepath.Join(t.TempDir(), "missing"), "wrong", true},
	} {
		t.Setenv("OPENKD_PASSWORD", c.env)
		args := []string{"-k", fmt.Sprintf("kdsrv:server=@{tcp:server=127.0.0.1,port=%d%s},trans=@{com:port=x}", ln.Transport().Port, c.inline)}
		if c.file != "" {
			args = append(args, "-passwordfile", c.file)
		}
		var out, errs strings.Builder
		code := run(args, strings.NewReader(""), &out, &errs)
		if proved := !strings.Contains(errs.String(), "password"); code != exitNoConnect || proved != c.proved {
			t.Errorf("%+v: exit %d\n%s", c, code, errs.String())
		}
	}
	t.Setenv("OPENKD_PASSWORD", "right")
	var out, errs strings.Builder
	code := run([]string{"-k", "kdsrv:server=@{tcp:server=127.0.0.1,port=1},trans=@{com:port=x}", "-passwordfile", t.TempDir()}, strings.NewReader(""), &out, &errs)
	if code != exitUsage || !strings.Contains(errs.String(), "-passwordfile") {
		t.Errorf("a folder as the password file: exit %d\n%s", code, errs.String())
	}
}

// A password that nobody asks for is no secret kept: the person may think that
// the link is protected.
func TestPasswordWithoutUse(t *testing.T) {
	missing := filepath.Join(shortdir.New(t), "missing")
	for _, c := range []struct {
		link string
		said bool
	}{
		{"com:port=" + missing, true},
		{"com:port=" + missing + ",baud=9600", true},
		{"kdsrv:server=@{tcp:server=127.0.0.1,port=1,password=x},trans=@{com:port=x}", false},
	} {
		var out, errs strings.Builder
		code := run([]string{"-k", c.link, "-passwordfile", missing}, strings.NewReader(""), &out, &errs)
		if said := strings.Contains(errs.String(), "-passwordfile is not used: the link is a local one"); code != exitNoConnect || said != c.said {
			t.Errorf("%s: exit %d, said %v\n%s", c.link, code, said, errs.String())
		}
	}
}
