package durable

import (
	"context"
	"errors"
	"sync"
)

// watchQueue is how many events wait for a slow watcher before it is left to read
// them from history.
const watchQueue = 4096

// hub gives the events of applied entries to the watchers.
//
// A watcher that keeps up is fed from memory. One that does not is marked as
// lagging, holds nothing, and reads history until it has caught up.
type hub struct {
	m    *machine
	view func() (done func(), err error) // guards reading the tables

	mu       sync.Mutex // protects what follows, and the watchers' queues
	upTo     Revision   // all events up to it were published
	watchers map[*watcher]struct{}
	wg       sync.WaitGroup
	done     chan struct{} // closed when no reader is waited for any more
}

type watcher struct {
	prefix string
	wake   chan struct{} // holds one token

	// Protected by hub.mu.
	queue   []Event
	upTo    Revision // what the queue, or history if lagging, goes up to
	lagging bool
	err     error
}

func newHub(m *machine, view func() (func(), error)) *hub {
	return &hub{m: m, view: view, upTo: Revision(m.revision.Load()), watchers: make(map[*watcher]struct{}), done: make(chan struct{})}
}

// publish is called by the applying goroutine, in order.
func (h *hub) publish(events []Event, upTo Revision, generation bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.upTo = upTo
	for w := range h.watchers {
		w.upTo = upTo
		told := generation // so that a quiet watch does not fall out of history
		for i := range events {
			if !hasPrefix(events[i].Key, w.prefix) {
				continue
			}
			told = true
			if w.lagging {
				break
			}
			if len(w.queue) == watchQueue {
				w.queue, w.lagging = nil, true
				break
			}
			w.queue = append(w.queue, events[i])
		}
		if told {
			w.signal()
		}
	}
}

// reset follows a restored state: whatever watchers know is void.
func (h *hub) reset(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.upTo = Revision(h.m.revision.Load())
	for w := range h.watchers {
		w.err = err
		w.signal()
	}
}

// close ends all watches with err and waits until they have ended. No watch begins
// after it. A reader that reads no more finds its channel closed.
func (h *hub) close(err error) {
	h.reset(err)
	h.mu.Lock()
	h.watchers = nil
	h.mu.Unlock()
	close(h.done)
	h.wg.Wait()
}

func (h *hub) watch(ctx context.Context, prefix string, after Revision) (<-chan Changes, error) {
	w := &watcher{prefix: prefix, wake: make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.watchers == nil {
		return nil, ErrClosed
	}
	w.upTo, w.lagging = h.upTo, after < h.upTo
	h.watchers[w] = struct{}{}
	h.wg.Add(1)
	w.signal()
	out := make(chan Changes, 1)
	go h.run(ctx, w, after, out)
	return out, nil
}

// run owns the watcher's channel.
func (h *hub) run(ctx context.Context, w *watcher, after Revision, out chan<- Changes) {
	defer h.wg.Done()
	defer close(out)
	defer func() {
		h.mu.Lock()
		delete(h.watchers, w)
		h.mu.Unlock()
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		}
		queue, upTo, lagging, err := h.collect(w)
		if err == nil && lagging {
			err = h.catchUp(ctx, w, &after, upTo, out)
		} else if err == nil && upTo > after {
			err = h.deliver(ctx, out, Changes{Revision: upTo, Events: since(queue, after)})
			after = upTo
		}
		if errors.Is(err, context.Canceled) && ctx.Err() != nil {
			return
		}
		if err != nil {
			_ = h.deliver(ctx, out, Changes{Err: err})
			return
		}
	}
}

// collect takes what is queued. A lagging watcher is fed from here on.
func (h *hub) collect(w *watcher) (queue []Event, upTo Revision, lagging bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	queue, lagging = w.queue, w.lagging
	w.queue, w.lagging = nil, false
	return queue, w.upTo, lagging, w.err
}

// catchUp tells what history has after *after, up to upTo.
func (h *hub) catchUp(ctx context.Context, w *watcher, after *Revision, upTo Revision, out chan<- Changes) error {
	for *after < upTo {
		events, came, err := h.read(w.prefix, *after, upTo)
		if err != nil {
			return err
		}
		if len(events) > 0 || came == upTo {
			if err := h.deliver(ctx, out, Changes{Revision: came, Events: events}); err != nil {
				return err
			}
		}
		*after = came
	}
	return nil
}

func (h *hub) read(prefix string, after, upTo Revision) ([]Event, Revision, error) {
	done, err := h.view()
	if err != nil {
		return nil, 0, err
	}
	defer done()
	return h.m.readHistory(prefix, after, upTo)
}

func (h *hub) deliver(ctx context.Context, out chan<- Changes, c Changes) error {
	select {
	case out <- c:
		return nil
	default:
	}
	select {
	case out <- c:
		return nil
	case <-ctx.Done():
		return context.Canceled
	case <-h.done:
		return ErrClosed
	}
}

func since(events []Event, after Revision) []Event {
	for len(events) > 0 && events[0].Revision <= after {
		events = events[1:]
	}
	return events
}

func (w *watcher) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}
