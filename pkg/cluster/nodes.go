package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"yr/pkg/yr"
)

// A NodeState says whether a node counts.
type NodeState string

// The states of a node. Only the leader changes them.
const (
	NodeAlive NodeState = "alive"
	NodeDead  NodeState = "dead" // fenced: not heard of for too long
	NodeLeft  NodeState = "left" // said goodbye
)

// NodeRecord is what the cluster knows of a node for good. What changes by the
// second (load, free resources) is in the leader's memory.
type NodeRecord struct {
	V  int     `json:"v"`
	ID yr.Node `json:"id"`

	// Identity is of the data directory: a restarted daemon has its old one, and
	// with it its tag. Incarnation counts the registrations under this ID; whoever
	// shows an older one is a ghost.
	Identity    string  `json:"identity"`
	Tag         NodeTag `json:"tag"`
	Incarnation uint64  `json:"incarnation"`

	Address  string              `json:"address"` // host:port that other nodes dial
	Version  string              `json:"version"`
	Master   bool                `json:"master,omitempty"`
	Capacity yr.Resources        `json:"capacity"` // in thousandths
	Labels   map[string][]string `json:"labels,omitempty"`
	Started  time.Time           `json:"started"`

	State     NodeState `json:"state"`
	Since     time.Time `json:"since"` // of State, by the leader's clock
	Restraint Restraint `json:"restraint"`

	// Revision is the registry's when the record was written: of two records, of
	// the same node or not, the one with the higher is newer.
	Revision int64 `json:"-"`
}

// Restraint keeps work away from a node. It outlives masters, and restarts and
// deaths of the node, but not its leaving.
type Restraint struct {
	Cordoned bool          `json:"cordoned,omitempty"` // gets no new work
	Drain    time.Duration `json:"drain,omitempty"`    // time given to become empty; 0: it need not
	Evicted  bool          `json:"evicted,omitempty"`  // leaves once it is empty
}

// ErrFenced is inside the error of a request about an incarnation that is over:
// it was declared dead, has left, or has a successor.
var ErrFenced = errors.New("this incarnation of the node is over")

// Nodes is the registry of nodes. Only the leader writes it, and a stale one
// cannot: every write goes through Leader.Commit.
//
// It says who belongs to the cluster, not who answers right now: liveness is in
// the leader's memory, and what becomes of it (a death, a return) is written here
// before anybody acts on it.
type Nodes struct {
	kv     KV
	keys   keyspace
	leader *Leader
	now    func() time.Time
	random io.Reader
}

// incarnationRecord outlives the node's record, so that a number is never used twice.
type incarnationRecord struct {
	V int    `json:"v"`
	N uint64 `json:"n"`
}

// Register makes a node a member and returns its record, with tag and incarnation
// set by the registry. A live node of another identity keeps its id: the error is
// AlreadyRunning. The same identity has restarted: it keeps its tag and its
// restraint, and its incarnation is one higher. A new identity gets the tag that r
// wishes if it is free, or a random one.
func (n *Nodes) Register(ctx context.Context, r NodeRecord) (NodeRecord, error) {
	if r.ID == "" || r.Identity == "" || len(r.ID) > MaxName || len(r.Identity) > MaxName {
		return NodeRecord{}, yr.E("register", yr.ParamInvalid, "a node needs an id and an identity of 1 to %d bytes", MaxName)
	}
	wish := yr.Tag(r.Tag)
	for range tagTries {
		r.Tag = NodeTag(wish)
		registered, done, err := n.register(ctx, r)
		if err != nil || done {
			return registered, err
		}
		wish = yr.Tag{}
	}
	return NodeRecord{}, yr.E("register", yr.ResourceNotEnough, "no tag was found for node %q in %d tries; nearly all of the %d have been given out", r.ID, tagTries, tags)
}

// register tries once; done is false if another registration came between, or if
// the tag is taken.
func (n *Nodes) register(ctx context.Context, r NodeRecord) (registered NodeRecord, done bool, err error) {
	last, err := n.read(ctx, r.ID)
	if err != nil {
		return r, false, err
	}
	if last.State == NodeAlive && last.Identity != r.Identity {
		return r, false, yr.E("register", yr.AlreadyRunning,
			"node %q is already in this cluster (%s, since %s); give this one another values.node_id, or wait until that one is declared dead if it was just killed",
			r.ID, last.Address, last.Started.Format(time.RFC3339))
	}
	var count incarnationRecord
	counted, err := n.load(ctx, n.keys.incarnation(r.ID), &count)
	if err != nil {
		return r, false, err
	}
	tag, grant, err := n.tagOf(ctx, r.Identity, yr.Tag(r.Tag))
	if err != nil {
		return r, false, err
	}
	r.V, r.Tag, r.Incarnation = formatVersion, NodeTag(tag), max(count.N, last.Incarnation)+1
	r.State, r.Since, r.Restraint = NodeAlive, n.now().UTC(), Restraint{}
	if last.Identity == r.Identity {
		r.Restraint = last.Restraint
	}
	record, err := encodeNode(r)
	if err != nil {
		return r, false, err
	}
	number, err := json.Marshal(incarnationRecord{V: formatVersion, N: r.Incarnation})
	if err != nil {
		return r, false, err
	}
	outcome, err := n.leader.Commit(ctx,
		append(grant.conditions, Condition{Key: n.keys.node(r.ID), Revision: last.Revision}, Condition{Key: n.keys.incarnation(r.ID), Revision: counted}),
		append(grant.writes, Write{Key: n.keys.node(r.ID), Value: record}, Write{Key: n.keys.incarnation(r.ID), Value: number}))
	r.Revision = outcome.Revision
	return r, outcome.OK, err
}

// Fence declares an incarnation dead. One that is dead already stays so; for one
// that has left or has a successor the error holds ErrFenced: there is nothing
// left to declare.
func (n *Nodes) Fence(ctx context.Context, id yr.Node, incarnation uint64) (NodeRecord, error) {
	return n.change(ctx, "fence", id, func(r *NodeRecord) (bool, error) {
		if r.Incarnation != incarnation || r.State == NodeLeft {
			return false, over("fence", r)
		}
		return r.become(NodeDead, n.now()), nil
	})
}

// Leave says goodbye, and lifts the restraint. An incarnation that has left or
// died already stays as it is.
func (n *Nodes) Leave(ctx context.Context, id yr.Node, incarnation uint64) (NodeRecord, error) {
	return n.change(ctx, "leave", id, func(r *NodeRecord) (bool, error) {
		if r.Incarnation != incarnation {
			return false, over("leave", r)
		}
		if r.State != NodeAlive {
			return false, nil
		}
		r.Restraint = Restraint{}
		return r.become(NodeLeft, n.now()), nil
	})
}

// Update changes what a live incarnation tells of itself: Address, Version,
// Capacity, Labels. Nothing else that edit changes is kept.
func (n *Nodes) Update(ctx context.Context, id yr.Node, incarnation uint64, edit func(*NodeRecord)) (NodeRecord, error) {
	return n.change(ctx, "update", id, func(r *NodeRecord) (bool, error) {
		if r.Incarnation != incarnation || r.State != NodeAlive {
			return false, over("update", r)
		}
		told := *r
		edit(&told)
		r.Address, r.Version, r.Capacity, r.Labels = told.Address, told.Version, told.Capacity, told.Labels
		return true, nil
	})
}

// Restrain sets what keeps work away from a live incarnation.
func (n *Nodes) Restrain(ctx context.Context, id yr.Node, incarnation uint64, to Restraint) (NodeRecord, error) {
	return n.change(ctx, "restrain", id, func(r *NodeRecord) (bool, error) {
		if r.Incarnation != incarnation || r.State != NodeAlive {
			return false, over("restrain", r)
		}
		changed := r.Restraint != to
		r.Restraint = to
		return changed, nil
	})
}

// SetCordoned keeps new work away from a node, whichever incarnation lives, or
// lifts every restraint.
func (n *Nodes) SetCordoned(ctx context.Context, id yr.Node, on bool) (NodeRecord, error) {
	return n.change(ctx, "cordon", id, func(r *NodeRecord) (bool, error) {
		to := Restraint{}
		if on {
			to = r.Restraint
			to.Cordoned = true
		}
		changed := r.Restraint != to
		r.Restraint = to
		return changed, nil
	})
}

// Forget removes the record of an incarnation that is dead or has left. Its tag
// and its number are never given out again. A record that is not there is no error.
func (n *Nodes) Forget(ctx context.Context, id yr.Node, incarnation uint64) error {
	r, err := n.read(ctx, id)
	if err != nil || r.Revision == 0 {
		return err
	}
	if r.Incarnation != incarnation || r.State == NodeAlive {
		return over("forget", &r)
	}
	outcome, err := n.leader.Commit(ctx, []Condition{{Key: n.keys.node(id), Revision: r.Revision}}, []Write{{Key: n.keys.node(id), Delete: true}})
	if err == nil && !outcome.OK {
		err = over("forget", &r)
	}
	return err
}

// Get reads one record.
func (n *Nodes) Get(ctx context.Context, id yr.Node) (r NodeRecord, ok bool, err error) {
	r, err = n.read(ctx, id)
	return r, r.Revision != 0, err
}

// List reads all records, of nodes alive, dead and gone, by id.
func (n *Nodes) List(ctx context.Context) ([]NodeRecord, error) {
	var nodes []NodeRecord
	after := ""
	for {
		entries, more, err := n.kv.List(ctx, n.keys.nodes(), after, MaxPage)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			r := NodeRecord{Revision: e.Revision}
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

// change edits a record, again if another write came between, and returns it as
// it is then. edit says whether there is anything to write.
func (n *Nodes) change(ctx context.Context, op string, id yr.Node, edit func(*NodeRecord) (bool, error)) (NodeRecord, error) {
	for {
		r, err := n.read(ctx, id)
		if err != nil {
			return r, err
		}
		if r.Revision == 0 {
			return r, &yr.Error{Op: op, Code: yr.ParamInvalid, Msg: "there is no node " + string(id), Err: ErrFenced}
		}
		changed, err := edit(&r)
		if err != nil || !changed {
			return r, err
		}
		value, err := encodeNode(r)
		if err != nil {
			return r, err
		}
		outcome, err := n.leader.Commit(ctx, []Condition{{Key: n.keys.node(id), Revision: r.Revision}}, []Write{{Key: n.keys.node(id), Value: value}})
		if err != nil || outcome.OK {
			r.Revision = outcome.Revision
			return r, err
		}
	}
}

// read reads a record; its Revision is 0 if there is none.
func (n *Nodes) read(ctx context.Context, id yr.Node) (r NodeRecord, err error) {
	revision, err := n.load(ctx, n.keys.node(id), &r)
	r.Revision = revision
	return r, err
}

// load reads a JSON value; the revision is 0 if there is none.
func (n *Nodes) load(ctx context.Context, key string, into any) (revision int64, err error) {
	entry, ok, err := n.kv.Get(ctx, key)
	if err != nil || !ok {
		return 0, err
	}
	return entry.Revision, decode(key, entry.Value, into)
}

func (r *NodeRecord) become(s NodeState, now time.Time) (changed bool) {
	if r.State == s {
		return false
	}
	r.State, r.Since = s, now.UTC()
	return true
}

func over(op string, r *NodeRecord) error {
	return &yr.Error{Op: op, Code: yr.Communication, Err: ErrFenced, Msg: fmt.Sprintf("node %q is incarnation %d and %s", r.ID, r.Incarnation, r.State)}
}

func encodeNode(r NodeRecord) ([]byte, error) {
	r.V = formatVersion
	value, err := json.Marshal(r)
	if err != nil {
		return nil, yr.Wrap("node record", yr.ParamInvalid, err)
	}
	return value, checkSize("the record of node "+string(r.ID), value)
}
