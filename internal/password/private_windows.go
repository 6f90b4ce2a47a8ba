package password

import "io/fs"

const nonblock = 0

// private looks at nothing: what is in a user's profile is closed to other
// users, and Go's file modes say nothing about access lists.
func private(fs.FileInfo, string) error { return nil }
