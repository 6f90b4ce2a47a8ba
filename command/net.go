package command

import (
	"fmt"
	"io"
	"time"

	"openkd/target"
)

func netCommands() []*Command {
	const f = "Target control"
	return []*Command{
		{Names: []string{"!net"}, Family: f, NoTarget: true, Run: cmdNet, Summary: "show how the link to the target does: addresses, counters, round trip", Usage: "!net", Example: "!net"},
	}
}

// cmdNet shows the figures of the link. The target is not asked, so it may run.
func cmdNet(c *Call) error {
	if err := c.End(c.Args); err != nil {
		return err
	}
	st, err := c.S.Engine.Status(c.Ctx)
	if err != nil {
		return err
	}
	writeLink(c, st)
	return nil
}

func writeLink(c io.Writer, st target.Status) {
	s := st.Stats
	fmt.Fprintf(c, "Link:             %s\n", st.Line)
	if s.Peer != "" {
		fmt.Fprintf(c, "Target:           %s, %d session(s) agreed\n", s.Peer, s.Sessions)
	}
	state := fmt.Sprint(st.State)
	if st.Stage < target.StageConnected {
		state += ", " + st.Stage.String()
	}
	fmt.Fprintf(c, "State:            %s\n", state)
	if s.RoundTrip > 0 {
		fmt.Fprintf(c, "Round trip:       %v\n", s.RoundTrip.Round(time.Microsecond))
	}
	if !s.LastByte.IsZero() {
		fmt.Fprintf(c, "Last heard:       %v ago\n", time.Since(s.LastByte).Round(time.Second/10))
	}
	fmt.Fprintf(c, "Packets:          %d in, %d out\n", s.PacketsIn, s.PacketsOut)
	fmt.Fprintf(c, "Bytes:            %d in, %d out\n", s.BytesIn, s.BytesOut)
	if s.DatagramsIn+s.DatagramsOut > 0 {
		fmt.Fprintf(c, "Datagrams:        %d in, refused ones too, %d out\n", s.DatagramsIn, s.DatagramsOut)
	}
	fmt.Fprintf(c, "Sent again:       %d, asked for again %d, copies received %d\n", s.Resends, s.ResendsAsked, s.Duplicates)
	fmt.Fprintf(c, "Damaged:          %d with a wrong sum, %d cut short, %d bytes outside packets\n", s.BadChecksums, s.Truncated, s.Garbage)
	if s.Peer != "" || s.BadTags+s.Replays+s.Foreign > 0 {
		fmt.Fprintf(c, "Refused:          %d datagrams that the key does not open, %d late or sent again, %d of somebody else\n", s.BadTags, s.Replays, s.Foreign)
	}
	fmt.Fprintf(c, "Resynchronised:   %d; break-ins %d\n", s.Resets+s.Syncs, s.BreakIns)
}
