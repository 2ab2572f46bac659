package store

// What the kernel does for the store: sealed anonymous files, read-only
// descriptors of them, and their pages given back.

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// seals: nobody can change the size, or a truncate by a client would be a SIGBUS
// in everyone who reads; and nobody can add or lift a seal.
const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

// newMemfd makes a sealed segment of size bytes without pages. It takes about
// 15 us and is independent of /dev/shm and its limit.
func newMemfd(name string, size uint64) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "memfd:"+name)
	if err := seal(f, size); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func seal(f *os.File, size uint64) error {
	if err := f.Truncate(int64(size)); err != nil { //nolint:gosec // a segment is below 2^63
		return err
	}
	// With mode 0400 a client of the same user cannot turn the read-only
	// descriptor that it was given into a writable one by way of /proc.
	if err := f.Chmod(0o400); err != nil {
		return err
	}
	_, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals)
	return os.NewSyscallError("fcntl F_ADD_SEALS", err)
}

// verifySealed checks that f is what newMemfd made.
func verifySealed(f *os.File, size uint64) error {
	got, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if err != nil {
		return os.NewSyscallError("fcntl F_GET_SEALS", err)
	}
	if got&seals != seals {
		return fmt.Errorf("seals are %#x, want %#x: not a segment", got, seals)
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() != int64(size) { //nolint:gosec // as above
		return fmt.Errorf("%d bytes long, its name says %d", info.Size(), size)
	}
	return nil
}

// writable returns another descriptor of the same open file.
func writable(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	runtime.KeepAlive(f)
	if err != nil {
		return nil, os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// readOnly opens the file anew: a descriptor that is dup'ed shares the mode of the
// first one and could be mapped for writing, this one cannot.
func readOnly(f *os.File) (*os.File, error) {
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	runtime.KeepAlive(f)
	if err != nil {
		return nil, os.NewSyscallError("open read-only", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// punch gives the pages of a range back to the system, also if it is mapped
// somewhere; they read as zeros from then on. About 30 us a megabyte.
func punch(f *os.File, offset, length uint64) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(offset), int64(length)) //nolint:gosec // as above
	runtime.KeepAlive(f)
	return os.NewSyscallError("fallocate", err)
}

// resident is the number of bytes that f has pages for.
func resident(f *os.File) uint64 {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0 // closed meanwhile
	}
	runtime.KeepAlive(f)
	return uint64(st.Blocks) * 512 //nolint:gosec // never negative
}
