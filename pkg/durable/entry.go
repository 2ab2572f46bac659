package durable

import (
	"crypto/sha256"
	"encoding/binary"
	"time"
)

// entryVersion is the first byte of every log entry. A voter refuses one that it
// does not know and stops, because going on would make its state another one's.
const entryVersion = 1

// maxOps bounds the operations of one log entry.
const maxOps = 4096

// entry is what one Raft log entry holds: the operations of many callers, batched,
// and what the leader knew when it proposed them.
type entry struct {
	now  logTime // the group's time
	pins uint64  // every blob pin below this one, of this term, is settled
	ops  []op
}

// logTime is the time that leases and TTLs are counted in: nanoseconds during
// which the group had a leader. It passes by the leaders' monotonic clocks and is
// carried by the log, so that no voter's wall clock decides anything.
type logTime int64

// maxLogTime leaves room for every TTL: 146 years.
const maxLogTime = logTime(1) << 62

type opKind byte

const (
	opTxn    opKind = 1
	opGrant  opKind = 2
	opRenew  opKind = 3
	opRevoke opKind = 4
	opExpire opKind = 5 // ends what is due at entry.now, a bounded number of things
)

// op is one operation on the state machine.
type op struct {
	kind       opKind
	request    request
	conditions []Condition
	writes     []write
	lease      Lease
	ttl        time.Duration
}

// request names a transaction so that a retry is recognised. A zero client names none.
type request struct {
	client   clientID
	sequence uint64
	seen     uint64 // how many named requests the group had answered when this was first sent
}

type clientID [16]byte

// sum is the SHA-256 of a value that is kept beside the log.
type sum [sha256.Size]byte

// write is a Write as the log has it: a large value is replaced by its sum.
type write struct {
	Write
	large bool
	sum   sum
	size  int64
}

const (
	flagDelete  = 1 << 0
	flagLarge   = 1 << 1
	flagRequest = 1 << 0
)

func appendEntry(dst []byte, e *entry) []byte {
	dst = append(dst, entryVersion)
	dst = binary.BigEndian.AppendUint64(dst, uint64(e.now)) //nolint:gosec // never negative
	dst = binary.AppendUvarint(dst, e.pins)
	dst = binary.AppendUvarint(dst, uint64(len(e.ops)))
	for i := range e.ops {
		dst = appendOp(dst, &e.ops[i])
	}
	return dst
}

func appendOp(dst []byte, o *op) []byte {
	dst = append(dst, byte(o.kind))
	switch o.kind {
	case opTxn:
		return appendTxn(dst, o)
	case opGrant:
		return binary.AppendUvarint(dst, uint64(o.ttl)) //nolint:gosec // validated
	case opRenew, opRevoke:
		return binary.AppendUvarint(dst, uint64(o.lease))
	default:
		return dst
	}
}

func appendTxn(dst []byte, o *op) []byte {
	if o.request.client == (clientID{}) {
		dst = append(dst, 0)
	} else {
		dst = append(dst, flagRequest)
		dst = append(dst, o.request.client[:]...)
		dst = binary.AppendUvarint(dst, o.request.sequence)
		dst = binary.AppendUvarint(dst, o.request.seen)
	}
	dst = binary.AppendUvarint(dst, uint64(len(o.conditions)))
	for _, c := range o.conditions {
		dst = appendBytes(dst, c.Key)
		dst = binary.AppendUvarint(dst, uint64(c.Revision))
		dst = binary.AppendUvarint(dst, uint64(c.Lease))
	}
	dst = binary.AppendUvarint(dst, uint64(len(o.writes)))
	for i := range o.writes {
		dst = appendWrite(dst, &o.writes[i])
	}
	return dst
}

func appendWrite(dst []byte, w *write) []byte {
	var flags byte
	if w.Delete {
		flags |= flagDelete
	}
	if w.large {
		flags |= flagLarge
	}
	dst = append(dst, flags)
	dst = appendBytes(dst, w.Key)
	if w.Delete {
		return dst
	}
	dst = binary.AppendUvarint(dst, uint64(w.Lease))
	dst = binary.AppendUvarint(dst, uint64(w.TTL)) //nolint:gosec // validated
	if !w.large {
		return appendBytes(dst, w.Value)
	}
	dst = append(dst, w.sum[:]...)
	return binary.AppendUvarint(dst, uint64(w.size)) //nolint:gosec // a length
}

// decodeEntry reads a log entry. Values lie in b. What it accepts it would have
// written, so the state machine need not distrust it.
func decodeEntry(b []byte) (*entry, error) {
	if len(b) == 0 || b[0] != entryVersion {
		return nil, detail(ErrFormat, "a log entry of %d bytes has version %v, this program knows %d", len(b), b[:min(1, len(b))], entryVersion)
	}
	r := &reader{b: b[1:]}
	e := &entry{now: logTime(r.u64()), pins: r.uvarint()} //nolint:gosec // checked below
	n := r.length(maxOps)
	if e.now < 0 || e.now > maxLogTime {
		r.fail()
	}
	e.ops = make([]op, 0, n)
	for i := 0; i < n && !r.bad; i++ {
		e.ops = append(e.ops, readOp(r))
	}
	if !r.ok() {
		return nil, detail(ErrFormat, "a log entry of %d bytes is malformed", len(b))
	}
	return e, nil
}

func readOp(r *reader) op {
	o := op{kind: opKind(r.byte())}
	switch o.kind {
	case opTxn:
		readTxn(r, &o)
	case opGrant:
		o.ttl = readTTL(r)
		if o.ttl == 0 {
			r.fail()
		}
	case opRenew, opRevoke:
		o.lease = Lease(r.uvarint())
	case opExpire:
	default:
		r.fail()
	}
	return o
}

func readTxn(r *reader, o *op) {
	switch r.byte() {
	case 0:
	case flagRequest:
		copy(o.request.client[:], r.take(len(o.request.client)))
		o.request.sequence, o.request.seen = r.uvarint(), r.uvarint()
	default:
		r.fail()
	}
	if n := r.length(MaxTxn); n > 0 {
		o.conditions = make([]Condition, n)
		for i := range o.conditions {
			c := Condition{Key: string(r.bytes(MaxKey)), Revision: Revision(r.uvarint()), Lease: Lease(r.uvarint())}
			if c.Key == "" && c.Lease == 0 {
				r.fail()
			}
			o.conditions[i] = c
		}
	}
	if n := r.length(MaxTxn); n > 0 {
		o.writes = make([]write, n)
		for i := range o.writes {
			o.writes[i] = readWrite(r)
		}
	}
}

func readWrite(r *reader) write {
	var w write
	flags := r.byte()
	w.Delete, w.large = flags&flagDelete != 0, flags&flagLarge != 0
	w.Key = string(r.bytes(MaxKey))
	if flags > flagLarge || w.Key == "" {
		r.fail()
	}
	if w.Delete {
		return w
	}
	w.Lease, w.TTL = Lease(r.uvarint()), readTTL(r)
	if !w.large {
		w.Value = r.bytes(MaxInline)
		w.size = int64(len(w.Value))
		return w
	}
	w.sum = r.sum()
	w.size = int64(r.uvarint()) //nolint:gosec // checked next
	if w.size < 0 || w.size > MaxValue {
		r.fail()
	}
	return w
}

func readTTL(r *reader) time.Duration {
	ttl := time.Duration(r.uvarint()) //nolint:gosec // checked next
	if ttl < 0 || ttl > MaxTTL {
		r.fail()
	}
	return ttl
}
