package cluster

import (
	"context"
	"errors"
	"time"
)

// KV is a small, strongly consistent store of keys with revisions and leases.
// All methods are safe for concurrent use.
type KV interface {
	// Get reads one key; ok is false if it is absent.
	Get(ctx context.Context, key string) (e Entry, ok bool, err error)

	// List reads keys that begin with prefix, in order, at most limit of them,
	// starting after the key `after` ("" starts at the first). more says that the
	// limit cut the list.
	List(ctx context.Context, prefix, after string, limit int) (entries []Entry, more bool, err error)

	// Commit performs all writes if all conditions hold, and none otherwise.
	Commit(ctx context.Context, conditions []Condition, writes []Write) (Outcome, error)

	// Grant makes a lease: keys written under it vanish when it is not renewed
	// for ttl. Renew starts its time again and fails with ErrLeaseGone if it is
	// over. Revoke ends it and removes its keys now.
	Grant(ctx context.Context, ttl time.Duration) (LeaseID, error)
	Renew(ctx context.Context, id LeaseID) error
	Revoke(ctx context.Context, id LeaseID) error

	// Watch reports every change of keys that begin with prefix after the
	// revision `after`, in order and without gaps; 0 starts now. The first Batch
	// has no events: the watch stands, from its Revision on, and whoever lists now
	// misses nothing. The channel is closed when ctx ends, or after a Batch with
	// Err. Silence proves nothing: a store that has lost its quorum is silent too.
	Watch(ctx context.Context, prefix string, after int64) <-chan Batch
}

// Why a Watch ends before its context does: the history since `after` is no longer
// kept, or the caller read too slowly. Both mean to list again. Any other error is
// of the store: watch again from the last revision seen.
var (
	ErrCompacted = errors.New("the history since that revision is gone; list again")
	ErrLagged    = errors.New("the changes were not read in time; list again")
)

// WatchBacklog is how many changes wait for a reader of Watch before it is given
// up with ErrLagged.
const WatchBacklog = 10_000

// Batch is what one revision, or several, changed. With Err it is the last.
type Batch struct {
	Events   []Event
	Revision int64 // of the last event
	Err      error
}

// Event is one change of a key. Value is nil if it was Deleted.
type Event struct {
	Key      string
	Value    []byte
	Revision int64
	Deleted  bool
}

// ErrLeaseGone says that the store has ended the lease.
var ErrLeaseGone = errors.New("the lease is over")

// LeaseID names a lease; 0 is none.
type LeaseID int64

// Entry is a key as it was read. Revision is the store's revision when the key
// was last written; revisions only grow.
type Entry struct {
	Key      string
	Value    []byte
	Revision int64
	Lease    LeaseID
}

// Condition is what must hold for a Commit.
type Condition struct {
	Key      string
	Revision int64  // the key was last written at this revision; 0: it is absent
	Value    []byte // if not nil, the key must hold this value; Revision is then ignored
}

// Outcome is what became of a Commit. If OK, Revision is the revision of its
// writes. If not, Current holds, for each condition in order, the entry of its
// key as seen by the same transaction (Revision 0: absent).
type Outcome struct {
	OK       bool
	Revision int64
	Current  []Entry
}

// Write puts a value, or removes the key if Delete is set.
type Write struct {
	Key    string
	Value  []byte
	Lease  LeaseID
	Delete bool
}
