//go:build !linux && !darwin && !windows

package service

import (
	"context"
	"errors"
)

var errNoManager = errors.New("services are known for systemd, launchd and Windows only; start kdsrv from what this system has")

// Install is not known here.
func Install(context.Context, Spec) (string, error) { return "", errNoManager }

// Uninstall is not known here.
func Uninstall(context.Context) (string, error) { return "", errNoManager }
