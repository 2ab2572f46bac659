package store

import (
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"yr/pkg/yr"
)

func openDisk(t *testing.T, opt DiskOptions) *Disk {
	t.Helper()
	fds := countFds(t)
	d := NewDisk(opt)
	require.NoError(t, d.Open(context.Background()))
	t.Cleanup(func() {
		require.NoError(t, d.Check())
		require.NoError(t, d.Close(context.Background()))
		goleak.VerifyNone(t)
		require.LessOrEqual(t, countFds(t), fds, "descriptors leaked")
	})
	return d
}

func section(b string) *io.SectionReader {
	return io.NewSectionReader(strings.NewReader(b), 0, int64(len(b)))
}

// noise is n bytes that look like nothing, the same for the same seed.
func noise(n int, seed uint64) string {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}) //nolint:gosec // a seed
	_, _ = r.Read(b)
	return string(b)
}

func spill(t require.TestingT, d *Disk, id yr.ID, b string, inside ...yr.ID) Spot {
	spot, err := d.Put(context.Background(), id, inside, section(b))
	require.NoError(t, err)
	require.Equal(t, uint64(len(b)), spot.Length)
	return spot
}

func restored(t require.TestingT, d *Disk, spot Spot) string {
	b := make([]byte, spot.Length)
	require.NoError(t, d.Get(context.Background(), spot, b))
	return string(b)
}

// swept waits until everything deleted was given back.
func (d *Disk) swept(t *testing.T) DiskStats {
	t.Helper()
	require.Eventually(t, func() bool {
		d.sweeping.Lock()
		defer d.sweeping.Unlock()
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.waste) == 0
	}, 5*time.Second, time.Millisecond)
	require.NoError(t, d.Check())
	return d.Stats()
}

// blocks is what the directory really takes.
func blocks(t *testing.T, dir string) uint64 {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var n uint64
	for _, e := range entries {
		var st unix.Stat_t
		require.NoError(t, unix.Stat(filepath.Join(dir, e.Name()), &st))
		n += uint64(st.Blocks) * 512 //nolint:gosec // never negative
	}
	return n
}

func TestSpilledBytesComeBack(t *testing.T) {
	d := openDisk(t, DiskOptions{Dir: t.TempDir(), FileSize: 8 * mib})
	spots := make(map[string]Spot)
	for k, n := range []int{1, 63, 4096 - 64, 64 * kib, mib, mib + 1, 2*mib - 1, 3 * mib, 9*mib + 5} {
		b := noise(n, uint64(k))
		spots[b] = spill(t, d, object(uint64(k)), b)
	}
	require.NoError(t, d.Check())
	for b, spot := range spots {
		require.True(t, b == restored(t, d, spot), "%d bytes", spot.Length)
	}
	code(t, yr.ParamInvalid, d.Get(context.Background(), spots[noise(1, 0)], nil))
	_, err := d.Put(context.Background(), object(1), nil, section(""))
	code(t, yr.ParamInvalid, err)
	st := d.Stats()
	require.Equal(t, len(spots), st.Blobs)
	require.Less(t, st.Files, len(spots), "small ones share files")
}

func TestDeletedSpaceIsGivenBack(t *testing.T) {
	dir := t.TempDir()
	d := openDisk(t, DiskOptions{Dir: dir, FileSize: 4 * mib})
	var spots []Spot
	for k := range uint64(40) {
		spots = append(spots, spill(t, d, object(k), noise(256*kib, k)))
	}
	full := d.Stats()
	require.Equal(t, uint64(40*256*kib), full.Live)
	for k, spot := range spots {
		if k%4 != 0 {
			d.Delete(spot)
			d.Delete(spot) // twice is once
		}
	}
	st := d.swept(t)
	require.Equal(t, 10, st.Blobs)
	require.Less(t, st.Used, full.Used/2, "blocks of single objects")
	require.LessOrEqual(t, blocks(t, dir), st.Used+64*kib)
	for k := range spots {
		if k%4 == 0 {
			require.True(t, noise(256*kib, uint64(k)) == restored(t, d, spots[k]))
			d.Delete(spots[k])
		}
	}
	st = d.swept(t)
	require.Zero(t, st.Used)
	require.Zero(t, st.Files)
	d.Delete(Spot{})
	d.Delete(Spot{File: 1, Offset: 64, Length: 5})
}

func TestCorruptBytesAreNeverServed(t *testing.T) {
	for _, c := range []struct {
		name    string
		corrupt func(path string, spot Spot) error
		text    string
	}{
		{"a bit", func(path string, spot Spot) error {
			return flip(path, int64(spot.Offset)+100)
		}, "sum"},
		{"cut short", func(path string, spot Spot) error {
			return os.Truncate(path, int64(spot.Offset)+1000)
		}, "too short"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := openDisk(t, DiskOptions{Dir: t.TempDir()})
			good, bad := spill(t, d, object(1), noise(100*kib, 1)), spill(t, d, object(2), noise(100*kib, 2))
			require.NoError(t, c.corrupt(d.path(bad.File), bad))
			err := d.Get(context.Background(), bad, make([]byte, bad.Length))
			code(t, yr.DiskFailed, err)
			require.ErrorIs(t, err, ErrCorrupt)
			require.ErrorContains(t, err, c.text)
			require.True(t, noise(100*kib, 1) == restored(t, d, good), "the other one is served")
		})
	}
}

func TestAFileThatIsGoneIsATypedError(t *testing.T) {
	dir := t.TempDir()
	d := NewDisk(DiskOptions{Dir: dir})
	require.NoError(t, d.Open(context.Background()))
	spot := spill(t, d, object(1), noise(5000, 1))
	require.NoError(t, os.RemoveAll(dir))
	code(t, yr.DiskFailed, d.Get(context.Background(), spot, make([]byte, spot.Length)))
	_, err := d.Put(context.Background(), object(2), nil, section(noise(100*mib, 2)))
	require.Error(t, err)
	require.Contains(t, []yr.Code{yr.DiskFailed, yr.DiskFull}, yr.CodeOf(err))
	require.ErrorContains(t, d.Check(), "no such file")
	require.NoError(t, d.Close(context.Background()))
}

func flip(path string, at int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		return err
	}
	b[0] ^= 0x10
	_, err = f.WriteAt(b[:], at)
	return err
}

func TestCapacityIsABound(t *testing.T) {
	d := openDisk(t, DiskOptions{Dir: t.TempDir(), Capacity: mib})
	a := spill(t, d, object(1), noise(600*kib, 1))
	_, err := d.Put(context.Background(), object(2), nil, section(noise(600*kib, 2)))
	code(t, yr.DiskFull, err)
	d.Delete(a)
	d.swept(t)
	spill(t, d, object(2), noise(600*kib, 2))
	require.LessOrEqual(t, d.Stats().Used, uint64(mib))
}

func TestTheLastRoomIsForSwaps(t *testing.T) {
	d := openDisk(t, DiskOptions{Dir: t.TempDir(), Capacity: 16 * mib})
	var spots []Spot
	for k := uint64(0); ; k++ {
		spot, err := d.Put(context.Background(), object(k), nil, section(noise(900*kib, k)))
		if err != nil {
			code(t, yr.DiskFull, err)
			break
		}
		spots = append(spots, spot)
	}
	require.False(t, d.Tight())
	spot, err := d.Swap(context.Background(), object(100), nil, section(noise(900*kib, 100)))
	require.NoError(t, err)
	require.True(t, d.Tight())
	require.LessOrEqual(t, d.Stats().Used, uint64(16*mib))
	_, err = d.Swap(context.Background(), object(101), nil, section(noise(2*mib, 101)))
	code(t, yr.DiskFull, err)
	d.Delete(spots[0])
	d.swept(t)
	require.False(t, d.Tight())
	require.True(t, noise(900*kib, 100) == restored(t, d, spot))
}

// TestAFullFileSystem runs on one of 4 MiB.
func TestAFullFileSystem(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("needs to mount a tmpfs: %v", err)
	}
	defer func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) }()
	t.Run("asked before", func(t *testing.T) {
		d := openDisk(t, DiskOptions{Dir: filepath.Join(dir, "a"), FileSize: mib})
		spots := []Spot{}
		for k := uint64(0); ; k++ {
			spot, err := d.Put(context.Background(), object(k), nil, section(noise(300*kib, k)))
			if err != nil {
				code(t, yr.DiskFull, err)
				break
			}
			spots = append(spots, spot)
		}
		require.Greater(t, len(spots), 9)
		require.LessOrEqual(t, d.Stats().Used, uint64(4*mib/20*19), "a twentieth is left to others")
		for k, spot := range spots {
			require.True(t, noise(300*kib, uint64(k)) == restored(t, d, spot))
			d.Delete(spot)
		}
		d.swept(t)
	})
	t.Run("found out while writing", func(t *testing.T) {
		d := openDisk(t, DiskOptions{Dir: filepath.Join(dir, "b"), Capacity: gib})
		kept := spill(t, d, object(1), noise(mib, 1))
		var wg sync.WaitGroup
		errs := make([]error, 6)
		for k := range errs { // each fits alone, all together do not
			wg.Go(func() {
				_, errs[k] = d.Put(context.Background(), object(uint64(k)), nil, section(noise(mib, uint64(k)))) //nolint:gosec // small
			})
		}
		wg.Wait()
		failed := 0
		for _, err := range errs {
			if err != nil {
				code(t, yr.DiskFull, err)
				failed++
			}
		}
		require.GreaterOrEqual(t, failed, 3)
		d.swept(t)
		require.True(t, noise(mib, 1) == restored(t, d, kept))
	})
}

func TestACancelledSpillLeavesNothing(t *testing.T) {
	d := openDisk(t, DiskOptions{Dir: t.TempDir()})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := d.Put(ctx, object(1), nil, section(noise(5000, 1)))
	code(t, yr.Finalized, err)
	require.Zero(t, d.swept(t).Used)
	spot := spill(t, d, object(1), noise(5000, 1))
	code(t, yr.Finalized, d.Get(ctx, spot, make([]byte, 5000)))
}

func TestSpilledBlobsSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	first := NewDisk(DiskOptions{Dir: dir, FileSize: mib})
	require.NoError(t, first.Open(context.Background()))
	many := make([]yr.ID, 300) // whose head is longer than a block
	for k := range many {
		many[k] = object(uint64(1000 + k))
	}
	for k := range uint64(10) {
		spill(t, first, object(k), noise(100*kib, k), object(100+k))
	}
	gone := spill(t, first, object(10), noise(100*kib, 10), many...)
	spill(t, first, object(11), noise(100*kib, 11), many...)
	spill(t, first, object(12), noise(3*mib, 12))
	first.Delete(gone)
	first.swept(t)
	code(t, yr.AlreadyRunning, NewDisk(DiskOptions{Dir: dir}).Open(context.Background()))
	require.NoError(t, first.Close(context.Background()))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "spill-notours"), []byte("x"), 0o600))
	// What a daemon that was killed was writing:
	torn := record{state: recordOpen, id: object(13), length: 100 * kib}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "spill-000000ff"), torn.append(nil), 0o600))

	d := openDisk(t, DiskOptions{Dir: dir, FileSize: mib})
	require.Equal(t, 12, d.swept(t).Blobs)
	require.FileExists(t, filepath.Join(dir, "spill-notours"))
	for _, k := range []uint64{0, 9, 11, 12} {
		spot, inside, ok := d.Find(object(k))
		require.True(t, ok, "object %d", k)
		require.True(t, noise(int(spot.Length), k) == restored(t, d, spot), "object %d", k) //nolint:gosec // small
		switch k {
		case 11:
			require.Equal(t, many, inside)
		case 12:
			require.Empty(t, inside)
		default:
			require.Equal(t, []yr.ID{object(100 + k)}, inside)
		}
	}
	for _, k := range []uint64{0, 10, 13} {
		_, _, ok := d.Find(object(k))
		require.False(t, ok, "object %d was claimed, deleted or never whole", k)
	}
	require.NoError(t, d.Check())
	d.EndRecovery()
	require.Equal(t, 4, d.swept(t).Blobs)
	spill(t, d, object(20), noise(100, 20))
}

func TestSpillInParallel(t *testing.T) {
	d := openDisk(t, DiskOptions{Dir: t.TempDir(), FileSize: 2 * mib})
	var wg sync.WaitGroup
	for w := range uint64(8) {
		wg.Go(func() {
			var spots []Spot
			for k := range uint64(20) {
				spots = append(spots, spill(t, d, object(w<<8|k), noise(int(10*kib*(k+1)), w<<8|k)))
				if k%3 == 2 {
					d.Delete(spots[k-1])
				}
				require.True(t, noise(int(10*kib*(k+1)), w<<8|k) == restored(t, d, spots[k]))
			}
			for k, spot := range spots {
				if k%3 != 1 || k == 19 {
					d.Delete(spot)
				}
			}
		})
	}
	wg.Wait()
	require.Zero(t, d.swept(t).Used)
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add((&record{state: recordWhole, id: object(1), length: 5, sum: 6}).append(nil))
	f.Add((&record{state: recordOpen, id: object(2), length: 1 << 40, inside: []yr.ID{object(3), object(4)}}).append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b)
		if err != nil {
			return
		}
		again, err := decodeRecord(r.append(nil))
		require.NoError(t, err)
		require.Equal(t, r, again)
		require.LessOrEqual(t, r.headLen(), r.span())
	})
}

// TestWalkOfADamagedFile: whatever was done to a file, a daemon opens its directory,
// and what it then serves is what was put.
func TestWalkOfADamagedFile(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir := t.TempDir()
		first := NewDisk(DiskOptions{Dir: dir})
		require.NoError(t, first.Open(context.Background()))
		sizes := rapid.SliceOfN(rapid.IntRange(1, 10000), 1, 5).Draw(rt, "sizes")
		for k, n := range sizes {
			spill(rt, first, object(uint64(k)), noise(n, uint64(k)), object(7))
		}
		require.NoError(rt, first.Close(context.Background()))
		path := first.path(1)
		info, err := os.Stat(path)
		require.NoError(rt, err)
		for range rapid.IntRange(0, 3).Draw(rt, "flips") {
			require.NoError(rt, flip(path, rapid.Int64Range(0, info.Size()-1).Draw(rt, "at")))
		}
		if cut := rapid.Int64Range(0, 2*info.Size()).Draw(rt, "cut"); cut < info.Size() {
			require.NoError(rt, os.Truncate(path, cut))
		}
		d := NewDisk(DiskOptions{Dir: dir})
		require.NoError(rt, d.Open(context.Background()))
		defer func() { require.NoError(rt, d.Close(context.Background())) }()
		require.NoError(rt, d.Check())
		for k, n := range sizes {
			spot, _, ok := d.Find(object(uint64(k)))
			if !ok {
				continue
			}
			b := make([]byte, spot.Length)
			if err := d.Get(context.Background(), spot, b); err != nil {
				require.ErrorIs(rt, err, ErrCorrupt)
				continue
			}
			require.True(rt, noise(n, uint64(k)) == string(b))
		}
	})
}

func BenchmarkSpill(b *testing.B) {
	for _, n := range []int{64 * kib, 4 * mib} {
		d := NewDisk(DiskOptions{Dir: b.TempDir()})
		require.NoError(b, d.Open(context.Background()))
		defer func() { _ = d.Close(context.Background()) }()
		value, back := noise(n, 1), make([]byte, n)
		b.Run(bytes(uint64(n)), func(b *testing.B) { //nolint:gosec // small
			b.SetBytes(int64(n))
			var last []Spot
			for k := range b.N {
				last = append(last, spill(b, d, object(uint64(k)), value))
				if len(last) > 32 {
					if err := d.Get(context.Background(), last[0], back); err != nil {
						b.Fatal(err)
					}
					d.Delete(last[0])
					last = slices.Delete(last, 0, 1)
				}
			}
		})
	}
}
