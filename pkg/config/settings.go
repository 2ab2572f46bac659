package config

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"time"

	"yr/pkg/yr"
)

// Settings is the typed view of a configuration: what the daemon uses.
type Settings struct {
	NodeID        yr.Node
	NodeIDChosen  bool   // by configuration, not by default
	HostIP        string // other machines reach this node here
	HostIPChosen  bool   // by configuration, not found out
	LocalIP       string // processes on this machine do
	DataDir       string
	Token         string // empty: the one in DataDir
	Insecure      bool   // no token over TCP
	LogLevel      string // debug, info, warn, error
	Log           Log
	Resources     yr.Resources        // CPU, Memory and custom resources
	Labels        map[string][]string // INIT_LABELS, NODE_ID and HOST_IP
	StoreCapacity uint64              // bytes of shared memory for objects; 0: the store's choice
	Spill         Spill               // objects on disk
	WorkerEnv     map[string]string   // for every worker, besides what the daemon has
	Ports         Ports
	Fsync         bool   // etcd waits for the disk
	TablePrefix   string // before every key in etcd

	Join        []string // masters' host:port, of the cluster that this node joins
	Masters     []Master // of a master that is one of several; nil: the only one
	MasterIndex int      // which of them this node is

	TLS     TLS // between nodes, and for HTTP over TCP
	EtcdTLS TLS // between the masters' etcd members; not enabled: made from the token

	Grace time.Duration // for shutdown hooks

	Missing []string // components that are switched on and that this version does not have

	GPUs bool   // look for NVIDIA cards
	NPUs string // npu_collection_mode: all, count, hbm, sfmd, topo, off
}

// Log bounds the log files.
type Log struct {
	MaxSizeMB, MaxFiles, MaxDays int
	Compress                     bool
	Stderr                       bool
}

// Port is a TCP port and whether somebody chose it.
type Port struct {
	Number int
	Chosen bool // by configuration, not by default
}

// Ports are the ports of openYuanrong's components. The daemon listens on Master
// and Bus; the others are named in session.json and the master info line.
type Ports struct {
	Master   Port // function_master: views of the cluster over HTTP
	Bus      Port // function_proxy's gRPC port: what an SDK is told to dial
	Proxy    Port
	DSMaster Port
	DSWorker Port
	Agent    Port
	Etcd     Port
	EtcdPeer Port
	Frontend Port
}

// DefaultGrace is the time for a worker's shutdown hook when
// kill_process_timeout_seconds is 0.
const DefaultGrace = 30 * time.Second

// Settings checks the configuration and returns its typed view.
func (c *Config) Settings() (Settings, error) {
	r := reader{c: c}
	s := Settings{
		NodeID:       yr.Node(r.text("values", "node_id")),
		NodeIDChosen: c.SetByUser("values", "node_id"),
		HostIP:       r.text("values", "host_ip"),
		HostIPChosen: c.SetByUser("values", "host_ip"),
		LocalIP:      r.text("values", "local_ip"),
		DataDir:      r.text("values", "data_dir"),
		Token:        r.text("values", "token"),
		Insecure:     r.truth("values", "insecure"),
		LogLevel:     r.level("values", "log_level"),
		TablePrefix:  r.text("values", "etcd", "table_prefix"),
		Fsync:        !r.truth("etcd", "args", "unsafe-no-fsync"),
		Grace:        r.duration(time.Second, "function_agent", "args", "kill_process_timeout_seconds"),
		GPUs:         r.truth("function_agent", "args", "gpu_collection_enable"),
		NPUs:         strings.ToLower(r.text("function_agent", "args", "npu_collection_mode")),
		Log: Log{
			MaxSizeMB: int(r.number("values", "fs", "log", "rolling_max_size")),
			MaxFiles:  int(r.number("values", "fs", "log", "rolling_max_files")),
			MaxDays:   int(r.number("values", "fs", "log", "rolling_retention_days")),
			Compress:  r.truth("values", "fs", "log", "compress_enable"),
			Stderr:    r.truth("values", "fs", "log", "also_log_to_stderr"),
		},
		Ports: Ports{
			Master:   r.port("values", "function_master", "global_scheduler_port"),
			Bus:      r.port("values", "function_proxy", "grpc_listen_port"),
			Proxy:    r.port("values", "function_proxy", "port"),
			DSMaster: r.port("values", "ds_master", "port"),
			DSWorker: r.port("values", "ds_worker", "port"),
			Agent:    r.port("values", "function_agent", "port"),
			Frontend: r.port("values", "frontend", "port"),
			Etcd:     Port{Number: defaultEtcdPort},
			EtcdPeer: Port{Number: defaultPeerPort},
		},
	}
	if s.Grace == 0 {
		s.Grace = DefaultGrace
	}
	for key, ip := range map[string]string{"host_ip": s.HostIP, "local_ip": s.LocalIP} {
		if net.ParseIP(ip) == nil {
			r.fail(wrong([]string{"values", key}, ip, "an IP address"))
		}
	}
	s.Resources = r.resources()
	if shared := r.atLeast(1, "values", "shared_memory_num"); c.SetByUser("values", "shared_memory_num") {
		s.StoreCapacity = uint64(shared * (1 << 20))
	}
	s.WorkerEnv = r.workerEnv()
	s.Missing = r.missing()
	s.Spill = r.spill()
	s.TLS = r.tls(r.truth("values", "fs", "tls", "enable"), "values", "fs", "tls")
	s.EtcdTLS = r.tls(strings.EqualFold(r.text("values", "etcd", "auth_type"), "TLS"), "values", "etcd", "auth")
	s.Labels = r.labels()
	s.Label()
	return s, r.err
}

// Label sets the labels that every node has; it is called again when NodeID or
// HostIP change.
func (s *Settings) Label() {
	s.Labels["NODE_ID"] = []string{string(s.NodeID)}
	s.Labels["HOST_IP"] = []string{s.HostIP}
}

// reader keeps the first error, so that reading many keys reads like a list.
type reader struct {
	c   *Config
	err error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *reader) text(key ...string) string { return r.c.text(key...) }

func (r *reader) number(key ...string) float64 {
	n, err := r.c.number(key...)
	if err != nil {
		r.fail(err)
	}
	return n
}

func (r *reader) atLeast(least float64, key ...string) float64 {
	n := r.number(key...)
	if n < least && r.err == nil {
		r.fail(wrong(key, r.text(key...), "%v or more", least))
	}
	return n
}

func (r *reader) truth(key ...string) bool {
	b, err := r.c.truth(key...)
	if err != nil {
		r.fail(err)
	}
	return b
}

func (r *reader) duration(unit time.Duration, key ...string) time.Duration {
	return time.Duration(r.number(key...) * float64(unit))
}

func (r *reader) port(key ...string) Port {
	n := r.number(key...)
	if n < 0 || n > 65535 || n != float64(int(n)) {
		r.fail(wrong(key, r.text(key...), "a port, 1 to 65535 (0: any free one)"))
	}
	return Port{Number: int(n), Chosen: r.c.SetByUser(key...)}
}

// logLevels maps what people write to the words of the logger.
var logLevels = map[string]string{
	"": "info", "debug": "debug", "info": "info", "warn": "warn", "warning": "warn", "error": "error", "err": "error",
}

func (r *reader) level(key ...string) string {
	level, ok := logLevels[strings.ToLower(r.text(key...))]
	if !ok {
		r.fail(wrong(key, r.text(key...), "DEBUG, INFO, WARN or ERROR"))
	}
	return level
}

// resources reads cpu_num, memory_num and custom_resources. A cpu_num of 1
// millicore is how a master is told to run no user work.
func (r *reader) resources() yr.Resources {
	cpu := r.atLeast(0, "values", "cpu_num")
	if cpu <= 1 {
		cpu = 0
	}
	res := yr.Resources{
		yr.CPU:    yr.Amount(cpu),
		yr.Memory: yr.Amount(r.atLeast(0, "values", "memory_num")),
	}
	key := []string{"function_agent", "args", "custom_resources"}
	const want = `JSON with a number for each name, as in -s 'function_agent.args.custom_resources="{\"ssd\":1}"'`
	custom := map[string]any{}
	switch v := r.c.get(key...).(type) {
	case map[string]any: // an inline table is the same thing written in TOML
		custom = v
	default:
		if text := r.text(key...); text != "" && json.Unmarshal([]byte(text), &custom) != nil {
			r.fail(wrong(key, text, want))
		}
	}
	for name, v := range custom {
		n, ok := amount(v)
		if !ok || n < 0 || name == "" || name == yr.CPU || name == yr.Memory {
			r.fail(wrong(append(key, name), fmt.Sprint(v), want))
			continue
		}
		res[name] = yr.Amount(n)
	}
	return res
}

func amount(v any) (float64, bool) {
	switch n := v.(type) {
	case float64:
		return n, true
	case int64:
		return float64(n), true
	}
	return 0, false
}

// laterComponents are switches of openYuanrong that this version accepts, and
// whose components it does not have.
var laterComponents = []string{
	"runtime_launcher", "meta_service", "function_scheduler", "frontend", "dashboard", "collector", "iam_server",
}

func (r *reader) missing() []string {
	var names []string
	for _, name := range laterComponents {
		if r.truth("mode", "master", name) {
			names = append(names, name)
		}
	}
	return names
}

// workerEnv reads function_agent.env. LD_LIBRARY_PATH and LD_PRELOAD extend what
// the daemon has, the others replace it.
func (r *reader) workerEnv() map[string]string {
	env := map[string]string{}
	table, _ := r.c.get("function_agent", "env").(map[string]any)
	for name := range table {
		if value := r.text("function_agent", "env", name); value != "" && name != "INIT_LABELS" {
			env[name] = value
		}
	}
	return env
}

// labels reads INIT_LABELS, a JSON object of values or lists of values.
func (r *reader) labels() map[string][]string {
	labels := map[string][]string{}
	key := []string{"function_agent", "env", "INIT_LABELS"}
	text := r.text(key...)
	if text == "" {
		return labels
	}
	given := map[string]any{}
	if err := json.Unmarshal([]byte(text), &given); err != nil {
		r.fail(wrong(key, text, `JSON, as in -s 'function_agent.env.INIT_LABELS="{\"zone\":\"a\"}"'`))
		return labels
	}
	for name, v := range given {
		if list, ok := v.([]any); ok {
			for _, item := range list {
				labels[name] = append(labels[name], fmt.Sprint(item))
			}
			continue
		}
		labels[name] = []string{fmt.Sprint(v)}
	}
	return labels
}
