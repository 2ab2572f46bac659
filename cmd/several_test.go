package cmd

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"yr/pkg/gateway/api"
	"yr/pkg/session"
	"yr/pkg/yr"
)

// Several real nodes on loopback, as an operator starts, questions and ends them.

// nodeArgs are what keeps nodes of one machine apart.
func nodeArgs(prefix, name string, more ...string) []string {
	return append([]string{"--log-dir-prefix", prefix, "-s", "values.shared_memory_num=64",
		"-s", "values.function_proxy.grpc_listen_port=0", "-s", "values.node_id=" + strconv.Quote(name)}, more...)
}

// begin starts a master and returns its session and its token.
func begin(t *testing.T, name string, more ...string) (f *session.File, token string) {
	t.Helper()
	prefix := home(t)
	r := run(t, append([]string{"start", "--master", "-s", `values.host_ip="127.0.0.1"`, "-s", "values.function_master.global_scheduler_port=0"},
		nodeArgs(prefix, name, more...)...)...)
	require.Equal(t, 0, r.status, "yr start --master failed: %s", r.err)
	text, err := os.ReadFile(filepath.Join(prefix, "data", "token"))
	require.NoError(t, err)
	return latest(t, prefix), string(text)
}

// masterOf is where a master is joined.
func masterOf(f *session.File) string {
	j := f.ClusterInfo.ForJoin
	return net.JoinHostPort(j["function_master.ip"], j["function_master.port"])
}

// join starts a node that joins, and returns its session.
func join(t *testing.T, name string, args ...string) *session.File {
	t.Helper()
	prefix := home(t)
	r := run(t, append(append([]string{"start"}, args...), nodeArgs(prefix, name)...)...)
	require.Equal(t, 0, r.status, "yr start failed: %s", r.err)
	require.Contains(t, r.out, "Node "+name+" has joined the cluster of ")
	require.NotContains(t, r.out, "etcd", "a node that joins runs no registry")
	return latest(t, prefix)
}

// ask runs a command against the session of a node.
func ask(t *testing.T, f *session.File, args ...string) result {
	t.Helper()
	return run(t, append(args, "--log-dir-prefix", f.Dir.Prefix)...)
}

// meanwhile runs a command that takes its time; what it returns waits for it.
func meanwhile(t *testing.T, args ...string) func() result {
	t.Helper()
	c := command(args...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	require.NoError(t, c.Start())
	wait := sync.OnceValue(func() result {
		_ = c.Wait()
		return result{out.String(), errs.String(), c.ProcessState.ExitCode()}
	})
	t.Cleanup(func() { wait() })
	return wait
}

// names lists the nodes that a node sees, with their states.
func names(t *testing.T, f *session.File) string {
	t.Helper()
	r := ask(t, f, "nodes", "-o", "json")
	if r.status != 0 {
		return r.err
	}
	var list []string
	for _, n := range decode[[]yr.NodeView](t, r.out) {
		list = append(list, string(n.ID)+" "+n.State)
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

func TestALifeOfSeveralNodes(t *testing.T) {
	t.Parallel()
	m, token := begin(t, "m")
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte(token+"\n"), 0o600))
	line, err := os.ReadFile(filepath.Join(m.Dir.Prefix, session.MasterInfo))
	require.NoError(t, err)

	a := join(t, "a", "--join", masterOf(m), "--token", token)
	b := join(t, "b", "--master_address", "http://"+masterOf(m), "--token-file", file)
	c := join(t, "c", "--master_info", string(line), "-s", "values.token="+strconv.Quote(token))
	all := []*session.File{m, a, b, c}

	t.Run("everybody sees everybody", func(t *testing.T) {
		for _, f := range all {
			eventually(t, "four nodes, seen from "+string(f.Node), func() bool { return names(t, f) == "a ready, b ready, c ready, m ready" })
			r := ask(t, f, "status")
			require.Equal(t, 0, r.status, r.err)
			require.Contains(t, r.out, "ReadyAgentsCount: 4\n")
			require.Regexp(t, `function_master: 127\.0\.0\.1:\d+\n`, r.out)
			for _, other := range all {
				r := ask(t, f, "why", string(other.Node))
				require.Equal(t, 0, r.status, r.err)
				require.Contains(t, r.out, "node "+string(other.Node)+" is ready")
			}
			for _, what := range []string{"instances", "calls", "objects", "workers"} {
				r := ask(t, f, "list", what)
				require.Equal(t, 0, r.status, r.err)
				require.Empty(t, r.err, "nobody is missed")
			}
		}
	})
	t.Run("tags are unique", func(t *testing.T) {
		tags := map[string]yr.Node{}
		for _, n := range decode[[]yr.NodeView](t, ask(t, a, "nodes", "-o", "json").out) {
			require.Len(t, n.Tag, yr.TagLen, n.ID)
			require.Empty(t, tags[n.Tag], "%s and %s", n.ID, tags[n.Tag])
			tags[n.Tag] = n.ID
		}
	})
	t.Run("from another machine", func(t *testing.T) {
		at := net.JoinHostPort(b.ClusterInfo.ForJoin["agent.ip"], b.ClusterInfo.ForJoin["function_proxy.grpc_port"])
		require.Contains(t, run(t, "nodes", "--address", at, "--token-file", file).out, "\nc ")
		r := run(t, "nodes", "--address", at, "--token", "wrong")
		require.Equal(t, 1, r.status)
		require.Contains(t, r.err, "AUTHORIZATION")
	})
	t.Run("a program on any node finds its own", func(t *testing.T) {
		for _, f := range all {
			line, err := os.ReadFile(filepath.Join(f.Dir.Prefix, session.MasterInfo))
			require.NoError(t, err)
			require.Contains(t, string(line), "bus:"+f.ClusterInfo.ForJoin["function_proxy.grpc_port"]+",")
			require.Equal(t, masterOf(m), masterOf(f))
		}
	})
	t.Run("cordon, drain, evict", func(t *testing.T) {
		state := func(want string) func() bool {
			return func() bool { return strings.Contains(names(t, m), want) }
		}
		require.Equal(t, 0, ask(t, a, "cordon", "b").status)
		eventually(t, "b is cordoned", state("b cordoned"))
		require.Equal(t, 0, ask(t, c, "uncordon", "b").status)
		eventually(t, "b is back", state("b ready"))
		r := ask(t, a, "drain", "--timeout", "20s", "b")
		require.Equal(t, 0, r.status, r.err)
		require.Contains(t, r.out, "node b is empty")
		eventually(t, "it is to stay so", state("b drained"))
		require.Equal(t, 0, ask(t, b, "uncordon", "b").status)
		r = ask(t, c, "evict", "--grace", "0s", "b")
		require.Equal(t, 0, r.status, r.err)
		require.Equal(t, 0, ask(t, b, "uncordon", "b").status)
		r = ask(t, a, "drain", "nobody")
		require.Equal(t, 1, r.status)
		require.Contains(t, r.err, `no node "nobody"`)
	})
	t.Run("leaving in order", func(t *testing.T) {
		r := ask(t, b, "leave", "--timeout", "20s")
		require.Equal(t, 0, r.status, r.err)
		require.NotContains(t, names(t, m), "b ready")
		requireNothingLeft(t, b)
		require.Equal(t, 0, ask(t, c, "stop").status)
		require.NotContains(t, names(t, a), "c ready", "stopping says goodbye too")
		r = ask(t, m, "leave")
		require.Equal(t, 1, r.status)
		require.Contains(t, r.err, "yr masters remove m")
	})
	t.Run("a lost node is named", func(t *testing.T) {
		require.NoError(t, unix.Kill(a.ClusterInfo.Daemon.PID, unix.SIGSTOP)) // or it would restart the child
		require.NoError(t, unix.Kill(a.ChildPID(), unix.SIGKILL))
		eventually(t, "a is missed", func() bool { return !strings.Contains(names(t, m), "a ready") })
		require.NoError(t, unix.Kill(a.ClusterInfo.Daemon.PID, unix.SIGCONT))
		eventually(t, "a is back", func() bool { return strings.Contains(names(t, m), "a ready") })
	})
}

// What the master prints can be pasted into a shell.
func TestThePrintedWaysToJoinWork(t *testing.T) {
	t.Parallel()
	prefix := home(t)
	r := run(t, append([]string{"start", "--master", "-s", `values.host_ip="127.0.0.1"`, "-s", "values.function_master.global_scheduler_port=0"},
		nodeArgs(prefix, "m")...)...)
	require.Equal(t, 0, r.status, r.err)
	self, err := os.Executable()
	require.NoError(t, err)
	bin := t.TempDir()
	require.NoError(t, os.Symlink(self, filepath.Join(bin, "yr")))
	paste := func(name, script string) result {
		script = strings.ReplaceAll(script, "/etc/yuanrong/config.toml", filepath.Join(bin, "config.toml"))
		script = strings.TrimSpace(script)
		for _, word := range nodeArgs(home(t), name) {
			script += " '" + word + "'"
		}
		c := exec.Command("sh", "-c", script)
		c.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
		out, err := c.CombinedOutput()
		require.NotNil(t, c.ProcessState, "%v", err)
		return result{out: string(out), status: c.ProcessState.ExitCode()}
	}
	help := regexp.MustCompile(`(?s)run one of these on it:\n\n(.*?)\n\nMerge`).FindStringSubmatch(r.out)
	require.NotNil(t, help, r.out)
	ways := strings.Split(help[1], "\nOR\n")
	require.Len(t, ways, 4)
	for i, way := range ways {
		way = regexp.MustCompile(`(?m)^  `).ReplaceAllString(way, "")
		way = strings.Replace(way, "\nyr start", "\nyr -c "+filepath.Join(bin, "config.toml")+" start", 1) // the default file is the machine's
		r := paste(fmt.Sprintf("n%d", i), way)
		require.Equal(t, 0, r.status, "%s\n%s", way, r.out)
	}
	require.Equal(t, "m ready, n0 ready, n1 ready, n2 ready, n3 ready", names(t, latest(t, prefix)))
}

func TestNodesThatMayNotJoin(t *testing.T) {
	t.Parallel()
	m, token := begin(t, "m")
	other := join(t, "a", "--join", masterOf(m), "--token", token)
	nobody := meanwhile(t, append([]string{"start", "--join", "127.0.0.1:1", "--token", token}, nodeArgs(home(t), "nobody")...)...)
	for _, row := range []struct {
		name, version string
		args          []string
		says          []string
	}{
		{"another token", "", []string{"--join", masterOf(m), "--token", "wrong"}, []string{"does not accept the token", "AUTHORIZATION"}},
		{"no token", "", []string{"--join", masterOf(m)}, []string{"joining a cluster needs its token", "AUTHORIZATION"}},
		{"the name of another", "", []string{"--join", masterOf(m), "--token", token, "-s", `values.node_id="a"`}, []string{`node "a" is already in this cluster`, "ALREADY_RUNNING"}},
		{"an older version", "0.1.0", []string{"--join", masterOf(m), "--token", token}, []string{"0.1.0", "1.2.3", "VERSION_MISMATCH"}},
		{"a newer version", "1.9.0", []string{"--join", masterOf(m), "--token", token}, []string{"1.9.0", "1.2.3", "VERSION_MISMATCH"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			prefix := home(t)
			args := []string{"start", "--log-dir-prefix", prefix, "-s", "values.shared_memory_num=64", "-s", "values.function_proxy.grpc_listen_port=0"}
			c := command(append(args, row.args...)...)
			if row.version != "" {
				c.Env = append(os.Environ(), versionVariable+"="+row.version)
			}
			out, _ := c.CombinedOutput()
			require.Equal(t, 1, c.ProcessState.ExitCode(), "%s", out)
			for _, text := range row.says {
				require.Contains(t, string(out), text)
			}
			require.NoFileExists(t, filepath.Join(prefix, "data", "token"), "a token that was refused is not remembered")
			require.NoFileExists(t, filepath.Join(prefix, session.LatestLink))
		})
	}
	r := nobody()
	require.Equal(t, 1, r.status, "no master there, however long one waits")
	require.Contains(t, r.err, "127.0.0.1:1")
	require.Contains(t, r.err, "refused")
	require.Equal(t, "a ready, m ready", names(t, other))
	t.Run("one version apart", func(t *testing.T) {
		prefix := home(t)
		c := command(append([]string{"start", "--join", masterOf(m), "--token", token}, nodeArgs(prefix, "newer")...)...)
		c.Env = append(os.Environ(), versionVariable+"=1.3.0")
		out, err := c.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Equal(t, "a ready, m ready, newer ready", names(t, m))
	})
}

func TestThreeMasters(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	require.NoError(t, os.WriteFile(token, []byte("secret"), 0o600))
	ports := freePorts(t, 2)
	var entries []string
	for i := range 3 {
		entries = append(entries, fmt.Sprintf(`{ip="127.0.0.%d",peer_port=%d,global_scheduler_port=%d}`, i+1, ports[0], ports[1]))
	}
	masters := make([]*session.File, 3)
	var started sync.WaitGroup
	for i := range masters {
		prefix := home(t)
		c := command(append([]string{"start", "--master", "--token-file", token, "-s", "values.etcd.enable_multi_master=true",
			"-s", "values.etcd.address=[" + strings.Join(entries, ",") + "]", "-s", fmt.Sprintf(`values.host_ip="127.0.0.%d"`, i+1)},
			nodeArgs(prefix, fmt.Sprintf("m%d", i+1))...)...)
		started.Go(func() {
			if out, err := c.CombinedOutput(); err != nil {
				t.Errorf("master %d: %v\n%s", i+1, err, out)
				return
			}
			masters[i], _ = session.Latest(prefix)
		})
	}
	started.Wait()
	require.False(t, t.Failed())
	voting := func(f *session.File, states ...string) func() bool {
		return func() bool {
			r := ask(t, f, "masters", "list", "-o", "json")
			if r.status != 0 {
				return false
			}
			leaders, list := 0, []string{}
			for _, m := range decode[[]api.MasterView](t, r.out) {
				list = append(list, string(m.Node)+" "+m.State)
				if m.Leader {
					leaders++
				}
			}
			slices.Sort(list)
			return leaders == 1 && slices.Equal(list, states)
		}
	}
	for _, f := range masters {
		eventually(t, "three masters vote", voting(f, "m1 ready", "m2 ready", "m3 ready"))
	}
	line, err := os.ReadFile(filepath.Join(masters[0].Dir.Prefix, session.MasterInfo))
	require.NoError(t, err)
	require.Contains(t, string(line), "etcd_addr_list:127.0.0.1;127.0.0.2;127.0.0.3,")
	a := join(t, "a", "--master-info", string(line), "--token-file", token)

	require.NoError(t, unix.Kill(masters[0].ClusterInfo.Daemon.PID, unix.SIGKILL))
	eventually(t, "two of three go on", func() bool {
		return strings.Contains(names(t, a), "m2 ready, m3 ready") && !strings.Contains(names(t, a), "m1 ready")
	})
	r := ask(t, a, "masters", "replace", "m1")
	require.Equal(t, 0, r.status, r.err)
	require.Contains(t, r.out, "survives the loss of 0; an odd number is better")
	command := regexp.MustCompile(`(?m)^  yr (start --master --join \S+ --token \S+)$`).FindStringSubmatch(ask(t, masters[1], "masters", "add").out)
	require.NotNil(t, command)
	prefix := home(t)
	r = run(t, append(strings.Fields(command[1]), nodeArgs(prefix, "m4", "-s", `values.host_ip="127.0.0.4"`,
		"-s", "values.function_master.global_scheduler_port=0", "-s", fmt.Sprintf(`values.etcd.address=[{ip="127.0.0.4",peer_port=%d}]`, ports[0]))...)...)
	require.Equal(t, 0, r.status, r.err)
	eventually(t, "the new one votes", voting(a, "m2 ready", "m3 ready", "m4 ready"))
}

// freePorts finds ports that are free on 127.0.0.1 to 4, below those that the
// kernel gives to connections: one that it takes in between is not free any more.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var ports []int
	for port := 20000 + os.Getpid()%10000; len(ports) < n; port++ {
		require.Less(t, port, 32000, "no free port")
		free := true
		for i := 1; i <= 4 && free; i++ {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.%d:%d", i, port))
			if free = err == nil; free {
				require.NoError(t, l.Close())
			}
		}
		if free {
			ports = append(ports, port)
		}
	}
	return ports
}

func TestAClusterWithTLS(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "certs")
	for _, args := range [][]string{{"cert", "init"}, {"cert", "issue", "--host", "127.0.0.1", "m"}, {"cert", "issue", "--host", "127.0.0.1", "a"}} {
		r := run(t, append(args, "--dir", dir)...)
		require.Equal(t, 0, r.status, r.err)
	}
	tls := func(name string) []string {
		return []string{"-s", "values.fs.tls.enable=true", "-s", "values.fs.tls.base_path=" + strconv.Quote(filepath.Join(dir, name))}
	}
	m, token := begin(t, "m", tls("m")...)
	plain := meanwhile(t, append([]string{"start", "--join", masterOf(m), "--token", token}, nodeArgs(home(t), "plain")...)...)
	a := join(t, "a", append([]string{"--master_address", "https://" + masterOf(m), "--token", token}, tls("a")...)...)
	require.Equal(t, "a ready, m ready", names(t, a))

	conf := filepath.Join(t.TempDir(), "c.toml")
	require.NoError(t, os.WriteFile(conf, fmt.Appendf(nil, "[values]\ntoken=%q\n[values.fs.tls]\nenable=true\nbase_path=%q\n", token, filepath.Join(dir, "a")), 0o600))
	r := run(t, "-c", conf, "nodes", "--address", masterOf(m))
	require.Equal(t, 0, r.status, r.err)
	require.Contains(t, r.out, "\nm ")

	for _, step := range []string{"begin", "switch", "finish"} {
		r := run(t, "cert", "rotate", step, "--dir", dir)
		require.Equal(t, 0, r.status, r.err)
		b := join(t, "b-"+step, append([]string{"--join", masterOf(m), "--token", token}, tls("a")...)...)
		require.Contains(t, names(t, m), "b-"+step+" ready", "without a restart")
		require.Equal(t, 0, ask(t, b, "stop").status)
	}
	r = plain()
	require.Equal(t, 1, r.status, "the token alone is not enough")
	require.Contains(t, r.err, "TLS")
}

func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	m, token := begin(t, "m")
	a := join(t, "a", "--join", masterOf(m), "--token", token)
	backup := filepath.Join(t.TempDir(), "backup")
	r := ask(t, a, "backup", backup)
	require.Equal(t, 0, r.status, r.err)
	st, err := os.Stat(backup)
	require.NoError(t, err)
	require.Positive(t, st.Size())
	require.Equal(t, 1, ask(t, m, "restore", backup).status, "not over a cluster that lives")
	require.Equal(t, 0, ask(t, a, "stop").status)
	require.Equal(t, 0, ask(t, m, "stop").status)

	prefix := home(t)
	r = run(t, "restore", backup, "--log-dir-prefix", prefix)
	require.Equal(t, 0, r.status, r.err)
	f := start(t, prefix, "--token", token, "-s", `values.node_id="m2"`)
	require.NoFileExists(t, session.RestoreFile(f.DataDir), "it is begun from once")
	require.Contains(t, names(t, f), "m2 ready")
	require.Equal(t, 1, run(t, "restore", backup, "--log-dir-prefix", prefix).status)

	broken := filepath.Join(t.TempDir(), "broken")
	whole, err := os.ReadFile(backup)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(broken, whole[:len(whole)-1], 0o600))
	prefix = home(t)
	require.Equal(t, 0, run(t, "restore", broken, "--log-dir-prefix", prefix).status)
	r = run(t, startArgs(prefix)...)
	require.Equal(t, 1, r.status, "half a backup is none")
	require.Contains(t, r.err, "backup")
}
