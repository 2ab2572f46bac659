package cluster_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"yr/pkg/cluster"
)

const killDir = "YR_TEST_KILL_DIR"

// A daemon that is killed at any moment loses nothing that was acknowledged,
// although nothing is synced to the disk: the kernel has the bytes. The next one
// takes the node's own record over at once.
func TestKilledAtAnyMoment(t *testing.T) {
	if os.Getenv(alone) != "" {
		writeUntilKilled(t)
		return
	}
	dir := t.TempDir()
	for range 4 {
		child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		child.Env = append(os.Environ(), alone+"="+t.Name(), killDir+"="+dir)
		out, err := child.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, child.Start())
		acknowledged := 0
		lines := bufio.NewScanner(out)
		for seen := 1; lines.Scan(); seen++ {
			acknowledged, err = strconv.Atoi(lines.Text())
			require.NoError(t, err, "%s", lines.Text())
			if seen == 500 {
				require.NoError(t, child.Process.Kill())
			}
		}
		_ = child.Wait()
		require.NotZero(t, acknowledged)

		c := open(t, dir)
		var kept int
		ok, err := c.Config().Get(t.Context(), "n", &kept)
		require.NoError(t, err)
		require.True(t, ok)
		require.GreaterOrEqual(t, kept, acknowledged, "what was acknowledged is kept")
		require.LessOrEqual(t, kept, acknowledged+1)
		require.NoError(t, c.Close(context.Background()))
	}
}

func writeUntilKilled(t *testing.T) {
	c := open(t, os.Getenv(killDir))
	var n int
	_, err := c.Config().Get(t.Context(), "n", &n)
	require.NoError(t, err)
	for {
		n++
		require.NoError(t, c.Config().Set(t.Context(), "n", n))
		fmt.Println(n)
	}
}

func open(t *testing.T, dir string) *cluster.Cluster {
	t.Helper()
	c := cluster.New(cluster.Options{Dir: filepath.Join(dir, "etcd"), Node: "n1"})
	require.NoError(t, c.Open(t.Context()))
	return c
}
