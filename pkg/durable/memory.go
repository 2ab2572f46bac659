package durable

import (
	"context"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Memory is a Store in one process: the state machine of a Group without a log
// and without a disk. It is for the tests of other packages.
type Memory struct {
	// Clock is where leases and TTLs get their time; nil: SystemClock. Set it before Open.
	Clock Clock

	m    *machine
	hub  *hub
	time *leaderTime
	due  chan struct{}
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu     sync.Mutex // orders writes and protects what follows
	index  uint64
	closed bool
	values map[sum][]byte // large ones
	reads  sync.RWMutex   // held for reading while the tables are read, for writing to close them
}

// NewMemory makes a closed Memory.
func NewMemory() *Memory { return &Memory{} }

// Open makes it usable, and empty.
func (s *Memory) Open(context.Context) error {
	db, err := openTables("records", tableOptions{fs: vfs.NewMem(), memTable: 1 << 20})
	if err != nil {
		return err
	}
	if s.Clock == nil {
		s.Clock = SystemClock{}
	}
	s.m = newMachine(db, 0)
	s.hub = newHub(s.m, func() (func(), error) { return s.view(context.Background()) })
	s.due = make(chan struct{}, 1)
	s.values = make(map[sum][]byte)
	s.time = newLeaderTime(s.Clock, 0)
	s.m.changed = s.hub.publish
	s.m.due = func() { notify(s.due) }
	s.m.settled = func(named map[sum]bool) {
		for of, has := range named {
			if !has {
				delete(s.values, of)
			}
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	expiry := &expirer{next: s.m.nextExpiry, time: s.time, due: s.due, propose: func(ctx context.Context) (bool, error) {
		out, err := s.do(ctx, op{kind: opExpire})
		return out.result.OK, err
	}}
	s.wg.Go(func() { _ = expiry.run(ctx) })
	return nil
}

// Close ends all watches and forgets everything.
func (s *Memory) Close(context.Context) error {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	if closed {
		return nil
	}
	s.stop()
	s.wg.Wait()
	s.hub.close(ErrClosed)
	s.reads.Lock()
	defer s.reads.Unlock()
	return s.m.db.Close()
}

// do applies one op.
func (s *Memory) do(ctx context.Context, o op) (outcome, error) {
	if ctx.Err() != nil {
		return outcome{}, refused(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return outcome{}, ErrClosed
	}
	for i := range o.writes {
		if w := &o.writes[i]; w.large {
			s.values[w.sum] = append([]byte(nil), w.Value...)
			w.Value = nil
		}
	}
	s.index++
	out, err := s.m.apply(s.index, 1, &entry{now: s.time.now(), ops: []op{o}})
	if err != nil {
		return outcome{}, err
	}
	return out[0], out[0].err
}

// view guards the reading of the tables against Close.
func (s *Memory) view(ctx context.Context) (done func(), err error) {
	if ctx.Err() != nil {
		return nil, refused(ctx)
	}
	s.reads.RLock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		s.reads.RUnlock()
		return nil, ErrClosed
	}
	return s.reads.RUnlock, nil
}

func (s *Memory) large(of sum) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]byte(nil), s.values[of]...)
}

// Get implements Store.
func (s *Memory) Get(ctx context.Context, key string) (Record, bool, error) {
	done, err := s.view(ctx)
	if err != nil {
		return Record{}, false, err
	}
	defer done()
	for {
		r, ok, err := s.m.read(key)
		if err != nil || !ok {
			return Record{}, false, err
		}
		if r.large {
			r.value = s.large(r.sum)
			if int64(len(r.value)) != r.size {
				continue // the record was overwritten meanwhile
			}
		}
		return r.public(key), true, nil
	}
}

// Range implements Store.
func (s *Memory) Range(ctx context.Context, from, to string, limit int) (Page, error) {
	done, err := s.view(ctx)
	if err != nil {
		return Page{}, err
	}
	defer done()
	// The lock keeps the large values of the page's revision from being overwritten.
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := s.m.readPage(ctx, from, to, page(limit))
	if err != nil {
		return Page{}, err
	}
	return f.page(func(of sum) ([]byte, error) { return append([]byte(nil), s.values[of]...), nil })
}

// Apply implements Store.
func (s *Memory) Apply(ctx context.Context, t Txn) (Result, error) {
	o, err := newTxn(t, request{})
	if err != nil {
		return Result{}, err
	}
	out, err := s.do(ctx, o)
	return out.result, err
}

// Watch implements Store.
func (s *Memory) Watch(ctx context.Context, prefix string, after Revision) (<-chan Changes, error) {
	done, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	return s.hub.watch(ctx, prefix, after)
}

// Grant implements Store.
func (s *Memory) Grant(ctx context.Context, ttl time.Duration) (Lease, error) {
	if err := validTTL(ttl); err != nil {
		return 0, err
	}
	out, err := s.do(ctx, op{kind: opGrant, ttl: ttl})
	return out.lease, err
}

// Renew implements Store.
func (s *Memory) Renew(ctx context.Context, lease Lease) error {
	_, err := s.do(ctx, op{kind: opRenew, lease: lease})
	return err
}

// Revoke implements Store.
func (s *Memory) Revoke(ctx context.Context, lease Lease) error {
	_, err := s.do(ctx, op{kind: opRevoke, lease: lease})
	return err
}

// Check verifies the invariants of the stored state.
func (s *Memory) Check(ctx context.Context) error {
	done, err := s.view(ctx)
	if err != nil {
		return err
	}
	defer done()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m.check(ctx, func(of sum, size int64) error { return verify(of, s.values[of]) })
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
