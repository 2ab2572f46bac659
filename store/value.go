package store

// What an object can turn out to be, and how that changes while the bytes do not:
// a value in shared memory may go to disk and come back, or be on another node.

import "yr/pkg/yr"

// Kind says where a value is. The first numbers are those of the wire's VALUE.
type Kind uint8

// A value is a few bytes here, a blob in shared memory, an error, or bytes that
// have to be brought in before anybody can read them.
const (
	Inline Kind = iota
	Shared
	Error
	Away
)

func (k Kind) String() string {
	return [...]string{"inline", "shared", "error", "away"}[k]
}

// Source is where bytes are outside this node's memory. Never changed once it is
// part of a value; a value elsewhere has another Source.
type Source struct {
	Node  yr.Node  // the node that has them; "" is this node's disk
	Place yr.Place // in that node's memory, for when it has forgotten; zero: not known
	Spot  Spot     // on this node's disk
	Size  uint64
}

// Value is what an object turned out to be.
type Value struct {
	Kind       Kind
	Serialized bool     // Error: Bytes are an exception serialised by an SDK, else UTF-8 text
	Code       yr.Code  // Error
	Bytes      []byte   // Inline: the value; Error: the payload. Owned by the table, never changed
	Place      yr.Place // Shared

	// Source is where the bytes of an Away value are. A Shared value may have one
	// too: then its place can be given up without writing anything.
	Source *Source
}

// Size is the length of the value in bytes.
func (v *Value) Size() uint64 {
	switch v.Kind {
	case Shared:
		return v.Place.Length
	case Away:
		return v.Source.Size
	case Inline, Error:
	}
	return uint64(len(v.Bytes))
}

// Move replaces the value of a Ready name by the same bytes somewhere else, or by
// the Error that says that they are lost. The caller owns what the old value stood
// for (a place, a spot), and takes it back. The objects inside stay.
func (t *Names[W]) Move(n *Name[W], v Value) error {
	op := "move object " + n.ID.String()
	switch {
	case n.State != Ready:
		return yr.E(op, yr.ParamInvalid, "it is %s; only a value that is there can move", n.State)
	case v.Kind == Away && v.Source == nil:
		return yr.E(op, yr.ParamInvalid, "its bytes are away and it is not said where")
	case v.Kind != Error && v.Size() != n.Size():
		return yr.E(op, yr.ParamInvalid, "it has %d bytes and would have %d", n.Size(), v.Size())
	}
	t.unbecome(n)
	t.become(n, v)
	return nil
}

// become gives n a value and counts it.
func (t *Names[W]) become(n *Name[W], v Value) {
	n.Value = v
	n.State = Ready
	switch v.Kind {
	case Error:
		n.State = Failed
	case Shared:
		t.stats.Shared++
	case Away:
		t.stats.Away++
	case Inline:
	}
	t.countInline(n, int64(len(v.Bytes)))
}

// unbecome takes n's value out of the counts.
func (t *Names[W]) unbecome(n *Name[W]) {
	switch n.Value.Kind {
	case Shared:
		t.stats.Shared--
	case Away:
		t.stats.Away--
	case Inline, Error:
	}
	t.countInline(n, -int64(len(n.Value.Bytes)))
}
