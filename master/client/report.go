package client

// Joining, reporting, being lost and coming back. One goroutine does all of it
// after Open; the time of an acknowledgement is when the report was *asked*.

import (
	"context"
	"errors"
	"time"

	"yr/master"
	"yr/master/internal/codec"
	"yr/master/masterpb"
	"yr/pkg/yr"
)

// errFenced says that this incarnation was declared dead.
var errFenced = yr.E("report", yr.Communication, "the leader has declared this node dead; it must register again")

// join registers the node, for Open.
func (c *Client) join(ctx context.Context) error {
	try, cancel := context.WithTimeout(ctx, openPatience)
	defer cancel()
	refused := make(chan error, 1)
	go func() { // a wrong token shows only in how connections fail
		defer close(refused)
		for pause(try, searchFirst) {
			if err := c.leaders.hopeless(); err != nil {
				refused <- err
				cancel()
				return
			}
		}
	}()
	_, err := c.register(try)
	cancel()
	if hopeless := <-refused; err != nil && hopeless != nil {
		return yr.Wrap("join", yr.CodeOf(hopeless), hopeless)
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return yr.Wrap("join", yr.Interrupted, err)
	case yr.CodeOf(err) == yr.Interrupted || yr.CodeOf(err) == yr.Communication:
		return yr.E("join", yr.InitConnection,
			"no master could be joined: %s; check that a master runs there, that its port is open, and that both are of the same cluster", c.leaders.state())
	}
	return err
}

// register gets a new incarnation; when it was asked for counts as the first report.
func (c *Client) register(ctx context.Context) (asked time.Time, err error) {
	var answer *masterpb.RegisterResponse
	err = c.leaders.ask(ctx, func(ctx context.Context, leader masterpb.MasterClient) (err error) {
		machine := c.options.Machine
		machine.Tag = c.Tag()
		asked = time.Now()
		answer, err = leader.Register(ctx, &masterpb.RegisterRequest{
			Epoch: c.leaders.seen(), Machine: codec.Machine(machine), Load: codec.Load(c.options.Load()),
			Incarnation: c.Incarnation(),
		})
		return err
	})
	if err != nil {
		return asked, err
	}
	if err := c.leaders.acknowledge(answer.GetFirst().GetEpoch()); err != nil {
		return asked, err
	}
	tag, err := yr.ParseTag(answer.GetTag())
	if err != nil {
		return asked, yr.Wrap("join", yr.FrameMalformed, err)
	}
	c.mu.Lock()
	c.tag, c.incarnation, c.joined = tag, answer.GetIncarnation(), true
	c.mu.Unlock()
	c.absorb(answer.GetFirst())
	return asked, nil
}

// report tells the leader how this node is; the time is of the attempt that was
// answered. errFenced if the leader knows this incarnation no more.
func (c *Client) report(ctx context.Context) (asked time.Time, err error) {
	var answer *masterpb.ReportResponse
	err = c.leaders.ask(ctx, func(ctx context.Context, leader masterpb.MasterClient) (err error) {
		load := codec.Load(c.options.Load())
		request := &masterpb.ReportRequest{Node: string(c.options.Machine.ID), Epoch: c.leaders.seen(), Load: load}
		c.mu.Lock()
		request.Incarnation, request.Deaths = c.incarnation, c.view.deaths
		c.mu.Unlock()
		asked = time.Now()
		answer, err = leader.Report(ctx, request)
		return err
	})
	if err != nil {
		return asked, err
	}
	if err := c.leaders.acknowledge(answer.GetEpoch()); err != nil {
		return asked, err
	}
	if answer.GetFenced() {
		return asked, errFenced
	}
	c.absorb(answer)
	return asked, nil
}

// absorb takes in what a report's answer says about the cluster.
func (c *Client) absorb(answer *masterpb.ReportResponse) {
	if answer.GetSampled() {
		c.leaders.learn(answer.GetMasters())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	v := &c.view
	dead := answer.GetDead()
	if answer.GetAll() {
		dead = append(dead, v.missing(answer.GetLive())...)
	}
	for _, d := range dead {
		node, incarnation := yr.Node(d.GetNode()), d.GetIncarnation()
		if node == c.options.Machine.ID || !v.bury(node, incarnation) {
			continue
		}
		if f := c.options.OnDeath; f != nil {
			c.events.Add(func() { f(node, incarnation) })
		}
	}
	v.deaths, v.living = answer.GetDeaths(), int(answer.GetNodes())
	if answer.GetSampled() {
		v.sample = make([]master.Neighbour, 0, len(answer.GetSample()))
		for _, raw := range answer.GetSample() {
			n, err := codec.NeighbourOf(raw)
			if err != nil {
				c.options.Log.Warn().Err(err).Msg("a neighbour is left out")
				continue
			}
			if v.meet(n) {
				v.sample = append(v.sample, n)
			}
		}
	}
	c.drained(answer.GetDraining(), answer.GetCordoned())
}

// drained takes in what is asked of this node; mu is held.
func (c *Client) drained(m *masterpb.Draining, cordoned bool) {
	d := master.Drain{Cordoned: cordoned}
	if m != nil {
		d = master.Drain{Cordoned: true, Draining: true, End: m.GetEnd()}
		if left := time.Duration(m.GetLeftMs()) * time.Millisecond; left > 0 {
			d.Until = time.Now().Add(left)
		}
	}
	// Every answer was on its way for another time: a small move of the end is none.
	was := c.drain
	if d.Cordoned == was.Cordoned && d.Draining == was.Draining && d.End == was.End && d.Until.IsZero() == was.Until.IsZero() && d.Until.Sub(was.Until).Abs() < 2*time.Second {
		return
	}
	c.drain = d
	if f := c.options.OnDrain; f != nil {
		c.events.Add(func() { f(d) })
	}
}

// run reports for ever.
func (c *Client) run(ctx context.Context) {
	acked := time.Now()
	for ctx.Err() == nil {
		cause := c.hold(ctx, acked)
		if ctx.Err() != nil {
			return
		}
		c.mu.Lock()
		c.joined = false
		c.mu.Unlock()
		c.options.Log.Warn().Err(cause).Msg("this node has lost its place in the cluster")
		if f := c.options.OnLost; f != nil {
			c.events.Wait(ctx, func() { f(cause) })
		}
		acked = c.regain(ctx, errors.Is(cause, errFenced))
	}
}

// hold reports until the node is lost, and says why.
func (c *Client) hold(ctx context.Context, acked time.Time) error {
	asked := acked
	for c.due(ctx, asked) {
		asked = time.Now()
		try, cancel := context.WithDeadline(ctx, acked.Add(master.LostAfter))
		at, err := c.report(try)
		cancel()
		switch {
		case err == nil:
			acked = at
		case errors.Is(err, errFenced):
			return err
		case time.Since(acked) >= master.LostAfter:
			return yr.E("report", yr.Communication, "no leader has acknowledged a report for %v: %v", master.LostAfter, err)
		}
	}
	return ctx.Err()
}

// due waits for the time of the next report; false means that ctx ended.
func (c *Client) due(ctx context.Context, asked time.Time) bool {
	t := time.NewTimer(time.Until(asked.Add(master.ReportEvery)))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.kick:
		return pause(ctx, time.Until(asked.Add(reportSpacing)))
	case <-ctx.Done():
		return false
	}
}

// regain tries until this node has its place again, as the same incarnation if the
// leader has not declared that dead.
func (c *Client) regain(ctx context.Context, fenced bool) (acked time.Time) {
	for {
		try, cancel := context.WithTimeout(ctx, master.LostAfter)
		var err error
		if fenced {
			acked, err = c.register(try)
		} else {
			acked, err = c.report(try)
		}
		cancel()
		switch {
		case err == nil:
			c.regained(fenced)
			return acked
		case errors.Is(err, errFenced) && !fenced:
			fenced = true
			continue
		}
		c.options.Log.Debug().Err(err).Msg("this node is not back yet")
		if !pause(ctx, master.ReportEvery) {
			return acked
		}
	}
}

func (c *Client) regained(anew bool) {
	c.mu.Lock()
	c.joined = true
	incarnation := c.incarnation
	c.mu.Unlock()
	f := c.options.OnRejoined
	if anew {
		f = c.options.OnJoined
	}
	c.options.Log.Info().Uint64("incarnation", incarnation).Bool("anew", anew).Msg("this node has its place in the cluster again")
	if f != nil {
		c.events.Add(func() { f(incarnation) })
	}
}
