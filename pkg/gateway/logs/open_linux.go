package logs

import (
	"os"

	"golang.org/x/sys/unix"

	"yr/pkg/yr"
)

// openRegular opens a file that is neither a link nor a pipe: user code may
// write to the directory, and what it leaves there must not lead elsewhere.
func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = yr.E("read log", yr.DiskFailed, "%s is not a regular file", path)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
