package cluster

import (
	"context"
	"strings"

	"yr/pkg/yr"
)

// Names keeps which named instances exist. A name is unique within (tenant,
// namespace); what it is bound to is an opaque record of its owner.
type Names struct {
	kv     KV
	keys   keyspace
	leader *Leader
}

// Binding is a name and what it stands for.
type Binding struct {
	Namespace string
	Name      string
	Record    []byte
}

// Claim binds a name if it is free. Otherwise it returns what the name is bound
// to, and claimed is false.
func (n *Names) Claim(ctx context.Context, tenant yr.Tenant, namespace, name string, record []byte) (existing []byte, claimed bool, err error) {
	if err := checkName(namespace, name); err != nil {
		return nil, false, err
	}
	if err := checkSize("the record of a name", record); err != nil {
		return nil, false, err
	}
	key := n.keys.name(tenant, namespace, name)
	outcome, err := n.leader.Commit(ctx, []Condition{{Key: key}}, []Write{{Key: key, Value: seal(record)}})
	if err != nil || outcome.OK {
		return nil, outcome.OK, err
	}
	existing, err = unseal(key, outcome.Current[0].Value)
	return existing, false, err
}

// Find returns what a name is bound to.
func (n *Names) Find(ctx context.Context, tenant yr.Tenant, namespace, name string) (record []byte, ok bool, err error) {
	if err := checkName(namespace, name); err != nil {
		return nil, false, err
	}
	entry, ok, err := n.kv.Get(ctx, n.keys.name(tenant, namespace, name))
	if err != nil || !ok {
		return nil, false, err
	}
	record, err = unseal(entry.Key, entry.Value)
	return record, err == nil, err
}

// Drop frees a name if it is still bound to record. A name that is free, or
// bound to something else by now, is left alone: that is not an error.
func (n *Names) Drop(ctx context.Context, tenant yr.Tenant, namespace, name string, record []byte) error {
	if err := checkName(namespace, name); err != nil {
		return err
	}
	key := n.keys.name(tenant, namespace, name)
	_, err := n.leader.Commit(ctx, []Condition{{Key: key, Value: seal(record)}}, []Write{{Key: key, Delete: true}})
	return err
}

// List returns up to limit (at most MaxPage) bindings of a tenant, in
// the order of their keys, after the binding `after` (nil starts at the first).
func (n *Names) List(ctx context.Context, tenant yr.Tenant, after *Binding, limit int) (bindings []Binding, more bool, err error) {
	prefix := n.keys.names(tenant)
	from := ""
	if after != nil {
		from = n.keys.name(tenant, after.Namespace, after.Name)
	}
	entries, more, err := n.kv.List(ctx, prefix, from, clampPage(limit))
	if err != nil {
		return nil, false, err
	}
	bindings = make([]Binding, 0, len(entries))
	for _, e := range entries {
		namespace, name, ok := splitName(strings.TrimPrefix(e.Key, prefix))
		if !ok {
			return nil, false, yr.E("registry", yr.Internal, "key %q is not a name; remove it", e.Key)
		}
		record, err := unseal(e.Key, e.Value)
		if err != nil {
			return nil, false, err
		}
		bindings = append(bindings, Binding{Namespace: namespace, Name: name, Record: record})
	}
	return bindings, more, nil
}

func clampPage(limit int) int {
	if limit <= 0 || limit > MaxPage {
		return MaxPage
	}
	return limit
}

func checkName(namespace, name string) error {
	if name == "" {
		return yr.E("name", yr.ParamInvalid, "a named instance needs a name that is not empty")
	}
	if len(name) > MaxName {
		return yr.E("name", yr.ParamInvalid, "the name has %d bytes, at most %d are allowed", len(name), MaxName)
	}
	if len(namespace) > MaxName {
		return yr.E("name", yr.ParamInvalid, "the namespace has %d bytes, at most %d are allowed", len(namespace), MaxName)
	}
	return nil
}
