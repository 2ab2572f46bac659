package durable

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/semaphore"
)

// Group commit: the ops of all callers that wait while the disk is busy become one
// log entry, one sync and one answer from the others.
const (
	entryBytes = 512 << 10 // an entry is closed when it has this much
	inFlight   = 3         // entries that wait for the disk or a majority
	queueBytes = 64 << 20  // of ops that wait; callers beyond it wait for room
	opOverhead = 256       // what an op costs besides its bytes
)

// proposal is an op on its way.
type proposal struct {
	op    op
	pin   uint64 // of its large values; 0: none
	term  uint64 // of the pin
	bytes int64
	taken atomic.Bool // into an entry, or given up by its caller
	done  chan struct{}
	out   outcome
	err   error
}

// queue holds the proposals that are in no entry yet.
type queue struct {
	room *semaphore.Weighted
	wake chan struct{}

	mu    sync.Mutex // protects waits
	waits []*proposal

	sent chan batch
}

// batch is an entry that was handed to Raft.
type batch struct {
	proposals []*proposal
	future    raft.ApplyFuture
}

func newQueue() *queue {
	return &queue{room: semaphore.NewWeighted(queueBytes), wake: make(chan struct{}, 1), sent: make(chan batch, inFlight-1)}
}

// take removes what fits into an entry.
func (q *queue) take() (taken []*proposal, more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, bytes := 0, int64(0)
	for n < len(q.waits) && n < maxOps && bytes < entryBytes {
		bytes += q.waits[n].bytes
		n++
	}
	taken = q.waits[:n:n]
	q.waits = q.waits[n:]
	return taken, len(q.waits) > 0
}

// do proposes an op and waits for its outcome.
//
// hot: every write of the group.
func (g *Group) do(ctx context.Context, o op) (outcome, error) {
	p := &proposal{op: o, bytes: o.size()}
	return g.submit(ctx, p)
}

func (g *Group) submit(ctx context.Context, p *proposal) (outcome, error) {
	if g.leading.Load() == nil {
		return outcome{}, g.notLeader()
	}
	if ctx.Err() != nil {
		return outcome{}, refused(ctx)
	}
	if err := g.queue.room.Acquire(ctx, p.bytes); err != nil {
		return outcome{}, refused(ctx)
	}
	defer g.queue.room.Release(p.bytes)
	p.done = make(chan struct{})
	g.queue.mu.Lock()
	g.queue.waits = append(g.queue.waits, p)
	g.queue.mu.Unlock()
	notify(g.queue.wake)
	select {
	case <-p.done:
	case <-ctx.Done():
		if p.taken.CompareAndSwap(false, true) {
			return outcome{}, refused(ctx)
		}
		return outcome{}, detail(ErrUnknown, "%v: %v", ErrUnknown.Msg, ctx.Err())
	case <-g.life.Done():
		if p.taken.CompareAndSwap(false, true) {
			return outcome{}, g.ended()
		}
		select {
		case <-p.done:
		case <-ctx.Done():
			return outcome{}, detail(ErrUnknown, "%v: %v", ErrUnknown.Msg, ctx.Err())
		case <-g.stopped:
			return outcome{}, detail(ErrUnknown, "%v: %v", ErrUnknown.Msg, g.ended())
		}
	}
	if p.err != nil {
		return outcome{}, p.err
	}
	return p.out, p.out.err
}

// propose makes entries out of what waits. It is the only one to do so.
func (g *Group) propose() {
	defer close(g.queue.sent)
	var buf []byte
	for {
		select {
		case <-g.life.Done():
			return
		case <-g.queue.wake:
		}
		for more := true; more; {
			var taken []*proposal
			if taken, more = g.queue.take(); len(taken) == 0 {
				break
			}
			buf = g.send(taken, buf)
		}
	}
}

// send hands an entry to Raft, and to complete. It waits while inFlight entries are out.
func (g *Group) send(taken []*proposal, buf []byte) []byte {
	l := g.leading.Load()
	kept := taken[:0]
	for _, p := range taken {
		if !p.taken.CompareAndSwap(false, true) {
			continue // its caller is gone
		}
		if l == nil || p.pin != 0 && p.term != l.term {
			p.finish(g.notLeader())
			continue
		}
		kept = append(kept, p)
	}
	if len(kept) == 0 {
		return buf
	}
	e := entry{now: l.time.now(), pins: l.pins.settled(), ops: make([]op, len(kept))}
	for i, p := range kept {
		e.ops[i] = p.op
	}
	buf = appendEntry(buf[:0], &e)
	data := append(make([]byte, 0, len(buf)), buf...)
	b := batch{proposals: kept, future: g.raft.Apply(data, 0)}
	select {
	case g.queue.sent <- b:
	case <-g.life.Done():
		b.finish(g)
	}
	return buf
}

// complete answers the callers, in the order of the entries.
func (g *Group) complete() {
	for b := range g.queue.sent {
		b.finish(g)
	}
}

func (b batch) finish(g *Group) {
	err := b.future.Error()
	if err == nil {
		switch outcomes := b.future.Response().(type) {
		case []outcome:
			for i, p := range b.proposals {
				p.out = outcomes[i]
				p.finish(nil)
			}
			return
		case error:
			err = outcomes
		default:
			err = errors.New("the entry was not applied")
		}
	}
	err = g.proposalError(err)
	for _, p := range b.proposals {
		p.finish(err)
	}
}

// proposalError tells what certainly did not happen from what is unknown.
func (g *Group) proposalError(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
		return g.notLeader()
	default:
		return detail(ErrUnknown, "%v (%v)", ErrUnknown.Msg, err)
	}
}

func (p *proposal) finish(err error) {
	p.err = err
	close(p.done)
}

func (o *op) size() int64 {
	n := int64(opOverhead)
	for i := range o.conditions {
		n += int64(len(o.conditions[i].Key)) + opOverhead/4
	}
	for i := range o.writes {
		w := &o.writes[i]
		n += int64(len(w.Key)) + opOverhead/4
		if !w.large {
			n += int64(len(w.Value))
		}
	}
	return n
}

// apply proposes a transaction; its large values are on a majority's disks first.
func (g *Group) apply(ctx context.Context, t Txn, r request) (Result, error) {
	o, err := newTxn(t, r)
	if err != nil {
		return Result{}, err
	}
	if !o.hasLarge() {
		out, err := g.do(ctx, o)
		return out.result, err
	}
	l := g.leading.Load()
	if l == nil {
		return Result{}, g.notLeader()
	}
	p := &proposal{pin: l.pins.take(), term: l.term, bytes: o.size()}
	if err := g.store(ctx, &o, pin{l.term, p.pin}); err != nil {
		l.pins.release(p.pin)
		return Result{}, err
	}
	p.op = o
	out, err := g.submit(ctx, p)
	// What is unknown stays pinned until the term ends.
	if !errors.Is(err, ErrUnknown) {
		l.pins.release(p.pin)
	}
	return out.result, err
}

// store puts the large values of an op on a majority's disks and takes them out of it.
func (g *Group) store(ctx context.Context, o *op, p pin) error {
	c, err := g.configuration()
	if err != nil {
		return err
	}
	var others []string
	for _, s := range c.Servers {
		if s.Suffrage == raft.Voter && s.ID != raft.ServerID(g.options.Node) {
			others = append(others, string(s.Address))
		}
	}
	for i := range o.writes {
		w := &o.writes[i]
		if !w.large {
			continue
		}
		value, of := w.Value, w.sum
		err := majority(ctx, &g.wg, len(others)+1, func(place int) error {
			if place == len(others) {
				return g.blobs.put(of, value, p)
			}
			ctx, cancel := context.WithTimeout(g.life, blobTimeout)
			defer cancel()
			return g.streams.push(ctx, others[place], of, value, p)
		})
		if err != nil {
			return err
		}
		w.Value = nil
	}
	return nil
}
