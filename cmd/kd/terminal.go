package main

import (
	"os"

	"openkd/console"
)

// terminal is how this session uses its terminal.
func (f *flags) terminal() console.Terminal {
	return console.Terminal{History: console.HistoryFile(os.Getenv), NoColor: f.noColor}
}
