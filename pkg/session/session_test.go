package session

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/pkg/config"
	"yr/pkg/yr"
)

func TestTwoStartsInOneSecond(t *testing.T) {
	prefix, now := t.TempDir(), time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	first, err := Create(prefix, "", now)
	require.NoError(t, err)
	second, err := Create(prefix, "", now)
	require.NoError(t, err)
	require.Equal(t, "20260102_030405", first.ID())
	require.Equal(t, "20260102_030405_2", second.ID())
}

func TestAChosenDirectory(t *testing.T) {
	prefix := t.TempDir()
	d, err := Create(prefix, filepath.Join(prefix, "mine"), time.Now())
	require.NoError(t, err)
	require.DirExists(t, d.Workers())
	require.NoError(t, d.Link("n"))
	target, err := os.Readlink(filepath.Join(prefix, LatestLink))
	require.NoError(t, err)
	require.Equal(t, "mine", target)
}

func TestAChosenDirectoryWithOtherFilesIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "thesis"), nil, 0o600))
	_, err := Create(t.TempDir(), dir, time.Now())
	require.ErrorContains(t, err, "holds other files")

	again := filepath.Join(dir, "s")
	for range 2 {
		_, err = Create(t.TempDir(), again, time.Now())
		require.NoError(t, err, "a session's directory may be used again")
	}
}

func TestASessionFileIsNotBelievedWhereItLies(t *testing.T) {
	d, err := Create(t.TempDir(), "", time.Now())
	require.NoError(t, err)
	f := &File{Dir: Dir{d.Prefix, d.Path}, ClusterInfo: ClusterInfo{Daemon: Daemon{PID: 1}}}
	f.Dir.Path = d.Path
	require.NoError(t, f.Write())
	moved := filepath.Join(t.TempDir(), "session.json")
	require.NoError(t, os.Rename(d.File(), moved))
	back, err := Load(moved)
	require.NoError(t, err)
	require.Equal(t, filepath.Dir(moved), back.Dir.Path, "what is removed lies beside the file")
}

func TestADirectoryThatCannotBeMade(t *testing.T) {
	_, err := Create("/proc/nowhere", "", time.Now())
	require.ErrorContains(t, err, "--log-dir-prefix")
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(err))
}

func TestSocketsHaveShortPaths(t *testing.T) {
	short := Dir{"/tmp/p", "/tmp/p/s"}
	require.Equal(t, "/tmp/p/s/run/yr.sock", short.Socket())
	long := Dir{"/tmp/" + strings.Repeat("x", 90), "/tmp/" + strings.Repeat("x", 90) + "/s"}
	require.Regexp(t, fmt.Sprintf(`^/tmp/yr-%d-[0-9a-f]{8}/yr\.sock$`, os.Getuid()), long.Socket())
	other := Dir{long.Prefix, long.Path + "2"}
	require.NotEqual(t, long.Socket(), other.Socket(), "two sessions never share a socket")
}

func TestOwnDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, OwnDir(dir))
	require.NoError(t, os.Chmod(dir, 0o755)) //nolint:gosec // the point of the test
	require.Error(t, OwnDir(dir), "others may enter")
	link := dir + "-link"
	require.NoError(t, os.Chmod(dir, 0o700)) //nolint:gosec // a directory
	require.NoError(t, os.Symlink(dir, link))
	require.Error(t, OwnDir(link), "somebody made a link of it")
}

func TestInfoLine(t *testing.T) {
	i := Info{LocalIP: "1.1.1.1", MasterIP: "2.2.2.2", Ports: config.Ports{
		Master: config.Port{Number: 1}, Bus: config.Port{Number: 2}, Proxy: config.Port{Number: 3}, DSMaster: config.Port{Number: 4},
		DSWorker: config.Port{Number: 5}, Etcd: config.Port{Number: 6}, EtcdPeer: config.Port{Number: 7}, Frontend: config.Port{Number: 8},
	}}
	const line = "local_ip:1.1.1.1,master_ip:2.2.2.2,etcd_ip:2.2.2.2,etcd_port:6,etcd_peer_port:7," +
		"global_scheduler_port:1,ds_master_port:4,bus-proxy:3,bus:2,ds-worker:5,"
	require.Equal(t, line+"\n", i.Line())
	i.Frontend = true
	require.Equal(t, line+"frontend_port:8,\n", i.Line())
}

func TestInfoOfSeveralMasters(t *testing.T) {
	masters := []config.Master{{IP: "10.0.0.1", Port: 5, EtcdPort: 7}, {IP: "10.0.0.2", Port: 6, EtcdPort: 8}}
	i := InfoOf(&Plan{Master: true, Settings: config.Settings{
		HostIP: "10.0.0.2", LocalIP: "10.0.0.2", Masters: masters, Ports: config.Ports{Master: config.Port{Number: 6}},
	}})
	require.Contains(t, i.Line(), ",etcd_addr_list:10.0.0.1;10.0.0.2,\n")
	require.Equal(t, "10.0.0.1:7,10.0.0.2:8", i.ForJoin()["etcd.addresses"])
	require.Equal(t, "10.0.0.1:5,10.0.0.2:6", i.ForJoin()["masters"])
	require.Equal(t, "10.0.0.2", i.ForJoin()["function_master.ip"])

	join, err := ParseLine(i.Line())
	require.NoError(t, err)
	require.Equal(t, []string{"10.0.0.2:6", "10.0.0.1:6"}, join, "the one that wrote it first")
}

func TestInfoOfANodeThatJoined(t *testing.T) {
	i := InfoOf(&Plan{Settings: config.Settings{
		HostIP: "10.0.0.9", LocalIP: "10.0.0.9", Join: []string{"10.0.0.1:5"}, Ports: config.Ports{Bus: config.Port{Number: 3}},
	}})
	require.Equal(t, "10.0.0.1", i.ForJoin()["function_master.ip"])
	require.Equal(t, "5", i.ForJoin()["function_master.port"])
	require.Equal(t, "10.0.0.9", i.ForJoin()["agent.ip"])
	require.Equal(t, "3", i.ForJoin()["function_proxy.grpc_port"], "its own bus")
	join, err := ParseLine(i.Line())
	require.NoError(t, err)
	require.Equal(t, []string{"10.0.0.1:5"}, join)
}

func TestLinesThatAreNone(t *testing.T) {
	for _, line := range []string{"", "local_ip:1.1.1.1,", "master_ip:1.1.1.1,", "master_ip:1.1.1.1,global_scheduler_port:x,", "master_ip:,global_scheduler_port:1,"} {
		_, err := ParseLine(line)
		require.Equal(t, yr.ParamInvalid, yr.CodeOf(err), line)
	}
}

// Whatever somebody pastes after --master-info is read or refused, and what is
// read are addresses.
func FuzzParseLine(f *testing.F) {
	f.Add(Info{LocalIP: "1.1.1.1", MasterIP: "2.2.2.2", Ports: config.Ports{Master: config.Port{Number: 1}}}.Line())
	f.Add("master_ip:1,global_scheduler_port:65536,etcd_addr_list:;;a,")
	f.Add("master_ip::,global_scheduler_port:7,")
	f.Fuzz(func(t *testing.T, line string) {
		join, err := ParseLine(line)
		if err != nil {
			require.Equal(t, yr.ParamInvalid, yr.CodeOf(err))
			return
		}
		for _, address := range join {
			_, port, err := net.SplitHostPort(address)
			require.NoError(t, err, address)
			require.NotEmpty(t, port)
		}
	})
}

func TestAFileTellsWhetherItsDaemonLives(t *testing.T) {
	d, err := Create(t.TempDir(), "", time.Now())
	require.NoError(t, err)
	f := &File{Dir: d, ClusterInfo: ClusterInfo{Daemon: Daemon{PID: os.Getpid(), Started: Started(os.Getpid())}}}
	require.NoError(t, f.Write())
	back, err := Load(d.File())
	require.NoError(t, err)
	require.Equal(t, f, back)
	require.True(t, back.Alive())
	back.ClusterInfo.Daemon.Started++
	require.False(t, back.Alive(), "a later process with the same PID")

	gone := exec.Command("true")
	require.NoError(t, gone.Run())
	require.Zero(t, Started(gone.Process.Pid))
	left, _ := filepath.Glob(filepath.Join(d.Path, ".session.json*"))
	require.Empty(t, left, "no temporary file stays")
}

func TestLiveWorkers(t *testing.T) {
	d, err := Create(t.TempDir(), "", time.Now())
	require.NoError(t, err)
	for name, text := range map[string]string{
		"alive":    fmt.Sprintf(`{"pid":%d,"start_time_ticks":%d}`, os.Getpid(), Started(os.Getpid())),
		"recycled": fmt.Sprintf(`{"pid":%d,"start_time_ticks":1}`, os.Getpid()),
		"broken":   `{`,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(d.Workers(), name+".json"), []byte(text), 0o600))
	}
	require.Equal(t, []int{os.Getpid()}, d.LiveWorkers())
}

func TestCleanTouchesNobodyElse(t *testing.T) {
	prefix := t.TempDir()
	d, err := Create(prefix, "", time.Now())
	require.NoError(t, err)
	info := filepath.Join(prefix, MasterInfo)
	require.NoError(t, os.WriteFile(info, []byte("another cluster's\n"), 0o600))
	f := &File{Dir: d, MasterInfo: "mine\n", DataDir: d.TemporaryData()}
	require.NoError(t, os.MkdirAll(f.DataDir, 0o700))
	d.Clean(f)
	require.FileExists(t, info)
	require.DirExists(t, f.DataDir, "data stays unless the cluster is temporary")
	require.NoDirExists(t, d.Run())

	f.Temporary, f.MasterInfo = true, "another cluster's\n"
	d.Clean(f)
	require.NoFileExists(t, info)
	require.NoDirExists(t, f.DataDir)
}
