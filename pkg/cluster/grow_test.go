package cluster_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/pkg/cluster"
	"yr/pkg/yr"
)

// alone are the options of a master that is told of no others.
func (m *masters) alone(i int) cluster.MemberOptions {
	o := m.options(i)
	o.Peers.Voters = nil
	return o
}

// joining are those of a master that asks another to let it in.
func (m *masters) joining(i, by int) cluster.MemberOptions {
	o := m.alone(i)
	o.Peers.Join = func(ctx context.Context, name, address string) (string, error) {
		return m.live[by].AddMember(ctx, name, address)
	}
	return o
}

// voters waits until there are n voters and nothing else.
func (m *masters) waitVoters(by, n int) []cluster.MemberView {
	m.t.Helper()
	var views []cluster.MemberView
	require.Eventually(m.t, func() bool {
		var err error
		views, err = m.live[by].Members(m.t.Context())
		require.NoError(m.t, err)
		for _, v := range views {
			if v.Learner || !v.Healthy {
				return false
			}
		}
		return len(views) == n
	}, 30*time.Second, 20*time.Millisecond, "%d voters: %+v", n, &views)
	return views
}

func TestGrowingFromOneToThree(t *testing.T) {
	t.Parallel()
	m := newMasters(t, 3)
	first := m.open(0, m.alone(0))
	put(t, first, "before", "1")
	views, err := first.Members(t.Context())
	require.NoError(t, err)
	require.Len(t, views, 1)
	require.Empty(t, views[0].Address, "a master that is alone listens nowhere")

	second := m.open(1, m.joining(1, 0))
	m.ready(1)
	requireValue(t, second, "before", "1")
	require.Never(t, func() bool {
		views, err := first.Members(t.Context())
		return err != nil || len(views) != 2 || !views[0].Learner && !views[1].Learner
	}, 600*time.Millisecond, 50*time.Millisecond, "two voters would be worse than one, so the second waits")
	put(t, first, "while one learns", "2")

	m.open(2, m.joining(2, 1)) // any member lets it in
	m.ready(2)
	m.waitVoters(0, 3)

	// Now any one can be lost, the first too, and a restart needs neither Join nor Voters.
	m.kill(0)
	put(t, m.live[1], "without the first", "3")
	m.open(0, m.alone(0))
	m.ready(0)
	for key, value := range map[string]string{"before": "1", "while one learns": "2", "without the first": "3"} {
		requireValue(t, m.live[0], key, value)
	}
	for i := range 3 {
		m.stop(i)
	}
	for i := range 3 {
		m.open(i, m.alone(i))
	}
	requireValue(t, m.live[2], "without the first", "3")
}

// Whatever step of growing a crash comes after, doing it again completes it.
func TestGrowingSurvivesACrashAtEveryStep(t *testing.T) {
	t.Parallel()
	m := newMasters(t, 3)
	put(t, m.open(0, m.alone(0)), "k", "v")

	// After the mark, before anything else: the first master listens, alone.
	m.stop(0)
	require.NoError(t, os.WriteFile(filepath.Join(m.dirs[0], "grown"), []byte(m.voters[0].Address), 0o600))
	m.open(0, m.alone(0))
	m.ready(0)
	require.Equal(t, m.voters[0].Address, m.waitVoters(0, 1)[0].Address)

	// After the second was admitted, before it started: both may be asked again.
	admitted, err := m.live[0].AddMember(t.Context(), "etcd1", m.voters[1].Address)
	require.NoError(t, err)
	m.kill(0)
	m.open(0, m.alone(0))
	m.ready(0)
	again, err := m.live[0].AddMember(t.Context(), "etcd1", m.voters[1].Address)
	require.NoError(t, err)
	require.Equal(t, admitted, again)

	// After the second's mark, before its first log.
	require.NoError(t, os.MkdirAll(m.dirs[1], 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(m.dirs[1], "grown"), []byte(m.voters[1].Address), 0o600))
	m.open(1, m.joining(1, 0))
	m.ready(1)

	// While it learns.
	m.kill(1)
	m.open(1, m.alone(1))
	m.ready(1)
	m.open(2, m.joining(2, 0))
	m.waitVoters(0, 3)
	for i := range 3 {
		requireValue(t, m.live[i], "k", "v")
	}
	_, err = m.live[0].AddMember(t.Context(), "etcd1", m.voters[1].Address)
	require.Equal(t, yr.AlreadyRunning, yr.CodeOf(err), "who votes is not let in again")
}

// The other way to grow: the same configuration with three masters everywhere.
func TestGrowingByConfiguration(t *testing.T) {
	t.Parallel()
	m := newMasters(t, 3)
	put(t, m.open(0, m.alone(0)), "k", "v")
	m.stop(0)

	m.start(0) // restarted with the new configuration
	requireValue(t, m.live[0], "k", "v")
	lost := cluster.NewMember(m.options(1))
	require.ErrorIs(t, lost.Open(t.Context()), cluster.ErrOtherCluster, "nobody founds a second cluster beside it")
	for _, i := range []int{1, 2} {
		o := m.options(i)
		o.Peers.Join = m.joining(i, 0).Peers.Join
		m.open(i, o)
	}
	m.waitVoters(0, 3)
	requireValue(t, m.live[2], "k", "v")
}

func TestTwoClustersDoNotGoOnSideBySide(t *testing.T) {
	t.Parallel()
	m := newMasters(t, 3)
	put(t, m.open(0, m.alone(0)), "k", "v")
	m.stop(0)
	m.start(1, 2) // too early: they cannot know of the first, and found a cluster
	first := cluster.NewMember(m.options(0))
	err := first.Open(t.Context())
	require.ErrorIs(t, err, cluster.ErrOtherCluster)
	require.ErrorContains(t, err, "etcd1")
	m.open(0, m.alone(0)) // nothing of it is lost
	requireValue(t, m.live[0], "k", "v")
}

func TestADeadMasterIsReplaced(t *testing.T) {
	t.Parallel()
	m := newMasters(t, 4)
	founders := m.voters
	m.voters = founders[:3]
	m.start(0, 1, 2)
	put(t, m.live[0], "k", "v")
	dead := (m.leader(0) + 1) % 3
	survivor := (dead + 1) % 3
	m.kill(dead)

	views, err := m.live[survivor].Members(t.Context())
	require.NoError(t, err)
	for _, v := range views {
		require.Equal(t, v.Address != m.voters[dead].Address, v.Healthy, "%+v", v)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	require.Error(t, m.live[survivor].RemoveMember(ctx, "nobody"))
	require.NoError(t, m.live[survivor].RemoveMember(ctx, m.voters[dead].Name))

	// The removed one comes back: it learns that it does not belong here any more.
	ghost := m.open(dead, m.options(dead))
	<-ghost.Failed()
	require.ErrorIs(t, ghost.Err(), cluster.ErrRemoved)
	_, _, err = ghost.Get(ctx, "k")
	require.ErrorIs(t, err, cluster.ErrRemoved)
	m.stop(dead)

	m.voters = founders
	m.open(3, m.joining(3, survivor))
	m.ready(3)
	m.voters = append(append([]cluster.Voter(nil), founders[:dead]...), founders[dead+1:]...)
	m.waitVoters(survivor, 3)
	requireValue(t, m.live[3], "k", "v")
}

func TestALiveMasterIsRemoved(t *testing.T) {
	t.Parallel()
	m := newMasters(t, 3)
	m.start(0, 1, 2)
	leader := m.leader(0)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	require.NoError(t, m.live[(leader+1)%3].RemoveMember(ctx, m.voters[leader].Address))
	<-m.live[leader].Failed()
	require.ErrorIs(t, m.live[leader].Err(), cluster.ErrRemoved)
	put(t, m.live[(leader+1)%3], "k", "v")
}

func TestAMasterThatLostItsDataDoesNotPretend(t *testing.T) {
	t.Parallel()
	m := newMasters(t, 3)
	m.start(0, 1, 2)
	m.kill(2)
	require.NoError(t, os.RemoveAll(m.dirs[2]))
	again := cluster.NewMember(m.options(2))
	err := again.Open(t.Context())
	require.Equal(t, yr.DiskFailed, yr.CodeOf(err), "%v", err)
	require.ErrorContains(t, err, "remove")
}

func TestAMasterMayMove(t *testing.T) {
	t.Parallel()
	m := newMasters(t, 3)
	m.start(0, 1, 2)
	put(t, m.live[0], "k", "v")
	m.stop(2)
	m.voters[2].Address = freeAddress(t)
	o := m.alone(2)
	m.open(2, o)
	m.ready(2)
	for _, v := range m.waitVoters(0, 3) {
		require.NotEmpty(t, v.Address)
	}
	requireValue(t, m.live[2], "k", "v")
}

func TestADirectoryOfSeveralNeedsAnAddress(t *testing.T) {
	t.Parallel()
	m := newMasters(t, 1)
	m.open(0, m.alone(0))
	for _, bad := range [][2]string{{"", "127.0.0.1:1"}, {"x", "127.0.0.1"}, {"x=y", "127.0.0.1:1"}, {"x", "a,b:1"}} {
		_, err := m.live[0].AddMember(t.Context(), bad[0], bad[1])
		require.Equal(t, yr.ParamInvalid, yr.CodeOf(err), "%q", bad)
	}
	_, err := m.live[0].AddMember(t.Context(), "etcd1", freeAddress(t))
	require.NoError(t, err)
	m.stop(0)
	err = cluster.NewMember(cluster.MemberOptions{Dir: m.dirs[0]}).Open(t.Context())
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(err))

	bare := openMember(t, t.TempDir())
	_, err = bare.AddMember(t.Context(), "etcd1", freeAddress(t))
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(err), "without a peer address there is nothing to grow")
}

// Requests that are made while the first master gets its address wait, or fail typed.
func TestGrowingUnderLoad(t *testing.T) {
	t.Parallel()
	m := newMasters(t, 2)
	first := m.open(0, m.alone(0))
	done := make(chan struct{})
	acknowledged := make(chan int)
	go func() {
		n := 0
		for i := 0; ; i++ {
			select {
			case <-done:
				acknowledged <- n
				return
			default:
			}
			if _, err := first.Commit(context.Background(), nil, []cluster.Write{{Key: fmt.Sprintf("k%06d", n), Value: []byte("v")}}); err == nil {
				n++
			} else if yr.CodeOf(err) != yr.Communication {
				t.Errorf("%v", err)
			}
		}
	}()
	_, err := first.AddMember(t.Context(), "etcd1", m.voters[1].Address)
	require.NoError(t, err)
	put(t, first, "after", "1")
	close(done)
	n := <-acknowledged
	require.NotZero(t, n)
	entries, _, err := first.List(t.Context(), "k", "", n+1)
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(entries), n, "what was acknowledged is there")
}
