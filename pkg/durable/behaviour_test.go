package durable

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// stores are the implementations that every behaviour test runs against. open
// returns the Store and moves its leader's clock.
var stores = []struct {
	name string
	open func(t *testing.T) (Store, *testClock)
}{
	{"Memory", func(t *testing.T) (Store, *testClock) {
		m := NewMemory()
		clock := newTestClock()
		m.Clock = clock
		require.NoError(t, m.Open(t.Context()))
		t.Cleanup(func() {
			require.NoError(t, m.Check(context.Background()))
			require.NoError(t, m.Close(context.Background()))
		})
		return m, clock
	}},
	{"Group", func(t *testing.T) (Store, *testClock) {
		clock := newTestClock()
		g := openLone(t, Options{Clock: clock})
		t.Cleanup(func() { require.NoError(t, g.Check(context.Background())) })
		return g, clock
	}},
	{"Client", func(t *testing.T) (Store, *testClock) {
		clock := newTestClock()
		c := openCluster(t, 3, func(c *testCluster) { c.clock = clock })
		t.Cleanup(func() { require.NoError(t, c.leader().Check(context.Background())) })
		return c.client("client"), clock
	}},
}

// behaviour runs a test against every Store.
func behaviour(t *testing.T, test func(t *testing.T, s Store, clock *testClock)) {
	t.Helper()
	for _, i := range stores {
		t.Run(i.name, func(t *testing.T) {
			s, clock := i.open(t)
			test(t, s, clock)
		})
	}
}

func apply(t *testing.T, s Store, txn Txn) Result {
	t.Helper()
	r, err := s.Apply(t.Context(), txn)
	require.NoError(t, err)
	return r
}

func put(key, value string) Write { return Write{Key: key, Value: []byte(value)} }

func TestRevisionsCountTransactions(t *testing.T) {
	behaviour(t, func(t *testing.T, s Store, _ *testClock) {
		ctx := t.Context()
		_, ok, err := s.Get(ctx, "a")
		require.NoError(t, err)
		require.False(t, ok, "nothing is there at first")

		first := apply(t, s, Txn{Do: []Write{put("a", "1"), put("b", "1")}})
		require.Equal(t, Result{OK: true, Revision: 1}, first)
		second := apply(t, s, Txn{Do: []Write{put("a", "2")}})
		require.Equal(t, Revision(2), second.Revision)

		a, ok, err := s.Get(ctx, "a")
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, Record{Key: "a", Value: []byte("2"), Size: 1, Revision: 2, Created: 1}, a)
		b, _, err := s.Get(ctx, "b")
		require.NoError(t, err)
		require.Equal(t, Record{Key: "b", Value: []byte("1"), Size: 1, Revision: 1, Created: 1}, b)

		require.NoError(t, Delete(ctx, s, "a"))
		require.NoError(t, Delete(ctx, s, "a"), "deleting what is not there is no mistake")
		_, ok, err = s.Get(ctx, "a")
		require.NoError(t, err)
		require.False(t, ok)
		apply(t, s, Txn{Do: []Write{put("a", "3")}})
		a, _, err = s.Get(ctx, "a")
		require.NoError(t, err)
		require.Equal(t, a.Revision, a.Created, "a deleted key is created anew")
	})
}

func TestConditions(t *testing.T) {
	behaviour(t, func(t *testing.T, s Store, _ *testClock) {
		ctx := t.Context()
		lease, err := s.Grant(ctx, time.Hour)
		require.NoError(t, err)
		rev := apply(t, s, Txn{Do: []Write{put("a", "1"), {Key: "mine", Lease: lease}}}).Revision
		for _, c := range []struct {
			name  string
			when  []Condition
			holds bool
		}{
			{"the revision that is", []Condition{{Key: "a", Revision: rev}}, true},
			{"another revision", []Condition{{Key: "a", Revision: rev + 1}}, false},
			{"absent, and it is", []Condition{{Key: "nothing"}}, true},
			{"absent, and it is not", []Condition{{Key: "a"}}, false},
			{"a live lease", []Condition{{Lease: lease}}, true},
			{"a lease that never was", []Condition{{Lease: lease + 1}}, false},
			{"a record under its lease", []Condition{{Key: "mine", Lease: lease}}, true},
			{"a record under no lease", []Condition{{Key: "a", Lease: lease}}, false},
			{"several, one fails", []Condition{{Key: "a", Revision: rev}, {Key: "mine"}}, false},
		} {
			r := apply(t, s, Txn{If: c.when, Do: []Write{put("written "+c.name, "x")}})
			require.Equal(t, c.holds, r.OK, c.name)
			_, written, err := s.Get(ctx, "written "+c.name)
			require.NoError(t, err)
			require.Equal(t, c.holds, written, c.name)
			if !c.holds {
				require.Len(t, r.Current, len(c.when), c.name)
			}
		}
		r := apply(t, s, Txn{If: []Condition{{Key: "a", Revision: 99}, {Key: "nothing", Revision: 1}}})
		require.Equal(t, rev, r.Current[0].Revision, "the loser sees what is there")
		require.Equal(t, "1", string(r.Current[0].Value))
		require.Zero(t, r.Current[1].Revision)
	})
}

func TestCompareAndSetHasOneWinner(t *testing.T) {
	behaviour(t, func(t *testing.T, s Store, _ *testClock) {
		const writers, rounds = 8, 20
		var wg sync.WaitGroup
		for range writers {
			wg.Go(func() {
				for done := 0; done < rounds; {
					r, _, err := s.Get(t.Context(), "n")
					if err != nil {
						t.Error(err)
						return
					}
					_, ok, err := CompareAndSet(t.Context(), s, "n", r.Revision, append(r.Value, 'x'))
					if err != nil {
						t.Error(err)
						return
					}
					if ok {
						done++
					}
				}
			})
		}
		wg.Wait()
		r, _, err := s.Get(t.Context(), "n")
		require.NoError(t, err)
		require.Len(t, r.Value, writers*rounds, "no increment is lost or done twice")
	})
}

func TestRange(t *testing.T) {
	behaviour(t, func(t *testing.T, s Store, _ *testClock) {
		ctx := t.Context()
		for _, key := range []string{"b/1", "b/2", "a", "b/3", "b0", "c", "\xff\xff"} {
			apply(t, s, Txn{Do: []Write{put(key, "v")}})
		}
		keys := func(from, to string, limit int) (keys []string, more bool) {
			p, err := s.Range(ctx, from, to, limit)
			require.NoError(t, err)
			require.Equal(t, Revision(7), p.Revision)
			for _, r := range p.Records {
				keys = append(keys, r.Key)
			}
			return keys, p.More
		}
		got, more := keys("b/", PrefixEnd("b/"), 0)
		require.Equal(t, []string{"b/1", "b/2", "b/3"}, got)
		require.False(t, more)
		got, more = keys("b/", PrefixEnd("b/"), 2)
		require.Equal(t, []string{"b/1", "b/2"}, got)
		require.True(t, more)
		got, _ = keys("b/2\x00", "", 0)
		require.Equal(t, []string{"b/3", "b0", "c", "\xff\xff"}, got, "an open end")
		got, _ = keys("\xff", PrefixEnd("\xff"), 0)
		require.Equal(t, []string{"\xff\xff"}, got)
		got, _ = keys("x", "y", 0)
		require.Empty(t, got)
	})
}

func TestRangeBoundsItsBytes(t *testing.T) {
	behaviour(t, func(t *testing.T, s Store, _ *testClock) {
		value := bytes.Repeat([]byte{7}, 1<<20)
		for i := range 6 {
			apply(t, s, Txn{Do: []Write{{Key: fmt.Sprint(i), Value: value}}})
		}
		seen, from := 0, ""
		for more := true; more; {
			p, err := s.Range(t.Context(), from, "", 0)
			require.NoError(t, err)
			require.NotEmpty(t, p.Records)
			require.LessOrEqual(t, len(p.Records), 4)
			for _, r := range p.Records {
				require.True(t, bytes.Equal(value, r.Value))
				seen++
				from = r.Key + "\x00"
			}
			more = p.More
		}
		require.Equal(t, 6, seen)
	})
}

func TestWatchMissesNothing(t *testing.T) {
	behaviour(t, func(t *testing.T, s Store, _ *testClock) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		apply(t, s, Txn{Do: []Write{put("w/old", "0")}})
		before := apply(t, s, Txn{Do: []Write{put("other", "0")}}).Revision
		apply(t, s, Txn{Do: []Write{put("w/a", "1"), put("other", "1"), put("w/b", "1")}})

		changes, err := s.Watch(ctx, "w/", before)
		require.NoError(t, err)
		go func() {
			for i := range 500 {
				_, _ = Put(ctx, s, fmt.Sprint("w/", i), []byte("2"))
				_, _ = Put(ctx, s, fmt.Sprint("x/", i), []byte("2"))
			}
			_ = Delete(ctx, s, "w/a")
		}()
		var seen []Event
		last := before
		for c := range changes {
			require.NoError(t, c.Err)
			require.Greater(t, c.Revision, last)
			last = c.Revision
			for _, e := range c.Events {
				require.LessOrEqual(t, e.Revision, c.Revision)
				seen = append(seen, e)
			}
			if n := len(seen); n > 0 && seen[n-1].Deleted {
				break
			}
		}
		require.Len(t, seen, 2+500+1)
		require.Equal(t, "w/a", seen[0].Key)
		require.Equal(t, "w/b", seen[1].Key)
		require.Equal(t, seen[0].Revision, seen[1].Revision, "a transaction is one revision")
		for i := range 500 {
			require.Equal(t, fmt.Sprint("w/", i), seen[2+i].Key)
			require.Equal(t, "2", string(seen[2+i].Value))
		}
		require.Equal(t, Event{Record: Record{Key: "w/a", Revision: seen[502].Revision}, Deleted: true}, seen[502])
		cancel()
		for range changes {
		}
	})
}

func TestSlowWatchReadsHistory(t *testing.T) {
	behaviour(t, func(t *testing.T, s Store, _ *testClock) {
		changes, err := s.Watch(t.Context(), "", 0)
		require.NoError(t, err)
		const writes = 3 * watchQueue
		var wg sync.WaitGroup
		for w := range 64 {
			wg.Go(func() {
				for i := range writes / 64 {
					if _, err := Put(t.Context(), s, fmt.Sprintf("%d/%d", w, i), nil); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait() // nobody has read a thing yet
		seen, last := 0, Revision(0)
		for c := range changes {
			require.NoError(t, c.Err)
			for _, e := range c.Events {
				require.Equal(t, last+1, e.Revision, "in order, nothing twice, nothing left out")
				last = e.Revision
				seen++
			}
			if seen == writes {
				return
			}
		}
	})
}

func TestLeases(t *testing.T) {
	behaviour(t, func(t *testing.T, s Store, clock *testClock) {
		ctx := t.Context()
		first, err := s.Grant(ctx, 10*time.Second)
		require.NoError(t, err)
		second, err := s.Grant(ctx, 10*time.Second)
		require.NoError(t, err)
		require.Greater(t, second, first, "numbers only grow")
		apply(t, s, Txn{Do: []Write{{Key: "1/a", Lease: first}, {Key: "1/b", Lease: first}, {Key: "2/a", Lease: second}}})
		taken := apply(t, s, Txn{If: []Condition{{Key: "lock"}}, Do: []Write{{Key: "lock", Lease: first}}})
		require.True(t, taken.OK)

		clock.Advance(6 * time.Second)
		require.NoError(t, s.Renew(ctx, second))
		changes, err := s.Watch(ctx, "1/", taken.Revision)
		require.NoError(t, err)
		clock.Advance(6 * time.Second)
		c := <-changes
		require.NoError(t, c.Err)
		require.Len(t, c.Events, 2, "the records of a lease go in one revision")
		require.True(t, c.Events[0].Deleted)

		require.ErrorIs(t, s.Renew(ctx, first), ErrLeaseGone)
		require.False(t, apply(t, s, Txn{If: []Condition{{Lease: first}}}).OK, "a former holder cannot act")
		_, err = s.Apply(ctx, Txn{Do: []Write{{Key: "late", Lease: first}}})
		require.ErrorIs(t, err, ErrLeaseGone)
		again := apply(t, s, Txn{If: []Condition{{Key: "lock"}, {Lease: second}}, Do: []Write{{Key: "lock", Lease: second}}})
		require.True(t, again.OK)
		require.Greater(t, again.Revision, taken.Revision, "fencing numbers grow from holder to holder")

		require.NoError(t, s.Revoke(ctx, second))
		require.NoError(t, s.Revoke(ctx, second), "a lease is ended once, and may be asked to end again")
		p, err := s.Range(ctx, "", "", 0)
		require.NoError(t, err)
		require.Empty(t, p.Records)
	})
}

func TestLeaseOfAnOverwrittenRecord(t *testing.T) {
	behaviour(t, func(t *testing.T, s Store, _ *testClock) {
		lease, err := s.Grant(t.Context(), time.Hour)
		require.NoError(t, err)
		apply(t, s, Txn{Do: []Write{{Key: "a", Lease: lease}, {Key: "b", Lease: lease}}})
		apply(t, s, Txn{Do: []Write{put("a", "free")}})
		require.NoError(t, s.Revoke(t.Context(), lease))
		_, ok, err := s.Get(t.Context(), "a")
		require.NoError(t, err)
		require.True(t, ok, "a record written without the lease no longer depends on it")
		_, ok, err = s.Get(t.Context(), "b")
		require.NoError(t, err)
		require.False(t, ok)
	})
}

func TestTTL(t *testing.T) {
	behaviour(t, func(t *testing.T, s Store, clock *testClock) {
		ctx := t.Context()
		rev := apply(t, s, Txn{Do: []Write{
			{Key: "short", TTL: time.Second}, {Key: "long", TTL: time.Minute}, {Key: "rewritten", TTL: time.Second}, {Key: "kept", TTL: time.Second},
		}}).Revision
		apply(t, s, Txn{Do: []Write{{Key: "rewritten", TTL: time.Minute}, {Key: "kept"}}})
		changes, err := s.Watch(ctx, "short", rev)
		require.NoError(t, err)
		clock.Advance(2 * time.Second)
		for c := range changes {
			require.NoError(t, c.Err)
			if len(c.Events) > 0 {
				require.True(t, c.Events[0].Deleted)
				break
			}
		}
		p, err := s.Range(ctx, "", "", 0)
		require.NoError(t, err)
		var left []string
		for _, r := range p.Records {
			left = append(left, r.Key)
		}
		require.Equal(t, []string{"kept", "long", "rewritten"}, left)
	})
}

func TestLargeValues(t *testing.T) {
	behaviour(t, func(t *testing.T, s Store, _ *testClock) {
		ctx := t.Context()
		big := bytes.Repeat([]byte("0123456789abcdef"), MaxInline/16+1)
		rev := apply(t, s, Txn{Do: []Write{{Key: "1", Value: big}, {Key: "2", Value: big}, put("small", "x")}}).Revision
		for _, key := range []string{"1", "2"} {
			r, ok, err := s.Get(ctx, key)
			require.NoError(t, err)
			require.True(t, ok)
			require.True(t, bytes.Equal(big, r.Value))
			require.Equal(t, int64(len(big)), r.Size)
		}
		changes, err := s.Watch(ctx, "", 0)
		require.NoError(t, err)
		c := <-changes
		require.NoError(t, c.Err)
		require.Equal(t, Record{Key: "1", Size: int64(len(big)), Revision: rev, Created: rev}, c.Events[0].Record, "watches tell of it without the value")

		require.NoError(t, Delete(ctx, s, "1"))
		r, ok, err := s.Get(ctx, "2")
		require.NoError(t, err)
		require.True(t, ok)
		require.True(t, bytes.Equal(big, r.Value), "the same bytes under another key stay")
	})
}

func TestLimits(t *testing.T) {
	behaviour(t, func(t *testing.T, s Store, _ *testClock) {
		many := make([]Write, MaxTxn+1)
		for i := range many {
			many[i] = put(fmt.Sprint(i), "")
		}
		heavy := make([]Write, 5)
		for i := range heavy {
			heavy[i] = Write{Key: fmt.Sprint(i), Value: make([]byte, MaxInline)}
		}
		for _, c := range []struct {
			name string
			txn  Txn
		}{
			{"no key", Txn{Do: []Write{{Value: []byte("x")}}}},
			{"a long key", Txn{Do: []Write{put(string(make([]byte, MaxKey+1)), "")}}},
			{"a large value", Txn{Do: []Write{{Key: "a", Value: make([]byte, MaxValue+1)}}}},
			{"many writes", Txn{Do: many}},
			{"many bytes", Txn{Do: heavy}},
			{"a key twice", Txn{Do: []Write{put("a", "1"), put("a", "2")}}},
			{"a short TTL", Txn{Do: []Write{{Key: "a", TTL: time.Nanosecond}}}},
			{"a condition without a key", Txn{If: []Condition{{}}}},
			{"a deletion with a value", Txn{Do: []Write{{Key: "a", Value: []byte("x"), Delete: true}}}},
		} {
			_, err := s.Apply(t.Context(), c.txn)
			require.ErrorIs(t, err, ErrLimit, c.name)
		}
		_, err := s.Grant(t.Context(), 0)
		require.ErrorIs(t, err, ErrLimit)
		p, err := s.Range(t.Context(), "", "", 0)
		require.NoError(t, err)
		require.Empty(t, p.Records, "what was refused has left nothing")
	})
}

func TestCancelledRequestsDoNothing(t *testing.T) {
	behaviour(t, func(t *testing.T, s Store, _ *testClock) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := s.Apply(ctx, Txn{Do: []Write{put("a", "1")}})
		require.ErrorIs(t, err, context.Canceled)
		_, ok, err := s.Get(t.Context(), "a")
		require.NoError(t, err)
		require.False(t, ok)
	})
}
