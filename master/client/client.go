// Package client is a node's side of the leader's service: it registers the node,
// reports what is free, and asks where others are and where work fits.
//
// Every node uses it, the leader's own too. It finds the leader through any master
// and follows it when it changes; nobody who asks notices more than a delay.
//
//	c := client.New(client.Options{Masters: []string{"10.0.0.1:22770"}, ...})
//	err := c.Open(ctx) // registered: c.Tag(), c.Incarnation()
package client

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"yr/master"
	"yr/master/internal/serial"
	"yr/pkg/yr"
)

// Options say who this node is and who wants to know what. The functions run one
// after the other on a goroutine of the client, never while a method of it holds
// a lock: they may use the client, but not Close it. All but Report may be nil.
type Options struct {
	Masters []string // addresses to begin with; the leader tells the rest
	Dial    func(ctx context.Context, address string) (net.Conn, error)

	Machine master.Machine
	Load    func() master.Load // called for each report; must not block

	// OnLost: no report was acknowledged for master.LostAfter, or this incarnation was
	// declared dead. What must not run twice in the cluster is stopped before OnLost
	// returns; the node does not register again earlier.
	OnLost func(cause error)
	// OnRejoined: the leader has not declared this incarnation dead; everything goes on.
	OnRejoined func(incarnation uint64)
	// OnJoined: this node was declared dead and has registered anew. Not called for Open.
	OnJoined func(incarnation uint64)
	// OnDeath: an incarnation of another node is gone for good, told once.
	OnDeath func(node yr.Node, incarnation uint64)
	// OnDrain: what is asked of this node has changed.
	OnDrain func(master.Drain)

	Log zerolog.Logger
}

const (
	// reportSpacing bounds the reports that Kick causes to 20 a second.
	reportSpacing = 50 * time.Millisecond
	// openPatience is how long Open looks for a leader if its context allows.
	openPatience = 10 * time.Second
	// askPatience bounds a question whose context has no deadline.
	askPatience = 10 * time.Second
)

// Client is one node's membership and its questions. The methods are safe for
// concurrent use after Open.
type Client struct {
	options Options
	leaders *leaders
	events  *serial.Queue
	kick    chan struct{} // capacity 1

	stop      context.CancelFunc // set by Open
	halt      context.CancelFunc // ends the reports; set by Open
	reporting sync.WaitGroup
	wg        sync.WaitGroup

	mu          sync.Mutex // protects what follows
	tag         yr.Tag
	incarnation uint64
	joined      bool // not lost, as far as this node knows
	drain       master.Drain
	view        view
}

// New makes a closed Client.
func New(o Options) *Client {
	return &Client{
		options: o,
		leaders: newLeaders(o.Masters, o.Dial, o.Log),
		events:  serial.New(),
		tag:     o.Machine.Tag,
		kick:    make(chan struct{}, 1),
		view:    newView(),
	}
}

// Open registers this node and begins to report. It tries every master for ten
// seconds or until ctx ends. What waiting cannot cure fails at once: another live
// daemon has this node's id (AlreadyRunning), the versions are too far apart
// (VersionMismatch), the token is wrong (Unauthorized). If no master answers the
// code is InitConnection and the text names those that were tried.
func (c *Client) Open(ctx context.Context) error {
	life, stop := context.WithCancel(context.Background())
	c.leaders.open(life)
	if err := c.join(ctx); err != nil {
		stop()
		c.leaders.close()
		return err
	}
	reports, halt := context.WithCancel(life)
	c.stop, c.halt = stop, halt
	c.wg.Go(func() { c.events.Run(life) })
	c.reporting.Go(func() { c.run(reports) })
	return nil
}

// Close stops reporting without a word: the leader will notice, unless Leave was
// called before. Closing twice, or a Client that was never open, does nothing.
func (c *Client) Close(context.Context) error {
	if c.stop == nil {
		return nil
	}
	c.stop()
	c.reporting.Wait()
	c.wg.Wait()
	c.leaders.close()
	c.stop = nil
	return nil
}

// Kick says that what Load returns has changed; a report follows soon, at most 20
// a second. It never blocks.
func (c *Client) Kick() {
	select {
	case c.kick <- struct{}{}:
	default: // one is due already
	}
}

// Tag is what the IDs made on this node begin with. It belongs to
// Machine.Identity for ever; kept in the data directory and given as Machine.Tag
// it survives a registry that was lost.
func (c *Client) Tag() yr.Tag {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tag
}

// Incarnation is the number of this node's present life in the cluster.
func (c *Client) Incarnation() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.incarnation
}

// Joined reports whether this node holds its place as far as it knows: false
// between OnLost and OnRejoined or OnJoined.
func (c *Client) Joined() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.joined
}

// Draining is what is asked of this node now.
func (c *Client) Draining() master.Drain {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.drain
}
