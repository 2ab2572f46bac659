package durable

// Writes in the state machine: every one updates the record, what it is entered
// under, and history.

func (s *step) writeAll(writes []write) error {
	if len(writes) == 0 {
		return nil
	}
	s.begin()
	for i := range writes {
		w := &writes[i]
		if w.Delete {
			if err := s.remove(w.Key); err != nil {
				return err
			}
			continue
		}
		if err := s.put(w); err != nil {
			return err
		}
	}
	return nil
}

// begin starts a new revision.
func (s *step) begin() {
	s.meta.revision++
	s.place = 0
}

func (s *step) put(w *write) error {
	old, err := s.head(w.Key)
	if err != nil {
		return err
	}
	r := stored{
		revision: s.meta.revision, created: s.meta.revision, lease: w.Lease,
		large: w.large, sum: w.sum, size: w.size, value: w.Value,
	}
	if old.exists() {
		r.created = old.created
		if err := s.detach(w.Key, &old); err != nil {
			return err
		}
	}
	if w.TTL > 0 {
		r.expires = s.meta.now + logTime(w.TTL)
	}
	h := r.head()
	if err := s.attach(w.Key, &h); err != nil {
		return err
	}
	s.buf = r.encode(s.buf[:0])
	if err := s.batch.Set(s.keys.record(w.Key), s.buf, nil); err != nil {
		return err
	}
	s.heads.set(w.Key, h)
	return s.event(w.Key, &r)
}

func (s *step) remove(key string) error {
	old, err := s.head(key)
	if err != nil || !old.exists() {
		return err
	}
	if err := s.detach(key, &old); err != nil {
		return err
	}
	if err := s.batch.Delete(s.keys.record(key), nil); err != nil {
		return err
	}
	s.heads.set(key, head{})
	return s.event(key, nil)
}

// attach enters a record where its lease, its end and its large value are kept.
func (s *step) attach(key string, r *head) error {
	if r.lease != 0 {
		if err := s.batch.Set(s.keys.keyOf(r.lease, key), nil, nil); err != nil {
			return err
		}
		if err := s.countKeys(r.lease, 1); err != nil {
			return err
		}
	}
	if r.expires != 0 {
		s.due = true
		if err := s.batch.Set(s.keys.recordExpiry(r.expires, key), nil, nil); err != nil {
			return err
		}
	}
	if r.large != nil {
		return s.countBlob(r.large, 1)
	}
	return nil
}

// detach undoes attach.
func (s *step) detach(key string, r *head) error {
	if r.lease != 0 {
		if err := s.batch.Delete(s.keys.keyOf(r.lease, key), nil); err != nil {
			return err
		}
		if err := s.countKeys(r.lease, -1); err != nil {
			return err
		}
	}
	if r.expires != 0 {
		if err := s.batch.Delete(s.keys.recordExpiry(r.expires, key), nil); err != nil {
			return err
		}
	}
	if r.large != nil {
		return s.countBlob(r.large, -1)
	}
	return nil
}

// name notes that the entry names a large value, whether it comes to have it or not.
func (s *step) name(of sum) {
	if s.named == nil {
		s.named = make(map[sum]bool)
	}
	s.named[of] = false
}

// settle finds out which of the named values a record has now.
func (s *step) settle() (err error) {
	for of := range s.named {
		if _, s.named[of], err = load(s.batch, s.keys.blob(of), decodeBlob); err != nil {
			return err
		}
	}
	return nil
}

func (s *step) countBlob(large *largeRef, by int) error {
	of := large.sum
	v, _, err := load(s.batch, s.keys.blob(of), decodeBlob)
	if err != nil {
		return err
	}
	v.records += uint64(by)     //nolint:gosec // wraps to subtract
	v.size = uint64(large.size) //nolint:gosec // a length
	s.name(of)
	if v.records == 0 {
		return s.batch.Delete(s.keys.blob(of), nil)
	}
	return s.batch.Set(s.keys.blob(of), v.encode(), nil)
}

func (s *step) event(key string, r *stored) error {
	s.buf = appendEvent(s.buf[:0], key, r)
	s.meta.young += uint64(len(s.buf))
	if err := s.batch.Set(s.keys.history(s.meta.revision, s.place), s.buf, nil); err != nil {
		return err
	}
	s.place++
	e := Event{Record: Record{Key: key, Revision: s.meta.revision}, Deleted: r == nil}
	if r != nil {
		kept := *r
		kept.value = append(make([]byte, 0, len(r.value)), r.value...) // r.value lies in the log entry
		e.Record = kept.public(key).withoutLarge()
	}
	s.events = append(s.events, e)
	return nil
}
