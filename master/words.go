// Package master names what a node and the leader of the cluster say to each
// other: a Machine registers, reports its Load, and hears of its Neighbours.
//
// The work is done by the packages beside it: table holds who lives and what is
// free, server is the leader's service over it, client is every node's side.
// DESIGN.md tells why they look like this.
package master

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"yr/pkg/yr"
	"yr/scheduler"
)

// How liveness is kept. The leader declares a node dead that it has not heard of
// for Silence. The node gives itself up LostAfter it *asked* for the last time with
// success, so it has the rest to stop what may be recreated elsewhere. A new leader
// waits a full Silence before it declares anyone dead.
const (
	ReportEvery = time.Second
	Silence     = 5 * time.Second
	LostAfter   = 4 * time.Second
)

// MaxSample is the most neighbours that the answer to a report names.
const MaxSample = 32

// MaxDrain is the longest that a node may be given to become empty.
const MaxDrain = 24 * time.Hour

// Machine is what a node says about itself when it registers.
type Machine struct {
	ID       yr.Node
	Identity string // of the data directory: a restarted daemon takes its own place over, another is refused
	Tag      yr.Tag // the one kept in the data directory, zero for a new node
	Address  string // host:port where other nodes reach this one
	Version  string // of yr, "major.minor.patch"
	Master   bool
	Capacity yr.Resources // cards as "GPU/<model>/count"
	Labels   map[string][]string
	Started  time.Time // only shown
}

// Load is what a node says about itself each second.
type Load struct {
	Available yr.Resources
	Devices   []scheduler.Device // all cards, in the order that says which are neighbours
	Workers   int
	Pending   int // calls that wait for room
	Store     yr.StoreView

	// Taken are requests that the leader placed here since the last report and that
	// Available accounts for. Without it the leader holds their room back for
	// two seconds; with it no longer than needed. At most 4096.
	Taken []yr.ID

	// Empty: nothing of a user runs or lives here. A draining node is done when it says so.
	Empty bool
}

// Neighbour is a node as the leader last described it. Its maps are shared: read
// only.
type Neighbour struct {
	ID          yr.Node
	Tag         yr.Tag // what the IDs made there begin with
	Address     string
	Incarnation uint64
	Capacity    yr.Resources
	Available   yr.Resources // when the leader answered; old at once
	Labels      map[string][]string
	Cordoned    bool
	Master      bool
}

// Drain is what a node that is being emptied is asked to do. The zero value means
// that it is not, or not any more.
type Drain struct {
	Cordoned bool // no new work: also while it drains, and when nobody waits for that
	Draining bool
	Until    time.Time // until when whoever asked will wait, by this node's clock; zero: not known
	End      bool      // end what still runs, or move what can be recovered: nobody waits any more
}

// Compatible reports whether two versions of yr work in one cluster: their major
// numbers are equal and their minor ones at most one apart. The error has code
// VersionMismatch.
func Compatible(leader, node string) error {
	a, err := parseVersion(leader)
	if err != nil {
		return err
	}
	b, err := parseVersion(node)
	if err != nil {
		return err
	}
	if d := a.minor - b.minor; a.major != b.major || d < -1 || d > 1 {
		return yr.E("join", yr.VersionMismatch,
			"the cluster runs yr %s and this node %s; they may be one minor version apart, install %d.%d here", leader, node, a.major, a.minor)
	}
	return nil
}

type version struct{ major, minor int }

func parseVersion(s string) (v version, err error) {
	parts := strings.SplitN(strings.TrimPrefix(s, "v"), ".", 3)
	if len(parts) < 2 {
		return v, badVersion(s)
	}
	if v.major, err = strconv.Atoi(parts[0]); err != nil {
		return v, badVersion(s)
	}
	if v.minor, err = strconv.Atoi(parts[1]); err != nil {
		return v, badVersion(s)
	}
	return v, nil
}

func badVersion(s string) error {
	return yr.E("join", yr.VersionMismatch, "%s is not a version of yr", fmt.Sprintf("%.40q", s))
}
