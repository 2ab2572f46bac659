package durable

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/pkg/yr"
)

func TestThreeVotersSurviveTheLossOfOne(t *testing.T) {
	t.Parallel()
	c := openCluster(t, 3, nil)
	client := c.client("client")
	ctx := t.Context()
	for i := range 50 {
		_, err := Put(ctx, client, fmt.Sprint("k", i), []byte("1"))
		require.NoError(t, err)
	}
	old := c.leader()
	epoch, _ := old.Leading()
	old.kill()
	start := time.Now()
	_, err := Put(ctx, client, "after", []byte("1"))
	require.NoError(t, err)
	t.Logf("writing again %v after the leader died", time.Since(start).Round(time.Millisecond))
	next, ok := c.leader().Leading()
	require.True(t, ok)
	require.Greater(t, next, epoch)
	p, err := client.Range(ctx, "", "", 0)
	require.NoError(t, err)
	require.Len(t, p.Records, 51, "nothing acknowledged is lost")

	require.NoError(t, old.open(nil))
	c.eventually("the old leader catches up", func() bool {
		return old.fsm.m.revision.Load() == 51 && old.Check(ctx) == nil
	})
	require.NotEmpty(t, old.LeaderAddress())
}

func TestVotersComeAndGo(t *testing.T) {
	t.Parallel()
	c := openCluster(t, 1, nil)
	ctx := t.Context()
	client := c.client("client")
	_, err := Put(ctx, client, "a", []byte("1"))
	require.NoError(t, err)
	for _, name := range []string{"n2", "n3"} {
		v := c.add(name, false)
		_, ok := v.Leading()
		require.False(t, ok, "a joiner waits to be added")
		_, _, err := v.Get(ctx, "a")
		require.ErrorIs(t, err, ErrNotLeader)
		require.NoError(t, c.leader().AddVoter(ctx, yr.Node(name), v.address))
	}
	members, err := c.leader().Members()
	require.NoError(t, err)
	require.Len(t, members, 3)
	for _, m := range members {
		require.True(t, m.Voter)
	}

	dead := c.followers()[0]
	dead.kill()
	fresh := c.add("n4", false)
	require.NoError(t, c.leader().ReplaceVoter(ctx, yr.Node(dead.name), "n4", fresh.address))
	c.eventually("the replacement has everything", func() bool { return fresh.fsm.m.revision.Load() == 1 })

	leaving := c.leader()
	require.NoError(t, leaving.RemoveVoter(ctx, yr.Node(leaving.name)))
	_, err = Put(ctx, client, "b", []byte("1"))
	require.NoError(t, err, "the leader's removal is a change of leaders")
	require.NotEqual(t, leaving.name, c.leader().name)
	last := c.leader()
	for _, m := range must(last.Members()) {
		if string(m.Node) != last.name {
			require.NoError(t, last.RemoveVoter(ctx, m.Node))
		}
	}
	require.Error(t, last.RemoveVoter(ctx, yr.Node(last.name)), "the last voter stays")
	_, err = Put(ctx, client, "c", []byte("1"))
	require.NoError(t, err)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestLeadershipIsHandedOver(t *testing.T) {
	t.Parallel()
	c := openCluster(t, 3, nil)
	old := c.leader()
	changed := old.Leadership()
	to := c.followers()[0]
	require.NoError(t, old.TransferLeadership(t.Context(), yr.Node(to.name)))
	<-changed
	c.eventually("the other leads", func() bool { _, ok := to.Leading(); return ok })
	c.eventually("the first knows where", func() bool { return old.LeaderAddress() == to.address })
	_, _, err := old.Get(t.Context(), "a")
	var elsewhere *NotLeaderError
	require.ErrorAs(t, err, &elsewhere)
	require.Equal(t, to.address, elsewhere.Leader)
}

func TestCutOffLeaderAcknowledgesNothing(t *testing.T) {
	t.Parallel()
	c := openCluster(t, 3, nil)
	old := c.leader()
	for _, v := range c.followers() {
		c.wire.set(old.name, v.name, true)
		c.wire.set(v.name, old.name, true)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := old.Apply(ctx, Txn{Do: []Write{put("a", "old")}})
	require.ErrorIs(t, err, ErrUnknown, "it was sent, and nobody said what became of it")
	_, _, err = old.Get(ctx, "a")
	require.ErrorIs(t, err, ErrNotLeader, "and it does not answer reads from the past")
	client := c.client("client")
	_, err = Put(t.Context(), client, "a", []byte("new"))
	require.NoError(t, err)
	for _, v := range c.voters {
		c.wire.set(old.name, v.name, false)
		c.wire.set(v.name, old.name, false)
	}
	c.eventually("the old leader follows", func() bool { return old.fsm.m.revision.Load() == 1 })
	r, _, err := client.Get(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, "new", string(r.Value))
}

func TestPausedFollowerForcesNoElection(t *testing.T) {
	t.Parallel()
	c := openCluster(t, 3, func(c *testCluster) { c.beat = 2 * testHeartbeat })
	leader, paused := c.leader(), c.followers()[0]
	epoch, _ := leader.Leading()
	for _, v := range c.voters {
		c.wire.set(paused.name, v.name, true)
		c.wire.set(v.name, paused.name, true)
	}
	c.eventually("the paused one misses its leader", func() bool { return paused.LeaderAddress() == "" })
	for _, v := range c.voters {
		c.wire.set(paused.name, v.name, false)
		c.wire.set(v.name, paused.name, false)
	}
	c.eventually("it follows again", func() bool { return paused.LeaderAddress() == leader.address })
	now, ok := leader.Leading()
	require.True(t, ok)
	require.Equal(t, epoch, now)
}

func TestNoMajority(t *testing.T) {
	t.Parallel()
	c := openCluster(t, 3, nil)
	client := c.client("client")
	for _, v := range c.followers() {
		v.kill()
	}
	c.eventually("the last one steps down", func() bool {
		for _, v := range c.voters {
			if v.up {
				_, ok := v.Leading()
				return !ok
			}
		}
		return false
	})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := Put(ctx, client, "a", nil)
	require.ErrorIs(t, err, ErrUnavailable, "nobody took it, so it is refused and not unknown")
	require.NotErrorIs(t, err, ErrUnknown)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestFarBehindVoterGetsASnapshot(t *testing.T) {
	t.Parallel()
	c := openCluster(t, 3, func(c *testCluster) { c.keep = minTrailing })
	ctx := t.Context()
	client := c.client("client")
	away := c.followers()[0]
	away.kill()
	big := bytes.Repeat([]byte("large"), MaxInline/4)
	apply(t, client, Txn{Do: []Write{{Key: "big", Value: big}}})
	for i := range 4 * minTrailing {
		_, err := Put(ctx, client, fmt.Sprint("k", i), []byte("1"))
		require.NoError(t, err)
	}
	for _, v := range c.voters {
		if v.up {
			require.NoError(t, v.takeSnapshot())
			first, err := v.log.FirstIndex()
			require.NoError(t, err)
			require.Greater(t, first, uint64(2*minTrailing), "the log is truncated")
		}
	}
	require.NoError(t, away.open(nil))
	c.eventually("it has caught up, large value too", func() bool {
		return away.fsm.m.revision.Load() == 4*minTrailing+1 && away.Check(ctx) == nil
	})
	require.Equal(t, 1, files(t, away.options.Dir, "snapshots"))

	// What it got must survive the way it came.
	away.kill()
	require.NoError(t, away.open(nil))
	require.NoError(t, away.Check(ctx))
	require.Equal(t, uint64(4*minTrailing+1), away.fsm.m.revision.Load())
}

func TestLargeValuesAreOnAMajority(t *testing.T) {
	t.Parallel()
	c := openCluster(t, 3, nil)
	ctx := t.Context()
	client := c.client("client")
	lagging := c.followers()[0]
	lagging.kill()
	big := bytes.Repeat([]byte{1, 2, 3}, MaxInline)
	apply(t, client, Txn{Do: []Write{{Key: "big", Value: big}}})
	have := 0
	for _, v := range c.voters {
		have += files(t, v.options.Dir, "blobs")
	}
	require.Equal(t, 2, have)

	require.NoError(t, lagging.open(nil))
	c.eventually("who lacks it fetches it", func() bool { return files(t, lagging.options.Dir, "blobs") == 1 && lagging.Check(ctx) == nil })

	leader := c.leader()
	name := filepath.Join(leader.options.Dir, "blobs", must(os.ReadDir(filepath.Join(leader.options.Dir, "blobs")))[0].Name())
	require.NoError(t, os.WriteFile(name, []byte("garbage"), 0o600))
	require.ErrorIs(t, leader.Check(ctx), ErrCorrupt)
	r, _, err := client.Get(ctx, "big")
	require.NoError(t, err)
	require.True(t, bytes.Equal(big, r.Value), "a corrupt copy is replaced by another voter's")
	require.NoError(t, leader.Check(ctx))

	require.NoError(t, Delete(ctx, client, "big"))
	c.eventually("what no record has is removed everywhere", func() bool {
		for _, v := range c.voters {
			if files(t, v.options.Dir, "blobs") != 0 {
				return false
			}
		}
		return true
	})
}

func TestCorruptValueOfALoneVoter(t *testing.T) {
	t.Parallel()
	g := openLone(t, Options{})
	apply(t, g, Txn{Do: []Write{{Key: "big", Value: make([]byte, MaxInline+1)}}})
	name := filepath.Join(g.options.Dir, "blobs", must(os.ReadDir(filepath.Join(g.options.Dir, "blobs")))[0].Name())
	require.NoError(t, os.WriteFile(name, []byte("garbage"), 0o600))
	_, _, err := g.Get(t.Context(), "big")
	require.ErrorIs(t, err, ErrCorrupt)
	require.Equal(t, yr.DiskFailed, yr.CodeOf(err))
}

func TestRetriesAreAppliedOnce(t *testing.T) {
	t.Parallel()
	c := openCluster(t, 1, nil)
	g := c.leader()
	named := request{client: clientID{1}, sequence: 7}
	txn := Txn{If: []Condition{{Key: "a"}}, Do: []Write{put("a", "1")}}
	first, err := g.apply(t.Context(), txn, named)
	require.NoError(t, err)
	require.True(t, first.OK)
	again, err := g.apply(t.Context(), txn, named)
	require.NoError(t, err)
	require.Equal(t, first, again, "the second time it is told what the first one did")
	other, err := g.apply(t.Context(), txn, request{client: clientID{1}, sequence: 8})
	require.NoError(t, err)
	require.False(t, other.OK)

	g.kill()
	require.NoError(t, g.open(nil))
	again, err = g.apply(t.Context(), txn, named)
	require.NoError(t, err)
	require.Equal(t, first, again, "also after a restart")
}

func TestForgottenRequestsAreNotAppliedAgain(t *testing.T) {
	t.Parallel()
	m := NewMemory()
	require.NoError(t, m.Open(t.Context()))
	defer func() { require.NoError(t, m.Close(context.Background())) }()
	old := op{kind: opTxn, request: request{client: clientID{1}, sequence: 1}, writes: []write{{Write: put("a", "1"), size: 1}}}
	_, err := m.do(t.Context(), old)
	require.NoError(t, err)
	for i := range uint64(keptAnswers + 3*ticketStep) {
		_, err := m.do(t.Context(), op{kind: opTxn, request: request{client: clientID{2}, sequence: i, seen: i}})
		require.NoError(t, err)
	}
	_, err = m.do(t.Context(), old)
	require.ErrorIs(t, err, ErrUnknown)
	require.ErrorIs(t, err, errForgotten)
	kept := 0
	lower, upper := m.m.keys.bounds(tableAnswer)
	require.NoError(t, scan(m.m.db, lower, upper, func(_, _ []byte) (bool, error) { kept++; return true, nil }))
	require.LessOrEqual(t, kept, keptAnswers+2*ticketStep, "the table of answers is bounded")
}

func TestCompactedHistory(t *testing.T) {
	t.Parallel()
	m := NewMemory()
	require.NoError(t, m.Open(t.Context()))
	defer func() { require.NoError(t, m.Close(context.Background())) }()
	quiet, err := m.Watch(t.Context(), "nothing", 0)
	require.NoError(t, err)
	m.m.generation = 1 << 20
	value := make([]byte, MaxInline)
	for range 3 * m.m.generation / MaxInline {
		_, err := Put(t.Context(), m, "a", value)
		require.NoError(t, err)
	}
	changes, err := m.Watch(t.Context(), "a", 1)
	require.NoError(t, err)
	c := <-changes
	require.ErrorIs(t, c.Err, ErrCompacted)
	_, open := <-changes
	require.False(t, open)
	c = <-quiet
	require.NoError(t, c.Err)
	require.Positive(t, c.Revision, "a quiet watch learns that time has passed")
	require.NoError(t, m.Check(t.Context()))
}

func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	c := openCluster(t, 3, nil)
	ctx := t.Context()
	client := c.client("client")
	big := bytes.Repeat([]byte("big"), MaxInline)
	lease, err := client.Grant(ctx, time.Hour)
	require.NoError(t, err)
	apply(t, client, Txn{Do: []Write{put("a", "1"), {Key: "big", Value: big}, {Key: "leased", Lease: lease}}})
	var backup bytes.Buffer
	require.NoError(t, c.leader().Backup(ctx, &backup))

	require.NoError(t, Delete(ctx, client, "big"))
	after, err := Put(ctx, client, "a", []byte("2"))
	require.NoError(t, err)
	require.NoError(t, c.leader().Restore(ctx, bytes.NewReader(backup.Bytes())))
	for _, v := range c.voters {
		c.eventually("every voter has the state", func() bool {
			r, ok, err := v.find("a")
			return err == nil && ok && string(r.value) == "1" && v.Check(ctx) == nil
		})
	}
	r, _, err := client.Get(ctx, "big")
	require.NoError(t, err)
	require.True(t, bytes.Equal(big, r.Value))
	next, err := Put(ctx, client, "b", nil)
	require.NoError(t, err)
	require.Greater(t, next, after, "no revision is given twice")
	require.NoError(t, client.Renew(ctx, lease))

	damaged := bytes.Clone(backup.Bytes())
	damaged[len(damaged)-10] ^= 1
	require.ErrorIs(t, c.leader().Restore(ctx, bytes.NewReader(damaged)), ErrCorrupt)
	_, _, err = client.Get(ctx, "b")
	require.NoError(t, err, "a damaged backup changes nothing")

	fresh := openLone(t, Options{})
	require.NoError(t, fresh.Restore(ctx, bytes.NewReader(backup.Bytes())))
	r, _, err = fresh.Get(ctx, "big")
	require.NoError(t, err)
	require.True(t, bytes.Equal(big, r.Value), "a new group takes it too")
	other := openLone(t, Options{Group: 7})
	require.ErrorIs(t, other.Restore(ctx, bytes.NewReader(backup.Bytes())), ErrFormat, "of another group")
}

func TestFailedSyncStopsTheVoter(t *testing.T) {
	t.Parallel()
	c := openCluster(t, 3, nil)
	client := c.client("client")
	ctx := t.Context()
	acknowledged := uint64(0)
	leader := c.leader()
	for i := range 200 {
		if i == 100 {
			leader.faulty.Store(true)
		}
		_, err := Put(ctx, client, fmt.Sprint("k", i), nil)
		require.NoError(t, err, "the others go on")
		acknowledged++
	}
	<-leader.Failed()
	require.ErrorIs(t, leader.Err(), ErrFailed)
	require.Equal(t, yr.DiskFailed, yr.CodeOf(leader.Err()))
	_, ok := leader.Leading()
	require.False(t, ok)
	leader.kill()
	leader.faulty.Store(false)
	require.NoError(t, leader.open(nil), "after a repair it comes back")
	c.eventually("with everything", func() bool { return leader.fsm.m.revision.Load() == acknowledged })
}

func TestTablesThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	c := openCluster(t, 3, nil)
	client := c.client("client")
	ctx := t.Context()
	_, err := Put(ctx, client, "a", []byte("1"))
	require.NoError(t, err)
	leader := c.leader()
	leader.faultyPart = "tables"
	leader.faulty.Store(true)
	require.Error(t, leader.takeSnapshot())
	<-leader.Failed()
	require.ErrorIs(t, leader.Err(), ErrFailed)
	_, err = Put(ctx, client, "b", []byte("1"))
	require.NoError(t, err, "the others go on")
	start := time.Now()
	leader.kill()
	require.Less(t, time.Since(start), 5*time.Second, "it can be closed all the same")
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	full := atomic.Bool{}
	dir := t.TempDir()
	o := Options{Dir: dir, Fault: func(op, _ string) error {
		if full.Load() && (op == "write" || op == "create") {
			return syscall.ENOSPC
		}
		return nil
	}}
	g := openLone(t, o)
	_, err := Put(t.Context(), g, "a", []byte("1"))
	require.NoError(t, err)
	full.Store(true)
	_, err = g.Apply(t.Context(), Txn{Do: []Write{{Key: "large", Value: make([]byte, MaxInline+1)}}})
	require.Equal(t, yr.DiskFull, yr.CodeOf(err), "a large value that does not fit is refused: %v", err)
	require.NotErrorIs(t, err, ErrUnknown)
	_, err = Put(t.Context(), g, "a", []byte("2"))
	require.ErrorIs(t, err, ErrUnknown, "the log may hold it or not")
	<-g.Failed()
	require.Equal(t, yr.DiskFull, yr.CodeOf(g.Err()))
	_, err = Put(t.Context(), g, "a", []byte("3"))
	require.ErrorIs(t, err, ErrFailed)
	require.NoError(t, g.Close(context.Background()))

	full.Store(false)
	g = openLone(t, o)
	r, _, err := g.Get(t.Context(), "a")
	require.NoError(t, err)
	require.Contains(t, []string{"1", "2"}, string(r.Value))
	require.NoError(t, g.Check(t.Context()))
}

func TestLoneVoterReopens(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	g := openLone(t, Options{Dir: dir})
	second := New(Options{Dir: dir, Node: "n1", Bootstrap: true})
	require.Equal(t, yr.AlreadyRunning, yr.CodeOf(second.Open(t.Context())))
	for i := range 1000 {
		_, err := Put(t.Context(), g, fmt.Sprint(i), []byte("x"))
		require.NoError(t, err)
		if i == 500 {
			require.NoError(t, g.takeSnapshot())
		}
	}
	epoch, _ := g.Leading()
	require.NoError(t, g.Close(context.Background()))
	_, _, err := g.Get(t.Context(), "1")
	require.ErrorIs(t, err, ErrClosed)
	start := time.Now()
	g = openLone(t, Options{Dir: dir})
	t.Logf("opened in %v", time.Since(start))
	next, ok := g.Leading()
	require.True(t, ok)
	require.Greater(t, next, epoch)
	p, err := g.Range(t.Context(), "", "", 0)
	require.NoError(t, err)
	require.Equal(t, Revision(1000), p.Revision)
	require.NoError(t, g.Check(t.Context()))
}
