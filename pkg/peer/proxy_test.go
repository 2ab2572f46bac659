package peer

import (
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// A proxy stands in front of a node and does to connections what networks do.
type proxy struct {
	ln net.Listener
	wg sync.WaitGroup

	mu      sync.Mutex
	cond    *sync.Cond
	target  string
	closed  bool
	paused  bool // bytes are swallowed up and kept: the peer hears nothing
	refused bool // new connections are closed at once
	budget  int  // bytes until everything is cut; 0: no limit
	conns   map[net.Conn]struct{}
	made    int
	record  []byte // what the dialing side sent, if recording
	recs    bool
}

func newProxy(t testing.TB, target string) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	x := &proxy{ln: ln, target: target, conns: map[net.Conn]struct{}{}}
	x.cond = sync.NewCond(&x.mu)
	x.wg.Go(x.accept)
	t.Cleanup(x.close)
	return x
}

func (x *proxy) address() string { return x.ln.Addr().String() }

func (x *proxy) accept() {
	for {
		c, err := x.ln.Accept()
		if err != nil {
			return
		}
		x.mu.Lock()
		target, refused := x.target, x.refused
		x.made++
		x.mu.Unlock()
		if refused {
			_ = c.Close()
			continue
		}
		d, err := net.Dial("tcp", target)
		if err != nil {
			_ = c.Close()
			continue
		}
		x.mu.Lock()
		if x.closed {
			_ = c.Close()
			_ = d.Close()
		}
		x.conns[c], x.conns[d] = struct{}{}, struct{}{}
		x.mu.Unlock()
		x.wg.Go(func() { x.copy(d, c, true) })
		x.wg.Go(func() { x.copy(c, d, false) })
	}
}

func (x *proxy) copy(to, from net.Conn, dialer bool) {
	defer func() {
		_ = to.Close()
		_ = from.Close()
		x.mu.Lock()
		delete(x.conns, from)
		x.mu.Unlock()
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			k, ok := x.pass(buf[:n], dialer)
			if _, err := to.Write(buf[:k]); err != nil || !ok {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// pass says how much may go through, and whether the connection lives on. It waits
// while the proxy is paused.
func (x *proxy) pass(b []byte, dialer bool) (int, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for x.paused && !x.closed {
		x.cond.Wait()
	}
	if dialer && x.recs {
		x.record = append(x.record, b...)
	}
	if x.budget > 0 {
		if len(b) >= x.budget {
			n := x.budget
			x.budget = 0
			x.cutAll()
			return n, false
		}
		x.budget -= len(b)
	}
	return len(b), true
}

// cutAfter cuts everything after so many more bytes.
func (x *proxy) cutAfter(n int) {
	x.mu.Lock()
	x.budget = n
	x.mu.Unlock()
}

// cut ends every connection now, some of them by a reset.
func (x *proxy) cut() {
	x.mu.Lock()
	x.cutAll()
	x.mu.Unlock()
}

func (x *proxy) cutAll() {
	for c := range x.conns {
		if rand.N(2) == 0 {
			_ = c.(*net.TCPConn).SetLinger(0)
		}
		_ = c.Close()
	}
}

func (x *proxy) set(change func()) {
	x.mu.Lock()
	change()
	x.cond.Broadcast()
	x.mu.Unlock()
}

func (x *proxy) pause()  { x.set(func() { x.paused = true }) }
func (x *proxy) resume() { x.set(func() { x.paused = false }) }

func (x *proxy) connections() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.made
}

func (x *proxy) close() {
	_ = x.ln.Close()
	x.set(func() { x.closed = true; x.cutAll() })
	x.wg.Wait()
}
