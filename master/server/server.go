// Package server is the leader's service: it lets nodes in, hears their reports,
// declares dead who is silent, and answers where work fits and who has which name.
//
// Every master runs one. The one whose master decides is said by a Leadership;
// the others refuse and name it. What the next leader must know is in the
// registry before anybody hears of it; the rest is a table in memory.
package server

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/rs/zerolog"
	"google.golang.org/grpc"

	"yr/master/masterpb"
	"yr/master/table"
	"yr/pkg/cluster"
	"yr/pkg/yr"
)

// Options say who this master is and whom it asks. All fields but OnDead, Random
// and Log are needed.
type Options struct {
	Node    yr.Node
	Address string // where nodes reach this master
	Version string

	Leadership Leadership
	Leader     Leader
	Nodes      Nodes
	Names      Names
	Masters    func() []string // addresses of all masters; must not block

	// OnDead is told of every node that was declared dead, one after the other, on a
	// goroutine of its own. A new leader is told again of all that are in the registry,
	// since the old one may have ended before it was done. ctx ends with the reign.
	OnDead func(ctx context.Context, dead cluster.NodeRecord)

	Random *rand.Rand // nil: seeded by chance
	Log    zerolog.Logger
}

// Leadership says who leads. It is decided elsewhere, among the masters.
type Leadership interface {
	// Leading reports whether this master leads, and the number of its reign. Once a
	// successor has begun it may go on saying so for less than
	// master.Silence-master.LostAfter: it is answered from a lease, not from what was
	// true before a pause.
	Leading() (term uint64, ok bool)
	// Changes returns a channel on which something arrives, or which closes, after
	// what Leading or Leader says has changed.
	Changes() <-chan struct{}
	// Leader is the address of whoever leads.
	Leader() (address string, ok bool)
}

// Leader makes this master the only one whose writes of the registry succeed;
// cluster.Leader implements it.
type Leader interface {
	TakeOver(ctx context.Context) (epoch uint64, err error)
}

// Nodes is the registry of nodes; cluster.Nodes implements it.
type Nodes interface {
	List(ctx context.Context) ([]cluster.NodeRecord, error)
	Register(ctx context.Context, r cluster.NodeRecord) (cluster.NodeRecord, error)
	Fence(ctx context.Context, id yr.Node, incarnation uint64) (cluster.NodeRecord, error)
	Leave(ctx context.Context, id yr.Node, incarnation uint64) (cluster.NodeRecord, error)
	Restrain(ctx context.Context, id yr.Node, incarnation uint64, to cluster.Restraint) (cluster.NodeRecord, error)
	Forget(ctx context.Context, id yr.Node, incarnation uint64) error
}

// Names are the cluster's named instances; cluster.Names implements it.
type Names interface {
	Claim(ctx context.Context, tenant yr.Tenant, namespace, name string, record []byte) (existing []byte, claimed bool, err error)
	Find(ctx context.Context, tenant yr.Tenant, namespace, name string) (record []byte, ok bool, err error)
	Drop(ctx context.Context, tenant yr.Tenant, namespace, name string, record []byte) error
}

// Server answers nodes while this master leads, and redirects them otherwise.
type Server struct {
	masterpb.UnimplementedMasterServer
	options Options

	stop context.CancelFunc // set by Open
	wg   sync.WaitGroup

	// writing is held over a write of the registry and its way into the table, so
	// that records enter in the order of their revisions.
	writing chan struct{}

	seen atomic.Uint64 // the highest epoch that a node named

	mu    sync.Mutex // protects what follows
	table *table.Table
	reign *reign // nil while this master does not lead, or has not loaded the table yet
}

// New makes a Server that does not lead.
func New(o Options) *Server {
	if o.Random == nil {
		o.Random = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())) //nolint:gosec // samples are no secret
	}
	return &Server{options: o, writing: make(chan struct{}, 1), table: table.New(o.Random)}
}

// Attach offers the service to nodes. What it is attached to must let in only who
// knows the cluster's token.
func (s *Server) Attach(r grpc.ServiceRegistrar) { masterpb.RegisterMasterServer(r, s) }

// Open begins to lead whenever Leadership says so.
func (s *Server) Open(context.Context) error {
	life, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.wg.Go(func() { s.run(life) })
	return nil
}

// Close stops leading. Closing twice, or without Open, does nothing.
func (s *Server) Close(context.Context) error {
	if s.stop != nil {
		s.stop()
	}
	s.wg.Wait()
	return nil
}
