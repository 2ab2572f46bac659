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

// requestTimeout bounds every request, whatever its context allows: a little more
// than what etcd itself waits for a majority.
const requestTimeout = 8 * time.Second

// etcdKV is KV over an etcd client: the embedded member's or an external one's.
type etcdKV struct {
	// connect waits, while ctx lasts, until there is a connection to use.
	connect func(ctx context.Context) (connection, error)
	// explain gives an error of a request a public code.
	explain func(op string, err error) error
	// slow, if not nil, is called for every request; the result when it is over.
	slow func() (over func())
}

// connection is a client and how long it is of use.
type connection struct {
	client *clientv3.Client
	life   context.Context // ends when the server does
	reign  context.Context // ends some time after a leader of etcd has been followed by another
}

// Why requests end before their context does.
var (
	errStopping = errors.New("etcd is being stopped or grown")

	// ErrElection is inside the error of a request during which the masters elected
	// a leader. What it was to write is written, or is not and never will be.
	ErrElection = errors.New("the masters elected another leader meanwhile")
)

var (
	_ KV = (*Member)(nil)
	_ KV = (*External)(nil)
)

// client returns the client for one request, and the request's context. It ends
// after requestTimeout; with the server, which does not answer those that wait when
// it gives up; and when an election has made an answer unlikely: what a dead
// leader had been given is lost, and etcd would wait for it. The caller calls done.
func (s *etcdKV) client(ctx context.Context) (c *clientv3.Client, request context.Context, done func(), err error) {
	request, expire := context.WithTimeout(ctx, requestTimeout)
	over := func() {}
	if s.slow != nil {
		over = s.slow()
	}
	connected, err := s.connect(request)
	if err != nil {
		over()
		expire()
		return nil, nil, nil, err
	}
	request, cancel := context.WithCancelCause(request)
	stop := context.AfterFunc(connected.reign, func() { cancel(context.Cause(connected.reign)) })
	return connected.client, request, func() { stop(); cancel(nil); over(); expire() }, nil
}

// failure gives an error of a request a public code.
func (s *etcdKV) failure(request context.Context, op string, err error) error {
	if cause := context.Cause(request); errors.Is(cause, errStopping) || errors.Is(cause, ErrElection) {
		err = cause
	}
	return s.explain(op, err)
}

// read performs a read, again if an election came between.
func (s *etcdKV) read(ctx context.Context, op, key string, options ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	for {
		c, request, done, err := s.client(ctx)
		if err != nil {
			return nil, err
		}
		r, err := c.Get(request, key, options...)
		if err != nil {
			if errors.Is(err, rpctypes.ErrLeaderChanged) {
				err = ErrElection
			}
			err = s.failure(request, op, err)
		}
		done()
		if err == nil || !errors.Is(err, ErrElection) || ctx.Err() != nil {
			return r, err
		}
	}
}

// Get implements KV.
func (s *etcdKV) Get(ctx context.Context, key string) (Entry, bool, error) {
	r, err := s.read(ctx, "read the registry", key)
	if err != nil || len(r.Kvs) == 0 {
		return Entry{}, false, err
	}
	return entryOf(r.Kvs[0]), true, nil
}

// List implements KV.
func (s *etcdKV) List(ctx context.Context, prefix, after string, limit int) ([]Entry, bool, error) {
	from := prefix
	if after != "" {
		from = after + "\x00"
	}
	r, err := s.read(ctx, "list the registry", from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)), clientv3.WithLimit(int64(limit)))
	if err != nil {
		return nil, false, err
	}
	entries := make([]Entry, len(r.Kvs))
	for i, kv := range r.Kvs {
		entries[i] = entryOf(kv)
	}
	return entries, r.More, nil
}

// Commit implements KV.
func (s *etcdKV) Commit(ctx context.Context, conditions []Condition, writes []Write) (Outcome, error) {
	c, ctx, done, err := s.client(ctx)
	if err != nil {
		return Outcome{}, err
	}
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
	r, err := c.Txn(ctx).If(compares...).Then(puts...).Else(reads...).Commit()
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return Outcome{}, ErrLeaseGone
	}
	if err != nil {
		return Outcome{}, s.failure(ctx, "write the registry", err)
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
func (s *etcdKV) Grant(ctx context.Context, ttl time.Duration) (LeaseID, error) {
	c, ctx, done, err := s.client(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	r, err := c.Grant(ctx, int64(math.Ceil(ttl.Seconds())))
	if err != nil {
		return 0, s.failure(ctx, "take a lease", err)
	}
	return LeaseID(r.ID), nil
}

// Renew implements KV.
func (s *etcdKV) Renew(ctx context.Context, id LeaseID) error {
	c, ctx, done, err := s.client(ctx)
	if err != nil {
		return err
	}
	defer done()
	_, err = c.KeepAliveOnce(ctx, clientv3.LeaseID(id))
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return ErrLeaseGone
	}
	if err != nil {
		return s.failure(ctx, "renew a lease", err)
	}
	return nil
}

// Revoke implements KV.
func (s *etcdKV) Revoke(ctx context.Context, id LeaseID) error {
	c, ctx, done, err := s.client(ctx)
	if err != nil {
		return err
	}
	defer done()
	_, err = c.Revoke(ctx, clientv3.LeaseID(id))
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return nil
	}
	if err != nil {
		return s.failure(ctx, "end a lease", err)
	}
	return nil
}

func entryOf(kv *mvccpb.KeyValue) Entry {
	return Entry{Key: string(kv.GetKey()), Value: kv.GetValue(), Revision: kv.GetModRevision(), Lease: LeaseID(kv.GetLease())}
}
