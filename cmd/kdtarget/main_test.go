package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"openkd/internal/shortdir"
)

func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"-?", 0, "kdtarget -t com:pipe"},
		{"-h", 0, "kdtarget -t com:pipe"},
		{"-version", 0, "kdtarget 0."},
		{"", 2, "-t says where to serve"},
		{"-t", 2, "flag needs an argument"},
		{"-t com:pipe", 2, "com:pipe needs port="},
		{"-t usb:targetname=x", 2, "not there yet"},
		{"-t com:pipe,port=/x -cpus 99", 2, "1 to 64"},
		{"-t com:pipe,port=/x -faults drip=1", 2, "-faults: "},
		{"-t com:pipe,port=/x -quirks beos", 2, `"beos"`},
		{"-t com:pipe,port=/x extra", 2, `"extra"`},
		{"-nonsense", 2, "kdtarget -? lists the flags"},
		{"-t com:pipe,port=" + filepath.Join(shortdir.New(t), "no", "folder"), 1, "cannot listen at "},
	} {
		var out, errs bytes.Buffer
		code := run(strings.Fields(c.args), &out, &errs)
		text := out.String() + errs.String()
		if code != c.code || !strings.Contains(text, c.want) {
			t.Errorf("kdtarget %s: code %d, %q; want %d, %q", c.args, code, text, c.code, c.want)
		}
		if c.code != 0 && strings.Count(text, "\n") != 1 {
			t.Errorf("kdtarget %s: not one line: %q", c.args, text)
		}
	}
}
