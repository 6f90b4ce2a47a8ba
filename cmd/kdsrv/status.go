package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"openkd/status"
	"openkd/status/local"
)

// showStatus is -status: every kdsrv of this user on this machine. It returns
// the exit code.
func showStatus(ctx context.Context, asJSON bool, stdout, stderr io.Writer) int {
	servers, errs := local.List(ctx)
	for _, err := range errs {
		fmt.Fprintln(stderr, "kdsrv: -status:", err)
	}
	if asJSON {
		if servers == nil {
			servers = []*status.Server{}
		}
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		e.Encode(servers)
	} else {
		for i, s := range servers {
			if i > 0 {
				fmt.Fprintln(stdout)
			}
			s.Write(stdout)
		}
	}
	switch {
	case len(errs) > 0:
		return exitListen
	case len(servers) == 0:
		fmt.Fprintln(stderr, "kdsrv: no kdsrv of this user runs on this machine")
		return exitNone
	}
	return exitOK
}
