package carrier

import (
	"context"
	"errors"
	"net"

	"openkd/connstr"
)

func listenCom(context.Context, connstr.Transport, Options) (Listener, error) {
	return nil, errors.New("com: not built in yet; what works is tcp")
}

func dialCom(context.Context, connstr.Transport, Options) (net.Conn, error) {
	return nil, errors.New("com: not built in yet; what works is tcp")
}
