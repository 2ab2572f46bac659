package gateway_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// dialAs connects to a Unix socket as another user. The thread that changes its
// user is never used again: it ends with its goroutine.
func dialAs(t *testing.T, uid uintptr, path string) net.Conn {
	t.Helper()
	type dialled struct {
		fd  int
		err error
	}
	done := make(chan dialled)
	go func() {
		runtime.LockOSThread()
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			// Not unix.Setresuid, which changes every thread.
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); errno != 0 {
				err = errno
			} else {
				err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
			}
		}
		done <- dialled{fd, err}
	}()
	d := <-done
	require.NoError(t, d.err)
	f := os.NewFile(uintptr(d.fd), path)
	defer func() { _ = f.Close() }()
	c, err := net.FileConn(f)
	require.NoError(t, err)
	return c
}

func TestOtherUsersAreRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("becoming another user needs root")
	}
	f := open(t, nil)
	// Only the gateway's own check is left.
	for _, path := range []string{f.socket, filepath.Dir(f.socket), filepath.Dir(filepath.Dir(f.socket))} {
		require.NoError(t, os.Chmod(path, 0o777)) //nolint:gosec // on purpose
	}
	for uid, status := range map[uintptr]int{0: 200, 65534: 401} {
		c := dialAs(t, uid, f.socket)
		for _, path := range []string{"/yr/v1/nodes", "/debug/pprof/cmdline"} {
			_, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: yr\r\n\r\n")
			require.NoError(t, err)
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			require.NoError(t, err)
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.Equal(t, status, resp.StatusCode, "user %d, %s: %s", uid, path, body)
		}
		require.NoError(t, c.Close())
	}
}
