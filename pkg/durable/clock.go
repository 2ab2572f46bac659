package durable

import (
	"context"
	"sync"
	"time"
)

// Clock is where a leader's time comes from. Only differences count.
type Clock interface {
	Now() time.Time
	After(d time.Duration) <-chan time.Time
}

// SystemClock is the monotonic clock of this machine.
type SystemClock struct{}

// Now is time.Now.
func (SystemClock) Now() time.Time { return time.Now() }

// After is time.After.
func (SystemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// leaderTime continues the group's time from where the log had brought it when
// this leader took over.
type leaderTime struct {
	clock Clock

	mu    sync.Mutex
	start time.Time
	base  logTime
	last  logTime
}

func newLeaderTime(clock Clock, base logTime) *leaderTime {
	return &leaderTime{clock: clock, start: clock.Now(), base: base, last: base}
}

// now never goes back, whatever the clock does.
func (t *leaderTime) now() logTime {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = min(max(t.last, t.base+logTime(t.clock.Now().Sub(t.start))), maxLogTime)
	return t.last
}

// expirer proposes opExpire when something is due. It runs while its owner leads.
type expirer struct {
	next func() (logTime, error) // machine.nextExpiry
	time *leaderTime
	due  <-chan struct{} // something ends sooner than known
	// propose sends opExpire and says whether more is due.
	propose func(ctx context.Context) (more bool, err error)
}

// retryExpiry is how long a refused opExpire waits; the leader is then losing its place.
const retryExpiry = 50 * time.Millisecond

func (e *expirer) run(ctx context.Context) error {
	for ctx.Err() == nil {
		at, err := e.next()
		if err != nil {
			return err
		}
		var wait <-chan time.Time
		if now := e.time.now(); at != 0 && at <= now {
			more, err := e.propose(ctx)
			if err == nil || more {
				continue
			}
			wait = time.After(retryExpiry)
		} else if at != 0 {
			wait = e.time.clock.After(now.until(at))
		}
		select {
		case <-ctx.Done():
		case <-e.due:
		case <-wait:
		}
	}
	return nil
}
