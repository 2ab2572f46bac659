package durable

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// fetchPause is how long a fetch of a large value waits after a round without luck.
const fetchPause = 100 * time.Millisecond

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
