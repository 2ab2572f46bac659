package logs_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"yr/pkg/gateway/logs"
	"yr/pkg/yr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	_, err = f.WriteString(text)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

func read(t *testing.T, r logs.Reader, req logs.Request) string {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, r.Copy(t.Context(), &out, req, func() {}))
	return out.String()
}

func TestReadWhole(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "runtime-w1.out", "one\ntwo\n")
	write(t, dir, "runtime-w1.err", "oops\x00\xff")
	r := logs.Reader{Dir: dir}
	require.Equal(t, "one\ntwo\noops\x00\xff", read(t, r, logs.Request{Worker: "w1", Tail: -1}), "bytes are kept")
	require.Equal(t, "one\ntwo\n", read(t, r, logs.Request{Worker: "w1", Stream: logs.Out, Tail: -1}))
	require.Equal(t, "oops\x00\xff", read(t, r, logs.Request{Worker: "w1", Stream: logs.Err, Tail: -1}))
	require.Empty(t, read(t, r, logs.Request{Worker: "w2", Tail: -1}), "a worker that printed nothing")
	require.True(t, r.Exists("w1"))
	require.False(t, r.Exists("w2"))
}

func TestTail(t *testing.T) {
	for _, row := range []struct {
		name, text string
		tail       int
		want       string
	}{
		{"none", "a\nb\n", 0, ""},
		{"last", "a\nb\n", 1, "b\n"},
		{"last without an end", "a\nb", 1, "b"},
		{"all", "a\nb\n", 2, "a\nb\n"},
		{"more than there is", "a\nb\n", 9, "a\nb\n"},
		{"empty lines count", "a\n\n\n", 2, "\n\n"},
		{"empty file", "", 5, ""},
		{"over blocks", strings.Repeat("x", 100_000) + "\n" + strings.Repeat("y", 100_000) + "\n", 1, strings.Repeat("y", 100_000) + "\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "runtime-w.out", row.text)
			require.Equal(t, row.want, read(t, logs.Reader{Dir: dir}, logs.Request{Worker: "w", Tail: row.tail}))
		})
	}
}

func TestTailAgainstSplitting(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	dir := t.TempDir()
	var text strings.Builder
	for range 20_000 {
		text.WriteString(strings.Repeat("z", random.IntN(20)) + "\n")
	}
	write(t, dir, "runtime-w.out", text.String())
	lines := strings.SplitAfter(strings.TrimSuffix(text.String(), "\n"), "\n")
	for range 50 {
		n := 1 + random.IntN(len(lines)+10)
		want := strings.Join(lines[max(0, len(lines)-n):], "") + "\n"
		require.Equal(t, want, read(t, logs.Reader{Dir: dir}, logs.Request{Worker: "w", Tail: n}), "tail %d", n)
	}
}

func TestNothingButAWorkerIsOpened(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	require.NoError(t, os.WriteFile(secret, []byte("secret"), 0o600))
	logDir := filepath.Join(dir, "logs")
	require.NoError(t, os.Mkdir(logDir, 0o700))
	r := logs.Reader{Dir: logDir}
	for _, id := range []string{"", ".", "..", "../secret", "/etc/passwd", "x/../../secret", "a\x00b", "ä", strings.Repeat("x", 129), "*", "%2e%2e"} {
		err := r.Copy(t.Context(), &bytes.Buffer{}, logs.Request{Worker: id}, func() {})
		require.Equal(t, yr.ParamInvalid, yr.CodeOf(err), "%q", id)
		require.False(t, r.Exists(id))
	}
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(r.Copy(t.Context(), nil, logs.Request{Worker: "w", Stream: "x"}, nil)))

	// User code can write to the directory; what it links to stays closed.
	require.NoError(t, os.Symlink(secret, filepath.Join(logDir, "runtime-w.out")))
	require.False(t, r.Exists("w"))
	var out bytes.Buffer
	require.Error(t, r.Copy(t.Context(), &out, logs.Request{Worker: "w", Tail: -1}, func() {}))
	require.Empty(t, out.String())
	require.NoError(t, os.Mkdir(filepath.Join(logDir, "runtime-d.out"), 0o700))
	require.Error(t, r.Copy(t.Context(), &out, logs.Request{Worker: "d", Tail: -1}, func() {}))
}

// The tests below run in a bubble with faked time: synctest.Wait returns when the
// reader has copied all and sleeps until its next look.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		var alive atomic.Bool
		alive.Store(true)
		var out bytes.Buffer
		r := logs.Reader{Dir: dir, Alive: func(string) bool { return alive.Load() }}
		done := make(chan error)
		go func() {
			done <- r.Copy(t.Context(), &out, logs.Request{Worker: "w", Tail: 1, Follow: true}, func() {})
		}()
		look := func() string {
			time.Sleep(time.Second)
			synctest.Wait()
			s := out.String()
			out.Reset()
			return s
		}
		require.Empty(t, look(), "the worker has printed nothing yet")
		write(t, dir, "runtime-w.out", "one\ntwo\nthr")
		write(t, dir, "runtime-w.err", "bad")
		require.Equal(t, "one\ntwo\n", look(), "a file that appears is read from its start, by whole lines")
		write(t, dir, "runtime-w.out", "ee\n")
		write(t, dir, "runtime-w.err", " thing\n")
		require.Equal(t, "three\nbad thing\n", look())

		require.NoError(t, os.Rename(filepath.Join(dir, "runtime-w.out"), filepath.Join(dir, "runtime-w-old.out")))
		write(t, dir, "runtime-w.out", "rolled\n")
		require.Equal(t, "rolled\n", look())
		require.NoError(t, os.Truncate(filepath.Join(dir, "runtime-w.err"), 0))
		write(t, dir, "runtime-w.err", "short\n")
		require.Equal(t, "short\n", look())

		write(t, dir, "runtime-w.err", "last words")
		alive.Store(false)
		require.NoError(t, <-done, "the log of a worker that has ended ends")
		require.Equal(t, "last words", out.String())
	})
}

func TestFollowEndsWhenTheReaderGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- logs.Reader{Dir: t.TempDir()}.Copy(ctx, &bytes.Buffer{}, logs.Request{Worker: "w", Follow: true}, func() {})
		}()
		time.Sleep(time.Hour)
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
	})
}

type brokenWriter struct{}

var errGone = errors.New("gone")

func (brokenWriter) Write([]byte) (int, error) { return 0, errGone }

func TestAWriterThatFailsEndsTheCopy(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "runtime-w.out", "x\n")
	for _, follow := range []bool{false, true} {
		err := logs.Reader{Dir: dir}.Copy(t.Context(), brokenWriter{}, logs.Request{Worker: "w", Tail: -1, Follow: follow}, func() {})
		require.ErrorIs(t, err, errGone)
	}
}

func FuzzWorkerID(f *testing.F) {
	for _, s := range []string{"../x", "w", "runtime", "a/b", ".", "\x00"} {
		f.Add(s)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, id string) {
		var out bytes.Buffer
		err := logs.Reader{Dir: dir}.Copy(t.Context(), &out, logs.Request{Worker: id, Tail: -1}, func() {})
		require.Empty(t, out.String())
		if strings.ContainsAny(id, "/.\x00") && err == nil {
			t.Fatalf("%q was accepted", id)
		}
	})
}
