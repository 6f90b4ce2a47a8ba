package service

import (
	"context"
	"errors"
	"os"
)

// Install prints what launchd wants and where it goes; it changes nothing.
func Install(_ context.Context, s Spec) (string, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return "", err
	}
	return launchd(s, home), nil
}

// Uninstall is launchctl's.
func Uninstall(context.Context) (string, error) {
	return "", errors.New("type: launchctl bootout gui/$(id -u)/" + label + ", and delete " + label + ".plist from Library/LaunchAgents")
}
