package several

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/test/harness"
)

// TestWhoMayJoin tries everything that must not make a node part of the computer,
// and then that the computer is as it was.
func TestWhoMayJoin(t *testing.T) {
	t.Parallel()
	c := harness.NewComputer(t, 3)
	a, b, stranger := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	c.StartMasters(1)
	token := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(token, []byte(harness.Token+"\n"), 0o600))
	b.Token = "" // it comes from the file
	b.Join("--token-file", token)
	c.WholeFor(a, b)

	refused := func(words ...string) {
		t.Helper()
		began := time.Now()
		r := stranger.TryJoin()
		require.Equal(t, 1, r.Code, r)
		require.Less(t, time.Since(began), 10*time.Second, "it must not be kept waiting")
		for _, word := range words {
			require.Contains(t, r.Out+r.Err, word, r)
		}
		require.NotContains(t, r.Out+r.Err, harness.Token, "nobody is told the token")
		require.Empty(t, stranger.Host.Processes())
		c.WholeFor(a, b)
	}

	t.Run("a wrong token", func(*testing.T) {
		stranger.Token = "another-token"
		refused("AUTHORIZATION", "1014")
		stranger.Token = harness.Token
	})
	t.Run("two nodes with one id", func(*testing.T) {
		stranger.Name = "b"
		refused("ALREADY_RUNNING", "9014", `"b"`)
		stranger.Name = "c"
	})
	t.Run("versions too far apart", func(t *testing.T) {
		stranger.Binary = harness.BinaryOf(t, "0.9.0")
		refused("VERSION_MISMATCH", "9012", "0.9.0")
	})
	t.Run("noise at every port", func(t *testing.T) {
		for _, port := range []string{"22773", "22770", "32380"} {
			for _, noise := range []string{"\x00", "YRP1", "YRP1" + strings.Repeat("\xff", 1<<16), "GET / HTTP/1.1\r\n" + strings.Repeat("x: y\r\n", 1<<16)} {
				shout(t, stranger, a.Host.Address+":"+port, noise)
			}
		}
		c.WholeFor(a, b)
	})
	t.Run("one minor version apart", func(t *testing.T) {
		stranger.Binary = harness.BinaryOf(t, oneMinorApart(t))
		stranger.Join()
		c.Whole()
		run(a, warmUp)
		run(stranger, warmUp)
	})
}

// shout sends noise from a host that is no node, and waits until it is cut off or was heard to the end.
func shout(t *testing.T, from *harness.Node, address, noise string) {
	t.Helper()
	conn, err := from.Host.Dial(t.Context(), address)
	if err != nil {
		return // nobody listens there
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	_, _ = io.WriteString(conn, noise)
	_ = conn.(*net.TCPConn).CloseWrite()
	_, _ = io.Copy(io.Discard, conn)
}

// oneMinorApart is the next minor version.
func oneMinorApart(t *testing.T) string {
	t.Helper()
	version, err := os.ReadFile(filepath.Join(harness.Root(), "VERSION"))
	require.NoError(t, err)
	parts := strings.Split(strings.TrimSpace(string(version)), ".")
	require.Len(t, parts, 3)
	minor, err := strconv.Atoi(parts[1])
	require.NoError(t, err)
	return fmt.Sprintf("%s.%d.0", parts[0], minor+1)
}
