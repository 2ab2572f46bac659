package daemon

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"yr/pkg/session"
	"yr/pkg/yr"
)

// describe is session.json for this daemon.
func describe(p *session.Plan, restarts int, born time.Time) *session.File {
	s := p.Settings
	info := session.Info{LocalIP: s.LocalIP, MasterIP: s.HostIP, Ports: s.Ports}
	f := &session.File{
		SessionID:  p.Dir.ID(),
		StartTime:  p.Begun.Format(time.ANSIC),
		Mode:       "agent",
		Components: map[string]session.Component{},
		ClusterInfo: session.ClusterInfo{
			Daemon:  session.Daemon{PID: os.Getppid(), Started: session.Started(os.Getppid())},
			ForJoin: info.ForJoin(),
		},
		Version: p.Version, Node: s.NodeID,
		Socket: p.Dir.Socket(), APISocket: p.Dir.APISocket(),
		DataDir: s.DataDir, Temporary: p.Temporary, Dir: p.Dir,
	}
	if p.Master {
		f.Mode, f.MasterInfo = "master", info.Line()
	}
	for _, name := range session.Components(p.Master) {
		f.Components[name] = session.Component{
			PID: os.Getpid(), Status: "RUNNING", StartTime: born.Format(time.ANSIC),
			Cmd: os.Args, EnvVars: map[string]string{}, RestartCount: restarts,
		}
	}
	return f
}

// floats is an amount of resources as views and records have it.
func floats(r yr.Resources) map[string]float64 {
	m := make(map[string]float64, len(r))
	for name, v := range r {
		m[name] = v.Float()
	}
	return m
}

// flatten joins the values of labels that have several with commas.
func flatten(labels map[string][]string) map[string]string {
	m := make(map[string]string, len(labels))
	for name, values := range labels {
		m[name] = strings.Join(values, ",")
	}
	return m
}

func itoa(n int) string { return strconv.Itoa(n) }

func sprintf(format string, args ...any) string { return fmt.Sprintf(format, args...) }
