package line

import (
	"context"
	"net"

	"github.com/Microsoft/go-winio"
)

func dialPipe(ctx context.Context, path string) (net.Conn, error) {
	if !isWindowsPipe(path) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	return winio.DialPipeContext(ctx, path)
}

// pipeSecurity lets in the system, administrators and the owner, nobody else.
const pipeSecurity = "D:P(A;;GA;;;SY)(A;;GA;;;BA)(A;;GA;;;OW)"

// ListenPipe makes a named pipe for the owner and administrators.
func ListenPipe(path string) (net.Listener, error) {
	if !isWindowsPipe(path) {
		return net.Listen("unix", path)
	}
	return winio.ListenPipe(path, &winio.PipeConfig{SecurityDescriptor: pipeSecurity, InputBufferSize: 8192, OutputBufferSize: 8192})
}
