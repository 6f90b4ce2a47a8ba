package relay

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"syscall"
)

// process is a program on pipes. Programs that look whether they write to a
// console may hold their output back.
type process struct {
	cmd *exec.Cmd
	in  io.Writer
	out io.Reader
	r   *os.File
}

func start(command string) (*process, error) {
	cmd := exec.Command("cmd.exe")
	cmd.SysProcAttr = &syscall.SysProcAttr{CmdLine: `cmd.exe /s /c "` + command + `"`, CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		r.Close()
		return nil, err
	}
	return &process{cmd: cmd, in: in, out: r, r: r}, nil
}

var generateConsoleCtrlEvent = syscall.NewLazyDLL("kernel32.dll").NewProc("GenerateConsoleCtrlEvent")

// interrupt is CTRL+BREAK for the program: a group of its own gets no CTRL+C.
func (p *process) interrupt() error {
	const ctrlBreak = 1
	if ok, _, err := generateConsoleCtrlEvent.Call(ctrlBreak, uintptr(p.cmd.Process.Pid)); ok == 0 {
		return errors.New("the program cannot be interrupted: " + err.Error())
	}
	return nil
}

func (p *process) end() { p.cmd.Process.Kill() }

func (p *process) kill() { p.cmd.Process.Kill() }

func (p *process) close() { p.r.Close() }
