package server

import (
	"context"
	"sync"
	"time"
)

// queue runs functions one after the other without holding up who adds them.
type queue struct {
	wake chan struct{} // capacity 1

	mu    sync.Mutex // protects what follows
	queue []func()
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

func (q *queue) add(f func()) {
	q.mu.Lock()
	q.queue = append(q.queue, f)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) run(ctx context.Context) {
	for {
		q.mu.Lock()
		queue := q.queue
		q.queue = nil
		q.mu.Unlock()
		for _, f := range queue {
			if ctx.Err() != nil {
				return
			}
			f()
		}
		if len(queue) > 0 {
			continue
		}
		select {
		case <-q.wake:
		case <-ctx.Done():
			return
		}
	}
}

// wait returns when something happens on changes, the time is over, or ctx ends.
func wait(ctx context.Context, changes <-chan struct{}, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-changes:
	case <-t.C:
	case <-ctx.Done():
	}
}
