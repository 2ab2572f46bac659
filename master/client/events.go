package client

import (
	"context"
	"sync"
)

// events runs the node's callbacks one after the other, so that none of them can
// hold up a report. The queue is as long as there are nodes to die, at most.
type events struct {
	wake chan struct{} // capacity 1

	mu    sync.Mutex // protects what follows
	queue []func()
}

func newEvents() *events { return &events{wake: make(chan struct{}, 1)} }

// add queues a callback.
func (e *events) add(f func()) {
	e.mu.Lock()
	e.queue = append(e.queue, f)
	e.mu.Unlock()
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// wait queues a callback and returns when it has run, or when ctx ends.
func (e *events) wait(ctx context.Context, f func()) {
	done := make(chan struct{})
	e.add(func() {
		defer close(done)
		f()
	})
	select {
	case <-done:
	case <-ctx.Done():
	}
}

func (e *events) run(ctx context.Context) {
	for {
		e.mu.Lock()
		queue := e.queue
		e.queue = nil
		e.mu.Unlock()
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
		case <-e.wake:
		case <-ctx.Done():
			return
		}
	}
}
