package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"yr/pkg/session"
	"yr/pkg/yr"
)

// followInterval is how often a followed log is looked at; logs may lie on
// file systems that announce nothing.
const followInterval = 100 * time.Millisecond

// LogOptions say what to show.
type LogOptions struct {
	ID     string // an instance or worker; empty: the daemon
	Follow bool
	Tail   int // last lines of each file; 0: all
}

// Logs prints log files, and with Follow what is added to them until ctx ends.
func Logs(ctx context.Context, f *session.File, opt LogOptions, out *Output) error {
	files, err := logFiles(ctx, f, opt.ID)
	if err != nil {
		return err
	}
	readers := make([]*logReader, len(files))
	for i, path := range files {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }()
		prefix := ""
		if len(files) > 1 {
			prefix = strings.TrimPrefix(filepath.Ext(path), ".") + " | "
		}
		readers[i] = &logReader{file: file, prefix: prefix}
		if err := readers[i].tail(opt.Tail); err != nil {
			return err
		}
	}
	tick := time.NewTicker(followInterval)
	defer tick.Stop()
	for {
		for _, r := range readers {
			if err := r.copyLines(out.Out, !opt.Follow); err != nil {
				return err
			}
		}
		if !opt.Follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// logFiles finds the files of an ID. The log of an instance is its worker's, so
// the daemon is asked which worker that is, if it lives.
func logFiles(ctx context.Context, f *session.File, id string) ([]string, error) {
	if id == "" {
		return daemonLogs(f)
	}
	names := []string{id}
	if f.Alive() {
		names = append(names, workersOf(ctx, f, id)...)
	}
	var files []string
	for _, name := range names {
		for _, pattern := range []string{"runtime-" + name + ".out", "runtime-" + name + ".err", "runtime-" + name + ".log"} {
			for _, path := range []string{filepath.Join(f.Dir.Logs(), pattern)} {
				if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
					files = append(files, path)
				}
			}
		}
	}
	if len(files) == 0 {
		return nil, yr.E("logs", yr.InstanceNotFound, "nothing called %s has written a log in %s; `yr list workers` shows the IDs", id, f.Dir.Logs())
	}
	return files, nil
}

// workersOf asks which worker hosts an instance; none if it is not known.
func workersOf(ctx context.Context, f *session.File, id string) []string {
	var hosts []struct {
		ID     string `json:"id"`
		Worker string `json:"worker"`
	}
	if NewAPI(f).Get(ctx, "/yr/v1/instances", &hosts) != nil {
		return nil
	}
	var names []string
	for _, h := range hosts {
		if h.ID == id && h.Worker != "" && h.Worker != id {
			names = append(names, h.Worker)
		}
	}
	return names
}

func daemonLogs(f *session.File) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(f.Dir.Logs(), "*.log"))
	sort.Strings(files)
	if err == nil && len(files) == 0 {
		err = fs.ErrNotExist
	}
	return files, err
}

// logReader prints whole lines of a growing file.
type logReader struct {
	file    *os.File
	prefix  string
	partial []byte
}

// tail moves the reader to the last n lines.
func (r *logReader) tail(n int) error {
	if n <= 0 {
		return nil
	}
	end, err := r.file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	const block = 64 << 10
	var seen []byte
	at := end
	for at > 0 && bytes.Count(seen, []byte("\n")) <= n {
		step := min(block, at)
		at -= step
		part := make([]byte, step)
		if _, err := r.file.ReadAt(part, at); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		seen = append(part, seen...)
	}
	lines := bytes.SplitAfter(seen, []byte("\n"))
	if len(lines[len(lines)-1]) == 0 {
		lines = lines[:len(lines)-1]
	}
	skip := 0
	for _, l := range lines[:max(0, len(lines)-n)] {
		skip += len(l)
	}
	_, err = r.file.Seek(at+int64(skip), io.SeekStart)
	return err
}

// copyLines prints what has been added; flush also prints an unfinished line.
func (r *logReader) copyLines(w io.Writer, flush bool) error {
	br := bufio.NewReader(r.file)
	for {
		text, err := br.ReadBytes('\n')
		r.partial = append(r.partial, text...)
		if err != nil {
			break
		}
		if _, err := fmt.Fprintf(w, "%s%s", r.prefix, r.partial); err != nil {
			return err
		}
		r.partial = r.partial[:0]
	}
	if flush && len(r.partial) > 0 {
		_, err := fmt.Fprintf(w, "%s%s\n", r.prefix, r.partial)
		return err
	}
	return nil
}
