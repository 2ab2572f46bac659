// Package fault does to running processes, their disks and clocks what happens to
// them in the field, and undoes it.
package fault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"time"
)

// SeedVariable in the environment repeats a run: it is the seed that the run printed.
const SeedVariable = "YR_FAULT_SEED"

// A Fault is something that goes wrong and is right again afterwards.
type Fault struct {
	Name  string
	Begin func() error
	End   func() error // nil: nothing is to be undone
}

// An Event is a fault that has happened; the times are the monotonic clock's.
type Event struct {
	Name  string
	Began time.Duration
	Ended time.Duration // when it was undone
}

// A Schedule draws faults from a menu, one at a time. The same seed and menu give
// the same faults in the same order, after the same pauses.
type Schedule struct {
	Seed   uint64
	Menu   []Fault
	Count  int
	Lasts  [2]time.Duration // from the first to below the second
	Pauses [2]time.Duration // after each one
	// Settled waits, after a fault and its pause, until the system is whole again; nil does not wait.
	Settled func() error
}

// Seed is a new seed, or the one of SeedVariable.
func Seed() uint64 {
	if seed, err := strconv.ParseUint(os.Getenv(SeedVariable), 10, 64); err == nil {
		return seed
	}
	return uint64(time.Now().UnixNano()) % 1_000_000
}

// Run has the faults happen and returns them; also those before an error. A fault
// that has begun is always undone, and Settled is always waited for.
func (s Schedule) Run(ctx context.Context) (events []Event, err error) {
	random := rand.New(rand.NewPCG(s.Seed, 0)) //nolint:gosec // it has to be repeatable
	between := func(bounds [2]time.Duration) time.Duration {
		return bounds[0] + time.Duration(random.Float64()*float64(bounds[1]-bounds[0]))
	}
	for range s.Count {
		fault := s.Menu[random.IntN(len(s.Menu))]
		lasts, pause := between(s.Lasts), between(s.Pauses)
		event := Event{Name: fault.Name, Began: Now()}
		err := fault.Begin()
		if err == nil {
			rest(ctx, lasts)
		}
		if fault.End != nil {
			err = errors.Join(err, fault.End())
		}
		event.Ended = Now()
		events = append(events, event)
		if err != nil {
			return events, fmt.Errorf("fault %s: %w", fault.Name, err)
		}
		rest(ctx, pause)
		if s.Settled != nil {
			if err := s.Settled(); err != nil {
				return events, fmt.Errorf("after fault %s: %w", fault.Name, err)
			}
		}
		if ctx.Err() != nil {
			return events, ctx.Err()
		}
	}
	return events, nil
}

// String says how to have it all again.
func (s Schedule) String() string {
	names := make([]string, len(s.Menu))
	for i, f := range s.Menu {
		names[i] = f.Name
	}
	return fmt.Sprintf("%d faults of {%s}, %s=%d", s.Count, strings.Join(names, ", "), SeedVariable, s.Seed)
}

func rest(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
