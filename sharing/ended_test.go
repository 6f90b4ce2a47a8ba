package sharing

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
)

// quiet is a viewer that looks at nothing.
type quiet struct{}

func (quiet) Joined(Session)                   {}
func (quiet) Entry(Entry, uint64)              {}
func (quiet) Reply(uint64, bool, bool, string) {}
func (quiet) Link(string)                      {}

// hanger is a connection that tells when it is closed.
type hanger struct {
	net.Conn
	told func()
}

func (h hanger) Close() error {
	h.told()
	return h.Conn.Close()
}

// TestEnded: a client knows that the session has ended before the session can see
// it hang up. Else what follows there, such as the end of a script's input, could
// be taken for its own leaving.
func TestEnded(t *testing.T) {
	h := NewHub(Options{})
	var c *Client
	var first sync.Once
	known := false
	c, err := Join(t.Context(), ClientOptions{Dial: func(context.Context) (net.Conn, error) {
		here, there := net.Pipe()
		h.wg.Go(func() { h.Serve(context.Background(), there, Via{}) })
		return hanger{here, func() {
			first.Do(func() {
				select {
				case <-c.Done():
					known = true
				default:
				}
			})
		}}, nil
	}}, quiet{})
	if err != nil {
		t.Fatal(err)
	}
	h.Close("over")
	c.Close()
	if ended := new(Ended); !known || !errors.As(c.Err(), &ended) || ended.Text != "over" {
		t.Errorf("known when it hung up: %v; it ended with %v", known, c.Err())
	}
}
