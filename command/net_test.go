package command

import (
	"strings"
	"testing"
	"time"

	"openkd/link"
	"openkd/target"
)

func TestNet(t *testing.T) {
	var out strings.Builder
	writeLink(&out, target.Status{Line: "NET:Port=50000,Key=*", State: target.StateRunning, Stage: target.StageConnected, Stats: link.Stats{
		Peer: "10.0.0.5:50000", Sessions: 2, RoundTrip: 350 * time.Microsecond, PacketsIn: 7, Resends: 1, BadTags: 3, Replays: 4, Foreign: 5,
	}})
	for _, want := range []string{
		"NET:Port=50000,Key=*", "10.0.0.5:50000, 2 session(s) agreed", "State:            running\n", "350µs", "7 in, 0 out",
		"3 datagrams that the key does not open, 4 late or sent again, 5 of somebody else",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}
