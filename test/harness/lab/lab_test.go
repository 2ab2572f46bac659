package lab

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newLab(t *testing.T, n int) *Lab {
	t.Helper()
	if err := Available(); err != nil {
		t.Skip(err)
	}
	l, err := New(n)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		for _, h := range l.Hosts {
			require.NoFileExists(t, namespacePath(h.Name))
		}
		require.NoFileExists(t, namespacePath(l.name))
	})
	return l
}

// echo serves a host's connections until the test ends, and returns where.
func echo(t *testing.T, h *Host) string {
	t.Helper()
	ln, err := h.Listen()
	require.NoError(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn); _ = conn.Close() }()
		}
	}()
	return ln.Addr().String()
}

type caller struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func dial(t *testing.T, from *Host, address string) *caller {
	t.Helper()
	conn, err := from.Dial(t.Context(), address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return &caller{t, conn, bufio.NewReader(conn)}
}

// call sends a word and says how long the answer took; an error if there was none within so long.
func (c *caller) call(word string, within time.Duration) (time.Duration, error) {
	began := time.Now()
	_ = c.conn.SetDeadline(began.Add(within))
	if _, err := c.conn.Write([]byte(word + "\n")); err != nil {
		return 0, err
	}
	for {
		line, err := c.in.ReadString('\n')
		if err != nil || line == word+"\n" {
			return time.Since(began), err
		}
	}
}

func (c *caller) must(word string) time.Duration {
	c.t.Helper()
	took, err := c.call(word, 10*time.Second)
	require.NoError(c.t, err)
	return took
}

func (c *caller) mustNot(word string) {
	c.t.Helper()
	_, err := c.call(word, 150*time.Millisecond)
	require.True(c.t, errors.Is(err, os.ErrDeadlineExceeded), "%q came through, or failed otherwise: %v", word, err)
}

func TestHostsReachEachOther(t *testing.T) {
	l := newLab(t, 3)
	address := echo(t, l.Hosts[1])
	dial(t, l.Hosts[0], address).must("hello")
	dial(t, l.Hosts[2], address).must("hello")
	_, err := (&net.Dialer{Timeout: 100 * time.Millisecond}).Dial("tcp", address)
	require.Error(t, err, "the machine's own network must not reach into the lab")
}

func TestBlackholeWorksInOneDirection(t *testing.T) {
	l := newLab(t, 3)
	a, b := l.Hosts[0], l.Hosts[1]
	conn := dial(t, a, echo(t, b))
	conn.must("before")

	before, err := b.Traffic()
	require.NoError(t, err)
	require.NoError(t, b.Blackhole(a))
	conn.mustNot("one way")
	after, err := b.Traffic()
	require.NoError(t, err)
	require.Greater(t, after.Received, before.Received, "what a sends still arrives")
	dial(t, l.Hosts[2], echo(t, b)).must("others reach b")

	require.NoError(t, b.Reach(a))
	conn.must("afterwards")
}

func TestPartition(t *testing.T) {
	l := newLab(t, 4)
	h := l.Hosts
	same, across := dial(t, h[0], echo(t, h[1])), dial(t, h[0], echo(t, h[2]))
	require.NoError(t, l.Partition(h[:2], h[2:]))
	same.must("same side")
	across.mustNot("across")

	require.NoError(t, l.Isolate(h[1]))
	same.mustNot("alone")
	across.must("a new division replaces the old one")

	require.NoError(t, l.Heal())
	same.must("healed")
	across.must("healed")
}

func TestUnplugAndPlug(t *testing.T) {
	l := newLab(t, 2)
	conn := dial(t, l.Hosts[0], echo(t, l.Hosts[1]))
	conn.must("before")
	require.NoError(t, l.Hosts[1].Unplug())
	conn.mustNot("unplugged")
	require.NoError(t, l.Hosts[1].Plug())
	conn.must("afterwards")
}

func TestSlowAndLossyLine(t *testing.T) {
	l := newLab(t, 2)
	a, b := l.Hosts[0], l.Hosts[1]
	conn := dial(t, a, echo(t, b))
	conn.must("before")

	const delay = 40 * time.Millisecond
	require.NoError(t, a.Slow(b, Line{Delay: delay, Jitter: delay / 4}, 1))
	require.GreaterOrEqual(t, conn.must("slow"), delay)
	require.NoError(t, a.Slow(b, Line{Delay: delay, Loss: 1}, 1))
	conn.mustNot("lost")
	require.NoError(t, a.Slow(b, Line{Loss: 0.2}, 1))
	for range 20 {
		conn.must("one in five is lost and sent again")
	}
	require.NoError(t, a.Fast(b))
	conn.must("catching up")
	require.Less(t, conn.must("fast"), delay)
}

func TestPowerOffEndsEverything(t *testing.T) {
	l := newLab(t, 1)
	h := l.Hosts[0]
	sleep := exec.Command("sh", "-c", "sleep 1000 & sleep 1000")
	require.NoError(t, h.Start(sleep))
	require.True(t, eventually(func() bool { return len(h.Processes()) == 3 || len(h.Processes()) == 2 }))
	h.PowerOff()
	_ = sleep.Wait()
	require.Empty(t, h.Processes())
}

// TestKilledLabLeavesNothing runs this test again in a process that is killed in the middle.
func TestKilledLabLeavesNothing(t *testing.T) {
	if os.Getenv("YR_LAB_VICTIM") != "" {
		l, err := New(2)
		require.NoError(t, err)
		require.NoError(t, l.Hosts[0].Start(exec.Command("sleep", "1000")))
		_, _ = os.Stdout.WriteString("lab " + l.name + "\n")
		select {}
	}
	if err := Available(); err != nil {
		t.Skip(err)
	}
	victim := exec.CommandContext(context.WithoutCancel(t.Context()), os.Args[0], "-test.run=^TestKilledLabLeavesNothing$")
	victim.Env = append(os.Environ(), "YR_LAB_VICTIM=1")
	out, err := victim.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, victim.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	name := strings.TrimSpace(strings.TrimPrefix(line, "lab "))
	host := &Host{Name: name + "-1"}
	require.True(t, eventually(func() bool { return len(host.Processes()) == 1 }))
	require.NoError(t, victim.Process.Kill())
	_ = victim.Wait()
	for _, left := range []string{name, name + "-1", name + "-2"} {
		require.True(t, eventually(func() bool {
			_, err := os.Stat(namespacePath(left))
			return os.IsNotExist(err)
		}), "%s is left", left)
	}
}
