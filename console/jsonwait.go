package console

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"
)

// jsonWaits are the requests of -json that wait for a stop: for the prompt, with
// every command done that was sent before.
//
// Concurrency: sent and wait belong to the reader of the input, the rest to the
// owner and to timers.
type jsonWaits struct {
	mu         sync.Mutex
	sent, done int  // commands that came, that have ended
	rest       bool // the owner waits at a prompt
	list       map[int]waiter
	next       int
}

// cameCommand notes a command line that came.
func (w *jsonWaits) cameCommand() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent++
}

// ended notes one that has ended.
func (w *jsonWaits) ended() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done++
}

// resting notes whether the owner waits at a prompt, and answers who waits for
// that.
func (w *jsonWaits) resting(k *console, rest bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rest = rest
	w.lookLocked(k)
}

func (w *jsonWaits) lookLocked(k *console) {
	if !w.rest || w.sent != w.done {
		return
	}
	st := k.e.LastStop()
	if st == nil {
		return
	}
	for n, x := range w.list {
		if st.Number <= x.after {
			continue
		}
		x.timer.Stop()
		delete(w.list, n)
		b, err := json.Marshal(shortStop(st))
		if err != nil {
			b = []byte("{}")
		}
		k.js.put(withID(map[string]any{"type": "ack", "do": "wait", "state": "halted", "stop": json.RawMessage(b)}, x.id))
	}
}

// wait serves {"do":"wait"}.
func (w *jsonWaits) wait(k *console, r request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.list == nil {
		w.list = make(map[int]waiter)
	}
	n := w.next
	w.next++
	within := time.Duration(float64(time.Second) * r.Timeout)
	if r.Timeout <= 0 || r.Timeout > 24*3600 {
		within = 24 * time.Hour
	}
	x := waiter{id: r.ID, after: r.After}
	x.timer = time.AfterFunc(within, func() {
		w.mu.Lock()
		_, still := w.list[n]
		delete(w.list, n)
		w.mu.Unlock()
		if still {
			k.js.put(timedOut(r, k.state()))
		}
	})
	w.list[n] = x
	w.lookLocked(k)
}

// stop forgets who waits.
func (w *jsonWaits) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for n, x := range w.list {
		x.timer.Stop()
		delete(w.list, n)
	}
}

// timedOut is the answer to a wait that was in vain.
func timedOut(r request, state string) map[string]any {
	return withID(map[string]any{
		"type": "error", "do": "wait", "kind": "timeout", "state": state,
		"message": fmt.Sprintf("no stop within %g s; nothing was done to the target", r.Timeout),
	}, r.ID)
}
