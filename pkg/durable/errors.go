package durable

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"yr/pkg/yr"
)

// The errors of a Store, to be tested with errors.Is. After every one but
// ErrUnknown the transaction was not and will not be applied.
var (
	// ErrUnknown: the transaction was sent and its answer did not come in time. It
	// may have been applied, or still be applied, or not. Read to find out.
	ErrUnknown = yr.E("records", yr.Communication, "the outcome is unknown: no answer came from a majority in time")
	// ErrUnavailable: no leader answered in time, or the caller gave up before; nothing
	// was done.
	ErrUnavailable = yr.E("records", yr.InitConnection, "no leader is known; nothing was done")
	// ErrNotLeader: this voter does not lead; nothing was done. See NotLeaderError.
	ErrNotLeader = yr.E("records", yr.Communication, "this voter does not lead; nothing was done")
	// ErrLimit: the request is malformed or exceeds one of the limits.
	ErrLimit = yr.E("records", yr.ParamInvalid, "the request exceeds a limit")
	// ErrCompacted: the history after the given revision is gone; read the range again.
	ErrCompacted = yr.E("records", yr.ParamInvalid, "history begins later than the requested revision; read the range and watch after its revision")
	// ErrLeaseGone: the lease has ended, or never existed.
	ErrLeaseGone = yr.E("records", yr.ObjectNotFound, "the lease has ended")
	// ErrCorrupt: stored bytes are not what was written, on every voter that could be asked.
	ErrCorrupt = yr.E("records", yr.DiskFailed, "stored bytes are corrupt")
	// ErrFailed: this voter's disk refused a write or ran full. It has stopped; the
	// others go on. Close it, repair the disk, Open it again.
	ErrFailed = yr.E("records", yr.DiskFailed, "this voter has stopped")
	// ErrClosed: the Store was closed.
	ErrClosed = yr.E("records", yr.Finalized, "the store is closed")
	// ErrFormat: bytes in the log, a snapshot or a backup are of another version or none of ours.
	ErrFormat = yr.E("records", yr.VersionMismatch, "unknown format")
)

// errForgotten: a request may be a retry of one whose answer is remembered no more.
var errForgotten = &yr.Error{Op: "records", Code: yr.Communication, Msg: "too many requests were answered since", Err: ErrUnknown}

// NotLeaderError is the ErrNotLeader that says who leads; Leader is "" if nobody is known to.
type NotLeaderError struct{ Leader string }

func (e *NotLeaderError) Error() string {
	if e.Leader == "" {
		return "records: this voter does not lead and knows no leader; nothing was done"
	}
	return fmt.Sprintf("records: this voter does not lead, %s does; nothing was done", e.Leader)
}

// Unwrap makes it an ErrNotLeader, with its public code.
func (e *NotLeaderError) Unwrap() error { return ErrNotLeader }

// detail is a sentinel with what is special about this case.
func detail(sentinel *yr.Error, format string, args ...any) error {
	return &yr.Error{Op: sentinel.Op, Code: sentinel.Code, Msg: fmt.Sprintf(format, args...), Err: sentinel}
}

func limit(format string, args ...any) error { return detail(ErrLimit, format, args...) }

// refused is the error of a request that was given up before anything was done.
func refused(ctx context.Context) error {
	code := yr.DeadlineExceeded
	if errors.Is(ctx.Err(), context.Canceled) {
		code = yr.Interrupted
	}
	return &yr.Error{Op: "records", Code: code, Msg: "given up before anything was done", Err: errors.Join(ErrUnavailable, ctx.Err())}
}

// diskError gives a failure of the disk its public code.
func diskError(op string, err error) error {
	code := yr.DiskFailed
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		code = yr.DiskFull
	}
	return &yr.Error{Op: op, Code: code, Err: err}
}

func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
