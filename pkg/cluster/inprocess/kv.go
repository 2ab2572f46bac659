// Package inprocess is a registry in memory, for the tests of packages that need
// a cluster but not its etcd. It behaves as the embedded one; package cluster's
// behaviour tests run against both.
//
//	c := cluster.New(cluster.Options{Node: "n1", KV: inprocess.New()})
package inprocess

import (
	"bytes"
	"context"
	"sort"
	"strings"
	"sync"
	"time"

	"yr/pkg/cluster"
)

// KV implements cluster.KV with a map. Leases expire by the time package, which
// testing/synctest can fake.
type KV struct {
	mu       sync.Mutex // protects everything
	revision int64
	entries  map[string]cluster.Entry
	leases   map[cluster.LeaseID]*lease
	last     cluster.LeaseID
	paused   bool
	history  []cluster.Event // the newest, by revision
	lost     int64           // the newest revision that history no longer has
	watches  map[*watch]bool
}

type lease struct {
	ttl   time.Duration
	timer *time.Timer
}

// New makes an empty registry, ready to use. It owns no goroutine.
func New() *KV {
	return &KV{
		revision: 1,
		entries:  make(map[string]cluster.Entry),
		leases:   make(map[cluster.LeaseID]*lease),
		watches:  make(map[*watch]bool),
	}
}

// Pause makes every request wait until its context ends, as a registry does that
// has lost its quorum; Pause(false) ends that. Leases keep running out.
func (s *KV) Pause(paused bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused = paused
}

// lock takes the mutex, unless the registry is paused or ctx has ended.
func (s *KV) lock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	if !s.paused {
		return nil
	}
	s.mu.Unlock()
	<-ctx.Done()
	return ctx.Err()
}

// Get implements cluster.KV.
func (s *KV) Get(ctx context.Context, key string) (cluster.Entry, bool, error) {
	if err := s.lock(ctx); err != nil {
		return cluster.Entry{}, false, err
	}
	defer s.mu.Unlock()
	e, ok := s.entries[key]
	return copied(e), ok, nil
}

// List implements cluster.KV.
func (s *KV) List(ctx context.Context, prefix, after string, limit int) ([]cluster.Entry, bool, error) {
	if err := s.lock(ctx); err != nil {
		return nil, false, err
	}
	defer s.mu.Unlock()
	var keys []string
	for key := range s.entries {
		if strings.HasPrefix(key, prefix) && key > after {
			keys = append(keys, key)
		}
	}
	sort.Strings(keys)
	more := len(keys) > limit
	if more {
		keys = keys[:limit]
	}
	entries := make([]cluster.Entry, len(keys))
	for i, key := range keys {
		entries[i] = copied(s.entries[key])
	}
	return entries, more, nil
}

// Commit implements cluster.KV.
func (s *KV) Commit(ctx context.Context, conditions []cluster.Condition, writes []cluster.Write) (cluster.Outcome, error) {
	if err := s.lock(ctx); err != nil {
		return cluster.Outcome{}, err
	}
	defer s.mu.Unlock()
	if !s.hold(conditions) {
		current := make([]cluster.Entry, len(conditions))
		for i, c := range conditions {
			current[i] = copied(s.entries[c.Key])
		}
		return cluster.Outcome{Current: current}, nil
	}
	for _, w := range writes {
		if _, ok := s.leases[w.Lease]; w.Lease != 0 && !ok {
			return cluster.Outcome{}, cluster.ErrLeaseGone
		}
	}
	if len(writes) > 0 {
		s.revision++
	}
	var events []cluster.Event
	for _, w := range writes {
		if !w.Delete {
			s.entries[w.Key] = cluster.Entry{Key: w.Key, Value: bytes.Clone(w.Value), Revision: s.revision, Lease: w.Lease}
			events = append(events, cluster.Event{Key: w.Key, Value: bytes.Clone(w.Value), Revision: s.revision})
		} else if _, ok := s.entries[w.Key]; ok {
			delete(s.entries, w.Key)
			events = append(events, cluster.Event{Key: w.Key, Revision: s.revision, Deleted: true})
		}
	}
	s.publish(events)
	return cluster.Outcome{OK: true, Revision: s.revision}, nil
}

func (s *KV) hold(conditions []cluster.Condition) bool {
	for _, c := range conditions {
		e, ok := s.entries[c.Key]
		if c.Value != nil {
			if !ok || !bytes.Equal(e.Value, c.Value) {
				return false
			}
		} else if e.Revision != c.Revision {
			return false
		}
	}
	return true
}

// Grant implements cluster.KV.
func (s *KV) Grant(ctx context.Context, ttl time.Duration) (cluster.LeaseID, error) {
	if err := s.lock(ctx); err != nil {
		return 0, err
	}
	defer s.mu.Unlock()
	s.last++
	id := s.last
	s.leases[id] = &lease{ttl: ttl, timer: time.AfterFunc(ttl, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.end(id)
	})}
	return id, nil
}

// Renew implements cluster.KV.
func (s *KV) Renew(ctx context.Context, id cluster.LeaseID) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	l, ok := s.leases[id]
	if !ok || !l.timer.Reset(l.ttl) {
		return cluster.ErrLeaseGone
	}
	return nil
}

// Revoke implements cluster.KV.
func (s *KV) Revoke(ctx context.Context, id cluster.LeaseID) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	s.end(id)
	return nil
}

// end removes a lease and its keys; mu is held.
func (s *KV) end(id cluster.LeaseID) {
	l, ok := s.leases[id]
	if !ok {
		return
	}
	l.timer.Stop()
	delete(s.leases, id)
	s.revision++
	var events []cluster.Event
	for key, e := range s.entries {
		if e.Lease == id {
			delete(s.entries, key)
			events = append(events, cluster.Event{Key: key, Revision: s.revision, Deleted: true})
		}
	}
	s.publish(events)
}

func copied(e cluster.Entry) cluster.Entry {
	e.Value = bytes.Clone(e.Value)
	return e
}
