package server

// One time of leading: from taking the registry over to the end of it.

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"yr/master/internal/serial"
	"yr/master/table"
	"yr/pkg/cluster"
	"yr/pkg/yr"
)

const (
	// tick is how often silence is looked for.
	tick = 250 * time.Millisecond
	// writeTimeout bounds one write of the registry. It does not end when whoever
	// asked goes away: what became of it should be known.
	writeTimeout = 3 * time.Second
	// retryAfter paces what the registry does not answer.
	retryAfter = 200 * time.Millisecond
	// yield is how long a master stays away after another has taken over, though its
	// Leadership says otherwise: that cannot be true for longer.
	yield = time.Second
	// away is how long this process may have stood still and answer at once. After
	// more, another master may lead, and Leadership has noticed it comeBack later.
	away     = time.Second
	comeBack = 250 * time.Millisecond
	// maxClaims bounds the reigns that a restored registry is made to skip at once.
	maxClaims = 1000
)

// reign is one time of leading.
type reign struct {
	term  uint64 // what Leadership calls it
	epoch uint64 // what the registry and the nodes call it
	life  context.Context
	end   context.CancelCauseFunc

	mourners *serial.Queue
	pulse    pulse
	settling atomic.Bool // a sweep has writes under way

	doubted bool // protected by Server.mu: the table may lack what the registry has
}

// run waits for leadership and leads.
func (s *Server) run(life context.Context) {
	for life.Err() == nil {
		changes := s.options.Leadership.Changes()
		term, ok := s.options.Leadership.Leading()
		if !ok {
			wait(life, changes, yield)
			continue
		}
		if err := s.lead(life, term); errors.Is(err, cluster.ErrStale) {
			s.options.Log.Warn().Msg("another master has taken over")
			wait(life, nil, yield)
		}
	}
}

// lead takes over and decides until leadership is lost, and says why it ended.
func (s *Server) lead(life context.Context, term uint64) error {
	ctx, end := context.WithCancelCause(life)
	defer end(nil)
	r := &reign{term: term, life: ctx, end: end, mourners: serial.New()}

	r.pulse.feel(time.Now())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer end(nil) // before the wait
	wg.Go(func() { s.watch(r) })

	if err := s.takeOver(r); err != nil {
		return err
	}
	wg.Go(func() { r.mourners.Run(ctx) })
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			now := time.Now()
			s.mu.Lock()
			overdue, old := s.table.Expire(now), s.table.Forgettable(now)
			s.mu.Unlock()
			if r.settling.CompareAndSwap(false, true) {
				wg.Go(func() {
					defer r.settling.Store(false)
					s.settle(r, overdue, old)
				})
			}
		case <-ctx.Done():
			s.mu.Lock()
			s.reign = nil
			s.mu.Unlock()
			s.options.Log.Info().Uint64("epoch", r.epoch).Msg("this master leads no more")
			return context.Cause(ctx)
		}
	}
}

// watch ends the reign when Leadership does.
func (s *Server) watch(r *reign) {
	for {
		changes := s.options.Leadership.Changes()
		if !s.leads(r.life, r) {
			r.end(nil)
			return
		}
		wait(r.life, changes, tick)
	}
}

// leads asks Leadership whether the reign goes on, after a moment's thought if this
// process stood still.
func (s *Server) leads(ctx context.Context, r *reign) bool {
	if doubt := r.pulse.feel(time.Now()); doubt > 0 {
		s.options.Log.Warn().Msg("this process stood still; it answers again if it still leads then")
		wait(ctx, nil, doubt)
	}
	term, ok := s.options.Leadership.Leading()
	return ok && term == r.term && r.life.Err() == nil
}

// pulse tells whether this process stood still. Whoever works for the reign feels
// it, a few times a second at least.
type pulse struct {
	mu    sync.Mutex // protects what follows
	felt  time.Time
	doubt time.Time // until when nothing is to be believed
}

// feel says how long it takes yet until what Leadership says can be believed.
func (p *pulse) feel(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.felt.IsZero() && now.Sub(p.felt) > away {
		p.doubt = now.Add(comeBack)
	}
	p.felt = now
	return p.doubt.Sub(now)
}

// takeOver makes the registry obey, loads the table and begins to serve.
func (s *Server) takeOver(r *reign) error {
	var records []cluster.NodeRecord
	for {
		try, cancel := context.WithTimeout(r.life, writeTimeout)
		err := s.claim(try, r)
		if err == nil {
			records, err = s.options.Nodes.List(try)
		}
		cancel()
		if err == nil {
			break
		}
		if r.life.Err() != nil {
			return context.Cause(r.life)
		}
		s.options.Log.Warn().Err(err).Msg("the registry cannot be taken over yet")
		wait(r.life, nil, retryAfter)
	}
	s.mu.Lock()
	s.table.Reset(time.Now(), records)
	s.reign = r
	s.mu.Unlock()
	s.options.Log.Info().Uint64("epoch", r.epoch).Int("nodes", len(records)).Msg("this master leads")
	for _, record := range records {
		if record.State == cluster.NodeDead {
			s.mourn(r, record)
		}
	}
	return nil
}

// claim takes the registry over. Its epoch may be behind what nodes have seen if
// the registry was restored from a backup: nodes serve no leader older than another.
func (s *Server) claim(ctx context.Context, r *reign) (err error) {
	for range maxClaims {
		r.epoch, err = s.options.Leader.TakeOver(ctx)
		if err != nil || r.epoch > s.seen.Load() {
			return err
		}
	}
	return nil
}

// mourn tells of a death.
func (s *Server) mourn(r *reign, dead cluster.NodeRecord) {
	if f := s.options.OnDead; f != nil {
		r.mourners.Add(func() { f(r.life, dead) })
	}
}

// settle declares dead who is overdue, forgets who is long gone, and reads the
// registry again if the table may lack something. If the registry does not answer,
// nobody is declared dead: the next tick tries again.
func (s *Server) settle(r *reign, overdue, old []table.Overdue) {
	if err := s.reconcile(r); err != nil {
		return
	}
	for _, o := range overdue {
		record, err := s.write(r.life, r, func(ctx context.Context) (cluster.NodeRecord, error) {
			return s.options.Nodes.Fence(ctx, o.ID, o.Incarnation)
		})
		if err != nil {
			s.options.Log.Warn().Err(err).Str("node", string(o.ID)).Msg("a silent node cannot be declared dead yet")
			return
		}
		s.options.Log.Warn().Str("node", string(o.ID)).Uint64("incarnation", o.Incarnation).Dur("silent", o.Silent).Msg("a node is lost")
		s.mourn(r, record)
	}
	for _, o := range old {
		if err := s.forget(r, o); err != nil {
			return
		}
	}
}

func (s *Server) forget(r *reign, o table.Overdue) error {
	ctx, cancel := context.WithTimeout(r.life, writeTimeout)
	defer cancel()
	if err := s.options.Nodes.Forget(ctx, o.ID, o.Incarnation); err != nil {
		s.doubt(r, err)
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.table.Forget(o.ID, o.Incarnation)
	return nil
}

// write performs a write of the registry and takes the record into the table.
func (s *Server) write(ctx context.Context, r *reign, f func(context.Context) (cluster.NodeRecord, error)) (cluster.NodeRecord, error) {
	select {
	case s.writing <- struct{}{}:
		defer func() { <-s.writing }()
	case <-ctx.Done():
		return cluster.NodeRecord{}, ctx.Err()
	}
	try, cancel := context.WithTimeout(r.life, writeTimeout)
	defer cancel()
	record, err := f(try)
	if err != nil {
		s.doubt(r, err)
		return record, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reign == r {
		s.table.Apply(time.Now(), record)
	}
	return record, nil
}

// doubt notes that a write has failed: it may have been made all the same, or the
// table is not as the registry is.
func (s *Server) doubt(r *reign, err error) {
	switch {
	case errors.Is(err, cluster.ErrStale):
		r.end(err)
		return
	case yr.CodeOf(err) == yr.ParamInvalid && !errors.Is(err, cluster.ErrFenced), yr.CodeOf(err) == yr.AlreadyRunning:
		return // refused for what was asked
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r.doubted = true
}

// reconcile reads the registry again after a doubt.
func (s *Server) reconcile(r *reign) error {
	s.mu.Lock()
	doubted := r.doubted
	s.mu.Unlock()
	if !doubted {
		return nil
	}
	select {
	case s.writing <- struct{}{}:
		defer func() { <-s.writing }()
	case <-r.life.Done():
		return r.life.Err()
	}
	ctx, cancel := context.WithTimeout(r.life, writeTimeout)
	defer cancel()
	records, err := s.options.Nodes.List(ctx)
	if err != nil {
		s.options.Log.Warn().Err(err).Msg("the registry does not answer")
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.table.Reconcile(time.Now(), records)
	r.doubted = false
	return nil
}

// wait returns when something happens on changes, the time is over, or ctx ends.
func wait(ctx context.Context, changes <-chan struct{}, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-changes:
	case <-t.C:
	case <-ctx.Done():
	}
}
