package discovery

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"openkd/rundir"
)

// The registry is the folder servers in the run directory. A file in it,
// <process id>-<number>.json, is one record. Its owner holds an exclusive lock
// on it while it lives. Who lists takes a shared lock for a moment: if that
// succeeds nobody lives behind the file, and it is removed, by one process at a
// time.

const (
	folder        = "servers"
	recordVersion = 1
	maxRecord     = 8 << 10      // bytes of a file
	maxFiles      = 4096         // looked at in one folder
	maxTries      = 2 * maxDoors // at a file of one's own
)

// isFileName says whether a file has the name of one of the registry: two numbers.
func isFileName(name string) bool {
	name, ok := strings.CutSuffix(name, ".json")
	pid, door, two := strings.Cut(name, "-")
	return ok && two && isNumber(pid) && isNumber(door)
}

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// record is the content of a file of the registry. Unknown fields are ignored
// when it is read.
type record struct {
	Version int       `json:"version"`
	Kind    Kind      `json:"kind"`
	Connect string    `json:"connect"` // canonical connection string, password hidden
	Release string    `json:"release,omitempty"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	// Instance is what tells it from others on the network; "" if it is not
	// announced there.
	Instance string `json:"instance,omitempty"`
}

func (r record) server() (Server, error) {
	if r.Version != recordVersion {
		return Server{}, fmt.Errorf("its version is %d, not %d", r.Version, recordVersion)
	}
	s, err := newServer(r.Kind, r.Connect, r.Release)
	s.PID = r.PID
	return s, err
}

// register writes the records and returns their files, locked. It leaves
// nothing behind when it fails.
func register(records []record) (files []*os.File, err error) {
	if len(records) == 0 {
		return nil, nil
	}
	dir, err := rundir.Make()
	if err != nil {
		return nil, err
	}
	dir = filepath.Join(dir, folder)
	// The run directory decides who may read; a service's may be open to all.
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("the list of servers cannot be made: %w", err)
	}
	if err := rundir.Private(dir); err != nil {
		return nil, fmt.Errorf("the list of servers cannot be used: %w", err)
	}
	defer func() {
		if err != nil {
			for _, f := range files {
				discard(f)
			}
			files = nil
		}
	}()
	next := 0
	for _, r := range records {
		r.PID = os.Getpid()
		f, n, err := claim(dir, next)
		if err != nil {
			return files, fmt.Errorf("the list of servers cannot be written: %w", err)
		}
		next = n + 1
		files = append(files, f)
		b, err := json.Marshal(r)
		if err == nil {
			_, err = f.WriteAt(append(b, '\n'), 0)
		}
		if err != nil {
			return files, fmt.Errorf("the list of servers cannot be written: %w", err)
		}
	}
	return files, nil
}

// claim takes the first free file of this process from number n on, empty and
// locked.
func claim(dir string, n int) (*os.File, int, error) {
	for tries := 0; ; tries++ {
		path := filepath.Join(dir, strconv.Itoa(os.Getpid())+"-"+strconv.Itoa(n)+".json")
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil && isGoing(err) && tries < maxTries {
			n++
			continue
		}
		if err != nil {
			return nil, 0, err
		}
		free, err := lock(f)
		if err != nil {
			f.Close()
			return nil, 0, fmt.Errorf("%s cannot be locked: %w", path, err)
		}
		// Locked: by another list of this process, or somebody is just looking.
		// Another file: between opening and locking somebody swept it away.
		if here := isAt(f, path); !free || !here {
			f.Close()
			if tries == maxTries {
				return nil, 0, errors.New("too many files of this process")
			}
			if here {
				n++
			}
			continue
		}
		if err := f.Truncate(0); err != nil {
			discard(f)
			return nil, 0, err
		}
		return f, n, nil
	}
}

// Local lists the servers in the registries of this machine that this user may
// read: his own and the administrator's. The error says which could not be
// read; what the others held is returned with it.
func Local(ctx context.Context) ([]Server, error) {
	records, err := registered(ctx)
	list := servers(records)
	order(list)
	return list, err
}

// servers are those of good records.
func servers(records []record) []Server {
	host := hostname()
	var list []Server
	for _, r := range records {
		if s, err := r.server(); err == nil {
			s.Host = host
			list = append(list, s)
		}
	}
	return list
}

// hostname is what this machine calls itself, as far as it prints.
func hostname() string {
	h, err := os.Hostname()
	if err != nil || h == "" {
		return "localhost"
	}
	return clean(h)
}

// order sorts as lists show: machine by machine, debugging servers first.
func order(list []Server) {
	slices.SortStableFunc(list, func(a, b Server) int {
		if a.Here() != b.Here() {
			if a.Here() {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.Host, b.Host), a.Addr.Compare(b.Addr),
			cmp.Compare(a.Kind.Label(), b.Kind.Label()), cmp.Compare(a.String(), b.String()))
	})
}

// registered reads the records of live servers and sweeps out the others.
func registered(ctx context.Context) ([]record, error) {
	var records []record
	var errs []error
	for _, dir := range rundir.Search() {
		l, err := readFolder(ctx, filepath.Join(dir, folder))
		records = append(records, l...)
		// None there, or one that is not for this user.
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			errs = append(errs, fmt.Errorf("the list of servers cannot be read: %w", err))
		}
	}
	return records, errors.Join(errs...)
}

func readFolder(ctx context.Context, dir string) ([]record, error) {
	if err := rundir.Private(dir); err != nil {
		return nil, err
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.ReadDir(maxFiles)
	if err != nil && err != io.EOF {
		return nil, err
	}
	sweeps := sync.OnceValue(func() bool { return lockFolder(d) })
	var records []record
	for _, e := range entries {
		if ctx.Err() != nil {
			return records, ctx.Err()
		}
		if !e.Type().IsRegular() || !isFileName(e.Name()) {
			continue
		}
		if r, ok := look(filepath.Join(dir, e.Name()), sweeps); ok {
			records = append(records, r)
		}
	}
	return records, nil
}

// look reads a record if its owner lives, and removes the file if not and this
// process is the one who sweeps. A record that is just being written does not
// count yet.
func look(path string, sweeps func() bool) (r record, ok bool) {
	f, err := os.Open(path)
	if err != nil {
		return r, false
	}
	defer f.Close()
	dead, err := unowned(f)
	if err != nil {
		return r, false
	}
	if dead {
		// The file may be another one by now than the one that is open. From here
		// on it cannot become another: nobody else sweeps, and who wants the name
		// must lock this one first.
		if sweeps() && isAt(f, path) {
			discard(f) // fails for another user's; its owner will do it
		}
		return r, false
	}
	b, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil || json.Unmarshal(b, &r) != nil {
		return r, false
	}
	return r, true
}

// isAt says that the open file is still the one of this name.
func isAt(f *os.File, path string) bool {
	held, err1 := f.Stat()
	there, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(held, there)
}
