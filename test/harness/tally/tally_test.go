package tally

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/test/harness/fault"
)

func op(kind, outcome string, began, ended float64) Operation {
	return Operation{Kind: kind, Outcome: outcome, Why: "because", Began: began, Ended: ended}
}

var cut = fault.Event{Name: "cut", Began: 10 * time.Second, Ended: 15 * time.Second}

func TestCount(t *testing.T) {
	got := Count([]Operation{
		op("call", Acknowledged, 1, 2),
		op("call", Acknowledged, 9, 10.5), // during the fault, but asked for before
		op("call", Failed, 11, 12),
		op("call", Acknowledged, 12, 13),
		op("object", Acknowledged, 14, 17),
		op("object", Lost, 18, 19),
	}, []fault.Event{cut})
	require.Equal(t, "1 faults: 6 attempted, 4 acknowledged (2 of them during a fault), 1 failed with a typed error, "+
		"1 lost, 0 duplicated, 0 reordered, 0 wrong, 0 untyped, 0 hung; to recover call 3.0 s (slowest 1.5) object 7.0 s (slowest 3.0)", got.String())
	require.EqualError(t, got.Err(5*time.Second), "1 lost: 1x because\nobject took 7.0 s to recover, more than 5s")
}

func TestVerdicts(t *testing.T) {
	for name, c := range map[string]struct {
		operations []Operation
		faults     []fault.Event
		want       string
	}{
		"as promised":           {[]Operation{op("call", Acknowledged, 10, 11)}, []fault.Event{cut}, ""},
		"no fault":              {[]Operation{op("call", Acknowledged, 10, 11)}, nil, "no fault happened"},
		"nothing during it":     {[]Operation{op("call", Acknowledged, 11, 16)}, []fault.Event{cut}, "nothing was acknowledged while something was wrong"},
		"no recovery":           {[]Operation{op("call", Acknowledged, 9, 11), op("call", Failed, 11, 12)}, []fault.Event{cut}, "never recovered: call after cut"},
		"an error of no kind":   {[]Operation{op("call", Acknowledged, 10, 11), op("call", Untyped, 11, 12)}, []fault.Event{cut}, "1 untyped: 1x because"},
		"nothing was attempted": {nil, []fault.Event{cut}, "nothing was acknowledged while something was wrong"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Count(c.operations, c.faults).Err(8 * time.Second)
			if c.want == "" {
				require.NoError(t, err)
			} else {
				require.EqualError(t, err, c.want)
			}
		})
	}
}

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "operations")
	require.NoError(t, os.WriteFile(path, []byte(`{"kind": "call", "outcome": "lost", "why": "gone", "began": 1.5, "ended": 2}`+"\n"), 0o600))
	got, err := Read(path)
	require.NoError(t, err)
	require.Equal(t, []Operation{{Kind: "call", Outcome: Lost, Why: "gone", Began: 1.5, Ended: 2}}, got)
	require.NoError(t, os.WriteFile(path, []byte("noise\n"), 0o600))
	_, err = Read(path)
	require.ErrorContains(t, err, "noise")
}
