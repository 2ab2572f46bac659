package scheduler

import "slices"

// Operator compares a node's label with values. A label may have several values.
type Operator int

// The operators. NotIn holds for a node without the label.
const (
	In Operator = iota
	NotIn
	Exists
	NotExists
)

// Condition is one test of a node's labels, such as {"zone", In, {"a", "b"}}.
type Condition struct {
	Label  string
	Op     Operator
	Values []string
}

// Holds reports whether labels pass the test. An unknown operator passes, as in
// openYuanrong.
func (c Condition) Holds(labels map[string][]string) bool {
	have, exists := labels[c.Label]
	found := slices.ContainsFunc(have, func(v string) bool { return slices.Contains(c.Values, v) })
	switch c.Op {
	case In:
		return found
	case NotIn:
		return !found
	case Exists:
		return exists
	case NotExists:
		return !exists
	}
	return true
}
