package cmd

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/pkg/session"
	"yr/pkg/supervise"
)

const patience = 20 * time.Second

// versionVariable lets a test run another version of yr.
const versionVariable = "YR_TEST_VERSION"

// The test binary is also the program under test: called by the name "yr", by
// the tests or by itself, it is yr.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "yr" {
		os.Exit(Main("yr", os.Args[1:], cmp.Or(os.Getenv(versionVariable), "1.2.3")))
	}
	flag.Parse()
	_ = flag.Set("test.parallel", "8") // clusters wait more than they work
	os.Exit(m.Run())
}

// command is a call of yr that has not begun.
func command(args ...string) *exec.Cmd {
	c := exec.Command("/proc/self/exe")
	c.Args = append([]string{"yr"}, args...)
	return c
}

// result of a call of yr.
type result struct {
	out, err string
	status   int
}

func run(t *testing.T, args ...string) result {
	t.Helper()
	c := command(args...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	if c.ProcessState == nil {
		require.NoError(t, err)
	}
	return result{out.String(), errs.String(), c.ProcessState.ExitCode()}
}

// home is a directory for sessions; whatever a test leaves running there is
// killed at its end.
func home(t *testing.T) string {
	t.Helper()
	prefix := t.TempDir()
	t.Cleanup(func() {
		files, _ := filepath.Glob(filepath.Join(prefix, "*", "session.json"))
		for _, path := range files {
			if f, err := session.Load(path); err == nil && f.Alive() {
				supervise.KillTree(f.ClusterInfo.Daemon.PID)
				f.Dir.Clean(f)
			}
		}
	})
	return prefix
}

// startArgs start a small cluster on loopback.
func startArgs(prefix string, more ...string) []string {
	return append([]string{"start", "--master", "--log-dir-prefix", prefix,
		"-s", `values.host_ip="127.0.0.1"`, "-s", "values.shared_memory_num=64",
		"-s", "values.function_master.global_scheduler_port=0", "-s", "values.function_proxy.grpc_listen_port=0"}, more...)
}

// start starts a cluster and returns its session.
func start(t *testing.T, prefix string, more ...string) *session.File {
	t.Helper()
	r := run(t, startArgs(prefix, more...)...)
	require.Equal(t, 0, r.status, "yr start failed: %s", r.err)
	return latest(t, prefix)
}

func latest(t *testing.T, prefix string) *session.File {
	t.Helper()
	f, err := session.Latest(prefix)
	require.NoError(t, err)
	return f
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, patience, 5*time.Millisecond, what)
}

// requireNothingLeft checks that a session has left no process, socket or file
// that must not outlive it.
func requireNothingLeft(t *testing.T, f *session.File) {
	t.Helper()
	eventually(t, "a process of the session still runs", func() bool { return len(processesOf(f)) == 0 })
	for _, path := range []string{
		f.Socket, f.APISocket, f.Dir.File(), f.Dir.Run(), filepath.Join(f.Dir.Prefix, session.MasterInfo),
	} {
		require.NoFileExists(t, path)
		require.NoDirExists(t, path)
	}
	if dir := filepath.Dir(f.Socket); dir != f.Dir.Run() {
		require.NoDirExists(t, dir, "the short directory of sockets")
	}
}

// processesOf lists processes whose command line names the session's directory.
func processesOf(f *session.File) []string {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var found []string
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(text), f.Dir.Path+"/") {
			found = append(found, path)
		}
	}
	return found
}

// group starts a call of yr in a process group of its own.
func group(t *testing.T, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	c := command(args...)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, c.Start())
	t.Cleanup(func() { _ = c.Process.Kill() })
	return c, &out
}

func decode[V any](t *testing.T, text string) V {
	t.Helper()
	var v V
	require.NoError(t, json.Unmarshal([]byte(text), &v), "not JSON: %s", text)
	return v
}
