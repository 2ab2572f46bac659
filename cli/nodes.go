package cli

import (
	"context"
	"fmt"
	"time"

	"yr/pkg/gateway/answer"
	"yr/pkg/gateway/api"
	"yr/pkg/gateway/client"
	"yr/pkg/session"
	"yr/pkg/yr"
)

// Cordon stops placing new work on a node, or resumes it.
func Cordon(ctx context.Context, c *client.Client, node yr.Node, cordoned bool, out *Output) error {
	if err := c.SetCordoned(ctx, node, cordoned); err != nil {
		return err
	}
	if cordoned {
		out.Printf("node %s gets no new work; what runs there goes on\n", node)
	} else {
		out.Printf("node %s gets work again\n", node)
	}
	return nil
}

// Drain cordons a node and waits until nothing runs there, saying what does.
func Drain(ctx context.Context, c *client.Client, node yr.Node, timeout time.Duration, out *Output) error {
	if err := c.Drain(ctx, node, timeout, tellProgress(out)); err != nil {
		return err
	}
	out.Printf("node %s is empty, and gets no new work until `yr uncordon %s`\n", node, node)
	return nil
}

// Evict cordons a node, gives what runs there some time, and ends the rest.
func Evict(ctx context.Context, c *client.Client, node yr.Node, grace time.Duration, out *Output) error {
	if err := c.Evict(ctx, node, grace, tellProgress(out)); err != nil {
		return err
	}
	out.Printf("nothing runs on node %s any more, and it gets no new work until `yr uncordon %s`\n", node, node)
	return nil
}

// tellProgress prints what still runs whenever that has changed.
func tellProgress(out *Output) func(api.Progress) {
	last := ""
	return func(p api.Progress) {
		now := fmt.Sprintf("node %s still runs %s and %s", p.Node, count(p.Instances, "instance"), count(p.Calls, "call"))
		if p.Reason != "" {
			now = fmt.Sprintf("node %s does not say what it runs: %s", p.Node, p.Reason)
		}
		if now != last {
			out.Printf("%s\n", now)
		}
		last = now
	}
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// Leave takes this node out of its cluster in order: what runs here may end
// first, the cluster is told, the daemon is stopped.
func Leave(ctx context.Context, f *session.File, timeout time.Duration, out *Output) error {
	if f.Mode != "agent" {
		return yr.E("leave", yr.ParamInvalid,
			"this node is a master, and the cluster needs it; `yr masters remove %s` makes it an ordinary node first, or `yr stop` ends it", f.Node)
	}
	c := client.Unix(f.APISocket)
	defer c.Close()
	if timeout > 0 {
		err := c.Drain(ctx, f.Node, timeout, tellProgress(out))
		switch {
		case yr.CodeOf(err) == yr.DeadlineExceeded:
			return fmt.Errorf("%w; the node stays cordoned. `yr leave --timeout 0s` leaves without waiting, `yr uncordon %s` stays", err, f.Node)
		case err != nil:
			return err
		}
	}
	return Stop(ctx, f, false, out)
}

// Masters shows the masters.
func Masters(ctx context.Context, c *client.Client, out *Output) error {
	page, err := c.Masters(ctx)
	return show(out, page, err, masterRow, "NODE", "ADDRESS", "ROLE", "STATE", "REASON")
}

func masterRow(m api.MasterView) []any {
	role := "follower"
	if m.Leader {
		role = "leader"
	}
	return []any{m.Node, m.Address, role, m.State, m.Reason}
}

// AddMaster makes a node a master.
func AddMaster(ctx context.Context, c *client.Client, node yr.Node, out *Output) error {
	return mastersChanged(ctx, c, c.AddMaster(ctx, node), out, "node %s is a master", node)
}

// RemoveMaster makes a master an ordinary node, or forgets one that is gone.
func RemoveMaster(ctx context.Context, c *client.Client, node yr.Node, out *Output) error {
	return mastersChanged(ctx, c, c.RemoveMaster(ctx, node), out, "node %s is no master any more", node)
}

// ReplaceMaster gives the place of a master that is gone to another node.
func ReplaceMaster(ctx context.Context, c *client.Client, gone, by yr.Node, out *Output) error {
	return mastersChanged(ctx, c, c.ReplaceMaster(ctx, gone, by), out, "node %s is a master in place of %s", by, gone)
}

// mastersChanged says what was done, and how many losses the cluster survives now.
func mastersChanged(ctx context.Context, c *client.Client, err error, out *Output, format string, args ...any) error {
	if err != nil {
		return err
	}
	out.Printf(format+"\n", args...)
	page, err := c.Masters(ctx)
	if err != nil {
		return nil //nolint:nilerr // it is done; what follows is advice
	}
	out.Printf("%s\n", survives(page))
	return nil
}

func survives(page answer.Page[api.MasterView]) string {
	n := page.Total
	text := fmt.Sprintf("the cluster has %s and survives the loss of %d", count(n, "master"), (n-1)/2)
	if n%2 == 0 {
		text += fmt.Sprintf("; an odd number is better: `yr masters add NODE` makes it %d", n+1)
	}
	return text
}
