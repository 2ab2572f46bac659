package inprocess

import (
	"context"
	"strings"

	"yr/pkg/cluster"
)

// maxHistory is how many changes can be watched from the past.
const maxHistory = 1000

// watch is one Watch. Its goroutine, ended by the caller's context, hands over
// what publish has queued.
type watch struct {
	prefix  string
	waiting []cluster.Batch // protected by KV.mu
	pending int             // events in waiting
	lagged  bool
	wake    chan struct{} // holds one
}

// Watch implements cluster.KV.
func (s *KV) Watch(ctx context.Context, prefix string, after int64) <-chan cluster.Batch {
	out := make(chan cluster.Batch)
	w := &watch{prefix: prefix, wake: make(chan struct{}, 1)}
	s.mu.Lock()
	if after == 0 {
		after = s.revision
	}
	compacted := after < s.lost
	w.waiting = append(w.waiting, cluster.Batch{Revision: after})
	for _, e := range s.history {
		if e.Revision > after {
			w.add([]cluster.Event{e})
		}
	}
	if !compacted {
		s.watches[w] = true
	}
	s.mu.Unlock()
	go func() {
		defer close(out)
		if compacted {
			send(ctx, out, cluster.Batch{Err: cluster.ErrCompacted})
			return
		}
		s.hand(ctx, w, out)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watches, w)
	}()
	return out
}

func (s *KV) hand(ctx context.Context, w *watch, out chan<- cluster.Batch) {
	for {
		s.mu.Lock()
		var next cluster.Batch
		some, lagged := len(w.waiting) > 0, w.lagged
		if some {
			next = w.waiting[0]
		}
		s.mu.Unlock()
		switch {
		case lagged:
			send(ctx, out, cluster.Batch{Err: cluster.ErrLagged})
			return
		case some:
			if !send(ctx, out, next) {
				return
			}
			s.mu.Lock()
			if !w.lagged {
				w.waiting = w.waiting[1:]
				w.pending -= len(next.Events)
			}
			s.mu.Unlock()
		default:
			select {
			case <-w.wake:
			case <-ctx.Done():
				return
			}
		}
	}
}

func send(ctx context.Context, out chan<- cluster.Batch, b cluster.Batch) bool {
	select {
	case out <- b:
		return true
	case <-ctx.Done():
		return false
	}
}

// publish records the changes of one revision and tells the watches; mu is held.
func (s *KV) publish(events []cluster.Event) {
	if len(events) == 0 {
		return
	}
	s.history = append(s.history, events...)
	if extra := len(s.history) - maxHistory; extra > 0 {
		s.lost = s.history[extra-1].Revision
		s.history = append([]cluster.Event(nil), s.history[extra:]...)
	}
	for w := range s.watches {
		w.add(events)
	}
}

// add queues the events that w is about, up to the limit.
func (w *watch) add(events []cluster.Event) {
	var batch cluster.Batch
	for _, e := range events {
		if strings.HasPrefix(e.Key, w.prefix) {
			batch.Events = append(batch.Events, e)
			batch.Revision = e.Revision
		}
	}
	if len(batch.Events) == 0 || w.lagged {
		return
	}
	if w.pending += len(batch.Events); w.pending > cluster.WatchBacklog {
		w.lagged, w.waiting = true, nil
	} else {
		w.waiting = append(w.waiting, batch)
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}
