package store

// The store proper: which segments there are, who writes to each, and where live
// blobs lie. Every public method runs in microseconds, because the agent calls
// them under its lock: Publish, Announce and Free make no system call; Lease may
// make a memfd and call Keep; what takes longer is the janitor's (janitor.go).

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"yr/pkg/yr"
)

// Options configure a Store. Only Capacity is needed.
type Options struct {
	// Capacity bounds the sum of all segments in bytes. See DefaultCapacity.
	Capacity uint64

	// WarmLow and WarmHigh bound the free segments that keep their pages. Above
	// WarmHigh they are given back at once; what was idle for a whole TrimEvery is
	// given back down to WarmLow. 0: DefaultWarmLow and DefaultWarmHigh, less in a
	// small store.
	WarmLow, WarmHigh uint64

	// Keep hands a segment to the parent process, so that it survives this one,
	// and Drop lets go of it. They are called with the store's lock held, Keep from
	// Lease: they must return in microseconds and not call the store. Both may be nil.
	Keep func(name string, f *os.File) error
	Drop func(name string)

	// Headroom says how many more bytes this process tree may use before the
	// memory cgroup or the machine is full; ok is false if there is no telling.
	// Called from the janitor, and from a Lease that would otherwise fail. nil: Headroom.
	Headroom func() (bytes uint64, ok bool)

	// Ticks paces trimming and measuring. nil: a ticker of TrimEvery.
	Ticks <-chan time.Time

	Log zerolog.Logger
}

const (
	// DefaultWarmLow is enough for every worker of a small machine to find a warm slab.
	DefaultWarmLow = 64 * mib
	// DefaultWarmHigh is the most memory that waits for a next lessee.
	DefaultWarmHigh = 256 * mib
	// TrimEvery is how long a free segment stays warm beyond WarmLow; a program
	// that works in rounds has rounds shorter than this.
	TrimEvery = 5 * time.Second
)

// Store is the shared memory of one node. Safe for concurrent use.
type Store struct {
	opt Options

	// mu protects everything down to the channels. It is held for microseconds,
	// never while pages are punched (with one exception, see makeRoom).
	mu        sync.Mutex
	segments  map[uint32]*segment
	holders   map[yr.ID]*holder
	own       *holder    // the daemon itself, not in holders
	slabs     []*segment // of own: those for many blobs
	free      []*segment // oldest first; whole, unleased, nothing live
	doomed    []*segment // no longer in segments; charged until the janitor gave their pages back
	last      uint32     // the last segment number given
	epoch     uint32     // generation of new segments: no number of an earlier daemon means one of them
	charged   uint64     // sum of charge over segments, doomed, and what the janitor has in its hands
	leased    uint64     // bytes of leased segments
	live      uint64     // bytes of live blobs
	objects   int
	warm      uint64 // sum of charge over free
	idle      uint64 // least warm since the last tick: nobody needed that much
	dying     uint64 // sum of charge over doomed
	burying   uint64 // charge of the segment that the janitor has in its hands
	ceiling   uint64 // charged may not exceed this: what cgroup and machine leave
	inherited uint64 // bytes adopted from an earlier daemon, which may exceed the capacity
	warned    bool   // Short was told that little is left
	recovered bool   // EndRecovery was called, or there was nothing to recover
	closed    bool

	kick  chan struct{}
	short chan struct{}
	room  chan struct{}
	stop  context.CancelFunc
	done  sync.WaitGroup
}

// Lease is a segment as its lessee sees it.
type Lease struct {
	Segment, Generation uint32
	Size                uint64
}

// New returns a store without segments.
func New(opt Options) *Store {
	if opt.WarmHigh == 0 {
		opt.WarmHigh = min(DefaultWarmHigh, opt.Capacity/4)
	}
	if opt.WarmLow == 0 {
		opt.WarmLow = min(DefaultWarmLow, opt.WarmHigh/4)
	}
	if opt.Headroom == nil {
		opt.Headroom = Headroom
	}
	return &Store{
		opt:      opt,
		segments: make(map[uint32]*segment),
		holders:  make(map[yr.ID]*holder),
		own:      &holder{id: yr.NewID(), segments: make(map[*segment]struct{})},
		ceiling:  opt.Capacity,
		epoch:    1 + rand.Uint32()>>1, //nolint:gosec // not a secret; above 0, with room to count up
		kick:     make(chan struct{}, 1),
		short:    make(chan struct{}, 1),
		room:     make(chan struct{}, 1),
	}
}

// Open starts the janitor. Segments of an earlier daemon are adopted before or
// after it, until EndRecovery.
func (s *Store) Open(context.Context) error {
	s.measure()
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	s.done.Go(func() { s.run(ctx) })
	return nil
}

// Close stops the janitor and closes every descriptor. Memory that clients have
// mapped stays valid for them. Called once, after the last other call.
func (s *Store) Close(context.Context) error {
	if s.stop != nil {
		s.stop()
	}
	s.done.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, g := range s.segments {
		if len(g.reserved) == 0 { // else somebody may be writing
			g.unmap()
		}
		_ = g.file.Close()
	}
	for _, g := range s.doomed {
		g.unmap()
		_ = g.file.Close()
	}
	s.segments, s.free, s.doomed, s.holders, s.slabs = nil, nil, nil, nil, nil
	return nil
}

// Short receives when memory was short: the agent asks lessees to return slabs
// that hold nothing.
func (s *Store) Short() <-chan struct{} { return s.short }

// Room receives when memory came back after Short: waiting leases may succeed.
func (s *Store) Room() <-chan struct{} { return s.room }

// Publish makes a blob live: p lies in a segment leased to session id, aligned, and
// touches no live blob.
//
// hot: every object in shared memory.
func (s *Store) Publish(id yr.ID, p yr.Place) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.segments[p.Segment]
	if g == nil || g.generation != p.Generation || g.lessee == nil || g.lessee.id != id {
		return placeError(p, "the segment is not leased to session "+id.String())
	}
	return s.publish(g, p)
}

// Announce is Publish for a session that resumes and need not hold the lease;
// repeating it is no error.
func (s *Store) Announce(p yr.Place) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.segments[p.Segment]
	if g == nil || g.generation != p.Generation {
		return gone(p)
	}
	if g.has(p) {
		return nil
	}
	if g.lessee == nil && !g.adopted || g.lessee == s.own {
		return gone(p) // its pages may have been given back, or are the daemon's
	}
	return s.publish(g, p)
}

func (s *Store) publish(g *segment, p yr.Place) error {
	if wrong := g.check(p); wrong != "" {
		return placeError(p, wrong)
	}
	if !g.add(p) {
		return placeError(p, "it overlaps a live blob")
	}
	s.live += p.Length
	s.objects++
	return nil
}

// Free says that the last reference to a blob is gone. If the segment is leased,
// ok is true and lessee is to be told FREED; else the memory is the store's to
// use again.
//
// hot: every object in shared memory.
func (s *Store) Free(p yr.Place) (lessee yr.ID, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.segments[p.Segment]
	if g == nil || g.generation != p.Generation || !g.remove(p) {
		return yr.ID{}, false
	}
	s.live -= p.Length
	s.objects--
	switch {
	case g.lessee == s.own:
		s.vacate(g)
		return yr.ID{}, false
	case g.lessee != nil:
		return g.lessee.id, true
	}
	g.freed = true
	s.settle(g)
	return yr.ID{}, false
}

// Leased reports whether a blob lies in a segment that a session has leased: the
// room of the others is the store's as soon as they are freed.
func (s *Store) Leased(p yr.Place) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.segments[p.Segment]
	return g != nil && g.generation == p.Generation && g.lessee != nil && g.lessee != s.own
}

// Read copies a live blob. It is for tests and for readers without shared memory.
func (s *Store) Read(p yr.Place) ([]byte, error) {
	g, err := s.readable(p)
	if err != nil {
		return nil, err
	}
	b := make([]byte, p.Length)
	if _, err := g.file.ReadAt(b, int64(p.Offset)); err != nil { //nolint:gosec // below 2^63
		return nil, yr.Wrap(placeOp(p), yr.ObjectNotFound, err)
	}
	if _, err := s.readable(p); err != nil {
		return nil, err // freed meanwhile: b may hold anything
	}
	return b, nil
}

func (s *Store) readable(p yr.Place) (*segment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.segments[p.Segment]
	if g == nil || g.generation != p.Generation || !g.has(p) {
		return nil, gone(p)
	}
	return g, nil
}

// File returns a descriptor of the segment to pass to a client; the caller closes
// it. A read-only one cannot be made writable; a writable one is for the lessee alone.
func (s *Store) File(number, generation uint32, write bool, id yr.ID) (*os.File, error) {
	op := fmt.Sprintf("map segment %d", number)
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.segments[number]
	if g == nil || g.generation != generation {
		return nil, yr.E(op, yr.ObjectNotFound, "generation %d is gone", generation)
	}
	open := readOnly
	if write {
		if g.lessee == nil || g.lessee.id != id {
			return nil, yr.E(op, yr.Unauthorized, "it is not leased to session %s; only the lessee writes", id)
		}
		open = writable
	}
	f, err := open(g.file)
	return f, yr.Wrap(op, yr.Internal, err)
}

// Stats shows the store in bytes. Inline is left to the object table.
func (s *Store) Stats() yr.StoreView {
	s.mu.Lock()
	defer s.mu.Unlock()
	return yr.StoreView{
		Capacity: min(s.opt.Capacity, s.ceiling),
		Leased:   s.leased,
		Live:     s.live,
		Warm:     s.warm,
		Segments: len(s.segments),
		Objects:  s.objects,
	}
}

func placeOp(p yr.Place) string {
	return fmt.Sprintf("blob of %d bytes at %d in segment %d.%d", p.Length, p.Offset, p.Segment, p.Generation)
}

func placeError(p yr.Place, wrong string) error {
	return yr.E(placeOp(p), yr.ParamInvalid, "%s", wrong)
}

func gone(p yr.Place) error {
	return yr.E(placeOp(p), yr.ObjectNotFound, "it is gone: freed, or lost with an earlier daemon")
}
