package daemon

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"yr/pkg/config"
	"yr/pkg/session"
	"yr/pkg/supervise"
	"yr/pkg/yr"
)

// plan describes a small master on loopback.
func plan(t *testing.T, set ...string) *session.Plan {
	t.Helper()
	prefix := t.TempDir()
	empty := filepath.Join(prefix, "empty.toml")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	c, err := config.Load(config.Sources{
		Host: config.Host{Name: "n", PID: 1, IP: "127.0.0.1", CPUs: 2, MemoryMB: 600}, File: empty,
		Set: append([]string{
			"values.shared_memory_num=64", `values.token="secret"`, `values.data_dir="` + filepath.Join(prefix, "data") + `"`,
			"values.function_master.global_scheduler_port=0", "values.function_proxy.grpc_listen_port=0",
		}, set...),
		Getenv: func(string) string { return "" },
	})
	require.NoError(t, err)
	s, err := c.Settings()
	require.NoError(t, err)
	dir, err := session.Create(prefix, "", time.Now())
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(s.DataDir, 0o700))
	require.NoError(t, c.Save(dir.Config()))
	return &session.Plan{Dir: dir, Master: true, Version: "1.2.3", Begun: time.Now(), Settings: s}
}

func open(t *testing.T, p *session.Plan) *Daemon {
	t.Helper()
	child, err := supervise.Inherit()
	require.NoError(t, err)
	d := New(Options{Plan: p, Child: child})
	t.Cleanup(func() {
		_ = d.shut()
		_ = child.Close()
	})
	require.NoError(t, d.Open(context.Background()))
	return d
}

func TestOpenAndShutLeakNothing(t *testing.T) {
	// What is made once in a process and kept (etcd's metrics, the resolver) is made by the first round.
	once := func() {
		p := plan(t)
		d := open(t, p)
		f, err := session.Load(p.Dir.File())
		require.NoError(t, err)
		require.Equal(t, yr.Node("n-1"), f.Node)
		require.NoError(t, d.shut())
		require.NoFileExists(t, p.Dir.File())
		require.NoFileExists(t, p.Dir.Socket())
	}
	once()
	before, fds := goleak.IgnoreCurrent(), descriptors(t)
	once()
	goleak.VerifyNone(t, before, goleak.IgnoreTopFunction("gopkg.in/natefinch/lumberjack%2ev2.(*Logger).millRun")) // never ends, by design
	require.Equal(t, fds, descriptors(t), "file descriptors")
}

func TestTCPWantsTheToken(t *testing.T) {
	p := plan(t)
	open(t, p)
	get := func(path, token string) int {
		req, err := http.NewRequest(http.MethodGet, "http://"+address("127.0.0.1", p.Settings.Ports.Bus)+path, nil)
		require.NoError(t, err)
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		res, err := client.Do(req)
		require.NoError(t, err)
		_ = res.Body.Close()
		return res.StatusCode
	}
	require.Equal(t, http.StatusOK, get("/yr/v1/endpoint", ""), "how an SDK finds the socket")
	require.Equal(t, http.StatusOK, get("/global-scheduler/healthy", ""))
	require.Equal(t, http.StatusUnauthorized, get("/yr/v1/nodes", ""))
	require.Equal(t, http.StatusUnauthorized, get("/yr/v1/nodes", "wrong"))
	require.Equal(t, http.StatusOK, get("/yr/v1/nodes", "secret"))
	require.NotContains(t, publicConfig(p.Dir.Config()).(map[string]any)["values"], "token")
}

func TestOpenFails(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = busy.Close() }()
	for _, row := range []struct {
		name string
		set  func(*session.Plan)
		says string
	}{
		{"a port in use", func(p *session.Plan) {
			p.Settings.Ports.Bus = config.Port{Number: busy.Addr().(*net.TCPAddr).Port, Chosen: true}
		}, "is in use by another program"},
		{"an address of another machine", func(p *session.Plan) { p.Settings.HostIP = "192.0.2.200" }, "values.host_ip"},
		{"a data directory that is a file", func(p *session.Plan) {
			p.Settings.DataDir = filepath.Join(p.Dir.Path, "file")
			require.NoError(t, os.WriteFile(p.Settings.DataDir, nil, 0o600))
		}, "file"},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := plan(t)
			row.set(p)
			child, err := supervise.Inherit()
			require.NoError(t, err)
			d := New(Options{Plan: p, Child: child})
			err = d.Open(context.Background())
			require.ErrorContains(t, err, row.says)
			require.NoError(t, d.shut())
			require.NoError(t, child.Close())
			require.NoFileExists(t, p.Dir.File())
			require.NoFileExists(t, filepath.Join(p.Dir.Prefix, session.MasterInfo))
		})
	}
}

func TestWorkerEnv(t *testing.T) {
	s := &config.Settings{NodeID: "n", HostIP: "10.0.0.1", WorkerEnv: map[string]string{"LD_LIBRARY_PATH": "/b", "A": "new"}}
	require.Equal(t, []string{"PATH=/bin", "A=new", "HOST_IP=10.0.0.1", "LD_LIBRARY_PATH=/a:/b", "NODE_ID=n"},
		workerEnv([]string{"PATH=/bin", "A=old", "LD_LIBRARY_PATH=/a"}, s))
}

func descriptors(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(names)
}
