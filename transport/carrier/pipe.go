package carrier

import (
	"context"
	"errors"
	"net"

	"openkd/connstr"
)

func listenPipe(context.Context, connstr.Transport, Options) (Listener, error) {
	return nil, errors.New("npipe: not built in yet; what works is tcp")
}

func dialPipe(context.Context, connstr.Transport, Options) (net.Conn, error) {
	return nil, errors.New("npipe: not built in yet; what works is tcp")
}
