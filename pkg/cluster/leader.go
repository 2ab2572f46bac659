package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"yr/pkg/yr"
)

// Leader is one node's claim to lead the cluster. Taking over increments an
// epoch; from then on every write of the former leader is refused, because
// Commit carries the revision of the epoch key as a condition.
//
// Commit may fail without an answer (yr.Communication): its writes then happened
// or did not, and the caller reads before it goes on.
type Leader struct {
	kv   KV
	keys keyspace
	node yr.Node

	taking sync.Mutex // one TakeOver at a time

	mu       sync.Mutex // protects what follows
	epoch    uint64
	revision int64 // of the epoch key when it was written; 0: never led
}

type epochRecord struct {
	V     int     `json:"v"`
	Epoch uint64  `json:"epoch"`
	Node  yr.Node `json:"node"`
	Claim string  `json:"claim,omitempty"` // random, of one TakeOver
}

// ErrStale is returned for a write by a node that leads no more.
var ErrStale = yr.E("leader", yr.Internal, "another node has taken over; this one must stop deciding and join it")

// takeOverTry bounds one attempt to take over: what a dying leader of etcd has
// been given gets no answer, the next attempt does.
const takeOverTry = 2 * time.Second

// TakeOver makes this node the leader and returns its epoch. It succeeds even
// beside a live leader: who may take over is decided by the caller. While etcd
// elects it tries again, until ctx ends.
func (l *Leader) TakeOver(ctx context.Context) (epoch uint64, err error) {
	l.taking.Lock()
	defer l.taking.Unlock()
	claim := newClaim()
	for {
		try, cancel := context.WithTimeout(ctx, takeOverTry)
		epoch, revision, err := l.takeOver(try, claim)
		again := ctx.Err() == nil && (try.Err() != nil || errors.Is(err, ErrElection))
		cancel()
		switch {
		case revision != 0:
			l.mu.Lock()
			l.epoch, l.revision = epoch, revision
			l.mu.Unlock()
			return epoch, nil
		case err != nil && !again:
			return 0, err
		}
	}
}

// takeOver tries once. Without an error, a revision of 0 means that somebody was
// faster: become the next.
func (l *Leader) takeOver(ctx context.Context, claim string) (epoch uint64, revision int64, err error) {
	key := l.keys.leader()
	entry, ok, err := l.kv.Get(ctx, key)
	if err != nil {
		return 0, 0, err
	}
	var last epochRecord
	if ok {
		if err := decode(key, entry.Value, &last); err != nil {
			return 0, 0, err
		}
	}
	if last.Claim == claim {
		return last.Epoch, entry.Revision, nil // an attempt that got no answer had arrived
	}
	next := epochRecord{V: formatVersion, Epoch: last.Epoch + 1, Node: l.node, Claim: claim}
	value, err := json.Marshal(next)
	if err != nil {
		return 0, 0, err
	}
	outcome, err := l.kv.Commit(ctx, []Condition{{Key: key, Revision: entry.Revision}}, []Write{{Key: key, Value: value}})
	return next.Epoch, outcome.Revision, err
}

func newClaim() string {
	raw := make([]byte, 8)
	_, _ = rand.Read(raw) // never fails
	return hex.EncodeToString(raw)
}

// Epoch is the epoch of the last successful TakeOver, 0 before it.
func (l *Leader) Epoch() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epoch
}

// Current reads who leads now.
func (l *Leader) Current(ctx context.Context) (node yr.Node, epoch uint64, err error) {
	entry, ok, err := l.kv.Get(ctx, l.keys.leader())
	if err != nil || !ok {
		return "", 0, err
	}
	var r epochRecord
	err = decode(entry.Key, entry.Value, &r)
	return r.Node, r.Epoch, err
}

// Commit is KV.Commit guarded by the epoch: it fails with ErrStale once another
// node has taken over. Outcome.Current is about the caller's conditions only.
func (l *Leader) Commit(ctx context.Context, conditions []Condition, writes []Write) (Outcome, error) {
	l.mu.Lock()
	guard := Condition{Key: l.keys.leader(), Revision: l.revision}
	l.mu.Unlock()
	if guard.Revision == 0 {
		return Outcome{}, ErrStale
	}
	outcome, err := l.kv.Commit(ctx, append([]Condition{guard}, conditions...), writes)
	if err != nil || outcome.OK {
		return outcome, err
	}
	if outcome.Current[0].Revision != guard.Revision {
		return Outcome{}, ErrStale
	}
	outcome.Current = outcome.Current[1:]
	return outcome, nil
}
