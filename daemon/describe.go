package daemon

import (
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"yr/pkg/config"
	"yr/pkg/session"
)

// describe is session.json for this daemon.
func describe(p *session.Plan, restarts int, born time.Time) *session.File {
	s := p.Settings
	info := session.InfoOf(p)
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
	f.MasterInfo, f.TLS = info.Line(), s.TLS.Enabled
	if p.Master {
		f.Mode = "master"
	}
	for _, name := range session.Components(p.Master) {
		f.Components[name] = session.Component{
			PID: os.Getpid(), Status: "RUNNING", StartTime: born.Format(time.ANSIC),
			Cmd: os.Args, EnvVars: map[string]string{}, RestartCount: restarts,
		}
	}
	return f
}

// address is host:port of a port that this node listens on.
func address(host string, p config.Port) string {
	return net.JoinHostPort(host, strconv.Itoa(p.Number))
}

// masterAddress is where this node answers as a master, "" if it is none.
func masterAddress(p *session.Plan) string {
	if !p.Master {
		return ""
	}
	return address(p.Settings.HostIP, p.Settings.Ports.Master)
}

// bootID names this boot of this machine, so that an SDK can tell whether the
// socket it is told of is on its own machine.
func bootID() string {
	text, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(text))
}

// publicConfig is the merged configuration without the token.
func publicConfig(path string) any {
	t, err := config.ReadTree(path)
	if err != nil {
		return map[string]string{"error": err.Error()}
	}
	if values, ok := t["values"].(map[string]any); ok {
		delete(values, "token")
	}
	return t
}

// workerEnv is the environment that workers start from. Search paths are joined,
// the daemon's first; everything else that is configured replaces.
func workerEnv(own []string, s *config.Settings) []string {
	env := map[string]string{"NODE_ID": string(s.NodeID), "HOST_IP": s.HostIP}
	maps.Copy(env, s.WorkerEnv)
	out := make([]string, 0, len(own)+len(env))
	for _, pair := range own {
		name, value, _ := strings.Cut(pair, "=")
		configured, ok := env[name]
		switch {
		case !ok:
			out = append(out, pair)
		case value != "" && (name == "LD_LIBRARY_PATH" || name == "LD_PRELOAD"):
			env[name] = value + ":" + configured
		}
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		out = append(out, name+"="+env[name])
	}
	return out
}
