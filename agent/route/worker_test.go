package route_test

import (
	"bytes"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"yr/pkg/wire"
	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
)

// worker plays a worker process, one task at a time. The arguments of a task say
// what the function does:
//
//	echo X       returns X
//	first        returns the value of its first dependency
//	size         returns how long its first dependency is
//	large N      returns N bytes in shared memory
//	wrap X       puts X and returns a reference to it
//	raise X      fails as user code does; the worker retires
//	die          the process ends
//	who          returns the worker's id
//	flaky        raises on the first attempt, returns "ok" later
//	lose         forgets the task
//	hold N       never answers until the test releases it (see node.release)
//	block        says BLOCKED, then waits like hold
//	nest N       calls nest N-1 and waits for it; nest 0 returns "bottom"
type worker struct {
	*peer
	node     *node
	id       yr.ID
	queue    []task
	deaf     bool // yielded: drops tasks until YIELDED
	running  bool
	started  uint64
	count    int
	released chan string
	results  []byte // RESULT frames, to be sent again when it resumes
	held     atomic.Bool
	unbuilt  bool // it lost its CONSTRUCT
	dead     atomic.Bool
}

type task struct {
	number uint64
	flags  uint8
	wire.Task
	values []wire.Value
	tail   wire.Tail
}

func (w *worker) run() {
	for {
		h, body, err := w.next(50 * time.Millisecond)
		if w.running { // a release that came early waits for the task that it is for
			select {
			case text := <-w.released:
				w.finish(text)
				w.work()
			default:
			}
		}
		if err == errTimeout { //nolint:errorlint // our own, unwrapped
			continue
		}
		if err != nil {
			if w.dead.Load() || !w.resume() {
				return
			}
			continue
		}
		switch h.Type {
		case wire.Welcome:
			m := &wirepb.Welcome{}
			if wire.DecodeMessage(h.Type, body, m) == nil && !m.GetResumed() {
				w.welcome.Assignment, w.welcome.ResumeToken = m.GetAssignment(), m.GetResumeToken()
			}
		case wire.Reject:
			w.node.exit(w, w.id, "exit code 0")
			return
		case wire.TaskType:
			t := task{number: h.Corr, flags: h.Flags}
			var tail []byte
			if t.Task, t.values, tail, err = wire.DecodeTask(body); err != nil || wire.DecodeTail(tail, &t.tail) != nil {
				return
			}
			if !w.deaf {
				w.queue = append(w.queue, t)
			}
		case wire.Yielded:
			w.deaf = false
		case wire.Recall:
			w.yield(wire.YieldRecalled)
		case wire.ResultType: // of its own nested call
			_, values, _, err := wire.DecodeResult(body, nil)
			if err != nil {
				return
			}
			w.send(wire.AppendEmpty(nil, wire.Unblocked, 0))
			w.finish(string(values[0].Data))
		case wire.Shutdown:
			w.node.exit(w, w.id, "exit code 0")
			return
		}
		w.work()
	}
}

// resume connects again after the daemon was restarted.
func (w *worker) resume() bool {
	nc, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: w.node.socket})
	if err != nil {
		return false
	}
	state := &wirepb.WorkerState{Assignment: w.welcome.GetAssignment(), LastDelivery: w.started, InstanceState: uint32(yr.StateRunning)}
	w.queue = w.queue[:w.busy()]
	if w.unbuilt {
		state.InstanceState = uint32(yr.StateNew)
	}
	if w.running {
		id := w.queue[0].ID
		state.Running = [][]byte{id[:]}
	}
	w.nc, w.buf = nc, nil
	w.send(wire.AppendHello(nil, 1, 1, &wirepb.Hello{
		Role: uint32(yr.RoleWorker), Prefix: w.prefix.String(), WorkerId: w.id[:], Language: "test",
		ResumeToken: w.welcome.GetResumeToken(), Worker: state,
	}))
	if h, _, err := w.next(5 * time.Second); err != nil || h.Type != wire.Welcome {
		w.node.exit(w, w.id, "exit code 0")
		return false
	}
	w.send(append(w.results, wire.AppendEmpty(nil, wire.Announced, 0)...))
	return true
}

// yield gives back what has not been started.
func (w *worker) yield(reason int) {
	w.queue = w.queue[:min(len(w.queue), w.busy())]
	w.deaf = true
	w.send(wire.AppendU64(nil, wire.Yield, w.started, reason))
}

func (w *worker) busy() int {
	if w.running {
		return 1
	}
	return 0
}

func (w *worker) work() {
	for !w.running && len(w.queue) > 0 {
		t := w.queue[0]
		w.started = t.number
		w.running = true
		command, arg, _ := strings.Cut(string(t.Args), " ")
		switch command {
		case "first":
			w.finish(string(t.values[0].Data))
		case "size":
			w.finish(strconv.FormatUint(t.values[0].Place.Length, 10))
		case "large":
			n, _ := strconv.Atoi(arg)
			w.large(n)
		case "wrap":
			w.wrap(arg)
		case "raise":
			w.fail(arg)
		case "flaky":
			if t.tail.Attempt == 0 {
				w.fail("flaky")
			} else {
				w.finish("ok")
			}
		case "die":
			w.node.exit(w, w.id, "exit code 3")
			return
		case "who":
			w.finish(w.id.String())
		case "count":
			w.count++
			w.finish(strconv.Itoa(w.count))
		case "lose": // as if the daemon had died before it could send the task
			w.queue, w.running, w.unbuilt = w.queue[1:], false, true
			w.held.Store(true)
		case "hold":
			w.held.Store(true)
			return
		case "block":
			w.block(nil)
			return
		case "nest":
			n, _ := strconv.Atoi(arg)
			if n == 0 {
				w.finish("bottom")
				continue
			}
			w.seq++
			b := wire.AppendMessage(nil, wire.Define, 0, &wirepb.Function{Number: 1, CodeId: []byte("code"), Name: "m.f", Options: whole})
			w.block(wire.AppendCall(b, 0, &wire.Call{ID: w.prefix.ID(w.seq), Target: 1, Returns: 1, Args: []byte("nest " + strconv.Itoa(n-1))}))
			return
		default:
			w.finish(arg)
		}
	}
}

// large answers the running task with a value in shared memory.
func (w *worker) large(n int) {
	w.send(wire.AppendMessage(nil, wire.Lease, 1, &wirepb.LeaseRequest{Size: uint64(n)})) //nolint:gosec // small
	h, body, err := w.next(5 * time.Second)
	if err != nil || h.Type != wire.Leased {
		return
	}
	l := &wirepb.Lease{}
	if wire.DecodeMessage(h.Type, body, l) != nil {
		return
	}
	place := yr.Place{Segment: l.GetSegment(), Generation: l.GetGeneration(), Length: uint64(n)} //nolint:gosec // small
	f, err := w.node.store.File(place.Segment, place.Generation, true, w.prefix.ID(0))
	if err != nil {
		return
	}
	_, _ = f.WriteAt(bytes.Repeat([]byte{'y'}, n), 0)
	_ = f.Close()
	w.answer(wire.Value{Kind: wire.Placed, Place: place})
}

// wrap answers the running task with a reference to an object that it puts.
func (w *worker) wrap(text string) {
	w.seq++
	id := w.prefix.ID(w.seq)
	w.send(wire.AppendObject(nil, wire.PutType, 0, id, &wire.Value{Data: []byte(text)}))
	w.answer(wire.Value{Data: []byte("a reference"), Contains: id[:]})
	w.send(wire.AppendIDs(nil, wire.Release, 0, []yr.ID{id}))
}

func (w *worker) answer(v wire.Value) {
	t := w.queue[0]
	w.queue, w.running = w.queue[1:], false
	w.send(wire.AppendResult(nil, t.number, t.ID, []wire.Value{v}))
}

// block says that the running task waits, after sending what it waits for.
func (w *worker) block(frames []byte) {
	w.queue = w.queue[:1]
	w.deaf = true
	w.send(wire.AppendU64(frames, wire.Blocked, w.started, -1))
}

// finish answers the running task.
func (w *worker) finish(text string) {
	if !w.running {
		return
	}
	t := w.queue[0]
	w.queue, w.running = w.queue[1:], false
	values := []wire.Value{{Data: []byte(text)}}
	if t.flags&wire.Construct != 0 {
		values = nil
	}
	w.held.Store(false)
	frame := wire.AppendResult(nil, t.number, t.ID, values)
	w.results = append(w.results, frame...)
	w.send(frame)
}

func (w *worker) fail(text string) {
	t := w.queue[0]
	w.queue, w.running = w.queue[1:], false
	w.send(wire.AppendResult(nil, t.number, t.ID, []wire.Value{{Kind: wire.Failed, Serialized: true, Code: yr.UserException, Data: []byte(text)}}))
	w.yield(wire.YieldRetiring)
}

// release lets every held task of the node return text.
func (n *node) release(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, w := range n.workers {
		select {
		case w.released <- text:
		default:
		}
	}
}
