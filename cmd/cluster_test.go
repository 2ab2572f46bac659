package cmd

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"yr/pkg/session"
	"yr/pkg/yr"
)

func TestALifeOfACluster(t *testing.T) {
	prefix := home(t)
	r := run(t, startArgs(prefix, "-s", `function_agent.args.custom_resources="{\"ssd\":5}"`, "-s", "values.cpu_num=3000")...)
	require.Equal(t, 0, r.status, r.err)
	require.Regexp(t, `(?m)^Component +PID +Status$`, r.out)
	for _, name := range []string{"etcd", "ds_master", "ds_worker", "function_master", "function_proxy", "function_agent"} {
		require.Regexp(t, `(?m)^`+name+` +\d+ +RUNNING$`, r.out)
	}
	f := latest(t, prefix)
	token, err := os.ReadFile(filepath.Join(prefix, "data", "token"))
	require.NoError(t, err)
	require.Equal(t, 3, strings.Count(r.out, "\nOR\n"), "four ways to join")
	require.Contains(t, r.out, string(token), "the token is in the join line")
	require.Contains(t, r.out, "Logs are in "+f.Dir.Logs())

	t.Run("master info", func(t *testing.T) {
		line, err := os.ReadFile(filepath.Join(prefix, session.MasterInfo))
		require.NoError(t, err)
		require.Regexp(t, regexp.MustCompile(`^local_ip:127\.0\.0\.1,master_ip:127\.0\.0\.1,etcd_ip:127\.0\.0\.1,etcd_port:32379,`+
			`etcd_peer_port:32380,global_scheduler_port:\d+,ds_master_port:12123,bus-proxy:22772,bus:\d+,ds-worker:31501,\n$`), string(line))
		require.Contains(t, string(line), "bus:"+f.ClusterInfo.ForJoin["function_proxy.grpc_port"]+",")
	})
	t.Run("private files", func(t *testing.T) {
		for path, mode := range map[string]os.FileMode{
			filepath.Join(prefix, "data", "token"): 0o600, filepath.Join(prefix, "data"): 0o700,
			f.Dir.Run(): 0o700, f.Dir.Plan(): 0o600, f.Dir.Config(): 0o600, filepath.Dir(f.Socket): 0o700,
		} {
			st, err := os.Stat(path)
			require.NoError(t, err)
			require.Equal(t, mode, st.Mode().Perm(), path)
		}
	})
	t.Run("old log directories", func(t *testing.T) {
		for _, path := range []string{"log", filepath.Join(string(f.Node), "log")} {
			target, err := filepath.EvalSymlinks(filepath.Join(f.Dir.Path, path))
			require.NoError(t, err)
			require.Equal(t, f.Dir.Logs(), target)
		}
	})
	t.Run("health", func(t *testing.T) {
		r := run(t, "health", "--log-dir-prefix", prefix)
		require.Equal(t, 0, r.status)
		require.Contains(t, r.out, "System Status: RUNNING\n")
		require.Contains(t, r.out, "  etcd  RUNNING (PID: "+strconv.Itoa(f.ChildPID())+") (Restart Count: 0)\n")
	})
	t.Run("status", func(t *testing.T) {
		r := run(t, "status", "-f", f.Dir.File())
		require.Equal(t, 0, r.status, r.err)
		require.Regexp(t, `(?s)^Cluster Status:
  Endpoints:
    function_master: 127\.0\.0\.1:\d+
  Topology:
    - \S+: \S+
  ReadyAgentsCount: 1
  Resource: id=\S+ owner=\S+
    capacity: CPU=3000 Memory=\d+ ssd=5
    allocatable: CPU=3000 Memory=\d+ ssd=5
    actualUse: CPU=0 Memory=0 ssd=0
    Fragments:
      `+string(f.Node)+`:
        capacity: CPU=3000 Memory=\d+ ssd=5
        allocatable: CPU=3000 Memory=\d+ ssd=5
        actualUse: CPU=0 Memory=0 ssd=0
$`, r.out)
	})
	t.Run("lists", func(t *testing.T) {
		r := run(t, "list", "nodes", "-o", "json", "--log-dir-prefix", prefix)
		nodes := decode[[]yr.NodeView](t, r.out)
		require.Len(t, nodes, 1)
		require.Equal(t, f.Node, nodes[0].ID)
		for _, what := range []string{"instances", "calls", "objects", "workers"} {
			r := run(t, "list", what, "-o", "json", "--log-dir-prefix", prefix)
			require.Equal(t, "[]\n", r.out, what)
			require.Equal(t, "nothing to show\n", run(t, "list", what, "--log-dir-prefix", prefix).out)
		}
	})
	t.Run("what is not there", func(t *testing.T) {
		for _, args := range [][]string{{"why", "nobody"}, {"logs", "nobody"}} {
			r := run(t, append(args, "--log-dir-prefix", prefix)...)
			require.Equal(t, 1, r.status, r.out)
			require.Contains(t, r.err, "nobody")
		}
	})
	t.Run("a second start is refused", func(t *testing.T) {
		r := run(t, startArgs(prefix)...)
		require.Equal(t, 1, r.status)
		require.Contains(t, r.err, "ALREADY_RUNNING")
		require.Contains(t, r.err, "pid "+strconv.Itoa(f.ClusterInfo.Daemon.PID))
		require.Contains(t, r.err, "yr stop --log-dir-prefix "+prefix)
	})
	t.Run("so is one on the same data directory", func(t *testing.T) {
		r := run(t, startArgs(home(t), "-s", `values.data_dir="`+filepath.Join(prefix, "data")+`"`)...)
		require.Equal(t, 1, r.status)
		require.Contains(t, r.err, "ALREADY_RUNNING")
		require.Contains(t, r.err, "pid "+strconv.Itoa(f.ClusterInfo.Daemon.PID))
	})

	r = run(t, "stop", "--log-dir-prefix", prefix)
	require.Equal(t, 0, r.status, r.err)
	requireNothingLeft(t, f)
	require.FileExists(t, f.Dir.DaemonLog(), "logs stay")
	require.Equal(t, 1, run(t, "stop", "--log-dir-prefix", prefix).status, "nothing left to stop")
	require.NotEqual(t, 0, run(t, "health", "--log-dir-prefix", prefix).status)

	again := start(t, prefix)
	require.Equal(t, f.Node, again.Node, "a node stays itself on its data directory")
	kept, err := os.ReadFile(filepath.Join(prefix, "data", "token"))
	require.NoError(t, err)
	require.Equal(t, token, kept)
}

func TestStopForced(t *testing.T) {
	prefix := home(t)
	f := start(t, prefix)
	require.NoError(t, unix.Kill(f.ChildPID(), unix.SIGSTOP), "a daemon that hangs")
	r := run(t, "stop", "--force", "--log-dir-prefix", prefix)
	require.Equal(t, 0, r.status, r.err)
	requireNothingLeft(t, f)
}

func TestADaemonIsBackAfterACrash(t *testing.T) {
	prefix := home(t)
	f := start(t, prefix)
	at := time.Now()
	require.NoError(t, unix.Kill(f.ChildPID(), unix.SIGKILL))
	var now *session.File
	eventually(t, "session.json counts the restart", func() bool {
		now = latest(t, prefix)
		return now.Components["etcd"].RestartCount == 1
	})
	require.Less(t, time.Since(at), 3*time.Second)
	require.NotEqual(t, f.ChildPID(), now.ChildPID())
	require.Equal(t, f.ClusterInfo, now.ClusterInfo, "the same parent, the same ports")
	require.Equal(t, 0, run(t, "health", "--log-dir-prefix", prefix).status)
	require.Equal(t, 0, run(t, "stop", "--log-dir-prefix", prefix).status)
	requireNothingLeft(t, f)
}

func TestADaemonEndsWithItsParent(t *testing.T) {
	prefix := home(t)
	f := start(t, prefix)
	require.NoError(t, unix.Kill(f.ClusterInfo.Daemon.PID, unix.SIGKILL))
	requireNothingLeft(t, f)
}

func TestStopClearsWhatBothLeft(t *testing.T) {
	prefix := home(t)
	f := start(t, prefix)
	require.NoError(t, unix.Kill(f.ClusterInfo.Daemon.PID, unix.SIGSTOP)) // or it would restart the child first
	require.NoError(t, unix.Kill(f.ChildPID(), unix.SIGKILL))
	require.NoError(t, unix.Kill(f.ClusterInfo.Daemon.PID, unix.SIGKILL))
	eventually(t, "the parent dies", func() bool { return !f.Alive() })
	require.Equal(t, 1, run(t, "health", "--log-dir-prefix", prefix).status)
	require.Contains(t, run(t, "list", "nodes", "--log-dir-prefix", prefix).err, "is gone")
	require.Equal(t, 0, run(t, "stop", "--log-dir-prefix", prefix).status)
	requireNothingLeft(t, f)
}

func TestAnInterruptedStartLeavesNothing(t *testing.T) {
	for _, wait := range []struct{ name, file string }{
		{"before the daemon runs", "*/deploy"},
		{"while the daemon opens", "*/run/plan.json"},
		{"when it is almost ready", "data/etcd"},
	} {
		t.Run(wait.name, func(t *testing.T) {
			prefix := filepath.Join(home(t), "new")
			c, out := group(t, startArgs(prefix)...)
			eventually(t, wait.file, func() bool {
				found, _ := filepath.Glob(filepath.Join(prefix, wait.file))
				return len(found) > 0
			})
			require.NoError(t, unix.Kill(-c.Process.Pid, unix.SIGINT))
			err := c.Wait()
			if err == nil {
				t.Skip("it was ready before the signal came")
			}
			require.Equal(t, 1, c.ProcessState.ExitCode(), out)
			require.NoDirExists(t, prefix)
			eventually(t, "no process is left", func() bool {
				return len(processesOf(&session.File{Dir: session.Dir{Path: prefix}})) == 0
			})
		})
	}
}

func TestPorts(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = busy.Close() }()
	_, port, _ := net.SplitHostPort(busy.Addr().String())
	chosen := "values.function_master.global_scheduler_port=" + port
	base := []string{"start", "--master", "-s", `values.host_ip="127.0.0.1"`, "-s", chosen,
		"-s", "values.function_proxy.grpc_listen_port=0", "--log-dir-prefix"}
	for _, policy := range []string{"FIX", "random"} {
		t.Run("a chosen port is never replaced, "+policy, func(t *testing.T) {
			prefix := home(t)
			r := run(t, append(base, prefix, "--port_policy", policy)...)
			require.Equal(t, 1, r.status)
			require.Contains(t, r.err, "port "+port+" of 127.0.0.1")
			require.Contains(t, r.err, "values.function_master.global_scheduler_port")
			require.NoFileExists(t, filepath.Join(prefix, session.LatestLink))
			require.NoFileExists(t, filepath.Join(prefix, session.MasterInfo))
		})
	}
	// The default ports: whoever has them now, two clusters cannot both.
	first, err := net.Listen("tcp", "127.0.0.1:22773")
	if err == nil {
		defer func() { _ = first.Close() }()
	}
	loopback := []string{"start", "--master", "-s", `values.host_ip="127.0.0.1"`, "--log-dir-prefix"}
	t.Run("a busy default port, RANDOM", func(t *testing.T) {
		prefix := home(t)
		r := run(t, append(loopback, prefix)...)
		require.Equal(t, 0, r.status, r.err)
		require.Regexp(t, `warning: port 22773 \(values\.function_proxy\.grpc_listen_port\) is in use; \d+ is used instead`, r.err)
	})
	t.Run("a busy default port, FIX", func(t *testing.T) {
		r := run(t, append(loopback, home(t), "--port-policy", "fix")...)
		require.Equal(t, 1, r.status)
		require.Contains(t, r.err, "port 22773 of 127.0.0.1")
	})
}

func TestATemporaryClusterEndsWithItsOwner(t *testing.T) {
	for _, row := range []struct {
		name  string
		crash bool // of the daemon, before
		end   unix.Signal
	}{
		{"killed", false, unix.SIGKILL},
		{"ended", false, unix.SIGTERM},
		{"killed after the daemon crashed", true, unix.SIGKILL},
	} {
		t.Run(row.name, func(t *testing.T) {
			prefix := home(t)
			owner := exec.Command("sleep", "1000")
			require.NoError(t, owner.Start())
			t.Cleanup(func() { _ = owner.Process.Kill() })
			r := run(t, "start", "--temporary", "--owner-pid", strconv.Itoa(owner.Process.Pid), "--log-dir-prefix", prefix, "-o", "json")
			require.Equal(t, 0, r.status, r.err)
			view := decode[map[string]any](t, r.out)
			require.Equal(t, true, view["temporary"])
			require.FileExists(t, view["socket"].(string))
			require.Regexp(t, `^127\.0\.0\.1:\d+$`, view["server_address"])
			f := latest(t, prefix)
			require.DirExists(t, f.DataDir)
			if row.crash {
				require.NoError(t, unix.Kill(f.ChildPID(), unix.SIGKILL))
				eventually(t, "the daemon is back", func() bool { return latest(t, prefix).Components["etcd"].RestartCount == 1 })
			}
			require.NoError(t, unix.Kill(owner.Process.Pid, row.end))
			_ = owner.Wait()
			requireNothingLeft(t, f)
			require.NoDirExists(t, f.Dir.Path, "its data dies with it, and its logs")
		})
	}
}

func TestBlock(t *testing.T) {
	for _, row := range []struct {
		name   string
		signal unix.Signal
		alive  bool
	}{
		{"Ctrl-C leaves the cluster running", unix.SIGINT, true},
		{"SIGTERM ends it", unix.SIGTERM, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			prefix := home(t)
			c := blocking(t, prefix)
			f := latest(t, prefix)
			require.NoError(t, c.Process.Signal(row.signal))
			require.NoError(t, c.Wait())
			require.Equal(t, row.alive, f.Alive())
		})
	}
	t.Run("it ends when the cluster does", func(t *testing.T) {
		prefix := home(t)
		c := blocking(t, prefix)
		require.Equal(t, 0, run(t, "stop", "--log-dir-prefix", prefix).status)
		require.NoError(t, c.Wait())
	})
}

// blocking starts a cluster with --block and returns when it has been announced.
func blocking(t *testing.T, prefix string) *exec.Cmd {
	t.Helper()
	c := command(startArgs(prefix, "--block", "true")...)
	out, err := c.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	t.Cleanup(func() { _ = c.Process.Kill() })
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "End it:") {
			return c
		}
	}
	require.Fail(t, "yr start --block ended without saying how to end the cluster")
	return nil
}

func TestALongPathGetsShortSockets(t *testing.T) {
	prefix := filepath.Join(home(t), strings.Repeat("x", 100))
	t.Cleanup(func() { run(t, "stop", "--force", "--log-dir-prefix", prefix) })
	f := start(t, prefix)
	require.Less(t, len(f.Socket), 100)
	require.Equal(t, 0, run(t, "list", "nodes", "--log-dir-prefix", prefix).status)
	require.Equal(t, 0, run(t, "stop", "--log-dir-prefix", prefix).status)
	requireNothingLeft(t, f)
}

func TestComponentsOfLaterVersions(t *testing.T) {
	prefix := home(t)
	r := run(t, startArgs(prefix, "-s", "mode.master.frontend=true", "-s", "mode.master.meta_service=true")...)
	require.Equal(t, 0, r.status, r.err)
	require.Contains(t, r.err, "warning: frontend is not part of yr")
	require.Contains(t, r.err, "warning: meta_service is not part of yr")
	require.NotContains(t, latest(t, prefix).Names(), "frontend", "nothing pretends to run")
}
