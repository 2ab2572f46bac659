package durable

import (
	"context"

	"github.com/cockroachdb/pebble/v2"
)

// pageBytes is about how many bytes of values a Page has.
const pageBytes = 4 << 20

// read finds a record in the tables.
func (m *machine) read(key string) (stored, bool, error) {
	return load(m.db, m.keys.record(key), copyStored)
}

// found is a part of a range whose large values are not loaded yet.
type found struct {
	keys     []string
	records  []stored
	more     bool
	revision Revision
}

// readPage reads a part of a range as of one revision.
func (m *machine) readPage(ctx context.Context, from, to string, most int) (f found, err error) {
	snapshot := m.db.NewSnapshot()
	defer func() { _ = snapshot.Close() }()
	now, _, err := load(snapshot, m.keys.meta(), decodeMeta)
	if err != nil {
		return f, err
	}
	f.revision = now.revision
	lower := m.keys.record(from)
	_, upper := m.keys.bounds(tableRecord)
	if to != "" {
		upper = m.keys.record(to)
	}
	bytes := int64(0)
	err = scan(snapshot, lower, upper, func(key, value []byte) (bool, error) {
		s, err := copyStored(value)
		if err != nil {
			return false, err
		}
		if len(f.records) == most || len(f.records) > 0 && bytes+s.size > pageBytes {
			f.more = true
			return false, nil
		}
		bytes += s.size
		f.keys, f.records = append(f.keys, string(rest(key))), append(f.records, s)
		return true, ctx.Err()
	})
	return f, err
}

// page loads the large values. It is called without holding anything: they may come
// from another voter.
func (f *found) page(large func(sum) ([]byte, error)) (Page, error) {
	p := Page{Records: make([]Record, len(f.records)), More: f.more, Revision: f.revision}
	for i := range f.records {
		s := &f.records[i]
		if s.large {
			var err error
			if s.value, err = large(s.sum); err != nil {
				return Page{}, err
			}
		}
		p.Records[i] = s.public(f.keys[i])
	}
	return p, nil
}

// readHistory reads whole revisions after `after` and up to `to`, at least one if
// there is one, and says how far it came. It fails with ErrCompacted.
func (m *machine) readHistory(prefix string, after, to Revision) (events []Event, upTo Revision, err error) {
	snapshot := m.db.NewSnapshot()
	defer func() { _ = snapshot.Close() }()
	now, _, err := load(snapshot, m.keys.meta(), decodeMeta)
	if err != nil {
		return nil, 0, err
	}
	if after < now.compacted {
		return nil, 0, detail(ErrCompacted, "revision %d is asked for, history begins after %d", after, now.compacted)
	}
	upTo = to
	bytes := int64(0)
	err = scan(snapshot, m.keys.history(after+1, 0), m.keys.history(to+1, 0), func(key, value []byte) (bool, error) {
		r := &reader{b: rest(key)}
		e, err := decodeEvent(Revision(r.u64()), value)
		if err != nil {
			return false, err
		}
		if bytes > pageBytes && e.Revision != events[len(events)-1].Revision {
			upTo = e.Revision - 1
			return false, nil
		}
		if hasPrefix(e.Key, prefix) {
			events = append(events, e)
			bytes += e.Size + int64(len(e.Key))
		}
		return true, nil
	})
	return events, upTo, err
}

func hasPrefix(key, prefix string) bool {
	return len(key) >= len(prefix) && key[:len(prefix)] == prefix
}

// blobs calls f with every large value that records have.
func (m *machine) blobs(from pebble.Reader, f func(sum, blobState) error) error {
	lower, upper := m.keys.bounds(tableBlob)
	return scan(from, lower, upper, func(key, value []byte) (bool, error) {
		s, err := decodeBlob(value)
		if err != nil {
			return false, err
		}
		return true, f(sum(rest(key)), s)
	})
}
