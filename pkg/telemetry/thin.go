package telemetry

import (
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// What Thin lets through: the first thinBurst of equal messages in thinWindow.
// It remembers thinMessages messages and then begins anew.
const (
	thinBurst    = 20
	thinWindow   = 10 * time.Second
	thinMessages = 1024
)

// Thin is a zerolog hook that drops repeats of a message, so that a fault that
// happens a million times does not fill the disk. Messages are equal when level
// and text are; fields are not looked at. The first message of the next window
// says how many were dropped, in the field "repeats_dropped".
type Thin struct {
	now func() time.Time

	mu   sync.Mutex // protects seen
	seen map[thinKey]*thinCount
}

type thinKey struct {
	level   zerolog.Level
	message string
}

type thinCount struct {
	began   time.Time
	passed  int
	dropped uint64
}

// NewThin makes a Thin that tells the time by now.
func NewThin(now func() time.Time) *Thin {
	return &Thin{now: now, seen: make(map[thinKey]*thinCount)}
}

// Run implements zerolog.Hook.
func (t *Thin) Run(event *zerolog.Event, level zerolog.Level, message string) {
	if level >= zerolog.FatalLevel || level == zerolog.NoLevel {
		return
	}
	pass, dropped := t.admit(thinKey{level, message})
	if !pass {
		event.Discard()
		return
	}
	if dropped > 0 {
		event.Uint64("repeats_dropped", dropped)
	}
}

func (t *Thin) admit(key thinKey) (pass bool, dropped uint64) {
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := t.seen[key]
	if !ok {
		if len(t.seen) >= thinMessages {
			clear(t.seen)
		}
		c = &thinCount{began: now}
		t.seen[key] = c
	}
	if now.Sub(c.began) >= thinWindow {
		dropped = c.dropped
		*c = thinCount{began: now}
	}
	if c.passed >= thinBurst {
		c.dropped++
		return false, 0
	}
	c.passed++
	return true, dropped
}
