// Package supervise keeps a daemon alive and its descriptors open.
//
// A tiny parent starts the daemon as its child, restarts it when it crashes,
// and holds the descriptors that the child asks it to hold: listening sockets,
// sealed memory, a lock. It knows nothing about any of them but their names. A
// restarted child gets everything back, so a crash of the daemon loses neither
// memory nor the connections that wait in a socket's backlog.
//
// The two talk over a socket pair of packets, each one verb, one argument and
// at most one descriptor:
//
//	parent to child   have NAME (+descriptor), once per thing held; then begin RESTARTS
//	child to parent   keep NAME (+descriptor); drop NAME
//
// The socket pair is also how each learns of the other's death: the child reads
// end of file when the parent is gone, however it went. Both are subreapers, so
// that whatever their descendants leave behind ends up with them and can be
// found and ended: EndDescendants.
package supervise

import "time"

// How the parent treats a child that ends.
const (
	// ExitGiveUp is the exit status by which a child says that starting it again
	// would not help (a port is taken, the configuration is wrong).
	ExitGiveUp = 78

	// healthyLife is how long a child must have lived for its crash to count as
	// the first: the parent restarts it at once.
	healthyLife = 10 * time.Second

	// The pauses before further restarts double from backoffFirst to backoffMost,
	// which stays below the 3 s within which a crashed daemon is back.
	backoffFirst = 100 * time.Millisecond
	backoffMost  = 2 * time.Second

	// DefaultGrace is how long a child may take to end after SIGTERM before it is
	// killed: a little longer than a daemon gives its workers, and less than the
	// 40 s for which the stop command waits.
	DefaultGrace = 35 * time.Second

	// killTimeout bounds the wait for killed processes to be gone.
	killTimeout = 15 * time.Second

	// childSocket is the descriptor number of the socket pair in the child.
	childSocket = 3

	envSocket = "YR_SUPERVISE_FD"
)
