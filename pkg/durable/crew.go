package durable

import "sync"

// crew is a WaitGroup that can be closed: whoever comes later is turned away.
type crew struct {
	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

// Go runs f unless the crew is closed.
func (c *crew) Go(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.wg.Go(f)
	return true
}

func (c *crew) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
}

// Wait returns when all are done. It is called after close.
func (c *crew) Wait() { c.wg.Wait() }
