package client

// Who leads, and how to reach it. Any master can be asked, and the one that leads
// says so itself; an answer that names another is only a hint where to look.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"yr/master/internal/codec"
	"yr/master/masterpb"
	"yr/pkg/yr"
)

// A thousand nodes lose a leader at the same moment. What they do then must not
// keep the next one from answering: waits grow, and none is equally long on all.
const (
	// suspectAfter is how long a leader may think about a question before the other
	// masters are asked whether it still leads; each time twice as long.
	suspectAfter = 400 * time.Millisecond
	// searchFirst to searchLast are between the rounds of a search: a new leader is
	// found within a second of its election.
	searchFirst   = 100 * time.Millisecond
	searchLast    = 600 * time.Millisecond
	searchTimeout = time.Second
	// retryAfter is the pause before a question is asked again of a leader that
	// refused to answer it, or did not.
	retryAfter = 100 * time.Millisecond
	// muteSearches are the searches in a row that a master leaves unanswered before
	// its connection is made anew: a path that was cut may heal long before TCP tries it again.
	muteSearches = 3
	// maxMasters bounds what leaders tell about each other.
	maxMasters = 32
)

type leaders struct {
	seeds []string // from the configuration
	dial  func(ctx context.Context, address string) (net.Conn, error)
	log   zerolog.Logger

	life context.Context // set by open
	wg   sync.WaitGroup  // the search, and what it asks

	mu        sync.Mutex // protects what follows
	closed    bool
	masters   []string // in the order of asking
	conns     map[string]*conn
	failures  map[string]error // why the last dial of an address failed; none if it did not
	current   string           // the leader's address; "" while unknown
	epoch     uint64           // of the newest leader that anybody named
	searching bool
	changed   chan struct{} // closed when current changes
}

// conn is the way to one master.
type conn struct {
	grpc *grpc.ClientConn
	mute int // searches in a row that it did not answer in time
}

func newLeaders(seeds []string, dial func(context.Context, string) (net.Conn, error), log zerolog.Logger) *leaders {
	return &leaders{
		seeds: seeds, dial: dial, log: log,
		masters: slices.Clone(seeds), conns: make(map[string]*conn), failures: make(map[string]error), changed: make(chan struct{}),
	}
}

func (l *leaders) open(life context.Context) { l.life = life }

// close waits for the search and closes the connections. The life given to open
// has ended before.
func (l *leaders) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		_ = c.grpc.Close()
	}
	clear(l.conns)
}

// ask puts a question to the leader, whoever that is, until it is answered, refused
// with a public code, or ctx ends. question may run several times; its context
// ends early when the leader changes.
func (l *leaders) ask(ctx context.Context, question func(context.Context, masterpb.MasterClient) error) error {
	var last error
	for {
		address, changed := l.leader()
		if address == "" {
			l.search()
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return l.unanswered(ctx, last)
			}
		}
		err := l.attempt(ctx, address, changed, question)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return l.unanswered(ctx, err)
		}
		last = err
		refusal := codec.Refusal(err)
		var redirect *codec.Redirect
		switch {
		case errors.As(refusal, &redirect):
			l.hint(address, redirect)
		case refusal != nil:
			return refusal
		default:
			l.search()
		}
		select {
		case <-changed:
		case <-time.After(jitter(retryAfter)):
		case <-ctx.Done():
			return l.unanswered(ctx, last)
		}
	}
}

func (l *leaders) attempt(ctx context.Context, address string, changed <-chan struct{}, question func(context.Context, masterpb.MasterClient) error) error {
	stub, err := l.stub(address)
	if err != nil {
		return err
	}
	try, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		patience := suspectAfter
		suspect := time.NewTimer(patience)
		defer suspect.Stop()
		for {
			select {
			case <-suspect.C:
				l.search()
				patience *= 2
				suspect.Reset(patience)
			case <-changed:
				cancel()
				return
			case <-done:
				return
			}
		}
	}()
	err = question(try, stub)
	close(done)
	<-watching
	cancel()
	return err
}

// unanswered words the end of a question that nobody answered.
func (l *leaders) unanswered(ctx context.Context, last error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return yr.Wrap("ask the leader", yr.Interrupted, context.Canceled)
	}
	if last != nil && !errors.Is(last, context.DeadlineExceeded) {
		return yr.E("ask the leader", yr.Communication, "no master answered in time; the last said: %v", last)
	}
	return yr.E("ask the leader", yr.Communication, "no master answered in time (%s)", l.state())
}

// leader is the address to ask, and a channel that closes when that changes.
func (l *leaders) leader() (string, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current, l.changed
}

// seen is the epoch of the newest leader that this node knows of. A question
// carries it, so that an older leader learns that it is one.
func (l *leaders) seen() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epoch
}

// acknowledge checks that an answer comes from no older leader than another has.
func (l *leaders) acknowledge(epoch uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if epoch < l.epoch {
		return yr.E("ask the leader", yr.Communication, "an answer of epoch %d came after one of epoch %d", epoch, l.epoch)
	}
	l.epoch = epoch
	return nil
}

// learn takes over the masters' addresses as the leader gives them; those of the
// configuration stay.
func (l *leaders) learn(addresses []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.masters = slices.Clone(l.seeds)
	for _, a := range addresses {
		if a != "" && !slices.Contains(l.masters, a) && len(l.masters) < maxMasters {
			l.masters = append(l.masters, a)
		}
	}
	for address, c := range l.conns {
		if !slices.Contains(l.masters, address) && address != l.current {
			_ = c.grpc.Close()
			delete(l.conns, address)
			delete(l.failures, address)
		}
	}
}

// hint follows a redirect of the master at address: to the leader it names, or
// into a search if it names none.
func (l *leaders) hint(address string, r *codec.Redirect) {
	l.mu.Lock()
	if r.Leader != "" && r.Leader != address && l.current == address {
		l.set(r.Leader)
		l.mu.Unlock()
		return
	}
	if l.current == address {
		l.set("")
	}
	l.mu.Unlock()
	l.search()
}

// set changes the leader; mu is held.
func (l *leaders) set(address string) {
	if l.current == address {
		return
	}
	l.current = address
	close(l.changed)
	l.changed = make(chan struct{})
}

// search begins to look for the leader, unless that is going on.
func (l *leaders) search() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.searching || l.closed || l.life.Err() != nil {
		return
	}
	l.searching = true
	l.wg.Go(l.find)
}

// find asks all masters again and again until one says that it leads.
func (l *leaders) find() {
	for between := searchFirst; ; between = min(2*between, searchLast) {
		found := l.round()
		l.mu.Lock()
		if found && l.current != "" || l.life.Err() != nil {
			l.searching = false
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		pause(l.life, jitter(between))
	}
}

// round asks every master once, all at the same time, and takes the first that
// says that it leads and is of no older epoch than seen. A master that is stopped
// holds up nothing but the end of the round.
func (l *leaders) round() (found bool) {
	ctx, cancel := context.WithTimeout(l.life, searchTimeout)
	defer cancel()
	l.mu.Lock()
	addresses := slices.Clone(l.masters)
	if l.current != "" && !slices.Contains(addresses, l.current) {
		addresses = append(addresses, l.current)
	}
	l.mu.Unlock()

	leading := make(chan bool, len(addresses))
	for _, address := range addresses {
		l.wg.Go(func() { leading <- l.inquire(ctx, address) })
	}
	for range addresses {
		if <-leading {
			return true
		}
	}
	return false
}

// inquire asks one master who leads, and reports whether it leads itself.
func (l *leaders) inquire(ctx context.Context, address string) bool {
	stub, err := l.stub(address)
	if err != nil {
		return false
	}
	answer, err := stub.Masters(ctx, &masterpb.MastersRequest{})
	l.mu.Lock()
	defer l.mu.Unlock()
	if status.Code(err) == codes.DeadlineExceeded {
		l.unheard(address)
	}
	if err != nil {
		return false
	}
	if c := l.conns[address]; c != nil {
		c.mute = 0
	}
	if !answer.GetLeading() {
		if a := answer.GetLeader(); a != "" && !slices.Contains(l.masters, a) && len(l.masters) < maxMasters {
			l.masters = append(l.masters, a) // it is asked in the next round
		}
		return false
	}
	if answer.GetEpoch() < l.epoch {
		return false
	}
	l.epoch = answer.GetEpoch()
	l.set(address)
	return true
}

// unheard counts a search that was not answered in time; mu is held.
func (l *leaders) unheard(address string) {
	c := l.conns[address]
	if c == nil || l.life.Err() != nil {
		return
	}
	if c.mute++; c.mute >= muteSearches {
		_ = c.grpc.Close()
		delete(l.conns, address)
	}
}

// stub is the way to a master; the connection is made when it is used.
func (l *leaders) stub(address string) (masterpb.MasterClient, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, context.Canceled
	}
	c := l.conns[address]
	if c == nil {
		made, err := l.connect(address)
		if err != nil {
			return nil, err
		}
		c = made
		l.conns[address] = c
	}
	return masterpb.NewMasterClient(c.grpc), nil
}

func (l *leaders) connect(address string) (*conn, error) {
	c := &conn{}
	var err error
	c.grpc, err = grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // dial's connections are authenticated
		grpc.WithNoProxy(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			nc, err := l.dial(ctx, address)
			l.mu.Lock()
			defer l.mu.Unlock()
			if delete(l.failures, address); err != nil {
				l.failures[address] = err
			}
			return nc, err
		}),
		grpc.WithIdleTimeout(0),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		}))
	return c, err
}

// hopeless is why waiting for a leader is of no use: a master has refused the
// connection itself, for the token or the version.
func (l *leaders) hopeless() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, err := range l.failures {
		switch yr.CodeOf(err) {
		case yr.Unauthorized, yr.VersionMismatch:
			return err
		}
	}
	return nil
}

// state says for people what is known of each master.
func (l *leaders) state() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	parts := make([]string, 0, len(l.masters))
	for _, address := range l.masters {
		c, failure := l.conns[address], l.failures[address]
		switch {
		case failure != nil:
			parts = append(parts, fmt.Sprintf("%s: %v", address, failure))
		case address == l.current:
			parts = append(parts, address+" leads and is silent")
		case c == nil || c.mute > 0:
			parts = append(parts, address+" is silent")
		default:
			parts = append(parts, address+" knows no leader")
		}
	}
	if len(parts) == 0 {
		return "no address of a master is configured"
	}
	return strings.Join(parts, ", ")
}

// jitter is d, give or take a quarter.
func jitter(d time.Duration) time.Duration {
	return d*3/4 + time.Duration(rand.Int64N(int64(d)/2)) //nolint:gosec // it is to be uneven, not secret
}

// pause waits; false means that ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
