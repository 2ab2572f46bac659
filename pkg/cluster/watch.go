package cluster

import (
	"context"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Watch implements KV. One goroutine, ended by ctx, carries changes from etcd's
// channel to the caller's and counts what waits, because etcd's client would
// queue without a bound.
func (s *etcdKV) Watch(ctx context.Context, prefix string, after int64) <-chan Batch {
	out := make(chan Batch)
	go func() {
		defer close(out)
		err := s.carry(ctx, prefix, after, out)
		if err == nil || ctx.Err() != nil {
			return
		}
		select {
		case out <- Batch{Err: err}:
		case <-ctx.Done():
		}
	}()
	return out
}

func (s *etcdKV) carry(ctx context.Context, prefix string, after int64, out chan<- Batch) error {
	wait, cancel := context.WithTimeout(ctx, requestTimeout)
	connected, err := s.connect(wait)
	cancel()
	if err != nil {
		return err
	}
	watching, stop := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer stop()
	options := []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithCreatedNotify()}
	if after > 0 {
		options = append(options, clientv3.WithRev(after+1))
	}
	in := connected.client.Watch(watching, prefix, options...)
	var waiting []Batch
	pending := 0
	for {
		var send chan<- Batch
		var next Batch
		if len(waiting) > 0 {
			send, next = out, waiting[0]
		}
		select {
		case r, ok := <-in:
			if !ok {
				return s.explain("watch the registry", errStopping)
			}
			if r.CompactRevision != 0 {
				return ErrCompacted
			}
			if err := r.Err(); err != nil {
				return s.explain("watch the registry", err)
			}
			if r.Created {
				if after == 0 {
					after = r.Header.GetRevision()
				}
				waiting = append(waiting, Batch{Revision: after})
				continue
			}
			if len(r.Events) == 0 {
				continue
			}
			if pending += len(r.Events); pending > WatchBacklog {
				return ErrLagged
			}
			waiting = append(waiting, batchOf(r.Events))
		case send <- next:
			pending -= len(next.Events)
			waiting = waiting[1:]
		case <-connected.life.Done():
			return s.explain("watch the registry", errStopping)
		case <-ctx.Done():
			return nil
		}
	}
}

func batchOf(events []*clientv3.Event) Batch {
	b := Batch{Events: make([]Event, len(events))}
	for i, e := range events {
		kv := e.Kv
		b.Events[i] = Event{Key: string(kv.GetKey()), Value: kv.GetValue(), Revision: kv.GetModRevision(), Deleted: e.Type == mvccpb.Event_DELETE}
		b.Revision = kv.GetModRevision()
	}
	return b
}
