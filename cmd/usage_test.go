package cmd

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"yr/cli"
)

func TestWhatCannotBeMeantSaysWhatCouldBe(t *testing.T) {
	for _, row := range []struct {
		name   string
		args   []string
		status int
		says   []string
	}{
		{"a mistyped command", []string{"sttart"}, 2, []string{`unknown command "sttart"`, "did you mean start?"}},
		{"a mistyped list", []string{"list", "nodez"}, 2, []string{"did you mean nodes?", "instances, calls"}},
		{"an unknown option", []string{"status", "--nope"}, 2, []string{"--nope", "`yr status --help`"}},
		{"a missing argument", []string{"why"}, 2, []string{"the ID of a call, instance, worker, object or node"}},
		{"an argument too many", []string{"status", "x"}, 2, []string{`got "x"`}},
		{"a format that is none", []string{"version", "-o", "xml"}, 2, []string{"table and json"}},
		{"a file that is not there", []string{"-c", "/absent.toml", "start", "--master"}, 2, []string{"/absent.toml"}},
		{"a policy that is none", []string{"start", "--master", "--port-policy", "LUCKY"}, 2, []string{"FIX nor RANDOM"}},
		{"neither true nor false", []string{"start", "--master", "--block=perhaps"}, 2, []string{"perhaps"}},
		{"a malformed -s", []string{"start", "--master", "-s", "values.host_ip=10.0.0.1"}, 1,
			[]string{"column 20", `did you mean: -s 'values.host_ip="10.0.0.1"'`, "PARAM_INVALID"}},
		{"a -s without sense", []string{"start", "--master", "-s", `values.cpu_num="many"`}, 1, []string{"must be a number"}},
		{"a malformed -s of dump", []string{"config", "dump", "-s", "x"}, 1, []string{"KEY=VALUE"}},
		{"a master that joins", []string{"start", "--master", "--master_address", "http://h:1"}, 1, []string{"only one of them", "--master --join"}},
		{"a master of others that joins", []string{"start", "--master", "--masters", "10.0.0.1,10.0.0.2,10.0.0.3", "--join", "h:1"}, 1, []string{"only one of them"}},
		{"neither a master nor joining", []string{"start"}, 1, []string{"yr start --master", "yr start --join HOST:PORT --token TOKEN"}},
		{"joining in two ways", []string{"start", "--join", "h:1", "--master-address", "http://h:1"}, 1, []string{"say the same thing"}},
		{"joining what is no address", []string{"start", "--join", "http://h:1", "--token", "x"}, 1, []string{"--master-address"}},
		{"joining by what is no URL", []string{"start", "--master-address", "h:1", "--token", "x"}, 1, []string{"not a URL"}},
		{"joining by the line of no master", []string{"start", "--master_info", "local_ip:1,"}, 1, []string{"yr_current_master_info"}},
		{"joining where nobody is", []string{"start", "--master_address", "http://127.0.0.1:1"}, 1, []string{"no master was found at http://127.0.0.1:1", "refused"}},
		{"a temporary cluster that joins", []string{"start", "--temporary", "--join", "h:1"}, 1, []string{"only one of them"}},
		{"masters without --master", []string{"start", "--masters", "10.0.0.1,10.0.0.2,10.0.0.3"}, 1, []string{"add --master"}},
		{"two masters", []string{"start", "--master", "--masters", "10.0.0.1,10.0.0.2"}, 1, []string{"needs 3"}},
		{"masters that are others", []string{"start", "--master", "--masters", "198.51.100.1,198.51.100.2,198.51.100.3"}, 1, []string{"is not among the masters"}},
		{"two tokens", []string{"start", "--master", "--token", "x", "--token-file", "y"}, 2, []string{"only one of them"}},
		{"a token file that is not there", []string{"start", "--master", "--token-file", "/absent"}, 1, []string{"/absent"}},
		{"TLS without files", []string{"start", "--master", "--ssl_enable", "--ssl_base_path", "/absent"}, 1, []string{"/absent/ca.crt", "yr cert init"}},
		{"https without files", []string{"start", "--master_address", "https://127.0.0.1:1", "-s", `values.fs.tls.base_path="/absent"`}, 1, []string{"/absent/ca.crt"}},
		{"a drain of nothing", []string{"drain"}, 2, []string{"the name of a node"}},
		{"a time that is none", []string{"drain", "--timeout", "soon", "n"}, 2, []string{"soon"}},
		{"a replacement of one", []string{"masters", "replace"}, 2, []string{"the master that is gone"}},
		{"a mistyped change of masters", []string{"masters", "ad"}, 2, []string{"did you mean add?"}},
		{"a step that is none", []string{"cert", "rotate", "on"}, 2, []string{"begin, switch, finish"}},
		{"a mistyped cert command", []string{"cert", "isue"}, 2, []string{"did you mean issue?"}},
		{"an address that is none", []string{"nodes", "--address", "http://h:1/"}, 1, []string{"not HOST or HOST:PORT"}},
		{"an address where nobody is", []string{"nodes", "--address", "127.0.0.1:1"}, 1, []string{"127.0.0.1:1"}},
		{"restoring what is not there", []string{"restore", "/absent"}, 1, []string{"/absent"}},
		{"no session", []string{"stop", "--log-dir-prefix", "/absent"}, 1, []string{"no session under /absent", "yr start --master"}},
		{"not a session", []string{"stop", "-f", "/dev/null"}, 1, []string{"not a session file"}},
		{"an owner that is not there", []string{"start", "--temporary", "--owner-pid", "4194304"}, 1, []string{"no such process"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := run(t, row.args...)
			require.Equal(t, row.status, r.status, r.err)
			require.Empty(t, r.out)
			for _, text := range row.says {
				require.Contains(t, r.err, text)
			}
		})
	}
}

func TestVersion(t *testing.T) {
	require.Equal(t, "yr version: 1.2.3\n", run(t, "--version").out)
	require.Equal(t, "yr version: 1.2.3\n", run(t, "version").out)
	require.Equal(t, "1.2.3", decode[map[string]string](t, run(t, "version", "-o", "json").out)["version"])
}

func TestOtherNames(t *testing.T) {
	for _, name := range []string{"yrcli", "yrcluster", "dscli"} {
		require.Equal(t, exitUsage, Main(name, nil, "1.2.3"), name)
	}
}

func TestHelpAndCompletion(t *testing.T) {
	for _, args := range [][]string{{}, {"--help"}, {"start", "--help"}, {"list"}, {"config"}, {"masters"}, {"cert"}, {"cert", "rotate"}, {"drain", "--help"}} {
		r := run(t, args...)
		require.Equal(t, 0, r.status, args)
		require.Contains(t, r.out, "Usage:", args)
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		r := run(t, "completion", shell)
		require.Equal(t, 0, r.status, r.err)
		require.Contains(t, r.out, "yr", shell)
	}
	require.Contains(t, run(t, "__complete", "list", "no").out, "nodes\t")
	require.NotContains(t, run(t, "--help").out, "supervise", "inner commands are hidden")
}

func TestConfigDumpRoundTrips(t *testing.T) {
	first := run(t, "config", "dump", "-s", `values.cpu_num="4000"`, "-s", "Own.Key=[1,2]", "-s", `values.node_id="n"`)
	require.Equal(t, 0, first.status, first.err)
	require.Contains(t, first.out, "cpu_num = '4000'")
	path := filepath.Join(t.TempDir(), "c.toml")
	require.NoError(t, os.WriteFile(path, []byte(first.out), 0o600))
	require.Equal(t, first.out, run(t, "-c", path, "config", "dump").out)
	require.Equal(t, 0, run(t, "config", "template").status)
}

// What `yr start` makes of the options that openYuanrong's documents show.
func TestLegacyOptions(t *testing.T) {
	for _, row := range []struct {
		name string
		args []string
		want map[string]any // keys that are set, as a tree
		warn string
	}{
		{"short ones with values", []string{"-a", "10.0.0.1", "-n", "me", "-m", "8192", "-l", "DEBUG"},
			tree("values", tree("host_ip", "10.0.0.1", "node_id", "me", "memory_num", int64(8192), "log_level", "DEBUG")), ""},
		{"-s and -c with a bare number", []string{"-s", "4096", "-c", "4000"},
			tree("values", tree("shared_memory_num", int64(4096), "cpu_num", int64(4000))), ""},
		{"underscores", []string{"--npu_collection_mode=all", "--cpu_num", "1000"},
			tree("values", tree("cpu_num", int64(1000)), "function_agent", tree("args", tree("npu_collection_mode", "all"))), ""},
		{"truth with, without and before a value", []string{"--enable_faas_frontend", "true", "--enable_preemption", "--enable_trace=false", "-g"},
			tree("mode", tree("master", tree("frontend", true)), "function_master", tree("args", tree("enable_preemption", true)),
				"function_proxy", tree("args", tree("enable_trace", false))), ""},
		{"JSON", []string{"--labels", `{"a":"b"}`, "--custom_resources", `{"ssd":1}`},
			tree("function_agent", tree("env", tree("INIT_LABELS", `{"a":"b"}`), "args", tree("custom_resources", `{"ssd":1}`))), ""},
		{"unknown ones, with and without values", []string{"--from_the_future", "7", "--other=x", "-n", "me"},
			tree("values", tree("node_id", "me")), "option --from_the_future is not known and is ignored\nwarning: option --other"},
		{"-g at the end, -f and -w", []string{"-f", "x", "-w", "y", "-e", "z", "-g"}, tree(), ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			var errs bytes.Buffer
			a := &app{out: &cli.Output{Out: &errs, Err: &errs}}
			root := a.root()
			args := a.normalize(root, append([]string{"start", "--master"}, row.args...))
			start, rest, err := root.Find(args)
			require.NoError(t, err)
			require.NoError(t, start.ParseFlags(rest))
			require.Empty(t, start.Flags().Args())
			require.Equal(t, row.want, legacyTree(start.Flags(), true))
			require.Contains(t, errs.String(), row.warn)
		})
	}
}

func TestSetIsNotMistakenForALegacyOption(t *testing.T) {
	a := &app{out: &cli.Output{}}
	args := []string{"start", "--master", "-s", "values.cpu_num=1", "-s", "x=2", "--set=y=3"}
	require.Equal(t, args, a.normalize(a.root(), args))
	other := []string{"status", "--unknown"}
	require.Equal(t, other, a.normalize(a.root(), other), "only start is lenient")
}

func TestBenchWithoutTheSDK(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("no python3")
	}
	c := command("bench", "--python", "no-such-python")
	out, _ := c.CombinedOutput()
	require.Equal(t, 1, c.ProcessState.ExitCode())
	require.Contains(t, string(out), "--python")
}

// tree builds a nested map from alternating keys and values.
func tree(pairs ...any) map[string]any {
	t := map[string]any{}
	for i := 0; i+1 < len(pairs); i += 2 {
		t[pairs[i].(string)] = pairs[i+1]
	}
	return t
}
