package table_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/master"
	"yr/master/internal/codec"
	"yr/master/table"
	"yr/pkg/cluster"
	"yr/pkg/yr"
	"yr/scheduler"
)

// world is a table with a clock and a registry of its own.
type world struct {
	*table.Table
	t        *testing.T
	now      time.Time
	revision int64
	records  map[yr.Node]cluster.NodeRecord
}

func newWorld(t *testing.T) *world {
	w := &world{
		Table: table.New(rand.New(rand.NewPCG(1, 2))), t: t,
		now: time.Unix(1_000_000, 0), revision: 100, records: make(map[yr.Node]cluster.NodeRecord),
	}
	w.Reset(w.now, nil)
	return w
}

// pass lets time go by in steps of a leader's tick, and returns who became overdue.
func (w *world) pass(d time.Duration) (overdue []table.Overdue) {
	w.t.Helper()
	for end := w.now.Add(d); w.now.Before(end); {
		w.now = w.now.Add(min(250*time.Millisecond, end.Sub(w.now)))
		overdue = w.Expire(w.now)
		require.NoError(w.t, w.Check())
	}
	return overdue
}

// write is the registry: it gives the record the next revision and the table the record.
func (w *world) write(r cluster.NodeRecord) cluster.NodeRecord {
	w.t.Helper()
	w.revision++
	r.Revision = w.revision
	r.Since = w.now
	w.records[r.ID] = r
	w.Apply(w.now, r)
	require.NoError(w.t, w.Check())
	return r
}

func (w *world) list() (records []cluster.NodeRecord) {
	for _, r := range w.records {
		records = append(records, r)
	}
	return records
}

var lastTag int

// join registers a node with 4 CPUs and reports that all of them are free.
func (w *world) join(id yr.Node) cluster.NodeRecord {
	w.t.Helper()
	r, again := w.records[id]
	if !again {
		lastTag++
		r = cluster.NodeRecord{
			ID: id, Identity: "of " + string(id), Tag: cluster.NodeTag([]byte(fmt.Sprintf("%03d", lastTag%1000))),
			Address: string(id) + ":1", Version: "0.1.0", Capacity: free(4),
		}
	}
	r.Incarnation++
	r.State = cluster.NodeAlive
	r = w.write(r)
	require.Equal(w.t, table.Accepted, w.Report(w.now, id, r.Incarnation, master.Load{Available: free(4)}))
	require.NoError(w.t, w.Check())
	return r
}

func (w *world) bury(id yr.Node) {
	w.t.Helper()
	r := w.records[id]
	r.State = cluster.NodeDead
	w.write(r)
}

func (w *world) report(id yr.Node, cpus float64) table.Standing {
	w.t.Helper()
	s := w.Report(w.now, id, w.records[id].Incarnation, master.Load{Available: free(cpus)})
	require.NoError(w.t, w.Check())
	return s
}

func free(cpus float64) yr.Resources {
	return yr.Resources{yr.CPU: yr.Amount(cpus * 1000), yr.Memory: yr.Amount(8192)}
}

func request(id uint64, cpus float64) scheduler.Request {
	return scheduler.Request{ID: yr.Prefix([]byte("request-1")).ID(id), Need: yr.Resources{yr.CPU: yr.Amount(cpus * 1000)}}
}

func names(t *testing.T, sample [][]byte) (ids []yr.Node) {
	t.Helper()
	for _, raw := range sample {
		n, err := codec.NeighbourOf(raw)
		require.NoError(t, err)
		ids = append(ids, n.ID)
	}
	return ids
}

func TestSilenceIsDeath(t *testing.T) {
	w := newWorld(t)
	w.join("a")
	w.join("b")
	for range 4 {
		require.Empty(t, w.pass(time.Second))
		require.Equal(t, table.Accepted, w.report("b", 4))
	}
	require.Empty(t, w.pass(master.Silence-4*time.Second-time.Millisecond), "a has a millisecond left")
	overdue := w.pass(time.Millisecond)
	require.Len(t, overdue, 1)
	require.Equal(t, yr.Node("a"), overdue[0].ID)

	plan, _ := w.Place(w.now, "", request(1, 4))
	require.Equal(t, yr.Node("b"), plan.Node, "nothing is placed where nobody answers")
	require.Equal(t, table.Dying, w.report("a", 4), "before the registry has it, the node is neither alive nor dead")
	require.Len(t, w.pass(time.Second), 1, "the registry is yet to be told")

	w.bury("a")
	require.Empty(t, w.Expire(w.now))
	require.Equal(t, table.Dead, w.report("a", 4), "a late report after fencing")
	require.Equal(t, table.Accepted, w.report("b", 4))
	require.Equal(t, []table.Incarnation{{Node: "a", Incarnation: 1}}, w.Answer(w.now, "b", 102).Dead)

	again := w.join("a")
	require.Equal(t, uint64(2), again.Incarnation)
	require.Equal(t, table.Dead, w.Report(w.now, "a", 1, master.Load{Available: free(4)}), "the ghost of the first incarnation")
	require.True(t, w.Alive("a", 2))
	require.False(t, w.Alive("a", 1))
}

func TestUnknownNodesRegister(t *testing.T) {
	w := newWorld(t)
	require.Equal(t, table.Dead, w.Report(w.now, "stranger", 7, master.Load{}))
}

func TestLeaderThatWasAwayDeclaresNobodyDead(t *testing.T) {
	w := newWorld(t)
	w.join("a")
	w.now = w.now.Add(time.Hour) // the leader's process was stopped
	require.Empty(t, w.Expire(w.now))
	require.Empty(t, w.pass(master.Silence-time.Millisecond), "everyone has the full time again")
	require.Len(t, w.pass(time.Millisecond), 1)
}

func TestNewLeaderGivesEveryoneTheFullTime(t *testing.T) {
	w := newWorld(t)
	w.join("a")
	w.join("b")
	w.pass(4 * time.Second)

	next := newWorld(t)
	next.now, next.revision, next.records = w.now, w.revision, w.records
	next.Reset(next.now, w.list())
	require.Empty(t, next.pass(master.Silence-time.Millisecond))
	require.Len(t, next.pass(time.Millisecond), 2)
}

func TestNewLeaderKnowsWhatIsFreeOnlyFromReports(t *testing.T) {
	w := newWorld(t)
	w.join("a")
	w.join("b")
	w.Reset(w.now, w.list())

	plan, _ := w.Place(w.now, "", request(1, 1))
	require.Equal(t, scheduler.Wait, plan.Verdict, "nothing is known to be free yet")
	plan, _ = w.Place(w.now, "", scheduler.Request{Need: yr.Resources{"GPU/a100/count": 1000}})
	require.Equal(t, scheduler.Wait, plan.Verdict, "a node that has not reported may have the card")
	require.Contains(t, plan.Reason, "2 of 2 nodes have not reported")

	w.report("a", 4)
	w.report("b", 4)
	plan, _ = w.Place(w.now, "", scheduler.Request{Need: yr.Resources{"GPU/a100/count": 1000}})
	require.Equal(t, scheduler.Never, plan.Verdict)
	require.Equal(t, yr.ResourceConfigError, plan.Code)
}

func TestDeathsAreToldOnce(t *testing.T) {
	w := newWorld(t)
	w.join("reader")
	first := w.Answer(w.now, "reader", 0)
	require.True(t, first.All, "who knows nothing gets the list")
	require.Equal(t, []table.Incarnation{{Node: "reader", Incarnation: 1}}, first.Live)

	w.join("a")
	w.join("b")
	quiet := w.Answer(w.now, "reader", first.Deaths)
	require.Empty(t, quiet.Dead)
	require.False(t, quiet.All)

	w.bury("a")
	w.join("b") // restarted: its former incarnation is dead
	told := w.Answer(w.now, "reader", quiet.Deaths)
	require.Equal(t, []table.Incarnation{{Node: "a", Incarnation: 1}, {Node: "b", Incarnation: 1}}, told.Dead)
	require.Empty(t, w.Answer(w.now, "reader", told.Deaths).Dead)

	t.Run("the next leader goes on where this one ended", func(t *testing.T) {
		next := newWorld(t)
		next.Reset(next.now, w.list())
		answer := next.Answer(next.now, "reader", quiet.Deaths)
		require.False(t, answer.All)
		require.ElementsMatch(t, told.Dead, answer.Dead)
	})
	t.Run("a registry that was restored from a backup", func(t *testing.T) {
		require.True(t, w.Answer(w.now, "reader", told.Deaths+1000).All)
	})
}

func TestWhoMissedTooManyDeathsGetsTheList(t *testing.T) {
	w := newWorld(t)
	w.join("reader")
	w.join("flaps")
	since := w.Answer(w.now, "reader", 0).Deaths
	for range table.MaxDeaths {
		w.join("flaps")
	}
	require.Len(t, w.Answer(w.now, "reader", since).Dead, table.MaxDeaths, "just the bound")
	w.join("flaps")
	answer := w.Answer(w.now, "reader", since)
	require.True(t, answer.All)
	require.Empty(t, answer.Dead)
	require.ElementsMatch(t, []table.Incarnation{{Node: "reader", Incarnation: 1}, {Node: "flaps", Incarnation: table.MaxDeaths + 2}}, answer.Live)
}

func TestPlacementsHoldTheirRoom(t *testing.T) {
	w := newWorld(t)
	w.join("a")
	first, encoded := w.Place(w.now, "", request(1, 3))
	require.Equal(t, scheduler.Placed, first.Verdict)
	n, err := codec.NeighbourOf(encoded)
	require.NoError(t, err)
	require.Equal(t, yr.Amount(1000), n.Available[yr.CPU])

	second, _ := w.Place(w.now, "", request(2, 3))
	require.Equal(t, scheduler.Wait, second.Verdict)
	require.Equal(t, yr.ResourceNotEnough, second.Code)
	require.Contains(t, second.Reason, "CPU: Not Enough")

	t.Run("a report that was on its way does not free it", func(t *testing.T) {
		w.report("a", 4)
		plan, _ := w.Place(w.now, "", request(2, 3))
		require.Equal(t, scheduler.Wait, plan.Verdict)
	})
	t.Run("a report that has it does not count it twice", func(t *testing.T) {
		w.Report(w.now, "a", 1, master.Load{Available: free(1), Taken: []yr.ID{request(1, 3).ID}})
		plan, _ := w.Place(w.now, "", request(3, 1))
		require.Equal(t, scheduler.Placed, plan.Verdict)
	})
	t.Run("one that never began is given up", func(t *testing.T) {
		w.pass(table.HoldFor)
		w.report("a", 4)
		plan, _ := w.Place(w.now, "", request(4, 4))
		require.Equal(t, scheduler.Placed, plan.Verdict)
	})
}

func TestCardsOfANodeThatChangedThem(t *testing.T) {
	w := newWorld(t)
	r := w.join("a")
	cards := func(n int) (d []scheduler.Device) {
		for i := range n {
			d = append(d, scheduler.Device{Type: "GPU", Model: "a100", ID: i, Free: 1000})
		}
		return d
	}
	w.Report(w.now, "a", r.Incarnation, master.Load{Available: free(4), Devices: cards(4)})
	plan, _ := w.Place(w.now, "", scheduler.Request{Need: yr.Resources{"GPU/.+/count": 2000}})
	require.Equal(t, map[string][]int{"GPU/a100/count": {0, 1}}, plan.Devices)
	w.Report(w.now, "a", r.Incarnation, master.Load{Available: free(4), Devices: cards(1)})
	plan, _ = w.Place(w.now, "", scheduler.Request{Need: yr.Resources{"GPU/.+/count": 1000}})
	require.Equal(t, scheduler.Placed, plan.Verdict)
}

func TestLocalFirst(t *testing.T) {
	w := newWorld(t)
	for _, id := range []yr.Node{"a", "b", "c"} {
		w.join(id)
	}
	w.report("b", 1)
	plan, _ := w.Place(w.now, "b", request(1, 1))
	require.Equal(t, yr.Node("b"), plan.Node, "however busy it is")
	plan, _ = w.Place(w.now, "b", request(2, 1))
	require.NotEqual(t, yr.Node("b"), plan.Node)
}

func TestCordonAndDrain(t *testing.T) {
	w := newWorld(t)
	r := w.join("a")
	status := func() string {
		page, _ := w.List(w.now, "", 0)
		return page[0].Status
	}
	require.Equal(t, "ready", status())
	r.Restraint = cluster.Restraint{Cordoned: true}
	r = w.write(r)
	require.Equal(t, "cordoned", status())
	plan, _ := w.Place(w.now, "a", request(1, 1))
	require.Equal(t, scheduler.Wait, plan.Verdict)
	require.Contains(t, plan.Reason, "cordoned")

	r.Restraint.Drain = 30 * time.Second
	r = w.write(r)
	require.Equal(t, "draining", status())
	idle := master.Load{Available: free(4), Empty: true}
	w.Report(w.now, "a", r.Incarnation, idle)
	require.Equal(t, "draining", status(), "it does not know yet, and may be about to begin something")
	answer := w.Answer(w.now, "a", 0)
	require.Equal(t, master.Drain{Cordoned: true, Draining: true, Until: w.now.Add(30 * time.Second)}, answer.Drain)
	w.Report(w.now, "a", r.Incarnation, idle)
	require.Equal(t, "drained", status())
	require.True(t, w.Empty("a", w.now))

	r.Restraint = cluster.Restraint{}
	w.write(r)
	require.Equal(t, "ready", status())
	require.Zero(t, w.Answer(w.now, "a", 0).Drain)
}

func TestCordonOutlivesTheLeaderAndTheNode(t *testing.T) {
	w := newWorld(t)
	r := w.join("a")
	r.Restraint = cluster.Restraint{Cordoned: true}
	w.write(r)
	w.Reset(w.now, w.list())
	w.join("a")
	plan, _ := w.Place(w.now, "a", request(1, 1))
	require.Equal(t, scheduler.Wait, plan.Verdict)
}

func TestLocate(t *testing.T) {
	w := newWorld(t)
	r := w.join("a")
	tag := yr.Tag(r.Tag)
	for _, find := range []func() ([]byte, string){
		func() ([]byte, string) { return w.Locate(w.now, "a", yr.Tag{}) },
		func() ([]byte, string) { return w.Locate(w.now, "", tag) },
	} {
		encoded, reason := find()
		require.Empty(t, reason)
		n, err := codec.NeighbourOf(encoded)
		require.NoError(t, err)
		require.Equal(t, "a:1", n.Address)
	}
	w.pass(master.Silence)
	_, reason := w.Locate(w.now, "", tag)
	require.Contains(t, reason, "silent")
	w.bury("a")
	_, reason = w.Locate(w.now, "", tag)
	require.Contains(t, reason, "declared dead")
	_, reason = w.Locate(w.now, "x", yr.Tag{})
	require.Contains(t, reason, "not of this cluster")

	old := w.Forgettable(w.now.Add(table.ForgetAfter))
	require.Len(t, old, 1)
	w.Forget(old[0].ID, old[0].Incarnation)
	require.NoError(t, w.Check())
	_, reason = w.Locate(w.now, "", tag)
	require.Contains(t, reason, "not of this cluster")
}

func TestSample(t *testing.T) {
	w := newWorld(t)
	for i := range 100 {
		w.join(yr.Node(fmt.Sprintf("n%03d", i)))
	}
	counts := make(map[yr.Node]int)
	for i := range 100 { // the first half is nearly full
		w.report(yr.Node(fmt.Sprintf("n%03d", i)), map[bool]float64{true: 0.5, false: 4}[i < 50])
	}
	for range 200 {
		w.now = w.now.Add(table.SampleEvery)
		answer := w.Answer(w.now, "n099", 0)
		require.True(t, answer.Sampled)
		ids := names(t, answer.Sample)
		require.Len(t, ids, master.MaxSample)
		seen := make(map[yr.Node]bool)
		for _, id := range ids {
			require.False(t, seen[id], "%s is there twice", id)
			require.NotEqual(t, yr.Node("n099"), id, "who asks is no neighbour")
			seen[id] = true
			counts[id]++
		}
		require.NoError(t, w.Check())
	}
	full, empty := 0, 0
	for id, n := range counts {
		if id < "n050" {
			full += n
		} else {
			empty += n
		}
	}
	require.Len(t, counts, 99, "everyone with room is shown at times")
	require.Greater(t, empty, 2*full, "those with more room are shown more often")

	t.Run("not again at once", func(t *testing.T) {
		require.False(t, w.Answer(w.now, "n099", 0).Sampled)
	})
	t.Run("nobody without room", func(t *testing.T) {
		for i := range 100 {
			w.report(yr.Node(fmt.Sprintf("n%03d", i)), map[bool]float64{true: 0.2, false: 4}[i > 1])
		}
		w.now = w.now.Add(table.SampleEvery)
		require.ElementsMatch(t, []yr.Node{"n000", "n001"}, names(t, w.Answer(w.now, "n099", 0).Sample))
	})
	t.Run("the same chance, the same sample", func(t *testing.T) {
		draw := func() []yr.Node {
			w := newWorld(t)
			for i := range 100 {
				w.join(yr.Node(fmt.Sprintf("n%03d", i)))
			}
			return names(t, w.Answer(w.now, "n000", 0).Sample)
		}
		require.Equal(t, draw(), draw())
	})
}

func TestListInPages(t *testing.T) {
	w := newWorld(t)
	for i := range 7 {
		w.join(yr.Node(fmt.Sprint("n", i)))
	}
	w.bury("n3")
	left := w.records["n4"]
	left.State = cluster.NodeLeft
	w.write(left)
	var got []string
	after, more := yr.Node(""), true
	for more {
		var page []table.Entry
		page, more = w.List(w.now, after, 2)
		for _, e := range page {
			got = append(got, string(e.ID)+" "+e.Status)
			after = e.ID
		}
	}
	require.Equal(t, []string{"n0 ready", "n1 ready", "n2 ready", "n3 lost", "n5 ready", "n6 ready"}, got)
}
