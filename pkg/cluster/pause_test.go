package cluster_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/pkg/cluster"
	"yr/pkg/yr"
)

const childOptions = "YR_TEST_OPTIONS"

// child is a master in a process of its own, which can be stopped and killed.
type child struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

func startChild(t *testing.T, o cluster.MemberOptions) *child {
	t.Helper()
	raw, err := json.Marshal(map[string]any{"dir": o.Dir, "name": o.Peers.Name, "address": o.Peers.Address, "tls": o.Peers.TLS, "voters": o.Peers.Voters})
	require.NoError(t, err)
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), alone+"="+t.Name(), childOptions+"="+string(raw))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return &child{cmd, bufio.NewScanner(out)}
}

// say waits for a line that begins with a word and returns the rest of it.
func (c *child) say(t *testing.T, word string) string {
	t.Helper()
	for c.lines.Scan() {
		if rest, ok := strings.CutPrefix(c.lines.Text(), word); ok {
			return strings.TrimSpace(rest)
		}
	}
	require.FailNow(t, "the child ended", "waiting for %q", word)
	return ""
}

// childCluster opens the master that the parent asks for.
func childCluster(t *testing.T) *cluster.Cluster {
	t.Helper()
	var o struct {
		Dir, Name, Address string
		TLS                cluster.PeerTLS
		Voters             []cluster.Voter
	}
	require.NoError(t, json.Unmarshal([]byte(os.Getenv(childOptions)), &o))
	c := cluster.New(cluster.Options{Dir: o.Dir, Node: yr.Node(o.Name), Peers: &cluster.Peers{Name: o.Name, Address: o.Address, TLS: o.TLS, Voters: o.Voters}})
	require.NoError(t, c.Open(t.Context()))
	require.NoError(t, c.WaitReady(t.Context()))
	return c
}

// writeAsLeader takes over and claims names until it is refused.
func writeAsLeader(t *testing.T) {
	c := childCluster(t)
	if strings.HasPrefix(os.Getenv(alone), "TestAPaused") {
		require.NoError(t, cluster.LeadRaft(t.Context(), c.Member()))
	}
	_, err := c.Leader().TakeOver(t.Context())
	require.NoError(t, err)
	fmt.Println("leads")
	for i := 0; ; i++ {
		_, _, err := c.Names().Claim(t.Context(), "t", "child", fmt.Sprintf("%08d", i), nil)
		switch {
		case err == nil:
			fmt.Println("wrote", i)
		case errors.Is(err, cluster.ErrStale):
			for name, write := range map[string]func() error{
				"config": func() error { return c.Config().Set(t.Context(), "s", 1) },
				"node":   func() error { _, err := c.Nodes().Register(t.Context(), node("a", "ia")); return err },
				"fact":   func() error { return c.Facts().PutMaster(t.Context(), cluster.Master{Node: "n", Address: "a:1"}) },
			} {
				if err := write(); !errors.Is(err, cluster.ErrStale) {
					fmt.Println("WRONG", name, err)
				}
			}
			fmt.Println("stale")
			return
		default: // an election came between; what was written is not known
			fmt.Println("failed", i, err)
		}
	}
}

// A leader that is stopped, with etcd's Raft leader in the same process, and
// wakes up beside its successor cannot write anything.
func TestAPausedLeaderIsStale(t *testing.T) {
	if os.Getenv(alone) != "" {
		writeAsLeader(t)
		return
	}
	t.Parallel()
	m := newMasters(t, 3)
	m.open(0, m.options(0))
	m.open(1, m.options(1))
	old := startChild(t, m.options(2))
	old.say(t, "leads")
	old.say(t, "wrote 20")

	require.NoError(t, old.cmd.Process.Signal(syscall.SIGSTOP))
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	successor := cluster.New(cluster.Options{Node: "successor", KV: m.live[0], Standby: true})
	require.NoError(t, successor.Open(ctx))
	for {
		_, err := successor.Leader().TakeOver(ctx)
		if err == nil {
			break
		}
		require.NoError(t, ctx.Err(), "%v", err)
	}
	t.Logf("the successor led %v after the leader was stopped", time.Since(began).Round(time.Millisecond))
	require.Less(t, time.Since(began), 5*time.Second)
	_, claimed, err := successor.Names().Claim(ctx, "t", "successor", "n", nil)
	require.NoError(t, err)
	require.True(t, claimed)
	reign, ok, err := m.live[0].Get(ctx, "/yr/!/leader")
	require.NoError(t, err)
	require.True(t, ok)

	require.NoError(t, old.cmd.Process.Signal(syscall.SIGCONT))
	wrong := ""
	for stale := false; !stale; {
		require.True(t, old.lines.Scan(), "the old leader ended without having noticed")
		line := old.lines.Text()
		stale = line == "stale"
		if strings.HasPrefix(line, "WRONG") {
			wrong = line
		}
	}
	require.Empty(t, wrong)
	entries, _, err := m.live[1].List(ctx, "/yr/t/names/child/", "", 1<<20)
	require.NoError(t, err)
	require.Greater(t, len(entries), 20, "what it had written while it led is there")
	for _, e := range entries {
		require.Less(t, e.Revision, reign.Revision, "%s was written after the take-over", e.Key)
	}
}

// kill -9 of a process that holds a master, the acting leader, at any moment.
func TestAKilledLeaderLosesNothing(t *testing.T) {
	if os.Getenv(alone) != "" {
		writeAsLeader(t)
		return
	}
	t.Parallel()
	m := newMasters(t, 3)
	m.open(0, m.options(0))
	m.open(1, m.options(1))
	acknowledged := -1
	for round := range 3 {
		leader := startChild(t, m.options(2))
		leader.say(t, "leads")
		for range 30 * (round + 1) {
			var n int
			_, err := fmt.Sscan(leader.say(t, "wrote"), &n)
			require.NoError(t, err)
			acknowledged = max(acknowledged, n)
		}
		require.NoError(t, leader.cmd.Process.Kill())
		_ = leader.cmd.Wait()
		c := cluster.New(cluster.Options{Node: "reader", KV: m.live[0], Standby: true})
		require.NoError(t, c.Open(t.Context()))
		for i := range acknowledged + 1 {
			var ok bool
			require.Eventually(t, func() bool {
				var err error
				_, ok, err = c.Names().Find(t.Context(), "t", "child", fmt.Sprintf("%08d", i))
				return err == nil
			}, 20*time.Second, time.Millisecond)
			require.True(t, ok, "name %d was acknowledged and is lost", i)
		}
	}
}

// A disk that fills up ends one master, and the others go on.
func TestAFullDiskEndsOneOfThree(t *testing.T) {
	if os.Getenv(alone) == "" {
		t.Parallel()
		c := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		c.Env = append(os.Environ(), alone+"="+t.Name())
		out, err := c.CombinedOutput()
		require.NoError(t, err, "%s", out)
		if strings.Contains(string(out), "--- SKIP") {
			t.Skip("mounting a small file system needs root")
		}
		return
	}
	m := newMasters(t, 3)
	small := smallDisk(t, "24m")
	m.dirs[1] = filepath.Join(small, "etcd")
	m.start(0, 1, 2)
	filler, err := os.Create(filepath.Join(small, "filler"))
	require.NoError(t, err)
	defer filler.Close()
	for full := error(nil); full == nil; {
		_, full = filler.Write(make([]byte, 4096))
	}
	value := make([]byte, cluster.MaxRecord)
	for i := 0; m.live[1].Err() == nil; i++ {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		_, err := m.live[0].Commit(ctx, nil, []cluster.Write{{Key: fmt.Sprint("k", i%64), Value: value}})
		cancel()
		if err != nil {
			require.Equal(t, yr.Communication, yr.CodeOf(err), "an election at most: %v", err)
		}
	}
	require.Equal(t, yr.DiskFull, yr.CodeOf(m.live[1].Err()), "%v", m.live[1].Err())
	_, _, err = m.live[1].Get(t.Context(), "k0")
	require.Equal(t, yr.DiskFull, yr.CodeOf(err))
	put(t, m.live[0], "after", "1")
	requireValue(t, m.live[2], "after", "1")
	m.live[1] = nil // it cannot be stopped, and ends with this process
}
