package server

import (
	"context"

	"yr/master/masterpb"
	"yr/pkg/yr"
)

// Claim implements masterpb.MasterServer. A node that was declared dead claims
// nothing, also if that happens meanwhile: whoever recovers its instances must find all
// of their names.
func (s *Server) Claim(ctx context.Context, q *masterpb.ClaimRequest) (*masterpb.ClaimResponse, error) {
	return decide(ctx, s, 0, func(*reign) (*masterpb.ClaimResponse, error) {
		node, incarnation := yr.Node(q.GetNode()), q.GetIncarnation()
		if err := s.alive(node, incarnation); err != nil {
			return nil, err
		}
		n := q.GetName()
		tenant := yr.Tenant(n.GetTenant())
		existing, claimed, err := s.options.Names.Claim(ctx, tenant, n.GetNamespace(), n.GetName(), q.GetRecord())
		if err != nil {
			return nil, err
		}
		if err := s.alive(node, incarnation); claimed && err != nil {
			if dropped := s.options.Names.Drop(ctx, tenant, n.GetNamespace(), n.GetName(), q.GetRecord()); dropped != nil {
				return nil, dropped
			}
			return nil, err
		}
		return &masterpb.ClaimResponse{Claimed: claimed, Existing: existing}, nil
	})
}

func (s *Server) alive(node yr.Node, incarnation uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.table.Alive(node, incarnation) {
		return nil
	}
	return yr.E("claim", yr.Communication, "node %q, incarnation %d, was declared dead; it must register again", node, incarnation)
}

// Find implements masterpb.MasterServer.
func (s *Server) Find(ctx context.Context, q *masterpb.FindRequest) (*masterpb.FindResponse, error) {
	return decide(ctx, s, 0, func(*reign) (*masterpb.FindResponse, error) {
		n := q.GetName()
		record, found, err := s.options.Names.Find(ctx, yr.Tenant(n.GetTenant()), n.GetNamespace(), n.GetName())
		if err != nil {
			return nil, err
		}
		return &masterpb.FindResponse{Record: record, Found: found}, nil
	})
}

// Drop implements masterpb.MasterServer.
func (s *Server) Drop(ctx context.Context, q *masterpb.DropRequest) (*masterpb.DropResponse, error) {
	return decide(ctx, s, 0, func(*reign) (*masterpb.DropResponse, error) {
		n := q.GetName()
		return &masterpb.DropResponse{}, s.options.Names.Drop(ctx, yr.Tenant(n.GetTenant()), n.GetNamespace(), n.GetName(), q.GetRecord())
	})
}
