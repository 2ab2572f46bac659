package cluster

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"google.golang.org/grpc"

	"yr/pkg/yr"
)

// MaxSocketPath is the longest path of a Unix socket that yr makes; the kernel
// allows 107 bytes.
const MaxSocketPath = 100

// SocketPath is where etcdctl finds this member, "" if nowhere.
func (m *Member) SocketPath() string {
	if m.options.SocketDir == "" {
		return ""
	}
	return filepath.Join(m.options.SocketDir, "etcd.sock")
}

func (m *Member) listen() (*net.UnixListener, error) {
	path := m.SocketPath()
	if path == "" {
		return nil, nil
	}
	if len(path) > MaxSocketPath {
		return nil, yr.E("etcd socket", yr.ParamInvalid, "the path %q has %d bytes, at most %d work; use a shorter directory", path, len(path), MaxSocketPath)
	}
	// The caller holds the directory's lock, so a socket that exists is a dead one's.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, yr.Wrap("etcd socket", yr.DiskFailed, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, yr.Wrap("etcd socket", yr.DiskFailed, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(yr.Wrap("etcd socket", yr.DiskFailed, err), l.Close())
	}
	return l, nil
}

func (e *engine) serve(l *net.UnixListener) {
	e.server = v3rpc.Server(e.etcd.Server, nil, nil)
	e.work.Go(func() {
		if err := e.server.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			e.member.options.Log.Warn().Err(err).Msg("the etcd socket is closed; etcdctl cannot reach it")
		}
	})
}
