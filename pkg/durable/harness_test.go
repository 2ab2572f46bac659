package durable

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// openLone opens a voter that is alone, in a directory of its own unless one is given.
func openLone(t testing.TB, o Options) *Group {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.Node == "" {
		o.Node = "n1"
	}
	o.Bootstrap = true
	g := New(o)
	require.NoError(t, g.Open(context.Background()))
	t.Cleanup(func() { _ = g.Close(context.Background()) })
	return g
}

// testClock is a Clock that tests move.
type testClock struct {
	mu     sync.Mutex
	at     time.Time
	timers []testTimer
}

type testTimer struct {
	at time.Time
	c  chan time.Time
}

func newTestClock() *testClock { return &testClock{at: time.Unix(1_000_000, 0)} }

func (c *testClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *testClock) After(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	timer := testTimer{c.at.Add(d), make(chan time.Time, 1)}
	c.timers = append(c.timers, timer)
	c.fire()
	return timer.c
}

// Advance moves the clock, also backwards.
func (c *testClock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
	c.fire()
}

func (c *testClock) fire() {
	waiting := c.timers[:0]
	for _, timer := range c.timers {
		if timer.at.After(c.at) {
			waiting = append(waiting, timer)
			continue
		}
		timer.c <- c.at
	}
	c.timers = waiting
}

// files counts what a directory of a voter holds.
func files(t testing.TB, dir ...string) int {
	t.Helper()
	found, err := os.ReadDir(filepath.Join(dir...))
	require.NoError(t, err)
	return len(found)
}
