package route

import (
	"context"
	"sync/atomic"
	"time"

	"yr/pkg/yr"
	"yr/scheduler"
)

// Cluster is how the router reaches other nodes and the leader. A router without
// one is alone. Sample, Tagged, Link and Kick never wait and are called under the
// lock; the others may wait and are called outside of it.
type Cluster interface {
	// Sample is some of the other nodes with room, as they were last heard of, in
	// an order of their own for each node that asks. The caller may keep and change it.
	Sample() []Candidate
	// Tagged is the node with this tag, if it is known here.
	Tagged(tag yr.Tag) (yr.Node, bool)
	// Link is the connection to a node; it is made when first asked for.
	Link(node yr.Node) Link
	// Kick says that free resources changed: others should hear of it soon.
	Kick()

	// Locate asks the leader which node has a tag. The error has code ObjectNotFound
	// if none ever had it, Communication if it is dead or nobody can tell.
	Locate(ctx context.Context, tag yr.Tag) (yr.Node, error)
	// Schedule asks the leader, which knows all nodes, where a request fits.
	Schedule(ctx context.Context, r scheduler.Request) (scheduler.Plan, error)
	// Fetch reads the bytes of an object from a node into what room returns.
	Fetch(ctx context.Context, node yr.Node, id yr.ID, room func(size int64) ([]byte, error)) error
}

// Candidate is a node that may have room.
type Candidate struct {
	scheduler.Node
	Heard time.Time // when it said so
}

// Link is an ordered stream of frames to another node, which survives broken
// connections. Its methods are those of a session's connection.
type Link interface {
	Queue(add func(dst []byte) []byte) (queued int)
	Flush()
	WaitRoom()
	// Begin says that what is queued from now on is for the node's new life.
	Begin()
	// Heard is when the node last gave a sign of life.
	Heard() time.Time
}

// linkConn lets a Link stand where a session's connection does. What is said
// before the nodes have met is kept until they do.
type linkConn struct {
	link  atomic.Pointer[Link] // written under the router's lock; flushed outside of it
	met   bool                 // this and early: under the router's lock
	early []byte
}

func newLinkConn(l Link) *linkConn {
	c := &linkConn{}
	c.link.Store(&l)
	return c
}

// queue copies frames to what will be written. It is called under the router's lock.
func (c *linkConn) queue(frames []byte) (queued int) {
	if c.met {
		return (*c.link.Load()).Queue(func(dst []byte) []byte { return append(dst, frames...) })
	}
	c.early = append(c.early, frames...)
	return 0 // nobody is there to make room
}

// greet begins the link's new life with a frame that comes before all others.
func (c *linkConn) greet(l Link, frame []byte) {
	c.link.Store(&l) // a later life of a node may have another one
	l.Begin()
	l.Queue(func(dst []byte) []byte { return append(dst, frame...) })
}

// meet says what was kept.
func (c *linkConn) meet() {
	c.met = true
	early := c.early
	c.early = nil
	(*c.link.Load()).Queue(func(dst []byte) []byte { return append(dst, early...) })
}

func (c *linkConn) Flush()           { (*c.link.Load()).Flush() }
func (c *linkConn) WaitRoom()        { (*c.link.Load()).WaitRoom() }
func (c *linkConn) Heard() time.Time { return (*c.link.Load()).Heard() }
func (c *linkConn) Go(f func())      { go f() }
func (c *linkConn) Close()           {}
func (c *linkConn) Last([]byte)      {}

// conn is what a session writes to: an SDK's connection, or a link.
type conn interface {
	Flush()
	WaitRoom()
	Go(f func())
	Last(frames []byte)
	Close()
}
