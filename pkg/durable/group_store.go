package durable

import (
	"context"
	"errors"
	"time"
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
			r.value, err = g.large(ctx, r.sum)
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
		f, err := g.readPage(ctx, from, to, page(limit))
		if err != nil {
			return Page{}, err
		}
		p, err := f.page(func(of sum) ([]byte, error) { return g.large(ctx, of) })
		if !missing(err) {
			return p, err
		}
		// A record was overwritten meanwhile, and its large value is gone.
	}
}

func (g *Group) readPage(ctx context.Context, from, to string, most int) (found, error) {
	done, err := g.fsm.view()
	if err != nil {
		return found{}, err
	}
	defer done()
	return g.fsm.m.readPage(ctx, from, to, most)
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
func (g *Group) large(ctx context.Context, of sum) ([]byte, error) {
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
