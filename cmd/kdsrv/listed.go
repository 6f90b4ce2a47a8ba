package main

import (
	"context"
	"log/slog"

	"openkd/discovery"
	"openkd/internal/version"
	"openkd/transport"
)

// list puts the doors where kd -QR finds them, on the network too unless
// localOnly. The function that it returns takes them off. A server that cannot
// be listed serves all the same.
func list(ctx context.Context, doors []transport.Listener, localOnly bool, log *slog.Logger) (unlist func()) {
	var entries []discovery.Entry
	for _, l := range doors {
		entries = append(entries, discovery.Entry{Kind: discovery.Kernel, Transport: l.Transport()})
	}
	a, err := discovery.Announce(ctx, entries, discovery.Options{Release: version.Release, LocalOnly: localOnly, Logger: log})
	if err != nil {
		log.Warn("kd -QR will not list this server", "error", err)
		return func() {}
	}
	return a.Close
}
