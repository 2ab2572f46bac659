package peer

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"yr/pkg/wire"
	"yr/pkg/yr"
)

// One seed runs two nodes through faults: connections cut within frames, black
// holes, restarts, renewals,
// violations; some inside TLS. Each life of the link, each way, must bring frames
// 0, 1, 2, ... and the last life all of them.
//
//	go test -run Faults ./pkg/peer -count 1            # a few seeds
//	YR_SEED=17 go test -run Faults ./pkg/peer          # this one
//	YR_LONG=1 go test -run Faults ./pkg/peer           # some hundred
func TestExactlyOnceUnderFaults(t *testing.T) {
	seeds := []uint64{1, 2, 3, 4, 5, 6, 7, 8}
	if s, err := strconv.ParseUint(os.Getenv("YR_SEED"), 10, 64); err == nil {
		seeds = []uint64{s}
	} else if os.Getenv("YR_LONG") != "" {
		seeds = nil
		for s := range uint64(400) {
			seeds = append(seeds, s+100)
		}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { runFaults(t, seed) })
	}
}

// A side is one node of the pair with what it sent and what it heard. It stays
// while the node is restarted.
type side struct {
	*node
	t           *testing.T
	name        yr.Node
	x           *proxy
	tls         TLS
	incarnation uint64

	mu      sync.Mutex
	link    *Link
	life    uint64 // how often the link of this incarnation met its peer fresh
	next    uint64 // number of the next frame to send
	peer    uint64 // incarnation that the link met
	heard   uint64 // number of the next frame to come
	from    uint64 // life of the sender that the frames are of; 0: none came
	met     bool
	refuse  bool // the next frames
	inside  atomic.Int32
	lastMet atomic.Uint64 // incarnation of the peer at the last fresh meeting
}

// frame is incarnation and life of its sender, its number, and filling.
const faultHead = 24

func (s *side) Met(l *Link, fresh bool) {
	require.Equal(s.t, int32(1), s.inside.Add(1), "two calls of the Handler at once")
	defer s.inside.Add(-1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !fresh {
		require.True(s.t, s.met, "the first meeting is fresh")
		require.Equal(s.t, s.peer, l.Incarnation())
		return
	}
	s.met, s.link, s.peer = true, l, l.Incarnation()
	s.life++
	s.next, s.heard, s.from = 0, 0, 0
	l.Begin()
	s.lastMet.Store(s.peer)
}

func (s *side) Frames(_ *Link, b []byte) error {
	require.Equal(s.t, int32(1), s.inside.Add(1), "two calls of the Handler at once")
	defer s.inside.Add(-1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse {
		s.refuse = false
		return errors.New("a violation, says the test")
	}
	for len(b) > 0 {
		_, body, rest, err := wire.Next(b)
		if err != nil {
			return err
		}
		incarnation, life, number := le.Uint64(body), le.Uint64(body[8:]), le.Uint64(body[16:])
		if s.from == 0 {
			s.from = life
		}
		if incarnation != s.peer || life != s.from || number != s.heard {
			s.t.Errorf("%s: frame %d of life %d, incarnation %d came; expected frame %d of life %d, incarnation %d",
				s.name, number, life, incarnation, s.heard, s.from, s.peer)
		}
		s.heard++
		b = rest
	}
	return nil
}

// send queues some frames of random sizes.
func (s *side) send(r *rand.Rand, n int) {
	s.mu.Lock()
	l := s.link
	for range n {
		if l == nil {
			break
		}
		size := r.IntN(200)
		if r.IntN(50) == 0 {
			size = r.IntN(300_000)
		}
		l.Queue(func(dst []byte) []byte {
			body := make([]byte, faultHead+size)
			le.PutUint64(body, s.incarnation)
			le.PutUint64(body[8:], s.life)
			le.PutUint64(body[16:], s.next)
			s.next++
			return wire.AppendBytes(dst, testFrame, 0, 0, body)
		})
	}
	s.mu.Unlock()
	if l != nil {
		l.Flush()
	}
}

// sends says whether something was sent in the link's present life, and sends
// something if not: a life may still end that began before the faults did.
func (s *side) sends(r *rand.Rand) bool {
	s.mu.Lock()
	nothing := s.next < 100
	s.mu.Unlock()
	if nothing {
		s.send(r, 100)
	}
	return !nothing
}

// begin starts the node with the next incarnation.
func (s *side) begin() {
	s.incarnation++
	s.mu.Lock()
	s.link, s.life, s.met = nil, 0, false
	s.lastMet.Store(0)
	s.mu.Unlock()
	s.node = prepare(s.t, s.name, incarnation(s.incarnation), via(s.x), withTLS(s.tls))
	s.opt.Handler = s
	s.open()
}

// renew gives the running node another incarnation.
func (s *side) renew() {
	s.mu.Lock() // what is queued meanwhile belongs to neither
	s.incarnation++
	s.link = nil
	s.lastMet.Store(0)
	s.Renew(s.incarnation)
	s.mu.Unlock()
}

func runFaults(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0))
	a := &side{t: t, name: "a", x: newProxy(t, "")}
	b := &side{t: t, name: "b", x: newProxy(t, "")}
	if seed%3 == 0 {
		a.tls = certificates(t)
		b.tls = a.tls
	}
	a.begin()
	b.begin()
	a.Link("b", b.address)
	sides := []*side{a, b}
	restarts, cuts := 0, 0
	for range 150 {
		s := sides[r.IntN(2)]
		other := sides[0]
		if s == other {
			other = sides[1]
		}
		switch k := r.IntN(40); {
		case k < 26:
			s.send(r, 1+r.IntN(30))
		case k < 30:
			cuts++
			s.x.cutAfter(1 + r.IntN(20_000))
		case k < 32:
			cuts++
			s.x.cut()
		case k < 34:
			s.x.pause()
			s.send(r, 10)
			other.send(r, 10)
			s.x.resume()
		case k < 35:
			restarts++
			s.stop()
			s.begin()
			s.Link(other.name, other.address)
		case k < 36:
			restarts++
			s.renew()
		case k < 37:
			restarts++
			s.mu.Lock()
			s.refuse = true
			s.mu.Unlock()
		default: // let the two catch up
			eventually(t, "the two know each other", func() bool {
				return a.lastMet.Load() == b.incarnation && b.lastMet.Load() == a.incarnation
			})
		}
	}
	for _, s := range sides {
		s.mu.Lock()
		s.refuse = false
		s.mu.Unlock()
	}
	a.x.cutAfter(0)
	b.x.cutAfter(0)
	caughtUp := func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		b.mu.Lock()
		defer b.mu.Unlock()
		return a.link != nil && b.link != nil && a.peer == b.incarnation && b.peer == a.incarnation &&
			a.heard == b.next && b.heard == a.next && a.next > 0 && b.next > 0
	}
	eventually(t, "the two know each other", func() bool {
		return a.lastMet.Load() == b.incarnation && b.lastMet.Load() == a.incarnation
	})
	eventually(t, fmt.Sprintf("seed %d: everything of the last life arrives", seed), func() bool {
		return a.sends(r) && b.sends(r) && caughtUp()
	})
	t.Logf("seed %d: %d restarts, %d cuts; the last life had %d and %d frames", seed, restarts, cuts, a.next, b.next)
}
