package carrier

import (
	"context"
	"fmt"
	"net"

	"openkd/connstr"
	"openkd/transport/comline"
)

type comListener struct {
	*comline.Listener
	t connstr.Transport
}

func (l comListener) Transport() connstr.Transport { return l.t }

func comConfig(t connstr.Transport, o Options) comline.Config {
	return comline.Config{Port: t.ComPort, Baud: t.Baud, Logger: o.Logger}
}

func listenCom(ctx context.Context, t connstr.Transport, o Options) (Listener, error) {
	l, err := o.Lines.Listen(ctx, comConfig(t, o), t.Channel)
	if err != nil {
		return nil, fmt.Errorf("com: %w", err)
	}
	return comListener{l, t}, nil
}

func dialCom(ctx context.Context, t connstr.Transport, o Options) (net.Conn, error) {
	c, err := o.Lines.Dial(ctx, comConfig(t, o), t.Channel)
	if err != nil {
		return nil, fmt.Errorf("com: %w", err) // says which port and channel
	}
	return c, nil
}
