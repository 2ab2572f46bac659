package supervise

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

const patience = 10 * time.Second

// family is a real parent process with a real child. The child does what it is
// told on its standard input and answers on its standard output, a line each.
type family struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	lines  chan string
	exited chan int
}

func start(t *testing.T, files ...*os.File) *family {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), envRole+"=parent")
	cmd.Stderr = os.Stderr
	if len(files) > 0 {
		cmd.ExtraFiles = files
		cmd.Env = append(cmd.Env, envGiven+"=1")
	}
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	f := &family{t: t, cmd: cmd, stdin: stdin, lines: make(chan string, 100), exited: make(chan int, 1)}
	go func() {
		for s := bufio.NewScanner(stdout); s.Scan(); {
			f.lines <- s.Text()
		}
		close(f.lines)
		_ = cmd.Wait()
		f.exited <- cmd.ProcessState.ExitCode()
		close(f.exited)
	}()
	t.Cleanup(func() {
		_ = stdin.Close()
		KillTree(cmd.Process.Pid)
		<-f.exited
	})
	return f
}

// tell sends a command to the child that lives now.
func (f *family) tell(command string) {
	f.t.Helper()
	_, err := fmt.Fprintln(f.stdin, command)
	require.NoError(f.t, err)
}

// expect waits for the next answer, which must begin like this, and returns the rest.
func (f *family) expect(prefix string) string {
	f.t.Helper()
	select {
	case line, ok := <-f.lines:
		require.True(f.t, ok, "wanted %q, but the child's output ended", prefix)
		require.True(f.t, strings.HasPrefix(line, prefix), "wanted %q, got %q", prefix, line)
		return strings.TrimSpace(strings.TrimPrefix(line, prefix))
	case <-time.After(patience):
		require.Fail(f.t, "no answer", "wanted %q within %v", prefix, patience)
		return ""
	}
}

// born waits for a child to come up and returns its pid.
func (f *family) born(restarts int) int {
	f.t.Helper()
	pid, err := strconv.Atoi(f.expect(fmt.Sprintf("up %d ", restarts)))
	require.NoError(f.t, err)
	return pid
}

func (f *family) ends() int {
	f.t.Helper()
	select {
	case status := <-f.exited:
		return status
	case <-time.After(patience):
		require.Fail(f.t, "the parent did not end", "within %v", patience)
		return -1
	}
}

func (f *family) pid() int { return f.cmd.Process.Pid }

func TestACrashedChildIsBackWithinThreeSeconds(t *testing.T) {
	for _, row := range []struct {
		name  string
		crash func(*family, int)
	}{
		{"exit status 3", func(f *family, _ int) { f.tell("exit 3") }},
		{"panic", func(f *family, _ int) { f.tell("exit 2") }},
		{"kill -9", func(_ *family, pid int) { _ = unix.Kill(pid, unix.SIGKILL) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := start(t)
			pid := f.born(0)
			at := time.Now()
			row.crash(f, pid)
			require.NotEqual(t, pid, f.born(1))
			require.Less(t, time.Since(at), 3*time.Second)
		})
	}
}

func TestRepeatedCrashesAreRestartedForEver(t *testing.T) {
	f := start(t)
	for i := range 5 {
		f.born(i)
		f.tell("exit 1")
	}
	f.born(5)
}

func TestWhatAChildKeepsComesBack(t *testing.T) {
	f := start(t)
	f.born(0)
	f.tell("keep a first")
	f.expect("ok")
	f.tell("keep b other")
	f.expect("ok")
	f.tell("keep a second")
	f.expect("ok")
	f.tell("keep c gone")
	f.expect("ok")
	f.tell("drop c")
	f.expect("ok")
	f.tell("exit 1")
	f.born(1)
	f.tell("names")
	require.Equal(t, "a b", f.expect("names"), "c was dropped")
	f.tell("read a")
	require.Equal(t, "second", f.expect("read"), "a was replaced")
	f.tell("exit 1")
	f.born(2)
	f.tell("names")
	require.Equal(t, "a b", f.expect("names"), "taking a file leaves it with the parent")
}

func TestTheLastWordsOfADyingChildCount(t *testing.T) {
	f := start(t)
	f.born(0)
	f.tell("keep-and-die last") // sends, then kills itself at once
	f.born(1)
	f.tell("names")
	require.Equal(t, "last", f.expect("names"))
}

func TestAListenerOutlivesItsDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	f := start(t)
	pid := f.born(0)
	f.tell("listen " + path)
	f.expect("ok")
	require.NoError(t, unix.Kill(pid, unix.SIGKILL))
	c, err := net.Dial("unix", path) // nobody accepts, but the backlog does
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	f.born(1)
	f.tell("listen " + path)
	f.expect("ok")
	f.tell("accept")
	f.expect("accepted")
	line, err := bufio.NewReader(c).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "hello\n", line)
}

func TestTheParentHandsDownWhatItWasGiven(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer func() { _ = r.Close() }()
	f := start(t, w)
	_ = w.Close()
	f.born(0)
	f.tell("write given hello")
	f.expect("ok")
	text := make([]byte, 5)
	_, err = io.ReadFull(r, text)
	require.NoError(t, err)
	require.Equal(t, "hello", string(text))
}

func TestStopping(t *testing.T) {
	for _, row := range []struct {
		name string
		sig  unix.Signal
	}{{"SIGTERM", unix.SIGTERM}, {"SIGINT", unix.SIGINT}} {
		t.Run(row.name, func(t *testing.T) {
			f := start(t)
			f.born(0)
			require.NoError(t, unix.Kill(f.pid(), row.sig))
			f.expect("term")
			require.Equal(t, 0, f.ends())
		})
	}
}

func TestAChildThatIgnoresSIGTERMIsKilled(t *testing.T) {
	f := start(t)
	pid := f.born(0)
	f.tell("stubborn")
	f.expect("ok")
	require.NoError(t, unix.Kill(f.pid(), unix.SIGTERM))
	require.Equal(t, 0, f.ends())
	requireGone(t, pid)
}

func TestExitStatusesThatAreNotCrashes(t *testing.T) {
	for _, status := range []int{0, ExitGiveUp} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			f := start(t)
			f.born(0)
			f.tell(fmt.Sprintf("exit %d", status))
			require.Equal(t, status, f.ends())
		})
	}
}

func TestAChildLearnsOfItsParentsDeath(t *testing.T) {
	f := start(t)
	pid := f.born(0)
	require.NoError(t, unix.Kill(f.pid(), unix.SIGKILL))
	f.expect("gone")
	requireGone(t, pid)
}

func TestNoDescendantOutlivesTheParent(t *testing.T) {
	for _, row := range []struct {
		name string
		end  func(f *family, child int)
	}{
		{"after SIGTERM", func(f *family, _ int) { require.NoError(t, unix.Kill(f.pid(), unix.SIGTERM)) }},
		{"after the child gave up", func(f *family, _ int) { f.tell(fmt.Sprintf("exit %d", ExitGiveUp)) }},
		{"after a crash, then SIGTERM", func(f *family, child int) {
			require.NoError(t, unix.Kill(child, unix.SIGKILL))
			f.born(1)
			require.NoError(t, unix.Kill(f.pid(), unix.SIGTERM))
		}},
		{"KillTree", func(f *family, _ int) { KillTree(f.pid()) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := start(t)
			child := f.born(0)
			f.tell("orphan")
			orphan, err := strconv.Atoi(f.expect("orphan"))
			require.NoError(t, err)
			row.end(f, child)
			f.ends()
			requireGone(t, orphan)
			requireGone(t, child)
		})
	}
}

func TestTheParentIsSmall(t *testing.T) {
	if raceDetector {
		t.Skip("memory under the race detector says nothing")
	}
	f := start(t)
	f.born(0)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", f.pid()))
	require.NoError(t, err)
	for _, line := range strings.Split(string(text), "\n") {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "Private_Dirty:" {
			kb, err := strconv.Atoi(fields[1])
			require.NoError(t, err)
			require.Less(t, kb, 8<<10, "private memory of the parent in KiB")
			return
		}
	}
	require.Fail(t, "no Private_Dirty in smaps_rollup")
}

func TestUnsupervised(t *testing.T) {
	defer goleak.VerifyNone(t)
	c, err := Inherit()
	require.NoError(t, err)
	require.False(t, c.Supervised())
	require.NoError(t, c.Keep("x", os.Stdin))
	require.NoError(t, c.Drop("x"))
	require.Empty(t, c.Names())
	ln, err := c.Listen("s", "unix", filepath.Join(t.TempDir(), "s"))
	require.NoError(t, err)
	require.NoError(t, ln.Close())
	select {
	case <-c.ParentGone():
		require.Fail(t, "there is no parent that could be gone")
	default:
	}
	require.NoError(t, c.Close())
}

func TestPackets(t *testing.T) {
	defer goleak.VerifyNone(t)
	before := descriptors(t)
	a, end, err := socketPair()
	require.NoError(t, err)
	b, err := unixConn(end)
	require.NoError(t, err)

	require.NoError(t, send(a, packet{verb: "drop", arg: "x"}))
	p, err := receive(b)
	require.NoError(t, err)
	require.Equal(t, packet{verb: "drop", arg: "x"}, p)

	r, w, err := os.Pipe()
	require.NoError(t, err)
	require.NoError(t, send(a, packet{"keep", "pipe", w}))
	p, err = receive(b)
	require.NoError(t, err)
	require.Equal(t, "pipe", p.arg)
	require.NotNil(t, p.file)
	flags, err := unix.FcntlInt(p.file.Fd(), unix.F_GETFD, 0)
	require.NoError(t, err)
	require.NotZero(t, flags&unix.FD_CLOEXEC, "no child of ours inherits it by accident")

	require.Error(t, send(a, packet{verb: "keep", arg: strings.Repeat("x", maxPacket)}))
	require.NoError(t, a.Close())
	_, err = receive(b)
	require.ErrorIs(t, err, io.EOF)
	for _, c := range []io.Closer{b, p.file, r, w} {
		require.NoError(t, c.Close())
	}
	require.Equal(t, before, descriptors(t))
}

func descriptors(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(names)
}

// requireGone waits until a process is gone, its zombie included or reaped by
// whoever inherited it.
func requireGone(t *testing.T, pid int) {
	t.Helper()
	require.Eventually(t, func() bool {
		state, _ := stat(pid)
		return state == 0 || state == 'Z' || state == 'X'
	}, patience, 5*time.Millisecond, "process %d still runs", pid)
}
