package route

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEndedCallsDoNotPileUpBehindOneThatWaits(t *testing.T) {
	var q queue
	first, last := &call{state: callQueued}, &call{state: callQueued}
	q.push(first)
	for range 100 * sweepAt {
		c := &call{state: callQueued}
		q.push(c)
		c.state = callEnded
		q.dropped(c)
	}
	q.push(last)
	require.Less(t, len(q.levels[0].list), 3*sweepAt)
	require.Equal(t, 2, q.len())
	require.Same(t, first, q.pop())
	require.Same(t, last, q.pop())
	require.Nil(t, q.pop())
	require.Zero(t, q.len())
}

func TestAQueueKeepsItsOrderOverASweep(t *testing.T) {
	var f fifo
	var want []*call
	for i := range 4 * sweepAt {
		c := &call{state: callQueued, delivery: uint64(i)}
		f.push(c)
		switch {
		case i < 10: // delivered
			require.Same(t, c, f.peek())
			f.pop()
		case i%4 == 0:
			want = append(want, c)
		default:
			c.state = callEnded
			f.dropped()
		}
	}
	back := &call{state: callQueued}
	f.unpop(back)
	for _, c := range append([]*call{back}, want...) {
		require.Same(t, c, f.peek())
		f.pop()
	}
	require.Nil(t, f.peek())
}
