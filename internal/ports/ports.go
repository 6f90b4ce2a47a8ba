// Package ports finds ports for tests that must name one before they listen at
// it. It is for tests only: between the answer and its use another program can
// take the port, so who can listen at port 0 does that.
package ports

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// The ports asked for lie below those that systems give to whoever leaves the
// choice to them, which any connection of another test might get meanwhile.
const low, high = 18000, 30000

// TCP returns a port at which nobody listens.
func TCP(t testing.TB) int {
	return free(t, func(at string) (interface{ Close() error }, error) { return net.Listen("tcp", at) })
}

// UDP returns a port that nobody has.
func UDP(t testing.TB) int {
	return free(t, func(at string) (interface{ Close() error }, error) { return net.ListenPacket("udp", at) })
}

func free(t testing.TB, listen func(at string) (interface{ Close() error }, error)) int {
	t.Helper()
	for range 1000 {
		p := low + rand.IntN(high-low)
		if l, err := listen(fmt.Sprintf(":%d", p)); err == nil {
			l.Close()
			return p
		}
	}
	t.Fatal("no port is free")
	return 0
}
