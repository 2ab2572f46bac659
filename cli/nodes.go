package cli

import (
	"context"
	"fmt"
	"strings"
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
			now += ", and perhaps more: " + p.Reason
		}
		if idle := p.Instances+p.Calls == 0 && p.Reason == ""; now != last && !idle {
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
			"this node is a master, and the cluster needs it; `yr masters remove %s` takes its vote, and `yr stop` ends it then", f.Node)
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

// AddMaster says how another machine becomes a master: by starting as one.
func AddMaster(ctx context.Context, c *client.Client, token string, out *Output) error {
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return err
	}
	var masters []string
	for _, n := range nodes {
		if n.Master && n.State != "lost" {
			masters = append(masters, n.Address)
		}
	}
	command := "yr start --master --join " + strings.Join(masters, ",") + " --token " + token
	return out.Value(map[string]string{"command": command}, func() {
		out.Printf("A machine becomes a master by starting as one:\n\n  %s\n\n"+
			"Where a node runs already, `yr leave` there first. `yr masters list` shows when it votes.\n", command)
	})
}

// RemoveMaster takes a master's vote away, whether it lives or not.
func RemoveMaster(ctx context.Context, c *client.Client, node yr.Node, out *Output) error {
	if err := c.RemoveMaster(ctx, node); err != nil {
		return err
	}
	out.Printf("node %s is no master any more; if it lives, stop it with `yr stop` there\n", node)
	if page, err := c.Masters(ctx); err == nil { // the rest is advice
		out.Printf("%s\n", survives(page))
	}
	return nil
}

// ReplaceMaster takes the vote of a master that is gone, and says how another
// machine takes its place.
func ReplaceMaster(ctx context.Context, c *client.Client, gone yr.Node, token string, out *Output) error {
	if err := RemoveMaster(ctx, c, gone, out); err != nil {
		return err
	}
	return AddMaster(ctx, c, token, out)
}

func survives(page answer.Page[api.MasterView]) string {
	n := page.Total
	text := fmt.Sprintf("the cluster has %s and survives the loss of %d", count(n, "master"), (n-1)/2)
	if n%2 == 0 {
		text += fmt.Sprintf("; an odd number is better: `yr masters add` says how to make it %d", n+1)
	}
	return text
}
