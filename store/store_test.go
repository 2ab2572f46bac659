package store

import (
	"context"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"yr/pkg/yr"
)

// rig is a store whose time and machine are the test's.
type rig struct {
	*Store
	t     *testing.T
	ticks chan time.Time
	free  atomic.Uint64 // headroom
}

func open(t *testing.T, opt Options) *rig {
	t.Helper()
	fds := countFds(t)
	x := &rig{t: t, ticks: make(chan time.Time)}
	x.free.Store(1 << 40)
	opt.Ticks = x.ticks
	opt.Headroom = func() (uint64, bool) { return x.free.Load(), true }
	x.Store = New(opt)
	require.NoError(t, x.Open(context.Background()))
	t.Cleanup(func() {
		require.NoError(t, x.Check())
		require.NoError(t, x.Close(context.Background()))
		goleak.VerifyNone(t)
		require.LessOrEqual(t, countFds(t), fds, "descriptors leaked")
	})
	return x
}

func countFds(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(d)
}

// tick lets TrimEvery pass twice: when it returns, the first tick's work is done.
func (x *rig) tick() {
	x.ticks <- time.Time{}
	x.ticks <- time.Time{}
}

func (x *rig) lease(h yr.ID, size, wish uint64) Lease {
	x.t.Helper()
	l, err := x.Lease(h, size, wish)
	require.NoError(x.t, err)
	return l
}

// write fills [offset, offset+n) of a leased segment the way a client does.
func (x *rig) write(h yr.ID, l Lease, offset, n uint64) {
	x.t.Helper()
	f, err := x.File(l.Segment, l.Generation, true, h)
	require.NoError(x.t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte(fill(n)), int64(offset)) //nolint:gosec // below 2^63
	require.NoError(x.t, err)
}

// fill is what write writes.
func fill(n uint64) string { return strings.Repeat("x", int(n)) } //nolint:gosec // as above

// put writes and publishes a blob.
func (x *rig) put(h yr.ID, l Lease, offset, n uint64) yr.Place {
	x.t.Helper()
	x.write(h, l, offset, n)
	p := yr.Place{Segment: l.Segment, Generation: l.Generation, Offset: offset, Length: n}
	require.NoError(x.t, x.Publish(h, p))
	return p
}

// pages is the memory that all segments occupy.
func (x *rig) pages() uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	var n uint64
	for _, g := range x.segments {
		n += resident(g.file)
	}
	for _, g := range x.doomed {
		n += resident(g.file)
	}
	return n
}

var alice, bob = session(1), session(2)

func TestPublishReadFree(t *testing.T) {
	x := open(t, Options{Capacity: 64 * mib})
	l := x.lease(alice, 100, 0)
	require.Equal(t, uint64(MinSlab), l.Size, "the first slab is small")
	p := x.put(alice, l, 128, 1000)
	b, err := x.Read(p)
	require.NoError(t, err)
	require.Equal(t, fill(1000), string(b))
	require.Equal(t, yr.StoreView{Capacity: 64 * mib, Leased: mib, Live: 1000, Segments: 1, Objects: 1}, x.Stats())
	lessee, ok := x.Free(p)
	require.True(t, ok)
	require.Equal(t, alice, lessee)
	_, ok = x.Free(p)
	require.False(t, ok, "freed twice")
	_, err = x.Read(p)
	code(t, yr.ObjectNotFound, err)
	require.NoError(t, x.Publish(alice, p), "the space may be used again")
}

func TestPublishRefuses(t *testing.T) {
	x := open(t, Options{Capacity: 64 * mib})
	l := x.lease(alice, 1, 0)
	x.put(alice, l, 4096, 4096)
	cases := []struct {
		name   string
		holder yr.ID
		change func(*yr.Place)
		text   string
	}{
		{"another session's lease", bob, func(*yr.Place) {}, "not leased to session"},
		{"another segment", alice, func(p *yr.Place) { p.Segment++ }, "not leased"},
		{"an old generation", alice, func(p *yr.Place) { p.Generation-- }, "not leased"},
		{"no bytes", alice, func(p *yr.Place) { p.Length = 0 }, "at least one byte"},
		{"unaligned", alice, func(p *yr.Place) { p.Offset = 32 }, "not a multiple of 64"},
		{"past the end", alice, func(p *yr.Place) { p.Offset, p.Length = mib-64, 65 }, "ends behind"},
		{"past 2^64", alice, func(p *yr.Place) { p.Offset, p.Length = 64, 1<<64-1 }, "ends behind"},
		{"over the same blob", alice, func(p *yr.Place) { p.Offset = 4096 }, "overlaps"},
		{"over its first byte", alice, func(p *yr.Place) { p.Offset, p.Length = 0, 4097 }, "overlaps"},
		{"over its last granule", alice, func(p *yr.Place) { p.Offset = 8192 - 64 }, "overlaps"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := yr.Place{Segment: l.Segment, Generation: l.Generation, Length: 100}
			c.change(&p)
			err := x.Publish(c.holder, p)
			code(t, yr.ParamInvalid, err)
			require.ErrorContains(t, err, c.text)
		})
	}
	require.Equal(t, 1, x.Stats().Objects)
}

func TestLeaseSizesDoubleWithUse(t *testing.T) {
	x := open(t, Options{Capacity: 1 * gib})
	var sizes []uint64
	for range 8 {
		sizes = append(sizes, x.lease(alice, 1000, 0).Size/mib)
	}
	require.Equal(t, []uint64{1, 2, 4, 8, 16, 32, 64, 64}, sizes)
	require.Equal(t, uint64(1), x.lease(bob, 1000, 0).Size/mib, "sessions grow on their own")
	require.Equal(t, uint64(12), x.lease(bob, 1000, 12*mib).Size/mib, "a wish is granted")
	require.Equal(t, uint64(64), x.lease(bob, 1000, 512*mib).Size/mib, "up to MaxSlab")
	require.Equal(t, uint64(112), x.lease(bob, 100*mib, 0).Size/mib, "a large blob gets its own segment")
}

func TestSizeClasses(t *testing.T) {
	for _, c := range [][2]uint64{
		{1, mib}, {mib, mib}, {mib + 192, mib + 256*kib}, {2*mib - 1, 2 * mib}, {2*mib + 1, 2*mib + 512*kib}, {3 * mib, 3 * mib},
		{4*mib + 1, 5 * mib}, {5*mib + 1, 6 * mib}, {9 * mib, 10 * mib},
		{64 * mib, 64 * mib}, {65 * mib, 80 * mib}, {97 * mib, 112 * mib}, {gib, gib}, {gib + 1, gib + 256*mib},
	} {
		require.Equal(t, c[1], class(c[0]), "class(%d)", c[0])
		require.Equal(t, class(c[0]), class(class(c[0])), "a class is its own class")
	}
}

func TestStoreFullSaysWhatToDo(t *testing.T) {
	x := open(t, Options{Capacity: 8 * mib})
	for range 3 {
		l := x.lease(alice, 1, 0) // 1 + 2 + 4
		x.put(alice, l, 0, 1000)
	}
	require.Equal(t, uint64(1), x.lease(alice, 1, 0).Size/mib, "little room makes small slabs")
	_, err := x.Lease(bob, 2*mib, 0)
	code(t, yr.StoreFull, err)
	require.EqualError(t, err, "lease 2.0 MiB of shared memory: the capacity is 8.0 MiB, 8.0 MiB are in use by 3 objects "+
		"(3000 bytes) in 4 segments; release references, or start with a larger values.shared_memory_num")
	<-x.Short()
	_, err = x.Lease(bob, 9*mib, 0)
	code(t, yr.StoreFull, err)
	require.ErrorContains(t, err, "can never fit")
	require.NotContains(t, x.holders, bob, "a failed lease leaves no trace")
	x.EndHolder(alice)
	require.Equal(t, uint64(1), x.lease(bob, 1, 0).Size/mib)
}

func TestAnOddBlobMayFillTheStore(t *testing.T) {
	x := open(t, Options{Capacity: 100 * mib})
	require.Equal(t, uint64(100*mib), x.lease(alice, 100*mib, 0).Size, "the class of 112 MiB would not fit")
}

func TestSegmentsAreReusedUnderANewGeneration(t *testing.T) {
	x := open(t, Options{Capacity: 256 * mib})
	first := x.lease(alice, 8*mib, 0)
	p := x.put(alice, first, 0, 4096)
	x.Free(p)
	require.NoError(t, x.Return(alice, first.Segment, first.Generation))
	code(t, yr.ParamInvalid, x.Return(alice, first.Segment, first.Generation))
	require.Equal(t, uint64(8*mib), x.Stats().Warm)

	other := x.lease(bob, 8*mib, 0)
	require.NotEqual(t, first.Segment, other.Segment, "alice lives and may still write to what she returned")
	again := x.lease(alice, 8*mib, 0)
	require.Equal(t, Lease{first.Segment, first.Generation + 1, 8 * mib}, again)
	_, err := x.File(first.Segment, first.Generation, false, bob)
	code(t, yr.ObjectNotFound, err)
	code(t, yr.ParamInvalid, x.Publish(alice, p))
	x.EndHolder(alice)
	require.Equal(t, Lease{first.Segment, first.Generation + 2, 8 * mib}, x.lease(bob, 8*mib, 0), "alice has ended")
}

func TestAnEndedSessionsBlobsLiveOnAndTheRestIsGivenBack(t *testing.T) {
	x := open(t, Options{Capacity: 256 * mib})
	l := x.lease(alice, 32*mib, 0)
	x.write(alice, l, 0, 32*mib)
	p := yr.Place{Segment: l.Segment, Generation: l.Generation, Offset: 8 * mib, Length: 10_000}
	q := p
	q.Offset += 4 * mib
	require.NoError(t, x.Publish(alice, p))
	require.NoError(t, x.Publish(alice, q))
	require.Equal(t, uint64(32*mib), x.pages())
	x.EndHolder(alice)
	x.tick()
	require.Equal(t, uint64(2*3*pageSize), x.pages(), "only the pages of the two blobs are left")
	require.Equal(t, uint64(2*3*pageSize), x.charged, "and only they are counted")

	_, ok := x.Free(p)
	require.False(t, ok, "there is no lessee to tell")
	x.tick()
	require.Equal(t, uint64(3*pageSize), x.pages())
	b, err := x.Read(q)
	require.NoError(t, err)
	require.Equal(t, fill(10_000), string(b))

	l2 := x.lease(bob, 250*mib, 0)
	require.Equal(t, uint64(250*mib), roundDown(l2.Size, mib), "what was punched out can be leased again")
	require.NoError(t, x.Return(bob, l2.Segment, l2.Generation))
	x.Free(q)
	x.tick()
	require.Zero(t, x.pages())
	require.Zero(t, x.charged)
	require.Zero(t, x.Stats().Segments, "a segment with holes is not leased again")
}

func TestWarmSegmentsAreTrimmedAfterAPeak(t *testing.T) {
	x := open(t, Options{Capacity: 1 * gib, WarmLow: 16 * mib, WarmHigh: 64 * mib})
	round := func() {
		for k := range 12 {
			x.write(session(k), x.lease(session(k), 8*mib, 0), 0, 8*mib)
		}
		for k := range 12 {
			x.EndHolder(session(k))
		}
	}
	round()
	x.tick()
	x.tick()
	require.LessOrEqual(t, x.Stats().Warm, uint64(16*mib), "idle for a whole period: back to WarmLow")
	require.LessOrEqual(t, x.pages(), uint64(16*mib))
	require.Positive(t, x.Stats().Warm)

	round()
	x.ticks <- time.Time{} // the tick ends a period in which everything was in use
	require.Eventually(t, func() bool { return x.Stats().Warm <= 64*mib }, 5*time.Second, time.Millisecond)
	require.Greater(t, x.Stats().Warm, uint64(16*mib), "used in this period: kept up to WarmHigh")
}

func TestFreeSegmentsMakeRoomForOthers(t *testing.T) {
	x := open(t, Options{Capacity: 64 * mib, WarmHigh: 16 * mib})
	for range 5 {
		l := x.lease(alice, 8*mib, 0)
		x.write(alice, l, 0, l.Size)
		require.NoError(t, x.Return(alice, l.Segment, l.Generation))
		l = x.lease(bob, 60*mib, 0)
		x.write(bob, l, 0, l.Size)
		require.LessOrEqual(t, x.pages(), uint64(80*mib), "capacity + WarmHigh")
		require.NoError(t, x.Check())
		require.NoError(t, x.Return(bob, l.Segment, l.Generation))
	}
}

func TestGrowthStopsBelowTheMemoryLimit(t *testing.T) {
	x := open(t, Options{Capacity: 1 * gib})
	x.free.Store(20 * mib)
	x.tick()
	l := x.lease(alice, 16*mib, 0)
	x.write(alice, l, 0, 8*mib)
	x.free.Store(12 * mib) // as the kernel would say now: 8 MiB are used, 8 of the 12 are promised
	_, err := x.Lease(bob, 8*mib, 0)
	code(t, yr.StoreFull, err)
	require.ErrorContains(t, err, "the capacity is 20.0 MiB (of 1024.0 MiB configured; the memory limit of this machine or container leaves no more)")
	x.lease(bob, 4*mib, 0)
	x.free.Store(1 * gib) // somebody else ended; no tick is needed to see it
	x.lease(bob, 64*mib, 0)
}

func TestClientsCannotBreakASegment(t *testing.T) {
	x := open(t, Options{Capacity: 64 * mib})
	l := x.lease(alice, 1, 0)
	p := x.put(alice, l, 0, 100)
	_, err := x.File(l.Segment, l.Generation, true, bob)
	code(t, yr.Unauthorized, err)

	ro, err := x.File(l.Segment, l.Generation, false, bob)
	require.NoError(t, err)
	defer ro.Close()
	_, err = ro.WriteAt([]byte("scribble"), 0)
	require.Error(t, err)
	_, err = unix.Mmap(int(ro.Fd()), 0, mib, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	require.ErrorIs(t, err, unix.EACCES)
	require.Error(t, ro.Truncate(0))

	rw, err := x.File(l.Segment, l.Generation, true, alice)
	require.NoError(t, err)
	defer rw.Close()
	require.ErrorIs(t, rw.Truncate(0), unix.EPERM, "sealed against shrinking")
	require.ErrorIs(t, rw.Truncate(2*mib), unix.EPERM, "and growing")
	_, err = unix.FcntlInt(rw.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE)
	require.ErrorIs(t, err, unix.EPERM, "and more seals")
	b, err := x.Read(p)
	require.NoError(t, err)
	require.Len(t, b, 100)
}

// parent keeps segments as the parent process does.
type parent map[string]*os.File

func (k parent) keep(name string, f *os.File) (err error) {
	k[name], err = writable(f)
	return err
}

func (k parent) drop(name string) {
	_ = k[name].Close()
	delete(k, name)
}

func TestSegmentsSurviveARestart(t *testing.T) {
	kept := parent{}
	before := New(Options{Capacity: 256 * mib, Keep: kept.keep, Drop: kept.drop})
	x := &rig{Store: before, t: t}
	warm := x.lease(alice, 1, 0)
	require.NoError(t, x.Return(alice, warm.Segment, warm.Generation))
	mine := x.lease(alice, 1, 0) // the warm one again, under a new name
	p := x.put(alice, mine, 0, 5000)
	theirs := x.lease(bob, 4*mib, 0)
	q := x.put(bob, theirs, 64, 6000)
	lost := x.put(bob, theirs, mib, 7000)
	require.Len(t, kept, 2)
	require.NoError(t, before.Close(context.Background()))

	y := open(t, Options{Capacity: 256 * mib, Drop: func(name string) { delete(kept, name) }})
	for name, f := range kept {
		require.NoError(t, y.Adopt(name, f))
	}
	y.tick() // nothing is given back before sessions are back
	require.NoError(t, y.Relet(alice, mine.Segment, mine.Generation))
	require.NoError(t, y.Relet(alice, mine.Segment, mine.Generation), "again")
	code(t, yr.ParamInvalid, y.Relet(bob, mine.Segment, mine.Generation))
	code(t, yr.ObjectNotFound, y.Relet(bob, mine.Segment, mine.Generation+1))
	require.NoError(t, y.Announce(p))
	require.NoError(t, y.Announce(p), "again")
	require.NoError(t, y.Announce(q), "by whoever refers to it; bob is dead")
	y.EndRecovery()
	y.tick()
	code(t, yr.ObjectNotFound, y.Announce(lost))
	require.NoError(t, y.Announce(q))
	for _, blob := range []yr.Place{p, q} {
		b, err := y.Read(blob)
		require.NoError(t, err)
		require.Equal(t, fill(blob.Length), string(b))
	}
	l := y.lease(bob, 4*mib, 0)
	require.NotEqual(t, theirs.Segment, l.Segment)
	y.put(alice, mine, 8192, 100)
	y.Free(q)
	y.tick()
	require.Len(t, kept, 1, "the drained segment of the earlier daemon is dropped")
}

func TestAdoptRefuses(t *testing.T) {
	x := open(t, Options{Capacity: 64 * mib})
	good, err := newMemfd("good", mib)
	require.NoError(t, err)
	require.NoError(t, x.Adopt("seg-7-1-1048576", good))
	for _, c := range []struct {
		name, as string
		size     uint64
		text     string
	}{
		{"twice", "seg-7-1-1048576", mib, "already"},
		{"another size", "seg-8-1-2097152", mib, "its name says"},
		{"no segment name", "listener-1", mib, "listener-1"},
		{"a sloppy name", "seg-08-1-1048576", mib, "is not seg-"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := newMemfd("x", c.size)
			require.NoError(t, err)
			require.ErrorContains(t, x.Adopt(c.as, f), c.text)
		})
	}
	unsealed, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)
	require.Error(t, x.Adopt("seg-9-1-1048576", unsealed))
	x.EndRecovery()
	late, err := newMemfd("late", mib)
	require.NoError(t, err)
	require.ErrorContains(t, x.Adopt("seg-10-1-1048576", late), "recovery is over")
}

func TestShortIsSaidOnceUntilThereIsRoom(t *testing.T) {
	x := open(t, Options{Capacity: 64 * mib})
	said := func() bool {
		select {
		case <-x.Short():
			return true
		default:
			return false
		}
	}
	for range 7 {
		x.lease(alice, 8*mib, 8*mib)
	}
	require.False(t, said())
	for range 4 {
		x.lease(bob, mib, mib)
	}
	require.True(t, said(), "more than seven eighths are leased")
	x.lease(bob, mib, mib)
	require.False(t, said(), "it was said already")
	x.EndHolder(alice)
	x.lease(bob, mib, mib)
	x.lease(alice, 56*mib, 56*mib)
	require.True(t, said(), "short again")
}

func TestOutOfDescriptorsIsATypedError(t *testing.T) {
	x := open(t, Options{Capacity: 64 * mib})
	var was unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &was))
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: was.Max}))
	_, err := x.Lease(alice, 1, 0)
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &was))
	code(t, yr.StoreFull, err)
	require.ErrorContains(t, err, "ulimit -n")
	require.NotContains(t, x.holders, alice)
	x.lease(alice, 1, 0)
}

func TestAParentThatKeepsNothingIsNoReasonToFail(t *testing.T) {
	x := open(t, Options{Capacity: 64 * mib, Keep: func(string, *os.File) error { return os.ErrClosed }})
	x.put(alice, x.lease(alice, 1, 0), 0, 100)
}

func TestAnIdleStoreHoldsNothing(t *testing.T) {
	x := open(t, Options{Capacity: 1 * gib})
	require.Zero(t, x.pages())
	require.Equal(t, yr.StoreView{Capacity: 1 * gib}, x.Stats())
}
