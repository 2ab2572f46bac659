// Package cluster is the registry that every master shares: which nodes belong to
// the cluster, who leads, which names are taken, what is configured.
//
// It is etcd, embedded in the masters' daemons, holding what is small and rarely
// written; never per-call state, never who answered a second ago. DESIGN.md tells
// why it looks like this.
//
// The parts (Leader, Names, Config, Nodes, Facts) are written once over KV, the
// little that they need of a store with revisions. Three stores exist: the
// embedded etcd member (Member), one that somebody else runs (External), and a map
// in memory (package inprocess) for the tests of other packages. The same
// behaviour tests run against all of them.
//
// A master that is alone, and one of several:
//
//	c := cluster.New(cluster.Options{Dir: dir, Node: node})
//	err := c.Open(ctx) // ready, and leading
//
//	c := cluster.New(cluster.Options{Dir: dir, Node: node, Peers: &cluster.Peers{...}})
//	err := c.Open(ctx)      // started; go on starting other things
//	err = c.WaitReady(ctx)  // a majority was found, or the error names who is missing
//	epoch, err := c.Leader().TakeOver(ctx) // once this node has been elected, elsewhere
package cluster
