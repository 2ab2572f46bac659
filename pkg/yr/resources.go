package yr

import (
	"fmt"
	"math"
	"sort"
	"strings"
)

// The two resources that every node has.
const (
	CPU    = "CPU"    // millicores
	Memory = "Memory" // MiB
)

// Resources is an amount of each named resource: CPU in millicores, Memory in
// MiB, custom resources and accelerators ("GPU/<model>/count") in units of the
// user's choosing. Amounts are logical: they decide placement and bound nothing.
//
// Amounts are kept in thousandths, so that sums of decimal fractions are exact:
// ten times 0.1 of a card is one card.
type Resources map[string]Milli

// Milli is a resource amount in thousandths.
type Milli int64

// Amount converts a decimal amount, rounding to the nearest thousandth.
func Amount(v float64) Milli { return Milli(math.Round(v * 1000)) }

// Float is the decimal amount.
func (m Milli) Float() float64 { return float64(m) / 1000 }

func (m Milli) String() string {
	s := fmt.Sprintf("%d.%03d", m/1000, m%1000)
	return strings.TrimRight(strings.TrimRight(s, "0"), ".")
}

// Clone returns a copy that shares nothing with r.
func (r Resources) Clone() Resources {
	c := make(Resources, len(r))
	for k, v := range r {
		c[k] = v
	}
	return c
}

// Add adds o to r in place.
func (r Resources) Add(o Resources) {
	for k, v := range o {
		r[k] += v
	}
}

// Sub subtracts o from r in place; amounts may become negative, which says that
// the node is overcommitted (a blocked worker gave its CPU back and woke up).
func (r Resources) Sub(o Resources) {
	for k, v := range o {
		r[k] -= v
	}
}

// Fits reports whether r covers need, and if not names one resource that is short.
func (r Resources) Fits(need Resources) (short string, ok bool) {
	for k, v := range need {
		if v > 0 && r[k] < v && (short == "" || k < short) {
			short = k
		}
	}
	return short, short == ""
}

// String is deterministic: names in order, "CPU=500 Memory=500 ssd=1".
func (r Resources) String() string {
	names := make([]string, 0, len(r))
	for k := range r {
		names = append(names, k)
	}
	sort.Strings(names)
	parts := make([]string, len(names))
	for i, k := range names {
		parts[i] = k + "=" + r[k].String()
	}
	return strings.Join(parts, " ")
}
