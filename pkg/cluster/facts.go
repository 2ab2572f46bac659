package cluster

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"io"
	"sort"

	"yr/pkg/yr"
)

// Facts are the few durable things that are true of the cluster as a whole.
type Facts struct {
	kv     KV
	keys   keyspace
	leader *Leader
	random io.Reader
}

// Master is how a master is found, by nodes that join and by nodes that have lost
// the leader.
type Master struct {
	Node    yr.Node `json:"node"`
	Name    string  `json:"name"`    // of its etcd: etcd0, ...
	Address string  `json:"address"` // host:port that nodes dial
	Peer    string  `json:"peer"`    // host:port of its etcd
}

// MaxMasters bounds the list of masters.
const MaxMasters = 16

type idRecord struct {
	V  int    `json:"v"`
	ID string `json:"id"`
}

type mastersRecord struct {
	V       int      `json:"v"`
	Masters []Master `json:"masters"`
}

// ID is the random name of this cluster, "" if no leader has given it one yet.
func (f *Facts) ID(ctx context.Context) (string, error) {
	var r idRecord
	entry, ok, err := f.kv.Get(ctx, f.keys.clusterID())
	if err != nil || !ok {
		return "", err
	}
	err = decode(entry.Key, entry.Value, &r)
	return r.ID, err
}

// EnsureID gives the cluster a name, unless it has one, and returns it.
func (f *Facts) EnsureID(ctx context.Context) (string, error) {
	key := f.keys.clusterID()
	if id, err := f.ID(ctx); err != nil || id != "" {
		return id, err
	}
	raw := make([]byte, 8)
	if _, err := io.ReadFull(f.random, raw); err != nil {
		return "", yr.Wrap("name the cluster", yr.Internal, err)
	}
	id := hex.EncodeToString(raw)
	value, err := json.Marshal(idRecord{V: formatVersion, ID: id})
	if err != nil {
		return "", err
	}
	outcome, err := f.leader.Commit(ctx, []Condition{{Key: key}}, []Write{{Key: key, Value: value}})
	if err != nil {
		return "", err
	}
	if !outcome.OK {
		return f.ID(ctx)
	}
	return id, nil
}

// Masters are the masters by their names.
func (f *Facts) Masters(ctx context.Context) ([]Master, error) {
	masters, _, err := f.masters(ctx)
	return masters, err
}

// PutMaster adds a master, or replaces the one of the same node.
func (f *Facts) PutMaster(ctx context.Context, m Master) error {
	if m.Node == "" || m.Address == "" {
		return yr.E("masters", yr.ParamInvalid, "a master needs a node and an address")
	}
	return f.change(ctx, func(masters []Master) []Master { return append(without(masters, m.Node), m) })
}

// DropMaster removes the master of a node; one that is not there is no error.
func (f *Facts) DropMaster(ctx context.Context, node yr.Node) error {
	return f.change(ctx, func(masters []Master) []Master { return without(masters, node) })
}

func without(masters []Master, node yr.Node) []Master {
	var rest []Master
	for _, m := range masters {
		if m.Node != node {
			rest = append(rest, m)
		}
	}
	return rest
}

func (f *Facts) masters(ctx context.Context) ([]Master, int64, error) {
	var r mastersRecord
	entry, ok, err := f.kv.Get(ctx, f.keys.masters())
	if err != nil || !ok {
		return nil, 0, err
	}
	err = decode(entry.Key, entry.Value, &r)
	return r.Masters, entry.Revision, err
}

func (f *Facts) change(ctx context.Context, edit func([]Master) []Master) error {
	for {
		masters, revision, err := f.masters(ctx)
		if err != nil {
			return err
		}
		masters = edit(masters)
		if len(masters) > MaxMasters {
			return yr.E("masters", yr.ParamInvalid, "a cluster has at most %d masters", MaxMasters)
		}
		sort.Slice(masters, func(i, j int) bool { return masters[i].Name < masters[j].Name })
		value, err := json.Marshal(mastersRecord{V: formatVersion, Masters: masters})
		if err != nil {
			return err
		}
		if err := checkSize("the list of masters", value); err != nil {
			return err
		}
		outcome, err := f.leader.Commit(ctx, []Condition{{Key: f.keys.masters(), Revision: revision}}, []Write{{Key: f.keys.masters(), Value: value}})
		if err != nil || outcome.OK {
			return err
		}
	}
}
