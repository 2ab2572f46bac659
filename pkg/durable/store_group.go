package durable

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Get implements Store.
func (g *Group) Get(ctx context.Context, key string) (Record, bool, error) {
	if err := validKey(key); err != nil {
		return Record{}, false, err
	}
	if err := g.confirm(ctx); err != nil {
		return Record{}, false, err
	}
	for {
		r, ok, err := g.find(key)
		if err != nil || !ok {
			return Record{}, false, err
		}
		if r.large {
			r.value, err = g.large(ctx, r.sum, r.size)
			if missing(err) {
				continue // the record was overwritten meanwhile
			}
			if err != nil {
				return Record{}, false, err
			}
		}
		return r.public(key), true, nil
	}
}

func (g *Group) find(key string) (stored, bool, error) {
	done, err := g.fsm.view()
	if err != nil {
		return stored{}, false, err
	}
	defer done()
	return g.fsm.m.read(key)
}

// Range implements Store.
func (g *Group) Range(ctx context.Context, from, to string, limit int) (Page, error) {
	if err := g.confirm(ctx); err != nil {
		return Page{}, err
	}
	for {
		p, err := g.readPage(ctx, from, to, page(limit))
		if !missing(err) {
			return p, err
		}
	}
}

func (g *Group) readPage(ctx context.Context, from, to string, most int) (Page, error) {
	done, err := g.fsm.view()
	if err != nil {
		return Page{}, err
	}
	defer done()
	return g.fsm.m.readPage(ctx, from, to, most, g.large)
}

// Apply implements Store.
func (g *Group) Apply(ctx context.Context, t Txn) (Result, error) {
	return g.apply(ctx, t, request{})
}

// Watch implements Store. It ends with a NotLeaderError when this voter leads no more.
func (g *Group) Watch(ctx context.Context, prefix string, after Revision) (<-chan Changes, error) {
	if err := g.confirm(ctx); err != nil {
		return nil, err
	}
	return g.hub.watch(ctx, prefix, after)
}

// Grant implements Store.
func (g *Group) Grant(ctx context.Context, ttl time.Duration) (Lease, error) {
	if err := validTTL(ttl); err != nil {
		return 0, err
	}
	out, err := g.do(ctx, op{kind: opGrant, ttl: ttl})
	return out.lease, err
}

// Renew implements Store.
func (g *Group) Renew(ctx context.Context, lease Lease) error {
	_, err := g.do(ctx, op{kind: opRenew, lease: lease})
	return err
}

// Revoke implements Store.
func (g *Group) Revoke(ctx context.Context, lease Lease) error {
	_, err := g.do(ctx, op{kind: opRevoke, lease: lease})
	return err
}

// large loads a large value, from another voter if this one's copy is missing or
// corrupt. fs.ErrNotExist: no record has it any more.
func (g *Group) large(ctx context.Context, of sum, _ int64) ([]byte, error) {
	value, err := g.blobs.read(of)
	if err == nil {
		return value, nil
	}
	if missing(err) {
		held, e := g.holds(of)
		if e != nil {
			return nil, e
		}
		if !held {
			return nil, err
		}
	}
	value, fetched := g.fetch.from(ctx, of)
	if fetched != nil {
		if errors.Is(err, ErrCorrupt) {
			return nil, err
		}
		return nil, detail(ErrUnavailable, "the large value %v is not on this voter, and no other gave it: %v", of, fetched)
	}
	return value, g.fetch.keep(of, value)
}

func (g *Group) holds(of sum) (bool, error) {
	done, err := g.fsm.view()
	if err != nil {
		return false, err
	}
	defer done()
	return g.fsm.held(of)
}

// fetcher brings the large values that records have and this voter lacks.
type fetcher struct {
	g    *Group
	wake chan struct{}

	mu     sync.Mutex
	wanted map[sum]struct{}
}

func newFetcher(g *Group) *fetcher {
	return &fetcher{g: g, wake: make(chan struct{}, 1), wanted: make(map[sum]struct{})}
}

// want is called with what an entry named.
func (f *fetcher) want(named map[sum]bool) {
	for of, held := range named {
		if held && !f.g.blobs.has(of) {
			f.add(of)
		}
	}
}

func (f *fetcher) add(of sum) {
	f.mu.Lock()
	f.wanted[of] = struct{}{}
	f.mu.Unlock()
	notify(f.wake)
}

// wantMissing compares the tables with the files.
func (f *fetcher) wantMissing() error {
	m := f.g.fsm.m
	return m.blobs(m.db, func(of sum, _ blobState) error {
		if !f.g.blobs.has(of) {
			f.add(of)
		}
		return nil
	})
}

// run fetches until nothing is wanted.
func (f *fetcher) run() {
	for {
		select {
		case <-f.g.life.Done():
			return
		case <-f.wake:
		}
		if f.round() {
			continue
		}
		select {
		case <-f.g.life.Done():
			return
		case <-time.After(fetchPause):
			notify(f.wake)
		}
	}
}

// round tries to fetch everything once and says whether nothing is left.
func (f *fetcher) round() bool {
	f.mu.Lock()
	wanted := make([]sum, 0, len(f.wanted))
	for of := range f.wanted {
		wanted = append(wanted, of)
	}
	f.mu.Unlock()
	left := 0
	for _, of := range wanted {
		held, err := f.g.holds(of)
		if err != nil {
			return false
		}
		if held && !f.g.blobs.has(of) {
			value, err := f.from(f.g.life, of)
			if err != nil || f.keep(of, value) != nil {
				left++
				continue
			}
		}
		f.mu.Lock()
		delete(f.wanted, of)
		f.mu.Unlock()
	}
	return left == 0
}

// from asks the other voters, the leader first.
func (f *fetcher) from(ctx context.Context, of sum) ([]byte, error) {
	c, err := f.g.configuration()
	if err != nil {
		return nil, err
	}
	leader := f.g.LeaderAddress()
	err = errors.New("there is no other voter")
	for _, first := range []bool{true, false} {
		for _, s := range c.Servers {
			if s.ID == raft.ServerID(f.g.options.Node) || (string(s.Address) == leader) != first {
				continue
			}
			value, e := f.g.streams.pull(ctx, string(s.Address), of)
			if e == nil {
				return value, nil
			}
			err = e
		}
	}
	return nil, err
}

// keep stores a fetched value in the place of what is there. If the record went
// meanwhile, the pin makes the next entry remove it.
func (f *fetcher) keep(of sum, value []byte) error {
	if _, err := f.g.blobs.read(of); err != nil && !missing(err) {
		_ = f.g.blobs.discard(of)
	}
	return f.g.blobs.put(of, value, pin{})
}
