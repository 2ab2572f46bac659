package launch

import (
	"context"
	"os"
	"os/signal"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"yr/pkg/yr"
)

// How long the sweep leaves a dead child to its owner before it looks behind it:
// it hides the others from waitid.
const (
	firstSweepAgain = 5 * time.Millisecond
	lastSweepAgain  = time.Second
)

// sweep reaps orphans: processes that workers started and left behind, which the
// kernel hands to us because we are their subreaper. They are told from other
// children of the daemon by their session: a worker has made its own.
func (l *Launcher) sweep() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	defer signal.Stop(ended)
	again := time.NewTimer(0)
	defer again.Stop()
	delay := firstSweepAgain
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-ended:
			delay = firstSweepAgain
		case <-again.C:
			delay = min(2*delay, lastSweepAgain)
		}
		if more := l.reapOrphans(); more {
			again.Reset(delay)
		}
	}
}

// reapOrphans reports whether a dead child is there that is (yet) another's to reap.
func (l *Launcher) reapOrphans() (more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		pid := deadChild()
		if pid == 0 {
			return false
		}
		if l.unnamed > 0 || l.pids[pid] || l.byPID[pid] != nil || !foreign(pid) {
			return true
		}
		_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
	}
}

// deadChild returns the pid of one child that has ended and is not reaped, or 0.
func deadChild() int {
	// The head of siginfo_t for SIGCHLD; unix.Siginfo hides it.
	type childInfo struct {
		signo, errno, code, _ int32
		pid                   int32
	}
	var info unix.Siginfo
	err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	if err != nil {
		return 0
	}
	return int((*childInfo)(unsafe.Pointer(&info)).pid)
}

// foreign reports whether pid is of another session than we are.
func foreign(pid int) bool {
	theirs, err := unix.Getsid(pid)
	ours, _ := unix.Getsid(0)
	return err == nil && theirs != ours
}

// awaitOrphans kills and reaps what workers left behind, after they and their
// templates have gone, until neither their groups nor any orphan is left.
func awaitOrphans(ctx context.Context, groups []int) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		left := 0
		for _, pid := range orphans() {
			killGroup(pid)
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
			left++
		}
		for _, pgid := range groups {
			if unix.Kill(-pgid, 0) == nil {
				left++
			}
		}
		if left == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return yr.Wrap("await what workers left behind", yr.Internal, context.Cause(ctx))
		}
	}
}

// orphans lists our children, dead or alive, that are of another session.
func orphans() []int {
	ours, _ := unix.Getsid(0)
	entries, _ := os.ReadDir("/proc")
	var found []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if st, err := readStat(pid); err == nil && st.parent == os.Getpid() && st.session != ours {
			found = append(found, pid)
		}
	}
	return found
}
