// Package session says what one start of a daemon leaves on disk: where its
// files are, what session.json and the master info line hold, and how to tell
// whether the daemon that wrote them still lives.
//
// The daemon writes these files, the yr commands and the SDKs read them.
package session

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"yr/pkg/yr"
)

const (
	// DefaultPrefix is the root of all sessions when --log-dir-prefix says nothing.
	DefaultPrefix = "/tmp/yr_sessions"
	// MasterInfo is the name of the file, in the prefix, by which SDKs find a cluster.
	MasterInfo = "yr_current_master_info"
	// LatestLink names the newest session in the prefix.
	LatestLink = "latest"

	// maxSocketPath leaves room below the kernel's 108 bytes for what clients append.
	maxSocketPath = 100
	timeLayout    = "20060102_150405"

	// marker is a file in every session's directory.
	marker = ".yr_session"

	// publicDir is the mode of directories that everybody may look into, for the
	// logs and the master info; what is nobody else's business lies in Run.
	publicDir = 0o755
)

// Dir is the directory of one session, "<prefix>/<YYYYmmdd_HHMMSS>".
type Dir struct {
	Prefix string `json:"prefix"`
	Path   string `json:"path"`
}

// Create makes the directory of a new session. With an empty path it is named
// after the time; starts within one second get a suffix. A path that somebody
// chose must be new, empty, or a session's directory: files in it will be removed.
func Create(prefix, path string, now time.Time) (Dir, error) {
	if err := os.MkdirAll(prefix, publicDir); err != nil {
		return Dir{}, yr.E("make session directory", yr.ParamInvalid,
			"%v; choose a directory of your own with --log-dir-prefix", err)
	}
	if err := OwnedByUs(prefix, "--log-dir-prefix"); err != nil {
		return Dir{}, err
	}
	if path != "" {
		if err := mayBecomeSession(path); err != nil {
			return Dir{}, err
		}
		return Dir{prefix, path}, makeTree(path)
	}
	for n := 1; ; n++ {
		name := now.Format(timeLayout)
		if n > 1 {
			name = fmt.Sprintf("%s_%d", name, n)
		}
		path := filepath.Join(prefix, name)
		err := os.Mkdir(path, publicDir)
		switch {
		case err == nil:
			return Dir{prefix, path}, makeTree(path)
		case errors.Is(err, os.ErrExist):
			continue
		}
		return Dir{}, yr.E("make session directory", yr.ParamInvalid,
			"%v; choose a directory of your own with --log-dir-prefix", err)
	}
}

func mayBecomeSession(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return yr.E("make session directory", yr.ParamInvalid, "values.deploy_path: %v", err)
	}
	if err := OwnedByUs(path, "values.deploy_path"); err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(path, marker)); err != nil && len(entries) > 0 {
		return yr.E("make session directory", yr.ParamInvalid,
			"values.deploy_path=%q holds other files; name a new or an empty directory", path)
	}
	return nil
}

// OwnedByUs refuses a directory of somebody else, who could change under our feet
// what we put there. option is how to choose another.
func OwnedByUs(path, option string) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if owner := ownerOf(st); owner != os.Getuid() && owner != 0 {
		return yr.E("use directory "+path, yr.Unauthorized, "it belongs to user %d; choose one of your own with %s", owner, option)
	}
	return nil
}

func makeTree(path string) error {
	for _, sub := range []string{"logs/function_system", "logs/data_system/master", "logs/data_system/worker", "deploy", "checkpoints"} {
		if err := os.MkdirAll(filepath.Join(path, sub), publicDir); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(path, marker), nil, 0o600); err != nil {
		return err
	}
	// Sockets and worker files: nobody else's business.
	return os.MkdirAll(filepath.Join(path, "run", "workers"), 0o700)
}

// ID is the session's name, its directory's.
func (d Dir) ID() string { return filepath.Base(d.Path) }

// File is the path of session.json.
func (d Dir) File() string { return filepath.Join(d.Path, "session.json") }

// Config is the path of the merged configuration.
func (d Dir) Config() string { return filepath.Join(d.Path, "deploy", "config.toml") }

// Logs is the directory of all log files.
func (d Dir) Logs() string { return filepath.Join(d.Path, "logs") }

// DaemonLog is the log of the parent and of whatever the daemon prints.
func (d Dir) DaemonLog() string { return filepath.Join(d.Logs(), "yr_daemon.log") }

// Run is the directory of sockets and worker files.
func (d Dir) Run() string { return filepath.Join(d.Path, "run") }

// Plan is the path of the file that tells the daemon what to be.
func (d Dir) Plan() string { return filepath.Join(d.Run(), "plan.json") }

// TemporaryData is the data directory of a temporary cluster.
func (d Dir) TemporaryData() string { return filepath.Join(d.Path, "data") }

// RestoreFile is where `yr restore` leaves a backup in a data directory that has
// nothing else yet. The first start of a master there begins from it, and removes it.
func RestoreFile(dataDir string) string { return filepath.Join(dataDir, "restore.backup") }

// Workers is the directory of the files that describe live workers.
func (d Dir) Workers() string { return filepath.Join(d.Run(), "workers") }

// LiveWorkers lists the processes of workers that still run. The launcher leaves
// a file for each; the start time tells a recycled PID.
func (d Dir) LiveWorkers() []int {
	paths, _ := filepath.Glob(filepath.Join(d.Workers(), "*.json"))
	var pids []int
	for _, path := range paths {
		var w struct {
			PID     int    `json:"pid"`
			Started uint64 `json:"start_time_ticks"`
		}
		text, err := os.ReadFile(path)
		if err == nil && json.Unmarshal(text, &w) == nil && w.Started != 0 && Started(w.PID) == w.Started {
			pids = append(pids, w.PID)
		}
	}
	return pids
}

// Socket is where SDKs open their sessions.
func (d Dir) Socket() string { return filepath.Join(d.SocketDir(), "yr.sock") }

// APISocket is where the yr commands ask the daemon.
func (d Dir) APISocket() string { return filepath.Join(d.SocketDir(), "api.sock") }

// SocketDir is Run, or a short directory of its own where Run is too long for a
// Unix socket's address.
func (d Dir) SocketDir() string {
	if len(d.Run())+len("/api.sock") <= maxSocketPath {
		return d.Run()
	}
	sum := sha256.Sum256([]byte(d.Path))
	return filepath.Join("/tmp", fmt.Sprintf("yr-%d-%s", os.Getuid(), hex.EncodeToString(sum[:4])))
}

// MakeSocketDir creates SocketDir, for this user alone.
func (d Dir) MakeSocketDir() error {
	dir := d.SocketDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return OwnDir(dir)
}

// OwnDir checks that dir is a real directory of this user that nobody else may
// enter: others can make names in /tmp first.
func OwnDir(dir string) error {
	st, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !st.IsDir() || st.Mode().Perm()&0o077 != 0 || ownerOf(st) != os.Getuid() {
		return yr.E("use directory "+dir, yr.Unauthorized,
			"it must be a directory of user %d with mode 0700 (it is %v of user %d); remove it or use another --log-dir-prefix",
			os.Getuid(), st.Mode(), ownerOf(st))
	}
	return nil
}

// Link points <prefix>/latest at d, and makes the names by which older
// documents know the log directories.
func (d Dir) Link(node yr.Node) error {
	if err := symlink("logs", filepath.Join(d.Path, "log")); err != nil {
		return err
	}
	if node != "" && filepath.IsLocal(string(node)) {
		if err := os.MkdirAll(filepath.Join(d.Path, string(node)), publicDir); err != nil {
			return err
		}
		if err := symlink("../logs", filepath.Join(d.Path, string(node), "log")); err != nil {
			return err
		}
	}
	return symlink(d.ID(), filepath.Join(d.Prefix, LatestLink))
}

// symlink replaces link atomically.
func symlink(target, link string) error {
	tmp := fmt.Sprintf("%s.%d", link, os.Getpid())
	_ = os.Remove(tmp)
	if err := os.Symlink(target, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, link)
}

// Remove removes the session's directory with its logs, and the link to it. The
// prefix stays: another session may be about to begin in it.
func (d Dir) Remove() {
	link := filepath.Join(d.Prefix, LatestLink)
	if target, err := os.Readlink(link); err == nil && target == d.ID() {
		_ = os.Remove(link)
	}
	_ = os.RemoveAll(d.Path)
}

// Clean removes what must not outlive the daemon: its sockets, session.json, the
// master info line if it is this session's, and the data of a temporary cluster.
// Logs stay. It is called by the daemon when it ends, and by whoever finds that
// the daemon died without having done so.
func (d Dir) Clean(f *File) {
	_ = os.Remove(d.Socket())
	_ = os.Remove(d.APISocket())
	if d.SocketDir() != d.Run() {
		_ = os.Remove(d.SocketDir())
	}
	_ = os.RemoveAll(d.Run())
	_ = os.Remove(d.File())
	if f != nil && f.MasterInfo != "" {
		info := filepath.Join(d.Prefix, MasterInfo)
		if line, err := os.ReadFile(info); err == nil && string(line) == f.MasterInfo {
			_ = os.Remove(info)
		}
	}
	if f != nil && f.Temporary {
		_ = os.RemoveAll(d.TemporaryData())
	}
}
