package agent_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"yr/agent"
	"yr/agent/launch"
	"yr/pkg/cluster"
	"yr/pkg/cluster/inprocess"
	"yr/pkg/wire"
	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
	"yr/store"
)

// patience is how long a test waits for what must happen.
const patience = 10 * time.Second

// heirEnv makes this binary a program that leaves its session to a child.
const heirEnv = "AGENT_TEST_HEIR"

func TestMain(m *testing.M) {
	if socket := os.Getenv(heirEnv); socket != "" {
		leaveSessionToChild(socket)
	}
	goleak.VerifyTestMain(m)
}

// open starts a real agent, without any workers to come.
func open(t *testing.T, change func(*agent.Options)) (a *agent.Agent, socket string) {
	t.Helper()
	dir := t.TempDir()
	socket = filepath.Join(dir, "yr.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	require.NoError(t, err)
	objects := store.New(store.Options{Capacity: 64 << 20, Log: zerolog.Nop()})
	require.NoError(t, objects.Open(t.Context()))
	names := cluster.New(cluster.Options{Node: "node-1", KV: inprocess.New(), Log: zerolog.Nop()})
	require.NoError(t, names.Open(t.Context()))
	launcher := launch.New(launch.Options{
		Socket: socket, LogDir: dir, RunDir: filepath.Join(dir, "workers"), Log: zerolog.Nop(),
		OnStarted: func(yr.ID, int, error) {}, OnExit: func(launch.Exit) {},
	})
	require.NoError(t, launcher.Open(t.Context()))
	opt := agent.Options{
		Node: "node-1", NodeIP: "127.0.0.1", Version: "test", Token: "secret", LogDir: dir, RunDir: dir,
		Listener: l, Store: objects, Registry: names.Names(), Launcher: launcher,
		Resources: yr.Resources{yr.CPU: yr.Amount(1000), yr.Memory: yr.Amount(1024)}, Log: zerolog.Nop(),
	}
	if change != nil {
		change(&opt)
	}
	a = agent.New(opt)
	require.NoError(t, a.Open(t.Context()))
	t.Cleanup(func() {
		require.NoError(t, a.Check())
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(t, a.Close(ctx))
		require.NoError(t, launcher.Close(ctx))
		require.NoError(t, objects.Close(ctx))
		require.NoError(t, names.Close(ctx))
		_ = l.Close()
	})
	return a, socket
}

// dial opens a connection and sends b.
func dial(t *testing.T, socket string, b []byte) *net.UnixConn {
	t.Helper()
	nc, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket})
	require.NoError(t, err)
	t.Cleanup(func() { _ = nc.Close() })
	require.NoError(t, nc.SetDeadline(time.Now().Add(patience)))
	_, err = nc.Write(b)
	require.NoError(t, err)
	return nc
}

// read returns the next frame, and the descriptor that came with it, or -1.
func read(r *net.UnixConn) (h wire.Header, body []byte, fd int, err error) {
	fd = -1
	var buf []byte
	for {
		if h, body, _, err := wire.Next(buf); err == nil {
			return h, body, fd, nil
		}
		chunk, oob := make([]byte, 1<<16), make([]byte, unix.CmsgSpace(4))
		n, oobn, _, _, err := r.ReadMsgUnix(chunk, oob)
		if err != nil {
			return h, nil, fd, err
		}
		if n == 0 {
			return h, nil, fd, io.EOF
		}
		if messages, _ := unix.ParseSocketControlMessage(oob[:oobn]); len(messages) > 0 {
			if fds, _ := unix.ParseUnixRights(&messages[0]); len(fds) > 0 {
				fd = fds[0]
			}
		}
		buf = append(buf, chunk[:n]...)
	}
}

// status reads a frame of this type that holds a Status.
func status(t *testing.T, nc *net.UnixConn, want wire.Type) (m *wirepb.Status, fd int) {
	t.Helper()
	h, body, fd, err := read(nc)
	require.NoError(t, err)
	require.Equal(t, want, h.Type)
	m = &wirepb.Status{}
	require.NoError(t, wire.DecodeMessage(h.Type, body, m))
	return m, fd
}

func hello(h *wirepb.Hello) []byte {
	h.Role, h.Prefix, h.Language = uint32(yr.RoleDriver), yr.NewPrefix().String(), "test"
	return wire.AppendHello(nil, wire.OldestVersion, wire.Version, h)
}

// join opens a session.
func join(t *testing.T, socket string) (*net.UnixConn, *wirepb.Welcome) {
	t.Helper()
	nc := dial(t, socket, hello(&wirepb.Hello{Token: "secret"}))
	h, body, _, err := read(nc)
	require.NoError(t, err)
	require.Equal(t, wire.Welcome, h.Type)
	m := &wirepb.Welcome{}
	require.NoError(t, wire.DecodeMessage(h.Type, body, m))
	return nc, m
}

func sessions(a *agent.Agent) uint64 { return a.Counters()["sessions"] }

func TestWhoIsRefusedIsToldWhy(t *testing.T) {
	_, socket := open(t, nil)
	for name, test := range map[string]struct {
		opening []byte
		code    yr.Code
	}{
		"the token of another cluster": {hello(&wirepb.Hello{Token: "other"}), yr.Unauthorized},
		"a client that is too new":     {wire.AppendHello(nil, wire.Version+1, wire.Version+9, &wirepb.Hello{}), yr.VersionMismatch},
		"a client that is too old":     {wire.AppendHello(nil, 0, wire.OldestVersion-1, &wirepb.Hello{}), yr.VersionMismatch},
		"another protocol":             {wire.AppendMessage(nil, wire.Hello, 0, &wirepb.Hello{Job: "a job"}), yr.FrameMalformed},
		"a frame that opens nothing":   {wire.AppendEmpty(nil, wire.Ping, 0), yr.FrameMalformed},
		"a frame of four gigabytes":    {[]byte("\xff\xff\xff\xff\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), yr.FrameMalformed},
		"no patience for the answer":   {append(hello(&wirepb.Hello{}), wire.AppendEmpty(nil, wire.Ping, 0)...), yr.FrameMalformed},
		"a role that there is not":     {wire.AppendHello(nil, 1, 1, &wirepb.Hello{Role: 9, Prefix: yr.NewPrefix().String()}), yr.ParamInvalid},
		"a worker that nobody started": {wire.AppendHello(nil, 1, 1, &wirepb.Hello{Role: 2, Prefix: yr.NewPrefix().String(), WorkerId: []byte(yr.NewID().String())}), yr.InstanceExited},
		"a session that is not known":  {hello(&wirepb.Hello{ResumeToken: yr.NewID().String() + ".signed"}), yr.Communication},
	} {
		t.Run(name, func(t *testing.T) {
			nc := dial(t, socket, test.opening)
			m, _ := status(t, nc, wire.Reject)
			require.Equal(t, test.code, yr.Code(m.GetCode()), m.GetMessage())
			require.NotEmpty(t, m.GetMessage())
			_, _, _, err := read(nc)
			require.Error(t, err, "and then the connection ends")
		})
	}
}

func TestAConnectionThatSaysNothingIsClosed(t *testing.T) {
	_, socket := open(t, func(o *agent.Options) { o.HelloTimeout = 10 * time.Millisecond })
	nc := dial(t, socket, nil)
	_, err := nc.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}

func TestASessionMayBeSilentForLongerThanAHello(t *testing.T) {
	_, socket := open(t, func(o *agent.Options) { o.HelloTimeout = 20 * time.Millisecond })
	nc, _ := join(t, socket)
	require.NoError(t, nc.SetReadDeadline(time.Now().Add(60*time.Millisecond)))
	_, err := nc.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded, "nothing came, and nothing ended")
}

func TestAFullNodeSaysSo(t *testing.T) {
	a, socket := open(t, func(o *agent.Options) { o.MaxSessions = 1 })
	first, _ := join(t, socket)
	m, _ := status(t, dial(t, socket, hello(&wirepb.Hello{})), wire.Reject)
	require.Equal(t, yr.RateLimited, yr.Code(m.GetCode()))
	require.NoError(t, first.Close())
	require.Eventually(t, func() bool {
		nc := dial(t, socket, hello(&wirepb.Hello{}))
		h, _, _, err := read(nc)
		return err == nil && h.Type == wire.Welcome
	}, patience, time.Millisecond, "there is room again")
	require.NoError(t, a.Check())
}

func TestASegmentIsMappedByItsLessee(t *testing.T) {
	_, socket := open(t, nil)
	nc, welcome := join(t, socket)
	_, err := nc.Write(wire.AppendMessage(nil, wire.Lease, 1, &wirepb.LeaseRequest{Size: 4096}))
	require.NoError(t, err)
	h, body, _, err := read(nc)
	require.NoError(t, err)
	lease := &wirepb.Lease{}
	require.NoError(t, wire.DecodeMessage(h.Type, body, lease))
	request := func(change func(*wirepb.MapRequest)) (*wirepb.Status, int) {
		m := &wirepb.MapRequest{ResumeToken: welcome.GetResumeToken(), Segment: lease.GetSegment(), Generation: lease.GetGeneration(), Writable: true}
		change(m)
		return status(t, dial(t, socket, wire.AppendMessage(nil, wire.Map, 0, m)), wire.Mapped)
	}
	s, fd := request(func(*wirepb.MapRequest) {})
	require.Zero(t, s.GetCode(), s.GetMessage())
	var st unix.Stat_t
	require.NoError(t, unix.Fstat(fd, &st))
	require.Equal(t, lease.GetSize(), uint64(st.Size)) //nolint:gosec // a size
	require.NoError(t, unix.Close(fd))

	_, other := join(t, socket)
	for name, change := range map[string]func(*wirepb.MapRequest){
		"a forged token":                   func(m *wirepb.MapRequest) { m.ResumeToken = m.GetResumeToken()[:20] + ".forged" },
		"no token":                         func(m *wirepb.MapRequest) { m.ResumeToken = "" },
		"a segment that there is not":      func(m *wirepb.MapRequest) { m.Segment += 100 },
		"an older use of the segment":      func(m *wirepb.MapRequest) { m.Generation++ },
		"another's segment, to be written": func(m *wirepb.MapRequest) { m.ResumeToken = other.GetResumeToken() },
	} {
		s, fd := request(change)
		require.NotZero(t, s.GetCode(), name)
		require.Equal(t, -1, fd, name)
	}
}

func TestCloseEndsEveryConnection(t *testing.T) {
	a, socket := open(t, nil)
	silent := dial(t, socket, nil)
	joined, _ := join(t, socket)
	require.NoError(t, a.Close(t.Context()))
	m, _ := status(t, joined, wire.Reject)
	require.Equal(t, yr.Communication, yr.Code(m.GetCode()))
	_, err := silent.Read(make([]byte, 1))
	require.Error(t, err)
	require.Zero(t, sessions(a))
}

func TestLiveDriversAreKnownByFile(t *testing.T) {
	dir := t.TempDir()
	a, socket := open(t, func(o *agent.Options) { o.RunDir = dir })
	nc, _ := join(t, socket)
	files := func() int {
		list, err := os.ReadDir(filepath.Join(dir, "sessions"))
		require.NoError(t, err)
		return len(list)
	}
	require.Eventually(t, func() bool { return files() == 1 }, patience, time.Millisecond)
	require.NoError(t, nc.Close())
	require.Eventually(t, func() bool { return files() == 0 && sessions(a) == 0 }, patience, time.Millisecond)
}

// A program that dies leaves its session behind when a child of its still holds
// the socket; only the kernel's word about the process ends it.
func TestASessionEndsWithItsProcessNotWithItsSocket(t *testing.T) {
	a, socket := open(t, nil)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), heirEnv+"="+socket)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line := make([]byte, 32)
	n, err := stdout.Read(line) // the session is open, and the child has it
	require.NoError(t, err)
	child, err := strconv.Atoi(strings.TrimSpace(string(line[:n])))
	require.NoError(t, err)
	t.Cleanup(func() { _ = unix.Kill(child, unix.SIGKILL) })
	require.Equal(t, uint64(1), sessions(a))
	require.NoError(t, stdin.Close())
	require.NoError(t, cmd.Wait())
	require.NoError(t, unix.Kill(child, 0), "the child lives")
	require.Eventually(t, func() bool { return sessions(a) == 0 }, patience, time.Millisecond)
}

// leaveSessionToChild opens a session, gives the socket to a child, prints the
// child's pid and exits when its input ends.
func leaveSessionToChild(socket string) {
	err := func() error {
		nc, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket})
		if err != nil {
			return err
		}
		if _, err := nc.Write(hello(&wirepb.Hello{})); err != nil {
			return err
		}
		if h, _, _, err := read(nc); err != nil || h.Type != wire.Welcome {
			return errors.Join(err, errors.New("not welcome"))
		}
		f, err := nc.File()
		if err != nil {
			return err
		}
		child := exec.CommandContext(context.Background(), "sleep", "60")
		child.ExtraFiles = []*os.File{f}
		child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := child.Start(); err != nil {
			return err
		}
		_, _ = os.Stdout.WriteString(strconv.Itoa(child.Process.Pid) + "\n")
		_, _ = io.Copy(io.Discard, os.Stdin)
		return nil
	}()
	if err != nil {
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
	os.Exit(0)
}
