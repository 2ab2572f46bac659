package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"yr/pkg/config"
	"yr/pkg/session"
	"yr/pkg/yr"
)

// readyTimeout is how long a daemon may take to be ready.
const readyTimeout = 120 * time.Second

// StartOptions say what to start.
type StartOptions struct {
	Master    bool
	Temporary bool
	OwnerPID  int // the cluster ends with this process; 0: none
	Prefix    string
	FixPorts  bool
	InfoFile  string // also write the master info line here
	MasterURL string // ask here where to join
	Config    *config.Config
	Version   string
	Begun     time.Time
}

// Started is a running session; Stop ends it.
type Started struct {
	Session *session.File
	Timing  []session.Step
	parent  *os.Process
	ended   chan struct{} // closed when the parent has
	status  int           // of the parent, once it has ended
}

// Start starts a daemon and waits until it is ready. If it fails or ctx ends
// first, nothing of it is left but, after a failure, its logs.
func Start(ctx context.Context, opt StartOptions, out *Output) (*Started, error) {
	settings, err := opt.settings(ctx)
	if err != nil {
		return nil, err
	}
	dir, undo, lock, err := prepare(&opt, &settings)
	if err != nil {
		return nil, err
	}
	defer func() { _ = lock.Close() }()
	if err := resolveIdentity(&settings); err != nil {
		undo()
		return nil, err
	}
	plan := &session.Plan{
		Dir: dir, Master: opt.Master, Temporary: opt.Temporary, OwnerPID: opt.OwnerPID,
		FixPorts: opt.FixPorts, Version: opt.Version, Begun: opt.Begun, Settings: settings,
	}
	if err := errors.Join(opt.Config.Save(dir.Config()), plan.Write()); err != nil {
		undo()
		return nil, err
	}
	for _, name := range settings.Missing {
		out.Warnf("%s is not part of yr %s and does not run", name, opt.Version)
	}
	s, starter, err := launch(plan, lock)
	if err != nil {
		undo()
		return nil, err
	}
	if others := others(settings.Masters, settings.MasterIndex); len(others) > 0 {
		out.Printf("Waiting for a majority of the masters; run the same command on %s\n", strings.Join(others, ", "))
	}
	greeting, err := s.await(ctx, starter)
	if err != nil {
		s.Stop()
		if ctx.Err() != nil {
			undo()
			return nil, yr.E("start", yr.Interrupted, "interrupted; nothing was left running")
		}
		return nil, fmt.Errorf("%w\nThe log is %s", err, dir.DaemonLog())
	}
	for _, w := range greeting.Warnings {
		out.Warnf("%s", w)
	}
	s.Timing = greeting.Timing
	if err := keepToken(&settings); err != nil {
		out.Warnf("the token was not kept, so give it to the next start again: %v", err)
	}
	if s.Session, err = session.Load(dir.File()); err != nil {
		s.Stop()
		return nil, err
	}
	if opt.InfoFile != "" && s.Session.MasterInfo != "" {
		if err := os.WriteFile(opt.InfoFile, []byte(s.Session.MasterInfo), 0o600); err != nil {
			out.Warnf("the master info was not written: %v", err)
		}
	}
	return s, nil
}

// prepare makes the directories and takes the data directory's lock. undo removes what it made.
func prepare(opt *StartOptions, settings *config.Settings) (dir session.Dir, undo func(), lock *os.File, err error) {
	if err := choosePrefix(opt); err != nil {
		return dir, nil, nil, err
	}
	prefixIsNew := !exists(opt.Prefix)
	ClearStale(opt.Prefix)
	if err := refuseSecond(opt); err != nil {
		return dir, nil, nil, err
	}
	deploy := opt.Config.DeployPath()
	if opt.Temporary {
		deploy = "" // its directory is removed with it
	}
	deployIsNew := deploy == "" || !exists(deploy)
	dir, err = session.Create(opt.Prefix, deploy, opt.Begun)
	if err != nil {
		return dir, nil, nil, err
	}
	switch {
	case opt.Temporary:
		settings.HostIP, settings.LocalIP = "127.0.0.1", "127.0.0.1"
		settings.DataDir = dir.TemporaryData()
	case settings.DataDir == "":
		settings.DataDir = filepath.Join(opt.Prefix, "data")
	}
	opt.Config = opt.Config.
		With(settings.DataDir, "values", "data_dir").
		With(dir.Path, "values", "deploy_path").
		With(settings.HostIP, "values", "host_ip").
		With(settings.LocalIP, "values", "local_ip")
	dataIsNew := !exists(settings.DataDir)
	removeDeploy := func() {
		dir.Clean(nil)
		if deployIsNew {
			_ = os.RemoveAll(dir.Path)
		}
	}
	undo = func() {
		removeDeploy()
		if dataIsNew {
			_ = os.RemoveAll(settings.DataDir)
		}
		if prefixIsNew {
			_ = os.Remove(opt.Prefix)
		}
	}
	lock, err = lockData(settings.DataDir)
	if err != nil {
		removeDeploy() // the data directory is another's
		return dir, nil, nil, err
	}
	return dir, undo, lock, nil
}

// choosePrefix gives a temporary cluster a directory of its own, so that it
// never takes the place of the machine's cluster.
func choosePrefix(opt *StartOptions) error {
	if opt.Prefix == "" {
		opt.Prefix = session.DefaultPrefix
		if opt.Temporary {
			opt.Prefix = filepath.Join("/tmp", fmt.Sprintf("yr_temporary_%d", os.Getuid()))
			if err := os.MkdirAll(opt.Prefix, 0o700); err != nil {
				return err
			}
			if err := session.OwnDir(opt.Prefix); err != nil {
				return err
			}
			pruneTemporary(opt.Prefix)
		}
	}
	abs, err := filepath.Abs(opt.Prefix)
	opt.Prefix = abs
	return err
}

// keepTemporary bounds how many ended temporary sessions keep their logs.
const keepTemporary = 10

func pruneTemporary(prefix string) {
	dirs, _ := filepath.Glob(filepath.Join(prefix, "2*"))
	ended := dirs[:0]
	for _, d := range dirs {
		if !exists(filepath.Join(d, "run", "plan.json")) {
			ended = append(ended, d) // Glob sorts, and names are times
		}
	}
	for i := 0; i+keepTemporary < len(ended); i++ {
		_ = os.RemoveAll(ended[i])
	}
}

// refuseSecond fails if a session of this prefix or deploy directory lives.
// Temporary clusters live side by side.
func refuseSecond(opt *StartOptions) error {
	files := []string{filepath.Join(opt.Prefix, session.LatestLink, "session.json")}
	if deploy := opt.Config.DeployPath(); deploy != "" {
		files = append(files, filepath.Join(deploy, "session.json"))
	}
	for _, path := range files {
		f, err := session.Load(path)
		if err != nil || !f.Alive() || opt.Temporary {
			continue
		}
		return yr.E("start", yr.AlreadyRunning,
			"session %s already runs under %s (pid %d); stop it with `%s`, or start beside it with another --log-dir-prefix",
			f.SessionID, opt.Prefix, f.ClusterInfo.Daemon.PID, stopCommand(opt.Prefix))
	}
	return nil
}

func stopCommand(prefix string) string {
	if prefix == session.DefaultPrefix {
		return "yr stop"
	}
	return "yr stop --log-dir-prefix " + prefix
}

// lockData takes the data directory for one daemon. The lock belongs to the open
// file, which the parent holds as long as it lives.
func lockData(dataDir string) (*os.File, error) {
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return nil, yr.E("open data directory", yr.ParamInvalid,
			"%v; choose one of your own with -s 'values.data_dir=\"DIR\"' or --log-dir-prefix", err)
	}
	if err := session.OwnedByUs(dataDir, "-s 'values.data_dir=\"DIR\"'"); err != nil {
		return nil, err
	}
	path := filepath.Join(dataDir, "LOCK")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, yr.E("open data directory", yr.ParamInvalid,
			"%v; it belongs to %s: choose one of your own with -s 'values.data_dir=\"DIR\"' or --log-dir-prefix", err, ownerName(dataDir))
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer func() { _ = f.Close() }()
		holder, _ := os.ReadFile(path)
		return nil, yr.E("start", yr.AlreadyRunning,
			"data directory %s belongs to a running daemon (%s); stop it with `yr stop`, or choose another -s 'values.data_dir=\"DIR\"'",
			dataDir, strings.TrimSpace(string(holder)))
	}
	return f, nil
}

// sign writes into the lock who holds it.
func sign(lock *os.File, pid int, dir session.Dir) error {
	if err := lock.Truncate(0); err != nil {
		return err
	}
	_, err := lock.WriteAt(fmt.Appendf(nil, "pid %d, session %s\n", pid, dir.Path), 0)
	return err
}

func ownerName(path string) string {
	st, err := os.Stat(path)
	if err != nil {
		return "somebody else"
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		if u, err := user.LookupId(fmt.Sprint(sys.Uid)); err == nil {
			return "user " + u.Username
		}
		return fmt.Sprintf("user %d", sys.Uid)
	}
	return "somebody else"
}

// launch starts the parent, detached, with the lock and the pipe through which
// the daemon says that it is ready.
func launch(plan *session.Plan, lock *os.File) (*Started, *os.File, error) {
	log, err := os.OpenFile(plan.Dir.DaemonLog(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644) //nolint:gosec // everybody may read logs, as openYuanrong's
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = log.Close() }()
	starter, theirs, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = theirs.Close() }()
	// What this command inherited from its caller (a script's pipe, say) must not
	// live on in the daemon.
	if err := unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		_ = starter.Close()
		return nil, nil, fmt.Errorf("close inherited descriptors: %w", err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"yr", "supervise", "--keep", "lock=3", "--keep", "starter=4",
		"--", "yr", "daemon", plan.Dir.Plan()}
	cmd.Dir = plan.Dir.Path
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{lock, theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		_ = starter.Close()
		return nil, nil, fmt.Errorf("start the daemon: %w", err)
	}
	_ = sign(lock, cmd.Process.Pid, plan.Dir) // for people only
	s := &Started{parent: cmd.Process, ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		if cmd.Wait() != nil {
			s.status = 1
		}
	}()
	return s, starter, nil
}

// await reads the daemon's greeting. It owns and closes starter.
func (s *Started) await(ctx context.Context, starter *os.File) (*session.Greeting, error) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	read := make(chan *session.Greeting, 1)
	go func() {
		defer close(read)
		line, err := bufio.NewReader(starter).ReadBytes('\n')
		g := &session.Greeting{}
		if err == nil && json.Unmarshal(line, g) == nil {
			read <- g
		}
	}()
	defer func() { _ = starter.Close() }()
	select {
	case g, ok := <-read:
		switch {
		case !ok:
			return nil, yr.E("start", yr.Internal, "the daemon ended before it was ready")
		case !g.Ready:
			return nil, &yr.Error{Op: "start", Code: g.Code, Msg: g.Error}
		}
		return g, nil
	case <-ctx.Done():
		return nil, yr.E("start", yr.Internal, "the daemon was not ready within %v", readyTimeout)
	}
}

// Stop ends the session and waits for it.
func (s *Started) Stop() {
	_ = s.parent.Signal(unix.SIGTERM)
	<-s.ended
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
