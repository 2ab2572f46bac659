// Package logs reads what workers printed: it finds the files of a worker and
// copies them, following them as they grow.
package logs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"yr/pkg/yr"
)

// Limits of one request.
const (
	// MaxTail is the most lines that can be asked for from the end of a file.
	MaxTail = 1_000_000
	// pollInterval is how often a followed file is looked at. Tests fake the time
	// with testing/synctest.
	pollInterval = 200 * time.Millisecond
	// maxLine is where a line without an end is cut when two files are followed.
	maxLine = 64 << 10

	block = 32 << 10
)

// Stream is one of the two files of a worker.
type Stream string

// The streams. Both is both, one after the other, or line by line when followed.
const (
	Out  Stream = "out"
	Err  Stream = "err"
	Both Stream = ""
)

// Request says what to read.
type Request struct {
	Worker string
	Stream Stream
	Tail   int  // only the last lines of each file; negative: all
	Follow bool // go on as the files grow
}

// Reader reads the logs below one directory.
type Reader struct {
	Dir string
	// Alive says whether a worker may still print. A followed log ends when it
	// does not, after what was printed last. nil: for ever.
	Alive func(worker string) bool
}

// Exists reports whether a worker has left a log.
func (r Reader) Exists(worker string) bool {
	for _, s := range []Stream{Out, Err} {
		path, err := r.path(worker, s)
		if err != nil {
			return false
		}
		if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() {
			return true
		}
	}
	return false
}

// Copy writes a worker's logs to w until their end, or until ctx ends if they
// are followed. flush is called whenever everything that there is was written.
func (r Reader) Copy(ctx context.Context, w io.Writer, req Request, flush func()) error {
	streams := []Stream{Out, Err}
	if req.Stream != Both {
		streams = []Stream{req.Stream}
	}
	followers := make([]*follower, len(streams))
	for i, s := range streams {
		path, err := r.path(req.Worker, s)
		if err != nil {
			return err
		}
		followers[i] = &follower{path: path, tail: req.Tail, byLine: req.Follow && len(streams) > 1}
		defer followers[i].close()
	}
	for {
		// Asked before reading: what a worker printed before it ended is read after.
		alive := r.Alive == nil || r.Alive(req.Worker)
		for _, f := range followers {
			if err := f.copy(ctx, w, req.Follow && alive); err != nil {
				return err
			}
		}
		flush()
		if !req.Follow || !alive {
			return nil
		}
		t := time.NewTimer(pollInterval)
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
	}
}

// path is the file of a worker, of which nothing but an identifier is accepted.
func (r Reader) path(worker string, s Stream) (string, error) {
	if s != Out && s != Err {
		return "", yr.E("logs", yr.ParamInvalid, "?stream=%.40q is neither out nor err", string(s))
	}
	if !validWorker(worker) {
		return "", yr.E("logs", yr.ParamInvalid, "%.80q is not the id of a worker", worker)
	}
	return filepath.Join(r.Dir, "runtime-"+worker+"."+string(s)), nil
}

// validWorker accepts what an identifier may hold: letters, digits, '-', '_'.
func validWorker(id string) bool {
	const valid = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
	return id != "" && len(id) <= 128 && strings.Trim(id, valid) == ""
}

// follower copies one file as it grows. A file that does not exist yet is empty;
// one that has become shorter was rolled, and is read from its beginning.
type follower struct {
	path   string
	tail   int
	byLine bool // write whole lines only, so that two files can be mixed

	file    *os.File
	offset  int64
	pending []byte // of an unfinished line
}

func (f *follower) close() {
	if f.file != nil {
		_ = f.file.Close()
	}
}

func (f *follower) copy(ctx context.Context, w io.Writer, more bool) error {
	if err := f.open(); err != nil || f.file == nil {
		return err
	}
	if err := f.rewindIfRolled(); err != nil {
		return err
	}
	buf := make([]byte, block)
	for ctx.Err() == nil {
		n, err := f.file.Read(buf)
		f.offset += int64(n)
		if werr := f.write(w, buf[:n]); werr != nil {
			return werr
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return yr.Wrap("read log", yr.DiskFailed, err)
		}
	}
	if !more && len(f.pending) > 0 {
		_, err := w.Write(f.pending)
		f.pending = nil
		return err
	}
	return ctx.Err()
}

func (f *follower) open() error {
	if f.file != nil {
		return nil
	}
	file, err := openRegular(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		f.tail = -1 // whatever comes later is new
		return nil
	}
	if err != nil {
		return yr.Wrap("read log", yr.DiskFailed, err)
	}
	f.file = file
	if f.tail < 0 {
		return nil
	}
	f.offset, err = seekTail(file, f.tail)
	return err
}

// rewindIfRolled starts anew when the path names another file, or a shorter one.
func (f *follower) rewindIfRolled() error {
	now, err := os.Lstat(f.path)
	if err != nil {
		return nil //nolint:nilerr // removed: what is open is read to its end
	}
	open, err := f.file.Stat()
	if err != nil {
		return yr.Wrap("read log", yr.DiskFailed, err)
	}
	if os.SameFile(now, open) && now.Size() >= f.offset {
		return nil
	}
	f.close()
	f.file, f.offset, f.tail = nil, 0, -1
	return f.open()
}

func (f *follower) write(w io.Writer, p []byte) error {
	if !f.byLine {
		_, err := w.Write(p)
		return err
	}
	f.pending = append(f.pending, p...)
	end := bytes.LastIndexByte(f.pending, '\n') + 1
	if end == 0 && len(f.pending) > maxLine {
		end = len(f.pending)
	}
	if end == 0 {
		return nil
	}
	if _, err := w.Write(f.pending[:end]); err != nil {
		return err
	}
	f.pending = append(f.pending[:0], f.pending[end:]...)
	return nil
}

// seekTail positions a file at the beginning of its last n lines.
func seekTail(file *os.File, n int) (int64, error) {
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return size, err
	}
	at := size
	buf := make([]byte, block)
	for at > 0 {
		from := max(0, at-block)
		part := buf[:at-from]
		if _, err := file.ReadAt(part, from); err != nil && !errors.Is(err, io.EOF) {
			return 0, yr.Wrap("read log", yr.DiskFailed, err)
		}
		for i := len(part) - 1; i >= 0; i-- {
			// The end of the last line does not begin another one.
			if part[i] != '\n' || from+int64(i) == size-1 {
				continue
			}
			if n--; n == 0 {
				return file.Seek(from+int64(i)+1, io.SeekStart)
			}
		}
		at = from
	}
	return file.Seek(0, io.SeekStart)
}
