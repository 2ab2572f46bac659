package fault

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// clockGettime replaces the function of that name in a process's vDSO: it asks the
// kernel and adds its last eight bytes to the seconds of CLOCK_REALTIME. All other
// clocks stay right, as they do on a machine whose clock was set wrongly.
var clockGettime = []byte{
	0xb8, 228, 0, 0, 0, // mov eax, SYS_clock_gettime
	0x0f, 0x05, // syscall
	0x85, 0xc0, // test eax, eax
	0x75, 14, // jne end
	0x85, 0xff, // test edi, edi: CLOCK_REALTIME is 0
	0x75, 10, // jne end
	0x48, 0x8b, 0x0d, 10, 0, 0, 0, // mov rcx, [seconds]
	0x48, 0x01, 0x0e, // add [rsi], rcx
	0xc3,                               // end: ret
	0x90, 0x90, 0x90, 0x90, 0x90, 0x90, // to a multiple of eight
	0, 0, 0, 0, 0, 0, 0, 0, // seconds:
}

const secondsAt = 32

// SetClock makes the wall clock of a running process wrong by so many whole
// seconds, also once more with another number; 0 makes it right again. No library
// does this to a static binary, and time namespaces have no wall clock.
func SetClock(pid int, by time.Duration) error {
	memory, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("set the clock of %d: %w", pid, err)
	}
	defer memory.Close()
	v, err := findVDSO(pid, memory)
	if err != nil {
		return fmt.Errorf("set the clock of %d: %w", pid, err)
	}
	code := append([]byte(nil), clockGettime...)
	binary.LittleEndian.PutUint64(code[secondsAt:], uint64(by/time.Second)) //nolint:gosec // two's complement, as the addition is

	// Nobody may be in the middle of what is replaced.
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return err
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
	deadline := time.Now().Add(5 * time.Second)
	for inside := true; inside; {
		if inside, err = v.holdsThread(pid); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("set the clock of %d: it does not stop outside of the vDSO", pid)
		}
		if inside {
			_ = syscall.Kill(pid, syscall.SIGCONT)
			time.Sleep(time.Millisecond)
			_ = syscall.Kill(pid, syscall.SIGSTOP)
		}
	}
	_, err = memory.WriteAt(code, int64(v.function)) //nolint:gosec // addresses of user space
	return err
}

type vdso struct{ begin, end, function uint64 }

func findVDSO(pid int, memory *os.File) (vdso, error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return vdso{}, err
	}
	var v vdso
	for line := range strings.Lines(string(maps)) {
		if strings.HasSuffix(line, "[vdso]\n") {
			_, err = fmt.Sscanf(line, "%x-%x", &v.begin, &v.end)
		}
	}
	if err != nil || v.end == 0 {
		return v, fmt.Errorf("no vDSO: %w", err)
	}
	image := make([]byte, v.end-v.begin)
	if _, err := memory.ReadAt(image, int64(v.begin)); err != nil { //nolint:gosec // addresses of user space
		return v, err
	}
	file, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return v, err
	}
	symbols, err := file.DynamicSymbols()
	if err != nil {
		return v, err
	}
	for _, s := range symbols {
		if s.Name == "__vdso_clock_gettime" && s.Size >= uint64(len(clockGettime)) {
			v.function = v.begin + s.Value
			return v, nil
		}
	}
	return v, fmt.Errorf("the vDSO has no clock_gettime of %d bytes", len(clockGettime))
}

// holdsThread says whether a thread of a process that was told to stop still runs, or stopped in the vDSO.
func (v vdso) holdsThread(pid int) (bool, error) {
	places, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
	if err != nil || len(places) == 0 {
		return false, fmt.Errorf("process %d has ended", pid)
	}
	for _, place := range places {
		text, err := os.ReadFile(place)
		if err != nil {
			continue // the thread has ended
		}
		fields := strings.Fields(string(text))
		if len(fields) < 3 {
			return true, nil // "running"
		}
		at, err := strconv.ParseUint(strings.TrimPrefix(fields[len(fields)-1], "0x"), 16, 64)
		if err != nil {
			return false, err
		}
		if at >= v.begin && at < v.end {
			return true, nil
		}
	}
	return false, nil
}
