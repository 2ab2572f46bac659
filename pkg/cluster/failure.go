package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/sys/unix"

	"yr/pkg/yr"
)

// etcd needs two log segments and its database before it can start.
const minFreeBytes = 2*walSegmentBytes + (4 << 20)

// preflight finds what would make etcd exit or hang: a directory that cannot be
// written, a full disk, a database that another process holds or that is broken.
func (m *Member) preflight() error {
	dir := m.options.Dir
	if dir == "" {
		return yr.E("start etcd", yr.ParamInvalid, "no directory is configured; set values.data_dir")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return m.broken(err)
	}
	if err := unix.Access(dir, unix.R_OK|unix.W_OK|unix.X_OK); err != nil {
		return m.broken(fmt.Errorf("%s: %w", dir, err))
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err != nil {
		return m.broken(err)
	}
	database := filepath.Join(dir, "member", "snap", "db")
	if _, err := os.Stat(database); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			return m.broken(err)
		}
		if free := disk.Bavail * uint64(disk.Bsize); free < minFreeBytes { //nolint:gosec // a block size is positive
			return m.broken(fmt.Errorf("%d MiB are free, %d MiB are needed: %w", free>>20, minFreeBytes>>20, syscall.ENOSPC))
		}
		return nil
	}
	// Timeout is not zero, which would wait for ever, and too short to wait.
	db, err := bbolt.Open(database, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Millisecond})
	if err != nil {
		return m.broken(err)
	}
	return db.Close()
}

// broken gives an error of etcd's directory a public code and says what to do.
func (m *Member) broken(err error) error {
	dir := m.options.Dir
	fail := func(code yr.Code, format string, args ...any) error {
		return &yr.Error{Op: "start etcd", Code: code, Msg: fmt.Sprintf(format, args...), Err: err}
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fail(yr.DiskFull, "no space for the registry in %s; free some, or point values.data_dir at another disk", dir)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return fail(yr.DiskFailed, "%s cannot be written; give it to this user, or point values.data_dir elsewhere", dir)
	case errors.Is(err, bolterrors.ErrTimeout), errors.Is(err, syscall.EWOULDBLOCK):
		return fail(yr.AlreadyRunning, "%s belongs to a live daemon; stop it with `yr stop`, or use another values.data_dir", dir)
	case errors.Is(err, syscall.ENOTDIR):
		return fail(yr.ParamInvalid, "%s is not a directory; point values.data_dir elsewhere", dir)
	default:
		return fail(yr.DiskFailed, "the registry in %s is broken; restore a copy of it, or move it away to start with an empty one (named instances and cluster settings are then forgotten)", dir)
	}
}

// startError gives an error of etcd's start a public code: it may be about the
// network, or, if there were no files yet, about what the other masters say.
func (m *Member) startError(p plan, err error) error {
	const op = "start etcd"
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return &yr.Error{Op: op, Code: yr.AlreadyRunning, Err: err, Msg: "another process listens at this master's peer address; stop it, or choose another peer_port in values.etcd.address"}
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return &yr.Error{Op: op, Code: yr.ParamInvalid, Err: err, Msg: "this master's peer address is not of this machine; correct values.host_ip or values.etcd.address"}
	}
	broken := m.broken(err)
	if p.several && p.fresh && yr.CodeOf(broken) == yr.DiskFailed && !errors.Is(err, fs.ErrPermission) {
		return &yr.Error{Op: op, Code: yr.Communication, Err: err, Msg: "this master could not begin with the others"}
	}
	return broken
}

// ErrRemoved is why a member fails that the others have removed.
var ErrRemoved = yr.E("etcd", yr.ParamInvalid,
	"this master was removed from the cluster; to let it come back, move its etcd directory away and start it again as a new one")

// ErrNoQuorum is inside the error of a request for which no majority of the
// masters could be found. The cluster goes on by itself once one is back.
var ErrNoQuorum = errors.New("no majority of the masters answers")

// fail records why etcd gives up; only the first reason counts.
func (m *Member) fail(cause error) {
	m.failOnce.Do(func() {
		m.failure = cause
		if typed := (*yr.Error)(nil); !errors.As(cause, &typed) {
			m.failure = m.broken(cause)
		}
		close(m.failed)
		m.end()
	})
}

// requestError gives an error of a request a public code.
func (m *Member) requestError(op string, err error) error {
	if failed := m.Err(); failed != nil {
		return failed
	}
	if errors.Is(err, rpctypes.ErrNoSpace) {
		return &yr.Error{Op: op, Code: yr.DiskFull, Err: err,
			Msg: fmt.Sprintf("the registry has reached its quota of %d MiB; raise etcd.args.quota-backend-bytes", m.options.QuotaBytes>>20)}
	}
	if e := m.engine.Load(); e == nil || !e.plan.several || !unanswered(err) {
		return requestError(op, err)
	}
	missing := m.prober.missing()
	switch {
	case len(missing) > 0 && len(missing) > len(m.otherVoters())/2:
		return &yr.Error{Op: op, Code: yr.Communication, Msg: describe(missing) + " cannot be reached", Err: fmt.Errorf("%w: %w", ErrNoQuorum, err)}
	default:
		return &yr.Error{Op: op, Code: yr.Communication, Msg: "the masters have not agreed in time; they may be electing a leader", Err: err}
	}
}

// unanswered reports whether err may mean that a majority is missing.
func unanswered(err error) bool {
	for _, known := range []error{
		context.DeadlineExceeded, rpctypes.ErrTimeout, rpctypes.ErrNoLeader, rpctypes.ErrNotLeader, rpctypes.ErrLeaderChanged,
		rpctypes.ErrTimeoutDueToLeaderFail, rpctypes.ErrTimeoutDueToConnectionLost, rpctypes.ErrUnhealthy,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// requestError gives an error of an etcd client a public code.
func requestError(op string, err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrNoSpace):
		return &yr.Error{Op: op, Code: yr.DiskFull, Err: err, Msg: "the registry has reached its quota; raise it in the configuration of etcd"}
	case errors.Is(err, rpctypes.ErrRequestTooLarge):
		return &yr.Error{Op: op, Code: yr.ParamInvalid, Err: err, Msg: "the value is too large for the registry"}
	case errors.Is(err, rpctypes.ErrPermissionDenied), errors.Is(err, rpctypes.ErrAuthFailed), errors.Is(err, rpctypes.ErrUserEmpty), errors.Is(err, rpctypes.ErrInvalidAuthToken):
		return yr.Wrap(op, yr.Unauthorized, err)
	case errors.Is(err, context.Canceled):
		return yr.Wrap(op, yr.Interrupted, err)
	default:
		return yr.Wrap(op, yr.Communication, err)
	}
}

func errorOf(panicked any) error {
	if err, ok := panicked.(error); ok {
		return err
	}
	return fmt.Errorf("%v", panicked)
}
