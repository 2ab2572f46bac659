// Package python carries the Python SDK inside the yr binary, so that a node's
// workers always run the SDK that their daemon was built with.
package python

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// What the Python programs of the source tree leave behind (__pycache__) may be
// embedded too; it is never extracted.
//
//go:embed all:yr
var embedded embed.FS

// Extract puts the SDK into a directory below dir that is named by the SDK's
// content, and returns that directory: the one to put on PYTHONPATH. It is kept
// for the next daemon, together with the byte code that Python caches in it.
//
// The directory appears whole or not at all, whoever else extracts or is killed
// meanwhile. One that another user owns or may write to is refused, and one whose
// content differs is replaced: what lies there is code that workers run.
func Extract(dir string) (string, error) {
	sources, err := read(embedded)
	if err != nil {
		return "", fmt.Errorf("read the embedded SDK: %w", err)
	}
	target := filepath.Join(dir, sources.hash())
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // workers of other users read it
		return "", fmt.Errorf("extract the SDK: %w", err)
	}
	if sources.areAt(target) {
		return target, ours(target)
	}
	fresh, err := os.MkdirTemp(dir, ".sdk-")
	if err != nil {
		return "", fmt.Errorf("extract the SDK: %w", err)
	}
	defer os.RemoveAll(fresh)
	if err := sources.write(fresh); err != nil {
		return "", fmt.Errorf("extract the SDK: %w", err)
	}
	if err := put(fresh, target, sources); err != nil {
		return "", fmt.Errorf("extract the SDK: %w", err)
	}
	return target, ours(target)
}

// put renames fresh to target. A complete target that somebody else put there
// first is as good; an incomplete one makes way.
func put(fresh, target string, want sources) error {
	if os.Rename(fresh, target) == nil || want.areAt(target) {
		return nil
	}
	if err := os.Rename(target, fresh+".old"); err != nil {
		return err
	}
	defer os.RemoveAll(fresh + ".old")
	return os.Rename(fresh, target)
}

// ours refuses a directory that somebody else could have filled, or could yet change.
func ours(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(stat.Uid) != os.Getuid() || !info.IsDir() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("directory %s (%v) is not this user's alone, and workers would run what lies there; "+
			"remove it or choose another --log-dir-prefix", dir, info.Mode())
	}
	return nil
}

// A source is one file of the SDK; path is relative, with slashes.
type source struct {
	path string
	body []byte
}

// sources are in the order of their paths.
type sources []source

func read(from fs.FS) (all sources, err error) {
	err = fs.WalkDir(from, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.Contains(path, "__pycache__") {
			return err
		}
		body, err := fs.ReadFile(from, path)
		all = append(all, source{path, body})
		return err
	})
	return all, err
}

// hash is the first 16 hexadecimal digits of SHA-256 over all paths and contents.
func (all sources) hash() string {
	h := sha256.New()
	for _, s := range all {
		fmt.Fprintf(h, "%s %d\n", s.path, len(s.body))
		h.Write(s.body)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

func (all sources) areAt(dir string) bool {
	for _, s := range all {
		body, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(s.path)))
		if err != nil || !bytes.Equal(body, s.body) {
			return false
		}
	}
	return true
}

func (all sources) write(dir string) error {
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // workers of other users read it
		return err
	}
	for _, s := range all {
		path := filepath.Join(dir, filepath.FromSlash(s.path))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // workers of other users read it
			return err
		}
		if err := os.WriteFile(path, s.body, 0o644); err != nil { //nolint:gosec // workers of other users read it
			return err
		}
	}
	return nil
}
