//go:build !windows

package service

import (
	"context"
	"errors"
	"io"
)

// Run is of Windows: elsewhere a service is a process like any other.
func Run(func(ctx context.Context, out io.Writer, ready func()) (code int)) error {
	return errors.New("-" + Option + " is for Windows, when it starts the service; leave it out")
}
