package cli

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"yr/pkg/session"
	"yr/pkg/supervise"
	"yr/pkg/yr"
)

// Where says which session a command is about.
type Where struct {
	Prefix string // --log-dir-prefix
	File   string // -f: a session.json; wins over Prefix
}

// Find reads the session, whether its daemon lives or not.
func (w Where) Find() (*session.File, error) {
	f, err := w.load()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, yr.E("find the session", yr.InitConnection,
			"no session under %s; start one with `yr start --master`, or name another place with --log-dir-prefix", w.Prefix)
	}
	return f, err
}

// FindAlive reads the session and checks that its daemon lives.
func (w Where) FindAlive() (*session.File, error) {
	f, err := w.Find()
	if err != nil {
		return nil, err
	}
	if !f.Alive() {
		return nil, yr.E("find the session", yr.InitConnection,
			"the daemon of session %s (pid %d) is gone; `yr stop` clears what it left, `yr start --master` starts another",
			f.SessionID, f.ClusterInfo.Daemon.PID)
	}
	return f, nil
}

func (w Where) load() (*session.File, error) {
	if w.File != "" {
		return session.Load(w.File)
	}
	return session.Latest(w.Prefix)
}

// ClearStale removes what dead daemons left under prefix.
func ClearStale(prefix string) {
	files, _ := filepath.Glob(filepath.Join(prefix, "*", "session.json"))
	for _, path := range files {
		if st, err := os.Lstat(filepath.Dir(path)); err != nil || !st.IsDir() {
			continue // the link "latest"
		}
		if f, err := session.Load(path); err == nil && !f.Alive() {
			clearDead(f)
		}
	}
}

// clearDead ends what is left of a session whose parent died: a daemon that is
// still on its way out, workers that nobody watches any more, and its files.
func clearDead(f *session.File) {
	if pid := f.ChildPID(); pid > 0 && isDaemonOf(pid, f) && !waitGone(pid, 10*time.Second) {
		supervise.KillTree(pid)
	}
	for _, pid := range f.Dir.LiveWorkers() {
		supervise.KillTree(pid)
	}
	f.Dir.Clean(f)
}

// isDaemonOf tells the daemon from a stranger that got its PID: the daemon's
// command line names its plan.
func isDaemonOf(pid int, f *session.File) bool {
	return supervise.CommandHas(pid, f.Dir.Plan())
}

// waitGone waits until a process has ended.
func waitGone(pid int, timeout time.Duration) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err == unix.ESRCH
	}
	defer func() { _ = unix.Close(fd) }()
	return pollReadable(fd, timeout)
}

func pollReadable(fd int, timeout time.Duration) bool {
	deadline := time.Now().Add(timeout)
	for {
		left := time.Until(deadline)
		if left < 0 {
			return false
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1) //nolint:gosec // a descriptor
		if n > 0 {
			return true
		}
		if err != nil && err != unix.EINTR {
			return false
		}
	}
}
