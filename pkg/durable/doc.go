// Package durable keeps Records: durable, replicated, revisioned values.
//
// Store is all that its users need to know. It has three implementations, which
// pass the same tests:
//
//	Group   a voter of a Raft group; it answers while it leads
//	Client  the same from any node, over gRPC; it finds the leader and retries safely
//	Memory  one process, nothing on disk, for the tests of other packages
//
// An Apply that returned without an error is on the disks of a majority. One that
// returned ErrUnknown may have happened or not; after every other error nothing
// has. Reads see every write that was acknowledged before they began.
//
// DESIGN.md tells how it works inside and why.
package durable
