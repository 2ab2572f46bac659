package fault

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv("YR_FAULT_SUBJECT") != "" {
		subject()
		return
	}
	goleak.VerifyTestMain(m)
}

// subject is a process that a test does something to: it answers every line with its wall clock and what fsync says.
func subject() {
	began := time.Now()
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		file, err := os.CreateTemp("", "")
		if err == nil {
			err = errors.Join(file.Sync(), file.Close(), os.Remove(file.Name()))
		}
		fmt.Printf("%d %d %t\n", time.Now().Unix(), time.Since(began)/time.Second, err == nil)
	}
}

type witness struct {
	t   *testing.T
	pid int
	in  io.Writer
	out *bufio.Reader
}

func newWitness(t *testing.T) *witness {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "YR_FAULT_SUBJECT=1", "TMPDIR="+t.TempDir())
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	w := &witness{t: t, pid: cmd.Process.Pid, in: in, out: bufio.NewReader(out)}
	w.ask()
	return w
}

// ask returns how far its clock is off, its age and whether fsync worked.
func (w *witness) ask() (off, age time.Duration, synced bool) {
	w.t.Helper()
	_, err := io.WriteString(w.in, "\n")
	require.NoError(w.t, err)
	line, err := w.out.ReadString('\n')
	require.NoError(w.t, err)
	fields := strings.Fields(line)
	wall, err := strconv.ParseInt(fields[0], 10, 64)
	require.NoError(w.t, err)
	seconds, err := strconv.Atoi(fields[1])
	require.NoError(w.t, err)
	return time.Until(time.Unix(wall, 0)), time.Duration(seconds) * time.Second, fields[2] == "true"
}

func TestSetClock(t *testing.T) {
	w := newWitness(t)
	for _, by := range []time.Duration{24 * time.Hour, -10 * 365 * 24 * time.Hour, 0} {
		require.NoError(t, SetClock(w.pid, by))
		off, age, _ := w.ask()
		require.InDelta(t, by.Seconds(), off.Seconds(), 3)
		require.Less(t, age, time.Minute, "the monotonic clock stays right")
	}
}

func TestFailSync(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip(err)
	}
	w := newWitness(t)
	stop, err := FailSync(w.pid)
	require.NoError(t, err)
	_, _, synced := w.ask()
	require.False(t, synced)
	stop()
	_, _, synced = w.ask()
	require.True(t, synced)
}

func TestDiskFillsUp(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "disk")
	disk, err := Mount(dir, 1<<20)
	if errors.Is(err, syscall.EPERM) {
		t.Skip(err)
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, disk.Unmount()) })
	note := filepath.Join(dir, "note")
	require.NoError(t, disk.Fill())
	require.ErrorIs(t, os.WriteFile(note, []byte("x"), 0o600), syscall.ENOSPC)
	require.NoError(t, disk.Free())
	require.NoError(t, os.WriteFile(note, []byte("x"), 0o600))
}

func TestScheduleRepeatsItself(t *testing.T) {
	happened := func(seed uint64) (names []string) {
		fault := func(name string) Fault {
			return Fault{Name: name, Begin: func() error { names = append(names, name); return nil },
				End: func() error { names = append(names, "no "+name); return nil }}
		}
		s := Schedule{Seed: seed, Count: 20, Menu: []Fault{fault("fire"), fault("flood"), fault("storm")}}
		events, err := s.Run(t.Context())
		require.NoError(t, err)
		require.Len(t, events, 20)
		return names
	}
	require.Equal(t, happened(7), happened(7))
	require.NotEqual(t, happened(7), happened(8))
}

func TestScheduleUndoesWhatFailed(t *testing.T) {
	undone := false
	s := Schedule{Count: 3, Menu: []Fault{{Name: "fire", Begin: func() error { return errors.New("wet matches") },
		End: func() error { undone = true; return nil }}}}
	events, err := s.Run(t.Context())
	require.ErrorContains(t, err, "fault fire: wet matches")
	require.Len(t, events, 1)
	require.True(t, undone)
}
