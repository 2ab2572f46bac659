package store

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"yr/pkg/yr"
)

const (
	waitFor = 10 * time.Second
	poll    = time.Millisecond
)

// TestSessionsInParallel has sessions lease, publish, free, return and end at the
// same time, in a store that is too small for all of them, with the janitor at work.
func TestSessionsInParallel(t *testing.T) {
	x := open(t, Options{Capacity: 24 * mib, WarmLow: 1 * mib, WarmHigh: 4 * mib})
	var ticker, clients sync.WaitGroup
	stop := make(chan struct{})
	ticker.Go(func() {
		for {
			select {
			case x.ticks <- time.Time{}:
			case <-stop:
				return
			}
		}
	})
	for k := range 4 {
		clients.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(k), 1)) //nolint:gosec // a test
			var orphans []yr.Place
			for range 60 {
				orphans = append(orphans, oneSession(t, x, session(k), rng)...)
				if len(orphans) > 8 {
					for _, p := range orphans {
						x.Free(p)
					}
					orphans = nil
				}
			}
			for _, p := range orphans {
				x.Free(p)
			}
		})
	}
	clients.Wait()
	close(stop)
	ticker.Wait()
	x.tick()
	require.NoError(t, x.Check())
	require.Zero(t, x.Stats().Objects)
	require.Zero(t, x.Stats().Leased)
}

// oneSession lives, and leaves some blobs behind.
func oneSession(t *testing.T, x *rig, id yr.ID, rng *rand.Rand) (left []yr.Place) {
	for range 3 {
		l, err := x.Lease(id, 1+rng.Uint64N(3*mib), 0)
		if err != nil {
			require.Equal(t, yr.StoreFull, yr.CodeOf(err))
			continue
		}
		for offset := uint64(0); offset+9000 < l.Size; offset += l.Size / 4 {
			p := yr.Place{Segment: l.Segment, Generation: l.Generation, Offset: offset, Length: 9000}
			x.write(id, l, offset, 9000)
			require.NoError(t, x.Publish(id, p))
			if rng.IntN(3) == 0 {
				left = append(left, p)
				continue
			}
			lessee, ok := x.Free(p)
			require.True(t, ok)
			require.Equal(t, id, lessee)
		}
		if rng.IntN(2) == 0 {
			require.NoError(t, x.Return(id, l.Segment, l.Generation))
		}
	}
	x.EndHolder(id)
	for _, p := range left {
		b, err := x.Read(p)
		require.NoError(t, err)
		require.Equal(t, fill(9000), string(b))
	}
	return left
}

// TestStoreKeepsItsPromises drives the store at random and checks every invariant
// after every step; live blobs keep their bytes whatever happens around them.
func TestStoreKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ticks := make(chan time.Time)
		s := New(Options{Capacity: 12 * mib, WarmLow: mib, WarmHigh: 3 * mib, Ticks: ticks, Headroom: func() (uint64, bool) { return 0, false }})
		x := &rig{Store: s, t: t, ticks: ticks}
		require.NoError(rt, s.Open(t.Context()))
		defer func() { require.NoError(rt, s.Close(t.Context())) }()
		leases := map[Lease]yr.ID{}
		live := map[yr.Place]bool{}
		pickLease := func(rt *rapid.T) (Lease, yr.ID) {
			for l, id := range leases {
				return l, id
			}
			rt.Skip()
			return Lease{}, yr.ID{}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"lease": func(rt *rapid.T) {
				id := session(rapid.IntRange(0, 2).Draw(rt, "session"))
				size := rapid.Uint64Range(1, 5*mib).Draw(rt, "size")
				l, err := s.Lease(id, size, rapid.Uint64Range(0, 8*mib).Draw(rt, "wish"))
				if err != nil {
					require.Equal(rt, yr.StoreFull, yr.CodeOf(err))
					return
				}
				require.GreaterOrEqual(rt, l.Size, size)
				require.NotContains(rt, leases, l)
				leases[l] = id
			},
			"publish": func(rt *rapid.T) {
				l, id := pickLease(rt)
				p := yr.Place{Segment: l.Segment, Generation: l.Generation}
				p.Offset = rapid.Uint64Range(0, l.Size/Granule-1).Draw(rt, "granule") * Granule
				p.Length = rapid.Uint64Range(1, min(l.Size-p.Offset, 20_000)).Draw(rt, "length")
				if s.Publish(id, p) == nil {
					x.write(id, l, p.Offset, p.Length)
					live[p] = true
				}
			},
			"free": func(rt *rapid.T) {
				for p := range live {
					s.Free(p)
					delete(live, p)
					return
				}
			},
			"return": func(rt *rapid.T) {
				l, id := pickLease(rt)
				require.NoError(rt, s.Return(id, l.Segment, l.Generation))
				delete(leases, l)
			},
			"end": func(rt *rapid.T) {
				id := session(rapid.IntRange(0, 2).Draw(rt, "session"))
				s.EndHolder(id)
				for l, of := range leases {
					if of == id {
						delete(leases, l)
					}
				}
			},
			"tick": func(*rapid.T) { x.tick() },
			"": func(rt *rapid.T) {
				require.NoError(rt, s.Check())
				require.Equal(rt, len(live), s.Stats().Objects)
				for p := range live {
					b, err := s.Read(p)
					require.NoError(rt, err)
					require.Equal(rt, fill(p.Length), string(b), "%+v", p)
				}
			},
		})
	})
}

func BenchmarkPublishFree(b *testing.B) {
	s := New(Options{Capacity: gib})
	defer s.Close(b.Context())
	l, err := s.Lease(alice, 1, 64*mib)
	require.NoError(b, err)
	const window = 32 << 10 // live at a time
	place := func(i int) yr.Place {
		return yr.Place{Segment: l.Segment, Generation: l.Generation, Offset: uint64(i%(2*window)) * 1024, Length: 1000} //nolint:gosec // never negative
	}
	b.ReportAllocs()
	for i := range b.N {
		if s.Publish(alice, place(i)) != nil {
			b.Fatal("refused")
		}
		if i >= window {
			s.Free(place(i - window))
		}
	}
}

func BenchmarkLease(b *testing.B) {
	for _, c := range []struct {
		name string
		warm uint64
	}{{"warm", DefaultWarmHigh}, {"cold", 1}} {
		b.Run(c.name, func(b *testing.B) {
			s := New(Options{Capacity: gib, WarmHigh: c.warm})
			require.NoError(b, s.Open(b.Context()))
			defer s.Close(b.Context())
			b.ReportAllocs()
			for range b.N {
				l, err := s.Lease(alice, 1, 0)
				if err != nil {
					b.Fatal(err)
				}
				_ = s.Return(alice, l.Segment, l.Generation)
			}
		})
	}
}
