package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"

	"openkd/connstr"
)

// What systemd passes to a service (sd_listen_fds(3), sd_notify(3)).
const (
	firstPassed = 3  // file descriptor of the first socket
	maxPassed   = 64 // sockets
)

// passed are listening sockets that were opened before this process began.
type passed struct{ sockets []net.Listener }

// inherited takes the sockets over that LISTEN_FDS counts, if they are meant
// for this process.
func inherited(getenv func(string) string) (*passed, error) {
	p := &passed{}
	if getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return p, nil
	}
	n, err := strconv.Atoi(getenv("LISTEN_FDS"))
	if err != nil || n < 0 || n > maxPassed {
		return nil, fmt.Errorf("LISTEN_FDS=%s: a number of sockets from 0 to %d is meant", getenv("LISTEN_FDS"), maxPassed)
	}
	for fd := firstPassed; fd < firstPassed+n; fd++ {
		f := os.NewFile(uintptr(fd), fmt.Sprintf("socket %d of LISTEN_FDS", fd))
		l, err := net.FileListener(f)
		f.Close()
		if err != nil {
			p.close()
			return nil, fmt.Errorf("file descriptor %d, passed by LISTEN_FDS, is no listening socket: %w", fd, err)
		}
		p.sockets = append(p.sockets, l)
	}
	return p, nil
}

// take returns the socket for a door, nil if none was passed.
func (p *passed) take(t connstr.Transport) net.Listener {
	if t.Proto != "tcp" && t.Proto != "ssl" || t.ClientOf != "" {
		return nil
	}
	for i, l := range p.sockets {
		if a, ok := l.Addr().(*net.TCPAddr); ok && a.Port >= t.Port && a.Port <= max(t.Port, t.PortHigh) {
			p.sockets = append(p.sockets[:i], p.sockets[i+1:]...)
			return l
		}
	}
	return nil
}

// unused complains about sockets that belong to no door: their clients would
// wait for ever.
func (p *passed) unused() error {
	if len(p.sockets) == 0 {
		return nil
	}
	return fmt.Errorf("a socket at %s was passed by LISTEN_FDS, but no -t names its port", p.sockets[0].Addr())
}

func (p *passed) close() {
	for _, l := range p.sockets {
		l.Close()
	}
}

// notify tells the service manager how the server is doing, if there is one
// that listens.
func notify(getenv func(string) string, log *slog.Logger, state string) {
	at := getenv("NOTIFY_SOCKET")
	if at == "" {
		return
	}
	err := errors.New("only sockets of this machine are meant")
	if at[0] == '/' || at[0] == '@' { // @: of the abstract name space, as package net spells it too
		var c net.Conn
		if c, err = net.Dial("unixgram", at); err == nil {
			_, err = c.Write([]byte(state))
			c.Close()
		}
	}
	if err != nil {
		log.Warn("the service manager was not told", "NOTIFY_SOCKET", at, "error", err)
	}
}
