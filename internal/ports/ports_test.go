package ports

import (
	"fmt"
	"net"
	"testing"
)

func TestFree(t *testing.T) {
	for range 20 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", TCP(t)))
		if err != nil {
			t.Error(err)
			continue
		}
		defer l.Close()
		u, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", UDP(t)))
		if err != nil {
			t.Error(err)
			continue
		}
		defer u.Close()
	}
}
