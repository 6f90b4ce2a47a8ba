// Package local carries the status of connection servers to programs of the
// same user on the same machine (kdsrv -status).
//
// A server that runs leaves a socket in the run directory, which is its user's
// alone; on Windows a file there names a pipe that only this user may open. Who
// connects is told the status as one JSON document and nothing else; nothing
// is read from him. A socket that nobody answers at any more is swept away by
// whoever looks.
package local

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"

	"openkd/rundir"
	"openkd/status"
)

// folder is where in the run directory the sockets lie.
const folder = "status"

// Bounds of one answer.
const (
	within  = 5 * time.Second
	maxBody = 32 << 20 // bytes of JSON
)

// Door is the side of the server.
type Door struct {
	ln   net.Listener
	file string
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// Serve tells who asks what tell says, until Close.
func Serve(tell func(ctx context.Context) *status.Server) (*Door, error) {
	dir, err := rundir.Make()
	if err != nil {
		return nil, err
	}
	dir = filepath.Join(dir, folder)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	d := &Door{file: filepath.Join(dir, fmt.Sprintf("%d-%s", os.Getpid(), strings.ToLower(rand.Text()[:8])))}
	if d.ln, err = listen(d.file); err != nil {
		return nil, fmt.Errorf("no status socket in %s: %w", dir, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	d.stop = stop
	d.wg.Go(func() {
		for {
			c, err := d.ln.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil { // no file descriptor left, perhaps; there will be
				time.Sleep(100 * time.Millisecond)
				continue
			}
			cut := context.AfterFunc(ctx, func() { c.Close() })
			c.SetDeadline(time.Now().Add(within))
			json.NewEncoder(c).Encode(tell(ctx))
			cut()
			c.Close()
		}
	})
	return d, nil
}

// Close ends the door.
func (d *Door) Close() {
	d.stop()
	d.ln.Close()
	os.Remove(d.file)
	d.wg.Wait()
}

// List asks every server of this user that runs, oldest first. Servers that
// run and do not answer are among the errors.
func List(ctx context.Context) (servers []*status.Server, errs []error) {
	for i, dir := range rundir.Search() {
		// The second one is the machine's: ours only if a service runs as us.
		if err := rundir.Private(dir); i == 0 && err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		} else if err == nil {
			s, e := list(ctx, filepath.Join(dir, folder))
			servers, errs = append(servers, s...), append(errs, e...)
		}
	}
	sort.Slice(servers, func(i, j int) bool { return servers[i].Started.Before(servers[j].Started) })
	return servers, errs
}

func list(ctx context.Context, dir string) (servers []*status.Server, errs []error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) {
		return nil, []error{err}
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		s, err := ask(ctx, filepath.Join(dir, e.Name()))
		switch {
		case err != nil:
			pid, _, _ := strings.Cut(e.Name(), "-")
			errs = append(errs, fmt.Errorf("process %s does not tell its status: %w", pid, err))
		case s != nil:
			servers = append(servers, s)
		}
	}
	return servers, errs
}

// ask asks one server; nil without an error: it does not run any more.
func ask(ctx context.Context, file string) (s *status.Server, err error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	// Twice, because under Wine a pipe may be met that nobody accepts on.
	for range 2 {
		s, err = askOnce(ctx, file)
		var late net.Error
		if !errors.As(err, &late) || !late.Timeout() {
			break
		}
	}
	if gone(err) {
		os.Remove(file)
		return nil, nil
	}
	return s, err
}

func askOnce(ctx context.Context, file string) (*status.Server, error) {
	c, err := dial(ctx, file)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(within / 2))
	var s status.Server
	if err := json.NewDecoder(io.LimitReader(c, maxBody)).Decode(&s); err != nil {
		return nil, err
	}
	return &s, nil
}
