package strict

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

type message struct {
	Number uint64         `cbor:"1,keyasint,omitempty"`
	Text   string         `cbor:"2,keyasint,omitempty"`
	List   []any          `cbor:"3,keyasint,omitempty"`
	Map    map[string]any `cbor:"4,keyasint,omitempty"`
}

func TestRoundTrip(t *testing.T) {
	c := New(4)
	in := message{Number: 5, Text: "a\xff", Map: map[string]any{"bb": uint64(2), "a": uint64(1)}}
	b := c.Encode(in)
	// Keys in order, numbers as short as they go.
	if got, want := hex.EncodeToString(b), "a30105026261ff04a261610162626202"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	var out message
	if err := c.Decode(b, &out); err != nil || out.Number != in.Number || out.Text != in.Text || len(out.Map) != 2 {
		t.Errorf("%+v, %v", out, err)
	}
}

func TestRefused(t *testing.T) {
	for _, tt := range []struct{ what, message string }{
		{"a key twice", "a201050106"},
		{"a tag", "a101c005"},
		{"a text of indefinite length", "a1027f6161ff"},
		{"a map of indefinite length", "bf0105ff"},
		{"something behind the end", "a1010500"},
		{"cut off", "a101"},
		{"too deep", "a1038181818105"},
		{"too many pairs", "b841" + strings.Repeat("00", 130)},
		{"an array of billions", "a1039affffffff"},
		{"an array too long", "a103994001" + strings.Repeat("05", 0x4001)},
	} {
		b, err := hex.DecodeString(tt.message)
		if err != nil {
			t.Fatal(tt.what, err)
		}
		var m message
		if err := New(4).Decode(b, &m); err == nil {
			t.Errorf("%s was taken: %+v", tt.what, m)
		}
	}
	// One level more is right where it is allowed.
	b, _ := hex.DecodeString("a1038181818105")
	var m message
	if err := New(12).Decode(b, &m); err != nil || !bytes.Equal(New(4).Encode(m), b) {
		t.Errorf("%+v, %v", m, err)
	}
}
