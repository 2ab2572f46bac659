package supervise

import (
	"bytes"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// KillTree kills a process and all of its descendants with SIGKILL. The root is
// stopped first, so that it restarts nothing, and is killed last: being a
// subreaper it is where orphans turn up.
func KillTree(root int) {
	_ = unix.Kill(root, unix.SIGSTOP)
	deadline := time.Now().Add(killTimeout)
	for time.Now().Before(deadline) {
		pids := descendants(root)
		if len(pids) == 0 {
			break
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		time.Sleep(2 * time.Millisecond) // until they are zombies, which do not count
	}
	_ = unix.Kill(root, unix.SIGKILL)
}

// descendants lists the living processes below root.
func descendants(root int) []int {
	below := map[int][]int{}
	for _, pid := range processes() {
		state, ppid := stat(pid)
		if state != 'Z' && state != 'X' {
			below[ppid] = append(below[ppid], pid)
		}
	}
	var all []int
	for next := []int{root}; len(next) > 0; next = next[1:] {
		all = append(all, below[next[0]]...)
		next = append(next, below[next[0]]...)
	}
	return all
}

// children lists the direct children of this process, zombies included.
func children() []int {
	self := os.Getpid()
	var pids []int
	for _, pid := range processes() {
		if _, ppid := stat(pid); ppid == self {
			pids = append(pids, pid)
		}
	}
	return pids
}

// processes lists every PID. The list /proc/<pid>/task/<tid>/children would be
// shorter but is missing from many kernels.
func processes() []int {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer func() { _ = proc.Close() }()
	names, _ := proc.Readdirnames(-1)
	pids := make([]int, 0, len(names))
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// stat returns the state and the parent of pid, zeros if pid is gone. The
// command name may hold anything, so fields are counted from its closing
// parenthesis.
func stat(pid int) (state byte, ppid int) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0
	}
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 2 {
		return 0, 0
	}
	ppid, _ = strconv.Atoi(string(fields[1]))
	return fields[0][0], ppid
}

// CommandHas reports whether pid runs with arg among its arguments.
func CommandHas(pid int, arg string) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil {
		return false
	}
	for _, a := range bytes.Split(text, []byte{0}) {
		if string(a) == arg {
			return true
		}
	}
	return false
}
