package cluster_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"yr/pkg/cluster"
	"yr/pkg/yr"
)

// alone names the test that runs in a process of its own.
const alone = "YR_TEST_ALONE"

func TestMain(m *testing.M) {
	if os.Getenv(alone) != "" {
		os.Exit(m.Run()) // what it leaves behind goes with the process
	}
	// etcd that gives up over broken files while it starts leaves two goroutines
	// behind; the daemon exits then. TestStateSurvivesARestart looks for leaks of
	// the ordinary life. Connections between masters end 5 s after they were last
	// used.
	flag.Parse()
	_ = flag.Set("test.parallel", "8") // masters mostly wait for each other
	code := m.Run()
	var leaked error
	for deadline := time.Now().Add(10 * time.Second); code == 0 && time.Now().Before(deadline); {
		leaked = goleak.Find(
			goleak.IgnoreTopFunction("go.etcd.io/etcd/server/v3/storage/backend.(*backend).run"),
			goleak.IgnoreTopFunction("go.etcd.io/etcd/server/v3/storage/wal.(*filePipeline).run"))
		if leaked == nil {
			break
		}
	}
	if leaked != nil {
		fmt.Fprintln(os.Stderr, leaked)
		code = 1
	}
	os.Exit(code)
}

func TestStateSurvivesARestart(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	before, running := descriptors(t), goleak.IgnoreCurrent()
	var epochs [2]uint64
	for i := range epochs {
		c := cluster.New(cluster.Options{Dir: filepath.Join(dir, "etcd"), SocketDir: dir, Node: "n1"})
		require.NoError(t, c.Open(ctx))
		_, claimed, err := c.Names().Claim(ctx, "t", "", "x", []byte("r"))
		require.NoError(t, err)
		require.Equal(t, i == 0, claimed)
		epochs[i] = c.Leader().Epoch()
		require.NoError(t, c.Err())
		require.NoError(t, c.Close(ctx))
	}
	require.Equal(t, epochs[0]+1, epochs[1], "every take-over counts")
	require.NoFileExists(t, filepath.Join(dir, "etcd.sock"))
	require.Equal(t, before, descriptors(t), "closing gives every descriptor back")
	goleak.VerifyNone(t, running)
}

func TestReadySoonAndSmall(t *testing.T) {
	var logged bytes.Buffer
	m := cluster.NewMember(cluster.MemberOptions{Dir: filepath.Join(t.TempDir(), "etcd"), Log: zerolog.New(&logged)})
	began := time.Now()
	require.NoError(t, m.Open(t.Context()))
	ready := time.Since(began)
	status, err := m.Status(t.Context())
	require.NoError(t, err)
	t.Logf("ready after %v, database %d bytes", ready, status.DatabaseBytes)
	require.Less(t, ready, time.Second, "about 50 ms on an idle machine")
	_, err = m.Commit(t.Context(), nil, []cluster.Write{{Key: "k", Value: []byte("v")}})
	require.NoError(t, err)
	require.NoError(t, m.Close(t.Context()))
	require.Empty(t, logged.String(), "nothing happened that a person must know")
}

func TestTheSocketServesEtcdctl(t *testing.T) {
	dir := t.TempDir()
	m := cluster.NewMember(cluster.MemberOptions{Dir: filepath.Join(dir, "etcd"), SocketDir: dir})
	// A daemon that was killed leaves its socket behind.
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "etcd.sock"), Net: "unix"})
	require.NoError(t, err)
	stale.SetUnlinkOnClose(false)
	require.NoError(t, stale.Close())

	require.NoError(t, m.Open(t.Context()))
	defer func() { require.NoError(t, m.Close(context.Background())) }()
	mode, err := os.Stat(m.SocketPath())
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), mode.Mode().Perm(), "only the daemon's user may dial")

	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + m.SocketPath()}})
	require.NoError(t, err)
	defer func() { require.NoError(t, client.Close()) }()
	_, err = client.Put(t.Context(), "k", "v")
	require.NoError(t, err)
	e, ok, err := m.Get(t.Context(), "k")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "v", string(e.Value))
}

func TestBadDirectories(t *testing.T) {
	for _, row := range []struct {
		name    string
		options func(t *testing.T) cluster.MemberOptions
		code    yr.Code
		says    string
	}{
		{"none", func(*testing.T) cluster.MemberOptions { return cluster.MemberOptions{} }, yr.ParamInvalid, "values.data_dir"},
		{"a file", func(t *testing.T) cluster.MemberOptions {
			path := filepath.Join(t.TempDir(), "file")
			require.NoError(t, os.WriteFile(path, nil, 0o600))
			return cluster.MemberOptions{Dir: filepath.Join(path, "etcd")}
		}, yr.ParamInvalid, "not a directory"},
		{"read-only", func(t *testing.T) cluster.MemberOptions {
			if unix.Geteuid() == 0 {
				return cluster.MemberOptions{Dir: "/proc/etcd"} // root may write everywhere but here
			}
			dir := t.TempDir()
			require.NoError(t, os.Chmod(dir, 0o500)) //nolint:gosec // on purpose
			return cluster.MemberOptions{Dir: filepath.Join(dir, "etcd")}
		}, yr.DiskFailed, "/"},
		{"locked", func(t *testing.T) cluster.MemberOptions {
			dir := t.TempDir()
			openMember(t, dir)
			return cluster.MemberOptions{Dir: filepath.Join(dir, "etcd")}
		}, yr.AlreadyRunning, "yr stop"},
		{"scribbled database", func(t *testing.T) cluster.MemberOptions {
			return brokenMember(t, filepath.Join("member", "snap", "db"))
		}, yr.DiskFailed, "move it away"},
		{"scribbled log", func(t *testing.T) cluster.MemberOptions {
			return brokenMember(t, filepath.Join("member", "wal", "*.wal"))
		}, yr.DiskFailed, "move it away"},
		{"long socket path", func(t *testing.T) cluster.MemberOptions {
			return cluster.MemberOptions{Dir: t.TempDir(), SocketDir: "/tmp/" + strings.Repeat("x", cluster.MaxSocketPath)}
		}, yr.ParamInvalid, "shorter"},
		{"no socket directory", func(t *testing.T) cluster.MemberOptions {
			return cluster.MemberOptions{Dir: t.TempDir(), SocketDir: "/does/not/exist"}
		}, yr.DiskFailed, "etcd socket"},
	} {
		t.Run(row.name, func(t *testing.T) {
			options := row.options(t)
			m := cluster.NewMember(options)
			err := m.Open(t.Context())
			require.Equal(t, row.code, yr.CodeOf(err), "%v", err)
			require.ErrorContains(t, err, row.says)
			require.NoError(t, m.Close(context.Background()), "closing what did not open does nothing")
		})
	}
}

// brokenMember leaves a directory in which the files of a pattern are garbage.
func brokenMember(t *testing.T, pattern string) cluster.MemberOptions {
	t.Helper()
	dir := t.TempDir()
	m := cluster.NewMember(cluster.MemberOptions{Dir: dir})
	require.NoError(t, m.Open(t.Context()))
	_, err := m.Commit(t.Context(), nil, []cluster.Write{{Key: "k", Value: []byte("v")}})
	require.NoError(t, err)
	require.NoError(t, m.Close(t.Context()))
	paths, err := filepath.Glob(filepath.Join(dir, pattern))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	for _, path := range paths {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		require.NoError(t, err)
		_, err = f.WriteAt([]byte(strings.Repeat("scribble", 4096)), 0)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	return cluster.MemberOptions{Dir: dir}
}

func TestFullDisk(t *testing.T) {
	dir := smallDisk(t, "1m")
	m := cluster.NewMember(cluster.MemberOptions{Dir: filepath.Join(dir, "etcd")})
	err := m.Open(t.Context())
	require.Equal(t, yr.DiskFull, yr.CodeOf(err), "%v", err)
	require.ErrorContains(t, err, "values.data_dir")
}

// A disk that fills up later ends the member, not the process, and says why.
func TestDiskFullLater(t *testing.T) {
	if os.Getenv(alone) == "" {
		child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		child.Env = append(os.Environ(), alone+"="+t.Name())
		out, err := child.CombinedOutput()
		require.NoError(t, err, "%s", out)
		if strings.Contains(string(out), "--- SKIP") {
			t.Skip("mounting a small file system needs root")
		}
		return
	}
	dir := smallDisk(t, "16m")
	m := cluster.NewMember(cluster.MemberOptions{Dir: filepath.Join(dir, "etcd")})
	require.NoError(t, m.Open(t.Context()))
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		require.NoError(t, m.Close(ctx))
	}()
	filler, err := os.Create(filepath.Join(dir, "filler"))
	require.NoError(t, err)
	defer func() { require.NoError(t, filler.Close()) }()
	var full error
	for full == nil {
		_, full = filler.Write(make([]byte, 4096))
	}
	value := make([]byte, cluster.MaxRecord)
	for i := 0; m.Err() == nil; i++ {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err = m.Commit(ctx, nil, []cluster.Write{{Key: fmt.Sprint(i), Value: value}})
		cancel()
		if err != nil {
			break
		}
	}
	<-m.Failed()
	require.Equal(t, yr.DiskFull, yr.CodeOf(m.Err()), "%v", m.Err())
	_, _, err = m.Get(t.Context(), "0")
	require.Equal(t, yr.DiskFull, yr.CodeOf(err), "requests say why they fail")
}

func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("mounting a small file system needs root: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

func TestTheQuotaIsATypedError(t *testing.T) {
	dir := t.TempDir()
	m := cluster.NewMember(cluster.MemberOptions{Dir: dir, QuotaBytes: 1 << 20})
	require.NoError(t, m.Open(t.Context()))
	value := make([]byte, cluster.MaxRecord)
	var err error
	require.Eventually(t, func() bool { // the size is measured when etcd commits to its file, every 100 ms
		_, err = m.Commit(t.Context(), nil, []cluster.Write{{Key: "k", Value: value}})
		return err != nil
	}, 20*time.Second, time.Millisecond)
	require.Equal(t, yr.DiskFull, yr.CodeOf(err), "%v", err)
	require.ErrorContains(t, err, "etcd.args.quota-backend-bytes")
	require.NoError(t, m.Close(t.Context()))

	m = cluster.NewMember(cluster.MemberOptions{Dir: dir, QuotaBytes: 16 << 20})
	require.NoError(t, m.Open(t.Context()))
	_, err = m.Commit(t.Context(), nil, []cluster.Write{{Key: "k", Value: value}})
	require.NoError(t, err, "what the message advises helps")
	require.NoError(t, m.Close(t.Context()))

	m = cluster.NewMember(cluster.MemberOptions{Dir: dir, QuotaBytes: -1})
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(m.Open(t.Context())))
}

func TestCancelWhileStarting(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m := cluster.NewMember(cluster.MemberOptions{Dir: t.TempDir()})
	require.Equal(t, yr.Interrupted, yr.CodeOf(m.Open(ctx)))
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}
