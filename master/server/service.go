package server

// What nodes ask. Every answer but that of Masters is checked twice for
// leadership: before it is worked out, and before it is given. A leader that was
// paused in between acknowledges nothing.

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/status"

	"yr/master"
	"yr/master/internal/codec"
	"yr/master/masterpb"
	"yr/master/table"
	"yr/pkg/cluster"
	"yr/pkg/yr"
	"yr/scheduler"
)

// decide works an answer out if this master leads, and gives it if it still does.
// epoch is the newest that the asking node has seen, 0 if it did not say.
func decide[A any](ctx context.Context, s *Server, epoch uint64, work func(*reign) (*A, error)) (*A, error) {
	r, err := s.begin(ctx, epoch)
	if err != nil {
		return nil, codec.Status(err)
	}
	answer, err := work(r)
	if errors.Is(err, cluster.ErrStale) {
		r.end(err)
	}
	if !s.leads(ctx, r) {
		return nil, codec.Status(s.redirect())
	}
	if err != nil {
		if _, made := status.FromError(err); made {
			return nil, err
		}
		return nil, codec.Status(err)
	}
	return answer, nil
}

func (s *Server) begin(ctx context.Context, epoch uint64) (*reign, error) {
	s.mu.Lock()
	r := s.reign
	s.mu.Unlock()
	if r == nil || !s.leads(ctx, r) {
		return nil, s.redirect()
	}
	if epoch > r.epoch {
		s.seen.Store(max(epoch, s.seen.Load()))
		r.end(cluster.ErrStale)
		return nil, s.redirect()
	}
	return r, nil
}

// redirect names who leads.
func (s *Server) redirect() error {
	address, ok := s.options.Leadership.Leader()
	if !ok || address == s.options.Address { // this master is about to lead, or about not to
		address = ""
	}
	return &codec.Redirect{Leader: address}
}

// Register implements masterpb.MasterServer.
func (s *Server) Register(ctx context.Context, q *masterpb.RegisterRequest) (*masterpb.RegisterResponse, error) {
	return decide(ctx, s, q.GetEpoch(), func(r *reign) (*masterpb.RegisterResponse, error) {
		machine, err := codec.MachineOf(q.GetMachine())
		if err != nil {
			return nil, err
		}
		load, err := codec.LoadOf(q.GetLoad())
		if err != nil {
			return nil, err
		}
		if err := master.Compatible(s.options.Version, machine.Version); err != nil {
			return nil, err
		}
		record, err := s.write(ctx, r, func(ctx context.Context) (cluster.NodeRecord, error) {
			return s.register(ctx, machine, q.GetIncarnation())
		})
		if err != nil {
			return nil, err
		}
		now := time.Now()
		s.mu.Lock()
		s.table.Report(now, record.ID, record.Incarnation, load)
		answer := s.table.Answer(now, record.ID, 0)
		s.mu.Unlock()
		s.options.Log.Info().Str("node", string(record.ID)).Str("address", record.Address).
			Stringer("tag", yr.Tag(record.Tag)).Uint64("incarnation", record.Incarnation).Msg("a node has joined")
		return &masterpb.RegisterResponse{
			Tag: yr.Tag(record.Tag).String(), Incarnation: record.Incarnation, First: s.encode(r, answer),
		}, nil
	})
}

// register gives a machine its next incarnation, higher than the one it had: a
// registry that was restored from a backup may be behind.
func (s *Server) register(ctx context.Context, m master.Machine, had uint64) (record cluster.NodeRecord, err error) {
	for range maxClaims {
		record, err = s.options.Nodes.Register(ctx, recordOf(m))
		if err != nil || record.Incarnation > had {
			break
		}
	}
	return record, err
}

func recordOf(m master.Machine) cluster.NodeRecord {
	return cluster.NodeRecord{
		ID: m.ID, Identity: m.Identity, Tag: cluster.NodeTag(m.Tag), Address: m.Address, Version: m.Version, Master: m.Master,
		Capacity: m.Capacity, Labels: m.Labels, Started: m.Started,
	}
}

func machineOf(r cluster.NodeRecord) master.Machine {
	return master.Machine{
		ID: r.ID, Identity: r.Identity, Tag: yr.Tag(r.Tag), Address: r.Address, Version: r.Version, Master: r.Master,
		Capacity: r.Capacity, Labels: r.Labels, Started: r.Started,
	}
}

// Report implements masterpb.MasterServer.
//
// hot: once a second for every node.
func (s *Server) Report(ctx context.Context, q *masterpb.ReportRequest) (*masterpb.ReportResponse, error) {
	return decide(ctx, s, q.GetEpoch(), func(r *reign) (*masterpb.ReportResponse, error) {
		load, err := codec.LoadOf(q.GetLoad())
		if err != nil {
			return nil, err
		}
		id, now := yr.Node(q.GetNode()), time.Now()
		s.mu.Lock()
		standing := s.table.Report(now, id, q.GetIncarnation(), load)
		var answer table.Answer
		if standing == table.Accepted {
			answer = s.table.Answer(now, id, q.GetDeaths())
		}
		s.mu.Unlock()
		switch standing {
		case table.Dead:
			return &masterpb.ReportResponse{Epoch: r.epoch, Fenced: true}, nil
		case table.Dying:
			return nil, yr.E("report", yr.Communication, "node %q was silent for %v and is being declared dead", id, master.Silence)
		}
		return s.encode(r, answer), nil
	})
}

func (s *Server) encode(r *reign, a table.Answer) *masterpb.ReportResponse {
	p := &masterpb.ReportResponse{
		Epoch: r.epoch, Deaths: a.Deaths, All: a.All, Dead: incarnations(a.Dead), Live: incarnations(a.Live),
		Sampled: a.Sampled, Sample: a.Sample, Nodes: uint32(a.Nodes), //nolint:gosec // a length
	}
	if a.Sampled {
		p.Masters = s.options.Masters()
	}
	p.Cordoned = a.Drain.Cordoned
	if a.Drain.Draining {
		p.Draining = &masterpb.Draining{LeftMs: max(time.Until(a.Drain.Until).Milliseconds(), 0), End: a.Drain.End}
	}
	return p
}

func incarnations(list []table.Incarnation) []*masterpb.Incarnation {
	p := make([]*masterpb.Incarnation, len(list))
	for i, n := range list {
		p[i] = &masterpb.Incarnation{Node: string(n.Node), Incarnation: n.Incarnation}
	}
	return p
}

// Leave implements masterpb.MasterServer. Leaving again, or after having been
// declared dead, is no error.
func (s *Server) Leave(ctx context.Context, q *masterpb.LeaveRequest) (*masterpb.LeaveResponse, error) {
	return decide(ctx, s, 0, func(r *reign) (*masterpb.LeaveResponse, error) {
		node, incarnation := yr.Node(q.GetNode()), q.GetIncarnation()
		_, err := s.write(ctx, r, func(ctx context.Context) (cluster.NodeRecord, error) {
			return s.options.Nodes.Leave(ctx, node, incarnation)
		})
		switch {
		case errors.Is(err, cluster.ErrFenced):
			return &masterpb.LeaveResponse{}, nil
		case err == nil:
			s.options.Log.Info().Str("node", string(node)).Msg("a node has left")
		}
		return &masterpb.LeaveResponse{}, err
	})
}

// Schedule implements masterpb.MasterServer.
func (s *Server) Schedule(ctx context.Context, q *masterpb.ScheduleRequest) (*masterpb.ScheduleResponse, error) {
	return decide(ctx, s, 0, func(*reign) (*masterpb.ScheduleResponse, error) {
		local, request, err := codec.ScheduleRequest(q)
		if err != nil {
			return nil, err
		}
		plan, neighbour := s.place(local, request)
		return codec.Plan(plan, neighbour), nil
	})
}

func (s *Server) place(local yr.Node, request scheduler.Request) (scheduler.Plan, []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.table.Place(time.Now(), local, request)
}

// Locate implements masterpb.MasterServer.
func (s *Server) Locate(ctx context.Context, q *masterpb.LocateRequest) (*masterpb.LocateResponse, error) {
	return decide(ctx, s, 0, func(*reign) (*masterpb.LocateResponse, error) {
		var tag yr.Tag
		if q.GetNode() == "" {
			var err error
			if tag, err = yr.ParseTag(q.GetTag()); err != nil {
				return nil, yr.E("locate", yr.ParamInvalid, "%v", err)
			}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		neighbour, reason := s.table.Locate(time.Now(), yr.Node(q.GetNode()), tag)
		return &masterpb.LocateResponse{Neighbour: neighbour, Reason: reason}, nil
	})
}

// Nodes implements masterpb.MasterServer.
func (s *Server) Nodes(ctx context.Context, q *masterpb.NodesRequest) (*masterpb.NodesResponse, error) {
	return decide(ctx, s, 0, func(*reign) (*masterpb.NodesResponse, error) {
		s.mu.Lock()
		page, more := s.table.List(time.Now(), yr.Node(q.GetAfter()), int(q.GetLimit()))
		s.mu.Unlock()
		answer := &masterpb.NodesResponse{More: more}
		for _, e := range page {
			answer.Nodes = append(answer.Nodes, &masterpb.NodeState{
				Machine: codec.Machine(machineOf(e.NodeRecord)), Incarnation: e.Incarnation, State: e.Status, Reason: e.Reason,
				Load: codec.Load(e.Load), Leader: e.ID == s.options.Node,
			})
		}
		return answer, nil
	})
}

// Cordon implements masterpb.MasterServer.
func (s *Server) Cordon(ctx context.Context, q *masterpb.CordonRequest) (*masterpb.CordonResponse, error) {
	return decide(ctx, s, 0, func(r *reign) (*masterpb.CordonResponse, error) {
		return &masterpb.CordonResponse{}, s.restrain(ctx, r, yr.Node(q.GetNode()), func(now cluster.Restraint) cluster.Restraint {
			if !q.GetCordoned() {
				return cluster.Restraint{}
			}
			now.Cordoned = true
			return now
		})
	})
}

// Drain implements masterpb.MasterServer. It is asked again and again by whoever
// waits; only the first time, or for another end, is the registry written.
func (s *Server) Drain(ctx context.Context, q *masterpb.DrainRequest) (*masterpb.DrainResponse, error) {
	return decide(ctx, s, 0, func(r *reign) (*masterpb.DrainResponse, error) {
		node, left := yr.Node(q.GetNode()), time.Duration(q.GetLeftMs())*time.Millisecond
		if !q.GetStop() && (left <= 0 || q.GetLeftMs() > master.MaxDrain.Milliseconds()) {
			return nil, yr.E("drain", yr.ParamInvalid, "a node is given up to %v to become empty, not %d ms", master.MaxDrain, q.GetLeftMs())
		}
		if s.gone(node) {
			return &masterpb.DrainResponse{Drained: true}, nil
		}
		err := s.restrain(ctx, r, node, func(now cluster.Restraint) cluster.Restraint {
			switch {
			case q.GetStop():
				return cluster.Restraint{Cordoned: true}
			case now.Drain == 0 || now.Evicted != q.GetEnd():
				return cluster.Restraint{Cordoned: true, Drain: left, Evicted: q.GetEnd()}
			}
			return now
		})
		if err != nil || q.GetStop() {
			return &masterpb.DrainResponse{}, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		return &masterpb.DrainResponse{Drained: s.table.Empty(node, time.Now().Add(left))}, nil
	})
}

// gone: the node has died or left, and with it whatever ran there.
func (s *Server) gone(node yr.Node) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	record, known := s.table.Record(node)
	return known && record.State != cluster.NodeAlive
}

func (s *Server) restrain(ctx context.Context, r *reign, node yr.Node, change func(cluster.Restraint) cluster.Restraint) error {
	s.mu.Lock()
	record, err := s.table.Member(node)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	to := change(record.Restraint)
	if to == record.Restraint {
		return nil
	}
	_, err = s.write(ctx, r, func(ctx context.Context) (cluster.NodeRecord, error) {
		return s.options.Nodes.Restrain(ctx, node, record.Incarnation, to)
	})
	return err
}

// Masters implements masterpb.MasterServer.
func (s *Server) Masters(ctx context.Context, _ *masterpb.MastersRequest) (*masterpb.MastersResponse, error) {
	answer := &masterpb.MastersResponse{Addresses: s.options.Masters()}
	answer.Leader, _ = s.options.Leadership.Leader()
	s.mu.Lock()
	r := s.reign
	s.mu.Unlock()
	if r != nil && s.leads(ctx, r) {
		answer.Leader, answer.Leading, answer.Epoch = s.options.Address, true, r.epoch
	}
	return answer, nil
}
