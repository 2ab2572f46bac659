package test

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/test/harness"
)

func TestStartStopStartAgain(t *testing.T) {
	c := harness.Start(t)
	require.Zero(t, c.Yr("health").Code)
	require.Contains(t, c.Yr("status").Out, "ReadyAgentsCount: 1")
	c.Stop()
	c.Gone()
	c.MustStart()
	require.Zero(t, c.Yr("health").Code)
}

func TestStopWithoutACluster(t *testing.T) {
	c := harness.New(t)
	r := c.Yr("stop")
	require.NotZero(t, r.Code)
	require.Contains(t, r.Err, "yr start --master")
}

func TestMalformedSettings(t *testing.T) {
	for name, row := range map[string]struct{ set, want string }{
		"no value":          {"values.cpu_num", "values.cpu_num"},
		"no TOML":           {"values.cpu_num=4 4", "values.cpu_num"},
		"wrong type":        {`values.cpu_num="many"`, "values.cpu_num"},
		"negative":          {"values.cpu_num=-1", "values.cpu_num"},
		"no JSON":           {`function_agent.args.custom_resources="{ssd}"`, "custom_resources"},
		"negative custom":   {`function_agent.args.custom_resources="{\"ssd\":-1}"`, "ssd"},
		"port out of range": {"values.function_master.global_scheduler_port=70000", "global_scheduler_port"},
	} {
		t.Run(name, func(t *testing.T) {
			c := harness.New(t)
			r := c.Yr("start", "--master", "-s", row.set)
			require.NotZero(t, r.Code, r)
			require.Contains(t, r.Err, row.want)
			require.NotContains(t, r.Err, "goroutine ", "no stack for a person's mistake")
		})
	}
}

// busyPort takes a port of all addresses for the length of the test.
func busyPort(t *testing.T) string {
	listener, err := net.Listen("tcp", ":0") //nolint:gosec // the daemon may bind any address
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	return strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
}

// freePort returns a port that was free a moment ago.
func freePort(t *testing.T) string {
	listener, err := net.Listen("tcp", ":0") //nolint:gosec // the daemon may bind any address
	require.NoError(t, err)
	defer listener.Close()
	return strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
}

func TestPortInUse(t *testing.T) {
	busy, free := busyPort(t), freePort(t)
	ports := []string{
		"-s", "values.function_master.global_scheduler_port=" + busy,
		"-s", "values.function_proxy.grpc_listen_port=" + free,
	}
	fixed := harness.New(t)
	r := fixed.Yr(append([]string{"start", "--master", "--port-policy", "FIX"}, ports...)...)
	require.NotZero(t, r.Code, r)
	require.Contains(t, r.Err, busy)
	require.Contains(t, r.Err, "global_scheduler_port")
	fixed.Gone()
}

func TestSecondStartOnTheSameDirectory(t *testing.T) {
	c := harness.Start(t)
	r := c.Yr("start", "--master")
	require.NotZero(t, r.Code, r)
	require.Contains(t, r.Err, strconv.Itoa(c.Parent()), "it names the daemon that is there")
	require.Contains(t, r.Err, "yr stop")
	require.Zero(t, c.Yr("health").Code, "the first one is not disturbed")
}

func TestTwoClustersLeaveEachOtherAlone(t *testing.T) {
	one, two := harness.Start(t), harness.Start(t)
	one.Stop()
	one.Gone()
	require.Zero(t, two.Yr("health").Code)
	require.Contains(t, two.Yr("status").Out, "ReadyAgentsCount: 1")
}

func TestInterruptWhileStartingLeavesNothing(t *testing.T) {
	for _, after := range []int{0, 5, 10, 20, 40, 80} { // milliseconds
		c := harness.New(t)
		p := c.Command(harness.Binary(t), "--log-dir-prefix", c.Prefix, "start", "--master")
		timer := time.NewTimer(time.Duration(after) * time.Millisecond)
		<-timer.C
		p.Signal(syscall.SIGINT)
		if r := p.Wait(); r.Code == 0 { // it was ready before
			c.Attach()
			c.Stop()
		}
		c.Gone()
	}
}

func TestChildKilledIsReplacedWithinThreeSeconds(t *testing.T) {
	c := harness.Start(t)
	was := c.Child()
	require.NoError(t, syscall.Kill(was, syscall.SIGKILL))
	began := time.Now()
	c.Restarted(was)
	harness.Eventually(t, "health", func() (bool, string) { r := c.Yr("health"); return r.Code == 0, r.String() })
	require.Less(t, time.Since(began), 3*time.Second)
}

func TestParentKilledEndsEverything(t *testing.T) {
	c := harness.Start(t)
	require.NoError(t, syscall.Kill(c.Parent(), syscall.SIGKILL))
	c.Gone()
	c.MustStart()
}

func TestBothKilledAndStartedAgain(t *testing.T) {
	c := harness.Start(t)
	child := c.Child()
	require.NoError(t, syscall.Kill(c.Parent(), syscall.SIGSTOP)) // so that it restarts nothing
	require.NoError(t, syscall.Kill(child, syscall.SIGKILL))
	require.NoError(t, syscall.Kill(c.Parent(), syscall.SIGKILL))
	harness.Eventually(t, "their end", func() (bool, string) { return len(c.Processes()) == 0, "" })
	c.MustStart()
	require.Zero(t, c.Yr("health").Code)
}

func TestTokenIsKeptFromOthers(t *testing.T) {
	c := harness.Start(t)
	info, err := os.Stat(filepath.Join(c.Prefix, "data", "token"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}
