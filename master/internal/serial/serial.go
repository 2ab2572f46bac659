// Package serial runs functions one after the other on one goroutine, without
// holding up who adds them.
package serial

import (
	"context"
	"sync"
)

// Queue is the functions that wait. Its length is bounded by who adds.
type Queue struct {
	wake chan struct{} // capacity 1

	mu    sync.Mutex // protects what follows
	queue []func()
}

// New makes an empty Queue.
func New() *Queue { return &Queue{wake: make(chan struct{}, 1)} }

// Add queues a function.
func (q *Queue) Add(f func()) {
	q.mu.Lock()
	q.queue = append(q.queue, f)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Wait queues a function and returns when it has run, or when ctx ends.
func (q *Queue) Wait(ctx context.Context, f func()) {
	done := make(chan struct{})
	q.Add(func() {
		defer close(done)
		f()
	})
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// Run runs what is queued, until ctx ends.
func (q *Queue) Run(ctx context.Context) {
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
