package client

import (
	"bytes"
	"context"

	"yr/master/masterpb"
	"yr/pkg/yr"
)

// Names is the cluster's table of named instances, as the router of a node uses it.
type Names struct{ c *Client }

// Names is documented at the type.
func (c *Client) Names() Names { return Names{c} }

// Claim binds a name if it is free, else returns what it is bound to. A record
// says whose it is: found again, it counts as claimed, because the first answer
// may have been lost. A node that was declared dead claims nothing.
func (n Names) Claim(ctx context.Context, tenant yr.Tenant, namespace, name string, record []byte) (existing []byte, claimed bool, err error) {
	var answer *masterpb.ClaimResponse
	asked := 0
	err = n.c.ask(ctx, func(ctx context.Context, leader masterpb.MasterClient) (err error) {
		asked++
		answer, err = leader.Claim(ctx, &masterpb.ClaimRequest{
			Name: nameOf(tenant, namespace, name), Record: record,
			Node: string(n.c.options.Machine.ID), Incarnation: n.c.Incarnation(),
		})
		return err
	})
	switch {
	case err != nil:
		return nil, false, err
	case answer.GetClaimed(), asked > 1 && bytes.Equal(answer.GetExisting(), record):
		return nil, true, nil
	}
	return answer.GetExisting(), false, nil
}

// Find returns what a name is bound to.
func (n Names) Find(ctx context.Context, tenant yr.Tenant, namespace, name string) (record []byte, ok bool, err error) {
	var answer *masterpb.FindResponse
	err = n.c.ask(ctx, func(ctx context.Context, leader masterpb.MasterClient) (err error) {
		answer, err = leader.Find(ctx, &masterpb.FindRequest{Name: nameOf(tenant, namespace, name)})
		return err
	})
	return answer.GetRecord(), answer.GetFound(), err
}

// Drop frees a name if it is still bound to record.
func (n Names) Drop(ctx context.Context, tenant yr.Tenant, namespace, name string, record []byte) error {
	return n.c.ask(ctx, func(ctx context.Context, leader masterpb.MasterClient) error {
		_, err := leader.Drop(ctx, &masterpb.DropRequest{Name: nameOf(tenant, namespace, name), Record: record})
		return err
	})
}

func nameOf(tenant yr.Tenant, namespace, name string) *masterpb.Name {
	return &masterpb.Name{Tenant: string(tenant), Namespace: namespace, Name: name}
}
