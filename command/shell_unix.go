//go:build !windows

package command

import (
	"context"
	"os/exec"
)

// systemShell runs a command in the system's shell; without one, the shell.
func systemShell(ctx context.Context, command string) *exec.Cmd {
	if command == "" {
		return exec.CommandContext(ctx, "/bin/sh")
	}
	return exec.CommandContext(ctx, "/bin/sh", "-c", command)
}
