package service

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc"
)

// logFile is where a service writes what it has to say: it has no console.
func logFile() string {
	dir, err := windows.KnownFolderPath(windows.FOLDERID_ProgramData, 0)
	if err != nil {
		dir = os.Getenv("ProgramData")
	}
	return filepath.Join(dir, "OpenKD", Name+".log")
}

// Run is Option: it runs f as a service of Windows. ctx ends when Windows says
// stop or shuts down, which f has to obey; out is the service's log, and ready
// is called when it serves. The exit code goes to Windows.
func Run(f func(ctx context.Context, out io.Writer, ready func()) (code int)) error {
	out := io.Discard
	if name := logFile(); os.MkdirAll(filepath.Dir(name), 0o755) == nil {
		if file, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err == nil {
			defer file.Close()
			out = file
		}
	}
	err := svc.Run(Name, &handler{func(ctx context.Context, ready func()) int { return f(ctx, out, ready) }})
	if errors.Is(err, windows.ERROR_FAILED_SERVICE_CONTROLLER_CONNECT) {
		return errors.New("-" + Option + " is for Windows, when it starts the service; leave it out")
	}
	return err
}

type handler struct {
	f func(ctx context.Context, ready func()) int
}

// Execute implements svc.Handler.
func (h *handler) Execute(_ []string, orders <-chan svc.ChangeRequest, state chan<- svc.Status) (bool, uint32) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	state <- svc.Status{State: svc.StartPending}
	ended, ready := make(chan int, 1), make(chan struct{}, 1)
	go func() { ended <- h.f(ctx, func() { ready <- struct{}{} }) }()
	for {
		select {
		case <-ready:
			state <- svc.Status{State: svc.Running, Accepts: svc.AcceptStop | svc.AcceptShutdown}
		case o := <-orders:
			switch o.Cmd {
			case svc.Interrogate:
				state <- o.CurrentStatus
			case svc.Stop, svc.Shutdown:
				// Targets are let go first; that takes some seconds at most.
				state <- svc.Status{State: svc.StopPending, WaitHint: uint32(within.Milliseconds())}
				cancel()
			}
		case code := <-ended:
			return true, uint32(code) // an exit code of ours, not of Windows
		}
	}
}
