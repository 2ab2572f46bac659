package cluster

import (
	"context"
	"errors"
	"net"
	"sort"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"

	"yr/pkg/yr"
)

// MemberView shows one master's etcd.
type MemberView struct {
	ID      string `json:"id"` // hexadecimal
	Name    string `json:"name"`
	Address string `json:"address"` // "" for a master that has never had company
	Self    bool   `json:"self,omitempty"`
	Leader  bool   `json:"leader,omitempty"`
	Learner bool   `json:"learner,omitempty"` // catches up and does not vote yet
	Started bool   `json:"started"`           // false: admitted, and has not told its name yet
	Healthy bool   `json:"healthy"`           // answers
	Problem string `json:"problem,omitempty"` // why not Healthy
}

// Members shows all masters as this one knows them, without needing a majority,
// and asks each whether it lives: at most for a second.
func (m *Member) Members(ctx context.Context) ([]MemberView, error) {
	e, err := m.usable(ctx)
	if err != nil {
		return nil, err
	}
	known := e.members()
	sort.Slice(known, func(i, j int) bool { return addressOf(known[i]) < addressOf(known[j]) })
	var others []Voter
	var places []int
	views := make([]MemberView, len(known))
	for i, member := range known {
		views[i] = MemberView{
			ID: member.ID.String(), Name: member.Name, Address: addressOf(member),
			Self: member.ID == e.etcd.Server.MemberID(), Leader: member.ID == e.etcd.Server.Leader(),
			Learner: member.IsLearner, Started: member.IsStarted(),
		}
		if views[i].Self {
			views[i].Healthy = true
			continue
		}
		others, places = append(others, Voter{member.Name, views[i].Address}), append(places, i)
	}
	if len(others) == 0 {
		return views, nil
	}
	_, errs := m.prober.askAll(ctx, others)
	for i, place := range places {
		if views[place].Healthy = errs[i] == nil; errs[i] != nil {
			views[place].Problem = errs[i].Error()
		}
	}
	return views, nil
}

// AddMember admits a master at address (host:peer_port) to the cluster, as a
// learner, and returns the initial cluster with which it starts. A master that
// has been alone is first made reachable for the others (see grow). It may be
// called again, with the same arguments, until the new one has started.
func (m *Member) AddMember(ctx context.Context, name, address string) (initialCluster string, err error) {
	if _, _, err := net.SplitHostPort(address); err != nil || name == "" || strings.ContainsAny(name+address, ",=/") {
		return "", yr.E("add a master", yr.ParamInvalid, "a master needs a name and a peer address host:port, not %q and %q", name, address)
	}
	if err := m.grow(ctx); err != nil {
		return "", err
	}
	if _, err := m.connect(ctx); err != nil {
		return "", err
	}
	e, err := m.usable(ctx)
	if err != nil {
		return "", err
	}
	known, err := m.find(e, address)
	if err != nil {
		return "", err
	}
	if known != nil && known.IsStarted() {
		return "", yr.E("add a master", yr.AlreadyRunning, "%s (%s) is a master already; if its data is lost, remove it first", known.Name, address)
	}
	if known == nil {
		err = m.insist(ctx, func(ctx context.Context) error {
			_, err := e.client.MemberAddAsLearner(ctx, []string{peerURL(address)})
			return err
		})
		if err != nil {
			return "", m.memberError("add a master", err)
		}
	}
	return writeCluster(e.members(), name, address), nil
}

// PromoteMember makes a learner, named by its id, name or address, a voter. A
// learner does that by itself when it is of use; this is for two masters, of which
// losing either stops both.
func (m *Member) PromoteMember(ctx context.Context, who string) error {
	e, member, err := m.known(ctx, who)
	if err != nil {
		return err
	}
	return m.memberError("promote a master", m.insist(ctx, func(ctx context.Context) error {
		_, err := e.client.MemberPromote(ctx, uint64(member.ID))
		return err
	}))
}

// RemoveMember takes a master, named by its id, name or address, out of the
// cluster. If it still runs its etcd ends, and Failed says ErrRemoved there.
func (m *Member) RemoveMember(ctx context.Context, who string) error {
	e, member, err := m.known(ctx, who)
	if err != nil {
		return err
	}
	return m.memberError("remove a master", m.insist(ctx, func(ctx context.Context) error {
		_, err := e.client.MemberRemove(ctx, uint64(member.ID))
		return err
	}))
}

// usable waits until etcd runs; members can be read then.
func (m *Member) usable(ctx context.Context) (*engine, error) {
	e := m.engine.Load()
	if e == nil {
		return nil, errNotOpen
	}
	select {
	case <-e.booted:
		return e, m.Err()
	case <-m.failed:
		return nil, m.failure
	case <-ctx.Done():
		return nil, m.requestError("wait for the registry", ctx.Err())
	}
}

// grow gives a master that was alone an address and the patience of several. The
// mark in its directory comes first; a crash at any later moment leaves a single
// voter that listens, which is complete. Requests meanwhile wait, or, if they
// were in etcd already, fail with Communication.
func (m *Member) grow(ctx context.Context) error {
	m.change.Lock()
	defer m.change.Unlock()
	e := m.engine.Load()
	if e == nil || e.plan.several || m.Err() != nil {
		return m.Err()
	}
	if m.options.Peers == nil {
		return yr.E("add a master", yr.ParamInvalid, "this master has no peer address; set values.etcd.address and restart it")
	}
	if err := m.markGrown(); err != nil {
		return err
	}
	plan, err := m.plan(ctx)
	if err != nil {
		return err
	}
	next := newEngine(m, plan)
	m.engine.Store(next)
	if err := e.close(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	if err := next.start(ctx); err != nil {
		m.fail(err) // the old one is gone; only a restart helps
		return err
	}
	return nil
}

// insist repeats a change of the members while the cluster calls itself unhealthy:
// it wants to have been connected for some seconds.
func (m *Member) insist(ctx context.Context, change func(context.Context) error) error {
	for {
		try, cancel := context.WithTimeout(ctx, requestTimeout)
		err := change(try)
		cancel()
		again := errors.Is(err, rpctypes.ErrUnhealthy) || errors.Is(err, rpctypes.ErrMemberLearnerNotReady)
		if !again {
			return err
		}
		select {
		case <-time.After(settlePause):
		case <-ctx.Done():
			return err
		}
	}
}

func (m *Member) memberError(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rpctypes.ErrMemberNotEnoughStarted):
		return yr.E(op, yr.ParamInvalid, "fewer masters than a majority would be left running")
	case errors.Is(err, rpctypes.ErrTooManyLearners):
		return yr.E(op, yr.RateLimited, "%d masters are joining already; wait until they have, or remove them", maxLearners)
	case errors.Is(err, rpctypes.ErrMemberNotLearner):
		return yr.E(op, yr.ParamInvalid, "it votes already")
	case errors.Is(err, rpctypes.ErrMemberNotFound):
		return yr.E(op, yr.ParamInvalid, "it is no master any more")
	default:
		return m.requestError(op, err)
	}
}

func (m *Member) known(ctx context.Context, who string) (*engine, *membership.Member, error) {
	if _, err := m.connect(ctx); err != nil {
		return nil, nil, err
	}
	e, err := m.usable(ctx)
	if err != nil {
		return nil, nil, err
	}
	member, err := m.find(e, who)
	if err == nil && member == nil {
		err = yr.E("masters", yr.ParamInvalid, "%q is no master; `yr masters` lists them by id, name and address", who)
	}
	return e, member, err
}

// find looks a member up by id, name or address; nil if there is none.
func (m *Member) find(e *engine, who string) (found *membership.Member, err error) {
	for _, member := range e.members() {
		if member.ID.String() != who && member.Name != who && addressOf(member) != who {
			continue
		}
		if found != nil {
			return nil, yr.E("masters", yr.ParamInvalid, "%q means both %s and %s; use an address or an id", who, addressOf(found), addressOf(member))
		}
		found = member
	}
	return found, nil
}

// otherVoters are the members that this one knows besides itself, the configured
// ones as long as it knows none.
func (m *Member) otherVoters() []Voter {
	e := m.engine.Load()
	if e == nil {
		return m.options.Peers.others()
	}
	select {
	case <-e.booted:
	default:
		return m.options.Peers.others()
	}
	var others []Voter
	for _, member := range e.members() {
		if !member.IsLearner && member.ID != e.etcd.Server.MemberID() {
			others = append(others, Voter{member.Name, addressOf(member)})
		}
	}
	if len(others) == 0 {
		return m.options.Peers.others()
	}
	return others
}

func addressOf(member *membership.Member) string {
	for _, u := range member.PeerURLs {
		if address, ok := strings.CutPrefix(u, "https://"); ok {
			return address
		}
	}
	return ""
}

// writeCluster names every member, and the new one as it calls itself.
func writeCluster(members []*membership.Member, name, address string) string {
	parts := make([]string, 0, len(members))
	for _, member := range members {
		called := member.Name
		switch {
		case addressOf(member) == address:
			called = name
		case called == "" || called == name: // unstarted, or a name used twice
			called = "member-" + strconv.FormatUint(uint64(member.ID), 16)
		}
		parts = append(parts, called+"="+peerURL(addressOf(member)))
	}
	return strings.Join(parts, ",")
}
