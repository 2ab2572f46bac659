package durable

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"

	pb "yr/pkg/durable/durablepb"
	"yr/pkg/yr"
)

// Register makes a gRPC server answer for voters, one per group. The server must
// accept messages of MaxMessage bytes.
func Register(server grpc.ServiceRegistrar, groups ...*Group) {
	s := &service{groups: make(map[uint32]*Group, len(groups))}
	for _, g := range groups {
		s.groups[g.options.Group] = g
	}
	pb.RegisterRecordsServer(server, s)
}

// service turns messages into calls of the Group that they are for. What a Store
// returns as an error travels in the answer; gRPC's own errors are those of the way.
type service struct {
	pb.UnimplementedRecordsServer
	groups map[uint32]*Group
}

func (s *service) group(number uint32) (*Group, error) {
	g := s.groups[number]
	if g == nil || g.raft == nil {
		return nil, detail(ErrUnavailable, "this node is no voter of group %d", number)
	}
	return g, nil
}

func (s *service) Get(ctx context.Context, r *pb.GetRequest) (*pb.GetAnswer, error) {
	g, err := s.group(r.Group)
	if err != nil {
		return &pb.GetAnswer{Failure: failure(err)}, nil
	}
	record, ok, err := g.Get(ctx, string(r.Key))
	if err != nil || !ok {
		return &pb.GetAnswer{Failure: failure(err)}, nil
	}
	return &pb.GetAnswer{Record: encodeRecord(record)}, nil
}

func (s *service) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeAnswer, error) {
	g, err := s.group(r.Group)
	if err != nil {
		return &pb.RangeAnswer{Failure: failure(err)}, nil
	}
	p, err := g.Range(ctx, string(r.From), string(r.To), int(r.Limit))
	return &pb.RangeAnswer{Failure: failure(err), Records: encodeRecords(p.Records), More: p.More, Revision: uint64(p.Revision)}, nil
}

func (s *service) Apply(ctx context.Context, r *pb.ApplyRequest) (*pb.ApplyAnswer, error) {
	g, err := s.group(r.Group)
	if err != nil {
		return &pb.ApplyAnswer{Failure: failure(err)}, nil
	}
	named := request{sequence: r.Sequence, seen: r.Seen}
	copy(named.client[:], r.Client)
	result, err := g.apply(ctx, decodeTxn(r), named)
	return &pb.ApplyAnswer{
		Failure: failure(err), Ok: result.OK, Revision: uint64(result.Revision),
		Current: encodeRecords(result.Current), Answered: g.fsm.m.tickets.Load(),
	}, nil
}

func (s *service) Grant(ctx context.Context, r *pb.GrantRequest) (*pb.GrantAnswer, error) {
	g, err := s.group(r.Group)
	if err != nil {
		return &pb.GrantAnswer{Failure: failure(err)}, nil
	}
	lease, err := g.Grant(ctx, time.Duration(r.TtlNanos))
	return &pb.GrantAnswer{Failure: failure(err), Lease: uint64(lease)}, nil
}

func (s *service) Renew(ctx context.Context, r *pb.LeaseRequest) (*pb.LeaseAnswer, error) {
	g, err := s.group(r.Group)
	if err == nil {
		err = g.Renew(ctx, Lease(r.Lease))
	}
	return &pb.LeaseAnswer{Failure: failure(err)}, nil
}

func (s *service) Revoke(ctx context.Context, r *pb.LeaseRequest) (*pb.LeaseAnswer, error) {
	g, err := s.group(r.Group)
	if err == nil {
		err = g.Revoke(ctx, Lease(r.Lease))
	}
	return &pb.LeaseAnswer{Failure: failure(err)}, nil
}

// signOfLife is how often a quiet watch speaks, so that a client notices a leader
// that is cut off.
const signOfLife = 500 * time.Millisecond

func (s *service) Watch(r *pb.WatchRequest, stream grpc.ServerStreamingServer[pb.WatchAnswer]) error {
	g, err := s.group(r.Group)
	if err != nil {
		return stream.Send(&pb.WatchAnswer{Failure: failure(err)})
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	changes, err := g.Watch(ctx, string(r.Prefix), Revision(r.After))
	if err != nil {
		return stream.Send(&pb.WatchAnswer{Failure: failure(err)})
	}
	// An empty answer says that the watch stands, at first and every signOfLife.
	if err := stream.Send(&pb.WatchAnswer{}); err != nil {
		return err
	}
	tick := time.NewTicker(signOfLife)
	defer tick.Stop()
	for {
		var c Changes
		var open bool
		select {
		case c, open = <-changes:
			if !open {
				return nil
			}
		case <-tick.C:
		}
		a := &pb.WatchAnswer{Failure: failure(c.Err), Revision: uint64(c.Revision), Events: make([]*pb.Event, len(c.Events))}
		for i, e := range c.Events {
			a.Events[i] = &pb.Event{Record: encodeRecord(e.Record), Deleted: e.Deleted}
		}
		if err := stream.Send(a); err != nil {
			return err
		}
	}
}

func encodeRecord(r Record) *pb.Record {
	return &pb.Record{Key: []byte(r.Key), Value: r.Value, Size: r.Size, Revision: uint64(r.Revision), Created: uint64(r.Created), Lease: uint64(r.Lease)}
}

func encodeRecords(records []Record) []*pb.Record {
	out := make([]*pb.Record, len(records))
	for i, r := range records {
		out[i] = encodeRecord(r)
	}
	return out
}

func decodeRecord(r *pb.Record) Record {
	return Record{Key: string(r.GetKey()), Value: r.GetValue(), Size: r.GetSize(), Revision: Revision(r.GetRevision()), Created: Revision(r.GetCreated()), Lease: Lease(r.GetLease())}
}

func decodeRecords(records []*pb.Record) []Record {
	if len(records) == 0 {
		return nil
	}
	out := make([]Record, len(records))
	for i, r := range records {
		out[i] = decodeRecord(r)
	}
	return out
}

func decodeTxn(r *pb.ApplyRequest) Txn {
	var t Txn
	for _, c := range r.Conditions {
		t.If = append(t.If, Condition{Key: string(c.GetKey()), Revision: Revision(c.GetRevision()), Lease: Lease(c.GetLease())})
	}
	for _, w := range r.Writes {
		t.Do = append(t.Do, Write{Key: string(w.GetKey()), Value: w.GetValue(), Lease: Lease(w.GetLease()), TTL: time.Duration(w.GetTtlNanos()), Delete: w.GetDelete()})
	}
	return t
}

func encodeTxn(t Txn) *pb.ApplyRequest {
	r := &pb.ApplyRequest{Conditions: make([]*pb.Condition, len(t.If)), Writes: make([]*pb.Write, len(t.Do))}
	for i, c := range t.If {
		r.Conditions[i] = &pb.Condition{Key: []byte(c.Key), Revision: uint64(c.Revision), Lease: uint64(c.Lease)}
	}
	for i, w := range t.Do {
		r.Writes[i] = &pb.Write{Key: []byte(w.Key), Value: w.Value, Lease: uint64(w.Lease), TtlNanos: int64(w.TTL), Delete: w.Delete}
	}
	return r
}

// kinds pairs the errors of a Store with their numbers on the wire. The first that
// an error is, counts.
var kinds = []struct {
	kind pb.Failure_Kind
	err  *yr.Error
}{
	{pb.Failure_FORGOTTEN, errForgotten},
	{pb.Failure_UNKNOWN, ErrUnknown},
	{pb.Failure_NOT_LEADER, ErrNotLeader},
	{pb.Failure_UNAVAILABLE, ErrUnavailable},
	{pb.Failure_LIMIT, ErrLimit},
	{pb.Failure_COMPACTED, ErrCompacted},
	{pb.Failure_LEASE_GONE, ErrLeaseGone},
	{pb.Failure_CORRUPT, ErrCorrupt},
	{pb.Failure_FAILED, ErrFailed},
	{pb.Failure_CLOSED, ErrClosed},
	{pb.Failure_FORMAT, ErrFormat},
}

func failure(err error) *pb.Failure {
	if err == nil {
		return nil
	}
	f := &pb.Failure{Code: int32(yr.CodeOf(err)), Message: err.Error()}
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			f.Kind = k.kind
			break
		}
	}
	var elsewhere *NotLeaderError
	if errors.As(err, &elsewhere) {
		f.Leader = elsewhere.Leader
	}
	return f
}

// failureError is the inverse of failure.
func failureError(f *pb.Failure) error {
	if f == nil {
		return nil
	}
	if f.Kind == pb.Failure_NOT_LEADER {
		return &NotLeaderError{Leader: f.Leader}
	}
	e := &yr.Error{Op: "records", Code: yr.Code(f.Code), Msg: f.Message}
	for _, k := range kinds {
		if f.Kind == k.kind {
			e.Err = k.err
		}
	}
	return e
}
