package several

import (
	_ "embed" // several.py
	"os"
	"testing"

	"yr/test/harness"
	"yr/test/harness/lab"
)

//go:embed several.py
var shared string

// driver starts a driver on a node.
func driver(n *harness.Node, source string, args ...string) *harness.Program {
	return n.Python(shared+source, args...)
}

// run runs a driver on a node to its end and returns what it printed.
func run(n *harness.Node, source string, args ...string) string {
	return n.Run(shared+source, args...)
}

// long says whether this is the run that takes its time.
func long() bool { return os.Getenv("YR_LONG") != "" }

// onlyLong skips a test that `make test` has no time for.
func onlyLong(t *testing.T) {
	t.Helper()
	if !long() {
		t.Skip("make soak-nodes runs it")
	}
}

// traffic reads the counters of all cables, in the order of the nodes.
func traffic(t *testing.T, c *harness.Computer) (all []lab.Traffic) {
	t.Helper()
	for _, n := range c.Nodes {
		counters, err := n.Host.Traffic()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, counters)
	}
	return all
}
