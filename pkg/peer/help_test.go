package peer

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"yr/pkg/certs"
	"yr/pkg/wire"
	"yr/pkg/yr"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		playRole(role)
		return
	}
	goleak.VerifyTestMain(m)
}

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// quick is a pace for tests that wait for failures to be noticed.
var quick = pace{
	handshake: 500 * time.Millisecond, dial: time.Second,
	ping: 20 * time.Millisecond, silence: 200 * time.Millisecond,
	backoff: time.Millisecond, backoffMost: 20 * time.Millisecond,
	ack: time.Millisecond, stall: 500 * time.Millisecond, idle: time.Second,
}

// A node is Peers with a listener, and a Handler that keeps what comes.
type node struct {
	*Peers
	t       testing.TB
	address string // where others reach it
	real    string // where it listens
	others  net.Listener

	mu      sync.Mutex
	changed *sync.Cond
	meets   map[yr.Node][]bool
	got     map[yr.Node][]string // since the last fresh meeting
	links   map[yr.Node]*Link
	onMet   func(l *Link, fresh bool)
	onFrame func(l *Link, body []byte) error
}

// A setup is what a test wants of a node.
type setup struct {
	Options
	via *proxy // others are told to go through it
}

type option func(*setup)

func incarnation(n uint64) option { return func(s *setup) { s.Incarnation = n } }
func token(v string) option       { return func(s *setup) { s.Token = v } }
func withTLS(v TLS) option        { return func(s *setup) { s.TLS = v } }
func source(v Source) option      { return func(s *setup) { s.Source = v } }
func via(x *proxy) option         { return func(s *setup) { s.via = x } }

// start runs a node until the test ends.
func start(t testing.TB, id yr.Node, opts ...option) *node {
	t.Helper()
	n := prepare(t, id, opts...)
	n.open()
	return n
}

// prepare makes a node that is not open yet.
func prepare(t testing.TB, id yr.Node, opts ...option) *node {
	t.Helper()
	s := setup{Options: Options{Node: id, Incarnation: 1, Token: "a token of this cluster", Version: "0.1.0"}}
	for _, o := range opts {
		o(&s)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	n := &node{t: t, address: ln.Addr().String(), real: ln.Addr().String(), meets: map[yr.Node][]bool{}, got: map[yr.Node][]string{}, links: map[yr.Node]*Link{}}
	n.changed = sync.NewCond(&n.mu)
	if s.via != nil {
		s.via.set(func() { s.via.target = n.address })
		n.address = s.via.address()
	}
	s.Address, s.Handler = n.address, n
	n.Peers = New(s.Options)
	n.pace = quick
	n.others = ln
	t.Cleanup(n.stop)
	return n
}

func (n *node) open() {
	require.NoError(n.t, n.Open(context.Background()))
	n.others = n.Split(n.others)
}

func (n *node) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(n.t, n.Close(ctx))
	_ = n.others.Close()
}

// Met implements Handler.
func (n *node) Met(l *Link, fresh bool) {
	n.mu.Lock()
	n.meets[l.Node()] = append(n.meets[l.Node()], fresh)
	n.links[l.Node()] = l
	if fresh {
		n.got[l.Node()] = nil
	}
	n.changed.Broadcast()
	onMet := n.onMet
	n.mu.Unlock()
	if onMet != nil {
		onMet(l, fresh)
	}
}

// Frames implements Handler.
func (n *node) Frames(l *Link, frames []byte) error {
	n.mu.Lock()
	onFrame := n.onFrame
	n.mu.Unlock()
	for len(frames) > 0 {
		_, body, rest, err := wire.Next(frames)
		if err != nil {
			return err
		}
		if onFrame != nil {
			if err := onFrame(l, body); err != nil {
				return err
			}
		} else {
			n.mu.Lock()
			n.got[l.Node()] = append(n.got[l.Node()], string(body))
			n.changed.Broadcast()
			n.mu.Unlock()
		}
		frames = rest
	}
	return nil
}

// wait waits until what holds of the node's records.
func (n *node) wait(what string, holds func() bool) {
	n.t.Helper()
	late := false
	timer := time.AfterFunc(patience, func() {
		n.mu.Lock()
		late = true
		n.changed.Broadcast()
		n.mu.Unlock()
	})
	defer timer.Stop()
	n.mu.Lock()
	defer n.mu.Unlock()
	for !holds() {
		if late {
			n.t.Fatalf("node %s waited %v in vain until %s; it met %v", n.opt.Node, patience, what, n.meets)
		}
		n.changed.Wait()
	}
}

// fresh counts the fresh meetings with a peer; mu is held.
func (n *node) fresh(peer yr.Node) int {
	k := 0
	for _, f := range n.meets[peer] {
		if f {
			k++
		}
	}
	return k
}

// freshMeetings is fresh for who does not hold mu.
func (n *node) freshMeetings(peer yr.Node) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.fresh(peer)
}

// met waits for the given number of fresh meetings with a peer.
func (n *node) met(peer yr.Node, times int) *Link {
	n.t.Helper()
	n.wait("it met "+string(peer), func() bool { return n.fresh(peer) >= times })
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.links[peer]
}

// expect waits until exactly these frames have come from a peer since the last fresh meeting.
func (n *node) expect(peer yr.Node, want ...string) {
	n.t.Helper()
	n.wait("frames came from "+string(peer), func() bool { return len(n.got[peer]) >= len(want) })
	n.mu.Lock()
	defer n.mu.Unlock()
	require.Equal(n.t, want, slices.Clone(n.got[peer]))
}

// say queues frames and sends them.
func say(l *Link, bodies ...string) {
	for _, b := range bodies {
		l.Queue(func(dst []byte) []byte { return wire.AppendBytes(dst, testFrame, 0, 0, []byte(b)) })
	}
	l.Flush()
}

const testFrame wire.Type = 200

// join lets two nodes meet.
func join(a, b *node) (ab, ba *Link) {
	a.t.Helper()
	a.Link(b.opt.Node, b.address)
	return a.met(b.opt.Node, 1), b.met(a.opt.Node, 1)
}

// eventually waits until a condition holds that nobody announces.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	require.Eventually(t, holds, patience, time.Millisecond, what)
}

// certificates is TLS for every node of a test.
func certificates(t testing.TB) *certs.Live {
	t.Helper()
	dir := t.TempDir()
	ca, err := certs.NewAuthority(dir, time.Now())
	require.NoError(t, err)
	files := certs.Files{CA: filepath.Join(dir, certs.AuthorityCert), Cert: filepath.Join(dir, "n.crt"), Key: filepath.Join(dir, "n.key")}
	pair, err := ca.Issue(certs.Request{Name: "n", Hosts: []string{"127.0.0.1"}, Now: time.Now()})
	require.NoError(t, err)
	require.NoError(t, pair.Write(files.Cert, files.Key))
	live, err := certs.Open(files, certs.LiveOptions{OptionalClient: true})
	require.NoError(t, err)
	return live
}

// handled looks at what only handlers touch, while none runs.
func (n *node) handled(look func()) {
	n.Peers.mu.Lock()
	links := n.allLinks()
	n.Peers.mu.Unlock()
	for _, l := range links {
		l.handling.Lock()
		defer l.handling.Unlock()
	}
	look()
}

// syncBuffer is what a process prints, to be looked at while it runs.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
