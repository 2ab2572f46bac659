package peer

import (
	"container/list"
	"context"
	"crypto/rand"
	"crypto/tls"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"yr/pkg/yr"
)

// Options says who this node is and what its connections are for. All of it is
// fixed but the incarnation, which Renew changes.
type Options struct {
	Node    yr.Node
	Address string // host:port at which other nodes reach this one
	Version string // of the build, for people; compatibility is Version of this package

	// Incarnation is this membership's number, larger than any that the node had
	// before. 0 says that the node has not joined yet: links wait for Renew,
	// streams (to ask for membership) work.
	Incarnation uint64

	Token string // the cluster's; never sent
	TLS   TLS    // nil: plain TCP

	Handler Handler // nil: this node takes and makes no links
	Source  Source  // nil: this node serves no bulk reads
	Log     zerolog.Logger
}

// TLS gives the configuration for the next TLS handshake, so that certificates
// can change while the node runs. pkg/certs has one that reads files.
type TLS interface {
	// Server is for connections that this node accepts. It asks for a client's
	// certificate; a node without one is refused, HTTP clients are the
	// configuration's own affair.
	Server() (*tls.Config, error)
	// Client is for connections that this node makes.
	Client() (*tls.Config, error)
}

// Handler receives what links bring. All calls that concern one peer come one
// after the other, never at once; calls that concern different peers do not wait
// for each other. A call may use any method of this package but Close.
type Handler interface {
	// Met says that a connection with this incarnation of the peer exists; it comes
	// before the connection's first frame. fresh: it is the first one of this
	// incarnation of the peer and this one of ours. Whatever was sent to, or held
	// for, an earlier one is void: frames of it are not delivered any more, and
	// frames queued for it are dropped. See Link.Begin for where exactly the new
	// life of the link begins.
	Met(l *Link, fresh bool)
	// Frames is given whole wire frames, in order, each exactly once while both
	// incarnations live. The bytes are good until it returns. An error says that
	// the peer broke the protocol: the link starts from nothing, at both ends.
	Frames(l *Link, frames []byte) error
}

// Source serves bulk reads.
type Source interface {
	// Open finds the bytes of a request of at most MaxRequest bytes. The same
	// request must mean the same bytes for as long as somebody reads them. release
	// is called once, when the bytes are not needed any more. An error with a
	// public code reaches the asking node as it is.
	Open(request []byte) (f *os.File, offset, length int64, release func(), err error)
}

// Peers is this node's connections with all others.
type Peers struct {
	opt    Options
	noisy  zerolog.Logger // for what strangers can cause at will: a few lines a second
	secret secret
	boot   [bootLen]byte // tells this process from any other with the same node id
	speaks speaks
	pace   pace
	began  time.Time // moments are kept as nanoseconds since then: a clock that is set does not change them

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // every goroutine of this package

	mu          sync.Mutex // never held while a Link's locks are taken
	opened      bool
	closed      bool
	incarnation uint64
	links       map[yr.Node]*Link
	fenced      fences
	streams     map[string]*listener
	splits      []*split
	guests      map[yr.Node]map[*guest]struct{} // accepted and authenticated
	strangers   strangers
	pools       map[poolKey]*pool
}

// New makes Peers. It does nothing until Open, Split or Dial.
func New(opt Options) *Peers {
	p := &Peers{
		opt: opt, speaks: speaks{OldestVersion, Version}, pace: defaultPace, began: time.Now(),
		incarnation: opt.Incarnation,
		links:       make(map[yr.Node]*Link),
		streams:     make(map[string]*listener),
		guests:      make(map[yr.Node]map[*guest]struct{}),
		pools:       make(map[poolKey]*pool),
	}
	p.opt.Version = printable(opt.Version, maxSoftware)
	p.noisy = opt.Log.Sample(&zerolog.BurstSampler{Burst: 5, Period: time.Second})
	p.fenced.incarnation = make(map[yr.Node]uint64)
	p.strangers.index = make(map[*stranger]*list.Element)
	p.ctx, p.cancel = context.WithCancel(context.Background())
	_, _ = rand.Read(p.boot[:])           // never fails on Linux
	p.secret, _ = deriveSecret(opt.Token) // fails only for absurd lengths
	return p
}

// Open checks the options and begins to keep the links alive.
func (p *Peers) Open(context.Context) error {
	if p.opt.Token == "" {
		return yr.E("peer", yr.ParamInvalid, "a node needs its cluster's token to talk to others")
	}
	if n := string(p.opt.Node); n == "" || printable(n, maxName) != n {
		return yr.E("peer", yr.ParamInvalid, "node id %q: want at most %d printable characters", n, maxName)
	}
	if a := p.opt.Address; printable(a, maxName) != a {
		return yr.E("peer", yr.ParamInvalid, "address %q: want host:port of at most %d characters", a, maxName)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.opened || p.closed {
		return yr.E("peer", yr.Internal, "opened twice, or after Close")
	}
	p.opened = true
	p.wg.Go(p.keep)
	return nil
}

// Close ends every connection, and returns when nothing of this package runs any
// more or ctx is done. Listeners returned by Split and Listen are closed.
func (p *Peers) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	links := p.allLinks()
	splits := p.splits
	streams := make([]*listener, 0, len(p.streams))
	for _, s := range p.streams {
		streams = append(streams, s)
	}
	p.mu.Unlock()
	p.cancel()
	for _, l := range links {
		l.close()
	}
	for _, s := range streams {
		_ = s.Close()
	}
	for _, s := range splits {
		_ = s.Close()
	}
	p.closePools(func(poolKey) bool { return true })
	p.closeGuests(func(*guest) bool { return true })
	p.strangers.close()
	done := make(chan struct{})
	go func() { p.wg.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return yr.Wrap("peer: close", yr.Internal, ctx.Err())
	}
}

// Link returns the link to a node, the same one until the node is fenced, and
// begins to connect. A new address replaces the old one; an empty one changes
// nothing. It never waits.
func (p *Peers) Link(node yr.Node, address string) *Link {
	p.mu.Lock()
	l := p.links[node]
	if l == nil {
		l = newLink(p, node)
		if p.closed {
			l.closed = true
		} else {
			p.links[node] = l
			p.wg.Go(l.run)
		}
	}
	p.mu.Unlock()
	l.setAddress(address)
	return l
}

// Renew says that this node has a new incarnation, larger than all before: its
// first, or because it was fenced. 0 says that it has none at the moment. Every
// link starts from nothing: it meets its peer again, fresh, once both have an
// incarnation. Renew never waits; a call of the Handler that is in progress may
// still finish.
func (p *Peers) Renew(incarnation uint64) {
	p.mu.Lock()
	p.incarnation = incarnation
	links := p.allLinks()
	p.mu.Unlock()
	for _, l := range links {
		l.renew(incarnation)
	}
}

// Fence says that an incarnation of a peer, and every earlier one, is dead. Its
// link is closed for good, its connections end, and links and bulk reads of it are
// refused with ErrFenced. Streams are not: it must be able to ask for a new
// membership. A later incarnation gets a new Link. It never waits; a call of the
// Handler that is in progress may still finish.
func (p *Peers) Fence(node yr.Node, incarnation uint64) {
	p.mu.Lock()
	p.fenced.add(node, incarnation)
	l := p.links[node]
	p.mu.Unlock()
	if l != nil && l.fence(incarnation) {
		p.forget(l)
	}
	p.closePools(func(k poolKey) bool { return k.node == node })
	p.closeGuests(func(g *guest) bool {
		return g.own && g.who.node == node && g.who.incarnation <= incarnation
	})
}

// forget takes a closed link out of the table.
func (p *Peers) forget(l *Link) {
	p.mu.Lock()
	if p.links[l.node] == l {
		delete(p.links, l.node)
	}
	p.mu.Unlock()
}

// Links shows every link, in no order.
func (p *Peers) Links() []LinkView {
	p.mu.Lock()
	links := p.allLinks()
	p.mu.Unlock()
	views := make([]LinkView, 0, len(links))
	for _, l := range links {
		views = append(views, l.View())
	}
	return views
}

// allLinks copies the table; mu is held.
func (p *Peers) allLinks() []*Link {
	links := make([]*Link, 0, len(p.links))
	for _, l := range p.links {
		links = append(links, l)
	}
	return links
}

// own is who this node is at the moment; generation is that of a link.
func (p *Peers) own(generation uint64) identity {
	p.mu.Lock()
	defer p.mu.Unlock()
	return identity{node: p.opt.Node, address: p.opt.Address, software: p.opt.Version,
		incarnation: p.incarnation, generation: generation, boot: p.boot}
}

// checkFence refuses an incarnation that was declared dead.
func (p *Peers) checkFence(node yr.Node, incarnation uint64) error {
	p.mu.Lock()
	last, ok := p.fenced.incarnation[node]
	p.mu.Unlock()
	if ok && incarnation <= last {
		return refuse(refusedFenced, "incarnation %d of node %q was declared dead; it must register again", incarnation, node)
	}
	return nil
}

// now is the moment, in nanoseconds since this Peers began; never 0.
func (p *Peers) now() int64 { return int64(time.Since(p.began)) + 1 }

// silent says that a connection has shown no sign of life for too long.
func (p *Peers) silent(heard int64) bool { return p.now()-heard > int64(p.pace.silence) }

// keep sends the signs of life and gives up connections that show none.
func (p *Peers) keep() {
	tick := time.NewTicker(p.pace.ping)
	defer tick.Stop()
	last := p.now()
	for {
		select {
		case <-p.ctx.Done():
			return
		case now := <-tick.C:
			// A process that stood still has not listened: the silence is its own.
			awake := p.now()-last < int64(p.pace.silence)/2
			last = p.now()
			p.mu.Lock()
			links := p.allLinks()
			p.mu.Unlock()
			for _, l := range links {
				l.tick(awake)
			}
			p.agePools(now)
		}
	}
}

// fences is the incarnations that were declared dead, the latest of each node.
type fences struct {
	incarnation map[yr.Node]uint64
	order       []yr.Node // as first fenced
}

func (f *fences) add(node yr.Node, incarnation uint64) {
	last, ok := f.incarnation[node]
	if !ok {
		if len(f.order) >= maxFenced {
			delete(f.incarnation, f.order[0])
			f.order = f.order[1:]
		}
		f.order = append(f.order, node)
	}
	f.incarnation[node] = max(last, incarnation)
}
