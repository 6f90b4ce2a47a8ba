// Package version says which release of OpenKD this is. Programs print it and
// greet each other with it; nothing decides by it (kdrpc negotiates a protocol
// version of its own).
package version

import "runtime/debug"

// Release is the release this tree is or will become.
const Release = "0.1.0"

// String is the release with the commit it was built from, where that is known.
func String() string {
	rev, dirty := "", ""
	if bi, ok := debug.ReadBuildInfo(); ok {
		for _, s := range bi.Settings {
			switch {
			case s.Key == "vcs.revision" && len(s.Value) >= 12:
				rev = " (" + s.Value[:12]
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = ", changed"
			}
		}
	}
	if rev == "" {
		return Release
	}
	return Release + rev + dirty + ")"
}
