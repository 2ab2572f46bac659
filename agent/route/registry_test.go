package route_test

import (
	"bytes"
	"context"
	"sync"

	"yr/pkg/yr"
)

// names is a registry of one process; the real one is tested beside it, in master.
type names struct {
	mu      sync.Mutex
	records map[[3]string][]byte
}

func newNames() *names { return &names{records: map[[3]string][]byte{}} }

func (n *names) Claim(_ context.Context, tenant yr.Tenant, namespace, name string, record []byte) ([]byte, bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := [3]string{string(tenant), namespace, name}
	if old, ok := n.records[key]; ok {
		return old, false, nil
	}
	n.records[key] = record
	return record, true, nil
}

func (n *names) Find(_ context.Context, tenant yr.Tenant, namespace, name string) ([]byte, bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	record, ok := n.records[[3]string{string(tenant), namespace, name}]
	return record, ok, nil
}

func (n *names) Drop(_ context.Context, tenant yr.Tenant, namespace, name string, record []byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := [3]string{string(tenant), namespace, name}
	if bytes.Equal(n.records[key], record) {
		delete(n.records, key)
	}
	return nil
}
