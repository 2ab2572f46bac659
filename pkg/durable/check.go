package durable

import (
	"bytes"
	"context"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// check verifies the invariants of the tables as of one revision. blob verifies
// that a large value is there and is what it should be.
func (m *machine) check(ctx context.Context, blob func(sum, int64) error) error {
	snapshot := m.db.NewSnapshot()
	defer func() { _ = snapshot.Close() }()
	now, _, err := load(snapshot, m.keys.meta(), decodeMeta)
	if err != nil {
		return err
	}
	c := &checker{m: m, from: snapshot, now: now, leases: make(map[Lease]uint64), blobs: make(map[sum]uint64)}
	for _, step := range []func(context.Context) error{c.records, c.leaseTable, c.keyTable, c.expiryTable, c.history} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return m.blobs(snapshot, func(of sum, s blobState) error {
		if c.blobs[of] != s.records {
			return broken("value %v has %d records, its table says %d", of, c.blobs[of], s.records)
		}
		delete(c.blobs, of)
		if err := ctx.Err(); err != nil {
			return err
		}
		return blob(of, int64(s.size)) //nolint:gosec // at most MaxValue
	})
}

func broken(format string, args ...any) error {
	return detail(ErrCorrupt, "check: %s", fmt.Sprintf(format, args...))
}

type checker struct {
	m      *machine
	from   pebble.Reader
	now    meta
	leases map[Lease]uint64 // records under each
	blobs  map[sum]uint64   // records of each
}

func (c *checker) scan(ctx context.Context, table byte, f func(key, value []byte) error) error {
	lower, upper := c.m.keys.bounds(table)
	return scan(c.from, lower, upper, func(key, value []byte) (bool, error) {
		if err := f(rest(key), value); err != nil {
			return false, err
		}
		return true, ctx.Err()
	})
}

func (c *checker) present(key []byte) (bool, error) {
	_, ok, err := load(c.from, key, func([]byte) (struct{}, error) { return struct{}{}, nil })
	return ok, err
}

func (c *checker) records(ctx context.Context) error {
	return c.scan(ctx, tableRecord, func(k, value []byte) error {
		key := string(k)
		s, err := decodeStored(value)
		if err != nil {
			return err
		}
		if s.revision == 0 || s.revision > c.now.revision || s.created > s.revision {
			return broken("record %q has revision %d, created %d; the group is at %d", key, s.revision, s.created, c.now.revision)
		}
		if s.lease != 0 {
			c.leases[s.lease]++
			if ok, err := c.present(c.m.keys.keyOf(s.lease, key)); err != nil || !ok {
				return broken("record %q is not entered under its lease %d (%v)", key, s.lease, err)
			}
		}
		if s.expires != 0 {
			if ok, err := c.present(c.m.keys.recordExpiry(s.expires, key)); err != nil || !ok {
				return broken("record %q ends at %d, which is not in the table of ends (%v)", key, s.expires, err)
			}
		}
		if s.large {
			c.blobs[s.sum]++
		}
		return nil
	})
}

func (c *checker) leaseTable(ctx context.Context) error {
	seen := 0
	err := c.scan(ctx, tableLease, func(k, value []byte) error {
		id := Lease((&reader{b: k}).u64())
		l, err := decodeLease(value)
		if err != nil {
			return err
		}
		if id == 0 || id > c.now.lease || l.keys != c.leases[id] {
			return broken("lease %d has %d records, says %d; the last lease is %d", id, c.leases[id], l.keys, c.now.lease)
		}
		if c.leases[id] > 0 {
			seen++
		}
		if ok, err := c.present(c.m.keys.leaseExpiry(l.expires, id)); err != nil || !ok {
			return broken("lease %d ends at %d, which is not in the table of ends (%v)", id, l.expires, err)
		}
		return nil
	})
	if err == nil && seen != len(c.leases) {
		return broken("records are under %d leases, %d of them exist", len(c.leases), seen)
	}
	return err
}

func (c *checker) keyTable(ctx context.Context) error {
	return c.scan(ctx, tableKeyOf, func(k, _ []byte) error {
		r := &reader{b: k}
		id := Lease(r.u64())
		s, ok, err := load(c.from, c.m.keys.record(string(r.b)), decodeStored)
		if err != nil || !ok || s.lease != id {
			return broken("lease %d lists %q, which is not under it (%v)", id, r.b, err)
		}
		return nil
	})
}

func (c *checker) expiryTable(ctx context.Context) error {
	return c.scan(ctx, tableExpiry, func(k, _ []byte) error {
		r := &reader{b: k}
		at := logTime(r.u64()) //nolint:gosec // compared only
		switch r.byte() {
		case tableLease:
			l, ok, err := load(c.from, c.m.keys.lease(Lease(r.u64())), decodeLease)
			if err != nil || !ok || l.expires != at {
				return broken("a lease that does not end then is in the table of ends at %d (%v)", at, err)
			}
		case tableRecord:
			s, ok, err := load(c.from, c.m.keys.record(string(r.b)), decodeStored)
			if err != nil || !ok || s.expires != at {
				return broken("record %q is in the table of ends at %d, but does not end then (%v)", r.b, at, err)
			}
		default:
			return broken("the table of ends has an unknown kind")
		}
		return nil
	})
}

// history is in order, within its bounds, and agrees with the records: a record
// that was written since history begins is in it.
func (c *checker) history(ctx context.Context) error {
	var last []byte
	return c.scan(ctx, tableHistory, func(k, value []byte) error {
		rev := Revision((&reader{b: k}).u64())
		if rev <= c.now.compacted || rev > c.now.revision || bytes.Compare(last, k) >= 0 {
			return broken("history has an event of revision %d; it goes from %d to %d", rev, c.now.compacted, c.now.revision)
		}
		last = append(last[:0], k...)
		e, err := decodeEvent(rev, value)
		if err != nil {
			return err
		}
		s, ok, err := load(c.from, c.m.keys.record(e.Key), decodeStored)
		if err != nil {
			return err
		}
		if ok && s.revision < rev {
			return broken("record %q has revision %d, history has a later event of revision %d", e.Key, s.revision, rev)
		}
		return nil
	})
}
