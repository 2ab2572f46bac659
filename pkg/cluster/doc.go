// Package cluster is the registry that every node shares: which nodes live, who
// leads, which names are taken, what is configured.
//
// It is etcd, embedded in the master's daemon, holding what is small and rarely
// written; never per-call state. DESIGN.md tells why it looks like this.
//
// The parts are written once over KV, the little that they need of a store with
// revisions and leases. Two stores exist: the embedded etcd member (Member) and a
// map in memory (package inprocess) for the tests of other packages. The same
// behaviour tests run against both.
package cluster
