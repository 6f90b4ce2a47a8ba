package extension

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"go.starlark.net/starlark"
	"go.starlark.net/syntax"
)

// What functions of the API return is made of Go values, which become values of
// Starlark or of JSON here: nil, bool, int, float64, string, []byte, []any and
// the following.

// Addr is an address or another unsigned number of 64 bits: an int in scripts,
// "0x..." in JSON.
type Addr uint64

// Int64 is a signed number of 64 bits: an int in scripts, decimal text in JSON.
type Int64 int64

// Field is a name with a value.
type Field struct {
	Name  string
	Value any
}

// Object is what has fields: x.name in scripts, an object in JSON.
type Object struct {
	Kind   string
	Fields []Field
}

// Dict is what has keys: x["name"] in scripts, an object in JSON.
type Dict []Field

// Get is a field's value, nil without one.
func (o *Object) Get(name string) any {
	for _, f := range o.Fields {
		if f.Name == name {
			return f.Value
		}
	}
	return nil
}

// toStarlark makes a value of Starlark.
func toStarlark(v any) starlark.Value {
	switch v := v.(type) {
	case nil:
		return starlark.None
	case bool:
		return starlark.Bool(v)
	case int:
		return starlark.MakeInt(v)
	case Addr:
		return starlark.MakeUint64(uint64(v))
	case Int64:
		return starlark.MakeInt64(int64(v))
	case float64:
		return starlark.Float(v)
	case string:
		return starlark.String(v)
	case []byte:
		return starlark.Bytes(v)
	case []any:
		l := make([]starlark.Value, len(v))
		for i := range v {
			l[i] = toStarlark(v[i])
		}
		return starlark.NewList(l)
	case *Object:
		if v == nil {
			return starlark.None
		}
		r := &record{kind: v.Kind, fields: make([]recordField, len(v.Fields))}
		for i, f := range v.Fields {
			r.fields[i] = recordField{f.Name, toStarlark(f.Value)}
		}
		return r
	case Dict:
		d := starlark.NewDict(len(v))
		for _, f := range v {
			d.SetKey(starlark.String(f.Name), toStarlark(f.Value)) // cannot fail: a string, not frozen
		}
		return d
	case starlark.Value:
		return v
	}
	return starlark.String(fmt.Sprint(v))
}

// toJSON makes what encoding/json writes.
func toJSON(v any) any {
	switch v := v.(type) {
	case Addr:
		return fmt.Sprintf("0x%016x", uint64(v))
	case Int64:
		return strconv.FormatInt(int64(v), 10)
	case float64:
		if math.IsInf(v, 0) || math.IsNaN(v) {
			return strconv.FormatFloat(v, 'g', -1, 64)
		}
		return v
	case string:
		return strings.ToValidUTF8(v, "\ufffd")
	case []byte:
		return hex.EncodeToString(v)
	case []any:
		l := make([]any, len(v))
		for i := range v {
			l[i] = toJSON(v[i])
		}
		return l
	case *Object:
		if v == nil {
			return nil
		}
		return Dict(v.Fields).json()
	case Dict:
		return v.json()
	case *Typed:
		return v.json(0)
	}
	return v
}

// object keeps the order of fields.
type object []Field

func (d Dict) json() any {
	o := make(object, len(d))
	for i, f := range d {
		o[i] = Field{f.Name, toJSON(f.Value)}
	}
	return o
}

// MarshalJSON implements json.Marshaler.
func (o object) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, f := range o {
		if i > 0 {
			b = append(b, ',')
		}
		k, err := json.Marshal(f.Name)
		if err != nil {
			return nil, err
		}
		v, err := json.Marshal(f.Value)
		if err != nil {
			return nil, err
		}
		b = append(append(append(b, k...), ':'), v...)
	}
	return append(b, '}'), nil
}

// record is an Object in Starlark. It cannot be changed.
type record struct {
	kind   string
	fields []recordField
}

type recordField struct {
	name  string
	value starlark.Value
}

var (
	_ starlark.HasAttrs   = (*record)(nil)
	_ starlark.Comparable = (*record)(nil)
)

func (r *record) String() string {
	s, err := textOf(r)
	if err != nil {
		return r.kind
	}
	return s
}
func (r *record) Type() string          { return r.kind }
func (r *record) Freeze()               {}
func (r *record) Truth() starlark.Bool  { return true }
func (r *record) Hash() (uint32, error) { return 0, fmt.Errorf("unhashable type: %s", r.kind) }

// Attr implements starlark.HasAttrs.
func (r *record) Attr(name string) (starlark.Value, error) {
	for _, f := range r.fields {
		if f.name == name {
			return f.value, nil
		}
	}
	return nil, nil
}

// AttrNames implements starlark.HasAttrs.
func (r *record) AttrNames() []string {
	l := make([]string, len(r.fields))
	for i, f := range r.fields {
		l[i] = f.name
	}
	return l
}

// CompareSameType implements starlark.Comparable.
func (r *record) CompareSameType(op syntax.Token, y starlark.Value, depth int) (bool, error) {
	o, ok := y.(*record)
	if !ok {
		return op == syntax.NEQ, nil
	}
	if op != syntax.EQL && op != syntax.NEQ {
		return false, fmt.Errorf("%s has no order", r.kind)
	}
	same := r.kind == o.kind && len(r.fields) == len(o.fields)
	for i := 0; same && i < len(r.fields); i++ {
		eq, err := starlark.EqualDepth(r.fields[i].value, o.fields[i].value, depth-1)
		if err != nil {
			return false, err
		}
		same = eq && r.fields[i].name == o.fields[i].name
	}
	return same == (op == syntax.EQL), nil
}
