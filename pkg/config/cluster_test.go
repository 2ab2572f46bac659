package config

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"yr/pkg/yr"
)

const threeMasters = `values.etcd.address=[{ip="10.0.0.7"},{ip="10.0.0.8",peer_port="1"},{ip="10.0.0.9",peer_port=32480,port=5}]`

func TestWhereToJoin(t *testing.T) {
	for _, row := range []struct {
		name string
		set  []string
		file string
		want []string
	}{
		{"one master", []string{`values.join=["a:1"]`}, "", []string{"a:1"}},
		{"several, one of them twice", []string{`values.join=["a:1","b:2","a:1"]`}, "", []string{"a:1", "b:2"}},
		{"as a text with commas", []string{`values.join="a:1, b"`}, "", []string{"a:1", "b:22770"}},
		{"without a port", []string{`values.join="10.0.0.1"`}, "", []string{"10.0.0.1:22770"}},
		{"IPv6", []string{`values.join="fd00::1,[fd00::2],[fd00::3]:7"`}, "", []string{"[fd00::1]:22770", "[fd00::2]:22770", "[fd00::3]:7"}},
		{"openYuanrong's keys, as its master prints them", []string{
			`values.etcd.address=[{ip="10.0.0.1",peer_port="32380",port="32379"}]`, `values.ds_master.ip="10.0.0.1"`, `values.ds_master.port="12123"`,
			`values.function_master.ip="10.0.0.1"`, `values.function_master.global_scheduler_port="1234"`}, "", []string{"10.0.0.1:1234"}},
		{"the same in a file", nil, "[[values.etcd.address]]\nip = \"10.0.0.1\"\n[values.function_master]\nip = \"10.0.0.1\"\nglobal_scheduler_port = \"1234\"",
			[]string{"10.0.0.1:1234"}},
		{"the file of several masters", []string{"values.etcd.enable_multi_master=true", threeMasters}, "",
			[]string{"10.0.0.7:22770", "10.0.0.8:22770", "10.0.0.9:22770"}},
		{"values.join is stronger", []string{`values.join="a"`, `values.function_master.ip="10.0.0.1"`}, "", []string{"a:22770"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := Sources{Set: row.set}
			if row.file != "" {
				s.File = write(t, row.file)
			}
			got, err := load(t, s).Agent()
			require.NoError(t, err)
			require.Equal(t, row.want, got.Join)
			require.Nil(t, got.Masters)
		})
	}
}

func TestWhereNotToJoin(t *testing.T) {
	for _, row := range []struct{ set, says string }{
		{`values.log_level="INFO"`, "yr start --join HOST:PORT --token TOKEN"},
		{`values.join="http://a:1"`, "--master-address"},
		{`values.join="a:0"`, "not the address of a master"},
		{`values.join="a:70000"`, "not the address of a master"},
		{`values.join=":22770"`, "not the address of a master"},
		{`values.join="a:b:c"`, "not the address of a master"},
		{`values.etcd.address=[{ip="nowhere"}]`, "entry 1 is not"},
		{`values.etcd.address=[{ip="10.0.0.1",port="x"}]`, "must be a port"},
		{`values.etcd.address=[7]`, "entry 1 is not"},
	} {
		t.Run(row.set, func(t *testing.T) {
			_, err := load(t, Sources{Set: []string{row.set}}).Agent()
			require.ErrorContains(t, err, row.says)
			require.Equal(t, yr.ParamInvalid, yr.CodeOf(err))
		})
	}
}

func TestSeveralMasters(t *testing.T) {
	s, err := load(t, Sources{Set: []string{"values.etcd.enable_multi_master=true", threeMasters}}).Master()
	require.NoError(t, err)
	require.Equal(t, []Master{
		{IP: "10.0.0.7", Port: 22770, PeerPort: 32380, EtcdPort: 32379},
		{IP: "10.0.0.8", Port: 22770, PeerPort: 1, EtcdPort: 32379},
		{IP: "10.0.0.9", Port: 22770, PeerPort: 32480, EtcdPort: 5},
	}, s.Masters)
	require.Equal(t, 2, s.MasterIndex, "the entry with its own address")
	require.Equal(t, Port{Number: 22770, Chosen: true}, s.Ports.Master, "the others look there")
	require.Equal(t, Port{Number: 32480, Chosen: true}, s.Ports.EtcdPeer)
	require.True(t, s.Fsync, "several masters promise to lose nothing")
	require.Empty(t, s.Join)

	s, err = load(t, Sources{Set: []string{"values.etcd.enable_multi_master=true", threeMasters, "etcd.args.unsafe-no-fsync=true"}}).Master()
	require.NoError(t, err)
	require.False(t, s.Fsync, "unless somebody says otherwise")

	flags := map[string]any{}
	require.NoError(t, PutMasters(flags, "10.0.0.7, 10.0.0.8:5, [fd00::9]:6"))
	s, err = load(t, Sources{Flags: flags, Set: []string{`values.host_ip="fd00:0::9"`}}).Master()
	require.NoError(t, err)
	require.Equal(t, 2, s.MasterIndex, "addresses are compared, not texts")
	require.Equal(t, "10.0.0.8:5", s.Masters[1].Address())
}

func TestAMasterFindsItselfInTheList(t *testing.T) {
	empty := write(t, "")
	known := host
	known.Addresses = []string{"127.0.0.1", "10.0.0.9", "10.0.0.8"}
	known.IP = "192.0.2.1" // the route to the outside is another network's
	c, err := Load(Sources{Host: known, File: empty, Getenv: none, Set: []string{"values.etcd.enable_multi_master=true", threeMasters}})
	require.NoError(t, err)
	s, err := c.Master()
	require.NoError(t, err)
	require.Equal(t, 1, s.MasterIndex)
	require.Equal(t, "10.0.0.8", s.HostIP)
	require.Equal(t, "10.0.0.8", s.LocalIP)
	require.Equal(t, []string{"10.0.0.8"}, s.Labels["HOST_IP"])
}

func TestMastersThatCannotBe(t *testing.T) {
	for _, row := range []struct{ masters, set, says string }{
		{"10.0.0.9", "", "needs 3"},
		{"10.0.0.9,10.0.0.8", "", "needs 3"},
		{"10.0.0.9,10.0.0.8,10.0.0.7,10.0.0.6", "", "an even number survives no more losses than 3 would"},
		{"10.0.0.9,10.0.0.8,10.0.0.9", "", "named twice"},
		{"10.0.0.6,10.0.0.8,10.0.0.7", "", "this node is 10.0.0.9, which is not among the masters 10.0.0.6, 10.0.0.8, 10.0.0.7"},
		{"10.0.0.9,10.0.0.8,10.0.0.7:0", "", "10.0.0.7 has port 0"},
		{"10.0.0.9,10.0.0.8,0.0.0.0", "", "no address that others could reach"},
		{"10.0.0.9,10.0.0.8,10.0.0.7", `values.function_master.global_scheduler_port=0`, "has port 0"},
	} {
		t.Run(row.masters+row.set, func(t *testing.T) {
			flags := map[string]any{}
			require.NoError(t, PutMasters(flags, row.masters))
			s := Sources{Flags: flags}
			if row.set != "" {
				s.Set = []string{row.set}
			}
			_, err := load(t, s).Master()
			require.ErrorContains(t, err, row.says)
			require.Equal(t, yr.ParamInvalid, yr.CodeOf(err))
		})
	}
	_, err := load(t, Sources{Set: []string{`values.etcd.enable_multi_master="perhaps"`}}).Master()
	require.ErrorContains(t, err, "true or false")
	for _, list := range []string{"", "a,b,c", "10.0.0.1,,10.0.0.3", "10.0.0.1:x,10.0.0.2,10.0.0.3"} {
		err := PutMasters(map[string]any{}, list)
		require.Equal(t, yr.ParamInvalid, yr.CodeOf(err), list)
	}
}

func TestAMasterMayJoin(t *testing.T) {
	s, err := load(t, Sources{Set: []string{`values.join="10.0.0.1"`}}).Master()
	require.NoError(t, err)
	require.Equal(t, []string{"10.0.0.1:22770"}, s.Join)
	s, err = load(t, Sources{Set: []string{`values.function_master.ip="10.0.0.9"`}}).Master()
	require.NoError(t, err)
	require.Empty(t, s.Join, "its own address, in a file that all nodes have")
	_, err = load(t, Sources{Set: []string{`values.join="10.0.0.1"`, "values.etcd.enable_multi_master=true", threeMasters}}).Master()
	require.ErrorContains(t, err, "give only one of them")
	_, err = load(t, Sources{Set: []string{`values.join="http://x"`}}).Master()
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(err))
}

func TestOneMaster(t *testing.T) {
	s, err := load(t, Sources{}).Master()
	require.NoError(t, err)
	require.Nil(t, s.Masters)
	require.Equal(t, Port{Number: 32380}, s.Ports.EtcdPeer)
	s, err = load(t, Sources{Set: []string{`values.etcd.address=[{ip="10.0.0.9",peer_port=7,port=8}]`}}).Master()
	require.NoError(t, err)
	require.Nil(t, s.Masters, "enable_multi_master says whether there are several")
	require.Equal(t, Port{Number: 7, Chosen: true}, s.Ports.EtcdPeer)
	require.Equal(t, 8, s.Ports.Etcd.Number)
}

func TestTLSFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"ca.crt", "module.crt", "own.key", "server.crt", "server.key"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	s := settings(t, Sources{Set: []string{"values.fs.tls.enable=true", `values.fs.tls.base_path="` + dir + `"`,
		`values.fs.tls.key_file="` + filepath.Join(dir, "own.key") + `"`,
		`values.etcd.auth_type="TLS"`, `values.etcd.auth.base_path="` + dir + `"`}})
	require.Equal(t, TLS{true, filepath.Join(dir, "ca.crt"), filepath.Join(dir, "module.crt"), filepath.Join(dir, "own.key")}, s.TLS)
	require.Equal(t, TLS{true, filepath.Join(dir, "ca.crt"), filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key")}, s.EtcdTLS)
	require.False(t, settings(t, Sources{}).TLS.Enabled)

	_, err := load(t, Sources{Set: []string{"values.fs.tls.enable=true", `values.fs.tls.base_path="/absent"`}}).Settings()
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(err))
	require.ErrorContains(t, err, "/absent/")
}

func TestTheTokenOfTheEnvironment(t *testing.T) {
	env := func(name string) string { return map[string]string{"YR_TOKEN": "secret"}[name] }
	require.Equal(t, "secret", settings(t, Sources{Getenv: env}).Token)
	require.Equal(t, "mine", settings(t, Sources{Getenv: env, Set: []string{`values.token="mine"`}}).Token)
}

func TestRouteTo(t *testing.T) {
	ip, err := RouteTo("127.0.0.1:1")
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1", ip)
	_, err = RouteTo("no-port")
	require.Error(t, err)
}
