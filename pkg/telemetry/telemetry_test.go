package telemetry_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"yr/pkg/telemetry"
	"yr/pkg/yr"
)

func TestMain(m *testing.M) {
	// lumberjack starts one goroutine for each file and never ends it.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("gopkg.in/natefinch/lumberjack%2ev2.(*Logger).millRun"))
}

func TestLogFilesAreNamedAsUsersGrepThem(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	logs := telemetry.NewLogs(telemetry.LogOptions{Dir: dir, Node: "host-7"})
	require.NoError(t, logs.Open(t.Context()))
	master, proxy := logs.For("function_master"), logs.For("function_proxy")
	master.Info().Str("epoch", "3").Msg("leads")
	proxy.Warn().Msg("is busy")
	proxy.Debug().Msg("not at this level")
	require.NoError(t, telemetry.SetLevel("debug"))
	proxy.Debug().Msg("at this one")
	require.Equal(t, "DEBUG", telemetry.Level())
	require.NoError(t, telemetry.SetLevel("INFO"))
	require.NoError(t, logs.Close(t.Context()))

	text, err := os.ReadFile(filepath.Join(dir, "host-7-function_master.log"))
	require.NoError(t, err)
	var line map[string]any
	require.NoError(t, json.Unmarshal(text, &line), "a line is one JSON object")
	require.Equal(t, "leads", line["message"])
	require.Equal(t, "info", line["level"])
	require.Regexp(t, `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`, line["time"])
	text, err = os.ReadFile(filepath.Join(dir, "host-7-function_proxy.log"))
	require.NoError(t, err)
	require.Equal(t, 2, strings.Count(string(text), "\n"))
	require.NotContains(t, string(text), "not at this level")
	require.Contains(t, string(text), "at this one")
}

func TestLogsThatCannotBeWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	err := telemetry.NewLogs(telemetry.LogOptions{Dir: filepath.Join(file, "logs")}).Open(t.Context())
	require.Equal(t, yr.DiskFailed, yr.CodeOf(err))
	err = telemetry.NewLogs(telemetry.LogOptions{Dir: t.TempDir(), Level: "LOUD"}).Open(t.Context())
	require.Equal(t, yr.ParamInvalid, yr.CodeOf(err))
	require.ErrorContains(t, err, "DEBUG, INFO, WARN or ERROR")
}

func TestRolledFilesAreBounded(t *testing.T) {
	dir := t.TempDir()
	logs := telemetry.NewLogs(telemetry.LogOptions{Dir: dir, Node: "n", MaxSizeMiB: 1, MaxFiles: 2})
	require.NoError(t, logs.Open(t.Context()))
	log := logs.For("function_proxy")
	filler := strings.Repeat("x", 64<<10)
	for i := range 100 { // 6 MiB, every message another one
		log.Info().Str("filler", filler).Msg(fmt.Sprint(i))
	}
	require.Eventually(t, func() bool {
		files, err := filepath.Glob(filepath.Join(dir, "n-function_proxy*.log"))
		require.NoError(t, err)
		return len(files) <= 3
	}, 10*time.Second, time.Millisecond, "one file and two rolled ones are left")
	require.NoError(t, logs.Close(t.Context()))
}

func TestRepeatsAreThinned(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(0, 0)
	log := zerolog.New(&out).Hook(telemetry.NewThin(func() time.Time { return now }))
	for range 1000 {
		log.Warn().Msg("again")
		log.Warn().Err(errors.New("x")).Msg("other")
	}
	require.Equal(t, 40, strings.Count(out.String(), "\n"), "twenty of each")
	out.Reset()
	now = now.Add(10 * time.Second)
	log.Warn().Msg("again")
	require.JSONEq(t, `{"level":"warn","message":"again","repeats_dropped":980}`, out.String())
	out.Reset()
	log.Warn().Msg("again")
	require.JSONEq(t, `{"level":"warn","message":"again"}`, out.String())
	for i := range 5000 {
		log.Warn().Msg(fmt.Sprint("never before ", i))
	}
	require.Equal(t, 5001, strings.Count(out.String(), "\n"), "different messages all pass")
}

func TestTraceparent(t *testing.T) {
	for _, row := range []struct {
		name, text string
		ok         bool
	}{
		{"sampled", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true},
		{"not sampled", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", true},
		{"a later version", "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes-later", true},
		{"a later version without more", "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true},
		{"a later version, glued", "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x", false},
		{"version 00 with more", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x", false},
		{"version ff", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false},
		{"upper case", "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", false},
		{"zero trace", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", false},
		{"zero span", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", false},
		{"no digits", "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01", false},
		{"short", "00-4bf92f3577b34da6", false},
		{"empty", "", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			trace, err := telemetry.ParseTrace(row.text)
			if !row.ok {
				require.Equal(t, yr.ParamInvalid, yr.CodeOf(err))
				return
			}
			require.NoError(t, err)
			if strings.HasPrefix(row.text, "00") {
				require.Equal(t, row.text, trace.String())
			}
		})
	}
	parent := telemetry.NewTrace(true)
	child := parent.Child()
	require.Equal(t, parent.TraceID, child.TraceID)
	require.NotEqual(t, parent.SpanID, child.SpanID)
	require.True(t, child.Sampled)
}

func FuzzParseTrace(f *testing.F) {
	f.Add("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	f.Add("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff-x")
	f.Fuzz(func(t *testing.T, s string) {
		trace, err := telemetry.ParseTrace(s)
		if err != nil {
			return
		}
		again, err := telemetry.ParseTrace(trace.String())
		require.NoError(t, err)
		require.Equal(t, trace, again)
	})
}

type source struct {
	node      yr.NodeView
	instances []yr.InstanceView
	counters  map[string]uint64
}

func (s source) Node() yr.NodeView            { return s.node }
func (s source) Instances() []yr.InstanceView { return s.instances }
func (s source) Counters() map[string]uint64  { return s.counters }

func TestMetrics(t *testing.T) {
	s := source{
		node: yr.NodeView{
			Capacity:  map[string]float64{yr.CPU: 2000, yr.Memory: 4096, "ssd": 2},
			Available: map[string]float64{yr.CPU: -500, yr.Memory: 1024, "ssd": 1},
			Store:     yr.StoreView{Live: 77},
		},
		instances: []yr.InstanceView{{State: "running", PID: 1}, {State: "running", PID: 2}, {State: "scheduling"}, {State: "odd"}},
		counters:  map[string]uint64{"calls_total": 5, "bad-name/é": 1, "bad_name_": 2},
	}
	got := scrape(t, s)
	for _, line := range []string{
		"yr_cluster_cpu_capacity 2000",
		"yr_cluster_cpu_allocatable 0", // overcommitted while a blocked worker wakes up
		"yr_cluster_memory_allocatable 1024",
		"yr_cluster_instance_total 2",
		`yr_instance_count{state="running"} 2`,
		`yr_instance_count{state="fatal"} 0`,
		`yr_instance_count{state="other"} 1`,
		"yr_scheduler_queue_size 1",
		`yr_node_resource_capacity{resource="ssd"} 2`,
		`yr_store_bytes{kind="live"} 77`,
		"yr_function_invokes_total 5",
		"yr_agent_calls_total 5",
		"# TYPE yr_agent_calls_total counter",
		"yr_agent_bad_name_ 1",
		"go_goroutines ",
		"process_open_fds ",
	} {
		require.Contains(t, got, line)
	}
}

func TestMetricsAreBounded(t *testing.T) {
	s := source{node: yr.NodeView{Capacity: map[string]float64{}}, counters: map[string]uint64{}}
	for i := range 10_000 {
		s.node.Capacity[fmt.Sprint("r", i)] = 1
		s.counters[fmt.Sprint("c", i)] = 1
		s.instances = append(s.instances, yr.InstanceView{State: fmt.Sprint("s", i), PID: 1})
	}
	require.Less(t, strings.Count(scrape(t, s), "\n"), 2000)
}

func scrape(t *testing.T, s source) string {
	t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(telemetry.NewMetrics(s), promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	require.Equal(t, 200, w.Code, w.Body.String())
	return w.Body.String()
}
