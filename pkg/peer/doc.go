// Package peer is the connections between nodes: authenticated, of one port,
// carrying links of frames, bulk bytes and streams of other protocols.
//
// A connection opens with the four bytes "YRP1" and a handshake in which both
// ends prove that they know the cluster's token, agree on a version, and say who
// they are (handshake.go). What it is for is part of the handshake:
//
//	link    one direction of frames between two nodes, in order, exactly once while
//	        both incarnations live, over any number of connections (link.go)
//	bulk    requests for bytes, answered straight from memory (fetch.go, serve.go)
//	other   a bare stream for the protocol of that name: gRPC, Raft (stream.go)
//
// Without TLS the handshake authenticates and nothing after it is protected: that
// is for networks that one trusts. With TLS the same handshake runs inside mutual
// TLS and is bound to it. DESIGN.md tells why things are as they are.
package peer

import "time"

// Preamble opens every connection between nodes. No HTTP method begins like it.
const Preamble = "YRP1"

// The versions of the protocol between nodes that this build speaks. A build
// speaks its own and the one before it, so nodes one version apart work together.
const (
	Version       = 1
	OldestVersion = 1
)

// The stated limits.
const (
	// MaxUnacknowledged is what a link holds for its peer before Full says so.
	MaxUnacknowledged = 64 << 20
	// MaxRequest is the longest request of Fetch.
	MaxRequest = 256
	// MaxStrangers is how many accepted connections may be unauthenticated at a
	// time. One more, and the oldest of them is closed: a real peer is through in
	// milliseconds, so only those who dawdle are.
	MaxStrangers = 256
	// MaxConnections is how many connections one node may have here at a time.
	MaxConnections = 256
	// MaxFetches is how many bulk transfers from one node run at a time; others wait.
	MaxFetches = 8
	// maxFenced is how many fenced nodes are remembered, the oldest forgotten first.
	// An incarnation that old is long replaced in the registry.
	maxFenced = 16384
)

// pace is the times that a node keeps. Tests shorten them.
type pace struct {
	handshake   time.Duration // for a stranger to become a peer
	dial        time.Duration // for a TCP connection and the handshake
	ping        time.Duration // between signs of life, each way
	silence     time.Duration // without a byte, after which a link's connection is given up
	backoff     time.Duration // before the second attempt to connect
	backoffMost time.Duration
	ack         time.Duration // how long an acknowledgement may be held back
	stall       time.Duration // without progress, after which a bulk transfer's connection is given up
	idle        time.Duration // how long a bulk connection is kept for the next request
}

var defaultPace = pace{
	handshake:   5 * time.Second,
	dial:        5 * time.Second,
	ping:        500 * time.Millisecond,
	silence:     3 * time.Second,
	backoff:     10 * time.Millisecond,
	backoffMost: 2 * time.Second,
	ack:         5 * time.Millisecond,
	stall:       10 * time.Second,
	idle:        time.Minute,
}

// The protocols of this package itself; the others are streams.
const (
	protocolLink = "link"
	protocolBulk = "bulk"
)
