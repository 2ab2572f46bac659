package cli

import (
	"cmp"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"yr/pkg/config"
	"yr/pkg/gateway/client"
	"yr/pkg/session"
	"yr/pkg/supervise"
	"yr/pkg/yr"
)

// Where says which daemon a command is about: that of a session on this machine,
// or one at an address.
type Where struct {
	Prefix string // --log-dir-prefix
	File   string // -f: a session.json; wins over Prefix

	Address   string         // host:port of any node; wins over both
	Token     string         // of the cluster, for Address; empty: of TokenFile, or of Config
	TokenFile string         // holds it
	Config    *config.Config // the token and the certificates of this machine
}

// Ask returns a client of the daemon. The caller closes it.
func (w Where) Ask() (*client.Client, error) {
	if w.Address == "" {
		f, err := w.FindAlive()
		if err != nil {
			return nil, err
		}
		return client.Unix(f.APISocket), nil
	}
	address, err := nodeAddress(w.Address)
	if err != nil {
		return nil, err
	}
	token := w.Token
	if token == "" && w.TokenFile != "" {
		if token, err = ReadToken(w.TokenFile); err != nil {
			return nil, err
		}
	}
	if w.Config == nil {
		return client.TCP(address, token), nil
	}
	s, err := w.Config.Settings()
	if err != nil {
		return nil, err
	}
	if token == "" {
		token = s.Token
	}
	if !s.TLS.Enabled {
		return client.TCP(address, token), nil
	}
	secure, err := clientTLS(s.TLS)
	if err != nil {
		return nil, err
	}
	return client.TLS(address, token, secure), nil
}

// ClusterToken is the token of the cluster that is asked, or a word in its place
// where this user may not read it.
func (w Where) ClusterToken() string {
	if w.Address != "" {
		return cmp.Or(w.Token, "TOKEN")
	}
	f, err := w.Find()
	if err != nil {
		return "TOKEN"
	}
	return readToken(f)
}

// nodeAddress reads --address, HOST[:PORT]. Every node answers on its bus port.
func nodeAddress(text string) (string, error) {
	if _, port, err := net.SplitHostPort(text); err == nil {
		if _, err := strconv.ParseUint(port, 10, 16); err == nil {
			return text, nil
		}
	}
	host := strings.Trim(text, "[]")
	if host == "" || strings.ContainsAny(host, "/ ") || (strings.Contains(host, ":") && net.ParseIP(host) == nil) {
		return "", yr.E("ask a node", yr.ParamInvalid, "--address %.80q is not HOST or HOST:PORT", text)
	}
	return net.JoinHostPort(host, strconv.Itoa(defaultBusPort)), nil
}

// defaultBusPort is where a node answers unless it was told otherwise.
const defaultBusPort = 22773

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
