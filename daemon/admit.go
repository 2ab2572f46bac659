package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"time"

	"yr/pkg/yr"
)

// How a further master gets into the masters' registry: it asks one of them, over
// a connection that proves that it knows the cluster's token.

// admission asks for, and admitted answers with, membership among the etcds.
type admission struct {
	Name    string `json:"name"`    // of the new etcd
	Address string `json:"address"` // host:port of it
}

type admitted struct {
	Cluster string  `json:"cluster,omitempty"` // what the new etcd starts with
	Code    yr.Code `json:"code,omitempty"`
	Error   string  `json:"error,omitempty"`
}

const (
	admitProtocol = "admit"
	admitPatience = time.Minute // growing from one master restarts its etcd
	maxAdmission  = 64 << 10
)

// askAdmission is what a joining master's registry calls.
func (d *Daemon) askAdmission(ctx context.Context, name, address string) (cluster string, err error) {
	ctx, cancel := context.WithTimeout(ctx, admitPatience)
	defer cancel()
	for _, at := range d.plan.Settings.Join {
		if cluster, err = d.askAdmissionAt(ctx, at, admission{name, address}); err == nil {
			return cluster, nil
		}
	}
	return "", err
}

func (d *Daemon) askAdmissionAt(ctx context.Context, at string, a admission) (string, error) {
	conn, err := d.peers.Dial(ctx, at, admitProtocol)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	if err := json.NewEncoder(conn).Encode(a); err != nil {
		return "", err
	}
	var answer admitted
	if err := json.NewDecoder(io.LimitReader(conn, maxAdmission)).Decode(&answer); err != nil {
		return "", fmt.Errorf("master %s did not answer: %w", at, err)
	}
	if answer.Error != "" {
		return "", yr.E("join the masters", answer.Code, "%s", answer.Error)
	}
	return answer.Cluster, nil
}

// serveAdmissions answers those who want to become masters.
func (d *Daemon) serveAdmissions(life context.Context, l net.Listener) {
	stop := context.AfterFunc(life, func() { _ = l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		d.running.Go(func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(admitPatience))
			var a admission
			if json.NewDecoder(io.LimitReader(conn, maxAdmission)).Decode(&a) != nil {
				return
			}
			ctx, cancel := context.WithTimeout(life, admitPatience)
			defer cancel()
			var answer admitted
			answer.Cluster, err = d.masters.cluster.Member().AddMember(ctx, a.Name, a.Address)
			if err != nil {
				answer.Code, answer.Error = yr.CodeOf(err), err.Error()
			}
			_ = json.NewEncoder(conn).Encode(answer) // if it went away, it asks again
		})
	}
}
