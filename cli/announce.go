package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"yr/pkg/session"
)

// startedView is what `yr start -o json` prints, on one line: what an SDK that
// started a temporary cluster needs to know.
type startedView struct {
	Session       string         `json:"session"`
	Node          string         `json:"node"`
	Mode          string         `json:"mode"` // "master", "agent"
	PID           int            `json:"pid"`
	Deploy        string         `json:"deploy"`
	Socket        string         `json:"socket"`
	APISocket     string         `json:"api_socket"`
	ServerAddress string         `json:"server_address"`
	MasterAddress string         `json:"master_address"`
	Logs          string         `json:"logs"`
	Temporary     bool           `json:"temporary"`
	Timing        []session.Step `json:"timing"`
}

// Announce tells the person who started a cluster what now runs and what to do next.
func Announce(s *Started, out *Output) error {
	f := s.Session
	join := f.ClusterInfo.ForJoin
	for _, step := range s.Timing {
		out.Debugf("%8.1f ms  %s", float64(step.At.Microseconds())/1000, step.Name)
	}
	if out.JSON {
		return json.NewEncoder(out.Out).Encode(startedView{
			Session: f.SessionID, Node: string(f.Node), Mode: f.Mode, PID: f.ClusterInfo.Daemon.PID, Deploy: f.Dir.Path,
			Socket: f.Socket, APISocket: f.APISocket,
			ServerAddress: join["agent.ip"] + ":" + join["function_proxy.grpc_port"],
			MasterAddress: join["function_master.ip"] + ":" + join["function_master.port"],
			Logs:          f.Dir.Logs(), Temporary: f.Temporary, Timing: s.Timing,
		})
	}
	rows := make([][]any, 0, len(f.Components))
	for _, name := range f.Names() {
		rows = append(rows, []any{name, f.Components[name].PID, f.Components[name].Status})
	}
	out.Table([]any{"Component", "PID", "Status"}, rows)
	switch {
	case f.Mode == "agent":
		out.Printf("\nNode %s has joined the cluster of %s. `yr nodes` lists its nodes.\n", f.Node, masterOf(join))
	case !f.Temporary:
		out.Printf("%s", joinHelp(f))
	}
	out.Printf("\nLogs are in %s\n", f.Dir.Logs())
	out.Printf("Run a program:  python your_program.py     End it:  %s\n", stopCommand(f.Dir.Prefix))
	return nil
}

// joinHelp says how another machine joins: in one line, and in the three ways
// that scripts know from openYuanrong.
func joinHelp(f *session.File) string {
	j := f.ClusterInfo.ForJoin
	token := readToken(f)
	return fmt.Sprintf(`
To add a worker node, run one of these on it:

  yr start --join %[10]s --token %[8]s
OR
  yr start -s 'values.etcd.address=[{ip="%[1]s",peer_port="%[2]s",port="%[3]s"}]' -s 'values.ds_master.ip="%[4]s"' -s 'values.ds_master.port="%[5]s"' -s 'values.function_master.ip="%[6]s"' -s 'values.function_master.global_scheduler_port="%[7]s"' -s 'values.token="%[8]s"'
OR
  cat > /etc/yuanrong/config.toml <<END
  [values]
  token = "%[8]s"
  [[values.etcd.address]]
  ip = "%[1]s"
  peer_port = "%[2]s"
  port = "%[3]s"
  [values.ds_master]
  ip = "%[4]s"
  port = "%[5]s"
  [values.function_master]
  ip = "%[6]s"
  global_scheduler_port = "%[7]s"
  END
  yr start
OR
  yr start --master_address %[11]s://%[6]s:%[7]s --token %[8]s

Merge your own settings (-s) into the command. Whoever has the token may do everything;
it is kept in %[9]s, and --token-file FILE or YR_TOKEN keep it out of the command line.
%[12]s`, j["etcd.ip"], j["etcd.peer_port"], j["etcd.port"], j["ds_master.ip"], j["ds_master.port"],
		j["function_master.ip"], j["function_master.port"], token, tokenFile(f), masterOf(j), scheme(f), tlsHelp(f))
}

// masterOf is what --join is given: every master that is known.
func masterOf(join map[string]string) string {
	if all := join["masters"]; all != "" {
		return all
	}
	return net.JoinHostPort(join["function_master.ip"], join["function_master.port"])
}

// tlsHelp says what a node needs besides where there is TLS.
func tlsHelp(f *session.File) string {
	if !f.TLS {
		return ""
	}
	return "TLS is on: make the node a certificate with `yr cert issue`, and add\n" +
		"-s 'values.fs.tls.enable=true' -s 'values.fs.tls.base_path=\"DIR\"'.\n"
}

func scheme(f *session.File) string {
	if f.TLS {
		return "https"
	}
	return "http"
}

func tokenFile(f *session.File) string { return filepath.Join(f.DataDir, "token") }

// readToken returns the cluster token, or how to get it if this user may not read it.
func readToken(f *session.File) string {
	token, err := os.ReadFile(tokenFile(f))
	if err != nil {
		return "TOKEN"
	}
	return strings.TrimSpace(string(token))
}

// Block stays until the cluster ends. Ctrl-C, or the end of the terminal, leaves
// it running; SIGTERM ends it, so that a service manager or a container ends the
// cluster with the command. The signals come from BlockSignals, asked for before
// the start, so that none is lost in between.
func Block(s *Started, signals <-chan os.Signal, out *Output) (status int, err error) {
	select {
	case <-s.ended:
		if s.status != 0 {
			return s.status, fmt.Errorf("the cluster ended unexpectedly; its log is %s", s.Session.Dir.DaemonLog())
		}
	case sig := <-signals:
		if sig == unix.SIGTERM {
			if s.Session.Mode == "agent" {
				sayGoodbye(context.Background(), s.Session, out)
			}
			s.Stop()
			break
		}
		out.Printf("\nleft running; end it with `%s`\n", stopCommand(s.Session.Dir.Prefix))
	}
	return 0, nil
}

// BlockSignals begins to collect the signals that Block heeds.
func BlockSignals() <-chan os.Signal {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	return signals
}
