package harness

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"

	"yr/pkg/yr"
	"yr/test/harness/lab"
)

// Every node of a Computer has so much. By a resource that is called like the node
// a program says where something has to run; Far is what all but the first have.
const (
	nodeCores  = 2000 // thousandths
	nodeMemory = 4096 // MB
	nodeOwn    = 100
	Far        = "far"
)

// Token is what the nodes of a Computer prove to each other that they know.
const Token = "the-token-of-a-test-computer"

// A Computer is several nodes, each on a host of a lab of its own.
type Computer struct {
	t     testing.TB
	Lab   *lab.Lab
	Nodes []*Node
}

// A Node is one of them: a Cluster in the sense that everything of it is found in
// its Prefix.
type Node struct {
	*Cluster
	Name     string // its id, and the resource that only it has: "a", "b", ...
	Host     *lab.Host
	Token    string // that it is started with
	Binary   string // that it runs
	computer *Computer
	start    []string // arguments of the last start
}

// NewComputer makes the hosts of n nodes, and starts nothing. The test is skipped
// where there can be no hosts.
func NewComputer(t testing.TB, n int) *Computer {
	t.Helper()
	if err := lab.Available(); err != nil {
		t.Skip(err)
	}
	l, err := lab.New(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	c := &Computer{t: t, Lab: l}
	for i, host := range l.Hosts {
		node := &Node{Cluster: New(t), Name: string(rune('a' + i)), Host: host, Token: Token, Binary: Binary(t), computer: c}
		node.host = host
		l.After("rm -rf '" + node.Prefix + "'") // a killed test removes no directories
		c.Nodes = append(c.Nodes, node)
	}
	t.Cleanup(c.Repair) // before the nodes are stopped
	return c
}

// StartComputer starts masters and further nodes, and waits until all know each other.
func StartComputer(t testing.TB, masters, others int, args ...string) *Computer {
	t.Helper()
	c := NewComputer(t, masters+others)
	c.StartMasters(masters, args...)
	c.startAll(c.Nodes[masters:], append([]string{"--join", c.Nodes[0].Scheduler()}, args...)...)
	c.Whole()
	return c
}

// For returns the same computer, reporting to a subtest.
func (c *Computer) For(t testing.TB) *Computer {
	tellHowToRerun(t)
	of := *c
	of.t, of.Nodes = t, nil
	for _, n := range c.Nodes {
		node := *n
		node.Cluster, node.computer = n.reporting(t), &of
		of.Nodes = append(of.Nodes, &node)
	}
	return &of
}

// T is the test that the computer reports to.
func (c *Computer) T() testing.TB { return c.t }

// StartMasters makes the first n nodes masters; more than one of them at once.
func (c *Computer) StartMasters(n int, args ...string) {
	c.t.Helper()
	all := []string{"--master"}
	if n > 1 {
		var addresses []string
		for _, node := range c.Nodes[:n] {
			addresses = append(addresses, node.Host.Address)
		}
		all = append(all, "--masters", strings.Join(addresses, ","))
	}
	c.startAll(c.Nodes[:n], append(all, args...)...)
}

// startAll starts nodes at the same time: masters wait for each other.
func (c *Computer) startAll(nodes []*Node, args ...string) {
	c.t.Helper()
	var starts []*Program
	for _, n := range nodes {
		starts = append(starts, n.begin(args...))
	}
	for i, n := range nodes {
		n.started(starts[i])
	}
}

// Join starts the node as a further one of the cluster that the first node is in.
func (n *Node) Join(args ...string) {
	n.t.Helper()
	n.JoinVia(n.computer.Nodes[0], args...)
}

// JoinVia is Join by way of another master.
func (n *Node) JoinVia(master *Node, args ...string) {
	n.t.Helper()
	n.started(n.join(master, args...))
}

// StartMaster starts the node as the only master of a cluster of its own.
func (n *Node) StartMaster(args ...string) {
	n.t.Helper()
	n.started(n.begin(append([]string{"--master"}, args...)...))
}

// TryJoin is Join for a node that may be refused.
func (n *Node) TryJoin(args ...string) Result {
	n.t.Helper()
	return n.join(n.computer.Nodes[0], args...).Wait()
}

func (n *Node) join(master *Node, args ...string) *Program {
	return n.begin(append([]string{"--join", master.Scheduler()}, args...)...)
}

// Again starts nodes as they were started before, on what is left in their data directories.
func (c *Computer) Again(nodes ...*Node) {
	c.t.Helper()
	var starts []*Program
	for _, n := range nodes {
		starts = append(starts, n.yr(n.start...))
	}
	for i, n := range nodes {
		n.started(starts[i])
	}
}

func (n *Node) begin(args ...string) *Program {
	n.t.Helper()
	n.start = append([]string{"start"}, n.arguments(args...)...)
	return n.yr(n.start...)
}

func (n *Node) yr(args ...string) *Program {
	n.t.Helper()
	return n.Command(append([]string{n.Binary, "--log-dir-prefix", n.Prefix}, args...)...)
}

func (n *Node) started(start *Program) {
	n.t.Helper()
	if r := start.Wait(); r.Code != 0 {
		n.t.Fatalf("%s: %s", n.Name, r)
	}
	n.Attach()
}

// arguments are those given, after what they override.
func (n *Node) arguments(args ...string) []string {
	resources := map[string]int{n.Name: nodeOwn}
	if n != n.computer.Nodes[0] {
		resources[Far] = nodeOwn
	}
	custom, _ := json.Marshal(resources)
	all := []string{
		"-s", fmt.Sprintf("values.node_id=%q", n.Name),
		"-s", fmt.Sprintf("values.cpu_num=%d", nodeCores),
		"-s", fmt.Sprintf("values.memory_num=%d", nodeMemory),
		"-s", fmt.Sprintf("function_agent.args.custom_resources=%q", custom),
		"-s", fmt.Sprintf(`function_agent.env.INIT_LABELS="{\"node\":\"%s\"}"`, n.Name),
	}
	if n.Token != "" {
		all = append(all, "-s", fmt.Sprintf("values.token=%q", n.Token))
	}
	return append(all, args...)
}

// Scheduler is where a node that joins finds a master.
func (n *Node) Scheduler() string { return n.Host.Address + ":22770" }

// Bus is where other nodes reach this one.
func (n *Node) Bus() string { return n.Host.Address + ":22773" }

// MustYr runs a yr command on the node, which must succeed, and returns what it printed.
func (n *Node) MustYr(args ...string) string {
	n.t.Helper()
	r := n.Yr(args...)
	if r.Code != 0 {
		n.t.Fatal(r)
	}
	return r.Out
}

// Kill kills the daemon proper; its parent starts another one.
func (n *Node) Kill() { _ = syscall.Kill(n.Child(), syscall.SIGKILL) }

// PowerOff ends everything on the node's host at once. Nobody tidies up behind it,
// so what files it leaves is left.
func (n *Node) PowerOff() {
	n.Host.PowerOff()
	for _, file := range n.left() {
		n.ruins[file] = true
	}
}

// Views asks the node's daemon which nodes there are.
func (n *Node) Views() ([]yr.NodeView, error) {
	if n.Session == nil {
		return nil, fmt.Errorf("node %s is not started", n.Name)
	}
	api := n.API()
	defer api.Close()
	return api.Nodes(n.t.Context())
}

// Whole waits until every node that was started sees all of them, and a leader.
func (c *Computer) Whole() { c.t.Helper(); c.WholeFor(c.Alive()...) }

// WholeFor waits until these nodes see each other as ready, a leader, and nobody else.
func (c *Computer) WholeFor(nodes ...*Node) {
	c.t.Helper()
	Eventually(c.t, "a whole computer", func() (bool, string) { return whole(nodes) })
}

// Ready is WholeFor for use where a test cannot be ended.
func (c *Computer) Ready(nodes ...*Node) error {
	if state, ok := within(Patience, func() (bool, string) { return whole(nodes) }); !ok {
		return fmt.Errorf("not whole within %v: %s", Patience, state)
	}
	return nil
}

func whole(nodes []*Node) (bool, string) {
	for _, n := range nodes {
		views, err := n.Views()
		if err != nil {
			return false, fmt.Sprintf("%s: %v", n.Name, err)
		}
		var ready []string
		leader, state := false, ""
		for _, v := range views {
			state += fmt.Sprintf(" %s=%s", v.ID, v.State)
			leader = leader || v.Leader
			if v.State == "ready" {
				ready = append(ready, string(v.ID))
			}
		}
		slices.Sort(ready)
		if !slices.Equal(ready, names(nodes)) || !leader {
			return false, fmt.Sprintf("%s sees%s, leader %t", n.Name, state, leader)
		}
	}
	return true, ""
}

// Leader is the node that leads, as most of the nodes see it.
func (c *Computer) Leader() *Node {
	c.t.Helper()
	var leader *Node
	Eventually(c.t, "a leader", func() (bool, string) {
		for _, n := range c.Alive() {
			views, err := n.Views()
			if err != nil {
				continue
			}
			for _, v := range views {
				if v.Leader && v.State == "ready" {
					leader = c.Node(string(v.ID))
					return leader != nil, "a leader that is none of the nodes: " + string(v.ID)
				}
			}
		}
		return false, "nobody names one"
	})
	return leader
}

// Node is the node of that name, nil if there is none.
func (c *Computer) Node(name string) *Node {
	for _, n := range c.Nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// Others are all nodes but those.
func (c *Computer) Others(but ...*Node) (others []*Node) {
	for _, n := range c.Nodes {
		if !slices.Contains(but, n) {
			others = append(others, n)
		}
	}
	return others
}

// Hosts are the hosts of nodes, for the lab's Partition.
func Hosts(nodes ...*Node) (hosts []*lab.Host) {
	for _, n := range nodes {
		hosts = append(hosts, n.Host)
	}
	return hosts
}

// Repair undoes what was done to hosts and cables; it starts nothing.
func (c *Computer) Repair() {
	if err := c.Lab.Heal(); err != nil {
		c.t.Error(err)
	}
	for _, n := range c.Nodes {
		if err := n.Host.Plug(); err != nil {
			c.t.Error(err)
		}
		n.Host.Resume()
	}
}

// Settled waits until every node is idle, and returns what each one holds.
func (c *Computer) Settled() map[string]Footprint {
	c.t.Helper()
	held := map[string]Footprint{}
	for _, n := range c.Alive() {
		held[n.Name] = n.Settled()
	}
	return held
}

// kept is what connections between nodes may add.
var kept = Footprint{"fds": 8, "goroutines": 16}

// MustReturnTo waits until no node holds more than it did before.
func (c *Computer) MustReturnTo(before map[string]Footprint) {
	c.t.Helper()
	for _, name := range slices.Sorted(maps.Keys(before)) {
		n := c.Node(name)
		if held, ok := n.returned(before[name], kept); !ok {
			c.t.Errorf("node %s did not give back everything within %v: %s\n%s", name, Patience, held, n.Yr("list", "objects").Out)
		}
	}
}

// Alive are the nodes whose daemon has been started and has not ended.
func (c *Computer) Alive() (nodes []*Node) {
	for _, n := range c.Nodes {
		if n.Session != nil && n.Session.Alive() {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

func names(nodes []*Node) (names []string) {
	for _, n := range nodes {
		names = append(names, n.Name)
	}
	slices.Sort(names)
	return names
}

// State waits until every other node sees that node in a state.
func (c *Computer) State(of *Node, state string) {
	c.t.Helper()
	for _, n := range c.Alive() {
		if n == of {
			continue
		}
		Eventually(c.t, of.Name+" "+state, func() (bool, string) {
			views, err := n.Views()
			for _, v := range views {
				if string(v.ID) == of.Name {
					return v.State == state, fmt.Sprintf("%s sees it as %s %s", n.Name, v.State, v.Reason)
				}
			}
			return false, fmt.Sprintf("%s does not see it: %v", n.Name, err)
		})
	}
}

// MayCrash says that the test does to the node what its daemon may answer by giving up.
func (n *Node) MayCrash() { n.mayCrash = true }
