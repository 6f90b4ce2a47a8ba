// Package comline makes a serial line between two machines carry up to 255
// channels of reliable streams: what stands behind kdsrv -t com:port=...,
// baud=..., channel=... It has nothing to do with the KD debug cable protocol.
package comline

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
)

// MaxChannel is the highest channel; the lowest is 0.
const MaxChannel = 254

// Config says which line.
type Config struct {
	// Port is the device: com2, 2, \\.\com2, /dev/ttyS0, /dev/serial/by-id/...
	Port string
	Baud int // bits per second, the same on both machines
	// Logger is told what happens to the line. nil: nothing is logged.
	Logger *slog.Logger

	// Open opens the device in place of package link/line. Port then only names
	// the line.
	Open func(ctx context.Context) (io.ReadWriteCloser, error)
	// Dir is where the processes of this machine meet, in place of package
	// rundir's directory.
	Dir string
}

// Conn is one stream. It implements transport.Conn.
type Conn struct{ net.Conn }

// CloseWrite tells the other side that nothing more will come.
func (c *Conn) CloseWrite() error { return errNotYet }

// Listener hands out the streams that the other machine opens on a channel.
type Listener struct{ net.Listener }

var errNotYet = errors.New("com: not built in yet")

// Listen takes a channel of a line. ctx bounds the opening only.
func Listen(ctx context.Context, cfg Config, channel int) (*Listener, error) {
	return nil, errNotYet
}

// Dial opens a stream to a channel that the other machine listens on. ctx
// bounds the opening only.
func Dial(ctx context.Context, cfg Config, channel int) (net.Conn, error) {
	return nil, errNotYet
}
