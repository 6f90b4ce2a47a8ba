package command

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"openkd/engine"
	"openkd/target"
)

func transferCommands() []*Command {
	return []*Command{
		{Names: []string{".writemem"}, Family: "Memory", Run: cmdWriteMem, Summary: "write memory into a file", Usage: ".writemem file range", Example: ".writemem nt.bin nt L1000"},
		{Names: []string{".readmem"}, Family: "Memory", Run: cmdReadMem, Summary: "read a file into memory", Usage: ".readmem file range", Example: ".readmem patch.bin @rsp-1000 L10"},
	}
}

const (
	transferPiece = 4 << 20  // bytes of one request of a big transfer
	transferBatch = 16 << 20 // bytes of one exchange
)

func (c *Call) fileRange() (name string, addr, n uint64, err error) {
	name, rest, err := c.fileName(c.Args)
	if err != nil {
		return "", 0, 0, err
	}
	if name == "" || strings.TrimSpace(rest) == "" {
		return "", 0, 0, c.Syntax(rest)
	}
	if err := c.S.namesFile(name); err != nil {
		return "", 0, 0, err
	}
	addr, n, rest, err = c.Range(rest, 1, 0)
	if err == nil {
		err = c.End(rest)
	}
	if err == nil && c.S.Engine == nil {
		err = engine.ErrUnknownMachine
	}
	return name, addr, n, err
}

// progress shows how far a long transfer has come.
func (c *Call) progress(done, total uint64) {
	if c.S.Progress != nil && total >= 1<<20 {
		c.S.Progress(fmt.Sprintf("%d%% of 0x%x bytes", done*100/total, total))
	}
}

func (c *Call) progressEnd() {
	if c.S.Progress != nil {
		c.S.Progress("")
	}
}

// cmdWriteMem streams memory into a file: the parts are written as they come.
// What could not be read ends the file there, and is said.
func cmdWriteMem(c *Call) error {
	name, addr, n, err := c.fileRange()
	if err != nil {
		return err
	}
	f, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("the file cannot be written: %w", err)
	}
	c.Printf("Writing %x bytes.\n", n)
	w := bufio.NewWriterSize(f, 1<<16)
	done, err := c.stream(w, addr, n)
	c.progressEnd()
	if e := w.Flush(); err == nil && e != nil {
		err = fmt.Errorf("the file %s cannot be written: %w", name, e)
	}
	if e := f.Close(); err == nil && e != nil {
		err = fmt.Errorf("the file %s cannot be written: %w", name, e)
	}
	if err != nil {
		if done > 0 || done == 0 && c.Ctx.Err() == nil {
			c.Printf("%s holds 0x%x of 0x%x bytes.\n", name, done, n)
		}
		return err
	}
	return nil
}

// errHole ends a transfer at memory that cannot be read.
var errHole = errors.New("hole")

// stream copies n bytes of virtual memory to w and returns how many arrived.
func (c *Call) stream(w io.Writer, addr, n uint64) (done uint64, err error) {
	for done < n {
		var batch []target.Request
		var size uint64
		for size < transferBatch && done+size < n {
			k := min(n-done-size, transferPiece)
			batch = append(batch, target.Request{Op: target.OpReadVirtual, Addr: addr + done + size, Len: k})
			size += k
		}
		from := done
		var status fmt.Stringer
		err := c.S.Engine.Stream(c.Ctx, batch, func(p target.Part) error {
			if len(p.Data) > 0 {
				at := from + uint64(p.Index)*transferPiece + p.Offset
				if at != done {
					return errHole
				}
				if _, err := w.Write(p.Data); err != nil {
					return fmt.Errorf("the file cannot be written: %w", err)
				}
				done += uint64(len(p.Data))
				c.progress(done, n)
			}
			if p.Done && done < from+min(uint64(p.Index+1)*transferPiece, size) {
				status = p.Status
				return errHole
			}
			return nil
		})
		if errors.Is(err, errHole) {
			text := ""
			if status != nil {
				text = fmt.Sprintf(" (status %s)", status)
			}
			return done, fmt.Errorf("the memory at %s cannot be read%s", c.S.addr(addr+done), text)
		}
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// cmdReadMem writes the file into memory, some MiB in each exchange.
func cmdReadMem(c *Call) error {
	name, addr, n, err := c.fileRange()
	if err != nil {
		return err
	}
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("the file cannot be read: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("the file cannot be read: %w", err)
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("the file cannot be read: %s is not a regular file", name)
	}
	if uint64(st.Size()) < n {
		return fmt.Errorf("the file %s has 0x%x bytes, fewer than the range of 0x%x", name, st.Size(), n)
	}
	c.Printf("Reading %x bytes.\n", n)
	defer c.progressEnd()
	buf := make([]byte, min(n, transferPiece))
	for done := uint64(0); done < n; {
		k := min(n-done, uint64(len(buf)))
		if _, err := io.ReadFull(f, buf[:k]); err != nil {
			return fmt.Errorf("0x%x of 0x%x bytes were written: the file cannot be read: %w", done, n, err)
		}
		m, err := c.S.Engine.Write(c.Ctx, engine.Virtual, addr+done, buf[:k])
		if err != nil {
			return fmt.Errorf("0x%x of 0x%x bytes were written: %w", done+uint64(m), n, err)
		}
		done += k
		c.progress(done, n)
	}
	return nil
}
