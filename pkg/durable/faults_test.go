package durable

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
)

// TestLinearizableUnderFaults lets clients read, write and compare-and-set while
// voters are killed, cut off, paused, lose their disks and have their clocks moved,
// and then checks the whole history. YR_FAULTS says how many faults (50), YR_SEED
// which ones.
func TestLinearizableUnderFaults(t *testing.T) {
	t.Parallel()
	faults, seed := setting("YR_FAULTS", 50), uint64(setting("YR_SEED", int(time.Now().UnixNano()))) //nolint:gosec // a seed
	t.Logf("seed %d: YR_SEED=%d YR_FAULTS=%d go test -run %s ./pkg/durable", seed, seed, faults, t.Name())
	c := openCluster(t, 3, func(c *testCluster) { c.lossy, c.keep, c.beat = true, 64, 100*time.Millisecond })
	s := &storm{testCluster: c, t: t, random: rand.New(rand.NewPCG(seed, 1)), seen: make(map[string]int), counts: make(map[string]int)}
	s.run(faults)
	s.verdict()
}

func setting(name string, otherwise int) int {
	if v, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return v
	}
	return otherwise
}

// storm is a run of clients and faults.
type storm struct {
	*testCluster
	t      *testing.T
	random *rand.Rand // owned by the goroutine that makes faults

	during  atomic.Bool  // a fault is on
	acked   atomic.Int64 // writes
	under   atomic.Int64 // of them, while a fault was on
	unknown atomic.Int64
	refused atomic.Int64
	round   atomic.Int64 // keys change with it, so that no history gets long
	slowest time.Duration
	counts  map[string]int // faults by kind

	mu      sync.Mutex // protects what follows
	history []porcupine.Operation
	written []string        // values that were acknowledged
	sent    map[string]bool // all values
	seen    map[string]int  // values that the watch has told, how often
	tokens  []Revision      // of guarded writes, in order
}

// action is an operation of the model.
type action struct {
	op     string // get, put, cas
	key    string
	value  string
	expect string
}

type told struct {
	value   string
	ok      bool
	unknown bool
}

// register is one key. Values are unique, so a revision is as good as a value.
var register = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := make(map[string][]porcupine.Operation)
		for _, o := range history {
			key := o.Input.(action).key
			byKey[key] = append(byKey[key], o)
		}
		var parts [][]porcupine.Operation
		for _, part := range byKey {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		in, out, now := input.(action), output.(told), state.(string)
		switch in.op {
		case "get":
			return out.value == now, now
		case "put":
			return true, in.value
		default:
			holds := now == in.expect
			if holds {
				return out.unknown || out.ok, in.value
			}
			return out.unknown || !out.ok, now
		}
	},
}

const clients = 6

func (s *storm) run(faults int) {
	s.sent = make(map[string]bool)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	watching := make(chan struct{})
	wg.Go(func() { defer close(watching); s.watch(ctx) })
	working, stop := context.WithCancel(ctx)
	var workers sync.WaitGroup
	for i := range clients {
		client := s.client(fmt.Sprint("c", i))
		random := rand.New(rand.NewPCG(s.random.Uint64(), 2))
		workers.Go(func() { s.work(working, i, client, random) })
	}
	for i := range 2 {
		client := s.client(fmt.Sprint("h", i))
		workers.Go(func() { s.hold(working, i, client) })
	}
	for i := range faults {
		s.round.Store(int64(i))
		s.fault()
	}
	stop()
	workers.Wait()
	s.settle(ctx, watching)
}

// fault does one thing wrong, puts it right again, and waits until somebody got an answer.
func (s *storm) fault() {
	kinds := []struct {
		name string
		do   func(*voter)
	}{
		{"kill", s.killOne}, {"kill", s.killOne}, {"kill leader", func(*voter) { s.killOne(s.leader()) }},
		{"partition", s.partition}, {"partition leader", func(*voter) { s.partition(s.leader()) }},
		{"one-way", s.oneWay}, {"pause", s.pause}, {"pause leader", func(*voter) { s.pause(s.leader()) }},
		{"fsync error", s.breakDisk}, {"fsync error on leader", func(*voter) { s.breakDisk(s.leader()) }},
		{"clock", s.moveClocks}, {"power off", s.powerOff}, {"connections", func(v *voter) { s.wire.cut(v.name); s.last() }},
		{"snapshot", func(v *voter) { _ = v.takeSnapshot() }},
	}
	kind := kinds[s.random.IntN(len(kinds))]
	s.counts[kind.name]++
	before := s.acked.Load()
	s.during.Store(true)
	kind.do(s.voters[s.random.IntN(len(s.voters))])
	s.during.Store(false)
	start := time.Now()
	before = max(before, s.acked.Load())
	s.eventually("writes go on after: "+kind.name, func() bool { return s.acked.Load() > before+1 })
	s.slowest = max(s.slowest, time.Since(start))
}

// last keeps a fault for a while: until some writes were acknowledged under it, or a
// failover's time has passed.
func (s *storm) last() {
	enough := s.acked.Load() + 3*clients
	deadline := time.NewTimer(time.Duration(30+s.random.IntN(200)) * time.Millisecond)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for s.acked.Load() < enough {
		select {
		case <-deadline.C:
			return
		case <-tick.C:
		}
	}
}

func (s *storm) killOne(v *voter) {
	v.kill()
	s.last()
	require.NoError(s.t, v.open(nil))
}

func (s *storm) others(v *voter) (names []string) {
	for _, o := range s.voters {
		if o != v {
			names = append(names, o.name)
		}
	}
	return names
}

func (s *storm) partition(v *voter) {
	s.ways(v, s.others(v), true, true, true)
	s.last()
	s.ways(v, s.others(v), true, true, false)
}

func (s *storm) oneWay(v *voter) {
	out := s.random.IntN(2) == 0
	s.ways(v, s.others(v), out, !out, true)
	s.last()
	s.ways(v, s.others(v), out, !out, false)
}

func (s *storm) pause(v *voter) {
	all := s.others(v)
	for i := range clients {
		all = append(all, fmt.Sprint("c", i))
	}
	s.ways(v, all, true, true, true)
	s.last()
	s.ways(v, all, true, true, false)
}

func (s *storm) ways(v *voter, others []string, out, in, shut bool) {
	for _, o := range others {
		if out {
			s.wire.set(v.name, o, shut)
		}
		if in {
			s.wire.set(o, v.name, shut)
		}
	}
}

func (s *storm) breakDisk(v *voter) {
	v.faulty.Store(true)
	select {
	case <-v.Failed():
	case <-time.After(10 * time.Second):
		s.t.Error("a voter whose disk does not sync goes on")
	}
	s.last()
	v.kill()
	v.faulty.Store(false)
	require.NoError(s.t, v.open(nil))
}

func (s *storm) moveClocks(*voter) {
	for _, v := range s.voters {
		v.clock.by.Add(int64(time.Duration(s.random.IntN(7200)-3600) * time.Second))
	}
	s.last()
}

func (s *storm) powerOff(*voter) {
	for _, v := range s.voters {
		v.kill()
	}
	for _, v := range s.voters {
		require.NoError(s.t, v.open(nil))
	}
	s.last()
}

// work reads and writes until ctx ends.
func (s *storm) work(ctx context.Context, id int, client *Client, random *rand.Rand) {
	for n := 0; ctx.Err() == nil; n++ {
		key := fmt.Sprintf("k/%d/%d", s.round.Load()/2, random.IntN(4))
		value := fmt.Sprintf("%d-%d", id, n)
		switch random.IntN(3) {
		case 0:
			_, _ = s.do(id, action{op: "get", key: key}, func(ctx context.Context) (told, error) {
				r, _, err := client.Get(ctx, key)
				return told{value: string(r.Value), ok: true}, err
			})
		case 1:
			_, _ = s.do(id, action{op: "put", key: key, value: value}, func(ctx context.Context) (told, error) {
				_, err := Put(ctx, client, key, []byte(value))
				return told{ok: true}, err
			})
		default:
			var at Record
			_, err := s.do(id, action{op: "get", key: key}, func(ctx context.Context) (_ told, err error) {
				at, _, err = client.Get(ctx, key)
				return told{value: string(at.Value), ok: true}, err
			})
			if err != nil {
				continue
			}
			_, _ = s.do(id, action{op: "cas", key: key, value: value, expect: string(at.Value)}, func(ctx context.Context) (told, error) {
				_, ok, err := CompareAndSet(ctx, client, key, at.Revision, []byte(value))
				return told{ok: ok}, err
			})
		}
	}
}

// do performs one operation and notes it, if it may have happened.
func (s *storm) do(id int, in action, try func(context.Context) (told, error)) (told, error) {
	if in.value != "" {
		s.mu.Lock()
		s.sent[in.value] = true
		s.mu.Unlock()
	}
	during := s.during.Load()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	start := time.Now().UnixNano()
	out, err := try(ctx)
	end := time.Now().UnixNano()
	switch {
	case err == nil:
	case errors.Is(err, ErrUnknown):
		s.unknown.Add(1)
		out, end = told{unknown: true}, int64(1)<<62
		if in.op == "get" {
			return out, err
		}
	case errors.Is(err, ErrUnavailable):
		s.refused.Add(1)
		return out, err
	default:
		s.t.Errorf("%+v: %v", in, err)
		return out, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.history = append(s.history, porcupine.Operation{ClientId: id, Input: in, Call: start, Output: out, Return: end})
	if out.ok && in.value != "" {
		s.written = append(s.written, in.value)
		s.acked.Add(1)
		if during || s.during.Load() {
			s.under.Add(1)
		}
	}
	return out, err
}

// hold competes for a lock with a lease, and writes under it. Every guarded write
// carries the number of its holder.
func (s *storm) hold(ctx context.Context, id int, client *Client) {
	for ctx.Err() == nil {
		s.holdOnce(ctx, id, client)
	}
}

func (s *storm) holdOnce(ctx context.Context, id int, client *Client) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	lease, err := client.Grant(ctx, 300*time.Millisecond)
	if err != nil {
		return
	}
	got, err := client.Apply(ctx, Txn{If: []Condition{{Key: "lock"}}, Do: []Write{{Key: "lock", Lease: lease, Value: []byte(fmt.Sprint(id))}}})
	if err != nil || !got.OK {
		_ = client.Revoke(ctx, lease)
		return
	}
	for range 20 { // without renewing: some of these come too late
		r, err := client.Apply(ctx, Txn{
			If: []Condition{{Key: "lock", Lease: lease}},
			Do: []Write{{Key: "guarded", Value: []byte(fmt.Sprint(got.Revision))}},
		})
		if err != nil || !r.OK {
			return
		}
	}
	_ = client.Revoke(ctx, lease)
}

// watch follows everything from the beginning, over all changes of leaders.
func (s *storm) watch(ctx context.Context) {
	changes, err := s.client("watcher").Watch(ctx, "", 0)
	if err != nil {
		s.t.Error(err)
		return
	}
	last := Revision(0)
	for c := range changes {
		if c.Err != nil {
			s.t.Errorf("the watch ended: %v", c.Err)
			return
		}
		if c.Revision <= last {
			s.t.Errorf("the watch went from revision %d to %d", last, c.Revision)
		}
		last = c.Revision
		s.mu.Lock()
		done := false
		for _, e := range c.Events {
			switch {
			case strings.HasPrefix(e.Key, "k/"):
				s.seen[string(e.Value)]++
			case e.Key == "guarded":
				token, _ := strconv.ParseUint(string(e.Value), 10, 64)
				s.tokens = append(s.tokens, Revision(token))
			case e.Key == "end":
				done = true
			}
		}
		s.mu.Unlock()
		if done {
			return
		}
	}
}

// settle waits until everybody has everything and the watch has told it.
func (s *storm) settle(ctx context.Context, watching <-chan struct{}) {
	rev, err := Put(ctx, s.client("last"), "end", nil)
	require.NoError(s.t, err)
	<-watching
	for _, v := range s.voters {
		s.eventually("all voters are equal", func() bool { return v.fsm.m.revision.Load() >= uint64(rev) })
		require.NoError(s.t, v.Check(ctx))
	}
}

func (s *storm) verdict() {
	lost, duplicated, invented := 0, 0, 0
	for _, value := range s.written {
		if s.seen[value] == 0 {
			lost++
		}
	}
	for value, times := range s.seen {
		if times > 1 {
			duplicated++
		}
		if !s.sent[value] {
			invented++
		}
	}
	kinds := make([]string, 0, len(s.counts))
	faults := 0
	for kind, n := range s.counts {
		kinds = append(kinds, fmt.Sprintf("%s %d", kind, n))
		faults += n
	}
	slices.Sort(kinds)
	dropped := 0
	for _, v := range s.voters {
		dropped += v.disk.dropped
	}
	s.t.Logf("%d faults (%s)", faults, strings.Join(kinds, ", "))
	s.t.Logf("%d operations; writes acknowledged %d (%d under faults), lost %d, duplicated %d, invented %d; unknown %d, refused %d; guarded writes %d; %d unsynced bytes dropped; slowest recovery %v",
		len(s.history), s.acked.Load(), s.under.Load(), lost, duplicated, invented, s.unknown.Load(), s.refused.Load(), len(s.tokens), dropped, s.slowest.Round(time.Millisecond))
	require.Positive(s.t, s.under.Load(), "nothing was acknowledged under faults: nothing was tested")
	require.Zero(s.t, lost)
	require.Zero(s.t, duplicated)
	require.Zero(s.t, invented)
	require.NotEmpty(s.t, s.tokens)
	require.True(s.t, slices.IsSorted(s.tokens), "a former holder wrote after its successor")
	require.Less(s.t, s.slowest, 5*time.Second)
	result := porcupine.CheckOperationsTimeout(register, s.history, 2*time.Minute)
	require.Equal(s.t, porcupine.Ok, result, "the history is not linearizable")
}
