package durable

// headsBytes is about what a generation of heads takes. Two are kept.
const headsBytes = 12 << 20

// heads remembers records without their values, and keys that have none, for the
// goroutine that applies entries: a write has to know what it overwrites, and
// finding that in Pebble costs more than the rest of the write. It is a cache of two
// generations; what is not used during one is forgotten with it.
type heads struct {
	young, old map[string]head
	bytes      int
	turns      int // how many generations have begun
}

// head is a record without its value; the zero head is that of no record.
type head struct {
	revision Revision
	created  Revision
	lease    Lease
	expires  logTime
	large    *largeRef // nil: the value is in the table
}

type largeRef struct {
	sum  sum
	size int64
}

func (s *stored) head() head {
	h := head{revision: s.revision, created: s.created, lease: s.lease, expires: s.expires}
	if s.large {
		h.large = &largeRef{s.sum, s.size}
	}
	return h
}

func (h *head) exists() bool { return h.revision != 0 }

func (h *heads) get(key string) (head, bool) {
	if v, ok := h.young[key]; ok {
		return v, true
	}
	v, ok := h.old[key]
	if ok {
		h.set(key, v)
	}
	return v, ok
}

func (h *heads) set(key string, v head) {
	if _, known := h.young[key]; !known {
		const overhead = 96
		if h.bytes += len(key) + overhead; h.bytes > headsBytes || h.young == nil {
			h.young, h.old, h.bytes = make(map[string]head), h.young, len(key)+overhead
			h.turns++
		}
	}
	h.young[key] = v
}

func (h *heads) clear() { *h = heads{turns: h.turns + 1} }
