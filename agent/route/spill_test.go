package route_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"yr/pkg/wire"
	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
	"yr/store"
)

const mib = 1 << 20

// openDisk gives the node a disk, or the one that it had before a restart.
func (n *node) openDisk() {
	n.t.Helper()
	n.disk = store.NewDisk(store.DiskOptions{Dir: n.spillDir, Capacity: 512 * mib, Log: zerolog.Nop()})
	require.NoError(n.t, n.disk.Open(context.Background()))
}

// swept waits until the disk has given back what was deleted.
func (n *node) swept() {
	n.t.Helper()
	require.Eventually(n.t, func() bool { return n.disk.Stats().Used == 0 }, 5*time.Second, time.Millisecond,
		"the disk holds %+v", n.disk.Stats())
}

// reader is a driver that keeps objects in shared memory as an SDK does: it knows
// where they lie, looks at some, and lets the others go when it is asked.
type reader struct {
	*driver
	views  map[yr.ID]bool
	silent bool // EVICT is read and not answered
	asked  []yr.ID
	slabs  map[yr.Place]*wirepb.Lease // by the place of the one blob in it
	places map[yr.ID]yr.Place         // where objects were put
}

func (n *node) reader() *reader {
	return &reader{driver: n.driver(&wirepb.Hello{Evicts: true}), views: map[yr.ID]bool{}, slabs: map[yr.Place]*wirepb.Lease{}, places: map[yr.ID]yr.Place{}}
}

func (d *reader) wait(what string, ok func() bool) {
	d.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); {
		require.True(d.t, time.Now().Before(end), "waited for %s", what)
		h, body, err := d.next(time.Second)
		if errors.Is(err, errTimeout) {
			continue
		}
		require.NoError(d.t, err, "while waiting for %s", what)
		if h.Type != wire.Evict {
			d.take(h, body)
			d.giveBack()
			continue
		}
		list, err := wire.DecodeIDs(body)
		require.NoError(d.t, err)
		var agreed []yr.ID
		for i := range list.Len() {
			d.asked = append(d.asked, list.At(i))
			if !d.views[list.At(i)] {
				agreed = append(agreed, list.At(i))
			}
		}
		if !d.silent {
			d.send(wire.AppendIDs(nil, wire.Evicted, h.Corr, agreed))
		}
	}
}

// giveBack returns the slabs whose blob was freed.
func (d *reader) giveBack() {
	for _, p := range d.freed {
		if l := d.slabs[p]; l != nil {
			d.send(wire.AppendReturn(nil, l.GetSegment(), l.GetGeneration()))
			delete(d.slabs, p)
		}
	}
	d.freed = nil
}

// lease asks for a slab until there is one, or the answer is final.
func (d *reader) lease(size uint64, patience time.Duration) (*wirepb.Lease, *wirepb.Status) {
	d.t.Helper()
	for end := time.Now().Add(patience); ; {
		d.corr++
		corr := d.corr
		d.send(wire.AppendMessage(nil, wire.Lease, corr, &wirepb.LeaseRequest{Size: size, Wish: size}))
		d.wait("LEASED", func() bool { return d.leased[corr] != nil })
		l := d.leased[corr]
		if l.GetStatus().GetCode() == 0 {
			return l, nil
		}
		if time.Now().After(end) {
			return nil, l.GetStatus()
		}
		d.corr++
		d.pause()
	}
}

// pause handles what comes within a few milliseconds.
func (d *reader) pause() {
	end := time.Now().Add(10 * time.Millisecond)
	for time.Now().Before(end) {
		want := d.pongs + 1
		d.send(wire.AppendEmpty(nil, wire.Ping, 1))
		d.wait("PONG", func() bool { return d.pongs >= want })
	}
}

// content is what an object holds: nothing else holds the same.
func content(id yr.ID, size int) []byte {
	b := bytes.Repeat(id[:], size/len(id)+1)[:size]
	binary.LittleEndian.PutUint64(b, uint64(size)) //nolint:gosec // positive
	return b
}

// put makes an object of its own slab.
func (d *reader) put(size int, inside ...yr.ID) yr.ID {
	d.t.Helper()
	l, refused := d.lease(uint64(size), 15*time.Second) //nolint:gosec // positive
	require.Nil(d.t, refused)
	id := d.id()
	p := yr.Place{Segment: l.GetSegment(), Generation: l.GetGeneration(), Length: uint64(size)} //nolint:gosec // as above
	f, err := d.n.store.File(p.Segment, p.Generation, true, d.prefix.ID(0))
	require.NoError(d.t, err)
	_, err = f.WriteAt(content(id, size), 0)
	require.NoError(d.t, err)
	require.NoError(d.t, f.Close())
	d.slabs[p], d.places[id] = l, p
	v := wire.Value{Kind: wire.Placed, Place: p}
	for _, k := range inside {
		v.Contains = append(v.Contains, k[:]...)
	}
	d.send(wire.AppendObject(nil, wire.PutType, 0, id, &v))
	return id
}

// ask sends a GET and waits for its answer.
func (d *reader) get(id yr.ID) wire.Value {
	d.t.Helper()
	delete(d.objects, id)
	d.send(wire.AppendIDs(nil, wire.Get, 0, []yr.ID{id}))
	d.wait("OBJECT "+id.String(), func() bool { _, ok := d.objects[id]; return ok })
	return d.objects[id].v[0]
}

// reads gets an object, looks at it as long as it takes, and checks what it is.
func (d *reader) reads(id yr.ID, size int) {
	d.t.Helper()
	v := d.get(id)
	require.Equal(d.t, wire.Placed, v.Kind, "%s", v.Data)
	b, err := d.n.store.Read(v.Place)
	require.NoError(d.t, err)
	require.True(d.t, bytes.Equal(content(id, size), b), "object %s", id)
}

func (d *reader) release(ids ...yr.ID) {
	d.send(wire.AppendIDs(nil, wire.Release, 0, ids))
	d.pause()
}

func TestMoreObjectsThanMemoryHolds(t *testing.T) {
	n := newNode(t, cores(1))
	d := n.reader()
	var ids []yr.ID
	for range 64 { // 256 MiB in a store of 64
		ids = append(ids, d.put(4*mib))
	}
	require.GreaterOrEqual(t, n.disk.Stats().Blobs, 45)
	for _, id := range ids {
		d.reads(id, 4*mib)
	}
	require.NoError(t, n.router.Check())
	for _, k := range []int{3, 60, 3, 17, 60} { // and again, in another order
		d.reads(ids[k], 4*mib)
	}
	require.NoError(t, n.disk.Check())
	d.release(ids...)
	n.swept()
	require.Zero(t, n.store.Stats().Live)
}

func TestSmallOnesStayAndOldOnesGoFirst(t *testing.T) {
	n := newNode(t, cores(1))
	d := n.reader()
	small := d.put(60 << 10)
	first, second := d.put(8*mib), d.put(8*mib)
	var later []yr.ID
	d.reads(first, 8*mib) // it is used again
	for range 5 {
		later = append(later, d.put(8*mib))
	}
	d.pause()
	require.NotEmpty(t, d.asked)
	require.Equal(t, second, d.asked[0])
	require.NotContains(t, d.asked, small)
	d.reads(second, 8*mib)
	d.release(append(later, first, second, small)...)
}

func TestWhatIsLookedAtStays(t *testing.T) {
	n := newNode(t, cores(1))
	d := n.reader()
	var ids []yr.ID
	var places []yr.Place
	for k := range 30 {
		id := d.put(4 * mib)
		ids = append(ids, id)
		if k%3 == 0 {
			v := d.get(id)
			d.views[id] = true
			places = append(places, v.Place)
		}
	}
	for k, p := range places {
		require.Equal(t, p, d.get(ids[3*k]).Place, "it has not moved")
		b, err := n.store.Read(p)
		require.NoError(t, err)
		require.True(t, bytes.Equal(content(ids[3*k], 4*mib), b))
	}
	for _, id := range ids {
		d.reads(id, 4*mib)
	}
	for _, id := range ids { // now there is no room for more, whatever is asked
		if n.store.Stats().Live < 48*mib {
			d.get(id)
			d.views[id] = true
		}
	}
	_, refused := d.lease(32*mib, 100*time.Millisecond)
	require.Equal(t, yr.StoreFull, yr.Code(refused.GetCode()), "%s", refused.GetMessage())
	clear(d.views)
	l, refused := d.lease(32*mib, 10*time.Second)
	require.Nil(t, refused)
	d.send(wire.AppendReturn(nil, l.GetSegment(), l.GetGeneration()))
	d.release(ids...)
}

func TestWhoDoesNotAnswerKeepsWhatItHas(t *testing.T) {
	for _, c := range []struct {
		name   string
		evicts bool
	}{{"it is silent", true}, {"it does not know EVICT", false}} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t, cores(1))
			d := n.reader()
			other := &reader{driver: n.driver(&wirepb.Hello{Evicts: c.evicts}), views: map[yr.ID]bool{}, silent: true}
			shared := d.put(8 * mib)
			d.pause()
			other.send(wire.AppendIDs(nil, wire.Retain, 0, []yr.ID{shared}))
			where := other.get(shared).Place
			ids := []yr.ID{shared}
			for range 20 {
				ids = append(ids, d.put(4*mib))
			}
			require.Equal(t, where, d.get(shared).Place)
			require.Equal(t, c.evicts, slices.Contains(d.asked, shared), "nobody is asked in vain")
			require.Equal(t, where, other.get(shared).Place)

			_ = other.nc.Close() // who is gone objects no more
			for end := time.Now().Add(20 * time.Second); d.slabs[where] != nil; {
				require.True(t, time.Now().Before(end), "it stays for ever")
				ids = append(ids, d.put(4*mib))
				d.release(ids[1])
				ids = slices.Delete(ids, 1, 2)
			}
			d.reads(shared, 8*mib)
			d.release(ids...)
		})
	}
}

func TestWhatIsWantedWhileItLeavesStays(t *testing.T) {
	n := newNode(t, cores(1))
	d := n.reader()
	d.silent = true
	var ids []yr.ID
	for range 8 {
		ids = append(ids, d.put(8*mib))
	}
	d.wait("EVICT", func() bool { return len(d.asked) > 0 })
	id := d.asked[0]
	place := d.get(id).Place // the answer to EVICT comes after this
	d.send(wire.AppendIDs(nil, wire.Evicted, 1, d.asked))
	d.pause()
	require.Equal(t, place, d.get(id).Place)
	b, err := n.store.Read(place)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content(id, 8*mib), b))
	d.release(ids...)
}

func TestCallsFindTheirArguments(t *testing.T) {
	n := newNode(t, cores(1))
	d := n.reader()
	f := d.define(&wirepb.Options{Cpu: 1000})
	var ids, calls []yr.ID
	for range 40 {
		ids = append(ids, d.put(4*mib))
		d.pause()
	}
	for k, id := range ids { // what these calls need fills memory five times, and each needs two of it at once
		calls = append(calls, d.call(f, "size", id), d.call(f, "size", id, ids[len(ids)-1-k]))
	}
	d.wait("results", func() bool { return len(d.results) == len(calls) })
	for _, id := range calls {
		require.Zero(t, d.results[id].code, "%s", d.results[id].text)
	}
	require.NoError(t, n.router.Check())
	d.release(ids...)
}

func TestAFullDiskIsSaidAndKeepsWhatIsInMemory(t *testing.T) {
	n := newNode(t, cores(1))
	d := n.reader()
	junk := spillJunk(t, n, 476*mib)
	var ids []yr.ID
	for range 8 {
		ids = append(ids, d.put(6*mib))
	}
	_, refused := d.lease(32*mib, 300*time.Millisecond)
	require.Equal(t, yr.StoreFull, yr.Code(refused.GetCode()))
	require.Contains(t, refused.GetMessage(), "nothing can be moved to disk")
	require.Contains(t, refused.GetMessage(), "are taken")
	for _, id := range ids {
		d.reads(id, 6*mib)
	}
	n.disk.Delete(junk)
	l, refused := d.lease(32*mib, 10*time.Second)
	require.Nil(t, refused)
	d.send(wire.AppendReturn(nil, l.GetSegment(), l.GetGeneration()))
	for _, id := range ids {
		d.reads(id, 6*mib)
	}
	d.release(ids...)
}

func TestAFullDiskAndAFullMemoryAreExchanged(t *testing.T) {
	n := newNode(t, cores(1))
	d := n.reader()
	junk := spillJunk(t, n, 440*mib)
	var ids []yr.ID
	for {
		l, refused := d.lease(4*mib, 500*time.Millisecond)
		if refused != nil {
			require.Contains(t, refused.GetMessage(), "nothing can be moved to disk")
			break
		}
		d.send(wire.AppendReturn(nil, l.GetSegment(), l.GetGeneration()))
		ids = append(ids, d.put(4*mib))
	}
	require.Greater(t, len(ids), 20)
	for range 2 {
		for _, id := range ids {
			d.reads(id, 4*mib)
		}
	}
	n.disk.Delete(junk)
	d.release(ids...)
	n.swept()
}

// zeros reads as nothing but zeros.
type zeros struct{}

func (zeros) ReadAt(b []byte, _ int64) (int, error) {
	clear(b)
	return len(b), nil
}

func spillJunk(t *testing.T, n *node, size int64) store.Spot {
	t.Helper()
	spot, err := n.disk.Put(context.Background(), yr.NewID(), nil, io.NewSectionReader(zeros{}, 0, size))
	require.NoError(t, err)
	return spot
}

func TestACorruptObjectIsLostAloneAndSaysWhy(t *testing.T) {
	n := newNode(t, cores(1))
	d := n.reader()
	var ids []yr.ID
	for range 24 {
		ids = append(ids, d.put(4*mib))
	}
	d.pause()
	require.NotZero(t, n.disk.Stats().Blobs)
	bad := corrupt(t, n.spillDir, ids)
	v := d.get(bad)
	require.Equal(t, wire.Failed, v.Kind)
	require.Equal(t, yr.DiskFailed, v.Code, "%s", v.Data)
	require.Contains(t, string(v.Data), store.ErrCorrupt.Error())
	f := d.define(&wirepb.Options{Cpu: 1000})
	call := d.call(f, "size", bad)
	d.wait("result", func() bool { _, ok := d.results[call]; return ok })
	require.NotZero(t, d.results[call].code)
	for _, id := range ids {
		if id != bad {
			d.reads(id, 4*mib)
		}
	}
	d.release(ids...)
	n.swept()
}

// corrupt flips a bit of one of these objects on disk and says of which.
func corrupt(t *testing.T, dir string, ids []yr.ID) yr.ID {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, id := range ids {
			if at := bytes.Index(b, content(id, 4*mib)[:4096]); at >= 0 {
				b[at+mib] ^= 1
				require.NoError(t, os.WriteFile(path, b, 0o600))
				return id
			}
		}
	}
	t.Fatal("no object is on disk")
	return yr.ID{}
}

func TestSpilledObjectsSurviveARestart(t *testing.T) {
	n := newNode(t, cores(1))
	d := n.reader()
	inside, outer := d.put(4*mib), d.put(4*mib)
	box := d.put(4*mib, inside) // it alone refers to inside from here on
	d.release(inside)
	var ids []yr.ID
	for range 20 {
		ids = append(ids, d.put(4*mib))
	}
	d.wait("the first ones to leave", func() bool {
		d.pause()
		return d.slabs[d.places[inside]] == nil && d.slabs[d.places[outer]] == nil && d.slabs[d.places[box]] == nil
	})

	require.NoError(t, n.disk.Close(context.Background())) // a daemon that is killed deletes nothing
	n.crash(d.driver)
	d.objects = map[yr.ID]outcome{}
	var frames []byte
	frames = wire.AppendIDs(frames, wire.Retain, 0, append([]yr.ID{outer, box}, ids[:4]...))
	frames = wire.AppendIDs(frames, wire.Get, 0, []yr.ID{outer})
	d.slabs = map[yr.Place]*wirepb.Lease{}
	d.resume(nil, frames)
	d.wait("OBJECT", func() bool { _, ok := d.objects[outer]; return ok })
	d.reads(outer, 4*mib)
	d.reads(box, 4*mib)
	d.send(wire.AppendIDs(nil, wire.Retain, 0, []yr.ID{inside}))
	d.reads(inside, 4*mib)
	d.release(append([]yr.ID{outer, box, inside}, ids[:4]...)...)
	n.swept()
}

func TestEvictedThatNobodyAskedFor(t *testing.T) {
	n := newNode(t, cores(1))
	d := n.reader()
	id := d.put(mib)
	place := d.get(id).Place
	d.send(wire.AppendIDs(nil, wire.Evicted, 7, []yr.ID{id, d.id()}))
	d.send(wire.AppendIDs(nil, wire.Evicted, 0, nil))
	require.Equal(t, place, d.get(id).Place)
	d.send(wire.AppendBytes(nil, wire.Evicted, 0, 0, []byte{1, 2}))
	h, _, err := d.next(5 * time.Second)
	require.NoError(t, err)
	require.Equal(t, wire.Reject, h.Type)
}
