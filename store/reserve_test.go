package store

import (
	"context"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"yr/pkg/yr"
)

// bring makes a live blob of n bytes, each k, the way the daemon does.
func (x *rig) bring(n uint64, k byte) yr.Place {
	x.t.Helper()
	r, err := x.Reserve(n)
	require.NoError(x.t, err)
	require.Len(x.t, r.Bytes(), int(n))               //nolint:gosec // small
	copy(r.Bytes(), slices.Repeat([]byte{k}, int(n))) //nolint:gosec // small
	require.NoError(x.t, r.Publish())
	return r.Place
}

func (x *rig) reads(p yr.Place, k byte) {
	x.t.Helper()
	b, err := x.Read(p)
	require.NoError(x.t, err)
	require.True(x.t, slices.Equal(slices.Repeat([]byte{k}, int(p.Length)), b), "blob %d", k) //nolint:gosec // small
}

func TestReservedBlobLivesFromPublishToFree(t *testing.T) {
	for _, n := range []uint64{1, 100, 64 * kib, mib - 1, mib, 5*mib + 1} {
		t.Run(bytes(n), func(t *testing.T) {
			x := open(t, Options{Capacity: 64 * mib})
			r, err := x.Reserve(n)
			require.NoError(t, err)
			_, err = x.Read(r.Place)
			code(t, yr.ObjectNotFound, err)
			copy(r.Bytes(), slices.Repeat([]byte{7}, int(n))) //nolint:gosec // small
			require.NoError(t, x.Check())
			require.Equal(t, 0, x.Stats().Objects)
			require.NoError(t, r.Publish())
			x.reads(r.Place, 7)
			require.NoError(t, x.Check())
			require.Equal(t, 1, x.Stats().Objects)

			code(t, yr.ParamInvalid, r.Publish())
			r.Discard() // after Publish: nothing
			x.reads(r.Place, 7)

			lessee, told := x.Free(r.Place)
			require.False(t, told, "%s was to be told of the daemon's own memory", lessee)
			require.Zero(t, x.Stats().Leased, "what is empty is not leased")
			require.NotZero(t, x.Stats().Warm)
		})
	}
}

func TestDiscardGivesTheRoomBack(t *testing.T) {
	x := open(t, Options{Capacity: 4 * mib})
	keep := x.bring(100, 1)
	for range 100 {
		r, err := x.Reserve(600 * kib)
		require.NoError(t, err)
		r.Discard()
		r.Discard()
		code(t, yr.ParamInvalid, r.Publish())
	}
	x.reads(keep, 1)
	require.Equal(t, uint64(mib), x.Stats().Leased)
	x.Free(keep)
	require.Zero(t, x.Stats().Leased)
}

func TestReserveFindsWhatWasFreed(t *testing.T) {
	x := open(t, Options{Capacity: 64 * mib})
	var places []yr.Place
	for k := range 16 { // fill a slab of 1 MiB
		places = append(places, x.bring(64*kib, byte(k)))
	}
	require.Equal(t, uint64(mib), x.Stats().Leased)
	x.Free(places[3])
	x.Free(places[4])
	x.Free(places[9])
	p := x.bring(128*kib, 99) // only the first two freed ones adjoin
	require.Equal(t, places[3].Offset, p.Offset)
	q := x.bring(1, 98)
	require.Equal(t, places[9].Offset, q.Offset)
	require.Equal(t, uint64(mib), x.Stats().Leased)
	x.reads(p, 99)
	x.reads(places[5], 5)
	x.bring(65*kib, 97) // fits in no gap: another slab
	require.Equal(t, uint64(2*mib), x.Stats().Leased)
}

func TestReserveInAFullStore(t *testing.T) {
	x := open(t, Options{Capacity: 8 * mib})
	p := x.bring(5*mib, 1)
	_, err := x.Reserve(5 * mib)
	code(t, yr.StoreFull, err)
	_, err = x.Reserve(0)
	code(t, yr.ParamInvalid, err)
	_, err = x.Reserve(1 << 50)
	code(t, yr.ParamInvalid, err)
	x.Free(p)
	x.bring(7*mib, 2)
}

func TestLargeBlobsGetWarmSegments(t *testing.T) {
	x := open(t, Options{Capacity: 64 * mib})
	p := x.bring(9*mib, 1)
	pages := x.pages()
	x.Free(p)
	require.Equal(t, pages, x.pages(), "pages are kept")
	q := x.bring(9*mib, 2)
	require.Equal(t, p.Segment, q.Segment)
	require.NotEqual(t, p.Generation, q.Generation)
	_, err := x.Read(p)
	code(t, yr.ObjectNotFound, err)
	x.reads(q, 2)
	x.Free(q)
	l := x.lease(alice, 9*mib, 0) // sessions are given it too
	require.Equal(t, p.Segment, l.Segment)
	x.put(alice, l, 0, 9*mib)
}

func TestSectionIsForReadingOnly(t *testing.T) {
	x := open(t, Options{Capacity: 64 * mib})
	x.bring(64, 1)
	p := x.bring(300*kib, 7)
	f, offset, err := x.Section(p)
	require.NoError(t, err)
	defer f.Close()
	got, err := io.ReadAll(io.NewSectionReader(f, offset, int64(p.Length))) //nolint:gosec // small
	require.NoError(t, err)
	require.Equal(t, slices.Repeat([]byte{7}, 300*kib), got)
	_, err = unix.Mmap(int(f.Fd()), 0, mib, unix.PROT_WRITE, unix.MAP_SHARED)
	require.ErrorIs(t, err, unix.EACCES)
	x.Free(p)
	_, _, err = x.Section(p)
	code(t, yr.ObjectNotFound, err)
}

func TestNobodyElseWritesWhereTheDaemonDoes(t *testing.T) {
	x := open(t, Options{Capacity: 64 * mib})
	p := x.bring(64, 1)
	require.False(t, x.Leased(p))
	l := x.lease(alice, 1, 0)
	require.True(t, x.Leased(x.put(alice, l, 0, 64)))
	_, err := x.File(p.Segment, p.Generation, true, alice)
	code(t, yr.Unauthorized, err)
	f, err := x.File(p.Segment, p.Generation, false, alice)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	other := yr.Place{Segment: p.Segment, Generation: p.Generation, Offset: 4096, Length: 64}
	code(t, yr.ParamInvalid, x.Publish(alice, other))
	code(t, yr.ParamInvalid, x.Publish(yr.ID{}, other))
	code(t, yr.ObjectNotFound, x.Announce(other))
	require.NoError(t, x.Announce(p), "what is live may be said again")
	code(t, yr.ParamInvalid, x.Return(alice, p.Segment, p.Generation))
	code(t, yr.ParamInvalid, x.Relet(alice, p.Segment, p.Generation))
}

func TestReservedBlobSurvivesARestart(t *testing.T) {
	kept := parent{}
	before := New(Options{Capacity: 64 * mib, Keep: kept.keep, Drop: kept.drop})
	rig := &rig{Store: before, t: t}
	small, large := rig.bring(1000, 1), rig.bring(3*mib, 2)
	lost := rig.bring(2000, 3)
	require.NoError(t, before.Close(context.Background()))

	x := open(t, Options{Capacity: 64 * mib})
	for name, f := range kept {
		require.NoError(t, x.Adopt(name, f))
	}
	require.NoError(t, x.Announce(small))
	require.NoError(t, x.Announce(large))
	x.EndRecovery()
	x.tick()
	x.reads(small, 1)
	x.reads(large, 2)
	_, err := x.Read(lost)
	code(t, yr.ObjectNotFound, err)
	x.bring(1000, 4)
	x.Free(small)
	x.Free(large)
	require.NoError(t, x.Check())
}

func TestClosingUnderAReservation(t *testing.T) {
	s := New(Options{Capacity: 64 * mib})
	r, err := s.Reserve(8 * mib)
	require.NoError(t, err)
	require.NoError(t, s.Close(context.Background()))
	clear(r.Bytes()) // still mapped
	code(t, yr.Finalized, r.Publish())
	_, err = s.Reserve(1)
	code(t, yr.Finalized, err)
}

// TestReserveAgainstModel: no two blobs ever touch, whatever is reserved,
// published, discarded and freed, and all bytes stay what they were.
func TestReserveAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		x := &rig{Store: New(Options{Capacity: 16 * mib, Headroom: func() (uint64, bool) { return 0, false }}), t: t}
		defer func() { _ = x.Close(context.Background()) }()
		live := map[byte]yr.Place{}
		writing := map[byte]*Reservation{}
		next := byte(0)
		size := rapid.OneOf(rapid.Uint64Range(1, 300), rapid.Uint64Range(1, 400*kib), rapid.Uint64Range(mib, 3*mib))
		rt.Repeat(map[string]func(*rapid.T){
			"reserve": func(rt *rapid.T) {
				r, err := x.Reserve(size.Draw(rt, "size"))
				if err != nil {
					require.Equal(t, yr.StoreFull, yr.CodeOf(err))
					return
				}
				next++
				if _, used := live[next]; used || writing[next] != nil {
					r.Discard()
					return
				}
				r.Bytes()[0], r.Bytes()[r.Place.Length-1] = next, next
				writing[next] = r
			},
			"publish": func(*rapid.T) {
				for k, r := range writing {
					require.NoError(t, r.Publish())
					live[k] = r.Place
					delete(writing, k)
					return
				}
			},
			"discard": func(*rapid.T) {
				for k, r := range writing {
					r.Discard()
					delete(writing, k)
					return
				}
			},
			"free": func(*rapid.T) {
				for k, p := range live {
					x.Free(p)
					delete(live, k)
					return
				}
			},
			"": func(*rapid.T) {
				require.NoError(t, x.Check())
				require.Equal(t, len(live), x.Stats().Objects)
				for k, p := range live {
					b, err := x.Read(p)
					require.NoError(t, err)
					require.Equal(t, []byte{k, k}, []byte{b[0], b[len(b)-1]})
				}
			},
		})
	})
}

func BenchmarkReserve(b *testing.B) {
	for _, c := range []struct {
		name string
		size uint64
	}{{"64KiB", 64 * kib}, {"8MiB warm", 8 * mib}} {
		b.Run(c.name, func(b *testing.B) {
			s := New(Options{Capacity: 256 * mib})
			defer func() { _ = s.Close(context.Background()) }()
			var live [16]yr.Place
			b.SetBytes(int64(c.size)) //nolint:gosec // small
			for i := range b.N {
				at := rand.IntN(len(live))
				s.Free(live[at])
				r, err := s.Reserve(c.size)
				if err != nil {
					b.Fatal(err)
				}
				buf := r.Bytes()
				for k := 0; k < len(buf); k += 64 {
					buf[k] = byte(i)
				}
				live[at] = r.Place
				if err := r.Publish(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestExcessIsWhatIsBeyondThreeQuarters(t *testing.T) {
	x := open(t, Options{Capacity: 16 * mib})
	x.bring(12*mib, 1)
	require.Zero(t, x.Excess())
	x.bring(2*mib, 1)
	require.Equal(t, uint64(2*mib), x.Excess())
}
