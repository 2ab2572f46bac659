package peer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/pkg/wire"
	"yr/pkg/yr"
)

func TestFramesReachThePeerInOrder(t *testing.T) {
	a, b := start(t, "a"), start(t, "b")
	ab, ba := join(a, b)
	say(ab, "one", "two")
	say(ab, "three")
	b.expect("a", "one", "two", "three")
	say(ba, "four")
	a.expect("b", "four")
	require.Equal(t, uint64(1), ab.Incarnation())
	require.Same(t, ab, a.Link("b", ""))
	require.Equal(t, b.address, ab.Address())
	require.Equal(t, a.address, ba.Address(), "learnt from the handshake")
}

func TestLinksInsideTLS(t *testing.T) {
	live := certificates(t)
	a, b := start(t, "a", withTLS(live)), start(t, "b", withTLS(live))
	ab, ba := join(a, b)
	long := strings.Repeat("x", 3<<20) // more than the kernel takes at once
	say(ab, "one", long, "two")
	say(ba, long)
	b.expect("a", "one", long, "two")
	a.expect("b", long)
}

func TestALinkTakesNothingBeforeItHasMet(t *testing.T) {
	a, b := prepare(t, "a"), start(t, "b")
	l := a.Link("b", b.address)
	l.Queue(func(dst []byte) []byte { panic("called") })
	l.Flush()
	require.Zero(t, l.Incarnation())
	require.True(t, l.Heard().IsZero())
	a.open()
}

func TestFramesOfAllSizes(t *testing.T) {
	a, b := start(t, "a"), start(t, "b")
	ab, _ := join(a, b)
	var want []string
	for _, n := range []int{0, 1, segmentFirst, segmentFull - wire.HeaderLen, segmentFull, segmentSize, readMost, readMost + 1, wire.MaxBody, 3} {
		want = append(want, strings.Repeat("z", n))
	}
	say(ab, want...)
	b.wait("all came", func() bool { return len(b.got["a"]) == len(want) })
	for i, w := range want {
		require.Len(t, b.got["a"][i], len(w))
	}
	eventually(t, "the peer's confirmation frees everything", func() bool { return ab.View().Unacknowledged == 0 })
}

func TestACutConnectionLosesNothing(t *testing.T) {
	x, y := newProxy(t, ""), newProxy(t, "")
	a, b := start(t, "a", via(x)), start(t, "b", via(y))
	ab, ba := join(a, b)
	var want []string
	for i := range 50 {
		s := fmt.Sprintf("%d %s", i, strings.Repeat("y", 5000))
		want = append(want, s)
		if i%10 == 5 {
			x.cutAfter(3000)
			y.cutAfter(3000) // within a frame
		}
		say(ab, s)
		say(ba, s)
	}
	b.expect("a", want...)
	a.expect("b", want...)
	require.Equal(t, 1, b.freshMeetings("a"))
	require.Equal(t, 1, a.freshMeetings("b"))
}

func TestABlackHoleIsNoticedAndSurvived(t *testing.T) {
	x := newProxy(t, "")
	a, b := start(t, "a"), start(t, "b", via(x))
	ab, _ := join(a, b)
	say(ab, "before")
	b.expect("a", "before")
	made := x.connections()
	x.pause()
	say(ab, "into the hole")
	eventually(t, "a connects anew", func() bool { return x.connections() > made })
	x.resume()
	b.expect("a", "before", "into the hole")
	require.Equal(t, 1, b.freshMeetings("a"))
}

// calm is a node that is not hasty in finding others silent: these tests run beside others.
func calm(t *testing.T, id yr.Node, opts ...option) *node {
	n := prepare(t, id, opts...)
	n.pace.silence = 2 * time.Second
	n.open()
	return n
}

func TestPingsKeepALinkFresh(t *testing.T) {
	x, y := newProxy(t, ""), newProxy(t, "")
	a, b := calm(t, "a", via(x)), calm(t, "b", via(y))
	ab, _ := join(a, b)
	eventually(t, "both ways connected", func() bool { return ab.View().Receiving && ab.View().Sending })
	made := x.connections() + y.connections()
	from := time.Now()
	eventually(t, "a silence passes", func() bool { return time.Since(from) > a.pace.silence*3/2 })
	require.Equal(t, made, x.connections()+y.connections(), "an idle link keeps its connections")
	require.Less(t, time.Since(ab.Heard()), a.pace.silence)
}

func TestARestartedPeerStartsFromNothing(t *testing.T) {
	x := newProxy(t, "")
	a := start(t, "a")
	b := start(t, "b", via(x))
	ab, _ := join(a, b)
	say(ab, "to the first")
	b.expect("a", "to the first")
	b.stop()
	say(ab, "never arrives")
	again := start(t, "b", incarnation(2), via(x))
	require.Same(t, ab, a.met("b", 2))
	say(ab, "to the second")
	again.expect("a", "to the second")
	require.Equal(t, uint64(2), ab.Incarnation())
	require.Equal(t, 2, a.freshMeetings("b"))
	require.Equal(t, 1, again.freshMeetings("a"))
}

func TestTheNewLifeBeginsWhereTheHandlerSays(t *testing.T) {
	x := newProxy(t, "")
	a := start(t, "a")
	b := start(t, "b", via(x))
	ab, _ := join(a, b)
	b.stop()
	a.mu.Lock()
	a.onMet = func(l *Link, fresh bool) {
		if fresh {
			say(l, "for the former life")
			l.Begin()
			say(l, "for the new one")
		}
	}
	a.mu.Unlock()
	again := start(t, "b", incarnation(2), via(x))
	a.met("b", 2)
	say(ab, "later")
	again.expect("a", "for the new one", "later")
}

func TestRenewStartsEveryLinkFromNothing(t *testing.T) {
	a, b := start(t, "a"), start(t, "b")
	ab, ba := join(a, b)
	say(ab, "one")
	b.expect("a", "one")
	a.Renew(2)
	a.met("b", 2)
	b.met("a", 2)
	require.Equal(t, uint64(2), ba.Incarnation())
	say(ab, "two")
	say(ba, "three")
	b.expect("a", "two")
	a.expect("b", "three")
	a.Renew(2) // the same again changes nothing
	say(ab, "four")
	b.expect("a", "two", "four")
}

func TestLinksWaitForMembership(t *testing.T) {
	a, b := start(t, "a", incarnation(0)), start(t, "b")
	a.Listen("rpc")
	a.Link("b", b.address)
	ba := b.Link("a", a.address)
	require.NoError(t, dialRPC(b, a.address), "streams do not wait")
	eventually(t, "b is told why", func() bool { return strings.Contains(ba.View().Reason, "has not joined") })
	_, err := b.Fetch(t.Context(), "a", a.address, nil, nil)
	require.ErrorContains(t, err, "serves no bytes")
	a.Renew(7)
	b.met("a", 1)
	require.Equal(t, uint64(7), ba.Incarnation())
	a.Renew(0)
	eventually(t, "b is told why", func() bool { return strings.Contains(ba.View().Reason, "has not joined") })
	require.Equal(t, 1, b.freshMeetings("a"))
	a.Renew(8)
	b.met("a", 2)
}

func TestAFencedPeerIsRefused(t *testing.T) {
	a, b := start(t, "a"), start(t, "b", source(newMemory(t, []byte("x"))))
	ab, ba := join(a, b)
	a.Listen("rpc")
	a.Fence("b", 1)
	require.Empty(t, a.Links())
	require.ErrorIs(t, ab.WaitRoom(t.Context()), ErrClosed)
	eventually(t, "b learns why", func() bool { return strings.Contains(ba.View().Reason, `incarnation 1 of node "b" was declared dead`) })
	_, err := a.Fetch(t.Context(), "b", b.address, nil, func(int64) ([]byte, error) { return make([]byte, 1), nil })
	require.ErrorIs(t, err, ErrFenced)
	require.NoError(t, dialRPC(b, a.address), "it must be able to ask for a new membership")

	b.Renew(2)
	later := a.met("b", 2)
	require.NotSame(t, ab, later)
	say(later, "welcome back")
	b.expect("a", "welcome back")
	a.Fence("b", 1) // an old death, told again
	say(later, "still there")
	b.expect("a", "welcome back", "still there")
}

func TestAnEarlierIncarnationIsRefused(t *testing.T) {
	a := start(t, "a")
	b := start(t, "b", incarnation(5))
	join(a, b)
	old := start(t, "b", incarnation(4))
	l := old.Link("a", a.address)
	eventually(t, "it learns why", func() bool { return strings.Contains(l.View().Reason, "was replaced by 5") })
	twin := start(t, "b", incarnation(5))
	l = twin.Link("a", a.address)
	eventually(t, "it learns why", func() bool { return strings.Contains(l.View().Reason, "two processes claim incarnation 5") })
	require.Equal(t, 1, a.freshMeetings("b"))
}

func TestAViolationStartsTheLinkFromNothingAtBothEnds(t *testing.T) {
	a, b := start(t, "a"), start(t, "b")
	ab, ba := join(a, b)
	say(ba, "waits")
	a.expect("b", "waits")
	failed := false
	b.mu.Lock()
	b.onFrame = func(_ *Link, body []byte) error {
		if string(body) == "bad" && !failed {
			failed = true
			return errors.New("nonsense")
		}
		return nil
	}
	b.mu.Unlock()
	say(ab, "good", "bad")
	a.met("b", 2)
	b.met("a", 2)
	b.mu.Lock()
	b.onFrame = nil
	b.mu.Unlock()
	say(ab, "new")
	say(ba, "too")
	b.expect("a", "new")
	a.expect("b", "too")
}

func TestAFullLinkSaysSoAndWaitsForRoom(t *testing.T) {
	x := newProxy(t, "")
	a, b := start(t, "a"), start(t, "b", via(x))
	ab, _ := join(a, b)
	x.pause()
	body := strings.Repeat("f", 1<<20)
	n := 0
	for ; !ab.Full(); n++ {
		say(ab, body)
	}
	require.InDelta(t, MaxUnacknowledged, n<<20, 2<<20)
	done, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, ab.WaitRoom(done), context.Canceled)
	b.mu.Lock()
	arrived := 0
	b.onFrame = func(*Link, []byte) error { arrived++; return nil }
	b.mu.Unlock()
	x.resume()
	require.NoError(t, ab.WaitRoom(t.Context()))
	say(ab, "end")
	eventually(t, "all of it arrives, once", func() bool { return ab.View().Unacknowledged == 0 })
	b.handled(func() { require.Equal(t, n+1, arrived) })
}

func TestASlowHandlerIsNotTakenForSilence(t *testing.T) {
	x := newProxy(t, "")
	a, b := calm(t, "a"), calm(t, "b", via(x))
	ab, ba := join(a, b)
	eventually(t, "both ways connected", func() bool { return ba.View().Receiving && ba.View().Sending })
	made := x.connections()
	enough := make(chan struct{})
	b.mu.Lock()
	b.onFrame = func(*Link, []byte) error { <-enough; return nil }
	b.mu.Unlock()
	say(ab, "slow")
	from := time.Now()
	eventually(t, "a silence passes", func() bool { return time.Since(from) > a.pace.silence*3/2 })
	close(enough)
	eventually(t, "it is confirmed", func() bool { return ab.View().Unacknowledged == 0 })
	require.Equal(t, made, x.connections(), "the connection was kept")
}
