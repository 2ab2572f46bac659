package cli

import (
	"context"

	"yr/pkg/gateway/client"
	"yr/pkg/session"
)

type healthView struct {
	Status     string            `json:"status"`
	StartTime  string            `json:"start_time"`
	SessionID  string            `json:"session_id"`
	Components []componentHealth `json:"components"`
}

type componentHealth struct {
	Name         string `json:"name"`
	Status       string `json:"status"`
	PID          int    `json:"pid"`
	RestartCount int    `json:"restart_count"`
}

// Health shows whether the components run. They share a process, so they live or
// die together, and they run when the daemon answers.
func Health(ctx context.Context, f *session.File, out *Output) (healthy bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	c := client.Unix(f.APISocket)
	defer c.Close()
	healthy = f.Alive() && c.Healthy(ctx) == nil
	state := "STOPPED"
	if healthy {
		state = "RUNNING"
	}
	v := healthView{Status: state, StartTime: f.StartTime, SessionID: f.SessionID}
	for _, name := range f.Names() {
		c := f.Components[name]
		v.Components = append(v.Components, componentHealth{name, state, c.PID, c.RestartCount})
	}
	return healthy, out.Value(v, func() {
		out.Printf("System Status: %s\nStart Time: %s\nSession ID: %s\nComponents:\n", v.Status, v.StartTime, v.SessionID)
		for _, c := range v.Components {
			out.Printf("  %s  %s (PID: %d) (Restart Count: %d)\n", c.Name, c.Status, c.PID, c.RestartCount)
		}
	})
}
