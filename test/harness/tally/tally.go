// Package tally counts what became of the work that a program did while things
// went wrong, and says whether that is what was promised.
package tally

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"yr/test/harness/fault"
)

// What can become of an operation.
const (
	Acknowledged = "acknowledged" // its result came, and was right
	Failed       = "failed"       // an error of the documented kinds
	Lost         = "lost"         // what was acknowledged is not there
	Duplicated   = "duplicated"   // it happened more than once
	Reordered    = "reordered"    // it happened before what was asked for earlier
	Wrong        = "wrong"        // another result than the right one
	Untyped      = "untyped"      // an error that is no answer
	Hung         = "hung"         // nothing came in the time allowed
)

// broken are the outcomes that are never in order.
var broken = []string{Lost, Duplicated, Reordered, Wrong, Untyped, Hung}

// An Operation is one thing that the program asked for. Times are seconds of the
// monotonic clock.
type Operation struct {
	Kind    string  `json:"kind"`
	Outcome string  `json:"outcome"`
	Why     string  `json:"why,omitempty"` // of anything but Acknowledged
	Began   float64 `json:"began"`
	Ended   float64 `json:"ended"`
}

// A Tally is the counts of a run.
type Tally struct {
	Attempted int
	Outcomes  map[string]int            // of all kinds together
	ByKind    map[string]map[string]int // kind, outcome
	Faults    int
	During    int // acknowledged while something was wrong
	// Recovery is, for each kind, the longest time from the beginning of a fault to the first acknowledgement of
	// something that was asked for after it.
	Recovery map[string]time.Duration
	Slowest  map[string]time.Duration // of each kind: the longest that an acknowledgement took
	Never    []string                 // "kind after fault": nothing was acknowledged any more
	Reasons  map[string]int
}

// Read reads the operations that a program wrote, one JSON object a line.
func Read(path string) (operations []Operation, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var o Operation
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", path, lines.Text(), err)
		}
		operations = append(operations, o)
	}
	return operations, lines.Err()
}

// Count counts operations against the faults that happened meanwhile.
func Count(operations []Operation, faults []fault.Event) *Tally {
	t := &Tally{
		Attempted: len(operations), Faults: len(faults),
		Outcomes: map[string]int{}, ByKind: map[string]map[string]int{},
		Recovery: map[string]time.Duration{}, Slowest: map[string]time.Duration{}, Reasons: map[string]int{},
	}
	for _, o := range operations {
		t.Outcomes[o.Outcome]++
		if t.ByKind[o.Kind] == nil {
			t.ByKind[o.Kind] = map[string]int{}
		}
		t.ByKind[o.Kind][o.Outcome]++
		if o.Outcome == Acknowledged {
			t.Slowest[o.Kind] = max(t.Slowest[o.Kind], seconds(o.Ended-o.Began))
		} else {
			t.Reasons[o.Outcome+": "+o.Why]++
		}
		for _, f := range faults {
			if o.Outcome == Acknowledged && f.Began <= seconds(o.Ended) && seconds(o.Ended) <= f.Ended {
				t.During++
				break
			}
		}
	}
	t.recoveries(operations, faults)
	return t
}

// Slowest returns the operation of each kind that took longest.
func Slowest(operations []Operation) (all []Operation) {
	slowest := map[string]Operation{}
	for _, o := range operations {
		if s, ok := slowest[o.Kind]; !ok || o.Ended-o.Began > s.Ended-s.Began {
			slowest[o.Kind] = o
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(slowest)) {
		all = append(all, slowest[kind])
	}
	return all
}

func (t *Tally) recoveries(operations []Operation, faults []fault.Event) {
	for _, f := range faults {
		for _, kind := range slices.Sorted(maps.Keys(t.ByKind)) {
			first, later := time.Duration(0), false
			for _, o := range operations {
				if o.Kind != kind || seconds(o.Began) < f.Began {
					continue
				}
				later = true
				if took := seconds(o.Ended) - f.Began; o.Outcome == Acknowledged && (first == 0 || took < first) {
					first = took
				}
			}
			t.Recovery[kind] = max(t.Recovery[kind], first)
			if later && first == 0 {
				t.Never = append(t.Never, kind+" after "+f.Name)
			}
		}
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// String is the line about the run.
func (t *Tally) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d faults: %d attempted, %d acknowledged (%d of them during a fault), %d failed with a typed error",
		t.Faults, t.Attempted, t.Outcomes[Acknowledged], t.During, t.Outcomes[Failed])
	for _, outcome := range broken {
		fmt.Fprintf(&b, ", %d %s", t.Outcomes[outcome], outcome)
	}
	b.WriteString("; to recover")
	for _, kind := range slices.Sorted(maps.Keys(t.ByKind)) {
		fmt.Fprintf(&b, " %s %.1f s (slowest %.1f)", kind, t.Recovery[kind].Seconds(), t.Slowest[kind].Seconds())
	}
	return b.String()
}

// Err says everything that is not as promised: an outcome that is never in order,
// a run in which nothing was acknowledged while something was wrong, a recovery
// that took longer than the bound or never came.
func (t *Tally) Err(recovery time.Duration) error {
	var all []error
	for _, outcome := range broken {
		if n := t.Outcomes[outcome]; n > 0 {
			all = append(all, fmt.Errorf("%d %s: %s", n, outcome, t.reasons(outcome)))
		}
	}
	if t.Faults == 0 {
		all = append(all, errors.New("no fault happened"))
	} else if t.During == 0 {
		all = append(all, errors.New("nothing was acknowledged while something was wrong"))
	}
	for _, kind := range slices.Sorted(maps.Keys(t.Recovery)) {
		if took := t.Recovery[kind]; took > recovery {
			all = append(all, fmt.Errorf("%s took %.1f s to recover, more than %v", kind, took.Seconds(), recovery))
		}
	}
	if len(t.Never) > 0 {
		all = append(all, fmt.Errorf("never recovered: %s", strings.Join(t.Never, ", ")))
	}
	return errors.Join(all...)
}

// Failures are the texts of the typed errors, with how often each came.
func (t *Tally) Failures() string { return t.reasons(Failed) }

func (t *Tally) reasons(outcome string) string {
	const shown = 5
	var texts []string
	for why := range t.Reasons {
		if strings.HasPrefix(why, outcome+": ") {
			texts = append(texts, why)
		}
	}
	slices.SortFunc(texts, func(a, b string) int { return t.Reasons[b] - t.Reasons[a] })
	for i, why := range texts {
		texts[i] = fmt.Sprintf("%dx %s", t.Reasons[why], strings.TrimPrefix(why, outcome+": "))
	}
	return strings.Join(texts[:min(shown, len(texts))], "; ")
}
