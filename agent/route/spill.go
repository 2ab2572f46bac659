package route

import (
	"container/list"
	"time"

	"yr/pkg/wire"
	"yr/pkg/yr"
	"yr/store"
)

// Objects that leave memory when it is short: to this node's disk, or, if they are
// copies of another node's, just so.
//
// A process that refers to an object may have it mapped, and its owner reads it
// without asking us. So each of them is asked first (EVICT), and forgets where the
// object lay when it agrees (EVICTED); one that has a view of it refuses, and one
// that does not answer in time has refused. The object leaves when all have agreed
// and its bytes are on disk. Whoever wants it before that gets its place at once,
// and it stays: a move is never waited for.

const (
	// evictFrom is the size from which an object is worth a move.
	evictFrom = 64 << 10
	// askPatience is how long a process may take to answer.
	askPatience = time.Second
	// spareFor is how long an object that is being read is not asked for again, and
	// spareFresh how long one is left to those for whom it was brought in.
	spareFor   = time.Second
	spareFresh = 20 * time.Millisecond
	// lookAt bounds the objects that are looked at in one turn.
	lookAt = 4096
	// settleFor is how long room that was made counts as on its way: its owner has
	// to be told, and may have to return a slab.
	settleFor = 100 * time.Millisecond
	// deepEvery bounds how often the arguments of waiting calls are looked through,
	// and reclaimEvery how often sessions are asked for the slabs that they do not use.
	deepEvery    = 20 * time.Millisecond
	reclaimEvery = 20 * time.Millisecond
)

// spill is what the router knows of objects that could leave memory. Guarded by
// Router.mu.
type spill struct {
	in map[*store.Name[waiter]]*resident
	// Least recently used last. What is also elsewhere goes first: it costs nothing.
	elsewhere, onlyHere list.List
	leaving             uint64 // bytes of moves under way, and of what settles
	settling            []settling
	rounds              map[uint64]*round // questions that are not answered
	lastRound           uint64
	lookedDeep          time.Time
	reclaimed           time.Time

	io       spillIO
	favoured favoured
}

// resident is an object in shared memory that could leave it.
type resident struct {
	n      *store.Name[waiter]
	list   *list.List
	at     *list.Element
	move   *move     // under way
	spared time.Time // not asked for before
	gone   bool      // the name was freed
}

// move is an object on its way out.
type move struct {
	e       *resident
	id      yr.ID
	place   yr.Place
	waits   int  // answers
	swap    bool // makes room for an object that comes back from disk
	writing bool // its bytes are on their way to disk; the name is held
	over    bool // it has left, or stays
}

// round is one question to several processes.
type round struct {
	asked map[*Session][]*move
	until time.Time
}

type settling struct {
	bytes uint64
	until time.Time
}

func (s *spill) init() {
	s.in = make(map[*store.Name[waiter]]*resident)
	s.rounds = make(map[uint64]*round)
	s.favoured.calls = make(map[*call]favour)
	s.favoured.pinned = make(map[yr.ID]int)
	s.elsewhere.Init()
	s.onlyHere.Init()
}

// track is told of every object whose bytes came to lie in shared memory.
//
// hot: once per object.
func (r *Router) track(n *store.Name[waiter]) {
	if n.Value.Kind != store.Shared || n.Value.Place.Length < evictFrom {
		return
	}
	s := &r.spill
	e := s.in[n]
	if e == nil {
		e = &resident{n: n}
		s.in[n] = e
	} else {
		e.list.Remove(e.at)
	}
	e.list = &s.onlyHere
	if n.Value.Source != nil {
		e.list = &s.elsewhere
	}
	e.at = e.list.PushFront(e)
	if len(n.Waiters) > 0 {
		e.spared = r.now.Add(spareFresh)
	}
}

// untrack is told of every object that is gone, before its place is freed.
//
// hot: once per object.
func (r *Router) untrack(n *store.Name[waiter]) {
	if e := r.spill.in[n]; e != nil {
		r.spill.drop(e)
		e.gone = true
		if e.move != nil {
			r.stay(e.move)
		}
	}
	if source := n.Value.Source; source != nil && source.Node == "" && r.opt.Disk != nil {
		r.opt.Disk.Delete(source.Spot)
	}
}

func (s *spill) drop(e *resident) {
	delete(s.in, e.n)
	e.list.Remove(e.at)
}

// use is told whenever somebody is given the place of an object: it stays in memory.
//
// hot: once per object that is sent.
func (r *Router) use(n *store.Name[waiter]) {
	if n.Value.Kind != store.Shared || n.Value.Place.Length < evictFrom {
		return
	}
	if e := r.spill.in[n]; e != nil {
		e.list.MoveToFront(e.at)
		if e.move != nil {
			r.stay(e.move)
		}
	}
}

// makeRoom has unused slabs returned and objects leave, so that size more bytes will
// fit, and some more. It only starts that; whoever needs the room tries again.
func (r *Router) makeRoom(size uint64) {
	s := &r.spill
	if size > 0 && r.now.Sub(s.reclaimed) >= reclaimEvery {
		s.reclaimed = r.now
		r.reclaim() // and comes here again, with size 0
	}
	r.settleMoves()
	if len(s.in) == 0 {
		return
	}
	want := size + r.opt.Store.Excess()
	if want <= s.leaving {
		return
	}
	want -= s.leaving
	moves := r.choose(&s.elsewhere, &want, nil, nil)
	if r.mayWrite() {
		moves = r.choose(&s.onlyHere, &want, nil, moves)
	}
	if want > 0 && r.now.Sub(s.lookedDeep) >= deepEvery {
		s.lookedDeep = r.now
		waiting := r.heldByWaiting()
		moves = r.choose(&s.elsewhere, &want, waiting, moves)
		if r.mayWrite() {
			moves = r.choose(&s.onlyHere, &want, waiting, moves)
		}
	}
	r.askReaders(moves)
}

// choose adds moves of the least recently used objects of a list until want is
// met. What is held stays: somebody reads it. An exception are the arguments of
// calls that were not delivered, if waiting counts them.
func (r *Router) choose(l *list.List, want *uint64, waiting map[yr.ID]int, moves []*move) []*move {
	for range min(l.Len(), lookAt) {
		if *want == 0 {
			break
		}
		e := l.Back().Value.(*resident) //nolint:forcetypeassert // nothing else is in these lists
		l.MoveToFront(e.at)
		n := e.n
		if n.State != store.Ready || n.Value.Kind != store.Shared { // it was lost
			r.spill.drop(e)
			continue
		}
		if e.move != nil || r.now.Before(e.spared) || n.Holds() != waiting[n.ID] || r.spill.favoured.pinned[n.ID] > 0 {
			continue
		}
		e.move = &move{e: e, id: n.ID, place: n.Value.Place, swap: r.spill.io.pumping}
		moves = append(moves, e.move)
		r.spill.leaving += n.Size()
		*want -= min(*want, n.Size())
	}
	return moves
}

// heldByWaiting counts, by object, the calls that hold it and have not been
// delivered. When they are, the object is brought back first.
func (r *Router) heldByWaiting() map[yr.ID]int {
	held := make(map[yr.ID]int)
	for _, c := range r.calls {
		if c.state != callWaiting && c.state != callQueued {
			continue
		}
		for i := range c.held.Len() {
			held[c.held.At(i)]++
		}
	}
	return held
}

// askReaders asks every process that may read the objects.
func (r *Router) askReaders(moves []*move) {
	s := &r.spill
	asked := make(map[*Session][]*move)
	for _, m := range moves {
		sessions, ok := r.readers(m.e.n)
		if !ok {
			r.refuse(m)
			continue
		}
		m.waits = len(sessions)
		for _, t := range sessions {
			asked[t] = append(asked[t], m)
		}
		if m.waits == 0 {
			r.agreed(m)
		}
	}
	if len(asked) == 0 {
		return
	}
	s.lastRound++
	s.rounds[s.lastRound] = &round{asked: asked, until: r.now.Add(askPatience)}
	for t, moves := range asked {
		ids := make([]yr.ID, len(moves))
		for i, m := range moves {
			ids[i] = m.id
		}
		t.queue(func(dst []byte) []byte { return wire.AppendIDs(dst, wire.Evict, s.lastRound, ids) })
	}
	r.soon()
}

// readers are the sessions that may have an object mapped; not ok if one of them
// cannot be asked. Other nodes have copies, not the place.
func (r *Router) readers(n *store.Name[waiter]) (sessions []*Session, ok bool) {
	ok = true
	r.names.Holders(n, func(h *store.Holder[waiter]) {
		t := r.sessions[h.ID.Prefix()]
		if t == nil || t.node != nil {
			return
		}
		if !t.evicts || t.full || t.closed || t.announcing {
			ok = false
		}
		sessions = append(sessions, t)
	})
	return sessions, ok
}

// evicted takes an EVICTED frame: of what EVICT named, the process has no view of
// these, and has forgotten where they lay.
func (s *Session) evicted(corr uint64, body []byte) error {
	packed, err := wire.DecodeIDs(body)
	if err != nil {
		return err
	}
	r := s.r
	q := r.spill.rounds[corr]
	if q == nil || q.asked[s] == nil {
		return nil // too late
	}
	agreed := make(map[yr.ID]bool, packed.Len())
	for i := range packed.Len() {
		agreed[packed.At(i)] = true
	}
	r.evictAnswered(corr, s, func(id yr.ID) bool { return agreed[id] })
	return nil
}

// evictAnswered settles what a session was asked in a round.
func (r *Router) evictAnswered(corr uint64, s *Session, agrees func(yr.ID) bool) {
	q := r.spill.rounds[corr]
	moves := q.asked[s]
	delete(q.asked, s)
	if len(q.asked) == 0 {
		delete(r.spill.rounds, corr)
	}
	for _, m := range moves {
		switch {
		case m.over:
		case !agrees(m.id):
			r.refuse(m)
		default:
			if m.waits--; m.waits == 0 {
				r.agreed(m)
			}
		}
	}
}

// leftSpill is told of a session that has ended: it reads nothing any more.
func (r *Router) leftSpill(s *Session) {
	for corr, q := range r.spill.rounds {
		if q.asked[s] != nil {
			r.evictAnswered(corr, s, func(yr.ID) bool { return true })
		}
	}
}

// agreed goes on with a move that nobody objects to.
func (r *Router) agreed(m *move) {
	if source := m.e.n.Value.Source; source != nil {
		r.depart(m, source)
		return
	}
	r.toDisk(m)
}

// depart ends a move: the bytes are elsewhere, and their memory is free.
func (r *Router) depart(m *move, source *store.Source) {
	s, e := &r.spill, m.e
	if err := r.names.Move(e.n, store.Value{Kind: store.Away, Source: source}); err != nil {
		r.opt.Log.Error().Err(err).Msg("an object could not leave memory")
		r.stay(m)
		return
	}
	m.over, e.move = true, nil
	s.drop(e)
	if r.opt.Store.Leased(m.place) {
		s.settling = append(s.settling, settling{m.place.Length, r.now.Add(settleFor)})
	} else {
		s.leaving -= m.place.Length
	}
	r.freePlace(m.place)
	r.pumpRestores()
}

// refuse ends a move that somebody objects to.
func (r *Router) refuse(m *move) {
	m.e.spared = r.now.Add(spareFor)
	r.stay(m)
}

// stay ends a move: the object keeps its place. One that is being written still is,
// and may leave for nothing the next time.
func (r *Router) stay(m *move) {
	if m.over {
		return
	}
	m.over = true
	r.spill.leaving -= m.place.Length
	if !m.writing {
		m.e.move = nil
	}
}

func (r *Router) settleMoves() {
	s := &r.spill
	for len(s.settling) > 0 && !r.now.Before(s.settling[0].until) {
		s.leaving -= s.settling[0].bytes
		s.settling = s.settling[1:]
	}
}

// tickSpill does what time brings about and says when to look again.
func (r *Router) tickSpill() time.Duration {
	s := &r.spill
	r.settleMoves()
	for corr, q := range s.rounds {
		if r.now.Before(q.until) {
			continue
		}
		for t := range q.asked {
			r.evictAnswered(corr, t, func(yr.ID) bool { return false })
		}
	}
	r.pumpRestores()
	if len(s.rounds) > 0 || len(s.io.restores) > 0 || len(s.favoured.calls) > 0 {
		return tickBusy
	}
	return tickIdle
}
