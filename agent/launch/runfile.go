package launch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"yr/pkg/yr"
)

// A runFile tells the next daemon which workers run. The start time, in clock
// ticks since boot, tells a worker from a later process with its pid.
type runFile struct {
	Worker         yr.ID  `json:"worker"`
	PID            int    `json:"pid"`
	StartTimeTicks uint64 `json:"start_time_ticks"`
	Job            yr.Job `json:"job"`
	Note           string `json:"note"`
}

func (l *Launcher) runPath(id yr.ID) string { return filepath.Join(l.opt.RunDir, id.String()+".json") }

func (l *Launcher) writeRunFile(w *worker) error {
	st, err := readStat(w.pid)
	if errors.Is(err, fs.ErrNotExist) || err == nil && st.zombie {
		return nil // it has ended already
	}
	if err != nil {
		return err
	}
	body, err := json.Marshal(runFile{w.spec.Worker, w.pid, st.startTicks, w.spec.Job, w.spec.Note})
	if err != nil {
		return err
	}
	path := l.runPath(w.spec.Worker)
	if err := os.WriteFile(path+".tmp", body, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

func (l *Launcher) removeRunFile(id yr.ID) { _ = os.Remove(l.runPath(id)) }

// Survivors lists the workers of an earlier daemon that still run, and removes
// the files of those that do not.
func (l *Launcher) Survivors() []Survivor {
	var alive []Survivor
	paths, _ := filepath.Glob(filepath.Join(l.opt.RunDir, "*.json*"))
	for _, path := range paths {
		if l.owns(path) {
			continue
		}
		f, err := readRunFile(path)
		if err != nil || !f.alive() {
			_ = os.Remove(path)
			continue
		}
		alive = append(alive, Survivor{Worker: f.Worker, PID: f.PID, Job: f.Job, Note: f.Note})
	}
	return alive
}

// owns reports whether path is about a worker that this launcher watches.
func (l *Launcher) owns(path string) bool {
	id, err := yr.ParseID(strings.TrimSuffix(filepath.Base(path), ".json"))
	l.mu.Lock()
	defer l.mu.Unlock()
	return err == nil && l.workers[id] != nil
}

func readRunFile(path string) (f runFile, err error) {
	body, err := os.ReadFile(path)
	if err != nil {
		return f, err
	}
	if err := json.Unmarshal(body, &f); err != nil {
		return f, err
	}
	if filepath.Base(path) != f.Worker.String()+".json" {
		return f, fmt.Errorf("%s is about worker %s", path, f.Worker)
	}
	return f, nil
}

func (f runFile) alive() bool {
	st, err := readStat(f.PID)
	return err == nil && !st.zombie && st.startTicks == f.StartTimeTicks
}

// stat is what we read of /proc/<pid>/stat (proc_pid_stat(5)).
type stat struct {
	zombie     bool
	parent     int
	session    int
	startTicks uint64
}

func readStat(pid int) (stat, error) {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	end := bytes.LastIndexByte(line, ')') // the name before it may hold anything
	if end < 0 {
		return stat{}, fmt.Errorf("pid %d: no name in %q", pid, line)
	}
	fields := bytes.Fields(line[end+1:]) // from field 3, the state
	if len(fields) < 20 {
		return stat{}, fmt.Errorf("pid %d: %d fields in %q", pid, len(fields), line)
	}
	number := func(field int) uint64 {
		n, _ := strconv.ParseUint(string(fields[field-3]), 10, 64)
		return n
	}
	state := fields[0][0]
	return stat{
		zombie:     state == 'Z' || state == 'X',
		parent:     int(number(4)), //nolint:gosec // pids fit
		session:    int(number(6)), //nolint:gosec // pids fit
		startTicks: number(22),
	}, nil
}
