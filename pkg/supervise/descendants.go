package supervise

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// BecomeSubreaper makes this process the parent of every orphan among its descendants.
func BecomeSubreaper() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	return nil
}

// SetName sets what ps and top call this process, which would else be "exe".
func SetName(name string) { _ = os.WriteFile("/proc/self/comm", []byte(name), 0) }

// EndDescendants kills every descendant of this process and collects it, and
// returns how many children are left after timeout (0 but for a process that
// hangs in the kernel). Orphans come to the subreaper, so ending children until
// there are none ends the whole tree. Nothing else in this process may wait for
// children meanwhile.
func EndDescendants(timeout time.Duration) int {
	deadline := time.Now().Add(timeout)
	for {
		if reapAll() {
			return 0
		}
		pids := children()
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if time.Now().After(deadline) {
			return len(pids)
		}
		time.Sleep(2 * time.Millisecond) // a killed process needs a moment to become a zombie
	}
}

// reapAll collects every zombie and reports whether no child is left at all.
func reapAll() bool {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		switch {
		case err == unix.EINTR:
		case err == unix.ECHILD:
			return true
		case err != nil || pid <= 0:
			return false
		}
	}
}
