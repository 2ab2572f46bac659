package session

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"yr/pkg/config"
	"yr/pkg/yr"
)

// File is session.json. Scripts written for openYuanrong read the fields up to
// ClusterInfo; the rest is ours.
type File struct {
	SessionID   string               `json:"session_id"`
	StartTime   string               `json:"start_time"` // as C's ctime prints it
	Mode        string               `json:"mode"`       // "master" or "agent"
	Components  map[string]Component `json:"components"`
	ClusterInfo ClusterInfo          `json:"cluster_info"`

	Version    string  `json:"version"`
	Node       yr.Node `json:"node"`
	Socket     string  `json:"socket"`
	APISocket  string  `json:"api_socket"`
	DataDir    string  `json:"data_dir"`
	Temporary  bool    `json:"temporary,omitempty"`
	MasterInfo string  `json:"master_info,omitempty"`
	TLS        bool    `json:"tls,omitempty"` // HTTP over TCP is HTTPS
	Dir        Dir     `json:"dir"`
}

// Component is one of openYuanrong's services. Here all of them are the daemon,
// so they share a PID; the names are kept because scripts look for them.
type Component struct {
	PID          int               `json:"pid"`
	Status       string            `json:"status"` // "RUNNING"
	StartTime    string            `json:"start_time"`
	Cmd          []string          `json:"cmd"`
	EnvVars      map[string]string `json:"env_vars"`
	RestartCount int               `json:"restart_count"`
}

// ClusterInfo is what others need in order to find this cluster.
type ClusterInfo struct {
	Daemon  Daemon            `json:"daemon"`
	ForJoin map[string]string `json:"for-join"`
}

// Daemon names the parent process: the one to signal.
type Daemon struct {
	PID     int    `json:"pid"`
	Started uint64 `json:"started"` // kernel clock ticks; tells a recycled PID
}

// componentOrder is the order in which components start and are listed.
var componentOrder = []string{
	"etcd", "ds_master", "ds_worker", "function_master", "function_proxy", "function_agent",
	"runtime_launcher", "meta_service", "function_scheduler", "frontend", "dashboard", "collector", "iam_server",
}

// Components lists the names that a node of that mode runs.
func Components(master bool) []string {
	if master {
		return []string{"etcd", "ds_master", "ds_worker", "function_master", "function_proxy", "function_agent"}
	}
	return []string{"ds_worker", "function_proxy", "function_agent"}
}

// Names lists the components of f in the order in which they are shown.
func (f *File) Names() []string {
	var names []string
	for _, name := range componentOrder {
		if _, ok := f.Components[name]; ok {
			names = append(names, name)
		}
	}
	return names
}

// Write replaces session.json atomically.
func (f *File) Write() error {
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	return WriteAtomic(f.Dir.File(), append(text, '\n'), 0o644)
}

// WriteAtomic writes a file so that a reader, and a machine that loses power,
// sees the old content or the new.
func WriteAtomic(path string, content []byte, mode os.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	if err := errors.Join(tmp.Chmod(mode), write(tmp, content), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

func write(f *os.File, content []byte) error {
	_, err := f.Write(content)
	return err
}

// Load reads a session.json of this user. It says which processes are to be
// killed and which files removed, so nobody else's is believed, and what it says
// of its own place is not either.
func Load(path string) (*File, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if owner := ownerOf(st); owner != os.Getuid() && st.Mode().IsRegular() {
		return nil, yr.E("read session", yr.Unauthorized, "%s belongs to user %d; run the command as that user", path, owner)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f := &File{}
	if err := json.Unmarshal(text, f); err != nil {
		return nil, yr.E("read session", yr.ParamInvalid, "%s is not a session file: %v", path, err)
	}
	if f.ClusterInfo.Daemon.PID <= 0 {
		return nil, yr.E("read session", yr.ParamInvalid, "%s is not a session file: it names no daemon", path)
	}
	if f.Dir.Path, err = filepath.Abs(filepath.Dir(path)); err != nil {
		return nil, err
	}
	return f, nil
}

// Latest reads the newest session under prefix.
func Latest(prefix string) (*File, error) {
	return Load(filepath.Join(prefix, LatestLink, "session.json"))
}

// Alive reports whether the daemon's parent process still runs.
func (f *File) Alive() bool {
	return Started(f.ClusterInfo.Daemon.PID) == f.ClusterInfo.Daemon.Started && f.ClusterInfo.Daemon.Started != 0
}

// ChildPID is the daemon proper, 0 if the file names none.
func (f *File) ChildPID() int {
	for _, c := range f.Components {
		return c.PID
	}
	return 0
}

// Started is when a process started, in the kernel's clock ticks since boot; 0
// if there is no such process, or only its zombie.
func Started(pid int) uint64 {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	// The name in parentheses may hold spaces; field 3 follows it.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return 0
	}
	ticks, _ := strconv.ParseUint(fields[19], 10, 64)
	return ticks
}

// Plan tells the daemon what to be; the start command writes it.
type Plan struct {
	Dir       Dir             `json:"dir"`
	Master    bool            `json:"master"`
	Temporary bool            `json:"temporary"` // data goes with the daemon, loopback only
	OwnerPID  int             `json:"owner_pid"` // the daemon ends with this process; 0: none
	FixPorts  bool            `json:"fix_ports"` // a busy port is an error
	Version   string          `json:"version"`
	Begun     time.Time       `json:"begun"` // when the person pressed enter
	Settings  config.Settings `json:"settings"`
}

// Write stores the plan, which may hold the token.
func (p *Plan) Write() error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return os.WriteFile(p.Dir.Plan(), text, 0o600)
}

// ReadPlan reads it back.
func ReadPlan(path string) (*Plan, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	p := &Plan{}
	return p, json.Unmarshal(text, p)
}

func ownerOf(st os.FileInfo) int {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return int(sys.Uid)
	}
	return -1
}
