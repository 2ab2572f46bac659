package client

// Keeping work away from a node, and emptying it. Who asks for a drain waits here
// and repeats the question, so that a new leader knows how long the node has.

import (
	"context"
	"time"

	"yr/master"
	"yr/master/masterpb"
	"yr/pkg/yr"
)

const (
	drainEvery = 500 * time.Millisecond
	// endPatience is how long a node may take to end what runs there.
	endPatience = time.Minute
)

// SetCordoned keeps new work away from a node, or no longer; what runs there goes
// on. Uncordoning also ends a drain.
func (c *Client) SetCordoned(ctx context.Context, node yr.Node, cordoned bool) error {
	return c.ask(ctx, func(ctx context.Context, leader masterpb.MasterClient) error {
		_, err := leader.Cordon(ctx, &masterpb.CordonRequest{Node: string(node), Cordoned: cordoned})
		return err
	})
}

// Drain cordons a node, asks it to finish or to move what it runs, and returns when
// it is empty. After timeout the code is DeadlineExceeded; the node stays cordoned,
// and what still runs there goes on. If ctx ends earlier the drain goes on too.
func (c *Client) Drain(ctx context.Context, node yr.Node, timeout time.Duration) error {
	if timeout <= 0 || timeout > master.MaxDrain {
		return yr.E("drain", yr.ParamInvalid, "a node is given up to %v to become empty, not %v", master.MaxDrain, timeout)
	}
	err := c.empty(ctx, node, timeout, false)
	if yr.CodeOf(err) != yr.DeadlineExceeded {
		return err
	}
	if _, stopped := c.drainOnce(ctx, &masterpb.DrainRequest{Node: string(node), Stop: true}); stopped != nil {
		return stopped
	}
	return err
}

// Evict cordons a node, has it end what runs there or move what can be recovered,
// and returns when it is empty.
func (c *Client) Evict(ctx context.Context, node yr.Node) error {
	return c.empty(ctx, node, endPatience, true)
}

func (c *Client) empty(ctx context.Context, node yr.Node, timeout time.Duration, end bool) error {
	over := time.Now().Add(timeout)
	for {
		left := time.Until(over)
		if left <= 0 {
			return yr.E("drain", yr.DeadlineExceeded, "node %q is not empty after %v", node, timeout)
		}
		drained, err := c.drainOnce(ctx, &masterpb.DrainRequest{Node: string(node), LeftMs: left.Milliseconds() + 1, End: end})
		if err != nil || drained {
			return err
		}
		if !pause(ctx, min(drainEvery, left)) {
			return yr.Wrap("drain", yr.Interrupted, ctx.Err())
		}
	}
}

func (c *Client) drainOnce(ctx context.Context, request *masterpb.DrainRequest) (drained bool, err error) {
	err = c.ask(ctx, func(ctx context.Context, leader masterpb.MasterClient) error {
		answer, err := leader.Drain(ctx, request)
		drained = answer.GetDrained()
		return err
	})
	return drained, err
}
