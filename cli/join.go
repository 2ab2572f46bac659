package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"yr/pkg/certs"
	"yr/pkg/config"
	"yr/pkg/gateway/ask"
	"yr/pkg/gateway/scheduler"
	"yr/pkg/yr"
)

// discoverTimeout is how long a master may take to say where the masters are.
const discoverTimeout = 3 * time.Second

// settings says what the node will be: a master, a part of the cluster that it
// joins, or both, with the address at which that cluster can reach it.
func (opt *StartOptions) settings(ctx context.Context) (config.Settings, error) {
	if opt.Temporary {
		return opt.Config.Settings()
	}
	if opt.MasterURL != "" {
		masters, err := opt.discover(ctx)
		if err != nil {
			return config.Settings{}, err
		}
		opt.Config = opt.Config.With(masters, "values", "join")
	}
	read := opt.Config.Agent
	if opt.Master {
		read = opt.Config.Master
	}
	s, err := read()
	if err != nil {
		return s, err
	}
	if len(s.Join) == 0 {
		return s, reachable(&s, others(s.Masters, s.MasterIndex))
	}
	if !s.HostIPChosen {
		ip, err := config.RouteTo(s.Join[0])
		if err != nil {
			return s, yr.E("join", yr.InitConnection, "no address of this machine leads to the master %s: %v", s.Join[0], err)
		}
		opt.Config.Move(&s, ip)
	}
	return s, reachable(&s, s.Join)
}

// discover asks a master where the masters are. It shows no token: who answers
// has proved nothing yet.
func (opt *StartOptions) discover(ctx context.Context) ([]any, error) {
	const op = "ask the master"
	u, err := url.Parse(opt.MasterURL)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, yr.E(op, yr.ParamInvalid, "--master-address %.120q is not a URL like http://10.0.0.1:%d", opt.MasterURL, config.DefaultMasterPort)
	}
	address := u.Host
	if u.Port() == "" {
		address = net.JoinHostPort(u.Hostname(), strconv.Itoa(config.DefaultMasterPort))
	}
	at := ask.TCP(address, "", nil)
	if u.Scheme == "https" {
		files, err := opt.Config.TLSFiles()
		if err != nil {
			return nil, err
		}
		secure, err := clientTLS(files)
		if err != nil {
			return nil, err
		}
		at = ask.TCP(address, "", secure)
	}
	defer at.Close()
	ctx, cancel := context.WithTimeout(ctx, discoverTimeout)
	defer cancel()
	var info scheduler.MasterInfo
	if err := at.Get(ctx, scheduler.PublicPath, nil, &info); err != nil {
		code := yr.CodeOf(err)
		if code == yr.Internal {
			code = yr.InitConnection
		}
		return nil, &yr.Error{Op: op, Code: code, Err: cause(err),
			Msg: "no master was found at " + opt.MasterURL + "; is `yr start --master` running there, on this port, and does the network let you through?"}
	}
	masters := info.Masters
	if len(masters) == 0 && info.MasterAddress != "" {
		masters = []string{info.MasterAddress}
	}
	if len(masters) == 0 {
		return nil, yr.E(op, yr.InitConnection, "%s answers, but knows no master", opt.MasterURL)
	}
	// The one that was reached is the one that can be reached.
	if at := slices.Index(masters, address); at > 0 {
		masters[0], masters[at] = masters[at], masters[0]
	}
	list := make([]any, len(masters))
	for i, m := range masters {
		list[i] = m
	}
	return list, nil
}

// clientTLS is how a command asks a daemon over TLS. The other end must have a
// certificate of the same authority; its name is not looked at, since nodes come
// and go by address.
func clientTLS(t config.TLS) (*tls.Config, error) {
	live, err := certs.Open(certs.Files{CA: t.CAFile, Cert: t.CertFile, Key: t.KeyFile}, certs.LiveOptions{})
	if err != nil {
		return nil, err
	}
	return live.Client()
}

// cause is why a daemon was not reached, without the advice that is meant for
// a daemon of this machine.
func cause(err error) error {
	var e *yr.Error
	if errors.As(err, &e) && e.Err != nil {
		return e.Err
	}
	return err
}

// reachable refuses an address that the others could not use: they would take
// this node for lost, or reach themselves.
func reachable(s *config.Settings, others []string) error {
	ip := net.ParseIP(s.HostIP)
	if !ip.IsLoopback() && !ip.IsUnspecified() {
		return nil
	}
	for _, other := range others {
		to, err := net.ResolveUDPAddr("udp", other)
		if err != nil {
			return yr.E("join", yr.InitConnection, "the master %s: %v", other, err)
		}
		if ip.IsUnspecified() || !to.IP.IsLoopback() {
			return yr.E("join", yr.ParamInvalid,
				"this node would be known as %s, where %s cannot reach it; give it an address of this machine with -s 'values.host_ip=\"ADDRESS\"'", s.HostIP, other)
		}
	}
	return nil
}

func others(masters []config.Master, self int) []string {
	var list []string
	for i, m := range masters {
		if i != self {
			list = append(list, m.Address())
		}
	}
	return list
}

// needToken refuses to invent a token for a cluster that has one.
func needToken(s *config.Settings) error {
	if s.Token != "" {
		return nil
	}
	what := "joining a cluster needs its token"
	if len(s.Masters) > 0 {
		what = "several masters need one token, the same on each of them"
	}
	return yr.E("start", yr.Unauthorized,
		"%s: give it with --token TOKEN, --token-file FILE or YR_TOKEN; `yr start --master` shows it, and keeps it in `token` of its data directory", what)
}

// ReadToken reads a token from a file; spaces around it do not count.
func ReadToken(path string) (string, error) {
	text, err := readSmall(path)
	if err != nil {
		return "", yr.E("read token", yr.ParamInvalid, "%v", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" {
		return "", yr.E("read token", yr.ParamInvalid, "%s is empty", path)
	}
	return token, nil
}
