package durable

import (
	"encoding/binary"

	"github.com/cockroachdb/pebble/v2"
)

// The tables of the state machine. A Pebble key is the group's number (4 bytes,
// big endian), the table's letter, and the rest:
//
//	m                          what is said once: revision, applied index, time (meta)
//	r key                      the record
//	h revision(8) place(4)     an event of history; place counts within the revision
//	l lease(8)                 the lease: its TTL, when it ends, how many records it has
//	k lease(8) key             a record under the lease
//	x time(8) 'l' lease(8)     when the lease ends
//	x time(8) 'r' key          when the record ends
//	b sum(32)                  how many records have this large value, and its size
//	d client(16) sequence(8)   the answer to a named request
//	q ticket(8)                which named request was answered as the ticket-th
const (
	tableMeta    = 'm'
	tableRecord  = 'r'
	tableHistory = 'h'
	tableLease   = 'l'
	tableKeyOf   = 'k'
	tableExpiry  = 'x'
	tableBlob    = 'b'
	tableAnswer  = 'd'
	tableTicket  = 'q'
)

// formatVersion begins every value of these tables.
const formatVersion = 1

// keyspace makes the keys of one group.
type keyspace uint32

func (g keyspace) table(t byte) []byte {
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, 64), uint32(g)), t)
}

// bounds are those of a whole table.
func (g keyspace) bounds(t byte) (lower, upper []byte) { return g.table(t), g.table(t + 1) }

func (g keyspace) meta() []byte             { return g.table(tableMeta) }
func (g keyspace) record(key string) []byte { return append(g.table(tableRecord), key...) }
func (g keyspace) lease(l Lease) []byte     { return be(g.table(tableLease), uint64(l)) }
func (g keyspace) blob(s sum) []byte        { return append(g.table(tableBlob), s[:]...) }
func (g keyspace) ticket(n uint64) []byte   { return be(g.table(tableTicket), n) }

func (g keyspace) history(rev Revision, place uint32) []byte {
	return binary.BigEndian.AppendUint32(be(g.table(tableHistory), uint64(rev)), place)
}

func (g keyspace) keyOf(l Lease, key string) []byte {
	return append(be(g.table(tableKeyOf), uint64(l)), key...)
}

func (g keyspace) leaseExpiry(at logTime, l Lease) []byte {
	return be(append(be(g.table(tableExpiry), uint64(at)), tableLease), uint64(l)) //nolint:gosec // never negative
}

func (g keyspace) recordExpiry(at logTime, key string) []byte {
	return append(append(be(g.table(tableExpiry), uint64(at)), tableRecord), key...) //nolint:gosec // never negative
}

func (g keyspace) answer(r request) []byte {
	return be(append(g.table(tableAnswer), r.client[:]...), r.sequence)
}

// rest is what a key has after its group and table.
func rest(key []byte) []byte { return key[5:] }

func be(dst []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(dst, v) }

// meta is what the state machine says once.
type meta struct {
	index    uint64   // of the last applied log entry
	term     uint64   // of that entry
	revision Revision // of the last writing transaction
	lease    Lease    // the last that was granted
	now      logTime
	tickets  uint64 // named requests answered

	// History after compacted is kept. It is made of two generations: the younger
	// one began after mark and has young bytes.
	compacted Revision
	mark      Revision
	young     uint64
}

func (m *meta) encode() []byte {
	b := append(make([]byte, 0, 80), formatVersion)
	for _, v := range []uint64{m.index, m.term, uint64(m.revision), uint64(m.lease), uint64(m.now), m.tickets, uint64(m.compacted), uint64(m.mark), m.young} { //nolint:gosec // never negative
		b = be(b, v)
	}
	return b
}

func decodeMeta(b []byte) (meta, error) {
	r := versioned(b)
	m := meta{
		index: r.u64(), term: r.u64(), revision: Revision(r.u64()), lease: Lease(r.u64()), now: logTime(r.u64()), //nolint:gosec // checked below
		tickets: r.u64(), compacted: Revision(r.u64()), mark: Revision(r.u64()), young: r.u64(),
	}
	return m, finish(r, "state", m.now >= 0 && m.mark <= m.revision && m.compacted <= m.mark)
}

// stored is a record as its table has it.
type stored struct {
	revision Revision
	created  Revision
	lease    Lease
	expires  logTime // 0: never
	large    bool
	sum      sum
	size     int64
	value    []byte // unless large
}

func (s *stored) encode(dst []byte) []byte {
	var flags byte
	if s.large {
		flags = flagLarge
	}
	dst = append(dst, formatVersion, flags)
	dst = binary.AppendUvarint(dst, uint64(s.revision))
	dst = binary.AppendUvarint(dst, uint64(s.created))
	dst = binary.AppendUvarint(dst, uint64(s.lease))
	dst = binary.AppendUvarint(dst, uint64(s.expires)) //nolint:gosec // never negative
	if !s.large {
		return append(dst, s.value...)
	}
	dst = append(dst, s.sum[:]...)
	return binary.AppendUvarint(dst, uint64(s.size)) //nolint:gosec // a length
}

// decodeStored reads a record; its value lies in b.
func decodeStored(b []byte) (stored, error) {
	r := versioned(b)
	flags := r.byte()
	s := stored{
		large: flags == flagLarge, revision: Revision(r.uvarint()), created: Revision(r.uvarint()),
		lease: Lease(r.uvarint()), expires: logTime(r.uvarint()), //nolint:gosec // checked below
	}
	if s.large {
		s.sum, s.size = r.sum(), int64(r.uvarint()) //nolint:gosec // checked below
	} else {
		s.value = r.take(len(r.b))
		s.size = int64(len(s.value))
	}
	return s, finish(r, "record", (flags == 0 || s.large) && s.expires >= 0 && s.size >= 0 && s.size <= MaxValue && s.created <= s.revision)
}

// copyStored is decodeStored with a value of its own.
func copyStored(b []byte) (stored, error) {
	s, err := decodeStored(b)
	if s.value != nil {
		s.value = append(make([]byte, 0, len(s.value)), s.value...)
	}
	return s, err
}

// public is the record for a caller; its value is nil if large.
func (s *stored) public(key string) Record {
	return Record{Key: key, Value: s.value, Size: s.size, Revision: s.revision, Created: s.created, Lease: s.lease}
}

// appendEvent writes an event of history.
func appendEvent(dst []byte, key string, s *stored) []byte {
	if s == nil {
		return appendBytes(append(dst, formatVersion, flagDelete), key)
	}
	return s.encode(appendBytes(append(dst, formatVersion, 0), key))
}

func decodeEvent(rev Revision, b []byte) (Event, error) {
	r := versioned(b)
	flags := r.byte()
	key := string(r.bytes(MaxKey))
	if flags == flagDelete || r.bad {
		return Event{Record: Record{Key: key, Revision: rev}, Deleted: true}, finish(r, "event", key != "")
	}
	s, err := copyStored(r.b)
	if err != nil || flags != 0 || key == "" {
		return Event{}, malformed("event", b)
	}
	return Event{Record: s.public(key).withoutLarge()}, nil
}

// withoutLarge is the record as watches and conditions show it.
func (r Record) withoutLarge() Record {
	if r.Size > MaxInline {
		r.Value = nil
	}
	return r
}

// leaseState is a lease as its table has it.
type leaseState struct {
	ttl     int64
	expires logTime
	keys    uint64
}

func (l *leaseState) encode() []byte {
	return be(be(be(append(make([]byte, 0, 25), formatVersion), uint64(l.ttl)), uint64(l.expires)), l.keys) //nolint:gosec // never negative
}

func decodeLease(b []byte) (leaseState, error) {
	r := versioned(b)
	l := leaseState{ttl: int64(r.u64()), expires: logTime(r.u64()), keys: r.u64()} //nolint:gosec // checked below
	return l, finish(r, "lease", l.ttl > 0 && l.expires >= 0 && l.keys <= MaxLeaseKeys)
}

// blobState says how many records have a large value.
type blobState struct {
	records uint64
	size    uint64
}

func (s *blobState) encode() []byte {
	return be(be(append(make([]byte, 0, 17), formatVersion), s.records), s.size)
}

func decodeBlob(b []byte) (blobState, error) {
	r := versioned(b)
	s := blobState{records: r.u64(), size: r.u64()}
	return s, finish(r, "blob", s.records > 0 && s.size <= MaxValue)
}

// answer is what a named request was told.
type answer struct {
	ok       bool
	revision Revision
}

func (a *answer) encode() []byte {
	b := append(make([]byte, 0, 10), formatVersion, 0)
	if a.ok {
		b[1] = 1
	}
	return be(b, uint64(a.revision))
}

func decodeAnswer(b []byte) (answer, error) {
	r := versioned(b)
	flag := r.byte()
	a := answer{ok: flag == 1, revision: Revision(r.u64())}
	return a, finish(r, "answer", flag <= 1)
}

func versioned(b []byte) *reader {
	r := &reader{b: b}
	if r.byte() != formatVersion {
		r.fail()
	}
	return r
}

func finish(r *reader, what string, valid bool) error {
	if !r.ok() || !valid {
		return detail(ErrFormat, "a stored %s is malformed or of another version", what)
	}
	return nil
}

func malformed(what string, b []byte) error {
	return detail(ErrFormat, "a stored %s of %d bytes is malformed or of another version", what, len(b))
}

// load reads and decodes one value; ok is false if there is none.
func load[T any](from pebble.Reader, key []byte, decode func([]byte) (T, error)) (v T, ok bool, err error) {
	b, closer, err := from.Get(key)
	if err == pebble.ErrNotFound { //nolint:errorlint // Pebble promises this very value
		return v, false, nil
	}
	if err != nil {
		return v, false, err
	}
	v, err = decode(b)
	if e := closer.Close(); err == nil {
		err = e
	}
	return v, err == nil, err
}
