package durable

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"

	pb "yr/pkg/durable/durablepb"
	"yr/pkg/yr"
)

// ClientOptions say where a group is.
type ClientOptions struct {
	Group uint32
	// Voters are the addresses of some or all voters, asked for whenever no leader is known.
	Voters func() []string
	// Dial opens an authenticated connection to a node's gRPC server.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Patience is how long one voter may take to answer before another is tried; 0: DefaultPatience.
	Patience time.Duration
}

// DefaultPatience is well above a failover and an ordinary stall.
const DefaultPatience = 3 * time.Second

// Client is a Store on any node: it finds the leader, follows it, and tries again
// until ctx ends. A transaction is applied once however often it had to be sent:
// every one carries the client's name and a number, by which the group knows a retry.
type Client struct {
	options ClientOptions
	name    clientID

	sequence atomic.Uint64
	seen     atomic.Uint64 // ApplyAnswer.answered, the highest
	learned  atomic.Bool   // seen is set

	life context.Context
	end  context.CancelFunc
	wg   sync.WaitGroup

	mu     sync.Mutex // protects what follows
	conns  map[string]*grpc.ClientConn
	leader string // the address that was last right; "" unknown
	turn   int    // which voter is tried next
}

// NewClient makes a closed Client.
func NewClient(o ClientOptions) *Client {
	if o.Patience == 0 {
		o.Patience = DefaultPatience
	}
	return &Client{options: o, conns: make(map[string]*grpc.ClientConn)}
}

// Open gives the client its name. It connects when it is first used.
func (c *Client) Open(context.Context) error {
	if _, err := rand.Read(c.name[:]); err != nil {
		return err
	}
	c.life, c.end = context.WithCancel(context.Background())
	return nil
}

// Close ends all watches and connections.
func (c *Client) Close(context.Context) error {
	c.end()
	c.mu.Lock()
	var errs []error
	for _, conn := range c.conns {
		errs = append(errs, conn.Close())
	}
	clear(c.conns)
	c.mu.Unlock()
	c.wg.Wait()
	return errors.Join(errs...)
}

// pick says which voter to ask: the leader, or the voters in turn.
func (c *Client) pick() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leader != "" {
		return c.leader
	}
	voters := c.options.Voters()
	if len(voters) == 0 {
		return ""
	}
	c.turn++
	return voters[c.turn%len(voters)]
}

// learn notes who answered or was pointed at; "" forgets a leader that did not.
func (c *Client) learn(asked, leader string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if leader != "" || c.leader == asked {
		c.leader = leader
	}
}

// connect returns when the connection to a voter stands, so that what fails before
// is known not to have been sent.
func (c *Client) connect(ctx context.Context, address string) (*grpc.ClientConn, error) {
	c.mu.Lock()
	conn := c.conns[address]
	if conn == nil {
		if c.life.Err() != nil {
			c.mu.Unlock()
			return nil, ErrClosed
		}
		var err error
		conn, err = grpc.NewClient("passthrough:///"+address,
			grpc.WithTransportCredentials(insecure.NewCredentials()), // Dial authenticates
			grpc.WithContextDialer(c.options.Dial),
			// A voter that swallows connections must not hold one back after it is well again.
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: firstPause, Multiplier: 2, Jitter: 0.2, MaxDelay: lastPause},
				MinConnectTimeout: c.options.Patience,
			}),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)))
		if err != nil {
			c.mu.Unlock()
			return nil, err
		}
		c.conns[address] = conn
	}
	c.mu.Unlock()
	for {
		state := conn.GetState()
		switch state {
		case connectivity.Ready:
			return conn, nil
		case connectivity.Shutdown:
			return nil, ErrClosed
		case connectivity.TransientFailure:
			conn.ResetConnectBackoff()
			return nil, detail(ErrUnavailable, "no connection to %s", address)
		case connectivity.Idle:
			conn.Connect()
		case connectivity.Connecting:
		}
		if !conn.WaitForStateChange(ctx, state) {
			return nil, ctx.Err()
		}
	}
}

// attempt is one question to one voter. It returns the Store's error of the answer,
// or an error of the way.
type attempt func(ctx context.Context, records pb.RecordsClient) (*pb.Failure, error)

const (
	firstPause = 10 * time.Millisecond
	lastPause  = 250 * time.Millisecond
)

// ask tries until an answer counts. size is how many bytes may travel. If it fails
// with ErrUnavailable nothing was done; with ErrUnknown it cannot tell.
func (c *Client) ask(ctx context.Context, size int, try attempt) error {
	sent := false // to somebody who did not say what became of it
	pause := firstPause
	for {
		err := c.askOnce(ctx, size, try, &sent)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errForgotten) && !sent:
			// New to the group, only numbered long ago: seen is fresh now.
		case errors.Is(err, ErrUnknown) && !errors.Is(err, errForgotten),
			errors.Is(err, ErrNotLeader), errors.Is(err, ErrUnavailable), errors.Is(err, ErrFailed),
			errors.Is(err, ErrClosed) && c.life.Err() == nil:
		default:
			return err
		}
		var elsewhere *NotLeaderError
		if errors.As(err, &elsewhere) && elsewhere.Leader != "" && pause == firstPause {
			pause += firstPause // the first hint is followed at once
			continue
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, lastPause)
		case <-ctx.Done():
			return ended(ctx, sent, err)
		case <-c.life.Done():
			return ErrClosed
		}
		if ctx.Err() != nil {
			return ended(ctx, sent, err)
		}
	}
}

func ended(ctx context.Context, sent bool, last error) error {
	sentinel := ErrUnavailable
	if sent {
		sentinel = ErrUnknown
	}
	return &yr.Error{Op: sentinel.Op, Code: sentinel.Code, Msg: "the last voter that was asked: " + last.Error(), Err: errors.Join(sentinel, ctx.Err())}
}

func (c *Client) askOnce(ctx context.Context, size int, try attempt, sent *bool) error {
	if c.life.Err() != nil {
		return ErrClosed
	}
	address := c.pick()
	if address == "" {
		return ErrUnavailable
	}
	const bytesPerSecond = 8 << 20
	ctx, cancel := context.WithTimeout(ctx, c.options.Patience+time.Duration(size/bytesPerSecond)*time.Second)
	defer cancel()
	conn, err := c.connect(ctx, address)
	if err != nil {
		c.learn(address, "")
		return detail(ErrUnavailable, "no connection to %s: %v", address, err)
	}
	f, err := try(ctx, pb.NewRecordsClient(conn))
	if err != nil {
		*sent = true
		c.learn(address, "")
		return detail(ErrUnknown, "no answer from %s: %v", address, err)
	}
	err = failureError(f)
	var elsewhere *NotLeaderError
	switch {
	case errors.As(err, &elsewhere):
		c.learn(address, elsewhere.Leader)
	case errors.Is(err, ErrUnknown) && !errors.Is(err, errForgotten):
		*sent = true
		c.learn(address, "")
	case err == nil:
		c.learn(address, address)
	case errors.Is(err, ErrFailed), errors.Is(err, ErrClosed), errors.Is(err, ErrUnavailable):
		c.learn(address, "")
	}
	return err
}

// Get implements Store.
func (c *Client) Get(ctx context.Context, key string) (r Record, ok bool, err error) {
	err = c.ask(ctx, MaxInline, func(ctx context.Context, records pb.RecordsClient) (*pb.Failure, error) {
		a, err := records.Get(ctx, &pb.GetRequest{Group: c.options.Group, Key: []byte(key)})
		if ok = a.GetRecord() != nil; ok {
			r = decodeRecord(a.Record)
		}
		return a.GetFailure(), err
	})
	return r, ok && err == nil, reading(err)
}

// Range implements Store.
func (c *Client) Range(ctx context.Context, from, to string, limit int) (p Page, err error) {
	err = c.ask(ctx, pageBytes, func(ctx context.Context, records pb.RecordsClient) (*pb.Failure, error) {
		a, err := records.Range(ctx, &pb.RangeRequest{Group: c.options.Group, From: []byte(from), To: []byte(to), Limit: int64(limit)})
		p = Page{Records: decodeRecords(a.GetRecords()), More: a.GetMore(), Revision: Revision(a.GetRevision())}
		return a.GetFailure(), err
	})
	return p, reading(err)
}

// reading: what a read was told too late has changed nothing.
func reading(err error) error {
	if errors.Is(err, ErrUnknown) {
		return detail(ErrUnavailable, "%v", err)
	}
	return err
}

// Apply implements Store.
func (c *Client) Apply(ctx context.Context, t Txn) (Result, error) {
	if err := t.validate(); err != nil {
		return Result{}, err
	}
	if !c.learned.Load() {
		// Requests are numbered against what the group had answered before.
		if _, err := c.send(ctx, Txn{}, nil); err != nil {
			return Result{}, reading(err)
		}
		c.learned.Store(true)
	}
	return c.send(ctx, t, c.name[:])
}

func (c *Client) send(ctx context.Context, t Txn, name []byte) (result Result, err error) {
	r := encodeTxn(t)
	r.Group, r.Client, r.Sequence, r.Seen = c.options.Group, name, c.sequence.Add(1), c.seen.Load()
	size := 0
	for _, w := range t.Do {
		size += len(w.Value)
	}
	err = c.ask(ctx, size, func(ctx context.Context, records pb.RecordsClient) (*pb.Failure, error) {
		a, err := records.Apply(ctx, r)
		if err != nil {
			return nil, err
		}
		c.saw(a.Answered)
		if a.GetFailure().GetKind() == pb.Failure_FORGOTTEN {
			// Used only if this was never sent before: see ask.
			r.Seen = a.Answered
		}
		result = Result{OK: a.Ok, Revision: Revision(a.Revision), Current: decodeRecords(a.Current)}
		return a.Failure, nil
	})
	if err != nil {
		return Result{}, err
	}
	return result, nil
}

func (c *Client) saw(answered uint64) {
	for {
		seen := c.seen.Load()
		if seen >= answered || c.seen.CompareAndSwap(seen, answered) {
			return
		}
	}
}

// Grant implements Store. A retry may leave a second lease behind, which ends by itself.
func (c *Client) Grant(ctx context.Context, ttl time.Duration) (lease Lease, err error) {
	err = c.ask(ctx, 0, func(ctx context.Context, records pb.RecordsClient) (*pb.Failure, error) {
		a, err := records.Grant(ctx, &pb.GrantRequest{Group: c.options.Group, TtlNanos: int64(ttl)})
		lease = Lease(a.GetLease())
		return a.GetFailure(), err
	})
	return lease, err
}

// Renew implements Store.
func (c *Client) Renew(ctx context.Context, lease Lease) error {
	return c.ask(ctx, 0, func(ctx context.Context, records pb.RecordsClient) (*pb.Failure, error) {
		a, err := records.Renew(ctx, &pb.LeaseRequest{Group: c.options.Group, Lease: uint64(lease)})
		return a.GetFailure(), err
	})
}

// Revoke implements Store.
func (c *Client) Revoke(ctx context.Context, lease Lease) error {
	return c.ask(ctx, 0, func(ctx context.Context, records pb.RecordsClient) (*pb.Failure, error) {
		a, err := records.Revoke(ctx, &pb.LeaseRequest{Group: c.options.Group, Lease: uint64(lease)})
		return a.GetFailure(), err
	})
}

// Watch implements Store. It survives changes of the leader.
func (c *Client) Watch(ctx context.Context, prefix string, after Revision) (<-chan Changes, error) {
	if c.life.Err() != nil {
		return nil, ErrClosed
	}
	if ctx.Err() != nil {
		return nil, refused(ctx)
	}
	out := make(chan Changes, 1)
	c.wg.Go(func() {
		defer close(out)
		err := c.watch(ctx, prefix, after, out)
		if ctx.Err() != nil {
			return
		}
		select {
		case out <- Changes{Err: err}:
		case <-ctx.Done():
		case <-c.life.Done():
		}
	})
	return out, nil
}

// watch follows one leader after the other until there is an error that counts.
func (c *Client) watch(ctx context.Context, prefix string, after Revision, out chan<- Changes) error {
	for {
		var stream grpc.ServerStreamingClient[pb.WatchAnswer]
		life, cancel := ctx, func() {}
		err := c.ask(ctx, 0, func(begin context.Context, records pb.RecordsClient) (f *pb.Failure, err error) {
			cancel()
			life, cancel = context.WithCancel(ctx)
			// The stream outlives the question; the question must not hang.
			stop := context.AfterFunc(begin, cancel)
			defer stop()
			if stream, err = records.Watch(life, &pb.WatchRequest{Group: c.options.Group, Prefix: []byte(prefix), After: uint64(after)}); err != nil {
				return nil, err
			}
			a, err := stream.Recv()
			return a.GetFailure(), err
		})
		if err == nil {
			err = c.follow(life, cancel, stream, &after, out)
		}
		cancel()
		if ctx.Err() != nil || c.life.Err() != nil {
			return ErrClosed
		}
		if !again(err) {
			return err
		}
	}
}

// again says whether another voter may go on with a watch.
func again(err error) bool {
	for _, end := range []error{ErrCompacted, ErrLimit, ErrFormat, ErrCorrupt} {
		if errors.Is(err, end) {
			return false
		}
	}
	return true
}

// follow passes on what a stream tells, until it is silent for too long.
func (c *Client) follow(ctx context.Context, end func(), stream grpc.ServerStreamingClient[pb.WatchAnswer], after *Revision, out chan<- Changes) error {
	silence := time.AfterFunc(c.options.Patience, end)
	defer silence.Stop()
	for {
		a, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := failureError(a.Failure); err != nil {
			return err
		}
		silence.Reset(c.options.Patience)
		if Revision(a.Revision) <= *after {
			continue // a sign of life
		}
		changes := Changes{Revision: Revision(a.Revision), Events: make([]Event, len(a.Events))}
		for i, e := range a.Events {
			changes.Events[i] = Event{Record: decodeRecord(e.GetRecord()), Deleted: e.GetDeleted()}
		}
		silence.Stop() // a slow reader is not a silent leader
		select {
		case out <- changes:
			*after = changes.Revision
		case <-ctx.Done():
			return ctx.Err()
		case <-c.life.Done():
			return ErrClosed
		}
		silence.Reset(c.options.Patience)
	}
}
