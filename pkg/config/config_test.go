package config

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/stretchr/testify/require"

	"yr/pkg/yr"
)

var host = Host{Name: "box", PID: 7, IP: "10.0.0.9", CPUs: 4, MemoryMB: 9000}

func none(string) string { return "" }

// load merges sources on a made-up machine without a file in /etc.
func load(t *testing.T, s Sources) *Config {
	t.Helper()
	if s.File == "" {
		s.File = write(t, "")
	}
	if s.Getenv == nil {
		s.Getenv = none
	}
	s.Host = host
	c, err := Load(s)
	require.NoError(t, err)
	return c
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func settings(t *testing.T, s Sources) Settings {
	t.Helper()
	v, err := load(t, s).Settings()
	require.NoError(t, err)
	return v
}

func TestDetectedValuesAreTheDefaults(t *testing.T) {
	s := settings(t, Sources{})
	require.Equal(t, yr.Node("box-7"), s.NodeID)
	require.Equal(t, "10.0.0.9", s.HostIP)
	require.Equal(t, "10.0.0.9", s.LocalIP, "local_ip is host_ip unless set")
	require.Equal(t, yr.Resources{yr.CPU: yr.Amount(4000), yr.Memory: yr.Amount(9000)}, s.Resources)
	require.Zero(t, s.StoreCapacity, "the store looks how much there is")
	require.Equal(t, Port{Number: 22770}, s.Ports.Master)
	require.Equal(t, Port{Number: 22773}, s.Ports.Bus)
	require.Equal(t, 30*time.Second, s.Grace)
	require.Equal(t, map[string][]string{"NODE_ID": {"box-7"}, "HOST_IP": {"10.0.0.9"}}, s.Labels)
}

func TestPrecedence(t *testing.T) {
	file := "[values]\nnode_id = \"file\"\ncpu_num = 1000\nmemory_num = 100"
	env := func(name string) string {
		if name == "YR_NODE_ID" {
			return "env"
		}
		return ""
	}
	for _, row := range []struct {
		name   string
		s      Sources
		id     yr.Node
		chosen bool
	}{
		{"defaults", Sources{}, "box-7", false},
		{"a file beats them", Sources{File: write(t, file)}, "file", true},
		{"the environment beats a file", Sources{File: write(t, file), Getenv: env}, "env", true},
		{"-s beats the environment", Sources{File: write(t, file), Getenv: env, Set: []string{`values.node_id="set"`}}, "set", true},
		{"an option of its own beats -s", Sources{Set: []string{`values.node_id="set"`},
			Flags: map[string]any{"values": map[string]any{"node_id": "flag"}}}, "flag", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := settings(t, row.s)
			require.Equal(t, row.id, s.NodeID)
			require.Equal(t, row.chosen, s.NodeIDChosen)
		})
	}
}

func TestTablesMergeDeeplyAndArraysAreReplaced(t *testing.T) {
	c := load(t, Sources{
		File: write(t, "[values.etcd]\ntable_prefix = \"p\"\naddress = [{ip=\"a\"}, {ip=\"b\"}]"),
		Set:  []string{`values.etcd.address=[{ip="c"}]`},
	})
	etcd := c.Tree()["values"].(map[string]any)["etcd"].(map[string]any)
	require.Equal(t, "p", etcd["table_prefix"])
	require.Equal(t, "Noauth", etcd["auth_type"], "untouched keys keep their default")
	require.Equal(t, []any{map[string]any{"ip": "c"}}, etcd["address"])
}

func TestSetAccepts(t *testing.T) {
	for _, row := range []struct {
		name string
		set  []string
		want func(*testing.T, Settings)
	}{
		{"a number", []string{`values.cpu_num=1500`}, func(t *testing.T, s Settings) {
			require.Equal(t, yr.Amount(1500), s.Resources[yr.CPU])
		}},
		{"a number as text", []string{`values.cpu_num="1500"`}, func(t *testing.T, s Settings) {
			require.Equal(t, yr.Amount(1500), s.Resources[yr.CPU])
		}},
		{"one millicore: no user work here", []string{`values.cpu_num=1`}, func(t *testing.T, s Settings) {
			require.Zero(t, s.Resources[yr.CPU])
		}},
		{"custom resources as JSON, as openYuanrong documents them",
			[]string{`function_agent.args.custom_resources="{\"ssd\":1}"`}, func(t *testing.T, s Settings) {
				require.Equal(t, yr.Amount(1), s.Resources["ssd"])
			}},
		{"custom resources as a table", []string{`function_agent.args.custom_resources={ssd=1, "x/y"=0.5}`}, func(t *testing.T, s Settings) {
			require.Equal(t, yr.Amount(1), s.Resources["ssd"])
			require.Equal(t, yr.Amount(0.5), s.Resources["x/y"])
		}},
		{"labels, lists among them", []string{`function_agent.env.INIT_LABELS="{\"Product\":\"Yuanrong\",\"zone\":[\"a\",\"b\"]}"`},
			func(t *testing.T, s Settings) {
				require.Equal(t, []string{"Yuanrong"}, s.Labels["Product"])
				require.Equal(t, []string{"a", "b"}, s.Labels["zone"])
			}},
		{"several, as one document", []string{`values.memory_num="300"`, `values.function_master.global_scheduler_port="1234"`},
			func(t *testing.T, s Settings) {
				require.Equal(t, yr.Amount(300), s.Resources[yr.Memory])
				require.Equal(t, Port{Number: 1234, Chosen: true}, s.Ports.Master)
			}},
		{"the size of the store", []string{`values.shared_memory_num="100"`}, func(t *testing.T, s Settings) {
			require.EqualValues(t, 100<<20, s.StoreCapacity)
		}},
		{"variables for workers", []string{`function_agent.env.A_b="x"`, `function_agent.env.N=1`}, func(t *testing.T, s Settings) {
			require.Equal(t, map[string]string{"A_b": "x", "N": "1"}, s.WorkerEnv)
		}},
		{"booleans as text", []string{`function_agent.args.gpu_collection_enable="True"`}, func(t *testing.T, s Settings) {
			require.True(t, s.GPUs)
		}},
		{"time for shutdown hooks", []string{`function_agent.args.kill_process_timeout_seconds="5"`}, func(t *testing.T, s Settings) {
			require.Equal(t, 5*time.Second, s.Grace)
		}},
	} {
		t.Run(row.name, func(t *testing.T) { row.want(t, settings(t, Sources{Set: row.set})) })
	}
}

func TestSetRefuses(t *testing.T) {
	for _, row := range []struct {
		name string
		set  []string
		want []string // parts of the message
	}{
		{"text without quotes", []string{`values.host_ip=10.0.0.1`},
			[]string{"column", `did you mean: -s 'values.host_ip="10.0.0.1"'`}},
		{"JSON whose quotes the shell took", []string{`function_agent.args.custom_resources={ssd:1}`},
			[]string{"column", `did you mean: -s 'function_agent.args.custom_resources="{\"ssd\":1}"'`}},
		{"JSON in a text without escapes", []string{`function_agent.args.custom_resources="{"ssd":1}"`},
			[]string{`did you mean: -s 'function_agent.args.custom_resources="{\"ssd\":1}"'`}},
		{"no assignment", []string{`values.cpu_num`}, []string{"KEY=VALUE", "values.cpu_num=4000"}},
		{"a table header", []string{`[values]`}, []string{"KEY=VALUE"}},
		{"the same key twice", []string{`values.cpu_num=1`, `values.cpu_num=2`}, []string{"values.cpu_num=2", "contradicts"}},
		{"a key that is both a table and a value", []string{`values.cpu_num=1`, `values.cpu_num.x=2`}, []string{"contradicts"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := ParseSet(row.set)
			require.Error(t, err)
			require.Equal(t, yr.ParamInvalid, yr.CodeOf(err))
			for _, part := range row.want {
				require.ErrorContains(t, err, part)
			}
		})
	}
}

func TestValuesThatMakeNoSense(t *testing.T) {
	for _, row := range []struct{ set, want string }{
		{`values.cpu_num="many"`, "values.cpu_num is \"many\", but must be a number"},
		{`values.memory_num=-1`, "0 or more"},
		{`values.host_ip="nowhere"`, "an IP address"},
		{`values.log_level="LOUD"`, "DEBUG, INFO, WARN or ERROR"},
		{`values.function_proxy.grpc_listen_port=70000`, "a port"},
		{`values.fs.tls.enable=true`, "`yr cert init`"},
		{`values.insecure="perhaps"`, "true or false"},
		{`function_agent.args.custom_resources="{ssd:1}"`, "JSON with a number"},
		{`function_agent.args.custom_resources="{\"ssd\":\"x\"}"`, "JSON with a number"},
		{`function_agent.args.custom_resources="{\"CPU\":1}"`, "JSON with a number"},
		{`function_agent.env.INIT_LABELS="zone=a"`, "JSON"},
	} {
		t.Run(row.set, func(t *testing.T) {
			_, err := load(t, Sources{Set: []string{row.set}}).Settings()
			require.ErrorContains(t, err, row.want)
			require.Equal(t, yr.ParamInvalid, yr.CodeOf(err))
		})
	}
}

func TestUnknownKeysKeepTheirCase(t *testing.T) {
	c := load(t, Sources{Set: []string{`function_agent.env.MyVar="x"`, `future.Thing=1`, `future.auth."ca.crt"="f"`}})
	tree := c.Tree()
	require.Equal(t, "x", tree["function_agent"].(map[string]any)["env"].(map[string]any)["MyVar"])
	want := map[string]any{"Thing": int64(1), "auth": map[string]any{"ca.crt": "f"}}
	require.Equal(t, want, tree["future"], "a dot in a quoted key does not split it")
}

func TestDumpRoundTrips(t *testing.T) {
	first := load(t, Sources{Set: []string{`values.cpu_num="4000"`, `x.Y.z=[1,2]`, `x.t={a=1.5,b=true}`}})
	text, err := first.TOML()
	require.NoError(t, err)
	require.EqualValues(t, 3000, first.Tree()["values"].(map[string]any)["shared_memory_num"], "a third of the memory")
	second := load(t, Sources{File: write(t, string(text))})
	require.Equal(t, first.Tree(), second.Tree())
}

func TestFileErrorsSayWhere(t *testing.T) {
	_, err := Load(Sources{File: write(t, "[values]\ncpu_num = = 3\n"), Getenv: none})
	require.ErrorContains(t, err, "line 2, column")
	_, err = Load(Sources{File: filepath.Join(t.TempDir(), "absent.toml"), Getenv: none})
	require.ErrorContains(t, err, "absent.toml")
}

func TestDefaultsAreTOML(t *testing.T) {
	require.NoError(t, toml.Unmarshal([]byte(Defaults), &map[string]any{}))
}

func TestTheSampleFileIsRight(t *testing.T) {
	s := settings(t, Sources{File: "../../configs/config.toml"})
	require.Equal(t, "/var/lib/yuanrong", s.DataDir)
	require.True(t, s.Fsync)
	require.Equal(t, 22773, s.Ports.Bus.Number)
}
