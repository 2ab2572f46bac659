package session_test

import (
	"bytes"
	"errors"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"yr/agent/session"
	"yr/pkg/wire"
	"yr/pkg/wire/wirepb"
	"yr/pkg/yr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 10 * time.Second

// pair is a connection and its peer's bare socket.
func pair(t *testing.T) (*session.Conn, *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	ends := make([]*net.UnixConn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "end")
		nc, err := net.FileConn(f)
		require.NoError(t, err)
		_ = f.Close()
		ends[i] = nc.(*net.UnixConn) //nolint:forcetypeassert // a Unix socket
		require.NoError(t, ends[i].SetDeadline(time.Now().Add(patience)))
	}
	c, err := session.New(ends[0])
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = ends[1].Close()
		c.Close()
		c.Wait()
	})
	return c, ends[1]
}

// recorder keeps the frames that it is given.
type recorder struct {
	mu     sync.Mutex
	chunks int
	bodies [][]byte
	err    error // what Frames answers
}

func (r *recorder) Frames(frames []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.chunks++
	for len(frames) > 0 {
		_, body, rest, err := wire.Next(frames)
		if err != nil {
			return err
		}
		r.bodies = append(r.bodies, bytes.Clone(body))
		frames = rest
	}
	return r.err
}

// frame is a LOOKUP for a name: a frame whose length the test chooses.
func frame(name string) []byte {
	return wire.AppendMessage(nil, wire.Lookup, 0, &wirepb.Lookup{Name: name})
}

// serve runs Serve and returns what it returned.
func serve(c *session.Conn, h session.Handler) <-chan error {
	end := make(chan error, 1)
	go func() { end <- c.Serve(h) }()
	return end
}

func send(t *testing.T, nc *net.UnixConn, b []byte) {
	t.Helper()
	_, err := nc.Write(b)
	require.NoError(t, err)
}

func TestFramesArriveWholeHoweverTheyAreCut(t *testing.T) {
	long := string(bytes.Repeat([]byte("x"), 200_000)) // larger than the read buffer
	all := append(frame("a"), frame(long)...)
	all = append(all, frame("b")...)
	for _, cut := range []int{1, 15, 16, 17, 1000, 65_536, len(all)} {
		c, nc := pair(t)
		r := &recorder{}
		end := serve(c, r)
		rest := all
		for i := 0; len(rest) > 0; i++ {
			n := min(cut, len(rest))
			if i > 100 { // the long frame's middle has nothing to cut
				n = min(8192, len(rest))
			}
			send(t, nc, rest[:n])
			rest = rest[n:]
		}
		require.NoError(t, nc.Close())
		require.NoError(t, <-end, "cut %d: the peer closed in between two frames", cut)
		require.Len(t, r.bodies, 3, "cut %d", cut)
		for i, want := range [][]byte{frame("a"), frame(long), frame("b")} {
			require.Equal(t, want[wire.HeaderLen:], r.bodies[i], "cut %d, frame %d", cut, i)
		}
	}
}

func TestManyFramesAreHandledTogether(t *testing.T) {
	c, nc := pair(t)
	var many []byte
	for range 100 {
		many = append(many, frame("a")...)
	}
	send(t, nc, many)
	require.NoError(t, nc.Close())
	r := &recorder{}
	require.NoError(t, c.Serve(r))
	require.Len(t, r.bodies, 100)
	require.Equal(t, 1, r.chunks, "one read, one turn of the handler")
}

func TestAFrameAboveTheLimitIsRefusedUnread(t *testing.T) {
	c, nc := pair(t)
	send(t, nc, append(frame("a"), 0xff, 0xff, 0xff, 0xff, byte(wire.Lookup), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))
	r := &recorder{}
	require.Equal(t, yr.FrameMalformed, yr.CodeOf(c.Serve(r)))
	require.Len(t, r.bodies, 1, "what stands before it is handled")
}

func TestAnEndInsideAFrameIsAnError(t *testing.T) {
	c, nc := pair(t)
	send(t, nc, frame("abc")[:18])
	require.NoError(t, nc.Close())
	require.Error(t, c.Serve(&recorder{}))
}

func TestTheHandlersErrorEndsServe(t *testing.T) {
	c, nc := pair(t)
	send(t, nc, frame("a"))
	cause := errors.New("enough")
	require.ErrorIs(t, c.Serve(&recorder{err: cause}), cause)
}

func TestQueuedFramesAreWrittenInOrder(t *testing.T) {
	c, nc := pair(t)
	for _, name := range []string{"a", "b", "c"} {
		c.Queue(func(dst []byte) []byte { return append(dst, frame(name)...) })
	}
	c.Flush()
	want := append(append(frame("a"), frame("b")...), frame("c")...)
	require.Equal(t, want, read(t, nc, len(want)))
}

// read reads n bytes.
func read(t *testing.T, nc *net.UnixConn, n int) []byte {
	t.Helper()
	got, chunk := make([]byte, 0, n), make([]byte, 64<<10)
	for len(got) < n {
		k, err := nc.Read(chunk[:min(len(chunk), n-len(got))])
		require.NoError(t, err, "after %d of %d bytes", len(got), n)
		got = append(got, chunk[:k]...)
	}
	return got
}

func TestASlowReaderHoldsUpNobody(t *testing.T) {
	c, nc := pair(t)
	big := frame(string(bytes.Repeat([]byte("x"), 1<<20)))
	frames, queued := 0, 0
	for ; queued <= session.HighWater; frames++ { // ends although nobody reads: Queue and Flush never wait
		queued = c.Queue(func(dst []byte) []byte { return append(dst, big...) })
		c.Flush()
	}
	room := make(chan struct{})
	c.Go(func() {
		c.WaitRoom()
		close(room)
	})
	select {
	case <-room:
		t.Fatal("there is room for more, although nothing was read")
	default:
	}
	read(t, nc, frames*len(big))
	<-room
}

func TestWaitingForRoomEndsWithTheConnection(t *testing.T) {
	c, _ := pair(t)
	c.Queue(func(dst []byte) []byte { return append(dst, make([]byte, session.HighWater+1)...) })
	c.Flush()
	room := make(chan struct{})
	c.Go(func() {
		c.WaitRoom()
		close(room)
	})
	c.Close()
	<-room
	c.Wait()
}

func TestLastWordsAreReadAlthoughTheConnectionIsClosed(t *testing.T) {
	c, nc := pair(t)
	c.Last(frame("why"))
	c.Wait()
	require.Equal(t, frame("why"), read(t, nc, len(frame("why"))))
	_, err := nc.Read(make([]byte, 1))
	require.Error(t, err, "and then it ends")
}

func TestLastWordsWaitForASlowReader(t *testing.T) {
	c, nc := pair(t)
	big := frame(string(bytes.Repeat([]byte("x"), 2<<20)))
	c.Queue(func(dst []byte) []byte { return append(dst, big...) })
	c.Flush()
	c.Last(frame("why")) // does not wait
	got := read(t, nc, len(big)+len(frame("why")))
	require.Equal(t, frame("why"), got[len(big):])
	c.Wait()
}

func TestNothingIsQueuedAfterTheEnd(t *testing.T) {
	c, _ := pair(t)
	c.Close()
	require.Zero(t, c.Queue(func([]byte) []byte {
		t.Error("asked for frames")
		return nil
	}))
	c.Flush()
	c.Last(frame("a"))
	c.Go(func() { t.Error("begun") })
	c.Wait()
}

func TestTheOpeningFrameBringsItsDescriptorAndOnlyThat(t *testing.T) {
	c, nc := pair(t)
	first, second := memory(t), memory(t)
	opening := frame("hello")
	_, _, err := nc.WriteMsgUnix(opening[:5], unix.UnixRights(int(first.Fd())), nil)
	require.NoError(t, err)
	_, _, err = nc.WriteMsgUnix(opening[5:], unix.UnixRights(int(second.Fd())), nil)
	require.NoError(t, err)
	before := descriptors(t)
	h, body, fd, err := c.ReadFirst()
	require.NoError(t, err)
	require.Equal(t, wire.Lookup, h.Type)
	require.Equal(t, opening[wire.HeaderLen:], body)
	require.GreaterOrEqual(t, fd, 0)
	require.Equal(t, before+1, descriptors(t), "a second descriptor is closed, not kept")
	var want, got unix.Stat_t
	require.NoError(t, unix.Fstat(int(first.Fd()), &want))
	require.NoError(t, unix.Fstat(fd, &got))
	require.Equal(t, want.Ino, got.Ino, "the first one counts")
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	require.NoError(t, err)
	require.NotZero(t, flags&unix.FD_CLOEXEC, "no worker inherits it")
	require.NoError(t, unix.Close(fd))
}

func TestBytesAfterTheOpeningFrameAreRefused(t *testing.T) {
	c, nc := pair(t)
	send(t, nc, append(frame("hello"), 1))
	_, _, fd, err := c.ReadFirst()
	require.Equal(t, -1, fd)
	require.Equal(t, yr.FrameMalformed, yr.CodeOf(err))
}

func TestADescriptorIsSent(t *testing.T) {
	c, nc := pair(t)
	f := memory(t)
	require.NoError(t, c.SendDescriptor(frame("mapped"), int(f.Fd())))
	b, oob := make([]byte, 100), make([]byte, 100)
	n, oobn, _, _, err := nc.ReadMsgUnix(b, oob)
	require.NoError(t, err)
	require.Equal(t, frame("mapped"), b[:n])
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	require.NoError(t, err)
	require.Len(t, messages, 1)
	fds, err := unix.ParseUnixRights(&messages[0])
	require.NoError(t, err)
	require.Len(t, fds, 1)
	require.NoError(t, unix.Close(fds[0]))
}

func TestThePeerIsKnownByTheKernel(t *testing.T) {
	c, _ := pair(t)
	pid, uid, err := c.Peer()
	require.NoError(t, err)
	require.Equal(t, os.Getpid(), pid)
	require.Equal(t, os.Getuid(), int(uid))
}

// memory is some file to pass.
func memory(t *testing.T) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	require.NoError(t, err)
	f := os.NewFile(uintptr(fd), "test")
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// descriptors counts the open ones of this process.
func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(list)
}
