package symbols

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
)

// childEnv makes the test program a process that looks for one file.
const childEnv = "OPENKD_TEST_SYMBOLS_CHILD"

// order is what such a process is to do.
type order struct {
	Cache, Path string
	Want        Wanted
	Limit       uint64 // bytes that a file may have; 0: any
}

// child looks for the file, says "begun" when the first bytes are there, and then
// where it is.
func child() int {
	var o order
	if err := json.Unmarshal([]byte(os.Getenv(childEnv)), &o); err != nil {
		fmt.Println("error", err)
		return 1
	}
	if o.Limit > 0 {
		if err := limitFiles(o.Limit); err != nil {
			fmt.Println("error", err)
			return 1
		}
	}
	out := bufio.NewWriter(os.Stdout)
	begun := false
	f, err := NewFinder(Options{Cache: o.Cache, Progress: func(Progress) {
		if !begun {
			begun = true
			fmt.Fprintln(out, "begun")
			_ = out.Flush()
		}
	}})
	if err != nil {
		fmt.Println("error", err)
		return 1
	}
	defer f.Close()
	p, err := ParsePath(o.Path)
	if err == nil {
		var got Found
		if got, err = f.Find(context.Background(), p, o.Want); err == nil {
			fmt.Fprintln(out, "found", got.Path)
			_ = out.Flush()
			return 0
		}
	}
	fmt.Fprintln(out, "error", err)
	_ = out.Flush()
	return 1
}
