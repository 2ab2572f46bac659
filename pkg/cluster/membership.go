package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"yr/pkg/yr"
)

// DefaultLeaseTTL is how long a node that has gone silent keeps its place: the
// registry waits this long before anybody may recreate what ran there.
const DefaultLeaseTTL = 5 * time.Second

// A lease is renewed renewals times in its life. The node itself considers it
// lost when lostAfter of its life has passed without an answer: before the
// registry does, so that the node has the rest to stop its instances.
const (
	renewals  = 5
	lostAfter = 0.8
)

// ErrLeaseGone says that the registry has ended the lease.
var ErrLeaseGone = errors.New("the lease of this node is over")

// NodeRecord is what a node tells the others about itself.
type NodeRecord struct {
	V        int                `json:"v"`
	ID       yr.Node            `json:"id"`
	Identity string             `json:"identity"` // of the data directory: a restarted daemon takes its own record over
	Address  string             `json:"address"`  // host:port that other nodes dial
	Version  string             `json:"version"`
	Master   bool               `json:"master"`
	Cordoned bool               `json:"cordoned,omitempty"`
	Capacity map[string]float64 `json:"capacity"`
	Labels   map[string]string  `json:"labels,omitempty"`
	Started  time.Time          `json:"started"`
}

// Membership keeps this node's record under a lease.
//
// One goroutine, started by Join and ended by Leave, renews the lease. When the
// lease is lost it calls OnLost once, then tries to join again for ever and calls
// OnJoined when it has. Both run on that goroutine and must not call Leave.
type Membership struct {
	kv       KV
	keys     keyspace
	ttl      time.Duration
	onLost   func(cause error)
	onJoined func()

	stop context.CancelFunc // set by Join
	done chan struct{}

	mu     sync.Mutex // protects what follows
	record NodeRecord
	lease  LeaseID // 0: not joined, or lost
}

// Join writes the record. It fails with AlreadyRunning if a live node of
// another identity has this id.
func (m *Membership) Join(ctx context.Context) error {
	if m.done != nil {
		return yr.E("join", yr.Internal, "node %q has joined already", m.record.ID)
	}
	renewed, err := m.register(ctx)
	if err != nil {
		return err
	}
	loop, stop := context.WithCancel(context.Background())
	m.stop, m.done = stop, make(chan struct{})
	go m.keepAlive(loop, renewed)
	return nil
}

// Leave removes the record at once and waits for the goroutine of Join. Leaving
// twice, or without having joined, does nothing.
func (m *Membership) Leave(ctx context.Context) error {
	if m.done == nil {
		return nil
	}
	m.stop()
	<-m.done
	m.mu.Lock()
	lease := m.lease
	m.lease = 0
	m.mu.Unlock()
	if lease == 0 {
		return nil
	}
	return m.kv.Revoke(ctx, lease)
}

// Joined reports whether the lease is held as far as this node knows.
func (m *Membership) Joined() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lease != 0
}

// Update changes this node's record. change may not change ID or Identity.
func (m *Membership) Update(ctx context.Context, change func(*NodeRecord)) error {
	m.mu.Lock()
	record, lease := m.record, m.lease
	m.mu.Unlock()
	if lease == 0 {
		return yr.Wrap("update node", yr.Communication, ErrLeaseGone)
	}
	key := m.keys.node(record.ID)
	entry, ok, err := m.kv.Get(ctx, key)
	if err != nil {
		return err
	}
	if !ok || entry.Lease != lease {
		return yr.Wrap("update node", yr.Communication, ErrLeaseGone)
	}
	id, identity := record.ID, record.Identity
	change(&record)
	record.ID, record.Identity = id, identity
	value, err := m.encode(record)
	if err != nil {
		return err
	}
	outcome, err := m.kv.Commit(ctx, []Condition{{Key: key, Revision: entry.Revision}}, []Write{{Key: key, Value: value, Lease: lease}})
	if err != nil {
		return err
	}
	if !outcome.OK {
		return yr.E("update node", yr.Internal, "the record of node %q changed meanwhile; try again", record.ID)
	}
	m.mu.Lock()
	m.record = record
	m.mu.Unlock()
	return nil
}

// Nodes reads the records of all live nodes.
func (m *Membership) Nodes(ctx context.Context) ([]NodeRecord, error) {
	var nodes []NodeRecord
	after := ""
	for {
		entries, more, err := m.kv.List(ctx, m.keys.nodes(), after, MaxPage)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			var r NodeRecord
			if err := decode(e.Key, e.Value, &r); err != nil {
				return nil, err
			}
			nodes = append(nodes, r)
			after = e.Key
		}
		if !more {
			return nodes, nil
		}
	}
}

// register takes a lease, writes the record under it, and returns when the
// lease's time began (before the request: never later than the registry thinks).
func (m *Membership) register(ctx context.Context) (began time.Time, err error) {
	m.mu.Lock()
	record := m.record
	m.mu.Unlock()
	value, err := m.encode(record)
	if err != nil {
		return began, err
	}
	key := m.keys.node(record.ID)
	entry, ok, err := m.kv.Get(ctx, key)
	if err != nil {
		return began, err
	}
	if ok {
		var other NodeRecord
		if err := decode(key, entry.Value, &other); err != nil {
			return began, err
		}
		if other.Identity != record.Identity {
			return began, yr.E("join", yr.AlreadyRunning,
				"node %q is already in this cluster (%s, since %s); give this one another values.node_id, or wait %v if that one was just killed",
				record.ID, other.Address, other.Started.Format(time.RFC3339), m.ttl)
		}
	}
	began = time.Now()
	lease, err := m.kv.Grant(ctx, m.ttl)
	if err != nil {
		return began, err
	}
	outcome, err := m.kv.Commit(ctx, []Condition{{Key: key, Revision: entry.Revision}}, []Write{{Key: key, Value: value, Lease: lease}})
	if err == nil && !outcome.OK {
		err = yr.E("join", yr.AlreadyRunning, "another daemon took the node id %q at the same moment; give this one another values.node_id", record.ID)
	}
	if err != nil {
		return began, errors.Join(err, m.kv.Revoke(ctx, lease))
	}
	if entry.Lease != 0 {
		// The lease of this node's former life would only time out.
		_ = m.kv.Revoke(ctx, entry.Lease)
	}
	m.mu.Lock()
	m.lease = lease
	m.mu.Unlock()
	return began, nil
}

func (m *Membership) encode(r NodeRecord) ([]byte, error) {
	r.V = formatVersion
	value, err := json.Marshal(r)
	if err != nil {
		return nil, yr.Wrap("node record", yr.ParamInvalid, err)
	}
	return value, checkSize("the record of node "+string(r.ID), value)
}

func (m *Membership) keepAlive(ctx context.Context, renewed time.Time) {
	defer close(m.done)
	for {
		cause := m.hold(ctx, renewed)
		if ctx.Err() != nil {
			return
		}
		m.mu.Lock()
		m.lease = 0
		m.mu.Unlock()
		if m.onLost != nil {
			m.onLost(cause)
		}
		var ok bool
		if renewed, ok = m.rejoin(ctx); !ok {
			return
		}
		if m.onJoined != nil {
			m.onJoined()
		}
	}
}

// hold renews the lease until it is lost or ctx ends, and says why it was lost.
func (m *Membership) hold(ctx context.Context, renewed time.Time) error {
	m.mu.Lock()
	lease := m.lease
	m.mu.Unlock()
	patience := time.Duration(float64(m.ttl) * lostAfter)
	for {
		if !pause(ctx, m.ttl/renewals) {
			return ctx.Err()
		}
		asked := time.Now()
		try, cancel := context.WithDeadline(ctx, renewed.Add(patience))
		err := m.kv.Renew(try, lease)
		cancel()
		switch {
		case err == nil:
			renewed = asked
		case errors.Is(err, ErrLeaseGone):
			return err
		case time.Since(renewed) >= patience:
			return yr.E("lease", yr.Communication, "the registry has not answered for %v: %v", patience, err)
		}
	}
}

// rejoin tries to register until it succeeds; ok is false when ctx has ended.
func (m *Membership) rejoin(ctx context.Context) (renewed time.Time, ok bool) {
	for {
		try, cancel := context.WithTimeout(ctx, m.ttl)
		renewed, err := m.register(try)
		cancel()
		if err == nil {
			return renewed, true
		}
		if !pause(ctx, m.ttl/renewals) {
			return time.Time{}, false
		}
	}
}

// pause waits; false means that ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
