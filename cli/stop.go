package cli

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"yr/pkg/gateway/client"
	"yr/pkg/session"
	"yr/pkg/supervise"
	"yr/pkg/yr"
)

const (
	// stopTimeout is how long `yr stop` waits for a daemon to end.
	stopTimeout = 40 * time.Second
	// forceTimeout is the same for --force.
	forceTimeout = 90 * time.Second
)

// goodbyeTimeout is how long `yr stop` tries to tell the cluster that this node leaves.
const goodbyeTimeout = 5 * time.Second

// Stop ends the session's daemon and everything it started. Without force it
// asks, and after 40 s only says so; with force it kills. A node that has joined
// says goodbye first, so that the cluster need not find out.
func Stop(ctx context.Context, f *session.File, force bool, out *Output) error {
	pid := f.ClusterInfo.Daemon.PID
	if !f.Alive() {
		clearDead(f)
		out.Printf("session %s had ended already; its leftovers are cleared\n", f.SessionID)
		return nil
	}
	if force {
		supervise.KillTree(pid)
		if !waitGone(pid, forceTimeout) {
			return yr.E("stop", yr.Internal, "pid %d did not die within %v of SIGKILL; it hangs in the kernel", pid, forceTimeout)
		}
		f.Dir.Clean(f)
		out.Printf("session %s killed\n", f.SessionID)
		return nil
	}
	if f.Mode == "agent" {
		sayGoodbye(ctx, f, out)
	}
	if err := unix.Kill(pid, unix.SIGTERM); err != nil && err != unix.ESRCH {
		return yr.E("stop", yr.Unauthorized, "cannot signal the daemon (pid %d): %v", pid, err)
	}
	if !waitGone(pid, stopTimeout) {
		out.Warnf("the daemon (pid %d) has not ended within %v; `yr stop --force` kills it", pid, stopTimeout)
		return nil
	}
	f.Dir.Clean(f) // the daemon did it, unless it was killed on the way
	out.Printf("session %s stopped\n", f.SessionID)
	return nil
}

func sayGoodbye(ctx context.Context, f *session.File, out *Output) {
	ctx, cancel := context.WithTimeout(ctx, goodbyeTimeout)
	defer cancel()
	c := client.Unix(f.APISocket)
	defer c.Close()
	if err := c.Leave(ctx); err != nil {
		out.Warnf("the cluster was not told that this node leaves, and finds out by itself within seconds: %v", err)
	}
}
