// Package yr is the dictionary of the system: the types that name its ideas.
//
// Read it first. Every other package speaks in these words, and this one
// imports nothing of ours. The ideas, from the outside in:
//
//	Tenant    whose it is; part of every key, quota and metric
//	Job       the lifetime tree of sessions, instances and objects
//	Node      a machine running the yr daemon
//	Session   one SDK connection to its node's agent: a driver, a worker or a data client
//	Worker    a process that hosts user code in one language
//	Instance  user code with state and a mailbox, placed on one worker
//	Call      one request to a function or an instance; it yields Objects
//	Blob      immutable bytes in memory, on disk or on another node
//	Name      a binding to a Blob; an Object is a Name bound once by its maker
//	Stream    an ordered queue of elements in shared-memory pages
//	Record    a durable, replicated, revisioned value
//
// Instance and Call share one identifier space with Objects: a Call's ID is the
// ID of its first result.
package yr
