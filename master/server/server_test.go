package server_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"yr/master"
	"yr/master/client"
	"yr/master/masterpb"
	"yr/pkg/cluster/inprocess"
	"yr/pkg/yr"
	"yr/scheduler"
)

func TestJoinAndAsk(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		a, b := w.join("a"), w.join("b")
		require.NotEqual(t, a.Tag(), b.Tag())
		require.Equal(t, uint64(1), a.Incarnation())
		pass(2 * time.Second)

		sample := a.Sample()
		require.Len(t, sample, 1)
		require.Equal(t, yr.Node("b"), sample[0].ID)
		require.Equal(t, b.Tag(), sample[0].Tag)
		require.Equal(t, cpus(4), sample[0].Available)

		plan, where, err := a.Schedule(t.Context(), scheduler.Request{
			ID: yr.NewID(), Need: yr.Resources{yr.CPU: yr.Amount(1000)},
			Require: []scheduler.Condition{{Label: "NODE_ID", Op: scheduler.In, Values: []string{"b"}}},
		})
		require.NoError(t, err)
		require.Equal(t, scheduler.Placed, plan.Verdict)
		require.Equal(t, "b:22773", where.Address)
		require.Equal(t, yr.Resources{yr.CPU: yr.Amount(1000)}, plan.Take)

		plan, _, err = a.Schedule(t.Context(), scheduler.Request{ID: yr.NewID(), Need: yr.Resources{yr.CPU: yr.Amount(4000)}})
		require.NoError(t, err)
		require.Equal(t, yr.Node("a"), plan.Node, "local first")
		plan, _, err = a.Schedule(t.Context(), scheduler.Request{ID: yr.NewID(), Need: yr.Resources{yr.CPU: yr.Amount(4000)}})
		require.NoError(t, err)
		require.Equal(t, scheduler.Wait, plan.Verdict)
		require.Equal(t, yr.ResourceNotEnough, plan.Code)
		plan, _, err = a.Schedule(t.Context(), scheduler.Request{ID: yr.NewID(), Need: yr.Resources{"ssd": yr.Amount(5)}})
		require.NoError(t, err)
		require.Equal(t, scheduler.Never, plan.Verdict)
		require.Contains(t, plan.Reason, "no node can ever hold ssd=5")

		found, err := a.Locate(t.Context(), b.Tag())
		require.NoError(t, err)
		require.Equal(t, yr.Node("b"), found.ID)
		found, err = b.LocateNode(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, a.Tag(), found.Tag)
		_, err = a.LocateNode(t.Context(), "nobody")
		require.ErrorIs(t, err, client.ErrGone)

		nodes, err := b.Nodes(t.Context())
		require.NoError(t, err)
		require.Len(t, nodes, 2)
		require.Equal(t, "ready", nodes[0].State)
		require.Equal(t, map[string]string{"NODE_ID": "a"}, nodes[0].Labels)
	})
}

func TestNames(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w *world) {
		a, b := w.join("a"), w.join("b")
		_, claimed, err := a.Names().Claim(t.Context(), "acme", "ns", "counter", []byte("on a"))
		require.NoError(t, err)
		require.True(t, claimed)
		existing, claimed, err := b.Names().Claim(t.Context(), "acme", "ns", "counter", []byte("on b"))
		require.NoError(t, err)
		require.False(t, claimed)
		require.Equal(t, "on a", string(existing))

		w.kill("m0")
		w.election.set("m1")
		record, ok, err := b.Names().Find(t.Context(), "acme", "ns", "counter")
		require.NoError(t, err)
		require.True(t, ok, "a name outlives the leader that gave it")
		require.Equal(t, "on a", string(record))
		require.NoError(t, a.Names().Drop(t.Context(), "acme", "ns", "counter", []byte("on a")))
		_, ok, err = b.Names().Find(t.Context(), "acme", "ns", "counter")
		require.NoError(t, err)
		require.False(t, ok)
	})
}

func TestSilentNodeIsLostAndComesBackAnew(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		a, b := w.join("a"), w.join("b")
		pass(1500 * time.Millisecond) // the last report is half a second old
		cut := time.Now()
		w.net.cable("b", false)
		pass(10 * time.Second)

		require.Equal(t, master.LostAfter-500*time.Millisecond, b.when(t, "lost", cut), "counted from when it last asked")
		require.False(t, b.Joined())
		require.Equal(t, []string{"b 1"}, w.mourned())
		heard := a.when(t, "death of b 1", cut)
		require.GreaterOrEqual(t, heard, master.Silence-500*time.Millisecond)
		require.LessOrEqual(t, heard, master.Silence+750*time.Millisecond)
		_, err := a.LocateNode(t.Context(), "b")
		require.ErrorIs(t, err, client.ErrGone)
		require.ErrorContains(t, err, "declared dead")
		require.Empty(t, a.Sample())

		healed := time.Now()
		w.net.cable("b", true)
		pass(5 * time.Second)
		require.Less(t, b.when(t, "joined 2", healed), 2*time.Second)
		require.Equal(t, []string{"lost", "joined 2"}, b.told())
		require.True(t, b.Joined())
		n, err := a.LocateNode(t.Context(), "b")
		require.NoError(t, err)
		require.Equal(t, uint64(2), n.Incarnation)
		require.Equal(t, b.Tag(), n.Tag, "the tag is for ever")
		require.Equal(t, []string{"death of b 1"}, a.told())
	})
}

func TestShortSilenceIsForgiven(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		a, b := w.join("a"), w.join("b")
		pass(1500 * time.Millisecond)
		w.net.cable("b", false)
		pass(master.LostAfter - 200*time.Millisecond) // lost, 300 ms ago; the leader still waits
		w.net.cable("b", true)
		pass(5 * time.Second)
		require.Equal(t, []string{"lost", "rejoined 1"}, b.told())
		require.Empty(t, a.told())
		require.Empty(t, w.mourned())
	})
}

// The leader was told by an operator, or by its own clock, what the node does not know.
func TestNodeLearnsThatItIsDead(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w *world) {
		a := w.join("a")
		pass(time.Second)
		_, err := w.masters["m0"].cluster.Nodes().Fence(t.Context(), "a", 1)
		require.NoError(t, err)
		w.election.set("m1") // the new leader reads the registry
		pass(3 * time.Second)
		require.Equal(t, []string{"lost", "joined 2"}, a.told(), "it stops what it runs before it registers again")
	})
}

func TestKilledLeader(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		a, b := w.join("a"), w.join("b")
		pass(1500 * time.Millisecond)
		w.kill("m0")
		pass(2 * time.Second) // nobody leads
		elected := time.Now()
		w.election.set("m2")
		plan, _, err := a.Schedule(t.Context(), scheduler.Request{
			ID: yr.NewID(), Need: yr.Resources{yr.CPU: 1000},
			Require: []scheduler.Condition{{Label: "NODE_ID", Op: scheduler.In, Values: []string{"b"}}},
		})
		require.NoError(t, err)
		require.Less(t, time.Since(elected), time.Second)
		for plan.Verdict != scheduler.Placed { // b has not reported to the new leader yet
			require.Equal(t, scheduler.Wait, plan.Verdict)
			require.Less(t, time.Since(elected), time.Second, "every node reports within a second of the election")
			pass(50 * time.Millisecond)
			plan, _, err = a.Schedule(t.Context(), scheduler.Request{ID: yr.NewID(), Need: yr.Resources{yr.CPU: 1000}})
			require.NoError(t, err)
		}
		pass(10 * time.Second)
		require.Empty(t, a.told(), "nobody noticed")
		require.Empty(t, b.told())
		masters, err := a.Masters(t.Context())
		require.NoError(t, err)
		require.Equal(t, client.Masters{Addresses: w.names, Leader: "m2", Epoch: 2}, masters)
	})
}

func TestUnreachableLeader(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		a := w.join("a")
		pass(1500 * time.Millisecond)
		w.net.cable("m0", false) // stopped, or cut off: connections stay and say nothing
		w.election.freeze("m0")
		pass(1500 * time.Millisecond)
		elected := time.Now()
		w.election.set("m1")
		pass(time.Second)
		_, _, err := a.Names().Find(t.Context(), "", "", "x")
		require.NoError(t, err)
		require.Less(t, time.Since(elected), 1100*time.Millisecond)
		masters, err := a.Masters(t.Context())
		require.NoError(t, err)
		require.Equal(t, "m1", masters.Leader)
		require.Empty(t, a.told())

		w.net.cable("m0", true) // the old leader comes back and believes for a moment that it leads
		pass(900 * time.Millisecond)
		require.Empty(t, a.told(), "an answer of an older epoch counts for nothing")
		w.election.thaw("m0")
		pass(10 * time.Second)
		require.Empty(t, a.told())
		require.Empty(t, w.mourned())
	})
}

// A leader that was stopped while it worked on a report, and wakes up beside its
// successor, does not acknowledge it.
func TestStaleLeaderAnswersNothing(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w *world) {
		stopped, wake := make(chan struct{}), make(chan struct{})
		a := w.join("a")
		pass(time.Second)
		require.NoError(t, a.Close(t.Context())) // the test speaks for it now
		m0 := w.direct("m0")
		report := &masterpb.ReportRequest{Node: "a", Incarnation: a.Incarnation(), Load: &masterpb.Load{}}
		_, err := m0.Report(t.Context(), report)
		require.NoError(t, err, "it leads")

		pass(time.Second) // so that the next answer has a sample
		w.masters["m0"].during = func() {
			close(stopped)
			<-wake
		}
		failed := make(chan error, 1)
		go func() {
			_, err := m0.Report(t.Context(), report)
			failed <- err
		}()
		<-stopped
		w.masters["m0"].during = nil
		w.election.set("m1")
		pass(2 * time.Second)
		close(wake)
		require.ErrorContains(t, <-failed, "does not lead; m1 does")
	})
}

func TestLeaderThatStoodStill(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w *world) {
		a := w.join("a")
		pass(1500 * time.Millisecond)
		find := &masterpb.FindRequest{Name: &masterpb.Name{Name: "x"}}
		m0 := w.direct("m0")

		w.election.stop("m0")
		pass(2 * time.Second)
		w.election.cont("m0")
		_, err := m0.Find(t.Context(), find)
		require.NoError(t, err, "nobody else leads")
		pass(5 * time.Second)
		require.Empty(t, a.told())
		require.Empty(t, w.mourned())

		w.election.stop("m0")
		pass(2 * time.Second)
		w.election.freeze("m0")
		w.election.set("m1")
		pass(time.Second)
		w.election.cont("m0")
		time.AfterFunc(100*time.Millisecond, func() { w.election.thaw("m0") })
		_, err = m0.Find(t.Context(), find)
		require.ErrorContains(t, err, "does not lead; m1 does", "it believed that it led, and waited for certainty")
		pass(10 * time.Second)
		require.Empty(t, a.told())
		require.Empty(t, w.mourned())
	})
}

// A master whose election is wrong about it takes over in the registry, where the
// order is plain; the one that was taken over stops.
func TestTwoLeadersOneRegistry(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w *world) {
		a := w.join("a")
		w.election.freeze("m0")
		w.election.set("m1")
		pass(100 * time.Millisecond)
		m0 := w.direct("m0")
		_, err := m0.Claim(t.Context(), &masterpb.ClaimRequest{
			Name: &masterpb.Name{Name: "x"}, Node: "a", Incarnation: a.Incarnation(),
		})
		require.ErrorContains(t, err, "does not lead", "the write is refused, and the reign is over")
		answer, err := m0.Masters(t.Context(), &masterpb.MastersRequest{})
		require.NoError(t, err)
		require.False(t, answer.GetLeading())
	})
}

func TestRegistryOutOfReachForAMinute(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		a := w.join("a")
		b := w.join("b")
		pass(time.Second)
		w.kv.Pause(true)
		w.net.cable("b", false)
		paused := time.Now()
		pass(30 * time.Second)
		plan, _, err := a.Schedule(t.Context(), scheduler.Request{ID: yr.NewID(), Need: yr.Resources{yr.CPU: 1000}})
		require.NoError(t, err)
		require.Equal(t, scheduler.Placed, plan.Verdict)
		_, _, err = a.Names().Claim(t.Context(), "", "", "x", []byte("r"))
		require.Equal(t, yr.Communication, yr.CodeOf(err))
		pass(time.Minute - time.Since(paused))

		require.Equal(t, []string{"lost"}, b.told())
		require.Empty(t, a.told(), "a death is told once it is written")
		require.Empty(t, w.mourned())
		w.kv.Pause(false)
		healed := time.Now()
		pass(10 * time.Second)
		require.Less(t, a.when(t, "death of b 1", healed), 5*time.Second)
		require.Equal(t, []string{"b 1"}, w.mourned())
		_, claimed, err := a.Names().Claim(t.Context(), "", "", "x", []byte("r"))
		require.NoError(t, err)
		require.True(t, claimed)
	})
}

func TestNewLeaderMournsAgain(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w *world) {
		b := w.join("b")
		require.NoError(t, b.Close(t.Context()))
		pass(master.Silence + time.Second)
		w.election.set("m1")
		pass(time.Second)
		require.Equal(t, []string{"b 1", "b 1"}, w.mourned(), "the first leader may not have finished")
	})
}

func TestRegistryFromABackup(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		a := w.join("a")
		for range 20 {
			_, err := w.masters["m0"].cluster.Leader().TakeOver(t.Context())
			require.NoError(t, err)
		}
		w.election.set("m0")
		pass(2 * time.Second)
		masters, err := a.Masters(t.Context())
		require.NoError(t, err)
		require.Equal(t, uint64(22), masters.Epoch)

		w.kill("m0")
		w.kv = inprocess.New() // a backup of the first hour
		w.start("m0")
		w.election.set("m0")
		pass(5 * time.Second)
		require.Equal(t, []string{"lost", "joined 2"}, a.told(), "the registry knows nothing of it, but others may")
		masters, err = a.Masters(t.Context())
		require.NoError(t, err)
		require.Equal(t, uint64(23), masters.Epoch)
	})
}

func TestFencedNodeClaimsNothing(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		a := w.join("a")
		require.NoError(t, a.Close(t.Context()))
		pass(master.Silence + time.Second)
		_, err := w.direct("m0").Claim(t.Context(), &masterpb.ClaimRequest{Name: &masterpb.Name{Name: "x"}, Node: "a", Incarnation: 1})
		require.ErrorContains(t, err, "declared dead")
		_, ok, err := w.masters["m0"].cluster.Names().Find(t.Context(), "", "", "x")
		require.NoError(t, err)
		require.False(t, ok)
	})
}

func TestQuestionsEndWithTheirContext(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		a := w.join("a")
		w.net.cable("m0", false)
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err := a.LocateNode(ctx, "x")
		require.Equal(t, yr.Communication, yr.CodeOf(err))
		require.False(t, errors.Is(err, client.ErrGone), "not having asked is not having been told")
		require.Equal(t, 2*time.Second, time.Since(began))
	})
}

// direct talks to one master, whether it leads or not.
func (w *world) direct(master string) masterpb.MasterClient {
	w.t.Helper()
	dial := w.net.dialer("test")
	c, err := grpc.NewClient("passthrough:///"+master, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx, master) }))
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = c.Close() })
	return masterpb.NewMasterClient(c)
}
