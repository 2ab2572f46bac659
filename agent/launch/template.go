package launch

import (
	"errors"
	"os"
	"time"

	"yr/pkg/yr"
)

// A template starts an interpreter when it is first needed, has it fork workers
// in batches, and replaces it when it dies or hangs. One goroutine, run, owns it.
type template struct {
	l         *Launcher
	runtime   runtime
	origin    origin
	transient bool          // end as soon as nothing is asked for
	wake      chan struct{} // capacity 1: queue has grown, or somebody wants it warm

	queue []*worker // guarded by l.mu

	// Owned by run.
	process  *process // nil when there is none
	preload  bool     // false after an interpreter that did not live long
	backoff  time.Duration
	failed   error     // of the last start; it stands until retryAt
	retryAt  time.Time // no sooner is a failed start tried again
	upSince  time.Time
	reported bool
}

func newTemplate(l *Launcher, r runtime, o origin) *template {
	return &template{l: l, runtime: r, origin: o, wake: make(chan struct{}, 1), preload: true, backoff: firstBackoff}
}

// poke makes run look at the queue.
func (t *template) poke() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// forget removes a worker that has not been sent to the interpreter. l.mu is held.
func (t *template) forget(w *worker) bool {
	for i, q := range t.queue {
		if q == w {
			t.queue = append(t.queue[:i], t.queue[i+1:]...)
			return true
		}
	}
	return false
}

func (t *template) run() {
	defer t.end()
	for {
		var died chan struct{}
		if t.process != nil {
			died = t.process.died
		}
		idle := time.NewTimer(idleTemplate)
		select {
		case <-t.l.ctx.Done():
			return
		case <-t.wake:
			t.serve()
		case <-died:
			t.replace()
		case <-idle.C:
		}
		expired := !idle.Stop() && !t.origin.ordinary
		if (t.transient || expired) && t.retire() {
			return
		}
	}
}

// serve forks until nothing is queued.
func (t *template) serve() {
	for t.l.ctx.Err() == nil {
		if err := t.up(); err != nil {
			t.refuseAll(err)
			return
		}
		batch := t.take()
		if len(batch) == 0 {
			return
		}
		t.fork(batch)
	}
}

// up makes sure that there is an interpreter. A start that failed is not tried
// again before its backoff has passed: until then its error answers for it.
func (t *template) up() error {
	if t.process != nil {
		return nil
	}
	if time.Now().Before(t.retryAt) {
		return t.failed
	}
	err := t.runtime.explain(failure{})
	for _, program := range t.origin.programs {
		p, f := t.start(program)
		if f == nil {
			t.process, t.upSince, t.failed = p, time.Now(), nil
			t.report()
			return nil
		}
		err = t.runtime.explain(*f)
		t.l.opt.Log.Debug().Err(err).Msg("template did not start")
	}
	if t.l.ctx.Err() != nil {
		return yr.Wrap("start worker", yr.Finalized, errClosed)
	}
	t.failed, t.retryAt = err, time.Now().Add(t.backoff)
	t.backoff = min(2*t.backoff, lastBackoff)
	return err
}

// start starts program, again if somebody kills it.
func (t *template) start(program string) (p *process, f *failure) {
	for range startTries {
		if p, f = t.l.spawn(t.l.ctx, t.origin, program, t.preload); f == nil || !f.killed {
			break
		}
	}
	return p, f
}

func (t *template) report() {
	level := t.l.opt.Log.Debug()
	if !t.reported && t.origin.ordinary {
		level = t.l.opt.Log.Info()
	}
	t.reported = true
	level.Str("interpreter", t.process.program).Str("version", t.process.about.Version).
		Int("pid", t.process.pid).Msg("template is ready")
}

// take removes the next batch from the queue. Its pids are unknown until it is entered.
func (t *template) take() []*worker {
	t.l.mu.Lock()
	defer t.l.mu.Unlock()
	n := min(len(t.queue), maxBatch)
	batch := t.queue[:n:n]
	if t.queue = t.queue[n:]; len(t.queue) == 0 {
		t.queue = nil
	}
	t.l.unnamed += n
	return batch
}

func (t *template) fork(batch []*worker) {
	orders := make([]order, len(batch))
	for i, w := range batch {
		orders[i] = t.runtime.order(w.spec)
	}
	a, far, err := t.process.fork(t.l.ctx, t.l.opt.ForkTimeout, orders)
	program := t.process.program
	hung := errors.Is(err, os.ErrDeadlineExceeded)
	if err != nil {
		err = t.lost(err)
	}
	switch {
	case far == unread && !hung && t.putBack(batch): // it had died before: nothing is forked twice
	case far == answered:
		t.l.enter(batch, a.PIDs, yr.E("fork worker", yr.ResourceNotEnough, "%s: the kernel refused: %s; "+
			"raise the limit of processes or memory, or ask for fewer workers", program, a.Error))
	default:
		t.l.enter(batch, nil, err)
	}
}

// lost drops an interpreter that did not answer and says what happened to it.
func (t *template) lost(err error) error {
	p := t.process
	if t.l.ctx.Err() != nil {
		return yr.Wrap("fork worker", yr.Finalized, errClosed)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.drop()
		return yr.E("fork worker", yr.WorkerLost, "template %s (pid %d) did not answer within %v and was killed; try again. %s",
			p.program, p.pid, t.l.opt.ForkTimeout, p.words)
	}
	t.drop()
	return yr.E("fork worker", yr.WorkerLost, "template %s (pid %d) ended (%s) while it forked; try again. %s",
		p.program, p.pid, p.how, p.words)
}

// drop ends the interpreter. If it did not live long the next one preloads
// nothing, lest it end the same way.
func (t *template) drop() {
	t.process.end()
	t.process = nil
	lived := time.Since(t.upSince)
	if lived > lastBackoff {
		t.backoff = firstBackoff
	}
	t.preload = lived > preloadTime
}

// replace starts an interpreter for one that died while nothing was asked of it,
// but not faster than the backoff: the next order does not wait for that.
func (t *template) replace() {
	p := t.process
	t.drop()
	t.l.opt.Log.Warn().Str("interpreter", p.program).Int("pid", p.pid).Str("how", p.how).
		Str("stderr", p.words.String()).Msg("template ended; another is started")
	timer := time.NewTimer(t.backoff)
	defer timer.Stop()
	t.backoff = min(2*t.backoff, lastBackoff)
	select {
	case <-timer.C:
	case <-t.wake:
	case <-t.l.ctx.Done():
		return
	}
	t.serve()
}

// putBack queues a batch again, unless its first worker was put back once already
// (batches are taken from the front, so the others are no older).
func (t *template) putBack(batch []*worker) bool {
	t.l.mu.Lock()
	defer t.l.mu.Unlock()
	if batch[0].again || t.l.ctx.Err() != nil {
		return false
	}
	t.l.unnamed -= len(batch)
	for _, w := range batch {
		w.again = true
	}
	t.queue = append(batch, t.queue...)
	return true
}

func (t *template) refuseAll(err error) {
	for batch := t.take(); len(batch) > 0; batch = t.take() {
		t.l.enter(batch, nil, err)
	}
}

// retire takes the template off the launcher's table unless something was asked meanwhile.
func (t *template) retire() bool {
	t.l.mu.Lock()
	defer t.l.mu.Unlock()
	if len(t.queue) > 0 {
		t.poke()
		return false
	}
	delete(t.l.templates, t.origin.key)
	return true
}

func (t *template) end() {
	t.refuseAll(yr.Wrap("start worker", yr.Finalized, errClosed))
	if t.process != nil {
		t.process.end()
	}
}
