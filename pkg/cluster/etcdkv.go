package cluster

import (
	"context"
	"errors"
	"math"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

var _ KV = (*Member)(nil)

// Get implements KV.
func (m *Member) Get(ctx context.Context, key string) (Entry, bool, error) {
	ctx, done := m.within(ctx)
	defer done()
	r, err := m.client.Get(ctx, key)
	if err != nil {
		return Entry{}, false, m.requestError("read the registry", err)
	}
	if len(r.Kvs) == 0 {
		return Entry{}, false, nil
	}
	return entryOf(r.Kvs[0]), true, nil
}

// List implements KV.
func (m *Member) List(ctx context.Context, prefix, after string, limit int) ([]Entry, bool, error) {
	ctx, done := m.within(ctx)
	defer done()
	from := prefix
	if after != "" {
		from = after + "\x00"
	}
	r, err := m.client.Get(ctx, from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)), clientv3.WithLimit(int64(limit)))
	if err != nil {
		return nil, false, m.requestError("list the registry", err)
	}
	entries := make([]Entry, len(r.Kvs))
	for i, kv := range r.Kvs {
		entries[i] = entryOf(kv)
	}
	return entries, r.More, nil
}

// Commit implements KV.
func (m *Member) Commit(ctx context.Context, conditions []Condition, writes []Write) (Outcome, error) {
	ctx, done := m.within(ctx)
	defer done()
	compares := make([]clientv3.Cmp, len(conditions))
	reads := make([]clientv3.Op, len(conditions))
	for i, c := range conditions {
		if c.Value != nil {
			compares[i] = clientv3.Compare(clientv3.Value(c.Key), "=", string(c.Value))
		} else {
			compares[i] = clientv3.Compare(clientv3.ModRevision(c.Key), "=", c.Revision)
		}
		reads[i] = clientv3.OpGet(c.Key)
	}
	puts := make([]clientv3.Op, len(writes))
	for i, w := range writes {
		if w.Delete {
			puts[i] = clientv3.OpDelete(w.Key)
		} else {
			puts[i] = clientv3.OpPut(w.Key, string(w.Value), clientv3.WithLease(clientv3.LeaseID(w.Lease)))
		}
	}
	r, err := m.client.Txn(ctx).If(compares...).Then(puts...).Else(reads...).Commit()
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return Outcome{}, ErrLeaseGone
	}
	if err != nil {
		return Outcome{}, m.requestError("write the registry", err)
	}
	if r.Succeeded {
		return Outcome{OK: true, Revision: r.Header.GetRevision()}, nil
	}
	current := make([]Entry, len(conditions))
	for i, answer := range r.Responses {
		if kvs := answer.GetResponseRange().GetKvs(); len(kvs) > 0 {
			current[i] = entryOf(kvs[0])
		}
	}
	return Outcome{Current: current}, nil
}

// Grant implements KV. etcd counts whole seconds, so ttl is rounded up.
func (m *Member) Grant(ctx context.Context, ttl time.Duration) (LeaseID, error) {
	ctx, done := m.within(ctx)
	defer done()
	r, err := m.client.Grant(ctx, int64(math.Ceil(ttl.Seconds())))
	if err != nil {
		return 0, m.requestError("take a lease", err)
	}
	return LeaseID(r.ID), nil
}

// Renew implements KV.
func (m *Member) Renew(ctx context.Context, id LeaseID) error {
	ctx, done := m.within(ctx)
	defer done()
	_, err := m.client.KeepAliveOnce(ctx, clientv3.LeaseID(id))
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return ErrLeaseGone
	}
	return m.requestError("renew a lease", err)
}

// Revoke implements KV.
func (m *Member) Revoke(ctx context.Context, id LeaseID) error {
	ctx, done := m.within(ctx)
	defer done()
	_, err := m.client.Revoke(ctx, clientv3.LeaseID(id))
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return nil
	}
	return m.requestError("end a lease", err)
}

func entryOf(kv *mvccpb.KeyValue) Entry {
	return Entry{Key: string(kv.GetKey()), Value: kv.GetValue(), Revision: kv.GetModRevision(), Lease: LeaseID(kv.GetLease())}
}

// Status shows how large the registry is.
type Status struct {
	DatabaseBytes int64 `json:"database_bytes"`
	Revision      int64 `json:"revision"`
}

// Status reads the state of this member.
func (m *Member) Status(ctx context.Context) (Status, error) {
	ctx, done := m.within(ctx)
	defer done()
	r, err := m.client.Get(ctx, "\x00", clientv3.WithCountOnly())
	if err != nil {
		return Status{}, m.requestError("read the registry", err)
	}
	return Status{DatabaseBytes: m.etcd.Server.Backend().Size(), Revision: r.Header.GetRevision()}, nil
}
