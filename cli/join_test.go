package cli

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"yr/pkg/config"
	"yr/pkg/gateway"
	"yr/pkg/yr"
)

// alone is a node without anything, whose gateway is real.
type alone struct{ view yr.NodeView }

func (a *alone) Node() yr.NodeView               { return a.view }
func (*alone) Instances() []yr.InstanceView      { return nil }
func (*alone) Calls() []yr.CallView              { return nil }
func (*alone) Objects() []yr.ObjectView          { return nil }
func (*alone) Counters() map[string]uint64       { return nil }
func (*alone) Why(string) (yr.Explanation, bool) { return yr.Explanation{}, false }

// master serves a gateway as a master does, and returns its address.
func master(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	g := gateway.New(gateway.Options{
		Source: &alone{yr.NodeView{ID: "n1", Address: address, Master: true}}, TCP: []net.Listener{l}, Token: "secret", MasterAddress: address,
	})
	require.NoError(t, g.Open(t.Context()))
	t.Cleanup(func() { require.NoError(t, g.Close(context.Background())) })
	return address
}

// configured is the configuration of a machine with an address of its own.
func configured(t *testing.T, set ...string) *config.Config {
	t.Helper()
	empty := filepath.Join(t.TempDir(), "empty.toml")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	c, err := config.Load(config.Sources{
		Host: config.Host{Name: "box", PID: 1, IP: "192.0.2.77", CPUs: 2, MemoryMB: 900},
		File: empty, Set: set, Getenv: func(string) string { return "" },
	})
	require.NoError(t, err)
	return c
}

func TestWaysToJoin(t *testing.T) {
	address := master(t)
	host, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	for _, row := range []struct {
		name string
		opt  StartOptions
	}{
		{"an address", StartOptions{Config: configured(t, `values.join="`+address+`"`)}},
		{"a URL", StartOptions{Config: configured(t), MasterURL: "http://" + address}},
		{"openYuanrong's keys", StartOptions{Config: configured(t, `values.etcd.address=[{ip="`+host+`",peer_port="1",port="2"}]`,
			`values.function_master.ip="`+host+`"`, `values.function_master.global_scheduler_port="`+port+`"`)}},
	} {
		t.Run(row.name, func(t *testing.T) {
			s, err := row.opt.settings(t.Context())
			require.NoError(t, err)
			require.Equal(t, []string{address}, s.Join)
			require.Equal(t, "127.0.0.1", s.HostIP, "the address from which the master is reached")
			require.Equal(t, "127.0.0.1", s.LocalIP)
			require.Equal(t, []string{"127.0.0.1"}, s.Labels["HOST_IP"])
		})
	}
	further := StartOptions{Master: true, Config: configured(t, `values.join="`+address+`"`)}
	s, err := further.settings(t.Context())
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1", s.HostIP, "a further master is found in the same way")
}

func TestAMasterThatIsNotFound(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = silent.Close() }()
	for _, row := range []struct {
		name, url, says string
		code            yr.Code
	}{
		{"nobody there", "http://127.0.0.1:1", "no master was found at http://127.0.0.1:1", yr.InitConnection},
		{"no scheme", "127.0.0.1:22770", "not a URL", yr.ParamInvalid},
		{"another scheme", "ftp://127.0.0.1:22770", "not a URL", yr.ParamInvalid},
		{"no certificates", "https://127.0.0.1:1", "yr cert init", yr.ParamInvalid},
		{"one that never answers", "http://" + silent.Addr().String(), "no master was found", yr.GetTimeout},
	} {
		t.Run(row.name, func(t *testing.T) {
			at := time.Now()
			opt := StartOptions{Config: configured(t), MasterURL: row.url}
			_, err := opt.settings(t.Context())
			require.ErrorContains(t, err, row.says)
			require.Equal(t, row.code, yr.CodeOf(err))
			require.Less(t, time.Since(at), discoverTimeout+time.Second)
		})
	}
}

func TestAddressesThatOthersCannotUse(t *testing.T) {
	for _, row := range []struct {
		name   string
		master bool
		set    []string
		says   string
	}{
		{"loopback, for a master elsewhere", false, []string{`values.join="192.0.2.1"`, `values.host_ip="127.0.0.1"`}, "known as 127.0.0.1, where 192.0.2.1:22770 cannot reach it"},
		{"everywhere", false, []string{`values.join="127.0.0.1"`, `values.host_ip="0.0.0.0"`}, "known as 0.0.0.0"},
		{"loopback among masters", true, []string{"values.etcd.enable_multi_master=true", `values.host_ip="127.0.0.1"`,
			`values.etcd.address=[{ip="127.0.0.1"},{ip="192.0.2.1"},{ip="192.0.2.2"}]`}, "cannot reach it"},
		{"loopback for loopback", false, []string{`values.join="127.0.0.1:5"`, `values.host_ip="127.0.0.2"`}, ""},
		{"three masters on loopback", true, []string{"values.etcd.enable_multi_master=true", `values.host_ip="127.0.0.2"`,
			`values.etcd.address=[{ip="127.0.0.1"},{ip="127.0.0.2"},{ip="127.0.0.3"}]`}, ""},
		{"one master on loopback", true, []string{`values.host_ip="127.0.0.1"`}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			opt := StartOptions{Master: row.master, Config: configured(t, row.set...)}
			_, err := opt.settings(t.Context())
			if row.says == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, row.says)
			require.Equal(t, yr.ParamInvalid, yr.CodeOf(err))
		})
	}
}

func TestOnlyAClusterOfItsOwnMakesAToken(t *testing.T) {
	for name, s := range map[string]config.Settings{
		"a node that joins":  {Join: []string{"a:1"}},
		"one of the masters": {Masters: make([]config.Master, 3)},
	} {
		t.Run(name, func(t *testing.T) {
			s.DataDir, s.NodeID, s.Labels = t.TempDir(), "n", map[string][]string{}
			none := s
			err := resolveIdentity(&none)
			require.Equal(t, yr.Unauthorized, yr.CodeOf(err))
			require.ErrorContains(t, err, "--token-file FILE")
			require.NoFileExists(t, filepath.Join(s.DataDir, "token"))

			given := s
			given.Token = "secret"
			require.NoError(t, resolveIdentity(&given))
			if len(s.Join) > 0 {
				require.NoFileExists(t, filepath.Join(s.DataDir, "token"), "it may be wrong")
			}
			require.NoError(t, keepToken(&given))
			again := s
			require.NoError(t, resolveIdentity(&again), "it is kept")
			require.Equal(t, "secret", again.Token)
		})
	}
}

func TestTokenFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	_, err := ReadToken(path)
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(err))
	for text, want := range map[string]string{"secret": "secret", " secret\n": "secret", " \n": ""} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		token, err := ReadToken(path)
		require.Equal(t, want, token)
		require.Equal(t, want == "", err != nil)
	}
}

func TestNodeAddress(t *testing.T) {
	for text, want := range map[string]string{
		"h:1": "h:1", "10.0.0.1": "10.0.0.1:22773", "fd00::1": "[fd00::1]:22773", "[fd00::1]:5": "[fd00::1]:5", "http://h/": "", "": "", "a:b:c": "",
	} {
		got, err := nodeAddress(text)
		require.Equal(t, want, got, text)
		require.Equal(t, want == "", err != nil, text)
	}
}
