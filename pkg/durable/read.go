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

// readPage reads a part of a range as of one revision. large loads the values
// that are not in the tables.
func (m *machine) readPage(ctx context.Context, from, to string, most int, large func(context.Context, sum, int64) ([]byte, error)) (Page, error) {
	snapshot := m.db.NewSnapshot()
	defer func() { _ = snapshot.Close() }()
	now, _, err := load(snapshot, m.keys.meta(), decodeMeta)
	if err != nil {
		return Page{}, err
	}
	page := Page{Revision: now.revision}
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
		if len(page.Records) == most || len(page.Records) > 0 && bytes+s.size > pageBytes {
			page.More = true
			return false, nil
		}
		bytes += s.size
		if s.large {
			if s.value, err = large(ctx, s.sum, s.size); err != nil {
				return false, err
			}
		}
		page.Records = append(page.Records, s.public(string(rest(key))))
		return true, ctx.Err()
	})
	return page, err
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
