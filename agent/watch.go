package agent

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"yr/agent/route"
	"yr/pkg/yr"
)

// watch ends a session when its process dies, even if a child that the process
// forked keeps the connection open. It returns what undoes it.
func (a *Agent) watch(s *route.Session, pid int) (forget func()) {
	a.sessions.add(s.ID(), pid)
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil { // another pid namespace: the connection alone tells
		return func() { a.sessions.remove(s.ID(), pid) }
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	rc, err := f.SyscallConn()
	if err != nil {
		_ = f.Close()
		return func() { a.sessions.remove(s.ID(), pid) }
	}
	a.wg.Go(func() {
		err := rc.Read(func(fd uintptr) bool {
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // a descriptor
			n, err := unix.Poll(p, 0)
			return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
		})
		if err == nil { // not closed by forget: the process is gone
			a.router.Leave(s, errors.New("its process died"))
		}
	})
	return func() {
		a.sessions.remove(s.ID(), pid)
		_ = f.Close()
	}
}

// sessionFiles remembers which drivers are connected, so that a restarted daemon
// knows whom to wait for: one empty file for each, "<session>.<pid>".
type sessionFiles struct{ dir string }

func (f *sessionFiles) open(runDir string) error {
	f.dir = filepath.Join(runDir, "sessions")
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return yr.Wrap("open agent", yr.DiskFailed, err)
	}
	return nil
}

func (f *sessionFiles) add(id yr.ID, pid int) {
	_ = os.WriteFile(f.path(id, pid), nil, 0o600) // best effort: it only shortens a recovery
}

func (f *sessionFiles) path(id yr.ID, pid int) string {
	return filepath.Join(f.dir, id.String()+"."+strconv.Itoa(pid))
}

func (f *sessionFiles) remove(id yr.ID, pid int) { _ = os.Remove(f.path(id, pid)) }

// alive lists the sessions whose processes still run, and forgets the others.
func (f *sessionFiles) alive() []yr.ID {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return nil
	}
	var list []yr.ID
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), nodePrefix) {
			continue
		}
		name, num, _ := strings.Cut(e.Name(), ".")
		id, err := yr.ParseID(name)
		pid, perr := strconv.Atoi(num)
		if err != nil || perr != nil || unix.Kill(pid, 0) != nil {
			_ = os.Remove(filepath.Join(f.dir, e.Name()))
			continue
		}
		list = append(list, id)
	}
	return list
}

// remember marks that this node has to do with another one, and nodes lists those.
func (f *sessionFiles) remember(node yr.Node) {
	_ = os.WriteFile(filepath.Join(f.dir, nodePrefix+url.PathEscape(string(node))), nil, 0o600) // best effort, as add
}

func (f *sessionFiles) nodes() []yr.Node {
	paths, _ := filepath.Glob(filepath.Join(f.dir, nodePrefix+"*")) // the pattern is good
	var list []yr.Node
	for _, p := range paths {
		if name, err := url.PathUnescape(strings.TrimPrefix(filepath.Base(p), nodePrefix)); err == nil {
			list = append(list, yr.Node(name))
		}
	}
	return list
}

// nodePrefix begins the names of files about nodes; no session's begins so.
const nodePrefix = "node~"

func (f *sessionFiles) close() { _ = os.RemoveAll(f.dir) }

func closeFD(fd int) {
	if fd >= 0 {
		_ = unix.Close(fd)
	}
}
