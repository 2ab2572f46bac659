package several

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/pkg/gateway/api"
	"yr/test/harness"
	"yr/test/harness/fault"
)

// TestMastersChange grows the masters from one to three, loses one, replaces it, and loses another one.
func TestMastersChange(t *testing.T) {
	t.Parallel()
	c := harness.NewComputer(t, 4)
	a, b, third, d := c.Nodes[0], c.Nodes[1], c.Nodes[2], c.Nodes[3]
	c.StartMasters(1)
	require.Contains(t, a.MustYr("masters", "add"), "yr start --master --join "+a.Bus())
	b.Join("--master")
	third.Join("--master")
	c.WholeFor(a, b, third)
	mastersAre(t, b, "a", "b", "c")
	run(a, warmUp)
	require.Equal(t, "a", c.Leader().Name, "nobody took over without need")

	a.PowerOff()
	c.WholeFor(b, third)
	run(b, others)
	b.MustYr("masters", "replace", "a")
	d.JoinVia(b, "--master")
	c.WholeFor(b, third, d)
	mastersAre(t, b, "b", "c", "d")

	b.PowerOff()
	c.WholeFor(third, d)
	run(d, `
yr.init()
where.options(on("c"))
assert yr.get(where.invoke()) == "c"
`)
	c.Again(b)
	c.WholeFor(b, third, d)
	mastersAre(t, third, "b", "c", "d")
}

// others is warmUp without node a.
var others = strings.ReplaceAll(warmUp, `"abc"`, `"bc"`)

// mastersAre waits until these are the masters, all of them ready.
func mastersAre(t *testing.T, at *harness.Node, want ...string) {
	t.Helper()
	harness.Eventually(t, fmt.Sprintf("masters %v", want), func() (bool, string) {
		listed := at.Yr("masters", "list", "-o", "json")
		var views []api.MasterView
		if err := json.Unmarshal([]byte(listed.Out), &views); err != nil {
			return false, listed.String()
		}
		var ready []string
		for _, v := range views {
			if v.State == "ready" {
				ready = append(ready, string(v.Node))
			}
		}
		slices.Sort(ready)
		return slices.Equal(ready, want), listed.Out
	})
}

// TestBackupAndRestore carries what the cluster knows over to another machine.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	c := harness.NewComputer(t, 3)
	a, b, heir := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	c.StartMasters(1)
	b.Join()
	c.WholeFor(a, b)
	a.MustYr("cordon", "b")
	c.State(b, "cordoned")
	backup := filepath.Join(t.TempDir(), "backup")
	b.MustYr("backup", backup) // from any node
	a.PowerOff()
	b.PowerOff()

	heir.MustYr("restore", backup)
	heir.StartMaster()
	b.JoinVia(heir)
	harness.Eventually(t, "b, cordoned as it was", func() (bool, string) { return cordoned(heir, b), "" })
	heir.MustYr("uncordon", "b")
	run(heir, `
yr.init()
where.options(on("b"))
assert yr.get(where.invoke()) == "b"
`)
}

// TestCertificatesRotate runs nodes with mutual TLS and replaces their certificates, and the authority, under a program.
func TestCertificatesRotate(t *testing.T) {
	t.Parallel()
	c := harness.NewComputer(t, 3)
	a, b, plain := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	dir := filepath.Join(t.TempDir(), "certs")
	cert := func(args ...string) {
		a.Command(append([]string{a.Binary, "cert", "--dir", dir}, args...)...).MustEnd()
	}
	cert("init")
	tls := func(n *harness.Node) []string {
		cert("issue", "--host", n.Host.Address, n.Name)
		return []string{"-s", "values.fs.tls.enable=true", "-s", fmt.Sprintf("values.fs.tls.base_path=%q", filepath.Join(dir, n.Name))}
	}
	a.StartMaster(tls(a)...)
	b.Join(tls(b)...)
	c.WholeFor(a, b)
	refused := plain.TryJoin()
	require.Equal(t, 1, refused.Code, "a node without TLS: %s", refused)

	l := startLoad(t, a, 10, "b", "call", "create", "instance", "object")
	steps := [][]string{{"renew"}, {"rotate", "begin"}, {"rotate", "switch"}, {"rotate", "finish"}}
	faults, err := fault.Schedule{
		Seed: fault.Seed(), Count: len(steps), Lasts: [2]time.Duration{time.Second, time.Second},
		Menu: []fault.Fault{{Name: "other certificates", Begin: func() error {
			cert(steps[0]...)
			steps = steps[1:]
			return nil
		}}},
		Settled: func() error { return c.Ready(a, b) },
	}.Run(t.Context())
	require.NoError(t, err)
	counted := l.tally(faults)
	require.NoError(t, counted.Err(unnoticed))
	require.Zero(t, counted.Outcomes["failed"], counted.Failures())
	was := b.Child()
	b.Kill() // what is made anew is made with the new certificates
	b.Restarted(was)
	c.WholeFor(a, b)
}
