package command

import (
	"context"
	"os/exec"
	"syscall"
)

// systemShell runs a command in the system's shell; without one, the shell.
// cmd.exe takes its line as it is: the usual quoting would be part of it.
func systemShell(ctx context.Context, command string) *exec.Cmd {
	c := exec.CommandContext(ctx, "cmd.exe")
	if command != "" {
		c.SysProcAttr = &syscall.SysProcAttr{CmdLine: `cmd.exe /s /c "` + command + `"`}
	}
	return c
}
