package peer

import (
	"context"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"yr/pkg/wire"
	"yr/pkg/yr"
)

// go test -run '^$' -bench . ./pkg/peer
//
// The bars: a round trip over two links at most 1.3 times TCPEcho; a million
// frames a second one way; Fetch at least 0.7 times TCPCopy (and iperf3).

// frameBody makes the small frame of the benchmarks 80 bytes.
var frameBody = make([]byte, 64)

func addSmall(dst []byte) []byte { return wire.AppendBytes(dst, testFrame, 0, 0, frameBody) }

// BenchmarkTCPEcho is the floor: a small frame to a goroutine that sends it back.
func BenchmarkTCPEcho(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		buf := make([]byte, 4096)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	c, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(b, err)
	defer c.Close()
	frame := addSmall(nil)
	buf := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = c.Write(frame)
		for got := 0; got < len(frame); {
			n, err := c.Read(buf)
			require.NoError(b, err)
			got += n
		}
	}
}

// pairFor joins two nodes whose pace is that of production.
func pairFor(b *testing.B, opts ...option) (left, right *node, lr, rl *Link) {
	b.Helper()
	left, right = prepare(b, "left", opts...), prepare(b, "right", opts...)
	left.pace, right.pace = defaultPace, defaultPace
	left.open()
	right.open()
	lr, rl = join(left, right)
	return left, right, lr, rl
}

// benchmarkRoundTrip is a request on one link and its answer on the other, each
// sent by the goroutine that read what it answers.
func benchmarkRoundTrip(b *testing.B, opts ...option) {
	left, right, lr, _ := pairFor(b, opts...)
	rounds, done := 0, make(chan struct{})
	right.mu.Lock()
	right.onFrame = func(l *Link, _ []byte) error {
		l.Queue(addSmall)
		l.Flush()
		return nil
	}
	right.mu.Unlock()
	left.mu.Lock()
	left.onFrame = func(l *Link, _ []byte) error {
		if rounds--; rounds == 0 {
			close(done)
			return nil
		}
		l.Queue(addSmall)
		l.Flush()
		return nil
	}
	left.mu.Unlock()
	b.ReportAllocs()
	b.ResetTimer()
	rounds = b.N
	lr.Queue(addSmall)
	lr.Flush()
	<-done
}

func BenchmarkRoundTrip(b *testing.B)    { benchmarkRoundTrip(b) }
func BenchmarkRoundTripTLS(b *testing.B) { benchmarkRoundTrip(b, withTLS(certificates(b))) }

// BenchmarkOneWay sends small frames, flushed every 64, as fast as they are taken.
func BenchmarkOneWay(b *testing.B) {
	_, right, lr, _ := pairFor(b)
	arrived, done := 0, make(chan struct{})
	right.mu.Lock()
	right.onFrame = func(*Link, []byte) error {
		if arrived++; arrived == b.N {
			close(done)
		}
		return nil
	}
	right.mu.Unlock()
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		waiting := lr.Queue(addSmall)
		if i%64 == 63 {
			lr.Flush()
			if waiting > MaxUnacknowledged/2 {
				_ = lr.WaitRoom(b.Context())
			}
		}
	}
	lr.Flush()
	<-done
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "frames/s")
}

// bulkSize is one large object.
const bulkSize = 100 << 20

// BenchmarkTCPCopy is the floor for Fetch: the same bytes from a buffer, written
// and read by two goroutines as plainly as can be.
func BenchmarkTCPCopy(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	defer ln.Close()
	bytes := noise(1, bulkSize) // written once: untouched memory is one page of zeros
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		one := make([]byte, 1)
		for {
			if _, err := c.Read(one); err != nil {
				return
			}
			for rest := bytes; len(rest) > 0; {
				n, err := c.Write(rest[:min(len(rest), 128<<10)]) // what iperf3 writes
				if err != nil {
					return
				}
				rest = rest[n:]
			}
		}
	}()
	c, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(b, err)
	defer c.Close()
	into := make([]byte, bulkSize)
	b.SetBytes(bulkSize)
	for b.Loop() {
		_, _ = c.Write([]byte{1})
		_, err := io.ReadFull(c, into)
		require.NoError(b, err)
	}
}

// memory is a Source with one memfd.
type memory struct{ f *os.File }

func newMemory(t testing.TB, content []byte) *memory {
	t.Helper()
	fd, err := unix.MemfdCreate("bulk", unix.MFD_CLOEXEC)
	require.NoError(t, err)
	f := os.NewFile(uintptr(fd), "bulk")
	_, err = f.Write(content)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return &memory{f}
}

// Open implements Source: the request is ignored.
func (m *memory) Open([]byte) (*os.File, int64, int64, func(), error) {
	st, err := m.f.Stat()
	if err != nil {
		return nil, 0, 0, nil, yr.Wrap("memory", yr.DiskFailed, err)
	}
	return m.f, 0, st.Size(), func() {}, nil
}

func benchmarkFetch(b *testing.B, opts ...option) {
	right := start(b, "right", append(opts, source(newMemory(b, make([]byte, bulkSize))))...)
	left := start(b, "left", opts...)
	into := make([]byte, bulkSize)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	b.SetBytes(bulkSize)
	for b.Loop() {
		_, err := left.Fetch(ctx, "right", right.address, []byte("x"), func(int64) ([]byte, error) { return into, nil })
		require.NoError(b, err)
	}
}

func BenchmarkFetch(b *testing.B)    { benchmarkFetch(b) }
func BenchmarkFetchTLS(b *testing.B) { benchmarkFetch(b, withTLS(certificates(b))) }
