package durable

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func sampleEntry() *entry {
	return &entry{now: 5, pins: 3, ops: []op{
		{kind: opTxn, request: request{client: clientID{1, 2}, sequence: 9, seen: 4},
			conditions: []Condition{{Key: "a", Revision: 1}, {Lease: 7}},
			writes: []write{
				{Write: Write{Key: "a", Value: []byte("value"), Lease: 7, TTL: time.Second}, size: 5},
				{Write: Write{Key: "b", Delete: true}},
				{Write: Write{Key: "c"}, large: true, sum: sum{1}, size: 1 << 20},
			}},
		{kind: opGrant, ttl: time.Minute}, {kind: opRenew, lease: 7}, {kind: opRevoke, lease: 7}, {kind: opExpire},
	}}
}

func TestEntryRoundTrip(t *testing.T) {
	b := appendEntry(nil, sampleEntry())
	e, err := decodeEntry(b)
	require.NoError(t, err)
	require.Equal(t, sampleEntry(), e)
	for n := range b {
		_, err := decodeEntry(b[:n])
		require.ErrorIs(t, err, ErrFormat, "cut after %d bytes", n)
	}
	b[0]++
	_, err = decodeEntry(b)
	require.ErrorIs(t, err, ErrFormat, "a newer version is refused, not guessed at")
}

// FuzzEntry: what is accepted is applied without harm, and is what it says it is.
func FuzzEntry(f *testing.F) {
	f.Add(appendEntry(nil, sampleEntry()))
	f.Add(appendEntry(nil, &entry{}))
	m := NewMemory()
	m.Clock = newTestClock() // nothing ends by itself: only this test applies
	if err := m.Open(f.Context()); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = m.Close(context.Background()) })
	index := uint64(0)
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEntry(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatal(err)
			}
			return
		}
		again, err := decodeEntry(appendEntry(nil, e))
		require.NoError(t, err)
		require.Equal(t, e, again)
		index++
		_, err = m.m.apply(index, 1, e)
		require.NoError(t, err)
	})
}

// FuzzTables: no stored bytes make a reader panic, and what is accepted is written the same.
func FuzzTables(f *testing.F) {
	s := stored{revision: 9, created: 8, lease: 1, expires: 5, value: []byte("v"), size: 1}
	l := stored{revision: 9, created: 8, large: true, sum: sum{1}, size: 1 << 20}
	f.Add(s.encode(nil))
	f.Add(l.encode(nil))
	f.Add(appendEvent(nil, "key", &s))
	f.Add(appendEvent(nil, "key", nil))
	f.Add((&meta{revision: 3}).encode())
	f.Add((&leaseState{ttl: 1}).encode())
	f.Add((&blobState{records: 1}).encode())
	f.Add((&answer{ok: true}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := decodeStored(b); err == nil {
			again, err := decodeStored(v.encode(nil))
			require.NoError(t, err)
			require.Equal(t, v, again)
		}
		_, _ = decodeEvent(1, b)
		if v, err := decodeMeta(b); err == nil {
			require.Equal(t, b, v.encode())
		}
		if v, err := decodeLease(b); err == nil {
			require.Equal(t, b, v.encode())
		}
		if v, err := decodeBlob(b); err == nil {
			require.Equal(t, b, v.encode())
		}
		if v, err := decodeAnswer(b); err == nil {
			require.Equal(t, b, v.encode())
		}
	})
}

func sampleStream(t testing.TB) []byte {
	dir := t.TempDir()
	for name, content := range map[string]string{"000001.sst": "table", "empty": ""} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	h := streamHeader{Group: 3, Index: 7, Term: 2, Revision: 5}
	require.NoError(t, h.add(tablesPart, dir, anyFile))
	var b bytes.Buffer
	require.NoError(t, writeStream(&b, &h))
	size, err := h.size()
	require.NoError(t, err)
	require.Equal(t, size, int64(b.Len()))
	return b.Bytes()
}

func TestStreamRefusesWhatIsDamaged(t *testing.T) {
	b := sampleStream(t)
	_, err := unpack(bytes.NewReader(b), 3, t.TempDir())
	require.NoError(t, err)
	for n := range b {
		_, err := unpack(bytes.NewReader(b[:n]), 3, filepath.Join(t.TempDir(), "cut"))
		require.Error(t, err, "cut after %d bytes", n)
	}
	for _, name := range []string{"../../etc/passwd", "tables/../x", "tables/", "other/x", "/tables/x"} {
		h := streamHeader{Group: 3, Files: []streamFile{{Name: name}}}
		begin, err := h.begin()
		require.NoError(t, err)
		_, err = unpack(bytes.NewReader(append(begin, 0, 0, 0, 0)), 3, t.TempDir())
		require.ErrorIs(t, err, ErrFormat, name)
	}
}

// FuzzStream: no stream makes the reader panic or write outside its place.
func FuzzStream(f *testing.F) {
	f.Add(sampleStream(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := readStream(bytes.NewReader(b), 3, func(name string) (io.WriteCloser, error) {
			if !strings.HasPrefix(name, tablesPart) && !strings.HasPrefix(name, blobsPart) || strings.Count(name, "/") != 1 || strings.HasSuffix(name, "/..") {
				t.Fatalf("a file %q", name)
			}
			return nopCloser{io.Discard}, nil
		})
		if err != nil && !errors.Is(err, ErrFormat) && !errors.Is(err, ErrCorrupt) {
			t.Fatal(err)
		}
	})
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
