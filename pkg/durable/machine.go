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
	answered atomic.Uint64 // meta.tickets, for readers

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
	m.answered.Store(v.tickets)
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

func (s *step) writeAll(writes []write) error {
	if len(writes) == 0 {
		return nil
	}
	s.begin()
	for i := range writes {
		w := &writes[i]
		if w.Delete {
			if err := s.remove(w.Key); err != nil {
				return err
			}
			continue
		}
		if err := s.put(w); err != nil {
			return err
		}
	}
	return nil
}

// begin starts a new revision.
func (s *step) begin() {
	s.meta.revision++
	s.place = 0
}

func (s *step) put(w *write) error {
	old, err := s.head(w.Key)
	if err != nil {
		return err
	}
	r := stored{
		revision: s.meta.revision, created: s.meta.revision, lease: w.Lease,
		large: w.large, sum: w.sum, size: w.size, value: w.Value,
	}
	if old.exists() {
		r.created = old.created
		if err := s.detach(w.Key, &old); err != nil {
			return err
		}
	}
	if w.TTL > 0 {
		r.expires = s.meta.now + logTime(w.TTL)
	}
	h := r.head()
	if err := s.attach(w.Key, &h); err != nil {
		return err
	}
	s.buf = r.encode(s.buf[:0])
	if err := s.batch.Set(s.keys.record(w.Key), s.buf, nil); err != nil {
		return err
	}
	s.heads.set(w.Key, h)
	return s.event(w.Key, &r)
}

func (s *step) remove(key string) error {
	old, err := s.head(key)
	if err != nil || !old.exists() {
		return err
	}
	if err := s.detach(key, &old); err != nil {
		return err
	}
	if err := s.batch.Delete(s.keys.record(key), nil); err != nil {
		return err
	}
	s.heads.set(key, head{})
	return s.event(key, nil)
}

// attach enters a record where its lease, its end and its large value are kept.
func (s *step) attach(key string, r *head) error {
	if r.lease != 0 {
		if err := s.batch.Set(s.keys.keyOf(r.lease, key), nil, nil); err != nil {
			return err
		}
		if err := s.countKeys(r.lease, 1); err != nil {
			return err
		}
	}
	if r.expires != 0 {
		s.due = true
		if err := s.batch.Set(s.keys.recordExpiry(r.expires, key), nil, nil); err != nil {
			return err
		}
	}
	if r.large != nil {
		return s.countBlob(r.large, 1)
	}
	return nil
}

// detach undoes attach.
func (s *step) detach(key string, r *head) error {
	if r.lease != 0 {
		if err := s.batch.Delete(s.keys.keyOf(r.lease, key), nil); err != nil {
			return err
		}
		if err := s.countKeys(r.lease, -1); err != nil {
			return err
		}
	}
	if r.expires != 0 {
		if err := s.batch.Delete(s.keys.recordExpiry(r.expires, key), nil); err != nil {
			return err
		}
	}
	if r.large != nil {
		return s.countBlob(r.large, -1)
	}
	return nil
}

// name notes that the entry names a large value, whether it comes to have it or not.
func (s *step) name(of sum) {
	if s.named == nil {
		s.named = make(map[sum]bool)
	}
	s.named[of] = false
}

// settle finds out which of the named values a record has now.
func (s *step) settle() (err error) {
	for of := range s.named {
		if _, s.named[of], err = load(s.batch, s.keys.blob(of), decodeBlob); err != nil {
			return err
		}
	}
	return nil
}

func (s *step) countBlob(large *largeRef, by int) error {
	of := large.sum
	v, _, err := load(s.batch, s.keys.blob(of), decodeBlob)
	if err != nil {
		return err
	}
	v.records += uint64(by)     //nolint:gosec // wraps to subtract
	v.size = uint64(large.size) //nolint:gosec // a length
	s.name(of)
	if v.records == 0 {
		return s.batch.Delete(s.keys.blob(of), nil)
	}
	return s.batch.Set(s.keys.blob(of), v.encode(), nil)
}

func (s *step) event(key string, r *stored) error {
	s.buf = appendEvent(s.buf[:0], key, r)
	s.meta.young += uint64(len(s.buf))
	if err := s.batch.Set(s.keys.history(s.meta.revision, s.place), s.buf, nil); err != nil {
		return err
	}
	s.place++
	e := Event{Record: Record{Key: key, Revision: s.meta.revision}, Deleted: r == nil}
	if r != nil {
		kept := *r
		kept.value = append(make([]byte, 0, len(r.value)), r.value...) // r.value lies in the log entry
		e.Record = kept.public(key).withoutLarge()
	}
	s.events = append(s.events, e)
	return nil
}

// turnHistory ends the young generation of history if it is large enough, and
// forgets the old one.
func (s *step) turnHistory() (bool, error) {
	m := &s.meta
	if m.revision-m.mark < generationRevisions && m.young < s.generation {
		return false, nil
	}
	m.compacted, m.mark, m.young = m.mark, m.revision, 0
	return true, s.batch.DeleteRange(s.keys.history(0, 0), s.keys.history(m.compacted+1, 0), nil)
}

// answered finds what a named request was told before.
func (s *step) answered(r request, out *outcome) (bool, error) {
	if s.meta.tickets > r.seen+keptAnswers {
		// It may have been applied and forgotten since.
		out.err = detail(errForgotten, "the request was first sent %d requests ago, %d are remembered", s.meta.tickets-r.seen, keptAnswers)
		return true, nil
	}
	a, known, err := load(s.batch, s.keys.answer(r), decodeAnswer)
	if known {
		out.result = Result{OK: a.ok, Revision: a.revision}
	}
	return known, err
}

func (s *step) remember(r request, out *outcome) error {
	ticket := s.meta.tickets
	s.meta.tickets++
	a := answer{ok: out.result.OK, revision: out.result.Revision}
	key := s.keys.answer(r)
	if err := s.batch.Set(key, a.encode(), nil); err != nil {
		return err
	}
	if err := s.batch.Set(s.keys.ticket(ticket), rest(key), nil); err != nil {
		return err
	}
	// A step more than keptAnswers is kept, so that the oldest one promised is there.
	if ticket%ticketStep != 0 || ticket < keptAnswers+2*ticketStep {
		return nil
	}
	return s.forget(ticket-keptAnswers-2*ticketStep, ticket-keptAnswers-ticketStep)
}

// forget drops the answers of tickets from <= ticket < to.
func (s *step) forget(from, to uint64) error {
	lower, upper := s.keys.ticket(from), s.keys.ticket(to)
	err := scan(s.batch, lower, upper, func(_, value []byte) (bool, error) {
		return true, s.batch.Delete(append(s.keys.table(tableAnswer), value...), nil)
	})
	if err != nil {
		return err
	}
	return s.batch.DeleteRange(lower, upper, nil)
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
