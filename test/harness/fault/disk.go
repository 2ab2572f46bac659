package fault

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Disk is a file system of its own that a test can fill up.
type Disk struct {
	dir     string
	ballast string
}

// Mount makes a disk of so many bytes at dir, in memory.
func Mount(dir string, bytes int64) (*Disk, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := unix.Mount("yr-test", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", bytes)); err != nil {
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	return &Disk{dir: dir, ballast: filepath.Join(dir, "ballast")}, nil
}

// Fill leaves no byte free.
func (d *Disk) Fill() error {
	file, err := os.Create(d.ballast)
	if err != nil {
		return err
	}
	chunk := make([]byte, 1<<20)
	for len(chunk) > 0 {
		if _, err = file.Write(chunk); err != nil {
			chunk = chunk[:len(chunk)/2] // to the last byte
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return errors.Join(err, file.Close())
	}
	return file.Close()
}

// Free ends a Fill.
func (d *Disk) Free() error { return os.Remove(d.ballast) }

// Unmount takes the disk off, also from under those who still use it.
func (d *Disk) Unmount() error { return unix.Unmount(d.dir, unix.MNT_DETACH) }

// FailSync has every fsync and fdatasync of a process fail with EIO until the
// returned function is called, or the process ends.
func FailSync(pid int) (stop func(), err error) {
	if _, err := exec.LookPath("strace"); err != nil {
		return nil, errors.New("failing fsync needs strace")
	}
	tracer := exec.Command("strace", "-f", "-p", fmt.Sprint(pid), "-o", "/dev/null",
		"-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO")
	says := &lines{}
	tracer.Stderr = says
	tracer.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := tracer.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = tracer.Wait()
	}()
	stop = sync.OnceFunc(func() {
		_ = tracer.Process.Signal(syscall.SIGTERM) // it lets go of the process
		<-ended
	})
	for deadline := time.Now().Add(5 * time.Second); !strings.Contains(says.String(), "attached"); time.Sleep(time.Millisecond) {
		select {
		case <-ended:
			return nil, fmt.Errorf("strace -p %d: %s", pid, says)
		default:
		}
		if time.Now().After(deadline) {
			stop()
			return nil, fmt.Errorf("strace -p %d: not attached: %s", pid, says)
		}
	}
	return stop, nil
}

// lines collects what a program says while it runs.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
