package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/pkg/yr"
)

// shelf is a Source of several byte strings, one after the other in one file.
type shelf struct {
	*memory
	places map[string][2]int64
	open   atomic.Int32 // not released
	opened atomic.Int32
	most   atomic.Int32
	gate   chan struct{} // if set, Open waits for it
}

func newShelf(t testing.TB, items map[string][]byte) *shelf {
	t.Helper()
	s := &shelf{places: map[string][2]int64{}}
	var all []byte
	for k, v := range items {
		s.places[k] = [2]int64{int64(len(all)), int64(len(v))}
		all = append(all, v...)
	}
	s.memory = newMemory(t, all)
	t.Cleanup(func() {
		eventually(t, "everything is released", func() bool { return s.open.Load() == 0 })
	})
	return s
}

// Open implements Source.
func (s *shelf) Open(request []byte) (*os.File, int64, int64, func(), error) {
	if s.gate != nil {
		<-s.gate
	}
	p, ok := s.places[string(request)]
	if !ok {
		return nil, 0, 0, nil, yr.E("shelf", yr.ObjectNotFound, "there is no %q on the shelf", request)
	}
	s.opened.Add(1)
	now := s.open.Add(1)
	s.most.Store(max(s.most.Load(), now))
	return s.f, p[0], p[1], func() { s.open.Add(-1) }, nil
}

func noise(seed byte, n int) []byte {
	r := rand.NewChaCha8([32]byte{seed})
	b := make([]byte, n)
	_, _ = r.Read(b)
	return b
}

// fetch reads everything that a request means.
func fetch(n *node, from *node, request string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var into []byte
	k, err := n.Fetch(ctx, from.opt.Node, from.address, []byte(request), func(length int64) ([]byte, error) {
		into = make([]byte, length)
		return into, nil
	})
	if err == nil && int(k) != len(into) {
		err = fmt.Errorf("%d bytes of %d", k, len(into))
	}
	return into, err
}

func TestFetchBringsTheBytes(t *testing.T) {
	items := map[string][]byte{}
	for i, n := range []int{0, 1, inlineMost - 1, inlineMost, inlineMost + 1, 1 << 20, sendMost, 9<<20 + 7} {
		items[fmt.Sprint(n)] = noise(byte(i), n)
	}
	for _, row := range []struct {
		name string
		opts []option
	}{
		{"plain", nil},
		{"TLS", []option{withTLS(certificates(t))}},
	} {
		t.Run(row.name, func(t *testing.T) {
			a := start(t, "a", row.opts...)
			b := start(t, "b", append(row.opts, source(newShelf(t, items)))...)
			for name, want := range items {
				got, err := fetch(a, b, name)
				require.NoError(t, err)
				require.True(t, bytes.Equal(want, got), "%s bytes", name)
			}
			require.LessOrEqual(t, len(b.guestList()), 1, "one connection served all of them")
		})
	}
}

func TestASourcesErrorArrivesAsItIs(t *testing.T) {
	a, b := start(t, "a"), start(t, "b", source(newShelf(t, map[string][]byte{"x": {1}})))
	for range 2 { // the second time on the same connection
		_, err := fetch(a, b, "y")
		require.Equal(t, yr.ObjectNotFound, yr.CodeOf(err))
		require.EqualError(t, err, `shelf: there is no "y" on the shelf`)
	}
	got, err := fetch(a, b, "x")
	require.NoError(t, err)
	require.Equal(t, []byte{1}, got)
	_, err = fetch(a, b, string(make([]byte, MaxRequest+1)))
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(err))
}

func TestABrokenFetchGoesOnWhereItStopped(t *testing.T) {
	x := newProxy(t, "")
	want := noise(7, 20<<20)
	s := newShelf(t, map[string][]byte{"big": want})
	a, b := start(t, "a"), start(t, "b", via(x), source(s))
	for _, after := range []int{1, 500, 5000, 3 << 20, 15 << 20} {
		x.cutAfter(after)
		got, err := fetch(a, b, "big")
		require.NoError(t, err, "cut after %d bytes", after)
		require.True(t, bytes.Equal(want, got), "cut after %d bytes", after)
	}
}

func TestAFetchThatCannotGoOnFailsTyped(t *testing.T) {
	x := newProxy(t, "")
	s := newShelf(t, map[string][]byte{"big": noise(7, 20<<20)})
	a, b := start(t, "a"), start(t, "b", via(x), source(s))
	x.set(func() { x.budget, x.refused = 5<<20, false })
	room := func(n int64) ([]byte, error) {
		x.set(func() { x.refused = true }) // no further connection
		return make([]byte, n), nil
	}
	n, err := a.Fetch(t.Context(), "b", b.address, []byte("big"), room)
	require.Equal(t, yr.Communication, yr.CodeOf(err))
	require.ErrorContains(t, err, "fetch from node b at "+b.address)
	require.Positive(t, n)
	require.Less(t, n, int64(20<<20))

	x.set(func() { x.refused = false })
	_, err = a.Fetch(t.Context(), "b", b.address, []byte("big"), func(n int64) ([]byte, error) {
		x.pause() // nothing more, and no word of it
		return make([]byte, n), nil
	})
	require.Equal(t, yr.Communication, yr.CodeOf(err), "a black hole is noticed")
	x.resume()
	_, err = fetch(a, b, "big")
	require.NoError(t, err)
}

func TestAFetchEndsWithItsContext(t *testing.T) {
	s := newShelf(t, map[string][]byte{"x": noise(1, 1<<20)})
	s.gate = make(chan struct{})
	a, b := start(t, "a"), start(t, "b", source(s))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := a.Fetch(ctx, "b", b.address, []byte("x"), func(n int64) ([]byte, error) { return make([]byte, n), nil })
		ended <- err
	}()
	eventually(t, "it is on its way", func() bool { return len(b.guestList()) == 1 })
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
	close(s.gate)
}

func TestFetchesFromOneNodeAreBounded(t *testing.T) {
	s := newShelf(t, map[string][]byte{"x": noise(1, 1<<20)})
	s.gate = make(chan struct{})
	a, b := start(t, "a"), start(t, "b", source(s))
	var wg sync.WaitGroup
	for range 5 * MaxFetches {
		wg.Go(func() {
			_, err := fetch(a, b, "x")
			require.NoError(t, err)
		})
	}
	eventually(t, "as many as may run", func() bool { return len(b.guestList()) == MaxFetches })
	close(s.gate)
	wg.Wait()
	require.LessOrEqual(t, s.most.Load(), int32(MaxFetches))
	require.LessOrEqual(t, len(b.guestList()), MaxFetches)
	eventually(t, "idle connections are closed in time", func() bool { return len(b.guestList()) == 0 })
	a.Peers.mu.Lock()
	require.Empty(t, a.pools)
	a.Peers.mu.Unlock()
}

// guestList copies who is connected.
func (n *node) guestList() (all []*guest) {
	n.Peers.mu.Lock()
	defer n.Peers.mu.Unlock()
	for _, of := range n.guests {
		for g := range of {
			all = append(all, g)
		}
	}
	return all
}

func TestWithoutRoomNothingIsRead(t *testing.T) {
	a, b := start(t, "a"), start(t, "b", source(newShelf(t, map[string][]byte{"x": noise(1, 5<<20)})))
	full := errors.New("memory is full")
	_, err := a.Fetch(t.Context(), "b", b.address, []byte("x"), func(int64) ([]byte, error) { return nil, full })
	require.ErrorIs(t, err, full)
	_, err = a.Fetch(t.Context(), "b", b.address, []byte("x"), func(int64) ([]byte, error) { return make([]byte, 7), nil })
	require.ErrorContains(t, err, "room for 7 bytes where 5242880 come")
	_, err = fetch(a, b, "x")
	require.NoError(t, err)
}

func TestAPooledConnectionThatDiedCostsNothing(t *testing.T) {
	x := newProxy(t, "")
	a, b := start(t, "a"), start(t, "b", via(x), source(newShelf(t, map[string][]byte{"x": {1, 2}})))
	for range 3 * fetchAttempts {
		_, err := fetch(a, b, "x")
		require.NoError(t, err)
		x.cut()
	}
}

func TestAFileShorterThanPromised(t *testing.T) {
	for _, row := range []struct {
		name string
		size int
		opts []option
	}{{"small", 100, nil}, {"large", 1 << 20, nil}, {"TLS", 1 << 20, []option{withTLS(certificates(t))}}} {
		t.Run(row.name, func(t *testing.T) {
			s := newShelf(t, nil)
			s.places["x"] = [2]int64{0, int64(row.size)}
			require.NoError(t, s.f.Truncate(int64(row.size/2)))
			a, b := start(t, "a", row.opts...), start(t, "b", append(row.opts, source(s))...)
			_, err := fetch(a, b, "x")
			require.Equal(t, yr.Communication, yr.CodeOf(err))
		})
	}
}

// A host that breaks the bulk protocol makes the fetch fail, nothing else.
func TestHostileAnswers(t *testing.T) {
	for _, row := range []struct {
		name   string
		answer []byte
		text   string
	}{
		{"a huge length", append(make([]byte, 8), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), "offers"},
		{"a huge error", []byte{answerError, 0, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, "error text"},
		{"an unknown status", append([]byte{9}, make([]byte, 15)...), ""},
		{"nothing", nil, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			err := answered(t, row.answer)
			require.Error(t, err)
			require.ErrorContains(t, err, row.text)
		})
	}
}

// answered is how a transfer ends when a host answers with these bytes and hangs up.
func answered(t testing.TB, answer []byte) error {
	t.Helper()
	ours, theirs := tcpPair(t)
	defer ours.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		defer theirs.Close()
		_, _ = io.ReadFull(theirs, make([]byte, requestHeader+1))
		_, _ = theirs.Write(answer)
		_ = theirs.CloseWrite()
		_, _ = io.Copy(io.Discard, theirs)
	})
	sock, err := plainSocket(ours)
	require.NoError(t, err)
	tr := &transfer{p: &Peers{pace: quick}, request: []byte("x"), length: -1, room: func(n int64) ([]byte, error) {
		if n > 1<<16 {
			return nil, errors.New("no room")
		}
		return make([]byte, n), nil
	}}
	_, err = tr.run(t.Context(), sock)
	if err == nil {
		require.Equal(t, tr.length, tr.done)
	}
	_ = ours.Close()
	return err
}

func FuzzReadRequest(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 'x'})
	f.Add([]byte{0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		request, _, err := readRequest(bytes.NewReader(b))
		if err == nil {
			require.LessOrEqual(t, len(request), MaxRequest)
			require.Equal(t, b[requestHeader:requestHeader+len(request)], request)
		}
	})
}

// FuzzAnswer plays a host that answers a fetch with anything.
func FuzzAnswer(f *testing.F) {
	f.Add(append([]byte{0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0}, 1, 2))
	f.Add(errorAnswer(yr.E("op", yr.ObjectNotFound, "gone")))
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) { _ = answered(t, b) })
}

// tcpPair is a connection on loopback.
func tcpPair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	d, err := ln.Accept()
	require.NoError(t, err)
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	return c.(*net.TCPConn), d.(*net.TCPConn)
}
