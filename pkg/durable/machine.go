package durable

import (
	"bytes"
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

const (
	// A generation of history ends when it has this many revisions or bytes. Two are kept.
	generationRevisions = 32 << 10
	generationBytes     = 32 << 20

	// keptAnswers is how many named requests a retry can still find, in steps of ticketStep.
	keptAnswers = 64 << 10
	ticketStep  = 1 << 10

	// maxExpiries bounds the leases and records that one opExpire ends, and about
	// ten times as many records under those leases, so that no entry takes long.
	maxExpiries = 1000
)

// machine is the state machine: a deterministic function from log entries to the
// tables in Pebble. One goroutine applies entries; any number of them reads.
//
// Every entry is one Pebble batch that includes the entry's index, so the tables
// are always those of a prefix of the log, whatever the disk kept.
type machine struct {
	db   *pebble.DB
	keys keyspace

	generation uint64 // bytes of a generation of history

	meta     meta          // owned by the applying goroutine
	heads    heads         // owned by it too
	revision atomic.Uint64 // meta.revision, for readers
	now      atomic.Int64  // meta.now, for readers
	index    atomic.Uint64 // meta.index, for readers
	tickets  atomic.Uint64 // meta.tickets, for readers

	// Called by the applying goroutine after an entry is in the tables. changed has
	// the events in order; settled the large values that the entry named, with
	// whether a record has them now; due says that something ends sooner than known.
	changed func(events []Event, upTo Revision, generation bool)
	settled func(named map[sum]bool)
	due     func()
}

// outcome is the answer to one op.
type outcome struct {
	result Result
	lease  Lease
	err    error
}

func newMachine(db *pebble.DB, group uint32) *machine {
	return &machine{
		db: db, keys: keyspace(group), generation: generationBytes,
		changed: func([]Event, Revision, bool) {}, settled: func(map[sum]bool) {}, due: func() {},
	}
}

// load reads where the tables are.
func (m *machine) load() error {
	v, _, err := load(m.db, m.keys.meta(), decodeMeta)
	if err != nil {
		return err
	}
	m.heads.clear()
	m.set(v)
	return nil
}

func (m *machine) set(v meta) {
	m.meta = v
	m.index.Store(v.index)
	m.tickets.Store(v.tickets)
	m.revision.Store(uint64(v.revision))
	m.now.Store(int64(v.now))
}

// step is the work on one entry.
type step struct {
	*machine
	batch  *pebble.Batch
	meta   meta
	events []Event
	place  uint32       // of the next event within its revision
	named  map[sum]bool // large values that the entry names: does a record have them?
	due    bool
	buf    []byte
	it     *pebble.Iterator // over the records
	turns  int              // of heads, when the iterator was made
}

// apply performs an entry. An error means that the tables or the entry are broken
// and nothing was done; the voter must stop. What a caller did wrong is in outcomes.
//
// hot: every write of the group passes here, on one goroutine.
func (m *machine) apply(index, term uint64, e *entry) ([]outcome, error) {
	s := &step{machine: m, batch: m.db.NewIndexedBatch(), meta: m.meta}
	defer func() { _, _ = s.closeIterator(), s.batch.Close() }()
	s.meta.index, s.meta.term = index, term
	s.meta.now = max(s.meta.now, e.now)

	outcomes := make([]outcome, len(e.ops))
	for i := range e.ops {
		if err := s.do(&e.ops[i], &outcomes[i]); err != nil {
			return nil, err
		}
	}
	if err := s.closeIterator(); err != nil {
		return nil, err
	}
	generation, err := s.turnHistory()
	if err != nil {
		return nil, err
	}
	if err := s.settle(); err != nil {
		return nil, err
	}
	if err := s.batch.Set(m.keys.meta(), s.meta.encode(), nil); err != nil {
		return nil, err
	}
	// The log is what is durable: an unsynced batch is made again from it.
	if err := s.batch.Commit(pebble.NoSync); err != nil {
		return nil, err
	}
	m.set(s.meta)
	if len(s.named) > 0 {
		m.settled(s.named)
	}
	if len(s.events) > 0 {
		m.changed(s.events, s.meta.revision, generation)
	}
	if s.due {
		m.due()
	}
	return outcomes, nil
}

func (s *step) do(o *op, out *outcome) error {
	switch o.kind {
	case opTxn:
		return s.txn(o, out)
	case opGrant:
		return s.grant(o.ttl, out)
	case opRenew:
		return s.renew(o.lease, out)
	case opRevoke:
		return s.endLease(o.lease)
	default:
		return s.expire(out)
	}
}

func (s *step) txn(o *op, out *outcome) error {
	for i := range o.writes {
		if o.writes[i].large {
			s.name(o.writes[i].sum)
		}
	}
	named := o.request.client != (clientID{})
	if named {
		known, err := s.answered(o.request, out)
		if err != nil || known {
			return err
		}
	}
	ok, err := s.hold(o.conditions, out)
	if err != nil {
		return err
	}
	if ok {
		if out.err, err = s.leasesHave(o.writes); err != nil || out.err != nil {
			return err
		}
		if err := s.writeAll(o.writes); err != nil {
			return err
		}
	}
	out.result.OK, out.result.Revision = ok, s.meta.revision
	if named {
		return s.remember(o.request, out)
	}
	return nil
}

// hold says whether all conditions hold. If not, out has the records they are about.
func (s *step) hold(conditions []Condition, out *outcome) (bool, error) {
	ok := true
	for _, c := range conditions {
		r, err := s.head(c.Key)
		if err != nil {
			return false, err
		}
		if c.Lease == 0 {
			ok = ok && r.revision == c.Revision
			continue
		}
		_, alive, err := load(s.batch, s.keys.lease(c.Lease), decodeLease)
		if err != nil {
			return false, err
		}
		ok = ok && alive && (c.Key == "" || r.lease == c.Lease)
	}
	if ok {
		return true, nil
	}
	out.result.Current = make([]Record, len(conditions))
	for i, c := range conditions {
		r, _, err := s.get(c.Key)
		if err != nil {
			return false, err
		}
		out.result.Current[i] = r.public(c.Key).withoutLarge()
	}
	return false, nil
}

// get reads a record as this entry has left it so far. Its value is a copy.
func (s *step) get(key string) (stored, bool, error) {
	if key == "" {
		return stored{}, false, nil
	}
	return load(s.batch, s.keys.record(key), copyStored)
}

// head is get without the value.
func (s *step) head(key string) (head, error) {
	if key == "" {
		return head{}, nil
	}
	if h, known := s.heads.get(key); known {
		return h, nil
	}
	h, err := s.seek(key)
	if err == nil {
		s.heads.set(key, h)
	}
	return h, err
}

// seek is head when it is not remembered. Get would not use the filters of Pebble's
// last level, and most keys that are written are new; so one iterator serves the
// entry. What the entry has written since the iterator was made is in heads, unless
// heads has begun a generation.
func (s *step) seek(key string) (h head, err error) {
	if s.it == nil || s.turns != s.heads.turns {
		if err := s.closeIterator(); err != nil {
			return head{}, err
		}
		lower, upper := s.keys.bounds(tableRecord)
		s.it, err = s.batch.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper, UseL6Filters: true})
		if err != nil {
			return head{}, err
		}
		s.turns = s.heads.turns
	}
	wanted := s.keys.record(key)
	if !s.it.SeekPrefixGE(wanted) || !bytes.Equal(s.it.Key(), wanted) {
		return head{}, s.it.Error()
	}
	value, err := s.it.ValueAndErr()
	if err != nil {
		return head{}, err
	}
	r, err := decodeStored(value)
	return r.head(), err
}

func (s *step) closeIterator() error {
	if s.it == nil {
		return nil
	}
	err := s.it.Close()
	s.it = nil
	return err
}

// leasesHave says whether the leases that writes name are alive and have room.
func (s *step) leasesHave(writes []write) (refusal, err error) {
	for i := range writes {
		w := &writes[i]
		if w.Lease == 0 {
			continue
		}
		l, alive, err := load(s.batch, s.keys.lease(w.Lease), decodeLease)
		if err != nil {
			return nil, err
		}
		if !alive {
			return detail(ErrLeaseGone, "the lease %d of %q has ended", w.Lease, w.Key), nil
		}
		if l.keys+uint64(len(writes)) > MaxLeaseKeys {
			return limit("lease %d has %d records, at most %d are possible", w.Lease, l.keys, MaxLeaseKeys), nil
		}
	}
	return nil, nil
}

// scan calls f with every key and value between the bounds until it returns false.
func scan(from pebble.Reader, lower, upper []byte, f func(key, value []byte) (bool, error)) (err error) {
	it, err := from.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return err
	}
	defer func() {
		if e := it.Close(); err == nil {
			err = e
		}
	}()
	for it.First(); it.Valid(); it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		more, err := f(it.Key(), value)
		if err != nil || !more {
			return err
		}
	}
	return it.Error()
}

// nextExpiry is when the next lease or record ends; 0 if none does.
func (m *machine) nextExpiry() (at logTime, err error) {
	lower, upper := m.keys.bounds(tableExpiry)
	err = scan(m.db, lower, upper, func(key, _ []byte) (bool, error) {
		at = logTime(binary.BigEndian.Uint64(rest(key))) //nolint:gosec // never negative
		return false, nil
	})
	return at, err
}

// until is how long after the group's present `now` that is.
func (t logTime) until(at logTime) time.Duration { return time.Duration(at - t) }
