package durable

import (
	"encoding/binary"
	"time"
)

// Leases and TTLs in the state machine. What ends at a time stands in the expiry
// table; nothing ends until the leader, by its clock, proposes opExpire.

func (s *step) grant(ttl time.Duration, out *outcome) error {
	s.meta.lease++
	out.lease = s.meta.lease
	l := leaseState{ttl: int64(ttl), expires: s.meta.now + logTime(ttl)}
	return s.setLease(out.lease, &l)
}

func (s *step) renew(id Lease, out *outcome) error {
	l, alive, err := load(s.batch, s.keys.lease(id), decodeLease)
	if err != nil {
		return err
	}
	if !alive {
		out.err = detail(ErrLeaseGone, "lease %d has ended", id)
		return nil
	}
	if err := s.batch.Delete(s.keys.leaseExpiry(l.expires, id), nil); err != nil {
		return err
	}
	l.expires = max(l.expires, s.meta.now+logTime(l.ttl))
	return s.setLease(id, &l)
}

func (s *step) setLease(id Lease, l *leaseState) error {
	s.due = true
	if err := s.batch.Set(s.keys.leaseExpiry(l.expires, id), nil, nil); err != nil {
		return err
	}
	return s.batch.Set(s.keys.lease(id), l.encode(), nil)
}

// countKeys adds to the number of records under a lease.
func (s *step) countKeys(id Lease, by int) error {
	l, alive, err := load(s.batch, s.keys.lease(id), decodeLease)
	if err != nil || !alive {
		return err // not alive: endLease is removing its records
	}
	l.keys += uint64(by) //nolint:gosec // wraps to subtract
	return s.batch.Set(s.keys.lease(id), l.encode(), nil)
}

// endLease removes a lease and, in one revision, the records under it.
func (s *step) endLease(id Lease) error {
	l, alive, err := load(s.batch, s.keys.lease(id), decodeLease)
	if err != nil || !alive {
		return err
	}
	if err := s.batch.Delete(s.keys.lease(id), nil); err != nil {
		return err
	}
	if err := s.batch.Delete(s.keys.leaseExpiry(l.expires, id), nil); err != nil {
		return err
	}
	var keys []string
	err = scan(s.batch, s.keys.keyOf(id, ""), s.keys.keyOf(id+1, ""), func(key, _ []byte) (bool, error) {
		keys = append(keys, string(rest(key)[8:]))
		return true, nil
	})
	if err != nil || len(keys) == 0 {
		return err
	}
	s.begin()
	for _, key := range keys {
		if err := s.remove(key); err != nil {
			return err
		}
	}
	return nil
}

// expire ends what is due, at most maxExpiries things. out.result.OK says that there may be more.
func (s *step) expire(out *outcome) error {
	lower, _ := s.keys.bounds(tableExpiry)
	upper := be(s.keys.table(tableExpiry), uint64(s.meta.now)+1) //nolint:gosec // never negative
	var due [][]byte
	err := scan(s.batch, lower, upper, func(key, _ []byte) (bool, error) {
		due = append(due, append([]byte(nil), rest(key)[8:]...))
		return len(due) < maxExpiries, nil
	})
	if err != nil {
		return err
	}
	out.result.OK = len(due) == maxExpiries
	for _, what := range due {
		if len(s.events) > 10*maxExpiries {
			out.result.OK = true
			return nil
		}
		if what[0] == tableLease {
			if err := s.endLease(Lease(binary.BigEndian.Uint64(what[1:]))); err != nil {
				return err
			}
			continue
		}
		s.begin()
		if err := s.remove(string(what[1:])); err != nil {
			return err
		}
	}
	return nil
}
