package bench

import "time"

// raiseFiles has nothing to do: there is no such limit.
func raiseFiles() (most uint64, ok bool) { return 0, false }

// processorTime is not asked for here.
func processorTime() time.Duration { return 0 }
