package cmd

import (
	"sort"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"yr/pkg/config"
)

// legacy are the options of openYuanrong's shell command, which its documents
// still show. Each stands for a configuration key; an empty key is accepted and
// has no effect. They are not listed in the help.
var legacy = []struct {
	name, short string
	key         string // dotted
	boolean     bool   // may stand without a value
}{
	{name: "ip-address", short: "a", key: "values.host_ip"},
	{name: "node-id", short: "n", key: "values.node_id"},
	{name: "deploy-path", short: "d", key: "values.deploy_path"},
	{name: "log-level", short: "l", key: "values.log_level"},
	{name: "cpu-num", key: "values.cpu_num"}, // -c N is rewritten to it
	{name: "memory-num", short: "m", key: "values.memory_num"},
	{name: "shared-memory-num", key: "values.shared_memory_num"}, // so is -s N
	{name: "services-path", short: "p", key: "function_master.args.services_path"},
	{name: "log-root", key: "values.log_root"},
	{name: "driver-gateway-enable", short: "g", boolean: true},
	{name: "extra-start-modes", short: "e"},
	{name: "legacy-f", short: "f"},
	{name: "legacy-w", short: "w"},

	{name: "custom-resources", key: "function_agent.args.custom_resources"},
	{name: "labels", key: "function_agent.env.INIT_LABELS"},
	{name: "npu-collection-mode", key: "function_agent.args.npu_collection_mode"},
	{name: "gpu-collection-enable", key: "function_agent.args.gpu_collection_enable", boolean: true},

	{name: "enable-faas-frontend", key: "mode.MODE.frontend", boolean: true},
	{name: "faas-frontend-http-port", key: "values.frontend.port"},
	{name: "enable-function-scheduler", key: "mode.MODE.function_scheduler", boolean: true},
	{name: "enable-meta-service", key: "mode.MODE.meta_service", boolean: true},
	{name: "meta-service-port", key: "values.meta_service.port"},
	{name: "enable-dashboard", key: "mode.MODE.dashboard", boolean: true},
	{name: "dashboard-port", key: "values.dashboard.port"},
	{name: "enable-collector", key: "mode.MODE.collector", boolean: true},
	{name: "prometheus-address", key: "values.dashboard.prometheus.address"},
	{name: "enable-runtime-launcher", key: "mode.MODE.runtime_launcher", boolean: true},
	{name: "function-proxy-merge-process-enable", boolean: true},
	{name: "data-system-enable", key: "values.function_agent.data_system_enable", boolean: true},

	{name: "enable-metrics", key: "function_agent.args.enable_metrics", boolean: true},
	{name: "metrics-config", key: "values.fs.metrics.metrics_config"},
	{name: "metrics-config-file", key: "values.fs.metrics.metrics_config_file"},
	{name: "enable-trace", key: "function_proxy.args.enable_trace", boolean: true},
	{name: "trace-config", key: "function_proxy.args.trace_config"},
	{name: "runtime-trace-config", key: "function_proxy.args.runtime_trace_config"},
	{name: "enable-event", key: "frontend.args.enableEvent", boolean: true},

	{name: "enable-iam-server", key: "mode.MODE.iam_server", boolean: true},
	{name: "iam-server-port", key: "values.iam_server.port"},
	{name: "iam-token-expired-time-span", key: "iam_server.args.token_expired_time_span"},
	{name: "iam-credential-type", key: "iam_server.args.iam_credential_type"},
	{name: "enable-function-token-auth", key: "values.frontend.enable_function_token_auth", boolean: true},
	{name: "quota-config-file", key: "function_master.args.quota_config_file"},

	{name: "ssl-enable", key: "values.fs.tls.enable", boolean: true},
	{name: "ssl-base-path", key: "values.fs.tls.base_path"},
	{name: "ssl-root-file", key: "values.fs.tls.ca_file"},
	{name: "ssl-cert-file", key: "values.fs.tls.cert_file"},
	{name: "ssl-key-file", key: "values.fs.tls.key_file"},
	{name: "frontend-ssl-enable", key: "values.frontend.ssl_enable", boolean: true},
	{name: "etcd-auth-type", key: "values.etcd.auth_type"},
	{name: "etcd-ssl-base-path", key: "values.etcd.auth.base_path"},
	{name: "etcd-table-prefix", key: "values.etcd.table_prefix"},

	{name: "enable-separated-redirect-runtime-std", key: "function_agent.args.enable_separated_redirect_runtime_std", boolean: true},
	{name: "runtime-recover-enable", key: "function_proxy.args.runtime_recover_enable", boolean: true},
	{name: "runtime-init-call-timeout-seconds", key: "function_proxy.args.runtime_init_call_timeout_seconds"},
	{name: "kill-process-timeout-seconds", key: "function_agent.args.kill_process_timeout_seconds"},
	{name: "max-priority", key: "function_master.args.max_priority"},
	{name: "enable-preemption", key: "function_master.args.enable_preemption", boolean: true},
	{name: "force-low-reliability-instance", key: "function_proxy.args.force_low_reliability_instance", boolean: true},
	{name: "runtime-direct-connection-enable", key: "function_proxy.args.runtime_direct_connection_enable", boolean: true},
	{name: "enable-direct-routing", key: "function_proxy.args.enable_direct_routing", boolean: true},
	{name: "frontend-lease-bypass", key: "frontend.args.lease_bypass", boolean: true},
	{name: "system-tenant-id", key: "values.system_tenant_id"},
	{name: "log-expiration-enable", key: "function_proxy.args.log_expiration_enable", boolean: true},
	{name: "log-expiration-time-threshold", key: "function_proxy.args.log_expiration_time_threshold"},
	{name: "log-expiration-cleanup-interval", key: "function_proxy.args.log_expiration_cleanup_interval"},
	{name: "log-expiration-max-file-count", key: "function_proxy.args.log_expiration_max_file_count"},
}

// legacyFlags adds them to `yr start`.
func legacyFlags(f *pflag.FlagSet) {
	for _, l := range legacy {
		f.StringP(l.name, l.short, "", "")
		f.Lookup(l.name).Hidden = true
	}
}

// legacyTree is the configuration that the given ones stand for.
func legacyTree(f *pflag.FlagSet, master bool) map[string]any {
	mode := "agent"
	if master {
		mode = "master"
	}
	t := map[string]any{}
	for _, l := range legacy {
		if flag := f.Lookup(l.name); flag.Changed && l.key != "" {
			config.Put(t, strings.Split(strings.Replace(l.key, "MODE", mode, 1), "."), scalar(flag.Value.String()))
		}
	}
	return t
}

// scalar gives an option's text the type it would have in a file.
func scalar(s string) any {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n
	}
	if b, err := strconv.ParseBool(s); err == nil {
		return b
	}
	return s
}

// normalize rewrites what openYuanrong's commands accept and pflag does not:
// for `yr start`, a bare number after -s or -c, options that may stand with or
// without a truth value, and unknown long options, which are warned about and
// skipped.
func (a *app) normalize(root *cobra.Command, args []string) []string {
	at := commandAt(args, "start")
	if at < 0 {
		return args
	}
	start, _, err := root.Find([]string{"start"})
	if err != nil {
		return args
	}
	flags := start.Flags()
	flags.AddFlagSet(root.PersistentFlags())
	out := append([]string{}, args[:at+1]...)
	var unknown []string
	for i := at + 1; i < len(args); i++ {
		arg, next := args[i], ""
		if i+1 < len(args) {
			next = args[i+1]
		}
		switch {
		case (arg == "-s" || arg == "-c") && isNumber(next):
			out = append(out, map[string]string{"-s": "--shared-memory-num", "-c": "--cpu-num"}[arg]+"="+next)
			i++
			continue
		case arg == "--":
			return append(out, args[i:]...)
		case !strings.HasPrefix(arg, "--"):
			f := shortFlag(flags, arg)
			out = append(out, arg)
			switch {
			case f == nil || f.NoOptDefVal != "":
			case mayStandAlone(f.Name) && !isTruth(next):
				out[len(out)-1] = "--" + f.Name + "=true"
			case i+1 < len(args):
				out = append(out, next)
				i++
			}
			continue
		}
		name, _, hasValue := strings.Cut(arg[2:], "=")
		f := flags.Lookup(name)
		switch {
		case f == nil && name != "help":
			unknown = append(unknown, "--"+name)
			if !hasValue && next != "" && !strings.HasPrefix(next, "-") {
				i++ // its value
			}
		case f != nil && !hasValue && f.NoOptDefVal == "" && mayStandAlone(f.Name) && !isTruth(next):
			out = append(out, arg+"=true")
		case f != nil && !hasValue && f.NoOptDefVal == "" && i+1 < len(args):
			out = append(out, arg, next)
			i++
		default:
			out = append(out, arg)
		}
	}
	sort.Strings(unknown)
	for _, name := range unknown {
		a.out.Warnf("option %s is not known and is ignored", name)
	}
	return out
}

// commandAt finds the first argument that is not an option, if it is name.
func commandAt(args []string, name string) int {
	for i := 0; i < len(args); i++ {
		switch arg := args[i]; {
		case arg == name:
			return i
		case arg == "-c" || arg == "--config":
			i++
		case !strings.HasPrefix(arg, "-"):
			return -1
		}
	}
	return -1
}

// shortFlag is the flag of an argument like "-s", nil for anything longer.
func shortFlag(flags *pflag.FlagSet, arg string) *pflag.Flag {
	if len(arg) != 2 || arg[0] != '-' {
		return nil
	}
	return flags.ShorthandLookup(arg[1:])
}

func mayStandAlone(name string) bool {
	if name == "block" {
		return true
	}
	for _, l := range legacy {
		if l.name == name {
			return l.boolean
		}
	}
	return false
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 63)
	return err == nil
}

func isTruth(s string) bool {
	_, err := strconv.ParseBool(strings.ToLower(s))
	return err == nil
}
