// Package brief shortens texts for messages: names that somebody typed, or that a
// file or a target has, which may be as long as they like. It does not make them
// fit to be shown; who writes to a terminal does that.
package brief

import "strings"

// Text is s in at most most bytes; what is longer ends in dots. A character that
// would be cut is left out. most is at least 3.
func Text(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most-3], "") + "..."
}
