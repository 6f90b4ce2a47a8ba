//go:build !windows

package relay

import (
	"io"
	"os"
	"os/exec"
	"syscall"

	"github.com/creack/pty"
	"golang.org/x/term"
)

// process is a program on a terminal of its own, in a session of its own.
type process struct {
	cmd  *exec.Cmd
	in   io.Writer
	out  io.Reader
	ptmx *os.File
}

func start(command string) (*process, error) {
	ptmx, tty, err := pty.Open()
	if err != nil {
		return nil, err
	}
	defer tty.Close()
	// Without echo: what is typed is shown with who typed it.
	if _, err := term.MakeRaw(int(tty.Fd())); err != nil {
		ptmx.Close()
		return nil, err
	}
	cmd := exec.Command("/bin/sh", "-c", command)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		ptmx.Close()
		return nil, err
	}
	return &process{cmd: cmd, in: ptmx, out: ptmx, ptmx: ptmx}, nil
}

// interrupt is CTRL+C for the program and what it has started.
func (p *process) interrupt() error { return syscall.Kill(-p.cmd.Process.Pid, syscall.SIGINT) }

// end asks them all to end.
func (p *process) end() { syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM) }

// kill ends them.
func (p *process) kill() { syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) }

// close ends the reading and the writing.
func (p *process) close() { p.ptmx.Close() }
