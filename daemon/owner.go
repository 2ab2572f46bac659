package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Why a daemon ends.
var (
	errOwnerGone  = errors.New("the process that owns this cluster has ended")
	errParentGone = errors.New("the parent process has died")
	errAsked      = errors.New("asked to stop")
)

// ended returns a context that ends when the daemon must: it was asked to, its
// parent died, or the owner of a temporary cluster did.
func (d *Daemon) ended(asked context.Context) context.Context {
	ctx, end := context.WithCancelCause(context.Background())
	owner, err := d.watchOwner()
	if err != nil {
		end(err)
	}
	go func() {
		select {
		case <-asked.Done():
			end(errAsked)
		case <-d.child.ParentGone():
			end(errParentGone)
		case <-owner:
			end(errOwnerGone)
		case <-d.done:
			end(nil)
		}
	}()
	return ctx
}

// watchOwner returns a channel that is closed when the owner has ended, nil
// without an owner. The parent keeps the pidfd, so that a restarted daemon does
// not take a recycled PID for its owner.
func (d *Daemon) watchOwner() (<-chan struct{}, error) {
	pid := d.plan.OwnerPID
	if pid == 0 {
		return nil, nil
	}
	f, ok := d.child.File("owner")
	if !ok {
		fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
		if err != nil {
			return nil, fmt.Errorf("%w (pid %d: %w)", errOwnerGone, pid, err)
		}
		f = os.NewFile(uintptr(fd), "owner")
		if err := d.child.Keep("owner", f); err != nil {
			_ = f.Close()
			return nil, err
		}
	}
	raw, err := f.SyscallConn()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	d.closers = append(d.closers, closer{"owner", func(context.Context) error { return f.Close() }})
	gone := make(chan struct{})
	d.running.Go(func() {
		if raw.Read(hasEnded) == nil { // an error says that the file was closed
			close(gone)
		}
	})
	return gone, nil
}

// hasEnded reports whether the process behind a pidfd has ended.
func hasEnded(pidfd uintptr) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0) //nolint:gosec // a descriptor
	return n > 0 || err != nil && err != unix.EINTR
}
