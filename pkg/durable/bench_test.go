package durable

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkLone is one writer on one voter; it reports fdatasync of the same bytes
// in the same run.
func BenchmarkLone(b *testing.B) {
	g := openLone(b, Options{})
	value := make([]byte, 128)
	f, err := os.Create(filepath.Join(b.TempDir(), "floor"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var writes, floor []time.Duration
	for i := 0; b.Loop(); i++ {
		start := time.Now()
		if _, err := Put(context.Background(), g, fmt.Sprint("k", i%1000), value); err != nil {
			b.Fatal(err)
		}
		writes = append(writes, time.Since(start))
		start = time.Now()
		if _, err := f.Write(value); err != nil {
			b.Fatal(err)
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
		floor = append(floor, time.Since(start))
	}
	slices.Sort(writes)
	slices.Sort(floor)
	w, d := writes[len(writes)/2], floor[len(floor)/2]
	b.ReportMetric(float64(w.Microseconds()), "p50-us")
	b.ReportMetric(float64(d.Microseconds()), "fdatasync-us")
	b.ReportMetric(float64(w)/float64(d), "x-fdatasync")
}

// BenchmarkWriters is 100 writers on one voter.
func BenchmarkWriters(b *testing.B) { writers(b, openLone(b, Options{}), 100) }

// BenchmarkThreeVoters is 100 writers on three voters of one machine.
func BenchmarkThreeVoters(b *testing.B) {
	c := openCluster(b, 3, func(c *testCluster) { c.beat, c.seg = DefaultHeartbeat, segmentBytes })
	writers(b, c.leader(), 100)
}

// BenchmarkReads is 100 readers on three voters, each read proven by a majority.
func BenchmarkReads(b *testing.B) {
	c := openCluster(b, 3, func(c *testCluster) { c.beat, c.seg = DefaultHeartbeat, segmentBytes })
	g := c.leader()
	if _, err := Put(context.Background(), g, "k", make([]byte, 128)); err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	var next atomic.Int64
	b.ResetTimer()
	start := time.Now()
	for range 100 {
		wg.Go(func() {
			for next.Add(1) <= int64(b.N) {
				if _, _, err := g.Get(context.Background(), "k"); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "reads/s")
}

// BenchmarkNewKeys is the same with a new key for every write.
func BenchmarkNewKeys(b *testing.B) {
	freshKeys = true
	defer func() { freshKeys = false }()
	writers(b, openLone(b, Options{}), 100)
}

var freshKeys bool

func writers(b *testing.B, g Store, n int) {
	value := make([]byte, 128)
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	start, before := time.Now(), cpu(b)
	for w := range n {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				if _, err := Put(context.Background(), g, benchKey(w, i), value); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "writes/s")
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-us/op")
}

// cpu is what this process has used: the figure to compare on a machine that is shared.
func cpu(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchKey(writer int, i int64) string {
	if freshKeys {
		return fmt.Sprintf("writer-%03d/key-%010d", writer, i)
	}
	return fmt.Sprintf("writer-%03d/key-%04d", writer, i%1000)
}
