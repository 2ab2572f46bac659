package several

import (
	_ "embed" // load.py
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/test/harness"
	"yr/test/harness/fault"
	"yr/test/harness/tally"
)

//go:embed load.py
var loadProgram string

// anywhere is a place of a load.
const anywhere = "-"

// A load is load.py, running on a node.
type load struct {
	t       *testing.T
	notes   string
	seconds int
	program *harness.Program
}

// startLoad starts the program on a node and returns when it works. Place is the
// node that its work has to run on, or anywhere.
func startLoad(t *testing.T, on *harness.Node, seconds int, place string, kinds ...string) *load {
	t.Helper()
	l := &load{t: t, seconds: seconds, notes: filepath.Join(t.TempDir(), "operations")}
	l.program = on.Python(loadProgram, l.notes, fmt.Sprint(seconds), place, strings.Join(kinds, ","))
	l.program.Says("working")
	return l
}

// tally waits for the end of the program and counts what it did against the faults.
func (l *load) tally(faults []fault.Event) *tally.Tally {
	l.t.Helper()
	r := l.program.WaitFor(time.Duration(l.seconds)*time.Second + 2*harness.Patience)
	require.Zero(l.t, r.Code, r)
	operations, err := tally.Read(l.notes)
	require.NoError(l.t, err)
	counted := tally.Count(operations, faults)
	l.t.Log(counted)
	if len(operations) > 0 {
		began := operations[0].Began
		for _, f := range faults {
			l.t.Logf("%6.1f to %.1f s: %s", f.Began.Seconds()-began, f.Ended.Seconds()-began, f.Name)
		}
		for _, o := range tally.Slowest(operations) {
			l.t.Logf("%6.1f to %.1f s: slowest %s, %s %s", o.Began-began, o.Ended-began, o.Kind, o.Outcome, o.Why)
		}
	}
	if failures := counted.Failures(); failures != "" {
		l.t.Log("typed errors: ", failures)
	}
	return counted
}
