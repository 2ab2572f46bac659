package scheduler

// Queue is what waits for resources: higher priority first, in order of arrival
// within one. A plain data structure for one owner; not safe for concurrent use.

import (
	"iter"
	"sort"
)

// Policy says what a request that does not fit does to those behind it.
type Policy int

const (
	// FIFO tries everyone: a small request may pass a large one that waits.
	FIFO Policy = iota
	// Fairness stops at the first that does not fit, so that it cannot starve.
	Fairness
)

// Queue holds values of type T. The zero value is an empty queue without a limit.
type Queue[T any] struct {
	// Limit bounds the queue's length; 0: no bound.
	Limit int

	levels []*level[T] // highest priority first; none is empty
	length int
}

type level[T any] struct {
	priority    int
	first, last *Item[T]
}

// Item is a value's place in a queue.
type Item[T any] struct {
	Value T

	level      *level[T]
	prev, next *Item[T]
}

// Len is the number of values.
func (q *Queue[T]) Len() int { return q.length }

// Push puts v behind all others of its priority; nil if the queue is full.
func (q *Queue[T]) Push(priority int, v T) *Item[T] {
	if q.Limit > 0 && q.length >= q.Limit {
		return nil
	}
	l := q.level(priority)
	item := &Item[T]{Value: v, level: l, prev: l.last}
	if l.last != nil {
		l.last.next = item
	} else {
		l.first = item
	}
	l.last = item
	q.length++
	return item
}

// level finds or makes the list for a priority.
func (q *Queue[T]) level(priority int) *level[T] {
	i := sort.Search(len(q.levels), func(i int) bool { return q.levels[i].priority <= priority })
	if i < len(q.levels) && q.levels[i].priority == priority {
		return q.levels[i]
	}
	l := &level[T]{priority: priority}
	q.levels = append(q.levels, nil)
	copy(q.levels[i+1:], q.levels[i:])
	q.levels[i] = l
	return l
}

// First is the item that is next; nil if there is none.
func (q *Queue[T]) First() *Item[T] {
	if len(q.levels) == 0 {
		return nil
	}
	return q.levels[0].first
}

// Pop takes the first value out.
func (q *Queue[T]) Pop() (v T, ok bool) {
	item := q.First()
	if item == nil {
		return v, false
	}
	q.Remove(item)
	return item.Value, true
}

// Remove takes an item out, wherever it stands. Again is no error.
func (q *Queue[T]) Remove(item *Item[T]) {
	l := item.level
	if l == nil {
		return
	}
	if item.prev != nil {
		item.prev.next = item.next
	} else {
		l.first = item.next
	}
	if item.next != nil {
		item.next.prev = item.prev
	} else {
		l.last = item.prev
	}
	item.level, item.prev, item.next = nil, nil, nil
	q.length--
	if l.first == nil {
		q.drop(l)
	}
}

func (q *Queue[T]) drop(l *level[T]) {
	for i := range q.levels {
		if q.levels[i] == l {
			q.levels = append(q.levels[:i], q.levels[i+1:]...)
			return
		}
	}
}

// All goes through the values in order. The loop may remove the item it is at and
// push others; it may not remove others.
func (q *Queue[T]) All() iter.Seq[*Item[T]] {
	return func(yield func(*Item[T]) bool) {
		levels := append([]*level[T](nil), q.levels...)
		for _, l := range levels {
			for item := l.first; item != nil; {
				next := item.next
				if !yield(item) {
					return
				}
				item = next
			}
		}
	}
}

// Serve offers the values in order and takes out those that try accepts.
func (q *Queue[T]) Serve(policy Policy, try func(T) bool) (served int) {
	for item := range q.All() {
		if try(item.Value) {
			q.Remove(item)
			served++
		} else if policy == Fairness {
			break
		}
	}
	return served
}
