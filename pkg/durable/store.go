package durable

import (
	"context"
	"time"
)

// Limits. Whatever exceeds one is refused with ErrLimit before anything is done.
const (
	MaxKey       = 1024      // bytes of a key; a key has at least one
	MaxValue     = 64 << 20  // bytes of a value, and of all values over MaxInline in a transaction
	MaxTxn       = 1024      // conditions and writes of a transaction
	MaxTxnBytes  = 1 << 20   // bytes of a transaction without values over MaxInline
	MaxInline    = 256 << 10 // larger values are kept beside the log, and out of watches
	MaxPage      = 1000      // records that Range returns at once
	MaxLeaseKeys = 10_000    // records under one lease
	MinTTL       = 10 * time.Millisecond
	MaxTTL       = 10 * 365 * 24 * time.Hour

	// MaxMessage is what a gRPC server of Records must accept (grpc.MaxRecvMsgSize).
	MaxMessage = MaxValue + 8<<20
)

// Revision counts the transactions of a group that wrote something, from 1. All
// writes of a transaction have the same one.
type Revision uint64

// Lease is the number of a lease, larger than that of every lease granted before
// it in its group. 0 is none.
//
// To fence a resource outside the group, present the Revision of the transaction
// that took the lock (its Record.Created) and let the resource refuse smaller
// ones: it grows from holder to holder. Inside the group use Condition.Lease.
type Lease uint64

// Store is a group of Records. All methods are safe for concurrent use.
type Store interface {
	// Get reads one record.
	Get(ctx context.Context, key string) (r Record, ok bool, err error)

	// Range reads the records with from <= key < to in order; to "" means no end.
	// At most limit of them (0: MaxPage), and about 4 MiB of values.
	Range(ctx context.Context, from, to string, limit int) (Page, error)

	// Apply performs all writes of t if all its conditions hold, and none otherwise.
	Apply(ctx context.Context, t Txn) (Result, error)

	// Watch tells what changed under prefix after a revision, usually a Page's. The
	// channel is closed when ctx ends or after Changes with an Err: ErrCompacted, if
	// what happened is no longer known, or whatever ended the watch. A slow reader
	// misses nothing as long as history lasts (two generations of 32 768 revisions
	// or 32 MiB).
	Watch(ctx context.Context, prefix string, after Revision) (<-chan Changes, error)

	// Grant makes a lease that ends when it is not renewed for ttl. Records written
	// under it go with it.
	Grant(ctx context.Context, ttl time.Duration) (Lease, error)
	// Renew starts the lease's time again. ErrLeaseGone: it has ended.
	Renew(ctx context.Context, lease Lease) error
	// Revoke ends the lease now. Revoking one that has ended does nothing.
	Revoke(ctx context.Context, lease Lease) error
}

// Record is a value as it was read.
type Record struct {
	Key      string
	Value    []byte   // nil in Changes if Size > MaxInline; read it with Get
	Size     int64    // of the value
	Revision Revision // of the last write
	Created  Revision // of the write that made the key exist
	Lease    Lease    // the record ends with it; 0: none
}

// Page is a part of a range, as of Revision. To follow it, watch after that revision.
type Page struct {
	Records  []Record
	More     bool // there are further records in the range, after the last of these
	Revision Revision
}

// Txn is a transaction. A key may be written once in it.
type Txn struct {
	If []Condition
	Do []Write
}

// Condition is what must hold. With Lease 0, the record's revision must be
// Revision, where 0 means that there is no such record. With Lease, the lease must
// be alive, and if Key is set too, the record must be under it.
type Condition struct {
	Key      string
	Revision Revision
	Lease    Lease
}

// Write sets the value of a key, or removes it if Delete is set.
type Write struct {
	Key    string
	Value  []byte
	Lease  Lease         // the record ends with this lease
	TTL    time.Duration // the record ends this long after the write; 0: never
	Delete bool
}

// Result is what became of a transaction. If OK, Revision is that of its writes
// (of the last transaction if it had none). If not, Current holds the record of
// each condition's key as the transaction saw it, without values over MaxInline;
// Revision 0 means that there was none.
type Result struct {
	OK       bool
	Revision Revision
	Current  []Record
}

// Changes is a step of a watch: everything that happened under the prefix up to
// Revision and was not told before. Transactions are never split. Events may be
// empty; the revision is then merely newer.
type Changes struct {
	Revision Revision
	Events   []Event
	Err      error // the watch has ended; nothing else is set
}

// Event is one write. Of a deleted record only Key and Revision are set.
type Event struct {
	Record
	Deleted bool
}

// Put writes a value unconditionally.
func Put(ctx context.Context, s Store, key string, value []byte) (Revision, error) {
	result, err := s.Apply(ctx, Txn{Do: []Write{{Key: key, Value: value}}})
	return result.Revision, err
}

// CompareAndSet writes a value if the record's revision is still `at`; 0 means that
// there must be none. ok is false if it is not.
func CompareAndSet(ctx context.Context, s Store, key string, at Revision, value []byte) (rev Revision, ok bool, err error) {
	result, err := s.Apply(ctx, Txn{
		If: []Condition{{Key: key, Revision: at}},
		Do: []Write{{Key: key, Value: value}},
	})
	return result.Revision, result.OK, err
}

// Delete removes a record, whether it exists or not.
func Delete(ctx context.Context, s Store, key string) error {
	_, err := s.Apply(ctx, Txn{Do: []Write{{Key: key, Delete: true}}})
	return err
}

// PrefixEnd is the `to` of a Range over all keys that begin with prefix.
func PrefixEnd(prefix string) string {
	end := []byte(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] < 0xff {
			end[i]++
			return string(end[:i+1])
		}
	}
	return ""
}

// validate refuses what can never be applied.
func (t Txn) validate() error {
	if n := len(t.If) + len(t.Do); n > MaxTxn {
		return limit("a transaction has %d conditions and writes, at most %d are possible", n, MaxTxn)
	}
	bytes, large := 0, 0
	for _, c := range t.If {
		if c.Lease == 0 || c.Key != "" {
			if err := validKey(c.Key); err != nil {
				return err
			}
		}
		bytes += len(c.Key)
	}
	var seen map[string]struct{}
	if len(t.Do) > 1 {
		seen = make(map[string]struct{}, len(t.Do))
	}
	for _, w := range t.Do {
		if err := w.validate(); err != nil {
			return err
		}
		if seen != nil {
			if _, twice := seen[w.Key]; twice {
				return limit("key %q is written twice in one transaction", w.Key)
			}
			seen[w.Key] = struct{}{}
		}
		bytes += len(w.Key)
		if len(w.Value) <= MaxInline {
			bytes += len(w.Value)
		} else {
			large += len(w.Value)
		}
	}
	if large > MaxValue {
		return limit("a transaction has %d bytes of large values, at most %d are possible", large, MaxValue)
	}
	if bytes > MaxTxnBytes {
		return limit("a transaction has %d bytes, at most %d are possible; split it, or use values over %d bytes, which do not count", bytes, MaxTxnBytes, MaxInline)
	}
	return nil
}

func (w Write) validate() error {
	if err := validKey(w.Key); err != nil {
		return err
	}
	if len(w.Value) > MaxValue {
		return limit("the value of %q has %d bytes, at most %d are possible", w.Key, len(w.Value), MaxValue)
	}
	if w.Delete && (w.Value != nil || w.Lease != 0 || w.TTL != 0) {
		return limit("the deletion of %q has a value, a lease or a TTL", w.Key)
	}
	if w.TTL != 0 {
		return validTTL(w.TTL)
	}
	return nil
}

func validKey(key string) error {
	if key == "" || len(key) > MaxKey {
		return limit("a key has %d bytes; 1 to %d are possible", len(key), MaxKey)
	}
	return nil
}

func validTTL(ttl time.Duration) error {
	if ttl < MinTTL || ttl > MaxTTL {
		return limit("a TTL is %v; %v to %v are possible", ttl, MinTTL, MaxTTL)
	}
	return nil
}

// page bounds the limit of a Range.
func page(limit int) int {
	if limit <= 0 || limit > MaxPage {
		return MaxPage
	}
	return limit
}
