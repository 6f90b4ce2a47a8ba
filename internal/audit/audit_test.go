package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestTrail(t *testing.T) {
	var text, lines bytes.Buffer
	tr := New(slog.NewTextHandler(&text, nil), &lines)
	log := slog.New(tr)
	log.Info("started")
	log.Debug("a detail")
	door := log.With("peer", "h:1")
	door.Info("client connected", Key, "connect")
	door.WithGroup("g").Info("of a group", "audit", "connect", "k", 1)
	door.Warn("refused", "reason", "says \"no\"\nfake line", Key, "refuse")
	log.With(Key, "end").Info("gone", "duration", 1500*time.Millisecond, "in", uint64(7))

	if s := text.String(); strings.Count(s, "\n") != 5 || strings.Contains(s, "detail") || !strings.Contains(s, "started") {
		t.Errorf("the log:\n%s", s)
	}
	if c := tr.Counts(); len(c) != 3 || c["connect"] != 2 || c["refuse"] != 1 || c["end"] != 1 {
		t.Errorf("%v", c)
	}
	var got []map[string]any
	for sc := bufio.NewScanner(&lines); sc.Scan(); {
		var m map[string]any
		if err := json.Unmarshal(sc.Bytes(), &m); err != nil {
			t.Fatalf("%v: %s", err, sc.Text())
		}
		got = append(got, m)
	}
	if len(got) != 4 || got[0]["audit"] != "connect" || got[0]["peer"] != "h:1" || got[0]["msg"] != "client connected" ||
		got[2]["reason"] != "says \"no\"\nfake line" || got[3]["duration"] != 1.5 || got[3]["in"] != 7.0 {
		t.Errorf("%v", got)
	}
}

type broken struct{ n int }

func (b *broken) Write([]byte) (int, error) { b.n++; return 0, errors.New("no space left") }

func TestBrokenStream(t *testing.T) {
	var text bytes.Buffer
	log := slog.New(New(slog.NewTextHandler(&text, nil), &broken{}))
	for range 10 {
		log.Info("x", Key, "connect")
	}
	if n := strings.Count(text.String(), "no space left"); n != 1 {
		t.Errorf("said %d times:\n%s", n, &text)
	}
}

func TestKindsAreBounded(t *testing.T) {
	tr := New(slog.DiscardHandler, nil)
	for i := range 10 * maxKinds {
		slog.New(tr).Info("x", Key, fmt.Sprint(i))
	}
	if n := len(tr.Counts()); n != maxKinds {
		t.Errorf("%d kinds", n)
	}
}
